//! Connections that become BuildKit's: sessions, and calls. And builds of clients that have a session beside the old request.

use super::build::{archive, document};
use crate::error::ApiError;
use crate::query::Query;
use crate::reply::{self, Body, Reply, Result};
use crate::server::Call;
use buildkit::{ClassicBuild, Greeting};
use bytes::Bytes;
use engine::BuildContext;
use hyper::header::{CONNECTION, HeaderValue, UPGRADE};
use hyper::upgrade::OnUpgrade;
use hyper::{Request, Response, StatusCode, body::Incoming};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, oneshot};

/// HTTP/2 without TLS, as clients ask for it.
const PROTOCOL: &str = "h2c";

/// `POST /session`
pub(crate) async fn session(mut call: Call) -> Result {
    let (connection, reply) = upgrade(&mut call.request)?;
    let greeting = Greeting::read(call.request.headers()).map_err(|error| ApiError::invalid(error.to_string()))?;
    let kit = Arc::clone(&call.api.buildkit);
    tokio::spawn(async move {
        match connection.await {
            Ok(stream) => kit.session(greeting, stream).await,
            Err(error) => tracing::debug!(%error, "a session did not begin"),
        }
    });
    Ok(reply)
}

/// `POST /grpc`
pub(crate) async fn grpc(mut call: Call) -> Result {
    let (connection, reply) = upgrade(&mut call.request)?;
    let kit = Arc::clone(&call.api.buildkit);
    tokio::spawn(async move {
        match connection.await {
            Ok(stream) => kit.serve(stream).await,
            Err(error) => tracing::debug!(%error, "a connection did not become BuildKit's"),
        }
    });
    Ok(reply)
}

/// What stands before a build's name when only its context comes.
const UPLOAD: &str = "upload-request";
/// How long a build waits for its context, and a context for its build.
const PATIENCE: Duration = Duration::from_secs(30);

/// Contexts that came by a request of their own, by the names of their builds.
#[derive(Debug, Default)]
pub(crate) struct Uploads {
    waiting: Mutex<BTreeMap<String, (BuildContext, oneshot::Sender<()>)>>,
    changed: Notify,
}

impl Uploads {
    /// Keeps one until its build has taken and read it.
    async fn offer(&self, id: &str, context: BuildContext) -> Result<()> {
        let (sender, taken) = oneshot::channel();
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).insert(id.to_owned(), (context, sender));
        self.changed.notify_waiters();
        if tokio::time::timeout(PATIENCE, taken).await.is_ok_and(|taken| taken.is_ok()) {
            return Ok(());
        }
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
        Err(ApiError::invalid(format!("no build {id} has asked for this context")))
    }

    async fn take(&self, id: &str) -> Result<BuildContext> {
        let wait = async {
            loop {
                let changed = self.changed.notified();
                let mut changed = std::pin::pin!(changed);
                changed.as_mut().enable();
                let found = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
                if let Some((context, taken)) = found {
                    let _ = taken.send(());
                    return context;
                }
                changed.await;
            }
        };
        let found = tokio::time::timeout(PATIENCE, wait).await;
        found.map_err(|_| ApiError::invalid(format!("the context of the build {id} did not come")))
    }
}

/// `POST /build` with `version=2`
pub(crate) async fn build(call: Call) -> Result {
    let id = call.query.text("buildid").unwrap_or_default().to_owned();
    if let Some(id) = id.strip_prefix(UPLOAD).and_then(|rest| rest.strip_prefix(':')) {
        let api = Arc::clone(&call.api);
        api.uploads.offer(id, archive(call.request.into_body(), Bytes::new())).await?;
        return reply::done();
    }
    let session = call.query.text("session").unwrap_or_default().to_owned();
    if session.is_empty() {
        return Err(ApiError::invalid("a build with version=2 needs a session"));
    }
    // a client that gives no name needs none
    let id = if id.is_empty() { session.clone() } else { id };
    let options = options(&call.query)?;
    let context = match call.query.text("remote") {
        Some(UPLOAD) => Some(call.api.uploads.take(&id).await?),
        Some(_) => None,
        None => Some(archive(call.request.into_body(), Bytes::new())),
    };
    let names: Vec<&str> = call.query.all("t").filter(|name| !name.is_empty()).collect();
    let outputs = outputs(&call.query, &names)?;
    let cache_from: Option<Vec<String>> = document(&call.query, "cachefrom")?;
    let asked = ClassicBuild { id, session, options, context, outputs, cache_from: cache_from.unwrap_or_default() };
    let (sender, reply) = reply::stream("application/json");
    tokio::spawn(Arc::clone(&call.api.buildkit).build(asked, sender));
    Ok(reply)
}

