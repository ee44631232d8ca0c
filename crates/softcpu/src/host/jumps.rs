//! Tables of indirect jumps: linear address to translated code, looked at by translated code itself.

use super::code::Mapping;
use super::ram::PAGE;

/// Entries of a table: one for each value of the low 16 bits of an address.
const ENTRIES: usize = 1 << 16;
/// Bits of the filter that tells pages without an entry.
const PAGES: usize = 1 << 12;

/// One entry. `repr(C)`: translated code reads it.
#[repr(C)]
#[derive(Clone, Copy)]
struct Jump {
    lin: u64,
    code: u64,
}

/// A table for one view.
pub(super) struct Jumps {
    table: Mapping,
    /// Slots with an entry, each once.
    used: Vec<u16>,
    /// Which pages may have an entry, by the low bits of their number.
    pages: [u64; PAGES / 64],
    /// Some of it lies in pages of one address space.
    local: bool,
}

/// Where a page's bit stands in the filter.
fn bit(lin: u64) -> (usize, u64) {
    let page = (lin / PAGE) as usize % PAGES;
    (page / 64, 1 << (page % 64))
}

impl Jumps {
    pub(super) fn new() -> std::io::Result<Self> {
        let mut jumps = Self {
            table: Mapping::anonymous(ENTRIES * size_of::<Jump>())?,
            used: Vec::new(),
            pages: [0; PAGES / 64],
            local: false,
        };
        // The first entry must not fit address zero.
        jumps.empty(0);
        Ok(jumps)
    }

    /// Where translated code finds it.
    pub(super) fn address(&self) -> u64 {
        self.table.base() as u64
    }

    fn at(&self, slot: u16) -> *mut Jump {
        self.table.base().cast::<Jump>().wrapping_add(usize::from(slot))
    }

    fn get(&self, slot: u16) -> Jump {
        // SAFETY: the table has an entry for every value of `slot`.
        unsafe { self.at(slot).read() }
    }

    fn put(&mut self, slot: u16, j: Jump) {
        // SAFETY: the table has an entry for every value of `slot`; translated code reads it on this thread only.
        unsafe { self.at(slot).write(j) };
    }

    /// Empties a slot. An entry of zeroes would fit address 0 in slot 0: its tag is another's.
    fn empty(&mut self, slot: u16) {
        self.put(slot, Jump { lin: u64::from(!slot), code: 0 });
    }

    /// The code for an address, if it is here.
    pub(super) fn find(&self, lin: u64) -> Option<u64> {
        let j = self.get(lin as u16);
        (j.lin == lin && j.code != 0).then_some(j.code)
    }

    /// Enters the code for an address. `local`: it lies in a page of one address space.
    pub(super) fn set(&mut self, lin: u64, code: u64, local: bool) {
        let slot = lin as u16;
        if self.get(slot).code == 0 {
            self.used.push(slot);
        }
        self.put(slot, Jump { lin, code });
        let (word, mask) = bit(lin);
        self.pages[word] |= mask;
        self.local |= local;
    }

    /// Empties the table.
    pub(super) fn clear(&mut self) {
        self.local = false;
        self.pages = [0; PAGES / 64];
        for slot in std::mem::take(&mut self.used) {
            self.empty(slot);
        }
    }

    /// Empties the table if anything in it belongs to one address space.
    pub(super) fn clear_local(&mut self) {
        if self.local {
            self.clear();
        }
    }

    /// Forgets the entries of one page; says whether there may have been any.
    pub(super) fn clear_page(&mut self, lin: u64) -> bool {
        let (word, mask) = bit(lin);
        if self.pages[word] & mask == 0 {
            return false;
        }
        let mut used = std::mem::take(&mut self.used);
        used.retain(|&slot| {
            let gone = (self.get(slot).lin ^ lin) & !(PAGE - 1) == 0;
            if gone {
                self.empty(slot);
            }
            !gone
        });
        self.used = used;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_forgotten_without_its_neighbours() {
        let mut j = Jumps::new().unwrap();
        assert_eq!(j.find(0), None);
        for lin in [0x1_0000, 0x1_0ff0, 0x1_1000, 0xffff_ffff_8100_2000] {
            j.set(lin, lin + 1, false);
        }
        assert!(!j.clear_page(0x7000));
        assert!(j.clear_page(0x1_0123));
        assert_eq!([0x1_0000, 0x1_0ff0, 0x1_1000].map(|lin| j.find(lin)), [None, None, Some(0x1_1001)]);
        j.clear_local();
        assert_eq!(j.find(0xffff_ffff_8100_2000), Some(0xffff_ffff_8100_2001), "nothing in it is local");
        j.set(0x2000, 1, true);
        j.clear_local();
        assert_eq!(j.find(0xffff_ffff_8100_2000), None);
        assert!(j.used.is_empty());
    }
}
