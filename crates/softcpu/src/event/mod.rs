//! Interrupts and exceptions: from a vector to the first instruction of its handler.
//!
//! Nothing of the guest's changes before the last access of a delivery has gone well, so that a fault on the way is a
//! fault of its own. Source: Intel SDM volume 3A, chapter 6.

pub(crate) mod gate;
pub(crate) mod task;
#[cfg(test)]
mod tests;

use crate::exec::Exec;
use crate::fault::{Done, Fault, gp, vector};
use crate::flags;
use crate::interp::descriptor::Descriptor;
use crate::state::{ATTR_DB, ATTR_L, ATTR_UNUSABLE, CS, RSP, SS, Segment, View};

/// Where an event comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// The CPU found something wrong with an instruction.
    Exception,
    /// `int n` and its kin: the gate's level is checked.
    Software,
    /// A device, another CPU, an NMI.
    External,
}

#[derive(Clone, Copy)]
struct Event {
    vector: u8,
    error: Option<u32>,
    origin: Origin,
}

/// A gate of the IDT.
struct Gate {
    selector: u16,
    offset: u64,
    ist: u8,
    /// 16-bit gates push words.
    word: bool,
    clears_if: bool,
    /// It leads to a task.
    task: bool,
}

/// A stack that a delivery builds, in memory only until it is complete.
struct Frame {
    base: u64,
    sp: u64,
    mask: u64,
    view: View,
}

fn contributory(v: u8) -> bool {
    matches!(v, vector::DE | vector::TS | vector::NP | vector::SS | vector::GP)
}

