//! What happened, for watchers.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Something that happened to an object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// When, nanoseconds since the Unix epoch.
    pub at_ns: u64,
    /// To what kind of object.
    pub kind: EventKind,
    /// What: `create`, `start`, `die`, `oom`, `destroy`, `exec_start: …`, `tag`, `import`, …
    pub action: String,
    /// The object's id.
    pub id: String,
    /// Attributes: name, image, labels, `exitCode`, `signal`, …
    pub attributes: BTreeMap<String, String>,
}

/// What kind of object an event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names say it")]
pub enum EventKind {
    Container,
    Image,
    Volume,
    Network,
    Daemon,
}
