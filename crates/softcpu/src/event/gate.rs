//! Far jumps and calls through call gates. Source: Intel SDM volume 3A, section 5.8.3, and volume 2, CALL.

use super::Frame;
use super::task::Cause;
use crate::exec::Exec;
use crate::fault::{Done, Fault, GP0, SS0, gp, vector};
use crate::interp::descriptor::Descriptor;
use crate::mmu::canonical;
use crate::state::{ATTR_DB, ATTR_L, ATTR_UNUSABLE, CS, RSP, SS, Segment};

/// How a gate is gone through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Jump,
    Call,
}

/// A call gate, read and checked.
struct CallGate {
    code: Descriptor,
    offset: u64,
    /// Bytes of a stack slot.
    slot: u8,
    /// Slots that are copied from the caller's stack.
    arguments: u8,
}

const CALL_GATE_16: u32 = 4;
const CALL_GATE: u32 = 0xc;

impl Exec<'_> {
    /// A jump or call to a system descriptor.
    ///
    /// # Errors
    /// It leads nowhere, or somewhere that may not be gone to.
    pub(crate) fn through_gate(&mut self, d: &Descriptor, way: Way) -> Done {
        if self.is_task(d) {
            let cause = if way == Way::Jump { Cause::Jump } else { Cause::Call };
            return self.go_to_task(d, cause);
        }
        let gate = self.call_gate(d)?;
        let cpl = self.s.cpl;
        let (conforming, dpl) = (gate.code.conforming(), gate.code.dpl());
        if way == Way::Jump && !conforming && dpl != cpl {
            return Err(gp(gate.code.selector));
        }
        if way == Way::Call && !conforming && dpl < cpl {
            return self.call_inner(gate);
        }
        let mut code = gate.code;
        self.touch(&mut code)?;
        if way == Way::Call {
            let values = [u64::from(self.s.seg[CS].selector), self.s.rip];
            let mask = self.s.stack_mask();
            let mut f = Frame {
                base: if self.s.code64() { 0 } else { self.s.seg[SS].base },
                sp: self.s.gpr[RSP] & mask,
                mask,
                view: self.view_at(cpl),
            };
            self.push_all(&mut f, gate.slot, &values)?;
            self.s.gpr[RSP] = (self.s.gpr[RSP] & !mask) | f.sp;
        }
        self.s.rip = gate.offset;
        self.enter_code(code.segment(cpl), cpl);
        Ok(())
    }

    fn call_gate(&mut self, d: &Descriptor) -> Result<CallGate, Fault> {
        let long = self.s.long_mode();
        let known = d.kind() == CALL_GATE || (d.kind() == CALL_GATE_16 && !long);
        let level = self.s.cpl.max((d.selector & 3) as u8);
        if !known || d.dpl() < level {
            return Err(gp(d.selector));
        }
        if !d.present() {
            return Err(Fault::coded(vector::NP, u32::from(d.selector & 0xfffc)));
        }
        let mut offset = (d.raw & 0xffff) | ((d.raw >> 32) & 0xffff_0000);
        if long {
            let high = self.system_read::<8>(d.at.wrapping_add(8))?;
            if high >> 40 & 0x1f != 0 {
                return Err(gp(d.selector));
            }
            offset |= high << 32;
        }
        let selector = (d.raw >> 16) as u16;
        if selector & !3 == 0 {
            return Err(GP0);
        }
        let code = self.descriptor(selector)?;
        if !code.code() || code.dpl() > self.s.cpl || (long && code.attr() & (ATTR_L | ATTR_DB) != ATTR_L) {
            return Err(gp(selector));
        }
        if !code.present() {
            return Err(Fault::coded(vector::NP, u32::from(selector & 0xfffc)));
        }
        let slot = match (long, d.kind()) {
            (true, _) => 8,
            (false, CALL_GATE) => 4,
            _ => 2,
        };
        if slot == 2 {
            offset &= 0xffff;
        }
        if if long { !canonical(offset) } else { offset > u64::from(code.limit()) } {
            return Err(GP0);
        }
        Ok(CallGate { code, offset, slot, arguments: if long { 0 } else { (d.raw >> 32) as u8 & 0x1f } })
    }

    /// To a level further in: a stack of its own out of the TSS, with the caller's on it.
    fn call_inner(&mut self, gate: CallGate) -> Done {
        let CallGate { mut code, offset, slot, arguments } = gate;
        let cpl = code.dpl();
        let (ss, sp) = if slot == 8 {
            let at = 4 + 8 * u64::from(cpl);
            if at + 7 > u64::from(self.s.tr.limit) {
                return Err(Fault::coded(vector::TS, u32::from(self.s.tr.selector & 0xfffc)));
            }
            let sp = self.system_read::<8>(self.s.tr.base.wrapping_add(at))?;
            if !canonical(sp) {
                return Err(SS0);
            }
            let attr = ATTR_UNUSABLE | (u32::from(cpl) << 5);
            (Segment { selector: u16::from(cpl), attr, ..Segment::default() }, sp)
        } else {
            self.inner_stack(cpl)?
        };
        let mut values = vec![u64::from(self.s.seg[SS].selector), self.s.gpr[RSP]];
        for i in (0..u64::from(arguments)).rev() {
            values.push(self.peek(slot, i * u64::from(slot))?);
        }
        values.extend([u64::from(self.s.seg[CS].selector), self.s.rip]);
        self.touch(&mut code)?;
        let mask = match slot {
            8 => u64::MAX,
            _ if ss.attr & ATTR_DB != 0 => 0xffff_ffff,
            _ => 0xffff,
        };
        let mut f = Frame { base: ss.base, sp: sp & mask, mask, view: self.view_at(cpl) };
        self.push_all(&mut f, slot, &values)?;
        self.s.seg[SS] = ss;
        self.s.gpr[RSP] = f.sp;
        self.s.rip = offset;
        self.enter_code(code.segment(cpl), cpl);
        Ok(())
    }

    fn push_all(&mut self, f: &mut Frame, slot: u8, values: &[u64]) -> Done {
        for &v in values {
            match slot {
                8 => self.frame_push::<8>(f, v)?,
                4 => self.frame_push::<4>(f, v)?,
                _ => self.frame_push::<2>(f, v)?,
            }
        }
        Ok(())
    }
}
