//! Putting files into a stage's root file system: whatever links are in it, nothing outside of it is touched.

use crate::error::{EngineError, ErrorClass, Result};
use image::build::copy::{Entry, Existing, Resolved, Shape};
use image::build::{FileKind, Files};
use image::tree::{DeviceKind, Stat};
use rustix::fs::{AtFlags, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// The most links to nothing on the way to a folder.
const LINKS_MAX: usize = 16;
/// Bytes copied at a time.
const PIECE: usize = 256 << 10;

/// A root file system to be filled.
pub(super) struct Placer<'a> {
    root: BorrowedFd<'a>,
    /// The time that everything gets; its own if none.
    epoch: Option<i64>,
    /// Whose new parent folders are.
    parents: (u32, u32),
    /// The folder that was last written to.
    last: Option<(Vec<u8>, OwnedFd)>,
    /// Times of folders, which have to wait until nothing more is put into them.
    times: BTreeMap<Vec<u8>, Timestamps>,
}

fn failed(doing: &str, path: &[u8]) -> impl FnOnce(Errno) -> EngineError + use<> {
    let text = format!("cannot {doing} \"{}\" in the image", String::from_utf8_lossy(path));
    move |error| {
        let class = match error {
            Errno::NOTDIR | Errno::ISDIR | Errno::LOOP | Errno::NAMETOOLONG => ErrorClass::Invalid,
            _ => ErrorClass::Internal,
        };
        EngineError::because(class, text, &error)
    }
}

fn names(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|byte| *byte == b'/').filter(|name| !name.is_empty())
}

fn split(path: &[u8]) -> (&[u8], &[u8]) {
    let at = path.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
    (&path[..at], &path[at..])
}

impl<'a> Placer<'a> {
    pub(super) fn new(root: BorrowedFd<'a>, epoch: Option<i64>, parents: (u32, u32)) -> Self {
        Self { root, epoch, parents, last: None, times: BTreeMap::new() }
    }

    fn open(&self, path: &[u8], flags: OFlags) -> rustix::io::Result<OwnedFd> {
        let path = if path.iter().all(|byte| *byte == b'/') { b"." } else { path };
        rustix::fs::openat2(self.root, path, flags | OFlags::CLOEXEC, Mode::empty(), ResolveFlags::IN_ROOT)
    }

    /// What is at a path, links followed.
    pub(super) fn existing(&self, path: &[u8]) -> Existing {
        match self.open(path, OFlags::PATH | OFlags::DIRECTORY) {
            Ok(_) => Existing::Folder,
            Err(_) => Existing::Other,
        }
    }

    /// Opens a folder; it and those above it are made where they are missing.
    pub(super) fn folder(&mut self, path: &[u8]) -> Result<OwnedFd> {
        self.folder_by(path, LINKS_MAX)
    }

