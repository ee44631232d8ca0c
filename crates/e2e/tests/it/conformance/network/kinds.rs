//! The less usual kinds: sub-links of a parent, tunnels between hosts, limits, other people's plugins.

use std::fs;
use std::process::Command;

use super::{NET, docker, serve, shell, subject};
use crate::subject::{Subject, program, skip_unless_insula};

fn ip(words: &str) -> bool {
    Command::new("ip").args(words.split(' ')).status().is_ok_and(|status| status.success())
}

#[test]
fn sub_links_of_a_parent() {
    let Some(subject) = subject() else { return };
    assert!(ip("link add netw-par type veth peer name netw-far") && ip("link set netw-par up"));
    assert!(ip("link set netw-far up") && ip("addr add 10.64.0.1/24 dev netw-far"));
    for driver in ["macvlan", "ipvlan"] {
        let words = ["network", "create", "-d", driver, "-o", "parent=netw-par", "--subnet", "10.64.0.0/24", driver];
        docker(&subject, &words).expect(0);
        let seen = shell(&subject, &["--network", driver], "ping -c 3 10.64.0.1 | grep -c 'bytes from'; ip route");
        if seen.code != 0 && (seen.err.contains("no links of kind") || seen.err.contains("not supported")) {
            println!("not tried: this kernel has no {driver}");
        } else {
            let seen = seen.expect(0);
            assert!(!seen.out.starts_with('0') && seen.out.contains("default via 10.64.0.1"), "{driver}: {}", seen.out);
        }
        docker(&subject, &["network", "rm", driver]).expect(0);
    }
    let words = ["network", "create", "-d", "macvlan", "-o", "parent=netw-none", "x"];
    assert!(docker(&subject, &words).expect(1).err.contains("netw-none"));
    subject.finish();
}

#[test]
fn tunnels_and_limits() {
    if skip_unless_insula() {
        return;
    }
    let Some(here) = subject() else { return };
    // a second host: its own network, joined to this one by a wire
    let (ready, wired) = (std::sync::mpsc::channel::<u32>(), std::sync::mpsc::channel::<()>());
    let other = std::thread::spawn(move || {
        let there = subject().unwrap();
        ready.0.send(there.daemon_pid().as_raw_nonzero().get().unsigned_abs()).unwrap();
        wired.1.recv().unwrap();
        assert!(ip("link set netw-b up") && ip("addr add 192.0.2.2/24 dev netw-b"));
        spanning(&there, "192.0.2.2", "192.0.2.1", "10.65.2.0/24", "10.65.2.1");
        serve(&there, "far", &["--network", "span", "--ip", "10.65.2.9"]);
        ready.0.send(0).unwrap();
        wired.1.recv().unwrap();
        there.finish();
    });
    let pid = ready.1.recv().unwrap();
    assert!(ip(&format!("link add netw-a type veth peer name netw-b netns {pid}")));
    assert!(ip("link set netw-a up") && ip("addr add 192.0.2.1/24 dev netw-a"));
    wired.0.send(()).unwrap();
    spanning(&here, "192.0.2.1", "192.0.2.2", "10.65.1.0/24", "10.65.1.1");
    ready.1.recv().unwrap();
    let got =
        shell(&here, &["--network", "span"], "timeout 10 wget -qO- http://10.65.2.9/; ip link show eth0").expect(0);
    assert!(got.out.contains("served") && got.out.contains("mtu 1450"), "{}", got.out);
    wired.0.send(()).unwrap();
    other.join().unwrap();
    // limits: the queue is there with the container and gone with it
    docker(&here, &["network", "create", "-o", "insula.rate.send=1m", "slow"]).expect(0);
    serve(&here, "crawl", &["--network", "name=slow,driver-opt=insula.rate.receive=2m"]);
    let queues = || String::from_utf8(Command::new("tc").args(["qdisc", "show"]).output().unwrap().stdout).unwrap();
    assert_eq!(queues().matches("tbf").count(), 2, "{}", queues());
    docker(&here, &["rm", "-f", "crawl"]).expect(0);
    assert!(testkit::wait_for(crate::subject::SOON, || (!queues().contains("tbf")).then_some(())).is_some());
    here.finish();
}

fn spanning(subject: &Subject, local: &str, peer: &str, range: &str, gateway: &str) {
    let (local, peer) = (format!("vxlan.local={local}"), format!("vxlan.peers={peer}"));
    let words = [
        "network",
        "create",
        "-d",
        "vxlan",
        "--subnet",
        "10.65.0.0/16",
        "--ip-range",
        range,
        "--gateway",
        gateway,
        "-o",
        "vxlan.id=65",
        "-o",
        &local,
        "-o",
        &peer,
        "span",
    ];
    docker(subject, &words).expect(0);
}

#[test]
fn plugins_of_others_and_being_one() {
    if skip_unless_insula() {
        return;
    }
    let Some(subject) = subject() else { return };
    let bin = subject.island.dir("cni-bin");
    std::os::unix::fs::symlink(program("insula"), bin.join("insula")).unwrap();
    let state = subject.island.dir("cni-state");
    let list = serde_json::json!({ "cniVersion": "1.0.0", "name": "own", "plugins": [{ "type": "insula",
        "bridge": "netw-cni0", "dataDir": subject.island.dir("cni-data"), "capabilities": { "mac": true },
        "ipam": { "subnets": [{ "subnet": "10.66.0.0/24" }] } }] });
    let own = subject.island.file("own.conflist", &list.to_string());
    let mut lists = vec![(own, "10.66.0.2/24")];
    if fs::exists("/usr/lib/cni/bridge").unwrap() {
        let list = serde_json::json!({ "cniVersion": "1.0.0", "name": "theirs", "plugins": [{ "type": "bridge",
            "bridge": "netw-cni1", "isGateway": true, "ipam": { "type": "host-local",
            "dataDir": subject.island.dir("leases"), "ranges": [[{ "subnet": "10.67.0.0/24" }]] } }] });
        lists.push((subject.island.file("theirs.conflist", &list.to_string()), "10.67.0.2/24"));
    } else {
        println!("not tried: no plugins in /usr/lib/cni (containernetworking-plugins)");
    }
    docker(&subject, &["run", "-d", "--name", "job", "--network", "none", NET, "sleep", "1000"]).expect(0);
    for (number, (list, address)) in lists.iter().enumerate() {
        let link = format!("eth{number}");
        let run = |command: &str, code: i32| {
            let (bin, state) = (bin.to_str().unwrap(), state.to_str().unwrap());
            let words =
                ["cni", command, "--bin-dir", bin, "--bin-dir", "/usr/lib/cni", "--state", state, "--ifname", &link];
            subject.insula(&[&words[..], &[list.to_str().unwrap(), "job"]].concat()).expect(code)
        };
        assert!(run("add", 0).out.contains(address));
        let seen = docker(&subject, &["exec", "job", "ip", "-4", "addr", "show", &link]).expect(0);
        assert!(seen.out.contains(address), "{}", seen.out);
        run("check", 0);
        run("gc", 0);
        run("del", 0);
        docker(&subject, &["exec", "job", "ip", "addr", "show", &link]).expect(1);
        run("check", 1);
    }
    subject.finish();
}
