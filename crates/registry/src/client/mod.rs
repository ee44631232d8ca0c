//! The client for any registry.
//!
//! ```text
//! Client -> Remote (a repository, at its mirrors and its registry) -> resolve, image, blob, push, tags, referrers
//!        -> search, log_in
//! each request:  proof (Basic, Bearer token) -> send -> 401: a better proof, once -> redirect, without proof elsewhere
//!                -> 429, 5xx or a broken connection: again, later
//! ```
//!
//! Content is checked against its digest and size while it comes; the last piece of a blob is only handed out when all
//! of it was right. A blob whose connection breaks goes on where it was. Memory does not grow with what is carried.
//!
//! HTTPS always, but for this machine and for registries that were named as insecure, as with Docker.

mod address;
mod blob;
mod call;
mod cosign;
mod credential;
pub mod dial;
mod error;
mod file;
mod push;
mod remote;
mod search;
mod token;
mod transport;

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hyper_util::client::legacy::Client as Http;
use hyper_util::rt::TokioExecutor;

use self::address::{Origin, within};
use self::token::{Challenge, Tokens};
use self::transport::Connector;
use crate::body::Body;

pub use address::Proxies;
pub use blob::{BlobReader, BlobStream};
pub use cosign::PublicKey;
pub use credential::{Credential, Credentials, DockerConfig};
pub use error::{ClientError, ErrorKind};
pub use file::Downloaded;
pub use push::{BlobSource, Pushed};
pub use remote::{Fetched, Image, Remote};
pub use search::{Found, LoggedIn};

/// Which registries are trusted how.
#[derive(Debug, Clone)]
pub struct Trust {
    /// A folder as docker's `certs.d`: for each registry a folder with `*.crt`, `*.cert` and `*.key`.
    pub certificates: Option<PathBuf>,
    /// Registries (`host`, `host:port` or a network such as `10.0.0.0/8`) whose certificates are not checked, and that may
    /// speak plain HTTP.
    pub insecure: Vec<String>,
}

impl Default for Trust {
    fn default() -> Self {
        Self { certificates: Some(PathBuf::from("/etc/docker/certs.d")), insecure: Vec::new() }
    }
}

impl Trust {
    /// Whether plain HTTP will do: this machine, or named so.
    fn is_insecure(&self, origin: &Origin) -> bool {
        let named = |rule: &String| {
            if let Some((network, bits)) = rule.split_once('/') {
                let network = network.parse::<IpAddr>();
                let bits = bits.parse().unwrap_or(u32::MAX);
                return origin
                    .host
                    .parse()
                    .is_ok_and(|address| network.is_ok_and(|network| within(address, network, bits)));
            }
            *rule == origin.host || *rule == origin.authority() || *rule == format!("{}:{}", origin.host, origin.port)
        };
        origin.is_local() || self.insecure.iter().any(named)
    }
}

/// How a client works.
#[derive(Debug, Clone)]
pub struct ClientConfig {
    /// Which registries are trusted how.
    pub trust: Trust,
    /// Proxies on the way.
    pub proxies: Proxies,
    /// For a registry's domain, other places that have the same content: `https://mirror:5000` (or `http://`, which counts as
    /// told). They are asked first, in this order, for pulls only, and as nobody unless they have credentials of their own.
    pub mirrors: BTreeMap<String, Vec<String>>,
    /// How often something that fails is tried again without any progress in between.
    pub retries: u32,
    /// The first pause before another try; it doubles each time.
    pub pause: Duration,
    /// The longest pause that a registry may ask for; more, and the request fails with its words.
    pub longest_pause: Duration,
    /// Bytes of a chunk when a blob is pushed; all at once without.
    pub chunk: Option<u64>,
}

impl Default for ClientConfig {
    fn default() -> Self {
        Self {
            trust: Trust::default(),
            proxies: Proxies::from_environment(),
            mirrors: BTreeMap::new(),
            retries: 5,
            pause: Duration::from_millis(250),
            longest_pause: Duration::from_secs(60),
            chunk: None,
        }
    }
}

/// Hears how far a blob is; called often, so it should be quick.
pub trait Progress: Send + Sync {
    /// So many bytes of a blob are done, of all.
    fn advanced(&self, digest: &crate::digest::ContentDigest, done: u64, all: u64);

    /// The connection broke and goes on at this byte.
    fn resumed(&self, digest: &crate::digest::ContentDigest, at: u64) {
        let _ = (digest, at);
    }
}

/// A client for any registry. Clones are cheap and share connections and tokens.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
    credentials: Arc<Credentials>,
    /// Belong to the credentials.
    tokens: Arc<Tokens>,
}

struct Inner {
    config: ClientConfig,
    connector: Connector,
    http: Http<Connector, Body>,
    /// What is known of each registry.
    known: Mutex<HashMap<Origin, Known>>,
}

/// What a registry was found to be.
#[derive(Debug, Clone, Default)]
struct Known {
    /// Where it answers: one that may speak plain HTTP is asked for HTTPS first.
    origin: Option<Origin>,
    /// What it asked for last.
    challenge: Option<Challenge>,
    /// Whether it was ever reached.
    answered: bool,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("config", &self.inner.config).finish_non_exhaustive()
    }
}

impl Client {
    /// A client with these settings that proves itself with these credentials.
    #[must_use]
    pub fn new(config: ClientConfig, credentials: Credentials) -> Self {
        let connector = Connector::new(config.proxies.clone(), config.trust.clone());
        let mut builder = Http::builder(TokioExecutor::new());
        builder.pool_idle_timeout(Duration::from_secs(30)).pool_max_idle_per_host(8).http1_max_buf_size(512 << 10);
        builder.timer(hyper_util::rt::TokioTimer::new()).pool_timer(hyper_util::rt::TokioTimer::new());
        let http = builder.build(connector.clone());
        let inner = Inner { config, connector, http, known: Mutex::default() };
        Self { inner: Arc::new(inner), credentials: Arc::new(credentials), tokens: Arc::default() }
    }

    /// The same client for somebody else.
    #[must_use]
    pub fn with_credentials(&self, credentials: Credentials) -> Self {
        Self { inner: Arc::clone(&self.inner), credentials: Arc::new(credentials), tokens: Arc::default() }
    }

    /// A repository: where an image name's domain and path lead.
    ///
    /// # Errors
    /// When a mirror's address or the path makes no sense.
    pub fn remote(&self, domain: &str, path: &str) -> Result<Remote, ClientError> {
        Remote::new(self.clone(), domain, path)
    }

    /// The repository of an image.
    ///
    /// # Errors
    /// As [`Client::remote`].
    pub fn remote_of(&self, reference: &oci::reference::Reference) -> Result<Remote, ClientError> {
        self.remote(reference.domain(), reference.path())
    }
}

/// For fuzzing: the values of a registry's headers.
pub(crate) fn parse_headers(value: &str) {
    let _ = Challenge::parse([value].into_iter());
    if let Ok(base) = address::parse("https://a/v2/b?c=d") {
        let _ = address::join(&base, value).map(|uri| Origin::of(&uri).is_ok());
    }
    let proxies = Proxies { http: Some(value.to_owned()), https: None, none: value.to_owned() };
    if let Ok(origin) = Origin::of_domain("example.com:80", false) {
        let _ = proxies.way_to(&origin).is_ok();
    }
}
