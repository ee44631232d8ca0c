//! Push, pop, enter, leave. Source: Intel SDM volume 2.

use crate::decode::{MEM, Op, SEG};
use crate::exec::Exec;
use crate::fault::{Done, Fault, GP0};
use crate::flags;
use crate::state::{RBP, RSP, SS};

impl Exec<'_> {
    /// Sets the stack pointer as wide as the stack is.
    pub(crate) fn set_sp(&mut self, sp: u64) {
        let m = self.s.stack_mask();
        self.s.gpr[RSP] = if m == 0xffff_ffff { sp & m } else { (self.s.gpr[RSP] & !m) | (sp & m) };
    }

    /// Pushes `B` bytes.
    #[inline(always)]
    pub(crate) fn push<const B: usize>(&mut self, v: u64) -> Done {
        let sp = self.s.gpr[RSP].wrapping_sub(B as u64) & self.s.stack_mask();
        self.write::<B>(SS, sp, v)?;
        self.set_sp(sp);
        Ok(())
    }

    /// Pushes `size` bytes.
    pub(crate) fn push_sized(&mut self, size: u8, v: u64) -> Done {
        match size {
            2 => self.push::<2>(v),
            4 => self.push::<4>(v),
            _ => self.push::<8>(v),
        }
    }

    /// What stands `depth` bytes above the stack pointer.
    pub(crate) fn peek(&mut self, size: u8, depth: u64) -> Result<u64, Fault> {
        let sp = self.s.gpr[RSP].wrapping_add(depth) & self.s.stack_mask();
        match size {
            2 => self.read::<2>(SS, sp),
            4 => self.read::<4>(SS, sp),
            _ => self.read::<8>(SS, sp),
        }
    }

    /// Takes `n` bytes off the stack.
    pub(crate) fn drop_stack(&mut self, n: u64) {
        self.set_sp(self.s.gpr[RSP].wrapping_add(n));
    }
}

fn value(x: &mut Exec<'_>, op: &Op) -> Result<u64, Fault> {
    if op.a >= SEG && op.a < SEG + 6 {
        return Ok(u64::from(x.s.seg[usize::from(op.a - SEG)].selector));
    }
    match op.size {
        2 => x.arg::<2>(op, op.a),
        4 => x.arg::<4>(op, op.a),
        _ => x.arg::<8>(op, op.a),
    }
}

pub(crate) fn push(x: &mut Exec<'_>, op: &Op) -> Done {
    let v = value(x, op)?;
    x.push_sized(op.size, v)
}

pub(crate) fn pop(x: &mut Exec<'_>, op: &Op) -> Done {
    let v = x.peek(op.size, 0)?;
    if op.a >= SEG && op.a < SEG + 6 {
        x.load_segment(usize::from(op.a - SEG), v as u16)?;
        x.drop_stack(u64::from(op.size));
        if op.a == SEG + SS as u8 {
            x.hold_back();
        }
        return Ok(());
    }
    let old = x.s.gpr[RSP];
    // An address by rsp is computed after the stack pointer has moved; a register destination wins over the move.
    x.drop_stack(u64::from(op.size));
    let done = match op.size {
        2 => x.set_arg::<2>(op, op.a, v),
        4 => x.set_arg::<4>(op, op.a, v),
        _ => x.set_arg::<8>(op, op.a, v),
    };
    if done.is_err() && op.a == MEM {
        x.s.gpr[RSP] = old;
    }
    done
}

pub(crate) fn pusha(x: &mut Exec<'_>, op: &Op) -> Done {
    let size = op.size / 8;
    let n = u64::from(size);
    let sp = x.s.gpr[RSP];
    // Nothing is written before all can be; which word faults is seen by the first that does.
    for word in 1..=8 {
        let at = sp.wrapping_sub(word * n) & x.s.stack_mask();
        x.probe(SS, at, n, crate::mmu::Access::Write)?;
    }
    for r in 0..8 {
        let v = x.s.gpr[r];
        let v = if r == RSP { sp } else { v };
        x.push_sized(size, v)?;
    }
    Ok(())
}

