//! Links of every kind, seen by `ip`.

use net::{Attachment, EndpointSpec, IpvlanMode, MacvlanMode, NetError, Rate, Route, Switch, VxlanPeers, VxlanSpec};
use testkit::is_root_or_skip;

use crate::hosts::{Host, bridge, endpoint, subnet};

#[test]
fn a_container_on_a_bridge_has_all_it_was_given() {
    if !is_root_or_skip() {
        return;
    }
    let (host, inside) = (Host::new(), Host::new());
    let mut spec = bridge("net-br0", &["10.77.0.1/24", "fd77::1/64"]);
    spec.mtu = Some(1400);
    host.inside(|| {
        let links = net::Links::open().unwrap();
        let index = links.create_bridge(&spec).unwrap();
        assert_eq!(links.create_bridge(&spec).unwrap(), index, "what is there stays");
    });
    let mut spec = endpoint("net-br0", "net-v0", &["10.77.0.2/24", "fd77::2/64"], &["10.77.0.1", "fd77::1"]);
    spec.mtu = Some(1400);
    spec.routes.push(Route { to: subnet("10.99.0.0/16"), via: Some("10.77.0.9".parse().unwrap()) });
    host.links().connect(inside.fd(), &spec).unwrap();
    let link = inside.links().inspect("eth0").unwrap().unwrap();
    assert_eq!((link.mtu, link.up, link.mac.unwrap().to_string()), (1400, true, "02:42:0a:4d:00:02".to_owned()));
    let near = host.links().inspect("net-v0").unwrap().unwrap();
    assert_eq!(near.master, host.links().inspect("net-br0").unwrap().map(|bridge| bridge.index));
    let Some(text) = inside.run("ip", &["-o", "address"]) else { return println!("skipped: no ip") };
    assert!(text.contains("10.77.0.2/24 brd 10.77.0.255") && text.contains("fd77::2/64"), "{text}");
    let routes = inside.run("ip", &["route"]).unwrap() + &inside.run("ip", &["-6", "route"]).unwrap();
    assert!(routes.contains("default via 10.77.0.1") && routes.contains("default via fd77::1"), "{routes}");
    assert!(routes.contains("10.99.0.0/16 via 10.77.0.9"), "{routes}");
    let used = host.links().used_subnets(&[]).unwrap();
    assert!(used.contains(&subnet("10.77.0.0/24")) && used.contains(&subnet("fd77::/64")), "{used:?}");
    assert!(!host.links().used_subnets(&["net-br0"]).unwrap().contains(&subnet("10.77.0.0/24")));
    assert_eq!(v6_is_off(&inside), "0");
    host.links().disconnect(inside.fd(), &spec).unwrap();
    host.links().disconnect(inside.fd(), &spec).unwrap();
    assert!(inside.links().inspect("eth0").unwrap().is_none());
    host.links().delete(&["net-br0", "net-br0"]).unwrap();
    assert_eq!(host.links().list().unwrap().iter().filter(|link| link.name.starts_with("net-")).count(), 0);
}

/// What the kernel says of IPv6 on a container's link.
fn v6_is_off(inside: &Host) -> String {
    let said = inside.inside(|| std::fs::read_to_string("/proc/sys/net/ipv6/conf/eth0/disable_ipv6"));
    said.unwrap().trim().to_owned()
}

