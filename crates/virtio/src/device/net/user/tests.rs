use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{ChecksumCapabilities, Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpAddress, IpCidr};

use super::*;

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];
const TOKEN: u64 = 2;
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
const GUEST: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);
const GATEWAY6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2);
const GUEST6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0x15);

/// The guest's card.
#[derive(Default)]
struct Card {
    arrived: VecDeque<Vec<u8>>,
    sent: VecDeque<Vec<u8>>,
    checksums: ChecksumCapabilities,
}

struct Arrived(Vec<u8>);
struct Room<'c>(&'c mut VecDeque<Vec<u8>>);

impl RxToken for Arrived {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        read(&self.0)
    }
}

impl TxToken for Room<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, write: F) -> R {
        let mut frame = vec![0; length];
        let outcome = write(&mut frame);
        self.0.push_back(frame);
        outcome
    }
}

impl Device for Card {
    type RxToken<'a> = Arrived;
    type TxToken<'a> = Room<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Arrived, Room<'_>)> {
        let frame = self.arrived.pop_front()?;
        Some((Arrived(frame), Room(&mut self.sent)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Room<'_>> {
        Some(Room(&mut self.sent))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = 1514;
        capabilities.checksum = self.checksums.clone();
        capabilities
    }
}

/// A guest on a network of its own.
struct Lan {
    net: UserNet,
    events: Events,
    card: Card,
    interface: Interface,
    sockets: SocketSet<'static>,
    /// Headers of the frames that came.
    headers: Vec<[u8; HEADER_BYTES]>,
}

impl Lan {
    fn new(settings: &UserSettings, features: u64) -> Self {
        let mut net = UserNet::new(settings).unwrap();
        let events = Events::new().unwrap();
        net.set_offloads(features).unwrap();
        net.start(&events, TOKEN).unwrap();
        // A driver that took the offloads looks at no checksum; another one at all.
        let checksums = if features == 0 { ChecksumCapabilities::default() } else { ChecksumCapabilities::ignored() };
        let mut card = Card { checksums, ..Card::default() };
        let config = Config::new(HardwareAddress::Ethernet(EthernetAddress(MAC)));
        let mut interface = Interface::new(config, &mut card, Instant::now());
        interface.update_ip_addrs(|all| {
            all.push(IpCidr::new(IpAddress::Ipv4(GUEST), 24)).unwrap();
            all.push(IpCidr::new(IpAddress::Ipv6(GUEST6), 64)).unwrap();
        });
        interface.routes_mut().add_default_ipv4_route(GATEWAY).unwrap();
        interface.routes_mut().add_default_ipv6_route(GATEWAY6).unwrap();
        Self { net, events, card, interface, sockets: SocketSet::new(Vec::new()), headers: Vec::new() }
    }

    fn turn(&mut self) {
        self.interface.poll(Instant::now(), &mut self.card, &mut self.sockets);
        while let Some(frame) = self.card.sent.pop_front() {
            self.net.take(frame);
            self.net.unasked = true;
        }
        self.net.transmitted(&self.events, TOKEN).unwrap();
        for (token, _) in self.events.take().unwrap() {
            self.net.ready(&self.events, TOKEN, token).unwrap();
        }
        let mut buffer = vec![0; 70_000];
        loop {
            while let Some(length) = self.net.receive(0, &mut buffer) {
                self.headers.push(buffer[..HEADER_BYTES].try_into().unwrap());
                self.card.arrived.push_back(buffer[HEADER_BYTES..length].to_vec());
            }
            if !self.net.drained(&self.events).unwrap() {
                break;
            }
        }
    }

    fn until<T>(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> Option<T>) -> T {
        for _ in 0..200_000 {
            self.turn();
            if let Some(found) = done(self) {
                return found;
            }
            std::thread::sleep(Duration::from_micros(50));
        }
        panic!("waited in vain for {what}");
    }

    fn socket(&mut self, handle: SocketHandle) -> &mut Socket<'static> {
        self.sockets.get_mut(handle)
    }

    fn new_socket(&mut self) -> SocketHandle {
        let buffer = || SocketBuffer::new(vec![0; 200_000]);
        self.sockets.add(Socket::new(buffer(), buffer()))
    }

    fn connect(&mut self, to: (IpAddr, u16)) -> SocketHandle {
        let handle = self.new_socket();
        let socket = self.sockets.get_mut::<Socket<'_>>(handle);
        socket.connect(self.interface.context(), (IpAddress::from(to.0), to.1), 40_000 + to.1 % 100).unwrap();
        handle
    }

    /// Sends a datagram from the guest's port 5555.
    fn send(&mut self, target: SocketAddr, data: &[u8]) {
        let source = if target.is_ipv4() { GUEST.into() } else { GUEST6.into() };
        let frame = frame::datagram(MAC, SocketAddr::new(source, 5555), target, data).unwrap();
        self.say(&frame);
    }

    /// Sends a frame that was made as one of the network's.
    fn say(&mut self, frame: &[u8]) {
        let mut frame = frame[HEADER_BYTES..].to_vec();
        frame[6..12].copy_from_slice(&MAC);
        self.card.sent.push_back(frame);
    }

    /// Asks the neighbours something, from an address with so many hops to go, and gives what ICMPv6 messages come back, with the whole frames.
    fn ask(&mut self, source: Ipv6Addr, hops: u8, message: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut frame = frame::message([0x33, 0x33, 0, 0, 0, 2], source, ALL_ROUTERS, message.to_vec()).unwrap();
        frame[HEADER_BYTES + 14 + 7] = hops;
        self.say(&frame);
        self.turn();
        let frames = std::mem::take(&mut self.card.arrived);
        let heard = frames.into_iter().filter_map(|frame| match frame::parse(&frame)?.payload {
            Payload::Icmpv6(message, 255) => Some((message.to_vec(), frame.clone())),
            _ => None,
        });
        heard.collect()
    }

    /// The next datagram for the guest: from where, to which port, and what.
    fn datagram(&mut self) -> (SocketAddr, u16, Vec<u8>) {
        self.until("a datagram", |lan| {
            let found = lan.card.arrived.iter().find_map(|frame| match frame::parse(frame)?.payload {
                Payload::Udp(datagram) => Some((datagram.source, datagram.target.port(), datagram.data.to_vec())),
                _ => None,
            });
            lan.card.arrived.retain(|frame| !matches!(frame::parse(frame).map(|it| it.payload), Some(Payload::Udp(_))));
            found
        })
    }
}

