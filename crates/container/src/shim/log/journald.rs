//! Lines to systemd's journal, one datagram each.
//!
//! # Source
//! systemd.io, "Native Journal Protocol": fields are `NAME=value\\n`, or `NAME\\n`, the value's length as u64le, the value and a line
//! feed where the value may have line feeds of its own.

use super::Line;
use crate::shim::poll::Stream;
use rustix::fs::{MemfdFlags, SealFlags};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

/// The journal's socket and what goes with every line.
#[derive(Debug)]
pub(super) struct Journal {
    socket: OwnedFd,
    fields: Vec<u8>,
    complained: bool,
}

impl Journal {
    /// Reaches the journal.
    pub(super) fn open(path: &Path, fields: &[(String, String)]) -> std::io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None)?;
        rustix::net::connect(&socket, &SocketAddrUnix::new(path)?).map_err(|errno| {
            let text = format!("journald is not enabled on this host: {}: {errno}", path.display());
            std::io::Error::other(text)
        })?;
        let mut bytes = Vec::new();
        for (name, value) in fields {
            field(&mut bytes, name, value.as_bytes());
        }
        Ok(Self { socket, fields: bytes, complained: false })
    }

    /// Sends a line. One that the journal has no room for is lost: it would have to wait for it.
    pub(super) fn add(&mut self, line: &Line<'_>) {
        let priority = match line.stream {
            Stream::Stdout => "6",
            Stream::Stderr => "3",
        };
        let mut datagram = Vec::with_capacity(self.fields.len() + line.text.len() + 64);
        field(&mut datagram, "MESSAGE", line.bare());
        field(&mut datagram, "PRIORITY", priority.as_bytes());
        if !line.text.ends_with(b"\n") {
            field(&mut datagram, "CONTAINER_PARTIAL_MESSAGE", b"true");
        }
        datagram.extend_from_slice(&self.fields);
        let sent = match rustix::net::send(&self.socket, &datagram, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
            Err(Errno::MSGSIZE | Errno::NOBUFS) => self.by_file(&datagram),
            other => other.map(drop),
        };
        if let (Err(errno), false) = (sent, self.complained) {
            self.complained = true;
            super::super::complain(&format!("journald: {errno}; lines are lost"));
        }
    }

    /// What is too long for a datagram goes as a sealed file.
    fn by_file(&self, datagram: &[u8]) -> rustix::io::Result<()> {
        let file = rustix::fs::memfd_create("line", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        let mut rest = datagram;
        while !rest.is_empty() {
            let count = rustix::io::write(&file, rest)?;
            rest = rest.get(count..).unwrap_or_default();
        }
        let all = SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE | SealFlags::SEAL;
        rustix::fs::fcntl_add_seals(&file, all)?;
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let fds = [file.as_fd()];
        control.push(SendAncillaryMessage::ScmRights(&fds));
        rustix::net::sendmsg(&self.socket, &[], &mut control, SendFlags::NOSIGNAL | SendFlags::DONTWAIT).map(drop)
    }
}

fn field(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    if value.contains(&b'\n') {
        out.push(b'\n');
        out.extend_from_slice(&(value.len() as u64).to_le_bytes());
    } else {
        out.push(b'=');
    }
    out.extend_from_slice(value);
    out.push(b'\n');
}
