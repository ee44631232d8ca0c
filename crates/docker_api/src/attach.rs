//! Connections that stop being HTTP and become a process's streams.
//!
//! The client's socket itself is handed to the engine, which hands it to the container's helper: the daemon is out of the data
//! path. A client that does not ask for an upgrade gets 200 instead of 101, and from then on the connection is a stream as well,
//! in both directions.

use crate::listener::Stream;
use crate::reply::{Body, Reply};
use bytes::Bytes;
use docker_wire::{MULTIPLEXED_STREAM, RAW_STREAM};
use hyper::ext::ReasonPhrase;
use hyper::header::{CONNECTION, CONTENT_TYPE, HeaderValue, UPGRADE, USER_AGENT};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper::{Request, Response, StatusCode, body::Incoming};
use hyper_util::rt::TokioIo;
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, oneshot};

/// How long a start waits for attaching clients that were answered but not handed over yet.
const HAND_OVER: Duration = Duration::from_secs(2);

/// A client's connection, on its way to a process.
pub(crate) enum Client {
    /// It asked for an upgrade: its socket, once the answer is out.
    Socket(OnUpgrade, Reading),
    /// It did not: its socket all the same, once the answer is out.
    Taken(oneshot::Receiver<Taken>, Reading),
    /// The far end of a pair whose near end is the client's in another form.
    Pair(OwnedFd),
}

/// A connection that is no longer HTTP's, and what the client sent ahead.
pub(crate) struct Taken {
    pub(crate) stream: Stream,
    pub(crate) ahead: Bytes,
}

/// Goes with an answer after which the connection is not HTTP's: whom it is given to.
#[derive(Clone)]
pub(crate) struct Handing(Arc<Mutex<Option<oneshot::Sender<Taken>>>>);

impl Handing {
    fn pair() -> (Self, oneshot::Receiver<Taken>) {
        let (sender, receiver) = oneshot::channel();
        (Self(Arc::new(Mutex::new(Some(sender)))), receiver)
    }

    /// Gives it; one that nobody waits for any more ends here.
    pub(crate) fn give(&self, taken: Taken) {
        if let Some(sender) = self.0.lock().unwrap_or_else(PoisonError::into_inner).take() {
            let _ = sender.send(taken);
        }
    }
}

impl Client {
    /// The descriptor and the bytes that the client sent ahead.
    pub(crate) async fn connection(self) -> io::Result<(OwnedFd, Vec<u8>)> {
        match self {
            Self::Pair(fd) => Ok((fd, Vec::new())),
            Self::Socket(upgrade, reading) => {
                let upgraded: Upgraded = upgrade.await.map_err(io::Error::other)?;
                let parts = upgraded
                    .downcast::<TokioIo<Stream>>()
                    .map_err(|_| io::Error::other("the connection is not one of ours"))?;
                let socket = reading.socket(parts.io.into_inner()).await?;
                Ok((socket, parts.read_buf.to_vec()))
            }
            Self::Taken(taken, reading) => {
                let taken = taken.await.map_err(io::Error::other)?;
                Ok((reading.socket(taken.stream).await?, taken.ahead.to_vec()))
            }
        }
    }
}

/// How a client reads the answer that makes its connection a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reading {
    /// What comes with the head is the stream's first piece.
    Whole,
    /// What comes with the head may be lost to it: docker-py reads the head through a buffer and the stream past it. Programs that
    /// take long to begin hide that.
    HeadApart,
}

/// Clients that are known to read what comes with the head.
const WHOLE: &[&str] = &["Docker-Client/", "Go-http-client/", "compose/", "insula"];
/// How long a client may take to read the head alone, and how often it is looked at.
const HEAD_PATIENCE: Duration = Duration::from_millis(500);
const GLANCE: Duration = Duration::from_millis(1);

impl Reading {
    fn of(request: &Request<Incoming>) -> Self {
        let agent = request.headers().get(USER_AGENT).and_then(|agent| agent.to_str().ok()).unwrap_or_default();
        if WHOLE.iter().any(|known| agent.starts_with(known)) { Self::Whole } else { Self::HeadApart }
    }

