//! Guest memory: one sealed memfd mapped in regions, with a hole for devices below 4 GiB.
//!
//! ```text
//!  gpa 0                      DEVICE_HOLE (3 GiB)      4 GiB
//!      | RAM, region 0         | MMIO, no memory        | RAM, region 1 ...   | pmem regions, 1 GiB aligned
//!      file offset 0                                      file offset = size of region 0
//! ```
//!
//! Devices use [`Memory::ram`] with vm-memory's bounded accessors, so each of their writes is seen by the region's
//! [`Tracker`]. The software CPU takes the host addresses of [`Memory::regions`] and reports its own writes itself.

mod tracker;

#[cfg(test)]
mod tests;

use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::{Arc, OnceLock};

use rustix::fs::{FallocateFlags, MemfdFlags, SealFlags};
use serde::{Deserialize, Serialize};
use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{FileOffset, GuestAddress, GuestMemoryMmap, GuestRegionMmap};

pub use tracker::{CodeWatch, LINE_SIZE, PAGE_SIZE, Tracker};

/// Where RAM stops below 4 GiB: what lies above belongs to devices and interrupt controllers.
pub const DEVICE_HOLE: u64 = 0xc000_0000;
/// Where RAM goes on above the hole.
pub const HIGH_RAM: u64 = 0x1_0000_0000;
/// The most memory one machine may have: half of the 40 bits of physical address that the CPU model has.
pub const MAX_RAM: u64 = 1 << 39;

/// Guest memory as vm-memory knows it.
pub type GuestRam = GuestMemoryMmap<Tracker>;

/// Why guest memory could not be made or used.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// The size is no whole number of pages, nothing, or too much.
    #[error("memory of {0} bytes: give a multiple of 4096 from 4096 to 549755813888")]
    Size(u64),
    /// The system refused to make or size the memory's file.
    #[error("making {size} bytes of guest memory")]
    File {
        /// Bytes asked for.
        size: u64,
        /// What the system said.
        source: rustix::io::Errno,
    },
    /// The system refused a mapping.
    #[error("mapping {size} bytes of guest memory at {gpa:#x}")]
    Map {
        /// Guest-physical address of the region.
        gpa: u64,
        /// Its bytes.
        size: u64,
        /// What the system said.
        source: vm_memory::mmap::MmapRegionError,
    },
    /// Two regions overlap, or stand in no order.
    #[error("the regions of guest memory overlap or are not in order")]
    Layout,
    /// Pages could not be given back to the host.
    #[error("giving back {len} bytes of guest memory at {gpa:#x}")]
    Discard {
        /// Guest-physical address.
        gpa: u64,
        /// Bytes.
        len: u64,
        /// What the system said.
        source: rustix::io::Errno,
    },
    /// A range is not inside one region.
    #[error("guest memory has no {len} bytes at {gpa:#x}")]
    Range {
        /// Guest-physical address.
        gpa: u64,
        /// Bytes.
        len: u64,
    },
}

/// What a region is to the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RegionKind {
    /// Memory that the firmware tables call RAM.
    Ram,
    /// Memory that only a device tells the guest about (virtio-pmem).
    Pmem,
}

/// One region of the guest-physical address space: plain data, kept in snapshots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Range {
    /// Guest-physical address of the first byte.
    pub gpa: u64,
    /// Bytes, a multiple of [`PAGE_SIZE`].
    pub size: u64,
    /// Where its content begins in its file, bytes.
    pub offset: u64,
    /// What it is to the guest.
    pub kind: RegionKind,
}

/// How changes of memory relate to the file below it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharing {
    /// Writes reach the file: fresh memory, pmem that is to persist.
    Shared,
    /// Writes stay in this process: memory restored from a snapshot, which stays as it is.
    Private,
    /// The guest may not write.
    ReadOnly,
}

/// A file with the content of one region.
#[derive(Debug)]
pub struct Backing {
    /// Where it lies.
    pub range: Range,
    /// Its content.
    pub file: Arc<File>,
    /// What becomes of writes.
    pub sharing: Sharing,
}

/// A region with its place in this process.
#[derive(Debug, Clone)]
pub struct Region {
    /// Where it lies.
    pub range: Range,
    /// What becomes of writes.
    pub sharing: Sharing,
    /// Address of its first byte in this process. Valid as long as any clone of the [`Memory`] lives.
    pub host: *mut u8,
    mapping: Arc<vm_memory::MmapRegion<Tracker>>,
}

