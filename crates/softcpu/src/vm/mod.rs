//! The machine around software CPUs: the contract of crate `hv` over them.
//!
//! Each vCPU runs on the thread that calls `run`; what concerns it from elsewhere (interrupts, kicks, pages that have become
//! code, dirty logging) is put into its [`Slot`] and its attention asked for. Two more threads serve the machine: one wakes
//! running vCPUs when a timer is due, one turns eventfds into interrupts.

mod board;
mod convert;
mod irqfd;
mod slot;
mod timer;
mod vcpu;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use hv::clock::{ClockState, GuestClock, TimeSource};
use hv::cpu_model::CpuModel;
use hv::vm::Logging;
use hv::{Backend, Doorbell, IrqchipState, Level, Memory, Msi, Vcpu, Vm, VmError};
use vmm_sys_util::eventfd::EventFd;

use crate::code_pages::CodePages;
use crate::cpu::Tier;
use crate::exec::{Counters, Shared};
use crate::host::ram::Ram;
use crate::irqchip::{Irqchip, Wake};
use irqfd::Irqfds;
use slot::Slot;
use timer::Timer;
use vcpu::SoftVcpu;

/// What the parts of a machine share.
struct Machine {
    memory: Memory,
    model: CpuModel,
    clock: Arc<GuestClock>,
    irqchip: Arc<Irqchip>,
    slots: Arc<Slots>,
    shared: Shared,
    doorbells: RwLock<Vec<(Doorbell, EventFd)>>,
    logging: AtomicBool,
    tier: Tier,
    timer: Timer,
    irqfds: Mutex<Option<Irqfds>>,
    taken: Mutex<Vec<u32>>,
}

/// The slots of all vCPUs, where the interrupt controllers knock.
struct Slots(Vec<Slot>);

impl Wake for Slots {
    fn wake(&self, index: u32) {
        if let Some(s) = self.0.get(index as usize) {
            s.wake();
        }
    }
}

/// Devices' writes over decoded code come here.
struct Overwritten(std::sync::Weak<Machine>);

impl hv::memory::CodeWatch for Overwritten {
    fn overwritten(&self, gpa: u64, len: u64) {
        let Some(m) = self.0.upgrade() else { return };
        let mut at = gpa;
        while at < gpa + len {
            let end = ((at & !0xfff) + 0x1000).min(gpa + len);
            m.shared.code.written(at, end - at);
            at = end;
        }
        m.slots.0.iter().for_each(Slot::wake);
    }
}

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How a machine is to be run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Choices {
    /// What runs the code.
    pub tier: Tier,
    /// Where time comes from.
    pub time: TimeSource,
}

/// A machine run by software.
pub struct SoftVm(Arc<Machine>);

impl SoftVm {
    /// A machine with `vcpus` processors of `model` over `memory`.
    ///
    /// # Errors
    /// The host has no thread for its timer.
    pub fn new(memory: Memory, model: CpuModel, vcpus: u32) -> Result<Self, VmError> {
        Self::with(memory, model, vcpus, Choices::default())
    }

    /// As [`Self::new`], with a choice of what runs the code and where time comes from.
    ///
    /// # Errors
    /// As [`Self::new`]; and instructions can't be the time of several processors.
    pub fn with(memory: Memory, model: CpuModel, vcpus: u32, choices: Choices) -> Result<Self, VmError> {
        let Choices { tier, time } = choices;
        if time == TimeSource::Instructions && vcpus > 1 {
            return Err(VmError::State(format!("{vcpus} processors can't take their time from instructions: give 1")));
        }
        let clock = Arc::new(GuestClock::of(time));
        let slots = Arc::new(Slots((0..vcpus).map(|_| Slot::default()).collect()));
        let irqchip = Arc::new(Irqchip::new(vcpus, Arc::clone(&clock), Arc::clone(&slots) as Arc<dyn Wake>));
        let ram = Arc::new(Ram::of(&memory));
        let counted = (time == TimeSource::Instructions).then(|| Arc::clone(&clock));
        let code = CodePages::new(ram.end());
        let shared = Shared { code, counters: Counters::default(), ram, cpus: vcpus, counted };
        let timer = Timer::new(Arc::clone(&irqchip), Arc::clone(&clock), Arc::clone(&slots))
            .map_err(|source| VmError::Host { what: "starting the machine's timer", source })?;
        let machine = Arc::new(Machine {
            memory: memory.clone(),
            model,
            clock,
            irqchip,
            slots,
            shared,
            doorbells: RwLock::default(),
            logging: AtomicBool::new(false),
            tier,
            timer,
            irqfds: Mutex::default(),
            taken: Mutex::default(),
        });
        memory.watch_code(Arc::new(Overwritten(Arc::downgrade(&machine))));
        Ok(Self(machine))
    }

    fn with_irqfds<T>(&self, f: impl FnOnce(&mut Irqfds) -> std::io::Result<T>) -> Result<T, VmError> {
        let fail = |source| VmError::Host { what: "serving an interrupt's eventfd", source };
        let mut irqfds = lock(&self.0.irqfds);
        let served = match irqfds.take() {
            Some(i) => i,
            None => Irqfds::new(Arc::clone(&self.0.irqchip)).map_err(fail)?,
        };
        f(irqfds.insert(served)).map_err(fail)
    }
}

