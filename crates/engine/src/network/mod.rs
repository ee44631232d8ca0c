//! Containers' networks: who has what (`book`, `ports`), what links and rules that takes (`wiring`), how containers find
//! each other (`names`), the helper that goes on while there is no daemon (`guard`), and what is done about it, on the host
//! (`host`) and over a container's life (`life`).
//!
//! ```text
//! start:  lease addresses and ports ─ record and event stored ─ links, rules, names (off the runtime's threads) ─ helper
//! end:    record and event stored ─ answer goes out ─ rules and names go ─ addresses and ports are free again
//! ```
//! Nothing of the host's network is touched before a container needs it: the default bridge is made with the first start.

pub(crate) mod book;
mod guard;
mod host;
mod life;
pub(crate) mod names;
mod ports;
pub(crate) mod wiring;

use crate::config::{Config, Paths};
use crate::engine::Inner;
use crate::error::{EngineError, ErrorClass, Result};
use crate::model::{Container, ContainerId, Driver, Endpoint, EndpointLink, Network, NetworkId, NetworkMode};
use book::{Book, Refusal};
use guard::Guard;
pub(crate) use host::{close, make, mention, namespace_of, resume, unmake};
pub(crate) use life::{
    Leaving, begin_default, join, join_passing, leave, own, part, rename, republish, reserve, wire, wired,
};
use names::Linked;
use net::dns::View;
use net::firewall::{Publication, Published, Rules};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;
use wiring::Joined;

/// What is said of an alias in a network whose containers do not find each other by name.
pub(crate) const ALIAS_HERE: &str = "network-scoped alias is supported only for containers in user defined networks";

/// All networks, and who is in them.
#[derive(Debug)]
pub(crate) struct Networks {
    book: Mutex<Book>,
    guard: Guard,
    /// The networks whose links are there, as far as is known.
    made: Mutex<BTreeSet<NetworkId>>,
    /// Held while the links of a network are made or removed: two first containers of one network would both make them.
    making: Mutex<()>,
    /// How many containers are on their way out of their networks.
    leaving: watch::Sender<usize>,
    closing: AtomicBool,
    host_gateways: Vec<IpAddr>,
}

/// What a container has been given in its networks.
#[derive(Debug, Clone, Default)]
pub(crate) struct Granted {
    pub(crate) endpoints: BTreeMap<String, Endpoint>,
    pub(crate) published: Published,
}

