//! Descriptors, segment loads and the instructions that only look. Source: Intel SDM volume 3A, chapter 3 and 5.

use crate::decode::{MEM, Op, SEG};
use crate::exec::Exec;
use crate::fault::{Done, Fault, GP0, UD, gp, vector};
use crate::flags::ZF;
use crate::state::{ATTR_G, ATTR_P, ATTR_S, ATTR_UNUSABLE, CR4_UMIP, CS, SS, Segment, Table};

/// A descriptor of eight bytes and where it stands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Descriptor {
    pub(crate) raw: u64,
    pub(crate) at: u64,
    pub(crate) selector: u16,
}

impl Descriptor {
    pub(crate) fn attr(&self) -> u32 {
        (self.raw >> 40) as u32 & 0xf0ff
    }

    pub(crate) fn kind(&self) -> u32 {
        self.attr() & 0xf
    }

    pub(crate) fn system(&self) -> bool {
        self.attr() & ATTR_S == 0
    }

    pub(crate) fn code(&self) -> bool {
        !self.system() && self.kind() & 8 != 0
    }

    pub(crate) fn conforming(&self) -> bool {
        self.code() && self.kind() & 4 != 0
    }

    pub(crate) fn dpl(&self) -> u8 {
        ((self.attr() >> 5) & 3) as u8
    }

    pub(crate) fn present(&self) -> bool {
        self.attr() & ATTR_P != 0
    }

    pub(crate) fn base(&self) -> u64 {
        ((self.raw >> 16) & 0xff_ffff) | ((self.raw >> 32) & 0xff00_0000)
    }

    pub(crate) fn limit(&self) -> u32 {
        let l = (self.raw & 0xffff) as u32 | ((self.raw >> 32) as u32 & 0xf_0000);
        if self.attr() & ATTR_G != 0 { (l << 12) | 0xfff } else { l }
    }

    pub(crate) fn segment(&self, rpl: u8) -> Segment {
        Segment {
            base: self.base(),
            limit: self.limit(),
            attr: self.attr(),
            selector: (self.selector & !3) | u16::from(rpl),
        }
    }
}

fn rpl(selector: u16) -> u8 {
    (selector & 3) as u8
}

impl Exec<'_> {
    /// The descriptor that a selector names; a fault naming the selector if it lies outside its table.
    pub(crate) fn descriptor(&mut self, selector: u16) -> Result<Descriptor, Fault> {
        let at = u64::from(selector & !7);
        let (base, limit) = if selector & 4 != 0 {
            let l = self.s.ldtr;
            if !l.usable() {
                return Err(gp(selector));
            }
            (l.base, u64::from(l.limit))
        } else {
            (self.s.gdtr.base, u64::from(self.s.gdtr.limit))
        };
        if selector & !3 == 0 || at + 7 > limit {
            return Err(gp(selector));
        }
        let at = base.wrapping_add(at);
        Ok(Descriptor { raw: self.system_read::<8>(at)?, at, selector })
    }

    /// Sets a descriptor's accessed bit.
    pub(crate) fn touch(&mut self, d: &mut Descriptor) -> Done {
        if !d.system() && d.kind() & 1 == 0 {
            d.raw |= 1 << 40;
            self.system_write::<1>(d.at + 5, d.raw >> 40)?;
        }
        Ok(())
    }

    /// Loads a data or stack segment register by a selector.
    pub(crate) fn load_segment(&mut self, i: usize, selector: u16) -> Done {
        if !self.s.protected() || self.s.v8086() {
            let v86 = self.s.v8086();
            let s = &mut self.s.seg[i];
            s.selector = selector;
            s.base = u64::from(selector) << 4;
            if v86 {
                (s.limit, s.attr) = (0xffff, 0xf3);
            } else if !s.usable() {
                // A null selector of protected mode leaves nothing that keeps real mode from the segment.
                (s.limit, s.attr) = (0xffff, 0x93);
            }
            return Ok(());
        }
        if selector & !3 == 0 {
            let cpl = self.s.cpl;
            if i == SS && !(self.s.code64() && cpl < 3 && rpl(selector) == cpl) {
                return Err(GP0);
            }
            self.s.seg[i] = Segment { base: 0, limit: 0, attr: ATTR_UNUSABLE | (u32::from(cpl) << 5), selector };
            return Ok(());
        }
        let mut d = self.descriptor(selector)?;
        let cpl = self.s.cpl;
        if d.system() {
            return Err(gp(selector));
        }
        if i == SS {
            if rpl(selector) != cpl || d.code() || d.kind() & 2 == 0 || d.dpl() != cpl {
                return Err(gp(selector));
            }
            if !d.present() {
                return Err(Fault::coded(vector::SS, u32::from(selector & 0xfffc)));
            }
        } else {
            let readable = !d.code() || d.kind() & 2 != 0;
            if !readable || (!d.conforming() && d.dpl() < cpl.max(rpl(selector))) {
                return Err(gp(selector));
            }
            if !d.present() {
                return Err(Fault::coded(vector::NP, u32::from(selector & 0xfffc)));
            }
        }
        self.touch(&mut d)?;
        self.s.seg[i] = Segment { selector, ..d.segment(rpl(selector)) };
        Ok(())
    }

    /// UMIP: these instructions are the kernel's if it says so.
    fn umip(&self) -> Done {
        if self.s.cr4 & CR4_UMIP != 0 && self.s.cpl > 0 { Err(GP0) } else { Ok(()) }
    }

    fn protected_only(&self) -> Done {
        if self.s.protected() && !self.s.v8086() { Ok(()) } else { Err(UD) }
    }
}

