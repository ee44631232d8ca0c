//! All streams of a guest: which packet belongs to which, and what waits to be told.

use std::collections::{BTreeMap, VecDeque};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::connection::{Connection, Outcome, Stage};
use super::packet::{Operation, Packet, SHUTDOWN_RECEIVE, SHUTDOWN_SEND, STREAM};
use super::{CONNECTIONS, HOST_CID};
use crate::device::{DeviceError, Metrics};
use crate::events::{Events, Interest};
use crate::queue::{Reader, Writer};

/// Answers that may wait before the guest's packets have to; each packet calls for two at most.
const MOST_WAITING: usize = 1024;
/// Streams at one time: their descriptors are the host's.
const MOST_CONNECTIONS: usize = 1024;
/// Ports of the host for streams that its programs begin.
const FIRST_PORT: u32 = 1 << 30;

/// The table.
#[derive(Debug)]
pub(super) struct Table {
    cid: u64,
    path: PathBuf,
    /// By number; a number is never used again.
    connections: BTreeMap<u64, Connection>,
    /// The number of a stream by its ports, the host's first.
    by_ports: BTreeMap<(u32, u32), u64>,
    next_number: u64,
    next_port: u32,
    /// Packets without data that wait for a buffer of the guest's.
    waiting: VecDeque<Packet>,
    /// Streams whose sockets may have something for the guest.
    readable: VecDeque<u64>,
    opened: u64,
    to_guest: u64,
    to_host: u64,
}

impl Table {
    pub(super) fn new(cid: u64, path: &Path) -> Self {
        Self {
            cid,
            path: path.to_owned(),
            connections: BTreeMap::new(),
            by_ports: BTreeMap::new(),
            next_number: CONNECTIONS,
            next_port: FIRST_PORT,
            waiting: VecDeque::new(),
            readable: VecDeque::new(),
            opened: 0,
            to_guest: 0,
            to_host: 0,
        }
    }

    /// Whether the guest has to read answers before it is listened to again.
    pub(super) fn full(&self) -> bool {
        self.waiting.len() >= MOST_WAITING
    }

    /// Whether there may be something for the guest.
    pub(super) fn has_something(&self) -> bool {
        !self.waiting.is_empty() || !self.readable.is_empty()
    }

    pub(super) fn metrics(&self) -> Metrics {
        Metrics::from([
            ("connections", self.connections.len() as u64),
            ("opened", self.opened),
            ("received_bytes", self.to_guest),
            ("transmitted_bytes", self.to_host),
        ])
    }

    /// A program of the host has connected; it says where to in its first line.
    pub(super) fn greet(&mut self, stream: UnixStream, events: &Events) -> Result<(), DeviceError> {
        if self.connections.len() < MOST_CONNECTIONS && stream.set_nonblocking(true).is_ok() {
            self.insert(Connection::new(stream, Stage::Greeting, 0, 0), events)?;
        }
        Ok(())
    }

    fn insert(&mut self, mut connection: Connection, events: &Events) -> Result<u64, DeviceError> {
        let number = self.next_number;
        self.next_number += 1;
        change(events, number, &mut connection, Interest::IN)?;
        self.connections.insert(number, connection);
        Ok(number)
    }

    fn remove(&mut self, number: u64) {
        if let Some(connection) = self.connections.remove(&number) {
            let ports = (connection.host_port, connection.guest_port);
            if self.by_ports.get(&ports) == Some(&number) {
                self.by_ports.remove(&ports);
            }
        }
    }

    /// A packet to the guest about a stream.
    fn packet(cid: u64, connection: &mut Connection, operation: Operation, flags: u32, length: u32) -> Packet {
        let (buffer, forwarded) = connection.books();
        Packet {
            source_cid: HOST_CID,
            target_cid: cid,
            source_port: connection.host_port,
            target_port: connection.guest_port,
            length,
            kind: STREAM,
            operation,
            flags,
            buffer,
            forwarded,
        }
    }

    fn say(&mut self, number: u64, operation: Operation, flags: u32) {
        if let Some(connection) = self.connections.get_mut(&number) {
            self.waiting.push_back(Self::packet(self.cid, connection, operation, flags, 0));
        }
    }

    /// Ends a stream and tells the guest, if it knows of the stream.
    fn abort(&mut self, number: u64) {
        if self.connections.get(&number).is_some_and(|connection| connection.stage != Stage::Greeting) {
            self.say(number, Operation::Reset, 0);
        }
        self.remove(number);
    }