impl Networks {
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            book: Mutex::default(),
            guard: Guard::new(&config.netd, config.run.join("netd.sock")),
            made: Mutex::default(),
            making: Mutex::default(),
            leaving: watch::Sender::new(0),
            closing: AtomicBool::new(false),
            host_gateways: config.network.host_gateways.clone(),
        }
    }

    /// The book; a panic elsewhere can't have left it half written.
    pub(crate) fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn made(&self) -> MutexGuard<'_, BTreeSet<NetworkId>> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn making(&self) -> MutexGuard<'_, ()> {
        self.making.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns when nobody is on their way out any more, who might still have what somebody else wants.
    pub(crate) async fn settled(&self) {
        // the sender is ours: it is not gone while we wait
        let _ = self.leaving.subscribe().wait_for(|count| *count == 0).await;
    }

    /// The places of a container in networks, of which nothing is given out before it starts.
    ///
    /// # Errors
    /// For a network that does not exist, and for what a network does not allow.
    pub(crate) fn endpoints(&self, spec: &crate::model::ContainerSpec) -> Result<BTreeMap<String, Endpoint>> {
        let NetworkMode::Networks(main) = &spec.network else {
            return match spec.endpoints.keys().next() {
                None => Ok(BTreeMap::new()),
                Some(name) => Err(EngineError::invalid(format!(
                    "conflicting options: a container that shares another's network, or has none, cannot be in network {name}"
                ))),
            };
        };
        let book = self.book();
        let mut endpoints = BTreeMap::new();
        let asked = spec.endpoints.iter().map(|(name, request)| (name, request.clone()));
        let main_request = spec.endpoints.get(main).cloned().unwrap_or_default();
        for (who, request) in asked.chain([(main, main_request)]) {
            let name = match book.find(who) {
                Ok(network) => {
                    check_request(&book, &network, &request)?;
                    network.spec.name.clone()
                }
                // as with Docker's daemon, whose clients take an answer of 404 here for an image that is to be pulled: it
                // has to be there when the container starts
                Err(error) if error.class() == ErrorClass::NotFound => who.clone(),
                Err(error) => return Err(error),
            };
            let endpoint = Endpoint { request, link: None };
            if who == main {
                // by its name in one place and by its id in the other: what was asked for there counts
                endpoints.entry(name).or_insert(endpoint);
            } else {
                endpoints.insert(name, endpoint);
            }
        }
        Ok(endpoints)
    }

    /// Gives a container addresses in its networks, and ports of the host but those that are `busy`.
    ///
    /// # Errors
    /// What there is not; nothing is given then.
    pub(crate) fn grant(
        &self,
        container: &Container,
        busy: &BTreeSet<Publication>,
    ) -> std::result::Result<Granted, Refusal> {
        let mut book = self.book();
        let mut granted = Granted { endpoints: container.endpoints.clone(), published: Published::new() };
        let given = self.grant_in(&mut book, container, &mut granted, busy);
        if given.is_err() {
            take_back(&mut book, &container.id, &granted.endpoints, &granted.published);
        }
        given.map(|()| granted)
    }

    fn grant_in(
        &self,
        book: &mut Book,
        container: &Container,
        granted: &mut Granted,
        busy: &BTreeSet<Publication>,
    ) -> std::result::Result<(), Refusal> {
        let (mut joined, mut taken): (Vec<Joined>, Vec<String>) = (Vec::new(), Vec::new());
        let main = match &container.spec.network {
            // it may have left that one, which is then missed no more
            NetworkMode::Networks(main) => book.find(main).ok().map(|network| network.spec.name.clone()),
            _ => return Ok(()),
        };
        if let Some((who, endpoint)) = container.endpoints.iter().find(|(name, _)| book.by_name(name).is_none()) {
            // made after the container, which named it by its id
            let network = book.find(who).map_err(Refusal::Wrong)?;
            check_request(book, &network, &endpoint.request).map_err(Refusal::Wrong)?;
            let mut named = container.clone();
            named.endpoints.remove(who);
            named.endpoints.insert(network.spec.name.clone(), endpoint.clone());
            granted.endpoints.clone_from(&named.endpoints);
            return self.grant_in(book, &named, granted, busy);
        }
        for name in wiring::in_order(container, main.as_deref()) {
            let missing = || Refusal::Wrong(EngineError::not_found(format!("network {name} not found")));
            let network = Arc::clone(book.by_name(name).ok_or_else(missing)?);
            let Some(endpoint) = granted.endpoints.get_mut(name) else { continue };
            let link = new_link(book, &network, container, endpoint, &taken)?;
            taken.push(link.name.clone());
            endpoint.link = Some(link.clone());
            joined.push(Joined { network, endpoint: endpoint.clone(), link });
        }
        let to = wiring::targets(&joined);
        // without a way out there is none in either: as with Docker's daemon, nothing is published then
        if to.is_empty() {
            return Ok(());
        }
        let wanted = wanted_ports(container, &joined);
        let published = book.publish(&container.id, &wanted, &to, busy);
        granted.published = published.map_err(|refusal| not_published(container, &joined, refusal))?;
        Ok(())
    }

    /// The published ports of a running container whose networks are others than when it got them: at the addresses that
    /// are its ways out now, at the same ports of the host. The record's are given up for them.
    ///
    /// # Errors
    /// For a port that it did not have and can't have; it has those of the record then.
    pub(crate) fn republished(
        &self,
        container: &Container,
        busy: &BTreeSet<Publication>,
    ) -> std::result::Result<Published, Refusal> {
        let joined = self.joined(container);
        let to = wiring::targets(&joined);
        let wanted = if to.is_empty() { Vec::new() } else { wanted_ports(container, &joined) };
        let published = self.book().republish(&container.id, &wanted, &container.published, (&to, busy));
        published.map_err(|refusal| not_published(container, &joined, refusal))
    }

    /// Enters ports that a container has in place of others.
    pub(crate) fn swap_ports(&self, container: &ContainerId, instead_of: &Published, ports: &Published) {
        let mut book = self.book();
        book.unpublish(container, instead_of);
        book.keep(container, ports);
    }

    /// Whether a container may be in a network like this.
    ///
    /// # Errors
    /// What the network does not allow.
    pub(crate) fn check(&self, network: &Network, request: &crate::model::EndpointRequest) -> Result<()> {
        check_request(&self.book(), network, request)
    }

    /// Gives a running container a place in one more network.
    ///
    /// # Errors
    /// What there is not.
    pub(crate) fn grant_one(
        &self,
        container: &Container,
        network: &Arc<Network>,
        endpoint: &Endpoint,
    ) -> std::result::Result<EndpointLink, Refusal> {
        let taken: Vec<String> = container.links().map(|(_, link)| link.name.clone()).collect();
        new_link(&mut self.book(), network, container, endpoint, &taken)
    }

    /// Takes back what was given and never used.
    pub(crate) fn take_back(&self, container: &ContainerId, granted: &Granted) {
        take_back(&mut self.book(), container, &granted.endpoints, &granted.published);
    }

    /// A container's links with their networks, in the order of its links.
    pub(crate) fn joined(&self, container: &Container) -> Vec<Joined> {
        let book = self.book();
        let one = |endpoint: &Endpoint| {
            let link = endpoint.link.clone()?;
            Some(Joined { network: Arc::clone(book.by_id(&link.network)?), endpoint: endpoint.clone(), link })
        };
        let mut joined: Vec<Joined> = container.endpoints.values().filter_map(one).collect();
        joined.sort_by(|one, other| {
            (one.link.name.len(), &one.link.name).cmp(&(other.link.name.len(), &other.link.name))
        });
        joined
    }

    /// How containers reach the host: as the settings say, or by the default network's gateways.
    pub(crate) fn host_gateways(&self) -> Vec<IpAddr> {
        if !self.host_gateways.is_empty() {
            return self.host_gateways.clone();
        }
        self.book().by_name(crate::model::DEFAULT_NETWORK).map(|network| network.gateways()).unwrap_or_default()
    }
}

