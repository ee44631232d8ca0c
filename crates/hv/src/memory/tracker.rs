//! Which pages were written, and which lines hold code that somebody has decoded.
//!
//! Every write by a device goes through vm-memory, which calls [`Bitmap::mark_dirty`] of the region's [`Tracker`]. It marks
//! the pages for snapshots and migration, and, where the software CPU has decoded code in the written lines, tells it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use vm_memory::bitmap::{Bitmap, RefSlice, WithBitmapSlice};

/// Bytes in a page, as the dirty log counts them.
pub const PAGE_SIZE: u64 = 4096;
const PAGE_SHIFT: u32 = 12;
/// Bytes in a line, as decoded code is counted.
pub const LINE_SIZE: u64 = 64;
const LINE_SHIFT: u32 = 6;

/// Is told when somebody other than the vCPU itself overwrites decoded code.
pub trait CodeWatch: Send + Sync {
    /// Guest-physical bytes from `gpa` on, `len` of them, were written and overlap lines marked by
    /// [`Tracker::mark_code`]. Called on the writer's thread, after the write.
    fn overwritten(&self, gpa: u64, len: u64);
}

/// Dirty pages and code lines of one region of guest memory.
///
/// Offsets are bytes from the start of the region. Ranges beyond the end are cut.
pub struct Tracker {
    base: u64,
    size: u64,
    dirty: Box<[AtomicU64]>,
    code: OnceLock<Box<[AtomicU64]>>,
    watch: Arc<OnceLock<Arc<dyn CodeWatch>>>,
}

/// `bits` bits, all clear, in pages that cost nothing until they are written.
fn zeroes(bits: u64) -> Box<[AtomicU64]> {
    let words = usize::try_from(bits.div_ceil(64)).unwrap_or(usize::MAX);
    let zeroed = Box::<[AtomicU64]>::new_zeroed_slice(words);
    // SAFETY: an AtomicU64 of zero bytes is a valid zero.
    unsafe { zeroed.assume_init() }
}

/// Words of a bitmap with the bits that lie in `first..=last`.
fn words(first: u64, last: u64) -> impl Iterator<Item = (usize, u64)> {
    (first / 64..=last / 64).map(move |word| {
        let low = if word == first / 64 { u64::MAX << (first % 64) } else { u64::MAX };
        let high = if word == last / 64 { u64::MAX >> (63 - last % 64) } else { u64::MAX };
        (word as usize, low & high)
    })
}

impl Tracker {
    pub(super) fn new(base: u64, size: u64, watch: Arc<OnceLock<Arc<dyn CodeWatch>>>) -> Self {
        Self { base, size, dirty: zeroes(size >> PAGE_SHIFT), code: OnceLock::new(), watch }
    }

    /// First and last unit of `1 << shift` bytes that a range of bytes touches.
    fn units(&self, offset: u64, len: u64, shift: u32) -> Option<(u64, u64)> {
        if len == 0 || offset >= self.size {
            return None;
        }
        let last = offset.saturating_add(len - 1).min(self.size - 1);
        Some((offset >> shift, last >> shift))
    }

    /// Marks pages as written without telling anybody: for a vCPU's own writes, which look after code themselves.
    pub fn mark_written(&self, offset: u64, len: u64) {
        let Some((first, last)) = self.units(offset, len, PAGE_SHIFT) else { return };
        for (word, bits) in words(first, last) {
            // A page that is written again and again costs a load only.
            if self.dirty[word].load(Ordering::Relaxed) & bits != bits {
                self.dirty[word].fetch_or(bits, Ordering::Relaxed);
            }
        }
    }

    /// Marks the lines of a range as decoded, so that writes to them are told to the watch.
    pub fn mark_code(&self, offset: u64, len: u64) {
        let Some((first, last)) = self.units(offset, len, LINE_SHIFT) else { return };
        let code = self.code.get_or_init(|| zeroes(self.size >> LINE_SHIFT));
        for (word, bits) in words(first, last) {
            code[word].fetch_or(bits, Ordering::SeqCst);
        }
    }

    /// Takes the marks of [`Self::mark_code`] away.
    pub fn clear_code(&self, offset: u64, len: u64) {
        let (Some((first, last)), Some(code)) = (self.units(offset, len, LINE_SHIFT), self.code.get()) else { return };
        for (word, bits) in words(first, last) {
            code[word].fetch_and(!bits, Ordering::SeqCst);
        }
    }

    /// Whether a range touches a line of decoded code.
    pub fn has_code(&self, offset: u64, len: u64) -> bool {
        let (Some((first, last)), Some(code)) = (self.units(offset, len, LINE_SHIFT), self.code.get()) else {
            return false;
        };
        words(first, last).any(|(word, bits)| code[word].load(Ordering::SeqCst) & bits != 0)
    }

    /// The written pages, one bit each from the lowest on, and forgets them.
    pub fn take_dirty(&self) -> Vec<u64> {
        self.dirty
            .iter()
            .map(|word| if word.load(Ordering::Relaxed) == 0 { 0 } else { word.swap(0, Ordering::SeqCst) })
            .collect()
    }
}

impl std::fmt::Debug for Tracker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tracker").field("base", &self.base).field("size", &self.size).finish_non_exhaustive()
    }
}

impl<'a> WithBitmapSlice<'a> for Tracker {
    type S = RefSlice<'a, Self>;
}

impl Bitmap for Tracker {
    fn mark_dirty(&self, offset: usize, len: usize) {
        let (offset, len) = (offset as u64, len as u64);
        self.mark_written(offset, len);
        if self.has_code(offset, len)
            && let Some(watch) = self.watch.get()
        {
            watch.overwritten(self.base + offset, len);
        }
    }

    fn dirty_at(&self, offset: usize) -> bool {
        let Some((page, _)) = self.units(offset as u64, 1, PAGE_SHIFT) else { return false };
        self.dirty[(page / 64) as usize].load(Ordering::Relaxed) & (1 << (page % 64)) != 0
    }

    fn slice_at(&self, offset: usize) -> RefSlice<'_, Self> {
        RefSlice::new(self, offset)
    }
}
