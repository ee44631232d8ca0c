//! Integer arithmetic, logic, moves and exchanges. Source: Intel SDM volume 2.

use crate::decode::{MEM, Op, Prefix};
use crate::exec::Exec;
use crate::fault::{DE, Done, GP0};
use crate::flags::{self, AF, ARITH, CF, OF, PF, SF, ZF, mask, msb, sext, szp};
use crate::mmu::{Access, Lock};
use crate::state::{RAX, RBX, RCX, RDX};

fn lock(op: &Op) -> Lock {
    if op.prefix == Prefix::Lock { Lock::Yes } else { Lock::No }
}

/// Reads operand a, computes its new value and the flags, writes both.
#[inline(always)]
fn update<const B: usize>(x: &mut Exec<'_>, op: &Op, which: u64, mut f: impl FnMut(u64) -> (u64, u64)) -> Done {
    let mut out = 0;
    if op.a == MEM {
        let off = x.offset(op);
        x.modify::<B>(usize::from(op.seg), off, lock(op), |old| {
            let (r, fl) = f(old);
            out = fl;
            r
        })?;
    } else {
        let (r, fl) = f(x.reg::<B>(op.a));
        x.set_reg::<B>(op.a, r);
        out = fl;
    }
    x.set_flags(which, out);
    Ok(())
}

fn carry(x: &Exec<'_>) -> u64 {
    x.s.rflags & CF
}

pub(crate) fn add<const B: usize>(x: &mut Exec<'_>, op: &Op) -> Done {
    let b = x.arg::<B>(op, op.b)?;
    update::<B>(x, op, ARITH, |a| flags::add::<B>(a, b, 0))
}

pub(crate) fn adc<const B: usize>(x: &mut Exec<'_>, op: &Op) -> Done {
    let (b, c) = (x.arg::<B>(op, op.b)?, carry(x));
    update::<B>(x, op, ARITH, |a| flags::add::<B>(a, b, c))
}

pub(crate) fn sub<const B: usize>(x: &mut Exec<'_>, op: &Op) -> Done {
    let b = x.arg::<B>(op, op.b)?;
    update::<B>(x, op, ARITH, |a| flags::sub::<B>(a, b, 0))
}

pub(crate) fn sbb<const B: usize>(x: &mut Exec<'_>, op: &Op) -> Done {
    let (b, c) = (x.arg::<B>(op, op.b)?, carry(x));
    update::<B>(x, op, ARITH, |a| flags::sub::<B>(a, b, c))
}

pub(crate) fn and<const B: usize>(x: &mut Exec<'_>, op: &Op) -> Done {
    let b = x.arg::<B>(op, op.b)?;
    update::<B>(x, op, ARITH, |a| (a & b, szp::<B>(a & b)))
}

pub(crate) fn or<const B: usize>(x: &mut Exec<'_>, op: &Op) -> Done {
    let b = x.arg::<B>(op, op.b)?;
    update::<B>(x, op, ARITH, |a| (a | b, szp::<B>(a | b)))
}

pub(crate) fn xor<const B: usize>(x: &mut Exec<'_>, op: &Op) -> Done {
    let b = x.arg::<B>(op, op.b)?;
    update::<B>(x, op, ARITH, |a| (a ^ b, szp::<B>(a ^ b)))
}

pub(crate) fn cmp<const B: usize>(x: &mut Exec<'_>, op: &Op) -> Done {
    let a = x.arg::<B>(op, op.a)?;
    let b = x.arg::<B>(op, op.b)?;
    x.set_flags(ARITH, flags::sub::<B>(a, b, 0).1);
    Ok(())
}

pub(crate) fn test<const B: usize>(x: &mut Exec<'_>, op: &Op) -> Done {
    let a = x.arg::<B>(op, op.a)?;
    let b = x.arg::<B>(op, op.b)?;
    x.set_flags(ARITH, szp::<B>(a & b));
    Ok(())
}

pub(crate) fn inc<const B: usize>(x: &mut Exec<'_>, op: &Op) -> Done {
    update::<B>(x, op, ARITH & !CF, |a| flags::add::<B>(a, 1, 0))
}

pub(crate) fn dec<const B: usize>(x: &mut Exec<'_>, op: &Op) -> Done {
    update::<B>(x, op, ARITH & !CF, |a| flags::sub::<B>(a, 1, 0))
}

pub(crate) fn neg<const B: usize>(x: &mut Exec<'_>, op: &Op) -> Done {
    update::<B>(x, op, ARITH, |a| flags::sub::<B>(0, a, 0))
}

pub(crate) fn not<const B: usize>(x: &mut Exec<'_>, op: &Op) -> Done {
    update::<B>(x, op, 0, |a| (!a & mask::<B>(), 0))
}

pub(crate) fn mov<const B: usize>(x: &mut Exec<'_>, op: &Op) -> Done {
    let v = x.arg::<B>(op, op.b)?;
    x.set_arg::<B>(op, op.a, v)
}

