//! Questions that are passed on, over UDP.
//!
//! Each question has a socket of its own, so that an answer can come from the server only, at a port nobody can guess.

use std::collections::BTreeMap;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketFlags, SocketType};

use crate::dns::{Code, Query, Transport, Upstream, Via, is_failure};
use crate::netns;

/// How long a server has for its answer.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);

/// A question on its way.
#[derive(Debug)]
pub(super) struct Pending {
    /// The container that asked, and its socket there.
    pub(super) sandbox: u64,
    pub(super) client: SocketAddr,
    query: Query,
    bytes: Vec<u8>,
    /// The server that is asked.
    pub(super) asked: Upstream,
    /// The servers that have not been asked yet.
    left: Vec<Upstream>,
    /// An answer that says that a server could not.
    poor: Option<Vec<u8>>,
    pub(super) socket: UdpSocket,
    pub(super) deadline: Instant,
}

/// How asking goes on.
pub(super) enum Next {
    /// The same question waits at another socket.
    Waiting(Box<Pending>),
    /// This is for the client.
    Done(Vec<u8>),
}

/// A container's namespace, with sockets in it that are used for nothing yet. Going there and back costs more than a
/// question does, so it is done for several at once; each question still has a socket, and a port, of its own.
#[derive(Debug)]
pub(super) struct Inside {
    namespace: OwnedFd,
    /// For IPv4 and for IPv6.
    spare: Mutex<[Vec<OwnedFd>; 2]>,
}

impl Inside {
    /// As many are made at once.
    const BATCH: usize = 16;

    pub(super) fn new(namespace: OwnedFd) -> Self {
        Self { namespace, spare: Mutex::default() }
    }

    fn socket(&self, version: usize) -> Option<OwnedFd> {
        let mut all = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        let spare = all.get_mut(version)?;
        if spare.is_empty() {
            let make = || (0..Self::BATCH).map_while(|_| unbound(version)).collect();
            *spare = netns::within(self.namespace.as_fd(), make).ok()?;
        }
        spare.pop()
    }
}

impl AsFd for Inside {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.namespace.as_fd()
    }
}

/// A socket for datagrams where the calling thread is; its port comes with its first peer.
fn unbound(version: usize) -> Option<OwnedFd> {
    let family = if version == 0 { AddressFamily::INET } else { AddressFamily::INET6 };
    rustix::net::socket_with(family, SocketType::DGRAM, SocketFlags::CLOEXEC, None).ok()
}

/// A socket towards a server.
fn open(upstream: Upstream, inside: &Inside) -> Option<UdpSocket> {
    let version = usize::from(upstream.address.is_ipv6());
    let socket = match upstream.via {
        Via::Host => unbound(version),
        Via::Inside => inside.socket(version),
    };
    let socket = UdpSocket::from(socket?);
    socket.connect(upstream.address).ok()?;
    socket.set_nonblocking(true).ok()?;
    Some(socket)
}

/// Servers that let a question run out of time. They are asked after the others for a while, so that one that is dead costs
/// its patience once, not with every question.
#[derive(Debug, Default)]
pub(super) struct Silent(BTreeMap<SocketAddr, Instant>);

impl Silent {
    /// How long a server is asked last.
    const REST: Duration = Duration::from_secs(30);
    /// As many are known; whoever names more servers than that waits for each.
    const MAX: usize = 256;

    pub(super) fn heard(&mut self, server: &Upstream) {
        self.0.remove(&server.address);
    }

    pub(super) fn missed(&mut self, server: &Upstream, now: Instant) {
        self.0.retain(|_, until| *until > now);
        if self.0.len() < Self::MAX {
            self.0.insert(server.address, now + Self::REST);
        }
    }

    /// Puts those that were silent behind the others.
    pub(super) fn arrange(&self, servers: &mut [Upstream], now: Instant) {
        if !self.0.is_empty() {
            servers.sort_by_key(|server| self.0.get(&server.address).is_some_and(|until| *until > now));
        }
    }
}

/// Asks the first of `left` that can be asked.
pub(super) fn ask(
    (sandbox, client): (u64, SocketAddr),
    (query, bytes): (Query, Vec<u8>),
    mut left: Vec<Upstream>,
    poor: Option<Vec<u8>>,
    inside: &Inside,
) -> Next {
    while !left.is_empty() {
        let upstream = left.remove(0);
        if let Some(socket) = open(upstream, inside)
            && socket.send(&bytes).is_ok()
        {
            let deadline = Instant::now() + PATIENCE;
            let asked = upstream;
            return Next::Waiting(Box::new(Pending {
                sandbox,
                client,
                query,
                bytes,
                asked,
                left,
                poor,
                socket,
                deadline,
            }));
        }
    }
    Next::Done(poor.unwrap_or_else(|| query.reply(Code::Failure, &[], Transport::Udp, 0)))
}

impl Pending {
    /// Reads what came, in a buffer for the longest datagram: how long an answer may be is between client and server.
    /// Nothing: it goes on waiting, since what came was no answer.
    pub(super) fn read(&self, buffer: &mut [u8]) -> Option<Result<Vec<u8>, Option<Vec<u8>>>> {
        match self.socket.recv(buffer) {
            Ok(length) if self.query.is_answered_by(&buffer[..length]) => {
                let answer = buffer[..length].to_vec();
                Some(if is_failure(&answer) { Err(Some(answer)) } else { Ok(answer) })
            }
            Ok(_) => None,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => None,
            // Nobody listens there.
            Err(_) => Some(Err(None)),
        }
    }

    /// Goes on with the next server.
    pub(super) fn go_on(self, poor: Option<Vec<u8>>, inside: &Inside) -> Next {
        let poor = poor.or(self.poor);
        ask((self.sandbox, self.client), (self.query, self.bytes), self.left, poor, inside)
    }
}
