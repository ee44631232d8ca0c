//! A vCPU's state between our registers and the contract's.

use hv::clock::{MSR_SYSTEM_TIME, MSR_WALL_CLOCK};
use hv::cpu_model::MSRS;
use hv::state::{DebugRegs, Events, MpState, Msr, Regs, Sregs, XSAVE_MIN};
use hv::{VcpuState, VmError};

use super::{Machine, lock};
use crate::interp::msr;
use crate::irqchip::{MSR_APIC_BASE, MSR_TSC_DEADLINE};
use crate::state::{CpuState, Segment, Table};

/// Bits of [`Events::shadow`]: a load of ss, `sti`.
const SHADOW_SS: u8 = 1;
const SHADOW_STI: u8 = 2;
const TSC: u32 = 0x10;
const TSC_ADJUST: u32 = 0x3b;
/// Where the XSAVE header says which parts hold anything.
const XSTATE_BV: usize = 512;

fn segment(s: &Segment) -> hv::state::Segment {
    hv::state::Segment { base: s.base, limit: s.limit, selector: s.selector, access: s.attr }
}

fn from_segment(s: &hv::state::Segment) -> Segment {
    Segment { base: s.base, limit: s.limit, selector: s.selector, attr: s.access }
}

fn table(t: Table) -> hv::state::Table {
    hv::state::Table { base: t.base, limit: t.limit }
}

fn from_table(t: hv::state::Table) -> Table {
    Table { base: t.base, limit: t.limit }
}

fn read_msr(machine: &Machine, index: u32, s: &mut CpuState, number: u32) -> u64 {
    match number {
        TSC => machine.clock.tsc().wrapping_add(s.msr.tsc_offset),
        TSC_ADJUST => s.msr.tsc_offset,
        MSR_SYSTEM_TIME => lock(&machine.slots.0[index as usize].clock).system_time,
        MSR_WALL_CLOCK => lock(&machine.slots.0[index as usize].clock).wall_clock,
        _ => match msr::plain(s, number) {
            Some(v) => *v,
            None => machine.irqchip.read_msr(index, number).and_then(Result::ok).unwrap_or(0),
        },
    }
}

/// Sets one model-specific register from outside.
pub(super) fn set_msr(machine: &Machine, index: u32, s: &mut CpuState, m: Msr) -> Result<(), VmError> {
    let refused = VmError::Msr { index: m.index, value: m.value };
    let slot = &machine.slots.0[index as usize];
    match m.index {
        // The machine's clock sets the counter; the guest's own offset is TSC_ADJUST.
        TSC => {}
        TSC_ADJUST => s.msr.tsc_offset = m.value,
        MSR_SYSTEM_TIME => {
            lock(&slot.clock).system_time = m.value;
            slot.write_time(&machine.clock, &machine.memory);
        }
        MSR_WALL_CLOCK => lock(&slot.clock).wall_clock = m.value,
        _ => match msr::plain(s, m.index) {
            Some(r) => *r = m.value,
            None => {
                let done = machine.irqchip.write_msr(index, m.index, m.value);
                if !matches!(done, Some(Ok(()))) {
                    return Err(refused);
                }
                machine.timer.arm(machine.irqchip.due(index));
            }
        },
    }
    Ok(())
}

fn registers(s: &CpuState) -> Regs {
    let g = &s.gpr;
    Regs {
        rax: g[0],
        rcx: g[1],
        rdx: g[2],
        rbx: g[3],
        rsp: g[4],
        rbp: g[5],
        rsi: g[6],
        rdi: g[7],
        r8: g[8],
        r9: g[9],
        r10: g[10],
        r11: g[11],
        r12: g[12],
        r13: g[13],
        r14: g[14],
        r15: g[15],
        rip: s.rip,
        rflags: s.rflags,
    }
}

