//! Networks as Docker's users make, join, publish and leave them.

use std::fs::File;
use std::net::{TcpListener, UdpSocket};
use std::os::fd::AsFd;
use std::time::Duration;

use rustix::thread::LinkNameSpaceType;

use super::{NET, docker, fetch, serve, shell, subject};
use crate::subject::{Kind, SOON, Subject};
use testkit::wait_for;

#[test]
fn a_container_is_reached_through_the_host() {
    let Some(subject) = subject() else { return };
    let run = |words: &[&str], code: i32| docker(&subject, words).expect(code);
    let inside =
        shell(&subject, &[], "ip -4 addr show eth0 | grep -o 'inet [0-9.]*'; ip route; cat /etc/hosts").expect(0);
    assert!(inside.out.contains("inet 172.") && inside.out.contains("default via 172."), "{}", inside.out);
    serve(&subject, "web", &["-p", "8080:80", "-p", "127.0.0.1:8090-8099:80", "-p", "5300:53/udp", "--expose", "99"]);
    let port = run(&["port", "web"], 0);
    for line in ["80/tcp -> 0.0.0.0:8080", "80/tcp -> [::]:8080", "53/udp -> 0.0.0.0:5300", "80/tcp -> 127.0.0.1:8090"]
    {
        assert!(port.out.lines().any(|have| have == line), "{line}: {}", port.out);
    }
    assert!(run(&["ps"], 0).out.contains("0.0.0.0:8080->80/tcp"));
    let ports = run(&["inspect", "-f", "{{json .NetworkSettings.Ports}}", "web"], 0);
    assert!(ports.out.contains("\"99/tcp\":null"), "{}", ports.out);
    for url in ["http://127.0.0.1:8080/", "http://[::1]:8080/", "http://127.0.0.1:8090/"] {
        assert_eq!(fetch(url), "served\n", "{url}");
    }
    let gateway = run(&["inspect", "-f", "{{.NetworkSettings.Gateway}}", "web"], 0).text().to_owned();
    let own = format!("timeout 5 wget -qO- http://{gateway}:8080/");
    assert_eq!(run(&["exec", "web", "sh", "-c", &own], 0).out, "served\n", "through its own port");
    assert_eq!(shell(&subject, &[], &own).expect(0).out, "served\n", "from its neighbour");
    udp(&subject);
    refusals(&subject);
    let any = serve(&subject, "any", &["-P", "--expose", "80"]);
    let at = run(&["port", &any, "80/tcp"], 0);
    let at = at.out.lines().find_map(|line| line.strip_prefix("0.0.0.0:")).unwrap();
    assert_eq!(fetch(&format!("http://127.0.0.1:{at}/")), "served\n");
    run(&["stop", "-t", "0", "web"], 0);
    let free = wait_for(SOON, || TcpListener::bind("0.0.0.0:8080").ok());
    drop(free.expect("a stopped container's port is free"));
    run(&["start", "web"], 0);
    assert_eq!(fetch("http://127.0.0.1:8080/"), "served\n", "started again");
    subject.finish();
}

/// A datagram gets to the container and its answer back.
fn udp(subject: &Subject) {
    let init = docker(subject, &["inspect", "-f", "{{.State.Pid}}", "web"]).expect(0);
    let namespace = File::open(format!("/proc/{}/ns/net", init.text())).unwrap();
    let server = std::thread::spawn(move || {
        rustix::thread::move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
        let socket = UdpSocket::bind("0.0.0.0:53").unwrap();
        socket.set_read_timeout(Some(SOON)).unwrap();
        let (_, peer) = socket.recv_from(&mut [0; 16]).unwrap();
        socket.send_to(b"heard", peer).unwrap();
    });
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    let answer = wait_for(SOON, || {
        socket.send_to(b"?", "127.0.0.1:5300").ok()?;
        socket.recv_from(&mut [0; 16]).ok()
    });
    assert!(answer.is_some(), "no answer over UDP");
    server.join().unwrap();
}

fn refusals(subject: &Subject) {
    let taken = docker(subject, &["run", "--rm", "-p", "8080:80", NET, "true"]).expect(125);
    assert!(taken.err.contains("Bind for 0.0.0.0:8080 failed: port is already allocated"), "{}", taken.err);
    let _listener = TcpListener::bind("0.0.0.0:7777").unwrap();
    let used = docker(subject, &["run", "--rm", "-p", "7777:80", NET, "true"]).expect(125);
    assert!(used.err.contains("address already in use"), "{}", used.err);
    for (options, part) in [
        (&["--network", "nowhere"][..], "network nowhere not found"),
        (&["--ip", "172.17.0.9"], "user specified IP address is supported on user defined networks only"),
        (&["--network", "container:nobody"], "No such container: nobody"),
    ] {
        let words = [&["run", "--rm"][..], options, &[NET, "true"]].concat();
        let refused = docker(subject, &words).expect(125);
        assert!(refused.err.contains(part), "{options:?}: {}", refused.err);
    }
}

