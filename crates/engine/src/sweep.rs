//! Removing what a run left: folders and cgroups.

use crate::error::{EngineError, Result};
use std::io;
use std::path::Path;
use sys::mount::UnmountFlags;

/// Deletes a folder with all below it. Read-only folders and folders of overlayfs (mode 0) do not stop root.
pub(crate) fn folder(folder: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Deletes a helper's runtime folder, in which a helper that was killed may have left a root file system mounted, and which
/// may hold memory that others share.
pub(crate) fn runtime_folder(path: &Path) -> io::Result<()> {
    for mount in [path.join("bundle/rootfs"), crate::shm::place(path)] {
        // what is no mount has nothing to be taken away, and what is one must not be deleted with the folder
        while sys::mount::umount(&mount, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW).is_ok() {}
    }
    folder(path)
}

/// Kills what is in a cgroup and removes it.
///
/// # Errors
/// If it cannot be removed.
pub(crate) fn cgroup(host: &cgroup::Host, path: &str) -> Result<()> {
    let cannot = |error: cgroup::CgroupError| EngineError::internal(format!("cannot remove cgroup {path}"), &error);
    let group = match host.open(path) {
        Ok(group) => group,
        // the helper had not come so far, or had removed it already
        Err(cgroup::CgroupError::NotFound { .. }) => return Ok(()),
        Err(error) => return Err(cannot(error)),
    };
    // frozen processes do not die
    let _ = group.thaw();
    group.kill().map_err(cannot)?;
    group.remove().map_err(cannot)
}
