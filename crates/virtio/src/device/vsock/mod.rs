//! Socket device: streams between programs in the guest and programs on the host, over unix sockets.
//!
//! ```text
//! host to guest   connect to PATH, say "CONNECT port\n", read "OK host-port\n", then the stream
//! guest to host   the guest connects to CID 2 and a port; somebody listens on PATH_port
//! ```
//!
//! A packet is a header of 44 bytes and, for data, what follows it. Each side says how many bytes it holds for a stream, so
//! neither overruns the other: [`connection`] keeps the books.
//!
//! # Source
//! Virtio 1.2, 5.10 "Socket Device".

mod connection;
mod packet;
mod table;
#[cfg(test)]
mod tests;

use std::io;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use super::{Device, DeviceError, Kind, Metrics, Running, Wake, read_space};
use crate::events::Interest;
use packet::{Operation, Packet};
use table::Table;

const QUEUE_SIZE: u16 = 256;
const RECEIVE: u16 = 0;
const TRANSMIT: u16 = 1;
const EVENT: u16 = 2;
/// The host's address.
pub const HOST_CID: u64 = 2;
/// The smallest address that a guest can have.
pub const FIRST_GUEST_CID: u64 = 3;

/// Token of the listening socket; connections have theirs from [`CONNECTIONS`] on.
const LISTENER: u64 = 0;
const CONNECTIONS: u64 = 1;
/// The event "all connections are gone", virtio 1.2, 5.10.6.7.
const TRANSPORT_RESET: [u8; 4] = [0; 4];

/// The socket that programs of the host connect to can't be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {}", path.display())]
pub struct ListenError {
    path: PathBuf,
    source: io::Error,
}

/// Listens on `path`; a socket that a killed machine has left there makes room.
fn listen(path: &Path) -> io::Result<UnixListener> {
    let error = match UnixListener::bind(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => error,
        outcome => return outcome,
    };
    let socket = std::fs::symlink_metadata(path)?.file_type().is_socket();
    let refused = |error: io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
    if !socket || !UnixStream::connect(path).is_err_and(refused) {
        return Err(error);
    }
    std::fs::remove_file(path)?;
    UnixListener::bind(path)
}

/// The device.
#[derive(Debug)]
pub struct Vsock {
    cid: u64,
    listener: UnixListener,
    path: PathBuf,
    table: Table,
    /// Whether the guest has to be told that its connections did not survive.
    lost: bool,
}

impl Vsock {
    /// A device for the guest `cid`, listening on `path` for programs of the host. The socket's file goes with the device.
    ///
    /// # Errors
    /// The socket can't be made: somebody listens there, or a file of that name is in the way.
    pub fn new(cid: u64, path: &Path) -> Result<Self, ListenError> {
        let failed = |source| ListenError { path: path.to_owned(), source };
        let listener = listen(path).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let table = Table::new(cid, path);
        Ok(Self { cid, listener, path: path.to_owned(), table, lost: false })
    }

    /// Takes the guest's packets, as long as there is room for what they call for.
    fn transmit(&mut self, running: &mut Running) -> Result<(), DeviceError> {
        let memory = running.memory.clone();
        let events = std::sync::Arc::clone(&running.events);
        let Some(queue) = running.queue(TRANSMIT) else { return Ok(()) };
        while !self.table.full() {
            let Some(chain) = queue.pop()? else { break };
            let mut reader = chain.reader(&memory);
            let packet = Packet::read(&mut reader).ok_or(DeviceError::Protocol("a socket packet without a header"))?;
            if packet.operation == Operation::Data && reader.remaining() < packet.length as usize {
                return Err(DeviceError::Protocol("a socket packet is shorter than it says"));
            }
            self.table.take(&packet, &mut reader, &events)?;
            queue.complete(chain.head(), 0)?;
        }
        queue.signal()?;
        Ok(())
    }

    /// Gives the guest what waits for it, as far as it has room.
    fn receive(&mut self, running: &mut Running) -> Result<(), DeviceError> {
        let memory = running.memory.clone();
        let events = std::sync::Arc::clone(&running.events);
        let Some(queue) = running.queue(RECEIVE) else { return Ok(()) };
        let mut room = true;
        while self.table.has_something() {
            let Some(chain) = queue.pop()? else {
                room = false;
                break;
            };
            let mut writer = chain.writer(&memory);
            if writer.remaining() <= packet::HEADER_BYTES {
                return Err(DeviceError::Protocol("a socket receive buffer has no room for a packet"));
            }
            if self.table.give(&mut writer) {
                queue.complete(chain.head(), writer.written())?;
            } else {
                queue.unpop();
            }
        }
        queue.signal()?;
        self.table.watch(&events, room)
    }

    fn both(&mut self, running: &mut Running) -> Result<(), DeviceError> {
        self.transmit(running)?;
        self.receive(running)?;
        // What the guest sent and had to wait because it did not read.
        if self.table.full() { Ok(()) } else { self.transmit(running) }
    }

    fn accept(&mut self, running: &mut Running) -> Result<(), DeviceError> {
        while let Ok((stream, _)) = self.listener.accept() {
            self.table.greet(stream, &running.events)?;
        }
        Ok(())
    }

    /// Tells the guest that its connections are gone, as soon as it has room for that.
    fn tell_loss(&mut self, running: &mut Running) -> Result<(), DeviceError> {
        let memory = running.memory.clone();
        let Some(queue) = running.queue(EVENT).filter(|_| self.lost) else { return Ok(()) };
        if let Some(chain) = queue.pop()? {
            let mut writer = chain.writer(&memory);
            writer.write_all(&TRANSPORT_RESET);
            queue.complete(chain.head(), writer.written())?;
            queue.signal()?;
            self.lost = false;
        }
        Ok(())
    }
}

impl Device for Vsock {
    fn kind(&self) -> Kind {
        Kind::Vsock
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE; 3]
    }

    fn read_config(&self, offset: u64, into: &mut [u8]) {
        read_space(&self.cid.to_le_bytes(), offset, into);
    }

    fn activate(&mut self, running: &mut Running) -> Result<(), DeviceError> {
        running.events.add(&self.listener, LISTENER, Interest::IN).map_err(DeviceError::host("epoll_ctl"))?;
        self.tell_loss(running)
    }

    fn serve(&mut self, running: &mut Running, wake: Wake) -> Result<(), DeviceError> {
        match wake {
            Wake::Source(LISTENER, _) => self.accept(running)?,
            Wake::Source(token, interest) => self.table.ready(token, interest, &running.events)?,
            Wake::Queue(EVENT) => return self.tell_loss(running),
            Wake::Queue(_) => {}
        }
        self.both(running)
    }

    fn reset(&mut self, running: &Running) {
        running.events.remove(&self.listener);
        self.table = Table::new(self.cid, &self.path);
    }

    fn restore(&mut self, _state: serde_json::Value) -> Result<(), serde_json::Error> {
        self.lost = true;
        Ok(())
    }

    fn metrics(&self) -> Metrics {
        self.table.metrics()
    }
}

impl Drop for Vsock {
    fn drop(&mut self) {
        // Somebody may have removed it already.
        let _gone = std::fs::remove_file(&self.path);
    }
}
