//! The build context: a folder of this machine, or an archive that a client sent.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use oci::digest::{Digest, Digester};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, major, minor};

use super::files::{File, FileKind, Files, FilesError, join};
use super::ignore::Ignore;
use crate::Limits;
use crate::directory::DirectoryError;
use crate::layer::{LayerError, is_kept_xattr};
use crate::model::{Dots, EndMark};
use crate::path;
use crate::pipeline;
use crate::tar;
use crate::tree::{Body, DeviceKind, Stat, Time, Tree};

/// The most names that one folder may have.
const NAMES_MAX: usize = 1_000_000;

/// What says that a file of this machine is still the one that was digested before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileIdentity {
    /// Its file system.
    pub device: u64,
    /// Its number there.
    pub inode: u64,
    /// Its length.
    pub size: u64,
    /// Its last change, contents or metadata, which programs cannot set back: seconds and nanoseconds.
    pub changed: (i64, i64),
}

/// Remembers digests from build to build, so that an unchanged context is not read again.
pub trait DigestMemo: std::fmt::Debug + Send + Sync {
    /// The digest of this very file, if it is known.
    fn get(&self, file: &FileIdentity) -> Option<Digest>;
    /// Takes a digest down.
    fn put(&self, file: FileIdentity, digest: Digest);
}

/// A folder without what `.dockerignore` leaves out. Nothing outside of it is ever opened.
#[derive(Debug)]
pub struct FolderContext {
    root: OwnedFd,
    ignore: Ignore,
    memo: Option<Box<dyn DigestMemo>>,
    opened: SystemTime,
}

impl FolderContext {
    /// Opens the folder.
    ///
    /// # Errors
    /// [`FilesError::Io`].
    pub fn open(folder: &Path, ignore: Ignore) -> Result<Self, FilesError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(folder, flags, Mode::empty())
            .map_err(|source| FilesError::io("open the folder", folder.as_os_str().as_bytes(), source))?;
        Ok(Self { root, ignore, memo: None, opened: SystemTime::now() })
    }

    /// Asks this memory before it reads a file, and tells it what was read.
    #[must_use]
    pub fn remembering(mut self, memo: Box<dyn DigestMemo>) -> Self {
        self.memo = Some(memo);
        self
    }

    /// Whether a file has not changed for so long that a change after this moment has another time. File systems count
    /// time in ticks of up to two seconds.
    fn is_settled(&self, identity: &FileIdentity) -> bool {
        let now = self.opened.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |time| time.as_secs());
        identity.changed.0.saturating_add(2) < i64::try_from(now).unwrap_or(i64::MAX)
    }

    fn open_regular(&self, at: &[u8]) -> Result<fs::File, FilesError> {
        let failed = |source| FilesError::io("open", at, source);
        // a named pipe in its place must not hold the build up
        let fd = self.open_at(at, OFlags::RDONLY | OFlags::NONBLOCK).map_err(failed)?;
        let file = fs::File::from(fd);
        let metadata = file.metadata().map_err(|source| FilesError::io("examine", at, source))?;
        if !metadata.file_type().is_file() {
            let text = format!("it is no regular file any more (mode {:o})", metadata.mode());
            return Err(FilesError::io("open", at, io::Error::other(text)));
        }
        Ok(file)
    }

    fn open_at(&self, at: &[u8], flags: OFlags) -> rustix::io::Result<OwnedFd> {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let path = if at.is_empty() { b"." } else { at };
        rustix::fs::openat2(&self.root, path, flags | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty(), resolve)
    }

    fn visible(&self, at: &[u8], kind: &FileKind) -> Result<bool, FilesError> {
        if self.ignore.is_empty() || at.is_empty() {
            return Ok(true);
        }
        let text = String::from_utf8_lossy(at);
        if !self.ignore.excludes(&text) {
            return Ok(true);
        }
        // a folder is there when one of its files is an exception
        if *kind != FileKind::Directory || !self.ignore.may_except_below(&text) {
            return Ok(false);
        }
        Ok(!self.names(at)?.is_empty())
    }

    fn file(&self, at: &[u8], fd: &OwnedFd) -> Result<File, FilesError> {
        let failed = |operation| move |source: rustix::io::Errno| FilesError::io(operation, at, source);
        let stat = rustix::fs::fstat(fd).map_err(failed("examine"))?;
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => FileKind::Directory,
            FileType::RegularFile => FileKind::Regular(u64::try_from(stat.st_size).unwrap_or(0)),
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(fd, "", Vec::new()).map_err(failed("read the link"))?;
                FileKind::Symlink(target.into_bytes())
            }
            FileType::Fifo => FileKind::Fifo,
            FileType::Socket => FileKind::Socket,
            other => FileKind::Device {
                kind: if other == FileType::BlockDevice { DeviceKind::Block } else { DeviceKind::Character },
                major: major(stat.st_rdev),
                minor: minor(stat.st_rdev),
            },
        };
        let xattrs = match kind {
            // names of a link belong to the link, and nobody but the kernel sets them
            FileKind::Symlink(_) => BTreeMap::new(),
            _ => xattrs(fd).map_err(|source| FilesError::io("read the attributes of", at, source))?,
        };
        let mtime = Time { seconds: stat.st_mtime, nanos: u32::try_from(stat.st_mtime_nsec).unwrap_or(0) };
        // the owner on this machine means nothing inside of an image
        let mode = u16::try_from(stat.st_mode & 0o7777).unwrap_or(0);
        Ok(File { stat: Stat { mode, uid: stat.st_uid, gid: stat.st_gid, mtime, xattrs }, kind })
    }
}

