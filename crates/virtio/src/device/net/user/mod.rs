//! A network without privileges: the guest's packets become calls on ordinary sockets of this process.
//!
//! ```text
//! 10.0.2.0/24   .2 the gateway, which is this host      .3 the name server      .15 the guest, by DHCP
//! fd00::/64     ::2                                     ::3                     what the guest makes of the advertised prefix
//! TCP           smoltcp speaks with the guest; what comes out is written to a socket of the host, and back
//! UDP           a socket of the host for each port of the guest that sends; answers come from where it sent to
//! ```
//!
//! Nothing outside reaches the guest but by a [`Forward`], which leads to its IPv4 address. Pings are answered by the gateway and the name
//! server only.

mod datagrams;
mod dhcp;
mod forward;
mod frame;
mod neighbour;
mod streams;
#[cfg(test)]
mod tests;
mod wire;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::time::Instant;

pub use forward::{Forward, ForwardError, Protocol};

use super::backend::{Backend, Frame, Want};
use super::{HEADER_BYTES, Net};
use crate::device::DeviceError;
use crate::events::{Events, Interest, Timer};
use datagrams::Datagrams;
use forward::Listeners;
use frame::{Parsed, Payload};
use streams::{SavedStream, Streams};

/// The gateway's hardware address: a local one, by its IP address.
const GATEWAY_MAC: [u8; 6] = [0x52, 0x55, 10, 0, 2, 2];
/// Frames that may wait for the guest; behind that, streams wait and datagrams are lost.
const MOST_WAITING: usize = 512;

/// The driver may leave the checksums of what it sends away, and send large TCP segments; it may take both as well, but large segments over IPv4
/// only: smoltcp makes none over IPv6.
const OFFLOADS: u64 = 1 | 1 << 1 | 1 << 7 | 1 << 11 | 1 << 12;
const GUEST_CHECKSUM: u32 = 1;
const GUEST_SEGMENTS: u32 = 7;

/// Tokens from the backend's first on.
const TIMER: u64 = 0;
const FIRST_SOCKET: u64 = 1;

/// Whether a guest that speaks to the gateway reaches the host's own services.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HostAccess {
    /// The gateway's address is the host's loopback.
    Loopback,
    /// Nobody answers there.
    #[default]
    None,
}

/// How the network is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserSettings {
    /// The first address of a network of 24 bits.
    pub network: Ipv4Addr,
    /// Where names are asked for; the host's name server as a rule.
    pub name_server: Option<SocketAddr>,
    /// What the gateway is.
    pub host_access: HostAccess,
    /// Ports of the host that lead to the guest.
    pub forwards: Vec<Forward>,
}

impl Default for UserSettings {
    fn default() -> Self {
        Self {
            network: Ipv4Addr::new(10, 0, 2, 0),
            name_server: host_name_server(&resolver().unwrap_or_default()),
            host_access: HostAccess::None,
            forwards: Vec::new(),
        }
    }
}

/// The host's resolv.conf(5).
fn resolver() -> io::Result<String> {
    io::read_to_string(sys::handed::open(Path::new("/etc/resolv.conf"), rustix::fs::OFlags::RDONLY)?)
}

/// The first name server of a resolv.conf(5) that is not behind one link only.
fn host_name_server(text: &str) -> Option<SocketAddr> {
    let servers = text.lines().filter_map(|line| line.trim().strip_prefix("nameserver"));
    servers.filter_map(|server| server.trim().parse().ok()).map(|server| SocketAddr::new(server, 53)).next()
}

/// The network's addresses, and where those that are the host lead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Plan {
    network: Ipv4Addr,
    name_server: Option<SocketAddr>,
    host_access: HostAccess,
}

impl Plan {
    fn address(&self, last: u8) -> Ipv4Addr {
        let [a, b, c, _] = self.network.octets();
        Ipv4Addr::new(a, b, c, last)
    }

    fn gateway(&self) -> Ipv4Addr {
        self.address(2)
    }

    fn names(&self) -> Ipv4Addr {
        self.address(3)
    }

