//! Transfers between code segments and privilege levels that instructions ask for. Source: Intel SDM volume 2 and 3A, chapter 5.

use super::descriptor::Descriptor;
use super::stack::load_flags;
use crate::cpu::SINGLE_STEP;
use crate::decode::{IMM, Op};
use crate::event::gate::Way;
use crate::exec::Exec;
use crate::fault::{Done, Fault, GP0, UD, gp, vector};
use crate::flags;
use crate::mmu::canonical;
use crate::state::{
    ATTR_DB, ATTR_G, ATTR_L, ATTR_P, ATTR_S, ATTR_UNUSABLE, CS, EFER_SCE, R11, RCX, RDX, RSP, SS, Segment,
};

/// A flat segment as syscall and its kin load: base 0, limit 4 GiB.
fn flat(selector: u64, kind: u32, dpl: u32, extra: u32) -> Segment {
    Segment {
        base: 0,
        limit: u32::MAX,
        attr: kind | ATTR_S | (dpl << 5) | ATTR_P | ATTR_G | extra,
        selector: selector as u16,
    }
}

/// Where a far jump or call leads.
enum Target {
    Code(Segment),
    /// A descriptor that is no segment's.
    Gate(Descriptor),
}

/// What kind of code a system call returns to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    /// 64-bit.
    Long,
    /// 32-bit.
    Compatible,
}

/// Code and stack segment behind `syscall`.
pub(crate) fn call_segments(star: u64) -> (Segment, Segment) {
    let selector = (star >> 32) & 0xfffc;
    (flat(selector, 0xb, 0, ATTR_L), flat(selector + 8, 3, 0, ATTR_DB))
}

/// Code and stack segment behind `sysret`.
pub(crate) fn return_segments(star: u64, to: Call) -> (Segment, Segment) {
    let star = star >> 48;
    let cs = match to {
        Call::Long => flat((star + 16) | 3, 0xb, 3, ATTR_L),
        Call::Compatible => flat(star | 3, 0xb, 3, ATTR_DB),
    };
    (cs, flat((star + 8) | 3, 3, 3, ATTR_DB))
}

impl Exec<'_> {
    /// Sets the privilege level with its code segment.
    pub(crate) fn enter_code(&mut self, cs: Segment, cpl: u8) {
        self.s.seg[CS] = cs;
        self.s.cpl = cpl;
        self.mode_changed();
    }

    /// Checks a code segment's L and D bits in long mode.
    pub(crate) fn check_code(&self, d: &Descriptor) -> Done {
        if self.s.long_mode() && d.attr() & ATTR_L != 0 && d.attr() & ATTR_DB != 0 {
            return Err(gp(d.selector));
        }
        if !d.present() {
            return Err(Fault::coded(vector::NP, u32::from(d.selector & 0xfffc)));
        }
        Ok(())
    }

    /// The code segment of a far jump or call that stays at its level.
    fn same_level_code(&mut self, selector: u16) -> Result<Target, Fault> {
        if selector & !3 == 0 {
            return Err(GP0);
        }
        let mut d = self.descriptor(selector)?;
        if d.system() {
            return Ok(Target::Gate(d));
        }
        let cpl = self.s.cpl;
        let rpl = (selector & 3) as u8;
        let level = if d.conforming() { d.dpl() <= cpl } else { d.dpl() == cpl && rpl <= cpl };
        if !d.code() || !level {
            return Err(gp(selector));
        }
        self.check_code(&d)?;
        self.touch(&mut d)?;
        Ok(Target::Code(d.segment(cpl)))
    }

    fn real_code(&self, selector: u16) -> Segment {
        Segment { selector, base: u64::from(selector) << 4, ..self.s.seg[CS] }
    }

    fn far_code(&mut self, selector: u16) -> Result<Target, Fault> {
        if self.s.protected() && !self.s.v8086() {
            self.same_level_code(selector)
        } else {
            Ok(Target::Code(self.real_code(selector)))
        }
    }
}

