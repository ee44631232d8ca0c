//! Who reaches whom, packet by packet: every kind of network, both versions of IP, TCP, UDP and pings, and published ports.
//!
//! What is expected stands in `docs/how-to/know-who-reaches-whom.md`. The test asks from threads of its own in the containers'
//! network namespaces, so that a question that must not be answered costs its patience once for all of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketType, ipproto};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use testkit::rootfs;

use super::{NET, docker};
use crate::subject::{SOON, Subject, skip_unless_insula};

const TABLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/how-to/know-who-reaches-whom.md");

/// How long is waited for what must not come.
const SILENCE: Duration = Duration::from_millis(700);

const WIRE: [&str; 2] = ["192.0.2.1", "2001:db8::1"];
const MODE: &str = "com.docker.network.bridge.gateway_mode_ipv";

/// The networks that are made, with their options, all with IPv6. The default one is there, the host's wire is what macvlan
/// hangs on.
const NETWORKS: &[(&str, &[&str])] = &[
    ("street", &[]),
    ("apart", &["-o", "com.docker.network.bridge.enable_icc=false"]),
    ("inside", &["--internal"]),
    ("alone", &["--internal", "-o", "@4=isolated", "-o", "@6=isolated"]),
    ("routed", &["-o", "@4=routed", "-o", "@6=routed"]),
    (
        "macvlan",
        &[
            "-d",
            "macvlan",
            "-o",
            "parent=wire",
            "--subnet",
            "192.0.2.0/24",
            "--ip-range",
            "192.0.2.128/26",
            "--gateway",
            "192.0.2.9",
            "--subnet",
            "2001:db8::/64",
            "--ip-range",
            "2001:db8::80/121",
            "--gateway",
            "2001:db8::9",
        ],
    ),
    ("vxlan", &["-d", "vxlan", "-o", "vxlan.id=77", "-o", "vxlan.local=192.0.2.1", "-o", "vxlan.peers=192.0.2.99"]),
];

/// A way to ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Way {
    Tcp,
    Udp,
    Ping,
}

/// One question: how, and whom.
type Question = (Way, SocketAddr);

/// Somebody who asks and may be asked.
struct Node {
    name: String,
    namespace: File,
    /// Where others find it, one address of each version of IP at most.
    addresses: Vec<IpAddr>,
    /// Where it finds the host.
    host: Vec<IpAddr>,
}

impl Node {
    /// Works on a thread inside; threads and sockets made there are there, too.
    fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                move_into_link_name_space(self.namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
                work()
            });
            thread.join().unwrap()
        })
    }

    /// Answers at port 80 until the test is over, and lets the asking threads ping.
    fn serve(&self) {
        self.inside(|| {
            fs::write("/proc/sys/net/ipv4/ping_group_range", "0 2147483647").unwrap();
            let (tcp, udp) = (TcpListener::bind("[::]:80").unwrap(), UdpSocket::bind("[::]:80").unwrap());
            std::thread::spawn(move || {
                for mut stream in tcp.incoming().flatten() {
                    let _ = stream.write_all(b"heard");
                }
            });
            std::thread::spawn(move || {
                let mut buffer = [0; 8];
                while let Ok((length, peer)) = udp.recv_from(&mut buffer) {
                    let _ = udp.send_to(&buffer[..length], peer);
                }
            });
        });
    }

    /// Which of the questions are answered.
    fn ask(&self, questions: &BTreeSet<Question>) -> BTreeSet<Question> {
        self.inside(|| {
            std::thread::scope(|scope| {
                let streams: Vec<_> = questions
                    .iter()
                    .filter(|(way, _)| *way == Way::Tcp)
                    .map(|question| scope.spawn(|| connects(question.1).then_some(*question)))
                    .collect();
                let datagrams = [Way::Udp, Way::Ping].map(|way| scope.spawn(move || datagrams(way, questions)));
                let mut heard: BTreeSet<Question> = datagrams.into_iter().flat_map(|all| all.join().unwrap()).collect();
                heard.extend(streams.into_iter().filter_map(|one| one.join().unwrap()));
                heard
            })
        })
    }

    /// Asks until all that is expected has been answered, since a busy machine may be late; nothing else may be.
    fn check(&self, expected: &BTreeMap<Question, bool>) -> Vec<String> {
        let mut open: BTreeSet<Question> = expected.keys().copied().collect();
        let mut wrong = Vec::new();
        let deadline = Instant::now() + SOON;
        loop {
            for question in self.ask(&open) {
                open.remove(&question);
                if !expected[&question] {
                    wrong.push(format!("{} is answered: {question:?}", self.name));
                }
            }
            // what was silent once and should be is done
            open.retain(|question| expected[question]);
            if open.is_empty() {
                return wrong;
            }
            if Instant::now() > deadline {
                wrong.extend(open.iter().map(|question| format!("{} is not answered: {question:?}", self.name)));
                return wrong;
            }
        }
    }
}

