//! Networks: made, listed, joined, left, removed.

use super::Engine;
use super::inner::{CONTAINERS, Inner};
use crate::actor::Ask;
use crate::error::{EngineError, ErrorClass, Result};
use crate::model::{
    Container, ContainerId, ContainerSpec, DEFAULT_NETWORK, Driver, EndpointRequest, Event, EventKind, LinkOptions,
    Member, Network, NetworkId, NetworkMode, NetworkSpec,
};
use crate::network;
use net::ipam::default_pools;
use net::{Links, MacvlanMode, Subnet};
use std::collections::BTreeMap;
use std::sync::Arc;
use store::Txn;

pub(super) const NETWORKS: &str = "network/";
/// Networks that have links and no record: on their way in or out, or left there by a daemon that was killed.
const PASSING: &str = "network-passing/";
/// The bytes that this host's own IPv6 addresses are made of.
const SEED: &str = "address-seed";

/// How a container leaves a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leave {
    /// It must be in it.
    Present,
    /// The network may have gone already.
    Anyway,
}

impl Engine {
    /// All networks, the oldest first.
    #[must_use]
    pub fn networks(&self) -> Vec<Arc<Network>> {
        let mut all: Vec<Arc<Network>> = self.inner.networks.book().networks().cloned().collect();
        all.sort_by_key(|network| network.created_ns);
        all
    }

    /// A network by id, name, or unique beginning of an id.
    ///
    /// # Errors
    /// [`ErrorClass::NotFound`], or [`ErrorClass::Invalid`] if the beginning fits more than one.
    pub fn network(&self, who: &str) -> Result<Arc<Network>> {
        self.inner.networks.book().find(who)
    }

    /// The running containers in a network.
    #[must_use]
    pub fn members(&self, network: &Network) -> Vec<Member> {
        self.inner.members(network)
    }

    /// Makes a network.
    ///
    /// # Errors
    /// [`ErrorClass::Conflict`] for a name that is taken, [`ErrorClass::Denied`] for a predefined name or a subnet that
    /// overlaps, [`ErrorClass::Invalid`] for what makes no sense. Nothing is left then.
    pub async fn create_network(&self, spec: NetworkSpec) -> Result<Arc<Network>> {
        let inner = Arc::clone(&self.inner);
        let made = tokio::task::spawn_blocking(move || inner.create_network(spec)).await;
        made.map_err(|error| EngineError::internal("making a network was cut short", &error))?
    }

    /// Removes a network that nobody is in.
    ///
    /// # Errors
    /// [`ErrorClass::Denied`] for a predefined one or one that is in use, [`ErrorClass::NotFound`].
    pub async fn remove_network(&self, who: &str) -> Result<()> {
        self.inner.networks.settled().await;
        let (inner, network) = (Arc::clone(&self.inner), self.network(who)?);
        let removed = tokio::task::spawn_blocking(move || inner.remove_network(&network)).await;
        removed.map_err(|error| EngineError::internal("removing a network was cut short", &error))?
    }

    /// Puts a container into one more network, at once if it runs.
    ///
    /// # Errors
    /// [`ErrorClass::NotFound`], [`ErrorClass::Denied`] for a container that has no network of its own or is in this one
    /// already, [`ErrorClass::Invalid`] for addresses that the network does not have.
    pub async fn connect(&self, network: &str, container: &str, request: EndpointRequest) -> Result<()> {
        let network = self.network(network)?;
        let request = Box::new(request);
        self.ask(container, |answer| Ask::Connect { network, request, answer }).await
    }