/// Stores a selector or status word: two bytes in memory, the operand's size in a register.
pub(crate) fn store_word(x: &mut Exec<'_>, op: &Op, v: u64) -> Done {
    if op.a == MEM {
        return x.set_arg::<2>(op, MEM, v);
    }
    match op.size {
        2 => x.set_reg::<2>(op.a, v),
        4 => x.set_reg::<4>(op.a, v),
        _ => x.set_reg::<8>(op.a, v),
    }
    Ok(())
}

pub(crate) fn mov_from_segment(x: &mut Exec<'_>, op: &Op) -> Done {
    let v = u64::from(x.s.seg[usize::from(op.b - SEG)].selector);
    store_word(x, op, v)
}

pub(crate) fn mov_to_segment(x: &mut Exec<'_>, op: &Op) -> Done {
    let i = usize::from(op.a - SEG);
    if i == CS || i > 5 {
        return Err(UD);
    }
    let v = x.arg::<2>(op, op.b)? as u16;
    x.load_segment(i, v)?;
    if i == SS {
        x.hold_back();
    }
    x.leave = true;
    Ok(())
}

/// lds, les, lfs, lgs, lss: `cond` holds the segment register.
pub(crate) fn load_far_pointer(x: &mut Exec<'_>, op: &Op) -> Done {
    let off = x.offset(op);
    let seg = usize::from(op.seg);
    let n = u64::from(op.size);
    let selector = x.read::<2>(seg, off.wrapping_add(n))? as u16;
    let v = match op.size {
        2 => x.read::<2>(seg, off)?,
        4 => x.read::<4>(seg, off)?,
        _ => x.read::<8>(seg, off)?,
    };
    x.load_segment(usize::from(op.cond), selector)?;
    match op.size {
        2 => x.set_reg::<2>(op.a, v),
        4 => x.set_reg::<4>(op.a, v),
        _ => x.set_reg::<8>(op.a, v),
    }
    x.leave = true;
    Ok(())
}

