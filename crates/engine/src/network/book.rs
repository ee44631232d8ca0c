//! Which networks there are, and who has which address and port of them: plain data without a kernel.
//!
//! Leases and ports are remembered here only. What makes them last is the record of the container that has them, which is
//! stored in one transaction with the event that tells of it; after a daemon's end the book is written anew from records.

use super::ports;
use super::wiring::Targets;
use crate::error::{EngineError, ErrorClass, Result};
use crate::model::{Container, ContainerId, Driver, Network, NetworkId, PublishRequest};
use net::Subnet;
use net::firewall::{Publication, Published};
use net::ipam::{self, IpamError, Lease, Pool, SubnetRequest};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

/// The book.
#[derive(Debug, Default)]
pub(crate) struct Book {
    networks: BTreeMap<NetworkId, Arc<Network>>,
    /// Who has which address, by network: a state of its own for each, so that one lease costs no more beside many networks.
    leases: BTreeMap<NetworkId, ipam::State>,
    ports: ports::Taken,
}

/// Why somebody gets nothing; whoever is just leaving may still have it.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// Somebody has it.
    Taken(EngineError),
    /// It can't be had.
    Wrong(EngineError),
}

impl From<Refusal> for EngineError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Taken(error) | Refusal::Wrong(error) => error,
        }
    }
}

impl Book {
    /// Settles a new network's subnets: those asked for, and one of the pools for a version of IP that has none.
    pub(crate) fn settle(
        &self,
        network: &mut Network,
        pools: &[Pool],
        used: &[Subnet],
    ) -> std::result::Result<(), EngineError> {
        if !network.spec.driver.has_addresses() {
            return Ok(());
        }
        let spec = &mut network.spec;
        let has = |v6: bool, list: &[SubnetRequest]| list.iter().any(|asked| is_v6(asked) == v6);
        for asked in &mut spec.subnets {
            asked.pooled = asked.subnet.is_none();
        }
        for (wanted, v6) in [(spec.v4, false), (spec.v6, true)] {
            if wanted && !has(v6, &spec.subnets) {
                spec.subnets.push(SubnetRequest { v6, pooled: true, ..SubnetRequest::default() });
            }
        }
        spec.subnets.retain(|asked| if is_v6(asked) { spec.v6 } else { spec.v4 });
        // all networks' subnets in one state, under names that cannot be this network's
        let mut all = ipam::State::default();
        for (id, state) in &self.leases {
            if let (Some(other), Some(parts)) = (self.networks.get(id), state.networks.get(id.as_str())) {
                all.networks.insert(format!("{} ({})", other.spec.name, id.short()), parts.clone());
            }
        }
        let added = ipam::add_network(all, network.id.as_str(), &spec.subnets, pools, used).map_err(subnet_refused)?;
        let parts = added.networks.get(network.id.as_str()).map(Vec::as_slice).unwrap_or_default();
        for (asked, part) in spec.subnets.iter_mut().zip(parts) {
            asked.subnet = Some(part.subnet);
            asked.gateway = Some(part.gateway);
            asked.v6 = part.subnet.is_v6();
        }
        Ok(())
    }

    /// Gives a network that nobody has an address of other subnets, if one that a pool gave it is `used` by now; the network as it is then.
    pub(crate) fn resettle(
        &mut self,
        id: &NetworkId,
        pools: &[Pool],
        used: &[Subnet],
    ) -> std::result::Result<Option<Arc<Network>>, EngineError> {
        let Some(network) = self.networks.get(id) else { return Ok(None) };
        let lost = |asked: &SubnetRequest| {
            asked.pooled && asked.subnet.is_some_and(|subnet| used.iter().any(|other| other.overlaps(subnet)))
        };
        let leases = self.leases.get(id).into_iter().flat_map(|state| state.networks.values().flatten());
        if !network.spec.subnets.iter().any(lost) || leases.map(|part| part.leases.len()).sum::<usize>() > 0 {
            return Ok(None);
        }
        let mut moved = Network::clone(network);
        for asked in moved.spec.subnets.iter_mut().filter(|asked| asked.pooled) {
            (asked.subnet, asked.gateway) = (None, None);
        }
        // its own subnets are in nobody's way
        let before = self.leases.remove(id);
        if let Err(error) = self.settle(&mut moved, pools, used) {
            self.leases.extend(before.map(|state| (id.clone(), state)));
            return Err(error);
        }
        let moved = Arc::new(moved);
        self.insert(Arc::clone(&moved))?;
        Ok(Some(moved))
    }

