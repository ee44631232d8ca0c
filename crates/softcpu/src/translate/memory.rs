//! Lookups in front of memory operands, the shortest that what is known of the address allows:
//!
//! - at a fixed address, the page's place in the table is known, and the entry is compared;
//! - on the stack, the page is likely the one of the last time: a *window* that holds a single entry;
//! - beside an operand with the same base register, r10 still is the place of the page;
//! - else the place is computed.
//!
//! All but the first look again, the long way, before the interpreter has to do the instruction.

use iced_x86::{Instruction, Register};

use super::operand::Memory;
use super::{CALL, Guest, JA, JAE, JB, JMP, JNE, R9, R10, RSP_HOST, Translator, in_memory};
use crate::host::lookup::{self, Access, table, window};
use crate::host::ram::PAGE;
use crate::host::tlb::Tlb;
use crate::state::View;

/// How the interpreter comes to do an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Miss {
    /// By a branch, whose distance stands here.
    Branch(usize),
    /// By a lookup that has failed again: its number.
    Look(usize),
}

impl From<usize> for Miss {
    fn from(branch: usize) -> Self {
        Self::Branch(branch)
    }
}

/// How the address comes back that a failed lookup has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Changed {
    ByWindow(View),
    ByTable(i32),
}

/// A lookup that is done the long way if the short one fails.
pub(super) struct Look {
    from: usize,
    changed: Changed,
    /// What is called.
    long_way: u64,
    /// Where it goes on.
    back: usize,
    /// The branch that is taken if it fails.
    failed: usize,
}

/// An address that is the same each time.
fn fixed_address(i: &Instruction, rip: u64) -> Option<u64> {
    let other = matches!(i.memory_segment(), Register::CS | Register::FS | Register::GS);
    if other || i.memory_index() != Register::None {
        return None;
    }
    match i.memory_base() {
        Register::RIP => Some(rip.wrapping_add(i.memory_displacement64())),
        Register::None => Some(i.memory_displacement64()),
        _ => None,
    }
}

/// The register that alone, with a displacement, is an address, or half of which is, and stays in a register of the host's.
fn only_base(i: &Instruction) -> Option<Register> {
    let base = i.memory_base();
    let alone = i.memory_index() == Register::None && !matches!(i.memory_segment(), Register::FS | Register::GS);
    (alone && base.is_gpr() && base.size() >= 4 && !in_memory(base)).then(|| base.full_register())
}

