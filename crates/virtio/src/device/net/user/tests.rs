use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{ChecksumCapabilities, Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpAddress, IpCidr};

use super::frame::Ipv4 as Payload;
use super::*;

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];
const TOKEN: u64 = 2;
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
const GUEST: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);

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
        interface.update_ip_addrs(|all| all.push(IpCidr::new(IpAddress::Ipv4(GUEST), 24)).unwrap());
        interface.routes_mut().add_default_ipv4_route(GATEWAY).unwrap();
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

    fn connect(&mut self, to: (Ipv4Addr, u16)) -> SocketHandle {
        let handle = self.new_socket();
        let socket = self.sockets.get_mut::<Socket<'_>>(handle);
        socket.connect(self.interface.context(), (IpAddress::Ipv4(to.0), to.1), 40_000 + to.1 % 100).unwrap();
        handle
    }

    /// Sends a datagram from the guest's port 5555.
    fn send(&mut self, target: SocketAddrV4, data: &[u8]) {
        let frame = frame::datagram(MAC, SocketAddrV4::new(GUEST, 5555), target, data).unwrap();
        let mut frame = frame[HEADER_BYTES..].to_vec();
        frame[6..12].copy_from_slice(&MAC);
        self.card.sent.push_back(frame);
    }

    /// The next datagram for the guest: from where, to which port, and what.
    fn datagram(&mut self) -> (SocketAddrV4, u16, Vec<u8>) {
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

fn settings() -> UserSettings {
    UserSettings {
        network: Ipv4Addr::new(10, 0, 2, 0),
        name_server: None,
        host_access: HostAccess::Loopback,
        forwards: Vec::new(),
    }
}

/// A server that gives everything back, and says how much it was when there is no more.
fn echo() -> (u16, std::thread::JoinHandle<usize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
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

fn echoed(features: u64) -> Vec<[u8; HEADER_BYTES]> {
    let (port, server) = echo();
    let mut lan = Lan::new(&settings(), features);
    let handle = lan.connect((GATEWAY, port));
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
    let plain = echoed(0);
    assert!(plain.iter().all(|header| *header == super::super::PLAIN_HEADER));
}

#[test]
fn a_driver_that_takes_large_segments_gets_them() {
    let headers = echoed(OFFLOADS);
    let large = headers.iter().find(|header| header[1] == 1).expect("no large segment");
    assert_eq!((large[0], &large[6..10]), (1, &[34, 0, 16, 0][..]), "the checksum is the driver's");
    assert!(u16::from_le_bytes([large[4], large[5]]) <= 1460);
}

#[test]
fn a_connection_is_refused_as_the_host_s_is() {
    for (host_access, why) in [(HostAccess::Loopback, "nobody listens"), (HostAccess::None, "the host is not there")] {
        let mut lan = Lan::new(&UserSettings { host_access, ..settings() }, 0);
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let handle = lan.connect((GATEWAY, port));
        lan.until(why, |lan| (lan.socket(handle).state() == State::Closed).then_some(()));
        assert_eq!(lan.net.streams.len(), 0);
    }
}

#[test]
fn datagrams_go_out_and_only_answers_come_in() {
    let mut lan = Lan::new(&settings(), 0);
    let [server, stranger] = [0; 2].map(|_| UdpSocket::bind("127.0.0.1:0").unwrap());
    let port = server.local_addr().unwrap().port();
    lan.send(SocketAddrV4::new(GATEWAY, port), b"question");
    lan.turn();
    let mut buffer = [0; 100];
    let (length, from) = server.recv_from(&mut buffer).unwrap();
    assert_eq!(&buffer[..length], b"question");
    stranger.send_to(b"spam", ("127.0.0.1", from.port())).unwrap();
    server.send_to(b"answer", from).unwrap();
    assert_eq!(lan.datagram(), (SocketAddrV4::new(GATEWAY, port), 5555, b"answer".to_vec()));
    lan.turn();
    assert!(lan.card.arrived.is_empty());
}

#[test]
fn names_are_asked_of_the_host_s_server() {
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    let std::net::SocketAddr::V4(address) = server.local_addr().unwrap() else { panic!("an IPv4 socket") };
    let mut lan = Lan::new(&UserSettings { name_server: Some(address), ..settings() }, 0);
    lan.send(SocketAddrV4::new(Ipv4Addr::new(10, 0, 2, 3), 53), b"name?");
    lan.turn();
    let mut buffer = [0; 100];
    let (_, from) = server.recv_from(&mut buffer).unwrap();
    server.send_to(b"address", from).unwrap();
    assert_eq!(lan.datagram(), (SocketAddrV4::new(Ipv4Addr::new(10, 0, 2, 3), 53), 5555, b"address".to_vec()));
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
    lan.send(SocketAddrV4::new(Ipv4Addr::BROADCAST, 67), &message);
    let (from, port, answer) = lan.datagram();
    assert_eq!((from, port, answer[242]), (SocketAddrV4::new(GATEWAY, 67), 68, 2));
}

#[test]
fn forwarded_ports_lead_to_the_guest() {
    let forward = |protocol| Forward { protocol, host: "127.0.0.1:0".parse().unwrap(), guest_port: 80 };
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

    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.send_to(b"ping", lan.net.listeners.address(1)).unwrap();
    let (from, port, data) = lan.datagram();
    assert_eq!((*from.ip(), port, &data[..]), (GATEWAY, 80, &b"ping"[..]));
    let reply = frame::datagram(MAC, SocketAddrV4::new(GUEST, 80), from, b"pong").unwrap();
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
    assert_eq!(host_name_server("# x\nsearch a\nnameserver ::1\nnameserver 192.0.2.1\n"), "192.0.2.1:53".parse().ok());
    assert_eq!(host_name_server(""), None);
}