#[test]
fn networks_are_made_joined_and_left() {
    let Some(subject) = subject() else { return };
    let run = |words: &[&str], code: i32| docker(&subject, words).expect(code);
    let id = run(
        &[
            "network",
            "create",
            "--subnet",
            "10.61.0.0/16",
            "--ip-range",
            "10.61.5.0/24",
            "--gateway",
            "10.61.0.9",
            "--aux-address",
            "router=10.61.5.1",
            "--label",
            "a=b",
            "--attachable",
            "-o",
            "com.docker.network.driver.mtu=1400",
            "-o",
            "com.docker.network.bridge.name=netw0",
            "shop",
        ],
        0,
    );
    let config = run(
        &[
            "network",
            "inspect",
            "-f",
            "{{json .IPAM.Config}} {{.Driver}} {{.Scope}} {{.Attachable}} {{.Labels.a}}",
            "shop",
        ],
        0,
    );
    for part in [
        "\"Subnet\":\"10.61.0.0/16\"",
        "\"IPRange\":\"10.61.5.0/24\"",
        "\"Gateway\":\"10.61.0.9\"",
        "bridge local true b",
    ] {
        assert!(config.out.contains(part), "{part}: {}", config.out);
    }
    serve(
        &subject,
        "db",
        &["--network", "shop", "--network-alias", "data", "--ip", "10.61.5.77", "--hostname", "base"],
    );
    serve(&subject, "web", &["-p", "8080:80"]);
    let named = "cat /etc/resolv.conf; for name in db data base db.shop; do timeout 5 wget -qO- http://$name/; done; ip link show eth0";
    let seen = shell(&subject, &["--network", "shop"], named).expect(0);
    assert!(seen.out.contains("nameserver 127.0.0.11") && seen.out.contains("mtu 1400"), "{}", seen.out);
    assert!(seen.out.matches("served").count() >= 3, "{}", seen.out);
    // a container of the default network joins, is found, and leaves
    run(&["network", "connect", "--alias", "front", "--ip", "10.61.5.80", "shop", "web"], 0);
    let both = run(&["exec", "web", "sh", "-c", "ip -4 addr; timeout 5 wget -qO- http://db/"], 0);
    assert!(both.out.contains("10.61.5.80/16") && both.out.ends_with("served\n"), "{}", both.out);
    assert_eq!(run(&["exec", "db", "timeout", "5", "wget", "-qO-", "http://front/"], 0).out, "served\n");
    let members =
        run(&["network", "inspect", "-f", "{{range .Containers}}{{.Name}} {{.IPv4Address}} {{end}}", "shop"], 0);
    assert!(members.out.contains("db 10.61.5.77/16") && members.out.contains("web 10.61.5.80/16"), "{}", members.out);
    wrong(&subject, id.text());
    run(&["network", "disconnect", "shop", "web"], 0);
    let left = run(&["exec", "web", "sh", "-c", "ip -4 addr; grep 10.61 /etc/hosts; true"], 0);
    assert!(!left.out.contains("10.61."), "{}", left.out);
    assert_eq!(fetch("http://127.0.0.1:8080/"), "served\n", "its other network goes on");
    listed(&subject);
    subject.finish();
}

/// Networks with their members that do not run, their filters, their end and what events tell of it.
fn listed(subject: &Subject) {
    let run = |words: &[&str], code: i32| docker(subject, words).expect(code);
    // a container that does not run joins with its start
    run(&["stop", "-t", "0", "db"], 0);
    run(&["network", "connect", "bridge", "db"], 0);
    run(&["start", "db"], 0);
    let links = run(&["exec", "db", "sh", "-c", "ip -4 addr | grep -c 'inet .*eth'"], 0);
    assert_eq!(links.text(), "2");
    for (filter, count) in
        [("name=sho", 1), ("driver=bridge", 2), ("type=custom", 1), ("label=a=b", 1), ("dangling=true", 0)]
    {
        let found = run(&["network", "ls", "-q", "--filter", filter], 0);
        assert_eq!(found.out.lines().count(), count, "{filter}: {}", found.out);
    }
    run(&["rm", "-f", "db"], 0);
    let pruned = run(&["network", "prune", "-f"], 0);
    assert!(pruned.out.contains("shop"), "{}", pruned.out);
    std::thread::sleep(Duration::from_millis(1100));
    let events = run(
        &[
            "events",
            "--since",
            "10m",
            "--until",
            "0s",
            "--filter",
            "type=network",
            "--format",
            "{{.Action}} {{.Actor.Attributes.name}}",
        ],
        0,
    );
    for line in ["create shop", "connect shop", "disconnect shop", "destroy shop", "connect bridge"] {
        assert!(events.out.lines().any(|have| have == line), "{line}: {}", events.out);
    }
}

