//! String instructions. Repeated moves and fills go in chunks that end at page ends; the rest goes element by element.
//!
//! A repetition that is interrupted leaves its registers as they are between two elements and the instruction pointer on
//! the instruction ([`Fault::Again`]). Source: Intel SDM volume 2, REP.

use crate::decode::{Op, Prefix};
use crate::exec::Exec;
use crate::fault::{Done, Fault};
use crate::flags::{self, ARITH, DF, ZF, mask};
use crate::mmu::{Access, Lock};
use crate::state::{ES, RAX, RCX, RDI, RDX, RSI};

/// Elements after which a repetition looks whether something else wants the CPU.
const PATIENCE: u64 = 4096;

fn width(op: &Op) -> u64 {
    match op.addr {
        2 => 0xffff,
        4 => 0xffff_ffff,
        _ => u64::MAX,
    }
}

/// Adds to a string register as wide as addresses are.
fn advance(x: &mut Exec<'_>, op: &Op, r: usize, by: u64) {
    let v = x.s.gpr[r].wrapping_add(by);
    match op.addr {
        2 => x.set_reg::<2>(r as u8, v),
        4 => x.set_reg::<4>(r as u8, v),
        _ => x.s.gpr[r] = v,
    }
}

fn step<const B: usize>(x: &Exec<'_>) -> u64 {
    if x.s.rflags & DF != 0 { (B as u64).wrapping_neg() } else { B as u64 }
}