#[test]
fn what_fails_leaves_nothing() {
    if !is_root_or_skip() {
        return;
    }
    let (host, inside) = (Host::new(), Host::new());
    let spec = endpoint("net-none", "net-v0", &["10.77.0.2/24"], &[]);
    assert!(matches!(host.links().connect(inside.fd(), &spec), Err(NetError::NoLink { name }) if name == "net-none"));
    host.inside(|| net::Links::open().unwrap().create_bridge(&bridge("net-br0", &["10.77.0.1/24"])).unwrap());
    let mut bad = endpoint("net-br0", "net-v0", &["10.77.0.2/24"], &[]);
    // The far way has a gateway that is no neighbour's.
    bad.routes.push(Route { to: subnet("10.99.0.0/16"), via: Some("0.0.0.0".parse().unwrap()) });
    bad.routes.push(Route { to: subnet("10.99.0.0/16"), via: Some("fd00::1".parse().unwrap()) });
    assert!(host.links().connect(inside.fd(), &bad).is_err());
    assert!(host.links().inspect("net-v0").unwrap().is_none() && inside.links().inspect("eth0").unwrap().is_none());
    let long = bridge("a-name-that-is-too-long", &[]);
    assert!(matches!(host.links().create_bridge(&long), Err(NetError::Name { .. })));
    let switches = |name: &str| {
        let [family, group, value] = ["ipv4", "conf", "1"].map(str::to_owned);
        vec![Switch { family, group, name: name.to_owned(), value }]
    };
    let plain = endpoint("net-br0", "net-v1", &["10.77.0.2/24"], &[]);
    let wrong = EndpointSpec { switches: switches("no_such"), ..plain.clone() };
    assert!(matches!(host.links().connect(inside.fd(), &wrong), Err(NetError::Sysctl { .. })));
    host.links().connect(inside.fd(), &EndpointSpec { switches: switches("log_martians"), ..plain }).unwrap();
    let said = inside.inside(|| std::fs::read_to_string("/proc/sys/net/ipv4/conf/eth0/log_martians"));
    assert_eq!(said.unwrap().trim(), "1");
    assert_eq!(v6_is_off(&inside), "1", "no address of that kind was asked for");
    let taken = host.inside(|| net::Links::open().unwrap().create_bridge(&bridge("net-v1", &[])));
    assert!(matches!(taken, Err(NetError::NotBridge { .. })));
}

#[test]
fn containers_that_must_not_meet_do_not() {
    if !is_root_or_skip() {
        return;
    }
    let (host, one, two) = (Host::new(), Host::new(), Host::new());
    host.inside(|| net::Links::open().unwrap().create_bridge(&bridge("net-br0", &["10.77.0.1/24"])).unwrap());
    for (inside, near, address, isolated) in
        [(&one, "net-v1", "10.77.0.2/24", true), (&two, "net-v2", "10.77.0.3/24", true)]
    {
        let mut spec = endpoint("net-br0", near, &[address], &["10.77.0.1"]);
        if let Attachment::Bridge { isolated: flag, .. } = &mut spec.attachment {
            *flag = isolated;
        }
        host.links().connect(inside.fd(), &spec).unwrap();
    }
    host.serve_tcp("10.77.0.1:80", "host");
    two.serve_tcp("10.77.0.3:80", "two");
    assert_eq!(one.ask_tcp_expecting("10.77.0.1:80", Some("host 10.77.0.2")).as_deref(), Some("host 10.77.0.2"));
    assert_eq!(one.ask_tcp("10.77.0.3:80"), None);
}

#[test]
fn sub_links_of_a_parent() {
    if !is_root_or_skip() {
        return;
    }
    let (host, one, two) = (Host::new(), Host::new(), Host::new());
    // A pair stands for the card.
    host.inside(|| net::Links::open().unwrap().create_bridge(&bridge("net-br0", &[])).unwrap());
    let card = endpoint("net-br0", "net-card0", &[], &[]);
    let other = Host::new();
    host.links().connect(other.fd(), &card).unwrap();
    let spec = |address: &str| EndpointSpec {
        attachment: Attachment::Macvlan { parent: "eth0".to_owned(), mode: MacvlanMode::Bridge },
        ..endpoint("", "", &[address], &[])
    };
    other.links().connect(one.fd(), &spec("10.78.0.2/24")).unwrap();
    other.links().connect(two.fd(), &spec("10.78.0.3/24")).unwrap();
    two.serve_tcp("10.78.0.3:80", "two");
    assert_eq!(one.ask_tcp_expecting("10.78.0.3:80", Some("two 10.78.0.2")).as_deref(), Some("two 10.78.0.2"));
    other.links().disconnect(one.fd(), &spec("10.78.0.2/24")).unwrap();
    assert!(one.links().inspect("eth0").unwrap().is_none());
    let ipvlan = EndpointSpec {
        attachment: Attachment::Ipvlan { parent: "eth0".to_owned(), mode: IpvlanMode::L3 },
        ..spec("10.79.0.2/24")
    };
    match host.links().connect(
        one.fd(),
        &EndpointSpec {
            attachment: Attachment::Ipvlan { parent: "net-br0".to_owned(), mode: IpvlanMode::L2 },
            ..ipvlan
        },
    ) {
        Ok(()) => assert_eq!(one.links().inspect("eth0").unwrap().unwrap().kind.as_deref(), Some("ipvlan")),
        Err(NetError::Kind { kind }) => println!("skipped: this kernel has no {kind}"),
        Err(error) => panic!("{error:?}"),
    }
    match host.links().create_vlan("net-br0", 7, "net-br0.7") {
        Ok(()) => assert!(host.links().inspect("net-br0.7").unwrap().unwrap().up),
        Err(NetError::Kind { kind }) => println!("skipped: this kernel has no {kind}"),
        Err(error) => panic!("{error:?}"),
    }
}

