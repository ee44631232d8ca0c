//! `NOTIFY_SOCKET`: a program in a container says that it is ready, and we hand that on to whoever waits for it outside.
//!
//! The container gets a folder of ours at `/run/notify`, with a socket in it that is made when the program is started; its messages go to
//! the socket that this program was given.
//!
//! # Source
//! sd_notify(3); the places and names are runc's.

use super::Failure;
use crate::error::Doing as _;
use crate::runtime::folder::Folder;
use oci_spec::runtime::{Mount, MountBuilder, Spec};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

/// Where the container finds the socket.
const INSIDE: &str = "/run/notify";
/// As much as a message of sd_notify may reasonably have.
const LONGEST: usize = 4096;

/// The socket outside, if somebody waits there.
pub(super) fn asked() -> Option<PathBuf> {
    std::env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty()).map(PathBuf::from)
}

/// Shows `folder` to the container, and says where the socket is.
pub(super) fn add(spec: &mut Spec, folder: &Path) -> Result<(), Failure> {
    let options = ["bind", "nosuid", "noexec", "nodev", "ro"].map(str::to_owned).to_vec();
    let mount = MountBuilder::default().destination(INSIDE).typ("bind").source(folder).options(options).build();
    let mount: Mount = mount.map_err(|error| Failure::new(format!("NOTIFY_SOCKET: {error}")))?;
    let mut mounts = spec.mounts().clone().unwrap_or_default();
    mounts.push(mount);
    spec.set_mounts(Some(mounts));
    if let Some(process) = spec.process_mut() {
        let mut environment = process.env_mut().take().unwrap_or_default();
        environment.push(format!("NOTIFY_SOCKET={INSIDE}/{}", Folder::NOTIFY_SOCKET));
        process.set_env(Some(environment));
    }
    Ok(())
}

/// Both sockets.
pub(super) struct Notify {
    inside: OwnedFd,
    outside: OwnedFd,
    address: SocketAddrUnix,
}

impl AsFd for Notify {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inside.as_fd()
    }
}

/// Whether the program has said that it is ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Said {
    Ready,
    Other,
}

impl Notify {
    /// Makes the socket in a container's folder; `None` where nobody waits, or nobody did when the container was made.
    pub(super) fn open(folder: &Folder) -> Result<Option<Self>, Failure> {
        let Some(path) = asked() else { return Ok(None) };
        let Some(inside) = folder.notify_socket()? else { return Ok(None) };
        let bytes = path.as_os_str().as_bytes();
        let address = match bytes.strip_prefix(b"@") {
            Some(name) => SocketAddrUnix::new_abstract_name(name),
            None => SocketAddrUnix::new(&path),
        };
        let address = address.doing(|| format!("NOTIFY_SOCKET {}", path.display()))?;
        let (family, kind) = (AddressFamily::UNIX, SocketType::DGRAM);
        let outside = rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC, None).doing(|| "socket")?;
        Ok(Some(Self { inside, outside, address }))
    }

    /// Takes a message, and hands on what it says of readiness, with the id of the container's first process.
    pub(super) fn relay(&self, pid: i32) -> Said {
        let mut bytes = [0_u8; LONGEST];
        let Ok((count, _)) = rustix::net::recv(&self.inside, &mut bytes[..], RecvFlags::DONTWAIT) else {
            return Said::Other;
        };
        let text = bytes.get(..count).unwrap_or_default();
        let ready = text.split(|byte| *byte == b'\n').find(|line| line.starts_with(b"READY="));
        let Some(line) = ready else { return Said::Other };
        let message = [line, b"\nMAINPID=", pid.to_string().as_bytes()].concat();
        // nobody to tell when they have gone
        let _ = rustix::net::sendto(&self.outside, &message, SendFlags::NOSIGNAL, &self.address);
        Said::Ready
    }

    /// Waits until the program is ready or has ended.
    pub(super) fn wait(&self, process: BorrowedFd<'_>, pid: i32) -> Result<(), Failure> {
        loop {
            let mut fds = [PollFd::new(self, PollFlags::IN), PollFd::from_borrowed_fd(process, PollFlags::IN)];
            match poll(&mut fds, None) {
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(Failure::new(format!("poll: {errno}"))),
            }
            let [message, end] = fds.map(|fd| !fd.revents().is_empty());
            // what was said before the end still counts
            if message && self.relay(pid) == Said::Ready || end && !message {
                return Ok(());
            }
        }
    }
}
