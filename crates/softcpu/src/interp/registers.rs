//! Control and debug registers, base registers of fs and gs. Source: Intel SDM volume 3A, sections 2.5 and 18.2.

use crate::decode::{CR, DR, Op};
use crate::exec::Exec;
use crate::fault::{Done, GP0, UD};
use crate::mmu::canonical;
use crate::state::{
    ATTR_L, CR0_AM, CR0_CD, CR0_EM, CR0_ET, CR0_MP, CR0_NE, CR0_NW, CR0_PE, CR0_PG, CR0_TS, CR0_WP, CR4_DE,
    CR4_FSGSBASE, CR4_OSFXSR, CR4_OSXMMEXCPT, CR4_PAE, CR4_PCE, CR4_PCIDE, CR4_PGE, CR4_PSE, CR4_SMAP, CR4_SMEP,
    CR4_TSD, CR4_UMIP, CS, EFER_LMA, EFER_LME, FS, GS,
};

const CR0_KNOWN: u64 = CR0_PE | CR0_MP | CR0_EM | CR0_TS | CR0_ET | CR0_NE | CR0_WP | CR0_AM | CR0_NW | CR0_CD | CR0_PG;
/// What CR4 may hold: VME and PVI are not in the model, MCE is accepted.
const CR4_KNOWN: u64 = CR4_TSD
    | CR4_DE
    | CR4_PSE
    | CR4_PAE
    | CR4_PGE
    | CR4_PCE
    | CR4_OSFXSR
    | CR4_OSXMMEXCPT
    | CR4_UMIP
    | CR4_FSGSBASE
    | CR4_PCIDE
    | CR4_SMEP
    | CR4_SMAP
    | (1 << 6);

fn width(x: &Exec<'_>) -> u64 {
    if x.s.code64() { u64::MAX } else { 0xffff_ffff }
}

pub(crate) fn mov_from_control(x: &mut Exec<'_>, op: &Op) -> Done {
    x.kernel_only()?;
    let v = match op.b - CR {
        0 => x.s.cr0,
        2 => x.s.cr2,
        3 => x.s.cr3,
        4 => x.s.cr4,
        8 => x.board.cr8(),
        _ => return Err(UD),
    };
    x.s.gpr[usize::from(op.a)] = v & width(x);
    Ok(())
}

pub(crate) fn mov_to_control(x: &mut Exec<'_>, op: &Op) -> Done {
    x.kernel_only()?;
    let v = x.s.gpr[usize::from(op.b)] & width(x);
    match op.a - CR {
        0 => x.set_cr0(v),
        2 => {
            x.s.cr2 = v;
            Ok(())
        }
        3 => x.set_cr3(v),
        4 => x.set_cr4(v),
        8 => {
            if v > 15 {
                return Err(GP0);
            }
            x.board.set_cr8(v);
            x.leave = true;
            Ok(())
        }
        _ => Err(UD),
    }
}

impl Exec<'_> {
    pub(crate) fn set_cr0(&mut self, v: u64) -> Done {
        let v = v | CR0_ET;
        if v >> 32 != 0 || (v & CR0_PG != 0 && v & CR0_PE == 0) || (v & CR0_NW != 0 && v & CR0_CD == 0) {
            return Err(GP0);
        }
        let v = v & CR0_KNOWN;
        let old = self.s.cr0;
        if v & CR0_PG != 0 && old & CR0_PG == 0 && self.s.efer & EFER_LME != 0 {
            if self.s.cr4 & CR4_PAE == 0 || self.s.seg[CS].attr & ATTR_L != 0 {
                return Err(GP0);
            }
            self.s.efer |= EFER_LMA;
        }
        if v & CR0_PG == 0 && old & CR0_PG != 0 {
            if self.s.code64() || self.s.cr4 & CR4_PCIDE != 0 {
                return Err(GP0);
            }
            self.s.efer &= !EFER_LMA;
        }
        self.s.cr0 = v;
        if v & CR0_PE == 0 {
            self.s.cpl = 0;
        }
        if (v ^ old) & (CR0_PG | CR0_WP | CR0_PE) != 0 {
            self.flush_all();
        }
        self.mode_changed();
        Ok(())
    }

    fn set_cr3(&mut self, v: u64) -> Done {
        let keep = v >> 63 != 0 && self.s.cr4 & CR4_PCIDE != 0;
        let v = if keep { v & !(1 << 63) } else { v };
        // Reserved bits: those above the physical address, and outside PCIDs the low ones are ignored.
        if self.s.long_mode() && v >> 40 != 0 {
            return Err(GP0);
        }
        self.s.cr3 = v;
        self.flush_local();
        Ok(())
    }

    fn set_cr4(&mut self, v: u64) -> Done {
        let old = self.s.cr4;
        let long = self.s.long_mode();
        let pcid_on = v & CR4_PCIDE != 0 && old & CR4_PCIDE == 0;
        if v & !CR4_KNOWN != 0 || (long && v & CR4_PAE == 0) || (pcid_on && (!long || self.s.cr3 & 0xfff != 0)) {
            return Err(GP0);
        }
        self.s.cr4 = v;
        if (v ^ old) & (CR4_PAE | CR4_PGE | CR4_PSE | CR4_SMEP | CR4_SMAP | CR4_PCIDE) != 0 {
            self.flush_all();
        }
        self.mode_changed();
        Ok(())
    }
}

