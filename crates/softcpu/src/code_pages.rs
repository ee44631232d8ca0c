//! Which guest memory holds code that somebody has decoded, so that a write to it is noticed.
//!
//! One bit a line of 64 bytes, one word a page; a page with any bit set is never in a TLB's write table, so writes to it
//! come here. A write to a marked line starts a new generation of the page: blocks of an older one are dead.
//!
//! CPUs mark and write at the same time, so the order counts: a decoder reads the generation, marks, and reads the bytes; a
//! writer writes, looks at the marks, clears them, and starts the generation.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

/// Pages of a chunk: the table is filled in as guest memory is run from.
const CHUNK: usize = 512;

struct Chunk {
    lines: [AtomicU64; CHUNK],
    generation: [AtomicU32; CHUNK],
}

impl Chunk {
    fn new() -> Box<Self> {
        Box::new(Self { lines: [const { AtomicU64::new(0) }; CHUNK], generation: [const { AtomicU32::new(0) }; CHUNK] })
    }
}

/// The map of code in a machine's memory.
pub(crate) struct CodePages {
    chunks: Vec<OnceLock<Box<Chunk>>>,
    epoch: AtomicU64,
}

impl CodePages {
    /// A map for memory that ends at guest-physical address `end`.
    pub(crate) fn new(end: u64) -> Self {
        let chunks = (end >> 12).div_ceil(CHUNK as u64) as usize;
        Self { chunks: std::iter::repeat_with(OnceLock::new).take(chunks).collect(), epoch: AtomicU64::new(0) }
    }

    fn chunk(&self, gpa: u64) -> Option<&Chunk> {
        self.chunks.get((gpa >> 12) as usize / CHUNK)?.get().map(|c| &**c)
    }

    fn index(gpa: u64) -> usize {
        (gpa >> 12) as usize % CHUNK
    }

    /// The bits of the lines that `len` bytes at `gpa` touch, inside one page.
    fn bits(gpa: u64, len: u64) -> u64 {
        let first = (gpa & 0xfff) >> 6;
        let last = ((gpa & 0xfff) + len.max(1) - 1).min(0xfff) >> 6;
        (u64::MAX << first) & (u64::MAX >> (63 - last))
    }

    /// Notes that code was decoded from `len` bytes at `gpa` (inside one page). True if the page held none before: then
    /// no TLB may keep it writable.
    pub(crate) fn mark(&self, gpa: u64, len: u64) -> bool {
        let Some(slot) = self.chunks.get((gpa >> 12) as usize / CHUNK) else { return false };
        let c = slot.get_or_init(Chunk::new);
        let before = c.lines[Self::index(gpa)].fetch_or(Self::bits(gpa, len), Ordering::SeqCst);
        before == 0
    }

    /// Whether a page holds code.
    #[inline]
    pub(crate) fn has_code(&self, gpa: u64) -> bool {
        self.chunk(gpa).is_some_and(|c| c.lines[Self::index(gpa)].load(Ordering::SeqCst) != 0)
    }

    /// The page's generation: blocks decoded in another one are dead.
    #[inline]
    pub(crate) fn generation(&self, gpa: u64) -> u32 {
        self.chunk(gpa).map_or(0, |c| c.generation[Self::index(gpa)].load(Ordering::SeqCst))
    }

    /// Notes a write, after its bytes are there. True if code was hit.
    pub(crate) fn written(&self, gpa: u64, len: u64) -> bool {
        // The bytes have to be there for all before the marks are looked at: who marks, and reads the bytes then, either sees
        // them or is seen.
        fence(Ordering::SeqCst);
        let Some(c) = self.chunk(gpa) else { return false };
        let i = Self::index(gpa);
        if c.lines[i].load(Ordering::SeqCst) & Self::bits(gpa, len) == 0 {
            return false;
        }
        self.renew(gpa);
        true
    }

    /// Starts a new generation of a page: what was decoded from it is dead.
    pub(crate) fn renew(&self, gpa: u64) {
        if let Some(c) = self.chunk(gpa) {
            let i = Self::index(gpa);
            // In this order: who reads the new generation and then marks lines is not robbed of them.
            c.lines[i].store(0, Ordering::SeqCst);
            c.generation[i].fetch_add(1, Ordering::SeqCst);
            self.epoch.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Counts generations of all pages: who keeps anything about where code is looks again when the number moves.
    #[inline]
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_beside_the_code_keeps_it_and_a_write_into_it_ends_its_generation() {
        let p = CodePages::new(1 << 20);
        assert!(p.mark(0x3040, 70), "the page held no code before");
        assert!(!p.mark(0x3100, 1));
        let g = p.generation(0x3000);
        assert!(!p.written(0x3000, 64));
        assert!(!p.written(0x30c0, 8));
        assert_eq!(p.generation(0x3000), g);
        assert!(p.written(0x3038, 16), "the second line is hit");
        assert_ne!(p.generation(0x3000), g);
        assert!(!p.has_code(0x3000));
    }

    #[test]
    fn memory_beyond_the_end_holds_no_code() {
        let p = CodePages::new(1 << 20);
        assert!(!p.mark(1 << 30, 1));
        assert!(!p.written(1 << 30, 1));
    }
}
