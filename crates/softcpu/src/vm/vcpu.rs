//! One vCPU on its thread: runs code, takes interrupts, sleeps when halted.

use std::sync::Arc;
use std::time::Duration;

use hv::state::{MpState, Msr};
use hv::{Bus, Exit, Kick, Kicker, RunError, Vcpu, VcpuState, VmError};

use super::board::VcpuBoard;
use super::slot::Slot;
use super::{Machine, convert};
use crate::cpu::{Cpu, Left};
use crate::fault::vector;
use crate::flags;
use crate::state::CpuState;

/// Instructions between two looks at the clock while nothing asks for attention: a bound, not a rhythm.
const STRETCH: u64 = 1 << 40;

pub(super) struct SoftVcpu {
    machine: Arc<Machine>,
    index: u32,
    cpu: Cpu,
    mode: MpState,
}

struct SlotKick {
    machine: Arc<Machine>,
    index: u32,
}

impl Kick for SlotKick {
    fn kick(&self) {
        self.machine.slots.0[self.index as usize].kick();
    }
}

impl SoftVcpu {
    pub(super) fn new(machine: Arc<Machine>, index: u32) -> std::io::Result<Self> {
        let cpu = Cpu::new(&machine.shared, machine.tier)?;
        let mode = if index == 0 { MpState::Runnable } else { MpState::Uninitialized };
        Ok(Self { machine, index, cpu, mode })
    }

    /// Does what others have ordered.
    fn obey(&mut self) {
        let orders = self.machine.slots.0[self.index as usize].orders();
        if orders.protect {
            self.cpu.protect_all();
        }
        for gpa in orders.code {
            // What was written while the page still counted as data may be what the other CPU decoded.
            if self.cpu.protect(&self.machine.shared, gpa) {
                self.machine.shared.code.renew(gpa);
                self.machine.slots.0.iter().for_each(Slot::wake);
            }
        }
    }

    /// Timers, INIT, start-up, NMI and interrupts. Nothing if the CPU shut down.
    fn attend(&mut self, bus: &dyn Bus) -> Option<()> {
        let machine = Arc::clone(&self.machine);
        let irqchip = &machine.irqchip;
        let now = machine.clock.tsc();
        if irqchip.due(self.index) <= now {
            irqchip.advance(self.index, now);
            machine.timer.arm(irqchip.due(self.index));
        }
        let board = VcpuBoard { machine: &machine, bus, index: self.index };
        self.heed_signals();
        if self.cpu.state().nmi_due() {
            self.wake_up();
            self.cpu.state_mut().nmi_pending -= 1;
            self.cpu.with(&machine.shared, &board, |x| x.interrupt(vector::NMI)).ok()?;
        }
        let runs = matches!(self.mode, MpState::Runnable | MpState::Halted);
        let open = self.cpu.state().rflags & flags::IF != 0 && !self.cpu.state().shadow;
        if runs
            && open
            && irqchip.has_vector(self.index)
            && let Some(v) = irqchip.take_vector(self.index)
        {
            self.wake_up();
            self.cpu.with(&machine.shared, &board, |x| x.interrupt(v)).ok()?;
        }
        Some(())
    }

    /// Does what other processors and devices have sent: INIT, start-up, NMI.
    fn heed_signals(&mut self) {
        if !self.machine.irqchip.has_signals(self.index) {
            return;
        }
        let signals = self.machine.irqchip.take_signals(self.index);
        if signals.init {
            self.reset();
        }
        if let Some(page) = signals.startup
            && matches!(self.mode, MpState::Uninitialized | MpState::InitReceived)
        {
            self.cpu.state_mut().start_up(page);
            self.mode = MpState::Runnable;
        }
        if self.mode != MpState::Uninitialized {
            let s = self.cpu.state_mut();
            // While one is being handled a single other waits.
            let most = if s.nmi_blocked { 1 } else { 2 };
            s.nmi_pending = (s.nmi_pending + signals.nmi).min(most);
        }
    }

