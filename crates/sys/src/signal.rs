//! Signals to processes, kill(2).

#![expect(unsafe_code, reason = "kill takes any signal number, real-time ones too, which rustix's type leaves out")]

use crate::{Result, SysError};

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