fn xattrs(fd: &OwnedFd) -> io::Result<BTreeMap<Vec<u8>, Vec<u8>>> {
    let mut out = BTreeMap::new();
    // a descriptor that is only a path has no attributes of its own; its name under /proc has
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let mut names = vec![0_u8; 1 << 16];
    let length = match rustix::fs::listxattr(&path, &mut names) {
        Ok(length) => length,
        Err(rustix::io::Errno::NOTSUP) => 0,
        Err(error) => return Err(error.into()),
    };
    for name in names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty() && is_kept_xattr(name)) {
        let mut value = vec![0_u8; 1 << 16];
        match rustix::fs::getxattr(&path, name, &mut value) {
            Ok(length) => {
                value.truncate(length);
                out.insert(name.to_vec(), value);
            }
            Err(rustix::io::Errno::NODATA) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(out)
}

impl Files for FolderContext {
    fn look(&self, at: &[u8]) -> Result<Option<File>, FilesError> {
        use rustix::io::Errno;
        let fd = match self.open_at(at, OFlags::PATH) {
            Ok(fd) => fd,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NAMETOOLONG | Errno::INVAL) => return Ok(None),
            Err(source) => return Err(FilesError::io("open", at, source)),
        };
        let file = self.file(at, &fd)?;
        Ok(self.visible(at, &file.kind)?.then_some(file))
    }

    fn names(&self, folder: &[u8]) -> Result<Vec<Vec<u8>>, FilesError> {
        let failed = |source| FilesError::io("list", folder, source);
        let fd = self.open_at(folder, OFlags::RDONLY | OFlags::DIRECTORY).map_err(failed)?;
        let mut out = Vec::new();
        for entry in Dir::read_from(&fd).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            let at = join(folder, name);
            let seen = self.ignore.is_empty() || {
                let kind = match entry.file_type() {
                    FileType::Directory => FileKind::Directory,
                    FileType::Unknown => {
                        let stat = rustix::fs::statat(&fd, name, AtFlags::SYMLINK_NOFOLLOW).map_err(failed)?;
                        let folder = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
                        if folder { FileKind::Directory } else { FileKind::Regular(0) }
                    }
                    _ => FileKind::Regular(0),
                };
                self.visible(&at, &kind)?
            };
            if seen {
                out.push(name.to_vec());
            }
            if out.len() > NAMES_MAX {
                let (path, limit) = (path::show(folder), NAMES_MAX as u64);
                return Err(FilesError::Limit { what: "names in a folder", path, limit });
            }
        }
        out.sort();
        Ok(out)
    }

    fn open(&self, at: &[u8]) -> Result<Box<dyn Read + Send>, FilesError> {
        Ok(Box::new(self.open_regular(at)?))
    }

    fn digest(&self, at: &[u8]) -> Result<Digest, FilesError> {
        let mut file = self.open_regular(at)?;
        let before = identity(&file).map_err(|source| FilesError::io("examine", at, source))?;
        if let Some(digest) = self.memo.as_ref().and_then(|memo| memo.get(&before)) {
            return Ok(digest);
        }
        let mut digester = Digester::new();
        io::copy(&mut file, &mut digester).map_err(|source| FilesError::io("read", at, source))?;
        let digest = digester.finish();
        if let Some(memo) = &self.memo
            && self.is_settled(&before)
            && identity(&file).is_ok_and(|after| after == before)
        {
            memo.put(before, digest);
        }
        Ok(digest)
    }
}