    /// Enters a network whose subnets are settled.
    pub(crate) fn insert(&mut self, network: Arc<Network>) -> Result<()> {
        if network.spec.driver.has_addresses() && !network.spec.template {
            let id = network.id.as_str();
            let state = ipam::add_network(ipam::State::default(), id, &network.spec.subnets, &[], &[]);
            self.leases.insert(network.id.clone(), state.map_err(subnet_refused)?);
        }
        self.networks.insert(network.id.clone(), network);
        Ok(())
    }

    /// Crosses a network out.
    pub(crate) fn remove(&mut self, id: &NetworkId) {
        self.networks.remove(id);
        self.leases.remove(id);
    }

    /// All networks.
    pub(crate) fn networks(&self) -> impl Iterator<Item = &Arc<Network>> {
        self.networks.values()
    }

    /// By id.
    pub(crate) fn by_id(&self, id: &NetworkId) -> Option<&Arc<Network>> {
        self.networks.get(id)
    }

    /// By name.
    pub(crate) fn by_name(&self, name: &str) -> Option<&Arc<Network>> {
        self.networks.values().find(|network| network.spec.name == name)
    }

    /// By id, name or unique beginning of an id.
    pub(crate) fn find(&self, who: &str) -> Result<Arc<Network>> {
        if let Some(network) = self.networks.get(&NetworkId::known(who)).or_else(|| self.by_name(who)) {
            return Ok(Arc::clone(network));
        }
        let mut fitting = self.networks.values().filter(|network| network.id.as_str().starts_with(who));
        match (fitting.next(), fitting.next()) {
            (Some(network), None) if !who.is_empty() => Ok(Arc::clone(network)),
            (Some(_), Some(_)) if !who.is_empty() => Err(EngineError::invalid(format!(
                "network {who} is ambiguous ({} matches found based on ID prefix); give more of the id",
                2 + fitting.count()
            ))),
            _ => Err(EngineError::not_found(format!("network {who} not found"))),
        }
    }

    /// Gives a container its addresses in a network: those it must have, or the next ones.
    pub(crate) fn lease(
        &mut self,
        network: &NetworkId,
        container: &ContainerId,
        wanted: &[IpAddr],
    ) -> std::result::Result<Vec<Lease>, Refusal> {
        let state = self
            .leases
            .get_mut(network)
            .ok_or_else(|| Refusal::Wrong(EngineError::not_found(format!("network {network} not found"))))?;
        let leased = ipam::allocate_one_each(state.clone(), network.as_str(), container.as_str(), wanted);
        let (next, leases) = leased.map_err(lease_refused)?;
        *state = next;
        Ok(leases)
    }

    /// Whether a network has subnets that addresses can be of.
    pub(crate) fn has_subnet_of(&self, network: &NetworkId, address: IpAddr) -> bool {
        let parts = self.leases.get(network).and_then(|state| state.networks.get(network.as_str()));
        parts.into_iter().flatten().any(|part| part.subnet.contains(address))
    }

    /// Takes a container's addresses in a network back.
    pub(crate) fn release(&mut self, network: &NetworkId, container: &ContainerId) {
        if let Some(state) = self.leases.get_mut(network) {
            *state = ipam::release(std::mem::take(state), network.as_str(), container.as_str());
        }
    }

    /// Gives a container ports of the host. `busy` are those that the host turned out to use itself.
    pub(crate) fn publish(
        &mut self,
        container: &ContainerId,
        wanted: &[PublishRequest],
        to: &Targets,
        busy: &BTreeSet<Publication>,
    ) -> std::result::Result<Published, Refusal> {
        self.ports.take(container, wanted, to, busy)
    }

