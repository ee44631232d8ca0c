//! What links, routes and rules a network and its containers are to have: pure translation to what `net` understands.

use crate::model::{Container, Driver, Endpoint, EndpointLink, Network};
use net::firewall::{Gateway, NetworkRules};
use net::{Attachment, BridgeSpec, EndpointSpec, IpvlanMode, Mac, Rate, Route, Subnet, VxlanPeers, VxlanSpec};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::sync::Arc;

/// A container's endpoint with its network.
#[derive(Debug, Clone)]
pub(crate) struct Joined {
    pub(crate) network: Arc<Network>,
    pub(crate) endpoint: Endpoint,
    pub(crate) link: EndpointLink,
}

/// For which versions of IP an endpoint is the way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct WayOut {
    pub(crate) v4: bool,
    pub(crate) v6: bool,
}

/// The bridge of a network of the daemon whose folder is `owner`.
pub(crate) fn bridge(network: &Network, owner: &Path) -> BridgeSpec {
    let options = &network.spec.link;
    let with_gateway = |asked: &net::ipam::SubnetRequest| Subnet::new(asked.gateway?, asked.subnet?.prefix());
    let addresses: Vec<Subnet> = network.spec.subnets.iter().filter_map(with_gateway).collect();
    BridgeSpec {
        name: network.link_name(),
        addresses: if options.isolated { Vec::new() } else { addresses },
        mtu: mtu(network),
        mac: None,
        localhost: !network.spec.internal && !options.isolated,
        owner: Some(owner.to_owned()),
    }
}

/// The largest packet of a network: within a tunnel there is room for less.
fn mtu(network: &Network) -> Option<u32> {
    const BESIDE_V4: u32 = 50;
    const BESIDE_V6: u32 = 70;
    let tunnel = network.spec.link.tunnel.as_ref();
    let left = |tunnel: &crate::model::Tunnel| 1500 - if tunnel.local.is_ipv6() { BESIDE_V6 } else { BESIDE_V4 };
    network.spec.link.mtu.or_else(|| tunnel.map(left))
}

/// The tunnel of a network that spans hosts.
pub(crate) fn tunnel(network: &Network) -> Option<VxlanSpec> {
    let tunnel = network.spec.link.tunnel.as_ref()?;
    Some(VxlanSpec {
        name: format!("vx-{}", network.id.short()),
        id: tunnel.id,
        bridge: network.link_name(),
        local: tunnel.local,
        port: tunnel.port,
        peers: VxlanPeers::Static(tunnel.peers.clone()),
        mtu: mtu(network),
        mac: None,
    })
}

/// The link that a network's sub-links hang on.
pub(crate) fn parent(network: &Network) -> String {
    network.spec.link.parent.clone().unwrap_or_else(|| network.link_name())
}

/// The link below, and the VLAN's number, of a parent that is called `eth0.10`.
pub(crate) fn tagged(parent: &str) -> Option<(&str, u16)> {
    let (below, id) = parent.rsplit_once('.')?;
    Some((below, id.parse().ok()?)).filter(|(below, _)| !below.is_empty())
}

/// What the packet filter does for a network.
pub(crate) fn rules(network: &Network) -> NetworkRules {
    let options = &network.spec.link;
    NetworkRules {
        subnets: network.spec.subnets.iter().filter_map(|asked| asked.subnet).collect(),
        masquerade: options.masquerade,
        internal: network.spec.internal || options.isolated,
        separate: options.separate,
        leave_v4: options.leave_v4,
        leave_v6: options.leave_v6,
        v4: options.v4,
        v6: options.v6,
        trusted: options.trusted.clone(),
    }
}

/// The addresses that a new endpoint's link-layer address and the rest of it follow from.
pub(crate) fn default_mac(network: &Network, endpoint: &Endpoint, first: Option<IpAddr>) -> Option<Mac> {
    match network.spec.driver {
        Driver::Ipvlan => None,
        _ => endpoint.request.mac.or_else(|| first.map(Mac::of)),
    }
}

/// A container's link.
pub(crate) fn link(joined: &Joined, out: WayOut, hairpin: bool) -> EndpointSpec {
    let Joined { network, endpoint, link } = joined;
    let options = &network.spec.link;
    let attachment = match network.spec.driver {
        Driver::Macvlan => Attachment::Macvlan { parent: parent(network), mode: options.macvlan },
        Driver::Ipvlan => Attachment::Ipvlan { parent: parent(network), mode: options.ipvlan },
        Driver::Bridge | Driver::Host | Driver::None => {
            Attachment::Bridge { bridge: network.link_name(), near: link.near(), isolated: options.separate, hairpin }
        }
    };
    let mut addresses: Vec<Subnet> = link.leases.iter().map(|lease| lease.address).collect();
    addresses.extend(
        endpoint
            .request
            .link_local
            .iter()
            .filter_map(|address| Subnet::new(*address, if address.is_ipv6() { 64 } else { 16 })),
    );
    EndpointSpec {
        attachment,
        name: link.name.clone(),
        mac: link.mac,
        addresses,
        routes: routes(joined, out),
        mtu: mtu(network),
        rate: rate(network, endpoint),
        switches: endpoint.request.switches.clone(),
    }
}

