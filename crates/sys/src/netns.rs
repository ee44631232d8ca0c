//! New network namespaces without leaving the caller's, unshare(2).

#![expect(
    unsafe_code,
    reason = "rustix marks unshare unsafe, since some flags take file descriptors away, and has no SIOCSIFFLAGS"
)]

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::thread::{LinkNameSpaceType, UnshareFlags};

use crate::{Result, SysError};

/// Makes a network namespace, runs `work` inside it, and gives back a descriptor that keeps the namespace alive.
///
/// All of it happens on a thread of its own that ends here, so the calling thread stays where it is, and the descriptor
/// is the only thing that holds the namespace.
///
/// # Errors
/// `EPERM` without the capability for it, `ENOSPC` when the machine has too many, `EAGAIN` when no thread can be made.
pub fn in_new<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<(OwnedFd, T)> {
    let inside = move || visit(work);
    let thread = std::thread::Builder::new()
        .name("netns".to_owned())
        .stack_size(64 * 1024)
        .spawn(inside)
        .map_err(|_| SysError::new("clone", Errno::AGAIN))?;
    // A panic of `work` is the only other way for the thread to end.
    thread.join().unwrap_or_else(|_| Err(SysError::new("unshare", Errno::INTR)))
}

/// As [`in_new`], on the calling thread, which comes back to the namespace that `home` stands for: a thread that makes one
/// namespace after the other need not start a thread for each.
///
/// # Errors
/// As [`in_new`]; when the way back fails, the thread must not go on to do anything with the network.
pub fn in_new_and_back<T>(home: impl AsFd, work: impl FnOnce() -> T) -> Result<(OwnedFd, T)> {
    let outcome = visit(work);
    rustix::thread::move_into_link_name_space(home.as_fd(), Some(LinkNameSpaceType::Network))
        .map_err(SysError::of("setns"))?;
    outcome
}

/// The namespace that the calling thread is in.
///
/// # Errors
/// `ENOENT` without /proc.
pub fn current() -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    rustix::fs::open("/proc/thread-self/ns/net", flags, Mode::empty())
        .map_err(SysError::of("open /proc/thread-self/ns/net"))
}

/// Sets the loop of the calling thread's network namespace up. It gets its addresses by that.
///
/// By ioctl(2), as netdevice(7) has it: a socket and one call, where rtnetlink takes a message, an answer and the writing of both.
///
/// # Errors
/// `EPERM` without the right in the namespace.
pub fn raise_loop() -> Result<()> {
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)
        .map_err(SysError::of("socket"))?;
    // SAFETY: the structure is plain bytes, for which zeros are a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = from.cast_signed();
    }
    // all other flags of a loop are the kernel's own, and stay
    request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
    // SAFETY: SIOCSIFFLAGS reads a `struct ifreq`.
    let outcome = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) };
    // closed with everything else when the program's turn comes
    std::mem::forget(socket);
    if outcome == 0 { Ok(()) } else { Err(SysError::last("ioctl SIOCSIFFLAGS")) }
}

/// Moves the calling thread into a new namespace and works there.
fn visit<T>(work: impl FnOnce() -> T) -> Result<(OwnedFd, T)> {
    // SAFETY: NEWNET takes nothing away that the thread could still use: its sockets and files stay as they are.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }.map_err(SysError::of("unshare"))?;
    Ok((current()?, work()))
}
