//! What the engine is told at its start, and where its files are.

use crate::model::{Container, ContainerId, IdRange, NetworkSpec};
use net::Subnet;
use net::ipam::{Pool, SubnetRequest};
use std::net::IpAddr;
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
    /// The `insula-netd` program.
    pub netd: PathBuf,
    /// The default network, and where others get their addresses from.
    pub network: NetworkDefaults,
    /// The cgroup below which every container gets its own: `/insula`.
    pub cgroup_parent: String,
    /// How many network namespaces are kept ready; 0 for none.
    pub netns_pool: usize,
    /// Ids for the containers that ask for no user namespace mode of their own; `None` leaves them the host's.
    pub userns: Option<IdRange>,
    /// Folders of files that describe devices of the Container Device Interface, the most important last.
    pub cdi_folders: Vec<PathBuf>,
    /// The runtimes that containers can be run by.
    pub runtimes: crate::Runtimes,
    /// How registries are reached.
    pub distribution: Distribution,
}

/// The default network, and where others get their addresses from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NetworkDefaults {
    /// The default network's bridge; `insula0` where none is given.
    pub bridge: Option<String>,
    /// The bridge's address with its subnet's prefix; one of the pools where none is given.
    pub address: Option<Subnet>,
    /// The part of the default network's subnet that containers get addresses from.
    pub range: Option<Subnet>,
    /// The largest packet, in bytes.
    pub mtu: Option<u32>,
    /// Whether the default network has IPv6 as well.
    pub v6: bool,
    /// Where subnets come from that nobody asked for by number; Docker's where there is none.
    pub pools: Vec<Pool>,
    /// What `host-gateway` means in a container's list of hosts, one address a family; the default network's gateways where there
    /// is none.
    pub host_gateways: Vec<IpAddr>,
}

impl NetworkDefaults {
    /// What a new default network is to be.
    pub(crate) fn default_bridge(&self, spec: &mut NetworkSpec) {
        spec.link.bridge = Some(self.bridge.clone().unwrap_or_else(|| "insula0".to_owned()));
        spec.link.mtu = self.mtu;
        spec.v6 = self.v6;
        if let Some(address) = self.address {
            spec.subnets.push(SubnetRequest {
                subnet: Some(address.network()),
                gateway: Some(address.address()),
                range: self.range,
                v6: address.is_v6(),
                ..SubnetRequest::default()
            });
        }
    }
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
    /// Output of other drivers, where it is kept here too.
    pub local_log: PathBuf,
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
    /// One that leads nowhere.
    #[cfg(test)]
    pub(crate) fn for_tests() -> Self {
        Self {
            netd: "/nowhere/insula-netd".into(),
            network: NetworkDefaults::default(),
            root: "/state".into(),
            run: "/run/x".into(),
            shim: "/shim".into(),
            cgroup_parent: "/insula".into(),
            netns_pool: 0,
            userns: None,
            cdi_folders: Vec::new(),
            runtimes: crate::Runtimes::default(),
            distribution: Distribution::default(),
        }
    }

    /// Where a container's files are.
    #[must_use]
    pub fn paths(&self, id: &ContainerId) -> Paths {
        let dir = self.containers().join(id.as_str());
        Paths {
            log: dir.join(format!("{id}-json.log")),
            local_log: dir.join("local-logs/container.log"),
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

    /// The folder of all records of builds.
    #[must_use]
    pub fn builds(&self) -> PathBuf {
        self.root.join("builds")
    }

    /// The folder of all helpers' runtime folders.
    #[must_use]
    pub fn shims(&self) -> PathBuf {
        self.run.join("shim")
    }

    /// The cgroup of a container that has no parent group of its own.
    #[must_use]
    pub fn cgroup(&self, id: &ContainerId) -> String {
        below(&self.cgroup_parent, id)
    }

    /// A container's cgroup.
    #[must_use]
    pub fn cgroup_of(&self, container: &Container) -> String {
        below(container.spec.cgroup_parent.as_ref().unwrap_or(&self.cgroup_parent), &container.id)
    }
}

/// A container's group below this one.
pub(crate) fn below(parent: &str, id: &ContainerId) -> String {
    format!("/{}/{id}", parent.trim_matches('/'))
}

/// A folder that a whole engine lives in may not be relative: helpers have another working folder.
#[must_use]
pub(crate) fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}