/// The limits of an endpoint: its own, else the network's.
pub(crate) fn rate(network: &Network, endpoint: &Endpoint) -> Rate {
    let (own, common) = (endpoint.request.rate, network.spec.link.rate);
    Rate { receive: own.receive.or(common.receive), send: own.send.or(common.send) }
}

/// The default routes through an endpoint, for the versions of IP for which it is the way out.
pub(crate) fn routes(joined: &Joined, out: WayOut) -> Vec<Route> {
    let direct = is_direct(&joined.network);
    let one = |v6: bool| {
        let lease = joined.link.lease(v6)?;
        let any = if v6 { IpAddr::V6(Ipv6Addr::UNSPECIFIED) } else { IpAddr::V4(Ipv4Addr::UNSPECIFIED) };
        Some(if direct { Route { to: Subnet::new(any, 0)?, via: None } } else { Route::default_via(lease.gateway) })
    };
    let ways = [(out.v4, false), (out.v6, true)];
    let mut routes: Vec<Route> = ways.into_iter().filter(|(out, _)| *out).filter_map(|(_, v6)| one(v6)).collect();
    if direct {
        // no frame finds the network's other subnets where there is no link layer
        let own = |subnet: &Subnet| joined.link.leases.iter().any(|lease| subnet.contains(lease.address.address()));
        let others = joined.network.spec.subnets.iter().filter_map(|asked| asked.subnet);
        routes.extend(others.filter(|subnet| !own(subnet)).map(|to| Route { to, via: None }));
    }
    routes
}

/// Whether packets go straight out of a network's links, without a gateway.
pub(crate) fn is_direct(network: &Network) -> bool {
    network.spec.driver == Driver::Ipvlan && network.spec.link.ipvlan != IpvlanMode::L2
}

/// Whether a network leads anywhere.
fn leads_out(network: &Network) -> bool {
    !network.spec.internal && !network.spec.link.isolated
}

/// For each endpoint whether it is the way out: the one with the highest priority, then the first by its network's name,
/// as Docker's daemon has it.
pub(crate) fn ways_out(joined: &[Joined]) -> Vec<WayOut> {
    let best = |v6: bool| {
        let able = |one: &&Joined| leads_out(&one.network) && one.link.lease(v6).is_some();
        let rank = |one: &&Joined| (-one.endpoint.request.gateway_priority, one.network.spec.name.clone());
        joined.iter().filter(able).min_by_key(rank).map(|one| one.link.id.clone())
    };
    let (v4, v6) = (best(false), best(true));
    let is = |best: &Option<String>, one: &Joined| best.as_ref() == Some(&one.link.id);
    joined.iter().map(|one| WayOut { v4: is(&v4, one), v6: is(&v6, one) }).collect()
}

/// Where a container's published ports are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Targets {
    /// The addresses that ports of the host are passed on to, one of each version of IP at most.
    pub(crate) passed: Vec<IpAddr>,
    /// The addresses at which the ports are opened themselves.
    pub(crate) direct: Vec<IpAddr>,
}

impl Targets {
    /// Whether ports can be published nowhere.
    pub(crate) fn is_empty(&self) -> bool {
        self.passed.is_empty() && self.direct.is_empty()
    }
}

/// Where published ports are: at the ways out through bridges.
pub(crate) fn targets(joined: &[Joined]) -> Targets {
    let ways = ways_out(joined);
    let mut targets = Targets::default();
    for (one, out) in joined.iter().zip(ways).filter(|(one, _)| one.network.spec.driver == Driver::Bridge) {
        let options = &one.network.spec.link;
        for (wanted, v6, gateway) in [(out.v4, false, options.v4), (out.v6, true, options.v6)] {
            let list = if gateway == Gateway::Routed { &mut targets.direct } else { &mut targets.passed };
            list.extend(one.link.lease(v6).filter(|_| wanted).map(|lease| lease.address.address()));
        }
    }
    targets
}

/// The order of a container's networks: its own first, then by name.
pub(crate) fn in_order<'c>(container: &'c Container, main: Option<&str>) -> Vec<&'c String> {
    let mut names: Vec<&String> = container.endpoints.keys().collect();
    names.sort_by_key(|name| (Some(name.as_str()) != main, name.as_str()));
    names
}

