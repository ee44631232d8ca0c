//! KVM's structures from and to ours.

use kvm_bindings::{
    KVM_IRQCHIP_IOAPIC, KVM_VCPUEVENT_VALID_NMI_PENDING, KVM_VCPUEVENT_VALID_SHADOW, KVM_VCPUEVENT_VALID_SIPI_VECTOR,
    kvm_debugregs, kvm_dtable, kvm_ioapic_state, kvm_irqchip, kvm_lapic_state, kvm_mp_state, kvm_pic_state,
    kvm_pit_channel_state, kvm_pit_state2, kvm_regs, kvm_segment, kvm_sregs, kvm_vcpu_events,
};
use rustix::time::{ClockId, clock_gettime};

use crate::state::{
    DebugRegs, Events, Exception, IOAPIC_PINS, Injected, IoapicState, LAPIC_SIZE, MpState, PicState, PitChannel,
    PitState, Regs, Segment, Sregs, Table,
};
use crate::vm::VmError;

/// Copies fields of the same name; others follow behind a semicolon.
macro_rules! same {
    ($from:expr => $to:ident { $($field:ident),* $(,)? $(; $own:ident: $value:expr)? }) => {{
        let from = $from;
        $to { $($field: from.$field,)* $($own: $value,)? }
    }};
}

pub(super) fn regs(from: &kvm_regs) -> Regs {
    same!(from => Regs { rax, rbx, rcx, rdx, rsi, rdi, rsp, rbp, r8, r9, r10, r11, r12, r13, r14, r15, rip, rflags })
}

pub(super) fn to_regs(from: &Regs) -> kvm_regs {
    same!(from => kvm_regs { rax, rbx, rcx, rdx, rsi, rdi, rsp, rbp, r8, r9, r10, r11, r12, r13, r14, r15, rip, rflags })
}

fn segment(from: &kvm_segment) -> Segment {
    let bits = |value: u8, at: u32| u32::from(value) << at;
    let access = bits(from.type_, 0)
        | bits(from.s, 4)
        | bits(from.dpl, 5)
        | bits(from.present, 7)
        | bits(from.avl, 12)
        | bits(from.l, 13)
        | bits(from.db, 14)
        | bits(from.g, 15)
        | bits(from.unusable, 16);
    Segment { base: from.base, limit: from.limit, selector: from.selector, access }
}

fn to_segment(from: &Segment) -> kvm_segment {
    let bits = |at: u32, count: u32| (from.access >> at & ((1 << count) - 1)) as u8;
    kvm_segment {
        base: from.base,
        limit: from.limit,
        selector: from.selector,
        type_: bits(0, 4),
        s: bits(4, 1),
        dpl: bits(5, 2),
        present: bits(7, 1),
        avl: bits(12, 1),
        l: bits(13, 1),
        db: bits(14, 1),
        g: bits(15, 1),
        unusable: bits(16, 1),
        padding: 0,
    }
}

fn table(from: &kvm_dtable) -> Table {
    Table { base: from.base, limit: from.limit }
}

fn to_table(from: Table) -> kvm_dtable {
    kvm_dtable { base: from.base, limit: from.limit, ..Default::default() }
}

/// The system registers, and the vector of an interrupt on its way, which the events have too.
pub(super) fn sregs(from: &kvm_sregs) -> Sregs {
    Sregs {
        cs: segment(&from.cs),
        ds: segment(&from.ds),
        es: segment(&from.es),
        fs: segment(&from.fs),
        gs: segment(&from.gs),
        ss: segment(&from.ss),
        tr: segment(&from.tr),
        ldt: segment(&from.ldt),
        gdt: table(&from.gdt),
        idt: table(&from.idt),
        cr0: from.cr0,
        cr2: from.cr2,
        cr3: from.cr3,
        cr4: from.cr4,
        cr8: from.cr8,
        efer: from.efer,
        apic_base: from.apic_base,
    }
}

