//! Removing what a run left: folders and cgroups.

use crate::error::{EngineError, Result};
use std::io;
use std::path::Path;

/// Deletes a folder with all below it. Read-only folders and folders of overlayfs (mode 0) do not stop root.
pub(crate) fn folder(folder: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
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
