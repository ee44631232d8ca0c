//! The configuration space, virtio 1.2, 5.2.4.

use super::{Disk, SECTOR, Settings};
use crate::device::read_space;
use crate::queue::MAX_CHAIN;

/// Where the cache mode stands.
pub(super) const WRITE_BACK: u64 = 32;
/// The most sectors of one discard or write-zeroes segment.
pub(super) const MOST_SECTORS: u32 = 1 << 22;
/// The most segments of one discard or write-zeroes request.
pub(super) const MOST_SEGMENTS: u32 = 64;
/// The block size that keeps a guest from reading before it writes, on any host file system.
const PHYSICAL_BLOCK: u32 = 4096;
const BYTES: usize = 60;

/// The bytes as the driver sees them.
#[derive(Debug, Clone)]
pub(super) struct Config {
    space: [u8; BYTES],
    /// Whether the driver may turn the write-back cache off and on.
    changeable: bool,
}

impl Config {
    pub(super) fn new(disk: &dyn Disk, settings: &Settings) -> Self {
        let mut space = [0; BYTES];
        let mut put = |offset: usize, bytes: &[u8]| space[offset..offset + bytes.len()].copy_from_slice(bytes);
        put(0, &(disk.bytes() / SECTOR).to_le_bytes());
        // Header and status take a descriptor each.
        put(12, &u32::from(MAX_CHAIN / 4 - 2).to_le_bytes());
        put(20, &512_u32.to_le_bytes());
        // Logical blocks in a physical one, as a power of two; then the least and the best size of a request, in blocks.
        put(24, &[(PHYSICAL_BLOCK / 512).trailing_zeros().to_le_bytes()[0]]);
        put(26, &8_u16.to_le_bytes());
        put(34, &settings.queues.to_le_bytes());
        put(36, &MOST_SECTORS.to_le_bytes());
        put(40, &MOST_SEGMENTS.to_le_bytes());
        put(44, &(PHYSICAL_BLOCK / 512).to_le_bytes());
        put(48, &MOST_SECTORS.to_le_bytes());
        put(52, &MOST_SEGMENTS.to_le_bytes());
        put(56, &[1]);
        put(32, &[1]);
        Self { space, changeable: true }
    }

    pub(super) fn read(&self, offset: u64, into: &mut [u8]) {
        read_space(&self.space, offset, into);
    }

    pub(super) fn write(&mut self, offset: u64, bytes: &[u8]) {
        if let (WRITE_BACK, [mode @ (0 | 1)], true) = (offset, bytes, self.changeable) {
            self.space[32] = *mode;
        }
    }

    /// The driver has agreed to be able to change the cache mode, or not.
    pub(super) fn lock_cache_mode(&mut self, changeable: bool) {
        self.changeable = changeable;
    }

    pub(super) fn write_back(&self) -> bool {
        self.space[32] == 1
    }

    pub(super) fn reset(&mut self) {
        self.space[32] = 1;
        self.changeable = true;
    }
}
