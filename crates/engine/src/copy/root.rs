//! A container's files as it sees them, its mounts included.
//!
//! One that runs has them before it, under `/proc/PID/root`. For one that does not they are mounted as for a start, in a mount
//! namespace that goes with the last descriptor; two mounts of one writable layer would spoil it, so no start happens meanwhile.

use super::PathStat;
use crate::engine::{ImageMounts, Inner};
use crate::error::{EngineError, Result};
use crate::model::{Container, ContainerId, MountKind};
use image::transfer::{Shift, Wanted, clean, ensure_folder, resolve};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use sys::mount::{Depth, MountAttr, MountAttrs, OpenTreeFlags, mount_setattr, move_mount_onto, open_tree};
use sys::overlay::{Above, Overlay};

/// Held while a container must not begin to run.
pub(crate) type Guard = tokio::sync::OwnedMutexGuard<()>;

/// Which containers are kept from beginning to run.
#[derive(Debug, Default)]
pub(crate) struct Stills(Mutex<HashMap<ContainerId, Weak<tokio::sync::Mutex<()>>>>);

impl Inner {
    /// Waits until nobody else keeps a container still, and keeps it so.
    pub(crate) async fn still(&self, id: &ContainerId) -> Guard {
        let lock = {
            let mut all = self.stills.0.lock().unwrap_or_else(PoisonError::into_inner);
            all.retain(|_, lock| lock.strong_count() > 0);
            let known = all.get(id).and_then(Weak::upgrade);
            known.unwrap_or_else(|| {
                let lock = Arc::new(tokio::sync::Mutex::new(()));
                all.insert(id.clone(), Arc::downgrade(&lock));
                lock
            })
        };
        lock.lock_owned().await
    }
}

/// The root of a container.
#[derive(Debug)]
pub(super) struct Root {
    pub(super) fd: OwnedFd,
    /// Where the kernel shows ids of the host for those of the container.
    pub(super) shift: Option<Shift>,
    /// Keep the mounts alive, and the container still, in this order.
    _namespace: Option<OwnedFd>,
    _layers: Option<image::Layers>,
    _guard: Option<Guard>,
}

impl Root {
    /// Opens it; blocks.
    pub(super) fn open(inner: &Arc<Inner>, container: &Container, guard: Guard) -> Result<Self> {
        let failed = |error: &dyn std::error::Error| {
            EngineError::internal(format!("cannot open the files of container {}", container.name), error)
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        if container.pid() > 0 {
            let fd = rustix::fs::open(format!("/proc/{}/root", container.pid()), flags, Mode::empty())
                .map_err(|errno| failed(&std::io::Error::from(errno)))?;
            // what runs may also be stopped, and started again
            drop(guard);
            let shift = container.ids.map(|ids| Shift { uid: ids.first_uid, gid: ids.first_gid, count: ids.count });
            return Ok(Self { fd, shift, _namespace: None, _layers: None, _guard: None });
        }
        let layers = inner
            .images
            .get(&container.image_id)
            .and_then(|image| inner.images.mount_layers(&image))
            .map_err(|error| failed(&error))?;
        let images = inner.ready_for_copy(container)?;
        // before the namespace: kernels before 6.15 take only layers of the one that they are in
        let overlay = overlay(inner, container, &layers).map_err(|error| failed(&error))?;
        let made = sys::mountns::in_new(|| assemble(inner, container, overlay, &images));
        let (namespace, root) = made.map_err(|error| failed(&error))?;
        let fd = root.map_err(|error| failed(&error))?;
        Ok(Self { fd, shift: None, _namespace: Some(namespace), _layers: Some(layers), _guard: Some(guard) })
    }

    /// What is there; the last name's own link is not followed.
    pub(super) fn stat(&self, wanted: &Wanted) -> rustix::io::Result<PathStat> {
        let fd = wanted.open(&self.fd)?;
        let stat = rustix::fs::fstat(&fd)?;
        let link_target = match rustix::fs::FileType::from_raw_mode(stat.st_mode) {
            rustix::fs::FileType::Symlink => self.target(wanted, &fd)?,
            _ => String::new(),
        };
        Ok(PathStat {
            name: wanted.shown.clone(),
            size: u64::try_from(stat.st_size).unwrap_or(0),
            mode: stat.st_mode,
            mtime_ns: i128::from(stat.st_mtime) * 1_000_000_000 + i128::from(stat.st_mtime_nsec),
            link_target,
        })
    }

    /// Where a link leads at last: links on the way are followed, and what is not there yet stays as text.
    fn target(&self, wanted: &Wanted, link: &OwnedFd) -> rustix::io::Result<String> {
        let mut path = wanted.whole();
        let mut text = rustix::fs::readlinkat(link, "", Vec::new())?;
        for _ in 0..40 {
            let target = PathBuf::from(text.to_string_lossy().into_owned());
            path = clean(&path.parent().unwrap_or(Path::new("")).join(target));
            let flags = OFlags::PATH | OFlags::NOFOLLOW;
            let Ok(next) = resolve(&self.fd, &path, flags) else { break };
            match rustix::fs::readlinkat(&next, "", Vec::new()) {
                Ok(more) => text = more,
                Err(_) => break,
            }
        }
        Ok(format!("/{}", path.display()))
    }
}

/// In a mount namespace of its own: what is mounted, over the root file system.
fn assemble(inner: &Inner, container: &Container, root: OwnedFd, images: &ImageMounts) -> std::io::Result<OwnedFd> {
    let io = |error: sys::SysError| std::io::Error::other(error.to_string());
    let paths = inner.config.paths(&container.id);
    // mounts can be made only on what is mounted somewhere: over the container's own folder, which nobody sees here
    let below: Vec<(PathBuf, OwnedFd, MountAttr)> = sources(container, &paths, images)?;
    let place = rustix::fs::open(&paths.dir, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    move_mount_onto(root.as_fd(), place.as_fd()).map_err(io)?;
    for (target, tree, set) in below {
        let kind = rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(&tree)?.st_mode);
        let at = ensure(&root, &target, kind)?;
        if !set.is_empty() {
            let attrs = MountAttrs { set, ..MountAttrs::default() };
            mount_setattr(tree.as_fd(), Depth::Recursive, &attrs).map_err(io)?;
        }
        move_mount_onto(tree.as_fd(), at.as_fd()).map_err(io)?;
    }
    Ok(root)
}

fn overlay(inner: &Inner, container: &Container, layers: &image::Layers) -> std::io::Result<OwnedFd> {
    let dir = inner.config.paths(&container.id).dir;
    let open = |name: &str| {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::open(dir.join(name), flags, Mode::empty())
    };
    let written = crate::files::has_upper(&container.spec);
    let parts = if written { Some((open("upper")?, open("work")?)) } else { None };
    let above = parts.as_ref().map(|(upper, work)| Above { upper: upper.as_fd(), work: work.as_fd(), volatile: false });
    let lowest = std::iter::once(inner.skeleton.as_fd());
    let layers: Vec<_> = layers.fds.iter().map(|layer| layer.as_fd()).chain(lowest).collect();
    let overlay = Overlay { layers: &layers, above, attributes: MountAttr::empty() };
    overlay.mount().map_err(|error| std::io::Error::other(error.to_string()))
}

/// Where a mount's files are.
enum Origin<'a> {
    Path(PathBuf),
    /// A part of a folder of the host, with no way out of it.
    Part(PathBuf, &'a str),
    /// A part of an image's files.
    Image(std::os::fd::BorrowedFd<'a>, &'a str),
}

impl Origin<'_> {
    /// A copy of the mount, that is in no place yet.
    fn tree(&self) -> std::io::Result<OwnedFd> {
        let clone = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::AT_RECURSIVE;
        let of = |fd: OwnedFd| open_tree(fd.as_fd(), Path::new(""), clone | OpenTreeFlags::AT_EMPTY_PATH);
        let (made, shown) = match self {
            Self::Path(path) => (open_tree(CWD, path, clone), path.display().to_string()),
            Self::Part(folder, subpath) => {
                let fd = crate::volume::within(folder, subpath).map_err(std::io::Error::other)?;
                (of(fd), folder.join(subpath).display().to_string())
            }
            Self::Image(files, subpath) => {
                (of(resolve(files, Path::new(subpath.trim_start_matches('/')), OFlags::PATH)?), (*subpath).to_owned())
            }
        };
        made.map_err(|error| std::io::Error::other(format!("{shown}: {error}")))
    }
}

