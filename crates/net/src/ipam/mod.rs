//! Who has which address: pure functions over plain data.
//!
//! [`State`] is what the engine stores, in the same transaction as the endpoint that a lease belongs to; nothing else
//! remembers a lease, so after a crash the state is what it was. It can also be made anew from the endpoints: add every
//! network, then ask for every endpoint's address by name.
//!
//! # Source
//! The pools are those of Docker's daemon: 172.17.0.0/16 to 172.31.0.0/16, then 192.168.0.0/16 in parts of /20.

mod error;
mod pool;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};

pub use error::IpamError;
pub use pool::{DEFAULT_POOLS, Pool, default_pools};
use serde::{Deserialize, Serialize};

use crate::Subnet;
use crate::address::{from_number, number};

/// A subnet as somebody asks for it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SubnetRequest {
    /// The subnet; without it one from the pools.
    pub subnet: Option<Subnet>,
    /// The part from which addresses are given that nobody asked for by name.
    pub range: Option<Subnet>,
    /// The gateway; without it the subnet's first address.
    pub gateway: Option<IpAddr>,
    /// Addresses that are somebody else's, by name.
    pub auxiliary: BTreeMap<String, IpAddr>,
    /// Whether this is IPv6, where no subnet says so.
    #[serde(default)]
    pub v6: bool,
    /// Whether nobody asked for this subnet by number: addresses of it can't be asked for either.
    #[serde(default)]
    pub pooled: bool,
}

/// A subnet of a network, and who has which address of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Allocation {
    /// The subnet.
    pub subnet: Subnet,
    /// The part from which addresses are given.
    pub range: Subnet,
    /// The host's address, or the one that routes are to use.
    pub gateway: IpAddr,
    /// Addresses that are somebody else's, by name.
    pub auxiliary: BTreeMap<String, IpAddr>,
    /// The owner of each address that is given out.
    pub leases: BTreeMap<IpAddr, String>,
    /// The address that was given last: the search goes on behind it, so that one that was just given up rests.
    #[serde(default)]
    pub last: Option<IpAddr>,
}

/// Every network's subnets, by network.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct State {
    /// The subnets of each network.
    pub networks: BTreeMap<String, Vec<Allocation>>,
}

impl State {
    fn of(&mut self, network: &str) -> Result<&mut Vec<Allocation>, IpamError> {
        self.networks.get_mut(network).ok_or_else(|| IpamError::NoNetwork { network: network.to_owned() })
    }
}

/// An address that somebody has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// The address with its subnet's prefix.
    pub address: Subnet,
    /// The subnet's gateway.
    pub gateway: IpAddr,
}

/// A network gets its subnets: those it asks for, or the first of `pools` that is free. `used` is what the host's own
/// routes use (see [`crate::Links::used_subnets`]); a pool that overlaps it is skipped.
///
/// # Errors
/// [`IpamError::Network`] for a second time, [`IpamError::Overlap`], [`IpamError::Exhausted`], or a request that makes
/// no sense; the state is then unchanged.
pub fn add_network(
    mut state: State,
    network: &str,
    requests: &[SubnetRequest],
    pools: &[Pool],
    used: &[Subnet],
) -> Result<State, IpamError> {
    if state.networks.contains_key(network) {
        return Err(IpamError::Network { network: network.to_owned() });
    }
    let mut allocations: Vec<Allocation> = Vec::new();
    for request in requests {
        let taken = |subnet: Subnet| {
            let own = allocations.iter().find(|other| other.subnet.overlaps(subnet));
            own.map(|other| (network.to_owned(), other.subnet)).or_else(|| holder(&state, subnet))
        };
        let subnet = match request.subnet {
            Some(subnet) => {
                let subnet = subnet.network();
                if let Some((owner, other)) = taken(subnet) {
                    return Err(IpamError::Overlap { subnet, owner, other });
                }
                subnet
            }
            None => {
                let free =
                    |subnet: &Subnet| taken(*subnet).is_none() && !used.iter().any(|route| route.overlaps(*subnet));
                let wanted = pools.iter().filter(|pool| pool.base.is_v6() == request.v6);
                wanted.flat_map(|pool| pool.parts()).find(free).ok_or(IpamError::Exhausted)?
            }
        };
        allocations.push(Allocation::new(subnet, request)?);
    }
    state.networks.insert(network.to_owned(), allocations);
    Ok(state)
}

