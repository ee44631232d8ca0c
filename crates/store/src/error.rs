//! What can go wrong.

use crate::{LeaseId, Revision};
use std::path::PathBuf;

/// A store that cannot be opened, read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process has the folder open.
    #[error("the store in {} is in use by another process; stop that one first, or choose another folder", dir.display())]
    Locked {
        /// The folder.
        dir: PathBuf,
    },
    /// A file operation failed.
    #[error("cannot {operation} {}", path.display())]
    File {
        /// What was tried: `open`, `write`, …
        operation: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is no store log.
    #[error("{} is not a store log; move it away to start with an empty store", path.display())]
    NotAStore {
        /// The file.
        path: PathBuf,
    },
    /// A newer program wrote the file.
    #[error("{} has format version {found}, this program knows {known}; use the newer program that wrote it", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// Ours.
        known: u32,
    },
    /// The log is damaged before its end.
    #[error(
        "{} is damaged at byte {offset}: {reason}; restore the file from a copy, or cut it with \
         `truncate -s {offset} {}` and lose what was written after that", path.display(), path.display()
    )]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Where the first damaged record begins.
        offset: u64,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// An earlier write or sync failed in a way that leaves the file's state unknown; nothing is accepted any more.
    #[error("{} failed earlier and takes no more changes; check the disk, then restart", path.display())]
    Broken {
        /// The file.
        path: PathBuf,
    },
    /// A condition of a transaction did not hold; nothing was changed.
    #[error("key {key:?} is not in the required state")]
    ConditionFailed {
        /// The key of the first condition that failed.
        key: String,
    },
    /// A transaction writes a key twice.
    #[error("key {key:?} is written twice in one transaction")]
    DuplicateKey {
        /// The key.
        key: String,
    },
    /// A key is empty or too long.
    #[error("a key of {length} bytes is not between 1 and {max}", max = crate::MAX_KEY)]
    KeyLength {
        /// Its length in bytes.
        length: usize,
    },
    /// A value, or all of a transaction, is too long.
    #[error("{length} bytes for key {key:?} are more than the {max} that one transaction may hold", max = crate::MAX_VALUE)]
    TooLong {
        /// The key.
        key: String,
        /// The length in bytes.
        length: usize,
    },
    /// The history does not reach back so far.
    #[error("revision {requested} is compacted away; the oldest that can be read is {oldest}")]
    Compacted {
        /// What was asked for.
        requested: Revision,
        /// What there is.
        oldest: Revision,
    },
    /// That revision has not happened yet.
    #[error("revision {requested} is in the future; the store is at {current}")]
    Future {
        /// What was asked for.
        requested: Revision,
        /// The present one.
        current: Revision,
    },
    /// There is no such lease, or it has expired.
    #[error("no lease {0}")]
    LeaseNotFound(LeaseId),
    /// A watcher was too slow and has missed changes.
    #[error("the watch fell behind after revision {seen}; list again and watch from there")]
    Lagged {
        /// The last revision that was delivered whole.
        seen: Revision,
    },
}
