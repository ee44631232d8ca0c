//! The calling side.

use super::frame::{Frames, frame};
use super::status::{Code, Status};
use super::{ANSWER, SILENCE, WINDOW, timer};
use bytes::Bytes;
use hyper::body::{Body, Frame};
use hyper::client::conn::http2;
use hyper::header::{CONTENT_TYPE, HeaderValue, TE};
use hyper::rt::{Read, Write};
use hyper::{HeaderMap, Request, StatusCode};
use hyper_util::rt::TokioExecutor;
use prost::Message;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::sync::mpsc;

/// How many messages may wait for a slow peer.
const DEPTH: usize = 32;

/// A connection whose other end serves calls.
#[derive(Debug, Clone)]
pub(crate) struct Channel(http2::SendRequest<Pieces>);

/// What is sent in a call.
#[derive(Debug)]
pub(crate) struct Pieces(mpsc::Receiver<Bytes>);

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.get_mut().0.poll_recv(cx).map(|piece| piece.map(|bytes| Ok(Frame::data(bytes))))
    }
}

/// The messages of a call that is going on; dropping it says that there are no more.
#[derive(Debug, Clone)]
pub(crate) struct Outgoing(mpsc::Sender<Bytes>);

impl Outgoing {
    pub(crate) async fn send(&self, message: &impl Message) -> Result<(), Status> {
        self.0.send(frame(message)).await.map_err(|_| gone())
    }

    /// As [`Self::send`], for threads.
    pub(crate) fn send_blocking(&self, message: &impl Message) -> Result<(), Status> {
        self.0.blocking_send(frame(message)).map_err(|_| gone())
    }
}

fn gone() -> Status {
    Status::unavailable("the client takes no more")
}

impl Channel {
    /// Begins; the future is the connection's life and has to be driven.
    pub(crate) async fn open(
        stream: impl Read + Write + Unpin + Send + 'static,
    ) -> hyper::Result<(Self, impl Future<Output = hyper::Result<()>> + Send)> {
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder.timer(timer()).initial_stream_window_size(WINDOW.0).initial_connection_window_size(WINDOW.1);
        builder.keep_alive_interval(SILENCE).keep_alive_timeout(ANSWER);
        let (sender, connection) = builder.handshake(stream).await?;
        Ok((Self(sender), connection))
    }

    /// Begins a call with any number of messages both ways. The other side may answer only once it has heard something.
    pub(crate) fn call(&self, path: &str, metadata: HeaderMap) -> Result<(Outgoing, Frames), Status> {
        let (sender, receiver) = mpsc::channel(DEPTH);
        let mut request = Request::new(Pieces(receiver));
        *request.method_mut() = hyper::Method::POST;
        let address = format!("http://localhost{path}").parse();
        *request.uri_mut() = address.map_err(|error| Status::new(Code::INTERNAL, format!("{path}: {error}")))?;
        *request.headers_mut() = metadata;
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        request.headers_mut().insert(TE, HeaderValue::from_static("trailers"));
        let answer = self.0.clone().send_request(request);
        let path = path.to_owned();
        let answer = async move {
            let answer =
                answer.await.map_err(|error| Status::unavailable(format!("the client does not answer: {error}")))?;
            match answer.status() {
                StatusCode::OK => Ok(answer),
                other => Err(Status::unavailable(format!("the client answers {path} with {other}"))),
            }
        };
        Ok((Outgoing(sender), Frames::later(Box::pin(answer))))
    }

    /// A call with one message each way.
    pub(crate) async fn ask<M: Message + Default>(&self, path: &str, message: &impl Message) -> Result<M, Status> {
        let (outgoing, mut frames) = self.call(path, HeaderMap::new())?;
        outgoing.send(message).await?;
        drop(outgoing);
        let Some(found) = frames.next_answer().await? else {
            return Err(Status::new(Code::INTERNAL, format!("{path} was answered with nothing")));
        };
        frames.end().await?;
        Ok(found)
    }
}
