//! A layer as a plain directory, for kernels without EROFS.
//!
//! The tree in memory knows every name that the archive has made, so that nothing is written below anything but
//! directories of this very layer, and nothing is followed.

use std::fs::{self, File};
use std::io::{self, BufRead, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags};

use crate::erofs::Node;
use crate::layer::{LayerError, Shape, Sink};
use crate::path as names;
use crate::tree::{Body, DeviceKind, Index, Stat, Tree, TreeError};

/// Why a plain directory could not be written.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// A file operation failed.
    #[error("cannot {operation} \"{path}\" in the layer's folder")]
    File {
        /// What was done.
        operation: &'static str,
        /// To which file.
        path: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The entry has no place in the tree.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// Reading a file's contents failed.
    #[error("cannot read the contents of \"{path}\"")]
    Read {
        /// The file.
        path: String,
        /// What the reader said.
        #[source]
        source: io::Error,
    },
}

/// Writes entries into a folder.
#[derive(Debug)]
pub(crate) struct Writer {
    root: PathBuf,
    tree: Tree<()>,
    written: u64,
}

impl Writer {
    /// Begins with an empty folder.
    pub(crate) fn create(root: &Path) -> Result<Self, DirectoryError> {
        fs::create_dir(root).map_err(failed("create", b""))?;
        Ok(Self { root: root.to_owned(), tree: Tree::new(), written: 0 })
    }

    /// Begins with an empty folder that is there.
    pub(crate) fn within(root: &Path) -> Self {
        Self { root: root.to_owned(), tree: Tree::new(), written: 0 }
    }

    /// Gives directories their metadata, which had to wait for what is in them. Returns the bytes of all files.
    pub(crate) fn finish(self) -> Result<u64, DirectoryError> {
        let mut pending = vec![(Tree::<()>::ROOT, Vec::new())];
        let mut directories: Vec<(Index, Vec<u8>)> = Vec::new();
        while let Some((index, path)) = pending.pop() {
            if let Body::Directory(entries) = &self.tree.get(index).body {
                for (name, child) in entries {
                    if matches!(self.tree.get(*child).body, Body::Directory(_)) {
                        let below = if path.is_empty() { name.to_vec() } else { [&path[..], b"/", name].concat() };
                        pending.push((*child, below));
                    }
                }
                directories.push((index, path));
            }
        }
        // Parents come before their children in the list; times are set from the leaves up.
        for (index, path) in directories.iter().rev() {
            self.set_stat(path, &self.tree.get(*index).stat)?;
        }
        let folder = File::open(&self.root).map_err(failed("open", b""))?;
        rustix::fs::syncfs(&folder).map_err(|errno| failed("write to disk", b"")(errno.into()))?;
        Ok(self.written)
    }

    fn at(&self, path: &[u8]) -> PathBuf {
        if path.is_empty() { self.root.clone() } else { self.root.join(std::ffi::OsStr::from_bytes(path)) }
    }

    /// Makes room for a new name: parents are there afterwards and nothing has the name.
    fn make_room(&mut self, path: &[u8], stat: &Stat) -> Result<(), DirectoryError> {
        let Some((parents, _)) = names::split(path) else { return Ok(()) };
        self.tree.make_parents(path, parents, stat.mtime)?;
        fs::create_dir_all(self.at(parents)).map_err(failed("create", parents))?;
        let target = self.at(path);
        let removed = match fs::symlink_metadata(&target) {
            Ok(stat) if stat.is_dir() => fs::remove_dir_all(&target),
            Ok(_) => fs::remove_file(&target),
            Err(_) => Ok(()),
        };
        removed.map_err(failed("replace", path))
    }

    fn set_stat(&self, path: &[u8], stat: &Stat) -> Result<(), DirectoryError> {
        let target = self.at(path);
        let say = |operation, errno: rustix::io::Errno| failed(operation, path)(errno.into());
        let (uid, gid) = (Uid::from_raw(stat.uid), Gid::from_raw(stat.gid));
        rustix::fs::chownat(CWD, &target, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|errno| say("change the owner of", errno))?;
        let is_link = fs::symlink_metadata(&target).is_ok_and(|stat| stat.is_symlink());
        if !is_link {
            let mode = Mode::from_raw_mode(u32::from(stat.mode));
            rustix::fs::chmodat(CWD, &target, mode, AtFlags::empty())
                .map_err(|errno| say("change the mode of", errno))?;
        }
        for (name, value) in &stat.xattrs {
            match rustix::fs::lsetxattr(&target, name.as_slice(), value, XattrFlags::empty()) {
                // Plain directories lie on file systems that may not have every kind of attribute.
                Ok(()) | Err(rustix::io::Errno::OPNOTSUPP) => {}
                Err(errno) => return Err(say("set an extended attribute of", errno)),
            }
        }
        let time = Timespec { tv_sec: stat.mtime.seconds, tv_nsec: i64::from(stat.mtime.nanos) };
        let times = Timestamps { last_access: time, last_modification: time };
        rustix::fs::utimensat(CWD, &target, &times, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|errno| say("change the times of", errno))
    }

