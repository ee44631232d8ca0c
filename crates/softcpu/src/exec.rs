//! What an instruction's handler has in its hands: the CPU's state, its view of memory, and the board around it.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::code_pages::CodePages;
use crate::decode::cache::BlockCache;
use crate::fault::{Done, Fault};
use crate::host::core::Core;
use crate::host::jit::Jit;
use crate::host::native::Natives;
use crate::host::ram::Ram;
use crate::host::tlb::Tlb;
use crate::state::{CpuState, RCX, RDI, RSI, Segment, View};

/// What stands around a CPU: devices, the interrupt controller, the clock, the model's registers.
///
/// Called for what is not memory only, so dynamic dispatch costs nothing that matters.
pub(crate) trait Board {
    /// Reads `size` bytes of a device.
    fn mmio_read(&self, gpa: u64, size: usize) -> u64;
    /// Writes `size` bytes of a device.
    fn mmio_write(&self, gpa: u64, size: usize, v: u64);
    /// Reads a port.
    fn input(&self, port: u16, size: usize) -> u32;
    /// Writes a port.
    fn output(&self, port: u16, size: usize, v: u32);
    /// A leaf of CPUID: eax, ebx, ecx, edx.
    fn cpuid(&self, leaf: u32, sub: u32) -> [u32; 4];
    /// A register that the CPU itself does not hold; nothing if there is none of this number.
    fn rdmsr(&self, index: u32) -> Option<u64>;
    /// Sets such a register; false if there is none or the value is refused.
    fn wrmsr(&self, index: u32, v: u64) -> bool;
    /// The time-stamp counter before the guest's offset.
    fn tsc(&self) -> u64;
    /// What is added to the host's counter for it, if that is where time comes from. It stays while the CPU runs.
    fn tsc_offset(&self) -> u64;
    /// The task priority, CR8.
    fn cr8(&self) -> u64;
    /// Sets the task priority.
    fn set_cr8(&self, v: u64);
    /// Whether something asks for the CPU's attention: an interrupt controller, another CPU, a kick.
    fn attention(&self) -> bool;
    /// Where translated code looks for the same: a byte that is not zero then.
    fn attention_flag(&self) -> *const u8;
    /// Whether an interrupt would be delivered if the CPU took interrupts.
    fn vector_waits(&self) -> bool;
    /// Sends the processor with the APIC id `id` what `command`, the lower half of an interrupt command, says; false if there is no
    /// such processor.
    fn send(&self, id: u32, command: u32) -> bool;
    /// The page at `gpa` is about to be written without further notice.
    fn dirty(&self, gpa: u64);
    /// `len` bytes at `gpa` have been decoded; if `first`, the page held no code before and no other CPU's TLB may keep it
    /// writable.
    fn decoded(&self, gpa: u64, len: u64, first: First);
    /// Code was written: other CPUs may run the old one, and are to look again.
    fn overwritten(&self);
}

/// Whether something is so for the first time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum First {
    Yes,
    No,
}

/// What the CPUs of a machine count about translations.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// Bytes of translations that are kept.
    pub(crate) bytes: AtomicU64,
    /// Translations that are kept.
    pub(crate) blocks: AtomicU64,
    /// How often a CPU has forgotten all of its own: for want of room, or as what they take for granted had changed.
    pub(crate) flushes: AtomicU64,
}

impl Counters {
    /// Another translation is kept.
    pub(crate) fn kept(&self, bytes: usize) {
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        self.blocks.fetch_add(1, Ordering::Relaxed);
    }

    /// A CPU has forgotten all of its own.
    pub(crate) fn forgot(&self, bytes: usize, blocks: usize) {
        self.bytes.fetch_sub(bytes as u64, Ordering::Relaxed);
        self.blocks.fetch_sub(blocks as u64, Ordering::Relaxed);
        self.flushes.fetch_add(1, Ordering::Relaxed);
    }
}

