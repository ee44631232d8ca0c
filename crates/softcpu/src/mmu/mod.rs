//! Guest memory as instructions see it: segments, pages, faults.
//!
//! The fast path is the TLB's comparison; everything else (page walks, page ends, devices, pages with code) is here.

pub(crate) mod fetch;
mod walk;

pub(crate) use walk::Access;

use crate::exec::Exec;
use crate::fault::{Fault, GP0, SS0};
use crate::flags::mask;
use crate::host::ram::PAGE;
use crate::host::tlb::{Global, Writable};
use crate::state::{CR4_DE, FS, SS, Segment, View};

/// Whether a read-modify-write is one locked step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lock {
    No,
    Yes,
}

/// Whether a linear address of 48 bits is sign-extended as it must be.
pub(crate) fn canonical(addr: u64) -> bool {
    ((addr << 16) as i64 >> 16) as u64 == addr
}

impl Exec<'_> {
    /// The linear address of `len` bytes at `off` in segment `seg`, checked as the mode asks.
    #[inline(always)]
    pub(crate) fn linear(&self, seg: usize, off: u64, len: u64, access: Access) -> Result<u64, Fault> {
        if self.s.code64() {
            return Ok(if seg >= FS { self.s.seg[seg].base.wrapping_add(off) } else { off });
        }
        self.linear_checked(seg, off, len, access)
    }

    fn linear_checked(&self, seg: usize, off: u64, len: u64, access: Access) -> Result<u64, Fault> {
        let s = self.segment(seg);
        let fault = if seg == SS { SS0 } else { GP0 };
        let last = off.wrapping_add(len - 1);
        if s.usable() && allowed(s, self.s.protected() && !self.s.v8086(), access) && within(s, off, last) {
            Ok(s.base.wrapping_add(off) & 0xffff_ffff)
        } else {
            Err(fault)
        }
    }

    /// The page behind that of a linear address: the first, where addresses have 32 bits.
    pub(crate) fn page_behind(&self, lin: u64) -> u64 {
        let next = (lin & !(PAGE - 1)).wrapping_add(PAGE);
        if self.s.code64() { next } else { next & 0xffff_ffff }
    }

    /// Faults if `B` bytes at an odd address are not allowed.
    #[inline(always)]
    fn check_alignment<const B: usize>(&self, lin: u64) -> Result<(), Fault> {
        if lin & (B as u64 - 1) != 0 && self.s.checks_alignment() {
            return Err(Fault::coded(crate::fault::vector::AC, 0));
        }
        Ok(())
    }

    /// Reads `B` bytes of data.
    #[inline(always)]
    pub(crate) fn read<const B: usize>(&mut self, seg: usize, off: u64) -> Result<u64, Fault> {
        let lin = self.linear(seg, off, B as u64, Access::Read)?;
        self.check_alignment::<B>(lin)?;
        match self.tlb.load::<B>(self.view, lin) {
            Some(v) => Ok(v),
            None => self.read_slow::<B>(self.view, lin, seg),
        }
    }

    /// Writes `B` bytes of data.
    #[inline(always)]
    pub(crate) fn write<const B: usize>(&mut self, seg: usize, off: u64, v: u64) -> Result<(), Fault> {
        let lin = self.linear(seg, off, B as u64, Access::Write)?;
        self.check_alignment::<B>(lin)?;
        if self.tlb.store::<B>(self.view, lin, v) {
            return Ok(());
        }
        self.write_slow::<B>(self.view, lin, v, seg)
    }

    /// Reads `B` bytes, computes what to put in their place, and writes it; returns what stood there.
    ///
    /// Write permission is checked first. `f` may run several times if the step is locked and another CPU is in the way.
    #[inline(always)]
    pub(crate) fn modify<const B: usize>(
        &mut self,
        seg: usize,
        off: u64,
        lock: Lock,
        mut f: impl FnMut(u64) -> u64,
    ) -> Result<u64, Fault> {
        let lin = self.linear(seg, off, B as u64, Access::Write)?;
        self.check_alignment::<B>(lin)?;
        if let Some(old) = self.tlb.load_for_write::<B>(self.view, lin) {
            if lock == Lock::No {
                let new = f(old);
                self.tlb.store::<B>(self.view, lin, new);
                return Ok(old);
            }
            let mut seen = old;
            loop {
                let new = f(seen);
                match self.tlb.exchange::<B>(self.view, lin, seen, new) {
                    Some(v) if v != seen => seen = v,
                    _ => return Ok(seen),
                }
            }
        }
        self.modify_slow::<B>(lin, seg, lock, &mut f)
    }

    #[cold]
    fn modify_slow<const B: usize>(
        &mut self,
        lin: u64,
        seg: usize,
        lock: Lock,
        f: &mut dyn FnMut(u64) -> u64,
    ) -> Result<u64, Fault> {
        self.check_canonical(lin, B as u64, seg)?;
        let view = self.view;
        if (lin & (PAGE - 1)) + B as u64 <= PAGE {
            let gpa = self.translate(lin, Access::Write, view)?;
            self.note_access(lin, B as u64, Access::Write);
            if lock == Lock::Yes {
                let Some(mut seen) = self.shared.ram.load::<B>(gpa) else {
                    let old = self.board.mmio_read(gpa, B) & mask::<B>();
                    self.board.mmio_write(gpa, B, f(old) & mask::<B>());
                    return Ok(old);
                };
                loop {
                    let new = f(seen);
                    match self.shared.ram.exchange::<B>(gpa, seen, new) {
                        Some(v) if v != seen => seen = v,
                        _ => break,
                    }
                }
                self.wrote(gpa, B as u64);
                return Ok(seen);
            }
            let old = self.physical_read::<B>(gpa);
            self.physical_write::<B>(gpa, f(old));
            return Ok(old);
        }
        // Across pages: not one step even if locked; kernels don't, and the hardware may refuse it too (split lock).
        self.translate(lin, Access::Write, view)?;
        self.translate(self.page_behind(lin), Access::Write, view)?;
        let old = self.read_slow::<B>(view, lin, seg)?;
        self.write_slow::<B>(view, lin, f(old), seg)?;
        Ok(old)
    }

    /// Faults now if `len` bytes at `off` can't be accessed: for instructions that write several times.
    pub(crate) fn probe(&mut self, seg: usize, off: u64, len: u64, access: Access) -> Result<(), Fault> {
        let lin = self.linear(seg, off, len, access)?;
        self.check_canonical(lin, len, seg)?;
        self.translate(lin, access, self.view)?;
        let last = lin.wrapping_add(len - 1);
        if (lin ^ last) & !(PAGE - 1) != 0 {
            self.translate(last & !(PAGE - 1), access, self.view)?;
        }
        Ok(())
    }

    /// Reads what the CPU itself reads: descriptors, the TSS. Always with supervisor rights.
    pub(crate) fn system_read<const B: usize>(&mut self, lin: u64) -> Result<u64, Fault> {
        match self.tlb.load::<B>(View::Kernel, lin) {
            Some(v) => Ok(v),
            None => self.read_slow::<B>(View::Kernel, lin, 0),
        }
    }

    /// Writes what the CPU itself writes.
    pub(crate) fn system_write<const B: usize>(&mut self, lin: u64, v: u64) -> Result<(), Fault> {
        if self.tlb.store::<B>(View::Kernel, lin, v) {
            return Ok(());
        }
        self.write_slow::<B>(View::Kernel, lin, v, 0)
    }

    /// Faults if `len` bytes can't be at a linear address.
    pub(crate) fn check_canonical(&self, lin: u64, len: u64, seg: usize) -> Result<(), Fault> {
        if self.s.long_mode() && !(canonical(lin) && canonical(lin.wrapping_add(len - 1))) {
            return Err(if seg == SS { SS0 } else { GP0 });
        }
        Ok(())
    }

    #[cold]
    #[inline(never)]
    pub(crate) fn read_slow<const B: usize>(&mut self, view: View, lin: u64, seg: usize) -> Result<u64, Fault> {
        self.check_canonical(lin, B as u64, seg)?;
        let room = PAGE - (lin & (PAGE - 1));
        let gpa = self.translate(lin, Access::Read, view)?;
        self.note_access(lin, B as u64, Access::Read);
        if B as u64 <= room {
            return Ok(self.physical_read::<B>(gpa));
        }
        let next = self.translate(self.page_behind(lin), Access::Read, view)?;
        let mut v = 0;
        for i in 0..B as u64 {
            let at = if i < room { gpa + i } else { next + (i - room) };
            v |= self.physical_read::<1>(at) << (8 * i);
        }
        Ok(v)
    }

    #[cold]
    #[inline(never)]
    pub(crate) fn write_slow<const B: usize>(&mut self, view: View, lin: u64, v: u64, seg: usize) -> Result<(), Fault> {
        self.check_canonical(lin, B as u64, seg)?;
        let room = PAGE - (lin & (PAGE - 1));
        let gpa = self.translate(lin, Access::Write, view)?;
        if B as u64 <= room {
            self.note_access(lin, B as u64, Access::Write);
            self.physical_write::<B>(gpa, v);
            return Ok(());
        }
        let next = self.translate(self.page_behind(lin), Access::Write, view)?;
        self.note_access(lin, B as u64, Access::Write);
        for i in 0..B as u64 {
            let at = if i < room { gpa + i } else { next + (i - room) };
            self.physical_write::<1>(at, v >> (8 * i));
        }
        Ok(())
    }

    /// Reads memory or a device.
    pub(crate) fn physical_read<const B: usize>(&mut self, gpa: u64) -> u64 {
        match self.shared.ram.load::<B>(gpa) {
            Some(v) => v,
            None => self.board.mmio_read(gpa, B) & mask::<B>(),
        }
    }

    /// Writes memory or a device.
    pub(crate) fn physical_write<const B: usize>(&mut self, gpa: u64, v: u64) {
        if self.shared.ram.store::<B>(gpa, v) {
            self.wrote(gpa, B as u64);
        } else {
            self.board.mmio_write(gpa, B, v & mask::<B>());
            self.leave = true;
        }
    }

    /// After memory was written past the write table.
    pub(crate) fn wrote(&mut self, gpa: u64, len: u64) {
        self.board.dirty(gpa);
        if self.shared.code.written(gpa, len) {
            self.board.overwritten();
            self.leave = true;
        }
    }

    /// Puts a translation into the TLB if it may be used without further ado.
    fn remember(&mut self, lin: u64, gpa: u64, view: View, access: Access, global: Global) {
        let Some(page) = self.shared.ram.page(gpa) else { return };
        if self.watched(lin) {
            return;
        }
        let plain = access == Access::Write && !self.shared.code.has_code(gpa) && self.shared.ram.writable(gpa);
        if plain {
            self.board.dirty(gpa);
        }
        let writable = if plain { Writable::Yes } else { Writable::No };
        self.tlb.fill(view, lin, page, writable, global);
    }

    /// Whether a data breakpoint stands on a page: it is never in the TLB then.
    fn watched(&self, lin: u64) -> bool {
        let dr7 = self.s.dr[7];
        dr7 & 0xff != 0
            && (0..4).any(|i| {
                dr7 & (3 << (2 * i)) != 0 && (dr7 >> (16 + 4 * i)) & 3 != 0 && (self.s.dr[i] ^ lin) & !(PAGE - 1) == 0
            })
    }

    /// Notes which data breakpoints an access meets; they are reported after the instruction.
    fn note_access(&mut self, lin: u64, len: u64, access: Access) {
        self.note_points(lin, len, |kind| kind == 3 || (kind == 1 && access == Access::Write));
    }

    /// Notes which breakpoints on ports an access meets.
    pub(crate) fn note_port(&mut self, port: u16, len: u64) {
        if self.s.cr4 & CR4_DE != 0 {
            self.note_points(u64::from(port), len, |kind| kind == 2);
        }
    }

    /// Notes the breakpoints of some kinds that have a byte in common with an access.
    /// Source: Intel SDM volume 3B, section 18.2.
    fn note_points(&mut self, first: u64, len: u64, wanted: impl Fn(u64) -> bool) {
        let dr7 = self.s.dr[7];
        if dr7 & 0xff == 0 {
            return;
        }
        for i in 0..4 {
            let size = [1, 2, 8, 4][((dr7 >> (18 + 4 * i)) & 3) as usize];
            let at = self.s.dr[i] & !(size - 1);
            let on = dr7 & (3 << (2 * i)) != 0 && wanted((dr7 >> (16 + 4 * i)) & 3);
            if on && first < at.wrapping_add(size) && at < first.wrapping_add(len) {
                self.s.debug_hits |= 1 << i;
                self.leave = true;
            }
        }
    }
}

/// Whether a segment's type allows an access.
fn allowed(s: &Segment, protected: bool, access: Access) -> bool {
    if !protected {
        return true;
    }
    let code = s.attr & 8 != 0;
    let rw = s.attr & 2 != 0;
    match access {
        Access::Read => !code || rw,
        Access::Write => !code && rw,
        Access::Fetch => code,
    }
}

/// Whether offsets `first..=last` are in a segment, which may grow down.
fn within(s: &Segment, first: u64, last: u64) -> bool {
    let limit = u64::from(s.limit);
    let down = s.attr & 0xc == 4;
    if s.limit == u32::MAX && !down {
        // What begins in it and ends behind is not refused, but goes on at the first address. The manual leaves the choice (volume 3A,
        // section 5.3).
        return first <= limit;
    }
    if last < first || last > 0xffff_ffff {
        return false;
    }
    if down {
        let top = if s.attr & crate::state::ATTR_DB != 0 { 0xffff_ffff } else { 0xffff };
        first > limit && last <= top
    } else {
        last <= limit
    }
}
