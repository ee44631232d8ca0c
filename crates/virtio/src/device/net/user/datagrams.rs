//! UDP: a socket of the host for each port of the guest that sends, for as long as it is used; two where it sends by both kinds of IP on the host.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
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
/// The first of the gateway's ports for whoever comes by a forwarded port. Each kind of IP of the host has its own.
const FIRST_PORTS: [(Family, u16); 2] = [(Family::V4, 49_152), (Family::V6, 49_152 + 1024)];
/// Datagrams read from one socket before others have their turn.
const BATCH: usize = 64;

/// Which IP the host speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Family {
    V4,
    V6,
}

impl Family {
    fn of(address: SocketAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }
}

/// One port of the guest.
#[derive(Debug)]
struct Port {
    socket: UdpSocket,
    family: Family,
    guest: SocketAddr,
    mac: [u8; 6],
    /// Where the guest sent to, as the host and as the guest knows it: nobody else may answer.
    peers: Vec<(SocketAddr, SocketAddr)>,
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
    by_guest: BTreeMap<(SocketAddr, Family), u64>,
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
        let known = [Family::V4, Family::V6].into_iter().find_map(|family| {
            let number = self.number(datagram.source, family)?;
            let outside = self.ports.get(&number)?.peer_outside(datagram.target)?;
            Some((number, outside))
        });
        let found = known.or_else(|| {
            let outside = self.plan.outside(datagram.target)?;
            let family = Family::of(outside);
            let number = self.number(datagram.source, family).or_else(|| self.open(datagram.source, family));
            Some((number?, outside))
        });
        let Some((number, outside)) = found else { return };
        let Some(port) = self.ports.get_mut(&number) else { return };
        (port.used, port.mac) = (Instant::now(), mac);
        port.remember(outside, datagram.target);
        let _lost = port.socket.send_to(datagram.data, outside);
    }

    fn number(&self, guest: SocketAddr, family: Family) -> Option<u64> {
        self.by_guest.get(&(guest, family)).copied()
    }

    fn open(&mut self, guest: SocketAddr, family: Family) -> Option<u64> {
        if self.ports.len() >= MOST {
            let now = Instant::now();
            let quiet = |port: &Port| !port.forwarded && now.duration_since(port.used) > QUIET;
            let forgotten: Vec<u64> =
                self.ports.iter().filter(|(_, port)| quiet(port)).map(|(number, _)| *number).collect();
            for number in forgotten {
                if let Some(port) = self.ports.remove(&number) {
                    self.by_guest.remove(&(port.guest, port.family));
                }
            }
        }
        if self.ports.len() >= MOST {
            return None;
        }
        let anywhere: IpAddr = match family {
            Family::V4 => Ipv4Addr::UNSPECIFIED.into(),
            Family::V6 => Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = UdpSocket::bind((anywhere, 0)).ok()?;
        self.insert(socket, (guest, family), false)
    }

    fn insert(&mut self, socket: UdpSocket, key: (SocketAddr, Family), forwarded: bool) -> Option<u64> {
        let (guest, family) = key;
        socket.set_nonblocking(true).ok()?;
        let number = self.next;
        self.next += 1;
        let (mac, used) = (self.mac, Instant::now());
        let port = Port { socket, family, guest, mac, peers: Vec::new(), forwarded, used, watch: Watch::default() };
        self.ports.insert(number, port);
        self.by_guest.insert(key, number);
        Some(number)
    }

    /// A port of the host leads to one of the guest: whoever sends there seems to be the gateway, at a port of his own.
    pub(super) fn forward(&mut self, socket: UdpSocket, guest_port: u16, events: &Events) -> Result<(), DeviceError> {
        let guest = SocketAddr::new(self.plan.guest().into(), guest_port);
        let family = socket.local_addr().map_or(Family::V4, Family::of);
        if !self.by_guest.contains_key(&(guest, family)) {
            self.insert(socket, (guest, family), true);
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
    fn remember(&mut self, outside: SocketAddr, inside: SocketAddr) {
        if !self.peers.contains(&(outside, inside)) {
            if self.peers.len() >= MOST_PEERS {
                self.peers.remove(0);
            }
            self.peers.push((outside, inside));
        }
    }

    /// Where an answer to somebody goes who sent first.
    fn peer_outside(&self, inside: SocketAddr) -> Option<SocketAddr> {
        self.peers.iter().find(|peer| peer.1 == inside).map(|peer| peer.0)
    }

    /// Who a sender is to the guest; none if he may not send.
    fn peer_inside(&mut self, outside: SocketAddr, plan: &Plan) -> Option<SocketAddr> {
        let known = self.peers.iter().find(|peer| peer.0 == outside).map(|peer| peer.1);
        if known.is_some() || !self.forwarded {
            return known;
        }
        let first = FIRST_PORTS.iter().find(|(family, _)| *family == self.family)?.1;
        let taken: Vec<u16> = self.peers.iter().map(|peer| peer.1.port()).collect();
        let port = (first..=u16::MAX).find(|port| !taken.contains(port))?;
        let inside = SocketAddr::new(plan.gateway().into(), port);
        self.remember(outside, inside);
        Some(inside)
    }
}
