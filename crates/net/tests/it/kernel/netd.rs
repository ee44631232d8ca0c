//! The helper: names inside containers, other servers, the guard of the packet filter.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixListener;
use std::process::{Command, Stdio};
use std::time::Duration;

use net::dns::{Names, NetworkNames, Upstream, Via, View};
use net::firewall::{NetworkRules, Protocol, Publication, Published, Rules};
use net::netd::{Netd, Request, serve};
use testkit::{Island, is_root_or_skip, wait_for};

use crate::hosts::{Host, PATIENCE, subnet};

/// A helper on a thread in a host of its own; it ends with the test.
struct Helper {
    host: Host,
    netd: Netd,
    _island: Island,
}

impl Helper {
    fn new() -> Self {
        let island = Island::new();
        let host = Host::new();
        let path = island.path("netd.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let (ready, done) = std::sync::mpsc::channel();
        let (namespace, socket) = (host.0.try_clone().unwrap(), path.clone());
        std::thread::spawn(move || {
            let kind = Some(rustix::thread::LinkNameSpaceType::Network);
            rustix::thread::move_into_link_name_space(namespace.as_fd(), kind).unwrap();
            drop(namespace);
            ready.send(()).unwrap();
            serve(listener, &socket).unwrap();
        });
        done.recv().unwrap();
        Self { netd: Netd::connect(&path).unwrap(), host, _island: island }
    }

    fn call(&self, request: Request) {
        self.netd.call(&request, &[]).unwrap();
    }

    fn attach(&self, container: &Host, name: &str, view: View) {
        let request = Request::Attach { container: name.to_owned(), view };
        self.netd.call(&request, &[container.fd()]).unwrap();
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        // A helper that has ended can't be told to end.
        let _ = self.netd.call(&Request::Stop, &[]);
    }
}

fn question(name: &str, kind: u8) -> Vec<u8> {
    let mut bytes = vec![0xab, 0xcd, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        bytes.push(u8::try_from(label.len()).unwrap());
        bytes.extend_from_slice(label.as_bytes());
    }
    bytes.extend_from_slice(&[0, 0, kind, 0, 1]);
    bytes
}

/// The code, and the last four bytes of an answer with records.
fn outcome(answer: &[u8]) -> (u8, Option<IpAddr>) {
    let last: [u8; 4] = answer[answer.len() - 4..].try_into().unwrap();
    (answer[3] & 0x0f, (answer[7] > 0).then(|| IpAddr::from(last)))
}

fn ask(container: &Host, name: &str) -> Option<(u8, Option<IpAddr>)> {
    let socket = container.inside(|| UdpSocket::bind("127.0.0.1:0")).unwrap();
    socket.set_read_timeout(Some(PATIENCE * 2)).unwrap();
    socket.send_to(&question(name, 1), "127.0.0.11:53").ok()?;
    let mut buffer = [0; 512];
    let (length, from) = socket.recv_from(&mut buffer).ok()?;
    assert_eq!(from, SocketAddr::from(([127, 0, 0, 11], 53)), "the answer comes from where was asked");
    Some(outcome(&buffer[..length]))
}

fn ask_tcp(container: &Host, name: &str) -> (u8, Option<IpAddr>) {
    let mut stream = container.inside(|| TcpStream::connect("127.0.0.11:53")).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let question = question(name, 1);
    stream.write_all(&[&[0, u8::try_from(question.len()).unwrap()], question.as_slice()].concat()).unwrap();
    let mut length = [0; 2];
    stream.read_exact(&mut length).unwrap();
    let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut answer).unwrap();
    outcome(&answer)
}

