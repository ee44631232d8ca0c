//! What the table is to say, and the elements that say it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::Published;
use super::wire::Element;
use crate::Subnet;
use crate::address::octets;

/// A protocol with ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// The number of the protocol in an IP packet.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        })
    }
}

impl FromStr for Protocol {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.to_ascii_lowercase().as_str() {
            "tcp" => Ok(Self::Tcp),
            "udp" => Ok(Self::Udp),
            "sctp" => Ok(Self::Sctp),
            _ => Err(format!("\"{text}\" is no protocol with ports: tcp, udp or sctp")),
        }
    }
}

/// What stands between a network and the rest of the world, for one version of IP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Gateway {
    /// Containers are reached at published ports of the host, and nowhere else.
    #[default]
    Nat,
    /// As [`Self::Nat`]; whoever has a route to the network also reaches every port of a container.
    NatUnprotected,
    /// Containers are reached at their own addresses: at published ports, and by ping. No address is changed on the way.
    Routed,
}

/// A network as the packet filter sees it; by its bridge in [`Rules`].
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct NetworkRules {
    /// Its subnets.
    pub subnets: Vec<Subnet>,
    /// Whether what leaves gets the host's address, where nothing is routed.
    pub masquerade: bool,
    /// No way in or out but to the host.
    pub internal: bool,
    /// Containers see each other only at published ports.
    pub separate: bool,
    /// The host's IPv4 address that what leaves gets; whichever fits where none is given.
    #[serde(default)]
    pub leave_v4: Option<Ipv4Addr>,
    /// The host's IPv6 address that what leaves gets.
    #[serde(default)]
    pub leave_v6: Option<Ipv6Addr>,
    /// How the containers are reached over IPv4.
    #[serde(default)]
    pub v4: Gateway,
    /// How the containers are reached over IPv6.
    #[serde(default)]
    pub v6: Gateway,
    /// Links of the host from where published ports are reached at the containers' own addresses, too.
    #[serde(default)]
    pub trusted: BTreeSet<String>,
}

impl NetworkRules {
    /// The host's address that what leaves gets.
    fn leave(&self, v6: bool) -> Option<IpAddr> {
        if v6 { self.leave_v6.map(IpAddr::V6) } else { self.leave_v4.map(IpAddr::V4) }
    }

    fn gateway(&self, v6: bool) -> Gateway {
        if v6 { self.v6 } else { self.v4 }
    }
}

/// A published port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Publication {
    /// The host's address; none or the unspecified one: every address of the container's version of IP.
    pub host: Option<IpAddr>,
    /// The protocol.
    pub protocol: Protocol,
    /// The host's port; 0 where there is none: the port is opened at the container's own address ([`Gateway::Routed`]).
    pub port: u16,
    /// The container's address.
    pub to: IpAddr,
    /// The container's port.
    pub to_port: u16,
}

/// Everything that the table is to say.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Rules {
    /// The networks, by the name of their bridge.
    pub networks: BTreeMap<String, NetworkRules>,
    /// The published ports.
    pub published: Published,
}

/// The elements of each set.
pub(super) type Elements = BTreeMap<&'static str, BTreeSet<Element>>;

/// The elements that say `rules`. Of two publications for the same address and port the first counts: a map has one
/// answer only, and the engine has refused the second.
pub(super) fn elements(rules: &Rules) -> Elements {
    let mut all = Elements::new();
    let mut add = |set: &'static str, element: Element| {
        all.entry(set).or_default().insert(element);
    };
    for (bridge, network) in &rules.networks {
        let name = name(bridge);
        let twice = [name.clone(), name.clone()].concat();
        add("bridges", plain(name.clone()));
        add("same", plain(twice.clone()));
        if network.internal {
            add("internal", plain(name.clone()));
        }
        if network.separate {
            add("separate", plain(twice));
        }
        for (v6, closed, pinged) in [(false, "closed4", "routed4"), (true, "closed6", "routed6")] {
            match network.gateway(v6) {
                Gateway::Nat => add(closed, plain(name.clone())),
                Gateway::NatUnprotected => {}
                Gateway::Routed => {
                    add(closed, plain(name.clone()));
                    add(pinged, plain(name.clone()));
                }
            }
        }
        for subnet in &network.subnets {
            let (first, last) = (octets(subnet.network().address()), octets(subnet.last()));
            let twice = |part: &[u8]| [part, part].concat();
            let hairpin = Element { key: twice(&first), end: twice(&last), data: Vec::new() };
            add(if subnet.is_v6() { "hairpin6" } else { "hairpin4" }, hairpin);
            let routed = network.gateway(subnet.is_v6()) == Gateway::Routed;
            if network.masquerade && !network.internal && !routed {
                let (low, high) = (vec![0; first.len()], vec![255; first.len()]);
                let named = network.leave(subnet.is_v6());
                let data = named.map(octets).unwrap_or_default();
                let out = Element { key: [first, low].concat(), end: [last, high].concat(), data };
                add(
                    match (named.is_some(), subnet.is_v6()) {
                        (false, false) => "masq4",
                        (false, true) => "masq6",
                        (true, false) => "snat4",
                        (true, true) => "snat6",
                    },
                    out,
                );
            }
        }
    }
    for (set, elements) in port_elements(&rules.published) {
        all.entry(set).or_default().extend(elements);
    }
    all.extend(trusted_elements(&rules.networks, &rules.published.at_containers()));
    all
}