/// Offset and selector of a far jump or call.
fn far_target(x: &mut Exec<'_>, op: &Op) -> Result<(u64, u16), Fault> {
    if op.a == IMM {
        return Ok((op.imm & 0xffff_ffff, (op.imm >> 32) as u16));
    }
    let off = x.offset(op);
    let seg = usize::from(op.seg);
    let selector = x.read::<2>(seg, off.wrapping_add(u64::from(op.size2)))? as u16;
    let target = match op.size2 {
        2 => x.read::<2>(seg, off)?,
        4 => x.read::<4>(seg, off)?,
        _ => x.read::<8>(seg, off)?,
    };
    Ok((target, selector))
}

/// Whether code of a segment may start at an offset.
fn check_offset(x: &Exec<'_>, cs: &Segment, rip: u64) -> Done {
    let fine = if x.s.long_mode() && cs.attr & ATTR_L != 0 { canonical(rip) } else { rip <= u64::from(cs.limit) };
    if fine { Ok(()) } else { Err(GP0) }
}

pub(crate) fn jmp(x: &mut Exec<'_>, op: &Op) -> Done {
    let (rip, selector) = far_target(x, op)?;
    let cs = match x.far_code(selector)? {
        Target::Code(cs) => cs,
        Target::Gate(d) => return x.through_gate(&d, Way::Jump),
    };
    check_offset(x, &cs, rip)?;
    let cpl = x.s.cpl;
    x.enter_code(cs, cpl);
    x.s.rip = rip;
    Ok(())
}

pub(crate) fn call(x: &mut Exec<'_>, op: &Op) -> Done {
    let (rip, selector) = far_target(x, op)?;
    let cs = match x.far_code(selector)? {
        Target::Code(cs) => cs,
        Target::Gate(d) => return x.through_gate(&d, Way::Call),
    };
    check_offset(x, &cs, rip)?;
    let n = op.size2;
    let low = x.s.gpr[RSP].wrapping_sub(2 * u64::from(n)) & x.s.stack_mask();
    x.probe(SS, low, 2 * u64::from(n), crate::mmu::Access::Write)?;
    x.push_sized(n, u64::from(x.s.seg[CS].selector))?;
    x.push_sized(n, x.s.rip)?;
    let cpl = x.s.cpl;
    x.enter_code(cs, cpl);
    x.s.rip = rip;
    Ok(())
}

/// Where a return or iret goes, read off the stack and checked.
struct Return {
    cs: Segment,
    cpl: u8,
    ss: Option<Segment>,
}

