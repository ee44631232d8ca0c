//! Random instructions and states that have a chance to do something.

use iced_x86::{Code, Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic, OpKind, Register};

use super::machine::{user_state, user_state32};
use super::{Case, Random};
use crate::host::oracle::{CODE, DATA, DATA_LEN};
use crate::state::{CodeSize, CpuState, RBP, RBX, RCX, RDI, RSI, RSP};

/// Instructions that reach beyond registers and memory of user space on the host, or whose result is the host's own.
const LEFT_OUT: &[Mnemonic] = &[
    Mnemonic::Arpl,
    Mnemonic::Cpuid,
    Mnemonic::Enter,
    Mnemonic::Int,
    Mnemonic::Int1,
    Mnemonic::Int3,
    Mnemonic::Iret,
    Mnemonic::Into,
    Mnemonic::Iretd,
    Mnemonic::Iretq,
    Mnemonic::Lar,
    Mnemonic::Lds,
    Mnemonic::Les,
    Mnemonic::Lfs,
    Mnemonic::Lgs,
    Mnemonic::Lsl,
    Mnemonic::Lss,
    Mnemonic::Popf,
    Mnemonic::Popfd,
    Mnemonic::Popfq,
    Mnemonic::Rdfsbase,
    Mnemonic::Rdgsbase,
    Mnemonic::Rdpmc,
    Mnemonic::Rdtsc,
    Mnemonic::Rdtscp,
    Mnemonic::Retf,
    Mnemonic::Sgdt,
    Mnemonic::Sidt,
    Mnemonic::Sldt,
    Mnemonic::Smsw,
    Mnemonic::Str,
    Mnemonic::Syscall,
    Mnemonic::Sysenter,
    Mnemonic::Sysexit,
    Mnemonic::Sysexitq,
    Mnemonic::Sysret,
    Mnemonic::Sysretq,
    Mnemonic::Verr,
    Mnemonic::Verw,
    Mnemonic::Vmcall,
    Mnemonic::Wrfsbase,
    Mnemonic::Wrgsbase,
    // Later than the model: older processors run them as something else.
    Mnemonic::Lzcnt,
    Mnemonic::Tzcnt,
];

/// Whether an instruction can be judged by the host's processor at user level.
pub(crate) fn comparable(i: &Instruction) -> bool {
    // fs has a base of the host's own.
    if i.is_invalid() || LEFT_OUT.contains(&i.mnemonic()) || i.segment_prefix() == Register::FS {
        return false;
    }
    if far(i) || matches!(i.flow_control(), FlowControl::Interrupt) {
        return false;
    }
    let segment = |n: u32| i.op_kind(n) == OpKind::Register && i.op_register(n).is_segment_register();
    if (0..i.op_count()).any(segment) {
        return false;
    }
    // What the model does not have may well work on the host.
    crate::decode::known(i)
}

fn far(i: &Instruction) -> bool {
    i.is_jmp_far() || i.is_call_far() || i.is_jmp_far_indirect() || i.is_call_far_indirect()
}

/// Whether it is one of the stores with a mask.
pub(crate) fn masked_store(i: &Instruction) -> bool {
    matches!(i.mnemonic(), Mnemonic::Maskmovdqu | Mnemonic::Maskmovq)
}

/// Whether an instruction makes more accesses than one, in an order of the processor's choice.
pub(crate) fn many_accesses(i: &Instruction) -> bool {
    matches!(i.mnemonic(), Mnemonic::Maskmovdqu | Mnemonic::Maskmovq)
        || i.memory_size().size() > 16
        || matches!(i.mnemonic(), Mnemonic::Fnstenv | Mnemonic::Fldenv)
        || i.is_string_instruction()
}

/// Whether an MMX register is among the operands.
pub(crate) fn uses_mmx(i: &Instruction) -> bool {
    (0..i.op_count()).any(|n| i.op_kind(n) == OpKind::Register && i.op_register(n).is_mm())
}

