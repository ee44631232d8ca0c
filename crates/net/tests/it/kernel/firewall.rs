//! The packet filter with real packets: an outside host, a host with networks, containers.

use std::net::IpAddr;

use net::conntrack::Conntrack;
use net::firewall::{Firewall, Gateway, NetworkRules, Protocol, Publication, Rules, Watch};
use net::forwarding::{self, Before, Version};
use testkit::is_root_or_skip;

use crate::hosts::{Host, ask_udp, bridge, endpoint, subnet};

/// Outside 192.0.2.9 and 2001:db8::9, the host at .1 and ::1, containers a and b in one network, c in a second, d in an
/// internal one.
struct World {
    outside: Host,
    host: Host,
    a: Host,
    b: Host,
    c: Host,
    d: Host,
    firewall: Firewall,
    rules: Rules,
}

fn publication(host: Option<&str>, protocol: Protocol, port: u16, to: &str, to_port: u16) -> Publication {
    let host = host.map(|host| host.parse().unwrap());
    Publication { host, protocol, port, to: to.parse().unwrap(), to_port }
}

/// Whether bridges hand what they forward to the packet filter too, as is usual on hosts of Kubernetes.
#[derive(Clone, Copy, PartialEq)]
enum Bridged {
    Filtered,
    Plain,
}

impl World {
    fn new() -> Self {
        Self::with(Bridged::Plain)
    }

    fn with(bridged: Bridged) -> Self {
        let [outside, host, a, b, c, d] = std::array::from_fn(|_| Host::new());
        let mut rules = Rules::default();
        host.inside(|| {
            let links = net::Links::open().unwrap();
            for family in ["ip", "ip6"] {
                let value = if bridged == Bridged::Filtered { "1" } else { "0" };
                // A kernel without this switch filters nothing on bridges.
                let _ = std::fs::write(format!("/proc/sys/net/bridge/bridge-nf-call-{family}tables"), value);
            }
            for (number, internal) in [(1, false), (2, false), (3, true)] {
                let name = format!("net-br{number}");
                let (v4, v6) = (format!("10.7{number}.0.1/24"), format!("fd7{number}::1/64"));
                links.create_bridge(&bridge(&name, &[&v4, &v6])).unwrap();
                let subnets = vec![subnet(&v4).network(), subnet(&v6).network()];
                let network = NetworkRules { subnets, masquerade: true, internal, ..NetworkRules::default() };
                rules.networks.insert(name, network);
            }
            let mut before = Before::default();
            forwarding::enable(Version::V4, &mut before).unwrap();
            forwarding::enable(Version::V6, &mut before).unwrap();
        });
        for (inside, number, last) in [(&a, 1, 2), (&b, 1, 3), (&c, 2, 2), (&d, 3, 2)] {
            let near = format!("net-v{number}{last}");
            let (v4, v6) = (format!("10.7{number}.0.{last}/24"), format!("fd7{number}::{last}/64"));
            let (g4, g6) = (format!("10.7{number}.0.1"), format!("fd7{number}::1"));
            let spec = endpoint(&format!("net-br{number}"), &near, &[&v4, &v6], &[&g4, &g6]);
            host.links().connect(inside.fd(), &spec).unwrap();
        }
        // The way outside: a bridge of the other host stands for the wire.
        outside.inside(|| {
            let wire = bridge("net-wire", &["192.0.2.9/24", "2001:db8::9/64"]);
            net::Links::open().unwrap().create_bridge(&wire).unwrap();
        });
        let card = endpoint("net-wire", "net-card", &["192.0.2.1/24", "2001:db8::1/64"], &["192.0.2.9", "2001:db8::9"]);
        outside.links().connect(host.fd(), &card).unwrap();
        let mut firewall = Firewall::open_in(host.fd()).unwrap();
        firewall.apply(&rules).unwrap();
        Self { outside, host, a, b, c, d, firewall, rules }
    }

    fn publish(&mut self, publications: &[Publication]) {
        self.rules.published.extend(publications.iter().copied());
        self.firewall.apply(&self.rules).unwrap();
    }
}

#[test]
fn who_may_talk_to_whom() {
    if is_root_or_skip() {
        check_reach(&World::with(Bridged::Plain));
        check_reach(&World::with(Bridged::Filtered));
    }
}