impl Exec<'_> {
    /// The code segment of a return to the same or an outer level.
    fn return_code(&mut self, selector: u16) -> Result<(Segment, u8), Fault> {
        if selector & !3 == 0 {
            return Err(GP0);
        }
        let mut d = self.descriptor(selector)?;
        let rpl = (selector & 3) as u8;
        let level = if d.conforming() { d.dpl() <= rpl } else { d.dpl() == rpl };
        if !d.code() || rpl < self.s.cpl || !level {
            return Err(gp(selector));
        }
        self.check_code(&d)?;
        self.touch(&mut d)?;
        Ok((d.segment(rpl), rpl))
    }

    /// The stack segment of a return.
    fn return_stack(&mut self, selector: u16, cpl: u8, to64: bool) -> Result<Segment, Fault> {
        if selector & !3 == 0 {
            if to64 && cpl < 3 && (selector & 3) as u8 == cpl {
                return Ok(Segment { attr: ATTR_UNUSABLE | (u32::from(cpl) << 5), selector, ..Segment::default() });
            }
            return Err(GP0);
        }
        let mut d = self.descriptor(selector)?;
        if (selector & 3) as u8 != cpl || d.system() || d.code() || d.kind() & 2 == 0 || d.dpl() != cpl {
            return Err(gp(selector));
        }
        if !d.present() {
            return Err(Fault::coded(vector::SS, u32::from(selector & 0xfffc)));
        }
        self.touch(&mut d)?;
        Ok(d.segment(cpl))
    }

    fn returning(&mut self, cs: u16, ss: Option<u16>) -> Result<Return, Fault> {
        let (cs, cpl) = self.return_code(cs)?;
        let to64 = self.s.long_mode() && cs.attr & ATTR_L != 0;
        let ss = match ss {
            Some(ss) => Some(self.return_stack(ss, cpl, to64)?),
            None => None,
        };
        Ok(Return { cs, cpl, ss })
    }

    /// Data segments that the outer level may not see become null, and all of null selectors' four become the first. Bases stay:
    /// 64-bit code uses those of fs and gs also then.
    fn drop_inner_segments(&mut self) {
        let cpl = self.s.cpl;
        for i in [0, 3, 4, 5] {
            let s = &mut self.s.seg[i];
            let conforming = s.kind() & 0xc == 0xc;
            if s.usable() && s.attr & ATTR_S != 0 && !conforming && s.dpl() < cpl {
                (s.selector, s.attr) = (0, ATTR_UNUSABLE);
            } else if s.selector < 4 {
                s.selector = 0;
            }
        }
    }
}

pub(crate) fn ret(x: &mut Exec<'_>, op: &Op) -> Done {
    let n = u64::from(op.size2);
    let rip = x.peek(op.size2, 0)?;
    let selector = x.peek(op.size2, n)? as u16;
    let extra = op.imm & 0xffff;
    if !x.s.protected() || x.s.v8086() {
        let cs = x.real_code(selector);
        check_offset(x, &cs, rip)?;
        x.drop_stack(2 * n + extra);
        let cpl = x.s.cpl;
        x.enter_code(cs, cpl);
        x.s.rip = rip;
        return Ok(());
    }
    let outer = (selector & 3) as u8 > x.s.cpl;
    let mut stack = (None, 0);
    if outer {
        let sp = x.peek(op.size2, 2 * n + extra)?;
        stack = (Some(x.peek(op.size2, 3 * n + extra)? as u16), sp);
    }
    let to = x.returning(selector, stack.0)?;
    check_offset(x, &to.cs, rip)?;
    x.drop_stack(2 * n + extra);
    x.enter_code(to.cs, to.cpl);
    x.s.rip = rip;
    if let Some(ss) = to.ss {
        x.s.seg[SS] = ss;
        x.set_sp(stack.1.wrapping_add(extra));
        x.drop_inner_segments();
        x.mode_changed();
    }
    Ok(())
}

pub(crate) fn iret(x: &mut Exec<'_>, op: &Op) -> Done {
    let n = u64::from(op.size2);
    if x.s.v8086() && x.s.iopl() < 3 {
        return Err(GP0);
    }
    if x.s.protected() && x.s.rflags & flags::NT != 0 && !x.s.v8086() {
        return if x.s.long_mode() { Err(GP0) } else { x.return_task() };
    }
    let rip = x.peek(op.size2, 0)?;
    let selector = x.peek(op.size2, n)? as u16;
    let fl = x.peek(op.size2, 2 * n)?;
    if !x.s.protected() || x.s.v8086() {
        let cs = x.real_code(selector);
        check_offset(x, &cs, rip)?;
        x.drop_stack(3 * n);
        let cpl = x.s.cpl;
        x.enter_code(cs, cpl);
        x.s.rip = rip;
        finish_iret(x, op.size2, fl);
        return Ok(());
    }
    if fl & flags::VM != 0 && x.s.cpl == 0 && !x.s.long_mode() && op.size2 == 4 {
        return iret_to_v8086(x, rip, selector, fl);
    }
    let with_stack = x.s.code64() || (selector & 3) as u8 > x.s.cpl;
    let mut stack = (None, 0);
    if with_stack {
        let sp = x.peek(op.size2, 3 * n)?;
        stack = (Some(x.peek(op.size2, 4 * n)? as u16), sp);
    }
    let to = x.returning(selector, stack.0)?;
    check_offset(x, &to.cs, rip)?;
    let outer = to.cpl > x.s.cpl;
    if !with_stack {
        x.drop_stack(3 * n);
    }
    // Which flags may change depends on the level that returns.
    finish_iret(x, op.size2, fl);
    x.enter_code(to.cs, to.cpl);
    x.s.rip = rip;
    if let Some(ss) = to.ss {
        x.s.seg[SS] = ss;
        x.set_sp(stack.1);
        if outer {
            x.drop_inner_segments();
        }
    }
    x.mode_changed();
    Ok(())
}