/// Flags that the manual leaves undefined after an instruction.
pub(crate) fn undefined_flags(i: &Instruction, s: &CpuState) -> u64 {
    use crate::flags::{AF, ARITH, CF, OF, PF, SF, ZF};
    let mut bits = 0;
    let u = i.rflags_undefined();
    for (bit, flag) in [
        (iced_x86::RflagsBits::OF, OF),
        (iced_x86::RflagsBits::SF, SF),
        (iced_x86::RflagsBits::ZF, ZF),
        (iced_x86::RflagsBits::AF, AF),
        (iced_x86::RflagsBits::CF, CF),
        (iced_x86::RflagsBits::PF, PF),
    ] {
        if u & bit != 0 {
            bits |= flag;
        }
    }
    if crate::decode::shifts(i) {
        // AF always; OF for counts other than one; CF when the count passes the operand.
        bits |= AF | OF;
        let size = match i.op_kind(0) {
            OpKind::Memory => i.memory_size().size(),
            _ => i.op0_register().size(),
        };
        let last = i.op_count() - 1;
        let count = if i.op_kind(last) == OpKind::Immediate8 { i.immediate(last) } else { s.gpr[RCX] };
        let count = count & if size == 8 { 63 } else { 31 };
        if count as usize > 8 * size {
            bits |= CF;
            if matches!(i.mnemonic(), Mnemonic::Shld | Mnemonic::Shrd) {
                bits |= ARITH;
            }
        }
    }
    bits
}

/// Random bytes that often are an instruction.
pub(super) fn bytes(r: &mut Random, size: CodeSize) -> [u8; 24] {
    let mut b = [0_u8; 24];
    for v in &mut b {
        *v = r.next() as u8;
    }
    let mut n = 0;
    let mut put = |v: u8| {
        b[n] = v;
        n += 1;
    };
    if r.one_in(4) {
        put([0x66, 0xf2, 0xf3, 0x67, 0xf0, 0x65][r.below(6) as usize]);
    }
    if r.one_in(8) {
        put([0x66, 0xf2, 0xf3][r.below(3) as usize]);
    }
    if size == CodeSize::Bits64 && r.one_in(2) {
        put(0x40 | r.below(16) as u8);
    }
    match r.below(8) {
        0..=2 => {}
        3..=5 => put(0x0f),
        6 => {
            put(0x0f);
            put(0x38);
        }
        _ => {
            put(0x0f);
            put(0x3a);
        }
    }
    b
}

/// A value that instructions like to trip over.
fn value(r: &mut Random) -> u64 {
    match r.below(8) {
        0 => 0,
        1 => u64::MAX,
        2 => 1 << r.below(64),
        3 => (1_u64 << r.below(64)).wrapping_sub(1),
        4 => r.next() >> r.below(64),
        5 => (r.next() as i64 >> r.below(63)) as u64,
        _ => r.next(),
    }
}

/// An address in or near the data pages.
fn address(r: &mut Random) -> u64 {
    let off = match r.below(16) {
        0 => r.below(DATA_LEN as u64 + 0x800),
        1 => 0x1000 - r.below(20),
        2 => 0x2000 - r.below(20),
        3 => DATA_LEN as u64 - r.below(20),
        4..=8 => 64 + (r.below(0x1f00) & !15),
        _ => 64 + r.below(0x1f00),
    };
    DATA + off
}

/// Makes a memory operand point at data: by its displacement if it has no register, else by its registers.
fn aim(r: &mut Random, i: &Instruction, code: &mut [u8], at: usize, s: &mut CpuState) {
    let target = address(r);
    let mut decoder = Decoder::with_ip(bits(s), &code[..], 0, DecoderOptions::NONE);
    let same = decoder.decode();
    let parts = decoder.get_constant_offsets(&same);
    let mut fixed = |v: u64, n: usize| {
        let p = parts.displacement_offset();
        code[p..p + n].copy_from_slice(&v.to_le_bytes()[..n]);
    };
    if i.is_ip_rel_memory_operand() {
        fixed(target.wrapping_sub(CODE + at as u64 + i.len() as u64), 4);
        return;
    }
    let (base, index) = (i.memory_base(), i.memory_index());
    if base == Register::None && index == Register::None {
        if parts.has_displacement() {
            fixed(target, parts.displacement_size());
        }
        return;
    }
    let disp = i.memory_displacement64();
    let mask = if base.size().max(index.size()) == 4 { 0xffff_ffff } else { u64::MAX };
    if base != Register::None {
        let mut scaled = 0;
        if index != Register::None && index.full_register() != base.full_register() {
            let v = r.below(64);
            s.gpr[index.full_register().number()] = v;
            scaled = v.wrapping_mul(u64::from(i.memory_index_scale()));
        }
        s.gpr[base.full_register().number()] = target.wrapping_sub(disp).wrapping_sub(scaled) & mask;
    } else {
        let scale = u64::from(i.memory_index_scale());
        s.gpr[index.full_register().number()] = (target.wrapping_sub(disp) / scale) & mask;
    }
}

