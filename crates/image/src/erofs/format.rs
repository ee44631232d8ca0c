//! EROFS on disk: constants and the encoders of its structures, all little-endian.
//!
//! ```text
//! block 0        1024 bytes unused, superblock (128 bytes), rest zero
//! data           contents of files, block aligned, in the order of the archive
//! directories    whole directory blocks
//! shared xattrs  attributes that more than one inode has, each once
//! metadata       inodes: header | xattr body | chunk map or inline tail; numbered in 32-byte slots
//! ```
//!
//! # Source
//! `fs/erofs/erofs_fs.h` of Linux and its `Documentation/filesystems/erofs.rst`.

use crate::tree::{DeviceKind, Stat, Time};

pub(crate) const BLOCK_BITS: u8 = 12;
pub(crate) const BLOCK: usize = 1 << BLOCK_BITS;
pub(crate) const BLOCK_U64: u64 = BLOCK as u64;
pub(crate) const SLOT: u64 = 32;
pub(crate) const SUPER_OFFSET: usize = 1024;
pub(crate) const MAGIC: u32 = 0xe0f5_e1e2;

const COMPAT_SUPER_CHECKSUM: u32 = 0x1;
const COMPAT_MTIME: u32 = 0x2;
const INCOMPAT_CHUNKED_FILE: u32 = 0x4;

pub(crate) const COMPACT_INODE: usize = 32;
pub(crate) const EXTENDED_INODE: usize = 64;
pub(crate) const XATTR_HEADER: usize = 12;
/// A chunk that is a hole.
pub(crate) const NULL_BLOCK: u32 = u32::MAX;
pub(crate) const DIRENT: usize = 12;

/// Where an inode's contents are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub(crate) enum Layout {
    /// Consecutive blocks.
    Plain = 0,
    /// Consecutive blocks, and the rest behind the inode.
    Inline = 2,
    /// A map of blocks, chunk by chunk, with holes.
    Chunks = 4,
}

/// `S_IFMT` values.
pub(crate) mod mode {
    pub(crate) const FIFO: u16 = 0o010_000;
    pub(crate) const CHARACTER: u16 = 0o020_000;
    pub(crate) const DIRECTORY: u16 = 0o040_000;
    pub(crate) const BLOCK: u16 = 0o060_000;
    pub(crate) const REGULAR: u16 = 0o100_000;
    pub(crate) const SYMLINK: u16 = 0o120_000;
    pub(crate) const SOCKET: u16 = 0o140_000;
}

/// What the superblock says.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Superblock {
    pub(crate) root_slot: u16,
    pub(crate) inodes: u64,
    pub(crate) build_time: Time,
    pub(crate) blocks: u32,
    pub(crate) metadata_block: u32,
    pub(crate) xattr_block: u32,
    pub(crate) uuid: [u8; 16],
    pub(crate) chunked: bool,
}

impl Superblock {
    /// Block 0 with the checksum filled in.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut block = vec![0_u8; BLOCK];
        let incompatible = if self.chunked { INCOMPAT_CHUNKED_FILE } else { 0 };
        let mut put = |at: usize, bytes: &[u8]| {
            block[SUPER_OFFSET + at..SUPER_OFFSET + at + bytes.len()].copy_from_slice(bytes);
        };
        put(0, &MAGIC.to_le_bytes());
        put(8, &(COMPAT_SUPER_CHECKSUM | COMPAT_MTIME).to_le_bytes());
        put(12, &[BLOCK_BITS]);
        put(14, &self.root_slot.to_le_bytes());
        put(16, &self.inodes.to_le_bytes());
        put(24, &self.build_time.seconds.to_le_bytes());
        put(32, &self.build_time.nanos.to_le_bytes());
        put(36, &self.blocks.to_le_bytes());
        put(40, &self.metadata_block.to_le_bytes());
        put(44, &self.xattr_block.to_le_bytes());
        put(48, &self.uuid);
        put(80, &incompatible.to_le_bytes());
        let checksum = checksum(&block[SUPER_OFFSET..]);
        block[SUPER_OFFSET + 4..SUPER_OFFSET + 8].copy_from_slice(&checksum.to_le_bytes());
        block
    }
}

