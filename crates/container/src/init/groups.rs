//! Mounts of type `cgroup` and `cgroup2`: a container sees its own control group in each hierarchy.

use super::mounts::{Source, missing_target};
use super::options::Options;
use super::{leave_open, root};
use crate::error::{Doing, Result, SetupError};
use cgroup::{Group, Version};
use oci_spec::runtime::{LinuxNamespaceType, Mount, Spec};
use rustix::fs::{CWD, Mode};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use sys::mount::{
    Depth, FsContext, MountAttr, MountAttrs, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, mount_setattr,
    move_mount, move_mount_onto, open_tree,
};

const TOP: &str = "/sys/fs/cgroup";

/// Opens what such a mount shows: on version 1 the container's group of each hierarchy, on version 2 its group, or, in the
/// host's cgroup namespace, the whole tree. Where the container has no group (no rights to make one), the host's tree.
pub(crate) fn open(spec: &Spec, kind: &str, group: &Group, version: Version) -> Result<Source> {
    let dirs = group.dirs();
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
    let mut all = Vec::new();
    for dir in &dirs {
        let name = dir.ancestors().nth(depth).and_then(Path::file_name).unwrap_or_default();
        let name = name.to_string_lossy().into_owned();
        let links = name.contains(',').then(|| name.split(',').map(str::to_owned).collect());
        let tree = clone(dir, OpenTreeFlags::empty()).doing(|| what(dir))?;
        all.push((name, links.unwrap_or_default(), tree));
    }
    Ok(Source::Groups(all))
}

/// The container's own group of each hierarchy, below a small folder in memory.
pub(crate) fn place(
    mount: &Mount,
    options: &Options,
    all: &[(String, Vec<String>, OwnedFd)],
    root: BorrowedFd<'_>,
) -> Result<()> {
    let target = root::ensure_dir(root, mount.destination()).map_err(missing_target)?;
    let folder = folder(options.set - MountAttr::RDONLY)
        .map_err(|error| SetupError::new(control::FailureKind::Internal, format!("control groups: {error}")))?;
    move_mount_onto(folder.as_fd(), target.as_fd()).doing(|| "cannot place it")?;
    for (name, links, tree) in all {
        rustix::fs::mkdirat(&folder, name.as_str(), Mode::from_raw_mode(0o755)).doing(|| name.clone())?;
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        move_mount(tree.as_fd(), Path::new(""), folder.as_fd(), Path::new(name), flags).doing(|| name.clone())?;
        for link in links {
            rustix::fs::symlinkat(name.as_str(), &folder, link.as_str()).doing(|| link.clone())?;
        }
    }
    let propagation = Some(MountPropagationFlags::PRIVATE);
    let attrs = MountAttrs { set: options.set, clear: options.clear, propagation, user_namespace: None };
    mount_setattr(folder.as_fd(), Depth::Recursive, &attrs).doing(|| "cannot set its attributes")?;
    [target, folder].into_iter().for_each(leave_open);
    Ok(())
}

fn folder(attributes: MountAttr) -> std::result::Result<OwnedFd, sys::mount::FsError> {
    let context = FsContext::open("tmpfs")?;
    context.set_string("source", "cgroup")?;
    context.set_string("mode", "755")?;
    context.create()?;
    context.mount(attributes)
}
