//! A revisioned key-value store: transactions, history, watch and lease, as etcd's model has them, embedded.
//!
//! All live entries stand in memory; the disk holds one append-only log of transactions (`store.log`), written byte for byte as
//! `docs/formats/store-log.md` says. One process at a time owns a folder. The crate is synchronous and knows no runtime:
//! [`Store::subscribe`] is where an asynchronous engine plugs itself in.
//!
//! ```text
//! commit ─ conditions hold? ─ append to store.log (one write) ─ apply in memory ─ tell watchers ─ [wait for the disk]
//! open   ─ lock ─ replay store.log ─ cut a torn tail
//! ```
//!
//! What is promised: a commit that returned survives the death of the process at once ([`Durability::Process`]; the disk follows
//! within a second), or also the loss of power ([`Durability::Disk`]). A transaction is seen whole or not at all, by readers, by watchers and
//! after a crash.

mod error;
/// Entry points for the fuzz targets in `fuzz/`: each takes bytes from a stranger and must neither panic nor hang.
#[doc(hidden)]
pub mod fuzzing;
mod log;
mod record;
mod state;
mod store;
mod sync;
#[cfg(test)]
mod tests;
mod watch;

pub use error::StoreError;
pub use store::{Condition, Durability, Store, Txn};
pub use watch::{Subscription, Watch};

use std::fmt;
use std::sync::Arc;

/// The longest key in bytes.
pub const MAX_KEY: usize = 4096;
/// The longest value in bytes.
pub const MAX_VALUE: usize = 16 << 20;
/// How many revisions of history are kept at most for watches and reads of the past.
pub const HISTORY_REVISIONS: usize = 10_000;
/// How many bytes of superseded values that history may hold; the oldest revisions go first.
pub const HISTORY_BYTES: usize = 8 << 20;

/// The number of a transaction: it grows by one with each that changes anything. The empty store has revision 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, serde::Serialize, serde::Deserialize)]
pub struct Revision(pub u64);

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The name of a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct LeaseId(pub u64);

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A key with its value and its place in history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// The value, opaque to the store.
    pub value: Vec<u8>,
    /// The revision in which the key came into being.
    pub created: Revision,
    /// The revision of the last write.
    pub modified: Revision,
    /// How often it was written since it came into being, the first write included.
    pub version: u64,
    /// The lease that it lives with.
    pub lease: Option<LeaseId>,
}

/// One key's change in one transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The transaction.
    pub revision: Revision,
    /// The key.
    pub key: String,
    /// The entry after the change; `None` if it was deleted.
    pub value: Option<Arc<Entry>>,
    /// The entry before the change; `None` if there was none.
    pub previous: Option<Arc<Entry>>,
}
