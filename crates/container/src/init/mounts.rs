//! The mounts of the configuration.
//!
//! Whatever is bound from the host is opened outside, as a detached copy, before the first process is born: that works for a
//! process in a user namespace too. The kernel's own file systems are made inside, where their namespaces are.

use super::options::Options;
use super::{Inside, root};
use crate::error::{Doing, Result, SetupError};
use cgroup::{Group, Version};
use control::FailureKind;
use oci_spec::runtime::{Mount, Spec};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use sys::mount::{
    Depth, FsContext, MountAttr, MountAttrs, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, mount_setattr,
    move_mount, move_mount_onto, open_tree,
};

/// What was opened outside for a mount.
pub(crate) enum Source {
    /// Nothing: it is made inside.
    Inside,
    /// A detached copy of a file or a folder.
    Tree { tree: OwnedFd, folder: bool },
    /// The container's control groups: a name for each hierarchy, the other names of its controllers, the copy.
    Groups(Vec<(String, Vec<String>, OwnedFd)>),
}

/// Opens what each mount of the configuration binds from the host.
pub(crate) fn open_sources(spec: &Spec, group: &Group, version: Version) -> Result<Vec<Source>> {
    spec.mounts().iter().flatten().map(|mount| open_source(mount, group, version)).collect()
}

fn words(mount: &Mount) -> &[String] {
    mount.options().as_deref().unwrap_or_default()
}

fn open_source(mount: &Mount, group: &Group, version: Version) -> Result<Source> {
    let kind = mount.typ().as_deref().unwrap_or("none");
    if matches!(kind, "cgroup" | "cgroup2") {
        return groups(group, version);
    }
    let options = Options::parse(words(mount))?;
    let depth = match (options.bind, kind) {
        (Some(depth), _) => depth,
        (None, "bind") => Depth::Recursive,
        (None, _) => return Ok(Source::Inside),
    };
    let source = mount.source().clone().unwrap_or_default();
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | if depth == Depth::Recursive { OpenTreeFlags::AT_RECURSIVE } else { OpenTreeFlags::empty() };
    let tree = open_tree(CWD, &source, flags).map_err(|error| match error.errno {
        Errno::NOENT | Errno::NOTDIR => SetupError::new(
            FailureKind::NotFound,
            format!("invalid mount config for type \"bind\": bind source path does not exist: {}", source.display()),
        ),
        _ => SetupError::new(FailureKind::Internal, format!("bind source {}: {error}", source.display())),
    })?;
    let folder = is_folder(&tree).doing(|| format!("bind source {}", source.display()))?;
    if let Some(depth) = options.idmap {
        idmap(mount, &tree, depth)?;
    }
    Ok(Source::Tree { tree, folder })
}

fn is_folder(fd: &OwnedFd) -> rustix::io::Result<bool> {
    let stat = rustix::fs::fstat(fd)?;
    Ok(rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::Directory)
}

/// Maps the owners of a bind by the mount's own mappings: through the user namespace of a short-lived child.
fn idmap(mount: &Mount, tree: &OwnedFd, depth: Depth) -> Result<()> {
    let what = || format!("mount on {}: idmap", mount.destination().display());
    let (Some(uids), Some(gids)) = (mount.uid_mappings(), mount.gid_mappings()) else {
        return Err(SetupError::invalid(format!("{} needs uidMappings and gidMappings", what())));
    };
    let user = crate::namespaces::user_namespace(uids, gids).doing(what)?;
    let attrs = MountAttrs { set: MountAttr::IDMAP, user_namespace: Some(user.as_fd()), ..MountAttrs::default() };
    mount_setattr(tree.as_fd(), depth, &attrs).doing(what)
}

fn groups(group: &Group, version: Version) -> Result<Source> {
    let dirs = group.dirs();
    let open = |dir: &Path| {
        open_tree(CWD, dir, OpenTreeFlags::OPEN_TREE_CLONE).doing(|| format!("control group {}", dir.display()))
    };
    if let (Version::V2, [only]) = (version, dirs.as_slice()) {
        return Ok(Source::Tree { tree: open(only)?, folder: true });
    }
    let depth = Path::new(&group.path()).components().count().saturating_sub(1);
    let mut all = Vec::new();
    for dir in &dirs {
        let name = dir.ancestors().nth(depth).and_then(Path::file_name).unwrap_or_default();
        let name = name.to_string_lossy().into_owned();
        let links = name.contains(',').then(|| name.split(',').map(str::to_owned).collect());
        all.push((name, links.unwrap_or_default(), open(dir)?));
    }
    Ok(Source::Groups(all))
}

/// Places all mounts of the configuration in the attached root.
pub(crate) fn place(inside: &Inside<'_>, root: BorrowedFd<'_>) -> Result<()> {
    for (mount, source) in inside.spec.mounts().iter().flatten().zip(&inside.sources) {
        let shown = mount.destination().display();
        one(mount, source, root)
            .map_err(|error| SetupError::new(error.kind, format!("cannot mount on {shown}: {}", error.message)))?;
    }
    Ok(())
}