fn check_reach(world: &World) {
    for (host, name) in
        [(&world.outside, "outside"), (&world.host, "host"), (&world.b, "b"), (&world.c, "c"), (&world.d, "d")]
    {
        host.serve_tcp("[::]:80", name);
    }
    // From the outside there is a route to the networks: only the rules keep it out.
    for to in ["10.71.0.0/24", "10.73.0.0/24"] {
        world.outside.links().add_route("net-wire", subnet(to), Some("192.0.2.1".parse().unwrap())).unwrap();
    }
    world.outside.links().add_route("net-wire", subnet("fd71::/64"), Some("2001:db8::1".parse().unwrap())).unwrap();
    #[rustfmt::skip]
    let matrix = [
        (&world.a, "10.71.0.3:80", Some("b ::ffff:10.71.0.2")),
        (&world.a, "[fd71::3]:80", Some("b fd71::2")),
        (&world.a, "10.71.0.1:80", Some("host ::ffff:10.71.0.2")),
        (&world.a, "192.0.2.9:80", Some("outside ::ffff:192.0.2.1")),
        (&world.a, "[2001:db8::9]:80", Some("outside 2001:db8::1")),
        (&world.a, "10.72.0.2:80", None),
        (&world.a, "[fd72::2]:80", None),
        (&world.a, "10.73.0.2:80", None),
        (&world.d, "192.0.2.9:80", None),
        (&world.d, "10.71.0.3:80", None),
        (&world.d, "10.73.0.1:80", Some("host ::ffff:10.73.0.2")),
        (&world.host, "10.73.0.2:80", Some("d ::ffff:10.73.0.1")),
        (&world.outside, "10.71.0.3:80", None),
        (&world.outside, "[fd71::3]:80", None),
        (&world.outside, "10.73.0.2:80", None),
    ];
    for (from, to, expected) in matrix {
        assert_eq!(from.ask_tcp_expecting(to, expected).as_deref(), expected, "to {to}");
    }
}

#[test]
fn published_ports_are_reached_at_containers_from_trusted_links() {
    if !is_root_or_skip() {
        return;
    }
    let mut world = World::new();
    for port in [80, 81] {
        world.a.serve_tcp(&format!("[::]:{port}"), "a");
    }
    let wire = world.outside.links();
    wire.add_route("net-wire", subnet("10.71.0.0/24"), Some("192.0.2.1".parse().unwrap())).unwrap();
    wire.add_route("net-wire", subnet("fd71::/64"), Some("2001:db8::1".parse().unwrap())).unwrap();
    let check = |world: &World, reached: bool, when: &str| {
        for (to, from) in [("10.71.0.2", "::ffff:192.0.2.9"), ("[fd71::2]", "2001:db8::9")] {
            let answer = format!("a {from}");
            let expected = reached.then_some(answer.as_str());
            let asked = world.outside.ask_tcp_expecting(&format!("{to}:80"), expected);
            assert_eq!(asked.as_deref(), expected, "{when}: {to}");
            assert_eq!(world.outside.ask_tcp(&format!("{to}:81")), None, "{when}: {to}, not published");
        }
    };
    let ports = ["10.71.0.2", "fd71::2"].map(|to| publication(None, Protocol::Tcp, 8080, to, 80));
    world.publish(&ports);
    check(&world, false, "nobody is trusted");
    for (links, reached) in [(&["eth7"][..], false), (&["eth7", "eth0"], true)] {
        let trusted = links.iter().map(|name| (*name).to_owned()).collect();
        world.rules.networks.get_mut("net-br1").unwrap().trusted = trusted;
        world.publish(&[]);
        check(&world, reached, &links.join(" and "));
    }
    assert!(world.firewall.is_intact().unwrap());
    world.rules.published = [].into_iter().collect();
    world.publish(&[]);
    check(&world, false, "no longer published");
}