#[test]
fn two_hosts_share_a_network_through_a_tunnel() {
    if !is_root_or_skip() {
        return;
    }
    let wire = Host::new();
    wire.inside(|| net::Links::open().unwrap().create_bridge(&bridge("net-wire", &[])).unwrap());
    let hosts = [Host::new(), Host::new()];
    let containers = [Host::new(), Host::new()];
    for (index, host) in hosts.iter().enumerate() {
        let (own, other) = (index + 1, 2 - index);
        let address = format!("192.0.2.{own}/24");
        wire.links().connect(host.fd(), &endpoint("net-wire", &format!("net-h{own}"), &[&address], &[])).unwrap();
        host.inside(|| net::Links::open().unwrap().create_bridge(&bridge("net-br0", &[])).unwrap());
        let spec = VxlanSpec {
            name: "net-vx0".to_owned(),
            id: 4242,
            bridge: "net-br0".to_owned(),
            local: format!("192.0.2.{own}").parse().unwrap(),
            port: 4789,
            peers: VxlanPeers::Static(vec![format!("192.0.2.{other}").parse().unwrap()]),
            mtu: Some(1450),
            mac: None,
        };
        host.links().create_vxlan(&spec).unwrap();
        let address = format!("10.80.0.{own}/24");
        host.links().connect(containers[index].fd(), &endpoint("net-br0", "net-c0", &[&address], &[])).unwrap();
    }
    containers[1].serve_tcp("10.80.0.2:80", "far");
    assert_eq!(
        containers[0].ask_tcp_expecting("10.80.0.2:80", Some("far 10.80.0.1")).as_deref(),
        Some("far 10.80.0.1")
    );
    let peer = "192.0.2.2".parse().unwrap();
    hosts[0].links().remove_vxlan_peer("net-vx0", peer).unwrap();
    assert!(hosts[0].links().remove_vxlan_peer("net-vx0", peer).is_err(), "it is gone");
    let station = containers[1].links().inspect("eth0").unwrap().unwrap().mac.unwrap();
    hosts[0].links().add_vxlan_station("net-vx0", station, peer).unwrap();
    hosts[0].links().remove_vxlan_station("net-vx0", station, peer).unwrap();
    let group = VxlanSpec {
        name: "net-vx1".to_owned(),
        id: 4243,
        peers: VxlanPeers::Multicast { group: "239.1.1.1".parse().unwrap(), link: "eth0".to_owned() },
        bridge: "net-br0".to_owned(),
        local: "192.0.2.1".parse().unwrap(),
        port: 4789,
        mtu: None,
        mac: None,
    };
    hosts[0].links().create_vxlan(&group).unwrap();
    assert_eq!(hosts[0].links().inspect("net-vx1").unwrap().unwrap().kind.as_deref(), Some("vxlan"));
}

/// Two hosts on a wire that talk over IPv6, each with a tunnel and a container.
struct Tunnelled {
    _wire: Host,
    hosts: [Host; 2],
    containers: [Host; 2],
}