    fn guest(&self) -> Ipv4Addr {
        self.address(15)
    }

    /// Bits of the IPv6 network's prefix.
    const PREFIX_BITS: u8 = 64;

    fn address6(last: u16) -> Ipv6Addr {
        Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, last)
    }

    fn gateway6() -> Ipv6Addr {
        Self::address6(2)
    }

    fn names6() -> Ipv6Addr {
        Self::address6(3)
    }

    /// The gateway's address on the link, by which routers are known.
    fn router() -> Ipv6Addr {
        Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2)
    }

    /// Whether an address is the gateway's or the name server's.
    fn is_here(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => [self.gateway(), self.names()].contains(&address),
            IpAddr::V6(address) => [Self::gateway6(), Self::names6(), Self::router()].contains(&address),
        }
    }

    /// Where the host connects to when the guest does to `target`; none if that leads nowhere.
    fn outside(&self, target: SocketAddr) -> Option<SocketAddr> {
        let port = target.port();
        let (names, gateway, loopback, leads_out) = match target.ip() {
            IpAddr::V4(ip) => {
                (ip == self.names(), ip == self.gateway(), Ipv4Addr::LOCALHOST.into(), self.leads_out(ip))
            }
            IpAddr::V6(ip) => {
                (ip == Self::names6(), ip == Self::gateway6(), Ipv6Addr::LOCALHOST.into(), leads_out6(ip))
            }
        };
        if names {
            return self.name_server.filter(|_| port == 53);
        }
        if gateway {
            return (self.host_access == HostAccess::Loopback).then_some(SocketAddr::new(loopback, port));
        }
        leads_out.then_some(target)
    }

    fn leads_out(&self, ip: Ipv4Addr) -> bool {
        let inside = ip.octets()[..3] == self.network.octets()[..3];
        // The guest's own loopback never leaves the guest; what claims to be it must not reach the host's.
        !(inside || ip.is_unspecified() || ip.is_broadcast() || ip.is_multicast() || ip.is_loopback())
    }
}

fn leads_out6(ip: Ipv6Addr) -> bool {
    let words = ip.segments();
    let inside = words[..4] == Plan::address6(0).segments()[..4];
    // IPv4 in other clothes would reach what IPv4 itself may not, the host's loopback first; ::1 and :: are among them.
    let other_clothes = words[..5] == [0; 5];
    !(inside || other_clothes || ip.is_multicast() || ip.is_unicast_link_local())
}

/// Takes frames of a guest from noise: two bytes of length, and the frame. None leads out of the network.
pub(crate) fn noise(bytes: &[u8]) {
    let plan = Plan { network: Ipv4Addr::new(10, 0, 2, 0), name_server: None, host_access: HostAccess::None };
    let settings =
        UserSettings { network: plan.network, name_server: None, host_access: plan.host_access, forwards: vec![] };
    let (Ok(mut net), Ok(events)) = (UserNet::new(&settings), Events::new()) else { return };
    if net.set_offloads(OFFLOADS).is_err() || net.start(&events, 0).is_err() {
        return;
    }
    let mut rest = bytes;
    let mut buffer = vec![0; HEADER_BYTES + super::LARGEST_FRAME];
    while let Some((length, behind)) = rest.split_first_chunk::<2>() {
        let (frame, behind) = behind.split_at(behind.len().min(u16::from_le_bytes(*length).into()));
        rest = behind;
        let outwards = match frame::parse(frame).map(|parsed| parsed.payload) {
            Some(Payload::Udp(datagram)) => plan.outside(datagram.target),
            Some(Payload::Tcp(segment)) => plan.outside(segment.target),
            _ => None,
        };
        if outwards.is_none() {
            net.take(frame.to_vec());
        }
        if net.poll(&events).is_err() {
            return;
        }
        while let Some(length) = net.receive(0, &mut buffer) {
            assert!(length > HEADER_BYTES, "a frame without anything");
        }
    }
}

