//! Guest bytes to ops: an op is a handler with its operands spelt out, a block is a run of ops up to a jump.
//!
//! Blocks are found by guest-physical address and code size, so that they outlive changes of page tables; addresses in them are
//! relative to the instruction pointer for the same reason.

pub(crate) mod cache;
mod table;

pub(crate) use table::unaligned;

use iced_x86::{CpuidFeature, Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic, OpKind, Register};

use crate::exec::Exec;
use crate::fault::Done;
use crate::host::native::{Natives, Stub, Unit};
use crate::interp::{fpu, invalid};
use crate::state::{CodeSize, DS, SS};

/// What an instruction does.
pub(crate) type Handler = fn(&mut Exec<'_>, &Op) -> Done;

/// No register.
pub(crate) const NONE: u8 = 0xff;
/// The instruction pointer as base register.
pub(crate) const RIP: u8 = 0x20;
/// Operand codes: 0 to 15 a general register, 16 to 19 ah, ch, dh, bh.
pub(crate) const MEM: u8 = 0x40;
/// The immediate.
pub(crate) const IMM: u8 = 0x41;
/// A segment register: this plus its number.
pub(crate) const SEG: u8 = 0x50;
/// A control register.
pub(crate) const CR: u8 = 0x60;
/// A debug register.
pub(crate) const DR: u8 = 0x80;

/// How an instruction is repeated or locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Prefix {
    None,
    Lock,
    Rep,
    Repne,
}

/// One instruction, ready to run.
#[derive(Clone, Copy)]
pub(crate) struct Op {
    pub(crate) run: Handler,
    /// The immediate, sign-extended; for relative jumps the distance from the next instruction.
    pub(crate) imm: u64,
    pub(crate) disp: u64,
    pub(crate) base: u8,
    pub(crate) index: u8,
    /// Left shift of the index.
    pub(crate) scale: u8,
    pub(crate) seg: u8,
    /// Bytes of addresses.
    pub(crate) addr: u8,
    /// Operand codes.
    pub(crate) a: u8,
    pub(crate) b: u8,
    pub(crate) c: u8,
    /// Length in bytes.
    pub(crate) len: u8,
    /// Bytes of the operand; of what goes on the stack for pushes, pops, calls, returns.
    pub(crate) size: u8,
    /// Bytes of the second operand where they differ.
    pub(crate) size2: u8,
    /// Condition of jumps, sets and moves.
    pub(crate) cond: u8,
    pub(crate) prefix: Prefix,
    /// Properties of an instruction that runs natively.
    pub(crate) native: fpu::Native,
}

/// Whether the block ends behind an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flow {
    Next,
    Ends,
}

/// Instruction sets beyond which the CPU model has nothing: anything else is an unknown instruction.
const KNOWN: &[CpuidFeature] = &[
    CpuidFeature::INTEL8086,
    CpuidFeature::INTEL8086_ONLY,
    CpuidFeature::INTEL186,
    CpuidFeature::INTEL286,
    CpuidFeature::INTEL286_ONLY,
    CpuidFeature::INTEL386,
    CpuidFeature::INTEL386_ONLY,
    CpuidFeature::INTEL486,
    CpuidFeature::X64,
    CpuidFeature::CLFSH,
    CpuidFeature::CMOV,
    CpuidFeature::CMPXCHG16B,
    CpuidFeature::CPUID,
    CpuidFeature::CX8,
    CpuidFeature::FPU,
    CpuidFeature::FPU287,
    CpuidFeature::FPU387,
    CpuidFeature::FSGSBASE,
    CpuidFeature::FXSR,
    CpuidFeature::INVPCID,
    CpuidFeature::MMX,
    CpuidFeature::MSR,
    CpuidFeature::MULTIBYTENOP,
    CpuidFeature::PAUSE,
    CpuidFeature::POPCNT,
    CpuidFeature::PREFETCHW,
    CpuidFeature::RDPMC,
    CpuidFeature::RDTSCP,
    CpuidFeature::SEP,
    CpuidFeature::SMAP,
    CpuidFeature::SSE,
    CpuidFeature::SSE2,
    CpuidFeature::SSE3,
    CpuidFeature::SSSE3,
    CpuidFeature::SSE4_1,
    CpuidFeature::SSE4_2,
    CpuidFeature::SYSCALL,
    CpuidFeature::TSC,
    CpuidFeature::CET_IBT,
    CpuidFeature::VMX,
];

/// Bytes of an instruction at most.
const LONGEST: usize = 15;