/// The network that has addresses of `subnet`, and its subnet.
fn holder(state: &State, subnet: Subnet) -> Option<(String, Subnet)> {
    let all = state.networks.iter().flat_map(|(name, parts)| parts.iter().map(move |part| (name, part.subnet)));
    all.into_iter().find(|(_, other)| other.overlaps(subnet)).map(|(name, other)| (name.clone(), other))
}

/// The network's subnets are free again, with all their leases.
#[must_use]
pub fn remove_network(mut state: State, network: &str) -> State {
    state.networks.remove(network);
    state
}

/// `owner` gets an address in every subnet of `network`: `wanted` where it names one of the subnet, else the next free
/// one. An owner that has one already has it still.
///
/// # Errors
/// [`IpamError::NoNetwork`], [`IpamError::Taken`] with who has it, [`IpamError::Outside`], [`IpamError::Full`].
pub fn allocate(
    mut state: State,
    network: &str,
    owner: &str,
    wanted: &[IpAddr],
) -> Result<(State, Vec<Lease>), IpamError> {
    let allocations = state.of(network)?;
    if let Some(address) = wanted.iter().find(|address| !allocations.iter().any(|part| part.subnet.contains(**address)))
    {
        return Err(IpamError::Outside { address: *address, network: network.to_owned() });
    }
    let mut leases = Vec::new();
    for allocation in allocations {
        let wanted = wanted.iter().copied().find(|address| allocation.subnet.contains(*address));
        let address = match wanted {
            Some(address) => allocation.take(address, owner)?,
            None => allocation
                .next(owner)
                .ok_or_else(|| IpamError::Full { network: network.to_owned(), range: allocation.range })?,
        };
        leases.push(allocation.lease(address));
    }
    Ok((state, leases))
}

/// As [`allocate`], but `owner` gets one address of each version of IP that the network has, IPv4 first: those `wanted`,
/// else the next free one of the first subnet that has any.
///
/// # Errors
/// As [`allocate`].
pub fn allocate_one_each(
    mut state: State,
    network: &str,
    owner: &str,
    wanted: &[IpAddr],
) -> Result<(State, Vec<Lease>), IpamError> {
    let allocations = state.of(network)?;
    let mut leases = Vec::new();
    for address in wanted {
        let part = allocations.iter_mut().find(|part| part.subnet.contains(*address));
        let part = part.ok_or_else(|| IpamError::Outside { address: *address, network: network.to_owned() })?;
        let address = part.take(*address, owner)?;
        leases.push(part.lease(address));
    }
    for v6 in [false, true] {
        let mut parts: Vec<&mut Allocation> = allocations.iter_mut().filter(|part| part.subnet.is_v6() == v6).collect();
        let Some(range) = parts.first().map(|part| part.range) else { continue };
        if leases.iter().any(|lease| lease.address.is_v6() == v6) {
            continue;
        }
        // one that it has already before one that it could have
        parts.sort_by_key(|part| !part.leases.values().any(|holder| holder == owner));
        let found = parts.into_iter().find_map(|part| part.next(owner).map(|address| part.lease(address)));
        leases.push(found.ok_or_else(|| IpamError::Full { network: network.to_owned(), range })?);
    }
    leases.sort_by_key(|lease| lease.address.is_v6());
    Ok((state, leases))
}

/// `owner` gives up what it has in `network`.
#[must_use]
pub fn release(mut state: State, network: &str, owner: &str) -> State {
    for allocation in state.networks.get_mut(network).into_iter().flatten() {
        allocation.leases.retain(|_, holder| holder != owner);
    }
    state
}

