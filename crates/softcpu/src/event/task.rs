//! Hardware task switches: a task state segment holds what a task left with, and what it goes on with. Only outside of long mode.
//!
//! Everything is checked and read before anything changes. What is wrong with the new task's segments is the new task's fault: it is
//! raised there. Source: Intel SDM volume 3A, chapter 8.

use crate::exec::Exec;
use crate::fault::{Done, Fault, GP0, gp, vector};
use crate::flags;
use crate::interp::descriptor::Descriptor;
use crate::state::{ATTR_UNUSABLE, CR0_PG, CR0_TS, CS, SS, Segment};

/// Kinds of system descriptors: a TSS that is free or in use, of 16 or 32 bits, and a gate to one.
const TSS_16: u32 = 1;
const TSS_32: u32 = 9;
const BUSY: u32 = 2;
pub(crate) const TASK_GATE: u32 = 5;
const LDT: u32 = 2;
/// DR6: a switch to a task that asks for it.
const TASK_SWITCHED: u64 = 1 << 15;
/// Breakpoints of one task only, in DR7.
const LOCAL_BREAKPOINTS: u64 = 0x155;

/// Why another task runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    Jump,
    Call,
    /// An interrupt or an exception, with what is pushed for it.
    Event(Option<u32>),
    Return,
}

/// Where things stand in a TSS.
struct Layout {
    limit: u32,
    ip: u64,
    flags: u64,
    registers: u64,
    segments: u64,
    /// es, cs, ss, ds, and of 32 bits fs and gs.
    segment_count: usize,
    ldt: u64,
    /// Bytes of a register.
    size: u64,
    /// Bytes from a selector to the next.
    step: u64,
}

const LAYOUT_32: Layout = Layout {
    limit: 0x67,
    ip: 0x20,
    flags: 0x24,
    registers: 0x28,
    segments: 0x48,
    segment_count: 6,
    ldt: 0x60,
    size: 4,
    step: 4,
};
const LAYOUT_16: Layout = Layout {
    limit: 0x2b,
    ip: 0x0e,
    flags: 0x10,
    registers: 0x12,
    segments: 0x22,
    segment_count: 4,
    ldt: 0x2a,
    size: 2,
    step: 2,
};
/// Of 32 bits only: the page tables, and the word whose lowest bit asks for a debug exception.
const CR3: u64 = 0x1c;
const TRAP: u64 = 0x64;

fn layout(kind: u32) -> &'static Layout {
    if kind & 8 != 0 { &LAYOUT_32 } else { &LAYOUT_16 }
}

/// What a task goes on with.
struct Task {
    cr3: Option<u64>,
    ip: u64,
    flags: u64,
    registers: [u64; 8],
    /// es, cs, ss, ds, fs, gs.
    segments: [u16; 6],
    ldt: u16,
    traps: bool,
}

fn ts(selector: u16) -> Fault {
    Fault::coded(vector::TS, u32::from(selector & 0xfffc))
}

fn np(selector: u16) -> Fault {
    Fault::coded(vector::NP, u32::from(selector & 0xfffc))
}

