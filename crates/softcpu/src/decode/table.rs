//! Which function runs which instruction.

use std::sync::OnceLock;

use iced_x86::{CpuidFeature, Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpKind};

use super::{CR, DR, Handler, IMM, MEM, NONE, Op, SEG};
use crate::host::native::Natives;
use crate::interp::fpu::{Class, Memory, Native};
use crate::interp::{
    alu, bits, control, decimal, descriptor, far, fpu, invalid, machine, msr, nop, port, registers, shift, stack,
    string,
};
use crate::state::CodeSize;

/// A row's functions.
#[derive(Clone, Copy)]
enum Entry {
    /// One for every size.
    One(Handler),
    /// For operands of 1, 2, 4 and 8 bytes.
    Sized([Handler; 4]),
}

use Entry::{One, Sized};

macro_rules! sized {
    ($($f:ident)::+) => {
        [$($f)::+::<1>, $($f)::+::<2>, $($f)::+::<4>, $($f)::+::<8>]
    };
}

/// Integer and system instructions, sorted by name. What is not here and belongs to the FP and SIMD sets runs natively.
const TABLE: &[(Mnemonic, Entry)] = &[
    (Mnemonic::Aaa, One(decimal::aaa)),
    (Mnemonic::Aad, One(decimal::aad)),
    (Mnemonic::Aam, One(decimal::aam)),
    (Mnemonic::Aas, One(decimal::aas)),
    (Mnemonic::Adc, Sized(sized!(alu::adc))),
    (Mnemonic::Add, Sized(sized!(alu::add))),
    (Mnemonic::And, Sized(sized!(alu::and))),
    (Mnemonic::Arpl, One(descriptor::arpl)),
    (Mnemonic::Bound, One(far::bound)),
    (Mnemonic::Bsf, Sized(sized!(bits::bsf))),
    (Mnemonic::Bsr, Sized(sized!(bits::bsr))),
    (Mnemonic::Bswap, Sized(sized!(alu::bswap))),
    (Mnemonic::Bt, Sized(sized!(bits::bt))),
    (Mnemonic::Btc, Sized(sized!(bits::btc))),
    (Mnemonic::Btr, Sized(sized!(bits::btr))),
    (Mnemonic::Bts, Sized(sized!(bits::bts))),
    (Mnemonic::Call, One(control::call)),
    (Mnemonic::Cbw, One(bits::widen::<2>)),
    (Mnemonic::Cdq, One(bits::spread::<4>)),
    (Mnemonic::Cdqe, One(bits::widen::<8>)),
    (Mnemonic::Clac, One(machine::clac)),
    (Mnemonic::Clc, One(bits::clc)),
    (Mnemonic::Cld, One(bits::cld)),
    (Mnemonic::Cldemote, One(nop)),
    (Mnemonic::Clflush, One(machine::clflush)),
    (Mnemonic::Cli, One(machine::cli)),
    (Mnemonic::Clts, One(registers::clts)),
    (Mnemonic::Cmc, One(bits::cmc)),
    (Mnemonic::Cmova, Sized(sized!(bits::cmovcc))),
    (Mnemonic::Cmovae, Sized(sized!(bits::cmovcc))),
    (Mnemonic::Cmovb, Sized(sized!(bits::cmovcc))),
    (Mnemonic::Cmovbe, Sized(sized!(bits::cmovcc))),
    (Mnemonic::Cmove, Sized(sized!(bits::cmovcc))),
    (Mnemonic::Cmovg, Sized(sized!(bits::cmovcc))),
    (Mnemonic::Cmovge, Sized(sized!(bits::cmovcc))),
    (Mnemonic::Cmovl, Sized(sized!(bits::cmovcc))),
    (Mnemonic::Cmovle, Sized(sized!(bits::cmovcc))),
    (Mnemonic::Cmovne, Sized(sized!(bits::cmovcc))),
    (Mnemonic::Cmovno, Sized(sized!(bits::cmovcc))),
    (Mnemonic::Cmovnp, Sized(sized!(bits::cmovcc))),
    (Mnemonic::Cmovns, Sized(sized!(bits::cmovcc))),
    (Mnemonic::Cmovo, Sized(sized!(bits::cmovcc))),
    (Mnemonic::Cmovp, Sized(sized!(bits::cmovcc))),
    (Mnemonic::Cmovs, Sized(sized!(bits::cmovcc))),
    (Mnemonic::Cmp, Sized(sized!(alu::cmp))),
    (Mnemonic::Cmpsb, One(string::cmps::<1>)),
    (Mnemonic::Cmpsd, One(string::cmps::<4>)),
    (Mnemonic::Cmpsq, One(string::cmps::<8>)),
    (Mnemonic::Cmpsw, One(string::cmps::<2>)),
    (Mnemonic::Cmpxchg, Sized(sized!(alu::cmpxchg))),
    (Mnemonic::Cmpxchg16b, One(alu::cmpxchg16b)),
    (Mnemonic::Cmpxchg8b, One(alu::cmpxchg8b)),
    (Mnemonic::Cpuid, One(machine::cpuid)),
    (Mnemonic::Cqo, One(bits::spread::<8>)),
    (Mnemonic::Crc32, One(bits::crc32)),
    (Mnemonic::Cwd, One(bits::spread::<2>)),
    (Mnemonic::Cwde, One(bits::widen::<4>)),
    (Mnemonic::Daa, One(decimal::daa)),
    (Mnemonic::Das, One(decimal::das)),
    (Mnemonic::Dec, Sized(sized!(alu::dec))),
    (Mnemonic::Div, Sized(sized!(alu::div))),
    (Mnemonic::Endbr32, One(nop)),
    (Mnemonic::Endbr64, One(nop)),
    (Mnemonic::Enter, One(stack::enter)),
    (Mnemonic::Fxrstor, One(fpu::fxrstor)),
    (Mnemonic::Fxrstor64, One(fpu::fxrstor)),
    (Mnemonic::Fxsave, One(fpu::fxsave)),
    (Mnemonic::Fxsave64, One(fpu::fxsave)),
    (Mnemonic::Hlt, One(machine::hlt)),
    (Mnemonic::Idiv, Sized(sized!(alu::idiv))),
    (Mnemonic::Imul, Sized(sized!(alu::imul1))),
    (Mnemonic::In, Sized(sized!(port::input))),
    (Mnemonic::Inc, Sized(sized!(alu::inc))),
    (Mnemonic::Insb, One(string::ins::<1>)),
    (Mnemonic::Insd, One(string::ins::<4>)),
    (Mnemonic::Insw, One(string::ins::<2>)),
    (Mnemonic::Int, One(far::int_n)),
    (Mnemonic::Int1, One(far::int1)),
    (Mnemonic::Int3, One(far::int3)),
    (Mnemonic::Into, One(far::into)),
    (Mnemonic::Invd, One(machine::flush_caches)),
    (Mnemonic::Invlpg, One(machine::invlpg)),
    (Mnemonic::Invpcid, One(machine::invpcid)),
    (Mnemonic::Iret, One(far::iret)),
    (Mnemonic::Iretd, One(far::iret)),
    (Mnemonic::Iretq, One(far::iret)),
    (Mnemonic::Ja, One(control::jcc)),
    (Mnemonic::Jae, One(control::jcc)),
    (Mnemonic::Jb, One(control::jcc)),
    (Mnemonic::Jbe, One(control::jcc)),
    (Mnemonic::Jcxz, One(control::jcxz)),
    (Mnemonic::Je, One(control::jcc)),
    (Mnemonic::Jecxz, One(control::jcxz)),
    (Mnemonic::Jg, One(control::jcc)),
    (Mnemonic::Jge, One(control::jcc)),
    (Mnemonic::Jl, One(control::jcc)),
    (Mnemonic::Jle, One(control::jcc)),
    (Mnemonic::Jmp, One(control::jmp)),
    (Mnemonic::Jne, One(control::jcc)),
    (Mnemonic::Jno, One(control::jcc)),
    (Mnemonic::Jnp, One(control::jcc)),
    (Mnemonic::Jns, One(control::jcc)),
    (Mnemonic::Jo, One(control::jcc)),
    (Mnemonic::Jp, One(control::jcc)),
    (Mnemonic::Jrcxz, One(control::jcxz)),
    (Mnemonic::Js, One(control::jcc)),
    (Mnemonic::Lahf, One(bits::lahf)),
    (Mnemonic::Lar, One(descriptor::lar)),
    (Mnemonic::Ldmxcsr, One(fpu::ldmxcsr)),
    (Mnemonic::Lds, One(descriptor::load_far_pointer)),
    (Mnemonic::Lea, Sized(sized!(alu::lea))),
    (Mnemonic::Leave, One(stack::leave)),
    (Mnemonic::Les, One(descriptor::load_far_pointer)),
    (Mnemonic::Lfence, One(machine::fence)),
    (Mnemonic::Lfs, One(descriptor::load_far_pointer)),
    (Mnemonic::Lgdt, One(descriptor::lgdt)),
    (Mnemonic::Lgs, One(descriptor::load_far_pointer)),
    (Mnemonic::Lidt, One(descriptor::lidt)),
    (Mnemonic::Lldt, One(descriptor::lldt)),
    (Mnemonic::Lmsw, One(registers::lmsw)),
    (Mnemonic::Lodsb, One(string::lods::<1>)),
    (Mnemonic::Lodsd, One(string::lods::<4>)),
    (Mnemonic::Lodsq, One(string::lods::<8>)),
    (Mnemonic::Lodsw, One(string::lods::<2>)),
    (Mnemonic::Loop, One(control::loop_always)),
    (Mnemonic::Loope, One(control::loope)),
    (Mnemonic::Loopne, One(control::loopne)),
    (Mnemonic::Lsl, One(descriptor::lsl)),
    (Mnemonic::Lss, One(descriptor::load_far_pointer)),
    (Mnemonic::Ltr, One(descriptor::ltr)),
    (Mnemonic::Lzcnt, Sized(sized!(bits::bsr))),
    (Mnemonic::Maskmovdqu, One(fpu::maskmovdqu)),
    (Mnemonic::Maskmovq, One(fpu::maskmovq)),
    (Mnemonic::Mfence, One(machine::fence)),
    (Mnemonic::Mov, Sized(sized!(alu::mov))),
    (Mnemonic::Movnti, Sized(sized!(alu::mov))),
    (Mnemonic::Movsb, One(string::movs::<1>)),
    (Mnemonic::Movsd, One(string::movs::<4>)),
    (Mnemonic::Movsq, One(string::movs::<8>)),
    (Mnemonic::Movsw, One(string::movs::<2>)),
    (Mnemonic::Movsx, Sized(sized!(alu::movsx))),
    (Mnemonic::Movsxd, Sized(sized!(alu::movsx))),
    (Mnemonic::Movzx, Sized(sized!(alu::movzx))),
    (Mnemonic::Mul, Sized(sized!(alu::mul))),
    (Mnemonic::Neg, Sized(sized!(alu::neg))),
    (Mnemonic::Nop, One(nop)),
    (Mnemonic::Not, Sized(sized!(alu::not))),
    (Mnemonic::Or, Sized(sized!(alu::or))),
    (Mnemonic::Out, Sized(sized!(port::output))),
    (Mnemonic::Outsb, One(string::outs::<1>)),
    (Mnemonic::Outsd, One(string::outs::<4>)),
    (Mnemonic::Outsw, One(string::outs::<2>)),
    (Mnemonic::Pause, One(machine::pause)),
    (Mnemonic::Pop, One(stack::pop)),
    (Mnemonic::Popa, One(stack::popa)),
    (Mnemonic::Popad, One(stack::popa)),
    (Mnemonic::Popcnt, Sized(sized!(bits::popcnt))),
    (Mnemonic::Popf, One(stack::popf)),
    (Mnemonic::Popfd, One(stack::popf)),
    (Mnemonic::Popfq, One(stack::popf)),
    (Mnemonic::Prefetch, One(nop)),
    (Mnemonic::Prefetchit0, One(nop)),
    (Mnemonic::Prefetchit1, One(nop)),
    (Mnemonic::Prefetchnta, One(nop)),
    (Mnemonic::Prefetcht0, One(nop)),
    (Mnemonic::Prefetcht1, One(nop)),
    (Mnemonic::Prefetcht2, One(nop)),
    (Mnemonic::Prefetchw, One(nop)),
    (Mnemonic::Prefetchwt1, One(nop)),
    (Mnemonic::Push, One(stack::push)),
    (Mnemonic::Pusha, One(stack::pusha)),
    (Mnemonic::Pushad, One(stack::pusha)),
    (Mnemonic::Pushf, One(stack::pushf)),
    (Mnemonic::Pushfd, One(stack::pushf)),
    (Mnemonic::Pushfq, One(stack::pushf)),
    (Mnemonic::Rcl, Sized(sized!(shift::rcl))),
    (Mnemonic::Rcr, Sized(sized!(shift::rcr))),
    (Mnemonic::Rdfsbase, One(registers::rdfsbase)),
    (Mnemonic::Rdgsbase, One(registers::rdgsbase)),
    (Mnemonic::Rdmsr, One(msr::rdmsr)),
    (Mnemonic::Rdpmc, One(machine::rdpmc)),
    (Mnemonic::Rdsspd, One(nop)),
    (Mnemonic::Rdsspq, One(nop)),
    (Mnemonic::Rdtsc, One(machine::rdtsc)),
    (Mnemonic::Rdtscp, One(machine::rdtscp)),
    (Mnemonic::Reservednop, One(nop)),
    (Mnemonic::Ret, One(control::ret)),
    (Mnemonic::Retf, One(far::ret)),
    (Mnemonic::Rol, Sized(sized!(shift::rol))),
    (Mnemonic::Ror, Sized(sized!(shift::ror))),
    (Mnemonic::Sahf, One(bits::sahf)),
    (Mnemonic::Sal, Sized(sized!(shift::shl))),
    (Mnemonic::Salc, One(decimal::salc)),
    (Mnemonic::Sar, Sized(sized!(shift::sar))),
    (Mnemonic::Sbb, Sized(sized!(alu::sbb))),
    (Mnemonic::Scasb, One(string::scas::<1>)),
    (Mnemonic::Scasd, One(string::scas::<4>)),
    (Mnemonic::Scasq, One(string::scas::<8>)),
    (Mnemonic::Scasw, One(string::scas::<2>)),
    (Mnemonic::Seta, One(bits::setcc)),
    (Mnemonic::Setae, One(bits::setcc)),
    (Mnemonic::Setb, One(bits::setcc)),
    (Mnemonic::Setbe, One(bits::setcc)),
    (Mnemonic::Sete, One(bits::setcc)),
    (Mnemonic::Setg, One(bits::setcc)),
    (Mnemonic::Setge, One(bits::setcc)),
    (Mnemonic::Setl, One(bits::setcc)),
    (Mnemonic::Setle, One(bits::setcc)),
    (Mnemonic::Setne, One(bits::setcc)),
    (Mnemonic::Setno, One(bits::setcc)),
    (Mnemonic::Setnp, One(bits::setcc)),
    (Mnemonic::Setns, One(bits::setcc)),
    (Mnemonic::Seto, One(bits::setcc)),
    (Mnemonic::Setp, One(bits::setcc)),
    (Mnemonic::Sets, One(bits::setcc)),
    (Mnemonic::Sfence, One(machine::fence)),
    (Mnemonic::Sgdt, One(descriptor::sgdt)),
    (Mnemonic::Shl, Sized(sized!(shift::shl))),
    (Mnemonic::Shld, Sized(sized!(shift::shld))),
    (Mnemonic::Shr, Sized(sized!(shift::shr))),
    (Mnemonic::Shrd, Sized(sized!(shift::shrd))),
    (Mnemonic::Sidt, One(descriptor::sidt)),
    (Mnemonic::Sldt, One(descriptor::sldt)),
    (Mnemonic::Smsw, One(descriptor::smsw)),
    (Mnemonic::Stac, One(machine::stac)),
    (Mnemonic::Stc, One(bits::stc)),
    (Mnemonic::Std, One(bits::std)),
    (Mnemonic::Sti, One(machine::sti)),
    (Mnemonic::Stmxcsr, One(fpu::stmxcsr)),
    (Mnemonic::Stosb, One(string::stos::<1>)),
    (Mnemonic::Stosd, One(string::stos::<4>)),
    (Mnemonic::Stosq, One(string::stos::<8>)),
    (Mnemonic::Stosw, One(string::stos::<2>)),
    (Mnemonic::Str, One(descriptor::str)),
    (Mnemonic::Sub, Sized(sized!(alu::sub))),
    (Mnemonic::Swapgs, One(registers::swapgs)),
    (Mnemonic::Syscall, One(far::syscall)),
    (Mnemonic::Sysenter, One(far::sysenter)),
    (Mnemonic::Sysexit, One(far::sysexit)),
    (Mnemonic::Sysexitq, One(far::sysexit)),
    (Mnemonic::Sysret, One(far::sysret)),
    (Mnemonic::Sysretq, One(far::sysret)),
    (Mnemonic::Test, Sized(sized!(alu::test))),
    (Mnemonic::Tzcnt, Sized(sized!(bits::bsf))),
    (Mnemonic::Verr, One(descriptor::verr)),
    (Mnemonic::Verw, One(descriptor::verw)),
    (Mnemonic::Vmcall, One(machine::vmcall)),
    (Mnemonic::Wait, One(fpu::fwait)),
    (Mnemonic::Wbinvd, One(machine::flush_caches)),
    (Mnemonic::Wbnoinvd, One(machine::flush_caches)),
    (Mnemonic::Wrfsbase, One(registers::wrfsbase)),
    (Mnemonic::Wrgsbase, One(registers::wrgsbase)),
    (Mnemonic::Wrmsr, One(msr::wrmsr)),
    (Mnemonic::Xadd, Sized(sized!(alu::xadd))),
    (Mnemonic::Xchg, Sized(sized!(alu::xchg))),
    (Mnemonic::Xlatb, One(decimal::xlat)),
    (Mnemonic::Xor, Sized(sized!(alu::xor))),
];

