//! Mounts of type `cgroup` and `cgroup2`: a container sees its own control group in each hierarchy.

use super::fresh::Fresh;
use super::mounts::{Source, missing_target};
use super::{leave_open, root};
use crate::error::{Doing, Result, SetupError};
use cgroup::{Group, Version};
use oci_spec::runtime::{LinuxNamespaceType, Mount, Spec};
use rustix::fs::{CWD, Mode, OFlags};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use sys::mount::{
    Depth, FsContext, MountAttr, MountAttrs, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, Walker,
    mount_setattr, move_mount, move_mount_onto, open_tree,
};
use sys::mount_options::Options;

const TOP: &str = "/sys/fs/cgroup";

/// Opens what such a mount shows: on version 1 the container's group of each hierarchy, on version 2 its group, or, in the
/// host's cgroup namespace, the whole tree. Where the container has no group (no rights to make one), the host's tree.
pub(crate) fn open(spec: &Spec, kind: &str, group: &Group, version: Version) -> Result<Source> {
    let dirs = group.limiting_dirs();
    if kind == "cgroup2" && version != Version::V2 {
        return Ok(Source::Inside);
    }
    let clone = |dir: &Path, flags: OpenTreeFlags| open_tree(CWD, dir, OpenTreeFlags::OPEN_TREE_CLONE | flags);
    let what = |dir: &Path| format!("control group {}", dir.display());
    if dirs.is_empty() {
        return Ok(match clone(Path::new(TOP), OpenTreeFlags::AT_RECURSIVE) {
            Ok(tree) => Source::Tree { tree, folder: true },
            Err(_) => Source::Later { path: TOP.into(), depth: Depth::Recursive },
        });
    }
    let depth = Path::new(&group.path()).components().count().saturating_sub(1);
    let own = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_ref());
    let own = own.is_some_and(|all| all.iter().any(|one| one.typ() == LinuxNamespaceType::Cgroup));
    let single = |dir: &Path| match clone(dir, OpenTreeFlags::empty()) {
        Ok(tree) => Ok(Source::Tree { tree, folder: true }),
        Err(error) if error.errno == rustix::io::Errno::PERM => {
            Ok(Source::Later { path: dir.to_owned(), depth: Depth::One })
        }
        Err(error) => Err(error).doing(|| what(dir)),
    };
    if let (Version::V2, [only]) = (version, dirs.as_slice()) {
        return if own { single(only) } else { single(only.ancestors().nth(depth).unwrap_or(only)) };
    }
    // in a mount namespace of its own that begins as a copy of ours, the group is found again by its path
    let kinds = |kind| {
        spec.linux()
            .as_ref()
            .and_then(|linux| linux.namespaces().as_ref())
            .into_iter()
            .flatten()
            .any(move |one: &oci_spec::runtime::LinuxNamespace| one.typ() == kind && one.path().is_none())
    };
    let by_path = kinds(LinuxNamespaceType::Mount)
        && !spec
            .linux()
            .as_ref()
            .and_then(|linux| linux.namespaces().as_ref())
            .into_iter()
            .flatten()
            .any(|one| one.typ() == LinuxNamespaceType::User);
    let mut all = Vec::new();
    for dir in &dirs {
        let name = dir.ancestors().nth(depth).and_then(Path::file_name).unwrap_or_default();
        let name = name.to_string_lossy().into_owned();
        let parts: Vec<String> = name.split(',').map(str::to_owned).collect();
        let links = if parts.len() > 1 { parts } else { Vec::new() };
        let group = if by_path {
            Reached::ByPath(dir.clone())
        } else {
            Reached::Opened(clone(dir, OpenTreeFlags::empty()).doing(|| what(dir))?)
        };
        all.push(Shown { name, links, group });
    }
    Ok(Source::Groups(all))
}

/// A control group that the container sees.
pub(crate) struct Shown {
    /// Its hierarchy's name.
    name: String,
    /// The other names of the hierarchy's controllers.
    links: Vec<String>,
    group: Reached,
}

/// How a group is reached from inside.
enum Reached {
    ByPath(PathBuf),
    /// A detached copy, for who may not go there.
    Opened(OwnedFd),
}

impl Shown {
    /// What was opened for it.
    pub(crate) fn into_fd(self) -> Option<OwnedFd> {
        match self.group {
            Reached::ByPath(_) => None,
            Reached::Opened(tree) => Some(tree),
        }
    }

    fn place(&self, walker: &mut Walker, folder: BorrowedFd<'_>) -> sys::Result<()> {
        let name = Path::new(&self.name);
        match &self.group {
            Reached::ByPath(path) => walker.bind(path, (folder, name)),
            Reached::Opened(tree) => {
                let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
                move_mount(tree.as_fd(), Path::new(""), folder, name, flags)
            }
        }
    }
}

/// The container's own group of each hierarchy, below a small folder in memory.
pub(crate) fn place(
    mount: &Mount,
    options: &Options,
    all: &[Shown],
    root: BorrowedFd<'_>,
    fresh: &mut Fresh,
) -> Result<()> {
    let set = options.set - MountAttr::RDONLY;
    let destination = mount.destination();
    // usually in the sysfs that was mounted just before
    let quick = fresh.make_groups(destination, set, root);
    let quick = quick.then(|| root::resolve_plain(root, destination, OFlags::PATH | OFlags::DIRECTORY).ok()).flatten();
    let folder = match quick {
        Some(folder) => folder,
        None => {
            let target = root::ensure_dir(root, destination).map_err(missing_target)?;
            let folder = folder(set)
                .map_err(|error| SetupError::new(control::FailureKind::Internal, format!("control groups: {error}")))?;
            move_mount_onto(folder.as_fd(), target.as_fd()).doing(|| "cannot place it")?;
            leave_open(target);
            folder
        }
    };
    fresh.hide(destination);
    for shown in all {
        let name = &shown.name;
        rustix::fs::mkdirat(&folder, name.as_str(), Mode::from_raw_mode(0o755)).doing(|| name.clone())?;
        shown.place(&mut fresh.walker, folder.as_fd()).doing(|| name.clone())?;
        for link in &shown.links {
            rustix::fs::symlinkat(name.as_str(), &folder, link.as_str()).doing(|| link.clone())?;
        }
    }
    let propagation = Some(MountPropagationFlags::PRIVATE);
    let attrs = MountAttrs { set: options.set, clear: options.clear, propagation, user_namespace: None };
    mount_setattr(folder.as_fd(), Depth::Recursive, &attrs).doing(|| "cannot set its attributes")?;
    leave_open(folder);
    Ok(())
}

fn folder(attributes: MountAttr) -> std::result::Result<OwnedFd, sys::mount::FsError> {
    let context = FsContext::open("tmpfs")?;
    context.set_string("source", "cgroup")?;
    context.set_string("mode", "755")?;
    context.create()?;
    context.mount(attributes)
}
