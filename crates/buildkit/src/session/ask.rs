//! Secrets, agents and credentials of the client's.

use super::Session;
use crate::rpc::{Code, Status};
use crate::wire::session::{ById, CredentialsRequest, CredentialsResponse, Secret};
use crate::wire::{Empty, Piece};
use bytes::Bytes;
use engine::{Answer, Engine, EngineError, ErrorClass, Proof, Respondent};
use hyper::HeaderMap;
use hyper::header::{HeaderName, HeaderValue};
use oci::reference::DEFAULT_DOMAIN;
use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Mutex;
use tokio::task::{JoinHandle, JoinSet};

const SECRET: &str = "/moby.buildkit.secrets.v1.Secrets/GetSecret";
const CHECK_AGENT: &str = "/moby.sshforward.v1.SSH/CheckAgent";
const FORWARD_AGENT: &str = "/moby.sshforward.v1.SSH/ForwardAgent";
const CREDENTIALS: &str = "/moby.filesync.v1.Auth/Credentials";
const AGENT_ID: HeaderName = HeaderName::from_static("buildkit.ssh.id");
const PIECE: usize = 16 << 10;

/// A client for the time of a build.
#[derive(Debug)]
pub(crate) struct Visit {
    session: Arc<Session>,
    engine: Engine,
    agents: Mutex<BTreeMap<String, Agent>>,
}

/// A socket here that leads to an agent there.
#[derive(Debug)]
struct Agent {
    folder: File,
    serving: JoinHandle<()>,
    _place: tempfile::TempDir,
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Agent {
    /// The socket's name as long as the agent lives: one that is short whatever the folder is called.
    fn path(&self) -> PathBuf {
        Path::new("/proc/self/fd").join(self.folder.as_raw_fd().to_string()).join("agent")
    }
}

fn said(what: &str, status: &Status) -> EngineError {
    EngineError::new(ErrorClass::Unavailable, format!("{what}: {status}"))
}

impl Visit {
    pub(crate) fn new(session: Arc<Session>, engine: Engine) -> Self {
        Self { session, engine, agents: Mutex::default() }
    }

    async fn open(&self, id: &str) -> Result<Option<PathBuf>, EngineError> {
        let mut agents = self.agents.lock().await;
        if let Some(agent) = agents.get(id) {
            return Ok(Some(agent.path()));
        }
        if !self.session.serves(CHECK_AGENT) {
            return Ok(None);
        }
        let asked = ById { id: id.to_owned() };
        if let Err(status) = self.session.channel.ask::<Empty>(CHECK_AGENT, &asked).await {
            tracing::debug!(id, %status, "the client has no such agent");
            return Ok(None);
        }
        let cannot = |error: std::io::Error| EngineError::internal("cannot make a socket for the SSH agent", &error);
        let place = self.engine.work_folder()?;
        let folder = File::open(place.path()).map_err(cannot)?;
        let at = Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string()).join("agent");
        let listener = UnixListener::bind(at).map_err(cannot)?;
        let serving = tokio::spawn(serve(listener, Arc::clone(&self.session), id.to_owned()));
        let agent = agents.entry(id.to_owned()).or_insert(Agent { folder, serving, _place: place });
        Ok(Some(agent.path()))
    }
}

impl Respondent for Visit {
    fn secret<'a>(&'a self, id: &'a str) -> Answer<'a, Option<Vec<u8>>> {
        Box::pin(async move {
            if !self.session.serves(SECRET) {
                return Ok(None);
            }
            let asked = ById { id: id.to_owned() };
            match self.session.channel.ask::<Secret>(SECRET, &asked).await {
                Ok(secret) => Ok(Some(secret.data)),
                Err(status) if status.code == Code::NOT_FOUND => Ok(None),
                Err(status) => Err(said(&format!("cannot have the secret \"{id}\""), &status)),
            }
        })
    }

    fn agent<'a>(&'a self, id: &'a str) -> Answer<'a, Option<PathBuf>> {
        Box::pin(self.open(id))
    }

    fn proof<'a>(&'a self, registry: &'a str) -> Answer<'a, Option<Proof>> {
        Box::pin(async move {
            if !self.session.serves(CREDENTIALS) {
                return Ok(None);
            }
            // where clients keep those of the registry that needs no name
            let host = if registry == DEFAULT_DOMAIN { "registry-1.docker.io" } else { registry };
            let asked = CredentialsRequest { host: host.to_owned() };
            match self.session.channel.ask::<CredentialsResponse>(CREDENTIALS, &asked).await {
                Ok(found) => Ok(proof(found)),
                Err(status) if status.code == Code::NOT_FOUND => Ok(None),
                Err(status) => Err(said(&format!("cannot have the credentials for {host}"), &status)),
            }
        })
    }
}

/// A secret without a name is a token.
fn proof(found: CredentialsResponse) -> Option<Proof> {
    match (found.username.is_empty(), found.secret.is_empty()) {
        (_, true) => None,
        (true, false) => Some(Proof::Identity(found.secret)),
        (false, false) => Some(Proof::Password(found.username, found.secret)),
    }
}

async fn serve(listener: UnixListener, session: Arc<Session>, id: String) {
    let mut connections = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        while connections.try_join_next().is_some() {}
        let (session, id) = (Arc::clone(&session), id.clone());
        connections.spawn(async move {
            if let Err(status) = forward(client, &session, &id).await {
                tracing::debug!(id, %status, "a connection to the client's agent broke");
            }
        });
    }
}

/// One connection, both ways, until either side has ended.
async fn forward(client: UnixStream, session: &Session, id: &str) -> Result<(), Status> {
    let id =
        HeaderValue::from_str(id).map_err(|_| Status::invalid("the agent's id has letters that it cannot have"))?;
    let (out, mut answers) = session.channel.call(FORWARD_AGENT, HeaderMap::from_iter([(AGENT_ID, id)]))?;
    let (mut from, mut to) = client.into_split();
    let there = async move {
        let mut piece = vec![0; PIECE];
        loop {
            match from.read(&mut piece).await {
                Ok(0) | Err(_) => return Ok(()),
                Ok(count) => out.send(&Piece { data: Bytes::copy_from_slice(&piece[..count]) }).await?,
            }
        }
    };
    let back = async move {
        while let Some(piece) = answers.next_answer::<Piece>().await? {
            if to.write_all(&piece.data).await.is_err() {
                break;
            }
        }
        Ok::<_, Status>(())
    };
    tokio::select! {
        ended = there => ended,
        ended = back => ended,
    }
}
