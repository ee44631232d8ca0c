//! Memory for machine code that we make: one file, mapped twice, never writable and executable at the same address.

use std::io;

/// A mapping that is taken away with its owner.
pub(crate) struct Mapping {
    base: *mut u8,
    len: usize,
}

// SAFETY: the pointer is the sole way to the mapping; who shares it does so by single machine accesses.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    fn map(len: usize, prot: i32, flags: i32, fd: i32) -> io::Result<Self> {
        // SAFETY: a new mapping at an address of the kernel's choice overlaps nothing.
        let p = unsafe { libc::mmap(std::ptr::null_mut(), len, prot, flags, fd, 0) };
        if p == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { base: p.cast(), len })
    }

    /// Zeroed private memory.
    pub(crate) fn anonymous(len: usize) -> io::Result<Self> {
        Self::map(
            len,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
            -1,
        )
    }

    pub(crate) fn base(&self) -> *mut u8 {
        self.base
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range is the one that was mapped, and its owner goes with it.
        unsafe { libc::munmap(self.base.cast(), self.len) };
    }
}

/// A place in a [`CodeBuf`] where code starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry(pub(super) u32);

/// Machine code in two views of one memfd: written through one, run through the other.
pub(crate) struct CodeBuf {
    write: Mapping,
    run: Mapping,
    used: usize,
}

impl CodeBuf {
    /// Room for `len` bytes, taken from the machine as it is used.
    pub(crate) fn new(len: usize) -> io::Result<Self> {
        // SAFETY: the name is a C string; the flag is the kernel's.
        let fd = unsafe { libc::memfd_create(c"softcpu-code".as_ptr(), libc::MFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        let done = Self::over(fd, len);
        // SAFETY: the descriptor is ours and the mappings outlive it.
        unsafe { libc::close(fd) };
        done
    }

    fn over(fd: i32, len: usize) -> io::Result<Self> {
        // SAFETY: the descriptor is a memfd of ours.
        if unsafe { libc::ftruncate(fd, len as i64) } != 0 {
            return Err(io::Error::last_os_error());
        }
        let write = Mapping::map(len, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED, fd)?;
        let run = Mapping::map(len, libc::PROT_READ | libc::PROT_EXEC, libc::MAP_SHARED, fd)?;
        Ok(Self { write, run, used: 0 })
    }

    /// Bytes left.
    pub(crate) fn left(&self) -> usize {
        self.write.len - self.used
    }

    /// Bytes used.
    pub(crate) fn used(&self) -> usize {
        self.used
    }

    /// Drops the code after the first `used` bytes. Nothing may run or link to it any more.
    pub(super) fn truncate(&mut self, used: usize) {
        self.used = used;
    }

    /// The host address of code.
    pub(super) fn address(&self, e: Entry) -> u64 {
        self.run.base as u64 + u64::from(e.0)
    }

    /// Adds code; nothing if there is no room.
    pub(super) fn push(&mut self, code: &[u8]) -> Option<Entry> {
        if code.len() + 16 > self.left() {
            return None;
        }
        let at = self.used;
        // SAFETY: the range is inside the mapping, and no reference covers it.
        unsafe { std::ptr::copy_nonoverlapping(code.as_ptr(), self.write.base.wrapping_add(at), code.len()) };
        self.used = (at + code.len() + 15) & !15;
        Some(Entry(at as u32))
    }

    /// Where the next code will run, for code that is relative to its place.
    pub(super) fn next_address(&self) -> u64 {
        self.run.base as u64 + self.used as u64
    }

    /// Writes four bytes over code at offset `at`, as one store: how jumps are linked. Returns what stood there.
    pub(super) fn patch(&mut self, at: usize, v: i32) -> i32 {
        assert!(at + 4 <= self.used, "a patch lies outside the code");
        let p = self.write.base.wrapping_add(at);
        // SAFETY: the range is inside the mapping.
        let old = unsafe { super::access::load::<4>(p) } as u32 as i32;
        // SAFETY: the range is inside the mapping; the store is one instruction, so the reader sees old or new.
        unsafe { super::access::store::<4>(p, u64::from(v as u32)) };
        old
    }
}