    /// Takes a container out of a network, at once if it runs.
    ///
    /// # Errors
    /// [`ErrorClass::NotFound`], [`ErrorClass::Denied`] for the host's network or one that the container is not in.
    pub async fn disconnect(&self, network: &str, container: &str, how: Leave) -> Result<()> {
        let anyway = how == Leave::Anyway;
        let found = match self.network(network) {
            // gone with its containers' places in it still on record
            Err(error) if anyway && error.class() == ErrorClass::NotFound => {
                let network = network.to_owned();
                return self.ask(container, |answer| Ask::Forget { network, answer }).await;
            }
            outcome => outcome?,
        };
        match self.ask(container, |answer| Ask::Disconnect { network: found, answer }).await {
            Err(error) if anyway && error.class() == ErrorClass::NotFound => {
                Err(EngineError::not_found(format!("endpoint {container} not found")))
            }
            outcome => outcome,
        }
    }
}

impl Inner {
    fn members(&self, network: &Network) -> Vec<Member> {
        let all = self.all_containers();
        let member = |container: Arc<Container>| {
            let link = container.links().find(|(_, link)| link.network == network.id).map(|(_, link)| link.clone());
            let whole = matches!(
                (&container.spec.network, network.spec.driver),
                (NetworkMode::Host, Driver::Host) | (NetworkMode::None, Driver::None)
            );
            (link.is_some() || whole).then(|| Member {
                container: container.id.clone(),
                name: container.name.clone(),
                link,
            })
        };
        all.into_iter().filter(|container| container.is_alive()).filter_map(member).collect()
    }

    fn create_network(&self, spec: NetworkSpec) -> Result<Arc<Network>> {
        if matches!(spec.name.as_str(), DEFAULT_NETWORK | "host" | "none" | "default") {
            return Err(EngineError::new(
                ErrorClass::Denied,
                format!("operation is not permitted on predefined {} network", spec.name),
            ));
        }
        if !spec.driver.has_addresses() {
            let name = if spec.driver == Driver::Host { "host" } else { "null" };
            return Err(EngineError::new(
                ErrorClass::Denied,
                format!("only one instance of \"{name}\" network is allowed"),
            ));
        }
        let spec = self.filled_in(spec)?;
        check(&spec)?;
        let links = Links::open().map_err(|error| EngineError::internal("cannot reach the host's links", &error))?;
        let mut network = self.new_network(spec)?;
        self.check_links(&links, &mut network)?;
        let network = {
            // one at a time: neither name nor subnet can go to two
            let mut book = self.networks.book();
            if book.by_name(&network.spec.name).is_some() {
                return Err(EngineError::conflict(format!("network with name {} already exists", network.spec.name)));
            }
            if !network.spec.template {
                let used = links.used_subnets(&[]).unwrap_or_default();
                book.settle(&mut network, &self.pools()?, &used)?;
            }
            let network = Arc::new(network);
            book.insert(Arc::clone(&network))?;
            network
        };
        let made = if network.spec.template {
            Ok(())
        } else {
            // written down before there is anything of it that a killed daemon could leave
            let passing = record(&network).and_then(|json| self.commit(Txn::new().put(passing_key(&network), json)));
            passing.and_then(|()| network::make(self, &links, &network))
        };
        if let Err(error) = made.and_then(|()| self.store_network(&network)) {
            self.end_passing(&network);
            self.networks.book().remove(&network.id);
            return Err(error);
        }
        if network.spec.driver == Driver::Bridge && !network.spec.template {
            self.tell_rules(&network);
        }
        Ok(network)
    }

    /// What a network is to be like that is made from a template: all but its name is the template's.
    fn filled_in(&self, spec: NetworkSpec) -> Result<NetworkSpec> {
        let Some(name) = &spec.made_from else { return Ok(spec) };
        let book = self.networks.book();
        let template =
            book.by_name(name).or_else(|| book.by_id(&NetworkId::known(name))).filter(|one| one.spec.template);
        let Some(template) = template else {
            return Err(EngineError::not_found(format!("configuration network {name:?} does not exist")));
        };
        if spec.template {
            return Err(EngineError::new(
                ErrorClass::Denied,
                "a configuration network cannot depend on another configuration network",
            ));
        }
        if !spec.subnets.is_empty() || !spec.words.is_empty() || !spec.labels.is_empty() || spec.v6 {
            return Err(EngineError::new(
                ErrorClass::Denied,
                "user specified configurations are not supported if the network depends on a configuration network",
            ));
        }
        let from = &template.spec;
        Ok(NetworkSpec {
            v4: from.v4,
            v6: from.v6,
            internal: from.internal,
            subnets: from.subnets.clone(),
            link: from.link.clone(),
            words: from.words.clone(),
            address_words: from.address_words.clone(),
            labels: from.labels.clone(),
            template: false,
            ..spec
        })
    }