fn load_table(x: &mut Exec<'_>, op: &Op) -> Result<Table, Fault> {
    x.kernel_only()?;
    let off = x.offset(op);
    let seg = usize::from(op.seg);
    let limit = x.read::<2>(seg, off)? as u16;
    let at = off.wrapping_add(2);
    let base = match op.size2 {
        8 => x.read::<8>(seg, at)?,
        4 => x.read::<4>(seg, at)?,
        _ => x.read::<4>(seg, at)? & 0xff_ffff,
    };
    if x.s.code64() && !crate::mmu::canonical(base) {
        return Err(GP0);
    }
    Ok(Table { base, limit })
}

pub(crate) fn lgdt(x: &mut Exec<'_>, op: &Op) -> Done {
    x.s.gdtr = load_table(x, op)?;
    Ok(())
}

pub(crate) fn lidt(x: &mut Exec<'_>, op: &Op) -> Done {
    x.s.idtr = load_table(x, op)?;
    Ok(())
}

fn store_table(x: &mut Exec<'_>, op: &Op, t: Table) -> Done {
    x.umip()?;
    let off = x.offset(op);
    let seg = usize::from(op.seg);
    let n = if op.size2 == 8 { 8 } else { 4 };
    x.probe(seg, off, 2 + n, crate::mmu::Access::Write)?;
    x.write::<2>(seg, off, u64::from(t.limit))?;
    if n == 8 { x.write::<8>(seg, off.wrapping_add(2), t.base) } else { x.write::<4>(seg, off.wrapping_add(2), t.base) }
}

pub(crate) fn sgdt(x: &mut Exec<'_>, op: &Op) -> Done {
    store_table(x, op, x.s.gdtr)
}

pub(crate) fn sidt(x: &mut Exec<'_>, op: &Op) -> Done {
    store_table(x, op, x.s.idtr)
}

pub(crate) fn sldt(x: &mut Exec<'_>, op: &Op) -> Done {
    x.protected_only()?;
    x.umip()?;
    store_word(x, op, u64::from(x.s.ldtr.selector))
}

pub(crate) fn str(x: &mut Exec<'_>, op: &Op) -> Done {
    x.protected_only()?;
    x.umip()?;
    store_word(x, op, u64::from(x.s.tr.selector))
}

pub(crate) fn smsw(x: &mut Exec<'_>, op: &Op) -> Done {
    x.umip()?;
    store_word(x, op, x.s.cr0)
}

/// A system segment's register contents: 16 bytes of descriptor in long mode.
fn system_segment(x: &mut Exec<'_>, d: &Descriptor) -> Result<Segment, Fault> {
    let mut s = d.segment(rpl(d.selector));
    s.selector = d.selector;
    if x.s.long_mode() {
        s.base |= x.system_read::<8>(d.at + 8)? << 32;
        if !crate::mmu::canonical(s.base) {
            return Err(gp(d.selector));
        }
    }
    Ok(s)
}

pub(crate) fn lldt(x: &mut Exec<'_>, op: &Op) -> Done {
    x.protected_only()?;
    x.kernel_only()?;
    let selector = x.arg::<2>(op, op.a)? as u16;
    if selector & !3 == 0 {
        x.s.ldtr = Segment { attr: ATTR_UNUSABLE, selector, ..Segment::default() };
        return Ok(());
    }
    if selector & 4 != 0 {
        return Err(gp(selector));
    }
    let d = x.descriptor(selector)?;
    if !d.system() || d.kind() != 2 {
        return Err(gp(selector));
    }
    if !d.present() {
        return Err(Fault::coded(vector::NP, u32::from(selector & 0xfffc)));
    }
    x.s.ldtr = system_segment(x, &d)?;
    Ok(())
}

