//! Answers and their bodies.

use crate::error::ApiError;
use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Response, StatusCode};
use serde::Serialize;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::sync::mpsc;

pub(crate) type Reply = Response<Body>;
pub(crate) type Result<T = Reply> = std::result::Result<T, ApiError>;

/// How many pieces of a streamed body may wait for a slow client.
pub(crate) const STREAM_DEPTH: usize = 64;

/// What an answer carries.
pub(crate) enum Body {
    /// All of it, or nothing.
    Full(Option<Bytes>),
    /// Pieces as they come; an error cuts the connection, so that the client does not take it for the end.
    Stream(mpsc::Receiver<io::Result<Bytes>>),
    /// One piece, later; the head of the answer goes out at once.
    Later(Option<Pin<Box<dyn Future<Output = Bytes> + Send>>>),
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match self.get_mut() {
            Self::Full(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Stream(pieces) => pieces.poll_recv(cx).map(|piece| piece.map(|bytes| bytes.map(Frame::data))),
            Self::Later(later) => {
                let Some(future) = later else { return Poll::Ready(None) };
                let Poll::Ready(bytes) = future.as_mut().poll(cx) else { return Poll::Pending };
                *later = None;
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Full(None) | Self::Later(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Full(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            _ => SizeHint::default(),
        }
    }
}

/// What was removed, as Docker tells of it: where that is nothing, there is no list.
pub(crate) fn removed<T>(list: Vec<T>) -> Option<Vec<T>> {
    Some(list).filter(|list| !list.is_empty())
}

/// A whole body of some media type.
pub(crate) fn whole(status: StatusCode, media: &'static str, bytes: impl Into<Bytes>) -> Reply {
    let mut reply = Response::new(Body::Full(Some(bytes.into())));
    *reply.status_mut() = status;
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media));
    reply
}

/// A value as JSON.
pub(crate) fn json(value: &impl Serialize) -> Result {
    json_with(StatusCode::OK, value)
}

/// A value as JSON, with a status.
pub(crate) fn json_with(status: StatusCode, value: &impl Serialize) -> Result {
    Ok(whole(status, "application/json", to_json(value)?))
}

/// A value as one line of JSON.
pub(crate) fn json_line(value: &impl Serialize) -> Result<Bytes> {
    let mut text = to_json(value)?;
    text.push(b'\n');
    Ok(text.into())
}

fn to_json(value: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(|error| ApiError::internal(format!("cannot write the answer as JSON: {error}")))
}

/// Only a status.
pub(crate) fn empty(status: StatusCode) -> Reply {
    let mut reply = Response::new(Body::Full(None));
    *reply.status_mut() = status;
    reply
}

/// 204: done, nothing to tell.
pub(crate) fn done() -> Result {
    Ok(empty(StatusCode::NO_CONTENT))
}

/// A streamed body: the receiver's end of what a task sends.
pub(crate) fn stream(media: &'static str) -> (mpsc::Sender<io::Result<Bytes>>, Reply) {
    let (sender, receiver) = mpsc::channel(STREAM_DEPTH);
    let mut reply = Response::new(Body::Stream(receiver));
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media));
    (sender, reply)
}

/// A body that follows its head later, in one piece.
pub(crate) fn later(future: impl Future<Output = Bytes> + Send + 'static) -> Reply {
    let mut reply = Response::new(Body::Later(Some(Box::pin(future))));
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    reply
}

/// The answer for an error, in Docker's form.
pub(crate) fn refusal(error: &ApiError) -> Reply {
    if error.status == StatusCode::NOT_MODIFIED {
        return empty(error.status);
    }
    #[derive(Serialize)]
    struct Message<'a> {
        message: &'a str,
    }
    json_with(error.status, &Message { message: &error.message })
        .unwrap_or_else(|_| empty(StatusCode::INTERNAL_SERVER_ERROR))
}