// SAFETY: the pointer names a mapping that `mapping` keeps alive; access through it is the user's unsafe business.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

impl Region {
    /// The region's dirty pages and code lines.
    pub fn tracker(&self) -> &Tracker {
        self.mapping.bitmap()
    }

    /// Guest-physical address of the first byte behind the region.
    pub fn end(&self) -> u64 {
        self.range.gpa + self.range.size
    }
}

struct Inner {
    ram: GuestRam,
    regions: Vec<Region>,
    files: Vec<Arc<File>>,
    watch: Arc<OnceLock<Arc<dyn CodeWatch>>>,
}

/// A machine's memory. Clones share it.
#[derive(Clone)]
pub struct Memory(Arc<Inner>);

/// The RAM regions of a machine with `size` bytes of it, around the hole below 4 GiB.
///
/// # Errors
/// [`MemoryError::Size`] if it is no whole number of pages or out of bounds.
pub fn ranges(size: u64) -> Result<Vec<Range>, MemoryError> {
    if size == 0 || !size.is_multiple_of(PAGE_SIZE) || size > MAX_RAM {
        return Err(MemoryError::Size(size));
    }
    let low = size.min(DEVICE_HOLE);
    let mut ranges = vec![Range { gpa: 0, size: low, offset: 0, kind: RegionKind::Ram }];
    if size > low {
        ranges.push(Range { gpa: HIGH_RAM, size: size - low, offset: low, kind: RegionKind::Ram });
    }
    Ok(ranges)
}

impl Memory {
    /// Fresh memory of `size` bytes, all zero, in a memfd of its own.
    ///
    /// # Errors
    /// The size is bad, or the system has no memory for it.
    pub fn new(size: u64) -> Result<Self, MemoryError> {
        Self::with_regions(size, Vec::new())
    }

