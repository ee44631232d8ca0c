//! Instructions that are copied: which they are, and how their operands are renamed.

use iced_x86::{CpuidFeature, Instruction, InstructionInfoFactory, Mnemonic, OpKind, Register};

use super::narrow::Form;
use super::{
    Access, Fpu, Guest, Locks, R9, R10, R11, RSP_HOST, Translator, in_memory, is_memory, stack_register, writes,
};
use crate::host::emit::Reg;
use crate::host::jit::{beyond, gpr, segment_base};
use crate::host::native::gpr64;
use crate::host::ram::PAGE;

/// How an instruction may be treated.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    /// Copied.
    Copied,
    /// Without effect here.
    Nothing,
}

/// A memory operand.
pub(super) struct Memory {
    pub(super) access: Access,
    pub(super) size: usize,
    /// Faults unless aligned to 16.
    pub(super) aligned: bool,
}

/// Integer instructions that do natively what the interpreter does.
fn integer(i: &Instruction) -> bool {
    use Mnemonic as M;
    match i.mnemonic() {
        M::Bt | M::Bts | M::Btr | M::Btc => !is_memory(i, 0) || i.op1_kind() == OpKind::Immediate8,
        M::Mov => (0..2).all(|n| i.op_kind(n) != OpKind::Register || i.op_register(n).is_gpr()),
        M::Adc
        | M::Add
        | M::And
        | M::Bsf
        | M::Bsr
        | M::Bswap
        | M::Cbw
        | M::Cdq
        | M::Cdqe
        | M::Clc
        | M::Cmc
        | M::Cmp
        | M::Cmpxchg
        | M::Cmpxchg16b
        | M::Cmpxchg8b
        | M::Cqo
        | M::Crc32
        | M::Cwd
        | M::Cwde
        | M::Dec
        | M::Imul
        | M::Inc
        | M::Lahf
        | M::Lea
        | M::Lfence
        | M::Mfence
        | M::Movnti
        | M::Movsx
        | M::Movsxd
        | M::Movzx
        | M::Mul
        | M::Neg
        | M::Not
        | M::Or
        | M::Popcnt
        | M::Rcl
        | M::Rcr
        | M::Rol
        | M::Ror
        | M::Sahf
        | M::Sal
        | M::Sar
        | M::Sbb
        | M::Sfence
        | M::Shl
        | M::Shld
        | M::Shr
        | M::Shrd
        | M::Stc
        | M::Sub
        | M::Test
        | M::Xadd
        | M::Xchg
        | M::Xor => true,
        m => {
            let name = m as u32;
            (M::Cmova as u32..=M::Cmovs as u32).contains(&name) || (M::Seta as u32..=M::Sets as u32).contains(&name)
        }
    }
}

/// Whether and how an instruction is copied.
pub(super) fn class(i: &Instruction, fpu: Fpu) -> Option<Class> {
    use Mnemonic as M;
    match i.mnemonic() {
        M::Nop
        | M::Reservednop
        | M::Endbr32
        | M::Endbr64
        | M::Prefetchnta
        | M::Prefetcht0
        | M::Prefetcht1
        | M::Prefetcht2
        | M::Prefetchw => return Some(Class::Nothing),
        M::Maskmovdqu | M::Stmxcsr | M::Fxsave | M::Fxsave64 | M::Clflush => return None,
        _ => {}
    }
    if integer(i) {
        return Some(Class::Copied);
    }
    let sse = [
        CpuidFeature::SSE,
        CpuidFeature::SSE2,
        CpuidFeature::SSE3,
        CpuidFeature::SSSE3,
        CpuidFeature::SSE4_1,
        CpuidFeature::SSE4_2,
    ];
    let mmx = (0..i.op_count()).any(|n| i.op_kind(n) == OpKind::Register && i.op_register(n).is_mm());
    let simd = !mmx && i.mnemonic() != M::Fisttp && i.cpuid_features().iter().any(|f| sse.contains(f));
    (simd && fpu == Fpu::Ready).then_some(Class::Copied)
}

