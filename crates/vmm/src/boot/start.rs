//! Registers at the kernel's entry.

use hv::state::{Msr, Segment, Table};
use hv::{Memory, VcpuState};

use super::{BootError, write};
use crate::layout;

const CR0_PE: u64 = 1;
const CR0_ET: u64 = 1 << 4;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
/// RFLAGS with only its fixed bit.
const FLAGS: u64 = 2;
/// Page table entry: present, writable.
const PRESENT: u64 = 3;
/// Page directory entry: 2 MiB.
const LARGE: u64 = 0x80;
/// Access rights: 64-bit code, flat code, flat data, task, all present.
const CODE_64: u32 = 0xa09b;
const CODE_32: u32 = 0xc09b;
const DATA: u32 = 0xc093;
const TASK: u32 = 0x008b;
const MSR_MISC_ENABLE: u32 = 0x1a0;
const MSR_MTRR_DEF_TYPE: u32 = 0x2ff;
/// Fast string operations.
const FAST_STRINGS: u64 = 1;
/// Memory ranges on, write-back by default.
const WRITE_BACK: u64 = 1 << 11 | 6;
/// Offsets of LINT0 and LINT1 in the local APIC's page.
const LINT0: usize = 0x350;
const LINT1: usize = 0x360;
/// Interrupts from the PIC; non-maskable interrupts.
const EXTINT: u32 = 0x700;
const NMI: u32 = 0x400;

fn segment(selector: u16, access: u32) -> Segment {
    Segment { base: 0, limit: if access == TASK { 0x67 } else { u32::MAX }, selector, access }
}

/// A descriptor with the segment's rights.
fn descriptor(segment: &Segment) -> u64 {
    let limit = u64::from(if segment.access & 0x8000 != 0 { segment.limit >> 12 } else { segment.limit });
    let access = u64::from(segment.access);
    (limit & 0xffff) | (access & 0xff) << 40 | (limit >> 16 & 0xf) << 48 | (access >> 12 & 0xf) << 52
}

/// What firmware does on every processor: caches on, the local APIC's inputs as a PC has them.
pub(crate) fn prepare_processor(state: &mut VcpuState) {
    let wanted = [(MSR_MISC_ENABLE, FAST_STRINGS), (MSR_MTRR_DEF_TYPE, WRITE_BACK)];
    for (index, value) in wanted {
        match state.msrs.iter_mut().find(|msr| msr.index == index) {
            Some(msr) => msr.value = value,
            None => state.msrs.push(Msr { index, value }),
        }
    }
    for (at, entry) in [(LINT0, EXTINT), (LINT1, NMI)] {
        if let Some(register) = state.lapic.get_mut(at..at + 4) {
            register.copy_from_slice(&entry.to_le_bytes());
        }
    }
}

/// Segments and descriptor table, with `code` for the code segment.
fn segments(memory: &Memory, code: u32, state: &mut VcpuState) -> Result<(), BootError> {
    // As the Linux protocol has them: code 0x10, data 0x18.
    let (code, data, task) = (segment(0x10, code), segment(0x18, DATA), segment(0x20, TASK));
    let table = [0, 0, descriptor(&code), descriptor(&data), descriptor(&task), 0];
    let bytes: Vec<u8> = table.iter().flat_map(|entry: &u64| entry.to_le_bytes()).collect();
    write(memory, layout::GDT, &bytes)?;
    let sregs = &mut state.sregs;
    sregs.cs = code;
    (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
    sregs.tr = task;
    sregs.gdt = Table { base: layout::GDT, limit: bytes.len() as u16 - 1 };
    sregs.idt = Table { base: 0, limit: 0 };
    Ok(())
}

/// 64-bit mode with the first 4 GiB mapped to themselves, RSI at the zero page.
pub(super) fn linux(memory: &Memory, rip: u64, state: &mut VcpuState) -> Result<(), BootError> {
    let page = |n: u64| layout::PAGE_TABLES + n * 0x1000;
    write(memory, page(0), &(page(1) | PRESENT).to_le_bytes())?;
    for gib in 0..4 {
        write(memory, page(1) + gib * 8, &(page(2 + gib) | PRESENT).to_le_bytes())?;
        let entries = (0..512).map(|n| (gib << 30 | n << 21) | PRESENT | LARGE);
        let bytes: Vec<u8> = entries.flat_map(|entry: u64| entry.to_le_bytes()).collect();
        write(memory, page(2 + gib), &bytes)?;
    }
    segments(memory, CODE_64, state)?;
    let sregs = &mut state.sregs;
    sregs.cr0 = CR0_PE | CR0_ET | CR0_PG;
    sregs.cr3 = page(0);
    sregs.cr4 = CR4_PAE;
    sregs.efer = EFER_LME | EFER_LMA;
    state.regs.rip = rip;
    state.regs.rsi = layout::ZERO_PAGE;
    state.regs.rsp = layout::BOOT_STACK;
    state.regs.rbp = layout::BOOT_STACK;
    state.regs.rflags = FLAGS;
    Ok(())
}

/// 32-bit mode without paging, RBX at what the kernel is told.
pub(super) fn flat(memory: &Memory, rip: u64, told: u64, state: &mut VcpuState) -> Result<(), BootError> {
    segments(memory, CODE_32, state)?;
    state.sregs.cr0 = CR0_PE | CR0_ET;
    state.sregs.cr4 = 0;
    state.sregs.efer = 0;
    state.regs.rip = rip;
    state.regs.rbx = told;
    state.regs.rflags = FLAGS;
    Ok(())
}
