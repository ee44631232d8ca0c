//! A part of a tree as an archive.

use crate::tar::{Kind, Writer};
use crate::tree::{DeviceKind, Stat, Time};

use super::Shift;
use super::path::Wanted;
use rustix::buffer::spare_capacity;
use rustix::fs::{Dir, FileType, Mode, OFlags, ResolveFlags};
use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// File systems that show the kernel, not files: /proc, /sys, control groups, terminals, message queues. Archives have their
/// folders without what is in them, as Docker's do. See statfs(2).
const KERNELS_OWN: &[u64] = &[0x9fa0, 0x6265_6572, 0x0027_e0eb, 0x6367_7270, 0x1cd1, 0x1980_0202];
const TMPFS: u64 = 0x0102_1994;
const CAPABILITY: &[u8] = b"security.capability";

/// Writes what is wanted and all below it. Of what others remove meanwhile there is nothing in the archive.
///
/// # Errors
/// What the tree or `out` says.
pub fn pack(root: impl AsFd, wanted: &Wanted, shift: Option<Shift>, out: impl Write) -> io::Result<()> {
    let mut writer = Writer::new(BufWriter::with_capacity(1 << 17, out));
    let mut walk = Walk { shift, links: HashMap::new(), writer: &mut writer };
    let top = wanted.open(root)?;
    let found = walk.entry(top, wanted.shown.as_bytes())?;
    if let Some(top) = found {
        walk.below(&top, wanted)?;
    }
    writer.finish()?;
    Ok(())
}

struct Walk<'a, W: Write> {
    shift: Option<Shift>,
    /// The first name of every file that has several.
    links: HashMap<(u64, u64), Vec<u8>>,
    writer: &'a mut Writer<W>,
}

impl<W: Write> Walk<'_, W> {
    /// Everything below a folder: depth first, names in byte order. Folders are opened anew by their paths below the top one, through
    /// no links, so that no depth of folders takes many descriptors.
    fn below(&mut self, top: &OwnedFd, wanted: &Wanted) -> io::Result<()> {
        let shown = |path: &Path| {
            let base = if wanted.shown == "/" { Path::new("/") } else { Path::new(&wanted.shown) };
            let mut text = base.as_os_str().as_bytes().to_vec();
            if text != b"/" {
                text.push(b'/');
            }
            text.extend_from_slice(path.as_os_str().as_bytes());
            text
        };
        let at_root = wanted.whole().as_os_str().is_empty();
        let mut pending = self.names(top, Path::new(""), at_root)?;
        while let Some(path) = pending.pop() {
            let parent = path.parent().unwrap_or(Path::new(""));
            let Some(folder) = gone(open_below(top, parent))? else { continue };
            let look = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let name = path.file_name().unwrap_or_default();
            let Some(found) = gone(rustix::fs::openat(&folder, name, look, Mode::empty()))? else { continue };
            if let Some(folder) = self.entry(found, &shown(&path))? {
                pending.extend(self.names(&folder, &path, at_root)?);
            }
        }
        Ok(())
    }

    /// The paths of what is in a folder, the last name first.
    fn names(&self, folder: &OwnedFd, path: &Path, at_root: bool) -> io::Result<Vec<PathBuf>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let folder = rustix::fs::openat(folder, ".", flags, Mode::empty())?;
        let magic = rustix::fs::fstatfs(&folder)?.f_type.cast_unsigned();
        if KERNELS_OWN.contains(&magic) || (magic == TMPFS && at_root && path == Path::new("dev")) {
            return Ok(Vec::new());
        }
        let mut names = Vec::new();
        for entry in Dir::read_from(&folder)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                names.push(path.join(OsStr::from_bytes(name)));
            }
        }
        names.sort_by(|a, b| b.cmp(a));
        Ok(names)
    }

    /// Writes one entry; the folder, if it is one.
    fn entry(&mut self, fd: OwnedFd, shown: &[u8]) -> io::Result<Option<OwnedFd>> {
        let found = rustix::fs::fstat(&fd)?;
        let kind = FileType::from_raw_mode(found.st_mode);
        let stat = Stat {
            mode: u16::try_from(found.st_mode & 0o7777).unwrap_or(0),
            uid: Shift::archived(found.st_uid, self.shift, |shift| shift.uid),
            gid: Shift::archived(found.st_gid, self.shift, |shift| shift.gid),
            mtime: Time { seconds: found.st_mtime, nanos: u32::try_from(found.st_mtime_nsec).unwrap_or(0) },
            xattrs: if kind == FileType::RegularFile { capability(&fd) } else { BTreeMap::new() },
        };
        if kind != FileType::Directory && found.st_nlink > 1 {
            let key = (found.st_dev, found.st_ino);
            if let Some(first) = self.links.get(&key) {
                let link = Kind::Hardlink(first.clone());
                self.writer.add(shown, &stat, &link, &mut io::empty())?;
                return Ok(None);
            }
            self.links.insert(key, shown.to_vec());
        }
        let device = |kind| Kind::Device {
            kind,
            major: rustix::fs::major(found.st_rdev),
            minor: rustix::fs::minor(found.st_rdev),
        };
        let kind = match kind {
            FileType::RegularFile => {
                let mut file = File::open(magic_path(&fd))?;
                // what is shorter by now is filled up, what is longer is cut
                let size = file.metadata()?.len();
                let mut content = io::Read::chain(&mut file, io::repeat(0));
                self.writer.add(shown, &stat, &Kind::File { size, segments: None }, &mut content)?;
                return Ok(None);
            }
            FileType::Directory => Kind::Directory,
            FileType::Symlink => Kind::Symlink(rustix::fs::readlinkat(&fd, "", Vec::new())?.into_bytes()),
            FileType::CharacterDevice => device(DeviceKind::Character),
            FileType::BlockDevice => device(DeviceKind::Block),
            FileType::Fifo => Kind::Fifo,
            // sockets belong to the process that made them
            _ => return Ok(None),
        };
        self.writer.add(shown, &stat, &kind, &mut io::empty())?;
        Ok((kind == Kind::Directory).then_some(fd))
    }
}

/// `None` for what is not there any more.
fn gone<T>(outcome: rustix::io::Result<T>) -> io::Result<Option<T>> {
    use rustix::io::Errno;
    match outcome {
        Ok(found) => Ok(Some(found)),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

fn open_below(top: &OwnedFd, path: &Path) -> rustix::io::Result<OwnedFd> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat2(top, path, flags, Mode::empty(), ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS)
}

/// The very file that a descriptor stands for.
pub(super) fn magic_path(fd: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

fn capability(fd: &OwnedFd) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut value = Vec::with_capacity(64);
    match rustix::fs::getxattr(magic_path(fd), CAPABILITY, spare_capacity(&mut value)) {
        Ok(_) => BTreeMap::from([(CAPABILITY.to_vec(), value)]),
        // none, or a file system without
        Err(_) => BTreeMap::new(),
    }
}