const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);

/// Whether the host has IPv6 at all; a test that needs it says so.
fn has_ipv6() -> bool {
    let has = UdpSocket::bind("[::1]:0").is_ok();
    if !has {
        println!("skipped: the host has no IPv6");
    }
    has
}

fn settings() -> UserSettings {
    UserSettings {
        network: Ipv4Addr::new(10, 0, 2, 0),
        name_server: None,
        host_access: HostAccess::Loopback,
        forwards: Vec::new(),
    }
}

/// A server that gives everything back, and says how much it was when there is no more.
fn echo(address: &str) -> (u16, std::thread::JoinHandle<usize>) {
    let listener = TcpListener::bind((address, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let (mut total, mut buffer) = (0, vec![0; 65_536]);
        loop {
            let length = stream.read(&mut buffer).unwrap();
            if length == 0 {
                return total;
            }
            stream.write_all(&buffer[..length]).unwrap();
            total += length;
        }
    });
    (port, server)
}

fn echoed(features: u64, host: &str, gateway: IpAddr) -> Vec<[u8; HEADER_BYTES]> {
    let (port, server) = echo(host);
    let mut lan = Lan::new(&settings(), features);
    let handle = lan.connect((gateway, port));
    let data: Vec<u8> = (0..1_000_000_u32).map(|at| (at % 251) as u8).collect();
    let (mut sent, mut got) = (0, Vec::new());
    lan.until("the echo", |lan| {
        let socket = lan.socket(handle);
        if socket.can_send() && sent < data.len() {
            sent += socket.send_slice(&data[sent..]).unwrap();
        }
        if sent == data.len() && socket.may_send() {
            socket.close();
        }
        while socket.can_recv() {
            socket.recv(|bytes| (bytes.len(), got.extend_from_slice(bytes))).unwrap();
        }
        matches!(socket.state(), State::Closed | State::TimeWait).then_some(())
    });
    assert!(got == data, "bytes were lost or doubled");
    assert_eq!(server.join().unwrap(), data.len());
    lan.until("the stream to be gone", |lan| (lan.net.streams.len() == 0).then_some(()));
    lan.headers
}

