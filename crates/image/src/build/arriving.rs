//! A context that arrives file by file: first what files there are, then their contents, in pieces and in any order.

use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use oci::digest::{Digest, Digester};

use super::files::{File, FileKind, Files, FilesError};
use crate::Limits;
use crate::layer::is_kept_xattr;
use crate::path::{self, PathError};
use crate::tree::{Body, Tree, TreeError};

/// Why something that arrives cannot be taken.
#[derive(Debug, thiserror::Error)]
pub enum ArrivalError {
    /// A name that cannot be used.
    #[error("the name \"{name}\" cannot be used")]
    Name {
        /// The name.
        name: String,
        /// Why.
        #[source]
        source: PathError,
    },
    /// A file that cannot have its place.
    #[error("a file cannot be placed")]
    Tree(#[source] TreeError),
    /// Too much.
    #[error("more than the limit of {limit} {what}")]
    Limit {
        /// Of what.
        what: &'static str,
        /// How much is allowed.
        limit: u64,
    },
    /// Contents of a file that is not there.
    #[error("contents came for a file that does not exist")]
    Stray,
    /// They cannot be kept.
    #[error("cannot keep the contents")]
    Write(#[source] io::Error),
}

/// A regular file's number among those that arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(usize);

/// See the module. The contents are in a file without a name.
#[derive(Debug)]
pub struct Arriving {
    tree: Tree<Slot>,
    files: Vec<Contents>,
    spool: fs::File,
    /// How much the spool has.
    length: u64,
    limits: Limits,
}

/// Where a file's contents are: they came in pieces.
#[derive(Debug)]
struct Contents {
    pieces: Vec<(u64, u64)>,
    size: u64,
    digester: Digester,
}

impl Arriving {
    /// Nothing yet. `folder` is where the contents are kept.
    ///
    /// # Errors
    /// When no file can be made there.
    pub fn new(folder: &Path, limits: Limits) -> io::Result<Self> {
        let spool = tempfile::tempfile_in(folder)?;
        Ok(Self { tree: Tree::new(), files: Vec::new(), spool, length: 0, limits })
    }

    /// Takes a file. What a regular one has comes by its slot; the size that is told here counts for nothing.
    ///
    /// # Errors
    /// [`ArrivalError`].
    pub fn place(&mut self, at: &[u8], mut file: File) -> Result<Option<Slot>, ArrivalError> {
        let at = self.clean(at)?;
        file.stat.xattrs.retain(|name, _| is_kept_xattr(name));
        let mut slot = None;
        let body = match file.kind {
            FileKind::Directory => Body::directory(),
            FileKind::Regular(_) => {
                let number = Slot(self.files.len());
                self.files.push(Contents { pieces: Vec::new(), size: 0, digester: Digester::new() });
                slot = Some(number);
                Body::File(number)
            }
            FileKind::Symlink(target) => Body::Symlink(target),
            FileKind::Device { kind, major, minor } => Body::Device { kind, major, minor },
            FileKind::Fifo => Body::Fifo,
            FileKind::Socket => Body::Socket,
        };
        self.tree.place(&at, file.stat, body).map_err(ArrivalError::Tree)?;
        Ok(slot)
    }

    /// Gives a file that is there a further name.
    ///
    /// # Errors
    /// [`ArrivalError`].
    pub fn link(&mut self, at: &[u8], target: &[u8]) -> Result<(), ArrivalError> {
        let (at, target) = (self.clean(at)?, self.clean(target)?);
        self.tree.link(&at, &target).map(drop).map_err(ArrivalError::Tree)
    }

    fn clean(&self, at: &[u8]) -> Result<Vec<u8>, ArrivalError> {
        if self.tree.len() as u64 >= self.limits.entries {
            return Err(ArrivalError::Limit { what: "files", limit: self.limits.entries });
        }
        path::clean(at).map_err(|source| ArrivalError::Name { name: path::show(at), source })
    }

    /// Takes the next piece of a file.
    ///
    /// # Errors
    /// [`ArrivalError`].
    pub fn write(&mut self, slot: Slot, bytes: &[u8]) -> Result<(), ArrivalError> {
        let file = self.files.get_mut(slot.0).ok_or(ArrivalError::Stray)?;
        let (more, limits) = (bytes.len() as u64, self.limits);
        if file.size + more > limits.file_bytes {
            return Err(ArrivalError::Limit { what: "bytes of one file", limit: limits.file_bytes });
        }
        if self.length + more > limits.archive_bytes {
            return Err(ArrivalError::Limit { what: "bytes of all files", limit: limits.archive_bytes });
        }
        self.spool.write_all_at(bytes, self.length).map_err(ArrivalError::Write)?;
        file.digester.update(bytes);
        match file.pieces.last_mut() {
            Some((begin, length)) if *begin + *length == self.length => *length += more,
            _ => file.pieces.push((self.length, more)),
        }
        file.size += more;
        self.length += more;
        Ok(())
    }

    /// How many bytes of contents have come.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.length
    }

    /// All is there.
    #[must_use]
    pub fn done(self) -> ArrivedContext {
        let kept =
            |file: Contents| Kept { pieces: file.pieces.into(), size: file.size, digest: file.digester.finish() };
        let files = self.files.into_iter().map(kept).collect();
        ArrivedContext { tree: self.tree, files, spool: Arc::new(self.spool) }
    }
}

/// A context that has arrived.
#[derive(Debug)]
pub struct ArrivedContext {
    tree: Tree<Slot>,
    files: Vec<Kept>,
    spool: Arc<fs::File>,
}

#[derive(Debug)]
struct Kept {
    pieces: Arc<[(u64, u64)]>,
    size: u64,
    digest: Digest,
}

impl ArrivedContext {
    fn kept(&self, at: &[u8]) -> Result<&Kept, FilesError> {
        let slot = match self.tree.find(at).map(|index| &self.tree.get(index).body) {
            Some(Body::File(slot)) => self.files.get(slot.0),
            _ => None,
        };
        slot.ok_or_else(|| FilesError::io("open", at, io::Error::from(io::ErrorKind::NotFound)))
    }
}

impl Files for ArrivedContext {
    fn look(&self, at: &[u8]) -> Result<Option<File>, FilesError> {
        let Some(index) = self.tree.find(at) else { return Ok(None) };
        let inode = self.tree.get(index);
        let kind = match &inode.body {
            Body::Directory(_) => FileKind::Directory,
            Body::File(slot) => FileKind::Regular(self.files.get(slot.0).map_or(0, |file| file.size)),
            Body::Symlink(target) => FileKind::Symlink(target.clone()),
            Body::Device { kind, major, minor } => FileKind::Device { kind: *kind, major: *major, minor: *minor },
            Body::Fifo => FileKind::Fifo,
            Body::Socket => FileKind::Socket,
        };
        Ok(Some(File { stat: inode.stat.clone(), kind }))
    }

