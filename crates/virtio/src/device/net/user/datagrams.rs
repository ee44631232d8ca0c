//! UDP: a socket of the host for each port of the guest that sends, for as long as it is used.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::time::{Duration, Instant};

use super::Plan;
use super::frame::{self, Datagram};
use super::wire::Wire;
use crate::device::DeviceError;
use crate::events::{Events, Interest, Watch};

/// A port that was quiet for so long is forgotten when another one is needed, or the guest uses it anew.
const QUIET: Duration = Duration::from_secs(60);
/// Ports at one time.
const MOST: usize = 512;
/// Places that one port may hear from.
const MOST_PEERS: usize = 64;
/// Datagrams read from one socket before others have their turn.
const BATCH: usize = 64;

/// One port of the guest.
#[derive(Debug)]
struct Port {
    socket: UdpSocket,
    guest: SocketAddrV4,
    mac: [u8; 6],
    /// Where the guest sent to, as the host and as the guest knows it: nobody else may answer.
    peers: Vec<(SocketAddrV4, SocketAddrV4)>,
    /// Leads in from outside, so everybody may send.
    forwarded: bool,
    used: Instant,
    watch: Watch,
}

/// All ports.
#[derive(Debug)]
pub(super) struct Datagrams {
    plan: Plan,
    ports: BTreeMap<u64, Port>,
    by_guest: BTreeMap<SocketAddrV4, u64>,
    first_token: u64,
    next: u64,
    /// The guest's hardware address, once it has sent anything.
    mac: [u8; 6],
}

impl Datagrams {
    pub(super) fn new(plan: Plan) -> Self {
        Self { plan, ports: BTreeMap::new(), by_guest: BTreeMap::new(), first_token: 0, next: 0, mac: [0xff; 6] }
    }

    /// Tokens of datagrams are odd steps above the listeners'; see [`super::Streams`] for the even ones.
    pub(super) fn set_first_token(&mut self, token: u64) {
        self.first_token = token + super::forward::MOST as u64;
    }

    fn token(&self, number: u64) -> u64 {
        self.first_token + 2 * number + 1
    }

    /// The guest sends; what can't be sent is lost.
    pub(super) fn send(&mut self, datagram: &Datagram<'_>, mac: [u8; 6]) {
        self.mac = mac;
        let number = self.by_guest.get(&datagram.source).copied();
        let known =
            number.and_then(|number| self.ports.get(&number)).and_then(|port| port.peer_outside(datagram.target));
        let Some(outside) = known.or_else(|| self.plan.outside(datagram.target)) else { return };
        let Some(number) = number.or_else(|| self.open(datagram.source)) else { return };
        let Some(port) = self.ports.get_mut(&number) else { return };
        (port.used, port.mac) = (Instant::now(), mac);
        port.remember(outside, datagram.target);
        let _lost = port.socket.send_to(datagram.data, outside);
    }

    fn open(&mut self, guest: SocketAddrV4) -> Option<u64> {
        if self.ports.len() >= MOST {
            let now = Instant::now();
            let quiet = |port: &Port| !port.forwarded && now.duration_since(port.used) > QUIET;
            let forgotten: Vec<u64> =
                self.ports.iter().filter(|(_, port)| quiet(port)).map(|(number, _)| *number).collect();
            for number in forgotten {
                if let Some(port) = self.ports.remove(&number) {
                    self.by_guest.remove(&port.guest);
                }
            }
        }
        if self.ports.len() >= MOST {
            return None;
        }
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
        self.insert(socket, guest, false)
    }

    fn insert(&mut self, socket: UdpSocket, guest: SocketAddrV4, forwarded: bool) -> Option<u64> {
        socket.set_nonblocking(true).ok()?;
        let number = self.next;
        self.next += 1;
        let (mac, used) = (self.mac, Instant::now());
        let port = Port { socket, guest, mac, peers: Vec::new(), forwarded, used, watch: Watch::default() };
        self.ports.insert(number, port);
        self.by_guest.insert(guest, number);
        Some(number)
    }

    /// A port of the host leads to one of the guest: whoever sends there seems to be the gateway, at a port of his own.
    pub(super) fn forward(&mut self, socket: UdpSocket, guest_port: u16, events: &Events) -> Result<(), DeviceError> {
        let guest = SocketAddrV4::new(self.plan.guest(), guest_port);
        if !self.by_guest.contains_key(&guest) {
            self.insert(socket, guest, true);
        }
        self.watch(events)
    }

    /// Watches the sockets that are new.
    pub(super) fn watch(&mut self, events: &Events) -> Result<(), DeviceError> {
        let first = self.first_token;
        for (number, port) in &mut self.ports {
            let token = first + 2 * number + 1;
            let watched = port.watch.set(events, &port.socket, token, Interest::IN);
            watched.map_err(DeviceError::host("epoll_ctl"))?;
        }
        Ok(())
    }

    /// Ends to watch. A forwarded port's socket stays open elsewhere, so closing it would not be enough.
    pub(super) fn ignore(&self, events: &Events) {
        self.ports.values().for_each(|port| events.remove(&port.socket));
    }

    /// A socket has datagrams; says whether it is one of these.
    pub(super) fn ready(&mut self, token: u64, wire: &mut Wire) -> bool {
        let Some(number) = token.checked_sub(self.token(0)).filter(|step| step.is_multiple_of(2)) else { return false };
        let (plan, mac) = (self.plan, self.mac);
        let Some(port) = self.ports.get_mut(&(number / 2)) else { return true };
        let mut buffer = vec![0; 65_536];
        for _ in 0..BATCH {
            let Ok((length, from)) = port.socket.recv_from(&mut buffer) else { break };
            let SocketAddr::V4(from) = from else { continue };
            let Some(source) = port.peer_inside(from, &plan) else { continue };
            port.used = Instant::now();
            let to = if port.forwarded { mac } else { port.mac };
            if let Some(frame) = frame::datagram(to, source, port.guest, &buffer[..length]) {
                wire.send(frame);
            }
        }
        true
    }
}

impl Port {
    fn remember(&mut self, outside: SocketAddrV4, inside: SocketAddrV4) {
        if !self.peers.contains(&(outside, inside)) {
            if self.peers.len() >= MOST_PEERS {
                self.peers.remove(0);
            }
            self.peers.push((outside, inside));
        }
    }

    /// Where an answer to somebody goes who sent first.
    fn peer_outside(&self, inside: SocketAddrV4) -> Option<SocketAddrV4> {
        self.peers.iter().find(|peer| peer.1 == inside).map(|peer| peer.0)
    }

    /// Who a sender is to the guest; none if he may not send.
    fn peer_inside(&mut self, outside: SocketAddrV4, plan: &Plan) -> Option<SocketAddrV4> {
        let known = self.peers.iter().find(|peer| peer.0 == outside).map(|peer| peer.1);
        if known.is_some() || !self.forwarded {
            return known;
        }
        let port = 49_152 + u16::try_from(self.peers.len()).unwrap_or(0);
        let taken: Vec<u16> = self.peers.iter().map(|peer| peer.1.port()).collect();
        let port = (port..=u16::MAX).chain(49_152..port).find(|port| !taken.contains(port))?;
        let inside = SocketAddrV4::new(plan.gateway(), port);
        self.remember(outside, inside);
        Some(inside)
    }
}