/// What all CPUs of a machine share.
pub(crate) struct Shared {
    pub(crate) ram: std::sync::Arc<Ram>,
    pub(crate) code: CodePages,
    pub(crate) counters: Counters,
    /// How many CPUs there are.
    pub(crate) cpus: u32,
    /// The clock, if it goes by instructions: it is told of each that the interpreter does, and nothing runs past the moment when
    /// a timer is due.
    pub(crate) counted: Option<std::sync::Arc<hv::clock::GuestClock>>,
}

/// A CPU while it runs.
pub(crate) struct Exec<'a> {
    pub(crate) s: &'a mut CpuState,
    pub(crate) tlb: &'a mut Tlb,
    pub(crate) fetch: &'a mut crate::mmu::fetch::FetchTlb,
    pub(crate) natives: &'a mut Natives,
    pub(crate) blocks: &'a mut BlockCache,
    pub(crate) jit: &'a mut Jit,
    /// What `s` and `tlb` are parts of.
    pub(crate) core: *mut Core,
    pub(crate) shared: &'a Shared,
    pub(crate) board: &'a dyn Board,
    /// Which permissions data accesses have now; follows CPL and EFLAGS.AC.
    pub(crate) view: View,
    /// Leave the block after this instruction: the mode, the page tables or the code itself has changed.
    pub(crate) leave: bool,
    /// The instruction that runs has become the delivery of an event, or a change of level with flags of its own: its single
    /// step is over.
    pub(crate) delivered: bool,
}

impl Exec<'_> {
    /// To be called when CPL, EFLAGS.AC, CR0, CR4 or EFER may have changed.
    pub(crate) fn mode_changed(&mut self) {
        self.view = self.s.view();
        self.leave = true;
    }

    /// The general register `r` in `B` bytes. Numbers 16 to 19 are ah, ch, dh, bh.
    #[inline(always)]
    pub(crate) fn reg<const B: usize>(&self, r: u8) -> u64 {
        let v = self.s.gpr[usize::from(r & 15)];
        if B == 1 && r >= 16 {
            return (self.s.gpr[usize::from(r & 3)] >> 8) & 0xff;
        }
        v & crate::flags::mask::<B>()
    }

    /// Sets a general register as an operand of `B` bytes does: four bytes clear the upper half, fewer keep the rest.
    #[inline(always)]
    pub(crate) fn set_reg<const B: usize>(&mut self, r: u8, v: u64) {
        if B == 1 && r >= 16 {
            let g = &mut self.s.gpr[usize::from(r & 3)];
            *g = (*g & !0xff00) | ((v & 0xff) << 8);
            return;
        }
        let g = &mut self.s.gpr[usize::from(r & 15)];
        *g = match B {
            8 => v,
            4 => v & 0xffff_ffff,
            _ => (*g & !crate::flags::mask::<B>()) | (v & crate::flags::mask::<B>()),
        };
    }

    /// Replaces the arithmetic flags in `which` by those in `f`.
    #[inline(always)]
    pub(crate) fn set_flags(&mut self, which: u64, f: u64) {
        self.s.rflags = (self.s.rflags & !which) | (f & which);
    }

    /// Faults unless the CPU is at level 0.
    pub(crate) fn kernel_only(&self) -> Done {
        if self.s.cpl == 0 { Ok(()) } else { Err(crate::fault::GP0) }
    }

    /// String registers by the address size: rsi, rdi, rcx and the mask of their width.
    pub(crate) fn string_regs(&self, mask: u64) -> (u64, u64, u64) {
        let g = &self.s.gpr;
        (g[RSI] & mask, g[RDI] & mask, g[RCX] & mask)
    }

    pub(crate) fn segment(&self, i: usize) -> &Segment {
        &self.s.seg[i]
    }

    /// A debug condition or nothing: what a handler returns when all is well.
    pub(crate) fn done(&self) -> Result<(), Fault> {
        Ok(())
    }
}