/// A server that answers everything with `last`, or with a failure when that is none.
fn serve_names(host: &Host, address: &str, last: Option<u8>) {
    let (udp, tcp) = host.inside(|| (UdpSocket::bind(address).unwrap(), TcpListener::bind(address).unwrap()));
    let answer = move |question: &[u8]| {
        let mut answer = question.to_vec();
        answer[2] |= 0x80;
        match last {
            None => answer[3] = 2,
            Some(last) => {
                answer[7] = 1;
                answer.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 9, 0, 4, 203, 0, 113, last]);
            }
        }
        answer
    };
    std::thread::spawn(move || {
        let mut buffer = [0; 512];
        while let Ok((length, from)) = udp.recv_from(&mut buffer) {
            let _ = udp.send_to(&answer(&buffer[..length]), from);
        }
    });
    std::thread::spawn(move || {
        for mut stream in tcp.incoming().flatten() {
            let mut length = [0; 2];
            let _ = stream.read_exact(&mut length);
            let mut question = vec![0; usize::from(u16::from_be_bytes(length))];
            let _ = stream.read_exact(&mut question);
            let answer = answer(&question);
            let _ = stream.write_all(&[&[0, u8::try_from(answer.len()).unwrap()], answer.as_slice()].concat());
        }
    });
}

fn upstream(address: &str, via: Via) -> Upstream {
    Upstream { address: address.parse().unwrap(), via }
}

fn view(upstreams: Vec<Upstream>) -> View {
    View { networks: vec!["shop".to_owned()], own: BTreeMap::new(), upstreams }
}

fn names(name: &str, address: &str) -> Names {
    Names { names: vec![name.to_owned()], addresses: vec![address.parse().unwrap()] }
}

#[test]
fn containers_resolve_names_and_others_are_asked() {
    if !is_root_or_skip() {
        return;
    }
    let helper = Helper::new();
    let (one, closed) = (Host::new(), Host::new());
    serve_names(&helper.host, "127.0.0.1:5301", None);
    serve_names(&helper.host, "127.0.0.1:5302", Some(2));
    serve_names(&one, "127.0.0.1:5303", Some(3));
    // A name server of the container's own, at every address: it must not be in the way.
    let _own = one.inside(|| UdpSocket::bind("0.0.0.0:53")).unwrap();
    let silent = upstream("127.0.0.1:5309", Via::Host);
    let chain = vec![silent, upstream("127.0.0.1:5301", Via::Host), upstream("127.0.0.1:5302", Via::Host)];
    helper.attach(&one, "one", view(chain));
    helper.attach(&closed, "closed", view(Vec::new()));
    helper.call(Request::SetNetworkNames {
        network: "shop".to_owned(),
        names: NetworkNames { subnets: vec![subnet("10.1.0.0/24")], containers: BTreeMap::new() },
    });
    helper.call(Request::SetNames {
        network: "shop".to_owned(),
        container: "2".to_owned(),
        names: names("db", "10.1.0.2"),
    });
    let db = Some((0, Some("10.1.0.2".parse().unwrap())));
    assert_eq!((ask(&one, "DB"), ask(&closed, "db"), Some(ask_tcp(&one, "db"))), (db, db, db));
    let outside = Some((0, Some("203.0.113.2".parse().unwrap())));
    assert_eq!((ask(&one, "example.org"), Some(ask_tcp(&one, "example.org"))), (outside, outside));
    assert_eq!(ask(&closed, "example.org"), Some((2, None)));
    let inside = view(vec![upstream("127.0.0.1:5303", Via::Inside)]);
    helper.call(Request::SetView { container: "one".to_owned(), view: inside });
    let own = Some((0, Some("203.0.113.3".parse().unwrap())));
    assert_eq!((ask(&one, "example.org"), Some(ask_tcp(&one, "example.org"))), (own, own));
    helper.call(Request::SetView {
        container: "one".to_owned(),
        view: view(vec![upstream("127.0.0.1:5301", Via::Host)]),
    });
    assert_eq!(ask(&one, "example.org"), Some((2, None)), "the server's failure is passed on");
    helper.call(Request::RemoveNames { network: "shop".to_owned(), container: "2".to_owned() });
    assert_eq!(ask(&closed, "db"), Some((2, None)));
    let status = helper.netd.status().unwrap();
    assert_eq!(status.attached, ["closed", "one"]);
    assert!(status.answered >= 3 && status.forwarded >= 4, "{status:?}");
    helper.attach(&one, "one", view(Vec::new()));
    helper.call(Request::Detach { container: "one".to_owned() });
    helper.call(Request::Detach { container: "one".to_owned() });
    assert_eq!(helper.netd.status().unwrap().attached, ["closed"]);
    assert!(helper.netd.call(&Request::SetView { container: "one".to_owned(), view: view(Vec::new()) }, &[]).is_err());
    let attach = Request::Attach { container: "x".to_owned(), view: view(Vec::new()) };
    assert!(helper.netd.call(&attach, &[]).is_err(), "a namespace is missing");
}

