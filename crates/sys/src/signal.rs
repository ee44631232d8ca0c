//! Signals to processes, kill(2).

#![expect(unsafe_code, reason = "kill takes any signal number, real-time ones too, which rustix's type leaves out")]

use crate::{Result, SysError};
use rustix::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Sends `signal` to `pid`; 0 only asks whether the process is there. Numbers below 1 mean groups of processes and are
/// refused here.
///
/// # Errors
/// `ESRCH` when the process is gone, `EPERM` when it is somebody else's, `EINVAL` for a number that is none.
pub fn kill(pid: i32, signal: i32) -> Result<()> {
    if pid < 1 {
        return Err(SysError::new("kill", rustix::io::Errno::INVAL));
    }
    // SAFETY: kill reads no memory of ours.
    let outcome = unsafe { libc::kill(pid, signal) };
    if outcome == 0 { Ok(()) } else { Err(SysError::last("kill")) }
}

/// Sends `signal` to the process behind a pidfd, and to no later one of the same number; 0 only asks whether it is there.
///
/// # Errors
/// `ESRCH` when the process is gone, `EPERM` when it is somebody else's, `EINVAL` for a number that is none.
pub fn kill_pidfd(pidfd: BorrowedFd<'_>, signal: i32) -> Result<()> {
    let nothing = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: the descriptor is open; no details are handed over.
    let outcome = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, nothing, 0) };
    if outcome == 0 { Ok(()) } else { Err(SysError::last("pidfd_send_signal")) }
}

/// A descriptor that is readable while a blocked signal waits.
///
/// # Errors
/// `EMFILE` at the limit of descriptors.
pub fn signal_fd() -> Result<OwnedFd> {
    let mut set = std::mem::MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: the pointer is to storage of the right size.
    unsafe { libc::sigfillset(set.as_mut_ptr()) };
    // SAFETY: the set is initialised.
    let fd = unsafe { libc::signalfd(-1, set.as_ptr(), libc::SFD_CLOEXEC) };
    if fd == -1 {
        return Err(SysError::last("signalfd"));
    }
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Takes the next signal from such a descriptor.
///
/// # Errors
/// What read(2) says.
pub fn take(signals: BorrowedFd<'_>) -> Result<i32> {
    // struct signalfd_siginfo: its size, and the number in front
    let mut bytes = [0_u8; 128];
    rustix::io::read(signals, &mut bytes).map_err(SysError::of("read"))?;
    let [a, b, c, d, ..] = bytes;
    Ok(i32::from_ne_bytes([a, b, c, d]))
}

/// Who collects the exit status of children.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reaping {
    /// Nobody wants it: children that end are gone at once.
    ByKernel,
    /// Their parent waits for them.
    ByParent,
}

/// Says who collects children, sigaction(2) on SIGCHLD; a fork inherits it.
///
/// # Errors
/// None that the kernel documents for these values.
pub fn reap_children(by: Reaping) -> Result<()> {
    let handler = match by {
        Reaping::ByKernel => libc::SIG_IGN,
        Reaping::ByParent => libc::SIG_DFL,
    };
    // SAFETY: neither disposition runs code of ours.
    let before = unsafe { libc::signal(libc::SIGCHLD, handler) };
    if before == libc::SIG_ERR { Err(SysError::last("signal")) } else { Ok(()) }
}
