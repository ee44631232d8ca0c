//! Bit tests in memory by a number in a register: the bit may lie far from the operand.

use iced_x86::{Mnemonic, OpKind, Register};

use super::{Access, Guest, Locks, R9, R10, R11, RSP_HOST, Translator, in_memory, is_memory};
use crate::host::emit::Reg;
use crate::host::jit::{SPARE, gpr};

impl Translator<'_> {
    /// bt, bts, btr and btc of memory by a register; no answer if it is none of them.
    pub(super) fn bit_in_memory(&mut self, g: &Guest, behind: usize) -> Option<()> {
        let i = &g.instr;
        // The opcode behind 0f.
        let opcode = match i.mnemonic() {
            Mnemonic::Bt => 0xa3,
            Mnemonic::Bts => 0xab,
            Mnemonic::Btr => 0xb3,
            Mnemonic::Btc => 0xbb,
            _ => return None,
        };
        let size = i.memory_size().size();
        if !is_memory(i, 0) || i.op1_kind() != OpKind::Register || !matches!(size, 4 | 8) {
            return None;
        }
        // An address of 32 bits would wrap.
        let short = i.memory_base().size().max(i.memory_index().size()) == 4;
        if short && !self.narrow() || self.narrow() && matches!(i.memory_segment(), Register::FS | Register::GS) {
            return None;
        }
        let w = if size == 8 { 8 } else { 0 };
        self.address(i, g.rip)?;
        self.free_flags(g);
        self.bit_number(g, R10);
        // and r10, the bits of an operand, kept for later
        self.code.raw(&[0x41, 0x83, 0xe2, 8 * size as u8 - 1]);
        self.code.store(RSP_HOST, SPARE, R10);
        self.bit_number(g, R10);
        if size == 4 {
            // movsxd r10, r10d
            self.code.raw(&[0x4d, 0x63, 0xd2]);
        }
        // sar r10, 3; and r10, whole operands; add r9, r10
        self.code.raw(&[0x49, 0xc1, 0xfa, 3, 0x49, 0x83, 0xe2, (size as u8).wrapping_neg(), 0x4d, 0x01, 0xd1]);
        if self.narrow() {
            self.code.mov32(R9, R9);
        }
        let access = if opcode == 0xa3 { Access::Read } else { Access::Write };
        let slow = self.lookup(access, size, false);
        let flags = self.flags;
        self.before(g);
        self.code.load(R10, RSP_HOST, SPARE);
        if opcode == 0xa3 {
            // mov r9, [r9]; bt r9, r10
            self.code.raw(&[0x45 | w, 0x8b, 0x09, 0x45 | w, 0x0f, opcode, 0xd1]);
        } else {
            if i.has_lock_prefix() && self.place.locks == Locks::Kept {
                self.code.u8(0xf0);
            }
            // op [r9], r10
            self.code.raw(&[0x45 | w, 0x0f, opcode, 0x11]);
        }
        self.behind(g);
        self.slow_step(g, behind, vec![slow], flags);
        Some(())
    }

    /// The number of the bit, in a scratch register.
    fn bit_number(&mut self, g: &Guest, to: Reg) {
        let r = g.instr.op1_register();
        match r.full_register().number() as u8 {
            n if in_memory(r) => self.code.load(to, RSP_HOST, gpr(n)),
            4 => self.code.mov(to, R11),
            n => self.code.mov(to, n),
        }
        debug_assert_ne!(to, R9, "the address");
    }
}