impl Exec<'_> {
    /// Whether a system descriptor leads to a task, itself or by a gate.
    pub(crate) fn is_task(&self, d: &Descriptor) -> bool {
        !self.s.long_mode() && matches!(d.kind() & !BUSY, TSS_16 | TSS_32) || self.is_task_gate(d)
    }

    fn is_task_gate(&self, d: &Descriptor) -> bool {
        !self.s.long_mode() && d.kind() == TASK_GATE
    }

    /// A far jump or call to a descriptor that leads to a task.
    ///
    /// # Errors
    /// The task can't be had from here.
    pub(crate) fn go_to_task(&mut self, d: &Descriptor, cause: Cause) -> Done {
        let level = self.s.cpl.max((d.selector & 3) as u8);
        if d.dpl() < level {
            return Err(gp(d.selector));
        }
        if !self.is_task_gate(d) {
            return self.free_task(*d, cause);
        }
        if !d.present() {
            return Err(np(d.selector));
        }
        self.task_by_selector((d.raw >> 16) as u16, cause)
    }

    /// The task that a gate names.
    ///
    /// # Errors
    /// There is none of this number that is free.
    pub(crate) fn task_by_selector(&mut self, selector: u16, cause: Cause) -> Done {
        if selector & 4 != 0 {
            return Err(gp(selector));
        }
        let d = self.descriptor(selector)?;
        self.free_task(d, cause)
    }

    fn free_task(&mut self, d: Descriptor, cause: Cause) -> Done {
        if !d.system() || !matches!(d.kind(), TSS_16 | TSS_32) {
            return Err(gp(d.selector));
        }
        if !d.present() {
            return Err(np(d.selector));
        }
        self.switch_task(d, cause)
    }

    /// `iret` of a nested task: back to the one that called it.
    ///
    /// # Errors
    /// There is none that waits.
    pub(crate) fn return_task(&mut self) -> Done {
        let selector = self.system_read::<2>(self.s.tr.base)? as u16;
        if selector & 4 != 0 || selector & !3 == 0 {
            return Err(ts(selector));
        }
        let d = match self.descriptor(selector) {
            Err(Fault::Exception { vector: vector::GP, .. }) => return Err(ts(selector)),
            d => d?,
        };
        if !d.system() || !matches!(d.kind(), k if k == TSS_16 | BUSY || k == TSS_32 | BUSY) {
            return Err(ts(selector));
        }
        if !d.present() {
            return Err(np(selector));
        }
        self.switch_task(d, Cause::Return)
    }

    fn switch_task(&mut self, d: Descriptor, cause: Cause) -> Done {
        if self.s.long_mode() {
            return Err(GP0);
        }
        let layout = layout(d.kind());
        if d.limit() < layout.limit {
            return Err(ts(d.selector));
        }
        let mut task = self.read_task(d.base(), layout)?;
        let old = self.s.tr;
        self.leave_task(cause)?;
        if matches!(cause, Cause::Jump | Cause::Return) {
            self.set_busy(old.selector, 0)?;
        }
        if matches!(cause, Cause::Call | Cause::Event(_)) {
            task.flags |= flags::NT;
            self.system_write::<2>(d.base(), u64::from(old.selector))?;
        }
        self.set_busy(d.selector, BUSY)?;
        self.s.tr = Segment { attr: d.attr() | BUSY, selector: d.selector & !3, ..d.segment(0) };
        self.take_task(&task);
        let fine = self.take_task_segments(&task).and_then(|()| match cause {
            Cause::Event(Some(code)) => self.push_sized(layout.size as u8, u64::from(code)),
            _ => Ok(()),
        });
        self.mode_changed();
        match fine {
            Err(f) => self.raise(f),
            Ok(()) if task.traps => {
                self.s.debug_hits |= TASK_SWITCHED;
                self.raise(Fault::plain(vector::DB))
            }
            Ok(()) => Ok(()),
        }
    }

    /// The number at an address of a TSS, as wide as its registers.
    fn task_read(&mut self, at: u64, size: u64) -> Result<u64, Fault> {
        if size == 4 { self.system_read::<4>(at) } else { self.system_read::<2>(at) }
    }

    fn read_task(&mut self, base: u64, l: &Layout) -> Result<Task, Fault> {
        let wide = l.size == 4;
        let paging = wide && self.s.cr0 & CR0_PG != 0;
        let mut task = Task {
            cr3: if paging { Some(self.system_read::<4>(base + CR3)?) } else { None },
            ip: self.task_read(base + l.ip, l.size)?,
            flags: self.task_read(base + l.flags, l.size)?,
            registers: [0; 8],
            segments: [0; 6],
            ldt: self.system_read::<2>(base + l.ldt)? as u16,
            traps: wide && self.system_read::<2>(base + TRAP)? & 1 != 0,
        };
        for n in 0..8 {
            task.registers[n] = self.task_read(base + l.registers + n as u64 * l.size, l.size)?;
        }
        for n in 0..l.segment_count {
            task.segments[n] = self.system_read::<2>(base + l.segments + n as u64 * l.step)? as u16;
        }
        Ok(task)
    }

    /// Puts what runs now into its TSS.
    fn leave_task(&mut self, cause: Cause) -> Done {
        let (base, l) = (self.s.tr.base, layout(self.s.tr.kind()));
        let mut left = self.s.rflags;
        if cause == Cause::Return {
            left &= !flags::NT;
        }
        let (rip, registers, segments) = (self.s.rip, self.s.gpr, self.s.seg);
        let mut put = |at: u64, v: u64| {
            let at = base + at;
            if l.size == 4 { self.system_write::<4>(at, v) } else { self.system_write::<2>(at, v) }
        };
        put(l.flags, left)?;
        put(l.ip, rip)?;
        for (n, &v) in registers.iter().take(8).enumerate() {
            put(l.registers + n as u64 * l.size, v)?;
        }
        for (n, s) in segments.iter().take(l.segment_count).enumerate() {
            self.system_write::<2>(base + l.segments + n as u64 * l.step, u64::from(s.selector))?;
        }
        Ok(())
    }

    /// Marks the TSS of a selector.
    fn set_busy(&mut self, selector: u16, busy: u32) -> Done {
        let at = self.s.gdtr.base.wrapping_add(u64::from(selector & !7) + 5);
        let kind = self.system_read::<1>(at)?;
        self.system_write::<1>(at, (kind & !u64::from(BUSY)) | u64::from(busy))
    }

    /// Registers of the new task. From here on it is its own.
    fn take_task(&mut self, task: &Task) {
        if let Some(cr3) = task.cr3 {
            self.s.cr3 = cr3;
            self.flush_local();
        }
        self.s.cr0 |= CR0_TS;
        self.s.dr[7] &= !LOCAL_BREAKPOINTS;
        self.s.gpr[..8].copy_from_slice(&task.registers);
        self.s.rip = task.ip;
        let known = flags::POPF | flags::VM | flags::RF | flags::VIF | flags::VIP;
        self.s.rflags = (task.flags & known) | flags::ONE;
        for (s, &selector) in self.s.seg.iter_mut().zip(&task.segments) {
            *s = Segment { attr: ATTR_UNUSABLE, selector, ..Segment::default() };
        }
        self.s.ldtr = Segment { attr: ATTR_UNUSABLE, selector: task.ldt, ..Segment::default() };
        self.s.cpl = if self.s.v8086() { 3 } else { (task.segments[CS] & 3) as u8 };
    }

    fn take_task_segments(&mut self, task: &Task) -> Done {
        self.mode_changed();
        self.take_ldt(task.ldt)?;
        if self.s.v8086() {
            return (0..6).try_for_each(|n| self.load_segment(n, task.segments[n]));
        }
        self.take_code(task.segments[CS])?;
        for n in [SS, 0, 3, 4, 5] {
            let selector = task.segments[n];
            self.load_segment(n, selector).map_err(|f| match f {
                Fault::Exception { vector: vector::GP, .. } => ts(selector),
                f => f,
            })?;
        }
        if self.s.rip > u64::from(self.s.seg[CS].limit) {
            return Err(GP0);
        }
        Ok(())
    }

    fn take_ldt(&mut self, selector: u16) -> Done {
        if selector & !3 == 0 {
            return Ok(());
        }
        if selector & 4 != 0 {
            return Err(ts(selector));
        }
        let d = self.descriptor(selector).map_err(|_| ts(selector))?;
        if !d.system() || d.kind() != LDT || !d.present() {
            return Err(ts(selector));
        }
        self.s.ldtr = Segment { selector, ..d.segment(0) };
        Ok(())
    }

    fn take_code(&mut self, selector: u16) -> Done {
        let mut d = match self.descriptor(selector) {
            Err(Fault::Exception { vector: vector::GP, .. }) => return Err(ts(selector)),
            d => d?,
        };
        let level = (selector & 3) as u8;
        let fits = if d.conforming() { d.dpl() <= level } else { d.dpl() == level };
        if !d.code() || !fits {
            return Err(ts(selector));
        }
        if !d.present() {
            return Err(np(selector));
        }
        self.touch(&mut d)?;
        self.s.seg[CS] = d.segment(level);
        Ok(())
    }
}