/// What is mounted over the layers, parents before children: where, what, and how.
fn sources(
    container: &Container,
    paths: &crate::config::Paths,
    images: &ImageMounts,
) -> std::io::Result<Vec<(PathBuf, OwnedFd, MountAttr)>> {
    let mut all: Vec<(PathBuf, Origin<'_>, MountAttr)> =
        [("/etc/resolv.conf", &paths.resolv_conf), ("/etc/hostname", &paths.hostname), ("/etc/hosts", &paths.hosts)]
            .into_iter()
            // those of a container in networks are made when it starts
            .filter(|(_, source)| source.exists())
            .map(|(target, source)| (PathBuf::from(target), Origin::Path(source.clone()), MountAttr::empty()))
            .collect();
    for mount in &container.spec.mounts {
        let set = if mount.read_only { MountAttr::RDONLY } else { MountAttr::empty() };
        let target = PathBuf::from(&mount.target);
        let volume = || container.volumes.iter().find(|volume| volume.target == mount.target);
        let source = match &mount.kind {
            MountKind::Bind { source, .. } => Origin::Path(PathBuf::from(source)),
            MountKind::Volume { subpath, .. } => match (volume(), subpath.as_deref()) {
                (Some(volume), None | Some("")) => Origin::Path(PathBuf::from(&volume.source)),
                (Some(volume), Some(subpath)) => Origin::Part(PathBuf::from(&volume.source), subpath),
                (None, _) => continue,
            },
            MountKind::Image { subpath, .. } => match images.get(&mount.target) {
                Some(files) => Origin::Image(files.root(), subpath.as_deref().unwrap_or_default()),
                None => continue,
            },
            // memory that comes with the start
            MountKind::Tmpfs { .. } => continue,
        };
        all.retain(|(other, ..)| *other != target);
        all.push((target, source, set));
    }
    all.sort_by_key(|(target, ..)| target.components().count());
    all.into_iter().map(|(target, origin, set)| Ok((target, origin.tree()?, set))).collect()
}

/// Opens the mount point, and makes it if it is missing.
fn ensure(root: &OwnedFd, target: &Path, kind: rustix::fs::FileType) -> rustix::io::Result<OwnedFd> {
    let path = target.strip_prefix("/").unwrap_or(target);
    match resolve(root, path, OFlags::PATH) {
        Err(Errno::NOENT) => {}
        other => return other,
    }
    let parent = path.parent().unwrap_or(Path::new(""));
    let folder = ensure_folder(root, parent)?;
    let name = path.file_name().ok_or(Errno::INVAL)?;
    let made = if kind == rustix::fs::FileType::Directory {
        rustix::fs::mkdirat(&folder, name, Mode::from_raw_mode(0o755))
    } else {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::RDONLY;
        rustix::fs::openat(&folder, name, flags, Mode::from_raw_mode(0o644)).map(drop)
    };
    match made {
        Ok(()) | Err(Errno::EXIST) => resolve(root, path, OFlags::PATH),
        Err(errno) => Err(errno),
    }
}
