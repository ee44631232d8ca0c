//! Making files as somebody else, with all rights kept: setfsuid(2), setfsgid(2), capset(2).

use crate::{Result, SysError};
use rustix::io::Errno;

/// Runs `work` on a thread of its own whose new files belong to these ids at first: on mounts that map owners, nobody else's ids can be
/// written down. It may touch files as root may.
///
/// # Errors
/// `EPERM` without the capabilities for it, `EAGAIN` when no thread can be made.
pub fn acting_as<T: Send>(uid: u32, gid: u32, work: impl FnOnce() -> T + Send) -> Result<T> {
    let inside = move || {
        crate::process::set_fs_ids(uid, gid)?;
        Ok(work())
    };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("owner".to_owned())
            .spawn_scoped(scope, inside)
            .map_err(|_| SysError::new("clone", Errno::AGAIN))?;
        // a panic of `work` is the only other way for the thread to end
        thread.join().unwrap_or_else(|_| Err(SysError::new("setfsuid", Errno::INTR)))
    })
}