/// The table by number of the mnemonic.
fn index() -> &'static [Option<Entry>] {
    static INDEX: OnceLock<Vec<Option<Entry>>> = OnceLock::new();
    INDEX.get_or_init(|| {
        let last = TABLE.iter().map(|(m, _)| *m as usize).max().unwrap_or(0);
        let mut v = vec![None; last + 1];
        for (m, e) in TABLE {
            v[*m as usize] = Some(*e);
        }
        v
    })
}

/// Bytes of a near target or stack slot that a jump, call or return has.
fn branch_size(instr: &Instruction, size: CodeSize) -> u8 {
    if size == CodeSize::Bits64 {
        return 8;
    }
    match instr.op_kind(0) {
        OpKind::NearBranch16 | OpKind::FarBranch16 => 2,
        OpKind::NearBranch32 | OpKind::FarBranch32 => 4,
        OpKind::Register => instr.op0_register().size() as u8,
        OpKind::Memory => instr.memory_size().size() as u8,
        _ => 4,
    }
}

/// Bytes of each slot that far transfers and returns move.
fn far_size(instr: &Instruction) -> u8 {
    use iced_x86::Code as C;
    match instr.code() {
        C::Retnw
        | C::Retnw_imm16
        | C::Retfw
        | C::Retfw_imm16
        | C::Iretw
        | C::Jmp_m1616
        | C::Call_m1616
        | C::Jmp_ptr1616
        | C::Call_ptr1616
        | C::Enterw_imm16_imm8 => 2,
        C::Retnd
        | C::Retnd_imm16
        | C::Retfd
        | C::Retfd_imm16
        | C::Iretd
        | C::Jmp_m1632
        | C::Call_m1632
        | C::Jmp_ptr1632
        | C::Call_ptr1632
        | C::Enterd_imm16_imm8
        | C::Sysretd
        | C::Sysexitd => 4,
        _ => 8,
    }
}

