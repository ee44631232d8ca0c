//! A build's log on disk: what its watchers are sent, message by message.
//!
//! ```text
//! length, 4 bytes, least significant first | StatusResponse   … any number of them
//! ```

use crate::rpc::{Replies, Status};
use crate::wire::control::{StatusResponse, Vertex, VertexLog};
use oci::digest::{Digest, Digester};
use prost::Message;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::path::Path;
use tokio::sync::watch;

/// The most bytes of programs' output that are kept of one build.
const MOST: usize = 4 << 20;
/// The longest message that is read, in bytes.
const LONGEST: u32 = 16 << 20;

/// Steps as they are counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Steps {
    pub(super) total: i32,
    pub(super) completed: i32,
    pub(super) cached: i32,
    pub(super) warnings: i32,
}

/// What is written while a build goes on.
#[derive(Debug)]
pub(super) struct LogWriter {
    file: File,
    digester: Digester,
    size: u64,
    /// Bytes of output so far.
    output: usize,
    vertexes: BTreeMap<String, Vertex>,
    warnings: i32,
    grown: watch::Sender<u64>,
}

impl LogWriter {
    pub(super) fn create(path: &Path) -> io::Result<Self> {
        let file = File::options().write(true).create_new(true).open(path)?;
        let (vertexes, grown) = (BTreeMap::new(), watch::Sender::new(0));
        Ok(Self { file, digester: Digester::new(), size: 0, output: 0, vertexes, warnings: 0, grown })
    }

    /// Keeps a message; of output beyond the limit only that there was more.
    pub(super) fn note(&mut self, message: &StatusResponse) -> io::Result<()> {
        for vertex in &message.vertexes {
            self.vertexes.insert(vertex.digest.clone(), vertex.clone());
        }
        self.warnings = self.warnings.saturating_add(i32::try_from(message.warnings.len()).unwrap_or(i32::MAX));
        let more: usize = message.logs.iter().map(|log| log.msg.len()).sum();
        let before = self.output;
        self.output = before.saturating_add(more);
        match (self.output > MOST, message.logs.first()) {
            (true, Some(_)) if before > MOST => Ok(()),
            (true, Some(first)) => {
                let msg = format!("\n[output clipped: {MOST} bytes of it are kept]\n").into_bytes();
                let logs = vec![VertexLog { msg, ..first.clone() }];
                self.write(&StatusResponse { logs, ..StatusResponse::default() })
            }
            _ => self.write(message),
        }
    }

    fn write(&mut self, message: &StatusResponse) -> io::Result<()> {
        let body = message.encode_to_vec();
        let mut bytes = u32::try_from(body.len()).unwrap_or(u32::MAX).to_le_bytes().to_vec();
        bytes.extend(body);
        self.file.write_all(&bytes)?;
        self.digester.update(&bytes);
        self.size += bytes.len() as u64;
        self.grown.send_replace(self.size);
        Ok(())
    }

    /// Says how long the log is, until it has ended.
    pub(super) fn follow(&self) -> watch::Receiver<u64> {
        self.grown.subscribe()
    }

    pub(super) fn steps(&self) -> Steps {
        let count = |which: fn(&&Vertex) -> bool| {
            i32::try_from(self.vertexes.values().filter(which).count()).unwrap_or(i32::MAX)
        };
        Steps {
            total: count(|_| true),
            completed: count(|one| one.completed.is_some()),
            cached: count(|one| one.cached),
            warnings: self.warnings,
        }
    }

    /// Ends it; what it is known by, and its length.
    pub(super) fn finish(self) -> (Digest, u64) {
        (self.digester.finish(), self.size)
    }
}

/// Sends a log, and what is still added to it.
pub(super) async fn replay(path: &Path, going: Option<watch::Receiver<u64>>, replies: &Replies) -> Result<(), Status> {
    let broken = |error: io::Error| Status::told(format!("cannot read the build's log: {error}"));
    let mut file = BufReader::new(File::open(path).map_err(broken)?);
    let Some(mut going) = going else {
        while let Some(message) = next(&mut file).map_err(broken)? {
            replies.send(&message).await?;
        }
        return Ok(());
    };
    let mut read = 0;
    loop {
        let size = *going.borrow_and_update();
        while read < size {
            let Some(message) = next(&mut file).map_err(broken)? else { return Ok(()) };
            read += 4 + message.encoded_len() as u64;
            replies.send(&message).await?;
        }
        tokio::select! {
            // what came last is read before the end
            changed = going.changed() => if changed.is_err() && *going.borrow() == read { return Ok(()) },
            () = replies.gone() => return Ok(()),
        }
    }
}

fn next(file: &mut impl Read) -> io::Result<Option<StatusResponse>> {
    let mut length = [0; 4];
    match file.read_exact(&mut length) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    }
    let length = u32::from_le_bytes(length);
    if length > LONGEST {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a message is too long"));
    }
    let mut body = vec![0; usize::try_from(length).unwrap_or(0)];
    file.read_exact(&mut body)?;
    StatusResponse::decode(&body[..]).map(Some).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Timestamp;

    #[test]
    fn a_log_is_read_as_it_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let mut log = LogWriter::create(&path).unwrap();
        let (digest, now) = ("sha256:1".to_owned(), Some(Timestamp::now()));
        let begun = Vertex { digest: digest.clone(), name: "x".to_owned(), started: now, ..Vertex::default() };
        let ended = Vertex { completed: now, cached: true, ..begun.clone() };
        let vertexes = |one: Vertex| StatusResponse { vertexes: vec![one], ..StatusResponse::default() };
        let said = |bytes: usize| StatusResponse {
            logs: vec![VertexLog { vertex: digest.clone(), msg: vec![b'x'; bytes], ..VertexLog::default() }],
            ..StatusResponse::default()
        };
        log.note(&vertexes(begun)).unwrap();
        assert_eq!(log.steps(), Steps { total: 1, ..Steps::default() });
        for bytes in [10, MOST, 1, 1] {
            log.note(&said(bytes)).unwrap();
        }
        log.note(&vertexes(ended.clone())).unwrap();
        assert_eq!(log.steps(), Steps { total: 1, completed: 1, cached: 1, warnings: 0 });
        let (digest, size) = log.finish();
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!((Digest::of(&bytes), bytes.len() as u64), (digest, size));
        let mut file = &bytes[..];
        let messages: Vec<_> = std::iter::from_fn(|| next(&mut file).unwrap()).collect();
        assert_eq!((messages.len(), &messages[1], &messages[3]), (4, &said(10), &vertexes(ended)));
        assert!(messages[2].logs[0].msg.starts_with(b"\n[output clipped"));
        assert!(next(&mut &[0xff; 8][..]).is_err());
    }
}
