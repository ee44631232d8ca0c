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
    /// What results of builds may take, in bytes; [`crate::CACHE_BYTES`] where nothing is said.
    pub cache_bytes: Option<u64>,
}

/// A subnet's address by these names is what containers are told is the way out, in place of the bridge's.
///
/// # Source
/// Docker's bridge driver, which knows them in `--aux-address`.
pub(crate) const GATEWAY_V4: &str = "DefaultGatewayIPv4";
/// As [`GATEWAY_V4`].
pub(crate) const GATEWAY_V6: &str = "DefaultGatewayIPv6";

/// The default network, and where others get their addresses from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NetworkDefaults {
    /// The default network's bridge; `insula0` where none is given.
    pub bridge: Option<String>,
    /// There is no default network: containers that ask for no other have none.
    pub absent: bool,
    /// The bridge's addresses with their subnets' prefixes, one of each version of IP; one of the pools where none is given.
    pub addresses: Vec<Subnet>,
    /// The parts of the default network's subnets that containers get addresses from, one of each version of IP.
    pub ranges: Vec<Subnet>,
    /// What its containers are told is the way out, one of each version of IP; the bridge where none is given.
    pub gateways: Vec<IpAddr>,
    /// Its containers reach each other only at published ports.
    pub separate: bool,
    /// What leaves it keeps the containers' addresses.
    pub unmasked: bool,
    /// Where its containers' ports are published that name no address.
    pub publish_at: Option<IpAddr>,
    /// The kernel's switches for passing packets on are left as they are.
    pub leave_forwarding: bool,
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
        spec.link.separate = self.separate;
        spec.link.masquerade = !self.unmasked;
        spec.link.publish_at = self.publish_at.filter(|address| !address.is_unspecified());
        spec.v6 = self.v6;
        for v6 in [false, true] {
            let address = self.addresses.iter().find(|address| address.is_v6() == v6);
            let range = self.ranges.iter().find(|range| range.is_v6() == v6);
            let way_out = self.gateways.iter().find(|gateway| gateway.is_ipv6() == v6);
            if (address.is_none() && range.is_none() && way_out.is_none()) || (v6 && !self.v6) {
                continue;
            }
            // a range alone is the whole subnet, as with Docker's daemon
            let key = if v6 { GATEWAY_V6 } else { GATEWAY_V4 };
            spec.subnets.push(SubnetRequest {
                subnet: address.or(range).map(|subnet| subnet.network()),
                gateway: address.map(|address| address.address()),
                range: range.copied().filter(|_| address.is_some()),
                auxiliary: way_out.map(|address| (key.to_owned(), *address)).into_iter().collect(),
                v6,
                pooled: false,
            });
        }
    }

    /// Whether a default network that there is already is what these settings ask for.
    pub(crate) fn fits(&self, network: &NetworkSpec) -> bool {
        let mut wanted = NetworkSpec::default();
        self.default_bridge(&mut wanted);
        let link = &network.link;
        let same_link = (&wanted.link.bridge, wanted.link.mtu, wanted.link.separate, wanted.link.masquerade)
            == (&link.bridge, link.mtu, link.separate, link.masquerade)
            && wanted.link.publish_at == link.publish_at;
        let asked = |spec: &NetworkSpec, v6: bool| {
            spec.subnets.iter().find(|one| crate::network::book::is_v6(one) == v6).cloned().unwrap_or_default()
        };
        let same_subnet = |v6: bool| {
            let (asked, has) = (asked(&wanted, v6), asked(network, v6));
            (asked.subnet.is_none() == has.pooled || !has.v6 && has.subnet.is_none())
                && (asked.subnet.is_none() || asked.subnet == has.subnet)
                && (asked.gateway.is_none() || asked.gateway == has.gateway)
                && (asked.range, &asked.auxiliary) == (has.range, &has.auxiliary)
        };
        same_link && wanted.v6 == network.v6 && same_subnet(false) && (!wanted.v6 || same_subnet(true))
    }
}

/// How registries are reached, and what is kept of what they send.
#[derive(Debug, Clone, Default)]
pub struct Distribution {
    /// Trust, proxies, mirrors, patience.
    pub client: registry::client::ClientConfig,
    /// Whether the compressed layers of pulled images are kept.
    pub keep: KeepBlobs,
    /// How many layers of a pull are fetched at a time; 3 where none is given.
    pub downloads: Option<usize>,
    /// How many layers of a push are sent at a time; 4 where none is given.
    pub uploads: Option<usize>,
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
            cache_bytes: None,
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
