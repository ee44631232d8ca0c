//! Files and folders that are on the disk when the call returns.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use rustix::fs::{CWD, Timespec, Timestamps, UTIME_NOW};

use super::StorageError;

/// Writes a file that is seen whole or not at all, replaces one of that name, and syncs it and its folder, which must be
/// below `root`'s synced part.
pub(super) fn publish(tmp: &Path, path: &Path, content: &[u8]) -> Result<(), StorageError> {
    let staged = tmp.join(random_name()?);
    let written = File::options().write(true).create_new(true).open(&staged).and_then(|mut file| {
        file.write_all(content)?;
        file.sync_data()
    });
    if let Err(error) = written {
        let _ = fs::remove_file(&staged);
        return Err(StorageError::file("write", &staged)(error));
    }
    move_to(&staged, path)
}

/// Gives a file that is on the disk its final name, durably. When that fails the file is gone.
pub(super) fn move_to(staged: &Path, path: &Path) -> Result<(), StorageError> {
    let folder = path.parent().unwrap_or(path);
    let moved = make_dir(folder).and_then(|()| fs::rename(staged, path).map_err(StorageError::file("create", path)));
    if moved.is_err() {
        let _ = fs::remove_file(staged);
    }
    moved.and_then(|()| sync_dir(folder))
}

/// Makes an empty file, durably. One that is there already is touched.
pub(super) fn mark(path: &Path) -> Result<(), StorageError> {
    let folder = path.parent().unwrap_or(path);
    loop {
        match File::options().write(true).create_new(true).open(path) {
            Ok(_) => return sync_dir(folder),
            Err(error) if error.kind() == io::ErrorKind::NotFound => make_dir(folder)?,
            // One that was made by a request a moment ago may not be on the disk yet.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                touch(path);
                return sync_dir(folder);
            }
            Err(error) => return Err(StorageError::file("create", path)(error)),
        }
    }
}

/// Makes a folder and all above it; each one's entry is on the disk.
pub(super) fn make_dir(folder: &Path) -> Result<(), StorageError> {
    if folder.is_dir() {
        return Ok(());
    }
    let parent = folder.parent().unwrap_or(folder);
    make_dir(parent)?;
    match fs::create_dir(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(StorageError::file("create", folder)(error)),
        _ => sync_dir(parent),
    }
}

/// Waits until a folder's entries are on the disk.
pub(super) fn sync_dir(folder: &Path) -> Result<(), StorageError> {
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(StorageError::file("sync", folder))
}

/// Sets a file's time to now, which renews its lease; whether it was there.
pub(super) fn touch(path: &Path) -> bool {
    let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
    let times = Timestamps { last_access: now, last_modification: now };
    rustix::fs::utimensat(CWD, path, &times, rustix::fs::AtFlags::empty()).is_ok()
}

/// Removes a file; whether it was there.
pub(super) fn remove(path: &Path) -> Result<bool, StorageError> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(StorageError::file("remove", path)(error)),
    }
}

/// A folder's entries, sorted; none if there is no such folder. Names that are no UTF-8 are not ours.
pub(super) fn names(folder: &Path) -> Result<Vec<String>, StorageError> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        Err(error) => return Err(StorageError::file("read", folder)(error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(StorageError::file("read", folder))?;
        names.extend(entry.file_name().into_string());
    }
    names.sort_unstable();
    Ok(names)
}

/// 128 random bits as text.
pub(super) fn random_name() -> Result<String, StorageError> {
    let mut bytes = [0; 16];
    let failed = |error: getrandom::Error| {
        StorageError::file("read", Path::new("/dev/urandom"))(io::Error::other(error.to_string()))
    };
    getrandom::fill(&mut bytes).map_err(failed)?;
    Ok(hex::encode(bytes))
}
