//! Paths that a container must not read, or must not change.
//!
//! What covers a path comes from the host's side, where nothing of the container can have put something else in its
//! place, and is looked at before it is used (CVE-2025-31133).

use super::fresh::Fresh;
use super::{leave_open, root};
use crate::error::{Doing, Result, SetupError};
use control::FailureKind;
use oci_spec::runtime::Spec;
use rustix::fs::{AtFlags, CWD, FileType, OFlags, makedev};
use rustix::io::Errno;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use sys::mount::{
    Depth, FsContext, MountAttr, MountAttrs, MoveMountFlags, OpenTreeFlags, Walker, mount_setattr, move_mount,
    move_mount_onto, open_tree,
};

/// Hides the masked paths and makes others read-only. Paths that are not there need nothing.
pub(crate) fn place(spec: &Spec, root: BorrowedFd<'_>, fresh: &Fresh) -> Result<()> {
    let Some(linux) = spec.linux() else { return Ok(()) };
    for path in linux.readonly_paths().iter().flatten() {
        let what = || format!("linux.readonlyPaths: {path}");
        let Some(spot) = Spot::find(root, fresh, Path::new(path)).doing(what)? else { continue };
        let Some(tree) = spot.copy().doing(what)? else { continue };
        let attrs = MountAttrs { set: MountAttr::RDONLY, ..MountAttrs::default() };
        mount_setattr(tree.as_fd(), Depth::Recursive, &attrs).doing(what)?;
        spot.cover(tree.as_fd()).doing(what)?;
        leave_open(tree);
        spot.leave();
    }
    let mut covers = Covers::default();
    for path in linux.masked_paths().iter().flatten() {
        let what = || format!("linux.maskedPaths: {path}");
        let Some(spot) = Spot::find(root, fresh, Path::new(path)).doing(what)? else { continue };
        let Some(kind) = spot.kind().doing(what)? else { continue };
        let slot = if kind == FileType::Directory { &mut covers.folder } else { &mut covers.file };
        if slot.is_none()
            && kind == FileType::Directory
            && let Spot::Kernels(folder, name) = spot
            && !name.as_os_str().is_empty()
        {
            // one call where a detached mount takes six
            Walker::default().mount("tmpfs", (folder, name), "tmpfs", EMPTY, NOTHING).doing(what)?;
            *slot = Some(Cover::Laid(folder, name));
            continue;
        }
        let cover = match slot {
            Some(first) => first.copy().doing(what)?,
            None if kind == FileType::Directory => empty_folder().doing(what)?,
            None => null().doing(what)?,
        };
        spot.cover(cover.as_fd()).doing(what)?;
        spot.leave();
        match slot {
            Some(_) => leave_open(cover),
            None => *slot = Some(Cover::Tree(cover)),
        }
    }
    [covers.folder, covers.file].into_iter().flatten().for_each(Cover::leave);
    Ok(())
}

/// A path that may be there.
enum Spot<'a> {
    /// Looked up in the root, where links of an image's may lie on the way.
    Opened(OwnedFd),
    /// In a file system of the kernel's that was made just now: nothing in it is an image's.
    Kernels(BorrowedFd<'a>, &'a Path),
}

impl<'a> Spot<'a> {
    fn find(root: BorrowedFd<'_>, fresh: &'a Fresh, path: &'a Path) -> rustix::io::Result<Option<Self>> {
        match fresh.kernels(path, root) {
            Some((tree, rest)) => Ok(Some(Self::Kernels(tree, rest))),
            None => existing(root, path).map(|found| found.map(Self::Opened)),
        }
    }

    /// What it is; `None` where there is nothing.
    fn kind(&self) -> rustix::io::Result<Option<FileType>> {
        let stat = match self {
            Self::Opened(place) => rustix::fs::fstat(place),
            Self::Kernels(tree, rest) => rustix::fs::statat(tree, *rest, AtFlags::empty()),
        };
        match stat {
            Ok(stat) => Ok(Some(FileType::from_raw_mode(stat.st_mode))),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    /// A detached copy of what is there, with all below it.
    fn copy(&self) -> sys::Result<Option<OwnedFd>> {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::AT_RECURSIVE;
        let copied = match self {
            Self::Opened(place) => open_tree(place.as_fd(), Path::new(""), flags | OpenTreeFlags::AT_EMPTY_PATH),
            Self::Kernels(tree, rest) => open_tree(*tree, rest, flags),
        };
        match copied {
            Ok(tree) => Ok(Some(tree)),
            Err(error) if matches!(error.errno, Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn cover(&self, tree: BorrowedFd<'_>) -> sys::Result<()> {
        match self {
            Self::Opened(place) => move_mount_onto(tree, place.as_fd()),
            Self::Kernels(folder, rest) => {
                // as the look-up did, through links, which are the kernel's own here
                let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_SYMLINKS;
                move_mount(tree, Path::new(""), *folder, rest, flags)
            }
        }
    }

    fn leave(self) {
        if let Self::Opened(place) = self {
            leave_open(place);
        }
    }
}

/// What is laid over paths: the first of a kind is kept, and copied for the others.
#[derive(Default)]
struct Covers<'a> {
    folder: Option<Cover<'a>>,
    file: Option<Cover<'a>>,
}

/// A mount that is in its place, which any kernel can copy.
enum Cover<'a> {
    Tree(OwnedFd),
    /// Mounted there at once.
    Laid(BorrowedFd<'a>, &'a Path),
}

impl Cover<'_> {
    fn copy(&self) -> sys::Result<OwnedFd> {
        let clone = OpenTreeFlags::OPEN_TREE_CLONE;
        match self {
            Self::Tree(first) => open_tree(first.as_fd(), Path::new(""), clone | OpenTreeFlags::AT_EMPTY_PATH),
            Self::Laid(folder, name) => open_tree(*folder, name, clone),
        }
    }

    fn leave(self) {
        if let Self::Tree(first) = self {
            leave_open(first);
        }
    }
}

/// What an empty folder allows, and the options of its tmpfs: no limit is needed where nothing can be written.
const EMPTY: MountAttr = MountAttr::RDONLY.union(MountAttr::NOSUID).union(MountAttr::NODEV).union(MountAttr::NOEXEC);
const NOTHING: &str = "size=0";

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
    let tree = context.mount(EMPTY)?;
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