/// The backend.
pub struct UserNet {
    plan: Plan,
    features: u64,
    timer: Timer,
    first_token: u64,
    streams: Streams,
    datagrams: Datagrams,
    listeners: Listeners,
    /// When the timer runs out, if it runs. It may run out before anything is due, which costs less than to set it anew each time.
    alarm: Option<Instant>,
    /// When the guest is told of the IPv6 network again, if it speaks IPv6 at all.
    advertised: Option<Instant>,
    /// Whether the streams may have something for the guest that has not been asked for.
    unasked: bool,
    /// The guest's hardware address, once it has sent anything.
    mac: [u8; 6],
    /// Streams that a guest believes to have who was restored.
    lost: Vec<SavedStream>,
}

/// What a snapshot holds.
#[derive(serde::Serialize, serde::Deserialize)]
struct Saved {
    mac: [u8; 6],
    streams: Vec<SavedStream>,
}

impl UserNet {
    /// A network of its own for one guest; the forwarded ports are taken at once.
    ///
    /// # Errors
    /// A port is taken, or no descriptor is free.
    pub fn new(settings: &UserSettings) -> Result<Self, ForwardError> {
        let UserSettings { network, name_server, host_access, ref forwards } = *settings;
        let plan = Plan { network, name_server, host_access };
        Ok(Self {
            plan,
            features: 0,
            timer: Timer::new().map_err(|errno| ForwardError::Host(errno.into()))?,
            first_token: 0,
            streams: Streams::new(plan, 0),
            datagrams: Datagrams::new(plan),
            listeners: Listeners::open(forwards)?,
            alarm: None,
            advertised: None,
            unasked: false,
            mac: [0; 6],
            lost: Vec::new(),
        })
    }

    fn socket_token(&self) -> u64 {
        self.first_token + FIRST_SOCKET
    }

    /// Lets the streams go as far as they can, and sets the timer for what they wait for.
    fn poll(&mut self, events: &Events) -> Result<(), DeviceError> {
        self.unasked = false;
        if self.advertised.is_some_and(|at| at <= Instant::now()) {
            self.advertise();
        }
        let delay = self.streams.poll(events)?;
        let due = delay.map(|delay| Instant::now() + delay);
        let Some(due) = due.into_iter().chain(self.advertised).min() else { return Ok(()) };
        if self.alarm.is_none_or(|alarm| due < alarm) {
            let delay = due.saturating_duration_since(Instant::now());
            self.timer.set(delay).map_err(DeviceError::host("timerfd_settime"))?;
            self.alarm = Some(due);
        }
        Ok(())
    }

    /// Tells the guest of the IPv6 network.
    fn advertise(&mut self) {
        self.advertised = Some(Instant::now() + neighbour::INTERVAL);
        if let Some(frame) = neighbour::advertisement(&self.plan) {
            self.streams.wire.send(frame);
        }
    }

    /// The guest sends a frame.
    fn take(&mut self, frame: Vec<u8>) {
        let Some(Parsed { source_mac, source, target, payload }) = frame::parse(&frame) else {
            return self.streams.wire.arrive(frame);
        };
        self.mac = source_mac;
        if target.is_ipv6() && self.advertised.is_none() {
            // One that was restored has heard of the network, and has to hear of it again.
            self.advertised = Some(Instant::now() + neighbour::INTERVAL);
        }
        match payload {
            Payload::Udp(datagram) if target.is_ipv4() && datagram.target.port() == dhcp::SERVER_PORT => {
                if let Some(answer) = dhcp::answer(&self.plan, datagram.data) {
                    self.streams.wire.send(frame::dhcp_answer(&self.plan, source_mac, &answer));
                }
            }
            Payload::Udp(datagram) => self.datagrams.send(&datagram, source_mac),
            Payload::Tcp(segment) => self.streams.take(&segment, frame),
            Payload::Icmpv6(message, hops) => {
                let (IpAddr::V6(address), IpAddr::V6(to)) = (source, target) else { return };
                let asker = neighbour::Asker { mac: source_mac, address };
                if let Some(answer) = neighbour::answer(&self.plan, asker, to, message, hops) {
                    self.streams.wire.send(answer);
                } else if neighbour::is_answer(message) {
                    self.streams.wire.arrive(frame);
                }
            }
            // Pings to others would be answered by the gateway in their place.
            Payload::Other => {
                if self.plan.is_here(target) {
                    self.streams.wire.arrive(frame);
                }
            }
        }
    }
}

