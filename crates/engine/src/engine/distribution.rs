//! Registries as the engine reaches them: whose word counts, what is told on the way, and questions about images elsewhere.

use super::Engine;
use super::images::parse;
use crate::error::{EngineError, ErrorClass, Result};
use oci::platform::Platform;
use oci::reference::Reference;
use registry::client::{Client, ClientError, Credential, Credentials, ErrorKind, Found, LoggedIn, Remote};
use registry::digest::ContentDigest;
use registry::manifest::Descriptor;
use registry::name::Target;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::mpsc;

/// What is told while an image moves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// A sentence.
    Line(String),
    /// A sentence about something with a name.
    Named(String, String),
    /// How far a layer is.
    Layer(String, LayerStep),
    /// A tag was pushed: its manifest's digest and size in bytes.
    Pushed {
        /// The tag.
        tag: String,
        /// The digest.
        digest: String,
        /// The size.
        size: u64,
    },
}

/// How far a layer is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LayerStep {
    /// It will be fetched.
    Waiting,
    /// So many bytes of all have come, and were unpacked with it.
    Fetching(u64, u64),
    /// The connection broke; it goes on at this byte.
    Resumed(u64),
    /// All has come; the rest is being unpacked.
    Fetched,
    /// It is in the store.
    Stored,
    /// It was in the store.
    Present,
    /// It will be pushed.
    Preparing,
    /// So many bytes of all were sent.
    Sending(u64, u64),
    /// It is in the registry.
    Sent,
    /// It was in the registry.
    Known,
    /// The registry took it from another repository.
    Mounted,
}

/// Who somebody is at a registry.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Proof {
    /// Nobody.
    #[default]
    None,
    /// A name and its password.
    Password(String, String),
    /// A token that stands for them.
    Identity(String),
    /// A token for the registry itself.
    Bearer(String),
}

impl Proof {
    pub(super) fn credentials(self) -> Credentials {
        match self {
            Self::None => Credentials::None,
            Self::Password(name, password) => Credentials::Fixed(Credential::Password { name, password }),
            Self::Identity(token) => Credentials::Fixed(Credential::Identity(token)),
            Self::Bearer(token) => Credentials::Fixed(Credential::Bearer(token)),
        }
    }
}

/// An image that a search found.
pub type SearchResult = Found;

/// What a registry has under a name.
#[derive(Debug, Clone)]
pub struct Elsewhere {
    /// The manifest's or index's descriptor.
    pub descriptor: Descriptor,
    /// Its bytes.
    pub bytes: bytes::Bytes,
    /// The platforms that it has.
    pub platforms: Vec<Platform>,
}

/// Pieces of one digest are fetched once at a time.
#[derive(Debug, Default)]
pub(crate) struct Fetching(Mutex<HashMap<ContentDigest, Arc<tokio::sync::Mutex<()>>>>);

impl Fetching {
    /// The turn of whoever wants this blob.
    pub(super) async fn turn(&self, digest: ContentDigest) -> tokio::sync::OwnedMutexGuard<()> {
        let one = {
            let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            all.retain(|_, one| Arc::strong_count(one) > 1);
            Arc::clone(all.entry(digest).or_default())
        };
        one.lock_owned().await
    }
}

impl Engine {
    pub(super) fn client(&self, proof: Proof) -> Client {
        self.inner.reach().client.with_credentials(proof.credentials())
    }

    pub(crate) fn remote(&self, reference: &Reference, proof: Proof) -> Result<Remote> {
        self.client(proof).remote_of(reference).map_err(refused)
    }

    /// Searches a registry; `domain` is the hub's without one in the term.
    ///
    /// # Errors
    /// What the registry says.
    pub async fn search(&self, term: &str, limit: usize, proof: Proof) -> Result<Vec<SearchResult>> {
        // A first part with a dot, a port or the name localhost is a registry, as in image names.
        let (domain, rest) = match term.split_once('/') {
            Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => (first, rest),
            _ => (oci::reference::DEFAULT_DOMAIN, term),
        };
        self.client(proof).search(domain, rest, limit).await.map_err(refused)
    }

    /// Tries to prove who somebody is.
    ///
    /// # Errors
    /// [`ErrorClass::Denied`].
    pub async fn log_in(&self, domain: &str, proof: Proof) -> Result<LoggedIn> {
        let credential = match proof.credentials() {
            Credentials::Fixed(credential) => credential,
            _ => return Err(EngineError::invalid("a user name and a password are needed to log in")),
        };
        self.inner.reach().client.log_in(domain, credential).await.map_err(refused)
    }