#[test]
fn a_stream_of_the_guest_goes_both_ways_to_its_end() {
    let plain = echoed(0, "127.0.0.1", GATEWAY.into());
    assert!(plain.iter().all(|header| *header == super::super::PLAIN_HEADER));
    if has_ipv6() {
        let plain = echoed(0, "::1", GATEWAY6.into());
        assert!(plain.iter().all(|header| *header == super::super::PLAIN_HEADER));
    }
}

#[test]
fn a_driver_that_takes_large_segments_gets_them() {
    let headers = echoed(OFFLOADS, "127.0.0.1", GATEWAY.into());
    let large = headers.iter().find(|header| header[1] == 1).expect("no large segment");
    assert_eq!((large[0], &large[6..10]), (1, &[34, 0, 16, 0][..]), "the checksum is the driver's");
    assert!(u16::from_le_bytes([large[4], large[5]]) <= 1460);
    if has_ipv6() {
        let headers = echoed(OFFLOADS, "::1", GATEWAY6.into());
        let segment = headers.iter().find(|header| header[0] == 1).expect("no checksum left to the driver");
        assert_eq!((segment[1], &segment[6..10]), (0, &[54, 0, 16, 0][..]));
    }
}

#[test]
fn a_connection_is_refused_as_the_host_s_is() {
    for (host_access, why) in [(HostAccess::Loopback, "nobody listens"), (HostAccess::None, "the host is not there")] {
        let mut lan = Lan::new(&UserSettings { host_access, ..settings() }, 0);
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        for gateway in [GATEWAY.into(), GATEWAY6.into()] {
            let handle = lan.connect((gateway, port));
            lan.until(why, |lan| (lan.socket(handle).state() == State::Closed).then_some(()));
            assert_eq!(lan.net.streams.len(), 0);
        }
    }
}

#[test]
fn streams_of_before_a_restore_are_reset() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    for features in [0, OFFLOADS] {
        let mut lan = Lan::new(&settings(), features);
        let handle = lan.connect((GATEWAY.into(), port));
        lan.until("a stream", |lan| lan.socket(handle).can_send().then_some(()));
        lan.socket(handle).send_slice(b"x").unwrap();
        let (mut outside, _) = listener.accept().unwrap();
        outside.set_nonblocking(true).unwrap();
        lan.until("its first byte", |_| outside.read(&mut [0; 8]).ok());
        let saved = lan.net.save();
        lan.net = UserNet::new(&settings()).unwrap();
        lan.events = Events::new().unwrap();
        lan.net.restore(saved).unwrap();
        lan.net.set_offloads(features).unwrap();
        lan.net.start(&lan.events, TOKEN).unwrap();
        // It only waits for the other end, and hears of it all the same.
        lan.until("a reset", |lan| (lan.socket(handle).state() == State::Closed).then_some(()));
        assert!(lan.net.restore(serde_json::json!({ "mac": "none" })).is_err());
    }
}

fn datagrams(host: &str, gateway: IpAddr) {
    let mut lan = Lan::new(&settings(), 0);
    let [server, stranger] = [0; 2].map(|_| UdpSocket::bind((host, 0)).unwrap());
    let port = server.local_addr().unwrap().port();
    lan.send(SocketAddr::new(gateway, port), b"question");
    lan.turn();
    let mut buffer = [0; 100];
    let (length, from) = server.recv_from(&mut buffer).unwrap();
    assert_eq!(&buffer[..length], b"question");
    stranger.send_to(b"spam", (host, from.port())).unwrap();
    server.send_to(b"answer", from).unwrap();
    assert_eq!(lan.datagram(), (SocketAddr::new(gateway, port), 5555, b"answer".to_vec()));
    lan.turn();
    assert!(lan.card.arrived.is_empty());
}

#[test]
fn datagrams_go_out_and_only_answers_come_in() {
    datagrams("127.0.0.1", GATEWAY.into());
    if has_ipv6() {
        datagrams("::1", GATEWAY6.into());
    }
}

