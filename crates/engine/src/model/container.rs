//! What a container is: the record that the store keeps.

use super::{ContainerId, ContainerSpec, Endpoint, EndpointLink, Health};
use control::CgroupValue;
use net::firewall::Published;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A container's record. It is replaced as a whole, in one transaction with the event that tells of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Container {
    /// Its id.
    pub id: ContainerId,
    /// Its name, without a slash.
    pub name: String,
    /// What was asked for.
    pub spec: ContainerSpec,
    /// The image's id, `sha256:…`.
    pub image_id: String,
    /// What will run: spec and image merged.
    pub process: Process,
    /// When it was created, nanoseconds since the Unix epoch.
    pub created_ns: u64,
    /// Where in its life it is.
    pub phase: Phase,
    /// The present or the last run.
    pub runtime: Option<Runtime>,
    /// How the last run ended.
    pub finished: Option<Finished>,
    /// How often it was started again by its policy.
    pub restart_count: u32,
    /// It has ended, and its policy is about to start it again.
    #[serde(default)]
    pub restarting: bool,
    /// It was stopped by a user, which the restart policy heeds.
    pub stopped_by_user: bool,
    /// A user has asked to restart it while it ran: its end is followed by a start. A daemon that is killed meanwhile forgets it, as it
    /// forgets how long the container had for its end.
    #[serde(skip)]
    pub start_again: bool,
    /// A user has asked to stop it: watchers are told `stop` behind its end. Forgotten like the above.
    #[serde(skip)]
    pub stop_untold: bool,
    /// A user has asked to restart it: watchers are told `restart` behind its start. Forgotten like the above.
    #[serde(skip)]
    pub restart_untold: bool,
    /// A user has asked to remove it while it ran: it goes with its end.
    #[serde(default)]
    pub remove_at_end: bool,
    /// And with it the volumes that nobody named.
    #[serde(default)]
    pub remove_volumes: bool,
    /// How well it is, if that is tested.
    #[serde(default)]
    pub health: Option<Health>,
    /// Names of the anonymous volumes that go with it.
    pub anonymous_volumes: Vec<String>,
    /// The mounts of volumes: name, folder on the host, target.
    pub volumes: Vec<VolumeMount>,
    /// The host's ids behind the container's, if it has a user namespace of its own.
    pub ids: Option<IdRange>,
    /// Its places in networks, by the networks' names.
    #[serde(default)]
    pub endpoints: BTreeMap<String, Endpoint>,
    /// The ports that the host passes on to it, while it runs.
    #[serde(default)]
    pub published: Published,
}

/// A range of user and group ids of the host that stand behind 0, 1, 2, … in a user namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdRange {
    /// The host's user id behind 0.
    pub first_uid: u32,
    /// The host's group id behind 0.
    pub first_gid: u32,
    /// How many ids.
    pub count: u32,
}

/// A volume of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeMount {
    /// The volume's name.
    pub name: String,
    /// Its folder on the host.
    pub source: String,
    /// Where the container sees it.
    pub target: String,
    /// It cannot be written.
    pub read_only: bool,
}

/// What runs as the container's first process.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Process {
    /// Entry point and command; never empty.
    pub args: Vec<String>,
    /// `KEY=value`.
    pub env: Vec<String>,
    /// Working folder.
    pub cwd: String,
    /// `user[:group]`, empty for root.
    pub user: String,
    /// Signal that asks it to stop, as a number.
    pub stop_signal: i32,
}

/// Where in its life a container is.
///
/// ```text
///             start                  started                pause
///  Created ----------> Starting ---------------> Running <--------> Paused
///     |                   |  failed                 | exited            | exited
///     |                   v                         v                   |
///     |                Exited <--------------------------------------- -+
///     |  remove           | remove        start goes back to Starting
///     +-------------> Removing -> (gone)
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Never started.
    Created,
    /// Its helper is being started.
    Starting,
    /// Its process runs.
    Running,
    /// Its process is frozen.
    Paused,
    /// Its process has ended.
    Exited,
    /// Its files are being removed.
    Removing,
}

/// A run of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Runtime {
    /// Init's process id on the host.
    pub pid: i32,
    /// When it was started, nanoseconds since the Unix epoch.
    pub started_ns: u64,
    /// Namespaces and their inode numbers, names as in `/proc/PID/ns`.
    pub namespaces: Vec<(String, u64)>,
    /// The cgroup files that were written, with the values read back.
    pub cgroup: Vec<CgroupValue>,
    /// What had to be left out, in plain words.
    pub warnings: Vec<String>,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finished {
    /// Exit code; 128 + signal where a signal ended it, 126 and 127 where it could not be run.
    pub code: i32,
    /// Killed for want of memory.
    pub oom_killed: bool,
    /// When, nanoseconds since the Unix epoch.
    pub at_ns: u64,
    /// Why it could not be started, in words; empty otherwise.
    pub error: String,
}

impl Container {
    /// A container of the engine's own that no record is kept of: a build's step, the configuration of packages.
    #[must_use]
    pub(crate) fn passing(id: ContainerId, name: &str, spec: ContainerSpec, process: Process, created_ns: u64) -> Self {
        Self {
            id,
            name: name.to_owned(),
            spec,
            image_id: String::new(),
            process,
            created_ns,
            phase: Phase::Created,
            runtime: None,
            finished: None,
            restart_count: 0,
            restarting: false,
            stopped_by_user: false,
            start_again: false,
            stop_untold: false,
            restart_untold: false,
            remove_at_end: false,
            health: None,
            remove_volumes: false,
            anonymous_volumes: Vec::new(),
            volumes: Vec::new(),
            ids: None,
            endpoints: BTreeMap::new(),
            published: Published::new(),
        }
    }

    /// True while a process of it exists.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        matches!(self.phase, Phase::Starting | Phase::Running | Phase::Paused)
    }

    /// Its links in networks, with the networks' names.
    pub fn links(&self) -> impl Iterator<Item = (&str, &EndpointLink)> {
        self.endpoints.iter().filter_map(|(name, endpoint)| Some((name.as_str(), endpoint.link.as_ref()?)))
    }

    /// Init's process id on the host while it is alive, else 0.
    #[must_use]
    pub fn pid(&self) -> i32 {
        match (&self.runtime, self.is_alive()) {
            (Some(runtime), true) => runtime.pid,
            _ => 0,
        }
    }
}