/// Runs `element` once, or as often as the count says. It returns whether a compare ends the repetition's condition; `chunk`
/// does several elements at once where it can and says how many.
#[inline(always)]
fn repeat<'a>(
    x: &mut Exec<'a>,
    op: &Op,
    element: impl Fn(&mut Exec<'a>, &Op) -> Result<bool, Fault>,
    chunk: impl Fn(&mut Exec<'a>, &Op, u64) -> u64,
) -> Done {
    if op.prefix == Prefix::None {
        element(x, op)?;
        return Ok(());
    }
    let flags = x.s.rflags;
    let mut budget = PATIENCE;
    loop {
        let left = x.s.gpr[RCX] & width(op);
        if left == 0 {
            // A 32-bit count that is already zero still clears the upper half.
            return Ok(());
        }
        // A single step is one element.
        let single = x.s.rflags & flags::TF != 0;
        let n = if single { 0 } else { chunk(x, op, left) };
        if n > 0 {
            advance(x, op, RCX, n.wrapping_neg());
            if n == left {
                return Ok(());
            }
            if x.board.attention() || x.leave {
                return Err(Fault::Again);
            }
            continue;
        }
        let stop = match element(x, op) {
            Ok(stop) => stop,
            Err(f) => {
                // Registers stay where the repetition got to, flags are as they were before it.
                x.s.rflags = flags;
                return Err(f);
            }
        };
        advance(x, op, RCX, u64::MAX);
        if stop || left == 1 {
            return Ok(());
        }
        budget -= 1;
        if x.leave || single || (budget == 0 && x.board.attention()) {
            return Err(Fault::Again);
        }
        if budget == 0 {
            budget = PATIENCE;
        }
    }
}

fn none(_: &mut Exec<'_>, _: &Op, _: u64) -> u64 {
    0
}

/// Whether a chunk may be done at once: upwards, in plain 64-bit or 32-bit addressing that doesn't wrap on the way.
fn plain<const B: usize>(x: &Exec<'_>, op: &Op) -> bool {
    let flat = op.addr == 8 && x.s.code64() || op.addr == 4 && x.s.flat32();
    flat && x.s.rflags & DF == 0 && !x.s.checks_alignment()
}

pub(crate) fn movs<const B: usize>(x: &mut Exec<'_>, op: &Op) -> Done {
    repeat(
        x,
        op,
        |x, op| {
            let (si, di, _) = x.string_regs(width(op));
            let v = x.read::<B>(usize::from(op.seg), si)?;
            x.write::<B>(ES, di, v)?;
            let d = step::<B>(x);
            advance(x, op, RSI, d);
            advance(x, op, RDI, d);
            Ok(false)
        },
        |x, op, left| {
            if !plain::<B>(x, op) {
                return 0;
            }
            let (si, di, _) = x.string_regs(width(op));
            let Ok(src) = x.linear(usize::from(op.seg), si, 1, Access::Read) else { return 0 };
            // Whole elements only; what straddles a page end goes singly.
            let room = (4096 - (src & 0xfff)).min(4096 - (di & 0xfff)) / B as u64;
            let n = left.min(room);
            if n < 2 || di.wrapping_sub(src) < B as u64 {
                return 0;
            }
            let done = x.tlb.copy(x.view, di, src, n * B as u64) / B as u64;
            advance(x, op, RSI, done * B as u64);
            advance(x, op, RDI, done * B as u64);
            done
        },
    )
}

pub(crate) fn stos<const B: usize>(x: &mut Exec<'_>, op: &Op) -> Done {
    repeat(
        x,
        op,
        |x, op| {
            let (_, di, _) = x.string_regs(width(op));
            let v = x.reg::<B>(RAX as u8);
            x.write::<B>(ES, di, v)?;
            let d = step::<B>(x);
            advance(x, op, RDI, d);
            Ok(false)
        },
        |x, op, left| {
            if !plain::<B>(x, op) {
                return 0;
            }
            let (_, di, _) = x.string_regs(width(op));
            let done = x.tlb.fill_with::<B>(x.view, di, x.s.gpr[RAX], left);
            advance(x, op, RDI, done * B as u64);
            done
        },
    )
}

pub(crate) fn lods<const B: usize>(x: &mut Exec<'_>, op: &Op) -> Done {
    repeat(
        x,
        op,
        |x, op| {
            let (si, _, _) = x.string_regs(width(op));
            let v = x.read::<B>(usize::from(op.seg), si)?;
            x.set_reg::<B>(RAX as u8, v);
            let d = step::<B>(x);
            advance(x, op, RSI, d);
            Ok(false)
        },
        none,
    )
}

/// Whether the flags end a repeated compare.
fn ends(x: &Exec<'_>, op: &Op) -> bool {
    (x.s.rflags & ZF != 0) == (op.prefix == Prefix::Repne)
}

pub(crate) fn scas<const B: usize>(x: &mut Exec<'_>, op: &Op) -> Done {
    repeat(
        x,
        op,
        |x, op| {
            let (_, di, _) = x.string_regs(width(op));
            let v = x.read::<B>(ES, di)?;
            x.set_flags(ARITH, flags::sub::<B>(x.reg::<B>(RAX as u8), v, 0).1);
            let d = step::<B>(x);
            advance(x, op, RDI, d);
            Ok(ends(x, op))
        },
        none,
    )
}

pub(crate) fn cmps<const B: usize>(x: &mut Exec<'_>, op: &Op) -> Done {
    repeat(
        x,
        op,
        |x, op| {
            let (si, di, _) = x.string_regs(width(op));
            let a = x.read::<B>(usize::from(op.seg), si)?;
            let b = x.read::<B>(ES, di)?;
            x.set_flags(ARITH, flags::sub::<B>(a, b, 0).1);
            let d = step::<B>(x);
            advance(x, op, RSI, d);
            advance(x, op, RDI, d);
            Ok(ends(x, op))
        },
        none,
    )
}

pub(crate) fn ins<const B: usize>(x: &mut Exec<'_>, op: &Op) -> Done {
    let port = x.s.gpr[RDX] as u16;
    x.check_port(port, B)?;
    repeat(
        x,
        op,
        |x, op| {
            let (_, di, _) = x.string_regs(width(op));
            x.probe(ES, di, B as u64, Access::Write)?;
            let v = u64::from(x.board.input(port, B)) & mask::<B>();
            x.modify::<B>(ES, di, Lock::No, |_| v)?;
            x.note_port(port, B as u64);
            let d = step::<B>(x);
            advance(x, op, RDI, d);
            Ok(false)
        },
        none,
    )
}

pub(crate) fn outs<const B: usize>(x: &mut Exec<'_>, op: &Op) -> Done {
    let port = x.s.gpr[RDX] as u16;
    x.check_port(port, B)?;
    repeat(
        x,
        op,
        |x, op| {
            let (si, _, _) = x.string_regs(width(op));
            let v = x.read::<B>(usize::from(op.seg), si)?;
            x.board.output(port, B, v as u32);
            x.note_port(port, B as u64);
            let d = step::<B>(x);
            advance(x, op, RSI, d);
            Ok(false)
        },
        none,
    )
}