pub(super) fn to_sregs(from: &Sregs) -> kvm_sregs {
    kvm_sregs {
        cs: to_segment(&from.cs),
        ds: to_segment(&from.ds),
        es: to_segment(&from.es),
        fs: to_segment(&from.fs),
        gs: to_segment(&from.gs),
        ss: to_segment(&from.ss),
        tr: to_segment(&from.tr),
        ldt: to_segment(&from.ldt),
        gdt: to_table(from.gdt),
        idt: to_table(from.idt),
        cr0: from.cr0,
        cr2: from.cr2,
        cr3: from.cr3,
        cr4: from.cr4,
        cr8: from.cr8,
        efer: from.efer,
        apic_base: from.apic_base,
        ..Default::default()
    }
}

pub(super) fn debug(from: &kvm_debugregs) -> DebugRegs {
    DebugRegs { dr: from.db, dr6: from.dr6, dr7: from.dr7 }
}

pub(super) fn to_debug(from: &DebugRegs) -> kvm_debugregs {
    kvm_debugregs { db: from.dr, dr6: from.dr6, dr7: from.dr7, ..Default::default() }
}

pub(super) fn events(from: &kvm_vcpu_events) -> Events {
    let exception = from.exception.injected != 0 || from.exception.pending != 0;
    Events {
        exception: exception.then(|| Exception {
            vector: from.exception.nr,
            error_code: (from.exception.has_error_code != 0).then_some(from.exception.error_code),
        }),
        interrupt: (from.interrupt.injected != 0)
            .then_some(Injected { vector: from.interrupt.nr, software: from.interrupt.soft != 0 }),
        // KVM counts MOV SS first.
        shadow: (from.interrupt.shadow & 1) << 1 | from.interrupt.shadow >> 1 & 1,
        nmi_pending: from.nmi.pending != 0 || from.nmi.injected != 0,
        nmi_masked: from.nmi.masked != 0,
        sipi_vector: from.sipi_vector as u8,
    }
}

pub(super) fn to_events(from: &Events) -> kvm_vcpu_events {
    let mut events = kvm_vcpu_events {
        sipi_vector: from.sipi_vector.into(),
        flags: KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SIPI_VECTOR | KVM_VCPUEVENT_VALID_SHADOW,
        ..Default::default()
    };
    if let Some(exception) = from.exception {
        events.exception.injected = 1;
        events.exception.nr = exception.vector;
        events.exception.has_error_code = exception.error_code.is_some().into();
        events.exception.error_code = exception.error_code.unwrap_or(0);
    }
    if let Some(interrupt) = from.interrupt {
        events.interrupt.injected = 1;
        events.interrupt.nr = interrupt.vector;
        events.interrupt.soft = interrupt.software.into();
    }
    events.interrupt.shadow = from.shadow >> 1 & 1 | (from.shadow & 1) << 1;
    events.nmi.pending = from.nmi_pending.into();
    events.nmi.masked = from.nmi_masked.into();
    events
}

const MP_STATES: [(u32, MpState); 5] = [
    (kvm_bindings::KVM_MP_STATE_RUNNABLE, MpState::Runnable),
    (kvm_bindings::KVM_MP_STATE_UNINITIALIZED, MpState::Uninitialized),
    (kvm_bindings::KVM_MP_STATE_INIT_RECEIVED, MpState::InitReceived),
    (kvm_bindings::KVM_MP_STATE_HALTED, MpState::Halted),
    (kvm_bindings::KVM_MP_STATE_SIPI_RECEIVED, MpState::SipiReceived),
];

pub(super) fn mp_state(from: kvm_mp_state) -> MpState {
    MP_STATES.iter().find(|(kvm, _)| *kvm == from.mp_state).map_or(MpState::Runnable, |(_, state)| *state)
}

pub(super) fn to_mp_state(from: MpState) -> kvm_mp_state {
    let mp_state = MP_STATES.iter().find(|(_, state)| *state == from).map_or(0, |(kvm, _)| *kvm);
    kvm_mp_state { mp_state }
}

pub(super) fn lapic(from: &kvm_lapic_state) -> Vec<u8> {
    from.regs.iter().map(|byte| byte.to_ne_bytes()[0]).collect()
}

pub(super) fn to_lapic(from: &[u8]) -> Result<kvm_lapic_state, VmError> {
    if from.len() != LAPIC_SIZE {
        return Err(VmError::State(format!("a local APIC of {} bytes, not {LAPIC_SIZE}", from.len())));
    }
    let mut lapic = kvm_lapic_state::default();
    lapic.regs.iter_mut().zip(from).for_each(|(to, from)| *to = i8::from_ne_bytes([*from]));
    Ok(lapic)
}

