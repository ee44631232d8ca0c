//! Containers' networks: who has what (`book`, `ports`), what links and rules that takes (`wiring`), how containers find
//! each other (`names`), and the helper that goes on while there is no daemon (`guard`).
//!
//! ```text
//! start:  lease addresses and ports ─ record and event stored ─ links, rules, names (off the runtime's threads) ─ helper
//! end:    record and event stored ─ answer goes out ─ rules and names go ─ addresses and ports are free again
//! ```
//! Nothing of the host's network is touched before a container needs it: the default bridge is made with the first start.

pub(crate) mod book;
mod guard;
pub(crate) mod names;
mod ports;
pub(crate) mod wiring;

use crate::config::{Config, Paths};
use crate::engine::Inner;
use crate::error::{EngineError, ErrorClass, Result};
use crate::model::{
    Container, ContainerId, Driver, Endpoint, EndpointLink, Network, NetworkId, NetworkMode, Published,
};
use book::{Book, Refusal};
use guard::{Guard, failed};
use names::Linked;
use net::dns::{NetworkNames, View};
use net::firewall::{Publication, Rules};
use net::forwarding::{self, Version};
use net::netd::{Netd, Request};
use net::{Links, NetError, Rate};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use store::Txn;
use tokio::sync::watch;
use wiring::Joined;

/// Where the kernel's switches are kept that were changed.
const FORWARDING: &str = "forwarding";
/// The file of the kernel by which packets that a bridge passes on meet the packet filter.
const BRIDGED_PACKETS: &str = "/proc/sys/net/bridge/bridge-nf-call-iptables";

/// All networks, and who is in them.
#[derive(Debug)]
pub(crate) struct Networks {
    book: Mutex<Book>,
    guard: Guard,
    /// The networks whose links are there, as far as is known.
    made: Mutex<BTreeSet<NetworkId>>,
    /// How many containers are on their way out of their networks.
    leaving: watch::Sender<usize>,
    closing: AtomicBool,
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
            leaving: watch::Sender::new(0),
            closing: AtomicBool::new(false),
        }
    }

    /// The book; a panic elsewhere can't have left it half written.
    pub(crate) fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn made(&self) -> MutexGuard<'_, BTreeSet<NetworkId>> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
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
        let mut granted = Granted { endpoints: container.endpoints.clone(), published: Vec::new() };
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
            NetworkMode::Networks(main) => book.find(main).map_err(Refusal::Wrong)?.spec.name.clone(),
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
        for name in wiring::in_order(container, Some(&main)) {
            let missing = || Refusal::Wrong(EngineError::not_found(format!("network {name} not found")));
            let network = Arc::clone(book.by_name(name).ok_or_else(missing)?);
            let Some(endpoint) = granted.endpoints.get_mut(name) else { continue };
            let link = new_link(book, &network, container, endpoint, &taken)?;
            taken.push(link.name.clone());
            endpoint.link = Some(link.clone());
            joined.push(Joined { network, endpoint: endpoint.clone(), link });
        }
        let spec = &container.spec;
        let mut wanted = ports::requests(&spec.publish, spec.publish_all, &spec.exposed_ports);
        let at = joined.iter().find_map(|one| one.network.spec.link.publish_at);
        for request in wanted.iter_mut().filter(|request| request.host.is_none()) {
            request.host = at;
        }
        let to = wiring::targets(&joined);
        // without a way out there is none in either: as with Docker's daemon, nothing is published then
        if to.is_empty() {
            return Ok(());
        }
        granted.published = book.publish(&container.id, &wanted, &to, busy).map_err(|refusal| {
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
        })?;
        Ok(())
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

    /// How containers reach the host: the default network's gateways.
    pub(crate) fn host_gateways(&self) -> Vec<IpAddr> {
        self.book().by_name(crate::model::DEFAULT_NETWORK).map(|network| network.gateways()).unwrap_or_default()
    }
}

