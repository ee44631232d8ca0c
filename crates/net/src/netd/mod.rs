//! The helper of a host: it answers containers' questions for names and guards the packet filter.
//!
//! Both have to go on while the daemon is stopped, killed or upgraded, so neither can be the daemon's. One process for
//! the host, the program `insula-netd`, does both: it holds two sockets in each container's namespace and the names of
//! all networks. A resolver in each container's shim would survive a daemon too, but would need every name of every
//! network in every shim, and a message to all of them for every container that comes.
//!
//! The engine starts it ([`serve()`] on a socket of its choice), talks to it ([`Netd`]), and tells it everything
//! again when it finds a new one: the helper stores nothing. While none runs, packets flow as before; only names wait.
//!
//! ```text
//! engine ── Unix socket ──> thread per connection ──┐
//!                                                   ├── state: names, views, rules
//! containers ── UDP 127.0.0.11 ──> one loop ────────┤
//!            └─ TCP ──> thread per connection ──────┘
//! nftables' events, processes' ends ──> the loop
//! ```

mod crew;
mod message;
mod ports;
mod relay;
mod serve;
mod stream;
mod upstream;

use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use sys::socket::ShortPath;

pub use message::{Reply, Request, Status};
pub use serve::serve;

use crate::{NetError, Result};

/// A connection to the helper; threads may share it.
#[derive(Debug)]
pub struct Netd {
    path: PathBuf,
    stream: Mutex<UnixStream>,
}

impl Netd {
    /// Connects to the helper that listens at `path`.
    ///
    /// # Errors
    /// [`NetError::Helper`] when none does.
    pub fn connect(path: &Path) -> Result<Self> {
        let stream = ShortPath::of(path).and_then(UnixStream::connect);
        let stream = stream.map_err(|source| NetError::Helper { path: path.to_owned(), source })?;
        Ok(Self { path: path.to_owned(), stream: Mutex::new(stream) })
    }

    /// Has the helper do something, and waits until it is done.
    ///
    /// # Errors
    /// [`NetError::Port`] for a port that can't be had, [`NetError::Refused`] with the helper's reason, or [`NetError::Helper`] when it is gone.
    pub fn call(&self, request: &Request, descriptors: &[BorrowedFd<'_>]) -> Result<Reply> {
        let failed = |source| NetError::Helper { path: self.path.clone(), source };
        let stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
        message::send(&stream, request, descriptors).map_err(failed)?;
        let reply = message::receive::<Reply>(&stream).map_err(failed)?;
        let (reply, _) = reply.ok_or_else(|| failed(std::io::ErrorKind::UnexpectedEof.into()))?;
        match (reply.error, reply.port) {
            (Some(reason), Some(port)) => Err(NetError::Port { port, reason }),
            (Some(error), None) => Err(NetError::Refused(error)),
            (None, port) => Ok(Reply { error: None, status: reply.status, port }),
        }
    }

    /// What the helper has.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub fn status(&self) -> Result<Status> {
        Ok(self.call(&Request::Status, &[])?.status.unwrap_or_default())
    }
}
