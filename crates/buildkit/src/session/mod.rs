//! Sessions: connections of clients that serve calls, so that a build can ask for files, secrets, agents and credentials.
//!
//! # Source
//! BuildKit, `session/manager.go` and `session/session.go`: the headers of the request that begins one.

mod ask;
mod content;
mod files;
mod send;
mod upload;

pub(crate) use ask::Visit;
pub(crate) use content::Store;
pub(crate) use files::{Part, receive, take};
pub(crate) use send::{send_files, send_stream};
pub(crate) use upload::pull;

use crate::rpc::{Channel, Status};
use hyper::HeaderMap;
use hyper::rt::{Read, Write};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, watch};

const ID: &str = "x-docker-expose-session-uuid";
const METHOD: &str = "x-docker-expose-session-grpc-method";
/// How long a build waits for its session, which comes by a connection of its own.
const PATIENCE: Duration = Duration::from_secs(10);
/// The most sessions at a time.
const MOST: usize = 1024;

/// The sessions that are open, by their ids.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    open: Mutex<BTreeMap<String, Arc<Session>>>,
    changed: Notify,
}

/// A client that can be asked.
#[derive(Debug)]
pub(crate) struct Session {
    channel: Channel,
    /// What it serves, in lower case.
    methods: BTreeSet<String>,
    gone: watch::Receiver<bool>,
}

/// What a request for a session says of it.
#[derive(Debug)]
pub(crate) struct Greeting {
    id: String,
    methods: BTreeSet<String>,
}

impl Greeting {
    /// Reads a request's headers.
    pub(crate) fn read(headers: &HeaderMap) -> Result<Self, Status> {
        let id = headers.get(ID).and_then(|id| id.to_str().ok()).filter(|id| !id.is_empty());
        let id = id.ok_or_else(|| Status::invalid(format!("a session needs an id in the header {ID}")))?.to_owned();
        let methods = headers.get_all(METHOD).iter().filter_map(|method| method.to_str().ok());
        Ok(Self { id, methods: methods.map(str::to_ascii_lowercase).collect() })
    }
}

impl Sessions {
    /// Has a session from now on, until its connection ends; returns then.
    pub(crate) async fn hold(&self, greeting: Greeting, stream: impl Read + Write + Unpin + Send + 'static) {
        let Greeting { id, methods } = greeting;
        let (channel, connection) = match Channel::open(stream).await {
            Ok(opened) => opened,
            Err(error) => return tracing::debug!(id, %error, "a session did not begin"),
        };
        let (going, gone) = watch::channel(false);
        let session = Arc::new(Session { channel, methods, gone });
        {
            let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
            if open.len() >= MOST || open.contains_key(&id) {
                return tracing::warn!(id, "a session was turned away: there are too many, or one with its id");
            }
            open.insert(id.clone(), session);
        }
        self.changed.notify_waiters();
        // also where whoever holds it gives up
        let _left = Leaving { sessions: self, id: &id, going };
        if let Err(error) = connection.await {
            tracing::debug!(id, %error, "a session's connection broke");
        }
    }

    /// A session by its id, which may still be on its way.
    pub(crate) async fn find(&self, id: &str) -> Result<Arc<Session>, Status> {
        let wait = async {
            loop {
                let changed = self.changed.notified();
                let mut changed = std::pin::pin!(changed);
                changed.as_mut().enable();
                if let Some(session) = self.open.lock().unwrap_or_else(PoisonError::into_inner).get(id) {
                    return Arc::clone(session);
                }
                changed.await;
            }
        };
        let found = tokio::time::timeout(PATIENCE, wait).await;
        found.map_err(|_| Status::unavailable(format!("there is no session {id:?}; the client has to open one")))
    }
}

/// A session that ends when this is dropped.
struct Leaving<'a> {
    sessions: &'a Sessions,
    id: &'a str,
    going: watch::Sender<bool>,
}

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        self.sessions.open.lock().unwrap_or_else(PoisonError::into_inner).remove(self.id);
        let _ = self.going.send(true);
    }
}

impl Session {
    /// Whether the client serves a method.
    pub(crate) fn serves(&self, path: &str) -> bool {
        self.methods.contains(&path.to_ascii_lowercase())
    }

    /// Returns when the client has gone.
    pub(crate) async fn gone(&self) {
        let _ = self.gone.clone().wait_for(|gone| *gone).await;
    }

    fn demand(&self, path: &str, what: &str) -> Result<(), Status> {
        if self.serves(path) { Ok(()) } else { Err(Status::invalid(format!("the client's session has no {what}"))) }
    }
}