/// The memory operand: nothing if there is none, no answer if the interpreter has to do it.
pub(super) fn memory(i: &Instruction, uses: &mut InstructionInfoFactory) -> Option<Option<Memory>> {
    if i.mnemonic() == Mnemonic::Lea || !(0..i.op_count()).any(|n| is_memory(i, n)) {
        return Some(None);
    }
    let info = uses.info(i);
    let [m] = info.used_memory() else { return None };
    let size = m.memory_size().size();
    if size == 0 || size > 16 {
        return None;
    }
    let integer = integer(i);
    let aligned =
        i.mnemonic() == Mnemonic::Cmpxchg16b || (size == 16 && !integer && !crate::decode::unaligned(i.mnemonic()));
    let access = if writes(m.access()) { Access::Write } else { Access::Read };
    Some(Some(Memory { access, size, aligned }))
}

/// Whether a locked instruction changes nothing, as `lock add dword [rsp], 0`: what compilers and kernels make of a full barrier.
fn is_barrier(i: &Instruction) -> bool {
    use Mnemonic as M;
    i.has_lock_prefix()
        && matches!(i.try_immediate(1), Ok(0))
        && matches!(i.mnemonic(), M::Add | M::Or | M::Sub | M::Xor)
}

/// Whether an instruction computes in memory, four or eight bytes and not as one locked step.
fn changes(i: &Instruction) -> bool {
    use Mnemonic as M;
    let computes = matches!(
        i.mnemonic(),
        M::Adc | M::Add | M::And | M::Dec | M::Inc | M::Neg | M::Not | M::Or | M::Sbb | M::Sub | M::Xadd | M::Xor
    );
    computes && is_memory(i, 0) && !i.has_lock_prefix() && matches!(i.memory_size().size(), 4 | 8)
}

