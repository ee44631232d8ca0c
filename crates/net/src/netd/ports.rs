//! Ports of the host that are kept from other programs.
//!
//! A published port is redirected before any socket sees a packet, so a program of the host that listens there would
//! wonder. A bound socket that nobody listens on takes the port for us, and shows whether it was free.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto};

use crate::firewall::{Protocol, Publication};

/// The sockets, by owner.
#[derive(Debug, Default)]
pub(super) struct Ports(BTreeMap<String, Vec<OwnedFd>>);

impl Ports {
    /// Takes all of `ports` for `owner`, or none.
    ///
    /// # Errors
    /// In words, which port is taken.
    pub(super) fn reserve(&mut self, owner: &str, ports: &[Publication]) -> Result<(), String> {
        let mut taken = Vec::new();
        for port in ports {
            taken.extend(bind(port)?);
        }
        self.0.entry(owner.to_owned()).or_default().extend(taken);
        Ok(())
    }

    pub(super) fn release(&mut self, owner: &str) {
        self.0.remove(owner);
    }

    pub(super) fn len(&self) -> usize {
        self.0.values().map(Vec::len).sum()
    }
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
    rustix::net::bind(&socket, &SocketAddr::new(address, port.port)).map_err(failed)?;
    Ok(Some(socket))
}
