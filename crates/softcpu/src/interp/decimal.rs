//! Decimal adjustments: they exist outside 64-bit code only. Source: Intel SDM volume 2.

use crate::decode::Op;
use crate::exec::Exec;
use crate::fault::{DE, Done};
use crate::flags::{AF, ARITH, CF, szp};

const AL: u8 = 0;
const AH: u8 = 16;

fn adjust(x: &mut Exec<'_>, add: bool) {
    let (al, f) = (x.reg::<1>(AL), x.s.rflags);
    let (mut r, mut out) = (al, 0);
    let apply = |v: u64, by: u64| if add { v.wrapping_add(by) } else { v.wrapping_sub(by) };
    if al & 0xf > 9 || f & AF != 0 {
        let next = apply(r, 6);
        out |= AF | (f & CF) | u64::from(next > 0xff);
        r = next & 0xff;
    }
    if al > 0x99 || f & CF != 0 {
        r = apply(r, 0x60) & 0xff;
        out |= CF;
    } else if add {
        out &= !CF;
    }
    x.set_reg::<1>(AL, r);
    x.set_flags(ARITH, out | szp::<1>(r));
}

pub(crate) fn daa(x: &mut Exec<'_>, _: &Op) -> Done {
    adjust(x, true);
    Ok(())
}

pub(crate) fn das(x: &mut Exec<'_>, _: &Op) -> Done {
    adjust(x, false);
    Ok(())
}

fn ascii(x: &mut Exec<'_>, by: u64) {
    let ax = x.reg::<2>(0);
    let (r, f) = if ax & 0xf > 9 || x.s.rflags & AF != 0 { (ax.wrapping_add(by), AF | CF) } else { (ax, 0) };
    x.set_reg::<2>(0, r & 0xff0f);
    x.set_flags(ARITH, f | szp::<1>(r & 0xf));
}

pub(crate) fn aaa(x: &mut Exec<'_>, _: &Op) -> Done {
    ascii(x, 0x106);
    Ok(())
}

pub(crate) fn aas(x: &mut Exec<'_>, _: &Op) -> Done {
    ascii(x, 0x106_u64.wrapping_neg());
    Ok(())
}

pub(crate) fn aam(x: &mut Exec<'_>, op: &Op) -> Done {
    let d = op.imm & 0xff;
    if d == 0 {
        return Err(DE);
    }
    let al = x.reg::<1>(AL);
    x.set_reg::<1>(AH, al / d);
    x.set_reg::<1>(AL, al % d);
    x.set_flags(ARITH, szp::<1>(al % d));
    Ok(())
}

pub(crate) fn aad(x: &mut Exec<'_>, op: &Op) -> Done {
    let r = (x.reg::<1>(AL) + x.reg::<1>(AH) * (op.imm & 0xff)) & 0xff;
    x.set_reg::<2>(0, r);
    x.set_flags(ARITH, szp::<1>(r));
    Ok(())
}

pub(crate) fn salc(x: &mut Exec<'_>, _: &Op) -> Done {
    let v = if x.s.rflags & CF != 0 { 0xff } else { 0 };
    x.set_reg::<1>(AL, v);
    Ok(())
}

pub(crate) fn xlat(x: &mut Exec<'_>, op: &Op) -> Done {
    // The base register is in the op, al is added here.
    let off = x.offset(op).wrapping_add(x.reg::<1>(AL));
    let off = match op.addr {
        2 => off & 0xffff,
        4 => off & 0xffff_ffff,
        _ => off,
    };
    let v = x.read::<1>(usize::from(op.seg), off)?;
    x.set_reg::<1>(AL, v);
    Ok(())
}