    /// As [`Self::publish`] for a container that has `held`, and whose ways out are others now.
    pub(crate) fn republish(
        &mut self,
        container: &ContainerId,
        wanted: &[PublishRequest],
        held: &Published,
        to: (&Targets, &BTreeSet<Publication>),
    ) -> std::result::Result<Published, Refusal> {
        self.ports.retake(container, wanted, held, to)
    }

    /// Enters ports that a container has.
    pub(crate) fn keep(&mut self, container: &ContainerId, published: &Published) {
        self.ports.adopt(container, published);
    }

    /// Takes a container's ports back.
    pub(crate) fn unpublish(&mut self, container: &ContainerId, published: &Published) {
        self.ports.release(container, published);
    }

    /// Enters what a container's record says that it has.
    pub(crate) fn adopt(&mut self, container: &Container) {
        for (_, link) in container.links() {
            let known = self.lease(&link.network, &container.id, &link.addresses());
            if let Err(Refusal::Taken(error) | Refusal::Wrong(error)) = known {
                tracing::error!(container = %container.id, %error, "an address in a record is not the container's");
            }
        }
        self.ports.adopt(&container.id, &container.published);
    }
}

/// Whether a request is for IPv6.
pub(crate) fn is_v6(asked: &SubnetRequest) -> bool {
    asked.subnet.map_or(asked.v6, Subnet::is_v6)
}

fn subnet_refused(error: IpamError) -> EngineError {
    match error {
        IpamError::Overlap { .. } => EngineError::because(
            ErrorClass::Denied,
            "invalid pool request: Pool overlaps with other one on this address space",
            &error,
        ),
        IpamError::Exhausted => EngineError::because(
            ErrorClass::NotFound,
            "could not find an available, non-overlapping IPv4 address pool among the defaults to assign to the network: all predefined address pools have been fully subnetted",
            &error,
        ),
        error @ IpamError::AuxiliaryTaken { .. } => EngineError::new(ErrorClass::Denied, error.to_string()),
        error => EngineError::invalid(error.to_string()),
    }
}

fn lease_refused(error: IpamError) -> Refusal {
    match error {
        IpamError::Taken { .. } => {
            Refusal::Taken(EngineError::because(ErrorClass::Denied, "Address already in use", &error))
        }
        IpamError::Full { .. } => Refusal::Taken(EngineError::because(
            ErrorClass::Denied,
            "no available IPv4 addresses on this network's address pools",
            &error,
        )),
        IpamError::Outside { .. } => Refusal::Wrong(EngineError::invalid(format!(
            "invalid endpoint settings: no configured subnet or ip-range contains the address: {error}"
        ))),
        error => Refusal::Wrong(EngineError::invalid(error.to_string())),
    }
}

