//! Moving network interfaces, rtnetlink(7): what a container's runtime does to the host's links that it is given.
//!
//! ```text
//! ifinfomsg family:1 0:1 type:2 index:4 flags:4 change:4
//! ifaddrmsg family:1 prefix:1 flags:1 scope:1 index:4
//! ```
//!
//! # Source
//! netlink(7), rtnetlink(7), Linux `include/uapi/linux/{rtnetlink,if_link,if_addr}.h`.

use crate::netlink::{Attributes, Batch, NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, Refusal, Socket};
use crate::{Result, SysError};
use std::os::fd::{AsRawFd, BorrowedFd};

const NEW_LINK: u16 = 16;
const NEW_ADDRESS: u16 = 20;
const GET_ADDRESS: u16 = 22;
const LINK_NAME: u16 = 3;
const LINK_NAMESPACE_FD: u16 = 28;
const UP: u32 = 1;
const ADDRESS_LABEL: u16 = 3;
const ADDRESS_CACHE: u16 = 6;
/// `IFA_F_PERMANENT`.
const PERMANENT: u8 = 0x80;
const LINK: usize = 16;
const ADDRESS: usize = 8;

/// A socket to the routing part of the kernel, in the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct Links {
    socket: Socket,
}

/// An address of an interface, as the kernel told it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkAddress {
    head: [u8; ADDRESS],
    attributes: Vec<(u16, Vec<u8>)>,
}

impl Links {
    /// Opens one.
    ///
    /// # Errors
    /// What socket(2) says.
    pub fn open() -> Result<Self> {
        Socket::route().map(|socket| Self { socket })
    }

    /// The number of an interface.
    ///
    /// # Errors
    /// `ENODEV` where there is none of that name.
    pub fn index(&self, name: &str) -> Result<u32> {
        rustix::net::netdevice::name_to_index(&self.socket, name).map_err(SysError::of("ioctl SIOCGIFINDEX"))
    }

    /// Moves an interface into another network namespace, where it is called `name`.
    ///
    /// # Errors
    /// `EEXIST` where one of that name is there, `EINVAL` for one that cannot leave its namespace, `EPERM` without the right in either.
    pub fn move_to(&self, index: u32, namespace: BorrowedFd<'_>, name: &str) -> Result<()> {
        let mut batch = Batch::new();
        let mut message = batch.message(MOVE, NEW_LINK, NLM_F_ACK, &link(index, 0));
        message.put_text(LINK_NAME, name).put_i32(LINK_NAMESPACE_FD, namespace.as_raw_fd());
        drop(message);
        self.run(&batch)
    }

    /// Sets an interface up.
    ///
    /// # Errors
    /// What the interface's driver says.
    pub fn set_up(&self, index: u32) -> Result<()> {
        let mut batch = Batch::new();
        batch.message(MOVE, NEW_LINK, NLM_F_ACK, &link(index, UP));
        self.run(&batch)
    }

    /// The addresses that somebody gave to an interface and that are known beyond its link: those that it loses when it moves.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn addresses(&self, index: u32) -> Result<Vec<LinkAddress>> {
        let mut batch = Batch::new();
        batch.message("rtnetlink RTM_GETADDR", GET_ADDRESS, NLM_F_DUMP, &[0; ADDRESS]);
        let mut all = Vec::new();
        let asked = self.socket.ask(&batch, &mut |message| {
            let Some((head, attributes)) = message.body.split_first_chunk::<ADDRESS>() else { return };
            let [_, _, flags, scope, number @ ..] = *head;
            if message.kind == NEW_ADDRESS
                && u32::from_ne_bytes(number) == index
                && flags & PERMANENT != 0
                && scope == 0
            {
                all.push(LinkAddress { head: *head, attributes: lasting(attributes) });
            }
        });
        asked.map_err(named)?;
        Ok(all)
    }

    /// Gives an address to an interface.
    ///
    /// # Errors
    /// `EEXIST` where it has it already.
    pub fn add_address(&self, index: u32, address: &LinkAddress) -> Result<()> {
        let mut head = address.head;
        head[4..].copy_from_slice(&index.to_ne_bytes());
        let mut batch = Batch::new();
        let flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;
        let mut message = batch.message("rtnetlink RTM_NEWADDR", NEW_ADDRESS, flags, &head);
        for (kind, value) in &address.attributes {
            message.put(*kind, value);
        }
        drop(message);
        self.run(&batch)
    }

    fn run(&self, batch: &Batch) -> Result<()> {
        self.socket.run(batch).map_err(named)
    }
}

const MOVE: &str = "rtnetlink RTM_NEWLINK";

/// With the message's name in place of the socket's.
fn named(refusal: Refusal) -> SysError {
    SysError::new(refusal.what, refusal.errno())
}

/// `struct ifinfomsg`, with the flags that are set.
fn link(index: u32, flags: u32) -> [u8; LINK] {
    let mut head = [0; LINK];
    head[4..8].copy_from_slice(&index.to_ne_bytes());
    head[8..12].copy_from_slice(&flags.to_ne_bytes());
    head[12..].copy_from_slice(&flags.to_ne_bytes());
    head
}

/// The attributes without those that belong to the interface's old name and to the past.
fn lasting(attributes: &[u8]) -> Vec<(u16, Vec<u8>)> {
    let kept = Attributes(attributes).filter(|(kind, _)| ![ADDRESS_LABEL, ADDRESS_CACHE].contains(kind));
    kept.map(|(kind, value)| (kind, value.to_vec())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_keeps_what_is_not_of_its_link() {
        let mut batch = Batch::new();
        batch.message("x", NEW_ADDRESS, 0, &[]).put_text(ADDRESS_LABEL, "eth0").put(1, &[10, 0, 0, 1]).put(6, &[0; 16]);
        assert_eq!(lasting(&batch.bytes()[16..]), [(1, vec![10, 0, 0, 1])]);
        assert_eq!(lasting(&[200, 0, 1]), []);
        assert_eq!(link(7, UP), [0, 0, 0, 0, 7, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0]);
    }
}
