//! The software TLB: linear page to host page, one direct-mapped table per view and kind of access.
//!
//! An entry is (tag, host page). The tag is the linear address of the page, so that `address ^ tag` is the offset inside
//! it if the entry fits and something large if not: one comparison checks the page, the fit and that the access doesn't
//! leave the page. Translated code does the same comparison inline.

use std::sync::Arc;

use super::access;
use super::ram::{HostPage, PAGE, Ram};
use crate::state::View;

/// Entries of a table: 4 MiB of pages at once. To empty one costs as much as it holds, however large it is.
pub(crate) const ENTRIES: usize = 1024;

#[repr(C)]
#[derive(Clone, Copy)]
struct Entry {
    tag: u64,
    host: *mut u8,
}

/// An empty entry: its tag belongs to the neighbour's place, so that no address that leads here fits it.
const fn none(i: usize) -> Entry {
    Entry { tag: (i as u64 ^ 1) << 12, host: std::ptr::null_mut() }
}

// SAFETY: null pointers, for all threads alike.
unsafe impl Sync for Entry {}

/// A table without translations.
static NONE: [Entry; ENTRIES] = {
    let mut t = [none(0); ENTRIES];
    let mut i = 0;
    while i < ENTRIES {
        t[i] = none(i);
        i += 1;
    }
    t
};

/// Both tables of a view.
#[repr(C)]
#[derive(Clone, Copy)]
struct Tables {
    read: [Entry; ENTRIES],
    write: [Entry; ENTRIES],
}

/// One bit an entry.
type Bits = [u64; ENTRIES / 64];

/// Slots in use, each once.
#[derive(Clone)]
struct Slots {
    listed: Vec<u16>,
    known: Bits,
}

impl Slots {
    fn new() -> Self {
        Self { listed: Vec::with_capacity(ENTRIES), known: [0; ENTRIES / 64] }
    }

    fn add(&mut self, i: usize) {
        let (word, bit) = (&mut self.known[i / 64], 1 << (i % 64));
        if *word & bit == 0 {
            *word |= bit;
            self.listed.push(i as u16);
        }
    }

    /// All of them; none is left.
    fn drain(&mut self) -> impl Iterator<Item = usize> {
        self.known = [0; ENTRIES / 64];
        self.listed.drain(..).map(usize::from)
    }

    fn iter(&self) -> impl Iterator<Item = usize> {
        self.listed.iter().map(|&i| usize::from(i))
    }
}

/// Where the stack is: one page that may be written, found without looking for its place in a table.
#[repr(C)]
#[derive(Clone, Copy)]
struct Window {
    page: Entry,
    /// Offsets below it may be accessed with up to eight bytes; zero if the window is shut.
    end: u64,
}

/// No page.
const SHUT: Window = Window { page: none(0), end: 0 };

/// The data TLB of one CPU. It keeps the memory that it points into.
#[repr(C, align(64))]
pub(crate) struct Tlb {
    views: [Tables; 3],
    /// The stacks. Whatever takes an entry out of a table of writes shuts them.
    windows: [Window; 3],
    /// Which entries came from global pages: they outlive a load of CR3.
    global: [[Bits; 2]; 3],
    /// Slots with entries that a load of CR3 ends, a list a view.
    local: [Slots; 3],
    /// Slots with entries of global pages.
    lasting: [Slots; 3],
    _ram: Arc<Ram>,
}

// SAFETY: the pointers name memory of `ram`, which is shared between threads by single machine accesses only.
unsafe impl Send for Tlb {}

/// Where a lookup's entry stands.
#[inline(always)]
const fn slot(addr: u64) -> usize {
    (addr >> 12) as usize % ENTRIES
}