/// The superblock's CRC32C: seeded with all ones and not inverted at the end, over the block from the superblock on.
fn checksum(bytes: &[u8]) -> u32 {
    !crc32c::crc32c(bytes)
}

/// What is cheap to check about an image that should be ours: its length, magic, checksum and name.
///
/// # Errors
/// The reason in words.
pub(crate) fn verify_first_block(block: &[u8], file_size: u64) -> Result<[u8; 16], &'static str> {
    if block.len() < BLOCK {
        return Err("is shorter than one block");
    }
    let at = |from: usize, len: usize| &block[SUPER_OFFSET + from..SUPER_OFFSET + from + len];
    let word = |from: usize| u32::from_le_bytes(at(from, 4).try_into().unwrap_or_default());
    if word(0) != MAGIC {
        return Err("has no EROFS superblock");
    }
    let mut zeroed = block[SUPER_OFFSET..BLOCK].to_vec();
    zeroed[4..8].fill(0);
    if checksum(&zeroed) != word(4) {
        return Err("has a superblock with a wrong checksum");
    }
    if u64::from(word(36)) * BLOCK_U64 != file_size {
        return Err("does not have the size that its superblock says");
    }
    at(48, 16).try_into().map_err(|_| "is shorter than one block")
}

/// The fields of an inode.
#[derive(Debug, Clone, Copy)]
pub(crate) struct InodeFields<'a> {
    pub(crate) stat: &'a Stat,
    pub(crate) kind: u16,
    pub(crate) layout: Layout,
    pub(crate) xattr_bytes: usize,
    pub(crate) size: u64,
    /// First block, device number or chunk format, by kind and layout.
    pub(crate) place: u32,
    pub(crate) number: u32,
    pub(crate) links: u32,
}

impl InodeFields<'_> {
    fn xattr_count(&self) -> u16 {
        if self.xattr_bytes == 0 {
            return 0;
        }
        u16::try_from((self.xattr_bytes - XATTR_HEADER) / 4 + 1).unwrap_or(u16::MAX)
    }

    /// Appends the compact form, which has no time of its own.
    pub(crate) fn encode_compact(&self, out: &mut Vec<u8>) {
        let narrow = |wide: u32| u16::try_from(wide).unwrap_or(u16::MAX).to_le_bytes();
        out.extend_from_slice(&((self.layout as u16) << 1).to_le_bytes());
        out.extend_from_slice(&self.xattr_count().to_le_bytes());
        out.extend_from_slice(&(self.kind | self.stat.mode).to_le_bytes());
        out.extend_from_slice(&narrow(self.links));
        out.extend_from_slice(&u32::try_from(self.size).unwrap_or(u32::MAX).to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&self.place.to_le_bytes());
        out.extend_from_slice(&self.number.to_le_bytes());
        out.extend_from_slice(&narrow(self.stat.uid));
        out.extend_from_slice(&narrow(self.stat.gid));
        out.extend_from_slice(&[0; 4]);
    }

    /// Appends the extended form.
    pub(crate) fn encode_extended(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&(((self.layout as u16) << 1) | 1).to_le_bytes());
        out.extend_from_slice(&self.xattr_count().to_le_bytes());
        out.extend_from_slice(&(self.kind | self.stat.mode).to_le_bytes());
        out.extend_from_slice(&[0; 2]);
        out.extend_from_slice(&self.size.to_le_bytes());
        out.extend_from_slice(&self.place.to_le_bytes());
        out.extend_from_slice(&self.number.to_le_bytes());
        out.extend_from_slice(&self.stat.uid.to_le_bytes());
        out.extend_from_slice(&self.stat.gid.to_le_bytes());
        out.extend_from_slice(&self.stat.mtime.seconds.to_le_bytes());
        out.extend_from_slice(&self.stat.mtime.nanos.to_le_bytes());
        out.extend_from_slice(&self.links.to_le_bytes());
        out.extend_from_slice(&[0; 16]);
    }
}