/// Whichever IP the guest and the host's name server speak.
#[test]
fn names_are_asked_of_the_host_s_server() {
    for host in ["127.0.0.1:0", "[::1]:0"] {
        if host.starts_with('[') && !has_ipv6() {
            continue;
        }
        let server = UdpSocket::bind(host).unwrap();
        let name_server = server.local_addr().ok();
        let mut lan = Lan::new(&UserSettings { name_server, ..settings() }, 0);
        for names in ["10.0.2.3:53", "[fd00::3]:53"].map(|names| names.parse().unwrap()) {
            lan.send(names, b"name?");
            lan.turn();
            let mut buffer = [0; 100];
            let (_, from) = server.recv_from(&mut buffer).unwrap();
            server.send_to(b"address", from).unwrap();
            assert_eq!(lan.datagram(), (names, 5555, b"address".to_vec()));
        }
    }
}

/// The sum over a whole message with its pseudo header is zero, RFC 4443, 2.3.
fn is_sound(frame: &[u8]) -> bool {
    let (header, message) = frame[14..].split_at(40);
    let pairs = header[8..].chunks(2).chain(message.chunks(2));
    let mut sum = pairs.map(|pair| u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]))).sum::<u32>();
    sum += u32::from(header[6]) + u32::from(u16::from_be_bytes([header[4], header[5]]));
    (sum & 0xffff) + (sum >> 16) == 0xffff
}

#[test]
fn the_guest_hears_of_the_ipv6_network_when_it_asks_and_now_and_then() {
    let name_server = Some("192.0.2.53:53".parse().unwrap());
    let mut lan = Lan::new(&UserSettings { name_server, ..settings() }, 0);
    let link_local: Ipv6Addr = "fe80::9".parse().unwrap();
    let solicitation = [133, 0, 0, 0, 0, 0, 0, 0];
    assert!(lan.ask(link_local, 64, &solicitation).is_empty(), "one from farther away");
    let heard = lan.ask(link_local, 255, &solicitation);
    let [(said, frame)] = &heard[..] else { panic!("{heard:?}") };
    assert!(is_sound(frame));
    assert_eq!(frame[..12], [&[0x33, 0x33, 0, 0, 0, 1][..], &GATEWAY_MAC].concat());
    assert_eq!(frame[22..38], "fe80::2".parse::<Ipv6Addr>().unwrap().octets());
    assert_eq!((said[0], &said[6..8]), (134, &9000_u16.to_be_bytes()[..]), "a router");
    let option = |kind: u8| said[16..].chunks(8).position(|chunk| chunk[0] == kind).map(|at| &said[16 + 8 * at..]);
    let prefix = option(3).expect("a prefix");
    assert_eq!((&prefix[1..4], &prefix[16..24]), (&[4, 64, 0xc0][..], &[0xfd, 0, 0, 0, 0, 0, 0, 0][..]));
    let names = option(25).expect("a name server");
    assert_eq!(names[8..24], "fd00::3".parse::<Ipv6Addr>().unwrap().octets());

    lan.net.advertised = Some(std::time::Instant::now());
    lan.turn();
    let again = lan.card.arrived.iter().filter_map(|frame| frame::parse(frame));
    assert_eq!(again.filter(|it| matches!(it.payload, Payload::Icmpv6([134, ..], 255))).count(), 1, "unasked");
    assert!(lan.net.advertised.is_some_and(|at| at > std::time::Instant::now()));
    assert!(lan.net.alarm.is_some(), "the timer runs for the next");
}

#[test]
fn the_gateway_is_a_neighbour_that_is_a_router() {
    let mut lan = Lan::new(&settings(), 0);
    let ask = |target: &str| [&[135, 0, 0, 0, 0, 0, 0, 0][..], &target.parse::<Ipv6Addr>().unwrap().octets()].concat();
    for target in ["fe80::2", "fd00::2", "fd00::3"] {
        let heard = lan.ask(GUEST6, 255, &ask(target));
        let [(said, frame)] = &heard[..] else { panic!("{target}: {heard:?}") };
        assert!(is_sound(frame) && frame[..6] == MAC, "{target}");
        assert_eq!((said[0], said[4], &said[24..32]), (136, 0xe0, &[&[2, 1][..], &GATEWAY_MAC].concat()[..]));
    }
    // Somebody wants to take the address, and has none to be told at.
    let heard = lan.ask(Ipv6Addr::UNSPECIFIED, 255, &ask("fd00::2"));
    assert_eq!((heard[0].0[4], heard[0].1[..6].to_vec()), (0xa0, vec![0x33, 0x33, 0, 0, 0, 1]));
    // Addresses of others are theirs, and nobody speaks for them.
    for (target, hops) in [("fd00::15", 255), ("2001:db8::1", 255), ("fd00::2", 1)] {
        assert!(lan.ask(Ipv6Addr::UNSPECIFIED, hops, &ask(target)).is_empty(), "{target}");
    }
    for broken in [&[135, 0][..], &[135, 0, 0, 0, 0, 0, 0, 0, 1], &[135, 1], &[133, 9, 0, 0], &[0, 0, 0, 0]] {
        let padded = [broken, &[0; 2]].concat();
        assert!(lan.ask(GUEST6, 255, &padded).is_empty(), "{broken:?}");
    }
}

