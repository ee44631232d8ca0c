//! Moving network interfaces, rtnetlink(7).
//!
//! ```text
//! nlmsghdr  length:4 type:2 flags:2 sequence:4 sender:4    everything in the machine's byte order
//! ifinfomsg family:1 0:1 type:2 index:4 flags:4 change:4   then attributes  length:2 type:2 value, padded to 4
//! ifaddrmsg family:1 prefix:1 flags:1 scope:1 index:4
//! ```
//!
//! # Source
//! netlink(7), rtnetlink(7), Linux `include/uapi/linux/{netlink,rtnetlink,if_link,if_addr}.h`.

use crate::{Result, SysError};
use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

const DONE: u16 = 3;
const ERROR: u16 = 2;
const NEW_LINK: u16 = 16;
const NEW_ADDRESS: u16 = 20;
const GET_ADDRESS: u16 = 22;
const REQUEST: u16 = 1;
const ACK: u16 = 4;
const DUMP: u16 = 0x300;
/// `NLM_F_CREATE | NLM_F_EXCL`.
const CREATE: u16 = 0x600;
const LINK_NAME: u16 = 3;
const LINK_NAMESPACE_FD: u16 = 28;
const UP: u32 = 1;
const ADDRESS_LABEL: u16 = 3;
const ADDRESS_CACHE: u16 = 6;
/// `IFA_F_PERMANENT`.
const PERMANENT: u8 = 0x80;
const HEADER: usize = 16;
const ADDRESS: usize = 8;
/// As large as the kernel makes the parts of a dump.
const BUFFER: usize = 32 << 10;
/// Enough for an acknowledgement: it has the request in it at most.
const ANSWER: usize = 4 << 10;

/// A socket to the routing part of the kernel, in the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct Links {
    socket: OwnedFd,
}

/// An address of an interface, as the kernel told it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkAddress {
    head: [u8; ADDRESS],
    attributes: Vec<u8>,
}

impl Links {
    /// Opens one.
    ///
    /// # Errors
    /// What socket(2) says.
    pub fn open() -> Result<Self> {
        let socket = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None);
        Ok(Self { socket: socket.map_err(SysError::of("socket"))? })
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
        let mut body = link(index, 0, 0);
        attribute(&mut body, LINK_NAME, &[name.as_bytes(), &[0]].concat());
        attribute(&mut body, LINK_NAMESPACE_FD, &namespace.as_raw_fd().to_ne_bytes());
        self.request("rtnetlink RTM_NEWLINK", NEW_LINK, ACK, &body).map(|_| ())
    }

    /// Sets an interface up.
    ///
    /// # Errors
    /// What the interface's driver says.
    pub fn set_up(&self, index: u32) -> Result<()> {
        self.request("rtnetlink RTM_NEWLINK", NEW_LINK, ACK, &link(index, UP, UP)).map(|_| ())
    }

    /// The addresses that somebody gave to an interface and that are known beyond its link: those that it loses when it moves.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn addresses(&self, index: u32) -> Result<Vec<LinkAddress>> {
        let answers = self.request("rtnetlink RTM_GETADDR", GET_ADDRESS, DUMP, &[0; ADDRESS])?;
        let mut all = Vec::new();
        for (kind, body) in answers {
            let Some((head, attributes)) = body.split_first_chunk::<ADDRESS>() else { continue };
            let [_, _, flags, scope, number @ ..] = *head;
            if kind == NEW_ADDRESS && u32::from_ne_bytes(number) == index && flags & PERMANENT != 0 && scope == 0 {
                all.push(LinkAddress { head: *head, attributes: without_name(attributes) });
            }
        }
        Ok(all)
    }

    /// Gives an address to an interface.
    ///
    /// # Errors
    /// `EEXIST` where it has it already.
    pub fn add_address(&self, index: u32, address: &LinkAddress) -> Result<()> {
        let mut body = address.head.to_vec();
        body.truncate(ADDRESS - size_of::<u32>());
        body.extend(index.to_ne_bytes());
        body.extend(&address.attributes);
        self.request("rtnetlink RTM_NEWADDR", NEW_ADDRESS, ACK | CREATE, &body).map(|_| ())
    }

    fn request(&self, call: &'static str, kind: u16, flags: u16, body: &[u8]) -> Result<Vec<(u16, Vec<u8>)>> {
        let length = u32::try_from(HEADER + body.len()).map_err(|_| SysError::new(call, Errno::MSGSIZE))?;
        let mut message = length.to_ne_bytes().to_vec();
        message.extend(kind.to_ne_bytes());
        message.extend((REQUEST | flags).to_ne_bytes());
        // sequence number and sender; one request at a time needs neither
        message.extend([0; 8]);
        message.extend(body);
        let kernel = SocketAddrNetlink::new(0, 0);
        rustix::net::sendto(&self.socket, &message, SendFlags::empty(), &kernel).map_err(SysError::of(call))?;
        let mut all = Vec::new();
        let mut buffer = vec![0; if flags & DUMP == DUMP { BUFFER } else { ANSWER }];
        loop {
            let receive = || rustix::net::recv(&self.socket, &mut buffer[..], RecvFlags::empty());
            let (count, _) = rustix::io::retry_on_intr(receive).map_err(SysError::of(call))?;
            let mut rest = buffer.get(..count).unwrap_or_default();
            while let Some((kind, body, next)) = split(rest) {
                match kind {
                    DONE => return Ok(all),
                    ERROR => {
                        let code = body.first_chunk().map_or(libc::EBADMSG, |code| -i32::from_ne_bytes(*code));
                        // 0 is an answer, and no error's number
                        return match code {
                            0 => Ok(all),
                            code => Err(SysError::new(call, Errno::from_raw_os_error(code))),
                        };
                    }
                    kind => all.push((kind, body.to_vec())),
                }
                rest = next;
            }
        }
    }
}

