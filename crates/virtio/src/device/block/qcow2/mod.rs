//! A disk in a qcow2 image: it grows as it is written, and may stand upon another image.
//!
//! ```text
//! Qcow2 (the block device's disk) -> image::Image  -> tables: where the guest's clusters are
//!                                                  -> counts: which clusters of the file are free
//!                                                  -> storage: the file
//!                                                  -> Below:  the image that it stands upon
//! ```
//!
//! An image may come from a stranger: every number in it is looked at before it is used, and the tables are never written over by
//! content. Internal snapshots stay as they are: what they share is copied before it is changed.
//!
//! # Source
//! QEMU's docs/interop/qcow2.txt.

mod compressed;
mod counts;
mod header;
mod image;
mod storage;
mod tables;
#[cfg(test)]
mod tests;

use std::io;
use std::path::Path;

use hv::vectored::GuestSlice;
use rustix::io::Errno;

use super::disk::{Access, Cache, Disk, DiskError, SECTOR, Zeroes};
use super::raw::open_locked;
use super::slices;
use header::{ImageError, Named};
use image::{Image, Source};
use storage::{HostFile, Storage};

const FORMAT: &str = "qcow2";
/// Images upon each other.
const MOST_BELOW: usize = 64;

/// Whether an image may open the images that it names itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Backing {
    /// No: an image from somebody else could name any file of the host.
    Refused,
    /// Yes: the image is trusted. Those below are opened read-only.
    Opened,
}

/// What an image stands upon: only read, and perhaps shorter.
enum Below {
    Raw(HostFile, u64),
    Image(Box<Image>),
}

impl Below {
    fn read(&mut self, into: &[GuestSlice<'_>], offset: u64) -> Result<(), Errno> {
        let (end, length) = (self.bytes(), slices::length(into));
        let there = usize::try_from(end.saturating_sub(offset)).unwrap_or(usize::MAX).min(length);
        let here = slices::part(into, 0, there);
        slices::clear(&slices::part(into, there, length - there));
        match self {
            _ if there == 0 => Ok(()),
            Self::Raw(file, _) => file.read_guest(&here, offset),
            Self::Image(image) => image.read(&here, offset),
        }
    }

    fn read_bytes(&mut self, into: &mut [u8], offset: u64) -> Result<(), Errno> {
        match self {
            Self::Raw(file, _) => file.read(into, offset),
            Self::Image(image) => image.read_below(into, offset),
        }
    }

    fn bytes(&self) -> u64 {
        match self {
            Self::Raw(_, bytes) => *bytes,
            Self::Image(image) => image.header().size,
        }
    }
}

/// The disk.
pub struct Qcow2 {
    image: Image,
    access: Access,
    cache: Cache,
}

impl std::fmt::Debug for Qcow2 {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Qcow2").field("access", &self.access).finish_non_exhaustive()
    }
}

fn malformed(path: &Path) -> impl Fn(ImageError) -> DiskError {
    let path = path.to_owned();
    move |error| {
        let source = io::Error::new(io::ErrorKind::InvalidData, error);
        DiskError::Format { path: path.clone(), format: FORMAT, source }
    }
}

impl Qcow2 {
    /// Opens and locks an image.
    ///
    /// # Errors
    /// It can't be opened, is in use by another machine, is malformed, or stands upon another image and may not.
    pub fn open(path: &Path, access: Access, cache: Cache, backing: Backing) -> Result<Self, DiskError> {
        let image = open_chain(path, access, cache, backing, 0)?;
        let bytes = image.header().size;
        if bytes == 0 || !bytes.is_multiple_of(SECTOR) {
            return Err(DiskError::Size { path: path.into(), bytes });
        }
        Ok(Self { image, access, cache })
    }

    /// An image in something that need not be a file.
    #[cfg(test)]
    fn over(storage: Box<dyn Storage>) -> Result<Self, ImageError> {
        Ok(Self { image: Image::open(storage, Access::ReadWrite)?, access: Access::ReadWrite, cache: Cache::Host })
    }
}

/// An image with all that it stands upon; `above` are those that stand upon it.
fn open_chain(path: &Path, access: Access, cache: Cache, backing: Backing, above: usize) -> Result<Image, DiskError> {
    let file = open_locked(path, access, cache)?;
    let storage: Box<dyn Storage> = Box::new(HostFile::new(file, access, cache));
    let mut image = Image::open(storage, access).map_err(malformed(path))?;
    if let Some(named) = image.header().backing.clone() {
        if backing == Backing::Refused {
            return Err(DiskError::Backing { path: path.into(), backing: named.name });
        }
        if above >= MOST_BELOW {
            return Err(malformed(path)(ImageError::Depth(MOST_BELOW)));
        }
        let below = open_below(path, &named, cache, above + 1);
        let below = below.map_err(|source| ImageError::Backing { name: named.name, source: Box::new(source) });
        image.set_below(below.map_err(malformed(path))?);
    }
    Ok(image)
}

fn open_below(path: &Path, named: &Named, cache: Cache, above: usize) -> Result<Below, DiskError> {
    // A name is meant from where the image is.
    let below = path.parent().unwrap_or(Path::new("")).join(&named.name);
    match named.format.as_deref() {
        Some("raw") => {
            let file = open_locked(&below, Access::ReadOnly, cache)?;
            let file = HostFile::new(file, Access::ReadOnly, cache);
            let bytes = file.bytes().map_err(|errno| DiskError::Open { path: below, source: errno.into() })?;
            Ok(Below::Raw(file, bytes))
        }
        Some(FORMAT) => {
            let image = open_chain(&below, Access::ReadOnly, cache, Backing::Opened, above)?;
            Ok(Below::Image(Box::new(image)))
        }
        _ => Err(malformed(path)(ImageError::BackingFormat(named.name.clone()))),
    }
}

impl Disk for Qcow2 {
    fn bytes(&self) -> u64 {
        self.image.header().size
    }

    fn access(&self) -> Access {
        self.access
    }

    fn read(&mut self, slices: &[GuestSlice<'_>], offset: u64) -> Result<(), Errno> {
        self.image.read(slices, offset)
    }

    fn read_at_once(&mut self, slices: &[GuestSlice<'_>], offset: u64) -> Result<(), Errno> {
        if self.cache == Cache::Host { self.image.read_at_once(slices, offset) } else { Err(Errno::AGAIN) }
    }

    fn write(&mut self, slices: &[GuestSlice<'_>], offset: u64) -> Result<(), Errno> {
        self.image.write(Source::Guest(slices), offset)
    }

    fn write_at_once(&mut self, slices: &[GuestSlice<'_>], offset: u64) -> Result<(), Errno> {
        let length = slices::length(slices) as u64;
        if self.cache == Cache::Host && self.image.is_in_place(offset, length) {
            self.image.write(Source::Guest(slices), offset)
        } else {
            Err(Errno::AGAIN)
        }
    }

    fn flush(&mut self) -> Result<(), Errno> {
        self.image.flush()
    }

    fn discard(&mut self, offset: u64, length: u64) -> Result<(), Errno> {
        self.image.discard(offset, length)
    }

    fn write_zeroes(&mut self, offset: u64, length: u64, below: Zeroes) -> Result<(), Errno> {
        self.image.write_zeroes(offset, length, below)
    }
}