fn is_far(instr: &Instruction) -> bool {
    use iced_x86::Code as C;
    matches!(
        instr.code(),
        C::Jmp_m1616
            | C::Jmp_m1632
            | C::Jmp_m1664
            | C::Call_m1616
            | C::Call_m1632
            | C::Call_m1664
            | C::Jmp_ptr1616
            | C::Jmp_ptr1632
            | C::Call_ptr1616
            | C::Call_ptr1632
    )
}

fn by_size(e: [Handler; 4], size: u8) -> Handler {
    match size {
        1 => e[0],
        2 => e[1],
        4 => e[2],
        8 => e[3],
        _ => invalid,
    }
}

/// mov in its forms with segment, control and debug registers.
fn moves(op: &Op) -> Option<Handler> {
    match (op.a, op.b) {
        (a, _) if (SEG..SEG + 6).contains(&a) => Some(descriptor::mov_to_segment),
        (_, b) if (SEG..SEG + 6).contains(&b) => Some(descriptor::mov_from_segment),
        (a, _) if (CR..CR + 16).contains(&a) => Some(registers::mov_to_control),
        (_, b) if (CR..CR + 16).contains(&b) => Some(registers::mov_from_control),
        (a, _) if (DR..DR + 16).contains(&a) => Some(registers::mov_to_debug),
        (_, b) if (DR..DR + 16).contains(&b) => Some(registers::mov_from_debug),
        _ => None,
    }
}