/// The first message of some: its type, its body, the others.
fn split(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = usize::try_from(u32::from_ne_bytes(*bytes.first_chunk()?)).ok()?;
    let kind = u16::from_ne_bytes(*bytes.get(4..)?.first_chunk()?);
    let body = bytes.get(HEADER..length)?;
    Some((kind, body, bytes.get(length.next_multiple_of(4)..).unwrap_or_default()))
}

fn link(index: u32, flags: u32, change: u32) -> Vec<u8> {
    [[0; 4], index.to_ne_bytes(), flags.to_ne_bytes(), change.to_ne_bytes()].concat()
}

fn attribute(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    body.extend(u16::try_from(4 + value.len()).unwrap_or(u16::MAX).to_ne_bytes());
    body.extend(kind.to_ne_bytes());
    body.extend(value);
    body.resize(body.len().next_multiple_of(4), 0);
}

/// The attributes without those that belong to the interface's old name and to the past.
fn without_name(attributes: &[u8]) -> Vec<u8> {
    let mut kept = Vec::new();
    let mut rest = attributes;
    while let (Some(length), Some(kind)) = (rest.first_chunk(), rest.get(2..).and_then(|rest| rest.first_chunk())) {
        let length = usize::from(u16::from_ne_bytes(*length));
        let kind = u16::from_ne_bytes(*kind);
        let Some(value) = rest.get(4..length) else { break };
        if kind != ADDRESS_LABEL && kind != ADDRESS_CACHE {
            attribute(&mut kept, kind, value);
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_and_attributes_come_apart() {
        let mut attributes = Vec::new();
        attribute(&mut attributes, ADDRESS_LABEL, b"eth0\0");
        attribute(&mut attributes, 1, &[10, 0, 0, 1]);
        assert_eq!(without_name(&attributes), [8, 0, 1, 0, 10, 0, 0, 1]);
        assert_eq!(without_name(&[200, 0, 1]), [0_u8; 0]);
        let bytes = [20, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4, 9];
        assert_eq!(split(&bytes), Some((3, &bytes[16..20], &bytes[20..])));
        assert_eq!(split(&bytes[..19]), None);
    }
}
