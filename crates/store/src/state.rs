//! What the store holds in memory: live entries, leases, and the recent past.

use crate::record::{Op, entry_size};
use crate::{Change, Entry, HISTORY_BYTES, HISTORY_REVISIONS, LeaseId, Revision, StoreError};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

/// A lease's keys and its time.
#[derive(Debug, Default)]
pub(crate) struct Lease {
    pub(crate) ttl_ms: u64,
    /// On the clock of `tick`; unknown until the first tick after the lease was granted or the store opened.
    pub(crate) deadline_ms: Option<u64>,
    pub(crate) keys: BTreeSet<String>,
}

#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) revision: Revision,
    pub(crate) entries: BTreeMap<String, Arc<Entry>>,
    pub(crate) leases: BTreeMap<LeaseId, Lease>,
    pub(crate) last_lease: u64,
    /// The newest changes, one item a revision, oldest first, without gaps.
    pub(crate) history: VecDeque<Arc<[Change]>>,
    pub(crate) history_bytes: usize,
    /// Bytes that the live entries would take in a rewritten log.
    pub(crate) live_bytes: u64,
}

impl State {
    /// Applies operations that were checked before; `revision` is the present one or, if keys change, the next.
    pub(crate) fn apply(&mut self, revision: Revision, ops: Vec<Op>) -> Arc<[Change]> {
        let mut changes = Vec::with_capacity(ops.len());
        for op in ops {
            match op {
                Op::Put { key, lease, value } => changes.push(self.put(revision, key, lease, value)),
                Op::Delete { key } => changes.extend(self.delete(revision, key)),
                Op::Grant { id, ttl_ms } => {
                    self.last_lease = self.last_lease.max(id.0);
                    self.leases.insert(id, Lease { ttl_ms, ..Lease::default() });
                }
                Op::Revoke { id } => drop(self.leases.remove(&id)),
                Op::Entry(entry) => self.restore(entry),
                Op::Leases { last } => self.last_lease = self.last_lease.max(last),
            }
        }
        self.revision = revision;
        let changes: Arc<[Change]> = changes.into();
        if !changes.is_empty() {
            self.remember(Arc::clone(&changes));
        }
        changes
    }

    fn put(&mut self, revision: Revision, key: String, lease: Option<LeaseId>, value: Vec<u8>) -> Change {
        let previous = self.entries.get(&key).cloned();
        let (created, version) =
            previous.as_ref().map_or((revision, 1), |old| (old.created, old.version.saturating_add(1)));
        let entry = Arc::new(Entry { key: key.clone(), value, created, modified: revision, version, lease });
        if let Some(old) = &previous {
            self.forget(old);
        }
        self.insert(Arc::clone(&entry));
        Change { revision, key, value: Some(entry), previous }
    }

    fn delete(&mut self, revision: Revision, key: String) -> Option<Change> {
        let old = self.entries.remove(&key)?;
        self.forget(&old);
        Some(Change { revision, key, value: None, previous: Some(old) })
    }

    fn restore(&mut self, entry: Entry) {
        if let Some(old) = self.entries.get(&entry.key).cloned() {
            self.forget(&old);
        }
        self.insert(Arc::new(entry));
    }

    fn insert(&mut self, entry: Arc<Entry>) {
        self.live_bytes += entry_size(&entry);
        if let Some(lease) = entry.lease.and_then(|id| self.leases.get_mut(&id)) {
            lease.keys.insert(entry.key.clone());
        }
        self.entries.insert(entry.key.clone(), entry);
    }

    /// Takes an entry out of the books; its place in the map is the caller's.
    fn forget(&mut self, entry: &Entry) {
        self.live_bytes -= entry_size(entry);
        if let Some(lease) = entry.lease.and_then(|id| self.leases.get_mut(&id)) {
            lease.keys.remove(&entry.key);
        }
    }

    fn remember(&mut self, changes: Arc<[Change]>) {
        self.history_bytes += weight(&changes);
        self.history.push_back(changes);
        // the newest revision always stays, however heavy
        while self.history.len() > HISTORY_REVISIONS || (self.history_bytes > HISTORY_BYTES && self.history.len() > 1) {
            let Some(oldest) = self.history.pop_front() else { break };
            self.history_bytes -= weight(&oldest);
        }
    }

    /// The oldest revision whose picture can still be drawn.
    pub(crate) fn oldest(&self) -> Revision {
        Revision(self.revision.0 - self.history.len() as u64)
    }

    pub(crate) fn range(&self, prefix: &str) -> impl Iterator<Item = &Arc<Entry>> {
        self.entries
            .range::<str, _>((Bound::Included(prefix), Bound::Unbounded))
            .take_while(move |(key, _)| key.starts_with(prefix))
            .map(|(_, entry)| entry)
    }

    /// The entries below `prefix` as they stood at `revision`: the present ones with everything since undone.
    pub(crate) fn range_at(&self, prefix: &str, revision: Revision) -> Result<Vec<Entry>, StoreError> {
        let mut then: BTreeMap<&str, &Arc<Entry>> = self.range(prefix).map(|e| (e.key.as_str(), e)).collect();
        for change in self.since(revision)?.rev().flat_map(|changes| changes.iter().rev()) {
            if change.key.starts_with(prefix) {
                match &change.previous {
                    Some(entry) => then.insert(&change.key, entry),
                    None => then.remove(change.key.as_str()),
                };
            }
        }
        Ok(then.into_values().map(|entry| Entry::clone(entry)).collect())
    }

    /// The transactions after `revision`, oldest first.
    pub(crate) fn since(
        &self,
        revision: Revision,
    ) -> Result<impl DoubleEndedIterator<Item = &Arc<[Change]>>, StoreError> {
        if revision > self.revision {
            return Err(StoreError::Future { requested: revision, current: self.revision });
        }
        let missing = self.revision.0 - revision.0;
        let count = usize::try_from(missing).unwrap_or(usize::MAX);
        if count > self.history.len() {
            return Err(StoreError::Compacted { requested: revision, oldest: self.oldest() });
        }
        Ok(self.history.range(self.history.len() - count..))
    }
}

/// What a revision costs in memory beyond the live entries: the values that it superseded.
fn weight(changes: &[Change]) -> usize {
    changes.iter().map(|c| 64 + c.key.len() + c.previous.as_ref().map_or(0, |e| e.key.len() + e.value.len())).sum()
}
