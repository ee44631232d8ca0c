//! An archive unpacked into a folder.

use super::Shift;
use super::pack::magic_path;
use super::path::{ensure_folder, resolve};
use crate::Limits;
use crate::model::EndMark;
use crate::tar::{Entry, Kind, Reader, TarError};
use crate::tree::{DeviceKind, Stat};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// Folders in folders beyond this are not removed: each holds a descriptor meanwhile.
const DEPTH_MAX: usize = 512;

/// Why an archive was not unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The archive is none.
    #[error("bad archive")]
    Archive(#[from] TarError),
    /// A folder is in the place of something else.
    #[error("cannot overwrite directory \"{0}\" with non-directory \"{1}\"")]
    FolderByFile(String, String),
    /// Something else is in the place of a folder.
    #[error("cannot overwrite non-directory \"{0}\" with directory \"{1}\"")]
    FileByFolder(String, String),
    /// A file cannot be made.
    #[error("cannot write \"{0}\"")]
    Write(String, #[source] io::Error),
}

/// Whether folders and other files may take each other's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Replace {
    /// They may.
    #[default]
    Anything,
    /// That is an error.
    SameKind,
}

/// Who owns what is unpacked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// As the archive says.
    Archived,
    /// These, user and group.
    Fixed(u32, u32),
    /// Whoever unpacks.
    Caller,
}

/// What the entries are called in the tree: without the name at the beginning, and behind another one.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Naming {
    /// Taken off where a path begins with it; empty for nothing.
    pub strip: PathBuf,
    /// Put before every path.
    pub prefix: PathBuf,
}

/// How an archive is unpacked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// What may take which place.
    pub replace: Replace,
    /// Who owns it.
    pub owner: Owner,
    /// Which names it gets.
    pub naming: Naming,
    /// Which ids stand for those of the archive.
    pub shift: Option<Shift>,
}

/// Unpacks into the folder `into` below `root`; what was unpacked before an error stays, as with tar(1).
///
/// # Errors
/// [`UnpackError`].
pub fn unpack(root: BorrowedFd<'_>, into: &Path, rules: &Rules, plain: impl Read) -> Result<(), UnpackError> {
    let mut reader = Reader::new(BufReader::with_capacity(1 << 17, plain), Limits::default()).ending(EndMark::Optional);
    let mut place = Place { root, into, rules, times: Vec::new(), seen: BTreeSet::new() };
    loop {
        match reader.next_entry() {
            Ok(Some(entry)) => place.entry(&entry, &mut reader)?,
            Ok(None) | Err(TarError::Empty) => return place.finish(),
            Err(error) => return Err(error.into()),
        }
    }
}

struct Place<'a> {
    root: BorrowedFd<'a>,
    /// The folder, relative to the root.
    into: &'a Path,
    rules: &'a Rules,
    /// Folders get their times when nothing more is put into them.
    times: Vec<(PathBuf, Timestamps)>,
    /// Folders that are known to be there.
    seen: BTreeSet<PathBuf>,
}

