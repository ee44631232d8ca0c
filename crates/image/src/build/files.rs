//! What COPY and ADD read from: a tree of files that is looked at piece by piece.

use std::io::{self, Read};

use oci::digest::{Digest, Digester};

use crate::path;
use crate::tree::{DeviceKind, Stat};

/// How many symbolic links one path may lead through, as in Linux.
const LINKS_MAX: usize = 40;

/// Why a tree cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// The file system failed.
    #[error("cannot {operation} \"{path}\"")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On which file.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A path leads through too many symbolic links.
    #[error("\"{path}\" leads through more than {LINKS_MAX} symbolic links")]
    Loop {
        /// The path.
        path: String,
    },
    /// Too much of something.
    #[error("{what} at \"{path}\": more than the limit of {limit}")]
    Limit {
        /// Of what.
        what: &'static str,
        /// Where.
        path: String,
        /// How much is allowed.
        limit: u64,
    },
}

impl FilesError {
    pub(crate) fn io(operation: &'static str, at: &[u8], source: impl Into<io::Error>) -> Self {
        Self::Io { operation, path: path::show(at), source: source.into() }
    }
}

/// One file of a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// Its metadata.
    pub stat: Stat,
    /// What it is.
    pub kind: FileKind,
}

/// What a file is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileKind {
    /// A folder.
    Directory,
    /// A regular file of this many bytes.
    Regular(u64),
    /// A symbolic link with its target.
    Symlink(Vec<u8>),
    /// A device node.
    Device {
        /// Character or block.
        kind: DeviceKind,
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

/// A tree of files. Paths are relative, clean, without a leading slash; the empty path is the root.
pub trait Files {
    /// The file at `path`, if there is one, without following anything.
    ///
    /// # Errors
    /// [`FilesError`].
    fn look(&self, path: &[u8]) -> Result<Option<File>, FilesError>;

    /// The names in a folder, in byte order.
    ///
    /// # Errors
    /// [`FilesError`].
    fn names(&self, folder: &[u8]) -> Result<Vec<Vec<u8>>, FilesError>;

    /// The contents of a regular file.
    ///
    /// # Errors
    /// [`FilesError`].
    fn open(&self, path: &[u8]) -> Result<Box<dyn Read + Send>, FilesError>;

    /// The digest of a regular file's contents.
    ///
    /// # Errors
    /// [`FilesError`].
    fn digest(&self, path: &[u8]) -> Result<Digest, FilesError> {
        let mut digester = Digester::new();
        io::copy(&mut self.open(path)?, &mut digester).map_err(|source| FilesError::io("read", path, source))?;
        Ok(digester.finish())
    }
}

/// A file that was found, and where it really is.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    pub(crate) path: Vec<u8>,
    pub(crate) file: File,
}

/// Finds the file that `path` means, through symbolic links that never lead out of the tree: `..` stops at the root,
/// and an absolute target begins there.
pub(crate) fn find(files: &dyn Files, wanted: &[u8]) -> Result<Option<Found>, FilesError> {
    let mut todo: Vec<Vec<u8>> = path::components(wanted).rev().map(<[u8]>::to_vec).collect();
    let mut at: Vec<u8> = Vec::new();
    let mut links = 0;
    let Some(mut file) = files.look(&at)? else { return Ok(None) };
    while let Some(name) = todo.pop() {
        match &name[..] {
            b"." => continue,
            b".." => {
                at = path::split(&at).map(|(parent, _)| parent.to_vec()).unwrap_or_default();
                let Some(parent) = files.look(&at)? else { return Ok(None) };
                file = parent;
                continue;
            }
            _ => {}
        }
        if file.kind != FileKind::Directory {
            return Ok(None);
        }
        let next = join(&at, &name);
        let Some(found) = files.look(&next)? else { return Ok(None) };
        if let FileKind::Symlink(target) = &found.kind {
            links += 1;
            if links > LINKS_MAX {
                return Err(FilesError::Loop { path: path::show(wanted) });
            }
            if target.starts_with(b"/") {
                at.clear();
            }
            todo.extend(path::components(target).rev().map(<[u8]>::to_vec));
            let Some(here) = files.look(&at)? else { return Ok(None) };
            file = here;
        } else {
            (at, file) = (next, found);
        }
    }
    Ok(Some(Found { path: at, file }))
}

/// `folder/name`.
pub(crate) fn join(folder: &[u8], name: &[u8]) -> Vec<u8> {
    match (folder.is_empty(), name.is_empty()) {
        (true, _) => name.to_vec(),
        (_, true) => folder.to_vec(),
        _ => [folder, b"/", name].concat(),
    }
}
