//! How a container finds others: its files below /etc, what it may ask the resolver, and the variables of its links.

use super::wiring::Joined;
use crate::model::{Container, ContainerSpec, DEFAULT_NETWORK, EndpointLink, NetworkMode};
use crate::plan::namespaces::shown_hostname;
use net::dns::{Names, View};
use net::{Origin, Resolver};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

/// The other end of a link, and the name that it has here.
#[derive(Debug, Clone)]
pub(crate) struct Linked {
    pub(crate) alias: String,
    pub(crate) container: Arc<Container>,
}

/// What surrounds a container's names.
pub(crate) struct Around<'a> {
    /// The text of the host's resolv.conf.
    pub(crate) host: &'a str,
    /// How a container reaches the host.
    pub(crate) gateways: &'a [IpAddr],
    /// The containers that it has links to through the default network.
    pub(crate) linked: &'a [Linked],
}

/// Splits `name:alias`; the alias is the name where none is given.
pub(crate) fn link_parts(text: &str) -> (&str, &str) {
    let (name, alias) = text.split_once(':').unwrap_or((text, text));
    let bare = |part: &str| part.strip_prefix('/').map_or(0, |rest| part.len() - rest.len());
    (&name[bare(name)..], alias.rsplit('/').next().unwrap_or(alias))
}

/// Whether a container's links are names of their own, as in the default network.
pub(crate) fn is_linking(spec: &ContainerSpec) -> bool {
    matches!(&spec.network, NetworkMode::Networks(name) if name == DEFAULT_NETWORK) && !spec.links.is_empty()
}

/// The addresses of a link's other end: those of the default network, the only one that such links are for.
fn in_default(container: &Container) -> Vec<IpAddr> {
    let endpoint = container.endpoints.get(DEFAULT_NETWORK);
    endpoint.and_then(|endpoint| endpoint.link.as_ref()).map(EndpointLink::addresses).unwrap_or_default()
}