#[test]
fn an_open_network_is_reached_and_a_separate_one_is_not_from_within() {
    if !is_root_or_skip() {
        return;
    }
    let mut world = World::new();
    world.b.serve_tcp("[::]:80", "b");
    world.outside.links().add_route("net-wire", subnet("10.71.0.0/24"), Some("192.0.2.1".parse().unwrap())).unwrap();
    let network = world.rules.networks.get_mut("net-br1").unwrap();
    (network.v4, network.masquerade) = (Gateway::NatUnprotected, false);
    world.firewall.apply(&world.rules).unwrap();
    assert_eq!(
        world.outside.ask_tcp_expecting("10.71.0.3:80", Some("b ::ffff:192.0.2.9")).as_deref(),
        Some("b ::ffff:192.0.2.9")
    );
    world.rules.networks.get_mut("net-br1").unwrap().separate = true;
    world.firewall.apply(&world.rules).unwrap();
    assert!(world.firewall.is_intact().unwrap());
    world.publish(&[publication(None, Protocol::Tcp, 8080, "10.71.0.3", 80)]);
    assert!(world.a.ask_tcp_expecting("192.0.2.1:8080", Some("")).is_some(), "published ports are for all");
}

#[test]
fn what_leaves_has_the_address_that_was_named() {
    if !is_root_or_skip() {
        return;
    }
    let mut world = World::new();
    world.outside.serve_tcp("[::]:80", "outside");
    for address in ["192.0.2.7/24", "2001:db8::7/64"] {
        world.host.links().add_address("eth0", subnet(address)).unwrap();
    }
    let network = world.rules.networks.get_mut("net-br1").unwrap();
    (network.leave_v4, network.leave_v6) = ("192.0.2.7".parse().ok(), "2001:db8::7".parse().ok());
    world.firewall.apply(&world.rules).unwrap();
    assert!(world.firewall.is_intact().unwrap());
    #[rustfmt::skip]
    let matrix = [
        (&world.a, "192.0.2.9:80", "outside ::ffff:192.0.2.7"),
        (&world.a, "[2001:db8::9]:80", "outside 2001:db8::7"),
        (&world.c, "192.0.2.9:80", "outside ::ffff:192.0.2.1"),
    ];
    for (from, to, expected) in matrix {
        assert_eq!(from.ask_tcp_expecting(to, Some(expected)).as_deref(), Some(expected), "to {to}");
    }
}

#[test]
fn a_routed_network_is_reached_at_published_ports_only() {
    if !is_root_or_skip() {
        return;
    }
    let mut world = World::new();
    for port in ["80", "81"] {
        world.b.serve_tcp(&format!("[::]:{port}"), "b");
    }
    world.outside.serve_tcp("[::]:80", "outside");
    let network = world.rules.networks.get_mut("net-br1").unwrap();
    (network.v4, network.v6) = (Gateway::Routed, Gateway::Routed);
    for to in ["10.71.0.3", "fd71::3"] {
        world.publish(&[publication(None, Protocol::Tcp, 0, to, 80)]);
    }
    assert!(world.firewall.is_intact().unwrap());
    let links = world.outside.links();
    links.add_route("net-wire", subnet("10.71.0.0/24"), Some("192.0.2.1".parse().unwrap())).unwrap();
    links.add_route("net-wire", subnet("fd71::/64"), Some("2001:db8::1".parse().unwrap())).unwrap();
    #[rustfmt::skip]
    let matrix = [
        (&world.outside, "10.71.0.3:80", Some("b ::ffff:192.0.2.9")),
        (&world.outside, "[fd71::3]:80", Some("b 2001:db8::9")),
        (&world.outside, "10.71.0.3:81", None),
        (&world.outside, "[fd71::3]:81", None),
        (&world.outside, "10.71.0.2:80", None),
        (&world.c, "10.71.0.3:80", Some("b ::ffff:10.72.0.2")),
        (&world.c, "10.71.0.3:81", None),
        (&world.d, "10.71.0.3:80", None),
        (&world.host, "10.71.0.3:81", Some("b ::ffff:10.71.0.1")),
        (&world.b, "192.0.2.9:80", Some("outside ::ffff:10.71.0.3")),
        (&world.b, "[2001:db8::9]:80", Some("outside fd71::3")),
    ];
    for (from, to, expected) in matrix {
        assert_eq!(from.ask_tcp_expecting(to, expected).as_deref(), expected, "to {to}");
    }
    let ping = |to: &str| world.outside.run("ping", &["-c", "1", "-W", "1", to]).is_some();
    if world.outside.run("ping", &["-V"]).is_some() {
        assert!(ping("10.71.0.3") && ping("fd71::3") && !ping("10.73.0.2"));
    }
}

