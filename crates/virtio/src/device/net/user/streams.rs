//! TCP: smoltcp speaks with the guest, the host's kernel with the world, and bytes are moved between the two.
//!
//! ```text
//! guest: SYN -> connect on the host -> connected: the SYN is handed to smoltcp, which answers
//!                                   -> refused:   the SYN is handed to smoltcp without a socket, which resets
//! ```
//!
//! So the guest's connections succeed and fail as the host's do.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpAddress, IpCidr, IpListenEndpoint};

use super::frame::{self, Numbers, Segment};
use super::wire::Wire;
use super::{GATEWAY_MAC, Plan};
use crate::device::DeviceError;
use crate::events::{Events, Interest, Watch};

/// Bytes held for each stream and direction.
const BUFFER: usize = 256 << 10;
/// Streams at one time.
const MOST: usize = 1024;
/// Rounds between smoltcp and the sockets before others have their turn.
const ROUNDS: usize = 32;
/// How long an answer of the other end may take to carry the acknowledgement of what the guest sent. One of its own costs the guest as much
/// as the answer does.
const ACKNOWLEDGEMENT: Duration = Duration::from_millis(2);
/// A frame that is longer holds two segments or more, which are acknowledged at once (RFC 9293, 3.8.6.3).
const TWO_SEGMENTS: usize = 2 * 1460;
/// The gateway's ports for streams from outside.
const FIRST_PORT: u16 = 49_152;

/// How far a stream has come.
#[derive(Debug)]
enum Stage {
    /// The host connects; the guest's SYN waits.
    Connecting(Vec<u8>),
    /// smoltcp has a socket for it.
    Open(SocketHandle),
}

#[derive(Debug)]
struct Stream {
    host: TcpStream,
    stage: Stage,
    ends: (SocketAddr, SocketAddr),
    /// Where the guest's end stands.
    guest: Numbers,
    watch: Watch,
    /// The host's socket may have something to read.
    readable: bool,
    /// The host will send no more.
    host_done: bool,
    /// The host was told that the guest will send no more.
    guest_done: bool,
}

/// A stream as a snapshot holds it: the host's socket can't be kept, but whose it was.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
pub(super) struct SavedStream {
    /// The guest's end and the other one.
    ends: (SocketAddr, SocketAddr),
    guest: Numbers,
}

/// All streams.
pub(super) struct Streams {
    plan: Plan,
    pub(super) wire: Wire,
    interface: Interface,
    sockets: SocketSet<'static>,
    streams: BTreeMap<u64, Stream>,
    /// By the guest's end and the other one.
    by_ends: BTreeMap<(SocketAddr, SocketAddr), u64>,
    first_token: u64,
    next: u64,
    next_port: u16,
}

fn ip(address: IpAddr) -> IpAddress {
    address.into()
}

fn socket() -> Socket<'static> {
    let mut socket = Socket::new(SocketBuffer::new(vec![0; BUFFER]), SocketBuffer::new(vec![0; BUFFER]));
    socket.set_nagle_enabled(false);
    socket.set_ack_delay(Some(ACKNOWLEDGEMENT.into()));
    socket
}

impl Streams {
    pub(super) fn new(plan: Plan, features: u64) -> Self {
        let mut wire = Wire::new(features);
        let mut config = Config::new(HardwareAddress::Ethernet(EthernetAddress(GATEWAY_MAC)));
        let mut seed = [0; 8];
        // Without randomness the sequence numbers are guessable, by the guest only.
        let _seeded = rustix::rand::getrandom(&mut seed, rustix::rand::GetRandomFlags::empty());
        config.random_seed = u64::from_ne_bytes(seed);
        let mut interface = Interface::new(config, &mut wire, Instant::now());
        interface.update_ip_addrs(|addresses| {
            // There is room for all: the crate is told how many there are.
            for address in [plan.gateway(), plan.names()] {
                let _full = addresses.push(IpCidr::new(address.into(), 24));
            }
            for address in [Plan::router(), Plan::gateway6(), Plan::names6()] {
                let _full = addresses.push(IpCidr::new(address.into(), Plan::PREFIX_BITS));
            }
        });
        // All the world is behind the gateway.
        interface.set_any_ip(true);
        let _full = interface.routes_mut().add_default_ipv4_route(plan.gateway());
        let _full = interface.routes_mut().add_default_ipv6_route(Plan::gateway6());
        Self {
            plan,
            wire,
            interface,
            sockets: SocketSet::new(Vec::new()),
            streams: BTreeMap::new(),
            by_ends: BTreeMap::new(),
            first_token: 0,
            next: 0,
            next_port: FIRST_PORT,
        }
    }

