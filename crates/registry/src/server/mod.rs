//! The registry's server.
//!
//! ```text
//! connection (TCP, TLS) -> head within limits -> Doorman -> Resource -> handler -> Storage   on threads that may block
//!                                                                               -> Cache     another registry, fetched once
//! ```
//!
//! HTTP/1.1 only, as every client of registries speaks it. Blobs go out in large pieces straight from the kernel's memory,
//! and come in through one job that digests and writes; neither needs memory in proportion to the blob.

mod auth;
mod blob;
mod cache;
mod manifest;
mod refusal;
mod route;
mod upload;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{HeaderName, HeaderValue, WARNING};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use self::auth::Doorman;
use self::cache::Cache;
use self::refusal::{Code, Refusal, Reply, Result};
use self::route::{Query, Resource};
use self::upload::Uploads;
use crate::body::Body;
use crate::client::Client;
use crate::storage::{Collection, DEFAULT_GRACE, Storage, StorageError};

const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
/// The longest head of a request, in bytes, and what a connection buffers.
const MAX_HEAD: usize = 64 << 10;
const MAX_BUFFER: usize = 512 << 10;
/// The longest path and query, in bytes.
const MAX_URI: usize = 8 << 10;
/// How long a client may take to send a request's head, and to shake hands.
const HEAD_PATIENCE: Duration = Duration::from_secs(60);
const HANDSHAKE_PATIENCE: Duration = Duration::from_secs(15);
/// The most connections at once; more wait.
const MOST_CONNECTIONS: usize = 4096;
/// How long requests may go on after the server was told to stop.
const GRACE: Duration = Duration::from_secs(5);

/// How a registry is served.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// The folder that all is kept in.
    pub root: PathBuf,
    /// Certificate and key for HTTPS; plain HTTP without.
    pub tls: Option<TlsFiles>,
    /// A file of `htpasswd -B`: who may use the registry. Everybody without.
    pub htpasswd: Option<PathBuf>,
    /// The registry that this one is a cache of; then nothing can be pushed.
    pub proxy: Option<Upstream>,
    /// How long content that nothing refers to is spared.
    pub grace: Duration,
    /// How often garbage is collected, and how; never without.
    pub collect: Option<(Duration, Collection)>,
    /// A sentence that clients show to their users.
    pub warning: Option<String>,
}

impl Config {
    /// Plain HTTP for everybody, collected twice a day.
    #[must_use]
    pub fn new(listen: SocketAddr, root: PathBuf) -> Self {
        let collect = Some((Duration::from_secs(12 * 3600), Collection::default()));
        Self { listen, root, tls: None, htpasswd: None, proxy: None, grace: DEFAULT_GRACE, collect, warning: None }
    }
}

/// PEM files for HTTPS.
#[derive(Debug, Clone)]
pub struct TlsFiles {
    /// The certificate, and those that lead to its authority.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// The authorities of clients' certificates; without, clients need none.
    pub clients: Option<PathBuf>,
}

/// A registry to be a cache of.
#[derive(Debug, Clone)]
pub struct Upstream {
    /// Its address as image names have it: `docker.io`, `localhost:5000`.
    pub domain: String,
    /// Reaches it, with its credentials.
    pub client: Client,
}

