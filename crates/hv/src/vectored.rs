//! Files and sockets straight from and into guest memory: one system call for a list of guest buffers.
//!
//! What the kernel writes into guest memory is reported to the region's [`Tracker`], as a device's own write is.
//!
//! # Source
//! readv(2), preadv(2), writev(2).

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd};

use rustix::io::Errno;
use vm_memory::VolatileSlice;
use vm_memory::bitmap::{BS, Bitmap};

use crate::memory::Tracker;

/// A host view of a piece of guest memory.
pub type GuestSlice<'m> = VolatileSlice<'m, BS<'m, Tracker>>;

/// The most buffers of one call; the kernel's `UIO_MAXIOV`.
const MOST: usize = 1024;

/// The buffers as the kernel takes them. They name guest memory, which the guest may change meanwhile; only the kernel
/// looks through them.
fn vector(slices: &[GuestSlice<'_>]) -> Vec<libc::iovec> {
    let buffer =
        |slice: &GuestSlice<'_>| libc::iovec { iov_base: slice.ptr_guard_mut().as_ptr().cast(), iov_len: slice.len() };
    slices.iter().take(MOST).map(buffer).collect()
}

fn outcome(done: isize) -> Result<usize, Errno> {
    let failure = || Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO);
    usize::try_from(done).map_err(|_| failure())
}

