//! Page tables: 4 levels, PAE and the old two. Source: Intel SDM volume 3A, chapter 4.

use crate::exec::Exec;
use crate::fault::{Fault, pf, vector};
use crate::host::ram::PAGE;
use crate::host::tlb::Global;
use crate::state::{CR0_PG, CR0_WP, CR4_PAE, CR4_PGE, CR4_PSE, CR4_SMAP, CR4_SMEP, EFER_NXE, View};

const PRESENT: u64 = 1;
const WRITE: u64 = 2;
const USER: u64 = 4;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
const LARGE: u64 = 1 << 7;
const GLOBAL: u64 = 1 << 8;
const NX: u64 = 1 << 63;
/// Bits of physical addresses that the CPU model has.
const PHYSICAL_BITS: u32 = 40;
const ADDRESS: u64 = ((1 << PHYSICAL_BITS) - 1) & !(PAGE - 1);
/// Between the physical address and bit 51: must be zero.
const RESERVED: u64 = ((1 << 52) - 1) & !((1 << PHYSICAL_BITS) - 1);

/// What an access does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Write,
    Fetch,
}

/// The end of a walk.
struct Leaf {
    /// Guest-physical address of the entry and its value.
    at: u64,
    entry: u64,
    /// Bits of the address that the page holds.
    shift: u32,
    /// WRITE, USER and NX over all levels.
    rights: u64,
}

impl Exec<'_> {
    /// The guest-physical address of a linear one, with permissions checked and accessed and dirty bits set. What it finds
    /// goes into the TLB.
    pub(crate) fn translate(&mut self, lin: u64, access: Access, view: View) -> Result<u64, Fault> {
        Ok(self.translate_page(lin, access, view)?.0)
    }

    /// As [`Self::translate`], and whether the page is in every address space.
    pub(crate) fn translate_page(&mut self, lin: u64, access: Access, view: View) -> Result<(u64, Global), Fault> {
        if self.s.cr0 & CR0_PG == 0 {
            let gpa = lin & 0xffff_ffff;
            if access != Access::Fetch {
                self.remember(lin, gpa, view, access, Global::No);
            }
            return Ok((gpa, Global::No));
        }
        loop {
            let leaf = self.walk(lin, access, view)?;
            self.check_rights(&leaf, lin, access, view)?;
            let mut want = leaf.entry | ACCESSED;
            if access == Access::Write {
                want |= DIRTY;
            }
            if want != leaf.entry && !self.update(leaf.at, leaf.entry, want) {
                continue;
            }
            let in_page = (1_u64 << leaf.shift) - 1;
            let gpa = (leaf.entry & ADDRESS & !in_page) | (lin & in_page);
            let global = leaf.entry & GLOBAL != 0 && self.s.cr4 & CR4_PGE != 0;
            let global = if global { Global::Yes } else { Global::No };
            if access != Access::Fetch {
                self.remember(lin, gpa, view, access, global);
            }
            return Ok((gpa, global));
        }
    }

    /// Sets bits of a page-table entry; false if somebody else changed it meanwhile.
    fn update(&mut self, at: u64, old: u64, new: u64) -> bool {
        let done = if self.s.cr4 & CR4_PAE != 0 {
            self.shared.ram.exchange::<8>(at, old, new) == Some(old)
        } else {
            self.shared.ram.exchange::<4>(at, old, new) == Some(old)
        };
        if done {
            self.wrote(at, 8);
        }
        done || self.shared.ram.load::<1>(at).is_none()
    }

    fn walk(&mut self, lin: u64, access: Access, view: View) -> Result<Leaf, Fault> {
        let pae = self.s.cr4 & CR4_PAE != 0;
        let (levels, mut table) = if self.s.long_mode() {
            (4, self.s.cr3 & ADDRESS)
        } else if pae {
            (3, self.s.cr3 & 0xffff_ffe0)
        } else {
            (2, self.s.cr3 & 0xffff_f000)
        };
        let mut rights = WRITE | USER;
        for level in (0..levels).rev() {
            let shift = if pae { 12 + 9 * level } else { 12 + 10 * level };
            let at = if pae { table + ((lin >> shift) & 0x1ff) * 8 } else { table + ((lin >> shift) & 0x3ff) * 4 };
            let entry = if pae { self.physical_read::<8>(at) } else { self.physical_read::<4>(at) };
            if entry & PRESENT == 0 {
                return Err(self.page_fault(lin, 0, access, view));
            }
            let root_of_pae = pae && levels == 3 && level == 2;
            let large = level > 0 && entry & LARGE != 0 && !root_of_pae && (pae || self.s.cr4 & CR4_PSE != 0);
            if pae && self.reserved(entry, level, large) {
                return Err(self.page_fault(lin, pf::PRESENT | pf::RESERVED, access, view));
            }
            if !root_of_pae {
                rights &= entry | !(WRITE | USER);
                if pae {
                    rights |= entry & NX;
                }
            }
            if large || level == 0 {
                let shift = if large && !pae { 22 } else { shift as u32 };
                return Ok(Leaf { at, entry, shift, rights });
            }
            if entry & ACCESSED == 0 && !root_of_pae {
                self.update(at, entry, entry | ACCESSED);
            }
            table = entry & ADDRESS;
        }
        Err(Fault::Triple)
    }

    fn reserved(&self, entry: u64, level: usize, large: bool) -> bool {
        let mut bad = RESERVED;
        if self.s.efer & EFER_NXE == 0 {
            bad |= NX;
        }
        if level == 3 {
            bad |= LARGE;
        }
        if large {
            bad |= ((1 << (12 + 9 * level)) - 1) & ADDRESS & !(1 << 12);
        }
        entry & bad != 0
    }

    fn check_rights(&mut self, leaf: &Leaf, lin: u64, access: Access, view: View) -> Result<(), Fault> {
        let user_page = leaf.rights & USER != 0;
        let user = view == View::User;
        let fine = match access {
            _ if user && !user_page => false,
            Access::Fetch => leaf.rights & NX == 0 && !(user_page && !user && self.s.cr4 & CR4_SMEP != 0),
            _ if user_page && view == View::Kernel && self.s.cr4 & CR4_SMAP != 0 => false,
            Access::Write => leaf.rights & WRITE != 0 || (!user && self.s.cr0 & CR0_WP == 0),
            Access::Read => true,
        };
        if fine { Ok(()) } else { Err(self.page_fault(lin, pf::PRESENT, access, view)) }
    }

    fn page_fault(&mut self, lin: u64, mut code: u32, access: Access, view: View) -> Fault {
        if access == Access::Write {
            code |= pf::WRITE;
        }
        if view == View::User {
            code |= pf::USER;
        }
        let nx = self.s.cr4 & CR4_PAE != 0 && self.s.efer & EFER_NXE != 0;
        if access == Access::Fetch && (nx || self.s.cr4 & CR4_SMEP != 0) {
            code |= pf::FETCH;
        }
        self.s.fault_address = lin;
        Fault::coded(vector::PF, code)
    }
}
