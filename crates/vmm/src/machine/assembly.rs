//! From a specification, or a snapshot, to a machine.

use std::sync::Arc;
use std::sync::mpsc::Sender;

use control::machine::{BackendChoice, MachineSpec};
use hv::clock::ClockState;
use hv::cpu_model::CpuModel;
use hv::vm::Logging;
use hv::{Backend, Memory, Vcpu, Vm, VmError};

use super::devices::{self, Devices, pulse};
use super::processor::Processor;
use super::snapshot::{Saved, SnapshotError};
use super::{ConsoleOutput, Event, MSR_TSC, Machine, MachineError, Stopped, specification};
use crate::acpi::PciBus;
use crate::boot::{self, Payload};
use crate::bus::Buses;
use crate::device::{Answers, Button, Cmos, ExitPort, Keyboard, Lines, Power, PowerOrder, SerialPort, Slate};
use crate::{acpi, backend, layout};

/// Everything but the guest: its processors are as after power-on.
struct Parts {
    vm: Arc<dyn Vm>,
    buses: Arc<Buses>,
    serial: Arc<SerialPort>,
    devices: Devices,
    vcpus: Vec<Box<dyn Vcpu>>,
}

/// What guests that are tests have.
fn trial(spec: &MachineSpec, buses: &mut Buses, vm: &Arc<dyn Vm>, events: &Sender<Event>) {
    let events = events.clone();
    let end = move |code| {
        // As below.
        let _nobody = events.send(Event::Exit(code));
    };
    buses.add_ports(layout::EXIT_PORT, 4, Arc::new(ExitPort::new(Box::new(end))));
    buses.add_ports(layout::ANSWER_PORT, 2, Arc::new(Answers::new(spec.memory, spec.cpus)));
    let slate = Arc::new(Slate::new(4));
    layout::SLATE_PORTS.into_iter().for_each(|port| buses.add_ports(port, 4, slate.clone()));
    buses.add_memory(layout::SLATE, layout::SLATE_SIZE, Arc::new(Slate::new(layout::SLATE_SIZE)));
    let vm = Arc::clone(vm);
    let set = move |line, level| {
        // There is one for each port.
        let _there = vm.set_irq_line(line, level);
    };
    buses.add_ports(layout::LINE_PORTS, u64::from(layout::LAST_GSI) + 1, Arc::new(Lines::new(Box::new(set))));
}

/// The devices of a PC.
fn legacy(buses: &mut Buses, vm: &Arc<dyn Vm>, output: ConsoleOutput, events: &Sender<Event>) -> Arc<SerialPort> {
    let order = || {
        let events = events.clone();
        Box::new(move |order| {
            // Nobody listens any more when the machine is on its way out.
            let _nobody = events.send(match order {
                PowerOrder::Off => Event::PowerOff,
                PowerOrder::Reset => Event::Reset,
            });
        }) as Box<dyn Fn(PowerOrder) + Send + Sync>
    };
    let serial = Arc::new(SerialPort::new(pulse(vm, layout::SERIAL_GSI), output));
    buses.add_ports(layout::SERIAL_PORT, 8, serial.clone());
    buses.add_ports(0x60, 5, Arc::new(Keyboard::new(order())));
    buses.add_ports(0x70, 2, Arc::new(Cmos::default()));
    buses.add_ports(layout::POWER_PORT, 3, Arc::new(Power::new(order())));
    serial
}

fn refused(backend: Backend) -> impl Fn(VmError) -> MachineError {
    move |source| MachineError::Backend { backend, source }
}

fn parts(
    spec: &MachineSpec,
    memory: &Memory,
    model: &CpuModel,
    output: ConsoleOutput,
    events: &Sender<Event>,
) -> Result<Parts, MachineError> {
    let choice = if specification::wants_soft(spec) { BackendChoice::Soft } else { spec.backend };
    let backend = backend::choose(choice);
    let vm = backend::create(backend, memory.clone(), model, spec).map_err(refused(backend))?;
    let mut buses = Buses::default();
    let serial = legacy(&mut buses, &vm, Arc::clone(&output), events);
    if spec.test_devices {
        trial(spec, &mut buses, &vm, events);
    }
    let devices = Devices::new(spec, memory, &vm, &mut buses, output)?;
    let vcpus =
        (0..spec.cpus).map(|index| vm.create_vcpu(index)).collect::<Result<_, _>>().map_err(refused(backend))?;
    if spec.track_dirty {
        vm.log_dirty(Logging::On).map_err(refused(backend))?;
    }
    Ok(Parts { vm, buses: Arc::new(buses), serial, devices, vcpus })
}

