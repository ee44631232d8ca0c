//! A mount namespace beside the caller's, unshare(2): mounts that nobody else sees, for as long as somebody holds it.

#![expect(unsafe_code, reason = "rustix marks unshare unsafe, since some flags take file descriptors away")]

use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::MountPropagationFlags;
use rustix::thread::UnshareFlags;

use crate::mount::set_propagation;
use crate::{Result, SysError};

/// Copies the mounts of the caller into a new namespace, cut off from the old one, runs `work` there, and gives back a
/// descriptor that keeps the namespace alive: what `work` opened goes on leading through its mounts.
///
/// All of it happens on a thread of its own that ends here, so the calling thread stays where it is.
///
/// # Errors
/// `EPERM` without the capability for it, `EAGAIN` when no thread can be made.
pub fn in_new<T: Send>(work: impl FnOnce() -> T + Send) -> Result<(OwnedFd, T)> {
    let inside = move || {
        // SAFETY: the thread is new and shares its folders and mounts with nobody; its descriptors stay as they are.
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::FS | UnshareFlags::NEWNS) }
            .map_err(SysError::of("unshare"))?;
        set_propagation(Path::new("/"), MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let namespace = rustix::fs::open("/proc/thread-self/ns/mnt", flags, Mode::empty())
            .map_err(SysError::of("open /proc/thread-self/ns/mnt"))?;
        Ok((namespace, work()))
    };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("mountns".to_owned())
            .spawn_scoped(scope, inside)
            .map_err(|_| SysError::new("clone", Errno::AGAIN))?;
        // a panic of `work` is the only other way for the thread to end
        thread.join().unwrap_or_else(|_| Err(SysError::new("unshare", Errno::INTR)))
    })
}

/// Gives the calling thread a working folder, root and file mode mask of its own, apart from the other threads'.
///
/// # Errors
/// `ENOMEM`.
pub fn own_working_folder() -> Result<()> {
    // SAFETY: no descriptor changes hands; what the thread shared of its folders is copied.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::FS) }.map_err(SysError::of("unshare"))
}