/// Whether an instruction might reach what this program has mapped elsewhere: only our pages, their surroundings and what can't
/// be mapped are fair game.
fn near_anything_of_ours(i: &Instruction, s: &mut CpuState) -> bool {
    // Programs have nothing in the first pages; what is loaded anywhere lies beyond 32 bits.
    let wide = s.code64();
    let nowhere = |a: u64| if wide { a >= 0x8000_0000_0000 } else { !(0x1_0000..0x8000_0000).contains(&a) };
    let known = |a: u64| (DATA - 0x1_0000..DATA + 0x1_0000).contains(&a);
    let near = matches!(i.op0_kind(), OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64);
    if i.op_count() > 0 && near && i.near_branch_target() < CODE {
        return true;
    }
    let offset_by_register = matches!(i.mnemonic(), Mnemonic::Bt | Mnemonic::Bts | Mnemonic::Btr | Mnemonic::Btc)
        && i.op1_kind() == OpKind::Register;
    if offset_by_register && i.op0_kind() == OpKind::Memory {
        let r = i.op1_register().full_register();
        if r == i.memory_base().full_register() || r == i.memory_index().full_register() {
            return true;
        }
        s.gpr[r.number()] &= 0x7ff;
    }
    (0..i.op_count()).any(|n| {
        i.op_kind(n) == OpKind::Memory
            && i.mnemonic() != Mnemonic::Lea
            && i.virtual_address(n, 0, |r, _, _| {
                if r.is_segment_register() {
                    return Some(0);
                }
                let v = s.gpr[r.full_register().number()];
                // xlat adds al alone.
                Some(if r.size() == 4 {
                    v & 0xffff_ffff
                } else if r.size() == 1 {
                    v & 0xff
                } else {
                    v
                })
            })
            .is_none_or(|a| !known(a) && !nowhere(a))
    })
}

pub(super) fn state(r: &mut Random, size: CodeSize) -> CpuState {
    let narrow = size == CodeSize::Bits32;
    let mut s = if narrow { user_state32() } else { user_state() };
    for g in &mut s.gpr {
        *g = if narrow { value(r) & 0xffff_ffff } else { value(r) };
    }
    s.rflags = (r.next() & crate::flags::ARITH) | 0x202;
    if r.one_in(8) {
        s.rflags |= crate::flags::DF;
    }
    s.gpr[RSP] = address(r);
    let fx = &mut s.fx.0;
    for at in (160..416).step_by(8) {
        let v = value(r);
        let v = match r.below(4) {
            0 => (f64::from(r.next() as i32) / 64.0).to_bits(),
            1 => u64::from((f64::from(r.next() as i16) as f32).to_bits()) | (v & 0xffff_ffff_0000_0000),
            _ => v,
        };
        fx[at..at + 8].copy_from_slice(&v.to_le_bytes());
    }
    // Rounding, flush to zero and sticky flags vary; exceptions stay masked mostly.
    let mut mxcsr = 0x1f80_u32 | ((r.below(4) as u32) << 13);
    if r.one_in(8) {
        mxcsr |= 0x8040;
    }
    fx[24..28].copy_from_slice(&mxcsr.to_le_bytes());
    x87(r, fx);
    s
}

