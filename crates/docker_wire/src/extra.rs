//! What Docker has no word for: our routes below `/insula/` and their bodies.
//!
//! | route | body | answer |
//! |---|---|---|
//! | `GET /insula/explain/{name}` | - | [`Explanation`] |
//! | `POST /insula/images/bootstrap` | [`Bootstrap`] | progress lines as for `POST /images/create`, the last has `aux.ID` |
//! | `GET /insula/doctor` | - | [`Doctor`] |
//! | `POST /insula/build` | [`Build`] on one line, and behind it the context if [`Build::archive`] | [`BuildLine`]s |
//! | `GET /insula/tree/{name}` | - | an image's whole tree as a tar archive |

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

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

/// A folder that client and daemon both see, which its numbers show.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharedFolder {
    /// Its absolute path.
    pub path: String,
    /// Its file system's number.
    pub device: u64,
    /// Its number there.
    pub inode: u64,
}

/// A request to build an image.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Build {
    /// The context, where it is a folder.
    pub folder: Option<SharedFolder>,
    /// The context is an archive, which follows this line.
    pub archive: bool,
    /// The context's address, where it is in the network.
    pub remote: Option<String>,
    /// The Dockerfile's path.
    pub dockerfile: String,
    /// The Dockerfile's text, where it is not in the context.
    pub text: Option<String>,
    /// The image's names.
    pub tags: Vec<String>,
    /// What its manifest and index say of themselves: `[manifest|index:]NAME=VALUE`.
    pub annotations: Vec<String>,
    /// Arguments.
    pub arguments: BTreeMap<String, String>,
    /// The stage that is wanted.
    pub target: Option<String>,
    /// Platforms as `os/architecture`, with commas between several.
    pub platform: Option<String>,
    /// What is attested of where the image comes from: `min` or `max`.
    pub provenance: Option<String>,
    /// The image of a scanner that lists what is in the image.
    pub sbom: Option<String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Do every step anew.
    pub no_cache: bool,
    /// Fetch base images although they are there.
    pub pull: bool,
    /// Make one layer of all steps.
    pub squash: bool,
    /// `none`, `host` or `default`.
    pub network: Option<String>,
    /// Limit of each step's memory in bytes.
    pub memory_bytes: Option<i64>,
    /// Limit of memory and swap in bytes.
    pub memory_swap_bytes: Option<i64>,
    /// Share of processor time.
    pub cpu_shares: Option<u64>,
    /// Processor time of a period in microseconds.
    pub cpu_quota_us: Option<i64>,
    /// The period in microseconds.
    pub cpu_period_us: Option<u64>,
    /// Processors to run on.
    pub cpuset_cpus: Option<String>,
    /// Size of /dev/shm in bytes.
    pub shm_bytes: Option<u64>,
    /// `name=soft:hard`.
    pub ulimits: Vec<String>,
    /// `name:address`.
    pub extra_hosts: Vec<String>,
    /// Secrets by their ids.
    pub secrets: BTreeMap<String, Vec<u8>>,
    /// Sockets of SSH agents by their ids.
    pub ssh: BTreeMap<String, String>,
    /// Rights that steps may ask for.
    pub allow: Vec<String>,
    /// The time that everything gets, in seconds since 1970.
    pub epoch: Option<i64>,
    /// Write the image's tree into this folder; its files belong to `owner`.
    pub output: Option<SharedFolder>,
    /// User and group of what is written.
    pub owner: Option<(u32, u32)>,
    /// Where steps may have been done before.
    pub cache_from: Vec<BuildCache>,
    /// Where this build's steps are kept for others.
    pub cache_to: Vec<BuildCacheTarget>,
    /// Only look over the Dockerfile.
    pub check: bool,
}

/// A place that keeps what builds have done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BuildCache {
    /// An image with its cache in it, here or at its registry; or a cache at a registry.
    Name(String),
    /// A folder.
    Folder(SharedFolder),
}

/// A place to keep a cache at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildCacheTarget {
    /// The place; the image itself without one.
    pub place: Option<BuildCache>,
    /// The steps of all stages, not only of those that are layers of the result.
    pub all: bool,
}

/// What happens in a build, one to a line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BuildLine {
    /// The plan is made; so many steps.
    Planned(usize),
    /// Something that is no error.
    Warning(String),
    /// A step begins: stage, step, instruction.
    Begun(usize, usize, String),
    /// A step was done before: its number.
    Cached(usize),
    /// A step's program writes: its number, and what.
    Output(usize, String),
    /// A step has ended: its number.
    Done(usize),
    /// There are images for several platforms without a name: what they are fetched together by.
    Together(String),
    /// The Dockerfile was looked over: so many remarks, and they as a text.
    Checked(usize, String),
    /// The image is there: its id, and how many steps were done before.
    Image(String, usize),
    /// It went wrong.
    Error(String),
}
