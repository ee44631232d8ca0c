//! One mounted hierarchy: its controllers, its directory, and the few file operations that groups need.
//!
//! In a daemon every operation is relative to one directory descriptor, so that no path is walked from the root again. A
//! program that makes one group and ends goes by paths: opening and closing the directory costs more than it saves.

use std::borrow::Cow;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use sys::SysError;
use sys::process::close_later;

use crate::{CgroupError, Result};

/// Which interface a hierarchy speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    /// Version 1: some controllers, or only a name.
    V1,
    /// The one version 2 hierarchy.
    V2,
}

/// Whether a hierarchy's directory is kept open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// One descriptor, for a process that lives long.
    Kept,
    /// None: each operation walks the path.
    ByPath,
}

/// One mounted hierarchy.
#[derive(Debug)]
pub(crate) struct Hierarchy {
    /// Its place among the host's hierarchies.
    pub(crate) slot: usize,
    pub(crate) kind: Kind,
    /// The controllers' names; a named hierarchy without controllers has `name=NAME`.
    pub(crate) controllers: Vec<String>,
    pub(crate) mount_point: PathBuf,
    dir: Option<OwnedFd>,
}

impl Hierarchy {
    /// The hierarchy mounted at `mount_point`.
    pub(crate) fn open(
        slot: usize,
        kind: Kind,
        controllers: Vec<String>,
        mount_point: PathBuf,
        access: Access,
    ) -> Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = match access {
            Access::ByPath => None,
            Access::Kept => Some(rustix::fs::open(&mount_point, flags, Mode::empty()).map_err(|errno| {
                CgroupError::Read { file: mount_point.clone(), source: SysError::new("open", errno) }
            })?),
        };
        Ok(Self { slot, kind, controllers, mount_point, dir })
    }

    /// Where to look for `relative`: a directory and a path below it.
    fn at<'a>(&'a self, relative: &'a str) -> (BorrowedFd<'a>, Cow<'a, Path>) {
        match &self.dir {
            Some(dir) => (dir.as_fd(), Cow::Borrowed(Path::new(relative))),
            None => (rustix::fs::CWD, Cow::Owned(self.path(relative))),
        }
    }

    pub(crate) fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|own| own == controller)
    }

    /// The absolute path of `relative`, for messages and for [`crate::Applied`].
    pub(crate) fn path(&self, relative: &str) -> PathBuf {
        self.mount_point.join(relative)
    }

    pub(crate) fn open_file(&self, relative: &str, flags: OFlags) -> std::result::Result<OwnedFd, Errno> {
        let (dir, path) = self.at(relative);
        rustix::fs::openat(dir, &*path, flags | OFlags::CLOEXEC, Mode::empty())
    }

    pub(crate) fn open_dir(&self, relative: &str) -> Result<OwnedFd> {
        self.open_file(relative, OFlags::RDONLY | OFlags::DIRECTORY)
            .map_err(|errno| CgroupError::Read { file: self.path(relative), source: SysError::new("openat", errno) })
    }

    /// The text of a file, or `None` where there is no such file.
    pub(crate) fn read_optional(&self, relative: &str) -> Result<Option<String>> {
        let wrap = |call: &'static str, errno| CgroupError::Read {
            file: self.path(relative),
            source: SysError::new(call, errno),
        };
        let file = match self.open_file(relative, OFlags::RDONLY) {
            Ok(file) => file,
            // ENODEV: the directory was removed while we held its path.
            Err(Errno::NOENT | Errno::NODEV) => return Ok(None),
            Err(errno) => return Err(wrap("openat", errno)),
        };
        let read = read_all(&file);
        close_later(file);
        match read {
            Ok(text) => Ok(Some(text)),
            Err(Errno::NODEV | Errno::OPNOTSUPP) => Ok(None),
            Err(errno) => Err(wrap("read", errno)),
        }
    }

    /// The text of a file that must be there.
    pub(crate) fn read(&self, relative: &str) -> Result<String> {
        self.read_optional(relative)?.ok_or_else(|| CgroupError::Read {
            file: self.path(relative),
            source: SysError::new("openat", Errno::NOENT),
        })
    }

    /// Writes one value to a write-only or a readable file, without reading it back.
    pub(crate) fn write(&self, relative: &str, value: &str) -> std::result::Result<(), SysError> {
        let file = self.open_file(relative, OFlags::WRONLY).map_err(SysError::of("openat"))?;
        let written = write_all(&file, value).map_err(SysError::of("write"));
        close_later(file);
        written
    }

    /// Writes one value and gives back what the kernel made of it, in one open.
    pub(crate) fn write_and_read(&self, relative: &str, value: &str) -> std::result::Result<String, SysError> {
        let file = self.open_file(relative, OFlags::RDWR).map_err(SysError::of("openat"))?;
        write_all(&file, value).map_err(SysError::of("write"))?;
        // Some kernels refuse to read what they accept; the write is what counts then.
        let text = read_all(&file).unwrap_or_else(|_| value.to_owned());
        close_later(file);
        Ok(text.trim_end().to_owned())
    }

    /// Makes one directory; its parent must exist.
    pub(crate) fn make_dir(&self, relative: &str) -> std::result::Result<(), Errno> {
        let (dir, path) = self.at(relative);
        rustix::fs::mkdirat(dir, &*path, Mode::from_raw_mode(0o755))
    }

    pub(crate) fn remove_dir(&self, relative: &str) -> std::result::Result<(), Errno> {
        let (dir, path) = self.at(relative);
        rustix::fs::unlinkat(dir, &*path, AtFlags::REMOVEDIR)
    }

    pub(crate) fn exists(&self, relative: &str) -> bool {
        let (dir, path) = self.at(relative);
        rustix::fs::accessat(dir, &*path, rustix::fs::Access::EXISTS, AtFlags::empty()).is_ok()
    }

    /// The names of the groups directly below `relative`.
    pub(crate) fn children(&self, relative: &str) -> Vec<String> {
        self.list(relative, |kind| kind == rustix::fs::FileType::Directory)
    }

    /// The names of the files of the group `relative`.
    pub(crate) fn entries(&self, relative: &str) -> Vec<String> {
        self.list(relative, |kind| kind != rustix::fs::FileType::Directory)
    }

    fn list(&self, relative: &str, wanted: impl Fn(rustix::fs::FileType) -> bool) -> Vec<String> {
        let Ok(dir) = self.open_file(relative, OFlags::RDONLY | OFlags::DIRECTORY) else { return Vec::new() };
        let Ok(entries) = rustix::fs::Dir::new(dir) else { return Vec::new() };
        entries
            .flatten()
            .filter(|entry| wanted(entry.file_type()))
            .filter_map(|entry| entry.file_name().to_str().ok().map(str::to_owned))
            .filter(|name| name != "." && name != "..")
            .collect()
    }
}