/// Whether an inode fits the compact form of an image built at `build_time`.
pub(crate) fn fits_compact(stat: &Stat, size: u64, links: u32, build_time: Time) -> bool {
    stat.mtime == build_time
        && stat.uid <= u32::from(u16::MAX)
        && stat.gid <= u32::from(u16::MAX)
        && links <= u32::from(u16::MAX)
        && size <= u64::from(u32::MAX)
}

/// The kernel's encoding of a device number in 32 bits.
pub(crate) fn device_number(major: u32, minor: u32) -> u32 {
    (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)
}

/// `S_IFMT` of a device.
pub(crate) fn device_mode(kind: DeviceKind) -> u16 {
    match kind {
        DeviceKind::Character => mode::CHARACTER,
        DeviceKind::Block => mode::BLOCK,
    }
}

/// A directory entry's type byte from `S_IFMT`.
pub(crate) fn file_type(kind: u16) -> u8 {
    match kind {
        mode::REGULAR => 1,
        mode::DIRECTORY => 2,
        mode::CHARACTER => 3,
        mode::BLOCK => 4,
        mode::FIFO => 5,
        mode::SOCKET => 6,
        mode::SYMLINK => 7,
        _ => 0,
    }
}

/// Splits an attribute's name into the number of its prefix and the rest; `None` when EROFS has no such prefix.
pub(crate) fn xattr_prefix(name: &[u8]) -> Option<(u8, &[u8])> {
    const PREFIXES: [(&[u8], u8); 3] = [(b"user.", 1), (b"trusted.", 4), (b"security.", 6)];
    match name {
        b"system.posix_acl_access" => Some((2, b"")),
        b"system.posix_acl_default" => Some((3, b"")),
        _ => PREFIXES.iter().find_map(|(prefix, number)| Some((*number, name.strip_prefix(*prefix)?))),
    }
}

/// One attribute as it stands in an inode's xattr body or in the shared area, padded to four bytes.
/// `None` when the name has no prefix here or a length does not fit.
pub(crate) fn xattr_entry(name: &[u8], value: &[u8]) -> Option<Vec<u8>> {
    let (index, rest) = xattr_prefix(name)?;
    let mut out = vec![u8::try_from(rest.len()).ok()?, index];
    out.extend_from_slice(&u16::try_from(value.len()).ok()?.to_le_bytes());
    out.extend_from_slice(rest);
    out.extend_from_slice(value);
    out.resize(out.len().next_multiple_of(4), 0);
    Some(out)
}

/// A directory as a list of blocks; every block but the last is whole.
///
/// Entries come sorted by the bytes of their names, `.` and `..` among them. A block has its entries' fixed parts first and
/// then the names; the first name's offset tells how many entries there are.
pub(crate) fn directory_blocks(entries: &[(&[u8], u64, u8)]) -> Vec<Vec<u8>> {
    let mut blocks = Vec::new();
    let mut rest = entries;
    while !rest.is_empty() {
        let mut used = 0;
        let count = rest
            .iter()
            .take_while(|(name, ..)| {
                used += DIRENT + name.len();
                used <= BLOCK
            })
            .count();
        let (now, later) = rest.split_at(count.max(1));
        let mut block = Vec::with_capacity(BLOCK);
        let mut offset = now.len() * DIRENT;
        for (name, nid, kind) in now {
            block.extend_from_slice(&nid.to_le_bytes());
            block.extend_from_slice(&u16::try_from(offset).unwrap_or(u16::MAX).to_le_bytes());
            block.extend_from_slice(&[*kind, 0]);
            offset += name.len();
        }
        for (name, ..) in now {
            block.extend_from_slice(name);
        }
        if !later.is_empty() {
            block.resize(BLOCK, 0);
        }
        blocks.push(block);
        rest = later;
    }
    blocks
}

/// The length of a directory with these names in order, without building it.
pub(crate) fn directory_size<'a>(names: impl Iterator<Item = &'a [u8]>) -> u64 {
    let (mut whole, mut used) = (0_u64, 0_usize);
    for name in names {
        let need = DIRENT + name.len();
        if used + need > BLOCK {
            whole += 1;
            used = 0;
        }
        used += need;
    }
    whole * BLOCK_U64 + used as u64
}
