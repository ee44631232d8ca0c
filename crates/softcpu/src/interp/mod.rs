//! The interpreter: one function an instruction, in files by kind. It is the reference for everything faster.
//!
//! Convention: while a handler runs, `rip` is the address behind the instruction; the loop puts it back if the handler
//! faults. A handler changes nothing of the guest's before its last fault.

pub(crate) mod alu;
pub(crate) mod bits;
pub(crate) mod control;
pub(crate) mod decimal;
pub(crate) mod descriptor;
pub(crate) mod far;
pub(crate) mod fpu;
pub(crate) mod machine;
pub(crate) mod msr;
pub(crate) mod port;
pub(crate) mod registers;
pub(crate) mod shift;
pub(crate) mod stack;
pub(crate) mod string;

use crate::decode::Op;
use crate::exec::Exec;
use crate::fault::{Done, GP0, UD};

/// An unknown instruction.
pub(crate) fn invalid(_: &mut Exec<'_>, _: &Op) -> Done {
    Err(UD)
}

/// An instruction of more than 15 bytes.
pub(crate) fn too_long(_: &mut Exec<'_>, _: &Op) -> Done {
    Err(GP0)
}

/// An instruction that changes nothing here.
pub(crate) fn nop(_: &mut Exec<'_>, _: &Op) -> Done {
    Ok(())
}
