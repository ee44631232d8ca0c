//! The root file system: made outside as a detached mount, attached and entered inside.

use super::leave_open;
use crate::error::{Doing, Result, SetupError};
use control::{FailureKind, Rootfs};
use oci_spec::runtime::Spec;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};
use sys::mount::{
    Depth, MountAttr, MountAttrs, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, chroot_here,
    mount_setattr, move_mount, move_mount_onto, open_tree, pivot_root_here, set_propagation,
};
use sys::overlay::{Above, Overlay};

/// Opens the root file system as a detached mount; with a user namespace, its owners are mapped by that.
pub(crate) fn open(rootfs: &Rootfs, layers: &[OwnedFd], user: Option<BorrowedFd<'_>>) -> Result<OwnedFd> {
    match rootfs {
        Rootfs::Directory { path } => {
            let missing = |errno| {
                let kind = if errno == Errno::NOENT { FailureKind::NotFound } else { FailureKind::Internal };
                SetupError::new(kind, format!("root file system {}: {errno}", path.display()))
            };
            // what is mounted below comes along
            let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::AT_RECURSIVE;
            let tree = match open_tree(CWD, path, flags) {
                Err(error) if error.errno == Errno::PERM => {
                    // without the right to copy mounts here: see `attach`
                    rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).map_err(missing)?
                }
                other => other.map_err(|error| missing(error.errno))?,
            };
            let stat = rustix::fs::fstat(&tree).map_err(missing)?;
            if rustix::fs::FileType::from_raw_mode(stat.st_mode) != rustix::fs::FileType::Directory {
                return Err(SetupError::invalid(format!("root file system {}: not a directory", path.display())));
            }
            map(&tree, user).doing(|| format!("root file system {}", path.display()))?;
            Ok(tree)
        }
        Rootfs::Overlay { layers: count, writable, volatile } => {
            let layers = layers.get(..*count).ok_or_else(|| SetupError::invalid("fewer layers came than promised"))?;
            let mapped = layers.iter().map(|layer| mapped_layer(layer, user)).collect::<Result<Vec<_>>>()?;
            let layers: Vec<BorrowedFd<'_>> = layers
                .iter()
                .zip(&mapped)
                .map(|(plain, own)| own.as_ref().map_or(plain.as_fd(), AsFd::as_fd))
                .collect();
            match (writable, layers.as_slice()) {
                (None, [only]) => {
                    open_tree(*only, Path::new(""), OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::AT_EMPTY_PATH)
                        .or_else(|_| only.try_clone_to_owned().map_err(|_| sys::SysError::new("dup", Errno::MFILE)))
                        .doing(|| "the only layer")
                }
                (writable, layers) => overlay(layers, writable.as_deref(), *volatile, user),
            }
        }
    }
}

fn clone_tree(at: BorrowedFd<'_>, path: &Path) -> sys::Result<OwnedFd> {
    open_tree(at, path, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::AT_EMPTY_PATH)
}

fn map(tree: &OwnedFd, user: Option<BorrowedFd<'_>>) -> sys::Result<()> {
    let Some(user) = user else { return Ok(()) };
    let attrs = MountAttrs { set: MountAttr::IDMAP, user_namespace: Some(user), ..MountAttrs::default() };
    mount_setattr(tree.as_fd(), Depth::One, &attrs)
}

fn mapped_layer(layer: &OwnedFd, user: Option<BorrowedFd<'_>>) -> Result<Option<OwnedFd>> {
    if user.is_none() {
        return Ok(None);
    }
    let tree = clone_tree(layer.as_fd(), Path::new("")).doing(|| "cannot clone a layer for another user namespace")?;
    map(&tree, user).doing(|| "cannot map a layer's owners; its file system or this kernel lacks idmapped mounts")?;
    Ok(Some(tree))
}