/// Why a registry cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address is taken or not ours.
    #[error("cannot listen on {address}; use another address with --listen")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The store cannot be opened.
    #[error("cannot open the registry's store")]
    Storage(#[from] StorageError),
    /// A file cannot be used.
    #[error("cannot use {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Certificate and key don't work.
    #[error("cannot serve HTTPS with the certificate {path}")]
    Tls {
        /// The certificate.
        path: PathBuf,
        /// Why not.
        #[source]
        source: rustls::Error,
    },
    /// The listening socket fails for good.
    #[error("cannot accept connections any more")]
    Accept(#[source] io::Error),
}

/// Serves a registry until `stop` becomes true or nobody is left to say so.
///
/// # Errors
/// When it cannot be started, or can accept no more connections.
pub async fn serve(config: Config, stop: watch::Receiver<bool>) -> std::result::Result<(), ServeError> {
    Server::bind(config).await?.run(stop).await
}

/// A registry that has its address and its store, and can be run.
pub struct Server {
    api: Arc<Api>,
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    collect: Option<(Duration, Collection)>,
}

/// What all requests share.
struct Api {
    storage: Storage,
    uploads: Uploads,
    doorman: Option<Doorman>,
    cache: Option<Cache>,
    warning: Option<HeaderValue>,
}

/// One request that was let in.
struct Call {
    api: Arc<Api>,
    query: Query,
    request: Request<Incoming>,
}

impl Server {
    /// Opens the store and the address.
    ///
    /// # Errors
    /// When one of them, or a file that the configuration names, cannot be used.
    pub async fn bind(config: Config) -> std::result::Result<Self, ServeError> {
        let tls = config.tls.as_ref().map(acceptor).transpose()?;
        let doorman = config.htpasswd.as_deref().map(Doorman::open).transpose()?;
        let storage = Storage::open(&config.root, config.grace)?;
        let cache = config.proxy.map(|upstream| Cache::new(upstream, storage.clone()));
        let listener = TcpListener::bind(config.listen).await;
        let listener = listener.map_err(|source| ServeError::Listen { address: config.listen, source })?;
        let warning = config.warning.map(|text| format!("299 - \"{}\"", text.replace(['"', '\\', '\n', '\r'], " ")));
        let warning = warning.and_then(|text| HeaderValue::from_str(&text).ok());
        let api = Arc::new(Api { storage, uploads: Uploads::default(), doorman, cache, warning });
        Ok(Self { api, listener, tls, collect: config.collect })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Its store, for collecting and checking from elsewhere.
    #[must_use]
    pub fn storage(&self) -> Storage {
        self.api.storage.clone()
    }

    /// Answers requests until `stop` becomes true, then lets running ones end for five seconds at most.
    ///
    /// # Errors
    /// When no connections can be accepted for another reason than a passing shortage.
    pub async fn run(self, mut stop: watch::Receiver<bool>) -> std::result::Result<(), ServeError> {
        let mut connections = JoinSet::new();
        let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
        let collector = self.collect.map(|(every, how)| tokio::spawn(collector(self.api.storage.clone(), every, how)));
        let ended = loop {
            tokio::select! {
                accepted = self.listener.accept(), if places.available_permits() > 0 => match accepted {
                    Ok((stream, _)) => {
                        let place = Arc::clone(&places).try_acquire_owned();
                        let (api, tls, stop) = (Arc::clone(&self.api), self.tls.clone(), stop.clone());
                        connections.spawn(async move {
                            connection(api, stream, tls, stop).await;
                            drop(place);
                        });
                    }
                    // Descriptors or memory are short: those who wait are served when there are some again.
                    Err(error) if is_shortage(&error) => tokio::time::sleep(Duration::from_millis(50)).await,
                    Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                    Err(error) => break Err(ServeError::Accept(error)),
                },
                Some(_) = connections.join_next() => {}
                () = told(&mut stop) => break Ok(()),
            }
        };
        if let Some(collector) = collector {
            collector.abort();
        }
        let all = async { while connections.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(GRACE, all).await;
        ended
    }
}

async fn collector(storage: Storage, every: Duration, how: Collection) {
    loop {
        tokio::time::sleep(every).await;
        let storage = storage.clone();
        match tokio::task::spawn_blocking(move || storage.collect(how)).await {
            Ok(Ok(done)) => tracing::info!(blobs = done.blobs, bytes = done.bytes, "garbage was collected"),
            Ok(Err(error)) => tracing::error!(error = crate::failure::chain(&error), "garbage cannot be collected"),
            Err(_) => return,
        }
    }
}

/// Reads a certificate, its key, and the authorities of clients' certificates, if clients must have one.
///
/// # Errors
/// [`ServeError`] if a file cannot be read or used.
pub fn acceptor(files: &TlsFiles) -> std::result::Result<TlsAcceptor, ServeError> {
    let unusable = |path: &Path, error: &dyn std::fmt::Display| ServeError::File {
        path: path.to_owned(),
        source: io::Error::new(io::ErrorKind::InvalidData, error.to_string()),
    };
    let chain: std::result::Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(&files.certificate).and_then(Iterator::collect);
    let chain = chain.map_err(|error| unusable(&files.certificate, &error))?;
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|error| unusable(&files.key, &error))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let clients = match &files.clients {
        None => rustls::server::WebPkiClientVerifier::no_client_auth(),
        Some(path) => {
            let mut roots = rustls::RootCertStore::empty();
            for certificate in CertificateDer::pem_file_iter(path).map_err(|error| unusable(path, &error))? {
                let certificate = certificate.map_err(|error| unusable(path, &error))?;
                roots.add(certificate).map_err(|error| unusable(path, &error))?;
            }
            let verifier =
                rustls::server::WebPkiClientVerifier::builder_with_provider(roots.into(), Arc::clone(&provider));
            verifier.build().map_err(|error| unusable(path, &error))?
        }
    };
    let config = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.and_then(|config| config.with_client_cert_verifier(clients).with_single_cert(chain, key));
    let mut config = config.map_err(|source| ServeError::Tls { path: files.certificate.clone(), source })?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
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

async fn connection(api: Arc<Api>, stream: TcpStream, tls: Option<TlsAcceptor>, stop: watch::Receiver<bool>) {
    // Heads and small bodies must not wait for each other's acknowledgement.
    let _ = stream.set_nodelay(true);
    let Some(tls) = tls else { return requests(api, stream, stop).await };
    match tokio::time::timeout(HANDSHAKE_PATIENCE, tls.accept(stream)).await {
        Ok(Ok(stream)) => requests(api, stream, stop).await,
        Ok(Err(error)) => tracing::debug!(%error, "a client did not shake hands"),
        Err(_) => tracing::debug!("a client took too long to shake hands"),
    }
}

async fn requests(api: Arc<Api>, stream: impl AsyncRead + AsyncWrite + Unpin, mut stop: watch::Receiver<bool>) {
    let service = service_fn(move |request| {
        let api = Arc::clone(&api);
        async move { Ok::<_, Infallible>(answer(api, request).await) }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_PATIENCE).max_buf_size(MAX_BUFFER);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = told(&mut stop) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "a client's connection ended early");
    }
}

async fn answer(api: Arc<Api>, request: Request<Incoming>) -> Reply {
    let warning = api.warning.clone();
    let is_head = request.method() == Method::HEAD;
    let mut reply = match dispatch(api, request).await {
        Ok(reply) => reply,
        Err(refusal) => {
            tracing::debug!(?refusal, "refused");
            let mut reply = refusal.into_reply();
            if is_head {
                *reply.body_mut() = Body::empty();
            }
            reply
        }
    };
    let version = HeaderValue::from_static("registry/2.0");
    reply.headers_mut().insert(HeaderName::from_static("docker-distribution-api-version"), version);
    let options = HeaderValue::from_static("nosniff");
    reply.headers_mut().insert(HeaderName::from_static("x-content-type-options"), options);
    if let Some(warning) = warning {
        reply.headers_mut().insert(WARNING, warning);
    }
    reply
}

async fn dispatch(api: Arc<Api>, request: Request<Incoming>) -> Result {
    check_head(&request)?;
    if let Some(doorman) = &api.doorman {
        doorman.admit(request.headers()).await?;
    }
    let resource = Resource::parse(request.uri().path())?;
    let method = request.method().clone();
    if !resource.has(&method) {
        return Err(Refusal::method(resource.methods()));
    }
    if api.cache.is_some() && !matches!(method, Method::GET | Method::HEAD) {
        return Err(Refusal::new(Code::Unsupported, "this registry is a cache of another one; push there"));
    }
    let query = Query::parse(request.uri().query());
    let call = Call { api, query, request };
    match (resource, method.as_str()) {
        (Resource::Base, _) => Ok(manifest::base()),
        (Resource::Blob(name, digest), "DELETE") => blob::delete(call, name, digest).await,
        (Resource::Blob(name, digest), _) => blob::get(call, name, digest).await,
        (Resource::Catalog, _) => manifest::catalog(call).await,
        (Resource::Manifest(name, target), "DELETE") => manifest::delete(call, name, target).await,
        (Resource::Manifest(name, target), "PUT") => manifest::put(call, name, target).await,
        (Resource::Manifest(name, target), _) => manifest::get(call, name, target).await,
        (Resource::Referrers(name, digest), _) => manifest::referrers(call, name, digest).await,
        (Resource::Tags(name), _) => manifest::tags(call, name).await,
        (Resource::Upload(name, id), "DELETE") => upload::cancel(call, name, id).await,
        (Resource::Upload(name, id), "PATCH") => upload::append(call, name, id).await,
        (Resource::Upload(name, id), "PUT") => upload::finish(call, name, id).await,
        (Resource::Upload(name, id), _) => upload::status(call, name, id).await,
        (Resource::Uploads(name), _) => upload::begin(call, name).await,
    }
}

/// Refuses heads beyond the limits.
fn check_head(request: &Request<Incoming>) -> Result<()> {
    let uri = request.uri();
    if uri.path().len() + uri.query().unwrap_or_default().len() > MAX_URI {
        let text = format!("the path and query have more than {MAX_URI} bytes");
        return Err(Refusal::new(Code::NameInvalid, text).with_status(StatusCode::URI_TOO_LONG));
    }
    let size: usize = request.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    if size > MAX_HEAD {
        let text = format!("the request's headers have more than {MAX_HEAD} bytes");
        let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
        return Err(Refusal::new(Code::Denied, text).with_status(status));
    }
    Ok(())
}

/// Runs what may block on a thread for that.
async fn blocking<T: Send + 'static, E: Into<Refusal> + Send + 'static>(
    job: impl FnOnce() -> std::result::Result<T, E> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(job).await {
        Ok(outcome) => outcome.map_err(Into::into),
        Err(error) => {
            tracing::error!(%error, "a job of the registry was lost");
            Err(Refusal::new(Code::Unknown, "the registry is stopping, or has a fault; its log says which"))
        }
    }
}

/// For fuzzing: a path that is understood names something that its own path leads to again.
pub(crate) fn parse_path(path: &str) {
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    if let Ok(resource) = Resource::parse(path) {
        assert!(!resource.methods().is_empty());
        if let Resource::Manifest(name, target) = &resource {
            let again = Resource::parse(&format!("/v2/{name}/manifests/{target}"));
            assert_eq!(again.ok().as_ref(), Some(&resource), "{path:?}");
        }
    }
    let query = Query::parse(Some(query));
    let _ = (query.page().map(|page| page.of(vec!["a".to_owned()])), query.digest("digest").is_ok());
}

/// For fuzzing: the values of headers.
pub(crate) fn parse_headers(value: &str) {
    const SIZE: u64 = 1000;
    if let Ok(Some((start, length))) = route::range(value, SIZE) {
        assert!(length > 0 && start + length <= SIZE, "{value:?}");
    }
    if let Some((first, last)) = route::content_range(value) {
        assert!(first <= last, "{value:?}");
    }
    let _ = auth::basic(value);
}