fn check_request(book: &Book, network: &Network, request: &crate::model::EndpointRequest) -> Result<()> {
    if network.spec.template {
        return Err(EngineError::new(
            ErrorClass::Denied,
            format!("network {} is a configuration network; make one from it with --config-from", network.spec.name),
        ));
    }
    if !network.spec.driver.has_addresses() {
        return Err(EngineError::invalid(format!(
            "conflicting options: network {} does not go with other networks or with settings of its own",
            network.spec.name
        )));
    }
    if network.is_default() && !request.aliases.is_empty() {
        return Err(EngineError::invalid(
            "network-scoped alias is supported only for containers in user defined networks",
        ));
    }
    for address in &request.addresses {
        book::check_user_addresses(network)?;
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
    let leases = book.lease(&network.id, &container.id, &endpoint.request.addresses)?;
    let first = leases.first().map(|lease| lease.address.address());
    let wanted = endpoint.request.link_name.clone();
    Ok(EndpointLink {
        id: id.to_string(),
        network: network.id.clone(),
        name: wanted.unwrap_or_else(|| wiring::free_name(&network.spec.link.prefix, taken)),
        mac: wiring::default_mac(network, endpoint, first),
        leases,
        names: names::in_network(container, &endpoint.request.aliases),
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
        container.spec.links.iter().map(one).collect()
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
        let published = self.running().iter().flat_map(|container| container.published.clone()).collect();
        Rules { networks, published }
    }

    fn running(&self) -> Vec<Arc<Container>> {
        self.all_containers().into_iter().filter(|container| container.is_alive()).collect()
    }
}

/// Tells a helper that is new to us everything. One that a daemon before us started keeps what it has, but for what has
/// gone in between.
fn tell(inner: &Inner, netd: &Netd) -> Result<()> {
    let cannot = |error: NetError| failed("cannot tell the network helper what there is", &error);
    let status = netd.status().map_err(cannot)?;
    let running = inner.running();
    let alive: BTreeSet<&str> = running.iter().map(|container| container.id.as_str()).collect();
    let mut requests = vec![Request::SetRules(inner.rules())];
    let mut zones: BTreeMap<String, NetworkNames> = BTreeMap::new();
    for network in inner.networks.book().networks().filter(|network| has_names(network)) {
        let subnets = network.spec.subnets.iter().filter_map(|asked| asked.subnet).collect();
        zones.insert(network.spec.name.clone(), NetworkNames { subnets, containers: BTreeMap::new() });
    }
    for container in &running {
        for (name, link) in container.links() {
            if let Some(zone) = zones.get_mut(name) {
                zone.containers.insert(container.id.to_string(), names::names(link));
            }
        }
    }
    requests.extend(zones.into_iter().map(|(network, names)| Request::SetNetworkNames { network, names }));
    let gone = |list: &[String]| list.iter().filter(|who| !alive.contains(who.as_str())).cloned().collect::<Vec<_>>();
    requests.extend(gone(&status.owners).into_iter().map(|owner| Request::Release { owner }));
    requests.extend(gone(&status.attached).into_iter().map(|container| Request::Detach { container }));
    let kept = running.iter().filter(|one| !one.published.is_empty() && !status.owners.contains(&one.id.to_string()));
    requests.extend(kept.map(|one| Request::Reserve { owner: one.id.to_string(), ports: one.published.clone() }));
    for request in requests {
        match netd.call(&request, &[]) {
            // somebody else has taken the port while there was no helper; packets go to the container all the same
            Err(NetError::Port { reason, .. }) => tracing::warn!(reason, "a published port is not kept from others"),
            outcome => drop(outcome.map_err(cannot)?),
        }
    }
    let host = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    for container in running.iter().filter(|one| one.pid() > 0 && !status.attached.contains(&one.id.to_string())) {
        let Some(view) = inner.view(container, &host) else { continue };
        if let Err(error) = attach_running(netd, container, view) {
            tracing::warn!(container = %container.id, %error, "a container has no resolver");
        }
    }
    Ok(())
}

fn attach_running(netd: &Netd, container: &Container, view: View) -> Result<()> {
    let namespace = namespace_of(container.pid())?;
    let process = process(container.pid());
    let fds: Vec<BorrowedFd<'_>> = [namespace.as_fd()].into_iter().chain(process.iter().map(AsFd::as_fd)).collect();
    let request = Request::Attach { container: container.id.to_string(), view };
    netd.call(&request, &fds).map(drop).map_err(|error| failed("cannot attach a resolver", &error))
}

/// The network namespace of a process.
pub(crate) fn namespace_of(pid: i32) -> Result<OwnedFd> {
    std::fs::File::open(format!("/proc/{pid}/ns/net"))
        .map(OwnedFd::from)
        .map_err(|error| EngineError::internal("cannot open a container's network namespace", &error))
}

fn process(pid: i32) -> Option<OwnedFd> {
    let pid = rustix::process::Pid::from_raw(pid)?;
    rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).ok()
}

/// Whether a network's containers find each other by name.
fn has_names(network: &Network) -> bool {
    network.spec.driver.has_addresses() && !network.is_default() && !network.spec.template
}

/// The helper, started and told where need be; blocks.
pub(crate) fn helper(inner: &Arc<Inner>) -> Result<Arc<Netd>> {
    inner.networks.guard.helper(|netd| {
        tell(inner, netd)?;
        let (weak, socket) = (Arc::downgrade(inner), inner.networks.guard.socket().to_owned());
        // a helper that somebody kills is replaced at once, not with the next container
        tokio::runtime::Handle::current().spawn(async move {
            if let Ok(mut stream) = tokio::net::UnixStream::connect(&socket).await {
                let _ = tokio::io::AsyncReadExt::read(&mut stream, &mut [0; 1]).await;
            }
            let Some(inner) = weak.upgrade() else { return };
            if inner.networks.closing.load(Ordering::Relaxed) {
                return;
            }
            tracing::warn!("the network helper has gone; starting another");
            let started = tokio::task::spawn_blocking(move || {
                if let Some(gone) = inner.networks.guard.known() {
                    inner.networks.guard.lost(&gone);
                }
                helper(&inner).map(drop)
            });
            if let Ok(Err(error)) = started.await {
                tracing::error!(%error, "no network helper");
            }
        });
        Ok(())
    })
}

/// Has the helper do something; one that has gone is replaced first.
fn call(inner: &Arc<Inner>, request: &Request, fds: &[BorrowedFd<'_>]) -> net::Result<()> {
    let netd = helper(inner).map_err(|error| NetError::Refused(error.to_string()))?;
    match netd.call(request, fds) {
        Err(NetError::Helper { .. }) => {
            inner.networks.guard.lost(&netd);
            let netd = helper(inner).map_err(|error| NetError::Refused(error.to_string()))?;
            netd.call(request, fds).map(drop)
        }
        outcome => outcome.map(drop),
    }
}

/// Has the helper do something if there is one; what it does not do now, it is told when it is new.
pub(crate) fn mention(inner: &Inner, request: &Request) {
    let Some(netd) = inner.networks.guard.known() else { return };
    match netd.call(request, &[]) {
        Ok(_) => {}
        Err(NetError::Helper { .. }) => inner.networks.guard.lost(&netd),
        Err(error) => tracing::warn!(%error, "the network helper refused"),
    }
}

/// Makes a network's links, unless they are there as far as is known; blocks.
pub(crate) fn make(inner: &Inner, links: &Links, network: &Network) -> Result<()> {
    if inner.networks.made().contains(&network.id) {
        return Ok(());
    }
    let cannot = |error: NetError| failed(format!("cannot make network {}", network.spec.name), &error);
    match network.spec.driver {
        Driver::Bridge => {
            links.create_bridge(&wiring::bridge(network)).map_err(cannot)?;
            if let Some(tunnel) = wiring::tunnel(network)
                && links.inspect(&tunnel.name).map_err(cannot)?.is_none()
            {
                links.create_vxlan(&tunnel).map_err(cannot)?;
            }
            if !network.spec.internal {
                forward(inner, network)?;
            }
        }
        Driver::Macvlan | Driver::Ipvlan => {
            let parent = wiring::parent(network);
            let tagged = parent.rsplit_once('.').and_then(|(below, id)| Some((below, id.parse::<u16>().ok()?)));
            match (&network.spec.link.parent, tagged) {
                (None, _) => links.create_dummy(&parent).map_err(cannot)?,
                (Some(_), Some((below, id))) if links.inspect(&parent).map_err(cannot)?.is_none() => {
                    links.create_vlan(below, id, &parent).map_err(cannot)?;
                }
                (Some(_), _) => links.set_up(&parent).map_err(cannot)?,
            }
        }
        Driver::Host | Driver::None => {}
    }
    inner.networks.made().insert(network.id.clone());
    Ok(())
}

/// Lets the host pass packets on, and keeps what its switches said before.
fn forward(inner: &Inner, network: &Network) -> Result<()> {
    let stored = inner.store.get(FORWARDING).and_then(|entry| serde_json::from_slice(&entry.value).ok());
    let mut before: forwarding::Before = stored.unwrap_or_default();
    let known = before.clone();
    for (wanted, version) in [(network.spec.v4, Version::V4), (network.spec.v6, Version::V6)] {
        if wanted {
            let enabled = forwarding::enable(version, &mut before);
            enabled.map_err(|error| failed("cannot let this host pass packets on", &error))?;
        }
    }
    if before != known {
        let json = serde_json::to_vec(&before)
            .map_err(|error| EngineError::internal("cannot write down the kernel's switches", &error))?;
        inner.commit(Txn::new().put(FORWARDING, json))?;
    }
    Ok(())
}

/// Takes a network's links and rules away; blocks.
pub(crate) fn unmake(inner: &Inner, network: &Network) -> Result<()> {
    inner.networks.made().remove(&network.id);
    let cannot = |error: NetError| failed(format!("cannot remove the links of network {}", network.spec.name), &error);
    if network.spec.driver == Driver::Bridge {
        mention(inner, &Request::RemoveNetworkRules { bridge: network.link_name() });
    }
    if has_names(network) {
        mention(inner, &Request::RemoveNetworkNames { network: network.spec.name.clone() });
    }
    let mut own = Vec::new();
    own.extend(wiring::tunnel(network).map(|tunnel| tunnel.name));
    match network.spec.driver {
        Driver::Bridge if !network.spec.link.found => own.push(network.link_name()),
        Driver::Macvlan | Driver::Ipvlan if network.spec.link.parent.is_none() => own.push(network.link_name()),
        _ => {}
    }
    if own.is_empty() {
        return Ok(());
    }
    let links = Links::open().map_err(cannot)?;
    links.delete(&own.iter().map(String::as_str).collect::<Vec<_>>()).map_err(cannot)
}

/// Keeps a container's ports from other programs of the host; blocks.
///
/// # Errors
/// [`NetError::Port`] for one that a program has.
pub(crate) fn reserve(inner: &Arc<Inner>, container: &ContainerId, published: &Published) -> net::Result<()> {
    call(inner, &Request::Reserve { owner: container.to_string(), ports: published.clone() }, &[])
}

/// Undoes [`reserve`]; blocks.
pub(crate) fn unreserve(inner: &Inner, container: &ContainerId) {
    mention(inner, &Request::Release { owner: container.to_string() });
}

/// A namespace with a container's links in it, its names known and its ports reachable; blocks.
///
/// # Errors
/// As [`wire`].
pub(crate) fn wired(inner: &Arc<Inner>, container: &Container, view: Option<View>) -> Result<OwnedFd> {
    let failed = |error: NetError| EngineError::internal("cannot make a network namespace", &error);
    let namespace = match &inner.netns {
        Some(pool) => pool.take().map_err(failed)?,
        None => net::create_netns().map_err(failed)?,
    };
    wire(inner, container, namespace.as_fd(), view)?;
    Ok(namespace)
}

/// Gives a container that no record is kept of its networks, for as long as it runs: the namespace, and what to
/// [`leave`].
///
/// # Errors
/// What there is not, or could not be made; nothing is left then.
pub(crate) async fn join_passing(
    inner: &Arc<Inner>,
    container: &mut Container,
    paths: &Paths,
) -> Result<(OwnedFd, Leaving)> {
    container.endpoints = inner.networks.endpoints(&container.spec)?;
    let granted = inner.networks.grant(container, &BTreeSet::new())?;
    container.endpoints.clone_from(&granted.endpoints);
    let leaving = || Leaving {
        container: container.id.clone(),
        joined: inner.networks.joined(container),
        granted: granted.clone(),
    };
    let wired = async {
        let view = inner.write_names(container, paths, &[])?;
        let (shared, container) = (Arc::clone(inner), container.clone());
        let wired = tokio::task::spawn_blocking(move || wired(&shared, &container, view)).await;
        wired.map_err(|error| EngineError::internal("setting up a network was cut short", &error))?
    };
    match wired.await {
        Ok(namespace) => Ok((namespace, leaving())),
        Err(error) => {
            drop(leave(inner, leaving()));
            Err(error)
        }
    }
}

/// Makes a container's links in its namespace, its names known and its ports reachable; blocks.
///
/// # Errors
/// What could not be made; what was made goes with the namespace and with [`leave`].
pub(crate) fn wire(
    inner: &Arc<Inner>,
    container: &Container,
    namespace: BorrowedFd<'_>,
    view: Option<View>,
) -> Result<()> {
    let joined = inner.networks.joined(container);
    let host = Links::open().map_err(|error| failed("cannot reach the host's links", &error))?;
    for (one, out) in joined.iter().zip(wiring::ways_out(&joined)) {
        connect(inner, &host, container, one, out, namespace)?;
    }
    let mut requests = Vec::new();
    if !container.published.is_empty() {
        requests.push(Request::Publish(container.published.clone()));
    }
    requests.extend(joined.iter().filter_map(|one| set_names(container, one)));
    let fds = if view.is_some() { vec![namespace] } else { Vec::new() };
    requests.extend(view.map(|view| Request::Attach { container: container.id.to_string(), view }));
    if requests.is_empty() {
        return helper(inner).map(drop);
    }
    call(inner, &Request::All(requests), &fds).map_err(|error| failed("cannot set up names and ports", &error))
}

fn set_names(container: &Container, joined: &Joined) -> Option<Request> {
    has_names(&joined.network).then(|| Request::SetNames {
        network: joined.network.spec.name.clone(),
        container: container.id.to_string(),
        names: names::names(&joined.link),
    })
}

/// Makes one link of a container; blocks.
pub(crate) fn connect(
    inner: &Inner,
    host: &Links,
    container: &Container,
    joined: &Joined,
    out: wiring::WayOut,
    namespace: BorrowedFd<'_>,
) -> Result<()> {
    let hairpin = !container.published.is_empty() && std::fs::exists(BRIDGED_PACKETS).unwrap_or(false);
    let spec = wiring::link(joined, out, hairpin);
    make(inner, host, &joined.network)?;
    let connected = match host.connect(namespace, &spec) {
        Err(NetError::NoLink { .. }) => {
            // somebody has deleted what we knew to be there
            inner.networks.made().remove(&joined.network.id);
            make(inner, host, &joined.network)?;
            host.connect(namespace, &spec)
        }
        outcome => outcome,
    };
    connected.map_err(|error| {
        failed(format!("failed to set up container networking: network {}", joined.network.spec.name), &error)
    })
}

/// Tells the helper with which process a container's resolver goes; blocks.
pub(crate) fn own(inner: &Inner, container: &ContainerId, pid: i32) {
    if let (Some(netd), Some(process)) = (inner.networks.guard.known(), process(pid)) {
        // it goes with the container's end as well, if the daemon is there to see it
        let _ = netd.call(&Request::SetOwner { container: container.to_string() }, &[process.as_fd()]);
    }
}

/// What a container leaves when it has ended.
pub(crate) struct Leaving {
    pub(crate) container: ContainerId,
    pub(crate) joined: Vec<Joined>,
    pub(crate) granted: Granted,
}

/// Takes a container's rules and names away, then gives back its addresses and ports, all off the runtime's threads.
pub(crate) fn leave(inner: &Arc<Inner>, leaving: Leaving) -> tokio::task::JoinHandle<()> {
    let inner = Arc::clone(inner);
    inner.networks.leaving.send_modify(|count| *count += 1);
    tokio::task::spawn_blocking(move || {
        let owner = leaving.container.to_string();
        let mut requests = Vec::new();
        if !leaving.granted.published.is_empty() {
            requests.push(Request::Unpublish(leaving.granted.published.clone()));
            requests.push(Request::Release { owner: owner.clone() });
        }
        for one in leaving.joined.iter().filter(|one| has_names(&one.network)) {
            requests.push(Request::RemoveNames { network: one.network.spec.name.clone(), container: owner.clone() });
        }
        requests.push(Request::Detach { container: owner });
        mention(&inner, &Request::All(requests));
        for one in &leaving.joined {
            let rate = wiring::rate(&one.network, &one.endpoint);
            if rate != Rate::default()
                && let Err(error) = Links::open().and_then(|links| links.clear_limits(&one.link.near()))
            {
                tracing::warn!(%error, "a container's limits are left");
            }
        }
        inner.networks.take_back(&leaving.container, &leaving.granted);
        inner.networks.leaving.send_modify(|count| *count -= 1);
    })
}

/// Makes a running container's link in one more network; blocks.
///
/// # Errors
/// What could not be made; nothing of it is left.
pub(crate) fn join(inner: &Arc<Inner>, container: &Container, link: &EndpointLink, view: Option<View>) -> Result<()> {
    let joined = inner.networks.joined(container);
    let ways = wiring::ways_out(&joined);
    let Some((one, out)) = joined.iter().zip(&ways).find(|(one, _)| one.link.id == link.id) else { return Ok(()) };
    let namespace = namespace_of(container.pid())?;
    let host = Links::open().map_err(|error| failed("cannot reach the host's links", &error))?;
    connect(inner, &host, container, one, *out, namespace.as_fd())?;
    let requests: Vec<Request> = set_names(container, one).into_iter().collect();
    if !requests.is_empty() {
        call(inner, &Request::All(requests), &[]).map_err(|error| failed("cannot set up names", &error))?;
    }
    attach(inner, container, view)
}

/// Takes a running container's link away; `container` is without it already. Blocks.
///
/// # Errors
/// What the kernel answered.
pub(crate) fn part(inner: &Arc<Inner>, container: &Container, gone: &Joined, view: Option<View>) -> Result<()> {
    let owner = container.id.to_string();
    if has_names(&gone.network) {
        let network = gone.network.spec.name.clone();
        mention(inner, &Request::RemoveNames { network, container: owner });
    }
    let namespace = namespace_of(container.pid())?;
    let cannot = |error: NetError| failed(format!("cannot leave network {}", gone.network.spec.name), &error);
    let spec = wiring::link(gone, wiring::WayOut::default(), false);
    Links::open().and_then(|host| host.disconnect(namespace.as_fd(), &spec)).map_err(cannot)?;
    let joined = inner.networks.joined(container);
    let inside = Links::open_in(namespace.as_fd()).map_err(cannot)?;
    // the way out may have gone with the link
    for (one, out) in joined.iter().zip(wiring::ways_out(&joined)) {
        for route in wiring::routes(one, out) {
            inside.add_route(&one.link.name, route.to, route.via).map_err(cannot)?;
        }
    }
    attach(inner, container, view)
}

/// Tells the helper a running container's names; blocks.
pub(crate) fn rename(inner: &Inner, container: &Container) {
    for request in inner.networks.joined(container).iter().filter_map(|one| set_names(container, one)) {
        mention(inner, &request);
    }
}

/// Gives a running container a resolver, or changes what it may ask the one it has.
fn attach(inner: &Arc<Inner>, container: &Container, view: Option<View>) -> Result<()> {
    let Some(view) = view else { return Ok(()) };
    let netd = helper(inner)?;
    let change = Request::SetView { container: container.id.to_string(), view: view.clone() };
    match netd.call(&change, &[]) {
        Err(NetError::Refused(_)) => attach_running(&netd, container, view),
        outcome => outcome.map(drop).map_err(|error| failed("cannot set up names", &error)),
    }
}

/// What a daemon finds when it starts: links of networks, a helper that has gone on, containers that run. Blocks.
pub(crate) fn resume(inner: &Arc<Inner>) {
    let networks: Vec<Arc<Network>> = inner.networks.book().networks().cloned().collect();
    let running = inner.running();
    let used = |network: &Network| running.iter().any(|one| one.links().any(|(_, link)| link.network == network.id));
    let wanted = networks.iter().filter(|one| !one.spec.template && (!one.is_predefined() || used(one)));
    for network in wanted {
        let made = Links::open()
            .map_err(|error| failed("cannot reach the host's links", &error))
            .and_then(|links| make(inner, &links, network));
        if let Err(error) = made {
            tracing::warn!(network = network.spec.name, %error, "a network is not there");
        }
    }
    let any = running.iter().any(|container| container.links().next().is_some());
    let waiting = || std::os::unix::net::UnixStream::connect(inner.networks.guard.socket()).is_ok();
    if (any || waiting())
        && let Err(error) = helper(inner)
    {
        tracing::error!(%error, "containers' names and published ports wait for the network helper");
    }
}

/// Before the daemon ends: a helper that nobody needs goes too. Blocks.
pub(crate) fn close(inner: &Inner) {
    inner.networks.closing.store(true, Ordering::Relaxed);
    let needed = inner.running().iter().any(|container| container.links().next().is_some());
    if !needed {
        mention(inner, &Request::Stop);
    }
}