fn overlay(
    layers: &[BorrowedFd<'_>],
    writable: Option<&Path>,
    volatile: bool,
    user: Option<BorrowedFd<'_>>,
) -> Result<OwnedFd> {
    let upper = writable.map(|folder| upper_dirs(folder, user)).transpose()?;
    let above = upper.as_ref().map(|upper| Above { upper: upper.upper.as_fd(), work: upper.work.as_fd(), volatile });
    let overlay = Overlay { layers, above, attributes: MountAttr::empty() };
    let mounted = match (user, &upper) {
        (None, _) => overlay.mount(),
        (Some(_), None) => overlay.mount_detached(layers),
        (Some(_), Some(upper)) => overlay.mount_detached(&[layers, &[upper.base.as_fd()]].concat()),
    };
    mounted.doing(|| "cannot mount the root file system")
}

struct Upper {
    upper: OwnedFd,
    work: OwnedFd,
    /// A detached mount lasts as long as its own descriptor.
    base: OwnedFd,
}

fn upper_dirs(folder: &Path, user: Option<BorrowedFd<'_>>) -> Result<Upper> {
    let what = || format!("writable folder {}", folder.display());
    let base = match user {
        None => {
            rustix::fs::open(folder, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).doing(what)?
        }
        Some(_) => {
            let tree = clone_tree(CWD, folder).doing(what)?;
            map(&tree, user).doing(what)?;
            tree
        }
    };
    let open = |name: &str| {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(&base, name, flags, Mode::empty()).doing(|| format!("{}/{name}", folder.display()))
    };
    Ok(Upper { upper: open("upper")?, work: open("work")?, base })
}

/// How the root file system becomes the root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Entry {
    /// pivot_root(2), in a mount namespace of the container's own.
    Pivot,
    /// chroot(2) into what lies over the root of such a namespace, for hosts whose root cannot be pivoted (an initramfs).
    Move,
    /// chroot(2) in a mount namespace that others are in too.
    Chroot,
}

/// Opens the folder of the root file system, as long as this process may still go there: root of a user namespace is nobody on the way.
/// `None` where there is no such folder, or none that can be reached.
pub(crate) fn place(rootfs: &Rootfs, entry: Entry) -> Option<OwnedFd> {
    match rootfs {
        Rootfs::Directory { path } if entry != Entry::Chroot => {
            rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).ok()
        }
        _ => None,
    }
}

/// Puts the root file system where [`enter`] then goes: over its own folder, so that hooks that enter the mount namespace find it
/// there and what they mount below shows in the container, or, where there is no folder, over the current root.
/// Returns the copy that stands there in its place, where `given` is no mount that can be changed.
pub(crate) fn attach(
    given: BorrowedFd<'_>,
    spec: &Spec,
    rootfs: &Rootfs,
    (entry, place): (Entry, Option<OwnedFd>),
) -> Result<Option<OwnedFd>> {
    if entry != Entry::Chroot {
        let slave = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
        set_propagation(Path::new("/"), slave).doing(|| "cannot part the mounts from the host's")?;
    }
    // a folder of the host's stays bound to it only where that is asked for
    let slave = matches!(
        spec.linux().as_ref().and_then(|linux| linux.rootfs_propagation().as_deref()),
        Some("slave" | "rslave")
    );
    let kind = if slave { MountPropagationFlags::DOWNSTREAM } else { MountPropagationFlags::PRIVATE };
    let attrs = MountAttrs { propagation: Some(kind), ..MountAttrs::default() };
    let what = || "cannot attach the root file system";
    let path = || match rootfs {
        Rootfs::Directory { path } => Ok(path),
        Rootfs::Overlay { .. } => {
            Err(SetupError::unsupported("linux.namespaces: layers need a mount namespace of the container's own"))
        }
    };
    let copied = match mount_setattr(given, Depth::Recursive, &attrs) {
        Ok(()) => None,
        // no mount of ours to change, but a folder that could only be opened outside: it is copied here
        Err(error) if matches!(error.errno, Errno::INVAL | Errno::PERM) => {
            let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::AT_RECURSIVE;
            let tree = open_tree(CWD, path()?, flags).doing(what)?;
            mount_setattr(tree.as_fd(), Depth::Recursive, &attrs).doing(what)?;
            Some(tree)
        }
        Err(error) => return Err(error).doing(what),
    };
    let root = copied.as_ref().map_or(given, AsFd::as_fd);
    let empty = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    match place {
        Some(place) => {
            let placed = move_mount_onto(root, place.as_fd());
            leave_open(place);
            placed
        }
        None if entry == Entry::Chroot => move_mount(root, Path::new(""), CWD, path()?, empty),
        None => move_mount(root, Path::new(""), CWD, Path::new("/"), empty),
    }
    .doing(what)?;
    Ok(copied)
}

