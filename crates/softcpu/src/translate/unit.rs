//! x87 and MMX instructions: they run as they are, in the host's own unit, which holds the guest's registers from the first such instruction
//! until translated code is left for any reason.
//!
//! Every exception is masked in the control word while translated code runs, as for SIMD: what unmasks one is the interpreter's.

use iced_x86::{CpuidFeature, Instruction, Mnemonic, OpKind};

use super::{Cold, Fpu, Guest, JNE, Translator, is_memory};
use crate::host::jit::UNIT;

/// `je rel32`.
const JE: &[u8] = &[0x0f, 0x84];
/// The exceptions in a control word.
const MASKS: u8 = 0x3f;

/// How an instruction of the unit is treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Copied.
    Copied,
    /// Copied, if the control word that it loads masks every exception.
    Control,
}

/// Whether and how an instruction is one that the unit does.
fn kind(i: &Instruction) -> Option<Kind> {
    use Mnemonic as M;
    match i.mnemonic() {
        M::Fldcw => return Some(Kind::Control),
        // Images, what stores the address of the last instruction, and stores with a mask are the interpreter's.
        M::Fldenv
        | M::Fnstenv
        | M::Fnsave
        | M::Frstor
        | M::Fninit
        | M::Fndisi
        | M::Fneni
        | M::Fnsetpm
        | M::Maskmovq => {
            return None;
        }
        M::Emms | M::Fisttp => return Some(Kind::Copied),
        // Of memory, it leaves the unit alone.
        M::Cvtpi2pd | M::Cvtpi2ps if is_memory(i, 1) => return None,
        _ => {}
    }
    let mmx = (0..i.op_count()).any(|n| i.op_kind(n) == OpKind::Register && i.op_register(n).is_mm());
    let x87 = [CpuidFeature::FPU, CpuidFeature::FPU287, CpuidFeature::FPU387];
    (mmx || i.cpuid_features().iter().any(|f| x87.contains(f))).then_some(Kind::Copied)
}

impl Translator<'_> {
    /// An instruction of the unit; no answer if it is none, or the interpreter's.
    pub(super) fn unit(&mut self, g: &Guest, behind: usize) -> Option<()> {
        let i = &g.instr;
        if self.place.fpu != Fpu::Ready {
            return None;
        }
        if i.mnemonic() == Mnemonic::Wait {
            return Some(());
        }
        let kind = kind(i)?;
        self.make_ready(g);
        let Some(memory) = super::operand::memory(i, &mut self.uses)? else {
            return self.copy_of_registers(g);
        };
        let slow = self.operand_lookup(g, &memory)?;
        let flags = self.flags;
        if kind == Kind::Control {
            self.placed = None;
            // movzx r10d, word [r9 + offset]; not r10d; test r10b, masks
            self.code.raw(&[0x45, 0x0f, 0xb7, 0x91]);
            self.code.u32(self.offset as u32);
            self.code.raw(&[0x41, 0xf7, 0xd2, 0x41, 0xf6, 0xc2, MASKS]);
            let unmasks = self.code.branch(JNE);
            self.cold.push(Cold::Last { from: vec![unmasks.into()], rip: g.rip, behind, flags });
        }
        self.copy_with_memory(g)?;
        self.slow_step(g, behind, vec![slow], flags);
        Some(())
    }

    /// Puts the guest's registers into the unit if they are not there.
    fn make_ready(&mut self, g: &Guest) {
        if self.ready {
            return;
        }
        self.free_flags(g);
        // cmp byte [unit], 0
        self.code.raw(&[0x80, 0xbc, 0x24]);
        self.code.u32(UNIT as u32);
        self.code.u8(0);
        let from = self.code.branch(JE);
        self.cold.push(Cold::Unit { from, resume: self.code.len() });
        self.ready = true;
    }
}
