//! From a tree to an archive whose bytes depend on nothing but the tree: names in byte order, owners by number.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::thread;

use rustix::buffer::spare_capacity;
use rustix::fs::{Mode, OFlags, ResolveFlags, SeekFrom};
use sys::mount::{FsContext, MountAttr};
use sys::overlay::Overlay;

use crate::erofs::Segment;
use crate::error::ImageError;
use crate::layer::is_kept_xattr;
use crate::model::{EndMark, Image, ImportOptions};
use crate::store::Store;
use crate::tar::{Kind, Writer};
use crate::tree::{DeviceKind, Stat, Time};

/// Why a tree did not become an archive.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// A file cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The archive cannot be written.
    #[error("cannot write the archive")]
    Write(#[source] io::Error),
    /// The layers cannot be put over each other.
    #[error("cannot put the image's layers over each other")]
    Overlay(#[source] sys::mount::FsError),
    /// The store has a complaint.
    #[error(transparent)]
    Image(#[from] ImageError),
}

/// Which times the entries of an archive get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Times {
    /// Their own.
    Kept,
    /// Their own, but none after this many seconds since 1970.
    AtMost(u64),
}

/// What becomes of the holes of sparse files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Holes {
    /// They are written as zeros, so that the bytes depend on nothing but what can be read.
    Filled,
    /// They stay holes.
    Kept,
}

impl Store {
    /// Writes the image's whole tree as one archive, as `docker export` does for a container.
    ///
    /// # Errors
    /// [`ExportError`].
    pub fn export(&self, image: &Image, out: impl Write) -> Result<(), ExportError> {
        write_folder(&self.merged(image, None)?, Times::Kept, out)
    }

    /// Writes what the layers of several images give together, each below a folder of its own.
    ///
    /// # Errors
    /// [`ExportError`].
    pub fn export_all(&self, images: &[(String, Image)], out: impl Write) -> Result<(), ExportError> {
        let mut writer = Writer::new(BufWriter::with_capacity(1 << 18, out));
        for (name, image) in images {
            let folder = self.merged(image, None)?;
            let root = PathBuf::from(format!("/proc/self/fd/{}/.", folder.as_raw_fd()));
            add_tree(&root, name.as_bytes(), (Times::Kept, Holes::Filled), &mut writer)?;
        }
        writer.finish().map_err(ExportError::Write)?;
        Ok(())
    }

    /// The image's layers over each other, with a writable layer's folder above them if there is one, as a detached read-only
    /// mount.
    ///
    /// # Errors
    /// [`ExportError::Overlay`], [`ExportError::Image`].
    pub fn merged(&self, image: &Image, above: Option<BorrowedFd<'_>>) -> Result<OwnedFd, ExportError> {
        let layers = self.mount_layers(image)?;
        let all: Vec<BorrowedFd<'_>> = above.into_iter().chain(layers.fds.iter().map(|layer| layer.as_fd())).collect();
        // An overlay wants two layers at least.
        match &all[..] {
            [] => return nothing().map_err(ExportError::Overlay),
            [only] => return only.try_clone_to_owned().map_err(ExportError::Write),
            _ => {}
        }
        let overlay = Overlay { layers: &all, above: None, attributes: MountAttr::RDONLY };
        overlay.mount().map_err(ExportError::Overlay)
    }
}

/// A folder with nothing in it, for images without layers.
fn nothing() -> Result<OwnedFd, sys::mount::FsError> {
    let context = FsContext::open("tmpfs")?;
    context.set_string("mode", "755")?;
    context.create()?;
    context.mount(MountAttr::RDONLY)
}

/// Writes an open folder, which nobody changes meanwhile.
///
/// # Errors
/// As [`write_tree`].
pub fn write_folder(folder: &OwnedFd, times: Times, out: impl Write) -> Result<(), ExportError> {
    write_tree(&PathBuf::from(format!("/proc/self/fd/{}/.", folder.as_raw_fd())), times, out)
}

/// Writes an open folder as it is, holes of its files included.
///
/// # Errors
/// As [`write_tree`].
pub fn write_backup(folder: &OwnedFd, out: impl Write) -> Result<(), ExportError> {
    write(&PathBuf::from(format!("/proc/self/fd/{}/.", folder.as_raw_fd())), Times::Kept, Holes::Kept, out)
}

