//! Bit tests and scans, conditions, flags, sign extensions. Source: Intel SDM volume 2.

use crate::decode::{IMM, MEM, Op, Prefix};
use crate::exec::Exec;
use crate::fault::Done;
use crate::flags::{self, AF, ARITH, CF, DF, OF, PF, SF, ZF, mask, msb, sext};
use crate::mmu::Lock;
use crate::state::{RAX, RDX};

/// Whether condition `c` (the low four bits of the code) holds.
#[inline(always)]
pub(crate) fn holds(f: u64, c: u8) -> bool {
    let v = match c >> 1 {
        0 => f & OF != 0,
        1 => f & CF != 0,
        2 => f & ZF != 0,
        3 => f & (CF | ZF) != 0,
        4 => f & SF != 0,
        5 => f & PF != 0,
        6 => (f & SF != 0) != (f & OF != 0),
        _ => f & ZF != 0 || (f & SF != 0) != (f & OF != 0),
    };
    v != (c & 1 != 0)
}

/// The common part of bt, bts, btr, btc: `f` makes the new word out of the old one and the bit's mask.
#[inline(always)]
fn bit_op<const B: usize>(x: &mut Exec<'_>, op: &Op, write: Option<fn(u64, u64) -> u64>) -> Done {
    let bits = B as u64 * 8;
    let n = if op.b == IMM { op.imm & (bits - 1) } else { x.reg::<B>(op.b) };
    let bit = 1 << (n & (bits - 1));
    let old = if op.a == MEM {
        let mut off = x.offset(op);
        if op.b != IMM {
            // The bit may lie in any word around the operand.
            let words = sext::<B>(n) >> bits.trailing_zeros();
            off = off.wrapping_add((words * B as i64) as u64);
            off &= match op.addr {
                8 => u64::MAX,
                4 => 0xffff_ffff,
                _ => 0xffff,
            };
        }
        match write {
            None => x.read::<B>(usize::from(op.seg), off)?,
            Some(f) => {
                let lock = if op.prefix == Prefix::Lock { Lock::Yes } else { Lock::No };
                x.modify::<B>(usize::from(op.seg), off, lock, |v| f(v, bit))?
            }
        }
    } else {
        let v = x.reg::<B>(op.a);
        if let Some(f) = write {
            x.set_reg::<B>(op.a, f(v, bit));
        }
        v
    };
    x.set_flags(CF, u64::from(old & bit != 0));
    Ok(())
}

pub(crate) fn bt<const B: usize>(x: &mut Exec<'_>, op: &Op) -> Done {
    bit_op::<B>(x, op, None)
}

pub(crate) fn bts<const B: usize>(x: &mut Exec<'_>, op: &Op) -> Done {
    bit_op::<B>(x, op, Some(|v, b| v | b))
}

pub(crate) fn btr<const B: usize>(x: &mut Exec<'_>, op: &Op) -> Done {
    bit_op::<B>(x, op, Some(|v, b| v & !b))
}

pub(crate) fn btc<const B: usize>(x: &mut Exec<'_>, op: &Op) -> Done {
    bit_op::<B>(x, op, Some(|v, b| v ^ b))
}

/// bsf and bsr: with no bit set the destination stays, as processors do it and Linux relies on.
#[inline(always)]
fn scan<const B: usize>(x: &mut Exec<'_>, op: &Op, f: fn(u64) -> u32) -> Done {
    let v = x.arg::<B>(op, op.b)?;
    if v == 0 {
        x.set_flags(ZF, ZF);
    } else {
        x.set_flags(ZF, 0);
        x.set_reg::<B>(op.a, u64::from(f(v)));
    }
    Ok(())
}

pub(crate) fn bsf<const B: usize>(x: &mut Exec<'_>, op: &Op) -> Done {
    scan::<B>(x, op, u64::trailing_zeros)
}

pub(crate) fn bsr<const B: usize>(x: &mut Exec<'_>, op: &Op) -> Done {
    scan::<B>(x, op, |v| 63 - v.leading_zeros())
}

