//! Files that this process was given, or has opened, before it lost the right to open them.
//!
//! A process that is about to be confined names what it will need ([`keep`], then [`open`] as always); a confined one finds
//! what it opens among these, and otherwise below its own root, which is a folder of the host ([`confine_to`]). Descriptors
//! that come later by a socket are put beside them ([`put`]). Names are the host's paths, so that nothing above has to know
//! whether it is confined.
//!
//! The table belongs to the process, as its descriptors do.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::{Mode, OFlags, SeekFrom};
use rustix::io::Errno;

/// What tells two openings of a file apart.
const TELLING: OFlags = OFlags::RDWR.union(OFlags::WRONLY).union(OFlags::PATH).union(OFlags::DIRECT);

#[derive(Debug, Default)]
struct Table {
    files: BTreeMap<(PathBuf, u32), OwnedFd>,
    keeping: bool,
    root: Option<PathBuf>,
}

static TABLE: Mutex<Table> = Mutex::new(Table { files: BTreeMap::new(), keeping: false, root: None });

fn table() -> MutexGuard<'static, Table> {
    TABLE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// From now on, what [`open`] opens is kept, until [`confine_to`].
pub fn keep() {
    table().keeping = true;
}

/// The process is confined: it sees only `root` of the host, as its root; nothing at all, if there is none.
pub fn confine_to(root: Option<&Path>) {
    let mut table = table();
    table.keeping = false;
    // No path of the host begins with nothing.
    table.root = Some(root.unwrap_or(Path::new("")).to_owned());
}

/// Whether the process is confined.
#[must_use]
pub fn confined() -> bool {
    table().root.is_some()
}

/// Takes a descriptor in, as the host's file `path`; how it was opened, it says itself.
///
/// # Errors
/// It is not open.
pub fn put(path: &Path, fd: OwnedFd) -> io::Result<()> {
    let flags = rustix::fs::fcntl_getfl(&fd)?;
    table().files.insert((path.to_owned(), (flags & TELLING).bits()), fd);
    Ok(())
}

/// Keeps a copy of a descriptor under a name, if [`keep`] was called.
///
/// # Errors
/// No descriptor is free.
pub fn offer(path: &Path, fd: BorrowedFd<'_>) -> io::Result<()> {
    if table().keeping {
        put(path, rustix::io::fcntl_dupfd_cloexec(fd, 0)?)?;
    }
    Ok(())
}

/// Forgets a file, however it was opened.
pub fn forget(path: &Path) {
    table().files.retain(|(name, _), _| name != path);
}

/// Whether a file was handed over, opened with `flags`.
#[must_use]
pub fn has(path: &Path, flags: OFlags) -> bool {
    table().files.contains_key(&(path.to_owned(), (flags & TELLING).bits()))
}

/// Where a path of the host is to be looked up by this process. One that is not below its root is not found.
#[must_use]
pub fn inside(path: &Path) -> PathBuf {
    match &table().root {
        Some(root) if !root.as_os_str().is_empty() => match path.strip_prefix(root) {
            Ok(below) => Path::new("/").join(below),
            Err(_) => path.to_owned(),
        },
        _ => path.to_owned(),
    }
}

/// Opens a file, close-on-exec: one that was handed over, from its beginning, or the one at the path. Openings of a file that
/// was handed over share their position and their locks.
///
/// # Errors
/// What open(2) says. In a confined process `ENOENT` may mean that the file was not handed over.
pub fn open(path: &Path, flags: OFlags) -> io::Result<File> {
    let key = (path.to_owned(), (flags & TELLING).bits());
    if let Some(fd) = table().files.get(&key) {
        let copy = rustix::io::fcntl_dupfd_cloexec(fd, 0)?;
        if !flags.contains(OFlags::PATH) {
            // What has no beginning is where it always is.
            let _nowhere = rustix::fs::seek(&copy, SeekFrom::Start(0));
        }
        return Ok(File::from(copy));
    }
    let place = inside(path);
    let opened = match rustix::fs::open(&place, flags | OFlags::CLOEXEC, Mode::empty()) {
        Err(Errno::NOENT) if confined() => {
            let why = "it was not handed over to this process, which is confined and sees nothing of the host";
            return Err(io::Error::new(io::ErrorKind::NotFound, why));
        }
        outcome => outcome?,
    };
    let mut table = table();
    if table.keeping {
        table.files.insert(key, rustix::io::fcntl_dupfd_cloexec(&opened, 0)?);
    }
    Ok(File::from(opened))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;

    #[test]
    fn what_was_handed_over_is_found_without_its_path() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, "content").unwrap();
        put(&path, File::open(&path).unwrap().into()).unwrap();
        std::fs::remove_file(&path).unwrap();
        for _ in 0..2 {
            let mut text = String::new();
            open(&path, OFlags::RDONLY).unwrap().read_to_string(&mut text).unwrap();
            assert_eq!(text, "content");
        }
        assert!(has(&path, OFlags::RDONLY) && !has(&path, OFlags::RDWR));
        assert!(open(&path, OFlags::RDWR).is_err(), "it was not given for writing");
        forget(&path);
        assert!(open(&path, OFlags::RDONLY).is_err());
    }
}
