//! A streaming EROFS writer: contents go straight to the file while an archive streams in, metadata follows at the end.
//!
//! Memory holds names, metadata and a bounded amount of short tails, never contents. The same calls give the same bytes.
//! The image is uncompressed, with blocks of 4 KiB, so that it can be mounted straight from a file or handed to a virtual
//! machine as a device. `format` knows the bytes, `layout` decides where each inode goes.

mod format;
mod layout;
mod output;
#[cfg(test)]
mod tests;

use std::io::{self, BufRead, Seek, Write};

use oci::digest::Digest;

use crate::tree::{Body, Index, Stat, Tree, TreeError};
use format::{BLOCK, BLOCK_U64};
use output::Output;

pub(crate) use format::{BLOCK as BLOCK_SIZE, verify_first_block};

/// How many bytes of short tails are kept for packing behind their inodes; files after that get a block of their own.
const TAIL_BUDGET: usize = 64 << 20;

/// Why an EROFS image could not be written.
#[derive(Debug, thiserror::Error)]
pub enum ErofsError {
    /// Writing the output failed.
    #[error("cannot write the layer file")]
    Write(#[source] io::Error),
    /// Reading a file's contents failed.
    #[error("cannot read the contents of \"{path}\"")]
    Read {
        /// The file.
        path: String,
        /// What the reader said.
        #[source]
        source: io::Error,
    },
    /// The entry has no place in the tree.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// An attribute that EROFS cannot hold.
    #[error("\"{path}\" has the extended attribute \"{name}\", which an EROFS layer cannot hold: {reason}")]
    Xattr {
        /// The file.
        path: String,
        /// The attribute.
        name: String,
        /// Why not.
        reason: &'static str,
    },
    /// The image would have more blocks than EROFS can number.
    #[error("the layer is larger than 16 TiB")]
    TooLarge,
}

/// A run of a sparse file that has data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Where in the file it begins.
    pub offset: u64,
    /// How long it is.
    pub length: u64,
}

/// Where a file's contents went.
#[derive(Debug, Clone)]
pub(crate) enum Contents {
    /// Consecutive blocks from `block` on; what is left over at the end may be in the tails.
    Flat { block: u32, size: u64, tail: Option<Tail> },
    /// Chunks of `1 << bits` bytes; those that are not listed are holes.
    Chunks { size: u64, bits: u8, map: Vec<(u32, u32)> },
}

/// A short piece of contents that is kept to be packed behind its inode.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tail {
    start: usize,
    length: usize,
}

/// What a finished image is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finished {
    /// Its length in bytes.
    pub size: u64,
    /// The sha256 of the image rotated by one block: from the second block to the end, then the first. The first block is
    /// written last, so that this digest can be taken while the image is written.
    pub digest: Digest,
    /// The name in the superblock: the start of the digest of everything behind the first block.
    pub uuid: [u8; 16],
    /// How many inodes it has.
    pub inodes: u64,
}

/// Writes one image.
#[derive(Debug)]
pub struct Writer<W: Write + Seek> {
    out: Output<W>,
    tree: Tree<Contents>,
    tails: Vec<u8>,
}

impl<W: Write + Seek> Writer<W> {
    /// Begins an image at the start of an empty file.
    ///
    /// # Errors
    /// [`ErofsError::Write`].
    pub fn new(file: W) -> Result<Self, ErofsError> {
        Ok(Self { out: Output::new(file)?, tree: Tree::new(), tails: Vec::new() })
    }