#[test]
fn long_answers_and_those_that_were_cut_are_named_as_they_came() {
    if !is_root_or_skip() {
        return;
    }
    let (helper, one) = (Helper::new(), Host::new());
    let server = helper.host.inside(|| UdpSocket::bind("127.0.0.1:5304")).unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 512];
        while let Ok((length, from)) = server.recv_from(&mut buffer) {
            let mut answer = buffer[..length].to_vec();
            // one that is cut says so; the others are as long as a client may offer to take (RFC 6891, section 6.2.3)
            let cut = answer[13] == b'c';
            answer[2] |= if cut { 0x82 } else { 0x80 };
            answer.resize(if cut { length } else { 9000 }, 7);
            // what has another number, or asks something else, is nobody's answer
            let lie = [&[answer[0] ^ 1], &answer[1..]].concat();
            let _ = server.send_to(&lie, from);
            let _ = server.send_to(&answer, from);
        }
    });
    helper.attach(&one, "one", view(vec![upstream("127.0.0.1:5304", Via::Host)]));
    let socket = one.inside(|| UdpSocket::bind("127.0.0.1:0")).unwrap();
    socket.set_read_timeout(Some(PATIENCE * 2)).unwrap();
    for (name, length, flags) in [("long.example", 9000, 0x81), ("cut.example", 29, 0x83)] {
        socket.send_to(&question(name, 1), "127.0.0.11:53").unwrap();
        let mut buffer = vec![0; 65_535];
        let (found, _) = socket.recv_from(&mut buffer).unwrap();
        assert_eq!((found, buffer[0], buffer[2]), (length, 0xab, flags), "{name}");
    }
}

#[test]
fn a_resolver_goes_with_its_process() {
    if !is_root_or_skip() {
        return;
    }
    let helper = Helper::new();
    let container = Host::new();
    let mut child = Command::new("sleep").arg("600").spawn().unwrap();
    let pid = rustix::process::Pid::from_child(&child);
    let owner = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).unwrap();
    let request = Request::Attach { container: "one".to_owned(), view: view(Vec::new()) };
    helper.netd.call(&request, &[container.fd(), owner.as_fd()]).unwrap();
    assert_eq!(helper.netd.status().unwrap().attached, ["one"]);
    child.kill().unwrap();
    child.wait().unwrap();
    let gone = wait_for(PATIENCE, || helper.netd.status().unwrap().attached.is_empty().then_some(()));
    assert!(gone.is_some(), "{:?}", helper.netd.status());
}

#[test]
fn ports_are_kept_and_the_filter_is_mended() {
    if !is_root_or_skip() {
        return;
    }
    let helper = Helper::new();
    let port = |number, protocol| Publication {
        host: None,
        protocol,
        port: number,
        to: "10.1.0.2".parse().unwrap(),
        to_port: 80,
    };
    let _busy = helper.host.inside(|| TcpListener::bind("0.0.0.0:8081")).unwrap();
    let reserve = |owner: &str, ports: Vec<Publication>| {
        let ports = ports.into_iter().collect();
        helper.netd.call(&Request::Reserve { owner: owner.to_owned(), ports }, &[])
    };
    let refused = reserve("one", vec![port(8080, Protocol::Tcp), port(8081, Protocol::Tcp)]).unwrap_err();
    assert!(refused.to_string().contains("port 0.0.0.0:8081/tcp is in use"), "{refused}");
    reserve("one", vec![port(8080, Protocol::Tcp), port(8080, Protocol::Udp), port(8080, Protocol::Sctp)]).unwrap();
    assert!(helper.host.inside(|| TcpListener::bind("0.0.0.0:8080")).is_err());
    assert!(reserve("two", vec![port(8080, Protocol::Udp)]).is_err());
    helper.call(Request::Release { owner: "one".to_owned() });
    reserve("two", vec![port(8080, Protocol::Udp)]).unwrap();
    let mut rules = Rules::default();
    rules.networks.insert("br0".to_owned(), NetworkRules::default());
    helper.call(Request::All(vec![
        Request::SetRules(rules),
        Request::Publish([port(8080, Protocol::Tcp)].into_iter().collect()),
    ]));
    assert_eq!(helper.netd.status().unwrap().published, 1);
    if helper.host.run("nft", &["flush", "ruleset"]).is_some() {
        let mended = wait_for(PATIENCE, || (helper.netd.status().unwrap().repairs == 1).then_some(()));
        assert!(mended.is_some());
        let text = helper.host.run("nft", &["list", "map", "inet", "insula", "any4"]).unwrap();
        assert!(text.contains("tcp . 8080 : 10.1.0.2 . 80"), "{text}");
    } else {
        println!("skipped in part: no nft");
    }
    helper.call(Request::Unpublish([port(8080, Protocol::Tcp)].into_iter().collect()));
    helper.call(Request::RemoveNetworkRules { bridge: "br0".to_owned() });
    assert_eq!(helper.netd.status().unwrap().published, 0);
}