    fn check_links(&self, links: &Links, network: &mut Network) -> Result<()> {
        let cannot = |error: net::NetError| EngineError::internal("cannot look at the host's links", &error);
        let link = network.link_name();
        if network.spec.template {
            return Ok(());
        }
        let named = |other: &&Arc<Network>| other.spec.driver == Driver::Bridge && other.link_name() == link;
        if let Some(other) = self.networks.book().networks().find(named) {
            return Err(EngineError::new(
                ErrorClass::Denied,
                format!(
                    "cannot create network {} ({link}): conflicts with network {} ({link}): networks have same bridge name",
                    network.id, other.id
                ),
            ));
        }
        if network.spec.driver == Driver::Bridge {
            network.spec.link.found = links.inspect(&link).map_err(cannot)?.is_some();
            return Ok(());
        }
        let Some(parent) = network.spec.link.parent.clone() else { return Ok(()) };
        self.check_parent(network, &parent)?;
        let there = links.inspect(&parent).map_err(cannot)?.is_some();
        // one that was made for a network goes with the last that uses it
        let made = |other: &&Arc<Network>| {
            other.spec.link.parent.as_ref() == Some(&parent) && !other.spec.link.found && !other.spec.template
        };
        network.spec.link.found = there && !self.networks.book().networks().any(|other| made(&other));
        if there {
            return Ok(());
        }
        match network::wiring::tagged(&parent) {
            Some((below, id)) if links.inspect(below).map_err(cannot)?.is_some() => {
                if (1..=4094).contains(&id) {
                    return Ok(());
                }
                Err(EngineError::invalid(format!("vlan id must be between 1-4094, received: {id}")))
            }
            _ => Err(EngineError::invalid(format!("-o parent interface was not found on the host: {parent}"))),
        }
    }

    /// Whether sub-links of this parent can be had beside those of other networks.
    fn check_parent(&self, network: &Network, parent: &str) -> Result<()> {
        if parent == "lo" {
            let driver = if network.spec.driver == Driver::Macvlan { "macvlan" } else { "ipvlan" };
            return Err(EngineError::invalid(format!("loopback interface is not a valid {driver} parent link")));
        }
        let same = |other: &&Arc<Network>| {
            other.spec.driver.has_addresses() && other.spec.link.parent.as_deref() == Some(parent)
        };
        // one sub-link has all of the parent, or several have each their part
        let alone = |spec: &NetworkSpec| spec.driver == Driver::Macvlan && spec.link.macvlan == MacvlanMode::Passthru;
        let book = self.networks.book();
        let conflict = book
            .networks()
            .filter(same)
            .find(|other| other.spec.driver != network.spec.driver || alone(&other.spec) || alone(&network.spec));
        match conflict {
            None => Ok(()),
            Some(other) => Err(EngineError::new(
                ErrorClass::Denied,
                format!("network {} is already using parent interface {parent}", other.id),
            )),
        }
    }

    /// Makes the default network's links, which is done with its first container. By then others on this host may have the subnet that was chosen
    /// when the first daemon started: it gets another one. Blocks.
    pub(crate) fn make_default(&self, network: &Arc<Network>) -> Result<()> {
        let links = Links::open().map_err(|error| EngineError::internal("cannot reach the host's links", &error))?;
        let bridge = network.link_name();
        let there =
            links.inspect(&bridge).map_err(|error| EngineError::internal("cannot see the host's links", &error))?;
        let mut network = Arc::clone(network);
        if there.is_none() {
            let used = links.used_subnets(&[]).unwrap_or_default();
            let moved = self.networks.book().resettle(&network.id, &self.pools()?, &used)?;
            if let Some(moved) = moved {
                self.commit(Txn::new().put(network_key(&moved), record(&moved)?))?;
                self.tell_rules(&moved);
                network = moved;
            }
        }
        network::make(self, &links, &network)
    }