/// Makes an image of one layer from the tree at `root`, with no time after `epoch`.
pub(crate) fn import_tree(
    store: &Store,
    root: &Path,
    epoch: u64,
    options: ImportOptions,
) -> Result<Image, ExportError> {
    let (reader, writer) = io::pipe().map_err(ExportError::Write)?;
    thread::scope(|scope| {
        let walk = scope.spawn(move || write_tree(root, Times::AtMost(epoch), writer));
        // A walk that fails leaves an archive without an end mark, which the import refuses.
        let image = store.import(reader, ImportOptions { end: EndMark::Required, ..options });
        match (walk.join(), image) {
            (Ok(Err(error @ ExportError::Read { .. })), Err(_)) => Err(error),
            (_, image) => Ok(image?),
        }
    })
}

/// Writes the tree at `root`, which nobody changes meanwhile.
///
/// # Errors
/// [`ExportError::Read`], [`ExportError::Write`].
pub fn write_tree(root: &Path, times: Times, out: impl Write) -> Result<(), ExportError> {
    write(root, times, Holes::Filled, out)
}

fn write(root: &Path, times: Times, holes: Holes, out: impl Write) -> Result<(), ExportError> {
    let mut writer = Writer::new(BufWriter::with_capacity(1 << 18, out));
    add_tree(root, b"", (times, holes), &mut writer)?;
    writer.finish().map_err(ExportError::Write)?;
    Ok(())
}

/// Adds the tree at `root`, whose paths begin with `below` in the archive.
fn add_tree<W: Write>(
    root: &Path,
    below: &[u8],
    (times, holes): (Times, Holes),
    writer: &mut Writer<W>,
) -> Result<(), ExportError> {
    let folder = rustix::fs::open(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| ExportError::Read { path: root.to_owned(), source: errno.into() })?;
    let mut walk = Walk {
        base: PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd())),
        folder,
        shown: root.to_owned(),
        below: below.to_vec(),
        times,
        holes,
        links: HashMap::new(),
    };
    // Deepest last, in byte order: a stack whose top is the next name.
    let mut pending: Vec<Vec<u8>> = vec![Vec::new()];
    while let Some(path) = pending.pop() {
        pending.extend(walk.entry(&path, writer)?);
    }
    Ok(())
}

struct Walk {
    base: PathBuf,
    folder: OwnedFd,
    shown: PathBuf,
    /// What paths begin with in the archive.
    below: Vec<u8>,
    times: Times,
    holes: Holes,
    /// The first name of every file that has several.
    links: HashMap<(u64, u64), Vec<u8>>,
}

impl Walk {
    /// Writes one entry and returns the names below it, last one first.
    fn entry<W: Write>(&mut self, path: &[u8], writer: &mut Writer<W>) -> Result<Vec<Vec<u8>>, ExportError> {
        let relative = std::ffi::OsStr::from_bytes(path);
        let full = if path.is_empty() { self.base.join(".") } else { self.base.join(relative) };
        let shown = self.shown.join(relative);
        let failed = |source| ExportError::Read { path: shown.clone(), source };
        let meta = fs::symlink_metadata(&full).map_err(failed)?;
        let stat = self.stat(&full, &meta).map_err(failed)?;
        let kind = meta.file_type();
        if !kind.is_dir() && meta.nlink() > 1 {
            if let Some(first) = self.links.get(&(meta.dev(), meta.ino())) {
                let link = Kind::Hardlink(self.there(first));
                writer.add(&self.there(path), &stat, &link, &mut io::empty()).map_err(ExportError::Write)?;
                return Ok(Vec::new());
            }
            self.links.insert((meta.dev(), meta.ino()), path.to_vec());
        }
        let device =
            |kind| Kind::Device { kind, major: rustix::fs::major(meta.rdev()), minor: rustix::fs::minor(meta.rdev()) };
        let mut below = Vec::new();
        let kind = if kind.is_file() {
            let file = self.open(path).map_err(failed)?;
            let sparse = self.holes == Holes::Kept && meta.blocks() * 512 < meta.len();
            let segments = if sparse { Some(parts(&file, meta.len()).map_err(failed)?) } else { None };
            let mut data: Box<dyn Read> = match segments.clone() {
                Some(segments) => Box::new(Parts { file, left: segments.into() }),
                None => Box::new(file),
            };
            let file_kind = Kind::File { size: meta.len(), segments };
            writer.add(&self.there(path), &stat, &file_kind, &mut data).map_err(ExportError::Write)?;
            return Ok(below);
        } else if kind.is_dir() {
            below = children(&full, path).map_err(failed)?;
            Kind::Directory
        } else if kind.is_symlink() {
            Kind::Symlink(fs::read_link(&full).map_err(failed)?.into_os_string().into_vec())
        } else if kind.is_char_device() {
            device(DeviceKind::Character)
        } else if kind.is_block_device() {
            device(DeviceKind::Block)
        } else if kind.is_fifo() {
            Kind::Fifo
        } else {
            // Sockets belong to the process that made them; archives have no word for them.
            return Ok(below);
        };
        writer.add(&self.there(path), &stat, &kind, &mut io::empty()).map_err(ExportError::Write)?;
        Ok(below)
    }

