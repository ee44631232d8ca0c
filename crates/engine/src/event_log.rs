//! Events: the last ones for those who ask for the past, a broadcast for those who watch.

use crate::model::{Event, EventKind};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use tokio::sync::broadcast;

/// How many past events are kept, in memory and in the store.
pub(crate) const KEPT: usize = 1024;
const WATCHERS_BUFFER: usize = 1024;

#[derive(Debug)]
pub(crate) struct EventLog {
    past: Mutex<VecDeque<Event>>,
    live: broadcast::Sender<Event>,
}

impl EventLog {
    pub(crate) fn new(past: Vec<Event>) -> Self {
        Self { past: Mutex::new(past.into()), live: broadcast::channel(WATCHERS_BUFFER).0 }
    }

    /// A new event, stamped with the present.
    #[expect(clippy::unused_self, reason = "events are made only where there is a log to put them in")]
    pub(crate) fn event(&self, kind: EventKind, action: &str, id: &str, attributes: BTreeMap<String, String>) -> Event {
        Event { at_ns: crate::clock::now_ns(), kind, action: action.to_owned(), id: id.to_owned(), attributes }
    }

    /// Shows an event to watchers, now and later.
    pub(crate) fn publish(&self, event: Event) {
        let mut past = self.past.lock().unwrap_or_else(PoisonError::into_inner);
        if past.len() >= KEPT {
            past.pop_front();
        }
        past.push_back(event.clone());
        // under the lock, so that a new watcher sees each event once: in the past or live
        let _ = self.live.send(event);
    }

    pub(crate) fn watch(&self, since_ns: Option<u64>) -> Events {
        let past = self.past.lock().unwrap_or_else(PoisonError::into_inner);
        let live = self.live.subscribe();
        let past = match since_ns {
            Some(since) => past.iter().filter(|event| event.at_ns >= since).cloned().collect(),
            None => VecDeque::new(),
        };
        Events { past, live }
    }
}

/// A watcher's view: past events that it asked for, then live ones.
#[derive(Debug)]
pub struct Events {
    past: VecDeque<Event>,
    live: broadcast::Receiver<Event>,
}

impl Events {
    /// The next event; `None` when the engine closes. A watcher that is too slow loses the oldest.
    pub async fn next(&mut self) -> Option<Event> {
        if let Some(event) = self.past.pop_front() {
            return Some(event);
        }
        loop {
            match self.live.recv().await {
                Ok(event) => return Some(event),
                Err(broadcast::error::RecvError::Lagged(lost)) => {
                    tracing::warn!(lost, "a watcher of events is too slow")
                }
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }

    /// A past event that was asked for and not yet taken; never waits.
    pub fn next_past(&mut self) -> Option<Event> {
        self.past.pop_front()
    }
}