fn x87(r: &mut Random, fx: &mut [u8; 512]) {
    let control = 0x37f_u16 & !0xf00 | ((r.below(4) as u16) << 10) | ([0, 2, 3][r.below(3) as usize] << 8);
    fx[0..2].copy_from_slice(&control.to_le_bytes());
    let top = if r.one_in(4) { r.below(8) as u16 } else { 0 };
    let status = (top << 11) | (r.next() as u16 & 0x4700);
    fx[2..4].copy_from_slice(&status.to_le_bytes());
    fx[4] = if r.one_in(3) { r.next() as u8 } else { 0xff };
    for i in 0..8 {
        let exponent: u16 = match r.below(6) {
            0 => 0,
            1 => 0x7fff,
            2 => r.next() as u16,
            _ => (0x3fff_u16).wrapping_add((r.below(80) as u16).wrapping_sub(40)) | ((r.next() as u16) & 0x8000),
        };
        let fraction = if r.one_in(4) { 1 << 63 } else { value(r) | if r.one_in(8) { 0 } else { 1 << 63 } };
        let at = 32 + 16 * i;
        fx[at..at + 8].copy_from_slice(&fraction.to_le_bytes());
        fx[at + 8..at + 10].copy_from_slice(&exponent.to_le_bytes());
    }
}

/// The size of code in a state, for the decoder.
pub(crate) fn bits(s: &CpuState) -> u32 {
    if s.code64() { 64 } else { 32 }
}

/// A random case, if the bytes made one.
pub(crate) fn case(r: &mut Random) -> Option<Case> {
    let size = if r.one_in(2) { CodeSize::Bits32 } else { CodeSize::Bits64 };
    let mut code = bytes(r, size);
    let mut s = state(r, size);
    let i = Decoder::with_ip(bits(&s), &code, 0, DecoderOptions::NONE).decode();
    if !comparable(&i) {
        return None;
    }
    let at = 0x100 + r.below(0x800) as usize;
    if i.is_string_instruction() {
        (s.gpr[RSI], s.gpr[RDI], s.gpr[RCX]) = (address(r), address(r), r.below(40));
    }
    match i.mnemonic() {
        Mnemonic::Maskmovdqu | Mnemonic::Maskmovq => s.gpr[RDI] = address(r),
        Mnemonic::Leave => s.gpr[RBP] = address(r),
        Mnemonic::Xlatb => s.gpr[RBX] = address(r) & !0xff,
        _ => {}
    }
    if (0..i.op_count()).any(|n| i.op_kind(n) == OpKind::Memory) && !r.one_in(32) {
        aim(r, &i, &mut code, at, &mut s);
    }
    let i = Decoder::with_ip(bits(&s), &code, CODE + at as u64, DecoderOptions::NONE).decode();
    if i.code() == Code::INVALID {
        return None;
    }
    // A jump into itself would run on.
    let start = CODE + at as u64;
    let near = matches!(i.op0_kind(), OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64);
    if i.op_count() > 0 && near && (start..start + 15).contains(&i.near_branch_target()) {
        return None;
    }
    if near_anything_of_ours(&i, &mut s) {
        return None;
    }
    let mut page = Box::new([0xcc_u8; 4096]);
    page[at..at + i.len()].copy_from_slice(&code[..i.len()]);
    s.rip = CODE + at as u64;
    let mut data = vec![0_u8; DATA_LEN];
    for chunk in data.chunks_mut(8) {
        chunk.copy_from_slice(&value(r).to_le_bytes());
    }
    // Jumps through memory land somewhere definite: in the code page.
    if i.flow_control() == FlowControl::IndirectBranch
        || i.flow_control() == FlowControl::IndirectCall
        || i.flow_control() == FlowControl::Return
    {
        for chunk in data.chunks_mut(8) {
            chunk.copy_from_slice(&(CODE + 0xa00 + r.below(0x500)).to_le_bytes());
        }
        if i.op_count() > 0 && i.op_kind(0) == OpKind::Register {
            s.gpr[i.op0_register().full_register().number()] = CODE + 0xa00 + r.below(0x500);
        }
    }
    Some(Case { page, at, instr: i, state: s, data })
}