/// Reports what the kernel wrote.
fn written(slices: &[GuestSlice<'_>], mut bytes: usize) {
    for slice in slices {
        let here = bytes.min(slice.len());
        if here == 0 {
            return;
        }
        slice.bitmap().mark_dirty(0, here);
        bytes -= here;
    }
}

fn count(vector: &[libc::iovec]) -> libc::c_int {
    libc::c_int::try_from(vector.len()).unwrap_or(libc::c_int::MAX)
}

fn place(offset: u64) -> Result<libc::off_t, Errno> {
    libc::off_t::try_from(offset).map_err(|_| Errno::INVAL)
}

/// Reads into guest memory from `offset` of a file; gives the count of bytes, which may be fewer than there is room for.
///
/// # Errors
/// Those of preadv(2).
pub fn read_at(fd: impl AsFd, slices: &[GuestSlice<'_>], offset: u64) -> Result<usize, Errno> {
    let (vector, offset) = (vector(slices), place(offset)?);
    // SAFETY: every buffer lies in a mapping that outlives the call (the slices borrow it), and guest memory may change at
    // any time, so the kernel's writes break no promise to the compiler.
    let done = unsafe { libc::preadv(fd.as_fd().as_raw_fd(), vector.as_ptr(), count(&vector), offset) };
    outcome(done).inspect(|done| written(slices, *done))
}

/// As [`read_at`], but only what the host has in its cache: it never waits for a disk.
///
/// # Errors
/// Those of preadv2(2) with `RWF_NOWAIT`: `EAGAIN` when nothing is there, `EOPNOTSUPP` when the file system can't tell.
pub fn read_cached_at(fd: impl AsFd, slices: &[GuestSlice<'_>], offset: u64) -> Result<usize, Errno> {
    let (vector, offset) = (vector(slices), place(offset)?);
    let fd = fd.as_fd().as_raw_fd();
    // SAFETY: as in `read_at`.
    let done = unsafe { libc::preadv2(fd, vector.as_ptr(), count(&vector), offset, libc::RWF_NOWAIT) };
    outcome(done).inspect(|done| written(slices, *done))
}

/// Writes from guest memory at `offset` of a file; gives the count of bytes, which may be fewer than there are.
///
/// # Errors
/// Those of pwritev(2).
pub fn write_at(fd: impl AsFd, slices: &[GuestSlice<'_>], offset: u64) -> Result<usize, Errno> {
    let (vector, offset) = (vector(slices), place(offset)?);
    // SAFETY: as in `read_at`; the kernel only reads the buffers.
    let done = unsafe { libc::pwritev(fd.as_fd().as_raw_fd(), vector.as_ptr(), count(&vector), offset) };
    outcome(done)
}

/// Reads into `head` and then into guest memory, from a socket or a tap: one message a call.
///
/// # Errors
/// Those of readv(2); `EAGAIN` when there is nothing.
pub fn read(fd: impl AsFd, head: &mut [u8], slices: &[GuestSlice<'_>]) -> Result<usize, Errno> {
    let head = IoSliceMut::new(head);
    let mut all = Vec::with_capacity(slices.len() + 1);
    all.push(libc::iovec { iov_base: head.as_ptr().cast_mut().cast(), iov_len: head.len() });
    all.extend(vector(slices));
    let first = usize::from(head.is_empty());
    let all = &all[first..all.len().min(MOST + first)];
    // SAFETY: as in `read_at`; `head` is borrowed for the whole call.
    let done = unsafe { libc::readv(fd.as_fd().as_raw_fd(), all.as_ptr(), count(all)) };
    outcome(done).inspect(|done| written(slices, done.saturating_sub(head.len())))
}

/// Writes `head` and then guest memory, to a socket or a tap: one message a call.
///
/// # Errors
/// Those of writev(2); `EAGAIN` when there is no room.
pub fn write(fd: impl AsFd, head: &[u8], slices: &[GuestSlice<'_>]) -> Result<usize, Errno> {
    let head = IoSlice::new(head);
    let mut all = Vec::with_capacity(slices.len() + 1);
    all.push(libc::iovec { iov_base: head.as_ptr().cast_mut().cast(), iov_len: head.len() });
    all.extend(vector(slices));
    let first = usize::from(head.is_empty());
    let all = &all[first..all.len().min(MOST + first)];
    // SAFETY: as in `write_at`; `head` is borrowed for the whole call.
    let done = unsafe { libc::writev(fd.as_fd().as_raw_fd(), all.as_ptr(), count(all)) };
    outcome(done)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

    use super::*;
    use crate::Memory;

    #[test]
    fn bytes_move_and_writes_are_tracked() {
        let memory = Memory::new(1 << 20).unwrap();
        let ram = memory.ram();
        ram.write_slice(b"guest bytes", GuestAddress(0x3000)).unwrap();
        let slice = |gpa: u64, length: usize| ram.get_slice(GuestAddress(gpa), length).unwrap();
        let file = tempfile::tempfile().unwrap();
        assert_eq!(write_at(&file, &[slice(0x3000, 6), slice(0x3006, 5)], 4), Ok(11));
        let _before = memory.take_dirty();
        assert_eq!(read_at(&file, &[slice(0x8ffe, 4), slice(0x2_0000, 100)], 4), Ok(11));
        let mut bytes = [0; 7];
        ram.read_slice(&mut bytes, GuestAddress(0x2_0000)).unwrap();
        assert_eq!(&bytes, b"t bytes");
        assert_eq!(memory.take_dirty()[0][0], 1 << 8 | 1 << 9 | 1 << 32, "pages 8, 9 and 32");
        assert_eq!(read_at(&file, &[slice(0, 1)], u64::MAX), Err(Errno::INVAL));
    }

    #[test]
    fn a_head_goes_before_the_guest_s_bytes() {
        let memory = Memory::new(1 << 20).unwrap();
        let ram = memory.ram();
        ram.write_slice(b"body", GuestAddress(0x3000)).unwrap();
        let slice = |gpa: u64, length: usize| ram.get_slice(GuestAddress(gpa), length).unwrap();
        let (mut near, mut far) = UnixStream::pair().unwrap();
        assert_eq!(write(&near, b"head", &[slice(0x3000, 4)]), Ok(8));
        let mut all = [0; 8];
        far.read_exact(&mut all).unwrap();
        assert_eq!(&all, b"headbody");
        far.write_all(b"HEADBODYbody").unwrap();
        let mut head = [0; 4];
        assert_eq!(read(&near, &mut head, &[slice(0x5000, 4), slice(0x6000, 4)]), Ok(12));
        let mut body = [0; 4];
        ram.read_slice(&mut body, GuestAddress(0x6000)).unwrap();
        assert_eq!((&head, &body), (b"HEAD", b"body"));
        near.write_all(b"x").unwrap();
    }
}