fn identity(file: &fs::File) -> io::Result<FileIdentity> {
    let metadata = file.metadata()?;
    Ok(FileIdentity {
        device: metadata.dev(),
        inode: metadata.ino(),
        size: metadata.len(),
        changed: (metadata.ctime(), metadata.ctime_nsec()),
    })
}

/// An archive that is read once, into a file without a name; contents are digested on the way.
#[derive(Debug)]
pub struct ArchiveContext {
    tree: Tree<Kept>,
    spool: Arc<fs::File>,
    ignore: Ignore,
}

/// Where a file's contents are in the spool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Kept {
    offset: u64,
    size: u64,
    digest: Digest,
}

impl ArchiveContext {
    /// Reads a tar archive, plain or compressed, to its end. `folder` is where the contents are kept meanwhile.
    ///
    /// # Errors
    /// [`LayerError`] for an archive that cannot be read or goes over the limits.
    pub fn read(archive: impl Read + Send, limits: Limits, folder: &Path) -> Result<Self, LayerError> {
        let mut spool = tempfile::tempfile_in(folder).map_err(LayerError::Read)?;
        let (tree, _) = pipeline::run(archive, limits, |pieces| {
            let mut reader = tar::Reader::new(pieces, limits).ending(EndMark::Optional).dots(Dots::Within);
            let mut tree = Tree::new();
            let mut offset = 0;
            while let Some(entry) = reader.next_entry()? {
                let body = match entry.kind {
                    tar::Kind::File { size, segments } => {
                        let mut contents = reader.contents();
                        let digest = match segments {
                            None => copy(&mut contents, &mut spool).map_err(LayerError::Read)?,
                            Some(segments) => {
                                let mut at = 0;
                                let mut digester = Digester::new();
                                for segment in segments {
                                    let hole = segment.offset.saturating_sub(at);
                                    io::copy(&mut io::repeat(0).take(hole), &mut digester).map_err(LayerError::Read)?;
                                    spool.seek(SeekFrom::Start(offset + segment.offset)).map_err(LayerError::Read)?;
                                    let mut part = (&mut contents).take(segment.length);
                                    let mut both = Both { digester: &mut digester, file: &mut spool };
                                    io::copy(&mut part, &mut both).map_err(LayerError::Read)?;
                                    at = segment.offset + segment.length;
                                }
                                let hole = size.saturating_sub(at);
                                io::copy(&mut io::repeat(0).take(hole), &mut digester).map_err(LayerError::Read)?;
                                digester.finish()
                            }
                        };
                        let kept = Kept { offset, size, digest };
                        offset += size;
                        spool.set_len(offset).map_err(LayerError::Read)?;
                        spool.seek(SeekFrom::Start(offset)).map_err(LayerError::Read)?;
                        Body::File(kept)
                    }
                    tar::Kind::Directory => Body::directory(),
                    tar::Kind::Symlink(target) => Body::Symlink(target),
                    tar::Kind::Device { kind, major, minor } => Body::Device { kind, major, minor },
                    tar::Kind::Fifo => Body::Fifo,
                    tar::Kind::Hardlink(target) => {
                        tree.link(&entry.path, &target).map_err(DirectoryError::Tree)?;
                        continue;
                    }
                };
                tree.place(&entry.path, entry.stat, body).map_err(DirectoryError::Tree)?;
            }
            reader.drain()?;
            Ok(tree)
        })?;
        Ok(Self { tree, spool: Arc::new(spool), ignore: Ignore::default() })
    }

