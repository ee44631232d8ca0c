//! A machine: memory, processors, devices, from its specification to its end.

mod assembly;
mod devices;
mod processor;
pub(crate) mod snapshot;
mod specification;
mod terminal;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::Sender;

use control::machine::{BackendChoice, MachineSpec};
use hv::clock::ClockState;
use hv::state::Msr;
use hv::{Backend, MemoryError, Vm, VmError};
use rustix::fs::OFlags;
use sys::handed;
use virtio::service::Service;

use crate::acpi::AcpiError;
use crate::boot::BootError;
use crate::bus::Buses;
use crate::device::{Button, SerialPort};
use devices::Devices;
use processor::Processor;
pub use snapshot::{Check, Extent, Packing, SnapshotError, Writing};
pub use specification::SpecError;
pub(crate) use specification::check;

/// The time-stamp counter's MSR.
const MSR_TSC: u32 = 0x10;

/// What a machine tells whoever runs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The guest, or its processor by a triple fault, asked for a reset.
    Reset,
    /// The guest switched the machine off.
    PowerOff,
    /// The guest, a test, ended the machine with this code.
    Exit(u8),
    /// A processor can't go on: why.
    Failed(String),
    /// Memory that is touched can't be had: why. Whoever touched it waits for ever, so the machine can't be taken down in order.
    MemoryLost(String),
}

