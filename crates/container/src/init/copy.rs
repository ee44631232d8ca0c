//! `tmpcopyup`: what a folder of the image holds, copied into a new file system that is then mounted over it.
//!
//! Everything goes through descriptors below the two folders; no symbolic link is followed.

use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, chownat, fchmod, mkdirat, mknodat,
    openat, readlinkat, sendfile, statat, symlinkat, utimensat,
};
use rustix::io::{Errno, Result};
use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Folders deeper than this are refused: each takes descriptors while its content is copied.
const DEEPEST: usize = 200;

/// Copies what `from` holds, and its own mode and owner, to `to`. Sockets are left out, as nobody listens on a copy.
pub(crate) fn folder(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<()> {
    // a new mount comes as a mere place
    let to = openat(to, c".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    level(from, to.as_fd(), 0)
}

fn level(from: BorrowedFd<'_>, to: BorrowedFd<'_>, depth: usize) -> Result<()> {
    if depth > DEEPEST {
        return Err(Errno::NAMETOOLONG);
    }
    let from = openat(from, c".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    for entry in Dir::read_from(&from)? {
        let entry = entry?;
        let name = entry.file_name();
        if name != c"."
            && name != c".."
            && let Some((inner, copy)) = one(from.as_fd(), to, name)?
        {
            level(inner.as_fd(), copy.as_fd(), depth + 1)?;
        }
    }
    // at the end, once nothing more is put into it
    let stat = rustix::fs::fstat(&from)?;
    rustix::fs::fchown(to, owner(&stat).0, owner(&stat).1)?;
    fchmod(to, Mode::from_raw_mode(stat.st_mode))
}

fn owner(stat: &Stat) -> (Option<Uid>, Option<Gid>) {
    (Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))
}

/// Copies one entry; a folder's content is left to the caller.
fn one(from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &CStr) -> Result<Option<(OwnedFd, OwnedFd)>> {
    let stat = statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
    let mode = Mode::from_raw_mode(stat.st_mode);
    let none = Mode::empty();
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            mkdirat(to, name, Mode::from_raw_mode(0o700))?;
            return Ok(Some((openat(from, name, flags, none)?, openat(to, name, flags, none)?)));
        }
        FileType::RegularFile => {
            let source = openat(from, name, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC, none)?;
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            let target = openat(to, name, flags, Mode::from_raw_mode(0o600))?;
            while sendfile(&target, &source, None, 1 << 24)? > 0 {}
            rustix::fs::fchown(&target, owner(&stat).0, owner(&stat).1)?;
            fchmod(&target, mode)?;
        }
        FileType::Symlink => {
            symlinkat(readlinkat(from, name, Vec::new())?, to, name)?;
            chownat(to, name, owner(&stat).0, owner(&stat).1, AtFlags::SYMLINK_NOFOLLOW)?;
        }
        FileType::Socket => return Ok(None),
        kind => {
            mknodat(to, name, kind, mode, stat.st_rdev)?;
            chownat(to, name, owner(&stat).0, owner(&stat).1, AtFlags::SYMLINK_NOFOLLOW)?;
        }
    }
    let time = |seconds, nanoseconds| Timespec { tv_sec: seconds, tv_nsec: i64::try_from(nanoseconds).unwrap_or(0) };
    let times = Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    };
    utimensat(to, name, &times, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(None)
}