/// `POST /build/cancel`
pub(crate) async fn cancel(call: Call) -> Result {
    let id = call.query.text("id").unwrap_or_default();
    call.api.buildkit.cancel(id);
    reply::done()
}

fn outputs(query: &Query, names: &[&str]) -> Result<Vec<(String, BTreeMap<String, String>)>> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Output {
        r#type: String,
        #[serde(default)]
        attrs: Option<BTreeMap<String, String>>,
    }
    let given: Option<Vec<Output>> = document(query, "outputs")?;
    let mut outputs: Vec<_> =
        given.unwrap_or_default().into_iter().map(|one| (one.r#type, one.attrs.unwrap_or_default())).collect();
    if outputs.is_empty() {
        let names = BTreeMap::from([("name".to_owned(), names.join(","))]);
        outputs.push(("moby".to_owned(), names));
    }
    Ok(outputs)
}

/// The query as the Dockerfile's front end takes it.
fn options(query: &Query) -> Result<BTreeMap<String, String>> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Limit {
        name: String,
        soft: i64,
        hard: i64,
    }
    let mut out = BTreeMap::new();
    let pairs = [
        ("cgroup-parent", "cgroupparent"),
        ("filename", "dockerfile"),
        ("force-network-mode", "networkmode"),
        ("platform", "platform"),
        ("shm-size", "shmsize"),
        ("target", "target"),
    ];
    for (option, name) in pairs {
        out.extend(
            query.text(name).filter(|value| !value.is_empty()).map(|value| (option.to_owned(), value.to_owned())),
        );
    }
    let arguments: BTreeMap<String, Option<String>> = document(query, "buildargs")?;
    out.extend(arguments.into_iter().filter_map(|(name, value)| Some((format!("build-arg:{name}"), value?))));
    let labels: BTreeMap<String, String> = document(query, "labels")?;
    out.extend(labels.into_iter().map(|(name, value)| (format!("label:{name}"), value)));
    let limits: Option<Vec<Limit>> = document(query, "ulimits")?;
    let limits = limits.unwrap_or_default();
    if !limits.is_empty() {
        let texts: Vec<String> = limits.iter().map(|one| format!("{}={}:{}", one.name, one.soft, one.hard)).collect();
        out.insert("ulimit".to_owned(), texts.join(","));
    }
    let hosts = query.all("extrahosts").flat_map(|list| list.split(',')).filter(|host| !host.is_empty());
    let hosts: Vec<String> = hosts.map(|host| host.replacen(':', "=", 1)).collect();
    if !hosts.is_empty() {
        out.insert("add-hosts".to_owned(), hosts.join(","));
    }
    if query.flag("nocache") {
        out.insert("no-cache".to_owned(), String::new());
    }
    if query.flag("pull") {
        out.insert("image-resolve-mode".to_owned(), "pull".to_owned());
    }
    if let Some(remote) = query.text("remote").filter(|remote| !["", "client-session", UPLOAD].contains(remote)) {
        out.insert("context".to_owned(), remote.to_owned());
    }
    Ok(out)
}

fn upgrade(request: &mut Request<Incoming>) -> Result<(OnUpgrade, Reply)> {
    let asked = request.headers().get(UPGRADE).and_then(|protocol| protocol.to_str().ok());
    let Some(asked) = asked else {
        return Err(ApiError::invalid(format!("no upgrade: the request has to ask for the upgrade to {PROTOCOL}")));
    };
    if !asked.eq_ignore_ascii_case(PROTOCOL) {
        return Err(ApiError::invalid(format!("protocol {asked} not supported: ask for the upgrade to {PROTOCOL}")));
    }
    let connection = hyper::upgrade::on(request);
    let mut reply = Response::new(Body::Full(None));
    *reply.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    reply.headers_mut().insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    reply.headers_mut().insert(UPGRADE, HeaderValue::from_static(PROTOCOL));
    Ok((connection, reply))
}