impl Allocation {
    fn new(subnet: Subnet, request: &SubnetRequest) -> Result<Self, IpamError> {
        if subnet.prefix() > (if subnet.is_v6() { 126 } else { 30 }) && request.gateway.is_none() && !fits_pair(subnet)
        {
            return Err(IpamError::TooSmall { subnet });
        }
        let range = request.range.map_or(subnet, Subnet::network);
        if !subnet.covers(range) {
            return Err(IpamError::Range { range, subnet });
        }
        let first = from_number(number(subnet.address()) + u128::from(!fits_pair(subnet)), subnet.is_v6());
        // With a range of its own the gateway is its first address, as Docker's daemon has it.
        let ranged = from_number(number(range.address()) + u128::from(range.prefix() < width(range)), subnet.is_v6());
        let mut gateway = request.gateway.unwrap_or(if request.range.is_some() { ranged } else { first });
        if request.gateway.is_none() {
            // somebody else's address is not the gateway's
            let others: BTreeSet<IpAddr> = request.auxiliary.values().copied().collect();
            while others.contains(&gateway) && number(gateway) < number(subnet.last()) {
                gateway = from_number(number(gateway) + 1, subnet.is_v6());
            }
        }
        for (name, address) in request.auxiliary.iter().map(|(name, address)| (name.as_str(), *address)) {
            if !subnet.contains(address) {
                return Err(IpamError::Auxiliary { name: name.to_owned(), address, subnet });
            }
            let twice = request.auxiliary.iter().any(|(other, same)| other.as_str() < name && *same == address);
            if address == gateway || twice {
                return Err(IpamError::AuxiliaryTaken { name: name.to_owned(), address });
            }
        }
        if !subnet.contains(gateway) {
            return Err(IpamError::Gateway { gateway, subnet });
        }
        Ok(Self { subnet, range, gateway, auxiliary: request.auxiliary.clone(), leases: BTreeMap::new(), last: None })
    }

    fn lease(&self, address: IpAddr) -> Lease {
        let with_prefix = Subnet::new(address, self.subnet.prefix()).unwrap_or(Subnet::host(address));
        Lease { address: with_prefix, gateway: self.gateway }
    }

    /// Who has `address`, in words; nobody when it can be given out.
    fn holder(&self, address: IpAddr) -> Option<String> {
        if address == self.gateway {
            return Some("the gateway".to_owned());
        }
        if let Some(owner) = self.leases.get(&address) {
            return Some(owner.clone());
        }
        if let Some((name, _)) = self.auxiliary.iter().find(|(_, other)| **other == address) {
            return Some(name.clone());
        }
        let broadcast = !self.subnet.is_v6() && address == self.subnet.last();
        if !fits_pair(self.subnet) && (address == self.subnet.address() || broadcast) {
            return Some("the subnet itself".to_owned());
        }
        None
    }

    fn take(&mut self, address: IpAddr, owner: &str) -> Result<IpAddr, IpamError> {
        match self.holder(address) {
            Some(holder) if holder != owner => Err(IpamError::Taken { address, holder }),
            Some(_) => Ok(address),
            None => {
                self.leases.retain(|_, holder| holder != owner);
                self.leases.insert(address, owner.to_owned());
                Ok(address)
            }
        }
    }

    fn next(&mut self, owner: &str) -> Option<IpAddr> {
        if let Some((address, _)) = self.leases.iter().find(|(_, holder)| *holder == owner) {
            return Some(*address);
        }
        let (first, last) = (number(self.range.address()), number(self.range.last()));
        let start = self.last.map(number).filter(|at| (first..last).contains(at)).map_or(first, |at| at + 1);
        // More candidates than holders: one of them is free if any is.
        let candidates = (start..=last).chain(first..start);
        let enough = self.leases.len() + self.auxiliary.len() + 4;
        let v6 = self.subnet.is_v6();
        let free = candidates.take(enough).map(|at| from_number(at, v6)).find(|at| self.holder(*at).is_none())?;
        self.last = Some(free);
        self.leases.insert(free, owner.to_owned());
        Some(free)
    }
}

/// Whether a subnet has no address to spare for itself and a broadcast (RFC 3021, RFC 6164).
fn fits_pair(subnet: Subnet) -> bool {
    subnet.prefix() + 1 == width(subnet)
}

fn width(subnet: Subnet) -> u8 {
    if subnet.is_v6() { 128 } else { 32 }
}

/// A subnet for unique local IPv6 addresses, made of the host's `seed` and the network's number.
///
/// # Source
/// RFC 4193, section 3.2.
#[must_use]
pub fn unique_local(seed: [u8; 5], number: u16) -> Subnet {
    let [a, b, c, d, e] = seed.map(u16::from);
    let address = Ipv6Addr::new(0xfd00 | a, b << 8 | c, d << 8 | e, number, 0, 0, 0, 0);
    Subnet::new(IpAddr::V6(address), 64).unwrap_or(Subnet::host(IpAddr::V6(address)))
}