fn finish_iret(x: &mut Exec<'_>, size: u8, fl: u64) {
    load_flags(x, size, fl);
    if size > 2 {
        x.set_flags(flags::RF, fl);
        if x.s.cpl == 0 {
            x.set_flags(flags::VIF | flags::VIP, fl);
        }
    }
    x.s.nmi_blocked = false;
    x.mode_changed();
}

fn iret_to_v8086(x: &mut Exec<'_>, rip: u64, cs: u16, fl: u64) -> Done {
    let mut rest = [0; 6];
    for (i, v) in rest.iter_mut().enumerate() {
        *v = x.peek(4, 12 + 4 * i as u64)?;
    }
    x.s.rflags = (fl & 0x3f_7fd7) | flags::ONE | flags::VM;
    x.s.cpl = 3;
    x.s.gpr[RSP] = rest[0];
    // Behind esp stand ss, es, ds, fs, gs.
    for (i, sel) in [(CS, u64::from(cs)), (SS, rest[1]), (0, rest[2]), (3, rest[3]), (4, rest[4]), (5, rest[5])] {
        x.load_segment(i, sel as u16)?;
    }
    x.s.rip = rip & 0xffff;
    x.s.nmi_blocked = false;
    x.mode_changed();
    Ok(())
}

/// syscall: of 64-bit code only, as with the maker that the model names. Systems set no entry for other code.
pub(crate) fn syscall(x: &mut Exec<'_>, _: &Op) -> Done {
    if x.s.efer & EFER_SCE == 0 || !x.s.code64() {
        return Err(UD);
    }
    x.s.gpr[RCX] = x.s.rip;
    x.s.gpr[R11] = x.s.rflags & !flags::RF;
    x.s.rflags = (x.s.rflags & !x.s.msr.sfmask & !flags::RF) | flags::ONE;
    let (cs, ss) = call_segments(x.s.msr.star);
    x.s.seg[SS] = ss;
    x.s.rip = x.s.msr.lstar;
    // A single step counts at the end: not if the mask has taken it away.
    x.delivered = x.s.rflags & flags::TF == 0;
    x.enter_code(cs, 0);
    Ok(())
}

pub(crate) fn sysret(x: &mut Exec<'_>, op: &Op) -> Done {
    if x.s.efer & EFER_SCE == 0 || !x.s.code64() {
        return Err(UD);
    }
    x.kernel_only()?;
    let rcx = x.s.gpr[RCX];
    if op.size2 == 8 && !canonical(rcx) {
        return Err(GP0);
    }
    let to = if op.size2 == 8 { Call::Long } else { Call::Compatible };
    x.s.rip = if to == Call::Long { rcx } else { rcx & 0xffff_ffff };
    let (cs, ss) = return_segments(x.s.msr.star, to);
    x.enter_code(cs, 3);
    x.s.seg[SS] = ss;
    let may = flags::POPF | flags::VIF | flags::VIP;
    x.s.rflags = (x.s.gpr[R11] & may) | flags::ONE;
    // A single step counts at the end here, too: the program goes on behind its system call as behind any instruction.
    let steps = x.s.rflags & flags::TF != 0;
    x.delivered = !steps;
    if steps {
        x.s.debug_hits |= SINGLE_STEP;
    }
    x.mode_changed();
    Ok(())
}

