//! Everything that a container got from the kernel, and which flag or default asked for it.
//!
//! Values are the kernel's own, read when asked; for a container that has ended, those recorded at its start and in its
//! OCI configuration. Reasons are derived from what the user asked for, by the same rules as the plan.

mod cgroups;
mod mounts;
mod namespaces;
mod security;

pub(crate) use mounts::unescape;
pub(crate) use namespaces::namespaces_of;

use crate::engine::Engine;
use crate::error::Result;
use crate::model::{Container, Phase};
use oci_spec::runtime::Spec;

/// Everything that a container got, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// `created`, `running`, `paused`, `exited`.
    pub status: &'static str,
    /// Init's process id on the host, of its last run when it has ended; 0 if it never ran.
    pub pid: i32,
    /// The rows, grouped.
    pub sections: Vec<Section>,
}

/// One group of rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section {
    /// Its title.
    pub title: &'static str,
    /// Its rows.
    pub rows: Vec<Row>,
}

/// One thing that it got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// What.
    pub what: String,
    /// Its value.
    pub value: String,
    /// What asked for it.
    pub because: String,
}

/// What a container's reasons are derived from.
pub(crate) struct Subject<'a> {
    pub(crate) engine: &'a Engine,
    pub(crate) container: &'a Container,
    /// The OCI configuration of the last start, if there was one.
    pub(crate) oci: Option<Spec>,
    /// Init's process id while it runs.
    pub(crate) live: Option<i32>,
}

pub(crate) const DEFAULT: &str = "default";

impl Row {
    pub(crate) fn new(what: impl Into<String>, value: impl Into<String>, because: impl Into<String>) -> Self {
        Self { what: what.into(), value: value.into(), because: because.into() }
    }
}

impl Engine {
    /// Explains a container.
    ///
    /// # Errors
    /// [`crate::ErrorClass::NotFound`].
    pub fn explain(&self, who: &str) -> Result<Explanation> {
        let container = self.container(who)?;
        let config = std::fs::read(self.paths(&container).config).ok();
        let subject = Subject {
            engine: self,
            container: &container,
            oci: config.and_then(|json| serde_json::from_slice(&json).ok()),
            live: Some(container.pid()).filter(|pid| *pid > 0),
        };
        let sections = vec![
            Section { title: "namespaces", rows: namespaces::rows(&subject) },
            Section { title: "control groups", rows: cgroups::rows(&subject) },
            Section { title: "mounts", rows: mounts::rows(&subject) },
            Section { title: "capabilities", rows: security::capabilities(&subject) },
            Section { title: "seccomp", rows: security::seccomp(&subject) },
            Section { title: "masked paths", rows: security::masked(&subject) },
            Section { title: "read-only paths", rows: security::readonly(&subject) },
            Section { title: "devices", rows: security::devices(&subject) },
            Section { title: "process", rows: security::process(&subject) },
        ];
        Ok(Explanation {
            id: container.id.to_string(),
            name: container.name.clone(),
            status: match container.phase {
                Phase::Created => "created",
                Phase::Starting | Phase::Running => "running",
                Phase::Paused => "paused",
                Phase::Exited | Phase::Removing => "exited",
            },
            pid: container.runtime.as_ref().map_or(0, |runtime| runtime.pid),
            sections,
        })
    }
}

/// A size as users write it: `512m`.
pub(crate) fn size(bytes: i64) -> String {
    for (unit, letter) in [(1 << 30, "g"), (1 << 20, "m"), (1 << 10, "k")] {
        if bytes > 0 && bytes % unit == 0 {
            return format!("{}{letter}", bytes / unit);
        }
    }
    bytes.to_string()
}
