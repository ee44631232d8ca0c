//! The way to the resolver inside a container's namespace.
//!
//! Programs ask 127.0.0.11 at port 53. A server there would take the port from a name server that runs in the
//! container, so ours listens at another port and a table in the container's namespace changes the number on the way, there
//! and back. It does so packet by packet, without connection tracking, which would cost every connection of the container.

use std::net::Ipv4Addr;
use std::os::fd::BorrowedFd;

use super::Firewall;
use rustix::io::Errno;

use super::wire::{Base, Chain, Expression, Fit, Meta, R0, Transaction};
use crate::{NetError, Result};

const TABLE: &str = "insula_resolver";

/// In the namespace: packets for `address` at port 53 go to port `real`, and those from there seem to come from 53.
///
/// # Errors
/// When the namespace can't be entered, or what the kernel refused.
pub(crate) fn redirect_resolver(namespace: BorrowedFd<'_>, address: Ipv4Addr, real: u16) -> Result<()> {
    const SOURCE: u32 = 12;
    const DESTINATION: u32 = 16;
    let mut transaction = Transaction::new(TABLE);
    // The table says the same always: one that is there, from a helper before this one, can stay. Replacing it would
    // cost the kernel's wait for all processors.
    transaction.add_new_table();
    transaction.add_chain(&Chain { name: "output", kind: "filter", hook: 3, priority: -300 });
    for (protocol, checksum) in [(17, 6), (6, 16)] {
        for (end, at, from, to) in [(DESTINATION, 2, 53, real), (SOURCE, 0, real, 53)] {
            let (from, to): (u16, u16) = (from, to);
            let rule = [
                Expression::Meta(Meta::Family, R0),
                Expression::Compare(R0, Fit::Is, vec![2]),
                Expression::Payload(Base::Network, end, 4, R0),
                Expression::Compare(R0, Fit::Is, address.octets().to_vec()),
                Expression::Meta(Meta::Protocol, R0),
                Expression::Compare(R0, Fit::Is, vec![protocol]),
                Expression::Payload(Base::Transport, at, 2, R0),
                Expression::Compare(R0, Fit::Is, from.to_be_bytes().to_vec()),
                Expression::Load(R0, to.to_be_bytes().to_vec()),
                Expression::SetPayload(R0, Base::Transport, at, 2, checksum),
            ];
            transaction.add_rule("output", "names are resolved by insula", &rule);
        }
    }
    let inside = Firewall::open_in(namespace)?;
    match inside.transact(transaction.finish()) {
        Err(refusal) if refusal.errno() == Errno::EXIST => Ok(()),
        outcome => outcome.map_err(|source| NetError::Firewall { source }),
    }
}
