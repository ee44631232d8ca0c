//! From the writable layers of overlayfs to a layer's archive: what is new, what is gone, what hides all below.
//!
//! Several layers come out as one, which is how a build squashes its steps.

use std::collections::{BTreeSet, HashMap};
use std::ffi::OsStr;
use std::fs::{self, Metadata};
use std::io::{self, BufWriter, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::PathBuf;

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::export::{ExportError, Times, xattrs};
use crate::layer::{OPAQUE, OVERLAY_OPAQUE, WHITEOUT};
use crate::tar::{Kind, Writer};
use crate::tree::{DeviceKind, Stat, Time};

/// Writes what the layers in these folders, the topmost first, change about whatever is below them. Nobody changes them
/// meanwhile. With a `base`, a tree of all that is below, what is not there is not marked as gone: overlayfs makes such marks
/// only where they are needed, and several layers as one may have others. The bytes depend on nothing but the layers: names in byte order, owners by number.
///
/// # Errors
/// [`ExportError::Read`], [`ExportError::Write`].
///
/// # Source
/// OCI image specification, "Image Layer Filesystem Changeset"; the kernel's `overlayfs.rst`, "whiteouts and opaque
/// directories".
pub fn write_diff<F: AsFd>(
    layers: &[F],
    base: Option<BorrowedFd<'_>>,
    times: Times,
    out: impl Write,
) -> Result<(), ExportError> {
    let sources = layers.iter().map(Source::open).collect::<Result<Vec<_>, _>>()?;
    let mut walk = Walk { sources, base, times, links: HashMap::new() };
    let mut writer = Writer::new(BufWriter::with_capacity(1 << 18, out));
    let all: Vec<usize> = (0..walk.sources.len()).collect();
    walk.root(&all, &mut writer)?;
    let mut pending = vec![Pending { path: Vec::new(), sources: all, below: Below::Seen }];
    // a stack of open folders would be as deep as the tree; a list with the next name last is enough
    let mut names: Vec<(Vec<u8>, usize)> = Vec::new();
    walk.list(&pending[0], 0, &mut names)?;
    while let Some((path, parent)) = names.pop() {
        if let Some(folder) = walk.entry(&path, &pending[parent], &mut writer)? {
            pending.push(folder);
            walk.list(&pending[pending.len() - 1], pending.len() - 1, &mut names)?;
        }
    }
    writer.finish().map_err(ExportError::Write)?;
    Ok(())
}

/// A layer.
struct Source {
    base: PathBuf,
    folder: OwnedFd,
}

/// A folder whose names are still to be written.
struct Pending {
    path: Vec<u8>,
    /// The layers that it is in, topmost first.
    sources: Vec<usize>,
    below: Below,
}

/// Whether what lower layers have in a folder is seen.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Below {
    Seen,
    Hidden,
}

struct Walk<'a> {
    sources: Vec<Source>,
    base: Option<BorrowedFd<'a>>,
    times: Times,
    /// The first name of every file that has several, by layer, device and number.
    links: HashMap<(usize, u64, u64), Vec<u8>>,
}

fn failed(path: &[u8]) -> impl Fn(io::Error) -> ExportError + use<> {
    let path = PathBuf::from(OsStr::from_bytes(path));
    move |source| ExportError::Read { path: path.clone(), source }
}

fn is_whiteout(meta: &Metadata) -> bool {
    meta.file_type().is_char_device() && meta.rdev() == 0
}

impl Source {
    fn open(layer: &impl AsFd) -> Result<Self, ExportError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = rustix::fs::openat(layer, ".", flags, Mode::empty()).map_err(|e| failed(b"/")(e.into()))?;
        Ok(Self { base: PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd())), folder })
    }

    fn at(&self, path: &[u8]) -> PathBuf {
        if path.is_empty() { self.base.join(".") } else { self.base.join(OsStr::from_bytes(path)) }
    }

    fn look(&self, path: &[u8]) -> Result<Option<Metadata>, ExportError> {
        match fs::symlink_metadata(self.at(path)) {
            Ok(meta) => Ok(Some(meta)),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
            Err(error) => Err(failed(path)(error)),
        }
    }

    fn is_opaque(&self, path: &[u8]) -> Result<bool, ExportError> {
        let mut value = [0_u8; 8];
        match rustix::fs::lgetxattr(self.at(path), OVERLAY_OPAQUE, &mut value) {
            Ok(length) => Ok(value[..length] == *b"y"),
            Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::RANGE) => Ok(false),
            Err(error) => Err(failed(path)(error.into())),
        }
    }
}