impl Exec<'_> {
    /// Delivers a fault of the instruction at `rip`, or what comes of trying.
    ///
    /// # Errors
    /// [`Fault::Triple`]: there is no way on.
    pub(crate) fn raise(&mut self, fault: Fault) -> Done {
        let mut now = fault;
        loop {
            let Fault::Exception { vector: v, error } = now else { return Err(Fault::Triple) };
            if v == vector::PF {
                self.s.cr2 = self.s.fault_address;
            }
            if v == vector::DB {
                self.note_debug();
            }
            let Err(next) = self.deliver(Event { vector: v, error, origin: Origin::Exception }) else { return Ok(()) };
            let Fault::Exception { vector: n, .. } = next else { return Err(next) };
            if v == vector::DF {
                return Err(Fault::Triple);
            }
            let double =
                (contributory(v) && contributory(n)) || (v == vector::PF && (contributory(n) || n == vector::PF));
            now = if double { Fault::coded(vector::DF, 0) } else { next };
        }
    }

    /// Puts what was met into DR6: of the four breakpoints only those of now, while other bits stay.
    /// Source: Intel SDM volume 3B, section 18.2.3.
    fn note_debug(&mut self) {
        self.s.dr[6] = (self.s.dr[6] & !0xf) | self.s.debug_hits;
        self.s.debug_hits = 0;
        self.s.dr[7] &= !(1 << 13);
    }

    /// After a load of ss: interrupts and debug exceptions wait for the end of the next instruction.
    pub(crate) fn hold_back(&mut self) {
        self.s.shadow = true;
        self.s.shadow_debug = true;
    }

    /// Delivers an interrupt from outside.
    ///
    /// # Errors
    /// [`Fault::Triple`]: there is no way on.
    pub(crate) fn interrupt(&mut self, v: u8) -> Done {
        if v == vector::NMI {
            self.s.nmi_blocked = true;
        }
        match self.deliver(Event { vector: v, error: None, origin: Origin::External }) {
            Ok(()) => Ok(()),
            Err(f) => self.raise(f),
        }
    }

    /// `int n`: `rip` is already behind the instruction.
    pub(crate) fn software_interrupt(&mut self, v: u8) -> Done {
        self.deliver(Event { vector: v, error: None, origin: Origin::Software })
    }

    /// `int1`: a debug exception that any level may ask for. Breakpoints that a load of ss held back come with it.
    pub(crate) fn debug_interrupt(&mut self) -> Done {
        self.note_debug();
        self.deliver(Event { vector: vector::DB, error: None, origin: Origin::Exception })
    }

    fn deliver(&mut self, e: Event) -> Done {
        self.deliver_now(e)?;
        self.delivered = true;
        self.s.halted = false;
        Ok(())
    }

    fn deliver_now(&mut self, e: Event) -> Done {
        if !self.s.protected() {
            return self.deliver_real(e);
        }
        let gate = self.gate(e)?;
        let ext = u32::from(e.origin != Origin::Software);
        if gate.task {
            let pushed = self.pushed_flags(e);
            let flags = std::mem::replace(&mut self.s.rflags, pushed);
            let done = self.task_by_selector(gate.selector, task::Cause::Event(e.error));
            // A fault before the switch is the old task's.
            return done.map_err(|f| {
                self.s.rflags = flags;
                external(f, ext)
            });
        }
        let d = match self.descriptor(gate.selector) {
            Ok(d) => d,
            Err(Fault::Exception { vector: vector::GP, .. }) => return Err(external(gp(gate.selector), ext)),
            Err(f) => return Err(f),
        };
        let long = self.s.long_mode();
        if !d.code() || d.dpl() > self.s.cpl || (long && (d.attr() & ATTR_L == 0 || d.attr() & ATTR_DB != 0)) {
            return Err(external(gp(gate.selector), ext));
        }
        if !d.present() {
            return Err(Fault::coded(vector::NP, u32::from(gate.selector & 0xfffc) | ext));
        }
        if long { self.deliver_long(e, &gate, d) } else { self.deliver_protected(e, &gate, d) }
    }

    /// The IVT of real mode: four bytes a vector, words on the stack.
    fn deliver_real(&mut self, e: Event) -> Done {
        let at = u64::from(e.vector) * 4;
        if at + 3 > u64::from(self.s.idtr.limit) {
            return Err(Fault::coded(vector::GP, u32::from(e.vector) * 8 + 2));
        }
        let entry = self.system_read::<4>(self.s.idtr.base + at)?;
        let words = [self.s.rflags, u64::from(self.s.seg[CS].selector), self.s.rip];
        let sp = self.s.gpr[RSP];
        for w in words {
            if let Err(f) = self.push::<2>(w) {
                self.s.gpr[RSP] = sp;
                return Err(f);
            }
        }
        self.s.rflags &= !(flags::IF | flags::TF | flags::AC | flags::RF);
        let selector = (entry >> 16) as u16;
        let cs = Segment { selector, base: u64::from(selector) << 4, ..self.s.seg[CS] };
        self.s.rip = entry & 0xffff;
        self.enter_code(cs, 0);
        Ok(())
    }

    fn gate(&mut self, e: Event) -> Result<Gate, Fault> {
        let ext = u32::from(e.origin != Origin::Software);
        let code = u32::from(e.vector) * 8 + 2 + ext;
        let long = self.s.long_mode();
        let size = if long { 16 } else { 8 };
        let at = u64::from(e.vector) * size;
        if at + size - 1 > u64::from(self.s.idtr.limit) {
            return Err(Fault::coded(vector::GP, code));
        }
        let low = self.system_read::<8>(self.s.idtr.base.wrapping_add(at))?;
        let high = if long { self.system_read::<8>(self.s.idtr.base.wrapping_add(at + 8))? } else { 0 };
        let kind = (low >> 40) & 0x1f;
        let task = !long && kind == u64::from(task::TASK_GATE);
        let known = matches!(kind, 0xe | 0xf) || (!long && matches!(kind, 6 | 7)) || task;
        let dpl = ((low >> 45) & 3) as u8;
        if !known || (e.origin == Origin::Software && dpl < self.s.cpl) {
            return Err(Fault::coded(vector::GP, code));
        }
        if low & (1 << 47) == 0 {
            return Err(Fault::coded(vector::NP, code));
        }
        let mut offset = (low & 0xffff) | ((low >> 32) & 0xffff_0000);
        if kind < 8 {
            offset &= 0xffff;
        }
        Ok(Gate {
            selector: (low >> 16) as u16,
            offset: offset | (high << 32),
            ist: if long { (low >> 32) as u8 & 7 } else { 0 },
            word: kind < 8,
            clears_if: kind & 1 == 0,
            task,
        })
    }

    /// Writes one stack slot of a delivery.
    fn frame_push<const B: usize>(&mut self, f: &mut Frame, v: u64) -> Done {
        f.sp = f.sp.wrapping_sub(B as u64) & f.mask;
        let lin = f.base.wrapping_add(f.sp);
        let lin = if self.s.long_mode() { lin } else { lin & 0xffff_ffff };
        if self.tlb.store::<B>(f.view, lin, v) {
            return Ok(());
        }
        self.write_slow::<B>(f.view, lin, v, SS)
    }

    /// Flags as they are pushed: a fault resumes its instruction without meeting its breakpoint again.
    fn pushed_flags(&self, e: Event) -> u64 {
        let fault =
            e.origin == Origin::Exception && !matches!(e.vector, vector::DB | vector::BP | vector::OF | vector::DF);
        self.s.rflags | if fault { flags::RF } else { 0 }
    }

    fn view_at(&self, cpl: u8) -> View {
        if cpl == 3 { View::User } else { View::Kernel }
    }

    fn deliver_long(&mut self, e: Event, gate: &Gate, mut d: Descriptor) -> Done {
        let cpl = if d.conforming() { self.s.cpl } else { d.dpl() };
        let inner = cpl < self.s.cpl;
        let mut sp = self.s.gpr[RSP];
        if gate.ist > 0 || inner {
            let slot = if gate.ist > 0 { 0x24 + 8 * (u64::from(gate.ist) - 1) } else { 4 + 8 * u64::from(cpl) };
            if slot + 7 > u64::from(self.s.tr.limit) {
                return Err(Fault::coded(vector::TS, u32::from(self.s.tr.selector & 0xfffc)));
            }
            sp = self.system_read::<8>(self.s.tr.base.wrapping_add(slot))?;
        }
        if !crate::mmu::canonical(sp) {
            return Err(crate::fault::SS0);
        }
        if !crate::mmu::canonical(gate.offset) {
            return Err(crate::fault::GP0);
        }
        self.touch(&mut d)?;
        let mut f = Frame { base: 0, sp: sp & !15, mask: u64::MAX, view: self.view_at(cpl) };
        let fl = self.pushed_flags(e);
        let (ss, rsp, cs, rip) = (self.s.seg[SS].selector, self.s.gpr[RSP], self.s.seg[CS].selector, self.s.rip);
        for v in [u64::from(ss), rsp, fl, u64::from(cs), rip] {
            self.frame_push::<8>(&mut f, v)?;
        }
        if let Some(code) = e.error {
            self.frame_push::<8>(&mut f, u64::from(code))?;
        }
        self.s.gpr[RSP] = f.sp;
        if inner {
            let attr = ATTR_UNUSABLE | (u32::from(cpl) << 5);
            self.s.seg[SS] = Segment { selector: u16::from(cpl), attr, ..Segment::default() };
        }
        self.enter_handler(gate, d, cpl);
        Ok(())
    }

    fn enter_handler(&mut self, gate: &Gate, d: Descriptor, cpl: u8) {
        self.s.rflags &= !(flags::TF | flags::NT | flags::RF | flags::VM);
        if gate.clears_if {
            self.s.rflags &= !flags::IF;
        }
        self.s.rip = gate.offset;
        self.enter_code(d.segment(cpl), cpl);
    }

    fn deliver_protected(&mut self, e: Event, gate: &Gate, mut d: Descriptor) -> Done {
        let cpl = if d.conforming() { self.s.cpl } else { d.dpl() };
        let v86 = self.s.v8086();
        let mut ss = self.s.seg[SS];
        let mut sp = self.s.gpr[RSP];
        let inner = cpl < self.s.cpl;
        if v86 && cpl != 0 {
            return Err(gp(gate.selector));
        }
        if inner {
            (ss, sp) = self.inner_stack(cpl)?;
        }
        self.touch(&mut d)?;
        let mask = if ss.attr & ATTR_DB != 0 { 0xffff_ffff } else { 0xffff };
        let mut f = Frame { base: ss.base, sp: sp & mask, mask, view: self.view_at(cpl) };
        let mut values = Vec::with_capacity(10);
        if inner && v86 {
            values.extend([5, 4, 3, 0].map(|i: usize| u64::from(self.s.seg[i].selector)));
        }
        if inner {
            values.extend([u64::from(self.s.seg[SS].selector), self.s.gpr[RSP]]);
        }
        values.extend([self.pushed_flags(e), u64::from(self.s.seg[CS].selector), self.s.rip]);
        values.extend(e.error.map(u64::from));
        for v in values {
            if gate.word { self.frame_push::<2>(&mut f, v)? } else { self.frame_push::<4>(&mut f, v)? }
        }
        if inner {
            self.s.seg[SS] = ss;
            self.s.gpr[RSP] = f.sp;
            if v86 {
                for i in [0, 3, 4, 5] {
                    self.s.seg[i] = Segment { attr: ATTR_UNUSABLE, ..Segment::default() };
                }
            }
        } else {
            self.s.gpr[RSP] = (self.s.gpr[RSP] & !mask) | f.sp;
        }
        self.enter_handler(gate, d, cpl);
        Ok(())
    }

    /// The stack for an inner level, out of the TSS.
    fn inner_stack(&mut self, cpl: u8) -> Result<(Segment, u64), Fault> {
        let tr = self.s.tr;
        let ts = |sel: u16| Fault::coded(vector::TS, u32::from(sel & 0xfffc));
        let wide = tr.kind() & 8 != 0;
        let at = if wide { 4 + 8 * u64::from(cpl) } else { 2 + 4 * u64::from(cpl) };
        if at + if wide { 7 } else { 3 } > u64::from(tr.limit) {
            return Err(ts(tr.selector));
        }
        let (sp, selector) = if wide {
            (self.system_read::<4>(tr.base + at)?, self.system_read::<2>(tr.base + at + 4)? as u16)
        } else {
            (self.system_read::<2>(tr.base + at)?, self.system_read::<2>(tr.base + at + 2)? as u16)
        };
        let mut d = match self.descriptor(selector) {
            Ok(d) => d,
            Err(Fault::Exception { vector: vector::GP, .. }) => return Err(ts(selector)),
            Err(f) => return Err(f),
        };
        if (selector & 3) as u8 != cpl || d.system() || d.code() || d.kind() & 2 == 0 || d.dpl() != cpl {
            return Err(ts(selector));
        }
        if !d.present() {
            return Err(Fault::coded(vector::SS, u32::from(selector & 0xfffc)));
        }
        self.touch(&mut d)?;
        Ok((d.segment(cpl), sp))
    }
}

fn external(f: Fault, ext: u32) -> Fault {
    match f {
        Fault::Exception { vector, error: Some(e) } => Fault::coded(vector, e | ext),
        f => f,
    }
}