    fn tell_rules(&self, network: &Network) {
        let rules = network::wiring::rules(network);
        network::mention(self, &net::netd::Request::SetNetworkRules { bridge: network.link_name(), rules });
    }

    fn new_network(&self, spec: NetworkSpec) -> Result<Network> {
        let id = NetworkId::random().map_err(|error| EngineError::internal("cannot make an id", &error))?;
        Ok(Network { id, created_ns: crate::clock::now_ns(), spec })
    }

    fn pools(&self) -> Result<Vec<net::ipam::Pool>> {
        if !self.config.network.pools.is_empty() {
            return Ok(self.config.network.pools.clone());
        }
        if let Some(entry) = self.store.get(SEED)
            && let Ok(seed) = <[u8; 5]>::try_from(entry.value.as_ref())
        {
            return Ok(default_pools(seed));
        }
        let mut seed = [0; 5];
        getrandom::fill(&mut seed).map_err(|error| EngineError::internal("cannot make addresses", &error))?;
        self.commit(Txn::new().put(SEED, seed.to_vec()))?;
        Ok(default_pools(seed))
    }

    fn store_network(&self, network: &Network) -> Result<()> {
        let event = self.network_event("create", network, None);
        let txn = Txn::new().put(network_key(network), record(network)?).delete(passing_key(network));
        self.commit(self.with_events(txn, std::slice::from_ref(&event))?)?;
        self.events.publish(event);
        Ok(())
    }

    fn remove_network(&self, network: &Arc<Network>) -> Result<()> {
        let name = &network.spec.name;
        if network.is_predefined() {
            return Err(EngineError::new(
                ErrorClass::Denied,
                format!("{name} is a pre-defined network and cannot be removed"),
            ));
        }
        let users: Vec<String> = self
            .members(network)
            .iter()
            .map(|member| {
                let id = member.link.as_ref().map(|link| link.id.get(..12).unwrap_or(&link.id).to_owned());
                format!("name:\"{}\" id:\"{}\"", member.name, id.unwrap_or_default())
            })
            .collect();
        if !users.is_empty() {
            return Err(EngineError::new(
                ErrorClass::Denied,
                format!(
                    "error while removing network: network {name} id {} has active endpoints ({})",
                    network.id,
                    users.join(", ")
                ),
            ));
        }
        let dependent = |other: &&Arc<Network>| {
            other.spec.made_from.as_deref() == Some(name)
                || other.spec.made_from.as_deref() == Some(network.id.as_str())
        };
        if network.spec.template && self.networks.book().networks().any(|other| dependent(&other)) {
            return Err(EngineError::new(
                ErrorClass::Denied,
                format!("error while removing network: configuration network {name:?} is in use"),
            ));
        }
        let event = self.network_event("destroy", network, None);
        let txn = Txn::new().delete(network_key(network)).put(passing_key(network), record(network)?);
        self.commit(self.with_events(txn, std::slice::from_ref(&event))?)?;
        self.networks.book().remove(&network.id);
        self.events.publish(event);
        network::unmake(self, network)?;
        self.commit(Txn::new().delete(passing_key(network)))
    }

    /// Takes the links of a network away that has no record.
    fn end_passing(&self, network: &Network) {
        let gone = network::unmake(self, network).and_then(|()| self.commit(Txn::new().delete(passing_key(network))));
        if let Err(error) = gone {
            // tried again by the next daemon
            tracing::warn!(network = network.spec.name, %error, "a removed network's links are left");
        }
    }

