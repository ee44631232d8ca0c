//! Places in networks: left, taken, and what follows for a container's ports and addresses.

use super::{NET, docker, fetch, serve, subject};
use crate::subject::{Kind, SOON, Subject};
use testkit::wait_for;

#[test]
fn places_in_networks_are_left_and_taken() {
    let Some(subject) = subject() else { return };
    let run = |words: &[&str], code: i32| docker(&subject, words).expect(code);
    run(&["network", "create", "aaa"], 0);
    run(&["network", "create", "--subnet", "10.66.0.0/24", "shop"], 0);
    run(&["network", "create", "--internal", "inner"], 0);
    // who has no network can leave that state, running or not
    run(&["run", "-d", "--name", "alone", "--network", "none", NET, "sleep", "1000"], 0);
    run(&["create", "--name", "later", "--network", "none", NET, "ip", "route"], 0);
    for name in ["alone", "later"] {
        run(&["network", "connect", "shop", name], 1);
        run(&["network", "disconnect", "none", name], 0);
        run(&["network", "connect", "--ip", if name == "alone" { "10.66.0.7" } else { "10.66.0.8" }, "shop", name], 0);
    }
    let inside = run(&["exec", "alone", "ip", "-4", "addr"], 0);
    assert!(inside.out.contains("10.66.0.7/24"), "{}", inside.out);
    assert!(run(&["start", "-a", "later"], 0).out.contains("default via 10.66.0.1"));
    // said twice before a start, the last counts
    run(&["network", "connect", "--ip", "10.66.0.9", "shop", "later"], 0);
    assert!(run(&["start", "-a", "later"], 0).out.contains("src 10.66.0.9"));
    // a network that is gone, and a container that is
    run(&["network", "disconnect", "shop", "later"], 0);
    run(&["network", "connect", "aaa", "later"], 0);
    run(&["network", "rm", "aaa"], 0);
    assert!(run(&["network", "disconnect", "aaa", "later"], 1).err.contains("network aaa not found"));
    run(&["network", "disconnect", "-f", "aaa", "later"], 0);
    assert_eq!(run(&["inspect", "-f", "{{len .NetworkSettings.Networks}}", "later"], 0).text(), "0");
    let twice = run(&["network", "disconnect", "-f", "aaa", "later"], 1);
    assert!(twice.err.contains("is not connected to the network aaa"), "{}", twice.err);
    let nobody = run(&["network", "disconnect", "-f", "shop", "nobody"], 1);
    assert!(nobody.err.contains("endpoint nobody not found"), "{}", nobody.err);
    run(&["network", "create", "aaa"], 0);
    ports(&subject);
    refused(&subject);
    subject.finish();
}

/// Published ports are where the way out is, and nowhere without one.
fn ports(subject: &Subject) {
    let run = |words: &[&str]| docker(subject, words).expect(0);
    let reached = |what: &str| assert_eq!(fetch("http://127.0.0.1:8123/"), "served\n", "{what}");
    serve(subject, "web", &["--network", "inner", "-p", "8123:80", "-p", "80"]);
    assert_eq!(run(&["port", "web"]).text(), "");
    run(&["network", "connect", "bridge", "web"]);
    reached("through its first network with a way out");
    let any = || run(&["port", "web"]).out.lines().filter(|line| !line.ends_with(":8123")).count();
    assert!(any() > 0, "a port of the engine's choice, too");
    run(&["network", "connect", "aaa", "web"]);
    reached("through another");
    run(&["network", "disconnect", "bridge", "web"]);
    reached("through the one that is left");
    run(&["network", "disconnect", "aaa", "web"]);
    if subject.kind == Kind::Insula {
        assert_eq!(run(&["port", "web"]).text(), "", "no way out is left");
        let free = wait_for(SOON, || std::net::TcpListener::bind("0.0.0.0:8123").ok());
        assert!(free.is_some(), "the port is free again");
    }
    run(&["network", "connect", "bridge", "web"]);
    reached("once more");
    run(&["rm", "-f", "web"]);
}

/// What Docker's daemon refuses, in its words.
fn refused(subject: &Subject) {
    let run = |words: &[&str], code: i32| docker(subject, words).expect(code);
    run(&["network", "create", "--config-only", "--subnet", "10.67.0.0/24", "pattern"], 0);
    run(&["network", "create", "--config-from", "pattern", "made"], 0);
    run(&["run", "-d", "--name", "far", "--network", "shop", NET, "sleep", "1000"], 0);
    run(&["create", "--name", "still", NET, "true"], 0);
    let with = |network: &'static str, words: &[&'static str]| {
        [&["run", "--rm", "--network", network][..], words, &[NET, "true"]].concat()
    };
    let make = |words: &[&'static str]| [&["network", "create"][..], words, &["x"]].concat();
    let named = "failed to parse com.docker.network.";
    for (words, part) in [
        (vec!["network", "connect", "--alias", "a", "bridge", "far"], "network-scoped alias is supported only"),
        (vec!["network", "connect", "--alias", "a", "host", "far"], "network-scoped alias is supported only"),
        (with("aaa", &["--ip", "172.28.9.9"]), "only when connecting to networks with user configured subnets"),
        (with("shop", &["--ip6", "::ffff:10.66.0.9"]), "invalid IPv6 address: ::ffff:10.66.0.9"),
        (with("shop", &["--link-local-ip", "169.253.5.5"]), "IP address: 169.253.5.5"),
        (with("bridge", &["--link", "far:x"]), "Cannot link to /far, as it does not belong to the default network"),
        (with("bridge", &["--link", "still:x"]), "Cannot link to a non running container: /still AS /"),
        (with("pattern", &[]), "cannot create endpoint on configuration-only network"),
        (make(&["--config-from", "pattern", "--subnet", "10.68.0.0/24"]), "user specified configurations are not"),
        (make(&["--config-from", "nope"]), "configuration network \"nope\" does not exist"),
        (vec!["network", "rm", "pattern"], "configuration network \"pattern\" is in use"),
        (make(&["--subnet", "10.68.0.0/16", "--subnet", "10.69.0.0/16"]), "driver doesn't support multiple subnets"),
        (
            make(&["--subnet", "10.68.0.0/16", "--gateway", "10.68.0.1", "--aux-address", "a=10.68.0.1"]),
            "(a:10.68.0.1)",
        ),
        (make(&["--ipam-driver", "null"]), "ipv4 pool is empty"),
        (make(&["-d", "macvlan", "-o", "parent=lo"]), "loopback interface is not a valid macvlan parent link"),
        (make(&["-d", "macvlan", "-o", "macvlan_mode=x"]), "requested macvlan mode 'x' is not valid"),
        (make(&["-o", "com.docker.network.bridge.enable_icc=x"]), named),
        (make(&["-o", "com.docker.network.host_ipv4=x"]), named),
    ] {
        let said = docker(subject, &words);
        assert!(said.code != 0 && said.err.contains(part), "{words:?}: {} {}", said.code, said.err);
    }
    for (filter, count) in [("name=^shop$", 1), ("name=^sho$", 0), ("name=sho", 1)] {
        let found = run(&["network", "ls", "-q", "--filter", filter], 0);
        assert_eq!(found.out.lines().count(), count, "{filter}: {}", found.out);
    }
    // a link in the default network is to the other's address there
    run(&["network", "connect", "bridge", "far"], 0);
    let hosts = run(&["run", "--rm", "--link", "far:x", NET, "cat", "/etc/hosts"], 0);
    assert!(!hosts.out.contains("10.66."), "{}", hosts.out);
}