/// Decodes the instruction at the start of `bytes`; nothing if they end before it does. One that is too long has
/// the code [`iced_x86::Code::DeclareByte`].
pub(crate) fn instruction(bytes: &[u8], size: CodeSize) -> Option<Instruction> {
    let bits = match size {
        CodeSize::Bits16 => 16,
        CodeSize::Bits32 => 32,
        CodeSize::Bits64 => 64,
    };
    let decode = |bytes| {
        let mut d = Decoder::with_ip(bits, bytes, 0, DecoderOptions::NONE);
        let i = d.decode();
        let unfinished = i.is_invalid() && d.last_error() == iced_x86::DecoderError::NoMoreBytes;
        (i, unfinished)
    };
    let (mut i, unfinished) = decode(bytes);
    if unfinished && bytes.len() < LONGEST {
        return None;
    }
    // Where there are enough bytes the decoder does not tell too many of them from wrong ones.
    if i.is_invalid() && bytes.len() >= LONGEST && decode(&bytes[..LONGEST - 1]).1 {
        i.set_code(iced_x86::Code::DeclareByte);
        i.set_len(LONGEST);
    }
    Some(i)
}

fn arg(instr: &Instruction, i: u32) -> u8 {
    if i >= instr.op_count() {
        return NONE;
    }
    match instr.op_kind(i) {
        OpKind::Register => register(instr.op_register(i)),
        OpKind::Memory => MEM,
        _ => IMM,
    }
}

fn register(r: Register) -> u8 {
    match r {
        Register::AH => 16,
        Register::CH => 17,
        Register::DH => 18,
        Register::BH => 19,
        _ if r.is_gpr() => r.full_register().number() as u8,
        _ if r.is_segment_register() => SEG + r.number() as u8,
        _ if r.is_cr() => CR + r.number() as u8,
        _ if r.is_dr() => DR + r.number() as u8,
        _ => NONE,
    }
}

fn base_register(r: Register) -> u8 {
    match r {
        Register::None => NONE,
        Register::RIP | Register::EIP => RIP,
        _ => r.full_register().number() as u8,
    }
}

/// Bytes of the first operand.
fn operand_size(instr: &Instruction) -> u8 {
    let first = |i: u32| match instr.op_kind(i) {
        OpKind::Register if instr.op_register(i).is_gpr() => instr.op_register(i).size(),
        OpKind::Memory => instr.memory_size().size(),
        _ => 0,
    };
    let n = (0..instr.op_count()).map(first).find(|&n| n != 0).unwrap_or(0);
    if n == 0 && instr.is_string_instruction() { instr.memory_size().size() as u8 } else { n as u8 }
}

fn segment(instr: &Instruction, base: u8, size: CodeSize) -> u8 {
    let prefix = instr.segment_prefix();
    if size == CodeSize::Bits64 && !matches!(prefix, Register::FS | Register::GS) {
        // The other prefixes mean nothing here, not even which exception a bad address is.
        return if matches!(base, 4 | 5) { SS as u8 } else { DS as u8 };
    }
    match instr.segment_prefix() {
        Register::None if base == 4 || base == 5 => {
            // rsp and rbp stand for the stack, and so does bp in 16-bit addresses.
            if instr.memory_segment() == Register::SS { SS as u8 } else { DS as u8 }
        }
        Register::None => DS as u8,
        s => s.number() as u8,
    }
}

fn address_size(instr: &Instruction, size: CodeSize) -> u8 {
    let by_operand = (0..instr.op_count()).find_map(|i| match instr.op_kind(i) {
        OpKind::MemorySegSI | OpKind::MemorySegDI | OpKind::MemoryESDI => Some(2),
        OpKind::MemorySegESI | OpKind::MemorySegEDI | OpKind::MemoryESEDI => Some(4),
        OpKind::MemorySegRSI | OpKind::MemorySegRDI | OpKind::MemoryESRDI => Some(8),
        _ => None,
    });
    if let Some(n) = by_operand {
        return n;
    }
    let r = if instr.memory_base() != Register::None { instr.memory_base() } else { instr.memory_index() };
    match r {
        Register::None => match (size, instr.memory_displ_size()) {
            (CodeSize::Bits64, 4) => 4,
            (CodeSize::Bits64, _) => 8,
            (CodeSize::Bits32, 2) | (CodeSize::Bits16, 1 | 2) => 2,
            (CodeSize::Bits32, _) | (CodeSize::Bits16, 4) => 4,
            (CodeSize::Bits16, _) => 2,
        },
        Register::RIP => 8,
        Register::EIP => 4,
        r => r.size() as u8,
    }
}

