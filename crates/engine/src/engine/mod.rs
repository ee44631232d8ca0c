//! The engine: what all containers share, and the handle that facades hold.
//!
//! Reads come from the registry's snapshots and never wait for a container's owner; whatever changes a container is sent
//! to its owner.

mod archive;
mod checkpoints;
mod commit;
mod containers;
mod distribution;
mod execs;
mod images;
mod inner;
mod networks;
mod open;
mod pull;
mod push;
mod push_family;
mod reduce;
mod volumes;

pub use archive::Saving;
pub use commit::{Change, Commit};
pub use containers::{Attach, Created, Remove, Wait};
pub use distribution::{Elsewhere, LayerStep, Progress, Proof, SearchResult};
pub(crate) use distribution::{refused, target as target_of};
pub use execs::ExecClient;
pub(crate) use images::parse as parse_reference;
pub(crate) use images::wrong as image_error;
pub use images::{Bootstrap, ImagePart};
pub(crate) use inner::Inner;
pub use networks::Leave;
pub use pull::{Naming, Pull};
pub(crate) use push::compress;
pub(crate) use volumes::ImageMounts;

use crate::config::{Config, Paths};
use crate::error::Result;
use crate::event_log::Events;
use crate::model::Container;
use std::sync::Arc;

/// A handle to the engine; clones are the same engine.
#[derive(Clone)]
pub struct Engine {
    pub(crate) inner: Arc<Inner>,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Engine").field("config", &self.inner.config).finish_non_exhaustive()
    }
}

/// The host and what is on it, in numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostInfo {
    /// Containers that run, are paused, and do neither.
    pub containers: (usize, usize, usize),
    /// Images.
    pub images: usize,
    /// `1`, `2`, or `hybrid`.
    pub cgroup_version: &'static str,
    /// The kernel's release.
    pub kernel: String,
    /// The operating system's name, from os-release.
    pub os: String,
    /// The machine's architecture as uname(2) has it.
    pub machine: String,
    /// The host's name.
    pub name: String,
    /// CPUs online.
    pub cpus: u32,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// The security mechanisms in force: `seccomp`, `apparmor`, `selinux`, `userns`, `cgroupns`.
    pub security: Vec<&'static str>,
    /// Where state is kept.
    pub root: std::path::PathBuf,
    /// What this daemon's state is called, once and for all: a UUID.
    pub id: String,
    /// The devices of the Container Device Interface that there are, `vendor/class=name`.
    pub cdi_devices: Vec<String>,
}

impl Engine {
    /// Opens the state, finds every container again, and starts serving.
    ///
    /// # Errors
    /// If the folders cannot be written, the state is held by another daemon, or it cannot be read.
    pub async fn open(config: Config) -> Result<Self> {
        Ok(Self { inner: open::open(config).await? })
    }

    /// Brings what was stored to the disk. Containers go on.
    ///
    /// # Errors
    /// If the disk fails.
    pub async fn close(&self) -> Result<()> {
        let inner = Arc::clone(&self.inner);
        let flushed = tokio::task::spawn_blocking(move || {
            crate::network::close(&inner);
            inner.flush()
        })
        .await;
        flushed.unwrap_or(Ok(()))
    }

    /// The configuration it runs with.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.inner.config
    }

    /// The files of a container.
    #[must_use]
    pub fn paths(&self, container: &Container) -> Paths {
        self.inner.config.paths(&container.id)
    }

    /// Events from now on; with `since_ns` also the kept ones from then on.
    #[must_use]
    pub fn events(&self, since_ns: Option<u64>) -> Events {
        self.inner.events.watch(since_ns)
    }

    /// The runtimes that containers can be run by.
    #[must_use]
    pub fn runtimes(&self) -> Arc<crate::Runtimes> {
        self.inner.runtimes()
    }

    /// Has other runtimes from now on; containers that run go on with what they have.
    pub fn set_runtimes(&self, runtimes: crate::Runtimes) {
        self.inner.set_runtimes(runtimes);
    }

    /// Reaches registries in this way from now on; what is under way goes on as it began.
    pub fn set_distribution(&self, distribution: &crate::Distribution) {
        self.inner.set_distribution(distribution);
    }

    /// Tells watchers that the daemon's settings were read again.
    pub fn reloaded(&self) {
        let name = self.info().name;
        let words = std::collections::BTreeMap::from([("name".to_owned(), name.clone())]);
        self.inner.store_event(self.inner.events.event(crate::model::EventKind::Daemon, "reload", &name, words));
    }

    /// The host in numbers.
    #[must_use]
    pub fn info(&self) -> HostInfo {
        use crate::model::Phase;
        let containers = self.containers();
        let count = |phases: &[Phase]| containers.iter().filter(|container| phases.contains(&container.phase)).count();
        let uname = rustix::system::uname();
        let text = |name: &std::ffi::CStr| name.to_string_lossy().into_owned();
        HostInfo {
            containers: (
                count(&[Phase::Running, Phase::Starting]),
                count(&[Phase::Paused]),
                count(&[Phase::Created, Phase::Exited, Phase::Removing]),
            ),
            images: self.inner.images.list().map_or(0, |images| images.len()),
            cgroup_version: self.inner.cgroup_version(),
            kernel: text(uname.release()),
            os: crate::host::os_name(),
            machine: text(uname.machine()),
            name: text(uname.nodename()),
            cpus: self.inner.host.cpus,
            memory_bytes: crate::host::memory_bytes(),
            security: crate::host::security(&self.inner.host),
            root: self.inner.config.root.clone(),
            id: self.inner.id.clone(),
            cdi_devices: crate::plan::cdi::known(&self.inner.config.cdi_folders),
        }
    }
}
