//! Connections that the kernel tracks.
//!
//! A connection is redirected when it begins; what is known of it then counts until it ends. A UDP sender that never
//! pauses would so be sent to a container that is long gone: when a published port goes, its connections are forgotten.
//!
//! # Source
//! Linux `include/uapi/linux/netfilter/nfnetlink_conntrack.h`.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;

use rustix::io::Errno;

use crate::address::from_octets;
use crate::firewall::Published;
use crate::{NetError, Result, netns};
use sys::netlink::{Attributes, Batch, NLM_F_ACK, NLM_F_DUMP, Received, Socket};

const GET: u16 = 0x101;
const DELETE: u16 = 0x102;
const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_REPLY: u16 = 2;
/// As many deletions go in one batch.
const BATCH: usize = 256;

/// The tracked connections of one network namespace.
#[derive(Debug)]
pub struct Conntrack(Socket);

/// One direction of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Direction {
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    source_port: u16,
    destination_port: u16,
}

impl Conntrack {
    /// Those of the calling thread's namespace.
    ///
    /// # Errors
    /// When there is no nfnetlink socket to be had.
    pub fn open() -> Result<Self> {
        Socket::netfilter().map(Self).map_err(|source| NetError::Socket { source })
    }

    /// Those of another namespace.
    ///
    /// # Errors
    /// As [`Self::open`], or when the namespace can't be entered.
    pub fn open_in(namespace: BorrowedFd<'_>) -> Result<Self> {
        netns::within(namespace, Self::open)?
    }

    /// Forgets the connections that went through `published`, and gives their number.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn forget(&self, published: &Published) -> Result<usize> {
        let targets: BTreeSet<(IpAddr, u16, u8, u16)> =
            published.iter().map(|one| (one.to, one.to_port, one.protocol.number(), one.port)).collect();
        self.forget_where(&|original, reply| {
            let redirected = original.destination != reply.source || original.destination_port != reply.source_port;
            let target = (reply.source, reply.source_port, original.protocol, original.destination_port);
            redirected && targets.contains(&target)
        })
    }

    /// Forgets every connection from or to `addresses`, as when a container has left a network.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn forget_addresses(&self, addresses: &[IpAddr]) -> Result<usize> {
        self.forget_where(&|original, reply| {
            [original.source, original.destination, reply.source].iter().any(|end| addresses.contains(end))
        })
    }

    fn forget_where(&self, is_meant: &dyn Fn(Direction, Direction) -> bool) -> Result<usize> {
        let mut found: Vec<(u8, Vec<u8>)> = Vec::new();
        for family in [2, 10] {
            let mut batch = Batch::new();
            batch.message("get connections", GET, NLM_F_DUMP, &[family, 0, 0, 0]);
            let mut each = |message: Received<'_>| {
                let attributes = message.attributes(4);
                let ends = |kind| direction(attributes.nested(kind));
                let (Some(original), Some(reply)) = (ends(TUPLE_ORIGINAL), ends(TUPLE_REPLY)) else { return };
                if is_meant(original, reply) {
                    found.extend(attributes.get(TUPLE_ORIGINAL).map(|tuple| (family, tuple.to_vec())));
                }
            };
            self.0.ask(&batch, &mut each).map_err(|source| NetError::Conntrack { source })?;
        }
        for part in found.chunks(BATCH) {
            let mut batch = Batch::new();
            for (family, tuple) in part {
                let mut message = batch.message("forget connection", DELETE, NLM_F_ACK, &[*family, 0, 0, 0]);
                message.nest(TUPLE_ORIGINAL, |inner| {
                    inner.raw(tuple);
                });
            }
            match self.0.run(&batch) {
                // It has ended by itself meanwhile.
                Err(refusal) if refusal.errno() != Errno::NOENT => {
                    return Err(NetError::Conntrack { source: refusal });
                }
                _ => {}
            }
        }
        Ok(found.len())
    }
}

fn direction(tuple: Attributes<'_>) -> Option<Direction> {
    let (ip, proto) = (tuple.nested(1), tuple.nested(2));
    let address = |four, six| ip.get(four).or_else(|| ip.get(six)).and_then(from_octets);
    let port = |kind| proto.get(kind).and_then(|bytes| bytes.try_into().ok()).map_or(0, u16::from_be_bytes);
    Some(Direction {
        source: address(1, 3)?,
        destination: address(2, 4)?,
        protocol: proto.u8(1)?,
        source_port: port(2),
        destination_port: port(3),
    })
}
