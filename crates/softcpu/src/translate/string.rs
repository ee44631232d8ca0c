//! Repeated moves and fills: the host's own instruction does them where each operand lies inside a page that is at hand.

use iced_x86::{Mnemonic, OpKind, Register};

use super::{Access, Guest, JA, JNE, Miss, R9, R10, RSP_HOST, Translator};
use crate::host::jit::{RFLAGS, SPARE};
use crate::host::ram::PAGE;

/// `jg rel32`.
const JG: &[u8] = &[0x0f, 0x8f];
/// The registers of string instructions.
const RSI: u8 = 6;
const RDI: u8 = 7;

/// What is repeated.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Work {
    Move,
    Fill,
}

impl Translator<'_> {
    /// rep movs and rep stos; no answer if it is neither, or in an unusual form.
    pub(super) fn string(&mut self, g: &Guest, behind: usize) -> Option<()> {
        let i = &g.instr;
        let (work, size): (Work, u8) = match i.mnemonic() {
            Mnemonic::Movsb => (Work::Move, 1),
            Mnemonic::Movsw => (Work::Move, 2),
            Mnemonic::Movsd => (Work::Move, 4),
            Mnemonic::Movsq => (Work::Move, 8),
            Mnemonic::Stosb => (Work::Fill, 1),
            Mnemonic::Stosw => (Work::Fill, 2),
            Mnemonic::Stosd => (Work::Fill, 4),
            Mnemonic::Stosq => (Work::Fill, 8),
            _ => return None,
        };
        // movsd is the name of a vector instruction, too.
        let (to, from) = match self.narrow() {
            true => (OpKind::MemoryESEDI, OpKind::MemorySegESI),
            false => (OpKind::MemoryESRDI, OpKind::MemorySegRSI),
        };
        let plain = i.op0_kind() == to && i.has_rep_prefix();
        if !plain || (work == Work::Move && i.op1_kind() != from) {
            return None;
        }
        if matches!(i.segment_prefix(), Register::CS | Register::FS | Register::GS) {
            return None;
        }
        self.free_flags(g);
        // test byte [rflags + 1], 4: downwards
        self.code.raw(&[0xf6, 0x84, 0x24]);
        self.code.u32((RFLAGS + 1) as u32);
        self.code.u8(4);
        let mut slow: Vec<Miss> = vec![self.code.branch(JNE).into()];
        // cmp rcx, the elements of a page
        self.code.raw(&[0x48, 0x81, 0xf9]);
        self.code.u32(PAGE as u32 / u32::from(size));
        slow.push(self.code.branch(JA).into());
        if work == Work::Move {
            self.mov_word(R9, RSI);
            slow.push(self.lookup(Access::Read, 1, false));
            slow.push(self.branch_if_beyond(size).into());
            self.code.store(RSP_HOST, SPARE, R9);
        }
        self.mov_word(R9, RDI);
        slow.push(self.lookup(Access::Write, 1, false));
        slow.push(self.branch_if_beyond(size).into());
        self.run_string(work, size);
        self.slow_step(g, behind, slow, self.flags);
        Some(())
    }

    /// A branch that is taken if rcx elements from the host address in r9 on do not end in its page. r10 is lost.
    fn branch_if_beyond(&mut self, size: u8) -> usize {
        // mov r10d, r9d; or r10, -4096: what is left of the page, below zero
        self.code.raw(&[0x45, 0x89, 0xca, 0x49, 0x81, 0xca]);
        self.code.u32((PAGE as u32).wrapping_neg());
        // lea r10, [r10 + rcx * size]; test r10, r10
        self.code.raw(&[0x4d, 0x8d, 0x14, scaled(size) | (1 << 3) | 2, 0x4d, 0x85, 0xd2]);
        self.code.branch(JG)
    }

    /// The work itself: to the host address in r9, from the one in the spare slot.
    fn run_string(&mut self, work: Work, size: u8) {
        // Without REX.W in 32-bit code: lea r10, [rdi + rcx * size]
        let rex = if self.narrow() { 0x44 } else { 0x4c };
        self.code.raw(&[rex, 0x8d, 0x14, scaled(size) | (1 << 3) | RDI]);
        self.code.mov(RDI, R9);
        let mut opcode = 0xaa;
        if work == Work::Move {
            // lea r9, [rsi + rcx * size]
            self.code.raw(&[rex, 0x8d, 0x0c, scaled(size) | (1 << 3) | RSI]);
            self.code.load(RSI, RSP_HOST, SPARE);
            opcode = 0xa4;
        }
        match size {
            1 => self.code.raw(&[0xf3, opcode]),
            2 => self.code.raw(&[0x66, 0xf3, opcode | 1]),
            4 => self.code.raw(&[0xf3, opcode | 1]),
            _ => self.code.raw(&[0xf3, 0x48, opcode | 1]),
        }
        self.code.mov(RDI, R10);
        if work == Work::Move {
            self.code.mov(RSI, R9);
        }
    }
}

/// The scale of a SIB byte, for an index in rcx.
fn scaled(size: u8) -> u8 {
    (size.trailing_zeros() as u8) << 6
}