#[test]
fn the_program_serves_and_another_one_is_refused() {
    if !is_root_or_skip() {
        return;
    }
    let mut island = Island::new();
    let host = Host::new();
    let path = island.path("netd.sock");
    let own = format!("--net=/proc/{}/fd/{}", std::process::id(), host.0.as_raw_fd());
    let program = |socket: &std::path::Path| {
        let mut command = Command::new("nsenter");
        command.arg(&own).arg(env!("CARGO_BIN_EXE_insula-netd")).arg(socket);
        command
    };
    let pid = island.spawn(&mut program(&path));
    let netd = wait_for(PATIENCE, || Netd::connect(&path).ok()).unwrap();
    let container = Host::new();
    let attach = Request::Attach { container: "one".to_owned(), view: view(Vec::new()) };
    netd.call(&attach, &[container.fd()]).unwrap();
    netd.call(
        &Request::SetNames { network: "shop".to_owned(), container: "1".to_owned(), names: names("web", "10.1.0.9") },
        &[],
    )
    .unwrap();
    // Whoever told it may go; it goes on.
    drop(netd);
    assert_eq!(ask(&container, "web"), Some((0, Some("10.1.0.9".parse().unwrap()))));
    let memory = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    println!("{}", memory.lines().filter(|line| line.starts_with("Pss:")).collect::<String>());
    let second = program(&path).stderr(Stdio::piped()).output().unwrap();
    assert!(!second.status.success());
    assert!(String::from_utf8_lossy(&second.stderr).contains("another helper listens"));
    let netd = Netd::connect(&path).unwrap();
    netd.call(&Request::Stop, &[]).unwrap();
    assert!(wait_for(Duration::from_secs(10), || (!path.exists()).then_some(())).is_some());
}