/// What Docker's daemon refuses, in its words.
fn wrong(subject: &Subject, id: &str) {
    for (words, part) in [
        (&["create", "shop"][..], "network with name shop already exists"),
        (&["create", "bridge"], "operation is not permitted on predefined bridge network"),
        (&["create", "--subnet", "10.61.4.0/24", "x"], "Pool overlaps with other one on this address space"),
        (&["create", "-d", "nope", "x"], "plugin"),
        (&["create", "-o", "com.docker.network.bridge.name=netw0", "x"], "netw0"),
        (&["rm", "bridge"], "bridge is a pre-defined network and cannot be removed"),
        (&["rm", "nope"], "network nope not found"),
        (&["rm", id], "has active endpoints"),
        (&["connect", "nope", "web"], "network nope not found"),
        (&["connect", "shop", "nobody"], "No such container: nobody"),
        (&["connect", "shop", "web"], "endpoint with name web already exists in network shop"),
        (
            &["connect", "host", "web"],
            "container cannot be disconnected from host network or connected to host network",
        ),
        (&["disconnect", "host", "web"], "network"),
    ] {
        let refused = docker(subject, &[&["network"][..], words].concat()).expect(1);
        assert!(refused.err.contains(part), "{words:?}: {}", refused.err);
    }
    let twice = docker(subject, &["run", "--rm", "--network", "shop", "--ip", "10.61.5.77", NET, "true"]).expect(125);
    assert!(twice.err.to_lowercase().contains("address already in use"), "{}", twice.err);
    let outside = docker(subject, &["run", "--rm", "--network", "shop", "--ip", "10.99.0.1", NET, "true"]).expect(125);
    // newer daemons say: no configured subnet or ip-range contain it
    assert!(outside.err.contains("10.99.0.1"), "{}", outside.err);
}

#[test]
fn what_is_used_up_is_said_in_dockers_words() {
    let Some(subject) = super::subject_with(&["--default-address-pool", "base=10.60.0.0/22,size=24"]) else { return };
    let run = |words: &[&str], code: i32| docker(&subject, words).expect(code);
    // the host has a part of the pool itself; networks go round it
    for words in [
        "link add netw-own type veth peer name netw-far",
        "link set netw-own up",
        "link set netw-far up",
        "addr add 10.60.2.1/24 dev netw-own",
    ] {
        assert!(std::process::Command::new("ip").args(words.split(' ')).status().unwrap().success(), "ip {words}");
    }
    let template = "{{range .IPAM.Config}}{{.Subnet}}{{end}}";
    let mut given = vec![run(&["network", "inspect", "-f", template, "bridge"], 0).text().to_owned()];
    let mut refused = None;
    for name in ["one", "two", "three", "four"] {
        let made = docker(&subject, &["network", "create", name]);
        if made.code != 0 {
            refused = Some(made.err);
            break;
        }
        given.push(run(&["network", "inspect", "-f", template, name], 0).text().to_owned());
    }
    let refused = refused.expect("four subnets of 256 addresses are not enough for more than that");
    assert!(refused.contains("could not find an available, non-overlapping IPv4 address pool"), "{refused}");
    assert!(!given.contains(&"10.60.2.0/24".to_owned()) && given.len() >= 3, "{given:?}");
    // a subnet of four addresses: its own, the host's, one for a container, and that for all
    run(&["network", "create", "--subnet", "10.62.0.0/30", "tiny"], 0);
    serve(&subject, "first", &["--network", "tiny", "-p", "7000-7001:80"]);
    let full = run(&["run", "--rm", "--network", "tiny", NET, "true"], 125);
    assert!(full.err.contains("no available IPv4 addresses on this network's address pools"), "{}", full.err);
    // ports of a range, one after the other
    serve(&subject, "second", &["-p", "7000-7001:80"]);
    let none = run(&["run", "--rm", "-p", "7000-7001:80", NET, "true"], 125);
    assert!(none.err.contains("allocated"), "{}", none.err);
    // what failed has kept nothing
    run(&["rm", "-f", "first", "second"], 0);
    run(&["run", "--rm", "--network", "tiny", "-p", "7000:80", NET, "echo"], 0);
    subject.finish();
}

