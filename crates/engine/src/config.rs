//! What the engine is told at its start, and where its files are.

use crate::model::{ContainerId, IdRange};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The engine's configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// State that survives a reboot: images, containers, volumes, the store.
    pub root: PathBuf,
    /// Sockets and what else ends with the boot.
    pub run: PathBuf,
    /// The `insula-shim` program.
    pub shim: PathBuf,
    /// The cgroup below which every container gets its own: `/insula`.
    pub cgroup_parent: String,
    /// How many network namespaces are kept ready; 0 for none.
    pub netns_pool: usize,
    /// Ids for the containers that ask for no user namespace mode of their own; `None` leaves them the host's.
    pub userns: Option<IdRange>,
    /// How registries are reached.
    pub distribution: Distribution,
}

/// How registries are reached, and what is kept of what they send.
#[derive(Debug, Clone, Default)]
pub struct Distribution {
    /// Trust, proxies, mirrors, patience.
    pub client: registry::client::ClientConfig,
    /// Whether the compressed layers of pulled images are kept.
    pub keep: KeepBlobs,
    /// How long after the last pull or load the compressed layers are reduced to what the layers do not have; never if none.
    pub reduce_after: Option<Duration>,
}

/// Whether the compressed layers of pulled images are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KeepBlobs {
    /// An image goes out again byte for byte as it came.
    #[default]
    Yes,
    /// Less of the disk is used; a push compresses anew, under other digests.
    No,
}

/// The files of one container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    /// The container's folder, which holds all the others but the runtime folder.
    pub dir: PathBuf,
    /// Output as JSON lines.
    pub log: PathBuf,
    /// Written by the helper when the container has ended.
    pub exit: PathBuf,
    /// Shown as /etc/hosts.
    pub hosts: PathBuf,
    /// Shown as /etc/hostname.
    pub hostname: PathBuf,
    /// Shown as /etc/resolv.conf.
    pub resolv_conf: PathBuf,
    /// The OCI configuration of the last start.
    pub config: PathBuf,
    /// The helper's socket and process id; below [`Config::run`].
    pub runtime: PathBuf,
}

impl Config {
    /// Where a container's files are.
    #[must_use]
    pub fn paths(&self, id: &ContainerId) -> Paths {
        let dir = self.containers().join(id.as_str());
        Paths {
            log: dir.join("container.log"),
            exit: dir.join("exit.json"),
            hosts: dir.join("hosts"),
            hostname: dir.join("hostname"),
            resolv_conf: dir.join("resolv.conf"),
            config: dir.join("config.json"),
            runtime: self.shims().join(id.as_str()),
            dir,
        }
    }

    /// The folder of all containers' folders.
    #[must_use]
    pub fn containers(&self) -> PathBuf {
        self.root.join("containers")
    }

    /// The folder of all volumes.
    #[must_use]
    pub fn volumes(&self) -> PathBuf {
        self.root.join("volumes")
    }

    /// The folder of all helpers' runtime folders.
    #[must_use]
    pub fn shims(&self) -> PathBuf {
        self.run.join("shim")
    }

    /// A container's cgroup.
    #[must_use]
    pub fn cgroup(&self, id: &ContainerId) -> String {
        format!("{}/{id}", self.cgroup_parent.trim_end_matches('/'))
    }
}

/// A folder that a whole engine lives in may not be relative: helpers have another working folder.
#[must_use]
pub(crate) fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}