impl Tlb {
    /// Offset of the tables, for translated code: two tables a view, of entries (tag, host page).
    pub(crate) const VIEWS: i32 = std::mem::offset_of!(Tlb, views) as i32;
    /// Offset of the windows on stacks, for translated code: one a view, of (tag, host page, end).
    pub(crate) const WINDOWS: i32 = std::mem::offset_of!(Tlb, windows) as i32;
    /// Where the entry of an address stands in a table, in bytes.
    pub(crate) const fn place(addr: u64) -> i32 {
        (slot(addr) * size_of::<Entry>()) as i32
    }

    /// Bytes of a window.
    pub(crate) const WINDOW: i32 = size_of::<Window>() as i32;
    /// The end of a window that is open.
    pub(crate) const WINDOW_END: i32 = PAGE as i32 - 7;
    /// Bytes of a table.
    pub(crate) const TABLE: i32 = (ENTRIES * size_of::<Entry>()) as i32;

    pub(crate) fn new(ram: Arc<Ram>) -> Self {
        let tables = Tables { read: NONE, write: NONE };
        let slots = || std::array::from_fn(|_| Slots::new());
        Self {
            views: [tables; 3],
            windows: [SHUT; 3],
            global: [[[0; ENTRIES / 64]; 2]; 3],
            local: slots(),
            lasting: slots(),
            _ram: ram,
        }
    }

    /// Reads `B` bytes at linear address `addr`, or nothing if the page is not in the table.
    #[inline(always)]
    pub(crate) fn load<const B: usize>(&self, view: View, addr: u64) -> Option<u64> {
        let e = &self.views[view as usize].read[slot(addr)];
        let off = addr ^ e.tag;
        if off > PAGE - B as u64 {
            return None;
        }
        // SAFETY: `fill` put in a whole page of `ram`, which we keep; offset and length stay inside it.
        Some(unsafe { access::load::<B>(e.host.wrapping_add(off as usize)) })
    }

    /// Writes `B` bytes; false if the page is not in the table.
    #[inline(always)]
    pub(crate) fn store<const B: usize>(&self, view: View, addr: u64, v: u64) -> bool {
        let e = &self.views[view as usize].write[slot(addr)];
        let off = addr ^ e.tag;
        if off > PAGE - B as u64 {
            return false;
        }
        // SAFETY: as in `load`; guest memory is covered by no reference.
        unsafe { access::store::<B>(e.host.wrapping_add(off as usize), v) };
        true
    }

    /// Compare and exchange in a page of the write table.
    #[inline(always)]
    pub(crate) fn exchange<const B: usize>(&self, view: View, addr: u64, old: u64, new: u64) -> Option<u64> {
        let e = &self.views[view as usize].write[slot(addr)];
        let off = addr ^ e.tag;
        if off > PAGE - B as u64 {
            return None;
        }
        // SAFETY: as in `store`.
        Some(unsafe { access::exchange::<B>(e.host.wrapping_add(off as usize), old, new) })
    }

    /// A read by the write table: for instructions that write back what they read.
    #[inline(always)]
    pub(crate) fn load_for_write<const B: usize>(&self, view: View, addr: u64) -> Option<u64> {
        let e = &self.views[view as usize].write[slot(addr)];
        let off = addr ^ e.tag;
        if off > PAGE - B as u64 {
            return None;
        }
        // SAFETY: as in `load`.
        Some(unsafe { access::load::<B>(e.host.wrapping_add(off as usize)) })
    }

    /// Copies up to `n` bytes forward as `rep movsb` does; returns how many, zero if a page is not in its table.
    pub(crate) fn copy(&self, view: View, dst: u64, src: u64, n: u64) -> u64 {
        let (d, s) = (&self.views[view as usize].write[slot(dst)], &self.views[view as usize].read[slot(src)]);
        let (to, from) = (dst ^ d.tag, src ^ s.tag);
        if to >= PAGE || from >= PAGE {
            return 0;
        }
        let n = n.min(PAGE - to).min(PAGE - from);
        // SAFETY: both entries are whole pages of `ram`, and `n` ends inside both.
        unsafe {
            access::copy_forward(d.host.wrapping_add(to as usize), s.host.wrapping_add(from as usize), n as usize)
        };
        n
    }