pub(crate) fn ltr(x: &mut Exec<'_>, op: &Op) -> Done {
    x.protected_only()?;
    x.kernel_only()?;
    let selector = x.arg::<2>(op, op.a)? as u16;
    if selector & !3 == 0 || selector & 4 != 0 {
        return Err(gp(selector));
    }
    let mut d = x.descriptor(selector)?;
    // Available TSS, 32-bit or 64-bit; the 16-bit one exists outside long mode.
    if !d.system() || !(d.kind() == 9 || (d.kind() == 1 && !x.s.long_mode())) {
        return Err(gp(selector));
    }
    if !d.present() {
        return Err(Fault::coded(vector::NP, u32::from(selector & 0xfffc)));
    }
    d.raw |= 2 << 40;
    let s = system_segment(x, &d)?;
    x.system_write::<1>(d.at + 5, d.raw >> 40)?;
    x.s.tr = s;
    Ok(())
}

/// Whether a segment can be seen from the current level, for lar, lsl, verr, verw.
fn visible(x: &Exec<'_>, d: &Descriptor) -> bool {
    d.conforming() || d.dpl() >= x.s.cpl.max(rpl(d.selector))
}

/// The descriptor that lar, lsl, verr or verw name; nothing if there is none. Page faults are faults.
fn look(x: &mut Exec<'_>, op: &Op, code: u8) -> Result<Option<Descriptor>, Fault> {
    x.protected_only()?;
    let selector = x.arg::<2>(op, code)? as u16;
    if selector & !3 == 0 {
        return Ok(None);
    }
    match x.descriptor(selector) {
        Ok(d) if visible(x, &d) => Ok(Some(d)),
        Ok(_) => Ok(None),
        Err(Fault::Exception { vector: vector::GP, .. }) => Ok(None),
        Err(f) => Err(f),
    }
}

fn answer(x: &mut Exec<'_>, op: &Op, v: Option<u64>) -> Done {
    match v {
        Some(v) => {
            x.s.rflags |= ZF;
            match op.size {
                2 => x.set_reg::<2>(op.a, v),
                4 => x.set_reg::<4>(op.a, v),
                _ => x.set_reg::<8>(op.a, v),
            }
        }
        None => x.s.rflags &= !ZF,
    }
    Ok(())
}

pub(crate) fn lar(x: &mut Exec<'_>, op: &Op) -> Done {
    let d = look(x, op, op.b)?;
    let long = x.s.long_mode();
    let fits = |d: &Descriptor| {
        !d.system() || matches!(d.kind(), 2 | 9 | 11 | 12) || (!long && matches!(d.kind(), 1 | 3 | 4 | 5))
    };
    let v = d.filter(fits).map(|d| (d.raw >> 32) & 0x00ff_ff00);
    answer(x, op, v)
}

pub(crate) fn lsl(x: &mut Exec<'_>, op: &Op) -> Done {
    let d = look(x, op, op.b)?;
    let long = x.s.long_mode();
    let fits = |d: &Descriptor| !d.system() || matches!(d.kind(), 2 | 9 | 11) || (!long && matches!(d.kind(), 1 | 3));
    let v = d.filter(fits).map(|d| u64::from(d.limit()));
    answer(x, op, v)
}

pub(crate) fn verr(x: &mut Exec<'_>, op: &Op) -> Done {
    let d = look(x, op, op.a)?;
    let fine = d.is_some_and(|d| !d.system() && (!d.code() || d.kind() & 2 != 0));
    x.set_flags(ZF, if fine { ZF } else { 0 });
    Ok(())
}

pub(crate) fn verw(x: &mut Exec<'_>, op: &Op) -> Done {
    let d = look(x, op, op.a)?;
    let fine = d.is_some_and(|d| !d.system() && !d.code() && d.kind() & 2 != 0);
    x.set_flags(ZF, if fine { ZF } else { 0 });
    Ok(())
}

pub(crate) fn arpl(x: &mut Exec<'_>, op: &Op) -> Done {
    x.protected_only()?;
    let src = x.reg::<2>(op.b) & 3;
    let dst = x.arg::<2>(op, op.a)?;
    if dst & 3 < src {
        x.set_arg::<2>(op, op.a, (dst & !3) | src)?;
        x.s.rflags |= ZF;
    } else {
        x.s.rflags &= !ZF;
    }
    Ok(())
}