/// Whether containers of a network may be given addresses by their users.
pub(crate) fn check_user_addresses(network: &Network) -> Result<()> {
    if network.is_default() || !network.spec.driver.has_addresses() {
        return Err(EngineError::invalid("user specified IP address is supported on user defined networks only"));
    }
    debug_assert!(network.spec.driver != Driver::Host, "has no addresses");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::NetworkSpec;
    use net::ipam::default_pools;

    fn made(book: &mut Book, number: u8, spec: NetworkSpec) -> Result<Arc<Network>> {
        let id = NetworkId::known(&format!("{number:02x}").repeat(32));
        let mut network = Network { id, created_ns: 0, spec };
        book.settle(&mut network, &default_pools([1; 5]), &[])?;
        let network = Arc::new(network);
        book.insert(Arc::clone(&network))?;
        Ok(network)
    }

    fn named(name: &str) -> NetworkSpec {
        NetworkSpec { name: name.to_owned(), ..NetworkSpec::default() }
    }

    #[test]
    fn networks_get_subnets_that_do_not_overlap() {
        let mut book = Book::default();
        let one = made(&mut book, 1, named("one")).unwrap();
        assert_eq!(one.spec.subnets[0].subnet.unwrap().to_string(), "172.17.0.0/16");
        assert_eq!(one.gateways(), ["172.17.0.1".parse::<IpAddr>().unwrap()]);
        let both = made(&mut book, 2, NetworkSpec { v6: true, ..named("both") }).unwrap();
        assert_eq!((both.spec.subnets.len(), both.gateways().len()), (2, 2));
        let same = SubnetRequest { subnet: Some("172.17.3.0/24".parse().unwrap()), ..SubnetRequest::default() };
        let refused = made(&mut book, 3, NetworkSpec { subnets: vec![same], ..named("same") }).unwrap_err();
        assert_eq!(refused.class(), ErrorClass::Denied);
        assert!(refused.to_string().contains("Pool overlaps with other one on this address space"), "{refused}");
        let only6 = made(&mut book, 4, NetworkSpec { v4: false, v6: true, ..named("six") }).unwrap();
        assert!(only6.spec.subnets.iter().all(is_v6) && only6.spec.subnets.len() == 1);
    }

    #[test]
    fn a_network_that_nobody_is_in_gives_way() {
        let mut book = Book::default();
        let asked = SubnetRequest { subnet: Some("10.1.0.0/16".parse().unwrap()), ..SubnetRequest::default() };
        let fixed = made(&mut book, 1, NetworkSpec { subnets: vec![asked], ..named("fixed") }).unwrap();
        let both = made(&mut book, 2, NetworkSpec { v6: true, ..named("both") }).unwrap();
        let (pools, used) =
            (default_pools([1; 5]), ["172.17.128.0/24".parse().unwrap(), "10.1.0.0/16".parse().unwrap()]);
        assert!(book.resettle(&both.id, &pools, &used[1..]).unwrap().is_none(), "nothing of it is used");
        assert!(book.resettle(&fixed.id, &pools, &used).unwrap().is_none(), "it was asked for");
        let moved = book.resettle(&both.id, &pools, &used).unwrap().expect("another subnet");
        let subnets = |network: &Network| network.spec.subnets.iter().filter_map(|one| one.subnet).collect::<Vec<_>>();
        assert_eq!(subnets(&moved)[0].to_string(), "172.18.0.0/16");
        assert_eq!(subnets(&moved)[1], subnets(&both)[1], "the other version stays");
        let leased = book.lease(&both.id, &ContainerId::known("a"), &[]).unwrap();
        assert_eq!(leased[0].address.to_string(), "172.18.0.2/16");
        assert!(book.resettle(&both.id, &pools, &subnets(&moved)).unwrap().is_none(), "somebody is in it");
        book.release(&both.id, &ContainerId::known("a"));
        assert!(book.resettle(&both.id, &[], &subnets(&moved)).is_err(), "there is no other");
        assert_eq!(book.lease(&both.id, &ContainerId::known("a"), &[]).unwrap()[0].gateway, leased[0].gateway);
    }

    #[test]
    fn networks_are_found_by_id_name_and_beginning() {
        let mut book = Book::default();
        let (one, _) = (made(&mut book, 0x11, named("one")).unwrap(), made(&mut book, 0x12, named("two")).unwrap());
        assert_eq!(book.find("one").unwrap().id, one.id);
        assert_eq!(book.find("11").unwrap().id, one.id);
        assert_eq!(book.find("1").unwrap_err().class(), ErrorClass::Invalid);
        assert_eq!(book.find("three").unwrap_err().to_string(), "network three not found");
        assert_eq!(book.find("").unwrap_err().class(), ErrorClass::NotFound);
    }

    #[test]
    fn leases_are_given_once_and_come_back() {
        let mut book = Book::default();
        let one = made(&mut book, 1, named("one")).unwrap();
        let (a, b) = (ContainerId::known("a"), ContainerId::known("b"));
        let first = book.lease(&one.id, &a, &[]).unwrap();
        assert_eq!(first[0].address.to_string(), "172.17.0.2/16");
        let wanted = [first[0].address.address()];
        assert!(matches!(book.lease(&one.id, &b, &wanted), Err(Refusal::Taken(_))));
        book.release(&one.id, &a);
        assert_eq!(book.lease(&one.id, &b, &wanted).unwrap(), first);
        assert!(matches!(book.lease(&one.id, &a, &["10.0.0.1".parse().unwrap()]), Err(Refusal::Wrong(_))));
    }
}
