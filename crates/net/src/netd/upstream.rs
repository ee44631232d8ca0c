//! Questions that are passed on, over UDP.
//!
//! Each question has a socket of its own, so that an answer can come from the server only, at a port nobody can guess.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

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

/// A socket towards a server.
fn open(upstream: Upstream, namespace: BorrowedFd<'_>) -> Option<UdpSocket> {
    let any: SocketAddr = match upstream.address {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = match upstream.via {
        Via::Host => UdpSocket::bind(any),
        Via::Inside => netns::within(namespace, || UdpSocket::bind(any)).ok()?,
    };
    let socket = socket.ok()?;
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
    namespace: BorrowedFd<'_>,
) -> Next {
    while !left.is_empty() {
        let upstream = left.remove(0);
        if let Some(socket) = open(upstream, namespace)
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
    /// Reads what came. Nothing: it goes on waiting, since what came was no answer.
    pub(super) fn read(&self) -> Option<Result<Vec<u8>, Option<Vec<u8>>>> {
        let mut buffer = [0; 4096];
        match self.socket.recv(&mut buffer) {
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
    pub(super) fn go_on(self, poor: Option<Vec<u8>>, namespace: BorrowedFd<'_>) -> Next {
        let poor = poor.or(self.poor);
        ask((self.sandbox, self.client), (self.query, self.bytes), self.left, poor, namespace)
    }
}
