//! Model-specific registers. Those of the interrupt controller and of KVM's clock are the board's.
//! Source: Intel SDM volume 4.

use crate::decode::Op;
use crate::exec::Exec;
use crate::fault::{Done, GP0};
use crate::mmu::canonical;
use crate::state::{CR0_PG, CpuState, EFER_LMA, EFER_LME, EFER_NXE, EFER_SCE, FS, GS, RAX, RCX, RDX};

const TSC: u32 = 0x10;
const SPEC_CTRL: u32 = 0x48;
const PRED_CMD: u32 = 0x49;
const TSC_ADJUST: u32 = 0x3b;
const MTRR_CAP: u32 = 0xfe;
const SYSENTER_CS: u32 = 0x174;
const SYSENTER_ESP: u32 = 0x175;
const SYSENTER_EIP: u32 = 0x176;
const MISC_ENABLE: u32 = 0x1a0;
const PAT: u32 = 0x277;
const MTRR_DEF: u32 = 0x2ff;
const EFER: u32 = 0xc000_0080;
const STAR: u32 = 0xc000_0081;
const LSTAR: u32 = 0xc000_0082;
const CSTAR: u32 = 0xc000_0083;
const SFMASK: u32 = 0xc000_0084;
const FS_BASE: u32 = 0xc000_0100;
const GS_BASE: u32 = 0xc000_0101;
const KERNEL_GS_BASE: u32 = 0xc000_0102;
const TSC_AUX: u32 = 0xc000_0103;
/// Numbers of the fixed memory-type ranges, in order.
const FIXED: [u32; 11] = [0x250, 0x258, 0x259, 0x268, 0x269, 0x26a, 0x26b, 0x26c, 0x26d, 0x26e, 0x26f];

/// The plain register of a number.
pub(crate) fn plain(s: &mut CpuState, index: u32) -> Option<&mut u64> {
    let m = &mut s.msr;
    Some(match index {
        SPEC_CTRL => &mut m.spec_ctrl,
        SYSENTER_CS => &mut m.sysenter_cs,
        SYSENTER_ESP => &mut m.sysenter_esp,
        SYSENTER_EIP => &mut m.sysenter_eip,
        MISC_ENABLE => &mut m.misc_enable,
        PAT => &mut m.pat,
        MTRR_DEF => &mut m.mtrr_def,
        0x200..=0x20f => &mut m.mtrr_var[(index - 0x200) as usize],
        STAR => &mut m.star,
        LSTAR => &mut m.lstar,
        CSTAR => &mut m.cstar,
        SFMASK => &mut m.sfmask,
        FS_BASE => &mut s.seg[FS].base,
        GS_BASE => &mut s.seg[GS].base,
        KERNEL_GS_BASE => &mut m.kernel_gs_base,
        TSC_AUX => &mut m.tsc_aux,
        _ => {
            let i = FIXED.iter().position(|&n| n == index)?;
            &mut m.mtrr_fixed[i]
        }
    })
}

fn memory_type(t: u64) -> bool {
    matches!(t & 0xff, 0 | 1 | 4 | 5 | 6)
}

/// Whether a plain register takes a value.
fn accepted(index: u32, v: u64) -> bool {
    match index {
        LSTAR | CSTAR | FS_BASE | GS_BASE | KERNEL_GS_BASE | SYSENTER_ESP | SYSENTER_EIP => canonical(v),
        SFMASK | TSC_AUX => v >> 32 == 0,
        PAT => v.to_le_bytes().iter().all(|&b| b == 7 || (b < 8 && memory_type(u64::from(b)))),
        MTRR_DEF => v & !0xcff == 0 && memory_type(v),
        0x200..=0x20f if index & 1 == 0 => v >> 40 == 0 && v & 0xf00 == 0 && memory_type(v),
        0x201..=0x20f => v >> 40 == 0 && v & 0x7ff == 0,
        0x250..=0x26f => v.to_le_bytes().iter().all(|&b| memory_type(u64::from(b))),
        SPEC_CTRL => v & !7 == 0,
        _ => true,
    }
}

impl Exec<'_> {
    /// The value of a register; nothing if there is none of this number.
    pub(crate) fn read_msr(&mut self, index: u32) -> Option<u64> {
        match index {
            TSC => Some(self.tsc()),
            TSC_ADJUST => Some(self.s.msr.tsc_offset),
            EFER => Some(self.s.efer),
            // Eight variable ranges, fixed ranges, write-combining.
            MTRR_CAP => Some(8 | (1 << 8) | (1 << 10)),
            // Platform id, microcode revision, machine-check capabilities, power and thermal status: harmless values.
            0x17 | 0x8b | 0x179 | 0x17a | 0x19a | 0x19b | 0x19c | 0x1d9 | 0xce | 0x140 => Some(0),
            _ => match plain(self.s, index) {
                Some(v) => Some(*v),
                None => self.board.rdmsr(index),
            },
        }
    }

    /// Sets a register; false if there is none or the value is refused.
    pub(crate) fn write_msr(&mut self, index: u32, v: u64) -> bool {
        match index {
            TSC => {
                self.s.msr.tsc_offset = v.wrapping_sub(self.board.tsc());
                true
            }
            TSC_ADJUST => {
                self.s.msr.tsc_offset = v;
                true
            }
            EFER => self.set_efer(v),
            PRED_CMD => v & !1 == 0,
            // Machine checks' status, and features that the model has not: kernels write back the zero that they have read.
            0x17a | 0x140 => v == 0,
            0x8b | 0x79 | 0x19b | 0x1d9 => true,
            _ if !accepted(index, v) => false,
            _ => match plain(self.s, index) {
                Some(r) => {
                    *r = v;
                    true
                }
                None => self.board.wrmsr(index, v),
            },
        }
    }

    fn set_efer(&mut self, v: u64) -> bool {
        let known = EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE;
        if v & !known != 0 || ((v ^ self.s.efer) & EFER_LME != 0 && self.s.cr0 & CR0_PG != 0) {
            return false;
        }
        self.s.efer = (v & !EFER_LMA) | (self.s.efer & EFER_LMA);
        self.flush_all();
        self.mode_changed();
        true
    }
}

pub(crate) fn rdmsr(x: &mut Exec<'_>, _: &Op) -> Done {
    x.kernel_only()?;
    let index = x.s.gpr[RCX] as u32;
    let Some(v) = x.read_msr(index) else { return Err(GP0) };
    x.s.gpr[RAX] = v & 0xffff_ffff;
    x.s.gpr[RDX] = v >> 32;
    Ok(())
}

pub(crate) fn wrmsr(x: &mut Exec<'_>, _: &Op) -> Done {
    x.kernel_only()?;
    let v = (x.s.gpr[RAX] & 0xffff_ffff) | (x.s.gpr[RDX] << 32);
    let index = x.s.gpr[RCX] as u32;
    x.leave = true;
    if x.write_msr(index, v) { Ok(()) } else { Err(GP0) }
}
