//! Connections, requests, and the way from one to the other.

use crate::attach::{Handing, Pending, Taken};
use crate::error::ApiError;
use crate::listener::{Listener, Stream};
use crate::metrics::Metrics;
use crate::query::Query;
use crate::reply::{self, Reply, Result};
use crate::route::{self, Uploads, Version};
use crate::settings::Settings;
use buildkit::BuildKit;
use bytes::Bytes;
use docker_wire::{API_VERSION, MIN_API_VERSION};
use engine::Engine;
use engine::model::EventKind;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue, SERVER};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::de::DeserializeOwned;
use std::convert::Infallible;
use std::io;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

/// How long clients may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// For a request's head, and so between two requests of a connection.
    pub head: Duration,
    /// For a request's body, where it is a document.
    pub body: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        let five_minutes = Duration::from_secs(300);
        Self { head: five_minutes, body: five_minutes }
    }
}

/// The longest JSON body that a request may have, in bytes.
const MAX_JSON: usize = 4 << 20;
const JSON: &str = "application/json";
/// The longest head of a request, in bytes.
const MAX_HEAD: usize = 64 << 10;
/// How long requests may go on after the server was told to stop.
const GRACE: Duration = Duration::from_secs(2);

/// The API's server over one engine.
#[derive(Debug, Clone)]
pub struct Server(Arc<Api>);

/// What all requests share.
#[derive(Debug)]
pub(crate) struct Api {
    pub(crate) engine: Engine,
    pub(crate) attaching: Arc<Pending>,
    pub(crate) settings: RwLock<Arc<Settings>>,
    pub(crate) metrics: Metrics,
    pub(crate) buildkit: Arc<BuildKit>,
    pub(crate) uploads: Uploads,
    limits: Limits,
}

impl Server {
    /// A server for `engine`'s objects.
    #[must_use]
    pub fn new(engine: Engine) -> Self {
        Self::with_settings(engine, Settings::default())
    }

    /// A server for `engine`'s objects; counts what happens to them from now on.
    #[must_use]
    pub fn with_settings(engine: Engine, settings: Settings) -> Self {
        Self::with_limits(engine, settings, Limits::default())
    }

    /// As [`Self::with_settings`], with other limits for slow clients.
    #[must_use]
    pub fn with_limits(engine: Engine, settings: Settings, limits: Limits) -> Self {
        let settings = RwLock::new(Arc::new(settings));
        let buildkit = BuildKit::new(engine.clone());
        let api = Arc::new(Api {
            engine,
            attaching: Arc::default(),
            settings,
            metrics: Metrics::default(),
            buildkit,
            uploads: Uploads::default(),
            limits,
        });
        let counting = Arc::downgrade(&api);
        let mut events = api.engine.events(None);
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                while let Some(event) = events.next().await {
                    let Some(api) = counting.upgrade() else { return };
                    if event.kind == EventKind::Container {
                        api.metrics.happened(&event.action);
                    }
                }
            });
        }
        Self(api)
    }

    /// How many requests have been answered; changes with every one.
    #[must_use]
    pub fn answers(&self) -> watch::Receiver<u64> {
        self.0.metrics.answers()
    }

    /// Changes the settings, for requests from now on, and tells so.
    pub fn change(&self, settings: Settings) {
        *self.0.settings.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(settings);
        self.0.engine.reloaded();
    }

    /// Serves only `/metrics`, by plain HTTP, until `stop` becomes true.
    ///
    /// # Errors
    /// As [`Self::serve`].
    pub async fn serve_metrics(&self, listener: TcpListener, stop: watch::Receiver<bool>) -> io::Result<()> {
        self.accept(Listener::Tcp(listener, None), Serves::Metrics, stop).await
    }

    /// Serves a listening socket until `stop` becomes true, then lets running requests end for two seconds at most.
    /// Connections that were handed over to containers are no longer the server's and go on.
    ///
    /// # Errors
    /// If the socket cannot accept connections for another reason than a passing shortage.
    pub async fn serve(&self, listener: impl Into<Listener>, stop: watch::Receiver<bool>) -> io::Result<()> {
        self.accept(listener.into(), Serves::All, stop).await
    }

    async fn accept(&self, listener: Listener, what: Serves, mut stop: watch::Receiver<bool>) -> io::Result<()> {
        let mut connections = JoinSet::new();
        let ended = loop {
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok(accepted) => {
                        let (api, stop) = (Arc::clone(&self.0), stop.clone());
                        connections.spawn(async move {
                            if let Some(stream) = accepted.stream().await {
                                connection(api, stream, what, stop).await;
                            }
                        });
                    }
                    // descriptors or memory are short: those who wait are served when there are some again
                    Err(error) if is_shortage(&error) => tokio::time::sleep(Duration::from_millis(50)).await,
                    Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                    Err(error) => break Err(error),
                },
                Some(_) = connections.join_next() => {}
                () = told(&mut stop) => break Ok(()),
            }
        };
        let all = async { while connections.join_next().await.is_some() {} };
        // what is still there then is a stream without an end
        let _ = tokio::time::timeout(GRACE, all).await;
        ended
    }
}