/// Makes the attached root file system the root; the host's files are out of sight afterwards.
pub(crate) fn enter(root: BorrowedFd<'_>, spec: &Spec, entry: Entry) -> Result<()> {
    let readonly = spec.root().as_ref().and_then(oci_spec::runtime::Root::readonly).unwrap_or(false);
    if entry == Entry::Move {
        let empty = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        move_mount(root, Path::new(""), CWD, Path::new("/"), empty).doing(|| "cannot move it to the root")?;
        hide_kernel_files()?;
    }
    rustix::process::fchdir(root).doing(|| "cannot go to the root file system")?;
    match entry {
        Entry::Pivot => pivot_root_here().doing(|| "cannot make it the root")?,
        Entry::Move | Entry::Chroot => chroot_here().doing(|| "cannot make it the root")?,
    }
    let asked = spec.linux().as_ref().and_then(|linux| linux.rootfs_propagation().as_deref());
    if let Some(word) = asked.filter(|word| !word.is_empty()) {
        let (flags, depth) = sys::mount_options::propagation(word).ok_or_else(|| {
            SetupError::invalid(format!("linux.rootfsPropagation: {word:?} is no kind of propagation"))
        })?;
        let attrs = MountAttrs { propagation: Some(flags), ..MountAttrs::default() };
        mount_setattr(root, depth, &attrs).doing(|| "linux.rootfsPropagation")?;
    }
    if let Some(process) = spec.process() {
        crate::process::make_cwd(process);
    }
    if readonly {
        let attrs = MountAttrs { set: MountAttr::RDONLY, ..MountAttrs::default() };
        mount_setattr(root, Depth::One, &attrs).doing(|| "cannot make the root file system read-only")?;
    }
    Ok(())
}

/// Takes the host's /proc and /sys away before a chroot: a process that breaks out of it must not find them without the masks
/// of the container's own.
fn hide_kernel_files() -> Result<()> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").doing(|| "/proc/self/mountinfo")?;
    let places = mounts.lines().rev().filter_map(|line| {
        let (mount, kind) = line.split_once(" - ")?;
        let place = mount.split(' ').nth(4)?;
        matches!(kind.split(' ').next()?, "proc" | "sysfs").then_some(place)
    });
    for place in places {
        // mounts of the container's own have the same paths seen from its root; from here they cannot be reached by a path
        let outcome = sys::mount::umount(Path::new(place), UnmountFlags::DETACH);
        if let Err(error) = outcome
            && !matches!(error.errno, Errno::INVAL | Errno::NOENT | Errno::PERM)
        {
            return Err(error).doing(|| format!("cannot hide the host's {place}"));
        }
    }
    Ok(())
}

/// Opens a path of the container, as it looks from inside.
pub(crate) fn resolve(root: BorrowedFd<'_>, path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let path = relative(path);
    loop {
        match rustix::fs::openat2(root, &path, flags | OFlags::CLOEXEC, Mode::empty(), ResolveFlags::IN_ROOT) {
            // a rename somewhere during a `..`
            Err(Errno::AGAIN) => {}
            other => return other,
        }
    }
}

/// As [`resolve`], for a path that is what it says: [`Errno::LOOP`] where it has a symbolic link or a `..`.
pub(crate) fn resolve_plain(root: BorrowedFd<'_>, path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    if path.components().any(|part| part == Component::ParentDir) {
        return Err(Errno::LOOP);
    }
    let how = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS;
    rustix::fs::openat2(root, relative(path), flags | OFlags::CLOEXEC, Mode::empty(), how)
}

fn relative(path: &Path) -> PathBuf {
    let relative: PathBuf = path.components().filter(|part| !matches!(part, Component::RootDir)).collect();
    if relative.as_os_str().is_empty() { PathBuf::from(".") } else { relative }
}

/// Opens a folder of the container, and makes what is missing of it.
pub(crate) fn ensure_dir(root: BorrowedFd<'_>, path: &Path) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    match resolve(root, path, flags) {
        Err(Errno::NOENT) => {}
        other => return other,
    }
    let parent =
        path.parent().map_or_else(|| resolve(root, Path::new("/"), flags), |parent| ensure_dir(root, parent))?;
    let name = path.file_name().ok_or(Errno::INVAL)?;
    match rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(errno),
    }
    resolve(root, path, flags)
}

/// Opens a file of the container, and makes it, empty, if it is missing.
pub(crate) fn ensure_file(root: BorrowedFd<'_>, path: &Path) -> rustix::io::Result<OwnedFd> {
    match resolve(root, path, OFlags::PATH) {
        Err(Errno::NOENT) => {}
        other => return other,
    }
    let parent = ensure_dir(root, path.parent().ok_or(Errno::INVAL)?)?;
    let name = path.file_name().ok_or(Errno::INVAL)?;
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::RDONLY;
    match rustix::fs::openat(&parent, name, flags, Mode::from_raw_mode(0o644)) {
        Ok(_) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(errno),
    }
    resolve(root, path, OFlags::PATH)
}
