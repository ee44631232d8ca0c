//! The host's packet filter: one nftables table that is ours.
//!
//! Table `inet insula` has a fixed frame of sets, chains and rules (`table`), and all that comes and goes with networks
//! and containers are elements of the sets (`rules`). So a port more is one element more, whatever else there is, and a
//! packet costs the same with one published port and with a thousand. Every change is one transaction of the kernel:
//! no packet sees half of it.
//!
//! Other people's rules keep their say: our chains stand at the hooks beside theirs, and a packet has to pass all of
//! them. Published ports are redirected before routing, so they meet the host's rules in *forward*, with the container's
//! address and port; a rule in *input* does not concern them. A host firewall whose forward chain drops by default
//! therefore has to let containers' traffic through; [`Firewall::foreign_drops`] names such chains. To close a published
//! port, drop it in a forward chain of one's own: `meta l4proto tcp ct original proto-dst 8080 drop`.
//!
//! From the host itself, 127.0.0.1 included, redirection happens at *output*. For packets from 127.0.0.1 the bridge
//! needs the kernel's `route_localnet`, which is set on our bridges only; the first rules of the table drop
//! what would abuse it from a container or from a neighbour.
//!
//! A second daemon in the same network namespace has a table of its own beside the first one's (`claim`). As packets
//! have to pass both, neither drops anything but what concerns its own bridges.

mod claim;
mod published;
mod resolver;
mod rules;
mod table;
#[cfg(test)]
mod tests;
mod watch;
mod wire;

use std::collections::BTreeSet;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixDatagram;

pub use claim::Owned;
pub use published::Published;
pub(crate) use resolver::redirect_resolver;
use rules::{Elements, elements, port_elements, trusted_elements};
pub use rules::{Gateway, NetworkRules, Protocol, Publication, Rules};
use rustix::io::Errno;
pub use table::TABLE;
use table::{RULES, SETS};
pub use watch::Watch;
use wire::{Element, Transaction};

use crate::{NetError, Result, netns};
use sys::netlink::{Attributes, Refusal, Socket};

/// The table of one network namespace; one owner at a time may change it.
#[derive(Debug)]
pub struct Firewall {
    socket: Socket,
    table: String,
    /// Whose it is, see `claim`.
    mark: Option<String>,
    /// Held while the plain name is ours.
    lock: Option<UnixDatagram>,
    /// A table of ours from a time when the plain name was another's.
    stale: Option<String>,
    /// What the table says, as far as we know.
    said: Option<Rules>,
}

/// A chain of somebody else that drops what it does not know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForeignDrop {
    /// Family and name of the table, such as `ip filter`.
    pub table: String,
    /// The chain.
    pub chain: String,
}

impl Firewall {
    /// For the calling thread's namespace; nothing is changed yet.
    ///
    /// # Errors
    /// When there is no nfnetlink socket to be had.
    pub fn open() -> Result<Self> {
        Self::open_table(TABLE)
    }

    /// The same frame in a table of another name, for networks that are not the daemon's.
    pub(crate) fn open_table(table: &str) -> Result<Self> {
        let socket = Socket::netfilter().map_err(|source| NetError::Socket { source })?;
        Ok(Self { socket, table: table.to_owned(), mark: None, lock: None, stale: None, said: None })
    }

    /// For another namespace.
    ///
    /// # Errors
    /// As [`Self::open`], or when the namespace can't be entered.
    pub fn open_in(namespace: BorrowedFd<'_>) -> Result<Self> {
        netns::within(namespace, Self::open)?
    }

    /// Makes the table say `rules`: by the elements that come and go when it is known what it says, else as a whole.
    ///
    /// # Errors
    /// What the kernel refused; the table is then as it was.
    pub fn apply(&mut self, rules: &Rules) -> Result<()> {
        let Some(old) = &mut self.said else { return self.replace(rules) };
        let (gone, come) = few(old, rules).unwrap_or_else(|| {
            let (said, wanted) = (elements(old), elements(rules));
            (minus(&said, &wanted), minus(&wanted, &said))
        });
        let transaction = difference(&self.table, &gone, &come);
        if !transaction.is_empty() {
            let (batch, last) = transaction.finish();
            match self.socket.transact(&batch, last) {
                Ok(()) => {}
                // Somebody has taken the table, or elements of it, away.
                Err(refusal) if [Errno::NOENT, Errno::EXIST].contains(&refusal.errno()) => return self.replace(rules),
                Err(source) => return Err(NetError::Firewall { source }),
            }
        }
        old.clone_from(rules);
        Ok(())
    }

    /// Makes the whole table anew, in one transaction: no packet passes without it.
    ///
    /// # Errors
    /// What the kernel refused; the table is then as it was.
    pub fn rebuild(&mut self, rules: &Rules) -> Result<()> {
        self.replace(rules)
    }