/// Reads a whole kernel file from its start.
pub(crate) fn read_all(file: &OwnedFd) -> std::result::Result<String, Errno> {
    let mut bytes = vec![0_u8; 4096];
    let mut filled = 0;
    loop {
        if filled == bytes.len() {
            bytes.resize(bytes.len() * 2, 0);
        }
        let offset = u64::try_from(filled).unwrap_or(u64::MAX);
        match rustix::io::pread(file.as_fd(), &mut bytes[filled..], offset) {
            Ok(0) => break,
            // The kernel fills a buffer as far as whole lines go, and no line of these files is so long: this was all.
            Ok(count) if filled == 0 && count < bytes.len() / 2 => {
                filled = count;
                break;
            }
            Ok(count) => filled += count,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    bytes.truncate(filled);
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Writes a value and a line end in one call, as control files want it.
pub(crate) fn write_all(file: &OwnedFd, value: &str) -> std::result::Result<(), Errno> {
    let line = format!("{value}\n");
    loop {
        match rustix::io::write(file.as_fd(), line.as_bytes()) {
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// One mount of a control group file system, as the mount table has it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct CgroupMount {
    pub(crate) kind: Kind,
    pub(crate) controllers: Vec<String>,
    pub(crate) mount_point: PathBuf,
    /// Which of the hierarchy's groups is mounted there; `/` but in a container without a namespace of its own.
    pub(crate) root: String,
}

/// The control group mounts in the text of a `mountinfo` file; of a hierarchy mounted twice, the first.
///
/// # Source
/// proc_pid_mountinfo(5).
pub(crate) fn parse_mounts(mountinfo: &str, root: &Path) -> Vec<CgroupMount> {
    let mut mounts: Vec<CgroupMount> = Vec::new();
    for line in mountinfo.lines() {
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let mut left = left.split(' ').skip(3);
        let (Some(top), Some(point)) = (left.next(), left.next()) else { continue };
        let mut right = right.split(' ');
        let (Some(filesystem), Some(options)) = (right.next(), right.nth(1)) else { continue };
        let point = unescape(point);
        if let Some(mount) = CgroupMount::of(filesystem, options, unescape(top), root.join(below(&point))) {
            add(&mut mounts, mount);
        }
    }
    mounts
}

/// The control group mounts where they usually are, without a look at all others; nothing where that can't be told.
pub(crate) fn usual_mounts() -> Option<Vec<CgroupMount>> {
    let mut mounts: Vec<CgroupMount> = Vec::new();
    for found in sys::mount_table::mounts_at(Path::new("/sys/fs/cgroup")).ok()? {
        let mount = CgroupMount::of(&found.filesystem, &found.options, unescape(&found.root), found.point.into());
        match mount {
            Some(mount) => add(&mut mounts, mount),
            // it has a controller or a name in truth, which an older kernel does not tell here
            None if found.filesystem == "cgroup" => return None,
            None => {}
        }
    }
    (!mounts.is_empty()).then_some(mounts)
}

impl CgroupMount {
    /// What a mount of this kind is to us, if anything.
    fn of(filesystem: &str, options: &str, root: String, mount_point: PathBuf) -> Option<Self> {
        let named = || options.split(',').filter(|name| is_controller(name)).map(str::to_owned).collect();
        let (kind, controllers): (Kind, Vec<String>) = match filesystem {
            "cgroup" => (Kind::V1, named()),
            "cgroup2" => (Kind::V2, Vec::new()),
            _ => return None,
        };
        let nameless = kind == Kind::V1 && controllers.is_empty();
        (!nameless).then_some(Self { kind, controllers, mount_point, root })
    }
}

/// Adds a mount, unless the hierarchy is there already.
fn add(mounts: &mut Vec<CgroupMount>, mount: CgroupMount) {
    if !mounts.iter().any(|other| other.kind == mount.kind && other.controllers == mount.controllers) {
        mounts.push(mount);
    }
}

/// A path without the `/` that it begins with, to be joined to another root.
fn below(path: &str) -> &str {
    path.strip_prefix('/').unwrap_or(path)
}

/// Whether a super-block option of a version 1 mount names a controller or a hierarchy.
fn is_controller(option: &str) -> bool {
    const KNOWN: [&str; 14] = [
        "cpu",
        "cpuacct",
        "cpuset",
        "memory",
        "blkio",
        "devices",
        "freezer",
        "pids",
        "net_cls",
        "net_prio",
        "hugetlb",
        "perf_event",
        "rdma",
        "misc",
    ];
    KNOWN.contains(&option) || option.starts_with("name=")
}

/// Undoes the octal escapes of `mountinfo` (`\040` is a space).
fn unescape(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut plain = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let escape = bytes.get(at + 1..at + 4).and_then(|digits| std::str::from_utf8(digits).ok());
        match escape.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(code) if byte == b'\\' => {
                plain.push(code);
                at += 4;
            }
            _ => {
                plain.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&plain).into_owned()
}
