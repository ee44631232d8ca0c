//! Page faults served by this process, userfaultfd(2).

#![expect(unsafe_code, reason = "requests carry addresses of memory whose pages appear")]

use crate::{Result, SysError};
use rustix::io::Errno;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// `USERFAULTFD_IOC_NEW` on `/dev/userfaultfd`.
const NEW: libc::Ioctl = 0xaa00;
const API: libc::Ioctl = 0xc018_aa3f;
const REGISTER: libc::Ioctl = 0xc020_aa00;
const COPY: libc::Ioctl = 0xc028_aa03;
const ZEROPAGE: libc::Ioctl = 0xc020_aa04;
const VERSION: u64 = 0xaa;
const MODE_MISSING: u64 = 1;
const EVENT_PAGEFAULT: u8 = 0x12;

/// Tells of pages that are touched and missing, and fills them.
#[derive(Debug)]
pub struct Userfault(OwnedFd);

impl Userfault {
    /// From `/dev/userfaultfd`, opened; faults of the kernel's own accesses, as KVM's, are told of too.
    ///
    /// # Errors
    /// `ENOTTY` for another file, `EINVAL` for a kernel before 6.1.
    pub fn new(device: &File) -> Result<Self> {
        // SAFETY: the request takes flags as a number.
        let fd = unsafe { libc::ioctl(device.as_raw_fd(), NEW, libc::O_CLOEXEC | libc::O_NONBLOCK) };
        if fd < 0 {
            return Err(SysError::last("ioctl USERFAULTFD_IOC_NEW"));
        }
        // SAFETY: the kernel has just made this descriptor for us.
        let this = Self(unsafe { OwnedFd::from_raw_fd(fd) });
        let mut api = [VERSION, 0, 0];
        this.request("ioctl UFFDIO_API", API, api.as_mut_ptr().cast())?;
        Ok(this)
    }

    fn request(&self, name: &'static str, request: libc::Ioctl, argument: *mut libc::c_void) -> Result<()> {
        // SAFETY: every caller gives a structure of the request's size that lives through the call.
        let outcome = unsafe { libc::ioctl(self.0.as_raw_fd(), request, argument) };
        if outcome < 0 { Err(SysError::last(name)) } else { Ok(()) }
    }

    /// From now on, whoever touches a missing page of this memory waits until it is filled. The memory is shared memory of a
    /// memfd, or anonymous, and stays mapped.
    ///
    /// # Errors
    /// `EINVAL` for other memory or bounds inside a page.
    pub fn register(&self, start: u64, bytes: u64) -> Result<()> {
        let mut argument = [start, bytes, MODE_MISSING, 0];
        self.request("ioctl UFFDIO_REGISTER", REGISTER, argument.as_mut_ptr().cast())
    }

    /// The address of the next touched page that is missing; `None` if nobody waits.
    ///
    /// # Errors
    /// What read(2) says.
    pub fn next(&self) -> Result<Option<u64>> {
        let mut message = [0_u8; 32];
        loop {
            match rustix::io::read(&self.0, &mut message) {
                Ok(count) if count == message.len() && message[0] == EVENT_PAGEFAULT => {
                    let address: [u8; 8] = message[16..24].try_into().unwrap_or_default();
                    return Ok(Some(u64::from_ne_bytes(address)));
                }
                Ok(_) | Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(None),
                Err(errno) => return Err(SysError::new("read", errno)),
            }
        }
    }

    /// Fills whole pages at `to`, wakes who waits for them, and gives how many bytes were filled before one that is there.
    ///
    /// # Errors
    /// `ENOENT` where nothing is registered, `ENOSPC` or `ENOMEM` without memory.
    pub fn copy(&self, to: u64, from: &[u8]) -> Result<u64> {
        let mut argument = [to, from.as_ptr() as u64, from.len() as u64, 0, 0];
        Self::filled(self.request("ioctl UFFDIO_COPY", COPY, argument.as_mut_ptr().cast()), argument[4])
    }

    /// As [`Self::copy`], with zeroes.
    ///
    /// # Errors
    /// As [`Self::copy`].
    pub fn zero(&self, to: u64, bytes: u64) -> Result<u64> {
        let mut argument = [to, bytes, 0, 0];
        Self::filled(self.request("ioctl UFFDIO_ZEROPAGE", ZEROPAGE, argument.as_mut_ptr().cast()), argument[3])
    }

    /// The kernel stops at a page that is there (`EEXIST`), and when the memory's layout changes meanwhile (`EAGAIN`).
    fn filled(outcome: Result<()>, count: u64) -> Result<u64> {
        match outcome {
            Err(SysError { errno: Errno::EXIST, .. }) => Ok(0),
            Ok(()) | Err(SysError { errno: Errno::AGAIN, .. }) => {
                // A count below zero is an errno in place of one: a page that is there.
                Ok(if count.cast_signed() < 0 { 0 } else { count })
            }
            Err(error) => Err(error),
        }
    }
}

impl AsFd for Userfault {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
