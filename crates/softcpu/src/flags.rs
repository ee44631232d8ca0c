//! RFLAGS: the bits, and how each arithmetic result sets them.
//!
//! Values are kept zero-extended in `u64`; the operand size in bytes is the const parameter `B`. Flags are computed at
//! once, not lazily: translated code keeps them in the host's own flags, so this is the slow path and the oracle.
//! Source: Intel SDM volume 1, section 3.4.3 and appendix A.

pub(crate) const CF: u64 = 1 << 0;
pub(crate) const PF: u64 = 1 << 2;
pub(crate) const AF: u64 = 1 << 4;
pub(crate) const ZF: u64 = 1 << 6;
pub(crate) const SF: u64 = 1 << 7;
pub(crate) const TF: u64 = 1 << 8;
pub(crate) const IF: u64 = 1 << 9;
pub(crate) const DF: u64 = 1 << 10;
pub(crate) const OF: u64 = 1 << 11;
pub(crate) const IOPL: u64 = 3 << 12;
pub(crate) const NT: u64 = 1 << 14;
pub(crate) const RF: u64 = 1 << 16;
pub(crate) const VM: u64 = 1 << 17;
pub(crate) const AC: u64 = 1 << 18;
pub(crate) const VIF: u64 = 1 << 19;
pub(crate) const VIP: u64 = 1 << 20;
pub(crate) const ID: u64 = 1 << 21;
/// Bit 1 reads as one always.
pub(crate) const ONE: u64 = 1 << 1;
/// The six that arithmetic sets.
pub(crate) const ARITH: u64 = CF | PF | AF | ZF | SF | OF;
/// Everything `popf` may change at the highest privilege.
pub(crate) const POPF: u64 = ARITH | TF | IF | DF | IOPL | NT | AC | ID;

/// The mask of a value of `B` bytes.
#[inline(always)]
pub(crate) const fn mask<const B: usize>() -> u64 {
    if B == 8 { u64::MAX } else { (1 << (B * 8)) - 1 }
}

/// The highest bit of a value of `B` bytes.
#[inline(always)]
pub(crate) const fn msb<const B: usize>() -> u64 {
    1 << (B * 8 - 1)
}

/// A value of `B` bytes, sign-extended.
#[inline(always)]
pub(crate) const fn sext<const B: usize>(v: u64) -> i64 {
    let s = 64 - B * 8;
    ((v << s) as i64) >> s
}

/// ZF, SF and PF of a result.
#[inline(always)]
pub(crate) const fn szp<const B: usize>(r: u64) -> u64 {
    let mut f = 0;
    if r & mask::<B>() == 0 {
        f |= ZF;
    }
    if r & msb::<B>() != 0 {
        f |= SF;
    }
    let n = (r ^ (r >> 4)) & 0xf;
    f | (((0x9669_u64 >> n) & 1) << 2)
}

/// CF, AF and OF out of the vector of carries (bit n: carry out of bit n).
#[inline(always)]
const fn carries<const B: usize>(c: u64) -> u64 {
    let top = B * 8 - 1;
    let cf = (c >> top) & 1;
    let of = cf ^ ((c >> (top - 1)) & 1);
    cf | ((c & 8) << 1) | (of << 11)
}

/// `a + b + carry`, with its flags.
#[inline(always)]
pub(crate) const fn add<const B: usize>(a: u64, b: u64, carry: u64) -> (u64, u64) {
    let r = a.wrapping_add(b).wrapping_add(carry) & mask::<B>();
    (r, szp::<B>(r) | carries::<B>((a & b) | ((a | b) & !r)))
}

/// `a - b - borrow`, with its flags.
#[inline(always)]
pub(crate) const fn sub<const B: usize>(a: u64, b: u64, borrow: u64) -> (u64, u64) {
    let r = a.wrapping_sub(b).wrapping_sub(borrow) & mask::<B>();
    (r, szp::<B>(r) | carries::<B>((!a & b) | (!(a ^ b) & r)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adding_bytes_sets_the_flags_of_the_manual() {
        for (a, b, r, f) in [
            (0x7f, 1, 0x80, SF | OF | AF),
            (0xff, 1, 0, ZF | CF | AF | PF),
            (0x80, 0x80, 0, ZF | CF | OF | PF),
            (1, 2, 3, PF),
        ] {
            assert_eq!(add::<1>(a, b, 0), (r, f), "{a:#x}+{b:#x}");
        }
    }

    #[test]
    fn subtracting_borrows_from_every_size() {
        assert_eq!(sub::<1>(0, 1, 0), (0xff, SF | CF | AF | PF));
        assert_eq!(sub::<8>(0, 1, 0), (u64::MAX, SF | CF | AF | PF));
        assert_eq!(sub::<4>(0x8000_0000, 1, 0), (0x7fff_ffff, OF | AF | PF));
        assert_eq!(sub::<2>(5, 5, 0), (0, ZF | PF));
        assert_eq!(sub::<2>(5, 4, 1), (0, ZF | PF));
    }
}
