//! What Docker has no word for: our routes below `/insula/` and their bodies.
//!
//! | route | body | answer |
//! |---|---|---|
//! | `GET /insula/explain/{name}` | - | [`Explanation`] |
//! | `POST /insula/images/bootstrap` | [`Bootstrap`] | progress lines as for `POST /images/create`, the last has `aux.ID` |
//! | `GET /insula/doctor` | - | [`Doctor`] |

use serde::{Deserialize, Serialize};

/// Everything that a container got from the kernel, and what asked for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// The container's id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// `created`, `running`, `paused` or `exited`.
    pub status: String,
    /// Init's process id on the host, or of its last run when it has ended; 0 if it never ran.
    pub pid: i64,
    /// The rows, grouped.
    pub sections: Vec<Section>,
}

/// One group of rows: namespaces, cgroup, mounts, capabilities, seccomp, masked paths, devices, process, …
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Section {
    /// The group's title.
    pub title: String,
    /// Its rows, in the kernel's order where that matters.
    pub rows: Vec<Row>,
}

/// One thing that the container got.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// The namespace, file, mount point, capability, system call, path or device.
    pub what: String,
    /// Its value as the kernel shows it (as recorded, for a container that has ended).
    pub value: String,
    /// The flag, image setting or default that asked for it: `-m 512m`, `default`, `image ENV`.
    pub because: String,
}

/// A request to make a base image from a distribution's packages.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bootstrap {
    /// Distribution and suite: `debian:bookworm`.
    pub source: String,
    /// Packages beyond the minimal set.
    #[serde(default)]
    pub include: Vec<String>,
    /// The name to give the image; the source's name if none.
    #[serde(default)]
    pub tag: Option<String>,
}

/// What this host can do for isolation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Doctor {
    /// The checks, each tried by doing.
    pub checks: Vec<Check>,
}

/// One thing that was tried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// What was tried.
    pub name: String,
    /// How it went.
    pub verdict: Verdict,
    /// What was found.
    pub detail: String,
    /// What to do about it, where there is something to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

/// How a check went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Works.
    Good,
    /// Works in a lesser way, by a fallback.
    Fallback,
    /// Does not work.
    Missing,
}
