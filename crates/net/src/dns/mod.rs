//! Names inside the networks: what containers ask at [`ADDRESS`].
//!
//! Docker's clients find 127.0.0.11 in `/etc/resolv.conf`, and scripts and proxies rely on it, so that is where we
//! answer: inside each container's own namespace, where it is reached without any link, also from an internal network.
//! A server at the bridge's gateway would need an address on the host and rules for who may ask it.
//!
//! This module is the part without sockets: the format of messages (`wire`), and the names (`zone`).
//! [`crate::netd`] serves them.

mod wire;
mod zone;

#[cfg(test)]
mod tests;

use std::net::Ipv4Addr;

pub(crate) use wire::{Code, Query, Transport, is_failure, refusal};
pub use zone::{Names, NetworkNames, TTL, Upstream, Via, View, Zone};

/// Where containers ask.
pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);