/// The ports that are to be published of a container in these networks.
fn wanted_ports(container: &Container, joined: &[Joined]) -> Vec<crate::model::PublishRequest> {
    let spec = &container.spec;
    let mut wanted = ports::requests(&spec.publish, spec.publish_all, &spec.exposed_ports);
    let at = joined.iter().find_map(|one| one.network.spec.link.publish_at);
    for request in wanted.iter_mut().filter(|request| request.host.is_none()) {
        request.host = at;
    }
    wanted
}

fn not_published(container: &Container, joined: &[Joined], refusal: Refusal) -> Refusal {
    let named = |error: EngineError| {
        let at = joined.first().map(|one| one.link.id.as_str()).unwrap_or_default();
        let name = &container.name;
        EngineError::new(
            error.class(),
            format!("driver failed programming external connectivity on endpoint {name} ({at}): {error}"),
        )
    };
    match refusal {
        Refusal::Taken(error) => Refusal::Taken(named(error)),
        Refusal::Wrong(error) => Refusal::Wrong(named(error)),
    }
}

fn check_request(book: &Book, network: &Network, request: &crate::model::EndpointRequest) -> Result<()> {
    if network.spec.template {
        return Err(EngineError::new(
            ErrorClass::Denied,
            format!(
                "cannot create endpoint on configuration-only network: make one from {} with --config-from",
                network.spec.name
            ),
        ));
    }
    if !network.spec.driver.has_addresses() {
        return Err(EngineError::invalid(format!(
            "conflicting options: network {} does not go with other networks or with settings of its own",
            network.spec.name
        )));
    }
    if network.is_default() && !request.aliases.is_empty() {
        return Err(EngineError::invalid(ALIAS_HERE));
    }
    for address in &request.addresses {
        book::check_user_addresses(network)?;
        let asked_for = |part: &&net::ipam::SubnetRequest| !part.pooled && part.v6 == address.is_ipv6();
        if !network.spec.subnets.iter().any(|part| asked_for(&part)) {
            return Err(EngineError::invalid(format!(
                "invalid config for network {}: invalid endpoint settings: user specified IP address is supported only when connecting to networks with user configured subnets",
                network.spec.name
            )));
        }
        if !book.has_subnet_of(&network.id, *address) {
            return Err(EngineError::invalid(format!(
                "invalid config for network {}: invalid endpoint settings: no configured subnet or ip-range contains the IP address {address}",
                network.spec.name
            )));
        }
    }
    Ok(())
}

fn new_link(
    book: &mut Book,
    network: &Arc<Network>,
    container: &Container,
    endpoint: &Endpoint,
    taken: &[String],
) -> std::result::Result<EndpointLink, Refusal> {
    let id = ContainerId::random()
        .map_err(|error| Refusal::Wrong(EngineError::internal("cannot make an endpoint's id", &error)))?;
    let mut leases = book.lease(&network.id, &container.id, &endpoint.request.addresses)?;
    for lease in &mut leases {
        lease.gateway = network.way_out(lease.address.is_v6()).unwrap_or(lease.gateway);
    }
    let first = leases.first().map(|lease| lease.address.address());
    let wanted = endpoint.request.link_name.clone();
    Ok(EndpointLink {
        id: id.to_string(),
        network: network.id.clone(),
        name: wanted.unwrap_or_else(|| wiring::free_name(&network.spec.link.prefix, taken)),
        mac: wiring::default_mac(network, endpoint, first),
        leases,
        names: names::in_network(container, &endpoint.request.aliases),
        direct: wiring::is_direct(network),
    })
}