pub(crate) fn sysenter(x: &mut Exec<'_>, _: &Op) -> Done {
    let cs = x.s.msr.sysenter_cs & 0xfffc;
    if !x.s.protected() || cs == 0 {
        return Err(GP0);
    }
    let long = x.s.long_mode();
    x.s.rflags &= !(flags::VM | flags::IF | flags::RF);
    let m = if long { u64::MAX } else { 0xffff_ffff };
    x.s.gpr[RSP] = x.s.msr.sysenter_esp & m;
    x.s.rip = x.s.msr.sysenter_eip & m;
    x.s.seg[SS] = flat(cs + 8, 3, 0, ATTR_DB);
    x.enter_code(flat(cs, 0xb, 0, if long { ATTR_L } else { ATTR_DB }), 0);
    Ok(())
}

pub(crate) fn sysexit(x: &mut Exec<'_>, op: &Op) -> Done {
    let cs = x.s.msr.sysenter_cs & 0xfffc;
    if !x.s.protected() || cs == 0 || x.s.cpl != 0 {
        return Err(GP0);
    }
    let (rip, sp) = (x.s.gpr[RDX], x.s.gpr[RCX]);
    if op.size2 == 8 {
        if !canonical(rip) || !canonical(sp) {
            return Err(GP0);
        }
        x.s.rip = rip;
        x.s.gpr[RSP] = sp;
        x.s.seg[SS] = flat((cs + 40) | 3, 3, 3, ATTR_DB);
        x.enter_code(flat((cs + 32) | 3, 0xb, 3, ATTR_L), 3);
    } else {
        x.s.rip = rip & 0xffff_ffff;
        x.s.gpr[RSP] = sp & 0xffff_ffff;
        x.s.seg[SS] = flat((cs + 24) | 3, 3, 3, ATTR_DB);
        x.enter_code(flat((cs + 16) | 3, 0xb, 3, ATTR_DB), 3);
    }
    Ok(())
}

pub(crate) fn int_n(x: &mut Exec<'_>, op: &Op) -> Done {
    if x.s.v8086() && x.s.iopl() < 3 {
        return Err(GP0);
    }
    x.software_interrupt(op.imm as u8)
}

pub(crate) fn int3(x: &mut Exec<'_>, _: &Op) -> Done {
    x.software_interrupt(vector::BP)
}

pub(crate) fn int1(x: &mut Exec<'_>, _: &Op) -> Done {
    x.debug_interrupt()
}

pub(crate) fn into(x: &mut Exec<'_>, _: &Op) -> Done {
    if x.s.rflags & flags::OF != 0 { x.software_interrupt(vector::OF) } else { Ok(()) }
}

/// bound: the operand is a pair of signed limits.
pub(crate) fn bound(x: &mut Exec<'_>, op: &Op) -> Done {
    let off = x.offset(op);
    let seg = usize::from(op.seg);
    let (v, lo, len) = if op.size == 2 {
        (flags::sext::<2>(x.reg::<2>(op.a)), flags::sext::<2>(x.read::<2>(seg, off)?), 2)
    } else {
        (flags::sext::<4>(x.reg::<4>(op.a)), flags::sext::<4>(x.read::<4>(seg, off)?), 4)
    };
    if v < lo {
        return Err(Fault::plain(vector::BR));
    }
    // The other bound is read only then.
    let above = off.wrapping_add(len);
    let hi =
        if len == 2 { flags::sext::<2>(x.read::<2>(seg, above)?) } else { flags::sext::<4>(x.read::<4>(seg, above)?) };
    if v > hi { Err(Fault::plain(vector::BR)) } else { Ok(()) }
}