pub(crate) fn clts(x: &mut Exec<'_>, _: &Op) -> Done {
    x.kernel_only()?;
    x.s.cr0 &= !CR0_TS;
    x.mode_changed();
    Ok(())
}

pub(crate) fn lmsw(x: &mut Exec<'_>, op: &Op) -> Done {
    x.kernel_only()?;
    let v = x.arg::<2>(op, op.a)? & 0xf;
    // It can set PE but not clear it.
    let cr0 = (x.s.cr0 & !0xe) | v;
    x.set_cr0(cr0)
}

/// Debug register numbers 4 and 5 are 6 and 7 unless CR4.DE forbids them.
fn debug_number(x: &Exec<'_>, code: u8) -> Result<usize, crate::fault::Fault> {
    let n = usize::from(code - DR);
    if n > 7 || (matches!(n, 4 | 5) && x.s.cr4 & CR4_DE != 0) {
        return Err(UD);
    }
    Ok(if matches!(n, 4 | 5) { n + 2 } else { n })
}

fn check_general_detect(x: &mut Exec<'_>) -> Done {
    if x.s.dr[7] & (1 << 13) != 0 {
        x.s.debug_hits |= 1 << 13;
        return Err(crate::fault::Fault::plain(crate::fault::vector::DB));
    }
    Ok(())
}

pub(crate) fn mov_from_debug(x: &mut Exec<'_>, op: &Op) -> Done {
    let n = debug_number(x, op.b)?;
    x.kernel_only()?;
    check_general_detect(x)?;
    x.s.gpr[usize::from(op.a)] = x.s.dr[n] & width(x);
    Ok(())
}

pub(crate) fn mov_to_debug(x: &mut Exec<'_>, op: &Op) -> Done {
    let n = debug_number(x, op.a)?;
    x.kernel_only()?;
    check_general_detect(x)?;
    let v = x.s.gpr[usize::from(op.b)] & width(x);
    match n {
        6 | 7 if v >> 32 != 0 => return Err(GP0),
        6 => x.s.dr[6] = (v & 0xe00f) | 0xffff_0ff0,
        7 => x.s.dr[7] = (v & 0xffff_23ff) | 0x400,
        _ => {
            if x.s.long_mode() && !canonical(v) {
                return Err(GP0);
            }
            x.s.dr[n] = v;
        }
    }
    // Pages with breakpoints must leave the TLB.
    x.flush_all();
    Ok(())
}

fn base_allowed(x: &Exec<'_>) -> Done {
    if x.s.cr4 & CR4_FSGSBASE != 0 { Ok(()) } else { Err(UD) }
}

fn read_base(x: &mut Exec<'_>, op: &Op, seg: usize) -> Done {
    base_allowed(x)?;
    let v = x.s.seg[seg].base;
    if op.size == 4 {
        x.set_reg::<4>(op.a, v)
    } else {
        x.set_reg::<8>(op.a, v)
    }
    Ok(())
}

fn write_base(x: &mut Exec<'_>, op: &Op, seg: usize) -> Done {
    base_allowed(x)?;
    let v = if op.size == 4 { x.reg::<4>(op.a) } else { x.reg::<8>(op.a) };
    if !canonical(v) {
        return Err(GP0);
    }
    x.s.seg[seg].base = v;
    Ok(())
}

pub(crate) fn rdfsbase(x: &mut Exec<'_>, op: &Op) -> Done {
    read_base(x, op, FS)
}

pub(crate) fn rdgsbase(x: &mut Exec<'_>, op: &Op) -> Done {
    read_base(x, op, GS)
}

pub(crate) fn wrfsbase(x: &mut Exec<'_>, op: &Op) -> Done {
    write_base(x, op, FS)
}

pub(crate) fn wrgsbase(x: &mut Exec<'_>, op: &Op) -> Done {
    write_base(x, op, GS)
}

pub(crate) fn swapgs(x: &mut Exec<'_>, _: &Op) -> Done {
    x.kernel_only()?;
    if !x.s.code64() {
        return Err(UD);
    }
    std::mem::swap(&mut x.s.seg[GS].base, &mut x.s.msr.kernel_gs_base);
    Ok(())
}