/// The names of a container in a network: its own, those it was given there, and its short id.
pub(crate) fn in_network(container: &Container, aliases: &[String]) -> Vec<String> {
    let mut names = vec![container.name.clone()];
    let more = aliases.iter().cloned().chain([container.id.short().to_owned()]);
    for name in more.chain(container.spec.hostname.clone()) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

/// As the resolver has them.
pub(crate) fn names(link: &EndpointLink) -> Names {
    Names { names: link.names.clone(), addresses: link.addresses() }
}

/// The text of a container's /etc/hosts.
pub(crate) fn hosts(container: &Container, joined: &[Joined], around: &Around<'_>) -> String {
    let spec = &container.spec;
    let hostname = shown_hostname(container);
    let name = spec.domainname.as_deref().map_or_else(|| hostname.clone(), |domain| format!("{hostname}.{domain}"));
    let mut extra: Vec<(String, IpAddr)> =
        spec.extra_hosts.iter().filter_map(|line| net::extra_host(line, around.gateways)).flatten().collect();
    for Linked { alias, container: other } in around.linked {
        let hostname = shown_hostname(other);
        let mut names = vec![alias.as_str(), hostname.as_str(), other.name.as_str()];
        names.dedup();
        for address in in_default(other) {
            extra.push((names.join(" "), address));
        }
    }
    let addresses: Vec<IpAddr> = joined.iter().flat_map(|one| one.link.addresses()).collect();
    net::hosts_file_for(&name, &addresses, &[], &extra)
}

/// The text of a container's /etc/resolv.conf, and what it may ask our resolver, if it is to ask that one.
pub(crate) fn resolver(container: &Container, joined: &[Joined], around: &Around<'_>) -> (String, Option<View>) {
    let spec = &container.spec;
    let host = Resolver::parse(around.host);
    let asked = |resolver: Resolver| resolver.with(&spec.dns, &spec.dns_search, &spec.dns_options);
    let own: Vec<&Joined> = joined.iter().filter(|one| !one.network.is_default()).collect();
    let reachable = asked(host.clone().without_loopback());
    // a name server on the host's loopback can only be asked by the host
    if own.is_empty() && (!reachable.nameservers.is_empty() || host.nameservers.is_empty()) {
        return (reachable.to_string(), None);
    }
    let origin = if spec.dns.is_empty() { Origin::Host } else { Origin::User };
    let (file, mut upstreams) = asked(host).embedded(origin);
    if joined.iter().all(|one| one.network.spec.internal) {
        upstreams.clear();
    }
    let networks = own.iter().map(|one| one.network.spec.name.clone()).collect();
    (file.to_string(), Some(View { networks, own: BTreeMap::new(), upstreams }))
}

/// The variables that tell a program of the containers it has links to.
///
/// # Source
/// Docker's documentation of legacy container links: `ALIAS_NAME`, `ALIAS_PORT…`, `ALIAS_ENV_…`.
pub(crate) fn link_variables(container: &Container, linked: &[Linked]) -> Vec<String> {
    let mut variables = Vec::new();
    for Linked { alias, container: other } in linked {
        let prefix = alias.to_ascii_uppercase().replace(['-', '.'], "_");
        let address = in_default(other).into_iter().find(IpAddr::is_ipv4);
        let Some(address) = address else { continue };
        let mut ports: Vec<(u16, net::firewall::Protocol)> =
            other.spec.exposed_ports.iter().flat_map(|text| super::ports::exposed_ports(text)).collect();
        ports.sort_unstable_by_key(|(port, protocol)| (*protocol, *port));
        if let Some((port, protocol)) = ports.first() {
            variables.push(format!("{prefix}_PORT={protocol}://{address}:{port}"));
        }
        for (port, protocol) in &ports {
            let start = format!("{prefix}_PORT_{port}_{}", protocol.to_string().to_ascii_uppercase());
            variables.push(format!("{start}={protocol}://{address}:{port}"));
            variables.push(format!("{start}_ADDR={address}"));
            variables.push(format!("{start}_PORT={port}"));
            variables.push(format!("{start}_PROTO={protocol}"));
        }
        variables.push(format!("{prefix}_NAME=/{}/{alias}", container.name));
        let own = other.process.env.iter().filter(|line| !line.starts_with("PATH=") && !line.starts_with("HOME="));
        variables.extend(own.map(|line| format!("{prefix}_ENV_{line}")));
    }
    variables
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{ContainerId, ContainerSpec, Endpoint, Network, NetworkId, NetworkSpec, Process};
    use net::ipam::Lease;

    fn container(name: &str, change: impl FnOnce(&mut ContainerSpec)) -> Container {
        let mut spec = ContainerSpec::default();
        change(&mut spec);
        Container::passing(ContainerId::known(&"ab".repeat(32)), name, spec, Process::default(), 0)
    }

    fn joined(name: &str, internal: bool) -> Joined {
        let spec = NetworkSpec { name: name.to_owned(), internal, ..NetworkSpec::default() };
        let id = NetworkId::known("1");
        let lease = Lease { address: "172.20.0.2/16".parse().unwrap(), gateway: "172.20.0.1".parse().unwrap() };
        let link = EndpointLink {
            id: "e".into(),
            network: id.clone(),
            name: "eth0".into(),
            mac: None,
            leases: vec![lease],
            names: vec![],
            direct: false,
        };
        Joined { network: Arc::new(Network { id, created_ns: 0, spec }), endpoint: Endpoint::default(), link }
    }

    fn around(host: &str) -> Around<'_> {
        Around { host, gateways: &[], linked: &[] }
    }

    #[test]
    fn links_are_split() {
        for (text, want) in [("db:data", ("db", "data")), ("db", ("db", "db")), ("/db:/web/data", ("db", "data"))] {
            assert_eq!(link_parts(text), want, "{text}");
        }
    }

    #[test]
    fn only_networks_with_names_have_a_resolver() {
        let web = container("web", |_| ());
        let (file, view) = resolver(&web, &[joined("bridge", false)], &around("nameserver 9.9.9.9\n"));
        assert_eq!((file.as_str(), view), ("nameserver 9.9.9.9\n", None));
        let (file, view) = resolver(&web, &[joined("shop", false)], &around("nameserver 127.0.0.53\nsearch a.b\n"));
        assert_eq!(file, "nameserver 127.0.0.11\nsearch a.b\noptions ndots:0\n");
        let view = view.unwrap();
        assert_eq!((view.networks, view.upstreams.len()), (vec!["shop".to_owned()], 1));
        let (_, view) = resolver(&web, &[joined("shop", true)], &around("nameserver 9.9.9.9\n"));
        assert!(view.unwrap().upstreams.is_empty(), "an internal network has no way out for names either");
        let (file, view) = resolver(&web, &[joined("bridge", false)], &around("nameserver 127.0.0.53\n"));
        assert!(file.contains("127.0.0.11") && view.is_some_and(|view| view.networks.is_empty()));
    }

    #[test]
    fn linked_containers_are_named_in_variables_and_hosts() {
        let mut db = container("db", |spec| spec.exposed_ports = vec!["5432/tcp".into(), "80/tcp".into()]);
        db.process.env = vec!["MODE=x".into(), "PATH=/bin".into()];
        let one = joined("bridge", false);
        db.endpoints.insert("bridge".into(), Endpoint { link: Some(one.link.clone()), ..Endpoint::default() });
        let linked = [Linked { alias: "my-data".into(), container: Arc::new(db) }];
        let web = container("web", |spec| spec.hostname = Some("h".into()));
        let variables = link_variables(&web, &linked);
        for line in [
            "MY_DATA_PORT=tcp://172.20.0.2:80",
            "MY_DATA_PORT_5432_TCP_ADDR=172.20.0.2",
            "MY_DATA_NAME=/web/my-data",
            "MY_DATA_ENV_MODE=x",
        ] {
            assert!(variables.iter().any(|have| have == line), "{line}: {variables:?}");
        }
        let text = hosts(&web, &[one], &Around { host: "", gateways: &[], linked: &linked });
        assert!(text.ends_with("172.20.0.2\tmy-data abababababab db\n172.20.0.2\th\n"), "{text}");
        assert_eq!(in_network(&web, &["w".into()]), ["web", "w", "abababababab", "h"]);
    }
}