    /// Tokens of streams are even steps above the listeners'; see [`super::Datagrams`] for the odd ones.
    pub(super) fn set_first_token(&mut self, token: u64) {
        self.first_token = token + super::forward::MOST as u64;
    }

    /// The guest sends a segment.
    pub(super) fn take(&mut self, segment: &Segment, frame: Vec<u8>) {
        let ends = (segment.source, segment.target);
        let mut known = self.by_ends.get(&ends).and_then(|number| self.streams.get_mut(number));
        if let Some(stream) = &mut known {
            stream.guest = segment.numbers;
        }
        match known {
            Some(Stream { stage: Stage::Connecting(_), .. }) => {}
            Some(Stream { stage: Stage::Open(handle), .. }) => {
                let delay = (frame.len() <= TWO_SEGMENTS).then_some(ACKNOWLEDGEMENT);
                self.sockets.get_mut::<Socket<'_>>(*handle).set_ack_delay(delay.map(Into::into));
                self.wire.arrive(frame);
            }
            None if segment.begins => match self.connect(segment.target) {
                Some(host) => self.insert(host, Stage::Connecting(frame), ends),
                // Nobody listens at smoltcp: it resets.
                None => self.wire.arrive(frame),
            },
            _ => self.wire.arrive(frame),
        }
    }

    fn insert(&mut self, host: TcpStream, stage: Stage, ends: (SocketAddr, SocketAddr)) {
        // Small writes of the guest are to go out as they come.
        let _slower = host.set_nodelay(true);
        let number = self.next;
        self.next += 1;
        self.by_ends.insert(ends, number);
        let (guest, watch) = (Numbers::default(), Watch::default());
        let stream = Stream { host, stage, ends, guest, watch, readable: true, host_done: false, guest_done: false };
        self.streams.insert(number, stream);
    }

    /// Begins to connect on the host.
    fn connect(&self, target: SocketAddr) -> Option<TcpStream> {
        let outside = self.plan.outside(target).filter(|_| self.streams.len() < MOST)?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let family = if outside.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None).ok()?;
        match rustix::net::connect(&socket, &outside) {
            Ok(()) | Err(Errno::INPROGRESS) => Some(socket.into()),
            Err(_) => None,
        }
    }

    /// Somebody outside connects to a port of the guest.
    pub(super) fn forward(&mut self, host: TcpStream, guest_port: u16) {
        if self.streams.len() >= MOST || host.set_nonblocking(true).is_err() {
            return;
        }
        let guest = SocketAddr::new(self.plan.guest().into(), guest_port);
        let gateway = IpAddr::from(self.plan.gateway());
        let taken = |port: &u16| self.by_ends.contains_key(&(guest, SocketAddr::new(gateway, *port)));
        let Some(port) = (self.next_port..=u16::MAX).chain(FIRST_PORT..self.next_port).find(|port| !taken(port)) else {
            return;
        };
        self.next_port = if port == u16::MAX { FIRST_PORT } else { port + 1 };
        let mut socket = socket();
        let (near, far) = ((ip(gateway), port), (ip(guest.ip()), guest_port));
        if socket.connect(self.interface.context(), far, near).is_ok() {
            let handle = self.sockets.add(socket);
            self.insert(host, Stage::Open(handle), (guest, SocketAddr::new(gateway, port)));
        }
    }

    /// A socket of the host is ready; for one that connects, that is the outcome.
    pub(super) fn ready(&mut self, token: u64) {
        let Some(step) = token.checked_sub(self.first_token) else { return };
        let number = step / 2;
        let Some(stream) = self.streams.get_mut(&number) else { return };
        stream.readable = true;
        let Stage::Connecting(syn) = &mut stream.stage else { return };
        let syn = std::mem::take(syn);
        let connected = matches!(stream.host.take_error(), Ok(None)) && stream.host.peer_addr().is_ok();
        let target = stream.ends.1;
        let mut socket = socket();
        let listen = IpListenEndpoint { addr: Some(ip(target.ip())), port: target.port() };
        if connected && socket.listen(listen).is_ok() {
            stream.stage = Stage::Open(self.sockets.add(socket));
        } else {
            self.remove(number);
        }
        self.wire.arrive(syn);
    }

    /// Those that smoltcp has a socket for, as a snapshot holds them.
    pub(super) fn save(&self) -> Vec<SavedStream> {
        let open = self.streams.values().filter(|stream| matches!(stream.stage, Stage::Open(_)));
        open.map(|stream| SavedStream { ends: stream.ends, guest: stream.guest }).collect()
    }

    /// Ends streams that the guest believes to have, since before it was restored. Who only waits for the other end would do so for ever; who is
    /// asked whether he is there answers, and as smoltcp knows of no such stream it resets.
    pub(super) fn end_lost(&mut self, mac: [u8; 6], lost: Vec<SavedStream>) {
        let asked =
            |SavedStream { ends: (guest, other), guest: numbers }| frame::keep_alive(mac, other, guest, numbers);
        lost.into_iter().filter_map(asked).for_each(|frame| self.wire.send(frame));
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.streams.len()
    }

    fn remove(&mut self, number: u64) {
        if let Some(stream) = self.streams.remove(&number) {
            self.by_ends.remove(&stream.ends);
            if let Stage::Open(handle) = stream.stage {
                self.sockets.remove(handle);
            }
        }
    }

    /// Lets smoltcp and the sockets go as far as they can; gives when smoltcp wants to be called again.
    pub(super) fn poll(&mut self, events: &Events) -> Result<Option<Duration>, DeviceError> {
        for _ in 0..ROUNDS {
            self.interface.poll(Instant::now(), &mut self.wire, &mut self.sockets);
            if !self.shuttle(events)? {
                break;
            }
        }
        let delay = self.interface.poll_delay(Instant::now(), &self.sockets);
        Ok(delay.map(Duration::from))
    }

    /// Moves bytes of all streams; says whether any moved.
    fn shuttle(&mut self, events: &Events) -> Result<bool, DeviceError> {
        let (mut moved, mut ended) = (false, Vec::new());
        for (number, stream) in &mut self.streams {
            let wanted = match stream.stage {
                Stage::Connecting(_) => Interest::OUT,
                Stage::Open(handle) => {
                    let socket = self.sockets.get_mut::<Socket<'_>>(handle);
                    let outcome = stream.shuttle(socket);
                    moved |= outcome.moved;
                    if matches!(socket.state(), State::Closed | State::TimeWait) && !outcome.moved {
                        ended.push(*number);
                        continue;
                    }
                    outcome.wanted
                }
            };
            let watched = stream.watch.set(events, &stream.host, self.first_token + 2 * number, wanted);
            watched.map_err(DeviceError::host("epoll_ctl"))?;
        }
        ended.into_iter().for_each(|number| self.remove(number));
        Ok(moved)
    }
}