fn take_back(book: &mut Book, container: &ContainerId, endpoints: &BTreeMap<String, Endpoint>, published: &Published) {
    for link in endpoints.values().filter_map(|endpoint| endpoint.link.as_ref()) {
        book.release(&link.network, container);
    }
    book.unpublish(container, published);
}

impl Inner {
    /// The containers that a container of the default network has links to.
    ///
    /// # Errors
    /// For one that does not exist.
    pub(crate) fn linked(&self, container: &Container) -> Result<Vec<Linked>> {
        let one = |text: &String| {
            let (name, alias) = names::link_parts(text);
            let found = self.container(name);
            let container = found.map_err(|error| {
                EngineError::new(error.class(), format!("could not get container for {name}: {error}"))
            })?;
            Ok(Linked { alias: alias.to_owned(), container })
        };
        let links = container.spec.links.iter().map(one);
        // in networks of one's own links are names only, and the other may come later
        if names::is_linking(&container.spec) { links.collect() } else { Ok(links.flatten().collect()) }
    }

    /// The containers that a container has links to; those of the default network have to be there to be reached.
    ///
    /// # Errors
    /// For one that does not exist, does not run or is in other networks only, in the words of Docker's daemon.
    pub(crate) fn running_linked(&self, container: &Container) -> Result<Vec<Linked>> {
        let linked = self.linked(container)?;
        if !names::is_linking(&container.spec) {
            return Ok(linked);
        }
        for Linked { alias, container: other } in &linked {
            let name = &other.name;
            let wrong = if !other.is_alive() {
                format!("Cannot link to a non running container: /{name} AS /{}/{alias}", container.name)
            } else if !other.endpoints.contains_key(crate::model::DEFAULT_NETWORK) {
                format!("Cannot link to /{name}, as it does not belong to the default network")
            } else {
                continue;
            };
            return Err(EngineError::new(ErrorClass::Internal, wrong));
        }
        Ok(linked)
    }

    /// What a program in a container is told of those that it has links to, which have to be there no more.
    pub(crate) fn link_variables(&self, container: &Container) -> Vec<String> {
        if container.spec.links.is_empty() {
            return Vec::new();
        }
        self.linked(container).map(|linked| names::link_variables(container, &linked)).unwrap_or_default()
    }

    /// Writes a container's /etc/hosts and /etc/resolv.conf, and says what it may ask our resolver.
    pub(crate) fn write_names(&self, container: &Container, paths: &Paths, linked: &[Linked]) -> Result<Option<View>> {
        let joined = self.networks.joined(container);
        let gateways = self.networks.host_gateways();
        let host = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
        let around = names::Around { host: &host, gateways: &gateways, linked };
        let (resolv_conf, view) = names::resolver(container, &joined, &around);
        let cannot =
            |error: std::io::Error| EngineError::internal("cannot write a container's files below /etc", &error);
        std::fs::write(&paths.hosts, names::hosts(container, &joined, &around)).map_err(cannot)?;
        std::fs::write(&paths.resolv_conf, resolv_conf).map_err(cannot)?;
        Ok(view.map(|view| self.with_links(container, view)))
    }

    /// What a running container may ask our resolver.
    fn view(&self, container: &Container, host: &str) -> Option<View> {
        let joined = self.networks.joined(container);
        let around = names::Around { host, gateways: &[], linked: &[] };
        let (_, view) = names::resolver(container, &joined, &around);
        view.map(|view| self.with_links(container, view))
    }

    /// Adds the names by which it knows containers that it has links to within its networks.
    fn with_links(&self, container: &Container, mut view: View) -> View {
        for (network, endpoint) in &container.endpoints {
            for text in &endpoint.request.links {
                let (name, alias) = names::link_parts(text);
                let Ok(other) = self.container(name) else { continue };
                if let Some(link) = other.endpoints.get(network).and_then(|endpoint| endpoint.link.as_ref()) {
                    view.own.insert(alias.to_ascii_lowercase(), link.addresses());
                }
            }
        }
        view
    }

    /// Everything that the packet filter is to say.
    fn rules(&self) -> Rules {
        let book = self.networks.book();
        let bridged = book.networks().filter(|network| network.spec.driver == Driver::Bridge && !network.spec.template);
        let networks = bridged.map(|network| (network.link_name(), wiring::rules(network))).collect();
        drop(book);
        let published =
            self.running().iter().flat_map(|container| container.published.iter().collect::<Vec<_>>()).collect();
        Rules { networks, published }
    }

    pub(super) fn running(&self) -> Vec<Arc<Container>> {
        self.all_containers().into_iter().filter(|container| container.is_alive()).collect()
    }
}

/// Whether a network's containers find each other by name.
fn has_names(network: &Network) -> bool {
    network.spec.driver.has_addresses() && !network.is_default() && !network.spec.template
}