impl Parts {
    /// Starts the threads; everything rests.
    fn finish(self, spec: &MachineSpec, stopped: Stopped, events: &Sender<Event>) -> Result<Machine, MachineError> {
        let Self { vm, buses, serial, devices, vcpus } = self;
        let mut processors = Vec::new();
        for vcpu in vcpus {
            let events = events.clone();
            let tell = move |event| {
                // As above: nobody listens at the end.
                let _nobody = events.send(event);
            };
            processors.push(Processor::start(vm.backend(), vcpu, buses.clone(), tell).map_err(MachineError::Thread)?);
        }
        let services = devices.serve()?;
        services.iter().for_each(virtio::service::Service::rest);
        let button = Button::new(Arc::clone(&vm));
        let spec = spec.clone();
        Ok(Machine {
            processors,
            services,
            devices,
            serial,
            button,
            vm,
            buses,
            spec,
            stopped: Some(stopped),
            pages: None,
            last_snapshot: None,
        })
    }
}

/// A machine whose guest is about to boot.
pub(super) fn boot(spec: &MachineSpec, output: ConsoleOutput, events: &Sender<Event>) -> Result<Machine, MachineError> {
    specification::check(spec)?;
    let persistent = devices::persistent(spec)?;
    let memory = Memory::with_regions(spec.memory, persistent).map_err(MachineError::Memory)?;
    let mut parts = parts(spec, &memory, &CpuModel::v2(spec.cpus), output, events)?;
    let refused = refused(parts.vm.backend());
    let pci = if parts.devices.pci.is_some() { PciBus::Present } else { PciBus::Absent };
    let rsdp = acpi::write_to(&memory, spec.cpus, &parts.devices.told, pci)?;
    let payload = Payload {
        kernel: &spec.kernel,
        initrd: spec.initrd.as_deref(),
        cmdline: &spec.cmdline,
        protocol: spec.boot,
        rsdp,
    };
    let entry = boot::load(&memory, &payload)?;
    for vcpu in &mut parts.vcpus {
        let mut state = vcpu.state().map_err(&refused)?;
        boot::prepare_processor(&mut state);
        if vcpu.index() == 0 {
            boot::begin(&memory, entry, &mut state)?;
        }
        vcpu.set_state(&state).map_err(&refused)?;
    }
    let clock = parts.vm.clock().map_err(&refused)?;
    let stopped = Stopped { clock, counters: vec![None; parts.vcpus.len()] };
    parts.finish(spec, stopped, events)
}

/// Most parts in a million by which a counter may differ from the one that the guest knows.
const MOST_DRIFT: u64 = 1_000;

fn check_clock(saved: ClockState, here: ClockState) -> Result<(), SnapshotError> {
    let (then, now) = (u64::from(saved.tsc_khz), u64::from(here.tsc_khz));
    if then.abs_diff(now) * 1_000_000 / then.max(1) > MOST_DRIFT {
        return Err(SnapshotError::Counter { saved: saved.tsc_khz, here: here.tsc_khz });
    }
    Ok(())
}

/// A machine as it was when it was saved.
pub(super) fn restore(saved: Saved, output: ConsoleOutput, events: &Sender<Event>) -> Result<Machine, MachineError> {
    let Saved { spec, model, vcpus, irqchip, clock, devices, serial, pci_address, memory, pages } = saved;
    specification::check(&spec)?;
    let mut parts = parts(&spec, &memory, &model, output, events)?;
    let backend = parts.vm.backend();
    let refused = refused(backend);
    let lost = model.beyond(parts.vm.cpu_model());
    if !lost.is_empty() {
        return Err(SnapshotError::Features { backend, lost: lost.join(", ") }.into());
    }
    if vcpus.len() != parts.vcpus.len() {
        return Err(SnapshotError::Damaged("it has another number of processors than its machine").into());
    }
    check_clock(clock, parts.vm.clock().map_err(&refused)?)?;
    // Timers are set by the time there is.
    parts.vm.set_clock(clock).map_err(&refused)?;
    parts.vm.set_irqchip(&irqchip).map_err(&refused)?;
    for (vcpu, state) in parts.vcpus.iter_mut().zip(&vcpus) {
        vcpu.set_state(state).map_err(&refused)?;
    }
    parts.serial.restore(&serial).map_err(SnapshotError::Damaged)?;
    if let (Some(bus), Some(address)) = (&parts.devices.pci, pci_address) {
        bus.set_address(address);
    }
    match parts.devices.restore(devices) {
        None => return Err(SnapshotError::Damaged("it has other devices than its machine").into()),
        Some(restored) => restored.map_err(SnapshotError::Device)?,
    }
    let counter = |state: &hv::VcpuState| state.msrs.iter().find(|msr| msr.index == MSR_TSC).map(|msr| msr.value);
    let stopped = Stopped { clock, counters: vcpus.iter().map(counter).collect() };
    let mut machine = parts.finish(&spec, stopped, events)?;
    machine.pages = pages;
    Ok(machine)
}
