//! What a registry keeps on disk, and how it survives being killed at any moment.
//!
//! ```text
//! lock                                                    held by the one process that uses the store
//! blobs/<algorithm>/<2 digits>/<digits>                   content, manifests' too; complete, read-only, never changed
//! repositories/<name>/_blobs/<algorithm>/<digits>         empty: the repository has this blob
//! repositories/<name>/_manifests/<algorithm>/<digits>     the manifest's media type
//! repositories/<name>/_tags/<tag>                         the digest that the tag stands for
//! repositories/<name>/_referrers/<subject>/<digest>       descriptor of a manifest whose subject that is
//! repositories/<name>/_uploads/<32 digits>                content that is still coming
//! tmp/                                                    files on their way to their names
//! ```
//!
//! A file gets its name by `rename` when all of it is on the disk, and a folder is synced before an answer says that
//! something is there. The byte format and the order of steps are in `docs/formats/registry-store.md`.
//!
//! Everything is synchronous; callers are on threads that may block. One gate orders changes against the collection of
//! garbage: whoever makes or renews a reference holds it shared, whoever removes one holds it alone.

mod blob;
mod check;
mod collect;
mod durable;
mod error;
mod manifest;
mod upload;

use std::fs::{self, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use rustix::fs::FlockOperation;

use crate::digest::{Algorithm, ContentDigest};
use crate::name::{Repository, Tag};

pub use blob::Blob;
pub use check::Problem;
pub use collect::{Collected, Collection, Untagged};
pub use error::StorageError;
pub use manifest::{Accepted, Presence, StoredManifest};
pub use upload::{Upload, UploadId};

/// How long something that nothing refers to is spared by default: the time from a blob's upload to its manifest's.
pub const DEFAULT_GRACE: Duration = Duration::from_secs(3600);

/// A registry's folder, opened by one process. Clones are cheap and share it.
#[derive(Debug, Clone)]
pub struct Storage(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    root: PathBuf,
    grace: Duration,
    gate: RwLock<()>,
    _lock: File,
}

impl Storage {
    /// Opens the folder, and makes it if it is not there. What was being written when the last process ended is removed,
    /// but for uploads, which can go on.
    ///
    /// `grace` is how long unreferenced content is spared by [`Storage::collect`]; clients' existence checks renew it.
    ///
    /// # Errors
    /// When another process has it, or the folder cannot be made.
    pub fn open(root: &Path, grace: Duration) -> Result<Self, StorageError> {
        let builder = |path: &Path| {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(StorageError::file("create", path))
        };
        builder(root)?;
        let lock_path = root.join("lock");
        let open = File::options().create(true).truncate(false).write(true).open(&lock_path);
        let lock = open.map_err(StorageError::file("open", &lock_path))?;
        if rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Err(StorageError::Locked { path: root.to_owned() });
        }
        let tmp = root.join("tmp");
        if tmp.exists() {
            fs::remove_dir_all(&tmp).map_err(StorageError::file("remove", &tmp))?;
        }
        for folder in ["tmp", "blobs/sha256", "blobs/sha512", "repositories"] {
            builder(&root.join(folder))?;
        }
        durable::sync_dir(root)?;
        durable::sync_dir(&root.join("blobs"))?;
        Ok(Self(Arc::new(Inner { root: root.to_owned(), grace, gate: RwLock::new(()), _lock: lock })))
    }

    /// The folder.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.0.root
    }

    /// Held while references are made or renewed.
    fn shared(&self) -> RwLockReadGuard<'_, ()> {
        self.0.gate.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Held while references and what they kept alive are removed.
    fn alone(&self) -> RwLockWriteGuard<'_, ()> {
        self.0.gate.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn tmp(&self) -> PathBuf {
        self.0.root.join("tmp")
    }

    fn blob_path(&self, digest: &ContentDigest) -> PathBuf {
        let hex = digest.hex();
        let mut path = self.0.root.join("blobs");
        path.push(digest.algorithm().name());
        path.push(&hex[..2]);
        path.push(hex);
        path
    }

    fn folder(&self, repository: &Repository) -> PathBuf {
        let mut path = self.0.root.join("repositories");
        path.push(repository.as_str());
        path
    }

    /// Where a repository says that it has a blob.
    fn blob_link(&self, repository: &Repository, digest: &ContentDigest) -> PathBuf {
        link(self.folder(repository).join("_blobs"), digest)
    }

    /// Where a repository says that it has a manifest.
    fn manifest_link(&self, repository: &Repository, digest: &ContentDigest) -> PathBuf {
        link(self.folder(repository).join("_manifests"), digest)
    }

    fn tag_path(&self, repository: &Repository, tag: &Tag) -> PathBuf {
        self.folder(repository).join("_tags").join(tag.as_str())
    }

    fn referrers_folder(&self, repository: &Repository, subject: &ContentDigest) -> PathBuf {
        self.folder(repository).join("_referrers").join(flat(subject))
    }

    /// The names of all repositories that have or had a manifest, sorted.
    ///
    /// # Errors
    /// When a folder cannot be read.
    pub fn repositories(&self) -> Result<Vec<Repository>, StorageError> {
        let mut found = Vec::new();
        self.each_repository(|repository, folder| {
            if folder.join("_manifests").is_dir() {
                found.push(repository);
            }
            Ok(())
        })?;
        found.sort();
        Ok(found)
    }

    /// Calls `visit` with every folder that is or was a repository.
    fn each_repository(
        &self,
        mut visit: impl FnMut(Repository, &Path) -> Result<(), StorageError>,
    ) -> Result<(), StorageError> {
        let top = self.0.root.join("repositories");
        let mut open = vec![top.clone()];
        while let Some(folder) = open.pop() {
            let mut is_repository = false;
            for name in durable::names(&folder)? {
                if name.starts_with('_') {
                    is_repository = true;
                } else {
                    open.push(folder.join(name));
                }
            }
            let name = folder.strip_prefix(&top).ok().and_then(Path::to_str);
            if is_repository && let Some(Ok(repository)) = name.map(str::parse) {
                visit(repository, &folder)?;
            }
        }
        Ok(())
    }

    /// Whether there is or was anything in the repository.
    #[must_use]
    pub fn knows(&self, repository: &Repository) -> bool {
        let folder = self.folder(repository);
        ["_manifests", "_blobs"].iter().any(|inner| folder.join(inner).is_dir())
    }
}

fn link(mut folder: PathBuf, digest: &ContentDigest) -> PathBuf {
    folder.push(digest.algorithm().name());
    folder.push(digest.hex());
    folder
}

/// A digest as one file name.
fn flat(digest: &ContentDigest) -> String {
    format!("{}-{}", digest.algorithm(), digest.hex())
}

fn unflat(name: &str) -> Option<ContentDigest> {
    let (algorithm, digits) = name.split_once('-')?;
    ContentDigest::from_hex(algorithm.parse().ok()?, digits).ok()
}

/// The digests that a folder of links names.
fn links(folder: &Path) -> Result<Vec<ContentDigest>, StorageError> {
    let mut found = Vec::new();
    for algorithm in Algorithm::ALL {
        let names = durable::names(&folder.join(algorithm.name()))?;
        found.extend(names.iter().filter_map(|name| ContentDigest::from_hex(algorithm, name).ok()));
    }
    Ok(found)
}

#[cfg(test)]
mod tests;