    /// Takes away what a daemon that was killed has left of networks that it made or removed. Blocks.
    pub(super) fn end_passing_networks(&self) {
        for entry in self.store.range(PASSING) {
            match serde_json::from_slice::<Network>(&entry.value) {
                Ok(network)
                    if self.networks.book().networks().any(|other| other.link_name() == network.link_name()) =>
                {
                    // another has the links now
                    let _ = self.commit(Txn::new().delete(entry.key));
                }
                Ok(network) => self.end_passing(&network),
                Err(error) => tracing::error!(key = entry.key, %error, "a network's record cannot be read"),
            }
        }
    }

    /// An event about a network, and a container that is concerned.
    pub(crate) fn network_event(&self, action: &str, network: &Network, container: Option<&ContainerId>) -> Event {
        let kind = match network.spec.driver {
            Driver::Bridge => "bridge",
            Driver::Macvlan => "macvlan",
            Driver::Ipvlan => "ipvlan",
            Driver::Host => "host",
            Driver::None => "null",
        };
        let mut attributes =
            BTreeMap::from([("name".to_owned(), network.spec.name.clone()), ("type".to_owned(), kind.to_owned())]);
        attributes.extend(container.map(|id| ("container".to_owned(), id.to_string())));
        self.events.event(EventKind::Network, action, network.id.as_str(), attributes)
    }

    /// Takes the default network away if the settings ask for another one now, or for none, and nobody is in it.
    fn renew_default(&self) -> Result<()> {
        let Some(present) = self.networks.book().by_name(DEFAULT_NETWORK).cloned() else { return Ok(()) };
        if !self.config.network.absent && self.config.network.fits(&present.spec) {
            return Ok(());
        }
        let is_in = |container: Container| container.links().any(|(_, link)| link.network == present.id);
        let records = self.store.range(CONTAINERS);
        let mut containers = records.iter().filter_map(|entry| serde_json::from_slice(&entry.value).ok());
        if containers.any(is_in) {
            tracing::warn!("the default network stays as it is while containers run in it, in spite of the settings");
            return Ok(());
        }
        let txn = Txn::new().delete(network_key(&present)).put(passing_key(&present), record(&present)?);
        self.commit(txn)?;
        self.networks.book().remove(&present.id);
        self.end_passing(&present);
        Ok(())
    }

    /// Reads the networks of the store, and makes those that every host has where they are missing.
    pub(super) fn load_networks(&self) -> Result<()> {
        for entry in self.store.range(NETWORKS) {
            match serde_json::from_slice::<Network>(&entry.value) {
                Ok(network) => self.networks.book().insert(Arc::new(network))?,
                Err(error) => {
                    tracing::error!(key = entry.key, %error, "a network's record cannot be read; it is left alone");
                }
            }
        }
        self.renew_default()?;
        let named = |name: &str, driver| NetworkSpec { name: name.to_owned(), driver, ..NetworkSpec::default() };
        for mut spec in
            [named(DEFAULT_NETWORK, Driver::Bridge), named("host", Driver::Host), named("none", Driver::None)]
        {
            let unwanted = spec.driver == Driver::Bridge && self.config.network.absent;
            if unwanted || self.networks.book().by_name(&spec.name).is_some() {
                continue;
            }
            if spec.driver == Driver::Bridge {
                self.config.network.default_bridge(&mut spec);
            }
            let mut network = self.new_network(spec)?;
            if network.spec.driver == Driver::Bridge {
                let bridge = network.link_name();
                let used: Vec<Subnet> =
                    Links::open().and_then(|links| links.used_subnets(&[&bridge])).unwrap_or_default();
                self.networks.book().settle(&mut network, &self.pools()?, &used)?;
            } else {
                network.id = NetworkId::predefined(&network.spec.name);
            }
            self.commit(Txn::new().put(network_key(&network), record(&network)?))?;
            self.networks.book().insert(Arc::new(network))?;
        }
        Ok(())
    }
}

fn network_key(network: &Network) -> String {
    format!("{NETWORKS}{}", network.id)
}

fn passing_key(network: &Network) -> String {
    format!("{PASSING}{}", network.id)
}

