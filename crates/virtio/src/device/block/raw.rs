//! A disk that is a file, or a block device of the host, byte for byte.

use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::sync::Arc;

use hv::vectored::{self, GuestSlice};
use rustix::fs::{FallocateFlags, FlockOperation, OFlags, fallocate, flock};
use rustix::io::Errno;

use super::disk::{Access, Cache, Disk, DiskError, SECTOR, Zeroes};
use super::slices;

/// What is written at once where the host has no call for zeroes.
const ZEROES: usize = 64 << 10;
/// Alignment that every `O_DIRECT` file takes.
const DIRECT_ALIGNMENT: u64 = 4096;

/// The disk.
#[derive(Debug)]
pub struct Raw {
    file: Arc<File>,
    bytes: u64,
    access: Access,
    cache: Cache,
}

impl Raw {
    /// Opens and locks a disk.
    ///
    /// # Errors
    /// It can't be opened, is in use by another machine, or is no disk.
    pub fn open(path: &Path, access: Access, cache: Cache) -> Result<Self, DiskError> {
        let mut file = open_locked(path, access, cache)?;
        let bytes = size_of(path, &mut file)?;
        Ok(Self { file: Arc::new(file), bytes, access, cache })
    }

    /// The bytes of an open file that is something else as well; its size is for the caller to mind.
    pub(super) fn over(file: Arc<File>, access: Access, cache: Cache) -> Self {
        Self { file, bytes: 0, access, cache }
    }