/// The address size of `loop`, `jcxz` and friends, which is in the code alone.
fn count_size(instr: &Instruction) -> u8 {
    use iced_x86::Code as C;
    match instr.code() {
        C::Loopne_rel8_16_CX
        | C::Loopne_rel8_32_CX
        | C::Loope_rel8_16_CX
        | C::Loope_rel8_32_CX
        | C::Loop_rel8_16_CX
        | C::Loop_rel8_32_CX
        | C::Jcxz_rel8_16
        | C::Jcxz_rel8_32 => 2,
        C::Loopne_rel8_16_ECX
        | C::Loopne_rel8_32_ECX
        | C::Loopne_rel8_64_ECX
        | C::Loope_rel8_16_ECX
        | C::Loope_rel8_32_ECX
        | C::Loope_rel8_64_ECX
        | C::Loop_rel8_16_ECX
        | C::Loop_rel8_32_ECX
        | C::Loop_rel8_64_ECX
        | C::Jecxz_rel8_16
        | C::Jecxz_rel8_32
        | C::Jecxz_rel8_64 => 4,
        _ => 8,
    }
}

fn immediate(instr: &Instruction) -> u64 {
    let mut v = 0;
    for i in 0..instr.op_count() {
        match instr.op_kind(i) {
            OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64 => {
                return instr.near_branch_target().wrapping_sub(instr.len() as u64);
            }
            OpKind::FarBranch16 => {
                return u64::from(instr.far_branch16()) | (u64::from(instr.far_branch_selector()) << 32);
            }
            OpKind::FarBranch32 => {
                return u64::from(instr.far_branch32()) | (u64::from(instr.far_branch_selector()) << 32);
            }
            OpKind::Immediate8_2nd => v |= instr.immediate(i) << 16,
            k if (OpKind::Immediate8..=OpKind::Immediate32to64).contains(&k) => v = instr.immediate(i),
            _ => {}
        }
    }
    v
}

/// Whether the block has to end here: jumps, and whatever changes how what follows is to be run.
fn flow(instr: &Instruction) -> Flow {
    if instr.flow_control() != FlowControl::Next {
        return Flow::Ends;
    }
    let ends = matches!(
        instr.mnemonic(),
        Mnemonic::Hlt
            | Mnemonic::Sti
            | Mnemonic::Popf
            | Mnemonic::Popfd
            | Mnemonic::Popfq
            | Mnemonic::Wrmsr
            | Mnemonic::Stac
            | Mnemonic::Clac
            | Mnemonic::Lmsw
            | Mnemonic::Invlpg
            | Mnemonic::Invpcid
            | Mnemonic::Cpuid
            | Mnemonic::Clts
            | Mnemonic::Out
            | Mnemonic::Outsb
            | Mnemonic::Outsw
            | Mnemonic::Outsd
            | Mnemonic::Pause
    ) || (instr.op_count() > 0
        && instr.op_kind(0) == OpKind::Register
        && (instr.op0_register().is_cr()
            || instr.op0_register().is_dr()
            || instr.op0_register().is_segment_register()))
        || (instr.mnemonic() == Mnemonic::Pop && instr.op0_register().is_segment_register());
    if ends { Flow::Ends } else { Flow::Next }
}

/// Whether what follows an instruction has to be looked at anew.
pub(crate) fn ends_block(instr: &Instruction) -> bool {
    flow(instr) == Flow::Ends
}

/// The op of an instruction in code of `size`.
pub(crate) fn op(instr: &Instruction, size: CodeSize, natives: &mut Natives) -> (Op, Flow) {
    let base = base_register(instr.memory_base());
    let has_mem = (0..instr.op_count()).any(|i| instr.op_kind(i) == OpKind::Memory);
    let rip_relative = has_mem && base == RIP;
    let disp = instr.memory_displacement64();
    let increment = instr.stack_pointer_increment().unsigned_abs();
    let mut op = Op {
        run: invalid,
        imm: immediate(instr),
        disp: if rip_relative { disp.wrapping_sub(instr.len() as u64) } else { disp },
        base: if has_mem { base } else { NONE },
        index: if has_mem { base_register(instr.memory_index()) } else { NONE },
        scale: instr.memory_index_scale().trailing_zeros() as u8,
        seg: segment(instr, base, size),
        addr: if has_mem || instr.is_string_instruction() { address_size(instr, size) } else { count_size(instr) },
        a: arg(instr, 0),
        b: arg(instr, 1),
        c: arg(instr, 2),
        len: instr.len() as u8,
        size: if increment > 0 && increment <= 8 { increment as u8 } else { operand_size(instr) },
        size2: second_size(instr),
        cond: condition(instr),
        prefix: prefix(instr),
        native: fpu::Native::NONE,
    };
    if instr.code() == iced_x86::Code::DeclareByte {
        op.run = crate::interp::too_long;
    } else if known(instr) {
        op.run = table::handler(instr, &mut op, size, natives);
    }
    let ends = instr.code() == iced_x86::Code::DeclareByte;
    (op, if ends { Flow::Ends } else { flow(instr) })
}