    /// A path in the archive.
    fn there(&self, path: &[u8]) -> Vec<u8> {
        match (&self.below[..], path) {
            ([], path) => path.to_vec(),
            (below, []) => below.to_vec(),
            (below, path) => [below, b"/", path].concat(),
        }
    }

    fn open(&self, path: &[u8]) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        Ok(rustix::fs::openat2(&self.folder, path, flags, Mode::empty(), resolve)?.into())
    }

    fn stat(&self, full: &Path, meta: &fs::Metadata) -> io::Result<Stat> {
        let mut mtime = Time { seconds: meta.mtime(), nanos: u32::try_from(meta.mtime_nsec()).unwrap_or(0) };
        if let Times::AtMost(latest) = self.times {
            mtime = mtime.min(Time { seconds: i64::try_from(latest).unwrap_or(i64::MAX), nanos: 0 });
        }
        Ok(Stat {
            mode: u16::try_from(meta.mode() & 0o7777).unwrap_or(0),
            uid: meta.uid(),
            gid: meta.gid(),
            mtime,
            xattrs: xattrs(full)?,
        })
    }
}

/// Where a file has data.
fn parts(file: &File, size: u64) -> io::Result<Vec<Segment>> {
    let mut out = Vec::new();
    let mut at = 0;
    while at < size {
        let begin = match rustix::fs::seek(file, SeekFrom::Data(at)) {
            Ok(begin) => begin,
            // nothing but a hole to the end
            Err(rustix::io::Errno::NXIO) => break,
            Err(errno) => return Err(errno.into()),
        };
        let end = rustix::fs::seek(file, SeekFrom::Hole(begin))?.min(size);
        if begin >= end {
            break;
        }
        out.push(Segment { offset: begin, length: end - begin });
        at = end;
    }
    Ok(out)
}

/// Reads the parts of a file one behind the other.
struct Parts {
    file: File,
    left: VecDeque<Segment>,
}

impl Read for Parts {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while let Some(part) = self.left.front_mut() {
            if part.length == 0 {
                self.left.pop_front();
                continue;
            }
            let most = usize::try_from(part.length).unwrap_or(usize::MAX).min(into.len());
            let count = self.file.read_at(&mut into[..most], part.offset)?;
            part.offset += count as u64;
            part.length -= count as u64;
            return Ok(count);
        }
        Ok(0)
    }
}

/// The paths of what is in a directory, last name first.
fn children(full: &Path, path: &[u8]) -> io::Result<Vec<Vec<u8>>> {
    let mut names: Vec<Vec<u8>> = Vec::new();
    for entry in fs::read_dir(full)? {
        let name = entry?.file_name().into_vec();
        names.push(if path.is_empty() { name } else { [path, b"/", &name].concat() });
    }
    names.sort_by(|a, b| b.cmp(a));
    Ok(names)
}

pub(crate) fn xattrs(path: &Path) -> io::Result<BTreeMap<Vec<u8>, Vec<u8>>> {
    const MAX: usize = 64 << 10;
    let mut out = BTreeMap::new();
    let mut names = Vec::with_capacity(MAX);
    match rustix::fs::llistxattr(path, spare_capacity(&mut names)) {
        // Some file systems have none.
        Ok(_) | Err(rustix::io::Errno::OPNOTSUPP) => {}
        Err(errno) => return Err(errno.into()),
    }
    for name in names.split(|byte| *byte == 0).filter(|name| is_kept_xattr(name)) {
        let mut value = Vec::with_capacity(MAX);
        rustix::fs::lgetxattr(path, name, spare_capacity(&mut value))?;
        out.insert(name.to_vec(), value);
    }
    Ok(out)
}