    /// Leaves out what these patterns name. Clients leave it out before they send, but not all of them.
    #[must_use]
    pub fn without(mut self, ignore: Ignore) -> Self {
        self.ignore = ignore;
        self
    }

    fn visible(&self, at: &[u8], folder: bool) -> bool {
        if self.ignore.is_empty() || at.is_empty() {
            return true;
        }
        let text = String::from_utf8_lossy(at);
        !self.ignore.excludes(&text)
            || (folder && self.ignore.may_except_below(&text) && self.names(at).is_ok_and(|names| !names.is_empty()))
    }

    fn kept(&self, at: &[u8]) -> Result<Kept, FilesError> {
        match self.tree.find(at).map(|index| &self.tree.get(index).body) {
            Some(Body::File(kept)) => Ok(*kept),
            _ => Err(FilesError::io("open", at, io::Error::from(io::ErrorKind::NotFound))),
        }
    }
}

/// Copies all and digests it.
fn copy(from: &mut impl Read, to: &mut fs::File) -> io::Result<Digest> {
    let mut digester = Digester::new();
    io::copy(from, &mut Both { digester: &mut digester, file: to })?;
    Ok(digester.finish())
}

struct Both<'a> {
    digester: &'a mut Digester,
    file: &'a mut fs::File,
}

impl Write for Both<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write_all(bytes)?;
        self.digester.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Files for ArchiveContext {
    fn look(&self, at: &[u8]) -> Result<Option<File>, FilesError> {
        let Some(index) = self.tree.find(at) else { return Ok(None) };
        let inode = self.tree.get(index);
        let kind = match &inode.body {
            Body::Directory(_) => FileKind::Directory,
            Body::File(kept) => FileKind::Regular(kept.size),
            Body::Symlink(target) => FileKind::Symlink(target.clone()),
            Body::Device { kind, major, minor } => FileKind::Device { kind: *kind, major: *major, minor: *minor },
            Body::Fifo => FileKind::Fifo,
            Body::Socket => FileKind::Socket,
        };
        let visible = self.visible(at, kind == FileKind::Directory);
        Ok(visible.then(|| File { stat: inode.stat.clone(), kind }))
    }

    fn names(&self, folder: &[u8]) -> Result<Vec<Vec<u8>>, FilesError> {
        let Some(Body::Directory(entries)) = self.tree.find(folder).map(|index| &self.tree.get(index).body) else {
            return Err(FilesError::io("list", folder, io::Error::from(io::ErrorKind::NotADirectory)));
        };
        let seen = entries.iter().filter(|(name, index)| {
            let directory = matches!(self.tree.get(**index).body, Body::Directory(_));
            self.visible(&join(folder, name), directory)
        });
        Ok(seen.map(|(name, _)| name.to_vec()).collect())
    }

    fn open(&self, at: &[u8]) -> Result<Box<dyn Read + Send>, FilesError> {
        let kept = self.kept(at)?;
        Ok(Box::new(Part { spool: Arc::clone(&self.spool), at: kept.offset, end: kept.offset + kept.size }))
    }

    fn digest(&self, at: &[u8]) -> Result<Digest, FilesError> {
        Ok(self.kept(at)?.digest)
    }
}

/// A stretch of the spool.
struct Part {
    spool: Arc<fs::File>,
    at: u64,
    end: u64,
}

impl Read for Part {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end - self.at).unwrap_or(usize::MAX).min(out.len());
        let count = self.spool.read_at(&mut out[..left], self.at)?;
        self.at += count as u64;
        Ok(count)
    }
}