/// Whether the CPU model has an instruction.
pub(crate) fn known(instr: &Instruction) -> bool {
    !instr.is_invalid()
        && instr.code() != iced_x86::Code::DeclareByte
        && instr.cpuid_features().iter().all(|f| KNOWN.contains(f))
        || demoted(instr)
}

/// Later instructions that older CPUs run as something else: tzcnt is bsf with a prefix, lzcnt bsr, wbnoinvd wbinvd, and what stands
/// where there was room for hints does nothing. Programs rely on it: they read a shadow stack's pointer to learn whether there is one.
fn demoted(instr: &Instruction) -> bool {
    use Mnemonic as M;
    let scan = matches!(instr.mnemonic(), M::Lzcnt | M::Tzcnt | M::Wbnoinvd);
    let hint = matches!(
        instr.mnemonic(),
        M::Cldemote
            | M::Endbr32
            | M::Endbr64
            | M::Prefetchit0
            | M::Prefetchit1
            | M::Prefetchwt1
            | M::Rdsspd
            | M::Rdsspq
    );
    scan || hint
}

/// Whether an instruction shifts or rotates by a count.
pub(crate) fn shifts(i: &Instruction) -> bool {
    use Mnemonic as M;
    let m = i.mnemonic();
    matches!(m, M::Rcl | M::Rcr | M::Rol | M::Ror | M::Sal | M::Sar | M::Shl | M::Shld | M::Shr | M::Shrd)
}

/// What older CPUs make of a scan with a prefix.
pub(crate) fn as_older(mut instr: Instruction) -> Instruction {
    use iced_x86::Code as C;
    let code = match instr.code() {
        C::Tzcnt_r16_rm16 => C::Bsf_r16_rm16,
        C::Tzcnt_r32_rm32 => C::Bsf_r32_rm32,
        C::Tzcnt_r64_rm64 => C::Bsf_r64_rm64,
        C::Lzcnt_r16_rm16 => C::Bsr_r16_rm16,
        C::Lzcnt_r32_rm32 => C::Bsr_r32_rm32,
        C::Lzcnt_r64_rm64 => C::Bsr_r64_rm64,
        other => other,
    };
    instr.set_code(code);
    instr
}

fn second_size(instr: &Instruction) -> u8 {
    if instr.op_count() < 2 {
        return 0;
    }
    match instr.op_kind(1) {
        OpKind::Register => instr.op_register(1).size() as u8,
        OpKind::Memory => instr.memory_size().size() as u8,
        _ => 0,
    }
}

fn condition(instr: &Instruction) -> u8 {
    // iced numbers conditions from 1 in the order of the codes.
    match instr.condition_code() {
        iced_x86::ConditionCode::None => 0,
        c => c as u8 - 1,
    }
}

fn prefix(instr: &Instruction) -> Prefix {
    if instr.has_lock_prefix() {
        Prefix::Lock
    } else if instr.has_repne_prefix() {
        Prefix::Repne
    } else if instr.has_rep_prefix() {
        Prefix::Rep
    } else {
        Prefix::None
    }
}

/// The stub of an instruction that runs natively.
fn native_stub(instr: &Instruction, unit: Unit, natives: &mut Natives) -> Option<Stub> {
    natives.stub(instr, unit)
}

impl Exec<'_> {
    /// The offset of an op's memory operand in its segment.
    #[inline(always)]
    pub(crate) fn offset(&self, op: &Op) -> u64 {
        let mut a = op.disp;
        if op.base < 16 {
            a = a.wrapping_add(self.s.gpr[usize::from(op.base)]);
        } else if op.base == RIP {
            a = a.wrapping_add(self.s.rip);
        }
        if op.index < 16 {
            a = a.wrapping_add(self.s.gpr[usize::from(op.index)] << op.scale);
        }
        match op.addr {
            8 => a,
            4 => a & 0xffff_ffff,
            _ => a & 0xffff,
        }
    }

    /// The value of an operand in `B` bytes.
    #[inline(always)]
    pub(crate) fn arg<const B: usize>(&mut self, op: &Op, code: u8) -> Result<u64, crate::fault::Fault> {
        if code < 20 {
            Ok(self.reg::<B>(code))
        } else if code == IMM {
            Ok(op.imm & crate::flags::mask::<B>())
        } else {
            let off = self.offset(op);
            self.read::<B>(usize::from(op.seg), off)
        }
    }

    /// Sets a register or memory operand.
    #[inline(always)]
    pub(crate) fn set_arg<const B: usize>(&mut self, op: &Op, code: u8, v: u64) -> Done {
        if code < 20 {
            self.set_reg::<B>(code, v);
            Ok(())
        } else {
            let off = self.offset(op);
            self.write::<B>(usize::from(op.seg), off, v)
        }
    }
}
