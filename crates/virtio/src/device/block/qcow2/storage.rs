//! The file that an image lies in.

use std::fs::File;
use std::sync::Arc;

use hv::vectored::GuestSlice;
use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;

use crate::device::block::disk::{Access, Cache, Disk};
use crate::device::block::raw::{Bounce, Raw, exact};
use crate::device::block::slices;

/// Bytes at offsets; behind the end there are zeroes, and writing there makes it longer.
pub(super) trait Storage: Send {
    /// How long it is.
    fn bytes(&self) -> Result<u64, Errno>;

    /// Reads metadata.
    fn read(&mut self, into: &mut [u8], offset: u64) -> Result<(), Errno>;

    /// Writes metadata.
    fn write(&mut self, bytes: &[u8], offset: u64) -> Result<(), Errno>;

    /// Reads content into the guest's memory.
    fn read_guest(&mut self, into: &[GuestSlice<'_>], offset: u64) -> Result<(), Errno>;

    /// Reads content that the host has in memory.
    ///
    /// # Errors
    /// `EAGAIN` if it has not.
    fn read_cached(&mut self, into: &[GuestSlice<'_>], offset: u64) -> Result<(), Errno>;

    /// Writes content from the guest's memory.
    fn write_guest(&mut self, bytes: &[GuestSlice<'_>], offset: u64) -> Result<(), Errno>;

    /// Makes everything written last. What is written later is on the disk later.
    fn sync(&mut self) -> Result<(), Errno>;

    /// Gives the room of a range back where the host can.
    fn punch(&mut self, offset: u64, length: u64);
}

/// A file of the host.
#[derive(Debug)]
pub(super) struct HostFile {
    raw: Raw,
    file: Arc<File>,
    cache: Cache,
}

impl HostFile {
    pub(super) fn new(file: File, access: Access, cache: Cache) -> Self {
        let file = Arc::new(file);
        Self { raw: Raw::over(Arc::clone(&file), access, cache), file, cache }
    }
}

impl Storage for HostFile {
    fn bytes(&self) -> Result<u64, Errno> {
        // A block device has no size of its own in its status.
        rustix::fs::seek(&self.file, rustix::fs::SeekFrom::End(0))
    }

    fn read(&mut self, into: &mut [u8], offset: u64) -> Result<(), Errno> {
        let call = |bytes: &mut [u8], offset| match rustix::io::pread(&self.file, &mut *bytes, offset) {
            Ok(0) => {
                bytes.fill(0);
                Ok(bytes.len())
            }
            other => other,
        };
        if self.cache == Cache::Host {
            return exact(into, offset, call);
        }
        let mut bounce = Bounce::of(into.len());
        exact(bounce.bytes(), offset, call)?;
        into.copy_from_slice(bounce.bytes());
        Ok(())
    }

    fn write(&mut self, bytes: &[u8], offset: u64) -> Result<(), Errno> {
        let mut bounce = Bounce::of(bytes.len());
        bounce.bytes().copy_from_slice(bytes);
        exact(bounce.bytes(), offset, |bytes, offset| rustix::io::pwrite(&self.file, bytes, offset))
    }

    fn read_guest(&mut self, into: &[GuestSlice<'_>], offset: u64) -> Result<(), Errno> {
        match self.raw.read(into, offset) {
            // The file ends inside: in a cluster that was written only in part.
            Err(Errno::IO) => {
                let mut bytes = vec![0; slices::length(into)];
                self.read(&mut bytes, offset)?;
                slices::fill(into, &bytes);
                Ok(())
            }
            other => other,
        }
    }

    fn read_cached(&mut self, into: &[GuestSlice<'_>], offset: u64) -> Result<(), Errno> {
        self.raw.read_at_once(into, offset)
    }

    fn write_guest(&mut self, bytes: &[GuestSlice<'_>], offset: u64) -> Result<(), Errno> {
        self.raw.write(bytes, offset)
    }

    fn sync(&mut self) -> Result<(), Errno> {
        self.raw.flush()
    }

    fn punch(&mut self, offset: u64, length: u64) {
        // The host's file system may be unable to; then the room is used again later.
        let _kept = fallocate(&self.file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, offset, length);
    }
}
