//! The one error of making a container: what kind it is, and the chain of causes in one line.

use control::{Failure, FailureKind};
use std::fmt::Display;

/// A step of making a container or a process in it that failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct SetupError {
    /// What kind of failure, for whoever decides what follows.
    pub kind: FailureKind,
    /// What was wrong, with what; the causes behind it follow after colons.
    pub message: String,
}

/// The result of a step.
pub type Result<T> = std::result::Result<T, SetupError>;

impl SetupError {
    /// A failure of the given kind.
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    /// A configuration that is wrong.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(FailureKind::Invalid, message)
    }

    /// Something that this host or this program cannot do.
    pub fn unsupported(message: impl Into<String>) -> Self {
        Self::new(FailureKind::Unsupported, message)
    }
}

impl From<SetupError> for Failure {
    fn from(error: SetupError) -> Self {
        Self { kind: error.kind, message: error.message }
    }
}

/// Says what was being done when something failed.
pub(crate) trait Doing<T> {
    /// Puts what was being done before the cause.
    fn doing<W: Display>(self, what: impl FnOnce() -> W) -> Result<T>;
}

impl<T, E: Display> Doing<T> for std::result::Result<T, E> {
    fn doing<W: Display>(self, what: impl FnOnce() -> W) -> Result<T> {
        self.map_err(|cause| SetupError::new(FailureKind::Internal, format!("{}: {cause}", what())))
    }
}
