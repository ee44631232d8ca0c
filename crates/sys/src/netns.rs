//! New network namespaces without leaving the caller's, unshare(2).

#![expect(unsafe_code, reason = "rustix marks unshare unsafe, since some flags take file descriptors away")]

use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::thread::UnshareFlags;

use crate::{Result, SysError};

/// Makes a network namespace, runs `work` inside it, and gives back a descriptor that keeps the namespace alive.
///
/// All of it happens on a thread of its own that ends here, so the calling thread stays where it is, and the descriptor
/// is the only thing that holds the namespace.
///
/// # Errors
/// `EPERM` without the capability for it, `ENOSPC` when the machine has too many, `EAGAIN` when no thread can be made.
pub fn in_new<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<(OwnedFd, T)> {
    let inside = move || {
        // SAFETY: NEWNET takes nothing away that the thread could still use: it has no sockets, and files stay.
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }.map_err(SysError::of("unshare"))?;
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let namespace = rustix::fs::open("/proc/thread-self/ns/net", flags, Mode::empty())
            .map_err(SysError::of("open /proc/thread-self/ns/net"))?;
        Ok((namespace, work()))
    };
    let thread = std::thread::Builder::new()
        .name("netns".to_owned())
        .stack_size(64 * 1024)
        .spawn(inside)
        .map_err(|_| SysError::new("clone", Errno::AGAIN))?;
    // A panic of `work` is the only other way for the thread to end.
    thread.join().unwrap_or_else(|_| Err(SysError::new("unshare", Errno::INTR)))
}