/// Jumps, calls and returns; `size2` becomes the size of their target.
fn transfers(instr: &Instruction, op: &mut Op, size: CodeSize) -> Option<Handler> {
    let far = is_far(instr);
    let direct = op.a == IMM;
    op.size2 = if far { far_size(instr) } else { branch_size(instr, size) };
    let h: Handler = match instr.mnemonic() {
        Mnemonic::Jmp if far => far::jmp,
        Mnemonic::Call if far => far::call,
        Mnemonic::Jmp if direct => control::jmp,
        Mnemonic::Jmp => control::jmp_indirect,
        Mnemonic::Call if direct => control::call,
        Mnemonic::Call => control::call_indirect,
        _ => return None,
    };
    Some(h)
}

/// The handler of an instruction, with what it needs put into the op.
pub(super) fn handler(instr: &Instruction, op: &mut Op, size: CodeSize, natives: &mut Natives) -> Handler {
    let m = instr.mnemonic();
    let simd_namesake = matches!(m, Mnemonic::Movsd | Mnemonic::Cmpsd) && !instr.is_string_instruction();
    let Some(entry) = index().get(m as usize).copied().flatten().filter(|_| !simd_namesake) else {
        return native(instr, op, natives);
    };
    match m {
        Mnemonic::Mov => {
            if let Some(h) = moves(op) {
                return h;
            }
        }
        Mnemonic::Jmp | Mnemonic::Call => return transfers(instr, op, size).unwrap_or(invalid),
        Mnemonic::Imul if instr.op_count() == 2 => return by_size(sized_imul2(), op.size),
        Mnemonic::Imul if instr.op_count() == 3 => return by_size(sized_imul3(), op.size),
        Mnemonic::Ret
        | Mnemonic::Retf
        | Mnemonic::Iret
        | Mnemonic::Iretd
        | Mnemonic::Iretq
        | Mnemonic::Enter
        | Mnemonic::Sysret
        | Mnemonic::Sysretq
        | Mnemonic::Sysexit
        | Mnemonic::Sysexitq => op.size2 = far_size(instr),
        Mnemonic::Lgdt | Mnemonic::Lidt | Mnemonic::Sgdt | Mnemonic::Sidt => op.size2 = table_size(instr),
        Mnemonic::Les => op.cond = 0,
        Mnemonic::Lss => op.cond = 2,
        Mnemonic::Lds => op.cond = 3,
        Mnemonic::Lfs => op.cond = 4,
        Mnemonic::Lgs => op.cond = 5,
        Mnemonic::Xlatb => op.index = NONE,
        Mnemonic::Pusha | Mnemonic::Popa => op.size = 16,
        Mnemonic::Pushad | Mnemonic::Popad => op.size = 32,
        Mnemonic::Leave => op.size = leave_size(instr),
        Mnemonic::In => op.size = instr.op0_register().size() as u8,
        Mnemonic::Out => op.size = instr.op1_register().size() as u8,
        Mnemonic::Maskmovdqu | Mnemonic::Maskmovq => {
            (op.b, op.c) = (instr.op1_register().number() as u8, instr.op2_register().number() as u8);
            op.addr = mask_address(instr);
        }
        _ if instr.is_jcc_short_or_near() || instr.is_jcx_short() || instr.is_loop() || instr.is_loopcc() => {
            op.size2 = branch_size(instr, size);
        }
        _ => {}
    }
    match entry {
        One(h) => h,
        Sized(e) => by_size(e, op.size),
    }
}

