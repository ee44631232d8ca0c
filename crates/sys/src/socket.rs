//! What sockets say of themselves, and addresses of sockets with long paths: `unix(7)`, `tcp(7)`.

#![expect(unsafe_code, reason = "ioctl(2) writes through an address")]

use crate::{Result, SysError};
use rustix::fs::{Mode, OFlags};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// The longest path that an address has room for, with a zero behind it.
const LONGEST: usize = 107;

/// A socket's path as an address of this process has room for it: a long one leads through its folder, which is held open.
#[derive(Debug)]
pub struct ShortPath {
    path: PathBuf,
    _folder: Option<OwnedFd>,
}

impl ShortPath {
    /// The short form of a path, which is the path itself if that is short.
    ///
    /// # Errors
    /// What opening the folder of a long path says.
    ///
    /// # Source
    /// `unix(7)`, `sun_path`.
    pub fn of(path: &Path) -> std::io::Result<Self> {
        let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
            return Ok(Self { path: path.to_owned(), _folder: None });
        };
        if path.as_os_str().as_bytes().len() <= LONGEST {
            return Ok(Self { path: path.to_owned(), _folder: None });
        }
        let folder = rustix::fs::open(folder, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let path = Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string()).join(name);
        Ok(Self { path, _folder: Some(folder) })
    }
}

impl AsRef<Path> for ShortPath {
    fn as_ref(&self) -> &Path {
        &self.path
    }
}

/// How much of what was written to a stream socket has not gone: for a unix socket, what the peer has not read (in bytes of the
/// kernel's memory); for TCP, what the peer's kernel has not acknowledged.
///
/// # Errors
/// `ENOTTY` for what is no socket.
///
/// # Source
/// `unix(7)` and `tcp(7)`, `SIOCOUTQ`.
pub fn unsent(socket: BorrowedFd<'_>) -> Result<usize> {
    let mut count: libc::c_int = 0;
    // SAFETY: the kernel writes one integer.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut count) };
    if done == 0 { Ok(usize::try_from(count).unwrap_or(0)) } else { Err(SysError::last("ioctl")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::fd::AsFd;

    #[test]
    fn sockets_with_long_paths_are_reached() {
        use std::os::unix::net::{UnixListener, UnixStream};
        let top = std::env::temp_dir().join(format!("insula-sys-{}", std::process::id()));
        let folder = top.join("a".repeat(100)).join("b".repeat(100));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("socket");
        assert!(UnixListener::bind(&path).is_err());
        let listener = UnixListener::bind(ShortPath::of(&path).unwrap());
        let reached = UnixStream::connect(ShortPath::of(&path).unwrap());
        let there = path.exists();
        std::fs::remove_dir_all(&top).unwrap();
        assert!(there && listener.is_ok() && reached.is_ok());
        assert_eq!(ShortPath::of(Path::new("/run/x.sock")).unwrap().as_ref(), Path::new("/run/x.sock"));
        assert!(ShortPath::of(&path).is_err());
    }

    #[test]
    fn what_was_read_is_gone() {
        let (mut near, mut far) = std::os::unix::net::UnixStream::pair().unwrap();
        assert_eq!(unsent(near.as_fd()), Ok(0));
        near.write_all(b"abc").unwrap();
        assert!(unsent(near.as_fd()).unwrap() > 0);
        far.read_exact(&mut [0; 3]).unwrap();
        assert_eq!(unsent(near.as_fd()), Ok(0));
        assert!(unsent(std::fs::File::open("/dev/null").unwrap().as_fd()).is_err());
    }
}
