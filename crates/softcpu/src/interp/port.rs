//! Port input and output, and who may use it. Source: Intel SDM volume 1, chapter 19.

use crate::decode::{IMM, Op};
use crate::exec::Exec;
use crate::fault::{Done, GP0};
use crate::flags::mask;
use crate::state::{RAX, RDX};

impl Exec<'_> {
    /// Faults unless the I/O privilege level or the TSS's bitmap allows `len` ports from `port` on.
    pub(crate) fn check_port(&mut self, port: u16, len: usize) -> Done {
        if !self.s.protected() || (self.s.cpl <= self.s.iopl() && !self.s.v8086()) {
            return Ok(());
        }
        let tr = self.s.tr;
        // The bitmap's offset stands at 0x66 of both 32-bit and 64-bit TSS.
        if !tr.usable() || tr.limit < 0x67 {
            return Err(GP0);
        }
        let map = self.system_read::<2>(tr.base + 0x66)?;
        let at = map + u64::from(port >> 3);
        if at + 1 > u64::from(tr.limit) {
            return Err(GP0);
        }
        let bits = self.system_read::<2>(tr.base + at)? >> (port & 7);
        if bits & ((1 << len) - 1) == 0 { Ok(()) } else { Err(GP0) }
    }
}

pub(crate) fn input<const B: usize>(x: &mut Exec<'_>, op: &Op) -> Done {
    let port = if op.b == IMM { op.imm as u8 as u16 } else { x.s.gpr[RDX] as u16 };
    x.check_port(port, B)?;
    let v = u64::from(x.board.input(port, B)) & mask::<B>();
    x.note_port(port, B as u64);
    x.set_reg::<B>(RAX as u8, v);
    x.leave = true;
    Ok(())
}

pub(crate) fn output<const B: usize>(x: &mut Exec<'_>, op: &Op) -> Done {
    let port = if op.a == IMM { op.imm as u8 as u16 } else { x.s.gpr[RDX] as u16 };
    x.check_port(port, B)?;
    let v = x.reg::<B>(RAX as u8);
    x.board.output(port, B, v as u32);
    x.note_port(port, B as u64);
    x.leave = true;
    Ok(())
}
