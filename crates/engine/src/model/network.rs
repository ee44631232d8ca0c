//! Networks, and containers' ends of them.

use super::NetworkId;
use net::firewall::{Gateway, Protocol};
use net::ipam::{Lease, SubnetRequest};
use net::{IpvlanMode, Mac, MacvlanMode, Rate};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The network that containers are in where nothing else is said.
pub const DEFAULT_NETWORK: &str = "bridge";

/// What a network's containers hang on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Driver {
    /// A bridge of the host's.
    #[default]
    Bridge,
    /// A link of the host's, with link-layer addresses of their own.
    Macvlan,
    /// A link of the host's, with its link-layer address.
    Ipvlan,
    /// The host's own network.
    Host,
    /// Nothing.
    None,
}

impl Driver {
    /// Whether containers have addresses in such a network.
    #[must_use]
    pub fn has_addresses(self) -> bool {
        matches!(self, Self::Bridge | Self::Macvlan | Self::Ipvlan)
    }
}

/// The other hosts of a network that spans several.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tunnel {
    /// The network's number on all of them, 24 bits.
    pub id: u32,
    /// The UDP port, the same on all.
    pub port: u16,
    /// This host's address towards the others.
    pub local: IpAddr,
    /// The others' addresses.
    pub peers: Vec<IpAddr>,
}

/// How a network's links are made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LinkOptions {
    /// The bridge's name; made of the network's id where none is given.
    pub bridge: Option<String>,
    /// The bridge, or the parent, was there before the network, and stays after it.
    pub found: bool,
    /// The largest packet, in bytes.
    pub mtu: Option<u32>,
    /// Whether what leaves the network gets the host's address.
    pub masquerade: bool,
    /// The host's IPv4 address that what leaves the network gets; whichever fits where none is given.
    pub leave_v4: Option<Ipv4Addr>,
    /// The host's IPv6 address that what leaves the network gets.
    pub leave_v6: Option<Ipv6Addr>,
    /// Containers see each other only at published ports.
    pub separate: bool,
    /// How containers are reached over IPv4.
    pub v4: Gateway,
    /// How containers are reached over IPv6.
    pub v6: Gateway,
    /// Links of the host from where published ports are reached at the containers' own addresses, too.
    pub trusted: BTreeSet<String>,
    /// The host has no address in the network, which is then no way out.
    pub isolated: bool,
    /// Where ports are published that name no address.
    pub publish_at: Option<IpAddr>,
    /// What the names of links in containers begin with.
    pub prefix: String,
    /// The link that sub-links hang on; `eth0.50` is made where it is missing.
    pub parent: Option<String>,
    /// How sub-links with addresses of their own see each other.
    pub macvlan: MacvlanMode,
    /// At which layer sub-links without such addresses work.
    pub ipvlan: IpvlanMode,
    /// The other hosts, if there are any.
    pub tunnel: Option<Tunnel>,
    /// Limits for each container.
    pub rate: Rate,
}

impl Default for LinkOptions {
    fn default() -> Self {
        Self {
            bridge: None,
            found: false,
            mtu: None,
            masquerade: true,
            leave_v4: None,
            leave_v6: None,
            separate: false,
            v4: Gateway::Nat,
            v6: Gateway::Nat,
            trusted: BTreeSet::new(),
            isolated: false,
            publish_at: None,
            prefix: "eth".to_owned(),
            parent: None,
            macvlan: MacvlanMode::Bridge,
            ipvlan: IpvlanMode::L2,
            tunnel: None,
            rate: Rate::default(),
        }
    }
}

/// A network as it was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NetworkSpec {
    /// Its name.
    pub name: String,
    /// What its containers hang on.
    pub driver: Driver,
    /// Containers get IPv4 addresses.
    pub v4: bool,
    /// Containers get IPv6 addresses.
    pub v6: bool,
    /// No way in or out but to the host.
    pub internal: bool,
    /// Recorded for clients.
    pub attachable: bool,
    /// Its subnets; where a version of IP has none, one from the pools.
    pub subnets: Vec<SubnetRequest>,
    /// How its links are made.
    pub link: LinkOptions,
    /// It is only there for others to be made from.
    pub template: bool,
    /// The network that this was made from.
    pub made_from: Option<String>,
    /// The options in the client's words, as it is shown them again.
    pub words: BTreeMap<String, String>,
    /// The address options in the client's words.
    pub address_words: BTreeMap<String, String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
}

impl Default for NetworkSpec {
    fn default() -> Self {
        Self {
            name: String::new(),
            driver: Driver::Bridge,
            v4: true,
            v6: false,
            internal: false,
            attachable: false,
            subnets: Vec::new(),
            link: LinkOptions::default(),
            template: false,
            made_from: None,
            words: BTreeMap::new(),
            address_words: BTreeMap::new(),
            labels: BTreeMap::new(),
        }
    }
}

