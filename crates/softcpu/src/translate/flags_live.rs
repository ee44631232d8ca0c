//! Which flags are still wanted where: backwards over a block. Behind its end all are.

use iced_x86::{Instruction, Mnemonic, OpKind, RflagsBits};

use super::Guest;

const ALL: u32 = RflagsBits::OF | RflagsBits::SF | RflagsBits::ZF | RflagsBits::AF | RflagsBits::CF | RflagsBits::PF;

/// Flags wanted around an instruction, as iced numbers them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Live {
    pub(super) before: u32,
    pub(super) behind: u32,
}

/// Fills in what is wanted.
pub(super) fn mark(guests: &mut [Guest]) {
    let mut live = ALL;
    for g in guests.iter_mut().rev() {
        let behind = live;
        // The interpreter may store or pass on all flags when it leaves the block.
        // System calls keep them for the way back, whose own checks may leave it to the interpreter.
        let system = matches!(g.instr.mnemonic(), Mnemonic::Syscall | Mnemonic::Sysretq);
        let read = if g.ends || system { ALL } else { g.instr.rflags_read() & ALL };
        let set = if certain(&g.instr) { g.instr.rflags_modified() & ALL } else { 0 };
        live = (live & !set) | read;
        g.live = Live { before: live, behind };
    }
}

/// Whether an instruction sets its flags whatever its operands are.
fn certain(i: &Instruction) -> bool {
    match i.mnemonic() {
        Mnemonic::Shl
        | Mnemonic::Sal
        | Mnemonic::Shr
        | Mnemonic::Sar
        | Mnemonic::Rol
        | Mnemonic::Ror
        | Mnemonic::Rcl
        | Mnemonic::Rcr
        | Mnemonic::Shld
        | Mnemonic::Shrd => {
            // A count of zero leaves all flags alone.
            let last = i.op_count() - 1;
            i.op_kind(last) == OpKind::Immediate8 && i.immediate(last) & 31 != 0
        }
        // Undefined flags of these stay as they are here, or as the interpreter has them.
        Mnemonic::Bsf | Mnemonic::Bsr | Mnemonic::Tzcnt | Mnemonic::Lzcnt => false,
        _ => !i.is_string_instruction(),
    }
}