#[test]
fn many_containers_ask_at_once() {
    if !is_root_or_skip() {
        return;
    }
    const CONTAINERS: u8 = 20;
    const QUESTIONS: usize = 100;
    let helper = Helper::new();
    serve_names(&helper.host, "127.0.0.1:5302", Some(2));
    let containers: Vec<Host> = (0..CONTAINERS).map(|_| Host::new()).collect();
    for (container, number) in containers.iter().zip(0..CONTAINERS) {
        let name = format!("c{number}");
        helper.attach(container, &name, view(vec![upstream("127.0.0.1:5302", Via::Host)]));
        let names = names(&name, &format!("10.1.0.{number}"));
        helper.call(Request::SetNames { network: "shop".to_owned(), container: name, names });
    }
    let wrong: usize = std::thread::scope(|scope| {
        let asking: Vec<_> = containers
            .iter()
            .map(|container| {
                scope.spawn(move || {
                    let good = |turn: usize| {
                        let number = u8::try_from(turn % usize::from(CONTAINERS)).unwrap();
                        let own = ask(container, &format!("c{number}")) == Some((0, Some([10, 1, 0, number].into())));
                        let outside = Some((0, Some([203, 0, 113, 2].into())));
                        // Every tenth goes outside.
                        own && (!turn.is_multiple_of(10) || ask(container, "example.org") == outside)
                    };
                    (0..QUESTIONS).filter(|turn| !good(*turn)).count()
                })
            })
            .collect();
        asking.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert_eq!(wrong, 0);
    let status = helper.netd.status().unwrap();
    assert_eq!(status.answered, u64::from(CONTAINERS) * QUESTIONS as u64);
}

/// The answer to a question that somebody else has written.
fn ask_raw(container: &Host, question: &[u8]) -> Option<Vec<u8>> {
    let socket = container.inside(|| UdpSocket::bind("127.0.0.1:0")).unwrap();
    socket.set_read_timeout(Some(PATIENCE * 2)).unwrap();
    socket.send_to(question, "127.0.0.11:53").ok()?;
    let mut buffer = [0; 4096];
    let (length, _) = socket.recv_from(&mut buffer).ok()?;
    Some(buffer[..length].to_vec())
}

#[test]
fn a_dead_server_and_a_flood_are_nobody_elses() {
    if !is_root_or_skip() {
        return;
    }
    const FLOOD: usize = 3000;
    let helper = Helper::new();
    let (flooding, other) = (Host::new(), Host::new());
    serve_names(&helper.host, "127.0.0.1:5302", Some(2));
    // it hears and never answers
    let dead = helper.host.inside(|| UdpSocket::bind("127.0.0.1:5301").unwrap());
    dead.set_nonblocking(true).unwrap();
    let heard = || {
        let mut count = 0;
        while dead.recv(&mut [0; 512]).is_ok() {
            count += 1;
        }
        count
    };
    let (silent, good) = (upstream("127.0.0.1:5301", Via::Host), upstream("127.0.0.1:5302", Via::Host));
    helper.attach(&flooding, "flooding", view(vec![silent]));
    helper.attach(&other, "other", view(vec![silent, good]));
    helper.call(Request::SetNames {
        network: "shop".to_owned(),
        container: "db".to_owned(),
        names: names("db", "10.1.0.2"),
    });
    let outside = Some((0, Some([203, 0, 113, 2].into())));
    for _ in 0..50 {
        assert_eq!(ask(&other, "example.org"), outside);
    }
    let asked = heard();
    assert!((1..10).contains(&asked), "the dead server was asked {asked} times for 50 questions");
    let descriptors = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let before = descriptors();
    let socket = flooding.inside(|| UdpSocket::bind("127.0.0.1:0")).unwrap();
    for number in 0..FLOOD {
        socket.send_to(&question(&format!("name-{number}.example.org"), 1), "127.0.0.11:53").unwrap();
        if number % 100 == 0 {
            assert_eq!(ask(&other, "db"), Some((0, Some("10.1.0.2".parse().unwrap()))), "own names go on");
            assert_eq!(ask(&other, "example.org"), outside, "so do others");
        }
    }
    // who asks too much is told so at once
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut buffer = [0; 512];
    let length = socket.recv(&mut buffer).unwrap();
    assert_eq!(outcome(&buffer[..length]), (2, None));
    let back = wait_for(PATIENCE * 4, || (descriptors() <= before + 1).then_some(()));
    assert!(back.is_some(), "{} descriptors, {before} before", descriptors());
}

#[test]
fn long_answers_and_unusual_questions_pass() {
    if !is_root_or_skip() {
        return;
    }
    let helper = Helper::new();
    let container = Host::new();
    let (udp, tcp) = helper
        .host
        .inside(|| (UdpSocket::bind("127.0.0.1:5301").unwrap(), TcpListener::bind("127.0.0.1:5301").unwrap()));
    // over UDP: cut for who does not say that it takes more, else as long as a packet; over TCP longer still
    std::thread::spawn(move || {
        let mut buffer = [0; 1024];
        while let Ok((length, from)) = udp.recv_from(&mut buffer) {
            let mut answer = buffer[..length].to_vec();
            answer[2] |= 0x80;
            if answer[11] == 0 {
                answer[2] |= 2;
            } else {
                answer.resize(1400, 7);
            }
            let _ = udp.send_to(&answer, from);
        }
    });
    std::thread::spawn(move || {
        for mut stream in tcp.incoming().flatten() {
            let mut length = [0; 2];
            while stream.read_exact(&mut length).is_ok() {
                let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
                stream.read_exact(&mut answer).unwrap();
                answer[2] |= 0x80;
                answer.resize(20_000, 9);
                let _ = stream.write_all(&[&20_000_u16.to_be_bytes(), answer.as_slice()].concat());
            }
        }
    });
    helper.attach(&container, "one", view(vec![upstream("127.0.0.1:5301", Via::Host)]));
    helper.call(Request::SetNetworkNames {
        network: "shop".to_owned(),
        names: NetworkNames {
            subnets: vec![subnet("10.1.0.0/24")],
            containers: BTreeMap::from([("db".to_owned(), names("db", "10.1.0.2"))]),
        },
    });
    let text = question("long.example.org", 16);
    let cut = ask_raw(&container, &text).unwrap();
    assert_eq!((cut[2] & 2, cut.len()), (2, text.len()), "the cut goes to the client, which asks again");
    let mut extended = text.clone();
    extended[11] = 1;
    extended.extend_from_slice(&[0, 0, 41, 0x10, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(ask_raw(&container, &extended).unwrap().len(), 1400);
    let mut stream = container.inside(|| TcpStream::connect("127.0.0.11:53")).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    for _ in 0..3 {
        stream.write_all(&[&[0, u8::try_from(text.len()).unwrap()], text.as_slice()].concat()).unwrap();
        let mut answer = vec![0; 2 + 20_000];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(answer[..2], 20_000_u16.to_be_bytes());
    }
    // a name that has no IPv6 address is there all the same: NXDOMAIN would make clients give up
    let none = ask_raw(&container, &question("db", 28)).unwrap();
    assert_eq!((none[3] & 15, none[7]), (0, 0));
    let name = ask_raw(&container, &question("2.0.1.10.in-addr.arpa", 12)).unwrap();
    assert!(name[7] == 1 && name.windows(3).any(|part| part == b"\x02db"), "{name:?}");
    // many connections that say nothing leave room for others
    let idle: Vec<_> = (0..40).map(|_| container.inside(|| TcpStream::connect("127.0.0.11:53")).unwrap()).collect();
    let second = Host::new();
    helper.attach(&second, "two", view(Vec::new()));
    assert_eq!(ask_tcp(&second, "db"), (0, Some("10.1.0.2".parse().unwrap())));
    drop(idle);
}

#[test]
fn ports_are_reached_over_ipv6_where_no_rule_can_help() {
    if !is_root_or_skip() {
        return;
    }
    let helper = Helper::new();
    let container = Host::new();
    let spec = crate::hosts::bridge("net-br0", &["10.1.0.1/24"]);
    helper.host.inside(|| net::Links::open().unwrap().create_bridge(&spec).unwrap());
    let link = crate::hosts::endpoint("net-br0", "net-v0", &["10.1.0.2/24"], &["10.1.0.1"]);
    helper.host.links().connect(container.fd(), &link).unwrap();
    helper.host.links().add_address("lo", subnet("2001:db8::7/128")).unwrap();
    container.serve_tcp("10.1.0.2:80", "in");
    let to: IpAddr = "10.1.0.2".parse().unwrap();
    let port = |host: Option<&str>| Publication {
        host: host.map(|host| host.parse().unwrap()),
        protocol: Protocol::Tcp,
        port: 8080,
        to,
        to_port: 80,
    };
    let ports: Published = [port(None), port(Some("::"))].into_iter().collect();
    helper.call(Request::Reserve { owner: "one".to_owned(), ports: ports.clone() });
    helper.call(Request::Publish(ports));
    for address in ["[::1]:8080", "[2001:db8::7]:8080"] {
        assert_eq!(
            helper.host.ask_tcp_expecting(address, Some("in 10.1.0.1")).as_deref(),
            Some("in 10.1.0.1"),
            "{address}"
        );
    }
    assert!(
        helper
            .netd
            .call(&Request::Reserve { owner: "two".to_owned(), ports: [port(Some("::"))].into_iter().collect() }, &[])
            .is_err()
    );
    helper.call(Request::Release { owner: "one".to_owned() });
    assert_eq!(helper.host.ask_tcp("[::1]:8080"), None);
    assert_eq!(helper.netd.status().unwrap().reserved, 0);
}
