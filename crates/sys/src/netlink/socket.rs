//! Sending messages and reading the answers.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::{Result, SysError};
use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, netlink};

use super::batch::{Batch, HEADER};
use super::read::{Messages, Received};

const NLMSG_DONE: u16 = 3;
const NLM_F_MULTI: u16 = 2;
const NLM_F_DUMP_INTR: u16 = 0x10;
/// The kernel's answers come in datagrams up to this long.
const ANSWER: usize = 64 * 1024;
/// An acknowledgement has this much beside the message that it may repeat.
const ACKNOWLEDGEMENT: usize = 1024;
/// Room for a batch that replaces a large table.
const BUFFER: usize = 8 << 20;

/// A message that the kernel refused.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct Refusal {
    /// What the message was to do.
    pub what: &'static str,
    /// What the kernel answered.
    pub source: SysError,
}

impl Refusal {
    /// The kernel's number.
    #[must_use]
    pub fn errno(&self) -> Errno {
        self.source.errno
    }
}

/// A netlink socket; it belongs to the namespace in which it was made, wherever the thread is afterwards.
#[derive(Debug)]
pub struct Socket(OwnedFd);

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Socket {
    /// For links, addresses, routes and queues.
    ///
    /// # Errors
    /// What socket(2) says.
    pub fn route() -> Result<Self> {
        Self::open(None)
    }

    /// For packet filters and tracked connections.
    ///
    /// # Errors
    /// What socket(2) says.
    pub fn netfilter() -> Result<Self> {
        let socket = Self::open(Some(netlink::NETFILTER))?;
        // Without the right to do so the usual buffers serve small tables.
        let _ = rustix::net::sockopt::set_socket_send_buffer_size_force(&socket.0, BUFFER);
        let _ = rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket.0, BUFFER);
        Ok(socket)
    }

    /// Listens to the multicast `groups` (a bit each) of netfilter.
    ///
    /// # Errors
    /// What socket(2) and bind(2) say.
    pub fn netfilter_events(groups: u32) -> Result<Self> {
        let socket = Self::netfilter()?;
        rustix::net::bind(&socket.0, &SocketAddrNetlink::new(0, groups)).map_err(SysError::of("bind"))?;
        Ok(socket)
    }

    fn open(protocol: Option<Protocol>) -> Result<Self> {
        rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)
            .map(Self)
            .map_err(SysError::of("socket"))
    }

    /// The number that the kernel has given this socket; it has one once something was sent.
    #[must_use]
    pub fn port(&self) -> Option<u32> {
        let address = rustix::net::getsockname(&self.0).ok()?;
        SocketAddrNetlink::try_from(address).ok().map(|address| address.pid())
    }

    fn send(&self, batch: &Batch) -> Result<()> {
        let kernel = SocketAddrNetlink::new(0, 0);
        let sent =
            rustix::io::retry_on_intr(|| rustix::net::sendto(&self.0, batch.bytes(), SendFlags::empty(), &kernel))
                .map_err(SysError::of("sendto"))?;
        if sent == batch.bytes().len() { Ok(()) } else { Err(SysError::new("sendto", Errno::MSGSIZE)) }
    }

    /// Waits for a datagram and gives its messages to `each` until that says it has enough.
    ///
    /// # Errors
    /// What recv(2) says.
    pub fn receive(&self, flags: RecvFlags, each: &mut dyn FnMut(Received<'_>) -> bool) -> Result<bool> {
        self.receive_in(&mut vec![0_u8; ANSWER], flags, each)
    }

    /// As [`Self::receive`], with room for as much as is expected: a long buffer costs its pages.
    fn receive_in(
        &self,
        buffer: &mut [u8],
        flags: RecvFlags,
        each: &mut dyn FnMut(Received<'_>) -> bool,
    ) -> Result<bool> {
        let (length, _) = rustix::io::retry_on_intr(|| rustix::net::recv(&self.0, &mut buffer[..], flags))
            .map_err(SysError::of("recv"))?;
        Ok(Messages(buffer.get(..length).unwrap_or_default()).any(each))
    }

    /// Sends messages that each ask for an acknowledgement and waits for all of them. The kernel goes on after one that
    /// it refuses.
    ///
    /// # Errors
    /// The first refusal.
    pub fn run(&self, batch: &Batch) -> std::result::Result<(), Refusal> {
        if batch.is_empty() {
            return Ok(());
        }
        let plain = |source| Refusal { what: batch.name(1), source };
        self.send(batch).map_err(plain)?;
        let mut missing = batch.len();
        let mut refusal = None;
        let mut buffer = vec![0_u8; ANSWER.min(ACKNOWLEDGEMENT + batch.bytes().len())];
        while missing > 0 {
            self.receive_in(&mut buffer, RecvFlags::empty(), &mut |message| {
                if let Some(errno) = message.acknowledged() {
                    missing = missing.saturating_sub(1);
                    if errno != 0 && refusal.is_none() {
                        refusal = Some(Refusal {
                            what: batch.name(message.sequence),
                            source: SysError::new("netlink", Errno::from_raw_os_error(errno)),
                        });
                    }
                }
                false
            })
            .map_err(plain)?;
        }
        refusal.map_or(Ok(()), Err)
    }

    /// Sends messages of which only the last asks for an acknowledgement, as netfilter's transactions do.
    ///
    /// # Errors
    /// The first refusal; then nothing of the batch has happened.
    pub fn transact(&self, batch: &Batch, last: u32) -> std::result::Result<(), Refusal> {
        let plain = |source| Refusal { what: "netfilter transaction", source };
        self.send(batch).map_err(plain)?;
        let mut outcome = None;
        while outcome.is_none() {
            self.receive(RecvFlags::empty(), &mut |message| {
                match message.acknowledged() {
                    Some(0) if message.sequence == last => outcome = Some(Ok(())),
                    Some(0) | None => {}
                    Some(errno) => {
                        outcome = Some(Err(Refusal {
                            what: batch.name(message.sequence),
                            source: SysError::new("netlink", Errno::from_raw_os_error(errno)),
                        }));
                    }
                }
                outcome.is_some()
            })
            .map_err(plain)?;
        }
        // Later refusals of the same batch and the acknowledgement are read before anything else is asked.
        while self.receive(RecvFlags::DONTWAIT, &mut |_| false).is_ok() {}
        outcome.unwrap_or(Ok(()))
    }

    /// Asks one question and gives each answer to `each`.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn ask(&self, batch: &Batch, each: &mut dyn FnMut(Received<'_>)) -> std::result::Result<(), Refusal> {
        let plain = |source| Refusal { what: batch.name(1), source };
        self.send(batch).map_err(plain)?;
        let mut failed = None;
        let mut buffer = vec![0_u8; ANSWER];
        loop {
            let finished = self
                .receive_in(&mut buffer, RecvFlags::empty(), &mut |message| {
                    if message.flags & NLM_F_DUMP_INTR != 0 {
                        failed = Some(Errno::INTR);
                    }
                    if message.kind == NLMSG_DONE {
                        return true;
                    }
                    if let Some(errno) = message.acknowledged() {
                        if errno != 0 {
                            failed = Some(Errno::from_raw_os_error(errno));
                        }
                        return true;
                    }
                    each(message);
                    message.flags & NLM_F_MULTI == 0
                })
                .map_err(plain)?;
            if finished {
                break;
            }
        }
        match failed {
            // The list changed while it was read: what was read is a possible state of it, and good enough here.
            None | Some(Errno::INTR) => Ok(()),
            Some(errno) => Err(plain(SysError::new("netlink", errno))),
        }
    }
}

const _: () = assert!(HEADER == 16, "the kernel's header");