fn record(network: &Network) -> Result<Vec<u8>> {
    serde_json::to_vec(network).map_err(|error| EngineError::internal("cannot write the network's record", &error))
}

/// Where there is no default network, who would be in it is in the others that it asks for, or has none.
pub(super) fn without_default(spec: &mut ContainerSpec) {
    spec.endpoints.remove(DEFAULT_NETWORK);
    if spec.network == NetworkMode::Networks(DEFAULT_NETWORK.to_owned()) {
        let other = spec.endpoints.keys().next().cloned();
        spec.network = other.map_or(NetworkMode::None, NetworkMode::Networks);
    }
}

/// Checks what needs no other network.
fn check(spec: &NetworkSpec) -> Result<()> {
    let name = &spec.name;
    // Docker takes any other name; what breaks a listing or a path does not pass here
    let goes_well = !name.contains(['/', '\\']) && !name.contains(char::is_control);
    if name.trim().is_empty() {
        return Err(EngineError::invalid(format!("invalid name: {name} is not a valid network name")));
    }
    if !goes_well {
        return Err(EngineError::invalid(format!(
            "invalid network name {name:?}: no slashes and no control characters"
        )));
    }
    let LinkOptions { bridge, tunnel, .. } = &spec.link;
    if bridge.as_ref().is_some_and(|bridge| bridge.is_empty() || bridge.len() > net::LINK_NAME_MAX) {
        return Err(EngineError::invalid(format!("invalid bridge name: 1 to {} bytes", net::LINK_NAME_MAX)));
    }
    if tunnel.as_ref().is_some_and(|tunnel| tunnel.id >= 1 << 24) {
        return Err(EngineError::invalid("a tunnel's number has 24 bits: it is below 16777216"));
    }
    let versions = |v6: bool| spec.subnets.iter().filter(|asked| network::book::is_v6(asked) == v6).count();
    if spec.driver == Driver::Bridge && !spec.template && (versions(false) > 1 || versions(true) > 1) {
        return Err(EngineError::new(ErrorClass::Denied, "bridge driver doesn't support multiple subnets"));
    }
    if !spec.v4 && !spec.v6 {
        return Err(EngineError::invalid("IPv4 or IPv6 must be enabled"));
    }
    for asked in &spec.subnets {
        match asked.subnet {
            Some(subnet) if subnet != subnet.network() => {
                return Err(EngineError::invalid(format!(
                    "invalid network config:\ninvalid subnet {subnet}: it should be {}",
                    subnet.network()
                )));
            }
            Some(_) => {}
            None if asked.range.is_some() || asked.gateway.is_some() || !asked.auxiliary.is_empty() => {
                return Err(EngineError::invalid(
                    "invalid network config: a range, gateway or auxiliary address needs a subnet",
                ));
            }
            None => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use net::ipam::SubnetRequest;

    #[test]
    fn names_and_subnets_are_checked() {
        let named = |name: &str| NetworkSpec { name: name.to_owned(), ..NetworkSpec::default() };
        for good in ["a", "shop_net", "0.x-y", "-a", "ä", "a b"] {
            assert!(check(&named(good)).is_ok(), "{good}");
        }
        for bad in ["", " ", "a/b", "a\\b", "a\nb"] {
            assert_eq!(check(&named(bad)).unwrap_err().class(), ErrorClass::Invalid, "{bad}");
        }
        let subnet = |text: &str| SubnetRequest { subnet: text.parse().ok(), ..SubnetRequest::default() };
        let with = |asked: SubnetRequest| check(&NetworkSpec { subnets: vec![asked], ..named("a") });
        assert!(with(subnet("10.1.0.0/16")).is_ok());
        assert!(with(subnet("10.1.2.0/16")).unwrap_err().to_string().contains("10.1.0.0/16"));
        assert!(with(SubnetRequest { gateway: Some([10, 0, 0, 1].into()), ..SubnetRequest::default() }).is_err());
        assert!(check(&NetworkSpec { v4: false, ..named("a") }).is_err());
    }
}
