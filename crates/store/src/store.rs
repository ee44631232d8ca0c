//! The store's face: opening, reading, transactions, leases.

use crate::log::{FILE_HEADER, Log};
use crate::record::Op;
use crate::state::State;
use crate::sync::Syncer;
use crate::watch::{Hub, Subscription, Watch};
use crate::{Change, Entry, LeaseId, MAX_KEY, MAX_VALUE, Revision, StoreError};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Garbage below this many bytes is not worth a rewrite.
const COMPACT_FLOOR: u64 = 4 << 20;

/// When a commit returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// When the kernel has it: it survives the death of this process, and within a second also the loss of power.
    #[default]
    Process,
    /// When the disk has it. Commits that wait at the same time share one `fdatasync`.
    Disk,
}

/// What must hold for a transaction to happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// There is no such key.
    Absent,
    /// There is such a key.
    Exists,
    /// The key was last written in this revision.
    ModifiedAt(Revision),
}

#[derive(Debug)]
enum Write {
    Put(String, Vec<u8>),
    Delete(String),
}

impl Write {
    fn key(&self) -> &str {
        match self {
            Self::Put(key, _) | Self::Delete(key) => key,
        }
    }
}

/// Conditions and writes that happen together or not at all.
#[derive(Debug, Default)]
pub struct Txn {
    conditions: Vec<(String, Condition)>,
    writes: Vec<Write>,
    lease: Option<LeaseId>,
    durability: Durability,
}

impl Txn {
    /// An empty transaction.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes the transaction depend on a key's state.
    #[must_use]
    pub fn require(mut self, key: impl Into<String>, condition: Condition) -> Self {
        self.conditions.push((key.into(), condition));
        self
    }

    /// Writes a key.
    #[must_use]
    pub fn put(mut self, key: impl Into<String>, value: impl Into<Vec<u8>>) -> Self {
        self.writes.push(Write::Put(key.into(), value.into()));
        self
    }

    /// Deletes a key; nothing happens if it is not there.
    #[must_use]
    pub fn delete(mut self, key: impl Into<String>) -> Self {
        self.writes.push(Write::Delete(key.into()));
        self
    }

    /// Binds all keys that this transaction writes to a lease: they go when it ends.
    #[must_use]
    pub fn lease(mut self, lease: LeaseId) -> Self {
        self.lease = Some(lease);
        self
    }

    /// Sets when the commit returns; [`Durability::Process`] if not called.
    #[must_use]
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    fn check(&self, state: &State) -> Result<(), StoreError> {
        for (key, condition) in &self.conditions {
            let entry = state.entries.get(key);
            let holds = match condition {
                Condition::Absent => entry.is_none(),
                Condition::Exists => entry.is_some(),
                Condition::ModifiedAt(revision) => entry.is_some_and(|e| e.modified == *revision),
            };
            if !holds {
                return Err(StoreError::ConditionFailed { key: key.clone() });
            }
        }
        if let Some(id) = self.lease.filter(|id| !state.leases.contains_key(id)) {
            return Err(StoreError::LeaseNotFound(id));
        }
        let mut keys = BTreeSet::new();
        let mut total = 0;
        for write in &self.writes {
            let key = write.key();
            if !(1..=MAX_KEY).contains(&key.len()) {
                return Err(StoreError::KeyLength { length: key.len() });
            }
            if !keys.insert(key) {
                return Err(StoreError::DuplicateKey { key: key.to_owned() });
            }
            let length = match write {
                Write::Put(_, value) => value.len(),
                Write::Delete(_) => 0,
            };
            // 32 is more than an operation needs beside its key and value
            total += length + key.len() + 32;
            if length > MAX_VALUE || total > MAX_VALUE + (1 << 20) {
                return Err(StoreError::TooLong { key: key.to_owned(), length: total });
            }
        }
        Ok(())
    }

    fn into_ops(self, state: &State) -> Vec<Op> {
        let lease = self.lease;
        self.writes
            .into_iter()
            .filter_map(|write| match write {
                Write::Put(key, value) => Some(Op::Put { key, lease, value }),
                Write::Delete(key) => state.entries.contains_key(&key).then_some(Op::Delete { key }),
            })
            .collect()
    }
}

#[derive(Debug)]
struct Inner {
    state: State,
    log: Log,
    hub: Hub,
    /// The log is rewritten when it has grown to this many bytes.
    compact_at: u64,
    /// The last time that `tick` told.
    now_ms: Option<u64>,
}

#[derive(Debug)]
struct Shared {
    // first, so that the last sync happens before the lock file is let go
    syncer: Syncer,
    inner: Mutex<Inner>,
}

/// A handle to an open store; clones are cheap and mean the same store.
#[derive(Debug, Clone)]
pub struct Store(Arc<Shared>);

