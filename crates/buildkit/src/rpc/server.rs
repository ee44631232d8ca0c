//! The serving side.

use super::frame::{Frames, frame};
use super::status::{Code, Status};
use super::{ANSWER, SILENCE, WINDOW, timer};
use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::rt::{Read, Write};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, Response};
use hyper_util::rt::TokioExecutor;
use prost::Message;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::sync::mpsc;

/// How many messages may wait for a slow client.
const DEPTH: usize = 64;
/// How many calls one connection may have at the same time.
const CALLS: u32 = 100;

/// What time it is here, for clients that show since when something goes on.
const NOW: HeaderName = HeaderName::from_static("buildkit-current-timestamp");

/// One call.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) metadata: HeaderMap,
    pub(crate) messages: Frames,
}

/// Where a call's messages go.
#[derive(Debug, Clone)]
pub(crate) struct Replies(mpsc::Sender<Frame<Bytes>>);

impl Replies {
    pub(crate) async fn send(&self, message: &impl Message) -> Result<(), Status> {
        let sent = self.0.send(Frame::data(frame(message))).await;
        sent.map_err(|_| Status::new(Code::CANCELLED, "the client has gone"))
    }

    /// Returns when the client has given the call up.
    pub(crate) async fn gone(&self) {
        self.0.closed().await;
    }
}

/// What answers calls of one method.
pub(crate) type Handler<S> = fn(Arc<S>, Call, Replies) -> Pin<Box<dyn Future<Output = Result<(), Status>> + Send>>;

/// A line of a service's table.
pub(crate) struct Method<S> {
    pub(crate) path: &'static str,
    pub(crate) handler: Handler<S>,
}

/// The body of an answer: messages, then how it ended.
struct Answer(mpsc::Receiver<Frame<Bytes>>);

impl Body for Answer {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.get_mut().0.poll_recv(cx).map(|frame| frame.map(Ok))
    }
}

/// Serves the calls of one connection by a table sorted by path, until the connection ends.
pub(crate) async fn serve<S: Send + Sync + 'static>(
    stream: impl Read + Write + Unpin + Send + 'static,
    service: Arc<S>,
    methods: &'static [Method<S>],
) -> hyper::Result<()> {
    let answer = service_fn(move |request: Request<Incoming>| {
        let service = Arc::clone(&service);
        async move { Ok::<_, Infallible>(begin(service, methods, request)) }
    });
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder.timer(timer()).initial_stream_window_size(WINDOW.0).initial_connection_window_size(WINDOW.1);
    builder.keep_alive_interval(SILENCE).keep_alive_timeout(ANSWER).max_concurrent_streams(CALLS);
    builder.serve_connection(stream, answer).await
}

fn begin<S: Send + Sync + 'static>(
    service: Arc<S>,
    methods: &'static [Method<S>],
    request: Request<Incoming>,
) -> Response<Answer> {
    let (sender, receiver) = mpsc::channel(DEPTH);
    let (head, body) = request.into_parts();
    let path = head.uri.path().to_owned();
    let found = methods.binary_search_by(|method| method.path.cmp(&path)).ok().map(|at| methods[at].handler);
    let call = Call { metadata: head.headers, messages: Frames::new(body) };
    tokio::spawn(async move {
        let outcome = match found {
            Some(handler) => handler(service, call, Replies(sender.clone())).await,
            None => Err(Status::new(Code::UNIMPLEMENTED, format!("there is no method {path}"))),
        };
        if let Err(status) = &outcome {
            tracing::debug!(path, code = status.code.0, message = status.message, "a call failed");
        }
        // whoever has gone needs no end
        let _ = sender.send(Frame::trailers(Status::trailers(&outcome))).await;
    });
    let mut response = Response::new(Answer(receiver));
    if let Ok(now) = HeaderValue::from_str(&jiff::Timestamp::now().to_string()) {
        response.headers_mut().insert(NOW, now);
    }
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}
