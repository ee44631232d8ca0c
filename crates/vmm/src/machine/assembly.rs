//! From a specification to a machine.

use std::sync::Arc;
use std::sync::mpsc::Sender;

use control::machine::{DiskSpec, MachineSpec, NetSpec};
use hv::cpu_model::CpuModel;
use hv::{Level, Memory, Vm};
use virtio::device::block::{Access, Block, Cache, Raw};
use virtio::device::entropy::Entropy;
use virtio::device::net::{Net, TapBackend};
use virtio::device::{Activity, Device, block, net};
use virtio::limit::Limit;
use virtio::service::Service;
use virtio::transport::mmio::Mmio;

use super::processor::Processor;
use super::specification::{self, SpecError};
use super::{ConsoleOutput, Event, Machine, MachineError};
use crate::acpi::MmioDevice;
use crate::boot::{self, Payload};
use crate::bus::Buses;
use crate::device::{Button, Cmos, Keyboard, Power, PowerOrder, Registers, SerialPort};
use crate::{acpi, backend, layout};

impl Registers for Mmio {
    fn read(&self, offset: u64, into: &mut [u8]) {
        Self::read(self, offset, into);
    }

    fn write(&self, offset: u64, bytes: &[u8]) {
        Self::write(self, offset, bytes);
    }
}

fn failed<E: Into<Box<dyn std::error::Error + Send + Sync>>>(device: &str) -> impl Fn(E) -> MachineError {
    let device = device.to_owned();
    move |source| MachineError::Device { device: device.clone(), source: source.into() }
}

/// A pulse on an interrupt line.
fn pulse(vm: &Arc<dyn Vm>, gsi: u32) -> Arc<dyn Fn() + Send + Sync> {
    let vm = Arc::clone(vm);
    Arc::new(move || {
        // The line is one that this program gave out: there is nothing that could refuse.
        let _refused = vm.set_irq_line(gsi, Level::High).and_then(|()| vm.set_irq_line(gsi, Level::Low));
    })
}

fn disk(number: usize, spec: &DiskSpec, cpus: u32) -> Result<Box<dyn Device>, MachineError> {
    let name = format!("disk{number}");
    let access = if spec.read_only { Access::ReadOnly } else { Access::ReadWrite };
    let disk = Raw::open(&spec.path, access, Cache::Host).map_err(failed(&name))?;
    let settings = block::Settings { id: name.clone(), queues: cpus.min(8) as u16, limit: Limit::default() };
    Ok(Box::new(Block::new(Box::new(disk), settings).map_err(failed(&name))?))
}

fn card(number: usize, spec: &NetSpec) -> Result<Box<dyn Device>, MachineError> {
    let name = format!("net{number}");
    let backend = TapBackend::open(&spec.tap, 1).map_err(failed(&name))?;
    let settings = net::Settings {
        mac: specification::mac(spec.mac.as_deref(), number)?,
        mtu: None,
        receive_limit: Limit::default(),
        transmit_limit: Limit::default(),
    };
    Ok(Box::new(Net::new(Box::new(backend), settings).map_err(failed(&name))?))
}

/// Every virtio device of the specification, in the order in which the guest finds them.
fn devices(spec: &MachineSpec) -> Result<Vec<Box<dyn Device>>, MachineError> {
    let mut devices: Vec<Box<dyn Device>> = Vec::new();
    for (number, spec_) in spec.disks.iter().enumerate() {
        devices.push(disk(number, spec_, spec.cpus)?);
    }
    for (number, spec) in spec.nets.iter().enumerate() {
        devices.push(card(number, spec)?);
    }
    devices.push(Box::new(Entropy::new(Limit::default()).map_err(failed("entropy"))?));
    let places = (layout::LAST_GSI - layout::VIRTIO_GSI + 1) as usize;
    if devices.len() > places {
        return Err(SpecError::Devices(devices.len(), places).into());
    }
    Ok(devices)
}

/// Where virtio device `number` is.
fn place(number: usize) -> (u64, u32) {
    (layout::VIRTIO + number as u64 * layout::VIRTIO_PAGE, layout::VIRTIO_GSI + number as u32)
}

/// Threads for the devices: one each for the busy ones, one for the rest.
fn serve(devices: &[Arc<Mmio>]) -> Result<Vec<Service>, MachineError> {
    let slots = devices.iter().map(|device| Arc::clone(device.slot()));
    let (busy, light): (Vec<_>, Vec<_>) = slots.partition(|slot| slot.activity() == Activity::Busy);
    let mut services = Vec::new();
    for slot in busy {
        let name = format!("{:?}", slot.kind()).to_lowercase();
        services.push(Service::start(&name, vec![slot]).map_err(MachineError::Thread)?);
    }
    if !light.is_empty() {
        services.push(Service::start("devices", light).map_err(MachineError::Thread)?);
    }
    Ok(services)
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

pub(super) fn assemble(
    spec: &MachineSpec,
    output: ConsoleOutput,
    events: &Sender<Event>,
) -> Result<Machine, MachineError> {
    specification::check(spec)?;
    let memory = Memory::new(spec.memory).map_err(MachineError::Memory)?;
    let backend = backend::choose(spec.backend);
    let refused = |source| MachineError::Backend { backend, source };
    let vm = backend::create(backend, memory.clone(), &CpuModel::v2(spec.cpus), spec.cpus).map_err(refused)?;
    let mut buses = Buses::default();
    let serial = legacy(&mut buses, &vm, output, events);
    let (mut transports, mut told) = (Vec::new(), Vec::new());
    for (number, device) in devices(spec)?.into_iter().enumerate() {
        let (gpa, gsi) = place(number);
        let device = Mmio::new(device, memory.clone(), pulse(&vm, gsi)).map_err(failed("virtio"))?;
        let device = Arc::new(device);
        buses.add_memory(gpa, layout::VIRTIO_PAGE, device.clone());
        told.push(MmioDevice { gpa: gpa as u32, gsi });
        transports.push(device);
    }
    let rsdp = acpi::write_to(&memory, spec.cpus, &told)?;
    let payload = Payload {
        kernel: &spec.kernel,
        initrd: spec.initrd.as_deref(),
        cmdline: &spec.cmdline,
        protocol: spec.boot,
        rsdp,
    };
    let entry = boot::load(&memory, &payload)?;
    let buses = Arc::new(buses);
    let mut processors = Vec::new();
    for index in 0..spec.cpus {
        let mut vcpu = vm.create_vcpu(index).map_err(refused)?;
        let mut state = vcpu.state().map_err(refused)?;
        boot::prepare_processor(&mut state);
        if index == 0 {
            boot::begin(&memory, entry, &mut state)?;
        }
        vcpu.set_state(&state).map_err(refused)?;
        let events = events.clone();
        let tell = move |event| {
            // As above: nobody listens at the end.
            let _nobody = events.send(event);
        };
        processors.push(Processor::start(vcpu, buses.clone(), tell).map_err(MachineError::Thread)?);
    }
    let services = serve(&transports)?;
    let clock = vm.clock().map_err(refused)?;
    let stopped = Some((clock, vec![None; processors.len()]));
    let button = Button::new(Arc::clone(&vm));
    Ok(Machine { processors, services, devices: transports, serial, button, vm, spec: spec.clone(), stopped })
}
