//! Ports of the host that are kept from other programs.
//!
//! A published port is redirected before any socket sees a packet, so a program of the host that listens there would
//! wonder. A bound socket that nobody listens on takes the port for us, and shows whether it was free.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto};

use super::relay::Relay;
use crate::firewall::{Protocol, Publication, Published};

/// A socket that keeps a port.
#[derive(Debug)]
enum Kept {
    Bound {
        _socket: OwnedFd,
    },
    /// It also listens, see [`Relay`].
    Relayed(u64),
}

/// A listening port and the number by which it is known.
pub(super) type Numbered = (u64, Arc<Relay>);

/// The sockets, by owner.
#[derive(Debug, Default)]
pub(super) struct Ports {
    kept: BTreeMap<String, Vec<Kept>>,
    relays: BTreeMap<u64, Arc<Relay>>,
    next: u64,
}

impl Ports {
    /// Takes all of `ports` for `owner`, or none.
    ///
    /// # Errors
    /// Which port can't be had, and why in words.
    pub(super) fn reserve(&mut self, owner: &str, ports: &Published) -> Result<Vec<Numbered>, (Publication, String)> {
        // what it had in a run that is over, of which no daemon was there to tell
        self.release(owner);
        let (mut kept, mut new) = (Vec::new(), Vec::new());
        for port in ports.iter().filter(|port| !port.is_direct()) {
            let named = |reason: String| (port, reason);
            let Some(socket) = bind(&port).map_err(named)? else { continue };
            if !is_relayed(&port) {
                kept.push(Kept::Bound { _socket: socket });
                continue;
            }
            let failed = |error: std::io::Error| named(format!("cannot listen at port {}: {error}", port.port));
            rustix::net::listen(&socket, 128).map_err(|errno| failed(errno.into()))?;
            let listener = TcpListener::from(socket);
            listener.set_nonblocking(true).map_err(failed)?;
            self.next += 1;
            kept.push(Kept::Relayed(self.next));
            new.push((self.next, Arc::new(Relay { listener, target: SocketAddr::new(port.to, port.to_port) })));
        }
        self.relays.extend(new.iter().map(|(number, relay)| (*number, Arc::clone(relay))));
        self.kept.entry(owner.to_owned()).or_default().extend(kept);
        Ok(new)
    }

    pub(super) fn release(&mut self, owner: &str) {
        for kept in self.kept.remove(owner).into_iter().flatten() {
            if let Kept::Relayed(number) = kept {
                self.relays.remove(&number);
            }
        }
    }

    pub(super) fn relay(&self, number: u64) -> Option<Arc<Relay>> {
        self.relays.get(&number).map(Arc::clone)
    }

    pub(super) fn owners(&self) -> impl Iterator<Item = &String> {
        self.kept.keys()
    }

    pub(super) fn len(&self) -> usize {
        self.kept.values().map(Vec::len).sum()
    }
}

/// Whether connections come to the socket itself: over IPv6 from ::1, and all when the container has only IPv4.
fn is_relayed(port: &Publication) -> bool {
    let host = port.host_address();
    port.protocol == Protocol::Tcp
        && host.is_ipv6()
        && (host.is_unspecified() || host.is_loopback() || port.to.is_ipv4())
}

fn bind(port: &Publication) -> Result<Option<OwnedFd>, String> {
    let address = port.host_address();
    let family = match address {
        IpAddr::V4(_) => AddressFamily::INET,
        IpAddr::V6(_) => AddressFamily::INET6,
    };
    let (kind, protocol) = match port.protocol {
        Protocol::Tcp => (SocketType::STREAM, ipproto::TCP),
        Protocol::Udp => (SocketType::DGRAM, ipproto::UDP),
        Protocol::Sctp => (SocketType::STREAM, ipproto::SCTP),
    };
    let what = format!("{address}:{}/{}", port.port, port.protocol);
    let failed = |errno: Errno| match errno {
        Errno::ADDRINUSE => format!("port {what} is in use by a program of the host; choose another, or stop it"),
        Errno::ADDRNOTAVAIL => format!("cannot publish {what}: the host has no such address"),
        errno => format!("cannot take port {what}: {errno}"),
    };
    let socket = match rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC, Some(protocol)) {
        Ok(socket) => socket,
        // A kernel without the protocol has no program either that could take the port.
        Err(Errno::PROTONOSUPPORT | Errno::AFNOSUPPORT) => return Ok(None),
        Err(errno) => return Err(failed(errno)),
    };
    if address.is_ipv6() {
        rustix::net::sockopt::set_ipv6_v6only(&socket, true).map_err(failed)?;
    }
    if is_relayed(port) {
        // connections that a helper before us carried are still on their way out; of two that listen the second is refused
        rustix::net::sockopt::set_socket_reuseaddr(&socket, true).map_err(failed)?;
    }
    rustix::net::bind(&socket, &SocketAddr::new(address, port.port)).map_err(failed)?;
    Ok(Some(socket))
}
