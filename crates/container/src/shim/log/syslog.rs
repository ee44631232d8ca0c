//! Lines to a syslog server.
//!
//! # Source
//! RFC 3164, RFC 5424; the formats are those that dockerd's syslog driver sends.

use super::Line;
use crate::shim::poll::Stream;
use control::{Syslog, SyslogAddress, SyslogFormat};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType};
use std::io;
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::time::Duration;

/// So many bytes are held back for a server that takes none; beyond, lines are lost.
const BUFFER: usize = 1 << 20;
/// How long reaching a server may take.
const CONNECT: Duration = Duration::from_secs(5);
/// How long a server that went away is left alone, in milliseconds.
const RETRY_MS: u64 = 1000;
const ERROR: u8 = 3;
const INFO: u8 = 6;

/// A connection to a server, or the memory of one.
#[derive(Debug)]
pub(super) struct Sender {
    config: Syslog,
    socket: Option<Socket>,
    /// Lines that are still to be sent, each with its length before it.
    unsent: std::collections::VecDeque<Vec<u8>>,
    held: usize,
    /// How much of the first one a stream has taken.
    done: usize,
    retry_at_ms: u64,
    complained: bool,
}

#[derive(Debug)]
enum Socket {
    Datagrams(OwnedFd),
    Stream(OwnedFd),
}

impl Sender {
    /// Reaches the server.
    pub(super) fn open(config: Syslog) -> io::Result<Self> {
        let socket = Some(connect(&config.address)?);
        let unsent = std::collections::VecDeque::new();
        Ok(Self { config, socket, unsent, held: 0, done: 0, retry_at_ms: 0, complained: false })
    }

    pub(super) fn has_unsent(&self) -> bool {
        !self.unsent.is_empty()
    }

    /// Takes a line.
    pub(super) fn add(&mut self, line: &Line<'_>) {
        let text = self.worded(line);
        if self.held + text.len() > BUFFER {
            self.complain("it takes too little; lines are lost");
            return;
        }
        self.held += text.len();
        self.unsent.push_back(text);
    }

    fn worded(&self, line: &Line<'_>) -> Vec<u8> {
        let Syslog { facility, tag, hostname, .. } = &self.config;
        let severity = match line.stream {
            Stream::Stdout => INFO,
            Stream::Stderr => ERROR,
        };
        let (priority, pid) = (u16::from(*facility) * 8 + u16::from(severity), std::process::id());
        let mut text = match self.config.format {
            SyslogFormat::Local => format!("<{priority}>{} {tag}[{pid}]: ", line.time.stamp()),
            SyslogFormat::Rfc3164 => format!("<{priority}>{} {hostname} {tag}[{pid}]: ", line.time.stamp()),
            SyslogFormat::Rfc5424 => {
                format!("<{priority}>1 {} {hostname} {tag} {pid} {tag} - ", line.time.rfc3339(0))
            }
            SyslogFormat::Rfc5424Micro => {
                format!("<{priority}>1 {} {hostname} {tag} {pid} {tag} - ", line.time.rfc3339(6))
            }
        }
        .into_bytes();
        text.extend_from_slice(line.bare());
        text.push(b'\n');
        text
    }

    /// Sends what the server takes now.
    pub(super) fn push(&mut self) {
        while let Some(first) = self.unsent.front() {
            let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
            let sent = match &self.socket {
                None => {
                    self.reconnect();
                    if self.socket.is_none() {
                        return;
                    }
                    continue;
                }
                Some(Socket::Datagrams(socket)) => rustix::net::send(socket, first, flags).map(|_| first.len()),
                Some(Socket::Stream(socket)) => {
                    rustix::net::send(socket, first.get(self.done..).unwrap_or_default(), flags)
                }
            };
            match sent {
                Ok(count) => self.taken(count),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN | Errno::NOBUFS) => return,
                // nobody listens there at present, which a datagram learns from the one before
                Err(Errno::CONNREFUSED) if matches!(self.socket, Some(Socket::Datagrams(_))) => {
                    self.taken(usize::MAX);
                }
                Err(Errno::MSGSIZE) => self.taken(usize::MAX),
                Err(errno) => {
                    self.complain(&errno.to_string());
                    self.socket = None;
                    // what a stream took of a line went with it
                    self.done = 0;
                }
            }
        }
    }

    fn taken(&mut self, count: usize) {
        self.done = self.done.saturating_add(count);
        if self.unsent.front().is_some_and(|first| self.done >= first.len()) {
            self.done = 0;
            self.held -= self.unsent.pop_front().map_or(0, |first| first.len());
        }
    }

    fn reconnect(&mut self) {
        let now = crate::shim::now_ms();
        if now < self.retry_at_ms {
            return;
        }
        self.retry_at_ms = now + RETRY_MS;
        // a server of the network may take long to refuse; the container would stand still meanwhile
        let quick = match &self.config.address {
            SyslogAddress::Tcp(address) => TcpStream::connect_timeout(address, Duration::from_millis(200))
                .and_then(|stream| stream.set_nonblocking(true).map(|()| Socket::Stream(stream.into()))),
            other => connect(other),
        };
        match quick {
            Ok(socket) => (self.socket, self.complained) = (Some(socket), false),
            Err(error) => self.complain(&error.to_string()),
        }
    }

    /// The container has ended: what is left has one moment more.
    pub(super) fn finish(&mut self) {
        for _ in 0..20 {
            self.push();
            if self.unsent.is_empty() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn complain(&mut self, why: &str) {
        if !self.complained {
            self.complained = true;
            crate::shim::complain(&format!("syslog {:?}: {why}", self.config.address));
        }
    }
}

fn connect(address: &SyslogAddress) -> io::Result<Socket> {
    let failed = |what: String| move |error: io::Error| io::Error::new(error.kind(), format!("{what}: {error}"));
    match address {
        SyslogAddress::Udp(address) => {
            let local = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            let reach = || {
                let socket = std::net::UdpSocket::bind(local)?;
                socket.connect(address)?;
                socket.set_nonblocking(true)?;
                Ok(Socket::Datagrams(socket.into()))
            };
            reach().map_err(failed(format!("dial udp {address}")))
        }
        SyslogAddress::Tcp(address) => {
            let reach = || {
                let stream = TcpStream::connect_timeout(address, CONNECT)?;
                stream.set_nonblocking(true)?;
                Ok(Socket::Stream(stream.into()))
            };
            reach().map_err(failed(format!("dial tcp {address}")))
        }
        SyslogAddress::Unix(path) => {
            let reach = |kind| {
                let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
                let socket = rustix::net::socket_with(AddressFamily::UNIX, kind, flags, None)?;
                rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
                Ok::<_, Errno>(socket)
            };
            match reach(SocketType::DGRAM) {
                Err(Errno::PROTOTYPE) => reach(SocketType::STREAM).map(Socket::Stream),
                other => other.map(Socket::Datagrams),
            }
            .map_err(|errno| failed(format!("dial unix {}", path.display()))(errno.into()))
        }
    }
}