pub(super) fn pic(from: &kvm_irqchip) -> PicState {
    // SAFETY: KVM filled it in for one of the PICs; any bytes are valid integers.
    let from = unsafe { from.chip.pic };
    same!(from => PicState {
        last_irr, irr, imr, isr, priority_add, irq_base, read_reg_select, poll, special_mask, init_state, auto_eoi,
        rotate_on_auto_eoi, special_fully_nested_mode, init4, elcr, elcr_mask,
    })
}

pub(super) fn to_pic(chip_id: u32, from: &PicState) -> kvm_irqchip {
    let mut chip = kvm_irqchip { chip_id, ..Default::default() };
    chip.chip.pic = same!(from => kvm_pic_state {
        last_irr, irr, imr, isr, priority_add, irq_base, read_reg_select, poll, special_mask, init_state, auto_eoi,
        rotate_on_auto_eoi, special_fully_nested_mode, init4, elcr, elcr_mask,
    });
    chip
}

pub(super) fn ioapic(from: &kvm_irqchip) -> IoapicState {
    // SAFETY: KVM filled it in for the IOAPIC; any bytes are valid integers.
    let from = unsafe { from.chip.ioapic };
    let bits = |entry: &kvm_bindings::kvm_ioapic_state__bindgen_ty_1| {
        // SAFETY: both variants of the union are 64 bits without padding.
        unsafe { entry.bits }
    };
    IoapicState {
        select: from.ioregsel,
        id: from.id,
        irr: from.irr,
        redirection: from.redirtbl.iter().map(bits).collect(),
    }
}

pub(super) fn to_ioapic(from: &IoapicState) -> Result<kvm_irqchip, VmError> {
    if from.redirection.len() != IOAPIC_PINS {
        return Err(VmError::State(format!("an IOAPIC with {} inputs, not {IOAPIC_PINS}", from.redirection.len())));
    }
    let mut state = kvm_ioapic_state {
        base_address: 0xfec0_0000,
        ioregsel: from.select,
        id: from.id,
        irr: from.irr,
        ..Default::default()
    };
    state.redirtbl.iter_mut().zip(&from.redirection).for_each(|(to, from)| to.bits = *from);
    let mut chip = kvm_irqchip { chip_id: KVM_IRQCHIP_IOAPIC, ..Default::default() };
    chip.chip.ioapic = state;
    Ok(chip)
}

fn monotonic_ns() -> i64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec * 1_000_000_000 + now.tv_nsec
}

/// Port 0x61 as far as the timer's state has it: the gate of channel 2 (and the speaker, which nobody hears, with it).
pub(super) fn port61(from: &kvm_pit_state2) -> u8 {
    from.channels[2].gate & 1
}

/// The timer; KVM counts from the host's clock, we from the guest's, which is at `now_ns`.
pub(super) fn pit(from: &kvm_pit_state2, now_ns: u64, speaker: u8) -> PitState {
    let behind = i64::try_from(now_ns).unwrap_or(i64::MAX).saturating_sub(monotonic_ns());
    let channel = |from: &kvm_pit_channel_state| {
        let loaded_ns = if from.count_load_time == 0 { 0 } else { from.count_load_time.saturating_add(behind) };
        same!(from => PitChannel {
            count, latched_count, count_latched, status_latched, status, read_state, write_state, write_latch, rw_mode,
            mode, bcd, gate; loaded_ns: loaded_ns
        })
    };
    PitState { channels: from.channels.each_ref().map(channel), speaker }
}

/// KVM starts the counts anew when it takes the timer's state.
pub(super) fn to_pit(from: &PitState) -> kvm_pit_state2 {
    let channel = |from: &PitChannel| {
        same!(from => kvm_pit_channel_state {
            count, latched_count, count_latched, status_latched, status, read_state, write_state, write_latch, rw_mode,
            mode, bcd, gate; count_load_time: 0
        })
    };
    kvm_pit_state2 { channels: from.channels.each_ref().map(channel), ..Default::default() }
}
