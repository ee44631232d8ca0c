//! What the engine and the helper say to each other.
//!
//! ```text
//! frame = length u32 (little endian), JSON; descriptors come with the first byte
//! ```
//! Each request has one reply, in order.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::dns::{Names, NetworkNames, View};
use crate::firewall::{NetworkRules, Publication, Published, Rules};

/// The longest frame that is accepted, in bytes.
const FRAME_MAX: usize = 16 << 20;
/// The most descriptors that come with one frame.
const DESCRIPTORS_MAX: usize = 8;

/// What the helper is to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", content = "with", rename_all = "snake_case")]
pub enum Request {
    /// All of these, in order, up to the first that fails; descriptors are taken in order too.
    All(Vec<Request>),
    /// The packet filter says this and nothing else, as after the engine's start.
    SetRules(Rules),
    /// A network comes, or changes.
    SetNetworkRules {
        /// Its bridge.
        bridge: String,
        /// What holds for it.
        rules: NetworkRules,
    },
    /// A network goes.
    RemoveNetworkRules {
        /// Its bridge.
        bridge: String,
    },
    /// Ports are published.
    Publish(Published),
    /// Ports are no longer published; connections through them are forgotten.
    Unpublish(Published),
    /// Ports of the host are kept from other programs; all or none.
    ///
    /// A TCP port at an IPv6 address also answers what no rule can redirect: connections from ::1, and, where the
    /// container's side is an IPv4 address, every connection over IPv6. So a port that is published on every address for
    /// a container with IPv4 only is two: host none, and host `::`, both to the IPv4 address.
    Reserve {
        /// Who wants them; what it had is kept too.
        owner: String,
        /// The ports; the container's side does not matter.
        ports: Published,
    },
    /// The ports of an owner are free again.
    Release {
        /// Who had them.
        owner: String,
    },
    /// The names of a network are these and no others.
    SetNetworkNames {
        /// The network, under which containers see it too (`web.shop`).
        network: String,
        /// Its names.
        names: NetworkNames,
    },
    /// A network has no names any more.
    RemoveNetworkNames {
        /// The network.
        network: String,
    },
    /// A container has these names in a network.
    SetNames {
        /// The network.
        network: String,
        /// The container, by a word of the caller's choice.
        container: String,
        /// Its names.
        names: Names,
    },
    /// A container has no names in a network any more.
    RemoveNames {
        /// The network.
        network: String,
        /// The container.
        container: String,
    },
    /// A namespace gets a resolver. With it come the namespace's descriptor and, where the resolver is to go when a
    /// process does, that process's descriptor (pidfd).
    Attach {
        /// The container.
        container: String,
        /// What it may ask.
        view: View,
    },
    /// What an attached container may ask changes, as when it joins a network.
    SetView {
        /// The container.
        container: String,
        /// What it may ask from now on.
        view: View,
    },
    /// An attached container's resolver is to go when a process does, whose descriptor (pidfd) comes with it: that of a
    /// process that was not there yet when the container was attached.
    SetOwner {
        /// The container.
        container: String,
    },
    /// The resolver of a container goes. Its sockets would keep the namespace.
    Detach {
        /// The container.
        container: String,
    },
    /// What is there.
    Status,
    /// The helper ends; the packet filter stays as it is.
    Stop,
}

/// What the helper answers.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Reply {
    /// Why it was not done.
    pub error: Option<String>,
    /// What is there, to [`Request::Status`].
    pub status: Option<Status>,
    /// The port that could not be had, to [`Request::Reserve`].
    #[serde(default)]
    pub port: Option<Publication>,
}

/// What the helper has.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Status {
    /// The helper's version.
    pub version: String,
    /// The table of the packet filter, in family inet.
    #[serde(default)]
    pub table: String,
    /// The containers with a resolver.
    pub attached: Vec<String>,
    /// Who keeps ports from other programs.
    #[serde(default)]
    pub owners: Vec<String>,
    /// How many ports are published.
    pub published: usize,
    /// How many ports are kept from other programs.
    pub reserved: usize,
    /// How often the packet filter was found changed by somebody else, and mended.
    pub repairs: u64,
    /// Questions that were answered from our own names.
    pub answered: u64,
    /// Questions that were passed on.
    pub forwarded: u64,
}

/// Sends a frame.
pub(super) fn send<T: Serialize>(stream: &UnixStream, message: &T, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut frame = vec![0; 4];
    serde_json::to_writer(&mut frame, message)?;
    let length = u32::try_from(frame.len() - 4).ok().filter(|length| *length as usize <= FRAME_MAX);
    let length = length.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "frame is too long"))?;
    frame[..4].copy_from_slice(&length.to_le_bytes());
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many descriptors"));
    }
    let mut sent = rustix::io::retry_on_intr(|| {
        rustix::net::sendmsg(stream, &[IoSlice::new(&frame)], &mut control, SendFlags::NOSIGNAL)
    })?;
    while sent < frame.len() {
        sent += match (&*stream).write(&frame[sent..]) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            outcome => outcome?,
        };
    }
    Ok(())
}

/// Receives a frame; nothing at the end of the stream.
pub(super) fn receive<T: DeserializeOwned>(stream: &UnixStream) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let mut length = [0; 4];
    let mut descriptors = Vec::new();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let got = rustix::io::retry_on_intr(|| {
        let mut parts = [IoSliceMut::new(&mut length)];
        rustix::net::recvmsg(stream.as_fd(), &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC)
    })?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    if got.bytes == 0 {
        return Ok(None);
    }
    let mut stream = stream;
    stream.read_exact(&mut length[got.bytes..])?;
    let length = usize::try_from(u32::from_le_bytes(length)).unwrap_or(usize::MAX);
    if length > FRAME_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "frame is too long"));
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    Ok(Some((serde_json::from_slice(&body)?, descriptors)))
}
