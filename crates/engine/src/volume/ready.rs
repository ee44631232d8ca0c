//! What the mounts of a container need on the host while it starts, beyond what stands in its record.

use crate::error::{EngineError, ErrorClass, Result};
use oci_spec::runtime::Spec;
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::UnmountFlags;
use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// Sources that were opened for a start. What was mounted only for it goes when this is dropped.
#[derive(Debug, Default)]
pub(crate) struct Ready {
    /// By the mount's target, where the helper finds its source.
    sources: BTreeMap<String, PathBuf>,
    /// What the sources name; the helper opens them through this process.
    open: Vec<OwnedFd>,
    mounted: Vec<PathBuf>,
}

impl Ready {
    /// The source of the mount at `target` is what `fd` has open, whatever happens to its name.
    pub(crate) fn add(&mut self, target: &str, fd: OwnedFd) {
        self.sources.insert(target.to_owned(), entry(&fd));
        self.open.push(fd);
    }

    /// Puts a detached mount at `place`, a folder that is made, and opens what lies in it at `subpath`.
    ///
    /// # Errors
    /// If it cannot be placed, or there is no such path in it.
    pub(crate) fn place(&mut self, target: &str, tree: BorrowedFd<'_>, place: &Path, subpath: &str) -> Result<()> {
        let failed = |error: &dyn std::error::Error| {
            EngineError::internal(format!("cannot make the mount for {target} ready"), error)
        };
        std::fs::create_dir_all(place).map_err(|error| failed(&error))?;
        let at = super::open_folder(place).map_err(|error| failed(&error))?;
        sys::mount::move_mount_onto(tree, at.as_fd()).map_err(|error| failed(&error))?;
        self.mounted.push(place.to_owned());
        let fd = within(place, subpath)?;
        self.add(target, fd);
        Ok(())
    }

    /// Lets the configuration name the sources that were opened.
    pub(crate) fn redirect(&self, oci: &mut Spec) {
        let Some(mut mounts) = oci.mounts().clone() else { return };
        for mount in &mut mounts {
            let source = mount.destination().to_str().and_then(|target| self.sources.get(target));
            if let Some(source) = source {
                mount.set_source(Some(source.clone()));
            }
        }
        oci.set_mounts(Some(mounts));
    }
}

impl Drop for Ready {
    fn drop(&mut self) {
        self.open.clear();
        for place in &self.mounted {
            if let Err(error) = sys::mount::umount(place, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
                tracing::warn!(place = %place.display(), %error, "cannot take away a mount that was only for a start");
            }
        }
    }
}

/// Where another process finds what this one has open.
fn entry(fd: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), fd.as_raw_fd()))
}

/// Opens what lies at `subpath` in a folder. Links in it lead to nothing outside.
///
/// # Errors
/// [`ErrorClass::Invalid`] if there is no such path, or a link leads outside.
pub(crate) fn within(folder: &Path, subpath: &str) -> Result<OwnedFd> {
    let failed = |error: Errno| {
        let place = folder.join(subpath);
        if error == Errno::XDEV {
            let text = format!("cannot access path {}: path concatenation escapes the base directory", place.display());
            return EngineError::invalid(text);
        }
        let class = if matches!(error, Errno::NOENT | Errno::NOTDIR | Errno::LOOP) {
            ErrorClass::Invalid
        } else {
            ErrorClass::Internal
        };
        let text = format!("cannot access path {}: {error}", place.display());
        EngineError::new(class, text)
    };
    let root = super::open_folder(folder).map_err(failed)?;
    let path = if subpath.is_empty() { "." } else { subpath };
    rustix::fs::openat2(&root, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), ResolveFlags::BENEATH)
        .map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_within() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("a/b")).unwrap();
        std::os::unix::fs::symlink("/etc", folder.path().join("out")).unwrap();
        std::os::unix::fs::symlink("a", folder.path().join("in")).unwrap();
        for good in ["", "a", "a/b", "in/b"] {
            within(folder.path(), good).unwrap();
        }
        for bad in ["out", "out/passwd", "..", "a/../..", "missing", "/etc"] {
            assert_eq!(within(folder.path(), bad).unwrap_err().class(), ErrorClass::Invalid, "{bad}");
        }
    }
}