impl Store {
    /// Opens the store in a folder; folder and store are made if they are not there.
    ///
    /// A last record that was not written whole (the process was killed, the power failed) is cut off: it had not been
    /// acknowledged. [`Store::cut_bytes`] tells.
    ///
    /// # Errors
    /// [`StoreError::Locked`] if somebody else has it open, [`StoreError::Corrupt`] if the log is damaged elsewhere than at its
    /// end, [`StoreError::Format`] and [`StoreError::NotAStore`] for files that are not ours to read, [`StoreError::File`].
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        let (log, state) = Log::open(dir)?;
        let syncer = Syncer::start(log.path.clone(), Arc::clone(&log.file))?;
        let compact_at = compaction_point(&state);
        let inner = Inner { state, log, hub: Hub::default(), compact_at, now_ms: None };
        Ok(Self(Arc::new(Shared { syncer, inner: Mutex::new(inner) })))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many bytes of a torn last record were cut off when the store was opened.
    #[must_use]
    pub fn cut_bytes(&self) -> u64 {
        self.lock().log.cut
    }

    /// The present revision.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.lock().state.revision
    }

    /// One entry.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<Entry> {
        self.lock().state.entries.get(key).map(|entry| Entry::clone(entry))
    }

    /// All entries whose key begins with `prefix`, in the keys' order.
    #[must_use]
    pub fn range(&self, prefix: &str) -> Vec<Entry> {
        self.lock().state.range(prefix).map(|entry| Entry::clone(entry)).collect()
    }

    /// [`Store::range`] and the revision at which it was taken, from which to watch.
    #[must_use]
    pub fn list(&self, prefix: &str) -> (Vec<Entry>, Revision) {
        let inner = self.lock();
        (inner.state.range(prefix).map(|entry| Entry::clone(entry)).collect(), inner.state.revision)
    }

    /// One entry as it stood at a revision.
    ///
    /// # Errors
    /// As for [`Store::range_at`].
    pub fn get_at(&self, key: &str, revision: Revision) -> Result<Option<Entry>, StoreError> {
        Ok(self.range_at(key, revision)?.into_iter().find(|entry| entry.key == key))
    }

    /// All entries whose key begins with `prefix`, as they stood at a revision.
    ///
    /// # Errors
    /// [`StoreError::Compacted`] if the history does not reach back so far (it reaches at most to the last rewriting of the log),
    /// [`StoreError::Future`] if there is no such revision yet.
    pub fn range_at(&self, prefix: &str, revision: Revision) -> Result<Vec<Entry>, StoreError> {
        self.lock().state.range_at(prefix, revision)
    }

    /// Does all of a transaction or nothing of it; returns the revision that it made, or the present one if there was
    /// nothing to change.
    ///
    /// # Errors
    /// [`StoreError::ConditionFailed`], [`StoreError::LeaseNotFound`], or an error of its size or keys: nothing happened.
    /// [`StoreError::File`] if the log could not be written: nothing happened, and it may be tried again (a full disk).
    /// [`StoreError::File`] for `sync`, or [`StoreError::Broken`]: the disk failed; what was committed since its last sync may be lost.
    pub fn commit(&self, txn: Txn) -> Result<Revision, StoreError> {
        let durability = txn.durability;
        let (revision, ticket) = {
            let mut inner = self.lock();
            txn.check(&inner.state)?;
            let ops = txn.into_ops(&inner.state);
            if ops.is_empty() {
                // what this transaction found may itself not be on disk yet
                (inner.state.revision, self.0.syncer.ticket())
            } else {
                let revision = Revision(inner.state.revision.0 + 1);
                (revision, self.write(&mut inner, revision, ops)?)
            }
        };
        if durability == Durability::Disk {
            self.0.syncer.wait(ticket)?;
        }
        Ok(revision)
    }

    /// Log, memory, watchers, in this order; returns the ticket for the sync.
    fn write(&self, inner: &mut Inner, revision: Revision, ops: Vec<Op>) -> Result<u64, StoreError> {
        if self.0.syncer.failed() {
            return Err(StoreError::Broken { path: inner.log.path.clone() });
        }
        let size = inner.log.append(revision, &ops)?;
        let ticket = self.0.syncer.wrote(size);
        let changes: Arc<[Change]> = inner.state.apply(revision, ops);
        inner.hub.publish(revision, &changes);
        if inner.log.length >= inner.compact_at && self.compact_locked(inner).is_err() {
            // the old log goes on and is whole; try again when it has grown some more
            inner.compact_at = inner.log.length + COMPACT_FLOOR;
        }
        Ok(ticket)
    }

    fn compact_locked(&self, inner: &mut Inner) -> Result<(), StoreError> {
        inner.log.rewrite(&inner.state)?;
        self.0.syncer.replaced(Arc::clone(&inner.log.file));
        inner.compact_at = compaction_point(&inner.state);
        Ok(())
    }

    /// Rewrites the log so that it holds only what lives. Happens by itself when the garbage outgrows the live data and 4 MiB.
    ///
    /// # Errors
    /// [`StoreError::File`] if the new log could not be written; the old one goes on.
    pub fn compact(&self) -> Result<(), StoreError> {
        self.compact_locked(&mut self.lock())
    }

    /// Returns when everything that was committed so far is on disk.
    ///
    /// # Errors
    /// [`StoreError::File`] or [`StoreError::Broken`] if the disk failed.
    pub fn flush(&self) -> Result<(), StoreError> {
        self.0.syncer.wait(self.0.syncer.ticket())
    }

    /// Watches keys that begin with `prefix`: all changes after revision `after`, those of the past first. To lose nothing
    /// after [`Store::list`], give its revision.
    ///
    /// # Errors
    /// [`StoreError::Compacted`] or [`StoreError::Future`] as for [`Store::range_at`].
    pub fn watch(&self, prefix: &str, after: Revision) -> Result<Watch, StoreError> {
        let inner = &mut *self.lock();
        inner.hub.watch(&inner.state, prefix, after)
    }

    /// Calls `notifier` for every change from now on below `prefix`, in order, within the commit. It must be quick and must not call the
    /// store: hand the change to a queue.
    #[must_use]
    pub fn subscribe(&self, prefix: &str, notifier: Box<dyn Fn(&Change) + Send + Sync>) -> Subscription {
        self.lock().hub.subscribe(prefix, notifier)
    }

    /// Begins a lease of `ttl_ms` milliseconds, counted from the last [`Store::tick`].
    ///
    /// # Errors
    /// [`StoreError::File`] or [`StoreError::Broken`] if the log could not be written.
    pub fn grant(&self, ttl_ms: u64) -> Result<LeaseId, StoreError> {
        let mut inner = self.lock();
        let id = LeaseId(inner.state.last_lease + 1);
        let revision = inner.state.revision;
        self.write(&mut inner, revision, vec![Op::Grant { id, ttl_ms }])?;
        inner.renew(id)?;
        Ok(id)
    }

    /// Gives a lease its full time again, counted from the last [`Store::tick`].
    ///
    /// # Errors
    /// [`StoreError::LeaseNotFound`] if it has ended.
    pub fn keep_alive(&self, id: LeaseId) -> Result<(), StoreError> {
        self.lock().renew(id)
    }

    /// Ends a lease and deletes its keys in one transaction.
    ///
    /// # Errors
    /// [`StoreError::LeaseNotFound`] if it has ended already, or an error of the log.
    pub fn revoke(&self, id: LeaseId) -> Result<Revision, StoreError> {
        self.end_lease(&mut self.lock(), id)
    }

    fn end_lease(&self, inner: &mut Inner, id: LeaseId) -> Result<Revision, StoreError> {
        let lease = inner.state.leases.get(&id).ok_or(StoreError::LeaseNotFound(id))?;
        let mut ops: Vec<Op> = lease.keys.iter().map(|key| Op::Delete { key: key.clone() }).collect();
        let revision = Revision(inner.state.revision.0 + u64::from(!ops.is_empty()));
        ops.push(Op::Revoke { id });
        self.write(inner, revision, ops)?;
        Ok(revision)
    }

    /// Tells the store the time, in milliseconds on any clock that does not run backwards, and ends the leases whose time is
    /// over; returns how many those were. After opening, leases count anew from the first tick.
    ///
    /// # Errors
    /// [`StoreError::File`] or [`StoreError::Broken`] if the log could not be written; what is left ends with a later tick.
    pub fn tick(&self, now_ms: u64) -> Result<usize, StoreError> {
        let inner = &mut *self.lock();
        inner.now_ms = Some(now_ms);
        let mut over = Vec::new();
        for (id, lease) in &mut inner.state.leases {
            let deadline = *lease.deadline_ms.get_or_insert_with(|| now_ms.saturating_add(lease.ttl_ms));
            if deadline <= now_ms {
                over.push(*id);
            }
        }
        for id in &over {
            self.end_lease(inner, *id)?;
        }
        Ok(over.len())
    }
}

impl Inner {
    fn renew(&mut self, id: LeaseId) -> Result<(), StoreError> {
        let now = self.now_ms;
        let lease = self.state.leases.get_mut(&id).ok_or(StoreError::LeaseNotFound(id))?;
        lease.deadline_ms = now.map(|now| now.saturating_add(lease.ttl_ms));
        Ok(())
    }
}

/// The log's length at which garbage outgrows both the live data and the floor.
fn compaction_point(state: &State) -> u64 {
    FILE_HEADER as u64 + state.live_bytes + state.live_bytes.max(COMPACT_FLOOR)
}