    /// Fills up to `n` elements of `B` bytes; returns how many, zero if the page is not in the table.
    pub(crate) fn fill_with<const B: usize>(&self, view: View, dst: u64, v: u64, n: u64) -> u64 {
        let d = &self.views[view as usize].write[slot(dst)];
        let to = dst ^ d.tag;
        if to >= PAGE {
            return 0;
        }
        let n = n.min((PAGE - to) / B as u64);
        // SAFETY: the entry is a whole page of `ram`, and `n` elements end inside it.
        unsafe { access::fill::<B>(d.host.wrapping_add(to as usize), v, n as usize) };
        n
    }

    /// Enters a page for reads, and for writes if `writable`.
    pub(crate) fn fill(&mut self, view: View, addr: u64, page: HostPage, writable: Writable, global: Global) {
        let (i, v) = (slot(addr), view as usize);
        let e = Entry { tag: addr & !(PAGE - 1), host: page.0 };
        self.views[v].read[i] = e;
        mark(&mut self.global[v][0], i, global);
        if writable == Writable::Yes {
            self.views[v].write[i] = e;
            mark(&mut self.global[v][1], i, global);
        }
        match global {
            Global::Yes => self.lasting[v].add(i),
            Global::No => self.local[v].add(i),
        }
    }

    /// Forgets everything.
    pub(crate) fn flush(&mut self) {
        self.windows = [SHUT; 3];
        for (v, t) in self.views.iter_mut().enumerate() {
            for i in self.local[v].drain().chain(self.lasting[v].drain()) {
                t.read[i] = NONE[i];
                t.write[i] = NONE[i];
            }
        }
        self.global = [[[0; ENTRIES / 64]; 2]; 3];
    }

    /// Forgets all but global pages.
    pub(crate) fn flush_local(&mut self) {
        self.windows = [SHUT; 3];
        for (v, t) in self.views.iter_mut().enumerate() {
            let global = &self.global[v];
            for i in self.local[v].drain() {
                let keeps = |bits: &Bits| bits[i / 64] & (1 << (i % 64)) != 0;
                if !keeps(&global[0]) {
                    t.read[i] = NONE[i];
                }
                if !keeps(&global[1]) {
                    t.write[i] = NONE[i];
                }
            }
        }
    }

    /// Forgets one linear page.
    pub(crate) fn flush_page(&mut self, addr: u64) {
        let i = slot(addr);
        self.windows = [SHUT; 3];
        for t in &mut self.views {
            t.read[i] = NONE[i];
            t.write[i] = NONE[i];
        }
    }

    /// Forgets that a page of memory may be written, under whatever linear address; says whether it could be.
    pub(crate) fn protect(&mut self, page: HostPage) -> bool {
        let mut found = self.windows.iter().any(|w| w.end != 0 && w.page.host == page.0);
        self.windows = [SHUT; 3];
        for (v, t) in self.views.iter_mut().enumerate() {
            for i in self.local[v].iter().chain(self.lasting[v].iter()) {
                let e = &mut t.write[i];
                if e.host == page.0 {
                    *e = NONE[i];
                    found = true;
                }
            }
        }
        found
    }

    /// Forgets every page that may be written: dirty tracking starts again.
    pub(crate) fn protect_all(&mut self) {
        self.windows = [SHUT; 3];
        for t in &mut self.views {
            t.write = NONE;
        }
    }
}

fn mark(bits: &mut Bits, i: usize, global: Global) {
    let bit = 1 << (i % 64);
    match global {
        Global::Yes => bits[i / 64] |= bit,
        Global::No => bits[i / 64] &= !bit,
    }
}

/// Whether a page may be written without further ado.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Writable {
    Yes,
    No,
}

/// Whether a page is in every address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Global {
    Yes,
    No,
}