/// The second operand has its own, smaller size.
fn narrow(x: &mut Exec<'_>, op: &Op) -> Result<u64, crate::fault::Fault> {
    match op.size2 {
        1 => x.arg::<1>(op, op.b),
        2 => x.arg::<2>(op, op.b),
        _ => x.arg::<4>(op, op.b),
    }
}

pub(crate) fn movzx<const B: usize>(x: &mut Exec<'_>, op: &Op) -> Done {
    let v = narrow(x, op)?;
    x.set_reg::<B>(op.a, v);
    Ok(())
}

pub(crate) fn movsx<const B: usize>(x: &mut Exec<'_>, op: &Op) -> Done {
    let v = narrow(x, op)?;
    let v = match op.size2 {
        1 => sext::<1>(v),
        2 => sext::<2>(v),
        _ => sext::<4>(v),
    };
    x.set_reg::<B>(op.a, v as u64);
    Ok(())
}

pub(crate) fn lea<const B: usize>(x: &mut Exec<'_>, op: &Op) -> Done {
    let v = x.offset(op);
    x.set_reg::<B>(op.a, v);
    Ok(())
}

pub(crate) fn bswap<const B: usize>(x: &mut Exec<'_>, op: &Op) -> Done {
    let v = x.reg::<B>(op.a);
    let v = match B {
        8 => v.swap_bytes(),
        4 => u64::from((v as u32).swap_bytes()),
        // Undefined for 16 bits; processors clear the register.
        _ => 0,
    };
    x.set_reg::<B>(op.a, v);
    Ok(())
}

pub(crate) fn xchg<const B: usize>(x: &mut Exec<'_>, op: &Op) -> Done {
    let (a, b) = if op.b == MEM { (op.b, op.a) } else { (op.a, op.b) };
    let new = x.reg::<B>(b);
    if a == MEM {
        // Locked with or without the prefix.
        let off = x.offset(op);
        let old = x.modify::<B>(usize::from(op.seg), off, Lock::Yes, |_| new)?;
        x.set_reg::<B>(b, old);
    } else {
        let old = x.reg::<B>(a);
        x.set_reg::<B>(a, new);
        x.set_reg::<B>(b, old);
    }
    Ok(())
}

pub(crate) fn xadd<const B: usize>(x: &mut Exec<'_>, op: &Op) -> Done {
    let b = x.reg::<B>(op.b);
    let old;
    if op.a == MEM {
        let off = x.offset(op);
        old = x.modify::<B>(usize::from(op.seg), off, lock(op), |a| flags::add::<B>(a, b, 0).0)?;
        x.set_reg::<B>(op.b, old);
    } else {
        old = x.reg::<B>(op.a);
        x.set_reg::<B>(op.b, old);
        x.set_reg::<B>(op.a, flags::add::<B>(old, b, 0).0);
    }
    x.set_flags(ARITH, flags::add::<B>(old, b, 0).1);
    Ok(())
}

pub(crate) fn cmpxchg<const B: usize>(x: &mut Exec<'_>, op: &Op) -> Done {
    let (want, new) = (x.reg::<B>(RAX as u8), x.reg::<B>(op.b));
    let old = if op.a == MEM {
        let off = x.offset(op);
        x.modify::<B>(usize::from(op.seg), off, lock(op), |a| if a == want { new } else { a })?
    } else {
        let old = x.reg::<B>(op.a);
        if old == want {
            x.set_reg::<B>(op.a, new);
        }
        old
    };
    x.set_flags(ARITH, flags::sub::<B>(want, old, 0).1);
    if old != want {
        x.set_reg::<B>(RAX as u8, old);
    } else if B == 4 && op.a != MEM {
        // A successful 32-bit exchange writes its destination, which clears the upper half; so does a failed one to eax.
    }
    Ok(())
}

pub(crate) fn cmpxchg8b(x: &mut Exec<'_>, op: &Op) -> Done {
    let pair = |x: &Exec<'_>, hi, lo| (x.reg::<4>(hi) << 32) | x.reg::<4>(lo);
    let want = pair(x, RDX as u8, RAX as u8);
    let new = pair(x, RCX as u8, RBX as u8);
    let off = x.offset(op);
    let old = x.modify::<8>(usize::from(op.seg), off, lock(op), |a| if a == want { new } else { a })?;
    if old == want {
        x.s.rflags |= ZF;
    } else {
        x.s.rflags &= !ZF;
        x.set_reg::<4>(RAX as u8, old & 0xffff_ffff);
        x.set_reg::<4>(RDX as u8, old >> 32);
    }
    Ok(())
}

