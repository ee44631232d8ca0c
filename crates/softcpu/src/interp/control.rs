//! Near jumps, calls, returns, loops. Source: Intel SDM volume 2.

use super::bits::holds;
use crate::decode::Op;
use crate::exec::Exec;
use crate::fault::{Done, Fault, GP0};
use crate::flags::ZF;
use crate::mmu::canonical;
use crate::state::{CS, RCX, RSP};

fn width(size: u8) -> u64 {
    match size {
        2 => 0xffff,
        4 => 0xffff_ffff,
        _ => u64::MAX,
    }
}

impl Exec<'_> {
    /// Faults if code can't run at `rip`.
    pub(crate) fn check_target(&self, rip: u64) -> Done {
        let fine = if self.s.code64() { canonical(rip) } else { rip <= u64::from(self.s.seg[CS].limit) };
        if fine { Ok(()) } else { Err(GP0) }
    }

    /// Pushes the return address, which is in memory even if the target turns out to be none.
    fn call_near(&mut self, size: u8, target: u64) -> Done {
        let sp = self.s.gpr[RSP];
        self.push_sized(size, self.s.rip)?;
        if let Err(f) = self.check_target(target) {
            self.s.gpr[RSP] = sp;
            return Err(f);
        }
        self.s.rip = target;
        Ok(())
    }

    fn near(&mut self, target: u64) -> Done {
        self.check_target(target)?;
        self.s.rip = target;
        Ok(())
    }
}

fn relative(x: &Exec<'_>, op: &Op) -> u64 {
    x.s.rip.wrapping_add(op.imm) & width(op.size2)
}

fn indirect(x: &mut Exec<'_>, op: &Op) -> Result<u64, Fault> {
    match op.size2 {
        2 => x.arg::<2>(op, op.a),
        4 => x.arg::<4>(op, op.a),
        _ => x.arg::<8>(op, op.a),
    }
}

pub(crate) fn jmp(x: &mut Exec<'_>, op: &Op) -> Done {
    let t = relative(x, op);
    x.near(t)
}

pub(crate) fn jmp_indirect(x: &mut Exec<'_>, op: &Op) -> Done {
    let t = indirect(x, op)?;
    x.near(t)
}

pub(crate) fn jcc(x: &mut Exec<'_>, op: &Op) -> Done {
    if holds(x.s.rflags, op.cond) {
        return jmp(x, op);
    }
    Ok(())
}

pub(crate) fn call(x: &mut Exec<'_>, op: &Op) -> Done {
    let t = relative(x, op);
    x.call_near(op.size2, t)
}

pub(crate) fn call_indirect(x: &mut Exec<'_>, op: &Op) -> Done {
    let t = indirect(x, op)?;
    x.call_near(op.size2, t)
}

pub(crate) fn ret(x: &mut Exec<'_>, op: &Op) -> Done {
    let t = x.peek(op.size2, 0)?;
    x.near(t)?;
    x.drop_stack(u64::from(op.size2) + (op.imm & 0xffff));
    Ok(())
}

/// The counter of a loop, by its address size.
fn counter(x: &Exec<'_>, op: &Op) -> u64 {
    x.s.gpr[RCX] & width(op.addr)
}

fn count_down(x: &mut Exec<'_>, op: &Op, taken: impl Fn(u64) -> bool) -> Done {
    let n = counter(x, op).wrapping_sub(1) & width(op.addr);
    if n != 0 && taken(x.s.rflags) {
        let t = relative(x, op);
        x.near(t)?;
    }
    match op.addr {
        2 => x.set_reg::<2>(RCX as u8, n),
        4 => x.set_reg::<4>(RCX as u8, n),
        _ => x.s.gpr[RCX] = n,
    }
    Ok(())
}

pub(crate) fn loop_always(x: &mut Exec<'_>, op: &Op) -> Done {
    count_down(x, op, |_| true)
}

pub(crate) fn loope(x: &mut Exec<'_>, op: &Op) -> Done {
    count_down(x, op, |f| f & ZF != 0)
}

pub(crate) fn loopne(x: &mut Exec<'_>, op: &Op) -> Done {
    count_down(x, op, |f| f & ZF == 0)
}

pub(crate) fn jcxz(x: &mut Exec<'_>, op: &Op) -> Done {
    if counter(x, op) == 0 {
        return jmp(x, op);
    }
    Ok(())
}
