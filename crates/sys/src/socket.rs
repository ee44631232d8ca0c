//! What sockets say of themselves: `unix(7)`, `tcp(7)`.

#![expect(unsafe_code, reason = "ioctl(2) writes through an address")]

use crate::{Result, SysError};
use std::os::fd::{AsRawFd, BorrowedFd};

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