impl Translator<'_> {
    /// The lookup for the memory operand of an instruction: r9 and [`Self::offset`] are its host address then.
    pub(super) fn operand_lookup(&mut self, g: &Guest, m: &Memory) -> Option<Miss> {
        let i = &g.instr;
        self.offset = 0;
        if let Some(at) = fixed_address(i, g.rip)
            && (at & (PAGE - 1)) + m.size as u64 <= PAGE
            && !(m.aligned && at & 15 != 0)
        {
            self.free_flags(g);
            return Some(self.fixed_lookup(at, m.access));
        }
        let base = only_base(i);
        self.address(i, g.rip)?;
        self.free_flags(g);
        let short = !m.aligned && m.size.is_power_of_two();
        match base {
            Some(Register::RSP) if short && m.size <= 8 => Some(self.window_lookup(m.access, m.size)),
            Some(b) if short && self.placed == Some(b) => Some(self.near_lookup(m.access, m.size)),
            _ => {
                let miss = self.lookup(m.access, m.size, m.aligned);
                self.placed = base;
                Some(miss)
            }
        }
    }

    /// The lookup of the address in r9, which becomes a host address, by computing its page's place.
    pub(super) fn lookup(&mut self, access: Access, size: usize, aligned: bool) -> Miss {
        self.placed = None;
        let table = table(self.place.view, access);
        let c = &mut self.code;
        lookup::place(c);
        // xor r9, [table + r10]
        c.indexed(0x33, R9, R10, table);
        let slow = if aligned {
            // test r9, everything but the aligned offsets of a page
            c.raw(&[0x49, 0xf7, 0xc1]);
            c.u32(!0xff0_u32);
            c.branch(JNE)
        } else {
            self.compare_offset(size)
        };
        // add r9, [table + 8 + r10]
        self.code.indexed(0x03, R9, R10, table + 8);
        slow.into()
    }

    /// cmp r9, the last offset that fits; and a branch that is taken beyond.
    fn compare_offset(&mut self, size: usize) -> usize {
        self.code.raw(&[0x49, 0x81, 0xf9]);
        self.code.u32(PAGE as u32 - size as u32);
        self.code.branch(JA)
    }

    /// As [`Self::lookup`], where r10 likely is the page's place.
    fn near_lookup(&mut self, access: Access, size: usize) -> Miss {
        let table = table(self.place.view, access);
        self.code.indexed(0x33, R9, R10, table);
        let from = self.compare_offset(size);
        self.code.indexed(0x03, R9, R10, table + 8);
        let long_way = self.place.thunks.lookups.plain(self.place.view, access, size);
        self.look_again(from, Changed::ByTable(table), long_way)
    }

    /// As [`Self::lookup`], of up to eight bytes on the stack. r10 is lost only as far as it is another place.
    pub(super) fn window_lookup(&mut self, access: Access, size: usize) -> Miss {
        let view = self.place.view;
        let window = window(view);
        self.code.indexed_none(0x33, R9, window);
        // cmp r9, [window + 16]
        self.code.indexed_none(0x3b, R9, window + 16);
        let from = self.code.branch(JAE);
        self.code.indexed_none(0x03, R9, window + 8);
        let long_way = self.place.thunks.lookups.stack(view, access, size);
        self.look_again(from, Changed::ByWindow(view), long_way)
    }

    fn look_again(&mut self, from: usize, changed: Changed, long_way: u64) -> Miss {
        let back = self.code.len();
        self.looks.push(Look { from, changed, long_way, back, failed: 0 });
        Miss::Look(self.looks.len() - 1)
    }

    /// The lookup of an operand that lies at a fixed address inside a page.
    fn fixed_lookup(&mut self, at: u64, access: Access) -> Miss {
        let page = at & !(PAGE - 1);
        let entry = table(self.place.view, access) + Tlb::place(at);
        if let Ok(page) = i32::try_from(page as i64) {
            // cmp qword [entry], page
            self.code.raw(&[0x48, 0x81, 0xbc, 0x24]);
            self.code.u32(entry as u32);
            self.code.u32(page as u32);
        } else {
            self.code.mov_imm(R9, page);
            self.code.indexed_none(0x39, R9, entry);
        }
        let slow = self.code.branch(JNE);
        self.code.load(R9, RSP_HOST, entry + 8);
        self.offset = (at - page) as i32;
        slow.into()
    }

    /// r10 no longer is the place of a page whose register changes.
    pub(super) fn forget_place_of_changed(&mut self, g: &Guest) {
        let Some(base) = self.placed else { return };
        let changed = |r: &iced_x86::UsedRegister| {
            super::writes(r.access()) && r.register().is_gpr() && r.register().full_register() == base
        };
        if self.uses.info(&g.instr).used_registers().iter().any(changed) {
            self.placed = None;
        }
    }

    /// The long ways of lookups, emitted behind the block.
    pub(super) fn finish_looks(&mut self) {
        let mut looks = std::mem::take(&mut self.looks);
        for look in &mut looks {
            self.code.here(look.from);
            match look.changed {
                Changed::ByWindow(view) => self.code.indexed_none(0x33, R9, window(view)),
                Changed::ByTable(table) => self.code.indexed(0x33, R9, R10, table),
            }
            let start = self.place.at;
            self.code.branch_to(CALL, start, look.long_way);
            look.failed = self.code.branch(JB);
            self.code.branch_to(JMP, start, start + look.back as u64);
        }
        self.looks = looks;
    }

    /// What has missed comes here.
    pub(super) fn missed(&mut self, from: &[Miss]) {
        for miss in from {
            let branch = match *miss {
                Miss::Branch(at) => at,
                Miss::Look(n) => self.looks[n].failed,
            };
            self.code.here(branch);
        }
    }
}
