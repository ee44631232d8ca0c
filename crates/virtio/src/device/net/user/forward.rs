//! Ports of the host that lead to the guest.

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::OFlags;
use sys::handed;

use super::datagrams::Datagrams;
use super::streams::Streams;
use crate::device::DeviceError;
use crate::events::{Events, Interest};

/// The most forwards of a network.
pub(super) const MOST: usize = 256;

/// What is forwarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// Streams.
    Tcp,
    /// Datagrams.
    Udp,
}

/// One port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Forward {
    /// What is forwarded.
    pub protocol: Protocol,
    /// Where the host listens.
    pub host: SocketAddr,
    /// The guest's port.
    pub guest_port: u16,
}

/// A user network can't be made.
#[derive(Debug, thiserror::Error)]
pub enum ForwardError {
    /// The host's port can't be had.
    #[error("cannot listen on {host}, to forward it to port {guest_port} of the guest")]
    Listen {
        /// Where.
        host: SocketAddr,
        /// The guest's port.
        guest_port: u16,
        /// The kernel's answer.
        source: io::Error,
    },
    /// There are too many.
    #[error("{0} forwarded ports are more than the 256 that a network can have")]
    Many(usize),
    /// The host refuses what the network needs itself.
    #[error("the user network cannot start")]
    Host(#[source] io::Error),
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpListener),
    Udp(UdpSocket),
}

/// Makes a socket, or takes the one that this process was given before it was confined.
fn bind<S: AsFd + From<OwnedFd>>(name: &str, make: impl FnOnce() -> io::Result<S>) -> io::Result<S> {
    let place = Path::new(name);
    if handed::has(place, OFlags::RDWR) {
        return Ok(OwnedFd::from(handed::open(place, OFlags::RDWR)?).into());
    }
    let socket = make()?;
    handed::offer(place, socket.as_fd())?;
    Ok(socket)
}

/// The listening sockets, by number.
#[derive(Debug)]
pub(super) struct Listeners(Vec<(Socket, u16)>);

impl Listeners {
    pub(super) fn open(forwards: &[Forward]) -> Result<Self, ForwardError> {
        if forwards.len() > MOST {
            return Err(ForwardError::Many(forwards.len()));
        }
        let open = |forward: &Forward| {
            let Forward { protocol, host, guest_port } = *forward;
            let socket = match protocol {
                Protocol::Tcp => bind(&format!("tcp:{host}"), || TcpListener::bind(host)).and_then(|socket| {
                    socket.set_nonblocking(true)?;
                    Ok(Socket::Tcp(socket))
                }),
                Protocol::Udp => bind(&format!("udp:{host}"), || UdpSocket::bind(host)).map(Socket::Udp),
            };
            let socket = socket.map_err(|source| ForwardError::Listen { host, guest_port, source })?;
            Ok((socket, guest_port))
        };
        Ok(Self(forwards.iter().map(open).collect::<Result<_, ForwardError>>()?))
    }

    /// Where a forward listens in the end.
    #[cfg(test)]
    pub(super) fn address(&self, number: usize) -> SocketAddr {
        match &self.0[number].0 {
            Socket::Tcp(socket) => socket.local_addr().unwrap(),
            Socket::Udp(socket) => socket.local_addr().unwrap(),
        }
    }

    pub(super) fn watch(&self, events: &Events, token: u64) -> Result<(), DeviceError> {
        (token..).zip(&self.0).try_for_each(|(token, (socket, _))| match socket {
            Socket::Tcp(socket) => events.add(socket, token, Interest::IN).map_err(DeviceError::host("epoll_ctl")),
            Socket::Udp(socket) => events.add(socket, token, Interest::IN).map_err(DeviceError::host("epoll_ctl")),
        })
    }

    pub(super) fn ignore(&self, events: &Events) {
        for (socket, _) in &self.0 {
            match socket {
                Socket::Tcp(socket) => events.remove(socket),
                Socket::Udp(socket) => events.remove(socket),
            }
        }
    }

    pub(super) fn has(&self, number: u64) -> bool {
        number < self.0.len() as u64
    }

    /// Somebody is at a port of the host.
    pub(super) fn serve(
        &self,
        number: u64,
        streams: &mut Streams,
        datagrams: &mut Datagrams,
        events: &Events,
    ) -> Result<(), DeviceError> {
        match usize::try_from(number).ok().and_then(|number| self.0.get(number)) {
            Some((Socket::Tcp(listener), port)) => {
                while let Ok((stream, _)) = listener.accept() {
                    streams.forward(stream, *port);
                }
                Ok(())
            }
            Some((Socket::Udp(socket), port)) => {
                // From now on the socket is one of the guest's ports; this copy of it waits no longer.
                let copy = socket.try_clone().map_err(|error| {
                    DeviceError::host("dup")(rustix::io::Errno::from_io_error(&error).unwrap_or(rustix::io::Errno::IO))
                })?;
                events.remove(socket);
                datagrams.forward(copy, *port, events)
            }
            None => Ok(()),
        }
    }
}