impl Place<'_> {
    /// Where an entry goes, relative to the folder.
    fn named(&self, path: &[u8]) -> PathBuf {
        let path = path_of(path);
        let rest = path.strip_prefix(&self.rules.naming.strip).unwrap_or(&path);
        self.rules.naming.prefix.join(rest)
    }

    fn entry<R: BufRead>(&mut self, entry: &Entry, reader: &mut Reader<R>) -> Result<(), UnpackError> {
        let path = self.named(&entry.path);
        let shown = path.display().to_string();
        let failed = |error: io::Error| UnpackError::Write(shown.clone(), error);
        let full = self.into.join(&path);
        let Some(name) = path.file_name() else {
            // the folder itself is there and stays as it is
            return Ok(());
        };
        let parent = full.parent().unwrap_or(Path::new(""));
        let folder = if self.seen.contains(parent) {
            resolve(self.root, parent, OFlags::PATH | OFlags::DIRECTORY)
        } else {
            ensure_folder(self.root, parent)
        };
        let folder = folder.map_err(|errno| failed(errno.into()))?;
        self.seen.insert(parent.to_owned());
        let there = self.make_room(&folder, Path::new(name), entry)?;
        self.make(&folder, Path::new(name), (entry, there), reader).map_err(&failed)?;
        self.dress(&folder, Path::new(name), entry, &full).map_err(failed)
    }

    /// Removes what is in the way; true for a folder that stays.
    fn make_room(&self, folder: &OwnedFd, name: &Path, entry: &Entry) -> Result<bool, UnpackError> {
        let shown = self.named(&entry.path).display().to_string();
        let failed = |errno: Errno| UnpackError::Write(shown.clone(), errno.into());
        let there = match rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => FileType::from_raw_mode(stat.st_mode) == FileType::Directory,
            Err(Errno::NOENT) => return Ok(false),
            Err(errno) => return Err(failed(errno)),
        };
        let comes = entry.kind == Kind::Directory;
        if there && comes {
            return Ok(true);
        }
        if self.rules.replace == Replace::SameKind {
            let at = Path::new("/").join(self.into).join(&shown).display().to_string();
            match (there, comes) {
                (true, false) => return Err(UnpackError::FolderByFile(at, shown)),
                (false, true) => return Err(UnpackError::FileByFolder(at, shown)),
                _ => {}
            }
        }
        remove(folder, name, 0).map_err(failed)?;
        Ok(false)
    }

    fn make<R: BufRead>(
        &self,
        folder: &OwnedFd,
        name: &Path,
        (entry, there): (&Entry, bool),
        reader: &mut Reader<R>,
    ) -> io::Result<()> {
        let private = Mode::from_raw_mode(0o600);
        match &entry.kind {
            Kind::Directory if there => {}
            Kind::Directory => rustix::fs::mkdirat(folder, name, Mode::from_raw_mode(0o700))?,
            Kind::File { size, segments } => {
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let mut file = File::from(rustix::fs::openat(folder, name, flags, private)?);
                match segments {
                    None => drop(io::copy(&mut reader.contents(), &mut file)?),
                    Some(segments) => {
                        for segment in segments {
                            file.seek(SeekFrom::Start(segment.offset))?;
                            io::copy(&mut reader.contents().take(segment.length), &mut file)?;
                        }
                        file.set_len(*size)?;
                    }
                }
            }
            Kind::Symlink(target) => rustix::fs::symlinkat(path_of(target), folder, name)?,
            Kind::Hardlink(target) => {
                let target = self.into.join(self.named(target));
                let first = resolve(self.root, target.parent().unwrap_or(Path::new("")), OFlags::PATH)?;
                let last = target.file_name().ok_or(Errno::INVAL)?;
                rustix::fs::linkat(&first, last, folder, name, AtFlags::empty())?;
            }
            Kind::Device { kind, major, minor } => {
                let kind = match kind {
                    DeviceKind::Character => FileType::CharacterDevice,
                    DeviceKind::Block => FileType::BlockDevice,
                };
                rustix::fs::mknodat(folder, name, kind, private, rustix::fs::makedev(*major, *minor))?;
            }
            Kind::Fifo => rustix::fs::mknodat(folder, name, FileType::Fifo, private, 0)?,
        }
        Ok(())
    }

    /// Owner, permissions, capabilities and times.
    fn dress(&mut self, folder: &OwnedFd, name: &Path, entry: &Entry, full: &Path) -> io::Result<()> {
        if matches!(entry.kind, Kind::Hardlink(_)) {
            return Ok(());
        }
        let stat = &entry.stat;
        let look = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        // by descriptor: whatever takes the name meanwhile is not touched
        let fd = rustix::fs::openat(folder, name, look, Mode::empty())?;
        let owner = match self.rules.owner {
            Owner::Archived => Some((stat.uid, stat.gid)),
            Owner::Fixed(uid, gid) => Some((uid, gid)),
            Owner::Caller => None,
        };
        if let Some((uid, gid)) = owner {
            let uid = Uid::from_raw(Shift::stored(uid, self.rules.shift, |shift| shift.uid));
            let gid = Gid::from_raw(Shift::stored(gid, self.rules.shift, |shift| shift.gid));
            rustix::fs::chownat(&fd, "", Some(uid), Some(gid), AtFlags::EMPTY_PATH)?;
        }
        let times = times(stat);
        if matches!(entry.kind, Kind::Symlink(_)) {
            rustix::fs::utimensat(folder, name, &times, AtFlags::SYMLINK_NOFOLLOW)?;
            return Ok(());
        }
        let path = magic_path(&fd);
        rustix::fs::chmod(&path, Mode::from_raw_mode(stat.mode.into()))?;
        for (key, value) in &stat.xattrs {
            match rustix::fs::setxattr(&path, key.as_slice(), value, XattrFlags::empty()) {
                // not every file system has them
                Ok(()) | Err(Errno::OPNOTSUPP | Errno::PERM) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        if entry.kind == Kind::Directory {
            self.times.push((full.to_owned(), times));
        } else {
            rustix::fs::utimensat(rustix::fs::CWD, &path, &times, AtFlags::empty())?;
        }
        Ok(())
    }

    fn finish(self) -> Result<(), UnpackError> {
        for (path, times) in self.times.iter().rev() {
            let Ok(fd) = resolve(self.root, path, OFlags::PATH | OFlags::NOFOLLOW) else { continue };
            let set = rustix::fs::utimensat(rustix::fs::CWD, magic_path(&fd), times, AtFlags::empty());
            set.map_err(|errno| UnpackError::Write(path.display().to_string(), errno.into()))?;
        }
        Ok(())
    }
}

fn times(stat: &Stat) -> Timestamps {
    let time = Timespec { tv_sec: stat.mtime.seconds, tv_nsec: stat.mtime.nanos.into() };
    Timestamps { last_access: time, last_modification: time }
}

/// Removes a file, or a folder with all in it; no link is followed.
fn remove(folder: &OwnedFd, name: &Path, depth: usize) -> rustix::io::Result<()> {
    if depth > DEPTH_MAX {
        return Err(Errno::NAMETOOLONG);
    }
    match rustix::fs::unlinkat(folder, name, AtFlags::empty()) {
        Err(Errno::ISDIR | Errno::PERM) => {}
        other => return other,
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let inner = rustix::fs::openat(folder, name, flags, Mode::empty())?;
    for entry in rustix::fs::Dir::read_from(&inner)? {
        let entry = entry?;
        let bytes = entry.file_name().to_bytes();
        if bytes != b"." && bytes != b".." {
            remove(&inner, &path_of(bytes), depth + 1)?;
        }
    }
    rustix::fs::unlinkat(folder, name, AtFlags::REMOVEDIR)
}

fn path_of(bytes: &[u8]) -> PathBuf {
    PathBuf::from(OsString::from_vec(bytes.to_vec()))
}