#[test]
fn pings_are_answered_by_the_gateway_and_for_nobody_else() {
    let mut lan = Lan::new(&settings(), 0);
    let echo = [128, 0, 0, 0, 0, 1, 0, 1, b'p', b'i', b'n', b'g'];
    for (target, answered) in [("fd00::2", true), ("fd00::3", true), ("2001:db8::1", false)] {
        let target: Ipv6Addr = target.parse().unwrap();
        let ping = frame::message(GATEWAY_MAC, GUEST6, target, echo.to_vec()).unwrap();
        lan.say(&ping);
        lan.turn();
        let frames: Vec<Vec<u8>> = lan.card.arrived.drain(..).collect();
        let answers: Vec<&Vec<u8>> = frames.iter().filter(|frame| frame[54] == 129 && is_sound(frame)).collect();
        assert_eq!(answers.len(), usize::from(answered), "{target}");
        for frame in answers {
            let parsed = frame::parse(frame).unwrap();
            assert_eq!((parsed.source, parsed.target, &frame[..6]), (target.into(), GUEST6.into(), &MAC[..]));
            assert_eq!(frame[58..], echo[4..]);
        }
    }
}

#[test]
fn the_guest_gets_its_address_by_dhcp() {
    let plan = Plan { network: Ipv4Addr::new(10, 0, 2, 0), name_server: None, host_access: HostAccess::None };
    let ask = |options: &[u8]| {
        let mut message = vec![0; 240];
        message[0] = 1;
        message[4..8].copy_from_slice(b"xidx");
        message[236..].copy_from_slice(&[99, 130, 83, 99]);
        message.extend(options);
        dhcp::answer(&plan, &message)
    };
    let offer = ask(&[53, 1, 1, 255]).unwrap();
    assert_eq!((offer[0], &offer[4..8], &offer[16..20], offer[242]), (2, &b"xidx"[..], &GUEST.octets()[..], 2));
    assert_eq!(ask(&[53, 1, 3, 50, 4, 10, 0, 2, 15, 255]).unwrap()[242], 5);
    assert_eq!(ask(&[0, 53, 1, 3, 50, 4, 10, 0, 2, 99, 255]).unwrap()[242], 6, "another address");
    assert_eq!(ask(&[53, 1, 7, 255]), None, "a release");
    for broken in [&[53][..], &[53, 9, 1], &[50, 200, 1, 2], &[]] {
        assert_eq!(ask(broken), None);
    }
    let mut lan = Lan::new(&settings(), 0);
    let mut message = vec![0; 240];
    message[0] = 1;
    message[236..].copy_from_slice(&[99, 130, 83, 99]);
    message.extend([53, 1, 1, 255]);
    lan.send(SocketAddr::new(Ipv4Addr::BROADCAST.into(), 67), &message);
    let (from, port, answer) = lan.datagram();
    assert_eq!((from, port, answer[242]), (SocketAddr::new(GATEWAY.into(), 67), 68, 2));
}

#[test]
fn forwarded_ports_lead_to_the_guest() {
    forwarded("127.0.0.1:0");
    if has_ipv6() {
        forwarded("[::1]:0");
    }
}