/// Returns when the server is told to stop, or nobody is left to tell it.
async fn told(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

fn is_shortage(error: &io::Error) -> bool {
    use rustix::io::Errno;
    [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM]
        .map(Errno::raw_os_error)
        .map(Some)
        .contains(&error.raw_os_error())
}

async fn connection(api: Arc<Api>, stream: Stream, what: Serves, mut stop: watch::Receiver<bool>) {
    let limits = api.limits;
    let (hand, mut handed) = mpsc::channel(1);
    let service = service_fn(move |request| {
        let (api, hand) = (Arc::clone(&api), hand.clone());
        async move {
            let mut reply = answer(api, what, request).await;
            let Some(handing) = reply.extensions_mut().remove::<Handing>() else { return Ok::<_, Infallible>(reply) };
            // the connection's task takes the connection, and this with it
            let _ = hand.send((head(&reply), handing)).await;
            std::future::pending().await
        }
    });
    let mut connection = http1::Builder::new()
        .max_buf_size(MAX_HEAD)
        .title_case_headers(true)
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut stopping = false;
    let result = loop {
        tokio::select! {
            result = &mut connection => break result,
            Some((head, handing)) = handed.recv() => {
                if let Some(parts) = connection.into_parts() {
                    hand_over(parts.io.into_inner(), parts.read_buf, &head, &handing).await;
                }
                return;
            }
            () = told(&mut stop), if !stopping => {
                stopping = true;
                std::pin::Pin::new(&mut connection).graceful_shutdown();
            }
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "a client's connection ended early");
    }
}

/// An answer's head, after which what is on the connection is a stream until it ends.
fn head(reply: &Reply) -> Vec<u8> {
    let mut head = format!("HTTP/1.1 {}\r\n", reply.status()).into_bytes();
    for (name, value) in reply.headers() {
        head.extend_from_slice(&[name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
    }
    head.extend_from_slice(b"\r\n");
    head
}

/// Writes the head and gives the connection away.
async fn hand_over(mut stream: Stream, ahead: Bytes, head: &[u8], handing: &Handing) {
    match stream.write_all(head).await {
        Ok(()) => handing.give(Taken { stream, ahead }),
        Err(error) => tracing::debug!(%error, "a client went away while it was being attached"),
    }
}

/// One request.
pub(crate) struct Call {
    pub(crate) api: Arc<Api>,
    pub(crate) version: Version,
    /// What stands in the path for `{…}`, in order, decoded.
    pub(crate) params: Vec<String>,
    pub(crate) query: Query,
    pub(crate) request: Request<Incoming>,
}

impl Call {
    pub(crate) fn engine(&self) -> &Engine {
        &self.api.engine
    }

    /// The settings as they are now.
    pub(crate) fn settings(&self) -> Arc<Settings> {
        Arc::clone(&self.api.settings.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The first part of the path that stands for something: a name or an id, without the slash that old clients put before names.
    pub(crate) fn who(&self) -> &str {
        let name = self.params.first().map_or("", String::as_str);
        name.strip_prefix('/').unwrap_or(name)
    }

    /// The body as JSON.
    pub(crate) async fn json<T: DeserializeOwned>(&mut self) -> Result<T> {
        let bytes = self.bytes().await?;
        if bytes.is_empty() {
            return Err(ApiError::invalid("invalid JSON: got EOF while reading request body"));
        }
        self.read(&bytes)
    }

    /// The body as JSON, or the default if there is none.
    pub(crate) async fn json_or_default<T: DeserializeOwned + Default>(&mut self) -> Result<T> {
        let bytes = self.bytes().await?;
        if bytes.iter().all(u8::is_ascii_whitespace) || bytes.as_ref() == b"null" {
            return Ok(T::default());
        }
        self.read(&bytes)
    }

    /// A body that says to be something else than JSON is refused: forms of foreign web pages are sent without asking.
    fn read<T: DeserializeOwned>(&self, bytes: &[u8]) -> Result<T> {
        let media = self.request.headers().get(CONTENT_TYPE).map_or(JSON.as_bytes(), HeaderValue::as_bytes);
        let kind = media.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
        if !kind.eq_ignore_ascii_case(JSON.as_bytes()) {
            let media = String::from_utf8_lossy(media);
            return Err(ApiError::invalid(format!("unsupported Content-Type header ({media}): must be '{JSON}'")));
        }
        crate::fold::from_slice(bytes).map_err(|error| crate::fold::refused(bytes, &error))
    }

    async fn bytes(&mut self) -> Result<Bytes> {
        let limit = self.api.limits.body;
        let body = Limited::new(self.request.body_mut(), MAX_JSON).collect();
        let Ok(body) = tokio::time::timeout(limit, body).await else {
            return Err(ApiError::new(
                StatusCode::REQUEST_TIMEOUT,
                format!("the request's body has not come in {} seconds", limit.as_secs()),
            ));
        };
        match body {
            Ok(body) => Ok(body.to_bytes()),
            Err(error) if error.is::<LengthLimitError>() => Err(ApiError::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                format!("the request's body is longer than {MAX_JSON} bytes"),
            )),
            Err(error) => Err(ApiError::invalid(format!("the request's body cannot be read: {error}"))),
        }
    }
}

async fn answer(api: Arc<Api>, what: Serves, request: Request<Incoming>) -> Reply {
    let begin = Instant::now();
    let method = request.method().clone();
    let is_head = method == Method::HEAD;
    let (route, answered) = dispatch(Arc::clone(&api), what, request).await;
    let mut reply = match answered {
        Ok(reply) => reply,
        Err(error) => {
            tracing::debug!(status = error.status.as_u16(), message = error.message, "refused");
            reply::refusal(&error)
        }
    };
    if is_head {
        *reply.body_mut() = reply::Body::Full(None);
    }
    api.metrics.answered(route, &method, reply.status().as_u16(), begin.elapsed());
    let headers = reply.headers_mut();
    headers.insert(HeaderName::from_static("api-version"), HeaderValue::from_static(API_VERSION));
    headers.insert(HeaderName::from_static("ostype"), HeaderValue::from_static("linux"));
    headers.insert(HeaderName::from_static("docker-experimental"), HeaderValue::from_static("true"));
    headers.insert(SERVER, HeaderValue::from_static(concat!("Insula/", env!("CARGO_PKG_VERSION"), " (linux)")));
    reply
}

/// What the requests of strangers are counted as.
const NOWHERE: &str = "none";

/// The route that was taken, and what came of it.
async fn dispatch(api: Arc<Api>, what: Serves, request: Request<Incoming>) -> (&'static str, Result) {
    let (version, path) = match Version::split(request.uri().path()) {
        Ok(split) => split,
        Err(error) => return (NOWHERE, Err(error)),
    };
    let found = route::find(request.method(), path).filter(|found| what == Serves::All || found.path == "/metrics");
    if request.method() == Method::OPTIONS && what == Serves::All {
        return (NOWHERE, Ok(reply::empty(StatusCode::OK)));
    }
    let Some(found) = found else { return (NOWHERE, Err(ApiError::not_found("page not found"))) };
    let query = Query::parse(request.uri().query());
    let call = Call { api, version, params: found.params, query, request };
    (found.path, (found.handler)(call).await)
}

/// What a socket is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Serves {
    All,
    Metrics,
}

impl Version {
    /// Takes `/v1.48` off a path. Without it the newest version is meant.
    pub(crate) fn split(path: &str) -> Result<(Self, &str)> {
        let newest = Self::parse(API_VERSION).unwrap_or(Self(0));
        let Some((text, _)) = path.strip_prefix("/v").and_then(|rest| rest.split_once('/')) else {
            return Ok((newest, path));
        };
        if !text.starts_with(|first: char| first.is_ascii_digit()) {
            return Ok((newest, path));
        }
        let rest = &path[2 + text.len()..];
        let oldest = Self::parse(MIN_API_VERSION).unwrap_or(Self(0));
        match Self::parse(text) {
            None => Err(ApiError::invalid(format!("invalid API version {text:?}"))),
            Some(version) if version < oldest => Err(ApiError::invalid(format!(
                "client version {text} is too old. Minimum supported API version is {MIN_API_VERSION}, please upgrade \
                 your client to a newer version"
            ))),
            Some(version) if version > newest => Err(ApiError::invalid(format!(
                "client version {text} is too new. Maximum supported API version is {API_VERSION}"
            ))),
            Some(version) => Ok((version, rest)),
        }
    }

    fn parse(text: &str) -> Option<Self> {
        let (major, minor) = text.split_once('.')?;
        let (major, minor): (u32, u32) = (major.parse::<u16>().ok()?.into(), minor.parse::<u16>().ok()?.into());
        Some(Self(major << 16 | minor))
    }
}