fn one(mount: &Mount, source: &Source, root: BorrowedFd<'_>) -> Result<()> {
    let options = Options::parse(words(mount))?;
    let kind = mount.typ().as_deref().unwrap_or("none");
    refuse_proc(mount.destination(), kind)?;
    match source {
        Source::Tree { tree, folder } => {
            let target = if *folder {
                root::ensure_dir(root, mount.destination())
            } else {
                root::ensure_file(root, mount.destination())
            };
            let target = target.map_err(missing_target)?;
            finish(tree.as_fd(), &options, Bound::Yes)?;
            move_mount_onto(tree.as_fd(), target.as_fd()).doing(|| "cannot place it")
        }
        Source::Groups(all) => place_groups(mount, &options, all, root),
        Source::Inside => {
            let target = target_of(mount.destination(), kind, root)?;
            let tree = match kind {
                "sysfs" => make(mount, kind, &options).or_else(|error| host_sysfs(error, &options)),
                _ => make(mount, kind, &options),
            }?;
            finish(
                tree.as_fd(),
                &Options { propagation: options.propagation.clone(), ..Options::default() },
                Bound::No,
            )?;
            move_mount_onto(tree.as_fd(), target.as_fd()).doing(|| "cannot place it")
        }
    }
}

fn missing_target(errno: Errno) -> SetupError {
    let hint =
        if errno == Errno::ROFS { "; the root is read-only, and the image has nothing there to mount on" } else { "" };
    SetupError::new(FailureKind::Internal, format!("cannot make the mount point: {errno}{hint}"))
}

/// Nothing of an image or a user may stand in for the kernel's own files.
fn refuse_proc(destination: &Path, kind: &str) -> Result<()> {
    const FILES: [&str; 9] =
        ["cpuinfo", "diskstats", "loadavg", "meminfo", "net/dev", "stat", "swaps", "uptime", "slabinfo"];
    let Ok(below) = destination.strip_prefix("/proc") else { return Ok(()) };
    if below.as_os_str().is_empty() {
        return if matches!(kind, "proc" | "bind" | "none") {
            Ok(())
        } else {
            Err(SetupError::invalid("only proc may be mounted there"))
        };
    }
    if FILES.iter().any(|file| below == Path::new(file)) {
        Ok(())
    } else {
        Err(SetupError::invalid("a mount inside /proc would hide the kernel's files from the container"))
    }
}

fn target_of(destination: &Path, kind: &str, root: BorrowedFd<'_>) -> Result<OwnedFd> {
    let target = root::ensure_dir(root, destination).map_err(missing_target)?;
    if matches!(kind, "proc" | "sysfs") {
        // a link in its place would put these files where the masked paths are not looked for
        let plain = destination.strip_prefix("/").unwrap_or(destination);
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::openat2(root, plain, flags, Mode::empty(), resolve)
            .map_err(|_| SetupError::invalid("the image has a symbolic link there"))?;
    }
    Ok(target)
}

/// A new file system of the given type, with its options and attributes.
fn make(mount: &Mount, kind: &str, options: &Options) -> Result<OwnedFd> {
    let assemble = || -> std::result::Result<OwnedFd, sys::mount::FsError> {
        let context = FsContext::open(kind)?;
        let source = mount.source().as_deref().unwrap_or(Path::new(kind)).to_string_lossy();
        context.set_string("source", &source)?;
        for (key, value) in &options.data {
            match value {
                Some(value) => context.set_string(key, value)?,
                None => context.set_flag(key)?,
            }
        }
        context.create()?;
        context.mount(options.set | options.set_below)
    };
    assemble().map_err(|error| {
        let kind = if error.option.is_empty() { FailureKind::Internal } else { FailureKind::Invalid };
        SetupError::new(kind, error.to_string())
    })
}

/// The host's /sys, read-only, where the container's network namespace is not its own to show.
fn host_sysfs(error: SetupError, options: &Options) -> Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::AT_RECURSIVE;
    let tree = open_tree(CWD, Path::new("/sys"), flags).map_err(|_| error)?;
    let attrs = MountAttrs { set: options.set | MountAttr::RDONLY, ..MountAttrs::default() };
    mount_setattr(tree.as_fd(), Depth::Recursive, &attrs).doing(|| "the host's /sys")?;
    Ok(tree)
}

/// Whether a mount is bound from the host, which tells its default propagation.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Bound {
    Yes,
    No,
}