fn sized_imul2() -> [Handler; 4] {
    [invalid, alu::imul2::<2>, alu::imul2::<4>, alu::imul2::<8>]
}

fn sized_imul3() -> [Handler; 4] {
    [invalid, alu::imul3::<2>, alu::imul3::<4>, alu::imul3::<8>]
}

fn leave_size(instr: &Instruction) -> u8 {
    match instr.code() {
        iced_x86::Code::Leavew => 2,
        iced_x86::Code::Leaved => 4,
        _ => 8,
    }
}

/// Bytes of the base in an operand of lgdt and its kin.
fn table_size(instr: &Instruction) -> u8 {
    use iced_x86::Code as C;
    match instr.code() {
        C::Lgdt_m1632_16 | C::Lidt_m1632_16 | C::Sgdt_m1632_16 | C::Sidt_m1632_16 => 2,
        C::Lgdt_m1632 | C::Lidt_m1632 | C::Sgdt_m1632 | C::Sidt_m1632 => 4,
        _ => 8,
    }
}

fn mask_address(instr: &Instruction) -> u8 {
    match instr.op_kind(0) {
        OpKind::MemorySegDI => 2,
        OpKind::MemorySegEDI => 4,
        _ => 8,
    }
}

/// Instructions of 16 memory bytes that take any alignment.
pub(crate) fn unaligned(m: Mnemonic) -> bool {
    matches!(
        m,
        Mnemonic::Movups
            | Mnemonic::Movupd
            | Mnemonic::Movdqu
            | Mnemonic::Lddqu
            | Mnemonic::Pcmpestri
            | Mnemonic::Pcmpestrm
            | Mnemonic::Pcmpistri
            | Mnemonic::Pcmpistrm
            | Mnemonic::Pcmpestri64
            | Mnemonic::Pcmpestrm64
    )
}