/// The state of a vCPU between two runs.
pub(super) fn save(machine: &Machine, index: u32, state: &CpuState, mode: MpState) -> VcpuState {
    let mut s = state.clone();
    let mut xsave = vec![0; XSAVE_MIN];
    xsave[..512].copy_from_slice(&s.fx.0);
    // x87 and SSE.
    xsave[XSTATE_BV] = 3;
    let seg = |i: usize| segment(&state.seg[i]);
    let chip = &machine.irqchip;
    let shadow = if state.debug_waits() { SHADOW_SS } else { u8::from(state.shadow) * SHADOW_STI };
    // Before the deadline is read: what is due becomes an interrupt, and is not due any more.
    let lapic = chip.save_lapic(index);
    let nmi_pending = state.nmi_pending > 0 || chip.waiting_nmi(index);
    let apic_base = chip.read_msr(index, MSR_APIC_BASE).and_then(Result::ok).unwrap_or(0);
    VcpuState {
        regs: registers(state),
        sregs: Sregs {
            es: seg(0),
            cs: seg(1),
            ss: seg(2),
            ds: seg(3),
            fs: seg(4),
            gs: seg(5),
            tr: segment(&state.tr),
            ldt: segment(&state.ldtr),
            gdt: table(state.gdtr),
            idt: table(state.idtr),
            cr0: state.cr0,
            cr2: state.cr2,
            cr3: state.cr3,
            cr4: state.cr4,
            cr8: u64::from(chip.cr8(index)),
            efer: state.efer,
            apic_base,
        },
        xsave,
        xcr0: state.xcr0,
        msrs: MSRS.iter().map(|&n| Msr { index: n, value: read_msr(machine, index, &mut s, n) }).collect(),
        lapic,
        events: Events { shadow, nmi_masked: state.nmi_blocked, nmi_pending, ..Events::default() },
        debug: DebugRegs {
            dr: [state.dr[0], state.dr[1], state.dr[2], state.dr[3]],
            dr6: state.dr[6],
            dr7: state.dr[7],
        },
        mp_state: mode,
    }
}

/// Takes a state over; returns what the vCPU is doing.
pub(super) fn load(machine: &Machine, index: u32, s: &mut CpuState, from: &VcpuState) -> Result<MpState, VmError> {
    if from.xsave.len() < XSAVE_MIN {
        return Err(VmError::State(format!("the vector state has {} bytes, not {XSAVE_MIN}", from.xsave.len())));
    }
    let r = &from.regs;
    s.gpr =
        [r.rax, r.rcx, r.rdx, r.rbx, r.rsp, r.rbp, r.rsi, r.rdi, r.r8, r.r9, r.r10, r.r11, r.r12, r.r13, r.r14, r.r15];
    s.rip = r.rip;
    s.rflags = r.rflags | crate::flags::ONE;
    let sr = &from.sregs;
    for (i, seg) in [&sr.es, &sr.cs, &sr.ss, &sr.ds, &sr.fs, &sr.gs].into_iter().enumerate() {
        s.seg[i] = from_segment(seg);
    }
    (s.tr, s.ldtr) = (from_segment(&sr.tr), from_segment(&sr.ldt));
    (s.gdtr, s.idtr) = (from_table(sr.gdt), from_table(sr.idt));
    (s.cr0, s.cr2, s.cr3, s.cr4, s.efer) = (sr.cr0, sr.cr2, sr.cr3, sr.cr4, sr.efer);
    s.cpl = if !s.protected() {
        0
    } else if s.v8086() {
        3
    } else {
        s.seg[crate::state::SS].dpl()
    };
    // A component that the header leaves out is in its initial state.
    let fresh = crate::state::Fx::default();
    s.fx.0.copy_from_slice(&from.xsave[..512]);
    if from.xsave[XSTATE_BV] & 1 == 0 {
        s.fx.0[..24].copy_from_slice(&fresh.0[..24]);
        s.fx.0[32..160].copy_from_slice(&fresh.0[32..160]);
    }
    if from.xsave[XSTATE_BV] & 2 == 0 {
        s.fx.0[160..416].copy_from_slice(&fresh.0[160..416]);
    }
    s.xcr0 = from.xcr0;
    let d = &from.debug;
    s.dr = [d.dr[0], d.dr[1], d.dr[2], d.dr[3], 0, 0, d.dr6, d.dr7];
    s.shadow = from.events.shadow != 0;
    s.shadow_debug = from.events.shadow & SHADOW_SS != 0;
    s.nmi_blocked = from.events.nmi_masked;
    let deadline = from.msrs.iter().find(|m| m.index == MSR_TSC_DEADLINE).map_or(0, |m| m.value);
    machine
        .irqchip
        .restore_lapic(index, sr.apic_base, &from.lapic, deadline)
        .map_err(|_| VmError::State("the local APIC's registers are too short".into()))?;
    for m in from.msrs.iter().filter(|m| m.index != MSR_TSC_DEADLINE) {
        set_msr(machine, index, s, *m)?;
    }
    machine.irqchip.set_cr8(index, sr.cr8 as u8);
    if from.events.nmi_pending {
        s.nmi_pending = 1;
    }
    machine.timer.arm(machine.irqchip.due(index));
    s.halted = from.mp_state == MpState::Halted;
    Ok(from.mp_state)
}
