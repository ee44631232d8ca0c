//! 32-bit code: the same blocks, with words of four bytes on the stack and addresses of 32 bits.
//!
//! It is translated where code, data and stack segments are the whole address space, so that offsets are addresses; fs and gs may have a
//! base. The few encodings that mean something else to a 64-bit host are made anew in another form; the rest is copied.

use iced_x86::{Code, FlowControl, Instruction, Mnemonic, OpKind, Register};

use super::Translator;
use crate::host::emit::Reg;
use crate::state::CodeSize;

/// Whether an instruction's bytes are the same to the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Same,
    Other,
}

/// What the host has in place of an instruction of 32-bit code.
pub(super) fn widened(mut i: Instruction) -> (Instruction, Form) {
    use Code as C;
    let code = match i.code() {
        C::Inc_r16 => C::Inc_rm16,
        C::Inc_r32 => C::Inc_rm32,
        C::Dec_r16 => C::Dec_rm16,
        C::Dec_r32 => C::Dec_rm32,
        C::Mov_AL_moffs8 => C::Mov_r8_rm8,
        C::Mov_AX_moffs16 => C::Mov_r16_rm16,
        C::Mov_EAX_moffs32 => C::Mov_r32_rm32,
        C::Mov_moffs8_AL => C::Mov_rm8_r8,
        C::Mov_moffs16_AX => C::Mov_rm16_r16,
        C::Mov_moffs32_EAX => C::Mov_rm32_r32,
        C::Add_rm8_imm8_82 => C::Add_rm8_imm8,
        C::Or_rm8_imm8_82 => C::Or_rm8_imm8,
        C::Adc_rm8_imm8_82 => C::Adc_rm8_imm8,
        C::Sbb_rm8_imm8_82 => C::Sbb_rm8_imm8,
        C::And_rm8_imm8_82 => C::And_rm8_imm8,
        C::Sub_rm8_imm8_82 => C::Sub_rm8_imm8,
        C::Xor_rm8_imm8_82 => C::Xor_rm8_imm8,
        C::Cmp_rm8_imm8_82 => C::Cmp_rm8_imm8,
        _ => return (i, Form::Same),
    };
    i.set_code(code);
    (i, Form::Other)
}

/// Whether an instruction is the dispatcher's in 32-bit code, beside those that are in any: it loads a segment, or jumps in 16 bits.
pub(super) fn ends(i: &Instruction) -> bool {
    use Mnemonic as M;
    if matches!(i.mnemonic(), M::Lds | M::Les | M::Lfs | M::Lgs | M::Lss) {
        return true;
    }
    if i.flow_control() == FlowControl::Next {
        return false;
    }
    let near = i.op_count() > 0 && i.op_kind(0) == OpKind::NearBranch16;
    let pushes = i.stack_pointer_increment().unsigned_abs();
    let by_number = matches!(i.flow_control(), FlowControl::IndirectBranch | FlowControl::IndirectCall);
    let target = if i.op_count() > 0 && i.op_kind(0) == OpKind::Memory {
        i.memory_size().size()
    } else {
        i.op0_register().size()
    };
    let returns = matches!(i.code(), Code::Retnw | Code::Retnw_imm16);
    near || returns || (i.flow_control() == FlowControl::Call && pushes != 4) || (by_number && target != 4) || by_cx(i)
}

/// Whether a jump looks at cx.
fn by_cx(i: &Instruction) -> bool {
    matches!(i.code(), Code::Jcxz_rel8_16 | Code::Jcxz_rel8_32)
}

impl Translator<'_> {
    /// Whether the code has 32 bits.
    pub(super) fn narrow(&self) -> bool {
        self.place.size == CodeSize::Bits32
    }

    /// Bytes of a word on the stack.
    pub(super) fn word(&self) -> usize {
        if self.narrow() { 4 } else { 8 }
    }

    /// Whether a register is a general one as wide as a word.
    pub(super) fn is_word(&self, r: Register) -> bool {
        r.is_gpr() && r.size() == self.word()
    }

    /// `mov reg, [base + disp]` of a word.
    pub(super) fn load_word(&mut self, reg: Reg, base: Reg, disp: i32) {
        if self.narrow() { self.code.load32(reg, base, disp) } else { self.code.load(reg, base, disp) }
    }

    /// `mov [base + disp], reg` of a word.
    pub(super) fn store_word(&mut self, base: Reg, disp: i32, reg: Reg) {
        if self.narrow() { self.code.store32(base, disp, reg) } else { self.code.store(base, disp, reg) }
    }

    /// `mov [base + disp], imm` of a word.
    pub(super) fn store_word_imm(&mut self, base: Reg, disp: i32, v: i32) {
        if self.narrow() { self.code.store32_imm(base, disp, v) } else { self.code.store_imm(base, disp, v) }
    }

    /// `lea dst, [base + disp]`, as wide as addresses are.
    pub(super) fn lea_word(&mut self, dst: Reg, base: Reg, disp: i32) {
        if self.narrow() { self.code.lea32(dst, base, disp) } else { self.code.lea(dst, base, disp) }
    }

    /// `mov dst, src`, as wide as addresses are.
    pub(super) fn mov_word(&mut self, dst: Reg, src: Reg) {
        if self.narrow() { self.code.mov32(dst, src) } else { self.code.mov(dst, src) }
    }
}