/// Why a machine could not be made or changed.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// The specification asks for something that is not possible.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// The hypervisor refused.
    #[error("the hypervisor {backend}")]
    Backend {
        /// Which one.
        backend: Backend,
        /// Why.
        source: VmError,
    },
    /// The memory could not be had.
    #[error("the guest's memory")]
    Memory(#[source] MemoryError),
    /// The guest could not be loaded.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// The firmware tables could not be made.
    #[error(transparent)]
    Acpi(#[from] AcpiError),
    /// A snapshot.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The machine has no such device.
    #[error("the machine has no {0}")]
    NoDevice(&'static str),
    /// A device could not be made.
    #[error("the device {device}")]
    Device {
        /// Which one.
        device: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A thread could not be started.
    #[error("starting a thread of the machine")]
    Thread(#[source] std::io::Error),
}

/// A machine. It rests at first; dropping it ends it.
pub struct Machine {
    // In the order in which they go: nobody runs when devices and memory do.
    processors: Vec<Processor>,
    services: Vec<Service>,
    devices: Devices,
    serial: Arc<SerialPort>,
    button: Button,
    vm: Arc<dyn Vm>,
    buses: Arc<Buses>,
    spec: MachineSpec,
    stopped: Option<Stopped>,
    /// Memory that comes when it is touched. It goes last: until then somebody may touch it.
    pages: Option<snapshot::Pages>,
    /// Where the newest snapshot is, if it can have children.
    last_snapshot: Option<PathBuf>,
}

/// When a machine came to rest.
#[derive(Debug, Clone)]
struct Stopped {
    /// The guest's time.
    clock: ClockState,
    /// Each processor's counter.
    counters: Vec<Option<u64>>,
}

/// Takes what the guest writes to its serial port.
pub type ConsoleOutput = Arc<dyn Fn(&[u8]) + Send + Sync>;

impl Machine {
    /// Assembles a machine and loads its guest.
    ///
    /// # Errors
    /// [`MachineError`]: what is missing, and where.
    pub fn new(spec: &MachineSpec, output: ConsoleOutput, events: &Sender<Event>) -> Result<Self, MachineError> {
        assembly::boot(spec, output, events)
    }

    /// A machine as it was when its snapshot was written to `folder`. It rests. `backend` may be another than then.
    ///
    /// # Errors
    /// The snapshot can't be read, or not be run here: why, is in the error.
    pub fn restore(
        folder: &Path,
        backend: Option<BackendChoice>,
        check: Check,
        output: ConsoleOutput,
        events: &Sender<Event>,
    ) -> Result<Self, MachineError> {
        assembly::restore(snapshot::load(folder, backend, check, events)?, output, events)
    }

    /// Opens all that a machine of this specification will need, while this process still may; `sys::handed` keeps it.
    ///
    /// # Errors
    /// The specification asks for something that is not possible or not there.
    pub fn hand_over(spec: &MachineSpec) -> Result<(), MachineError> {
        check(spec)?;
        for (what, path) in [("kernel", Some(&spec.kernel)), ("initrd", spec.initrd.as_ref())] {
            let Some(path) = path else { continue };
            let fail = |source| BootError::Read { what, path: path.clone(), source };
            handed::open(path, OFlags::RDONLY).map_err(fail)?;
        }
        devices::hand_over(spec)
    }

    /// As [`Self::hand_over`], for a machine that is to be restored from its snapshot in `folder`. Gives its specification.
    ///
    /// # Errors
    /// The snapshot can't be read, or what its machine needs is not there.
    pub fn hand_over_snapshot(folder: &Path) -> Result<MachineSpec, MachineError> {
        let spec = snapshot::hand_over(folder)?;
        check(&spec)?;
        for path in std::iter::once(&spec.kernel).chain(&spec.initrd) {
            // They are needed only if the guest boots again.
            let _gone = handed::open(path, OFlags::RDONLY);
        }
        devices::hand_over(&spec)?;
        Ok(spec)
    }

    /// The specification it was made by.
    pub fn spec(&self) -> &MachineSpec {
        &self.spec
    }

    /// What runs it.
    pub fn backend(&self) -> Backend {
        self.vm.backend()
    }

    /// Whether it runs.
    pub fn running(&self) -> bool {
        self.stopped.is_none()
    }

    /// The way to its console for input.
    pub fn input_line(&self) -> ConsoleOutput {
        if let Some(terminal) = &self.devices.terminal {
            return terminal.input_line();
        }
        let serial = Arc::clone(&self.serial);
        Arc::new(move |bytes| serial.input(bytes))
    }

    /// Tells its virtio console that the terminal has this size.
    ///
    /// # Errors
    /// It has none: a serial port does not know of sizes.
    pub fn resize_console(&self, columns: u16, rows: u16) -> Result<(), MachineError> {
        let terminal = self.devices.terminal.as_ref().ok_or(MachineError::NoDevice("virtio console"))?;
        terminal.resize(columns, rows);
        Ok(())
    }

    /// Presses its power button.
    ///
    /// # Errors
    /// The hypervisor refuses.
    pub fn press_power(&self) -> Result<(), MachineError> {
        self.button.press().map_err(|source| self.backend_error(source))
    }

    fn backend_error(&self, source: VmError) -> MachineError {
        MachineError::Backend { backend: self.vm.backend(), source }
    }

    /// Lets it run, from where it rests: the guest sees no time between.
    ///
    /// # Errors
    /// The hypervisor refuses to set the clock.
    pub fn resume(&mut self) -> Result<(), MachineError> {
        let Some(Stopped { clock, counters }) = self.stopped.take() else { return Ok(()) };
        self.vm.set_clock(clock).map_err(|source| self.backend_error(source))?;
        if self.vm.backend() == Backend::Kvm {
            for (processor, tsc) in self.processors.iter().zip(counters) {
                let msrs: Vec<_> = tsc.map(|value| Msr { index: MSR_TSC, value }).into_iter().collect();
                processor.vcpu().set_msrs(&msrs).map_err(|source| self.backend_error(source))?;
            }
        }
        self.services.iter().for_each(Service::resume);
        self.processors.iter().for_each(Processor::run);
        Ok(())
    }

    /// Brings it to rest: no processor runs and no device writes memory.
    ///
    /// # Errors
    /// The hypervisor refuses to tell the clock.
    pub fn pause(&mut self) -> Result<(), MachineError> {
        if self.stopped.is_some() {
            return Ok(());
        }
        self.processors.iter().for_each(Processor::rest);
        let mut counters = Vec::new();
        for processor in &self.processors {
            let mut vcpu = processor.vcpu();
            let state = vcpu.state().map_err(|source| self.backend_error(source))?;
            counters.push(state.msrs.iter().find(|msr| msr.index == MSR_TSC).map(|msr| msr.value));
        }
        let mut clock = self.vm.clock().map_err(|source| self.backend_error(source))?;
        // The counter is a processor's own on KVM.
        clock.tsc = counters.first().copied().flatten().unwrap_or(clock.tsc);
        self.services.iter().for_each(Service::rest);
        self.stopped = Some(Stopped { clock, counters });
        Ok(())
    }

    /// Blows its balloon up to `bytes`, which the guest then lacks.
    ///
    /// # Errors
    /// It has none, or so much memory is not there.
    pub fn set_balloon(&self, bytes: u64) -> Result<(), MachineError> {
        let pump = self.devices.pump.as_ref().ok_or(MachineError::NoDevice("balloon"))?;
        if bytes > self.spec.memory {
            return Err(SpecError::Balloon { wanted: bytes, memory: self.spec.memory }.into());
        }
        pump.set_target(bytes);
        Ok(())
    }

    /// What its devices have counted: their names with numbers behind, and their counters; and what its processors have.
    pub fn metrics(&self) -> Vec<(String, virtio::device::Metrics)> {
        let devices = self.devices.slots().enumerate();
        let mut all: Vec<_> =
            devices.map(|(n, slot)| (format!("{:?}{n}", slot.kind()).to_lowercase(), slot.metrics())).collect();
        let exits = ("exits", self.buses.exits());
        all.push(("processors".to_owned(), self.vm.counters().into_iter().chain([exits]).collect()));
        all
    }
}
