//! BuildKit's protocol over the engine's builds, so that `docker build` and buildx find what they ask for.
//!
//! ```text
//! POST /session  the client serves:  files, secrets, agents, credentials      session
//! POST /grpc     we serve:           Control, LLBBridge, Content              control, build, history
//! POST /build    with version=2, as clients from before buildx ask         classic
//! ```
//!
//! The first two are connections that stop being HTTP/1 and become gRPC's, over HTTP/2 (`rpc`). The build itself is the engine's, as
//! for every other client: there is no graph of operations (LLB), and no front end but the one for Dockerfiles.
//!
//! Neighbours: the engine below; `docker_api` hands over the connections.

mod build;
mod classic;
mod control;
pub mod fuzzing;
mod history;
mod rpc;
mod session;
mod wire;

pub use classic::ClassicBuild;

use engine::Engine;
use hyper::HeaderMap;
use hyper::rt::{Read, Write};
use std::sync::Arc;

/// What clients of BuildKit's protocol find: the sessions that are open, the solves that are going on, and records of
/// those that were.
#[derive(Debug)]
pub struct BuildKit {
    engine: Engine,
    sessions: session::Sessions,
    jobs: build::Jobs,
    history: history::History,
    /// The name of the one who builds.
    worker: String,
}

/// A request for a session that cannot be one.
#[derive(Debug, thiserror::Error)]
#[error("this is no session of BuildKit's: {0}")]
pub struct SessionError(String);

/// A session before its connection is there.
#[derive(Debug)]
pub struct Greeting(session::Greeting);

impl Greeting {
    /// Reads the headers of the request for a session.
    ///
    /// # Errors
    /// [`SessionError`] if they have no id.
    pub fn read(headers: &HeaderMap) -> Result<Self, SessionError> {
        session::Greeting::read(headers).map(Self).map_err(|status| SessionError(status.message))
    }
}

impl BuildKit {
    /// Builds by this engine.
    #[must_use]
    pub fn new(engine: Engine) -> Arc<Self> {
        let worker = engine.info().id;
        let history = history::History::open(engine.config().builds());
        Arc::new(Self { engine, sessions: session::Sessions::default(), jobs: build::Jobs::default(), history, worker })
    }

    /// Has a session until its connection ends.
    pub async fn session(self: Arc<Self>, greeting: Greeting, stream: impl Read + Write + Unpin + Send + 'static) {
        self.sessions.hold(greeting.0, stream).await;
    }

    /// Ends a solve, if there is one with this name.
    pub fn cancel(&self, id: &str) {
        self.jobs.cancel(id);
    }

    /// Serves the calls of a connection until it ends.
    pub async fn serve(self: Arc<Self>, stream: impl Read + Write + Unpin + Send + 'static) {
        if let Err(error) = rpc::serve(stream, self, control::METHODS).await {
            tracing::debug!(%error, "a client's connection ended early");
        }
    }
}