    /// The guest sends a packet.
    pub(super) fn take(&mut self, packet: &Packet, data: &mut Reader<'_>, events: &Events) -> Result<(), DeviceError> {
        if packet.source_cid != self.cid {
            // It lies about who it is: to be dropped, virtio 1.2, 5.10.6.4.1.
            return Ok(());
        }
        let number = self.by_ports.get(&(packet.target_port, packet.source_port)).copied();
        let usable = packet.target_cid == HOST_CID && packet.kind == STREAM;
        let Some(number) = number.filter(|_| usable) else {
            if usable && packet.operation == Operation::Request && self.connect(packet, events)? {
                return Ok(());
            }
            if packet.operation != Operation::Reset {
                self.refuse(packet);
            }
            return Ok(());
        };
        let Some(connection) = self.connections.get_mut(&number) else { return Ok(()) };
        connection.heard(packet);
        match (packet.operation, connection.stage) {
            (Operation::Response, Stage::Requested) => {
                connection.stage = Stage::Open;
                if connection.answer_greeting() {
                    self.opened += 1;
                    self.readable.push_back(number);
                } else {
                    self.abort(number);
                }
            }
            (Operation::Data, Stage::Open) if connection.guest_done & SHUTDOWN_SEND == 0 => {
                let taken = connection.take(data, packet.length);
                self.to_host += u64::from(packet.length);
                if taken.is_none() {
                    self.abort(number);
                } else {
                    self.settle_books(number, events)?;
                }
            }
            (Operation::Shutdown, Stage::Open) => self.shut(number, packet.flags, events)?,
            (Operation::CreditRequest, Stage::Open) => self.say(number, Operation::CreditUpdate, 0),
            (Operation::CreditUpdate, _) => {}
            (Operation::Reset, _) => self.remove(number),
            _ => self.abort(number),
        }
        if self.connections.get(&number).is_some_and(Connection::can_receive) {
            self.readable.push_back(number);
        }
        Ok(())
    }

    /// The guest will not send, or not receive, any more.
    fn shut(&mut self, number: u64, flags: u32, events: &Events) -> Result<(), DeviceError> {
        let Some(connection) = self.connections.get_mut(&number) else { return Ok(()) };
        connection.guest_done |= flags & (SHUTDOWN_RECEIVE | SHUTDOWN_SEND);
        let whole = connection.guest_done == SHUTDOWN_RECEIVE | SHUTDOWN_SEND;
        if connection.flush().is_none() || whole && !connection.holds() {
            self.abort(number);
            return Ok(());
        }
        self.settle_books(number, events)
    }

    /// Tells the guest of credit, and waits for the socket where it is full.
    fn settle_books(&mut self, number: u64, events: &Events) -> Result<(), DeviceError> {
        let Some(connection) = self.connections.get_mut(&number) else { return Ok(()) };
        if connection.owes_credit() {
            self.waiting.push_back(Self::packet(self.cid, connection, Operation::CreditUpdate, 0, 0));
        }
        let mut wanted = connection.watch.interest();
        wanted.set(Interest::OUT, connection.holds());
        change(events, number, connection, wanted)
    }

    /// The guest connects to a port of the host: somebody has to listen on the socket of that port.
    fn connect(&mut self, packet: &Packet, events: &Events) -> Result<bool, DeviceError> {
        if self.connections.len() >= MOST_CONNECTIONS {
            return Ok(false);
        }
        let mut path = self.path.clone().into_os_string();
        path.push(format!("_{}", packet.target_port));
        let Some(stream) = connect_now(Path::new(&path)) else { return Ok(false) };
        let mut connection = Connection::new(stream, Stage::Open, packet.target_port, packet.source_port);
        connection.heard(packet);
        let number = self.insert(connection, events)?;
        self.by_ports.insert((packet.target_port, packet.source_port), number);
        self.opened += 1;
        self.say(number, Operation::Response, 0);
        Ok(true)
    }

    /// Answers a packet that belongs to no stream.
    fn refuse(&mut self, packet: &Packet) {
        self.waiting.push_back(Packet {
            source_cid: packet.target_cid,
            target_cid: packet.source_cid,
            source_port: packet.target_port,
            target_port: packet.source_port,
            length: 0,
            kind: packet.kind,
            operation: Operation::Reset,
            flags: 0,
            buffer: 0,
            forwarded: 0,
        });
    }

