//! An allocator for programs that live for milliseconds.
//!
//! Memory comes from the kernel in chunks of 64 KiB and is cut into blocks of powers of two; a freed block waits in its size's list for
//! the next of that size. Nothing is given back but blocks too large for the lists, which are mappings of their own.
//! A start of a container then takes five system calls for its memory, not forty, and touches few pages.
//!
//! The lists belong to the first thread that asks, so that nothing is locked: such programs have one thread. Another thread, should
//! there ever be one, gets a mapping for each block, and what it frees is lost.

#![expect(unsafe_code, reason = "an allocator hands out raw memory")]

use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};
use std::alloc::{GlobalAlloc, Layout};
use std::cell::UnsafeCell;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicUsize, Ordering};

const CHUNK: usize = 64 << 10;
/// The smallest block, and the alignment of every block.
const LEAST: usize = 16;
/// Blocks of 16 bytes to 16 KiB.
const SIZES: usize = 11;

/// The allocator; make it the program's with `#[global_allocator]`.
#[derive(Debug)]
pub struct Arena {
    /// The thread that has the lists; 0 for none yet.
    owner: AtomicUsize,
    state: UnsafeCell<State>,
}

#[derive(Debug)]
struct State {
    free: [*mut Free; SIZES],
    next: *mut u8,
    left: usize,
}

/// A block that waits in a list.
#[derive(Debug)]
struct Free {
    next: *mut Free,
}

// SAFETY: the state is only touched by the thread that owns it.
unsafe impl Sync for Arena {}

impl Arena {
    /// An allocator that has no memory yet.
    #[must_use]
    pub const fn new() -> Self {
        let state = State { free: [null_mut(); SIZES], next: null_mut(), left: 0 };
        Self { owner: AtomicUsize::new(0), state: UnsafeCell::new(state) }
    }

    /// Does something with the lists, if they are this thread's.
    fn with<T>(&self, action: impl FnOnce(&mut State) -> T) -> Option<T> {
        let me = this_thread();
        let owner = self.owner.load(Ordering::Relaxed);
        if owner != me {
            if owner != 0 {
                return None;
            }
            self.owner.compare_exchange(0, me, Ordering::Relaxed, Ordering::Relaxed).ok()?;
        }
        // SAFETY: the owner is alone, and `action` does not allocate.
        Some(action(unsafe { &mut *self.state.get() }))
    }
}

/// A number that no other living thread has.
fn this_thread() -> usize {
    thread_local! {
        static MARK: u8 = const { 0 };
    }
    MARK.with(|mark| (&raw const *mark).addr())
}

impl Default for Arena {
    fn default() -> Self {
        Self::new()
    }
}

/// Which list a block of this layout belongs to; `None` for a mapping of its own.
fn list_of(layout: Layout) -> Option<usize> {
    if layout.align() > LEAST {
        return None;
    }
    let size = layout.size().max(LEAST).next_power_of_two();
    let list = (size / LEAST).trailing_zeros() as usize;
    (list < SIZES).then_some(list)
}

fn map(size: usize, more: MapFlags) -> *mut u8 {
    let access = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: new memory at a place of the kernel's choice.
    let mapped = unsafe { mmap_anonymous(null_mut(), size, access, MapFlags::PRIVATE | more) };
    mapped.map_or(null_mut(), <*mut std::ffi::c_void>::cast)
}

impl State {
    fn take(&mut self, list: usize) -> *mut u8 {
        let head = self.free[list];
        if !head.is_null() {
            // SAFETY: a block in a list holds the link that `give` wrote, and belongs to nobody.
            self.free[list] = unsafe { (*head).next };
            return head.cast();
        }
        let size = LEAST << list;
        if self.left < size {
            // nearly all of the first chunk is used, and a fault a page costs more than the pages
            let more = if self.next.is_null() { MapFlags::POPULATE } else { MapFlags::empty() };
            let chunk = map(CHUNK, more);
            if chunk.is_null() {
                return chunk;
            }
            // what is left of the old chunk is less than one block, and forgotten
            (self.next, self.left) = (chunk, CHUNK);
        }
        let block = self.next;
        // SAFETY: the chunk has `left` bytes from here on, of which these are some.
        self.next = unsafe { block.add(size) };
        self.left -= size;
        block
    }

    fn give(&mut self, list: usize, block: *mut u8) {
        let block = block.cast::<Free>();
        // SAFETY: the block is ours again, at least as large as a link, and aligned for it.
        unsafe { block.write(Free { next: self.free[list] }) };
        self.free[list] = block;
    }
}