    fn names(&self, folder: &[u8]) -> Result<Vec<Vec<u8>>, FilesError> {
        match self.tree.find(folder).map(|index| &self.tree.get(index).body) {
            Some(Body::Directory(entries)) => Ok(entries.keys().map(|name| name.to_vec()).collect()),
            _ => Err(FilesError::io("list", folder, io::Error::from(io::ErrorKind::NotADirectory))),
        }
    }

    fn open(&self, at: &[u8]) -> Result<Box<dyn Read + Send>, FilesError> {
        let pieces = Arc::clone(&self.kept(at)?.pieces);
        Ok(Box::new(Pieces { spool: Arc::clone(&self.spool), pieces, piece: 0, at: 0 }))
    }

    fn digest(&self, at: &[u8]) -> Result<Digest, FilesError> {
        Ok(self.kept(at)?.digest)
    }
}

/// A file's pieces one after the other.
struct Pieces {
    spool: Arc<fs::File>,
    pieces: Arc<[(u64, u64)]>,
    piece: usize,
    /// How far in this piece.
    at: u64,
}

impl Read for Pieces {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while let Some((begin, length)) = self.pieces.get(self.piece).copied() {
            let left = usize::try_from(length - self.at).unwrap_or(usize::MAX).min(out.len());
            if left == 0 && !out.is_empty() {
                (self.piece, self.at) = (self.piece + 1, 0);
                continue;
            }
            let count = self.spool.read_at(&mut out[..left], begin + self.at)?;
            self.at += count as u64;
            return Ok(count);
        }
        Ok(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::Stat;

    fn file(kind: FileKind) -> File {
        File { stat: Stat { mode: 0o644, ..Stat::default() }, kind }
    }

    #[test]
    fn pieces_of_several_files_come_mixed() {
        let folder = tempfile::tempdir().unwrap();
        let mut arriving = Arriving::new(folder.path(), Limits::default()).unwrap();
        let a = arriving.place(b"d/a", file(FileKind::Regular(9))).unwrap().unwrap();
        let b = arriving.place(b"b", file(FileKind::Regular(0))).unwrap().unwrap();
        arriving.link(b"c", b"d/a").unwrap();
        for (slot, bytes) in [(a, "one "), (b, "x"), (a, "two "), (a, "three"), (b, "y")] {
            arriving.write(slot, bytes.as_bytes()).unwrap();
        }
        assert_eq!(arriving.bytes(), 15);
        let context = arriving.done();
        for (name, text) in [("d/a", "one two three"), ("b", "xy"), ("c", "one two three")] {
            let mut found = String::new();
            context.open(name.as_bytes()).unwrap().read_to_string(&mut found).unwrap();
            assert_eq!(found, text);
            assert_eq!(context.digest(name.as_bytes()).unwrap(), Digest::of(text.as_bytes()));
            let kind = context.look(name.as_bytes()).unwrap().unwrap().kind;
            assert_eq!(kind, FileKind::Regular(text.len() as u64));
        }
        assert_eq!(context.names(b"").unwrap(), [&b"b"[..], b"c", b"d"]);
        assert!(context.open(b"d").is_err() && context.names(b"b").is_err());
    }

    #[test]
    fn names_that_lead_out_and_floods_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let limits = Limits { entries: 3, archive_bytes: 6, file_bytes: 4, ..Limits::default() };
        let mut arriving = Arriving::new(folder.path(), limits).unwrap();
        assert!(matches!(arriving.place(b"a/../b", file(FileKind::Fifo)), Err(ArrivalError::Name { .. })));
        let link = file(FileKind::Symlink(b"/etc".to_vec()));
        arriving.place(b"link", link).unwrap();
        assert!(matches!(arriving.place(b"link/x", file(FileKind::Regular(0))), Err(ArrivalError::Tree(_))));
        let a = arriving.place(b"a", file(FileKind::Regular(0))).unwrap().unwrap();
        assert!(matches!(arriving.place(b"b", file(FileKind::Fifo)), Err(ArrivalError::Limit { .. })));
        arriving.write(a, b"1234").unwrap();
        assert!(matches!(arriving.write(a, b"5"), Err(ArrivalError::Limit { .. })));
        assert!(matches!(arriving.write(Slot(7), b"5"), Err(ArrivalError::Stray)));
    }
}