/// Wherever the host listens, the guest is reached by IPv4, which its services have.
fn forwarded(host: &str) {
    let any: SocketAddr = host.parse().unwrap();
    let forward = |protocol| Forward { protocol, host: any, guest_port: 80 };
    let forwards = vec![forward(Protocol::Tcp), forward(Protocol::Udp)];
    let mut lan = Lan::new(&UserSettings { forwards, ..settings() }, 0);
    let handle = lan.new_socket();
    lan.socket(handle).listen(80).unwrap();
    let mut client = TcpStream::connect(lan.net.listeners.address(0)).unwrap();
    client.write_all(b"GET").unwrap();
    let got = lan.until("the request", |lan| {
        let socket = lan.socket(handle);
        socket.can_recv().then(|| socket.recv(|bytes| (bytes.len(), bytes.to_vec())).unwrap())
    });
    assert_eq!(got, b"GET");
    lan.socket(handle).send_slice(b"200").unwrap();
    lan.socket(handle).close();
    client.shutdown(std::net::Shutdown::Write).unwrap();
    lan.until("the end", |lan| {
        (!matches!(lan.socket(handle).state(), State::Established | State::FinWait1)).then_some(())
    });
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "200");

    let client = UdpSocket::bind(any).unwrap();
    client.send_to(b"ping", lan.net.listeners.address(1)).unwrap();
    let (from, port, data) = lan.datagram();
    assert_eq!((from.ip(), port, &data[..]), (GATEWAY.into(), 80, &b"ping"[..]));
    let reply = frame::datagram(MAC, SocketAddr::new(GUEST.into(), 80), from, b"pong").unwrap();
    lan.card.sent.push_back(reply[HEADER_BYTES..].to_vec());
    lan.turn();
    client.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut buffer = [0; 10];
    assert_eq!(client.recv(&mut buffer).unwrap(), 4);
    lan.net.stop(&lan.events);
    lan.net.start(&lan.events, TOKEN).unwrap();
    client.send_to(b"again", lan.net.listeners.address(1)).unwrap();
    assert_eq!(lan.datagram().2, b"again", "after a reset");
}

#[test]
fn a_port_that_is_taken_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let forward = Forward { protocol: Protocol::Tcp, host: taken.local_addr().unwrap(), guest_port: 22 };
    let error = UserNet::new(&UserSettings { forwards: vec![forward], ..settings() }).err().unwrap();
    assert!(error.to_string().contains(&taken.local_addr().unwrap().to_string()), "{error}");
}

#[test]
fn where_the_guest_may_go() {
    let name_server = Some("192.0.2.53:53".parse().unwrap());
    let plan = Plan { network: Ipv4Addr::new(10, 0, 2, 0), name_server, host_access: HostAccess::None };
    let open = Plan { host_access: HostAccess::Loopback, ..plan };
    let check = |plan: Plan, target: &str, outside: Option<&str>| {
        assert_eq!(plan.outside(target.parse().unwrap()), outside.map(|it| it.parse().unwrap()), "{target}");
    };
    check(plan, "198.51.100.7:443", Some("198.51.100.7:443"));
    check(plan, "10.0.2.3:53", Some("192.0.2.53:53"));
    check(plan, "10.0.2.3:80", None);
    check(plan, "10.0.2.2:22", None);
    check(open, "10.0.2.2:22", Some("127.0.0.1:22"));
    for nowhere in ["127.0.0.1:22", "10.0.2.77:1", "255.255.255.255:1", "224.0.0.1:1", "0.0.0.0:1"] {
        check(open, nowhere, None);
    }
    check(plan, "[2001:db8::7]:443", Some("[2001:db8::7]:443"));
    check(plan, "[fd00::3]:53", Some("192.0.2.53:53"));
    check(plan, "[fd00::3]:80", None);
    check(plan, "[fd00::2]:22", None);
    check(open, "[fd00::2]:22", Some("[::1]:22"));
    for nowhere in [
        "[::1]:22",
        "[::]:22",
        "[fd00::77]:1",
        "[fe80::2]:22",
        "[fe80::77]:1",
        "[ff02::1]:1",
        "[::ffff:127.0.0.1]:22",
        "[::ffff:198.51.100.7]:1",
        "[::127.0.0.1]:22",
    ] {
        check(open, nowhere, None);
    }
    assert_eq!(host_name_server("nameserver fe80::1%eth0\nnameserver 2001:db8::1"), "[2001:db8::1]:53".parse().ok());
    assert_eq!(host_name_server("# x\nsearch a\nnameserver 192.0.2.1\nnameserver ::1\n"), "192.0.2.1:53".parse().ok());
    assert_eq!(host_name_server(""), None);
}