    /// Whether the guest's buffers can go to an `O_DIRECT` file as they are.
    fn fits(&self, slices: &[GuestSlice<'_>]) -> bool {
        self.cache == Cache::Host
            || slices.iter().all(|slice| {
                let address = slice.ptr_guard().as_ptr() as u64;
                address.is_multiple_of(SECTOR) && (slice.len() as u64).is_multiple_of(SECTOR)
            })
    }
}

/// Opens and locks a file: exclusively for writing, shared for reading. The lock ends with the descriptor.
pub(super) fn open_locked(path: &Path, access: Access, cache: Cache) -> Result<File, DiskError> {
    let flags = if cache == Cache::Direct { OFlags::DIRECT } else { OFlags::empty() };
    let mode = if access == Access::ReadWrite { OFlags::RDWR } else { OFlags::RDONLY };
    // A FIFO must not hold the machine up before it is refused.
    let file = sys::handed::open(path, mode | flags | OFlags::NONBLOCK)
        .map_err(|source| DiskError::Open { path: path.into(), source })?;
    let kind = file.metadata().map_err(|source| DiskError::Open { path: path.into(), source })?.file_type();
    if !kind.is_file() && !kind.is_block_device() {
        return Err(DiskError::Type { path: path.into() });
    }
    let lock = match access {
        Access::ReadOnly => FlockOperation::NonBlockingLockShared,
        Access::ReadWrite => FlockOperation::NonBlockingLockExclusive,
    };
    match flock(&file, lock) {
        Ok(()) => Ok(file),
        Err(Errno::WOULDBLOCK) => Err(DiskError::Locked { path: path.into() }),
        Err(errno) => Err(DiskError::Open { path: path.into(), source: errno.into() }),
    }
}

fn size_of(path: &Path, file: &mut File) -> Result<u64, DiskError> {
    let bytes = file.seek(SeekFrom::End(0)).map_err(|source| DiskError::Open { path: path.into(), source })?;
    if bytes == 0 || !bytes.is_multiple_of(SECTOR) {
        return Err(DiskError::Size { path: path.into(), bytes });
    }
    Ok(bytes)
}

/// Goes on with a call until all of `slices` are done; a file's end inside is an error.
fn whole(
    slices: &[GuestSlice<'_>],
    mut offset: u64,
    mut call: impl FnMut(&[GuestSlice<'_>], u64) -> Result<usize, Errno>,
) -> Result<(), Errno> {
    let mut left = slices.to_vec();
    while !left.is_empty() {
        let mut done = match call(&left, offset) {
            Ok(0) => return Err(Errno::IO),
            Err(Errno::INTR) => continue,
            other => other?,
        };
        offset += done as u64;
        let past = left.iter().take_while(|slice| {
            let whole = done >= slice.len() && done > 0;
            done -= if whole { slice.len() } else { 0 };
            whole
        });
        let past = past.count();
        left.drain(..past);
        if done > 0
            && let Some(first) = left.first_mut()
        {
            *first = first.offset(done).map_err(|_| Errno::FAULT)?;
        }
    }
    Ok(())
}

impl Disk for Raw {
    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn access(&self) -> Access {
        self.access
    }

    fn read(&mut self, slices: &[GuestSlice<'_>], offset: u64) -> Result<(), Errno> {
        if !self.fits(slices) {
            let mut bounce = Bounce::new(slices);
            exact(bounce.bytes(), offset, |bytes, offset| rustix::io::pread(&self.file, bytes, offset))?;
            slices::fill(slices, bounce.bytes());
            return Ok(());
        }
        whole(slices, offset, |slices, offset| vectored::read_at(&self.file, slices, offset))
    }

    fn read_at_once(&mut self, slices: &[GuestSlice<'_>], offset: u64) -> Result<(), Errno> {
        if self.cache != Cache::Host {
            return Err(Errno::AGAIN);
        }
        let wanted = slices::length(slices);
        match vectored::read_cached_at(&self.file, slices, offset) {
            Ok(done) if done == wanted => Ok(()),
            // The rest is not there, or the file system can't say; what was read is read again.
            _ => Err(Errno::AGAIN),
        }
    }

    fn write_at_once(&mut self, slices: &[GuestSlice<'_>], offset: u64) -> Result<(), Errno> {
        if self.cache == Cache::Host { self.write(slices, offset) } else { Err(Errno::AGAIN) }
    }

    fn write(&mut self, slices: &[GuestSlice<'_>], offset: u64) -> Result<(), Errno> {
        if !self.fits(slices) {
            let mut bounce = Bounce::new(slices);
            slices::copy(slices, bounce.bytes());
            return exact(bounce.bytes(), offset, |bytes, offset| rustix::io::pwrite(&self.file, bytes, offset));
        }
        whole(slices, offset, |slices, offset| vectored::write_at(&self.file, slices, offset))
    }

    fn flush(&mut self) -> Result<(), Errno> {
        rustix::fs::fdatasync(&self.file)
    }

    fn discard(&mut self, offset: u64, length: u64) -> Result<(), Errno> {
        match fallocate(&self.file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, offset, length) {
            // Advice that the host's file system can't follow.
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
            other => other,
        }
    }

    fn write_zeroes(&mut self, offset: u64, length: u64, below: Zeroes) -> Result<(), Errno> {
        let flags = match below {
            Zeroes::Keep => FallocateFlags::ZERO_RANGE,
            Zeroes::Free => FallocateFlags::PUNCH_HOLE,
        };
        match fallocate(&self.file, flags | FallocateFlags::KEEP_SIZE, offset, length) {
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => self.write_zeroes_by_hand(offset, length),
            other => other,
        }
    }
}

impl Raw {
    fn write_zeroes_by_hand(&mut self, mut offset: u64, mut length: u64) -> Result<(), Errno> {
        let mut bounce = Bounce::of(ZEROES);
        while length > 0 {
            let piece = length.min(ZEROES as u64);
            let bytes = &mut bounce.bytes()[..usize::try_from(piece).unwrap_or(0)];
            exact(bytes, offset, |bytes, offset| rustix::io::pwrite(&self.file, bytes, offset))?;
            (offset, length) = (offset + piece, length - piece);
        }
        Ok(())
    }
}

/// Goes on with a call until all of `bytes` are done.
pub(super) fn exact(
    mut bytes: &mut [u8],
    mut offset: u64,
    mut call: impl FnMut(&mut [u8], u64) -> Result<usize, Errno>,
) -> Result<(), Errno> {
    while !bytes.is_empty() {
        match call(bytes, offset) {
            Ok(0) => return Err(Errno::IO),
            Ok(done) => {
                offset += done as u64;
                bytes = &mut bytes[done..];
            }
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// Bytes at an address that `O_DIRECT` takes.
pub(super) struct Bounce {
    room: Vec<u8>,
    start: usize,
    length: usize,
}

impl Bounce {
    fn new(slices: &[GuestSlice<'_>]) -> Self {
        Self::of(slices::length(slices))
    }

    pub(super) fn of(length: usize) -> Self {
        let alignment = usize::try_from(DIRECT_ALIGNMENT).unwrap_or(usize::MAX);
        let room = vec![0; length + alignment];
        let address = room.as_ptr() as usize;
        Self { start: address.next_multiple_of(alignment) - address, room, length }
    }

    pub(super) fn bytes(&mut self) -> &mut [u8] {
        &mut self.room[self.start..self.start + self.length]
    }
}