fn far_end(own: usize) -> VxlanSpec {
    VxlanSpec {
        name: "net-vx0".to_owned(),
        id: 4244,
        bridge: "net-br0".to_owned(),
        local: format!("2001:db8::{own}").parse().unwrap(),
        port: 4789,
        peers: VxlanPeers::Static(vec![format!("2001:db8::{}", 3 - own).parse().unwrap()]),
        mtu: Some(1430),
        mac: None,
    }
}

impl Tunnelled {
    fn new() -> Self {
        let wire = Host::new();
        wire.inside(|| net::Links::open().unwrap().create_bridge(&bridge("net-wire", &[])).unwrap());
        let tunnelled = Self { _wire: wire, hosts: [Host::new(), Host::new()], containers: [Host::new(), Host::new()] };
        for own in [1, 2] {
            let host = &tunnelled.hosts[own - 1];
            let card = endpoint("net-wire", &format!("net-h{own}"), &[&format!("2001:db8::{own}/64")], &[]);
            tunnelled._wire.links().connect(host.fd(), &card).unwrap();
            tunnelled.furnish(own);
        }
        tunnelled
    }

    /// What a host makes when it starts: a bridge, the tunnel, the container's link.
    fn furnish(&self, own: usize) {
        let host = &self.hosts[own - 1];
        let mut spec = bridge("net-br0", &[]);
        spec.mtu = Some(1430);
        host.inside(|| net::Links::open().unwrap().create_bridge(&spec).unwrap());
        host.links().create_vxlan(&far_end(own)).unwrap();
        let addresses = [format!("10.80.0.{own}/24"), format!("fd80::{own}/64")];
        let mut link = endpoint("net-br0", "net-c0", &[&addresses[0], &addresses[1]], &[]);
        link.mtu = Some(1430);
        host.links().connect(self.containers[own - 1].fd(), &link).unwrap();
    }
}

#[test]
fn a_tunnel_over_ipv6_carries_full_packets_and_outlives_one_side() {
    if !is_root_or_skip() {
        return;
    }
    let world = Tunnelled::new();
    let [one, two] = &world.containers;
    two.serve_tcp("[::]:80", "far");
    assert_eq!(one.ask_tcp_expecting("10.80.0.2:80", Some("")).as_deref(), Some("far ::ffff:10.80.0.1"));
    assert_eq!(one.ask_tcp_expecting("[fd80::2]:80", Some("")).as_deref(), Some("far fd80::1"));
    if one.run("ping", &["-V"]).is_some() {
        // 28 bytes of headers; the largest packet passes in one piece, one byte more does not
        let ping = |bytes: &str| one.run("ping", &["-c", "1", "-W", "2", "-M", "do", "-s", bytes, "10.80.0.2"]);
        assert!(ping("1402").is_some() && ping("1403").is_none());
    }
    // the second host starts anew: all that it had is gone and made again
    world.hosts[1].links().delete(&["net-vx0", "net-c0", "net-br0"]).unwrap();
    assert_eq!(one.ask_tcp("10.80.0.2:80"), None);
    world.furnish(2);
    assert_eq!(one.ask_tcp_expecting("10.80.0.2:80", Some("")).as_deref(), Some("far ::ffff:10.80.0.1"));
    // and the first
    world.hosts[0].links().delete(&["net-vx0", "net-c0", "net-br0"]).unwrap();
    world.furnish(1);
    assert_eq!(one.ask_tcp_expecting("[fd80::2]:80", Some("")).as_deref(), Some("far fd80::1"));
}

