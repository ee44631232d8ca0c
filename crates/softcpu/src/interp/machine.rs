//! Instructions about the processor itself. Source: Intel SDM volume 2.

use crate::decode::Op;
use crate::exec::Exec;
use crate::fault::{Done, GP0, UD};
use crate::flags;
use crate::state::{CR4_PCE, CR4_PCIDE, CR4_TSD, RAX, RBX, RCX, RDX, RSI};

pub(crate) fn cpuid(x: &mut Exec<'_>, _: &Op) -> Done {
    let [a, b, c, d] = x.board.cpuid(x.s.gpr[RAX] as u32, x.s.gpr[RCX] as u32);
    for (r, v) in [(RAX, a), (RBX, b), (RCX, c), (RDX, d)] {
        x.s.gpr[r] = u64::from(v);
    }
    x.leave = true;
    Ok(())
}

pub(crate) fn rdtsc(x: &mut Exec<'_>, _: &Op) -> Done {
    if x.s.cr4 & CR4_TSD != 0 && x.s.cpl > 0 {
        return Err(GP0);
    }
    let t = x.tsc();
    x.s.gpr[RAX] = t & 0xffff_ffff;
    x.s.gpr[RDX] = t >> 32;
    Ok(())
}

pub(crate) fn rdtscp(x: &mut Exec<'_>, op: &Op) -> Done {
    rdtsc(x, op)?;
    x.s.gpr[RCX] = x.s.msr.tsc_aux & 0xffff_ffff;
    Ok(())
}

impl Exec<'_> {
    /// The guest's time-stamp counter.
    pub(crate) fn tsc(&self) -> u64 {
        self.board.tsc().wrapping_add(self.s.msr.tsc_offset)
    }
}

pub(crate) fn rdpmc(x: &mut Exec<'_>, _: &Op) -> Done {
    if x.s.cpl > 0 && x.s.cr4 & CR4_PCE == 0 {
        return Err(GP0);
    }
    // The model has no counters.
    Err(GP0)
}

pub(crate) fn hlt(x: &mut Exec<'_>, _: &Op) -> Done {
    x.kernel_only()?;
    x.s.halted = true;
    x.leave = true;
    Ok(())
}

pub(crate) fn cli(x: &mut Exec<'_>, _: &Op) -> Done {
    if x.s.protected() && x.s.cpl > x.s.iopl() {
        return Err(GP0);
    }
    x.s.rflags &= !flags::IF;
    Ok(())
}

pub(crate) fn sti(x: &mut Exec<'_>, _: &Op) -> Done {
    if x.s.protected() && x.s.cpl > x.s.iopl() {
        return Err(GP0);
    }
    if x.s.rflags & flags::IF == 0 {
        x.s.rflags |= flags::IF;
        x.s.shadow = true;
        x.s.shadow_debug = false;
    }
    x.leave = true;
    Ok(())
}

pub(crate) fn stac(x: &mut Exec<'_>, _: &Op) -> Done {
    if x.s.cpl > 0 {
        return Err(UD);
    }
    x.s.rflags |= flags::AC;
    x.mode_changed();
    Ok(())
}

pub(crate) fn clac(x: &mut Exec<'_>, _: &Op) -> Done {
    if x.s.cpl > 0 {
        return Err(UD);
    }
    x.s.rflags &= !flags::AC;
    x.mode_changed();
    Ok(())
}

pub(crate) fn invlpg(x: &mut Exec<'_>, op: &Op) -> Done {
    x.kernel_only()?;
    let off = x.offset(op);
    let base =
        if x.s.code64() && usize::from(op.seg) < crate::state::FS { 0 } else { x.s.seg[usize::from(op.seg)].base };
    x.flush_page(base.wrapping_add(off));
    Ok(())
}

pub(crate) fn invpcid(x: &mut Exec<'_>, op: &Op) -> Done {
    x.kernel_only()?;
    let kind = if x.s.code64() { x.s.gpr[usize::from(op.a)] } else { x.reg::<4>(op.a) };
    let off = x.offset(op);
    let seg = usize::from(op.seg);
    let pcid = x.read::<8>(seg, off)?;
    let addr = x.read::<8>(seg, off.wrapping_add(8))?;
    let bad_pcid = pcid >> 12 != 0 || (pcid != 0 && x.s.cr4 & CR4_PCIDE == 0);
    match kind {
        0 if bad_pcid || !crate::mmu::canonical(addr) => return Err(GP0),
        0 => x.flush_page(addr),
        1 if bad_pcid => return Err(GP0),
        // Only the current address space is kept, so that one or nothing goes.
        1 | 3 => x.flush_local(),
        2 => x.flush_all(),
        _ => return Err(GP0),
    }
    Ok(())
}

/// invd and wbinvd: there are no caches to speak of.
pub(crate) fn flush_caches(x: &mut Exec<'_>, _: &Op) -> Done {
    x.kernel_only()
}

/// pause: a good moment to look for interrupts, and, where several processors share the host's, to let the one run that is
/// waited for.
pub(crate) fn pause(x: &mut Exec<'_>, _: &Op) -> Done {
    if x.shared.cpus > 1 {
        std::thread::yield_now();
    }
    x.leave = true;
    Ok(())
}

pub(crate) fn fence(_: &mut Exec<'_>, _: &Op) -> Done {
    std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
    Ok(())
}

/// clflush reads its line's address like a load.
pub(crate) fn clflush(x: &mut Exec<'_>, op: &Op) -> Done {
    let off = x.offset(op);
    x.probe(usize::from(op.seg), off, 1, crate::mmu::Access::Read)
}

/// Numbers and answers of calls to the hypervisor.
const SEND_IPI: u64 = 10;
const EPERM: i64 = 1;
const EINVAL: i64 = 22;
const ENOSYS: i64 = 1000;
/// Logical destinations and shorthands have no place in a command whose destinations are told beside it.
const ADDRESSED: u64 = 1 << 11 | 3 << 18;

/// A call to the hypervisor under KVM's rules: the kernel may send an interrupt to several processors. CPUID doesn't offer it, as
/// with KVM it is there nevertheless. Source: Linux `Documentation/virt/kvm/x86/hypercalls.rst`.
pub(crate) fn vmcall(x: &mut Exec<'_>, _: &Op) -> Done {
    let width = if x.s.code64() { 64 } else { 32 };
    let mask = u64::MAX >> (64 - width);
    let [number, low, high, first, command] = [RAX, RBX, RCX, RDX, RSI].map(|r| x.s.gpr[r] & mask);
    let answer = match number {
        _ if x.s.cpl > 0 => -EPERM,
        SEND_IPI if command & ADDRESSED != 0 => -EINVAL,
        SEND_IPI => {
            let named = |words: [u64; 2], bit: u64| words[(bit / width) as usize] >> (bit % width) & 1 != 0;
            let ids = (0..2 * width).filter(|bit| named([low, high], *bit)).map(|bit| (first & 0xffff_ffff) + bit);
            let there = |id: &u64| u32::try_from(*id).is_ok_and(|id| x.board.send(id, command as u32));
            ids.filter(there).count() as i64
        }
        _ => -ENOSYS,
    };
    x.s.gpr[RAX] = answer as u64 & mask;
    x.leave = true;
    Ok(())
}