pub(crate) fn cmpxchg16b(x: &mut Exec<'_>, op: &Op) -> Done {
    let off = x.offset(op);
    let seg = usize::from(op.seg);
    let lin = x.linear(seg, off, 16, Access::Write)?;
    if lin & 15 != 0 {
        return Err(GP0);
    }
    x.probe(seg, off, 16, Access::Write)?;
    let gpa = x.translate(lin, Access::Write, x.view)?;
    let pair = |x: &Exec<'_>, hi: usize, lo: usize| (u128::from(x.s.gpr[hi]) << 64) | u128::from(x.s.gpr[lo]);
    let want = pair(x, RDX, RAX);
    let new = pair(x, RCX, RBX);
    let old = match x.shared.ram.exchange16(gpa, want, new) {
        Some(old) => old,
        None => {
            let old = u128::from(x.physical_read::<8>(gpa)) | (u128::from(x.physical_read::<8>(gpa + 8)) << 64);
            let v = if old == want { new } else { old };
            x.physical_write::<8>(gpa, v as u64);
            x.physical_write::<8>(gpa + 8, (v >> 64) as u64);
            old
        }
    };
    x.wrote(gpa, 16);
    if old == want {
        x.s.rflags |= ZF;
    } else {
        x.s.rflags &= !ZF;
        x.s.gpr[RAX] = old as u64;
        x.s.gpr[RDX] = (old >> 64) as u64;
    }
    Ok(())
}

/// Puts a double-width product or result where one-operand forms have it: ax, or the d and a registers.
fn set_wide<const B: usize>(x: &mut Exec<'_>, lo: u64, hi: u64) {
    if B == 1 {
        x.set_reg::<2>(RAX as u8, (lo & 0xff) | ((hi & 0xff) << 8));
    } else {
        x.set_reg::<B>(RAX as u8, lo);
        x.set_reg::<B>(RDX as u8, hi);
    }
}

/// Flags of a product: CF and OF say that the upper half means something; the rest is undefined.
fn product_flags<const B: usize>(x: &mut Exec<'_>, lo: u64, wide: bool) {
    let f = if wide { CF | OF } else { 0 };
    x.set_flags(ARITH, f | (szp::<B>(lo) & (SF | PF)) | (x.s.rflags & (ZF & AF)));
}

pub(crate) fn mul<const B: usize>(x: &mut Exec<'_>, op: &Op) -> Done {
    let b = x.arg::<B>(op, op.a)?;
    let p = u128::from(x.reg::<B>(RAX as u8)) * u128::from(b);
    let (lo, hi) = (p as u64 & mask::<B>(), (p >> (B * 8)) as u64 & mask::<B>());
    set_wide::<B>(x, lo, hi);
    product_flags::<B>(x, lo, hi != 0);
    Ok(())
}

fn signed_product<const B: usize>(a: u64, b: u64) -> (u64, u64, bool) {
    let p = i128::from(sext::<B>(a)) * i128::from(sext::<B>(b));
    let lo = p as u64 & mask::<B>();
    (lo, (p >> (B * 8)) as u64 & mask::<B>(), i128::from(sext::<B>(lo)) != p)
}

pub(crate) fn imul1<const B: usize>(x: &mut Exec<'_>, op: &Op) -> Done {
    let b = x.arg::<B>(op, op.a)?;
    let (lo, hi, wide) = signed_product::<B>(x.reg::<B>(RAX as u8), b);
    set_wide::<B>(x, lo, hi);
    product_flags::<B>(x, lo, wide);
    Ok(())
}

pub(crate) fn imul2<const B: usize>(x: &mut Exec<'_>, op: &Op) -> Done {
    let b = x.arg::<B>(op, op.b)?;
    let (lo, _, wide) = signed_product::<B>(x.reg::<B>(op.a), b);
    x.set_reg::<B>(op.a, lo);
    product_flags::<B>(x, lo, wide);
    Ok(())
}

pub(crate) fn imul3<const B: usize>(x: &mut Exec<'_>, op: &Op) -> Done {
    let b = x.arg::<B>(op, op.b)?;
    let (lo, _, wide) = signed_product::<B>(b, op.imm & mask::<B>());
    x.set_reg::<B>(op.a, lo);
    product_flags::<B>(x, lo, wide);
    Ok(())
}

/// The dividend of one-operand divisions.
fn dividend<const B: usize>(x: &Exec<'_>) -> u128 {
    if B == 1 {
        u128::from(x.reg::<2>(RAX as u8))
    } else {
        (u128::from(x.reg::<B>(RDX as u8)) << (B * 8)) | u128::from(x.reg::<B>(RAX as u8))
    }
}

pub(crate) fn div<const B: usize>(x: &mut Exec<'_>, op: &Op) -> Done {
    let d = x.arg::<B>(op, op.a)?;
    if d == 0 {
        return Err(DE);
    }
    let n = dividend::<B>(x);
    let q = n / u128::from(d);
    if q > u128::from(mask::<B>()) {
        return Err(DE);
    }
    set_wide::<B>(x, q as u64, (n % u128::from(d)) as u64);
    Ok(())
}

pub(crate) fn idiv<const B: usize>(x: &mut Exec<'_>, op: &Op) -> Done {
    let d = i128::from(sext::<B>(x.arg::<B>(op, op.a)?));
    if d == 0 {
        return Err(DE);
    }
    let unused = 128 - 16 * B as u32;
    let n = ((dividend::<B>(x) << unused) as i128) >> unused;
    let Some(q) = n.checked_div(d) else { return Err(DE) };
    let limit = i128::from(msb::<B>());
    if q >= limit || q < -limit {
        return Err(DE);
    }
    set_wide::<B>(x, q as u64 & mask::<B>(), (n % d) as u64 & mask::<B>());
    Ok(())
}