fn connects(to: SocketAddr) -> bool {
    let Ok(mut stream) = TcpStream::connect_timeout(&to, SILENCE) else { return false };
    stream.set_read_timeout(Some(SILENCE)).unwrap();
    // what carries a connection for a container accepts it before it knows
    stream.read(&mut [0; 8]).is_ok_and(|length| length > 0)
}

fn datagrams(way: Way, questions: &BTreeSet<Question>) -> Vec<Question> {
    let mut heard = Vec::new();
    for (family, any) in [
        (AddressFamily::INET, IpAddr::from(Ipv4Addr::UNSPECIFIED)),
        (AddressFamily::INET6, IpAddr::from(Ipv6Addr::UNSPECIFIED)),
    ] {
        let v6 = any.is_ipv6();
        let mine: Vec<&Question> = questions.iter().filter(|(have, to)| *have == way && to.is_ipv6() == v6).collect();
        if mine.is_empty() {
            continue;
        }
        let (protocol, words): (_, &[u8]) = match (way, v6) {
            (Way::Ping, false) => (Some(ipproto::ICMP), &[8, 0, 0, 0, 0, 0, 0, 1]),
            (Way::Ping, true) => (Some(ipproto::ICMPV6), &[128, 0, 0, 0, 0, 0, 0, 1]),
            _ => (None, b"?"),
        };
        let socket: OwnedFd = rustix::net::socket(family, SocketType::DGRAM, protocol).unwrap();
        let begun = Instant::now();
        for pause in [Duration::ZERO, SILENCE / 2] {
            for (_, to) in &mine {
                let to = if way == Way::Ping { SocketAddr::new(to.ip(), 0) } else { *to };
                // what can't be sent is not answered
                let _ = rustix::net::sendto(&socket, words, SendFlags::empty(), &to);
            }
            let end = begun + pause + SILENCE / 2;
            while let Some(left) = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
                let _ =
                    rustix::net::sockopt::set_socket_timeout(&socket, rustix::net::sockopt::Timeout::Recv, Some(left));
                let mut buffer = [0_u8; 64];
                let Ok((_, _, Some(peer))) = rustix::net::recvfrom(&socket, &mut buffer[..], RecvFlags::empty()) else {
                    continue;
                };
                let Ok(peer) = SocketAddr::try_from(peer) else { continue };
                heard.extend(
                    mine.iter()
                        .filter(|(_, to)| to.ip() == peer.ip() && (way == Way::Ping || to.port() == peer.port()))
                        .map(|question| **question),
                );
            }
        }
    }
    heard
}

fn ip(words: &str) {
    assert!(Command::new("ip").args(words.split(' ')).status().unwrap().success(), "ip {words}");
}

/// The rows of the tables in the documentation whose first cell is `first`, up to the end of each.
fn table(text: &str, first: &str) -> Vec<Vec<String>> {
    let lines = text.lines().skip_while(|line| !line.starts_with(&format!("| {first} |")));
    let rows = lines.take_while(|line| line.starts_with('|')).filter(|line| !line.starts_with("|---"));
    rows.map(|line| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect()).collect()
}

