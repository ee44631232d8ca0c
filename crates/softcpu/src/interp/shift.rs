//! Shifts and rotates. Source: Intel SDM volume 2. OF is defined for a count of one; for others it is what processors give.

use crate::decode::{IMM, MEM, NONE, Op};
use crate::exec::Exec;
use crate::fault::Done;
use crate::flags::{AF, ARITH, CF, OF, mask, sext, szp};
use crate::mmu::Lock;
use crate::state::RCX;

/// The count operand: an immediate, cl, or one if there is none.
fn count(x: &Exec<'_>, op: &Op, code: u8) -> u32 {
    let v = match code {
        IMM => op.imm,
        NONE => 1,
        _ => x.s.gpr[RCX],
    };
    (v & if op.size == 8 { 63 } else { 31 }) as u32
}

/// Applies `f` (value, count) -> (result, flags, which) unless the count is zero.
#[inline(always)]
fn shift<const B: usize>(x: &mut Exec<'_>, op: &Op, f: impl Fn(u64, u32, u64) -> (u64, u64, u64)) -> Done {
    let n = count(x, op, op.b);
    let old_flags = x.s.rflags;
    let (mut fl, mut which) = (0, 0);
    let mut apply = |v: u64| {
        if n == 0 {
            return v;
        }
        let (r, a, b) = f(v, n, old_flags);
        (fl, which) = (a, b);
        r & mask::<B>()
    };
    if op.a == MEM {
        let off = x.offset(op);
        x.modify::<B>(usize::from(op.seg), off, Lock::No, apply)?;
    } else {
        let v = apply(x.reg::<B>(op.a));
        x.set_reg::<B>(op.a, v);
    }
    x.set_flags(which, fl);
    Ok(())
}

fn bit(v: u64, n: usize) -> u64 {
    (v >> n) & 1
}

pub(crate) fn shl<const B: usize>(x: &mut Exec<'_>, op: &Op) -> Done {
    shift::<B>(x, op, |v, n, _| {
        let bits = B as u32 * 8;
        let r = if n >= 64 { 0 } else { v << n } & mask::<B>();
        let cf = if n <= bits { bit(v, (bits - n) as usize) } else { 0 };
        let of = bit(r, B * 8 - 1) ^ cf;
        (r, szp::<B>(r) | cf | (of << 11), ARITH & !AF)
    })
}

pub(crate) fn shr<const B: usize>(x: &mut Exec<'_>, op: &Op) -> Done {
    shift::<B>(x, op, |v, n, _| {
        let r = v >> n;
        let cf = bit(v, n as usize - 1);
        (r, szp::<B>(r) | cf | (if n == 1 { bit(v, B * 8 - 1) } else { 0 } << 11), ARITH & !AF)
    })
}

pub(crate) fn sar<const B: usize>(x: &mut Exec<'_>, op: &Op) -> Done {
    shift::<B>(x, op, |v, n, _| {
        let s = sext::<B>(v);
        let r = (s >> n) as u64 & mask::<B>();
        (r, szp::<B>(r) | bit((s >> (n - 1)) as u64, 0), ARITH & !AF)
    })
}

pub(crate) fn rol<const B: usize>(x: &mut Exec<'_>, op: &Op) -> Done {
    shift::<B>(x, op, |v, n, _| {
        let bits = B as u32 * 8;
        let k = n % bits;
        let r = if k == 0 { v } else { (v << k) | (v >> (bits - k)) } & mask::<B>();
        let cf = r & 1;
        (r, cf | ((bit(r, B * 8 - 1) ^ cf) << 11), CF | OF)
    })
}

pub(crate) fn ror<const B: usize>(x: &mut Exec<'_>, op: &Op) -> Done {
    shift::<B>(x, op, |v, n, _| {
        let bits = B as u32 * 8;
        let k = n % bits;
        let r = if k == 0 { v } else { (v >> k) | (v << (bits - k)) } & mask::<B>();
        let top = bit(r, B * 8 - 1);
        (r, top | ((top ^ bit(r, B * 8 - 2)) << 11), CF | OF)
    })
}

pub(crate) fn rcl<const B: usize>(x: &mut Exec<'_>, op: &Op) -> Done {
    shift::<B>(x, op, |v, n, flags| {
        let k = n % (B as u32 * 8 + 1);
        if k == 0 {
            return (v, 0, 0);
        }
        let wide = u128::from(v) | (u128::from(flags & CF) << (B * 8));
        let bits = B as u32 * 8 + 1;
        let r = (wide << k) | (wide >> (bits - k));
        let cf = (r >> (B * 8)) as u64 & 1;
        let r = r as u64 & mask::<B>();
        (r, cf | ((bit(r, B * 8 - 1) ^ cf) << 11), CF | OF)
    })
}

pub(crate) fn rcr<const B: usize>(x: &mut Exec<'_>, op: &Op) -> Done {
    shift::<B>(x, op, |v, n, flags| {
        let k = n % (B as u32 * 8 + 1);
        if k == 0 {
            return (v, 0, 0);
        }
        let wide = u128::from(v) | (u128::from(flags & CF) << (B * 8));
        let bits = B as u32 * 8 + 1;
        let r = (wide >> k) | (wide << (bits - k));
        let cf = (r >> (B * 8)) as u64 & 1;
        let r = r as u64 & mask::<B>();
        (r, cf | ((bit(r, B * 8 - 1) ^ bit(r, B * 8 - 2)) << 11), CF | OF)
    })
}

/// shld and shrd: `f` gets (destination, source, count) and returns result and carry.
#[inline(always)]
fn double<const B: usize>(x: &mut Exec<'_>, op: &Op, f: impl Fn(u64, u64, u32) -> (u64, u64)) -> Done {
    let n = count(x, op, op.c);
    let src = x.reg::<B>(op.b);
    let mut fl = 0;
    let mut apply = |v: u64| {
        if n == 0 {
            return v;
        }
        let (r, cf) = f(v, src, n);
        let r = r & mask::<B>();
        fl = szp::<B>(r) | (cf & 1) | ((bit(r, B * 8 - 1) ^ bit(v, B * 8 - 1)) << 11);
        r
    };
    if op.a == MEM {
        let off = x.offset(op);
        x.modify::<B>(usize::from(op.seg), off, Lock::No, apply)?;
    } else {
        let v = apply(x.reg::<B>(op.a));
        x.set_reg::<B>(op.a, v);
    }
    if n != 0 {
        x.set_flags(ARITH & !AF, fl);
    }
    Ok(())
}

pub(crate) fn shld<const B: usize>(x: &mut Exec<'_>, op: &Op) -> Done {
    double::<B>(x, op, |a, b, n| {
        let bits = B as u32 * 8;
        // Counts beyond 16 bits are undefined: processors go on with the destination again.
        let wide = (u128::from(a) << bits) | u128::from(b);
        let wide = if B == 2 { (wide << 16) | u128::from(a) } else { wide };
        let top = if B == 2 { 48 } else { 2 * bits };
        ((wide >> (top - bits - n)) as u64, (wide >> (top - n)) as u64)
    })
}

pub(crate) fn shrd<const B: usize>(x: &mut Exec<'_>, op: &Op) -> Done {
    double::<B>(x, op, |a, b, n| {
        let bits = B as u32 * 8;
        let wide = (u128::from(b) << bits) | u128::from(a);
        let wide = if B == 2 { wide | (u128::from(a) << 32) } else { wide };
        ((wide >> n) as u64, (wide >> (n - 1)) as u64)
    })
}