    /// A socket is ready for something.
    pub(super) fn ready(&mut self, number: u64, interest: Interest, events: &Events) -> Result<(), DeviceError> {
        let Some(connection) = self.connections.get_mut(&number) else { return Ok(()) };
        match connection.stage {
            Stage::Greeting => match connection.read_greeting() {
                Ok(Some(port)) => self.request(number, port, events)?,
                Ok(None) => {}
                Err(()) => self.remove(number),
            },
            // Its program went away before the guest answered.
            Stage::Requested if interest.intersects(Interest::HUP | Interest::ERR) => self.abort(number),
            Stage::Requested => {}
            Stage::Open => {
                if interest.contains(Interest::OUT) {
                    let broken = connection.flush().is_none();
                    let whole = connection.guest_done == SHUTDOWN_RECEIVE | SHUTDOWN_SEND;
                    if broken || whole && !connection.holds() {
                        self.abort(number);
                        return Ok(());
                    }
                    self.settle_books(number, events)?;
                }
                if interest.intersects(Interest::IN | Interest::HUP | Interest::ERR) {
                    self.readable.push_back(number);
                }
            }
        }
        Ok(())
    }

    /// A program of the host wants a port of the guest.
    fn request(&mut self, number: u64, port: u32, events: &Events) -> Result<(), DeviceError> {
        let mut host_port = self.next_port;
        while self.by_ports.contains_key(&(host_port, port)) {
            host_port = host_port.wrapping_add(1).max(FIRST_PORT);
        }
        self.next_port = host_port.wrapping_add(1).max(FIRST_PORT);
        let Some(connection) = self.connections.get_mut(&number) else { return Ok(()) };
        (connection.stage, connection.host_port, connection.guest_port) = (Stage::Requested, host_port, port);
        change(events, number, connection, Interest::empty())?;
        self.by_ports.insert((host_port, port), number);
        self.say(number, Operation::Request, 0);
        Ok(())
    }

    /// Writes the next packet for the guest; there may be none after all.
    pub(super) fn give(&mut self, writer: &mut Writer<'_>) -> bool {
        if let Some(packet) = self.waiting.pop_front() {
            packet.write(writer);
            return true;
        }
        let Some(number) = self.readable.pop_front() else { return false };
        let Some(connection) = self.connections.get_mut(&number).filter(|connection| connection.can_receive()) else {
            return false;
        };
        match connection.read(writer) {
            Outcome::Nothing => false,
            Outcome::Data(length) => {
                self.to_guest += length as u64;
                let length = u32::try_from(length).unwrap_or(u32::MAX);
                Self::packet(self.cid, connection, Operation::Data, 0, length).write(writer);
                writer.skip(length as usize);
                self.readable.push_back(number);
                true
            }
            Outcome::End if connection.guest_done & SHUTDOWN_SEND == 0 => {
                connection.host_done = true;
                Self::packet(self.cid, connection, Operation::Shutdown, SHUTDOWN_SEND, 0).write(writer);
                true
            }
            Outcome::End | Outcome::Broken => {
                Self::packet(self.cid, connection, Operation::Reset, 0, 0).write(writer);
                self.remove(number);
                true
            }
        }
    }

    /// Watches the sockets that the guest can receive from, and no others.
    pub(super) fn watch(&mut self, events: &Events, room: bool) -> Result<(), DeviceError> {
        for (number, connection) in &mut self.connections {
            let mut wanted = connection.watch.interest();
            let reads = connection.stage == Stage::Greeting || room && connection.can_receive();
            wanted.set(Interest::IN, reads);
            change(events, *number, connection, wanted)?;
        }
        Ok(())
    }
}

/// Watches a stream's socket for something else.
fn change(events: &Events, number: u64, connection: &mut Connection, wanted: Interest) -> Result<(), DeviceError> {
    let outcome = connection.watch.set(events, &connection.stream, number, wanted);
    outcome.map_err(DeviceError::host("epoll_ctl"))
}

/// Connects without waiting: a listener whose queue is full refuses.
fn connect_now(path: &Path) -> Option<UnixStream> {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
    let address = SocketAddrUnix::new(path).ok()?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).ok()?;
    let outcome: Result<(), Errno> = connect(&socket, &address);
    outcome.ok()?;
    Some(socket.into())
}