/// The other end of a link comes back somewhere else, and is found there.
fn linked_anew(subject: &Subject) {
    let run = |words: &[&str]| docker(subject, words).expect(0);
    run(&["network", "create", "pair"]);
    serve(subject, "server", &["--network", "pair"]);
    run(&["run", "-d", "--name", "client", "--network", "pair", "--link", "server:alias", NET, "sleep", "1000"]);
    run(&["stop", "-t", "0", "server"]);
    run(&["run", "-d", "--name", "squatter", "--network", "pair", NET, "sleep", "1000"]);
    run(&["start", "server"]);
    let got = run(&["exec", "client", "timeout", "5", "wget", "-qO-", "http://alias/"]);
    assert_eq!(got.out, "served\n");
    run(&["rm", "-f", "client", "server", "squatter"]);
}

#[test]
fn names_links_and_shared_networks() {
    let Some(subject) = subject() else { return };
    let run = |words: &[&str], code: i32| docker(&subject, words).expect(code);
    serve(&subject, "db", &["--expose", "5432", "-e", "MODE=x"]);
    let linked =
        shell(&subject, &["--link", "db:data"], "timeout 5 wget -qO- http://data/; env; cat /etc/hosts").expect(0);
    for part in ["served", "DATA_PORT_5432_TCP_PORT=5432", "DATA_ENV_MODE=x", "\tdata "] {
        assert!(linked.out.contains(part), "{part}: {}", linked.out);
    }
    let mut words = vec![
        "--add-host",
        "h:host-gateway",
        "--add-host",
        "x:1.2.3.4",
        "--dns",
        "9.9.9.9",
        "--dns-search",
        "a.b",
        "--dns-option",
        "ndots:3",
        "--hostname",
        "me",
        "--domainname",
        "home",
    ];
    // the client asks daemons that are older than it is for no link-layer address
    if subject.kind == Kind::Insula {
        words.extend(["--mac-address", "02:42:ac:11:99:99"]);
    }
    let files = shell(&subject, &words, "cat /etc/hosts /etc/resolv.conf; hostname; ip link show eth0").expect(0);
    for part in [
        "1.2.3.4\tx",
        "\th\n",
        "\tme.home me",
        "nameserver 9.9.9.9",
        "search a.b",
        "options ndots:3",
        words.last().copied().filter(|word| word.starts_with("02:")).unwrap_or_default(),
    ] {
        assert!(files.out.contains(part), "{part}: {}", files.out);
    }
    if subject.kind == Kind::Insula {
        // a namespace that belongs to the container's own user namespace
        let script = "ip link set eth0 mtu 1300 && ip addr; timeout 5 wget -qO- http://172.17.0.2/";
        let seen =
            subject.insula(&["run", "--rm", "--userns", "auto", "--cap-add", "NET_ADMIN", NET, "sh", "-c", script]);
        assert!(seen.out.contains("mtu 1300") && seen.out.contains("served"), "{} {}", seen.out, seen.err);
    }
    linked_anew(&subject);
    run(&["network", "create", "--ipv6", "--subnet", "10.62.0.0/24", "--subnet", "fd00:62::/64", "dual"], 0);
    serve(&subject, "six", &["--network", "dual", "--ip6", "fd00:62::66", "-p", "8086:80"]);
    let both = shell(
        &subject,
        &["--network", "dual", "--link", "six:far"],
        "ip -6 route; timeout 5 wget -qO- http://[fd00:62::66]/; timeout 5 wget -qO- http://far/",
    )
    .expect(0);
    assert!(both.out.contains("default via fd00:62::1") && both.out.matches("served").count() == 2, "{}", both.out);
    for url in ["http://127.0.0.1:8086/", "http://[::1]:8086/"] {
        assert_eq!(fetch(url), "served\n", "{url}");
    }
    // another container's network: the same links, names and files
    let shared = shell(
        &subject,
        &["--network", "container:six"],
        "timeout 5 wget -qO- http://127.0.0.1/; hostname; cat /etc/hosts",
    )
    .expect(0);
    let id = run(&["inspect", "-f", "{{.Id}}", "six"], 0).text()[..12].to_owned();
    assert!(shared.out.starts_with(&format!("served\n{id}\n")), "{}", shared.out);
    let host = shell(&subject, &["--network", "host"], "ip -4 addr").expect(0);
    assert!(host.out.contains("10.62.0.1/24"), "{}", host.out);
    let none = shell(&subject, &["--network", "none"], "ip -4 addr; ip route").expect(0);
    assert!(!none.out.contains("eth0") && !none.out.contains("default"), "{}", none.out);
    // nobody may ping and listen at low ports, as in Docker's containers
    let nobody = shell(&subject, &["-u", "nobody"], "cat /proc/sys/net/ipv4/ip_unprivileged_port_start").expect(0);
    assert_eq!(nobody.text(), "0");
    subject.finish();
}
