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