    /// As [`Self::folder`], with so many links to nothing on the way, whose targets are made.
    fn folder_by(&mut self, path: &[u8], links: usize) -> Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        match self.open(path, flags) {
            Err(Errno::NOENT) => {}
            other => return other.map_err(failed("open the folder", path)),
        }
        let mut at = Vec::new();
        let mut folder = self.open(b"", flags).map_err(failed("open the folder", b"/"))?;
        for name in names(path) {
            let above = at.len();
            at.push(b'/');
            at.extend_from_slice(name);
            folder = match self.open(&at, flags) {
                Ok(next) => next,
                Err(Errno::NOENT) => {
                    match rustix::fs::mkdirat(&folder, name, Mode::from_raw_mode(0o755)) {
                        Err(Errno::EXIST) if links > 0 => {
                            folder = self.behind(&folder, name, &at[..above], links)?;
                            continue;
                        }
                        made => made.map_err(failed("make the folder", &at))?,
                    }
                    let new = self.open(&at, flags).map_err(failed("open the folder", &at))?;
                    own(&new, self.parents).map_err(failed("set the owner of", &at))?;
                    chmod(&new, 0o755).map_err(failed("set the mode of", &at))?;
                    if let Some(epoch) = self.epoch {
                        self.times.insert(at.clone(), times(epoch, 0));
                    }
                    new
                }
                Err(error) => return Err(failed("open the folder", &at)(error)),
            };
        }
        Ok(folder)
    }

    /// Makes the folder that a link in `folder`, which is at `above`, points to.
    fn behind(&mut self, folder: &OwnedFd, name: &[u8], above: &[u8], links: usize) -> Result<OwnedFd> {
        let read = rustix::fs::readlinkat(folder, name, Vec::new());
        let target = read.map_err(failed("make the folder", &[above, b"/", name].concat()))?.into_bytes();
        let path = if target.starts_with(b"/") { target } else { [above, b"/", &target].concat() };
        self.folder_by(&path, links - 1)
    }

    fn parent(&mut self, path: &[u8]) -> Result<OwnedFd> {
        let (parent, _) = split(path);
        if let Some((known, fd)) = &self.last
            && known == parent
        {
            return fd.try_clone().map_err(|error| EngineError::internal("cannot copy a descriptor", &error));
        }
        let fd = self.folder(parent)?;
        let kept = fd.try_clone().map_err(|error| EngineError::internal("cannot copy a descriptor", &error))?;
        self.last = Some((parent.to_vec(), kept));
        Ok(fd)
    }

    /// Puts what a source was resolved to in its places. `owner` overrides the files' own.
    pub(super) fn source(
        &mut self,
        resolved: &Resolved,
        placed: &[(Vec<u8>, &Entry)],
        from: &dyn Files,
        owner: Option<(u32, u32)>,
    ) -> Result<()> {
        for (path, entry) in placed {
            let root = entry.path.is_empty() && resolved.shape == Shape::Contents;
            if root && self.existing(path) == Existing::Folder {
                continue;
            }
            let mut stat = entry.file.stat.clone();
            if let Some((uid, gid)) = owner {
                (stat.uid, stat.gid) = (uid, gid);
            }
            match &entry.file.kind {
                FileKind::Regular(_) => {
                    let contents = from.open(&entry.origin).map_err(|error| {
                        EngineError::because(ErrorClass::Invalid, "cannot read what is to be copied", &error)
                    })?;
                    self.file(path, &stat, contents)?;
                }
                kind => self.node(path, &stat, kind)?,
            }
        }
        Ok(())
    }

    /// Writes a regular file; what was in its place goes, unless it is a folder.
    pub(super) fn file(&mut self, path: &[u8], stat: &Stat, mut contents: impl Read) -> Result<()> {
        let parent = self.parent(path)?;
        let (_, name) = split(path);
        let name = self.cleared(&parent, path, name)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let fd = rustix::fs::openat(&parent, name, flags, Mode::from_raw_mode(0o600))
            .map_err(failed("create the file", path))?;
        let mut file = std::fs::File::from(fd);
        let mut piece = vec![0; PIECE];
        loop {
            let count = contents.read(&mut piece).map_err(|error| {
                EngineError::because(
                    ErrorClass::Invalid,
                    format!("cannot read {}", String::from_utf8_lossy(path)),
                    &error,
                )
            })?;
            if count == 0 {
                break;
            }
            std::io::Write::write_all(&mut file, &piece[..count]).map_err(|error| {
                EngineError::because(
                    ErrorClass::Unavailable,
                    format!("cannot write {}", String::from_utf8_lossy(path)),
                    &error,
                )
            })?;
        }
        own(&file, (stat.uid, stat.gid)).map_err(failed("set the owner of", path))?;
        rustix::fs::fchmod(&file, Mode::from_raw_mode(stat.mode.into())).map_err(failed("set the mode of", path))?;
        for (name, value) in &stat.xattrs {
            rustix::fs::fsetxattr(&file, &name[..], value, XattrFlags::empty())
                .map_err(failed("set an attribute of", path))?;
        }
        rustix::fs::futimens(&file, &self.times_of(stat)).map_err(failed("set the time of", path))
    }

    /// Makes a folder, link, device or pipe. A folder that is there stays and gets the metadata.
    fn node(&mut self, path: &[u8], stat: &Stat, kind: &FileKind) -> Result<()> {
        if *kind == FileKind::Directory {
            let fd = self.folder(path)?;
            own(&fd, (stat.uid, stat.gid)).map_err(failed("set the owner of", path))?;
            chmod(&fd, stat.mode).map_err(failed("set the mode of", path))?;
            for (name, value) in &stat.xattrs {
                let at = format!("/proc/self/fd/{}", fd.as_raw_fd());
                rustix::fs::setxattr(at, &name[..], value, XattrFlags::empty())
                    .map_err(failed("set an attribute of", path))?;
            }
            self.times.insert(path.to_vec(), self.times_of(stat));
            return Ok(());
        }
        let parent = self.parent(path)?;
        let (_, name) = split(path);
        let name = self.cleared(&parent, path, name)?;
        let made = match kind {
            FileKind::Symlink(target) => rustix::fs::symlinkat(&target[..], &parent, name),
            FileKind::Device { kind, major, minor } => {
                let kind = match kind {
                    DeviceKind::Character => rustix::fs::FileType::CharacterDevice,
                    DeviceKind::Block => rustix::fs::FileType::BlockDevice,
                };
                let device = rustix::fs::makedev(*major, *minor);
                rustix::fs::mknodat(&parent, name, kind, Mode::from_raw_mode(0o600), device)
            }
            _ => rustix::fs::mknodat(&parent, name, rustix::fs::FileType::Fifo, Mode::from_raw_mode(0o600), 0),
        };
        made.map_err(failed("make", path))?;
        let ids = (Some(Uid::from_raw(stat.uid)), Some(Gid::from_raw(stat.gid)));
        rustix::fs::chownat(&parent, name, ids.0, ids.1, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(failed("set the owner of", path))?;
        if !matches!(kind, FileKind::Symlink(_)) {
            rustix::fs::chmodat(&parent, name, Mode::from_raw_mode(stat.mode.into()), AtFlags::empty())
                .map_err(failed("set the mode of", path))?;
        }
        rustix::fs::utimensat(&parent, name, &self.times_of(stat), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(failed("set the time of", path))
    }

    /// Removes what is in the place of a file.
    fn cleared<'n>(&self, parent: &OwnedFd, path: &[u8], name: &'n [u8]) -> Result<&'n [u8]> {
        if name.is_empty() {
            return Err(EngineError::invalid("a file cannot take the place of the image's root folder"));
        }
        match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(name),
            Err(Errno::ISDIR | Errno::PERM) => Err(EngineError::invalid(format!(
                "cannot copy a file over the folder \"{}\" in the image; end the destination with a slash to copy into it",
                String::from_utf8_lossy(path)
            ))),
            Err(error) => Err(failed("replace", path)(error)),
        }
    }

    fn times_of(&self, stat: &Stat) -> Timestamps {
        match self.epoch {
            Some(epoch) => times(epoch, 0),
            None => times(stat.mtime.seconds, stat.mtime.nanos),
        }
    }

    /// Sets the times of folders.
    pub(super) fn finish(mut self) -> Result<()> {
        for (path, times) in std::mem::take(&mut self.times).into_iter().rev() {
            let fd = self.open(&path, OFlags::RDONLY | OFlags::DIRECTORY).map_err(failed("open", &path))?;
            rustix::fs::futimens(&fd, &times).map_err(failed("set the time of", &path))?;
        }
        Ok(())
    }
}

fn own(fd: &impl AsFd, (uid, gid): (u32, u32)) -> rustix::io::Result<()> {
    let ids = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
    rustix::fs::chownat(fd, "", ids.0, ids.1, AtFlags::EMPTY_PATH)
}

/// Through /proc, since a descriptor that is only a path has no mode to be set.
fn chmod(fd: &OwnedFd, mode: u16) -> rustix::io::Result<()> {
    rustix::fs::chmod(format!("/proc/self/fd/{}", fd.as_raw_fd()), Mode::from_raw_mode(mode.into()))
}

fn times(seconds: i64, nanos: u32) -> Timestamps {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanos.into() };
    Timestamps { last_access: time, last_modification: time }
}