impl Walk<'_> {
    /// The root has an entry only where it is not what every root is.
    fn root<W: Write>(&self, sources: &[usize], writer: &mut Writer<W>) -> Result<(), ExportError> {
        let Some(top) = sources.first() else { return Ok(()) };
        let Some(meta) = self.sources[*top].look(b"")? else { return Ok(()) };
        if (meta.mode() & 0o7777, meta.uid(), meta.gid()) == (0o755, 0, 0) {
            return Ok(());
        }
        let stat = self.stat(*top, b"", &meta)?;
        writer.add(b"", &stat, &Kind::Directory, &mut io::empty()).map_err(ExportError::Write)
    }

    /// Puts the names in a folder on the list, the last one first.
    fn list(&self, folder: &Pending, number: usize, names: &mut Vec<(Vec<u8>, usize)>) -> Result<(), ExportError> {
        let mut found = BTreeSet::new();
        for source in &folder.sources {
            let entries = fs::read_dir(self.sources[*source].at(&folder.path)).map_err(failed(&folder.path))?;
            for entry in entries {
                found.insert(entry.map_err(failed(&folder.path))?.file_name().into_vec());
            }
        }
        let whole = |name: Vec<u8>| {
            if folder.path.is_empty() { name } else { [&folder.path[..], b"/", &name[..]].concat() }
        };
        names.extend(found.into_iter().rev().map(|name| (whole(name), number)));
        Ok(())
    }

    /// Writes one entry; a folder comes back, for what is in it.
    fn entry<W: Write>(
        &mut self,
        path: &[u8],
        parent: &Pending,
        writer: &mut Writer<W>,
    ) -> Result<Option<Pending>, ExportError> {
        let mut there = Vec::new();
        for source in &parent.sources {
            if let Some(meta) = self.sources[*source].look(path)? {
                there.push((*source, meta));
            }
        }
        let Some((top, meta)) = there.first() else { return Ok(None) };
        if is_whiteout(meta) {
            if parent.below == Below::Seen && self.is_below(path) {
                self.whiteout(path, *top, meta, writer)?;
            }
            return Ok(None);
        }
        if !meta.is_dir() {
            self.other(path, *top, meta, writer)?;
            return Ok(None);
        }
        let stat = self.stat(*top, path, meta)?;
        writer.add(path, &stat, &Kind::Directory, &mut io::empty()).map_err(ExportError::Write)?;
        let (mut sources, mut below) = (Vec::new(), parent.below);
        for (source, meta) in &there {
            if !meta.is_dir() {
                below = Below::Hidden;
                break;
            }
            sources.push(*source);
            if self.sources[*source].is_opaque(path)? {
                below = Below::Hidden;
                break;
            }
        }
        if below == Below::Hidden && parent.below == Below::Seen && self.is_below(path) {
            let mark = [path, b"/", OPAQUE].concat();
            let stat = Stat { mode: 0o644, mtime: stat.mtime, ..Stat::default() };
            let empty = Kind::File { size: 0, segments: None };
            writer.add(&mark, &stat, &empty, &mut io::empty()).map_err(ExportError::Write)?;
        }
        Ok(Some(Pending { path: path.to_vec(), sources, below }))
    }

    /// Whether there may be something to be hidden.
    fn is_below(&self, path: &[u8]) -> bool {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS;
        let flags = OFlags::PATH | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        self.base.is_none_or(|base| match rustix::fs::openat2(base, path, flags, Mode::empty(), resolve) {
            Ok(_) => true,
            // a link in place of a parent: what is behind it is elsewhere
            Err(Errno::NOENT | Errno::NOTDIR) => false,
            // the last name may be a link itself, which cannot be opened so
            Err(_) => true,
        })
    }

    fn whiteout<W: Write>(
        &self,
        path: &[u8],
        source: usize,
        meta: &Metadata,
        writer: &mut Writer<W>,
    ) -> Result<(), ExportError> {
        let at = path.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
        let mark = [&path[..at], WHITEOUT, &path[at..]].concat();
        let stat = Stat { mode: 0o644, mtime: self.stat(source, path, meta)?.mtime, ..Stat::default() };
        let empty = Kind::File { size: 0, segments: None };
        writer.add(&mark, &stat, &empty, &mut io::empty()).map_err(ExportError::Write)
    }

    /// Anything but folders and whiteouts.
    fn other<W: Write>(
        &mut self,
        path: &[u8],
        source: usize,
        meta: &Metadata,
        writer: &mut Writer<W>,
    ) -> Result<(), ExportError> {
        let stat = self.stat(source, path, meta)?;
        let kind = meta.file_type();
        if meta.nlink() > 1 {
            let key = (source, meta.dev(), meta.ino());
            if let Some(first) = self.links.get(&key) {
                let link = Kind::Hardlink(first.clone());
                return writer.add(path, &stat, &link, &mut io::empty()).map_err(ExportError::Write);
            }
            self.links.insert(key, path.to_vec());
        }
        let (major, minor) = (rustix::fs::major(meta.rdev()), rustix::fs::minor(meta.rdev()));
        let kind = if kind.is_file() {
            let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
            let file = rustix::fs::openat2(&self.sources[source].folder, path, flags, Mode::empty(), resolve)
                .map_err(|error| failed(path)(error.into()))?;
            let whole = Kind::File { size: meta.len(), segments: None };
            return writer.add(path, &stat, &whole, &mut fs::File::from(file)).map_err(ExportError::Write);
        } else if kind.is_symlink() {
            let target = fs::read_link(self.sources[source].at(path)).map_err(failed(path))?;
            Kind::Symlink(target.into_os_string().into_vec())
        } else if kind.is_char_device() {
            Kind::Device { kind: DeviceKind::Character, major, minor }
        } else if kind.is_block_device() {
            Kind::Device { kind: DeviceKind::Block, major, minor }
        } else if kind.is_fifo() {
            Kind::Fifo
        } else {
            // sockets belong to the process that made them; archives have no word for them
            return Ok(());
        };
        writer.add(path, &stat, &kind, &mut io::empty()).map_err(ExportError::Write)
    }

    fn stat(&self, source: usize, path: &[u8], meta: &Metadata) -> Result<Stat, ExportError> {
        let mut mtime = Time { seconds: meta.mtime(), nanos: u32::try_from(meta.mtime_nsec()).unwrap_or(0) };
        if let Times::AtMost(latest) = self.times {
            mtime = mtime.min(Time { seconds: i64::try_from(latest).unwrap_or(i64::MAX), nanos: 0 });
        }
        Ok(Stat {
            mode: u16::try_from(meta.mode() & 0o7777).unwrap_or(0),
            uid: meta.uid(),
            gid: meta.gid(),
            mtime,
            xattrs: xattrs(&self.sources[source].at(path)).map_err(failed(path))?,
        })
    }
}
