//! What can go wrong with the store.

use std::io;
use std::path::{Path, PathBuf};

use crate::digest::ContentDigest;
use crate::manifest::ManifestError;
use crate::name::Repository;

/// Why the store could not do something.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// Another process has the folder.
    #[error("the registry's folder {path} is in use by another process; stop that first, or use another folder")]
    Locked {
        /// The folder.
        path: PathBuf,
    },
    /// The repository has no such blob.
    #[error("no blob {digest} in {repository}")]
    NoBlob {
        /// Where it was looked for.
        repository: Repository,
        /// Which.
        digest: Box<ContentDigest>,
    },
    /// The repository has no such manifest or tag.
    #[error("no manifest {target} in {repository}")]
    NoManifest {
        /// Where it was looked for.
        repository: Repository,
        /// Digest or tag.
        target: String,
    },
    /// There is nothing of that name.
    #[error("no repository {repository}")]
    NoRepository {
        /// The name.
        repository: Repository,
    },
    /// The upload was never begun, or is done, cancelled or too old.
    #[error("no upload {id} in {repository}; begin a new one")]
    NoUpload {
        /// Where it was looked for.
        repository: Repository,
        /// Which.
        id: String,
    },
    /// The content is not what it was said to be.
    #[error("the content's digest is {actual}, not {expected}")]
    Mismatch {
        /// What the client said.
        expected: Box<ContentDigest>,
        /// What came.
        actual: Box<ContentDigest>,
    },
    /// A manifest refers to what is not there.
    #[error("the manifest refers to {} things that are not in {repository}; push them first", missing.len())]
    Missing {
        /// Where they should be.
        repository: Repository,
        /// What is missing.
        missing: Vec<ContentDigest>,
    },
    /// Not a manifest.
    #[error("invalid manifest")]
    Manifest(#[source] ManifestError),
    /// A file operation failed.
    #[error("cannot {operation} {path}")]
    File {
        /// What was done.
        operation: &'static str,
        /// To which file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

impl StorageError {
    /// An error of `operation` on `path`: `.map_err(StorageError::file("read", path))`.
    pub(crate) fn file(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { operation, path, source }
    }

    /// Whether the disk is full.
    #[must_use]
    pub fn is_full(&self) -> bool {
        matches!(self, Self::File { source, .. }
            if matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded))
    }
}
