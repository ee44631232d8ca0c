//! Paths that a container must not read, or must not change.
//!
//! What covers a path comes from the host's side, where nothing of the container can have put something else in its
//! place, and is looked at before it is used (CVE-2025-31133).

use super::{leave_open, root};
use crate::error::{Doing, Result, SetupError};
use control::FailureKind;
use oci_spec::runtime::Spec;
use rustix::fs::{CWD, FileType, OFlags, makedev};
use rustix::io::Errno;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use sys::mount::{Depth, FsContext, MountAttr, MountAttrs, OpenTreeFlags, mount_setattr, move_mount_onto, open_tree};

/// Hides the masked paths and makes others read-only. Paths that are not there need nothing.
pub(crate) fn place(spec: &Spec, root: BorrowedFd<'_>) -> Result<()> {
    let Some(linux) = spec.linux() else { return Ok(()) };
    for path in linux.readonly_paths().iter().flatten() {
        let what = || format!("linux.readonlyPaths: {path}");
        let Some(place) = existing(root, Path::new(path)).doing(what)? else { continue };
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::AT_EMPTY_PATH | OpenTreeFlags::AT_RECURSIVE;
        let tree = open_tree(place.as_fd(), Path::new(""), flags).doing(what)?;
        let attrs = MountAttrs { set: MountAttr::RDONLY, ..MountAttrs::default() };
        mount_setattr(tree.as_fd(), Depth::Recursive, &attrs).doing(what)?;
        move_mount_onto(tree.as_fd(), place.as_fd()).doing(what)?;
        [tree, place].into_iter().for_each(leave_open);
    }
    let mut covers = Covers::default();
    for path in linux.masked_paths().iter().flatten() {
        let what = || format!("linux.maskedPaths: {path}");
        let Some(place) = existing(root, Path::new(path)).doing(what)? else { continue };
        let stat = rustix::fs::fstat(&place).doing(what)?;
        let is_folder = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        let slot = if is_folder { &mut covers.folder } else { &mut covers.file };
        let cover = match slot {
            // a mount that is in its place can be copied by any kernel
            Some(first) => {
                let clone = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::AT_EMPTY_PATH;
                open_tree(first.as_fd(), Path::new(""), clone).doing(what)?
            }
            None if is_folder => empty_folder().doing(what)?,
            None => null().doing(what)?,
        };
        move_mount_onto(cover.as_fd(), place.as_fd()).doing(what)?;
        leave_open(place);
        match slot {
            Some(_) => leave_open(cover),
            None => *slot = Some(cover),
        }
    }
    [covers.folder, covers.file].into_iter().flatten().for_each(leave_open);
    Ok(())
}

/// What is laid over paths: the first of a kind is kept, and copied for the others.
#[derive(Default)]
struct Covers {
    folder: Option<OwnedFd>,
    file: Option<OwnedFd>,
}

fn null() -> Result<OwnedFd> {
    let null = open_tree(CWD, Path::new("/dev/null"), OpenTreeFlags::OPEN_TREE_CLONE).doing(|| "/dev/null")?;
    let stat = rustix::fs::fstat(&null).doing(|| "/dev/null")?;
    let device = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice;
    if device && stat.st_rdev == makedev(1, 3) {
        Ok(null)
    } else {
        Err(SetupError::new(FailureKind::Internal, "the host's /dev/null is not the null device"))
    }
}

fn empty_folder() -> std::result::Result<OwnedFd, sys::mount::FsError> {
    let context = FsContext::open("tmpfs")?;
    context.set_string("source", "tmpfs")?;
    context.set_string("size", "0")?;
    context.create()?;
    let tree = context.mount(MountAttr::RDONLY | MountAttr::NOSUID | MountAttr::NODEV | MountAttr::NOEXEC)?;
    leave_open(context.into_fd());
    Ok(tree)
}

fn existing(root: BorrowedFd<'_>, path: &Path) -> rustix::io::Result<Option<OwnedFd>> {
    match root::resolve(root, path, OFlags::PATH) {
        Ok(place) => Ok(Some(place)),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(errno) => Err(errno),
    }
}