impl Backend for UserNet {
    fn offloads(&self) -> u64 {
        OFFLOADS
    }

    fn set_offloads(&mut self, features: u64) -> Result<(), DeviceError> {
        self.features = features;
        Ok(())
    }

    fn start(&mut self, events: &Events, token: u64) -> Result<(), DeviceError> {
        self.first_token = token;
        self.streams = Streams::new(self.plan, self.features);
        self.datagrams = Datagrams::new(self.plan);
        let socket = self.socket_token();
        self.streams.set_first_token(socket);
        self.datagrams.set_first_token(socket);
        self.streams.end_lost(self.mac, std::mem::take(&mut self.lost));
        self.listeners.watch(events, socket)?;
        events.add(&self.timer, token + TIMER, Interest::IN).map_err(DeviceError::host("epoll_ctl"))
    }

    fn stop(&mut self, events: &Events) {
        events.remove(&self.timer);
        // What is pending is seen at the next start, and does no harm.
        self.alarm = None;
        self.advertised = None;
        self.listeners.ignore(events);
        self.datagrams.ignore(events);
        // The streams' sockets leave the events as they are closed.
        self.streams = Streams::new(self.plan, 0);
        self.datagrams = Datagrams::new(self.plan);
    }

    fn watch(&mut self, events: &Events, _token: u64, _pair: u16, want: Want) -> Result<(), DeviceError> {
        // Streams wait by themselves when the guest does not read.
        if want == Want::Frames { self.poll(events) } else { Ok(()) }
    }

    fn ready(&mut self, events: &Events, first: u64, token: u64) -> Result<u16, DeviceError> {
        if token == first + TIMER {
            self.timer.take();
            self.alarm = None;
        } else if self.listeners.has(token - first - FIRST_SOCKET) {
            let number = token - first - FIRST_SOCKET;
            self.listeners.serve(number, &mut self.streams, &mut self.datagrams, events)?;
        } else if !self.datagrams.ready(token, &mut self.streams.wire) {
            self.streams.ready(token);
        }
        self.poll(events)?;
        Ok(0)
    }

    fn transmit(&mut self, _pair: u16, frame: Frame<'_, '_>) -> bool {
        self.take(frame.content());
        self.unasked = true;
        true
    }

    fn transmitted(&mut self, events: &Events, _token: u64) -> Result<(), DeviceError> {
        if self.unasked {
            self.datagrams.watch(events)?;
            self.poll(events)?;
        }
        Ok(())
    }

    fn answers(&self) -> bool {
        true
    }

    fn save(&self) -> serde_json::Value {
        serde_json::json!(Saved { mac: self.mac, streams: self.streams.save() })
    }

    fn restore(&mut self, state: serde_json::Value) -> Result<(), serde_json::Error> {
        Saved { mac: self.mac, streams: self.lost } = serde_json::from_value(state)?;
        Ok(())
    }

    fn receive(&mut self, _pair: u16, into: &mut Vec<u8>) -> Option<usize> {
        *into = self.streams.wire.take()?;
        Some(into.len())
    }

    fn drained(&mut self, events: &Events) -> Result<bool, DeviceError> {
        self.poll(events)?;
        Ok(self.streams.wire.has_frames())
    }
}

impl Net {
    /// A card in a network of its own, without privileges.
    ///
    /// # Errors
    /// A forwarded port is taken, or no descriptor is free.
    pub fn in_user_network(settings: super::Settings, network: &UserSettings) -> Result<Self, ForwardError> {
        let backend = UserNet::new(network)?;
        Self::new(Box::new(backend), settings).map_err(|error| ForwardError::Host(io::Error::other(error)))
    }
}
