//! Blobs of a repository: looking, reading, mounting, deleting.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, SystemTime};

use rustix::fs::{Access, AtFlags, CWD};

use super::{Storage, StorageError, durable};
use crate::digest::ContentDigest;
use crate::name::Repository;

/// A blob that is open for reading. It stays readable when it is deleted meanwhile.
#[derive(Debug)]
pub struct Blob {
    /// The content from its first byte on.
    pub file: File,
    /// Its size in bytes.
    pub size: u64,
}

impl Storage {
    /// Opens a blob of a repository.
    ///
    /// # Errors
    /// When the repository has no such blob.
    pub fn blob(&self, repository: &Repository, digest: &ContentDigest) -> Result<Blob, StorageError> {
        let missing = || StorageError::NoBlob { repository: repository.clone(), digest: Box::new(*digest) };
        let has = |path: &Path| rustix::fs::accessat(CWD, path, Access::EXISTS, AtFlags::empty()).is_ok();
        // A manifest is content like any other, and some clients fetch it as a blob.
        if !has(&self.blob_link(repository, digest)) && !has(&self.manifest_link(repository, digest)) {
            return Err(missing());
        }
        self.content(digest)?.ok_or_else(missing)
    }

    /// Opens content, whichever repository it is in.
    pub(super) fn content(&self, digest: &ContentDigest) -> Result<Option<Blob>, StorageError> {
        let path = self.blob_path(digest);
        match File::open(&path) {
            Ok(file) => {
                let stat = rustix::fs::fstat(file.as_fd());
                let size = stat.map_err(|errno| StorageError::file("read", &path)(errno.into()))?.st_size;
                Ok(Some(Blob { file, size: u64::try_from(size).unwrap_or(0) }))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(StorageError::file("open", &path)(error)),
        }
    }

    /// A blob's size. Who asks is about to refer to it, so its lease is renewed.
    ///
    /// # Errors
    /// When the repository has no such blob.
    pub fn blob_size(&self, repository: &Repository, digest: &ContentDigest) -> Result<u64, StorageError> {
        let _gate = self.shared();
        let blob = self.blob(repository, digest)?;
        self.renew(&self.blob_link(repository, digest));
        Ok(blob.size)
    }

    /// Renews a link's lease when half of it is over; the gate is held.
    fn renew(&self, link: &Path) {
        if age(link).is_some_and(|age| age > self.0.grace / 2) {
            durable::touch(link);
        }
    }

    /// Gives a repository a blob that another one has, or with no `from` any one.
    ///
    /// # Errors
    /// [`StorageError::NoBlob`] when it is not there: it has to be uploaded.
    pub fn mount(
        &self,
        repository: &Repository,
        digest: &ContentDigest,
        from: Option<&Repository>,
    ) -> Result<(), StorageError> {
        let _gate = self.shared();
        match from {
            Some(from) => drop(self.blob(from, digest)?),
            None if self.content(digest)?.is_some() => {}
            None => return Err(StorageError::NoBlob { repository: repository.clone(), digest: Box::new(*digest) }),
        }
        self.link(repository, digest)
    }

    /// Notes that a repository has a blob that is there; the gate is held.
    pub(super) fn link(&self, repository: &Repository, digest: &ContentDigest) -> Result<(), StorageError> {
        // The sweep looks at this time, since it may have read the links already.
        if !durable::touch(&self.blob_path(digest)) {
            return Err(StorageError::NoBlob { repository: repository.clone(), digest: Box::new(*digest) });
        }
        durable::mark(&self.blob_link(repository, digest))
    }

    /// Takes a blob away from a repository. Its space comes back with the next collection.
    ///
    /// # Errors
    /// When the repository has no such blob.
    pub fn delete_blob(&self, repository: &Repository, digest: &ContentDigest) -> Result<(), StorageError> {
        let _gate = self.alone();
        let link = self.blob_link(repository, digest);
        if !durable::remove(&link)? {
            return Err(StorageError::NoBlob { repository: repository.clone(), digest: Box::new(*digest) });
        }
        durable::sync_dir(link.parent().unwrap_or(&link))
    }
}

/// How long ago a file was made or touched; none if it is not there.
fn age(path: &Path) -> Option<Duration> {
    let modified = fs::symlink_metadata(path).and_then(|metadata| metadata.modified()).ok()?;
    // A time in the future is new.
    Some(SystemTime::now().duration_since(modified).unwrap_or_default())
}
