//! What can go wrong with networks.

use std::path::PathBuf;

use sys::SysError;

use sys::netlink::Refusal;

/// A network operation that failed.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// A network namespace could not be made.
    #[error("cannot make a network namespace")]
    Namespace {
        /// Why.
        source: SysError,
    },
    /// The loopback link of a new namespace could not be set up.
    #[error("cannot set up the loopback link of a new network namespace")]
    Loopback {
        /// Why.
        source: SysError,
    },
    /// The thread that fills the pool could not be started.
    #[error("cannot start the thread that prepares network namespaces")]
    Thread {
        /// Why.
        source: std::io::Error,
    },
    /// A network namespace could not be entered, or left again.
    #[error("cannot enter a network namespace")]
    Enter {
        /// Why.
        source: SysError,
    },
    /// The kernel gave no netlink socket.
    #[error("cannot open a netlink socket")]
    Socket {
        /// Why.
        source: SysError,
    },
    /// The kernel refused something about a link.
    #[error("link {link}: cannot do as asked")]
    Link {
        /// The link; `*` when it was about all.
        link: String,
        /// What was refused, and why.
        source: Refusal,
    },
    /// There is no such link.
    #[error("there is no link \"{name}\" here; ip link shows those there are")]
    NoLink {
        /// The name.
        name: String,
    },
    /// A link of another kind has the name of a bridge.
    #[error("link \"{name}\" is there already and is no bridge; give the network another bridge name")]
    NotBridge {
        /// The name.
        name: String,
    },
    /// The bridge is another daemon's.
    #[error("bridge \"{name}\" belongs to the daemon of {}", owner.display())]
    OwnedBridge {
        /// The bridge.
        name: String,
        /// The folder of the other daemon.
        owner: PathBuf,
    },
    /// The kernel would not take the name for a link.
    #[error("\"{name}\" is no name for a link: 1 to 15 bytes without spaces, slashes and colons")]
    Name {
        /// The name.
        name: String,
    },
    /// The running kernel does not know this kind of link.
    #[error("this kernel has no links of kind {kind}; load its module, or use another network driver")]
    Kind {
        /// The kind.
        kind: String,
    },
    /// A switch of the kernel could not be read or set.
    #[error("cannot set {}", path.display())]
    Sysctl {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The packet filter could not be changed; it is as it was.
    #[error("cannot change the packet filter")]
    Firewall {
        /// What was refused, and why.
        source: Refusal,
    },
    /// Tracked connections could not be read or forgotten.
    #[error("cannot change the tracked connections")]
    Conntrack {
        /// What was refused, and why.
        source: Refusal,
    },
    /// The helper could not be reached, or went away.
    #[error("cannot talk to the network helper at {}", path.display())]
    Helper {
        /// Its socket.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A port of the host can't be had.
    #[error("{reason}")]
    Port {
        /// Which.
        port: crate::firewall::Publication,
        /// Why, in words.
        reason: String,
    },
    /// The helper refused.
    #[error("the network helper refused: {0}")]
    Refused(String),
    /// The counters of a process's links could not be read.
    #[error("cannot read {}", path.display())]
    Statistics {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// The result of a network operation.
pub type Result<T> = std::result::Result<T, NetError>;