fn class(instr: &Instruction) -> Option<Class> {
    let control = matches!(
        instr.mnemonic(),
        Mnemonic::Fldcw
            | Mnemonic::Fnstcw
            | Mnemonic::Fninit
            | Mnemonic::Fnclex
            | Mnemonic::Fnstsw
            | Mnemonic::Fnstenv
            | Mnemonic::Fnsave
            | Mnemonic::Fldenv
            | Mnemonic::Frstor
            | Mnemonic::Fnop
    );
    let mmx = (0..instr.op_count()).any(|i| instr.op_kind(i) == OpKind::Register && instr.op_register(i).is_mm());
    for f in instr.cpuid_features() {
        match f {
            CpuidFeature::FPU | CpuidFeature::FPU287 | CpuidFeature::FPU387 => {
                return Some(if control { Class::X87Control } else { Class::X87 });
            }
            _ => {}
        }
    }
    if instr.mnemonic() == Mnemonic::Fisttp {
        return Some(Class::X87);
    }
    if mmx || instr.mnemonic() == Mnemonic::Emms {
        return Some(Class::Mmx);
    }
    let sse = [
        CpuidFeature::SSE,
        CpuidFeature::SSE2,
        CpuidFeature::SSE3,
        CpuidFeature::SSSE3,
        CpuidFeature::SSE4_1,
        CpuidFeature::SSE4_2,
    ];
    instr.cpuid_features().iter().any(|f| sse.contains(f)).then_some(Class::Sse)
}

