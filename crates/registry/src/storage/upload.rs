//! Content that is still coming.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::PathBuf;
use std::str::FromStr;

use super::{Storage, StorageError, durable};
use crate::digest::{Algorithm, ContentDigest, Digester};
use crate::name::Repository;

/// Bytes that are read at once when an upload has to be digested anew.
const PIECE: usize = 256 << 10;

/// An upload's name: 32 hexadecimal digits that nobody can guess.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct UploadId(String);

impl fmt::Display for UploadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Text that is no upload's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an upload's name has 32 digits of 0-9 and a-f")]
pub struct UploadIdError;

impl FromStr for UploadId {
    type Err = UploadIdError;

    fn from_str(text: &str) -> Result<Self, UploadIdError> {
        let fits = text.len() == 32 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        fits.then(|| Self(text.to_owned())).ok_or(UploadIdError)
    }
}

/// An upload that is open for writing. Dropping it leaves it on the disk, where it can be opened again.
#[derive(Debug)]
pub struct Upload {
    id: UploadId,
    repository: Repository,
    path: PathBuf,
    file: File,
    length: u64,
    /// Of all that is in the file; gone when the file was not written by this object alone.
    digester: Option<Digester>,
}

impl Storage {
    /// Begins an upload whose digest will be of some algorithm; another one costs reading the content again.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn begin_upload(&self, repository: &Repository, algorithm: Algorithm) -> Result<Upload, StorageError> {
        let _gate = self.shared();
        let id = UploadId(durable::random_name()?);
        let folder = self.folder(repository).join("_uploads");
        durable::make_dir(&folder)?;
        let path = folder.join(&id.0);
        let options = File::options().read(true).append(true).create_new(true).open(&path);
        let file = options.map_err(StorageError::file("create", &path))?;
        let digester = Some(Digester::new(algorithm));
        Ok(Upload { id, repository: repository.clone(), path, file, length: 0, digester })
    }

    /// Opens an upload that was begun before, perhaps by a process that is gone.
    ///
    /// # Errors
    /// [`StorageError::NoUpload`] when there is none.
    pub fn open_upload(&self, repository: &Repository, id: &UploadId) -> Result<Upload, StorageError> {
        let path = self.folder(repository).join("_uploads").join(&id.0);
        let file = match File::options().read(true).append(true).open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(StorageError::NoUpload { repository: repository.clone(), id: id.to_string() });
            }
            other => other.map_err(StorageError::file("open", &path))?,
        };
        let length = file.metadata().map_err(StorageError::file("read", &path))?.len();
        let digester = (length == 0).then(|| Digester::new(Algorithm::default()));
        Ok(Upload { id: id.clone(), repository: repository.clone(), path, file, length, digester })
    }

    /// Makes the upload a blob of its repository: checked, on the disk, seen whole or not at all.
    ///
    /// # Errors
    /// [`StorageError::Mismatch`] when the content is not what `digest` says; then the upload is gone.
    pub fn finish_upload(&self, mut upload: Upload, digest: &ContentDigest) -> Result<u64, StorageError> {
        let actual = upload.digest(digest.algorithm())?;
        if actual != *digest {
            self.cancel_upload(upload)?;
            return Err(StorageError::Mismatch { expected: Box::new(*digest), actual: Box::new(actual) });
        }
        let target = self.blob_path(digest);
        if !target.exists() {
            upload.sync()?;
            let mode = fs::Permissions::from_mode(0o444);
            upload.file.set_permissions(mode).map_err(StorageError::file("change", &upload.path))?;
        }
        let _gate = self.shared();
        if target.exists() {
            // Somebody else's rename may not be on the disk yet.
            durable::sync_dir(target.parent().unwrap_or(&target))?;
            durable::remove(&upload.path)?;
        } else {
            upload.sync()?;
            durable::move_to(&upload.path, &target)?;
        }
        self.link(&upload.repository, digest)?;
        Ok(upload.length)
    }

    /// Throws an upload away.
    ///
    /// # Errors
    /// When its file cannot be removed.
    pub fn cancel_upload(&self, upload: Upload) -> Result<(), StorageError> {
        durable::remove(&upload.path).map(drop)
    }

    /// Makes bytes in memory a blob of a repository, in one step.
    ///
    /// # Errors
    /// As [`Storage::finish_upload`].
    pub fn put_blob(&self, repository: &Repository, digest: &ContentDigest, bytes: &[u8]) -> Result<(), StorageError> {
        let actual = ContentDigest::with(digest.algorithm(), bytes);
        if actual != *digest {
            return Err(StorageError::Mismatch { expected: Box::new(*digest), actual: Box::new(actual) });
        }
        let _gate = self.shared();
        self.put_content(digest, bytes)?;
        self.link(repository, digest)
    }

    /// Makes sure that some bytes are there under their digest; the gate is held.
    pub(super) fn put_content(&self, digest: &ContentDigest, bytes: &[u8]) -> Result<(), StorageError> {
        let target = self.blob_path(digest);
        if durable::touch(&target) {
            return durable::sync_dir(target.parent().unwrap_or(&target));
        }
        durable::publish(&self.tmp(), &target, bytes)
    }
}

