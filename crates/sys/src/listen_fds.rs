//! Sockets that a service manager opened and passed on: `sd_listen_fds(3)`.

#![expect(unsafe_code, reason = "descriptors come as bare numbers")]

use crate::{Result, SysError};
use rustix::io::{FdFlags, fcntl_getfd, fcntl_setfd};
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

/// The first passed descriptor.
const FIRST: RawFd = 3;
/// More than any unit passes; a larger number is a mistake.
const MOST: RawFd = 64;

static TAKEN: AtomicBool = AtomicBool::new(false);

/// The descriptors that were passed to this very process, close-on-exec from now on; none if there are none, and none when
/// called again. Call it first in `main`: descriptors from 3 on must not have been opened by the program itself.
///
/// # Errors
/// If a descriptor that was announced is not open.
///
/// # Source
/// `sd_listen_fds(3)`: `LISTEN_PID` names the process, `LISTEN_FDS` counts the descriptors from 3 on.
pub fn take() -> Result<Vec<OwnedFd>> {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<RawFd>().ok());
    let ours = number("LISTEN_PID").is_some_and(|pid| u32::try_from(pid) == Ok(std::process::id()));
    let count = number("LISTEN_FDS").filter(|count| ours && (1..=MOST).contains(count));
    let Some(count) = count else { return Ok(Vec::new()) };
    if TAKEN.swap(true, Ordering::SeqCst) {
        return Ok(Vec::new());
    }
    (FIRST..FIRST + count).map(own).collect()
}

fn own(number: RawFd) -> Result<OwnedFd> {
    let failed = |errno| SysError::new("fcntl", errno);
    {
        // SAFETY: the number is not -1, and the borrow ends before anything could close it; a number that is not open
        // gives EBADF here.
        let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
        let flags = fcntl_getfd(borrowed).map_err(failed)?;
        fcntl_setfd(borrowed, flags | FdFlags::CLOEXEC).map_err(failed)?;
    }
    // SAFETY: the descriptor is open, as the call above has shown; the service manager gave it to this process, and `TAKEN` sees
    // to it that it is taken once.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Puts sockets where [`take`] finds them after an execve(2), from descriptor 3 on, whatever is there now. `LISTEN_PID` and
/// `LISTEN_FDS` are the caller's to set. Call it last before execve: what else was open there is closed.
///
/// # Errors
/// If there are too many, or no descriptors are left.
pub fn pass(sockets: Vec<OwnedFd>) -> Result<()> {
    let count = RawFd::try_from(sockets.len()).unwrap_or(RawFd::MAX);
    if count > MOST {
        return Err(SysError::new("dup2", rustix::io::Errno::MFILE));
    }
    // first out of each other's way
    let high: Vec<OwnedFd> = sockets
        .iter()
        .map(|fd| rustix::io::fcntl_dupfd_cloexec(fd, FIRST + MOST).map_err(SysError::of("fcntl")))
        .collect::<Result<_>>()?;
    // their places are taken below, so they must not close them any more
    sockets.into_iter().for_each(std::mem::forget);
    for (fd, place) in high.iter().zip(FIRST..) {
        // SAFETY: both are bare numbers; what owns `place` is never dropped, for the process executes another program next.
        let done = unsafe { libc::dup2(std::os::fd::AsRawFd::as_raw_fd(fd), place) };
        if done < 0 {
            return Err(SysError::last("dup2"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn without_a_manager_there_are_none() {
        // the test's own environment names no process, or another one
        assert!(super::take().unwrap().is_empty());
    }
}