/// A network's record. Its subnets are settled: each request names its subnet and gateway.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// Its id.
    pub id: NetworkId,
    /// When it was made, nanoseconds since the Unix epoch.
    pub created_ns: u64,
    /// What was asked for, with settled subnets.
    pub spec: NetworkSpec,
}

impl Network {
    /// The bridge's name, or that of the link which stands in for a missing parent.
    #[must_use]
    pub fn link_name(&self) -> String {
        let prefix = match self.spec.driver {
            Driver::Bridge => "br-",
            _ => "dm-",
        };
        self.spec.link.bridge.clone().unwrap_or_else(|| format!("{prefix}{}", self.id.short()))
    }

    /// Whether it is one of those that every host has.
    #[must_use]
    pub fn is_predefined(&self) -> bool {
        matches!(self.spec.name.as_str(), DEFAULT_NETWORK | "host" | "none")
    }

    /// Whether it is the one where nothing else is said, whose containers do not find each other by name.
    #[must_use]
    pub fn is_default(&self) -> bool {
        self.spec.name == DEFAULT_NETWORK
    }

    /// The address beside the bridge's that its containers are told is the way out, if there is one.
    #[must_use]
    pub(crate) fn way_out(&self, v6: bool) -> Option<IpAddr> {
        let key = if v6 { crate::config::GATEWAY_V6 } else { crate::config::GATEWAY_V4 };
        let named = self.spec.subnets.iter().find_map(|subnet| subnet.auxiliary.get(key).copied());
        named.filter(|_| self.spec.driver == Driver::Bridge)
    }

    /// The gateways that its containers use; none in a network without a way out.
    #[must_use]
    pub fn gateways(&self) -> Vec<IpAddr> {
        self.spec.subnets.iter().filter_map(|subnet| subnet.gateway).collect()
    }
}

/// How a container wants to be in a network.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct EndpointRequest {
    /// Names beside the container's own.
    pub aliases: Vec<String>,
    /// Addresses that it must have: at most one of each version of IP.
    pub addresses: Vec<IpAddr>,
    /// Addresses of its link beside those.
    pub link_local: Vec<IpAddr>,
    /// The link-layer address.
    pub mac: Option<Mac>,
    /// Other containers and the names by which this one knows them, `web:frontend`.
    pub links: Vec<String>,
    /// Of several networks, the one with the highest number is the way out.
    pub gateway_priority: i64,
    /// The link's name in the container.
    pub link_name: Option<String>,
    /// Switches of the kernel for its link.
    pub switches: Vec<net::Switch>,
    /// Limits, in place of the network's.
    pub rate: Rate,
    /// The options in the client's words, as it is shown them again.
    pub words: BTreeMap<String, String>,
}

/// A container's place in a network.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Endpoint {
    /// What was asked for.
    pub request: EndpointRequest,
    /// What it has, while the container runs.
    pub link: Option<EndpointLink>,
}

/// A running container's link in a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointLink {
    /// The endpoint's id: 64 hexadecimal digits, new with each start.
    pub id: String,
    /// The network.
    pub network: NetworkId,
    /// The link's name in the container.
    pub name: String,
    /// The link-layer address; an ipvlan has its parent's.
    pub mac: Option<Mac>,
    /// Its addresses and their gateways.
    pub leases: Vec<Lease>,
    /// Its names, the container's first.
    pub names: Vec<String>,
    /// Packets go straight out of it: the leases' gateways are nobody's way.
    #[serde(default)]
    pub direct: bool,
}

impl EndpointLink {
    /// The addresses without their prefixes.
    #[must_use]
    pub fn addresses(&self) -> Vec<IpAddr> {
        self.leases.iter().map(|lease| lease.address.address()).collect()
    }

    /// The name of the end of the link that stays on the host.
    #[must_use]
    pub fn near(&self) -> String {
        format!("veth{}", self.id.get(..7).unwrap_or(&self.id))
    }

    /// The lease of one version of IP.
    #[must_use]
    pub fn lease(&self, v6: bool) -> Option<Lease> {
        self.leases.iter().find(|lease| lease.address.is_v6() == v6).copied()
    }
}

/// A port of a container that is to be reached through the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishRequest {
    /// The container's port.
    pub port: u16,
    /// The protocol.
    pub protocol: Protocol,
    /// The host's address; every one where none is given.
    pub host: Option<IpAddr>,
    /// The host's port, first and last of those that may be taken; any where none is given.
    pub host_ports: Option<(u16, u16)>,
}

/// What a network's container looks like to those who list the network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// The container's id.
    pub container: super::ContainerId,
    /// Its name.
    pub name: String,
    /// Its link; none in networks without addresses.
    pub link: Option<EndpointLink>,
}
