//! What can go wrong with networks.

use std::path::PathBuf;

use sys::SysError;

/// A network operation that failed.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// A network namespace could not be made.
    #[error("cannot make a network namespace")]
    Namespace {
        /// Why.
        source: SysError,
    },
    /// The loopback link of a new namespace could not be set up.
    #[error("cannot set up the loopback link of a new network namespace")]
    Loopback {
        /// Why.
        source: SysError,
    },
    /// The thread that fills the pool could not be started.
    #[error("cannot start the thread that prepares network namespaces")]
    Thread {
        /// Why.
        source: std::io::Error,
    },
    /// The counters of a process's links could not be read.
    #[error("cannot read {}", path.display())]
    Statistics {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// The result of a network operation.
pub type Result<T> = std::result::Result<T, NetError>;
