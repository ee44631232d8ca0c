//! The shared memory of a container whose IPC namespace others may join: a mount of the host's, for as long as it runs.

use crate::error::{EngineError, Result};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use sys::mount::{FsContext, MountAttr};

/// How much fits where nothing is said.
pub(crate) const BYTES: u64 = 64 << 20;

/// Where it is, in a container's runtime folder.
pub(crate) fn place(runtime: &Path) -> PathBuf {
    runtime.join("shm")
}

/// Mounts a new one.
///
/// # Errors
/// [`crate::ErrorClass::Internal`].
pub(crate) fn mount(runtime: &Path, bytes: Option<u64>) -> Result<PathBuf> {
    let place = place(runtime);
    let failed =
        |error: &dyn std::error::Error| EngineError::internal("cannot make the memory that others may share", error);
    std::fs::create_dir_all(&place).map_err(|error| failed(&error))?;
    let assemble = || {
        let context = FsContext::open("tmpfs")?;
        context.set_string("source", "shm")?;
        context.set_string("mode", "1777")?;
        context.set_string("size", &bytes.unwrap_or(BYTES).to_string())?;
        context.create()?;
        context.mount(MountAttr::NOSUID | MountAttr::NOEXEC | MountAttr::NODEV)
    };
    let tree = assemble().map_err(|error: sys::mount::FsError| failed(&error))?;
    let at = crate::volume::open_folder(&place).map_err(|error| failed(&error))?;
    sys::mount::move_mount_onto(tree.as_fd(), at.as_fd()).map_err(|error| failed(&error))?;
    Ok(place)
}