/// Attributes and propagation of a detached mount.
fn finish(tree: BorrowedFd<'_>, options: &Options, bound: Bound) -> Result<()> {
    let below = !options.set_below.is_empty() || !options.clear_below.is_empty();
    let private = bound == Bound::Yes && options.propagation.is_empty();
    if below || private {
        let propagation = private.then_some(MountPropagationFlags::PRIVATE);
        let attrs =
            MountAttrs { set: options.set_below, clear: options.clear_below, propagation, user_namespace: None };
        mount_setattr(tree, Depth::Recursive, &attrs).doing(|| "cannot set its attributes")?;
    }
    if !options.set.is_empty() || !options.clear.is_empty() {
        let attrs = MountAttrs { set: options.set, clear: options.clear, ..MountAttrs::default() };
        let changed = mount_setattr(tree, Depth::One, &attrs);
        // clearing what a user namespace has locked is no more than a default here
        if !(changed.is_err_and(|error| error.errno == Errno::PERM) && options.set.is_empty()) {
            changed.doing(|| "cannot set its attributes")?;
        }
    }
    for (flags, depth) in &options.propagation {
        let attrs = MountAttrs { propagation: Some(*flags), ..MountAttrs::default() };
        mount_setattr(tree, *depth, &attrs).doing(|| "cannot set its propagation")?;
    }
    Ok(())
}

/// The container's own group of each hierarchy, below a small folder in memory.
fn place_groups(
    mount: &Mount,
    options: &Options,
    all: &[(String, Vec<String>, OwnedFd)],
    root: BorrowedFd<'_>,
) -> Result<()> {
    let target = root::ensure_dir(root, mount.destination()).map_err(missing_target)?;
    let context = FsContext::open("tmpfs").doing(|| "control groups")?;
    context.set_string("source", "tmpfs").doing(|| "control groups")?;
    context.set_string("mode", "755").doing(|| "control groups")?;
    context.create().doing(|| "control groups")?;
    let attributes = options.set - MountAttr::RDONLY;
    let folder = context.mount(attributes).doing(|| "control groups")?;
    move_mount_onto(folder.as_fd(), target.as_fd()).doing(|| "cannot place it")?;
    for (name, links, tree) in all {
        rustix::fs::mkdirat(&folder, name.as_str(), Mode::from_raw_mode(0o755)).doing(|| name.clone())?;
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        move_mount(tree.as_fd(), Path::new(""), folder.as_fd(), Path::new(name), flags).doing(|| name.clone())?;
        for link in links {
            rustix::fs::symlinkat(name.as_str(), &folder, link.as_str()).doing(|| link.clone())?;
        }
    }
    let attrs = MountAttrs {
        set: options.set,
        clear: MountAttr::empty(),
        propagation: Some(MountPropagationFlags::PRIVATE),
        user_namespace: None,
    };
    mount_setattr(folder.as_fd(), Depth::Recursive, &attrs).doing(|| "cannot set its attributes")
}

/// Hides the masked paths and makes others read-only.
pub(crate) fn protect(spec: &Spec, root: BorrowedFd<'_>) -> Result<()> {
    let Some(linux) = spec.linux() else { return Ok(()) };
    for path in linux.readonly_paths().iter().flatten() {
        let Some(place) = existing(root, Path::new(path))? else { continue };
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::AT_EMPTY_PATH | OpenTreeFlags::AT_RECURSIVE;
        let tree = open_tree(place.as_fd(), Path::new(""), flags).doing(|| format!("read-only path {path}"))?;
        let attrs = MountAttrs { set: MountAttr::RDONLY, ..MountAttrs::default() };
        mount_setattr(tree.as_fd(), Depth::Recursive, &attrs).doing(|| format!("read-only path {path}"))?;
        move_mount_onto(tree.as_fd(), place.as_fd()).doing(|| format!("read-only path {path}"))?;
    }
    let mut empty: Option<OwnedFd> = None;
    let clone = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::AT_EMPTY_PATH;
    for path in linux.masked_paths().iter().flatten() {
        let what = || format!("masked path {path}");
        let Some(place) = existing(root, Path::new(path))? else { continue };
        let cover = if is_folder(&place).doing(what)? {
            match &empty {
                Some(first) => open_tree(first.as_fd(), Path::new(""), clone).doing(what)?,
                None => empty_folder().doing(what)?,
            }
        } else {
            open_tree(CWD, Path::new("/dev/null"), OpenTreeFlags::OPEN_TREE_CLONE).doing(what)?
        };
        move_mount_onto(cover.as_fd(), place.as_fd()).doing(what)?;
        if is_folder(&cover).doing(what)? {
            empty = Some(cover);
        }
    }
    Ok(())
}

fn empty_folder() -> std::result::Result<OwnedFd, sys::mount::FsError> {
    let context = FsContext::open("tmpfs")?;
    context.set_string("source", "tmpfs")?;
    context.set_string("size", "0")?;
    context.create()?;
    context.mount(MountAttr::RDONLY | MountAttr::NOSUID | MountAttr::NODEV | MountAttr::NOEXEC)
}

fn existing(root: BorrowedFd<'_>, path: &Path) -> Result<Option<OwnedFd>> {
    match root::resolve(root, path, OFlags::PATH) {
        Ok(place) => Ok(Some(place)),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(errno) => {
            Err(SetupError::new(FailureKind::Internal, format!("{}: {errno}", PathBuf::from(path).display())))
        }
    }
}
