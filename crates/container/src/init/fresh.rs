//! File systems that were made just now. Nothing in them is an image's, so a name in one leads nowhere else, and need not be looked up
//! with care; and mount(2) makes one with a single call, where the new interface takes a call for each option.

use super::{leave_open, root};
use oci_spec::runtime::Mount;
use rustix::fs::{Mode, OFlags};
use std::cell::OnceCell;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};
use sys::mount::{MountAttr, MoveMountFlags, Walker, move_mount};
use sys::mount_options::Options;

const MOST: usize = 16;

/// Those of one container, in the order in which they were made.
#[derive(Default)]
pub(crate) struct Fresh {
    all: Vec<One>,
    /// Where a file system in memory becomes read-only when all is done.
    closing: Vec<PathBuf>,
    /// The process stands where it mounted last; `init` puts it right before anything looks up a relative path.
    pub(super) walker: Walker,
}

struct One {
    path: PathBuf,
    origin: Origin,
    /// Opened when it is first needed.
    folder: OnceCell<OwnedFd>,
}

/// Who fills a file system.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Origin {
    /// Nobody but us, so far: tmpfs.
    Us,
    /// The kernel: proc and sysfs.
    Kernel,
}

impl One {
    fn folder(&self, root: BorrowedFd<'_>) -> Option<BorrowedFd<'_>> {
        if self.folder.get().is_none() {
            let opened = root::resolve_plain(root, &self.path, OFlags::PATH | OFlags::DIRECTORY).ok()?;
            // only set here, and it was empty
            let _ = self.folder.set(opened);
        }
        self.folder.get().map(AsFd::as_fd)
    }
}

impl Fresh {
    /// Makes the new file system that a mount asks for where it belongs, with one call; says whether that could be done. What asks for
    /// more, and what fails, is left to the long way, which has better errors, too.
    pub(crate) fn make(&mut self, mount: &Mount, kind: &str, options: &Options, root: BorrowedFd<'_>) -> bool {
        let simple = matches!(kind, "devpts" | "mqueue" | "proc" | "sysfs" | "tmpfs")
            && options.propagation.is_empty()
            && options.whole.is_empty()
            && options.set_below.is_empty()
            && options.clear_below.is_empty()
            && !options.copy_up;
        let Some(data) = simple.then(|| data(options)).flatten() else { return false };
        let source = mount.source().as_deref().unwrap_or(Path::new(kind)).to_string_lossy();
        let source = if source.is_empty() { kind } else { &source };
        let destination = mount.destination();
        let made = |walker: &mut Walker, folder: BorrowedFd<'_>, name: &Path| {
            walker.mount(source, (folder, name), kind, options.set, &data).is_ok()
        };
        let (Some(parent), Some(name)) = (destination.parent(), destination.file_name()) else { return false };
        let done = if parent == Path::new("/") {
            // the root is an image's: mount(2) would follow a link
            let place = root::resolve_plain(root, destination, OFlags::PATH | OFlags::DIRECTORY);
            place.is_ok_and(|place| {
                let done = made(&mut self.walker, place.as_fd(), Path::new(""));
                leave_open(place);
                done
            })
        } else {
            ours(&self.all, parent, root).is_some_and(|folder| {
                rustix::fs::mkdirat(folder, name, Mode::from_raw_mode(0o755)).is_ok()
                    && made(&mut self.walker, folder, Path::new(name))
            })
        };
        if done {
            self.note(kind, destination, OnceCell::new());
        }
        done
    }