#[test]
fn modes_of_macvlan_keep_their_word() {
    if !is_root_or_skip() {
        return;
    }
    // the card of a host, and behind it a neighbour on the wire
    let (wire, host) = (Host::new(), Host::new());
    wire.inside(|| net::Links::open().unwrap().create_bridge(&bridge("net-wire", &["10.78.0.1/24"])).unwrap());
    wire.links().connect(host.fd(), &endpoint("net-wire", "net-card", &["10.78.0.9/24"], &[])).unwrap();
    wire.serve_tcp("10.78.0.1:80", "wire");
    let link = |mode: MacvlanMode, address: &str| EndpointSpec {
        attachment: Attachment::Macvlan { parent: "eth0".to_owned(), mode },
        ..endpoint("", "", &[address], &[])
    };
    // the wire sends back what comes in, which is what VEPA asks of a switch
    for (mode, meet) in [(MacvlanMode::Bridge, true), (MacvlanMode::Private, false), (MacvlanMode::Vepa, true)] {
        let (one, two) = (Host::new(), Host::new());
        host.links().connect(one.fd(), &link(mode, "10.78.0.2/24")).unwrap();
        host.links().connect(two.fd(), &link(mode, "10.78.0.3/24")).unwrap();
        two.serve_tcp("10.78.0.3:80", "two");
        let expected = meet.then_some("two 10.78.0.2");
        assert_eq!(one.ask_tcp_expecting("10.78.0.3:80", expected).as_deref(), expected, "{mode:?}");
        let out = Some("wire 10.78.0.2");
        assert_eq!(one.ask_tcp_expecting("10.78.0.1:80", out).as_deref(), out, "{mode:?}");
        assert_eq!(one.ask_tcp("10.78.0.9:80"), None, "the kernel lets nothing pass to the parent's own host");
        for inside in [&one, &two] {
            host.links().disconnect(inside.fd(), &link(mode, "10.78.0.2/24")).unwrap();
        }
    }
    // the whole card for one: there is no room for a second
    let (one, two) = (Host::new(), Host::new());
    host.links().connect(one.fd(), &link(MacvlanMode::Passthru, "10.78.0.4/24")).unwrap();
    let out = Some("wire 10.78.0.4");
    assert_eq!(one.ask_tcp_expecting("10.78.0.1:80", out).as_deref(), out);
    assert!(host.links().connect(two.fd(), &link(MacvlanMode::Passthru, "10.78.0.5/24")).is_err());
    assert!(two.links().inspect("eth0").unwrap().is_none(), "nothing is left of it");
}

#[test]
fn limits_hold_both_ways() {
    if !is_root_or_skip() {
        return;
    }
    let (host, inside) = (Host::new(), Host::new());
    host.inside(|| net::Links::open().unwrap().create_bridge(&bridge("net-br0", &["10.77.0.1/24"])).unwrap());
    let mut spec = endpoint("net-br0", "net-v0", &["10.77.0.2/24"], &[]);
    spec.rate = Rate { receive: Some(4_000_000), send: Some(2_000_000) };
    host.links().connect(inside.fd(), &spec).unwrap();
    inside.serve_tcp("10.77.0.2:80", "in");
    assert_eq!(host.ask_tcp_expecting("10.77.0.2:80", Some("in 10.77.0.1")).as_deref(), Some("in 10.77.0.1"));
    let Some(text) = host.run("tc", &["-s", "qdisc"]) else { return println!("skipped: no tc") };
    assert!(text.contains("tbf") && text.contains("rate 32Mbit") && text.contains("rate 16Mbit"), "{text}");
    let sent: Vec<&str> = text.split("qdisc tbf").skip(1).collect();
    assert!(sent.iter().all(|queue| !queue.contains("Sent 0 bytes")), "both queues carry packets: {text}");
    host.links().limit("net-v0", Rate::default()).unwrap();
    assert!(!host.run("tc", &["qdisc"]).unwrap().contains("tbf"));
    host.links().limit("net-v0", Rate { receive: None, send: Some(8_000_000_000) }).unwrap();
    assert!(host.run("tc", &["qdisc"]).unwrap().contains("rate 64Gbit"));
    host.links().disconnect(inside.fd(), &spec).unwrap();
    let left: Vec<_> =
        host.links().list().unwrap().into_iter().filter(|link| link.kind.as_deref() == Some("ifb")).collect();
    assert!(left.iter().all(|link| !link.name.starts_with("ibnet")), "{left:?}");
}