/// What moving bytes gave.
struct Moved {
    moved: bool,
    wanted: Interest,
}

impl Stream {
    fn shuttle(&mut self, socket: &mut Socket<'_>) -> Moved {
        let outwards = self.outwards(socket);
        let inwards = self.inwards(socket);
        let mut wanted = Interest::empty();
        wanted.set(Interest::OUT, socket.can_recv());
        wanted.set(Interest::IN, !self.host_done && socket.can_send());
        Moved { moved: outwards || inwards, wanted }
    }

    /// From the guest to the host.
    fn outwards(&mut self, socket: &mut Socket<'_>) -> bool {
        let mut moved = false;
        while socket.can_recv() {
            let written = socket.recv(|bytes| match self.host.write(bytes) {
                Ok(done) => (done, Ok(done)),
                Err(error) => (0, Err(error.kind())),
            });
            match written {
                Ok(Ok(done)) => moved |= done > 0,
                Ok(Err(ErrorKind::Interrupted)) => {}
                Ok(Err(ErrorKind::WouldBlock)) | Err(_) => return moved,
                Ok(Err(_)) => {
                    socket.abort();
                    return true;
                }
            }
        }
        let over = matches!(socket.state(), State::CloseWait | State::Closing | State::LastAck | State::TimeWait);
        if over && !self.guest_done {
            self.guest_done = true;
            let _gone = self.host.shutdown(Shutdown::Write);
        }
        moved
    }

    /// From the host to the guest.
    fn inwards(&mut self, socket: &mut Socket<'_>) -> bool {
        let mut moved = false;
        while self.readable && !self.host_done && socket.can_send() {
            let read = socket.send(|room| match self.host.read(room) {
                Ok(done) => {
                    // If there is more, the events tell.
                    self.readable = done == room.len();
                    (done, Ok(done))
                }
                Err(error) => (0, Err(error.kind())),
            });
            match read {
                Ok(Ok(0)) => {
                    self.host_done = true;
                    socket.close();
                    return true;
                }
                Ok(Ok(_)) => moved = true,
                Ok(Err(ErrorKind::Interrupted)) => {}
                Ok(Err(ErrorKind::WouldBlock)) => {
                    self.readable = false;
                    return moved;
                }
                Err(_) => return moved,
                Ok(Err(_)) => {
                    socket.abort();
                    self.host_done = true;
                    return true;
                }
            }
        }
        moved
    }
}