/// The elements for containers' ports ([`Published::at_containers`]) as those see them who come from trusted links.
pub(super) fn trusted_elements(networks: &BTreeMap<String, NetworkRules>, ports: &Published) -> Elements {
    let mut all = Elements::new();
    for network in networks.values().filter(|network| !network.trusted.is_empty()) {
        let own = |port: &Publication| network.subnets.iter().any(|subnet| subnet.contains(port.to));
        for port in ports.iter().filter(own) {
            for link in &network.trusted {
                let key = [name(link), port.at_container()].concat();
                all.entry(if port.to.is_ipv6() { "trust6" } else { "trust4" }).or_default().insert(plain(key));
            }
        }
    }
    all
}

/// The elements for ports only.
pub(super) fn port_elements(published: &Published) -> Elements {
    let of = |(key, data): (Vec<u8>, Vec<u8>)| Element { key, end: Vec::new(), data };
    // The sets are maps of many: each key once, without a search.
    let maps = publications(published).into_iter();
    maps.map(|(set, map)| (set, map.into_iter().map(of).collect())).collect()
}

fn publications(published: &Published) -> BTreeMap<&'static str, BTreeMap<Vec<u8>, Vec<u8>>> {
    let mut maps: BTreeMap<&'static str, BTreeMap<Vec<u8>, Vec<u8>>> = BTreeMap::new();
    for publication in published.iter() {
        let Some((set, address, protocol)) = publication.place() else { continue };
        let port = |number: u16| [number.to_be_bytes().to_vec(), vec![0, 0]].concat();
        let service = [vec![protocol.number(), 0, 0, 0], port(publication.place_port())].concat();
        let key = [address.map(octets).unwrap_or_default(), service].concat();
        let target = match publication.is_direct() {
            true => Vec::new(),
            false => [octets(publication.to), port(publication.to_port)].concat(),
        };
        if set == "at4" && address.is_some_and(|host| host.is_loopback()) {
            maps.entry("loop4").or_default().insert(key.clone(), Vec::new());
        }
        maps.entry(set).or_default().entry(key).or_insert(target);
    }
    maps
}

fn plain(key: Vec<u8>) -> Element {
    Element { key, end: Vec::new(), data: Vec::new() }
}

/// A link's name as registers hold it.
fn name(link: &str) -> Vec<u8> {
    let mut bytes = link.as_bytes().to_vec();
    bytes.resize(16, 0);
    bytes
}

impl Publication {
    /// The publications for a host address as a client writes it: an unspecified or no address means every address of
    /// each version of IP in which the container has one.
    #[must_use]
    pub fn for_each(host: Option<IpAddr>, protocol: Protocol, port: u16, to: &[IpAddr], to_port: u16) -> Vec<Self> {
        let fits = |target: &&IpAddr| match host {
            None => true,
            Some(host) => host.is_ipv6() == target.is_ipv6(),
        };
        to.iter().filter(fits).map(|to| Self { host, protocol, port, to: *to, to_port }).collect()
    }

    /// The set that tells of it, and its key there but for the port; none where no rule can tell.
    pub(super) fn place(&self) -> Option<(&'static str, Option<IpAddr>, Protocol)> {
        if !self.is_direct() && !self.is_redirected() {
            return None;
        }
        let host = self.host.filter(|host| !host.is_unspecified());
        let (set, address) = match (self.is_direct(), host.is_some(), self.to.is_ipv6()) {
            (true, _, false) => ("direct4", Some(self.to)),
            (true, _, true) => ("direct6", Some(self.to)),
            (false, false, false) => ("any4", None),
            (false, false, true) => ("any6", None),
            (false, true, false) => ("at4", host),
            (false, true, true) => ("at6", host),
        };
        Some((set, address, self.protocol))
    }

    /// The port of that key.
    pub(super) fn place_port(&self) -> u16 {
        if self.is_direct() { self.to_port } else { self.port }
    }

    /// The container's address, protocol and port as registers hold them.
    fn at_container(&self) -> Vec<u8> {
        let port = [self.to_port.to_be_bytes(), [0, 0]].concat();
        [octets(self.to), vec![self.protocol.number(), 0, 0, 0], port].concat()
    }

    /// Whether both would answer at one address and port.
    #[must_use]
    pub fn conflicts_with(&self, other: &Self) -> bool {
        let any = |host: Option<IpAddr>| host.filter(|host| !host.is_unspecified());
        self.protocol == other.protocol
            && self.port == other.port
            && !self.is_direct()
            && self.host_address().is_ipv6() == other.host_address().is_ipv6()
            && match (any(self.host), any(other.host)) {
                (Some(one), Some(two)) => one == two,
                _ => true,
            }
    }

    /// Whether a rule can do it: no packet changes its version of IP on the way. The helper carries the others.
    #[must_use]
    pub fn is_redirected(&self) -> bool {
        !self.is_direct() && self.host_address().is_ipv6() == self.to.is_ipv6()
    }

    /// Whether the port is opened at the container's own address, with none of the host's.
    #[must_use]
    pub fn is_direct(&self) -> bool {
        self.port == 0
    }

    /// The host's address, with the unspecified one in place of none.
    #[must_use]
    pub fn host_address(&self) -> IpAddr {
        let any = if self.to.is_ipv6() { IpAddr::V6(Ipv6Addr::UNSPECIFIED) } else { IpAddr::V4(Ipv4Addr::UNSPECIFIED) };
        self.host.unwrap_or(any)
    }
}