    fn replace(&mut self, rules: &Rules) -> Result<()> {
        let mut transaction = Transaction::new(&self.table);
        // Made first, so that there is one to delete.
        transaction.add_table();
        transaction.delete_table();
        match &self.mark {
            Some(mark) => transaction.add_commented_table(mark),
            None => transaction.add_table(),
        }
        table::write(&mut transaction);
        if let Some(stale) = &self.stale {
            transaction.drop_other(stale);
        }
        for (set, elements) in elements(rules) {
            transaction.add_elements(set, elements.iter());
        }
        self.said = None;
        self.transact(transaction.finish()).map_err(|source| NetError::Firewall { source })?;
        self.stale = None;
        self.said = Some(rules.clone());
        Ok(())
    }

    /// Takes the table away.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn remove(&mut self) -> Result<()> {
        self.said = None;
        self.transact(Transaction::new(&self.table).finish_without()).map_err(|source| NetError::Firewall { source })
    }

    /// Whether the table still says what we have made it say.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn is_intact(&self) -> Result<bool> {
        let Some(said) = &self.said else { return Ok(false) };
        let mut rules = 0;
        let ask = self.socket.ask(&wire::get_rules(&self.table), &mut |_| rules += 1);
        match ask {
            Ok(()) if rules == RULES => {}
            Ok(()) => return Ok(false),
            Err(refusal) if refusal.errno() == Errno::NOENT => return Ok(false),
            Err(source) => return Err(NetError::Firewall { source }),
        }
        let said = elements(said);
        for set in SETS {
            let mut keys = BTreeSet::new();
            let ask = self.socket.ask(&wire::get_elements(&self.table, set.name), &mut |message| {
                for (_, item) in message.attributes(4).nested(3) {
                    keys.extend(Attributes(item).nested(1).get(1).map(<[u8]>::to_vec));
                }
            });
            match ask {
                Ok(()) => {}
                Err(refusal) if refusal.errno() == Errno::NOENT => return Ok(false),
                Err(source) => return Err(NetError::Firewall { source }),
            }
            let wanted: BTreeSet<Vec<u8>> =
                said.get(set.name).into_iter().flatten().map(|element| element.key.clone()).collect();
            if keys != wanted {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The chains of others that stand at *forward* and drop what they don't know: containers' traffic has to be let
    /// through there.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn foreign_drops(&self) -> Result<Vec<ForeignDrop>> {
        const FORWARD: u32 = 2;
        const DROP: u32 = 0;
        let be32 = |bytes: Option<&[u8]>| bytes.and_then(|bytes| bytes.try_into().ok()).map(u32::from_be_bytes);
        let mut found = Vec::new();
        let ask = self.socket.ask(&wire::get_chains(), &mut |message| {
            let attributes = message.attributes(4);
            let (Some(table), Some(chain)) = (attributes.text(1), attributes.text(3)) else { return };
            let hook = be32(attributes.nested(4).get(1));
            if !table.starts_with(TABLE) && hook == Some(FORWARD) && be32(attributes.get(5)) == Some(DROP) {
                let family = match message.body.first() {
                    Some(1) => "inet",
                    Some(2) => "ip",
                    Some(10) => "ip6",
                    _ => return,
                };
                found.push(ForeignDrop { table: format!("{family} {table}"), chain });
            }
        });
        ask.map_err(|source| NetError::Firewall { source })?;
        Ok(found)
    }

    /// The table's name.
    pub(crate) fn table(&self) -> &str {
        &self.table
    }

    /// The number by which the kernel knows this socket: events that it causes carry it.
    pub(crate) fn port(&self) -> Option<u32> {
        self.socket.port()
    }

    fn transact(&self, (batch, last): (sys::netlink::Batch, u32)) -> std::result::Result<(), Refusal> {
        self.socket.transact(&batch, last)
    }
}

/// What goes and what comes when only ports do: without looking at all elements. Nothing when more than that changes, or
/// when two ports meet and so the change alone does not tell.
fn few(old: &Rules, new: &Rules) -> Option<(Elements, Elements)> {
    if old.networks != new.networks {
        return None;
    }
    let changes = |old: &Published, new: &Published| (old.without(new), new.without(old));
    let (gone, come) = changes(&old.published, &new.published);
    if gone.meet(&old.published) || come.meet(&new.published) {
        return None;
    }
    let (mut gone, mut come) = (port_elements(&gone), port_elements(&come));
    if new.networks.values().any(|network| !network.trusted.is_empty()) {
        let (closed, opened) = changes(&old.published.at_containers(), &new.published.at_containers());
        gone.extend(trusted_elements(&new.networks, &closed));
        come.extend(trusted_elements(&new.networks, &opened));
    }
    Some((gone, come))
}

/// The elements of `all` that are not in `others`.
fn minus(all: &Elements, others: &Elements) -> Elements {
    let none = BTreeSet::new();
    let rest = |(set, elements): (&&'static str, &BTreeSet<Element>)| {
        (*set, elements.difference(others.get(set).unwrap_or(&none)).cloned().collect())
    };
    all.iter().map(rest).collect()
}

/// The transaction by which elements go and come.
fn difference<'table>(table: &'table str, gone: &Elements, come: &Elements) -> Transaction<'table> {
    let mut transaction = Transaction::new(table);
    for set in SETS {
        transaction.delete_elements(set.name, gone.get(set.name).into_iter().flatten());
        transaction.add_elements(set.name, come.get(set.name).into_iter().flatten());
    }
    transaction
}