    fn wake_up(&mut self) {
        self.cpu.state_mut().halted = false;
        self.mode = MpState::Runnable;
    }

    /// The INIT IPI: everything as after reset but FP and SIMD registers and most model-specific ones.
    /// Source: Intel SDM volume 3A, table 10-1.
    fn reset(&mut self) {
        let s = self.cpu.state_mut();
        let fresh = CpuState {
            fx: s.fx,
            msr: s.msr,
            instructions: s.instructions,
            cr0: (s.cr0 & 0x6000_0000) | 0x10,
            ..CpuState::default()
        };
        *s = fresh;
        self.cpu.state_changed();
        self.machine.irqchip.init(self.index);
        self.mode = if self.index == 0 { MpState::Runnable } else { MpState::InitReceived };
    }

    fn sleep(&self) {
        let due = self.machine.irqchip.due(self.index);
        let now = self.machine.clock.tsc();
        if self.machine.shared.counted.is_some() && due != u64::MAX {
            self.machine.clock.skip(due.saturating_sub(now));
            return;
        }
        let limit =
            (due != u64::MAX).then(|| Duration::from_nanos(self.machine.clock.scale().ns(due.saturating_sub(now))));
        self.machine.slots.0[self.index as usize].sleep(limit);
    }

    /// Instructions until the clock has to be looked at.
    fn stretch(&self) -> u64 {
        if self.machine.shared.counted.is_none() {
            return STRETCH;
        }
        self.machine.irqchip.due(self.index).saturating_sub(self.machine.clock.tsc()).clamp(1, STRETCH)
    }

    fn work(&mut self, bus: &dyn Bus) -> Exit {
        let machine = Arc::clone(&self.machine);
        let slot = &machine.slots.0[self.index as usize];
        loop {
            slot.attend();
            self.obey();
            if slot.take_kick() {
                return Exit::Kicked;
            }
            if self.attend(bus).is_none() {
                return Exit::Reset;
            }
            if self.mode != MpState::Runnable || self.cpu.state().halted {
                slot.end();
                self.sleep();
                slot.begin();
                continue;
            }
            let board = VcpuBoard { machine: &machine, bus, index: self.index };
            let left = self.cpu.run(&machine.shared, &board, self.stretch());
            if let Some(clock) = &machine.shared.counted {
                clock.count(self.cpu.state().instructions);
            }
            match left {
                Left::Attention | Left::Enough => {}
                Left::Halted => self.mode = MpState::Halted,
                Left::Triple => return Exit::Reset,
            }
        }
    }
}

impl Vcpu for SoftVcpu {
    fn index(&self) -> u32 {
        self.index
    }

    fn run(&mut self, bus: &dyn Bus) -> Result<Exit, RunError> {
        let machine = Arc::clone(&self.machine);
        let slot = &machine.slots.0[self.index as usize];
        slot.begin();
        let exit = self.work(bus);
        slot.end();
        Ok(exit)
    }

    fn kicker(&self) -> Kicker {
        Kicker::new(Arc::new(SlotKick { machine: Arc::clone(&self.machine), index: self.index }))
    }

    fn state(&mut self) -> Result<VcpuState, VmError> {
        // What was sent and not heeded yet has no place in a state.
        self.heed_signals();
        Ok(convert::save(&self.machine, self.index, self.cpu.state(), self.mode))
    }

    fn set_state(&mut self, state: &VcpuState) -> Result<(), VmError> {
        self.mode = convert::load(&self.machine, self.index, self.cpu.state_mut(), state)?;
        self.cpu.state_changed();
        Ok(())
    }

    fn set_msrs(&mut self, msrs: &[Msr]) -> Result<(), VmError> {
        for m in msrs {
            convert::set_msr(&self.machine, self.index, self.cpu.state_mut(), *m)?;
        }
        Ok(())
    }

    fn instructions(&self) -> Option<u64> {
        Some(self.cpu.state().instructions)
    }
}