    /// How many bytes of output there are so far.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.out.position()
    }

    /// Adds a directory, link, device, pipe or socket: anything without contents.
    ///
    /// # Errors
    /// [`ErofsError::Tree`], [`ErofsError::Xattr`].
    pub fn add(&mut self, path: &[u8], stat: Stat, node: Node) -> Result<(), ErofsError> {
        check_xattrs(path, &stat)?;
        self.tree.place(path, stat, node.into_body())?;
        Ok(())
    }

    /// Adds a further name for the file at `target`.
    ///
    /// # Errors
    /// [`ErofsError::Tree`].
    pub fn link(&mut self, path: &[u8], target: &[u8]) -> Result<(), ErofsError> {
        self.tree.link(path, target)?;
        Ok(())
    }

    /// Sets an attribute of the directory at `path`, which is made where it is missing.
    ///
    /// # Errors
    /// [`ErofsError::Tree`].
    pub fn mark_directory(&mut self, path: &[u8], stat: &Stat, name: &[u8], value: &[u8]) -> Result<(), ErofsError> {
        let index = self.tree.make_parents(path, path, stat.mtime)?;
        self.tree.get_mut(index).stat.xattrs.insert(name.to_vec(), value.to_vec());
        Ok(())
    }

    /// Where in the output the next file's contents will begin, and how many of its first bytes stand there as they are; the
    /// rest is packed elsewhere. For a file that is not sparse.
    ///
    /// # Errors
    /// [`ErofsError::TooLarge`].
    pub fn placement(&self, stat: &Stat, size: u64) -> Result<(u64, u64), ErofsError> {
        let whole = if self.packs(stat, size) { size - size % BLOCK_U64 } else { size };
        Ok((u64::from(self.out.block()?) * BLOCK_U64, whole))
    }

    /// Whether the end of a file, which fills no block, is packed behind its inode.
    fn packs(&self, stat: &Stat, size: u64) -> bool {
        let rest = usize::try_from(size % BLOCK_U64).unwrap_or(0);
        let head = format::EXTENDED_INODE + layout::inline_xattr_bytes(stat);
        rest > 0 && head + rest <= BLOCK && self.tails.len() + rest <= TAIL_BUDGET
    }

    /// Adds a regular file whose contents come from `data`, which must have `size` bytes.
    ///
    /// # Errors
    /// [`ErofsError`].
    pub fn add_file(&mut self, path: &[u8], stat: Stat, size: u64, data: &mut dyn BufRead) -> Result<(), ErofsError> {
        check_xattrs(path, &stat)?;
        let packed = self.packs(&stat, size);
        let index = self.tree.place(path, stat, Body::File(Contents::Flat { block: 0, size: 0, tail: None }))?;
        let rest = usize::try_from(size % BLOCK_U64).unwrap_or(0);
        let block = self.out.block()?;
        let whole = if packed { size - rest as u64 } else { size };
        self.out.copy(path, whole, data)?;
        let tail = if packed { Some(self.keep_tail(path, rest, data)?) } else { None };
        self.out.pad()?;
        self.set_contents(index, Contents::Flat { block: if whole == 0 { 0 } else { block }, size, tail });
        Ok(())
    }

    /// Adds a sparse file of `size` bytes: `data` has the bytes of the segments one behind the other. The segments are
    /// sorted, do not overlap and end within the size.
    ///
    /// # Errors
    /// [`ErofsError`].
    pub fn add_sparse_file(
        &mut self,
        path: &[u8],
        stat: Stat,
        size: u64,
        segments: &[Segment],
        data: &mut dyn BufRead,
    ) -> Result<(), ErofsError> {
        check_xattrs(path, &stat)?;
        let index = self.tree.place(path, stat, Body::File(Contents::Flat { block: 0, size: 0, tail: None }))?;
        let bits = layout::chunk_bits(size, segments);
        let chunk = 1_u64 << bits;
        let mut map: Vec<(u32, u32)> = Vec::new();
        // Where in the file the output stands, as long as a chunk is open.
        let mut at: Option<u64> = None;
        for segment in segments {
            let (mut offset, mut left) = (segment.offset, segment.length);
            while left > 0 {
                let number = offset >> bits;
                let start = number << bits;
                let open = map.last().is_some_and(|(last, _)| u64::from(*last) == number);
                if !open {
                    self.close_chunk(at, chunk, size)?;
                    let number = u32::try_from(number).map_err(|_| ErofsError::TooLarge)?;
                    map.push((number, self.out.block()?));
                    at = Some(start);
                }
                self.out.zeros(offset - at.unwrap_or(start))?;
                let now = left.min(start + chunk - offset);
                self.out.copy(path, now, data)?;
                offset += now;
                left -= now;
                at = Some(offset);
            }
        }
        self.close_chunk(at, chunk, size)?;
        self.set_contents(index, Contents::Chunks { size, bits, map });
        Ok(())
    }

    /// Writes the metadata and the superblock.
    ///
    /// # Errors
    /// [`ErofsError::Write`], [`ErofsError::TooLarge`].
    pub fn finish(self) -> Result<(Finished, W), ErofsError> {
        let Self { mut out, tree, tails } = self;
        let superblock = layout::write(&tree, &tails, &mut out)?;
        out.finish(superblock)
    }

    fn set_contents(&mut self, index: Index, contents: Contents) {
        self.tree.get_mut(index).body = Body::File(contents);
    }

    fn keep_tail(&mut self, path: &[u8], length: usize, data: &mut dyn BufRead) -> Result<Tail, ErofsError> {
        let start = self.tails.len();
        self.tails.resize(start + length, 0);
        data.read_exact(&mut self.tails[start..])
            .map_err(|source| ErofsError::Read { path: crate::path::show(path), source })?;
        Ok(Tail { start, length })
    }

    /// Fills the open chunk with zeros up to its end, or to the file's end when that comes first.
    fn close_chunk(&mut self, at: Option<u64>, chunk: u64, size: u64) -> Result<(), ErofsError> {
        if let Some(at) = at {
            let end = at.next_multiple_of(chunk).min(size);
            self.out.zeros(end.saturating_sub(at))?;
            self.out.pad()?;
        }
        Ok(())
    }
}

/// What can be added without contents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    /// A directory.
    Directory,
    /// A symbolic link with its target.
    Symlink(Vec<u8>),
    /// A device node.
    Device {
        /// Character or block.
        kind: crate::tree::DeviceKind,
        /// The driver's number.
        major: u32,
        /// The number within the driver.
        minor: u32,
    },
    /// A named pipe.
    Fifo,
    /// A socket's name.
    Socket,
}

impl Node {
    /// The same as the body of an inode.
    pub(crate) fn into_body<F>(self) -> Body<F> {
        match self {
            Self::Directory => Body::directory(),
            Self::Symlink(target) => Body::Symlink(target),
            Self::Device { kind, major, minor } => Body::Device { kind, major, minor },
            Self::Fifo => Body::Fifo,
            Self::Socket => Body::Socket,
        }
    }
}

/// Refuses attributes that have no place in an inode: the kernel would not show them, and silence would lose them.
fn check_xattrs(path: &[u8], stat: &Stat) -> Result<(), ErofsError> {
    let refuse = |name: &[u8], reason| ErofsError::Xattr {
        path: crate::path::show(path),
        name: crate::path::show(name),
        reason,
    };
    for (name, value) in &stat.xattrs {
        if format::xattr_prefix(name).is_none() {
            return Err(refuse(name, "its name begins with none of user., trusted., security., system.posix_acl_"));
        }
        if format::xattr_entry(name, value).is_none() {
            return Err(refuse(name, "its name or value is too long"));
        }
    }
    match stat.xattrs.keys().next() {
        Some(name) if layout::inline_xattr_bytes(stat) > layout::XATTR_BODY_MAX => {
            Err(refuse(name, "the file's attributes together are larger than 64 KiB"))
        }
        _ => Ok(()),
    }
}