impl Vm for SoftVm {
    fn backend(&self) -> Backend {
        Backend::Soft
    }

    fn memory(&self) -> &Memory {
        &self.0.memory
    }

    fn cpu_model(&self) -> &CpuModel {
        &self.0.model
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        let told = |v: &AtomicU64| v.load(Ordering::Relaxed);
        let shared = &self.0.shared;
        vec![
            ("code_bytes", told(&shared.counters.bytes)),
            ("code_blocks", told(&shared.counters.blocks)),
            ("code_flushes", told(&shared.counters.flushes)),
            ("code_invalidations", shared.code.epoch()),
        ]
    }

    fn create_vcpu(&self, index: u32) -> Result<Box<dyn Vcpu>, VmError> {
        if index as usize >= self.0.slots.0.len() {
            return Err(VmError::State(format!("this machine has no vcpu {index}")));
        }
        let mut taken = lock(&self.0.taken);
        if taken.contains(&index) {
            return Err(VmError::State(format!("vcpu {index} was made before")));
        }
        let vcpu = SoftVcpu::new(Arc::clone(&self.0), index)
            .map_err(|source| VmError::Host { what: "mapping memory for generated code", source })?;
        taken.push(index);
        Ok(Box::new(vcpu))
    }

    fn set_irq_line(&self, gsi: u32, level: Level) -> Result<(), VmError> {
        if self.0.irqchip.set_line(gsi, level) { Ok(()) } else { Err(VmError::Line(gsi)) }
    }

    fn signal_msi(&self, msi: Msi) -> Result<(), VmError> {
        if self.0.irqchip.signal_msi(msi) {
            Ok(())
        } else {
            Err(VmError::State(format!("message {msi:?} has a reserved delivery mode")))
        }
    }

    fn register_irqfd(&self, event: &EventFd, gsi: u32) -> Result<(), VmError> {
        self.with_irqfds(|i| i.add(event, gsi))
    }

    fn unregister_irqfd(&self, event: &EventFd, gsi: u32) -> Result<(), VmError> {
        self.with_irqfds(|i| i.remove(event, gsi))
    }

    fn set_msi_route(&self, gsi: u32, msi: Option<Msi>) -> Result<(), VmError> {
        if gsi < hv::state::IOAPIC_PINS as u32 {
            return Err(VmError::Line(gsi));
        }
        self.with_irqfds(|i| {
            i.route(gsi, msi);
            Ok(())
        })
    }

    fn register_ioeventfd(&self, event: &EventFd, bell: Doorbell) -> Result<(), VmError> {
        let event = event.try_clone().map_err(|source| VmError::Host { what: "duplicating a doorbell", source })?;
        let mut bells = self.0.doorbells.write().unwrap_or_else(PoisonError::into_inner);
        if bells.iter().any(|(b, _)| *b == bell) {
            return Err(VmError::State(format!("there is a doorbell at {:#x} already", bell.gpa)));
        }
        bells.push((bell, event));
        Ok(())
    }

    fn unregister_ioeventfd(&self, _: &EventFd, bell: Doorbell) -> Result<(), VmError> {
        let mut bells = self.0.doorbells.write().unwrap_or_else(PoisonError::into_inner);
        let before = bells.len();
        bells.retain(|(b, _)| *b != bell);
        if bells.len() < before { Ok(()) } else { Err(VmError::State(format!("no doorbell at {:#x}", bell.gpa))) }
    }

    fn irqchip(&self) -> Result<IrqchipState, VmError> {
        Ok(self.0.irqchip.save())
    }

    fn set_irqchip(&self, state: &IrqchipState) -> Result<(), VmError> {
        if self.0.irqchip.restore(state) {
            Ok(())
        } else {
            Err(VmError::State("the state of the interrupt controllers makes no sense".into()))
        }
    }

    fn clock(&self) -> Result<ClockState, VmError> {
        Ok(self.0.clock.state())
    }

    fn set_clock(&self, clock: ClockState) -> Result<(), VmError> {
        self.0.clock.set(clock);
        self.0.slots.0.iter().for_each(|s| s.write_time(&self.0.clock, &self.0.memory));
        self.0.timer.rearm();
        Ok(())
    }

    fn log_dirty(&self, logging: Logging) -> Result<(), VmError> {
        self.0.logging.store(logging == Logging::On, Ordering::SeqCst);
        self.0.slots.0.iter().for_each(Slot::protect);
        Ok(())
    }

    fn take_dirty(&self) -> Result<Vec<Vec<u64>>, VmError> {
        // What a vCPU writes from here on is seen again; what it wrote before is in the map.
        let dirty = self.0.memory.take_dirty();
        if self.0.logging.load(Ordering::SeqCst) {
            self.0.slots.0.iter().for_each(Slot::protect);
            let more = self.0.memory.take_dirty();
            return Ok(dirty
                .into_iter()
                .zip(more)
                .map(|(a, b)| a.into_iter().zip(b).map(|(a, b)| a | b).collect())
                .collect());
        }
        Ok(dirty)
    }
}