/// A container that sleeps, as a node.
fn node(subject: &Subject, name: &str, network: &str, options: &[&str]) -> Node {
    let words = [&["run", "-d", "--name", name, "--network", network][..], options, &[NET, "sleep", "1000"]].concat();
    docker(subject, &words).expect(0);
    let template = "{{.State.Pid}}{{range .NetworkSettings.Networks}} {{.IPAddress}} {{.GlobalIPv6Address}} {{.Gateway}} \
                    {{.IPv6Gateway}}{{end}}";
    let seen = docker(subject, &["inspect", "-f", template, name]).expect(0);
    let mut fields = seen.text().split(' ');
    let namespace = File::open(format!("/proc/{}/ns/net", fields.next().unwrap())).unwrap();
    let rest: Vec<Option<IpAddr>> = fields.map(|text| text.parse().ok()).collect();
    let addresses: Vec<IpAddr> = rest.iter().take(2).copied().flatten().collect();
    // the outside is macvlan's gateway, and an internal network shows none
    let host = if ["macvlan", "alone", "none"].contains(&network) {
        WIRE.map(|text| text.parse().unwrap()).into()
    } else if network == "inside" {
        addresses.iter().map(|address| first_of(*address)).collect()
    } else {
        rest.iter().skip(2).copied().flatten().collect()
    };
    Node { name: name.to_owned(), namespace, addresses, host }
}

/// The first address of an address's network: the host's, where nothing else was asked for.
fn first_of(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(address) => Ipv4Addr::from((u32::from(address) & 0xffff_0000) | 1).into(),
        IpAddr::V6(address) => Ipv6Addr::from((u128::from(address) >> 64 << 64) | 1).into(),
    }
}

/// The daemon, and outside of its host a machine that has a route to every network.
fn world() -> Option<(Subject, Node, Node)> {
    if rootfs::find("docker").is_none() || rootfs::find("busybox").is_none() {
        println!("skipped: no docker client or no busybox in PATH");
        return None;
    }
    let subject = super::subject_with(&["--ipv6"])?;
    let here = File::open("/proc/thread-self/ns/net").unwrap();
    let there = std::thread::spawn(|| {
        #[expect(deprecated, reason = "only unsharing the table of descriptors is unsound, and this does not")]
        rustix::thread::unshare(rustix::thread::UnshareFlags::NEWNET).unwrap();
        ip("link set lo up");
        File::open("/proc/thread-self/ns/net").unwrap()
    });
    let addresses = |list: &[&str]| list.iter().map(|text| text.parse().unwrap()).collect::<Vec<IpAddr>>();
    let wire = addresses(&WIRE);
    let outside = Node {
        name: "outside".into(),
        namespace: there.join().unwrap(),
        addresses: addresses(&["192.0.2.9", "2001:db8::9"]),
        host: wire.clone(),
    };
    let host = Node { name: "host".into(), namespace: here, addresses: Vec::new(), host: wire };
    ip("link add wire type veth peer name card");
    let mut child = Command::new("sleep");
    let mut child = outside.inside(|| child.arg("60").spawn().unwrap());
    ip(&format!("link set card netns {}", child.id()));
    let side = |link: &str, last: &str| {
        ip(&format!("link set {link} up"));
        ip(&format!("addr add 192.0.2.{last}/24 dev {link}"));
        ip(&format!("addr add 2001:db8::{last}/64 dev {link} nodad"));
    };
    side("wire", "1");
    outside.inside(|| {
        side("card", "9");
        fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
        fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1").unwrap();
        ip("route add 172.16.0.0/12 via 192.0.2.1");
        ip("route add fd00::/8 via 2001:db8::1");
    });
    child.kill().unwrap();
    child.wait().unwrap();
    ip("route add default via 192.0.2.9");
    ip("route add default via 2001:db8::9");
    Some((subject, host, outside))
}