impl Translator<'_> {
    /// A host register that holds a guest register: loaded into `scratch` if it has none of its own.
    fn guest(&mut self, r: Register, scratch: Reg) -> Reg {
        let n = r.full_register().number() as u8;
        match n {
            4 => R11,
            9..=11 => {
                self.placed = None;
                self.code.load(scratch, RSP_HOST, gpr(n));
                scratch
            }
            _ => n,
        }
    }

    /// The linear address of the memory operand, in r9. No flags are touched; r10 may be lost.
    pub(super) fn address(&mut self, i: &Instruction, rip: u64) -> Option<()> {
        let (base, index) = (i.memory_base(), i.memory_index());
        // 16 bits of address, or a segment that can't be written and perhaps not read, are the interpreter's.
        let short = base.size() == 2 || index.size() == 2;
        if self.narrow() && (short || i.memory_segment() == Register::CS) {
            return None;
        }
        if i.is_ip_rel_memory_operand() {
            if base == Register::EIP {
                return None;
            }
            // Decoded at address zero: the displacement is relative to the instruction.
            self.code.mov_imm(R9, rip.wrapping_add(i.memory_displacement64()));
        } else {
            let disp = i.memory_displacement64();
            let short = base.size().max(index.size()) == 4;
            if base == Register::None && index == Register::None {
                self.code.mov_imm(R9, disp);
            } else {
                let b = if base == Register::None { None } else { Some(self.guest(base, R9)) };
                let x = if index == Register::None { None } else { Some(self.guest(index, R10)) };
                self.lea_address(b, x, i.memory_index_scale(), disp as i32, short);
            }
        }
        let seg = i.memory_segment();
        if matches!(seg, Register::FS | Register::GS) {
            self.placed = None;
            self.code.load(R10, RSP_HOST, segment_base(seg.number()));
            if self.narrow() {
                // lea r9d, [r9 + r10]
                self.code.raw(&[0x47, 0x8d, 0x0c, 0x11]);
                self.code.load(R10, RSP_HOST, beyond(seg.number()));
            }
            // lea r9, [r9 + r10]
            self.code.raw(&[0x4f, 0x8d, 0x0c, 0x11]);
        }
        Some(())
    }

    /// `lea r9, [base + index*scale + disp]` with host registers, in 32 bits if `short`.
    fn lea_address(&mut self, base: Option<Reg>, index: Option<Reg>, scale: u32, disp: i32, short: bool) {
        let (b, x) = (base.unwrap_or(5), index.unwrap_or(4));
        let w = if short { 0 } else { 8 };
        self.code.u8(0x40 | w | 4 | ((x >> 3) << 1) | (b >> 3));
        self.code.u8(0x8d);
        // reg r9; a SIB byte always; without a base mod is 0 and the displacement is there all the same.
        let wide = base.is_none() || i8::try_from(disp).is_err();
        let mode = if base.is_none() {
            0x00
        } else if wide {
            0x80
        } else {
            0x40
        };
        self.code.u8(mode | (1 << 3) | 4);
        let ss = scale.trailing_zeros() as u8;
        self.code.u8((ss << 6) | ((x & 7) << 3) | (b & 7));
        if wide { self.code.u32(disp as u32) } else { self.code.u8(disp as u8) }
    }

    /// Renames register operands: rsp to r11, one register that is kept in memory to `scratch`. Returns that guest register.
    fn rename(&mut self, i: &mut Instruction, scratch: Register) -> Option<Option<Register>> {
        let mut kept = None;
        for n in 0..i.op_count() {
            if i.op_kind(n) != OpKind::Register || !i.op_register(n).is_gpr() {
                continue;
            }
            let r = i.op_register(n);
            if r.full_register() == Register::RSP
                && !matches!(r, Register::AH | Register::CH | Register::DH | Register::BH)
            {
                i.set_op_register(n, stack_register(r));
            } else if in_memory(r) {
                let full = r.full_register();
                if kept.is_some_and(|k| k != full) {
                    return None;
                }
                kept = Some(full);
                let base = match r.size() {
                    1 => Register::R8L,
                    2 => Register::R8W,
                    4 => Register::R8D,
                    _ => Register::R8,
                };
                i.set_op_register(n, base + (scratch.number() - Register::R8.number()) as u32);
            }
        }
        Some(kept)
    }

    /// The instruction with its memory operand at the host address in r9.
    pub(super) fn with_memory(&mut self, guest: &Instruction) -> Option<()> {
        let mut i = *guest;
        i.set_segment_prefix(Register::None);
        i.set_memory_base(Register::R9);
        i.set_memory_index(Register::None);
        i.set_memory_index_scale(1);
        i.set_memory_displacement64(self.offset as u64);
        i.set_memory_displ_size(if self.offset == 0 { 0 } else { 8 });
        if self.place.locks == Locks::Dropped && !is_barrier(&i) {
            i.set_has_lock_prefix(false);
        }
        let kept = self.rename(&mut i, Register::R10)?;
        if kept.is_none() && changes(&i) {
            return self.in_three_steps(i);
        }
        if let Some(k) = kept {
            self.placed = None;
            self.code.load(R10, RSP_HOST, gpr(k.number() as u8));
        }
        self.encode(&i)?;
        if let Some(k) = kept {
            self.code.store(RSP_HOST, gpr(k.number() as u8), R10);
        }
        Some(())
    }

    /// An instruction that computes in memory: load, compute, store. Processors hand a stored value on to the load of another
    /// instruction in no time, but not to one that does all three.
    fn in_three_steps(&mut self, mut i: Instruction) -> Option<()> {
        let wide = i.memory_size().size() == 8;
        self.placed = None;
        // REX.W and nothing, by the size: mov r10, [r9 + offset]
        let rex = if wide { 0x4d } else { 0x45 };
        self.code.raw(&[rex, 0x8b, 0x91]);
        self.code.u32(self.offset as u32);
        i.set_op_kind(0, OpKind::Register);
        i.set_op_register(0, if wide { Register::R10 } else { Register::R10D });
        i.set_memory_base(Register::None);
        self.encode(&i)?;
        // mov [r9 + offset], r10
        self.code.raw(&[rex, 0x89, 0x91]);
        self.code.u32(self.offset as u32);
        Some(())
    }

    /// An instruction without memory operand: copied as it stands, or with registers renamed.
    pub(super) fn registers_only(&mut self, g: &Guest) -> Option<()> {
        let mut i = g.instr;
        if i.mnemonic() == Mnemonic::Lea {
            return self.load_address(g);
        }
        let gprs = |i: &Instruction| {
            (0..i.op_count())
                .filter(|&n| i.op_kind(n) == OpKind::Register)
                .map(|n| i.op_register(n))
                .collect::<Vec<_>>()
        };
        let regs = gprs(&i);
        let touched = |r: &Register| in_memory(*r) || (r.is_gpr() && r.full_register() == Register::RSP);
        // A scan may have lost a prefix that means another instruction to the host.
        let scan = matches!(i.mnemonic(), Mnemonic::Bsf | Mnemonic::Bsr);
        if !scan && g.form == Form::Same && !regs.iter().any(touched) {
            let at = (g.rip & (PAGE - 1)) as usize;
            let bytes = &self.place.page[at..at + i.len()];
            self.code.bytes.extend_from_slice(bytes);
            return Some(());
        }
        // Two registers that are kept in memory take both scratch registers.
        let mut kept: Vec<Register> = regs.iter().filter(|r| in_memory(**r)).map(|r| r.full_register()).collect();
        kept.dedup();
        if kept.len() > 2 || (kept.len() == 2 && kept[0] == kept[1]) {
            return None;
        }
        for n in 0..i.op_count() {
            if i.op_kind(n) != OpKind::Register || !i.op_register(n).is_gpr() {
                continue;
            }
            let r = i.op_register(n);
            if let Some(at) = kept.iter().position(|k| in_memory(r) && *k == r.full_register()) {
                let base = match r.size() {
                    1 => Register::R9L,
                    2 => Register::R9W,
                    4 => Register::R9D,
                    _ => Register::R9,
                };
                i.set_op_register(n, base + at as u32);
            } else if r.full_register() == Register::RSP
                && !matches!(r, Register::AH | Register::CH | Register::DH | Register::BH)
            {
                i.set_op_register(n, stack_register(r));
            }
        }
        if !kept.is_empty() {
            self.placed = None;
        }
        for (at, k) in kept.iter().enumerate() {
            self.code.load(R9 + at as u8, RSP_HOST, gpr(k.number() as u8));
        }
        self.encode(&i)?;
        for (at, k) in kept.iter().enumerate() {
            self.code.store(RSP_HOST, gpr(k.number() as u8), R9 + at as u8);
        }
        Some(())
    }

    /// lea: as it stands where its registers do, else the address goes through r9.
    fn load_address(&mut self, g: &Guest) -> Option<()> {
        let i = &g.instr;
        let stands =
            |r: Register| r == Register::None || (r.is_gpr() && !in_memory(r) && r.full_register() != Register::RSP);
        if self.narrow() && [i.memory_base(), i.memory_index()].into_iter().any(|r| r.size() == 2) {
            return None;
        }
        // An address without registers would be relative to the instruction pointer.
        let fixed = self.narrow() && i.memory_base() == Register::None && i.memory_index() == Register::None;
        if !fixed && [i.op0_register(), i.memory_base(), i.memory_index()].into_iter().all(stands) {
            let at = (g.rip & (PAGE - 1)) as usize;
            let bytes = &self.place.page[at..at + i.len()];
            self.code.bytes.extend_from_slice(bytes);
            return Some(());
        }
        // Segments play no part.
        let mut flat = *i;
        flat.set_segment_prefix(Register::None);
        self.address(&flat, g.rip)?;
        let r = i.op0_register();
        let n = r.full_register().number() as u8;
        match (r.size(), n) {
            (8, 9..=11) => self.code.store(RSP_HOST, gpr(n), R9),
            (8, 4) => self.code.mov(R11, R9),
            (8, _) => self.code.mov(n, R9),
            (4, 9..=11) => {
                self.code.mov32(R9, R9);
                self.code.store(RSP_HOST, gpr(n), R9);
            }
            (4, 4) => self.code.mov32(R11, R9),
            (4, _) => self.code.mov32(n, R9),
            _ => return None,
        }
        debug_assert_eq!(gpr64(n).number(), usize::from(n));
        Some(())
    }
}