/// An FP or SIMD instruction.
fn native(instr: &Instruction, op: &mut Op, natives: &mut Natives) -> Handler {
    let Some(class) = class(instr) else { return invalid };
    let mut n = Native { class, flags: instr.rflags_modified() & 0x1f != 0, ..Native::NONE };
    let bytes = instr.memory_size().size();
    if fpu::in_memory(op) {
        let mut factory = InstructionInfoFactory::new();
        let access = factory.info(instr).used_memory().first().map_or(OpAccess::Read, |m| m.access());
        n.memory = match access {
            OpAccess::Write => Memory::Write,
            OpAccess::ReadWrite | OpAccess::ReadCondWrite | OpAccess::CondWrite => Memory::Both,
            OpAccess::NoMemAccess | OpAccess::None => return nop,
            _ => Memory::Read,
        };
        if bytes > 64 {
            // fnsave and frstor: 108 bytes don't fit the scratch bytes; they are made of smaller ones.
            return fpu::x87_image(instr.mnemonic(), op);
        }
        n.bytes = bytes as u8;
        n.aligned = bytes == 16 && !unaligned(instr.mnemonic());
        debug_assert!(op.a == MEM || op.b == MEM || op.c == MEM);
    }
    n.stub = super::native_stub(instr, n.unit(), natives);
    op.native = n;
    fpu::native
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_and_names_each_instruction_once() {
        let names: Vec<String> = TABLE.iter().map(|(m, _)| format!("{m:?}")).collect();
        assert!(names.is_sorted());
        assert!(names.windows(2).all(|w| w[0] != w[1]));
    }
}