#[test]
fn only_who_may_is_heard() {
    if skip_unless_insula() {
        return;
    }
    let Some((subject, host, outside)) = world() else { return };
    let mut askers = BTreeMap::from([("host".to_owned(), host), ("outside".to_owned(), outside)]);
    let mut asked: BTreeMap<String, Node> = BTreeMap::new();
    for (network, options) in NETWORKS {
        let options: Vec<String> = options.iter().map(|word| word.replace('@', MODE)).collect();
        let options = options.iter().map(String::as_str);
        let words: Vec<&str> = ["network", "create", "--ipv6"].into_iter().chain(options).chain([*network]).collect();
        docker(&subject, &words).expect(0);
    }
    for network in NETWORKS.iter().map(|(name, _)| *name).chain(["bridge"]) {
        let port = if network == "routed" { &["-p", "80"][..] } else { &[] };
        askers.insert(network.to_owned(), node(&subject, &format!("{network}1"), network, &[]));
        asked.insert(network.to_owned(), node(&subject, &format!("{network}2"), network, port));
    }
    askers.insert("none".to_owned(), node(&subject, "none1", "none", &[]));
    let mut shared = node(&subject, "shared", "container:street1", &[]);
    shared.host.clone_from(&askers["street"].host);
    askers.insert("container".to_owned(), shared);
    askers.values().filter(|one| one.name != "shared").chain(asked.values()).for_each(Node::serve);
    let text = fs::read_to_string(TABLES).unwrap();
    let mut wrong = at_their_own(&table(&text, r"from \ to"), &askers, &asked);
    let ports = |host: &str, port: u16| ["tcp", "udp"].map(|protocol| format!("{host}{port}:80/{protocol}"));
    let ports = [ports("", 8080), ports("127.0.0.1:", 8081), ports("192.0.2.1:", 8082)].concat();
    let options: Vec<&str> = ports.iter().flat_map(|port| ["-p", port]).collect();
    let server = node(&subject, "itself", "street", &options);
    server.serve();
    askers.insert("itself".to_owned(), server);
    wrong.extend(at_published(&table(&text, "from"), &askers));
    assert!(wrong.is_empty(), "{}\n{}", wrong.join("\n"), packet_filter());
    drop((askers, asked));
    subject.finish();
}

fn packet_filter() -> String {
    let output = Command::new("nft").args(["list", "ruleset"]).output();
    output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default()
}

/// All rows ask at the same time.
fn check_all(rows: Vec<(&Node, BTreeMap<Question, bool>)>) -> Vec<String> {
    std::thread::scope(|scope| {
        let rows: Vec<_> =
            rows.into_iter().map(|(node, expected)| scope.spawn(move || node.check(&expected))).collect();
        rows.into_iter().flat_map(|row| row.join().unwrap()).collect()
    })
}

fn at_their_own(rows: &[Vec<String>], askers: &BTreeMap<String, Node>, asked: &BTreeMap<String, Node>) -> Vec<String> {
    let mut all = Vec::new();
    assert_eq!(rows.len(), askers.len() + 1, "the documentation has a row for each");
    for row in &rows[1..] {
        let asker = &askers[&row[0]];
        let mut expected = BTreeMap::new();
        for (to, cell) in rows[0].iter().zip(row).skip(1) {
            let addresses = match to.as_str() {
                "host" => &asker.host,
                "outside" => &askers["outside"].addresses,
                other => &asked[other].addresses,
            };
            assert!(addresses.len() == 2 || (row[0] == "none" && to == "host"), "{to} has {addresses:?}");
            for (way, address) in
                [Way::Tcp, Way::Udp, Way::Ping].iter().flat_map(|way| addresses.iter().map(move |at| (*way, *at)))
            {
                let heard = match cell.as_str() {
                    "all" => true,
                    "published" => way != Way::Udp,
                    "-" => false,
                    other => panic!("{other:?} is no cell"),
                };
                // ping has no port
                expected.insert((way, SocketAddr::new(address, 80)), heard);
            }
        }
        all.push((asker, expected));
    }
    check_all(all)
}

fn at_published(rows: &[Vec<String>], askers: &BTreeMap<String, Node>) -> Vec<String> {
    let mut all: BTreeMap<&str, BTreeMap<Question, bool>> = BTreeMap::new();
    for row in &rows[1..] {
        let expected = all.entry(&row[0]).or_default();
        for (port, cell) in [8080, 8081, 8082].into_iter().zip(&row[2..]) {
            let at = SocketAddr::new(row[1].parse().unwrap(), port);
            expected.insert((Way::Tcp, at), cell.contains("TCP"));
            expected.insert((Way::Udp, at), cell.contains("UDP"));
        }
    }
    check_all(all.into_iter().map(|(name, expected)| (&askers[name], expected)).collect())
}