pub(crate) fn popa(x: &mut Exec<'_>, op: &Op) -> Done {
    let size = op.size / 8;
    let n = u64::from(size);
    let mut values = [0; 8];
    for (i, v) in values.iter_mut().enumerate() {
        *v = x.peek(size, i as u64 * n)?;
    }
    for (i, v) in values.into_iter().enumerate() {
        let r = 7 - i as u8;
        if usize::from(r) == RSP {
            continue;
        }
        if size == 2 { x.set_reg::<2>(r, v) } else { x.set_reg::<4>(r, v) }
    }
    x.drop_stack(8 * n);
    Ok(())
}

pub(crate) fn pushf(x: &mut Exec<'_>, op: &Op) -> Done {
    if x.s.v8086() && x.s.iopl() < 3 {
        return Err(GP0);
    }
    x.push_sized(op.size, x.s.rflags & !(flags::VM | flags::RF))
}

/// Sets flags as popf and iret do at a level: what it may not change stays.
pub(crate) fn load_flags(x: &mut Exec<'_>, size: u8, v: u64) {
    let mut may = flags::POPF;
    if x.s.cpl > 0 {
        may &= !flags::IOPL;
    }
    if x.s.cpl > x.s.iopl() {
        may &= !flags::IF;
    }
    if size == 2 {
        may &= 0xffff;
    }
    x.s.rflags = (x.s.rflags & !may) | (v & may) | flags::ONE;
}

pub(crate) fn popf(x: &mut Exec<'_>, op: &Op) -> Done {
    if x.s.v8086() && x.s.iopl() < 3 {
        return Err(GP0);
    }
    let v = x.peek(op.size, 0)?;
    x.drop_stack(u64::from(op.size));
    load_flags(x, op.size, v);
    x.s.rflags &= !flags::RF;
    x.mode_changed();
    Ok(())
}

pub(crate) fn leave(x: &mut Exec<'_>, op: &Op) -> Done {
    let m = x.s.stack_mask();
    let bp = x.s.gpr[RBP] & m;
    let v = match op.size {
        2 => x.read::<2>(SS, bp)?,
        4 => x.read::<4>(SS, bp)?,
        _ => x.read::<8>(SS, bp)?,
    };
    x.set_sp(bp.wrapping_add(u64::from(op.size)));
    if op.size == 2 {
        x.set_reg::<2>(RBP as u8, v);
    } else {
        x.s.gpr[RBP] = v;
    }
    Ok(())
}

/// `enter`: the frame size is the low word of the immediate, the nesting level the next byte.
pub(crate) fn enter(x: &mut Exec<'_>, op: &Op) -> Done {
    let (frame, level) = (op.imm & 0xffff, (op.imm >> 16) & 31);
    let n = u64::from(op.size2);
    let m = x.s.stack_mask();
    let (old_sp, bp) = (x.s.gpr[RSP], x.s.gpr[RBP]);
    let low = old_sp.wrapping_sub(n * (1 + level)) & m;
    x.probe(SS, low, n * (1 + level), crate::mmu::Access::Write)?;
    let result = build_frame(x, op, level, bp);
    if result.is_err() {
        x.s.gpr[RSP] = old_sp;
        return result;
    }
    let frame_pointer = old_sp.wrapping_sub(n) & m;
    let sp = x.s.gpr[RSP].wrapping_sub(frame) & m;
    // The last byte must be writable, as the next push will find out anyway.
    if let Err(f) = x.probe(SS, sp, 1, crate::mmu::Access::Write) {
        x.s.gpr[RSP] = old_sp;
        return Err(f);
    }
    x.set_sp(sp);
    if op.size2 == 2 {
        x.set_reg::<2>(RBP as u8, frame_pointer);
    } else {
        x.s.gpr[RBP] = frame_pointer;
    }
    Ok(())
}

fn build_frame(x: &mut Exec<'_>, op: &Op, level: u64, bp: u64) -> Done {
    let n = u64::from(op.size2);
    let m = x.s.stack_mask();
    x.push_sized(op.size2, bp)?;
    let frame_pointer = x.s.gpr[RSP] & m;
    for i in 1..level {
        let at = bp.wrapping_sub(i * n) & m;
        let v = match op.size2 {
            2 => x.read::<2>(SS, at)?,
            4 => x.read::<4>(SS, at)?,
            _ => x.read::<8>(SS, at)?,
        };
        x.push_sized(op.size2, v)?;
    }
    if level > 0 {
        x.push_sized(op.size2, frame_pointer)?;
    }
    Ok(())
}
