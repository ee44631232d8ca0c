//! One stream, and its books.
//!
//! ```text
//! to the host   peer sends at most BUFFER - (received - forwarded) bytes; what the host's socket does not take at once is held
//! to the guest  we send at most peer_buffer - (sent - peer_forwarded) bytes; what is not sent stays in the host's socket
//! ```

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::num::Wrapping;
use std::os::unix::net::UnixStream;

use hv::vectored;
use rustix::io::Errno;

use super::packet::{Packet, SHUTDOWN_RECEIVE, SHUTDOWN_SEND};
use crate::events::Watch;
use crate::queue::{Reader, Writer};

/// Bytes held for each stream on its way to the host.
pub(super) const BUFFER: u32 = 256 << 10;
/// Where the guest's credit is that low, it is told of new credit without asking.
const LOW_CREDIT: u32 = BUFFER / 2;
/// The longest greeting, "CONNECT 4294967295\n".
const LONGEST_GREETING: usize = 32;

/// How far a stream has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// A program of the host has connected and not yet said where to.
    Greeting,
    /// The guest was asked.
    Requested,
    /// Bytes flow.
    Open,
}

/// What a look at the host's socket gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Bytes.
    Data(usize),
    /// Nothing now.
    Nothing,
    /// The host's program will send no more.
    End,
    /// The socket is broken.
    Broken,
}

/// A stream.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) stream: UnixStream,
    pub(super) stage: Stage,
    pub(super) host_port: u32,
    pub(super) guest_port: u32,
    greeting: Vec<u8>,
    /// Bytes of the guest that the host's socket has not taken yet.
    held: VecDeque<u8>,
    received: Wrapping<u32>,
    forwarded: Wrapping<u32>,
    /// What we forwarded when the guest was last told.
    told: Wrapping<u32>,
    sent: Wrapping<u32>,
    peer_buffer: u32,
    peer_forwarded: Wrapping<u32>,
    /// The guest's own shutdown, `SHUTDOWN_*`.
    pub(super) guest_done: u32,
    /// The host's program will send no more, and the guest has been told.
    pub(super) host_done: bool,
    pub(super) watch: Watch,
}

impl Connection {
    pub(super) fn new(stream: UnixStream, stage: Stage, host_port: u32, guest_port: u32) -> Self {
        Self {
            stream,
            stage,
            host_port,
            guest_port,
            greeting: Vec::new(),
            held: VecDeque::new(),
            received: Wrapping(0),
            forwarded: Wrapping(0),
            told: Wrapping(0),
            sent: Wrapping(0),
            peer_buffer: 0,
            peer_forwarded: Wrapping(0),
            guest_done: 0,
            host_done: false,
            watch: Watch::default(),
        }
    }

    /// Takes the guest's books over from a packet of it.
    pub(super) fn heard(&mut self, packet: &Packet) {
        self.peer_buffer = packet.buffer;
        self.peer_forwarded = Wrapping(packet.forwarded);
    }

    /// Bytes that the guest can take now.
    pub(super) fn credit(&self) -> usize {
        let on_the_way = (self.sent - self.peer_forwarded).0;
        self.peer_buffer.saturating_sub(on_the_way) as usize
    }

    /// Our books, for a packet to the guest.
    pub(super) fn books(&mut self) -> (u32, u32) {
        self.told = self.forwarded;
        (BUFFER, self.forwarded.0)
    }

    /// Whether the guest should be told of new credit without asking.
    pub(super) fn owes_credit(&self) -> bool {
        let known = BUFFER.saturating_sub((self.received - self.told).0);
        known < LOW_CREDIT && self.told != self.forwarded
    }

    /// Reads the greeting on; gives the port when it is whole, and an error when it is none.
    pub(super) fn read_greeting(&mut self) -> Result<Option<u32>, ()> {
        let mut byte = [0; 1];
        while self.greeting.len() < LONGEST_GREETING {
            // Byte by byte, since what follows the line belongs to the stream.
            match self.stream.read(&mut byte) {
                Ok(1) if byte == *b"\n" => return self.greeted().map(Some).ok_or(()),
                Ok(1) => self.greeting.push(byte[0]),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                _ => return Err(()),
            }
        }
        Err(())
    }

    fn greeted(&self) -> Option<u32> {
        let line = std::str::from_utf8(&self.greeting).ok()?;
        let (word, port) = line.trim_end_matches('\r').split_once(' ')?;
        if word.eq_ignore_ascii_case("connect") { port.trim().parse().ok() } else { None }
    }

    /// Answers the greeting: the stream is open. A socket that can't take these few bytes is broken.
    pub(super) fn answer_greeting(&mut self) -> bool {
        self.stream.write_all(format!("OK {}\n", self.host_port).as_bytes()).is_ok()
    }

    /// Takes bytes of the guest: to the socket what it takes, the rest is held. None if the guest overruns its credit.
    pub(super) fn take(&mut self, reader: &mut Reader<'_>, length: u32) -> Option<()> {
        let waiting = (self.received - self.forwarded).0;
        if length > BUFFER.saturating_sub(waiting) {
            return None;
        }
        self.received += Wrapping(length);
        let mut left = length as usize;
        if self.held.is_empty() {
            let slices = reader.clone().slices(left);
            let done = match vectored::write(&self.stream, &[], &slices) {
                Ok(done) => done,
                Err(Errno::AGAIN | Errno::INTR) => 0,
                Err(_) => return self.swallow(length),
            };
            reader.skip(done);
            self.forward(done);
            left -= done;
        }
        self.held.extend(reader.rest(left));
        Some(())
    }

    /// The host's program reads no more: its bytes are gone, as in a socket.
    fn swallow(&mut self, length: u32) -> Option<()> {
        self.forwarded += Wrapping(length);
        Some(())
    }

    /// Passes on what is held, as far as the socket takes it. None if it is broken.
    pub(super) fn flush(&mut self) -> Option<()> {
        while !self.held.is_empty() {
            match self.stream.write(self.held.as_slices().0) {
                Ok(done) => {
                    self.held.drain(..done);
                    self.forward(done);
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Some(()),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => return None,
            }
        }
        if self.guest_done & SHUTDOWN_SEND != 0 {
            // A socket whose other end is gone already.
            let _gone = self.stream.shutdown(std::net::Shutdown::Write);
        }
        Some(())
    }

    fn forward(&mut self, bytes: usize) {
        self.forwarded += Wrapping(u32::try_from(bytes).unwrap_or(u32::MAX));
    }

    pub(super) fn holds(&self) -> bool {
        !self.held.is_empty()
    }

    /// Reads from the socket behind a header, as much as the guest can take.
    pub(super) fn read(&mut self, writer: &mut Writer<'_>) -> Outcome {
        let mut room = writer.clone();
        room.skip(super::packet::HEADER_BYTES);
        let length = room.remaining().min(self.credit());
        match vectored::read(&self.stream, &mut [], &room.slices(length)) {
            Ok(0) => Outcome::End,
            Ok(done) => {
                self.sent += Wrapping(u32::try_from(done).unwrap_or(u32::MAX));
                Outcome::Data(done)
            }
            Err(Errno::AGAIN | Errno::INTR) => Outcome::Nothing,
            Err(_) => Outcome::Broken,
        }
    }

    /// Whether the guest takes bytes of the host now.
    pub(super) fn can_receive(&self) -> bool {
        self.stage == Stage::Open && !self.host_done && self.guest_done & SHUTDOWN_RECEIVE == 0 && self.credit() > 0
    }
}