pub(crate) fn popcnt<const B: usize>(x: &mut Exec<'_>, op: &Op) -> Done {
    let v = x.arg::<B>(op, op.b)?;
    x.set_reg::<B>(op.a, u64::from(v.count_ones()));
    x.set_flags(ARITH, if v == 0 { ZF } else { 0 });
    Ok(())
}

/// CRC-32C, as the instruction has it: no complement. The polynomial is reflected.
pub(crate) fn crc32(x: &mut Exec<'_>, op: &Op) -> Done {
    let v = match op.size2 {
        1 => x.arg::<1>(op, op.b)?,
        2 => x.arg::<2>(op, op.b)?,
        4 => x.arg::<4>(op, op.b)?,
        _ => x.arg::<8>(op, op.b)?,
    };
    let mut c = x.reg::<4>(op.a) as u32;
    for byte in v.to_le_bytes().into_iter().take(usize::from(op.size2)) {
        c ^= u32::from(byte);
        for _ in 0..8 {
            c = if c & 1 != 0 { (c >> 1) ^ 0x82f6_3b78 } else { c >> 1 };
        }
    }
    x.set_reg::<8>(op.a, u64::from(c));
    Ok(())
}

pub(crate) fn setcc(x: &mut Exec<'_>, op: &Op) -> Done {
    let v = u64::from(holds(x.s.rflags, op.cond));
    x.set_arg::<1>(op, op.a, v)
}

pub(crate) fn cmovcc<const B: usize>(x: &mut Exec<'_>, op: &Op) -> Done {
    // The source is read, and may fault, whether or not it is used; a 32-bit destination is cleared above either way.
    let v = x.arg::<B>(op, op.b)?;
    let v = if holds(x.s.rflags, op.cond) { v } else { x.reg::<B>(op.a) };
    x.set_reg::<B>(op.a, v);
    Ok(())
}

pub(crate) fn clc(x: &mut Exec<'_>, _: &Op) -> Done {
    x.s.rflags &= !CF;
    x.done()
}

pub(crate) fn stc(x: &mut Exec<'_>, _: &Op) -> Done {
    x.s.rflags |= CF;
    x.done()
}

pub(crate) fn cmc(x: &mut Exec<'_>, _: &Op) -> Done {
    x.s.rflags ^= CF;
    x.done()
}

pub(crate) fn cld(x: &mut Exec<'_>, _: &Op) -> Done {
    x.s.rflags &= !DF;
    x.done()
}

pub(crate) fn std(x: &mut Exec<'_>, _: &Op) -> Done {
    x.s.rflags |= DF;
    x.done()
}

pub(crate) fn lahf(x: &mut Exec<'_>, _: &Op) -> Done {
    let f = x.s.rflags & (CF | PF | AF | ZF | SF) | flags::ONE;
    x.set_reg::<1>(16, f);
    x.done()
}

pub(crate) fn sahf(x: &mut Exec<'_>, _: &Op) -> Done {
    let f = x.reg::<1>(16);
    x.set_flags(CF | PF | AF | ZF | SF, f);
    x.done()
}

/// cbw, cwde, cdqe: `B` is the size of the result.
pub(crate) fn widen<const B: usize>(x: &mut Exec<'_>, _: &Op) -> Done {
    let v = x.s.gpr[RAX];
    let v = match B {
        2 => sext::<1>(v),
        4 => sext::<2>(v),
        _ => sext::<4>(v),
    };
    x.set_reg::<B>(RAX as u8, v as u64);
    x.done()
}

/// cwd, cdq, cqo.
pub(crate) fn spread<const B: usize>(x: &mut Exec<'_>, _: &Op) -> Done {
    let v = if x.s.gpr[RAX] & msb::<B>() != 0 { mask::<B>() } else { 0 };
    x.set_reg::<B>(RDX as u8, v);
    x.done()
}
