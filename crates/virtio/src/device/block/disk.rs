//! What a block device asks of its disk, whatever the format of the file.

use std::io;
use std::path::PathBuf;

use hv::vectored::GuestSlice;
use rustix::io::Errno;

/// The unit of addresses, bytes.
pub const SECTOR: u64 = 512;

/// Whether a disk may be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Access {
    /// Read only; several machines may share it.
    ReadOnly,
    /// Read and written, by one machine at a time.
    ReadWrite,
}

/// Whether the host's page cache stands between the guest and the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cache {
    /// The host caches.
    #[default]
    Host,
    /// The host does not cache (`O_DIRECT`); buffers the guest does not align are copied.
    Direct,
}

/// What becomes of the room below zeroes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Zeroes {
    /// It stays allocated.
    Keep,
    /// It may be given back.
    Free,
}

/// A disk that a device can use. Offsets and lengths are in bytes, whole sectors, and inside the disk.
pub trait Disk: Send {
    /// The disk's size in bytes, a multiple of [`SECTOR`].
    fn bytes(&self) -> u64;

    /// Whether it may be written.
    fn access(&self) -> Access;

    /// Fills guest memory from the disk.
    ///
    /// # Errors
    /// The host can't read it.
    fn read(&mut self, slices: &[GuestSlice<'_>], offset: u64) -> Result<(), Errno>;

    /// Fills guest memory from what the host has in memory already, without waiting for the disk.
    ///
    /// # Errors
    /// `EAGAIN` if it has not; otherwise as [`Disk::read`].
    fn read_at_once(&mut self, _slices: &[GuestSlice<'_>], _offset: u64) -> Result<(), Errno> {
        Err(Errno::AGAIN)
    }

    /// Writes guest memory to the disk.
    ///
    /// # Errors
    /// The host can't write it.
    fn write(&mut self, slices: &[GuestSlice<'_>], offset: u64) -> Result<(), Errno>;

    /// Writes guest memory to the disk if that goes to the host's memory only, so that it seldom waits.
    ///
    /// # Errors
    /// `EAGAIN` if it does not; otherwise as [`Disk::write`].
    fn write_at_once(&mut self, _slices: &[GuestSlice<'_>], _offset: u64) -> Result<(), Errno> {
        Err(Errno::AGAIN)
    }

    /// Makes what was written last.
    ///
    /// # Errors
    /// Something written earlier is lost.
    fn flush(&mut self) -> Result<(), Errno>;

    /// Forgets a range; it may read as anything afterwards.
    ///
    /// # Errors
    /// The host can't do it.
    fn discard(&mut self, offset: u64, length: u64) -> Result<(), Errno>;

    /// Makes a range read as zeroes.
    ///
    /// # Errors
    /// The host can't do it.
    fn write_zeroes(&mut self, offset: u64, length: u64, below: Zeroes) -> Result<(), Errno>;
}

/// A disk that can't be used.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// It can't be opened.
    #[error("cannot open the disk {}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Another machine uses it.
    #[error("the disk {} is in use by another machine; stop that one, or give both the disk read-only", path.display())]
    Locked {
        /// The file.
        path: PathBuf,
    },
    /// It is neither a file nor a block device.
    #[error("{} is no disk: give a file or a block device", path.display())]
    Type {
        /// The file.
        path: PathBuf,
    },
    /// Its size is not a whole number of sectors.
    #[error("the disk {} has {bytes} bytes, not a multiple of 512; pad it with: truncate -s %512 {}", path.display(), path.display())]
    Size {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
    },
    /// The image is malformed.
    #[error("the disk {} is not a usable {format} image", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What it was taken for.
        format: &'static str,
        /// What is wrong.
        source: io::Error,
    },
    /// The image stands upon another one, which was not allowed.
    #[error("the disk {} stands upon {backing:?}, which it may not open by itself; say that it may, or convert it to one file", path.display())]
    Backing {
        /// The file.
        path: PathBuf,
        /// What it names.
        backing: String,
    },
}