    /// The socket, when the client is ready for the stream.
    async fn socket(self, stream: Stream) -> io::Result<OwnedFd> {
        let socket = stream.into_socket()?;
        if self == Self::HeadApart {
            head_taken(&socket).await;
        }
        Ok(socket)
    }
}

/// Waits until the client has read what was written, or has had time to.
async fn head_taken(socket: &OwnedFd) {
    let taken = async {
        while engine::unsent(socket.as_fd()).is_ok_and(|left| left > 0) {
            tokio::time::sleep(GLANCE).await;
        }
    };
    // one that does not read loses nothing that it would not lose anyway
    let _ = tokio::time::timeout(HEAD_PATIENCE, taken).await;
}

/// Makes the answer that turns a connection into streams, and the client's end for the engine.
pub(crate) fn hijack(request: &mut Request<Incoming>, media: &'static str) -> (Client, Reply) {
    let reading = Reading::of(request);
    let mut reply = Response::new(Body::Full(None));
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media));
    if !request.headers().contains_key(UPGRADE) {
        let (handing, taken) = Handing::pair();
        reply.extensions_mut().insert(handing);
        return (Client::Taken(taken, reading), reply);
    }
    let client = Client::Socket(hyper::upgrade::on(request), reading);
    *reply.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    reply.extensions_mut().insert(ReasonPhrase::from_static(b"UPGRADED"));
    let headers = reply.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("tcp"));
    (client, reply)
}

/// The media type of an attached connection. Before API 1.42 it was the same for both kinds.
pub(crate) fn media(tty: bool, knows_multiplexed: bool) -> &'static str {
    if tty || !knows_multiplexed { RAW_STREAM } else { MULTIPLEXED_STREAM }
}

/// Attachments that were promised to a client and not handed to the engine yet.
///
/// A client attaches, reads the answer and starts the container, over another connection. The hand-over happens after the answer
/// went out, so a start has to wait for it, or the first output would miss the client.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    counts: Mutex<BTreeMap<String, usize>>,
    changed: Notify,
}

/// One promised attachment; settled when dropped.
pub(crate) struct Promise {
    pending: Arc<Pending>,
    id: String,
}

impl Pending {
    pub(crate) fn promise(self: &Arc<Self>, id: &str) -> Promise {
        *self.counts.lock().unwrap_or_else(PoisonError::into_inner).entry(id.to_owned()).or_default() += 1;
        Promise { pending: Arc::clone(self), id: id.to_owned() }
    }

    fn is_settled(&self, id: &str) -> bool {
        !self.counts.lock().unwrap_or_else(PoisonError::into_inner).contains_key(id)
    }

    /// Returns when nothing is promised for the container, or after a while if a client is slow to take its answer.
    pub(crate) async fn settled(&self, id: &str) {
        let wait = async {
            loop {
                let changed = self.changed.notified();
                let mut changed = std::pin::pin!(changed);
                changed.as_mut().enable();
                if self.is_settled(id) {
                    return;
                }
                changed.await;
            }
        };
        // a client that does not take its answer misses output, which is then its own doing
        let _ = tokio::time::timeout(HAND_OVER, wait).await;
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        let mut counts = self.pending.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.id) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.id);
            }
        }
        drop(counts);
        self.pending.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_start_waits_for_promised_attachments() {
        let pending: Arc<Pending> = Arc::default();
        pending.settled("a").await;
        let (first, second) = (pending.promise("a"), pending.promise("a"));
        let waiting = tokio::spawn({
            let pending = Arc::clone(&pending);
            async move { pending.settled("a").await }
        });
        pending.settled("b").await;
        drop(first);
        tokio::task::yield_now().await;
        assert!(!pending.is_settled("a") && !waiting.is_finished());
        drop(second);
        waiting.await.unwrap();
        assert!(pending.counts.lock().unwrap().is_empty());
    }

    #[test]
    fn old_clients_know_one_media_type() {
        assert_eq!(media(false, true), MULTIPLEXED_STREAM);
        assert_eq!(media(false, false), RAW_STREAM);
        assert_eq!(media(true, true), RAW_STREAM);
    }
}