    fn add_node(&mut self, path: &[u8], stat: Stat, node: Node) -> Result<(), DirectoryError> {
        if node == Node::Directory {
            let existing = self.tree.find(path).map(|index| &self.tree.get(index).body);
            if !matches!(existing, Some(Body::Directory(_))) {
                self.make_room(path, &stat)?;
                fs::create_dir(self.at(path)).map_err(failed("create", path))?;
            }
            self.tree.place(path, stat, Body::directory())?;
            return Ok(());
        }
        self.make_room(path, &stat)?;
        let target = self.at(path);
        let (kind, device) = match &node {
            Node::Symlink(to) => {
                let to = std::ffi::OsStr::from_bytes(to);
                std::os::unix::fs::symlink(to, &target).map_err(failed("create", path))?;
                (None, 0)
            }
            Node::Device { kind: DeviceKind::Character, major, minor } => {
                (Some(FileType::CharacterDevice), rustix::fs::makedev(*major, *minor))
            }
            Node::Device { kind: DeviceKind::Block, major, minor } => {
                (Some(FileType::BlockDevice), rustix::fs::makedev(*major, *minor))
            }
            Node::Fifo => (Some(FileType::Fifo), 0),
            Node::Socket | Node::Directory => (Some(FileType::Socket), 0),
        };
        if let Some(kind) = kind {
            rustix::fs::mknodat(CWD, &target, kind, Mode::from_raw_mode(0o600), device)
                .map_err(|errno| failed("create", path)(errno.into()))?;
        }
        self.set_stat(path, &stat)?;
        self.tree.place(path, stat, node.into_body())?;
        Ok(())
    }

    fn add_file(
        &mut self,
        path: &[u8],
        stat: Stat,
        shape: Shape<'_>,
        data: &mut dyn BufRead,
    ) -> Result<(), DirectoryError> {
        self.make_room(path, &stat)?;
        let mut file = File::create_new(self.at(path)).map_err(failed("create", path))?;
        let whole = [crate::erofs::Segment { offset: 0, length: shape.size }];
        for segment in shape.segments.unwrap_or(&whole) {
            file.seek(SeekFrom::Start(segment.offset)).map_err(failed("write", path))?;
            copy(&mut file, path, segment.length, data)?;
            self.written += segment.length;
        }
        file.set_len(shape.size).map_err(failed("write", path))?;
        self.set_stat(path, &stat)?;
        self.tree.place(path, stat, Body::File(()))?;
        Ok(())
    }
}

fn copy(file: &mut File, path: &[u8], mut length: u64, data: &mut dyn BufRead) -> Result<(), DirectoryError> {
    let unreadable = |source| DirectoryError::Read { path: names::show(path), source };
    while length > 0 {
        let available = data.fill_buf().map_err(unreadable)?;
        if available.is_empty() {
            return Err(unreadable(io::ErrorKind::UnexpectedEof.into()));
        }
        let now = usize::try_from(length).unwrap_or(usize::MAX).min(available.len());
        file.write_all(&available[..now]).map_err(failed("write", path))?;
        data.consume(now);
        length -= now as u64;
    }
    Ok(())
}

fn failed(operation: &'static str, path: &[u8]) -> impl FnOnce(io::Error) -> DirectoryError {
    let path = names::show(path);
    move |source| DirectoryError::File { operation, path, source }
}

impl Sink for Writer {
    fn add(&mut self, path: &[u8], stat: Stat, node: Node) -> Result<(), LayerError> {
        Ok(self.add_node(path, stat, node)?)
    }

    fn link(&mut self, path: &[u8], target: &[u8]) -> Result<(), LayerError> {
        let found = self.tree.find(target).filter(|_| self.tree.find(path) == self.tree.find(target));
        if found.is_some() {
            // A name linked to itself.
            return Ok(());
        }
        let index = self.tree.link(path, target).map_err(DirectoryError::from)?;
        let stat = self.tree.get(index).stat.clone();
        self.make_room(path, &stat)?;
        fs::hard_link(self.at(target), self.at(path)).map_err(failed("link", path))?;
        Ok(())
    }

    fn file(&mut self, path: &[u8], stat: Stat, shape: Shape<'_>, data: &mut dyn BufRead) -> Result<(), LayerError> {
        Ok(self.add_file(path, stat, shape, data)?)
    }

    fn mark(&mut self, path: &[u8], stat: &Stat, name: &[u8], value: &[u8]) -> Result<(), LayerError> {
        let index = self.tree.make_parents(path, path, stat.mtime).map_err(DirectoryError::from)?;
        fs::create_dir_all(self.at(path)).map_err(failed("create", path))?;
        self.tree.get_mut(index).stat.xattrs.insert(name.to_vec(), value.to_vec());
        Ok(())
    }

    fn written(&self) -> u64 {
        self.written
    }
}