/// A name for a new link among those that the container has.
pub(crate) fn free_name(prefix: &str, taken: &[String]) -> String {
    (0..).map(|number: u32| format!("{prefix}{number}")).find(|name| !taken.contains(name)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{NetworkId, NetworkSpec};
    use net::ipam::{Lease, SubnetRequest};

    fn joined(name: &str, number: u8, change: impl FnOnce(&mut NetworkSpec, &mut Endpoint)) -> Joined {
        let id = NetworkId::known(&format!("{number:02x}").repeat(32));
        let mut spec = NetworkSpec { name: name.to_owned(), ..NetworkSpec::default() };
        let mut endpoint = Endpoint::default();
        change(&mut spec, &mut endpoint);
        let lease =
            |text: &str, gateway: &str| Lease { address: text.parse().unwrap(), gateway: gateway.parse().unwrap() };
        let mut leases = vec![lease(&format!("10.{number}.0.2/16"), &format!("10.{number}.0.1"))];
        if spec.v6 {
            leases.push(lease(&format!("fd00:{number}::2/64"), &format!("fd00:{number}::1")));
        }
        let link = EndpointLink {
            id: format!("{number:02x}").repeat(32),
            network: id.clone(),
            name: "eth0".into(),
            mac: None,
            leases,
            names: Vec::new(),
            direct: false,
        };
        Joined { network: Arc::new(Network { id, created_ns: 0, spec }), endpoint, link }
    }

    #[test]
    fn the_way_out_is_the_first_by_name_unless_another_has_priority() {
        let ways = |list: &[Joined]| ways_out(list).iter().map(|way| (way.v4, way.v6)).collect::<Vec<_>>();
        let (b, a) = (joined("b", 1, |_, _| ()), joined("a", 2, |_, _| ()));
        assert_eq!(ways(&[b.clone(), a.clone()]), [(false, false), (true, false)]);
        let first = joined("z", 3, |_, endpoint| endpoint.request.gateway_priority = 1);
        assert_eq!(ways(&[b.clone(), first]), [(false, false), (true, false)]);
        let internal = joined("a", 4, |spec, _| spec.internal = true);
        assert_eq!(ways(&[internal, b.clone()]), [(false, false), (true, false)]);
        let six = joined("c", 5, |spec, _| spec.v6 = true);
        assert_eq!(ways(&[b.clone(), six.clone()]), [(true, false), (false, true)]);
        let wanted: Vec<IpAddr> = ["10.1.0.2", "fd00:5::2"].map(|text| text.parse().unwrap()).into();
        assert_eq!(targets(&[b.clone(), six]), Targets { passed: wanted.clone(), direct: Vec::new() });
        let routed = joined("c", 5, |spec, _| (spec.v6, spec.link.v6) = (true, Gateway::Routed));
        let (four, six) = (wanted[..1].to_vec(), wanted[1..].to_vec());
        assert_eq!(targets(&[b, routed]), Targets { passed: four, direct: six });
    }

    #[test]
    fn links_follow_their_network() {
        let limited = joined("n", 1, |spec, endpoint| {
            spec.link.rate = Rate { receive: Some(5), send: Some(6) };
            endpoint.request.rate.send = Some(7);
            endpoint.request.link_local = vec!["169.254.1.1".parse().unwrap()];
        });
        let spec = link(&limited, WayOut { v4: true, v6: false }, false);
        assert_eq!((spec.rate.receive, spec.rate.send), (Some(5), Some(7)));
        assert_eq!(spec.addresses[1].to_string(), "169.254.1.1/16");
        assert_eq!(spec.routes, [Route::default_via("10.1.0.1".parse().unwrap())]);
        let far = joined("n", 2, |spec, _| {
            spec.driver = Driver::Ipvlan;
            spec.link.ipvlan = IpvlanMode::L3;
            spec.link.parent = Some("eth7".into());
        });
        let spec = link(&far, WayOut { v4: true, v6: true }, false);
        assert_eq!((spec.routes.len(), spec.routes[0].via), (1, None));
        let two = joined("n", 2, |spec, _| {
            spec.driver = Driver::Ipvlan;
            (spec.link.ipvlan, spec.internal) = (IpvlanMode::L3s, true);
            let asked = |text: &str| SubnetRequest { subnet: text.parse().ok(), ..SubnetRequest::default() };
            spec.subnets = ["10.2.0.0/16", "10.9.0.0/16"].map(asked).into();
        });
        let spec = link(&two, WayOut::default(), false);
        assert_eq!(spec.routes, [Route { to: "10.9.0.0/16".parse().unwrap(), via: None }], "to the other subnet only");
        assert_eq!([tagged("eth0.10"), tagged("a.b.4094")], [Some(("eth0", 10)), Some(("a.b", 4094))]);
        assert_eq!([tagged("eth0"), tagged(".7"), tagged("eth0.x")], [None; 3]);
        assert_eq!(free_name("eth", &["eth0".into(), "eth2".into()]), "eth1");
    }
}
