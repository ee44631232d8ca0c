//! The names of networks, and what a container is told.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use super::wire::{Code, Kind, Query, Record, Transport};
use crate::Subnet;

/// How long an answer may be kept, in seconds, as Docker's resolver has it.
pub const TTL: u32 = 600;

/// The names of one container in one network.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Names {
    /// Its name, then its aliases; several containers may share one.
    pub names: Vec<String>,
    /// Its addresses in the network.
    pub addresses: Vec<IpAddr>,
}

/// The names of one network.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct NetworkNames {
    /// The network's subnets: addresses of these have a name here or none.
    pub subnets: Vec<Subnet>,
    /// The containers, by a word of the caller's choice, such as the endpoint's id.
    pub containers: BTreeMap<String, Names>,
}

/// From where a server is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Via {
    /// The host.
    Host,
    /// The container itself, as for a server on its own loopback.
    Inside,
}

/// A server that is asked for names that are nobody's here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upstream {
    /// Where it is; the port is 53 mostly.
    pub address: SocketAddr,
    /// From where.
    pub via: Via,
}

/// What one container may ask.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct View {
    /// The networks it is in; the first with a name has the answer.
    pub networks: Vec<String>,
    /// Names for this container only, such as those of links.
    pub own: BTreeMap<String, Vec<IpAddr>>,
    /// The servers for all other names, in order; none in internal networks.
    pub upstreams: Vec<Upstream>,
}

/// Every network's names, by network.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Zone {
    networks: BTreeMap<String, NetworkNames>,
    /// The holders of each name of a network: what a question looks up.
    #[serde(skip)]
    index: BTreeMap<String, BTreeMap<String, BTreeSet<IpAddr>>>,
}

impl Zone {
    /// Sets all names of a network.
    pub fn set_network(&mut self, network: &str, names: NetworkNames) {
        self.networks.insert(network.to_owned(), names);
        self.reindex(network);
    }

    /// Forgets a network.
    pub fn remove_network(&mut self, network: &str) {
        self.networks.remove(network);
        self.index.remove(network);
    }

    /// Sets the names of one container in a network.
    pub fn set_container(&mut self, network: &str, container: &str, names: Names) {
        let entry = self.networks.entry(network.to_owned()).or_default();
        if entry.containers.insert(container.to_owned(), names.clone()).is_some() {
            self.reindex(network);
        } else {
            insert(self.index.entry(network.to_owned()).or_default(), &names);
        }
    }

    /// Forgets a container in a network.
    pub fn remove_container(&mut self, network: &str, container: &str) {
        if let Some(entry) = self.networks.get_mut(network)
            && entry.containers.remove(container).is_some()
        {
            self.reindex(network);
        }
    }

    fn reindex(&mut self, network: &str) {
        let mut index = BTreeMap::new();
        for names in self.networks.get(network).into_iter().flat_map(|entry| entry.containers.values()) {
            insert(&mut index, names);
        }
        self.index.insert(network.to_owned(), index);
    }

    /// The addresses of `name` for a container; nothing when it is nobody's name.
    fn lookup(&self, view: &View, name: &str) -> Option<Vec<IpAddr>> {
        if let Some(addresses) = view.own.get(name) {
            return Some(addresses.clone());
        }
        let within = |network: &String, name: &str| {
            let found = self.index.get(network)?.get(name)?;
            Some(found.iter().copied().collect())
        };
        view.networks.iter().find_map(|network| within(network, name)).or_else(|| {
            // NAME.NETWORK is understood too.
            view.networks.iter().find_map(|network| {
                let short = name.strip_suffix(&network.to_ascii_lowercase())?.strip_suffix('.')?;
                within(network, short)
            })
        })
    }

    /// The name of an address for a container: nothing for one outside of its networks.
    fn name_of(&self, view: &View, address: IpAddr) -> Option<Option<String>> {
        let networks = view.networks.iter().filter_map(|name| Some((name, self.networks.get(name)?)));
        let (network, entry) =
            networks.into_iter().find(|(_, entry)| entry.subnets.iter().any(|subnet| subnet.contains(address)))?;
        let holder = entry.containers.values().find(|names| names.addresses.contains(&address));
        Some(holder.and_then(|names| names.names.first()).map(|name| format!("{name}.{network}")))
    }

    /// The answer to a container's question; nothing when servers outside are to be asked.
    #[must_use]
    pub fn answer(&self, view: &View, query: &Query, transport: Transport) -> Option<Vec<u8>> {
        if !query.internet {
            return None;
        }
        if query.kind == Kind::Ptr {
            let name = self.name_of(view, query.reversed()?)?;
            let code = if name.is_some() { Code::Good } else { Code::NoName };
            let records: Vec<Record> = name.into_iter().map(Record::Name).collect();
            return Some(query.reply(code, &records, transport, TTL));
        }
        let addresses = self.lookup(view, &query.name)?;
        let mut records: Vec<Record> = addresses
            .into_iter()
            .filter(|address| match query.kind {
                Kind::A => address.is_ipv4(),
                Kind::Aaaa => address.is_ipv6(),
                Kind::Any => true,
                Kind::Ptr | Kind::Other(_) => false,
            })
            .map(Record::Address)
            .collect();
        // Who takes the first of several should not always meet the same one.
        if !records.is_empty() {
            let first = usize::from(query.id) % records.len();
            records.rotate_left(first);
        }
        Some(query.reply(Code::Good, &records, transport, TTL))
    }
}

fn insert(index: &mut BTreeMap<String, BTreeSet<IpAddr>>, names: &Names) {
    for name in &names.names {
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        index.entry(name).or_default().extend(names.addresses.iter().copied());
    }
}
