//! A disk in a qcow2 image: it grows as it is written, and may stand upon another image.
//!
//! # Source
//! QEMU's docs/interop/qcow2.txt; read and written by the crate imago.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use hv::vectored::GuestSlice;
use imago::file::File as Storage;
use imago::qcow2::Qcow2 as Image;
use imago::{FormatAccess, FormatDriverBuilder, PermissiveImplicitOpenGate, StorageOpenOptions};
use rustix::io::Errno;

use crate::device::block::disk::{Access, Cache, Disk, DiskError, SECTOR, Zeroes};
use crate::device::block::raw::open_locked;

const FORMAT: &str = "qcow2";

/// Whether an image may open the images that it names itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Backing {
    /// No: an image from somebody else could name any file of the host.
    Refused,
    /// Yes: the image is trusted. Those below are opened read-only.
    Opened,
}

/// The disk.
#[derive(Debug)]
pub struct Qcow2 {
    image: FormatAccess<Storage>,
    access: Access,
}

impl Qcow2 {
    /// Opens and locks an image.
    ///
    /// # Errors
    /// It can't be opened, is in use by another machine, is malformed, or stands upon another image and may not.
    pub fn open(path: &Path, access: Access, cache: Cache, backing: Backing) -> Result<Self, DiskError> {
        let file = open_locked(path, access, cache)?;
        let write = access == Access::ReadWrite;
        let options = StorageOpenOptions::new().filename(path).write(write).direct(cache == Cache::Direct);
        let malformed = |source| DiskError::Format { path: path.into(), format: FORMAT, source };
        let storage = Storage::from_open_file(file, options).map_err(malformed)?;
        let opened = whole(|| match backing {
            Backing::Opened => {
                Image::<Storage>::builder(storage).write(write).open(PermissiveImplicitOpenGate::default())
            }
            Backing::Refused => {
                let image = Image::<Storage>::open_image(storage, write)?;
                let named = image.implicit_backing_file().or_else(|| image.implicit_external_data_file());
                match named.cloned() {
                    Some(named) => Err(io::Error::new(io::ErrorKind::PermissionDenied, named)),
                    None => Ok(image),
                }
            }
        });
        let image = match (opened, backing) {
            (Ok(image), _) => FormatAccess::new(image),
            (Err(error), Backing::Refused) if error.kind() == io::ErrorKind::PermissionDenied => {
                return Err(DiskError::Backing { path: path.into(), backing: error.to_string() });
            }
            (Err(error), _) => return Err(malformed(error)),
        };
        let bytes = image.size();
        if bytes == 0 || !bytes.is_multiple_of(SECTOR) {
            return Err(DiskError::Size { path: path.into(), bytes });
        }
        Ok(Self { image, access })
    }
}

/// Nothing in an image may take the machine down, not even where the reader of images gives up.
fn whole<T>(work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let outcome = catch_unwind(AssertUnwindSafe(work));
    outcome.unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::InvalidData, "its tables contradict each other")))
}

fn errno(error: io::Error) -> Errno {
    tracing::warn!(error = &error as &dyn std::error::Error, "a qcow2 image fails");
    Errno::from_io_error(&error).unwrap_or(Errno::IO)
}

fn length_of(slices: &[GuestSlice<'_>]) -> usize {
    slices.iter().map(|slice| slice.len()).sum()
}

impl Disk for Qcow2 {
    fn bytes(&self) -> u64 {
        self.image.size()
    }

    fn access(&self) -> Access {
        self.access
    }

    fn read(&mut self, slices: &[GuestSlice<'_>], offset: u64) -> Result<(), Errno> {
        let mut bytes = vec![0; length_of(slices)];
        whole(|| self.image.read(&mut bytes, offset)).map_err(errno)?;
        let mut rest = &bytes[..];
        for slice in slices {
            let (here, behind) = rest.split_at(slice.len());
            slice.copy_from(here);
            rest = behind;
        }
        Ok(())
    }

    fn write(&mut self, slices: &[GuestSlice<'_>], offset: u64) -> Result<(), Errno> {
        let mut bytes = vec![0; length_of(slices)];
        let mut rest = &mut bytes[..];
        for slice in slices {
            let (here, behind) = rest.split_at_mut(slice.len());
            slice.copy_to(here);
            rest = behind;
        }
        whole(|| self.image.write(&bytes, offset)).map_err(errno)
    }

    fn flush(&mut self) -> Result<(), Errno> {
        whole(|| {
            self.image.flush()?;
            self.image.sync()
        })
        .map_err(errno)
    }

    fn discard(&mut self, offset: u64, length: u64) -> Result<(), Errno> {
        // Clusters that are only partly inside stay.
        match whole(|| self.image.discard_to_any(offset, length)) {
            Err(error) if error.kind() == io::ErrorKind::Unsupported => Ok(()),
            other => other.map_err(errno),
        }
    }

    fn write_zeroes(&mut self, offset: u64, length: u64, below: Zeroes) -> Result<(), Errno> {
        whole(|| match below {
            Zeroes::Keep => self.image.write_zeroes(offset, length),
            Zeroes::Free => self.image.discard_to_zero(offset, length),
        })
        .map_err(errno)
    }
}

#[cfg(test)]
mod tests;
