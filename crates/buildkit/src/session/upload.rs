//! One file of the client's, as a stream: an archive from its standard input.

use super::Session;
use crate::rpc::Status;
use crate::wire::Piece;
use bytes::{Buf, Bytes};
use hyper::HeaderMap;
use hyper::header::{HeaderName, HeaderValue};
use std::io::{self, Read};
use tokio::sync::mpsc;

const PATH: &str = "/moby.upload.v1.Upload/Pull";
const URL_PATH: HeaderName = HeaderName::from_static("urlpath");
const URL_HOST: HeaderName = HeaderName::from_static("urlhost");
/// Pieces that wait for a slow reader.
const DEPTH: usize = 32;

/// A file that comes, for a thread that reads.
#[derive(Debug)]
pub(crate) struct Upload {
    pieces: mpsc::Receiver<io::Result<Bytes>>,
    rest: Bytes,
}

/// Has the client send what it calls by this path.
pub(crate) fn pull(session: &Session, path: &str) -> Result<Upload, Status> {
    session.demand(PATH, "file to send")?;
    let path = HeaderValue::from_str(path).map_err(|_| Status::invalid("the context's name makes no sense"))?;
    let host = (URL_HOST, HeaderValue::from_static("buildkit-session"));
    let (out, mut answers) = session.channel.call(PATH, HeaderMap::from_iter([(URL_PATH, path), host]))?;
    let (sender, pieces) = mpsc::channel(DEPTH);
    tokio::spawn(async move {
        loop {
            let piece = match answers.next_answer::<Piece>().await {
                Ok(None) => break,
                Ok(Some(piece)) => Ok(piece.data),
                Err(status) => Err(io::Error::other(status)),
            };
            let last = piece.is_err();
            if sender.send(piece).await.is_err() || last {
                break;
            }
        }
        // the client goes on as long as it may still be asked for something
        drop(out);
    });
    Ok(Upload { pieces, rest: Bytes::new() })
}

impl Read for Upload {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.rest.is_empty() {
            match self.pieces.blocking_recv() {
                None => return Ok(0),
                Some(piece) => self.rest = piece?,
            }
        }
        let count = self.rest.len().min(out.len());
        self.rest.copy_to_slice(&mut out[..count]);
        Ok(count)
    }
}