#[test]
fn published_ports_are_reached_from_everywhere() {
    if is_root_or_skip() {
        check_published(World::with(Bridged::Plain));
        check_published(World::with(Bridged::Filtered));
    }
}

fn check_published(mut world: World) {
    world.a.serve_tcp("[::]:80", "a");
    world.publish(&[
        publication(None, Protocol::Tcp, 8080, "10.71.0.2", 80),
        publication(None, Protocol::Tcp, 8080, "fd71::2", 80),
        publication(Some("127.0.0.1"), Protocol::Tcp, 8081, "10.71.0.2", 80),
        publication(Some("192.0.2.1"), Protocol::Tcp, 8082, "10.71.0.2", 80),
        publication(None, Protocol::Sctp, 3868, "10.71.0.2", 3868),
    ]);
    if let Some(text) = world.host.run("nft", &["list", "table", "inet", "insula"]) {
        println!("{text}");
        assert!(text.contains("tcp . 8080 : 10.71.0.2 . 80"), "{text}");
        // few kernels have sockets of it; its rule is the others'
        assert!(text.contains("sctp . 3868 : 10.71.0.2 . 3868"), "{text}");
    }
    // A neighbour that thinks 127.0.0.0/8 is behind the host.
    world.outside.inside(|| std::fs::write("/proc/sys/net/ipv4/conf/net-wire/route_localnet", "1").unwrap());
    #[rustfmt::skip]
    let matrix = [
        ("outside", &world.outside, "192.0.2.1:8080", Some("a ::ffff:192.0.2.9")),
        ("outside", &world.outside, "[2001:db8::1]:8080", Some("a 2001:db8::9")),
        ("host", &world.host, "127.0.0.1:8080", Some("a ::ffff:10.71.0.1")),
        ("host", &world.host, "192.0.2.1:8080", Some("a ::ffff:192.0.2.1")),
        ("itself", &world.a, "192.0.2.1:8080", Some("a ::ffff:10.71.0.1")),
        ("itself", &world.a, "10.71.0.1:8080", Some("a ::ffff:10.71.0.1")),
        ("itself", &world.a, "[2001:db8::1]:8080", Some("a fd71::1")),
        ("sibling", &world.b, "192.0.2.1:8080", Some("a ::ffff:10.71.0.1")),
        ("other network", &world.c, "192.0.2.1:8080", Some("a ::ffff:10.72.0.2")),
        ("other network", &world.c, "10.72.0.1:8080", Some("a ::ffff:10.72.0.2")),
        ("internal", &world.d, "10.73.0.1:8080", None),
        ("host, one address", &world.host, "127.0.0.1:8081", Some("a ::ffff:10.71.0.1")),
        ("host, one address", &world.host, "192.0.2.1:8081", None),
        ("outside, one address", &world.outside, "192.0.2.1:8082", Some("a ::ffff:192.0.2.9")),
        ("outside, one address", &world.outside, "192.0.2.1:8081", None),
        ("host, other address", &world.host, "127.0.0.1:8082", None),
        ("host over IPv6", &world.host, "[2001:db8::1]:8080", Some("a 2001:db8::1")),
    ];
    let mut wrong = Vec::new();
    for (who, from, to, expected) in matrix {
        let got = from.ask_tcp_expecting(to, expected);
        if got.as_deref() != expected {
            wrong.push(format!("{who} to {to}: {got:?}, not {expected:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let refused = world.host.inside(|| std::net::TcpStream::connect("[::1]:8080").unwrap_err().kind());
    assert_eq!(refused, std::io::ErrorKind::ConnectionRefused, "at once, so that 127.0.0.1 is tried next");
}

#[test]
fn a_udp_sender_moves_on_when_the_port_does() {
    if !is_root_or_skip() {
        return;
    }
    let mut world = World::new();
    let old = publication(None, Protocol::Udp, 5300, "10.71.0.2", 53);
    let new = publication(None, Protocol::Udp, 5300, "10.71.0.3", 53);
    let (a, b) = (world.a.serve_udp("10.71.0.2:53", "a"), world.b.serve_udp("10.71.0.3:53", "b"));
    world.publish(&[old]);
    let client = world.outside.udp();
    assert_eq!(ask_udp(&client, "192.0.2.1:5300").as_deref(), Some("a"));
    world.rules.published.remove(&old);
    world.publish(&[new]);
    assert_eq!(ask_udp(&client, "192.0.2.1:5300").as_deref(), Some("a"), "what is known counts");
    let conntrack = Conntrack::open_in(world.host.fd()).unwrap();
    assert_eq!(conntrack.forget(&[old].into_iter().collect()).unwrap(), 1);
    assert_eq!(ask_udp(&client, "192.0.2.1:5300").as_deref(), Some("b"));
    let gone: IpAddr = "10.71.0.3".parse().unwrap();
    assert_eq!(conntrack.forget_addresses(&[gone]).unwrap(), 1);
    assert_eq!(conntrack.forget(&[old, new].into_iter().collect()).unwrap(), 0);
    for (host, to, thread) in [(&world.host, "10.71.0.2:53", a), (&world.host, "10.71.0.3:53", b)] {
        host.udp().send_to(b"end", to).unwrap();
        thread.join().unwrap();
    }
}

#[test]
fn a_flush_by_somebody_else_is_noticed_and_repaired() {
    if !is_root_or_skip() {
        return;
    }
    let mut world = World::new();
    let watch = world.host.inside(|| Watch::open().unwrap());
    world.publish(&[publication(None, Protocol::Tcp, 8080, "10.71.0.2", 80)]);
    world.rules.published = [].into_iter().collect();
    world.firewall.apply(&world.rules).unwrap();
    assert!(!watch.disturbed(&world.firewall), "our own changes are no disturbance");
    assert!(world.firewall.is_intact().unwrap());
    let Some(_) = world.host.run("nft", &["add", "table", "inet", "mine"]) else { return println!("skipped: no nft") };
    assert!(!watch.disturbed(&world.firewall));
    world.host.run("nft", &["flush", "ruleset"]).unwrap();
    assert!(watch.disturbed(&world.firewall));
    assert!(!world.firewall.is_intact().unwrap());
    world.firewall.rebuild(&world.rules).unwrap();
    assert!(world.firewall.is_intact().unwrap() && !watch.disturbed(&world.firewall));
    world.host.run("nft", &["flush", "set", "inet", "insula", "bridges"]).unwrap();
    assert!(watch.disturbed(&world.firewall) && !world.firewall.is_intact().unwrap());
    // Also who does not watch finds out, at the next change.
    world.host.run("nft", &["delete", "table", "inet", "insula"]).unwrap();
    world.publish(&[publication(None, Protocol::Tcp, 8080, "10.71.0.2", 80)]);
    assert!(world.firewall.is_intact().unwrap());
    world.firewall.remove().unwrap();
    world.firewall.remove().unwrap();
    assert_eq!(world.host.run("nft", &["list", "tables"]).unwrap().trim(), "");
}

#[test]
fn rules_of_others_keep_their_say() {
    if !is_root_or_skip() {
        return;
    }
    let mut world = World::new();
    world.a.serve_tcp("[::]:80", "a");
    world.publish(&[publication(None, Protocol::Tcp, 8080, "10.71.0.2", 80)]);
    assert_eq!(world.firewall.foreign_drops().unwrap(), []);
    let chain =
        "add table ip filter; add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }";
    if world.host.run("nft", &[chain]).is_none() {
        return println!("skipped: no nft");
    }
    let drops = world.firewall.foreign_drops().unwrap();
    assert_eq!((drops.len(), drops[0].table.as_str(), drops[0].chain.as_str()), (1, "ip filter", "FORWARD"));
    assert_eq!(world.outside.ask_tcp("192.0.2.1:8080"), None);
    world.host.run("nft", &["add rule ip filter FORWARD meta l4proto tcp ct original proto-dst 8080 accept"]).unwrap();
    world.host.run("nft", &["add rule ip filter FORWARD ct state established accept"]).unwrap();
    assert!(world.outside.ask_tcp_expecting("192.0.2.1:8080", Some("")).is_some());
}

/// What a Docker daemon of the host and a kube-proxy have, as iptables writes it into nftables: chains at the same hooks with
/// the same priorities, marks, jumps, and a port of their own.
const NEIGHBOURS: &str = "add table ip nat; add chain ip nat DOCKER; \
    add chain ip nat PREROUTING { type nat hook prerouting priority -100; }; \
    add rule ip nat PREROUTING fib daddr type local jump DOCKER; \
    add rule ip nat DOCKER iifname != docker0 tcp dport 9090 dnat to 10.72.0.2:80; \
    add chain ip nat POSTROUTING { type nat hook postrouting priority 100; }; \
    add rule ip nat POSTROUTING oifname != docker0 ip saddr 172.17.0.0/16 masquerade; \
    add chain ip nat KUBE-POSTROUTING; add rule ip nat POSTROUTING jump KUBE-POSTROUTING; \
    add rule ip nat KUBE-POSTROUTING meta mark & 0x4000 != 0x4000 return; \
    add rule ip nat KUBE-POSTROUTING masquerade; \
    add table ip filter; add chain ip filter KUBE-FORWARD; \
    add chain ip filter FORWARD { type filter hook forward priority 0; policy accept; }; \
    add rule ip filter FORWARD jump KUBE-FORWARD; \
    add rule ip filter KUBE-FORWARD ct state invalid drop; \
    add rule ip filter FORWARD iifname docker0 oifname != docker0 accept";

#[test]
fn docker_and_kubernetes_stand_beside() {
    if !is_root_or_skip() {
        return;
    }
    let mut world = World::new();
    world.a.serve_tcp("[::]:80", "a");
    world.c.serve_tcp("[::]:80", "c");
    world.outside.serve_tcp("[::]:80", "outside");
    if world.host.run("nft", &[NEIGHBOURS]).is_none() {
        return println!("skipped: no nft");
    }
    let watch = world.host.inside(|| Watch::open().unwrap());
    world.publish(&[publication(None, Protocol::Tcp, 8080, "10.71.0.2", 80)]);
    let check = |world: &World, when: &str| {
        for (from, to, expected) in [
            (&world.outside, "192.0.2.1:8080", Some("a ::ffff:192.0.2.9")),
            (&world.outside, "192.0.2.1:9090", Some("c ::ffff:192.0.2.9")),
            (&world.a, "192.0.2.9:80", Some("outside ::ffff:192.0.2.1")),
            (&world.a, "10.72.0.2:80", None),
        ] {
            assert_eq!(from.ask_tcp_expecting(to, expected).as_deref(), expected, "{when}: to {to}");
        }
    };
    check(&world, "both");
    let theirs = || world.host.run("nft", &["list", "table", "ip", "nat"]).unwrap();
    let before = theirs();
    assert_eq!(world.firewall.foreign_drops().unwrap(), [], "a chain that accepts is nobody's business");
    // a reload, as firewalls do it: everything goes and theirs comes back, at once
    world.host.run("nft", &[&format!("flush ruleset; {NEIGHBOURS}")]).unwrap();
    assert!(watch.disturbed(&world.firewall) && !world.firewall.is_intact().unwrap());
    world.firewall.rebuild(&world.rules).unwrap();
    assert_eq!(theirs(), before);
    check(&world, "after a reload");
    // and what they do to their own is not our business
    world.host.run("nft", &["flush chain ip nat DOCKER"]).unwrap();
    assert!(!watch.disturbed(&world.firewall));
    let ours = Some("a ::ffff:192.0.2.9");
    assert_eq!(world.outside.ask_tcp_expecting("192.0.2.1:8080", ours).as_deref(), ours);
}

#[test]
fn forwarding_is_remembered_and_restored() {
    if !is_root_or_skip() {
        return;
    }
    let host = Host::new();
    host.inside(|| {
        let read = |name: &str| std::fs::read_to_string(format!("/proc/sys/net/{name}")).unwrap().trim().to_owned();
        let (four, six) = (read("ipv4/ip_forward"), read("ipv6/conf/all/forwarding"));
        let mut before = Before::default();
        for version in [Version::V4, Version::V6, Version::V4, Version::V6] {
            forwarding::enable(version, &mut before).unwrap();
        }
        assert_eq!((read("ipv4/ip_forward").as_str(), read("ipv6/conf/all/forwarding").as_str()), ("1", "1"));
        assert_eq!(read("ipv6/conf/lo/accept_ra"), "2", "the host goes on listening to routers");
        forwarding::restore(&before).unwrap();
        assert_eq!((read("ipv4/ip_forward"), read("ipv6/conf/all/forwarding")), (four, six));
        assert_eq!(read("ipv6/conf/lo/accept_ra"), "1");
    });
}