// SAFETY: blocks come from chunks and mappings of the kernel's, are at least as large and aligned as asked, and are handed out to
// one owner at a time: a block leaves its list when it is taken, and returns when it is given back.
unsafe impl GlobalAlloc for Arena {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match list_of(layout) {
            // as large as the owner takes it for, if it frees it
            Some(list) => self.with(|state| state.take(list)).unwrap_or_else(|| map(LEAST << list, MapFlags::empty())),
            // pages are aligned far enough for everything but what asks for more than a page
            None if layout.align() > 4096 => null_mut(),
            None => map(layout.size(), MapFlags::empty()),
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's layout is passed on.
        let block = unsafe { self.alloc(layout) };
        if !block.is_null() && list_of(layout).is_some() {
            // SAFETY: the block is new and this large.
            unsafe { block.write_bytes(0, layout.size()) };
        }
        block
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        match list_of(layout) {
            Some(list) => {
                self.with(|state| state.give(list, block));
            }
            None => {
                // SAFETY: a block without a list is a mapping of its own, of this size, that nobody uses any more. It can only
                // fail for a bad address.
                let _ = unsafe { munmap(block.cast(), layout.size()) };
            }
        }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let Ok(wanted) = Layout::from_size_align(size, layout.align()) else { return null_mut() };
        let list = list_of(layout);
        if list.is_some() && list == list_of(wanted) {
            return block;
        }
        // SAFETY: a layout that is not empty, as the caller promises.
        let fresh = unsafe { self.alloc(wanted) };
        if !fresh.is_null() {
            // SAFETY: both blocks are this large at least, and the new one is apart from the old.
            unsafe { std::ptr::copy_nonoverlapping(block, fresh, layout.size().min(size)) };
            // SAFETY: the old block is the caller's to give back, of this layout.
            unsafe { self.dealloc(block, layout) };
        }
        fresh
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(size: usize, align: usize) -> Layout {
        Layout::from_size_align(size, align).unwrap()
    }

    #[test]
    fn blocks_do_not_overlap_and_come_back() {
        let arena = Arena::new();
        let sizes = [1, 15, 16, 17, 500, 4096, 16 << 10, 100_000];
        let blocks: Vec<_> = sizes
            .iter()
            .map(|&size| {
                // SAFETY: not empty.
                let block = unsafe { arena.alloc(layout(size, 8)) };
                // SAFETY: the block is this large.
                unsafe { block.write_bytes(0xa5, size) };
                (block.addr(), size, block)
            })
            .collect();
        for (at, &(start, size, _)) in blocks.iter().enumerate() {
            assert_eq!(start % 16, 0);
            for &(other, length, _) in &blocks[at + 1..] {
                assert!(start + size <= other || other + length <= start);
            }
        }
        for &(_, size, block) in &blocks {
            // SAFETY: from `alloc` above, with this layout.
            unsafe { arena.dealloc(block, layout(size, 8)) };
        }
        // SAFETY: not empty.
        let again = unsafe { arena.alloc(layout(400, 8)) };
        assert!(blocks.iter().any(|&(start, size, _)| size == 500 && start == again.addr()));
    }

    #[test]
    fn content_moves_with_a_block_that_grows() {
        for size in [120, 5_000, 200_000] {
            let arena = Arena::new();
            // SAFETY: not empty.
            let block = unsafe { arena.alloc_zeroed(layout(100, 1)) };
            // SAFETY: the block has 100 bytes.
            unsafe { block.write_bytes(7, 100) };
            // SAFETY: of this arena, with this layout.
            let grown = unsafe { arena.realloc(block, layout(100, 1), size) };
            // SAFETY: the block has at least 100 bytes, all written to.
            let content = unsafe { std::slice::from_raw_parts(grown, 100) };
            assert_eq!(content, [7; 100]);
        }
    }

    #[test]
    fn another_thread_gets_memory_of_its_own() {
        let arena = Arena::new();
        // SAFETY: not empty.
        let ours = unsafe { arena.alloc(layout(64, 8)) }.addr();
        let theirs = std::thread::scope(|scope| {
            let inside = || {
                // SAFETY: not empty.
                let block = unsafe { arena.alloc(layout(9_000, 8)) };
                // SAFETY: a block of 9,000 bytes is as large as its list's.
                unsafe { block.write_bytes(1, 16 << 10) };
                // SAFETY: of this arena, with this layout.
                unsafe { arena.dealloc(block, layout(9_000, 8)) };
                block.addr()
            };
            scope.spawn(inside).join().unwrap()
        });
        // SAFETY: not empty.
        let again = unsafe { arena.alloc(layout(9_000, 8)) }.addr();
        assert!(again != theirs && ours.abs_diff(again) < CHUNK, "{ours:x} {theirs:x} {again:x}");
    }

    #[test]
    fn far_alignments_are_kept() {
        let arena = Arena::new();
        // SAFETY: not empty.
        let block = unsafe { arena.alloc(layout(10, 1024)) };
        assert_eq!(block.addr() % 1024, 0);
    }
}