impl Upload {
    /// Its name.
    #[must_use]
    pub const fn id(&self) -> &UploadId {
        &self.id
    }

    /// The repository that it is for.
    #[must_use]
    pub const fn repository(&self) -> &Repository {
        &self.repository
    }

    /// Whether it is for that repository.
    #[must_use]
    pub fn is_of(&self, repository: &Repository) -> bool {
        self.repository == *repository
    }

    /// How many bytes are there.
    #[must_use]
    pub const fn length(&self) -> u64 {
        self.length
    }

    /// Adds bytes at the end.
    ///
    /// # Errors
    /// When they cannot be written; [`Upload::length`] says what was.
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), StorageError> {
        if let Err(error) = self.file.write_all(bytes) {
            self.digester = None;
            if let Ok(metadata) = self.file.metadata() {
                self.length = metadata.len();
            }
            return Err(StorageError::file("write", &self.path)(error));
        }
        self.length += bytes.len() as u64;
        if let Some(digester) = &mut self.digester {
            digester.update(bytes);
        }
        Ok(())
    }

    /// Waits until all of it is on the disk.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn sync(&self) -> Result<(), StorageError> {
        self.file.sync_data().map_err(StorageError::file("sync", &self.path))
    }

    /// The file again, for reading along while it grows.
    ///
    /// # Errors
    /// When no more files can be open.
    pub fn reader(&self) -> Result<File, StorageError> {
        self.file.try_clone().map_err(StorageError::file("open", &self.path))
    }

    /// The digest of all that is there.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn digest(&mut self, algorithm: Algorithm) -> Result<ContentDigest, StorageError> {
        if let Some(digester) = self.digester.as_ref().filter(|digester| digester.algorithm() == algorithm) {
            return Ok(digester.clone().finish());
        }
        let digester = digest_file(&self.file, algorithm).map_err(StorageError::file("read", &self.path))?;
        self.digester = Some(digester.clone());
        Ok(digester.finish())
    }
}

/// Digests a whole file.
pub(super) fn digest_file(file: &File, algorithm: Algorithm) -> io::Result<Digester> {
    let mut digester = Digester::new(algorithm);
    let mut piece = vec![0; PIECE];
    let mut reader = At { file, at: 0 };
    loop {
        let count = reader.read(&mut piece)?;
        if count == 0 {
            return Ok(digester);
        }
        digester.update(&piece[..count]);
    }
}

/// Reads a file without moving its position.
struct At<'a> {
    file: &'a File,
    at: u64,
}

impl Read for At<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read_at(out, self.at)?;
        self.at += count as u64;
        Ok(count)
    }
}