    /// Fresh memory of `size` bytes, and further regions with files of their own.
    ///
    /// # Errors
    /// As [`Self::new`] and [`Self::map`].
    pub fn with_regions(size: u64, more: Vec<Backing>) -> Result<Self, MemoryError> {
        let ranges = ranges(size)?;
        let fail = |source| MemoryError::File { size, source };
        let fd: OwnedFd =
            rustix::fs::memfd_create("guest-memory", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).map_err(fail)?;
        rustix::fs::ftruncate(&fd, size).map_err(fail)?;
        // Nobody with whom the descriptor is shared may pull pages away from under the mapping.
        rustix::fs::fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL).map_err(fail)?;
        let file = Arc::new(File::from(fd));
        let mut backings: Vec<Backing> = ranges
            .into_iter()
            .map(|range| Backing { range, file: Arc::clone(&file), sharing: Sharing::Shared })
            .collect();
        backings.extend(more);
        Self::map(backings)
    }

    /// Memory over given files, in ascending order of address.
    ///
    /// # Errors
    /// The regions overlap, or the system refuses a mapping.
    pub fn map(backings: Vec<Backing>) -> Result<Self, MemoryError> {
        let watch = Arc::new(OnceLock::new());
        let (mut regions, mut guest, mut files) = (Vec::new(), Vec::new(), Vec::new());
        for Backing { range, file, sharing } in backings {
            if range.size == 0 || !range.size.is_multiple_of(PAGE_SIZE) || !range.gpa.is_multiple_of(PAGE_SIZE) {
                return Err(MemoryError::Size(range.size));
            }
            let size = usize::try_from(range.size).map_err(|_| MemoryError::Size(range.size))?;
            let (prot, flags) = match sharing {
                Sharing::Shared => (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED),
                Sharing::Private => (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE),
                Sharing::ReadOnly => (libc::PROT_READ, libc::MAP_SHARED),
            };
            let tracker = Tracker::new(range.gpa, range.size, Arc::clone(&watch));
            let mapping = MmapRegionBuilder::new_with_bitmap(size, tracker)
                .with_file_offset(FileOffset::from_arc(Arc::clone(&file), range.offset))
                .with_mmap_prot(prot)
                .with_mmap_flags(flags | libc::MAP_NORESERVE)
                .build()
                .map_err(|source| MemoryError::Map { gpa: range.gpa, size: range.size, source })?;
            let mapping = Arc::new(mapping);
            let region =
                GuestRegionMmap::with_arc(Arc::clone(&mapping), GuestAddress(range.gpa)).ok_or(MemoryError::Layout)?;
            guest.push(region);
            regions.push(Region { range, sharing, host: mapping.as_ptr(), mapping });
            files.push(file);
        }
        let ram = GuestRam::from_regions(guest).map_err(|_| MemoryError::Layout)?;
        Ok(Self(Arc::new(Inner { ram, regions, files, watch })))
    }

    /// The memory with vm-memory's accessors: bounded, volatile, and seen by the trackers.
    pub fn ram(&self) -> &GuestRam {
        &self.0.ram
    }

    /// The regions in ascending order of address.
    pub fn regions(&self) -> &[Region] {
        &self.0.regions
    }

    /// The region that holds all of `len` bytes at `gpa`, and the offset into it.
    pub fn find(&self, gpa: u64, len: u64) -> Option<(&Region, u64)> {
        let at = self.0.regions.partition_point(|region| region.end() <= gpa);
        let region = self.0.regions.get(at)?;
        let offset = gpa.checked_sub(region.range.gpa)?;
        (len <= region.range.size - offset).then_some((region, offset))
    }

    /// Bytes of RAM, without pmem.
    pub fn ram_size(&self) -> u64 {
        self.0
            .regions
            .iter()
            .filter(|region| region.range.kind == RegionKind::Ram)
            .map(|region| region.range.size)
            .sum()
    }

    /// The layout, as a snapshot keeps it.
    pub fn ranges(&self) -> Vec<Range> {
        self.0.regions.iter().map(|region| region.range).collect()
    }

    /// The file below a region, in the order of [`Self::regions`].
    pub fn file(&self, region: usize) -> Option<&Arc<File>> {
        self.0.files.get(region)
    }

    /// Names who is told of overwritten code; only the first call counts.
    pub fn watch_code(&self, watch: Arc<dyn CodeWatch>) {
        // A second watch would be a second software CPU on the same memory, which nobody makes.
        let _ = self.0.watch.set(watch);
    }

    /// The pages written by devices and by software vCPUs since the last call, one bitmap a region, and forgets them.
    /// What vCPUs wrote on KVM is in the backend's own log: use [`crate::Vm::take_dirty`] for both.
    pub fn take_dirty(&self) -> Vec<Vec<u64>> {
        self.0.regions.iter().map(|region| region.tracker().take_dirty()).collect()
    }

    /// Gives whole pages back to the host; they read as zero (fresh memory) or as in the snapshot (private memory)
    /// when the guest uses them again. The range is cut to whole pages.
    ///
    /// # Errors
    /// The range is not RAM of the guest, or the system refuses.
    pub fn discard(&self, gpa: u64, len: u64) -> Result<(), MemoryError> {
        let (region, offset) = self.find(gpa, len).ok_or(MemoryError::Range { gpa, len })?;
        let start = offset.next_multiple_of(PAGE_SIZE);
        let end = (offset + len) & !(PAGE_SIZE - 1);
        if start >= end {
            return Ok(());
        }
        let fail = |source| MemoryError::Discard { gpa, len, source };
        match (region.sharing, region.range.kind) {
            (Sharing::Shared, RegionKind::Ram) => {
                let file = region.mapping.file_offset().ok_or(MemoryError::Range { gpa, len })?;
                let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                rustix::fs::fallocate(file.file(), flags, file.start() + start, end - start).map_err(fail)?;
            }
            (Sharing::Private, RegionKind::Ram) => {
                let at = region.host.wrapping_add(start as usize).cast();
                let advice = rustix::mm::Advice::LinuxDontNeed;
                // SAFETY: the range lies inside the region's mapping; its content is the guest's to lose, and nobody in
                // this process holds a reference into guest memory.
                unsafe { rustix::mm::madvise(at, (end - start) as usize, advice) }.map_err(fail)?;
            }
            _ => return Err(MemoryError::Range { gpa, len }),
        }
        region.tracker().mark_written(start, end - start);
        Ok(())
    }
}

impl std::fmt::Debug for Memory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Memory").field("ranges", &self.ranges()).finish_non_exhaustive()
    }
}
