//! What can go wrong between us and a registry.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use hyper::StatusCode;

use crate::manifest::ManifestError;

/// Why a registry did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// There is no way to the registry.
    #[error("cannot reach {host}")]
    Connect {
        /// Host and port.
        host: String,
        /// Why not.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The registry speaks neither HTTPS with a known authority nor may it speak plain HTTP.
    #[error(
        "cannot reach {host} with HTTPS; if it has a certificate of its own, put its authority's into {ca}; if it has none, name {host} as insecure"
    )]
    Https {
        /// Host and port.
        host: String,
        /// The file that the certificate belongs into.
        ca: PathBuf,
        /// What the handshake said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// It has no such thing.
    #[error("no {what} in {host}: {message}")]
    NotFound {
        /// Host and port.
        host: String,
        /// Manifest, blob or repository.
        what: String,
        /// The registry's words.
        message: String,
    },
    /// It does not let us.
    #[error("{host} denies {what}: {message}; log in with: insula login {host}")]
    Denied {
        /// Host and port.
        host: String,
        /// What was asked for.
        what: String,
        /// The registry's words.
        message: String,
    },
    /// It has had enough of us for now.
    #[error("{host} has too many requests from here; try again {}", wait_text(*.wait))]
    RateLimited {
        /// Host and port.
        host: String,
        /// How long it wants us to wait, if it says.
        wait: Option<Duration>,
    },
    /// Another answer than a good one.
    #[error("{host} answers {what} with {status}: {message}")]
    Status {
        /// Host and port.
        host: String,
        /// What was asked for.
        what: String,
        /// The status.
        status: StatusCode,
        /// The registry's words.
        message: String,
    },
    /// The answer breaks the rules of the protocol.
    #[error("{host} does not speak the registry protocol: {reason}")]
    Protocol {
        /// Host and port.
        host: String,
        /// What is wrong.
        reason: String,
    },
    /// The content is not what it should be.
    #[error("{host} sent other content than {expected}: its digest is {actual}")]
    Digest {
        /// Host and port.
        host: String,
        /// What was asked for.
        expected: String,
        /// What came.
        actual: String,
    },
    /// The content is too long or too short.
    #[error("{host} sent {actual} bytes of {digest}, which has {expected}")]
    Size {
        /// Host and port.
        host: String,
        /// What was asked for.
        digest: String,
        /// Its size.
        expected: u64,
        /// What came.
        actual: u64,
    },
    /// The connection broke again and again.
    #[error("the connection to {host} broke {times} times without progress")]
    Broken {
        /// Host and port.
        host: String,
        /// How often.
        times: u32,
        /// The last time's reason.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// What came cannot be kept.
    #[error("cannot keep what was fetched")]
    Kept {
        /// Why.
        #[source]
        source: io::Error,
    },
    /// What came is no manifest.
    #[error("the manifest of {what} cannot be used")]
    Manifest {
        /// Which.
        what: String,
        /// Why not.
        #[source]
        source: ManifestError,
    },
    /// An index has nothing for this platform.
    #[error("no image for {platform} in {what}; it has: {}", .there.join(", "))]
    Platform {
        /// The image.
        what: String,
        /// The platform.
        platform: String,
        /// The platforms that are there.
        there: Vec<String>,
    },
    /// The credentials' file or helper does not work.
    #[error("cannot get the credentials for {registry} from {from}: {reason}")]
    Credentials {
        /// For which registry.
        registry: String,
        /// File or helper.
        from: String,
        /// What is wrong.
        reason: String,
    },
    /// A certificate or key cannot be used.
    #[error("cannot use {path}")]
    Certificate {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// An address in the configuration or in an answer makes no sense.
    #[error("invalid address {text:?}: {reason}")]
    Address {
        /// The address.
        text: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// No signature of this key fits.
    #[error("no valid signature of {what}: {reason}")]
    Signature {
        /// The image.
        what: String,
        /// What was found.
        reason: String,
    },
}

fn wait_text(wait: Option<Duration>) -> String {
    wait.map_or_else(|| "later".to_owned(), |wait| format!("in {} s", wait.as_secs()))
}

/// Kinds of [`ClientError`], for whoever answers a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// It is not there.
    NotFound,
    /// Credentials are missing or wrong, or a signature is.
    Denied,
    /// What was asked for, or what came, is wrong.
    Invalid,
    /// Later it may work.
    Unavailable,
}

impl ClientError {
    /// Of which kind it is.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NotFound { .. } | Self::Platform { .. } => ErrorKind::NotFound,
            Self::Denied { .. } | Self::Credentials { .. } | Self::Signature { .. } => ErrorKind::Denied,
            Self::Digest { .. }
            | Self::Size { .. }
            | Self::Protocol { .. }
            | Self::Manifest { .. }
            | Self::Address { .. }
            | Self::Certificate { .. } => ErrorKind::Invalid,
            Self::Status { status, .. } if !status.is_server_error() => ErrorKind::Invalid,
            Self::Connect { .. }
            | Self::Kept { .. }
            | Self::Https { .. }
            | Self::RateLimited { .. }
            | Self::Status { .. }
            | Self::Broken { .. } => ErrorKind::Unavailable,
        }
    }
}
