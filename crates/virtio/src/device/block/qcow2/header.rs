//! An image's header, and whether it can be trusted.
//!
//! ```text
//!  0 magic      4 version        8 backing name: offset u64, 16 length u32    20 cluster bits    24 size u64
//! 32 encryption 36 first table: entries u32, 40 offset u64                    48 reference table: offset u64, 56 clusters u32
//! 60 snapshots: count u32, 64 offset u64
//! version 3: 72 incompatible u64, 80 compatible u64, 88 autoclear u64, 96 bits of a count as a power of two, 100 header's length, 104 compression
//! then extensions: type u32, length u32, padded to 8
//! ```

use rustix::io::Errno;

use super::storage::Storage;
use crate::device::block::disk::Access;

pub(super) const MAGIC: [u8; 4] = *b"QFI\xfb";
/// Where the reference table's place stands.
pub(super) const REFERENCES: u64 = 48;
/// Where the features stand that a writer has to take off if it does not know them.
pub(super) const AUTOCLEAR: u64 = 88;
const SHORTEST: usize = 72;
const BYTES: usize = 112;
const BACKING_FORMAT: u32 = 0xe279_2aca;
/// The largest tables, as QEMU has them.
const MOST_FIRST: u64 = (32 << 20) / 8;
const MOST_REFERENCES: u64 = 8 << 20;
const LONGEST_NAME: u32 = 1023;

const DIRTY: u64 = 1;
const CORRUPT: u64 = 2;
const EXTERNAL_DATA: u64 = 4;
const COMPRESSION: u64 = 8;

/// Why an image is not used.
#[derive(Debug, thiserror::Error)]
pub(super) enum ImageError {
    #[error("its header can't be read")]
    Read(#[from] Errno),
    #[error("it does not begin as a qcow2 image does")]
    Magic,
    #[error("its version is {0}, not 2 or 3")]
    Version(u32),
    #[error("{0} in its header is out of range")]
    Range(&'static str),
    #[error("it was cut off: its tables lie behind the end of the file, which has {0} bytes; take a whole copy")]
    Cut(u64),
    #[error("its {0} lie over each other; look it over with: qemu-img check")]
    Overlap(&'static str),
    #[error(
        "it was not closed in order, so its reference counts can't be trusted; mend it with: qemu-img check -r all"
    )]
    Dirty,
    #[error("it is marked as corrupt; mend it with: qemu-img check -r all")]
    Corrupt,
    #[error("it keeps its content in another file; convert it with: qemu-img convert")]
    ExternalData,
    #[error("it is encrypted; convert it with: qemu-img convert")]
    Encrypted,
    #[error("it uses features {0:#x} that are not known here; convert it with: qemu-img convert -o compat=1.1")]
    Features(u64),
    #[error(
        "it stands upon {0:?} without saying in which format that is; say so with: qemu-img rebase -u -F raw|qcow2"
    )]
    BackingFormat(String),
    #[error("it stands upon {name:?}")]
    Backing {
        name: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("it stands upon itself, or upon more than {0} others")]
    Depth(usize),
}

/// How clusters are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compression {
    Deflate,
    Zstd,
}

/// What an image names as the one below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Named {
    pub(super) name: String,
    pub(super) format: Option<String>,
}

/// What the header says, looked over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) version: u32,
    pub(super) cluster_bits: u32,
    pub(super) size: u64,
    pub(super) first_offset: u64,
    pub(super) first_entries: usize,
    pub(super) references_offset: u64,
    pub(super) references_clusters: u64,
    /// Bits of a reference count as a power of two.
    pub(super) count_order: u32,
    pub(super) autoclear: u64,
    pub(super) compression: Compression,
    pub(super) backing: Option<Named>,
}

fn word(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_be_bytes)
}

fn double(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_be_bytes)
}