    /// What a registry has under a name, without fetching layers.
    ///
    /// # Errors
    /// [`ErrorClass::NotFound`]; what the registry says.
    pub async fn elsewhere(&self, name: &str, proof: Proof) -> Result<Elsewhere> {
        let reference = parse(name)?.tagged();
        let remote = self.remote(&reference, proof)?;
        let fetched = remote.manifest(&target(&reference)?).await.map_err(|error| unfound(name, error))?;
        let mut platforms: Vec<Platform> = Vec::new();
        for entry in &fetched.manifest.manifests {
            if let Some(platform) = &entry.platform {
                let (os, architecture) = (platform.os.clone(), platform.architecture.clone());
                platforms.push(Platform { os, architecture, variant: platform.variant.clone() });
            }
        }
        if let Some(config) = &fetched.manifest.config {
            let blob =
                remote.blob(config, None).await.map_err(refused)?.into_bytes(MAX_CONFIG).await.map_err(refused)?;
            if let Ok(config) = image::read_configuration(&blob) {
                let (os, architecture) = (config.os().to_string(), config.architecture().to_string());
                platforms.push(Platform { os, architecture, variant: config.variant().clone() });
            }
        }
        Ok(Elsewhere { descriptor: fetched.descriptor, bytes: fetched.bytes, platforms })
    }
}

/// The largest configuration that is read, in bytes.
const MAX_CONFIG: usize = 8 << 20;

/// What a reference asks a registry for: the digest if there is one.
pub(crate) fn target(reference: &Reference) -> Result<Target> {
    match reference.digest() {
        Some(digest) => Ok(Target::Digest(digest.into())),
        None => {
            let tag = reference.tag().unwrap_or(oci::reference::DEFAULT_TAG);
            tag.parse().map(Target::Tag).map_err(|error| EngineError::internal("a tag that is none", &error))
        }
    }
}

/// A registry's refusal in the engine's classes.
pub(crate) fn refused(error: ClientError) -> EngineError {
    let class = match error.kind() {
        ErrorKind::NotFound => ErrorClass::NotFound,
        ErrorKind::Denied => ErrorClass::Denied,
        ErrorKind::Invalid => ErrorClass::Invalid,
        ErrorKind::Unavailable => ErrorClass::Unavailable,
    };
    EngineError::new(class, crate::error::chain(&error))
}

/// A missing image in the words that clients know.
pub(super) fn unfound(name: &str, error: ClientError) -> EngineError {
    match error {
        ClientError::NotFound { .. } => EngineError::because(
            ErrorClass::NotFound,
            format!("manifest for {name} not found: manifest unknown"),
            &error,
        ),
        other => refused(other),
    }
}

/// Tells how far blobs are, but not every piece.
pub(super) struct Teller {
    pub(super) out: mpsc::Sender<Progress>,
    pub(super) step: fn(u64, u64) -> LayerStep,
    told: Mutex<HashMap<ContentDigest, (u64, std::time::Instant)>>,
}

/// A transfer is told of this often at most, and at its end.
const OFTEN: std::time::Duration = std::time::Duration::from_millis(100);

impl Teller {
    pub(super) fn new(out: mpsc::Sender<Progress>, step: fn(u64, u64) -> LayerStep) -> Arc<Self> {
        Arc::new(Self { out, step, told: Mutex::default() })
    }
}

/// How a layer is called in front of users.
pub(super) fn short(digest: &ContentDigest) -> String {
    digest.hex().chars().take(12).collect()
}

impl registry::client::Progress for Teller {
    fn advanced(&self, digest: &ContentDigest, done: u64, all: u64) {
        let now = std::time::Instant::now();
        {
            let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
            let due = told.get(digest).is_none_or(|(_, at)| now.duration_since(*at) >= OFTEN);
            if !due && done < all {
                return;
            }
            told.insert(*digest, (done, now));
        }
        // A slow client misses some.
        let _ = self.out.try_send(Progress::Layer(short(digest), (self.step)(done, all)));
    }

    fn resumed(&self, digest: &ContentDigest, at: u64) {
        let _ = self.out.try_send(Progress::Layer(short(digest), LayerStep::Resumed(at)));
    }
}
