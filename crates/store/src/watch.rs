//! Those who want to know of changes.

use crate::state::State;
use crate::{Change, Revision, StoreError};
use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

/// How many changes a watch may have waiting.
pub(crate) const WATCH_CAPACITY: usize = 16_384;

type Notifier = Box<dyn Fn(&Change) + Send + Sync>;

#[derive(Debug, Default)]
struct Queue {
    changes: VecDeque<Change>,
    /// The newest revision that went into the queue whole.
    seen: Revision,
    lagged: bool,
    closed: bool,
}

#[derive(Debug)]
struct Channel {
    queue: Mutex<Queue>,
    filled: Condvar,
}

impl Channel {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push<'a>(&self, changes: impl Iterator<Item = &'a Change>, revision: Revision) {
        let mut queue = self.lock();
        if queue.lagged {
            return;
        }
        let before = queue.changes.len();
        queue.changes.extend(changes.cloned());
        if queue.changes.len() > WATCH_CAPACITY {
            // all of a transaction or nothing
            queue.changes.truncate(before);
            queue.lagged = true;
        } else {
            queue.seen = revision;
        }
        if queue.lagged || queue.changes.len() > before {
            self.filled.notify_all();
        }
    }
}

enum Sink {
    Queue(Weak<Channel>),
    Notifier(Weak<Notifier>),
}

struct Watcher {
    prefix: String,
    sink: Sink,
}

/// Everybody who watches.
#[derive(Default)]
pub(crate) struct Hub(Vec<Watcher>);

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hub({} watchers)", self.0.len())
    }
}

impl Hub {
    pub(crate) fn watch(&mut self, state: &State, prefix: &str, after: Revision) -> Result<Watch, StoreError> {
        let channel = Arc::new(Channel { queue: Mutex::default(), filled: Condvar::new() });
        channel.lock().seen = after;
        for changes in state.since(after)? {
            if let Some(first) = changes.first() {
                channel.push(changes.iter().filter(|c| c.key.starts_with(prefix)), first.revision);
            }
        }
        self.0.push(Watcher { prefix: prefix.to_owned(), sink: Sink::Queue(Arc::downgrade(&channel)) });
        Ok(Watch(channel))
    }

    pub(crate) fn subscribe(&mut self, prefix: &str, notifier: Notifier) -> Subscription {
        let notifier = Arc::new(notifier);
        self.0.push(Watcher { prefix: prefix.to_owned(), sink: Sink::Notifier(Arc::downgrade(&notifier)) });
        Subscription { _notifier: notifier }
    }

    /// Hands a transaction to all, and drops those whose other end is gone.
    pub(crate) fn publish(&mut self, revision: Revision, changes: &[Change]) {
        self.0.retain(|watcher| {
            let mut matching = changes.iter().filter(|change| change.key.starts_with(&watcher.prefix));
            match &watcher.sink {
                Sink::Queue(channel) => channel.upgrade().map(|channel| channel.push(matching, revision)).is_some(),
                Sink::Notifier(notify) => {
                    notify.upgrade().map(|notify| matching.by_ref().for_each(|c| notify(c))).is_some()
                }
            }
        });
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        for watcher in &self.0 {
            if let Sink::Queue(channel) = &watcher.sink
                && let Some(channel) = channel.upgrade()
            {
                channel.lock().closed = true;
                channel.filled.notify_all();
            }
        }
    }
}

/// Keeps a notifier alive; dropping it ends the notifications.
pub struct Subscription {
    _notifier: Arc<Notifier>,
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Subscription")
    }
}

/// Receives changes in the order of their revisions. Dropping it ends the watch.
#[derive(Debug)]
pub struct Watch(Arc<Channel>);

impl Watch {
    /// The next change, waiting for it as long as the store is open; `None` when the store has been closed.
    ///
    /// # Errors
    /// [`StoreError::Lagged`] if the receiver was so slow that changes had to be left out; what came before is
    /// delivered first. List again and make a new watch.
    pub fn recv(&self) -> Result<Option<Change>, StoreError> {
        self.receive(None)
    }

    /// The next change, or `None` if none came within `timeout` or the store has been closed.
    ///
    /// # Errors
    /// As for [`Watch::recv`].
    pub fn recv_timeout(&self, timeout: Duration) -> Result<Option<Change>, StoreError> {
        self.receive(Instant::now().checked_add(timeout))
    }

    fn receive(&self, deadline: Option<Instant>) -> Result<Option<Change>, StoreError> {
        let mut queue = self.0.lock();
        loop {
            if let Some(change) = queue.changes.pop_front() {
                return Ok(Some(change));
            }
            if queue.lagged {
                return Err(StoreError::Lagged { seen: queue.seen });
            }
            if queue.closed {
                return Ok(None);
            }
            queue = match deadline {
                None => self.0.filled.wait(queue).unwrap_or_else(PoisonError::into_inner),
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return Ok(None);
                    }
                    self.0.filled.wait_timeout(queue, left).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }
}

impl Iterator for Watch {
    type Item = Result<Change, StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.recv().transpose()
    }
}