    /// Mounts `tree` on a folder for which no path must be looked up: one right below the root or below a file system in memory
    /// of ours, where it is made if it is missing. Says whether that was the case.
    pub(crate) fn place(&self, tree: BorrowedFd<'_>, destination: &Path, root: BorrowedFd<'_>) -> bool {
        let (Some(parent), Some(name)) = (destination.parent(), destination.file_name()) else { return false };
        // move_mount(2) does not follow a link in the last place
        let put = |folder: BorrowedFd<'_>| {
            move_mount(tree, Path::new(""), folder, Path::new(name), MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH).is_ok()
        };
        if parent == Path::new("/") {
            return put(root);
        }
        ours(&self.all, parent, root)
            .is_some_and(|folder| rustix::fs::mkdirat(folder, name, Mode::from_raw_mode(0o755)).is_ok() && put(folder))
    }

    /// Takes note of what was mounted.
    pub(crate) fn add(&mut self, kind: &str, destination: &Path, tree: OwnedFd) {
        self.note(kind, destination, OnceCell::from(tree));
    }

    fn note(&mut self, kind: &str, destination: &Path, folder: OnceCell<OwnedFd>) {
        // whatever was below is hidden now
        self.hide(destination);
        let origin = match kind {
            "tmpfs" => Some(Origin::Us),
            "proc" | "sysfs" => Some(Origin::Kernel),
            _ => None,
        };
        let plain = destination.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
        match origin.filter(|_| plain && self.all.len() < MOST) {
            Some(origin) => self.all.push(One { path: destination.to_owned(), origin, folder }),
            None => folder.into_inner().into_iter().for_each(leave_open),
        }
    }

    /// Notes a file system in memory that is to be read-only in the end.
    pub(crate) fn close_later(&mut self, destination: &Path) {
        self.closing.push(destination.to_owned());
    }

    /// What [`Self::close_later`] noted, once.
    pub(crate) fn take_closing(&mut self) -> Vec<PathBuf> {
        std::mem::take(&mut self.closing)
    }

    /// Forgets what lies below something new.
    pub(crate) fn hide(&mut self, destination: &Path) {
        let (kept, hidden): (Vec<One>, Vec<One>) =
            std::mem::take(&mut self.all).into_iter().partition(|one| !one.path.starts_with(destination));
        self.all = kept;
        leave(hidden);
    }

    /// The kernel's own file system that a path leads into, and the rest of the path there.
    pub(crate) fn kernels<'a>(&self, path: &'a Path, root: BorrowedFd<'_>) -> Option<(BorrowedFd<'_>, &'a Path)> {
        kernels(&self.all, path, root)
    }

    /// Mounts a small folder in memory for the control groups at a path in the kernel's own file system; says whether that could be done.
    pub(super) fn make_groups(&mut self, destination: &Path, set: MountAttr, root: BorrowedFd<'_>) -> bool {
        kernels(&self.all, destination, root)
            .is_some_and(|at| self.walker.mount("cgroup", at, "tmpfs", set, "mode=755").is_ok())
    }

    /// Leaves all descriptors open, to be closed with everything else.
    pub(crate) fn leave(self) {
        leave(self.all);
    }
}

fn leave(all: Vec<One>) {
    all.into_iter().filter_map(|one| one.folder.into_inner()).for_each(leave_open);
}

/// The folder of a file system in memory that is ours.
fn ours<'a>(all: &'a [One], path: &Path, root: BorrowedFd<'_>) -> Option<BorrowedFd<'a>> {
    all.iter().rev().find(|one| one.path == path && one.origin == Origin::Us)?.folder(root)
}

/// As [`Fresh::kernels`].
fn kernels<'a, 'b>(all: &'a [One], path: &'b Path, root: BorrowedFd<'_>) -> Option<(BorrowedFd<'a>, &'b Path)> {
    let one = all.iter().rev().find(|one| one.origin == Origin::Kernel && path.starts_with(&one.path))?;
    let rest = path.strip_prefix(&one.path).ok()?;
    let plain = rest.components().all(|part| matches!(part, Component::Normal(_)));
    if !plain || rest.as_os_str().is_empty() {
        return None;
    }
    Some((one.folder(root)?, rest))
}

/// A file system's own options as mount(2) takes them; `None` where they do not fit.
fn data(options: &Options) -> Option<String> {
    const PAGE: usize = 4000;
    let mut data = String::new();
    for (key, value) in &options.data {
        if key.contains(',') || value.as_ref().is_some_and(|value| value.contains(',')) {
            return None;
        }
        if !data.is_empty() {
            data.push(',');
        }
        data.push_str(key);
        if let Some(value) = value {
            data.push('=');
            data.push_str(value);
        }
    }
    (data.len() < PAGE).then_some(data)
}
