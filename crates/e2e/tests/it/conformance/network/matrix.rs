//! Who may talk to whom, for every pair of kinds of networks.

use super::{docker, serve, subject};
use crate::subject::Kind;

/// A network, how it is made, and the container in it.
const KINDS: &[(&str, &[&str])] = &[
    ("bridge", &[]),
    ("first", &["network", "create", "first"]),
    ("second", &["network", "create", "second"]),
    ("inside", &["network", "create", "--internal", "inside"]),
    ("apart", &["network", "create", "-o", "com.docker.network.bridge.enable_icc=false", "apart"]),
];

#[test]
fn only_neighbours_talk() {
    let Some(subject) = subject() else { return };
    let mut addresses = Vec::new();
    for (network, made) in KINDS {
        if !made.is_empty() {
            docker(&subject, made).expect(0);
        }
        for number in ["1", "2"] {
            let name = format!("{network}{number}");
            let port = if number == "1" { &["-p", "80"][..] } else { &[] };
            serve(&subject, &name, &[&["--network", network][..], port].concat());
            let template = format!("{{{{(index .NetworkSettings.Networks {network:?}).IPAddress}}}}");
            let address = docker(&subject, &["inspect", "-f", &template, &name]).expect(0).text().to_owned();
            addresses.push((*network, name, address));
        }
    }
    for (from, asker, _) in addresses.iter().filter(|(_, name, _)| name.ends_with('1')) {
        // one container asks all: a question that is not answered costs a second
        let script: String = addresses
            .iter()
            .map(|(_, name, address)| format!("(timeout 1 wget -qO- http://{address}/ >/dev/null && echo {name}) & "))
            .collect();
        let heard = docker(&subject, &["exec", asker, "sh", "-c", &format!("{script} wait")]).expect(0);
        for (to, name, _) in &addresses {
            let expected = name == asker || (from == to && *to != "apart");
            assert_eq!(heard.out.lines().any(|line| line == name), expected, "from {asker} to {name}:\n{}", heard.out);
        }
    }
    // out into the world: through the host, unless the network is internal
    for (network, _) in KINDS {
        // older daemons give an internal network a route that leads nowhere
        if subject.kind == Kind::Dockerd && *network == "inside" {
            continue;
        }
        let routes = docker(&subject, &["exec", &format!("{network}2"), "ip", "route"]).expect(0);
        assert_eq!(routes.out.contains("default"), *network != "inside", "{network}: {}", routes.out);
    }
    subject.finish();
}