impl Header {
    pub(super) fn read(storage: &mut dyn Storage, access: Access) -> Result<Self, ImageError> {
        let mut bytes = [0; 512];
        storage.read(&mut bytes, 0)?;
        let fixed = &bytes[..BYTES];
        if fixed[..4] != MAGIC || storage.bytes()? < SHORTEST as u64 {
            return Err(ImageError::Magic);
        }
        let version = word(fixed, 4);
        let (features, autoclear, count_order, length) = match version {
            2 => (0, 0, 4, SHORTEST as u32),
            3 => (double(fixed, 72), double(fixed, 88), word(fixed, 96), word(fixed, 100)),
            other => return Err(ImageError::Version(other)),
        };
        let compression = match fixed[104] {
            1 if features & COMPRESSION != 0 => Compression::Zstd,
            0 => Compression::Deflate,
            _ if features & COMPRESSION == 0 => Compression::Deflate,
            _ => return Err(ImageError::Range("the compression")),
        };
        check_features(features, access)?;
        let mut header = Self {
            version,
            cluster_bits: word(fixed, 20),
            size: double(fixed, 24),
            first_offset: double(fixed, 40),
            first_entries: word(fixed, 36) as usize,
            references_offset: double(fixed, 48),
            references_clusters: word(fixed, 56).into(),
            count_order,
            autoclear,
            compression,
            backing: None,
        };
        if word(fixed, 32) != 0 {
            return Err(ImageError::Encrypted);
        }
        header.check(length)?;
        let end = storage.bytes()?;
        if header.first_offset + header.first_entries as u64 * 8 > end || header.references_offset >= end {
            return Err(ImageError::Cut(end));
        }
        header.backing = header.named(storage, double(fixed, 8), word(fixed, 16), length)?;
        Ok(header)
    }

    pub(super) fn cluster(&self) -> u64 {
        1 << self.cluster_bits
    }

    fn check(&self, length: u32) -> Result<(), ImageError> {
        if !(9..=21).contains(&self.cluster_bits) {
            return Err(ImageError::Range("the size of clusters"));
        }
        let cluster = self.cluster();
        let aligned = |offset: u64| offset.is_multiple_of(cluster) && offset > 0 && offset < 1 << 56;
        let covered = (cluster / 8).saturating_mul(cluster);
        let tables = self.size.div_ceil(covered);
        let entries = self.first_entries as u64;
        if entries > MOST_FIRST || entries < tables {
            return Err(ImageError::Range("the count of tables"));
        }
        if !aligned(self.first_offset) || !aligned(self.references_offset) {
            return Err(ImageError::Range("a table's place"));
        }
        let references = self.references_clusters * cluster;
        if references == 0 || references > MOST_REFERENCES.max(cluster) || self.count_order > 6 {
            return Err(ImageError::Range("the table of references"));
        }
        if length < SHORTEST as u32 || u64::from(length) > cluster {
            return Err(ImageError::Range("the header's length"));
        }
        let first = self.first_offset..self.first_offset + entries * 8;
        let counts = self.references_offset..self.references_offset + references;
        if first.start < counts.end && counts.start < first.end {
            return Err(ImageError::Overlap("tables"));
        }
        Ok(())
    }

    /// What it stands upon; name and extensions lie in the first cluster.
    fn named(
        &self,
        storage: &mut dyn Storage,
        offset: u64,
        length: u32,
        header: u32,
    ) -> Result<Option<Named>, ImageError> {
        if offset == 0 || length == 0 {
            return Ok(None);
        }
        let end = offset.checked_add(length.into()).filter(|end| length <= LONGEST_NAME && *end <= self.cluster());
        let end = end.ok_or(ImageError::Range("the name of the image below"))?;
        let mut bytes = vec![0; usize::try_from(end).unwrap_or(0)];
        storage.read(&mut bytes, 0)?;
        let start = usize::try_from(offset).unwrap_or(0);
        let name = String::from_utf8_lossy(&bytes[start..]).into_owned();
        let (mut at, mut format) = (header as usize, None);
        loop {
            let (kind, size) = (word(&bytes, at), word(&bytes, at + 4) as usize);
            let content = at + 8;
            if kind == 0 || content + size > bytes.len() {
                break;
            }
            if kind == BACKING_FORMAT {
                format = Some(String::from_utf8_lossy(&bytes[content..content + size]).into_owned());
            }
            at = content + size.next_multiple_of(8);
        }
        Ok(Some(Named { name, format }))
    }
}

fn check_features(features: u64, access: Access) -> Result<(), ImageError> {
    let unknown = features & !(DIRTY | CORRUPT | EXTERNAL_DATA | COMPRESSION);
    let writing = access == Access::ReadWrite;
    match features {
        _ if unknown != 0 => Err(ImageError::Features(unknown)),
        _ if features & EXTERNAL_DATA != 0 => Err(ImageError::ExternalData),
        _ if features & CORRUPT != 0 && writing => Err(ImageError::Corrupt),
        _ if features & DIRTY != 0 && writing => Err(ImageError::Dirty),
        _ => Ok(()),
    }
}
