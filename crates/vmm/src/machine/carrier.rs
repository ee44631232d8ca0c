//! What carries the devices to the guest: a page of registers and a line each, or functions of a PCI bus.

use std::sync::Arc;

use control::machine::{DeviceBus, MachineSpec};
use hv::{Memory, Vm};
use virtio::device::{Device, Metrics, RestoreError};
use virtio::slot::Slot;
use virtio::transport::mmio::{Mmio, MmioState};
use virtio::transport::pci::bus::{ADDRESS_PORT, Bus};
use virtio::transport::pci::{Function, FunctionState};

use super::MachineError;
use super::assembly::pulse;
use super::devices::failed;
use super::specification::SpecError;
use crate::acpi::{Bus as ToldBus, MmioDevice};
use crate::bus::Buses;
use crate::device::Registers;
use crate::layout;

/// A device's place.
#[derive(Debug, Clone)]
pub(crate) enum Carrier {
    Mmio(Arc<Mmio>),
    Pci(Arc<Function>),
}

/// A device's place in a snapshot.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum CarrierState {
    /// A page of registers.
    Mmio(MmioState),
    /// A function on the PCI bus.
    Pci(FunctionState),
}

impl Carrier {
    pub(crate) fn slot(&self) -> &Arc<Slot> {
        match self {
            Self::Mmio(device) => device.slot(),
            Self::Pci(function) => function.slot(),
        }
    }

    pub(crate) fn metrics(&self) -> Metrics {
        self.slot().metrics()
    }

    /// Everything a snapshot needs; the device has to be at rest.
    #[expect(dead_code, reason = "snapshots of a whole machine ask for it")]
    pub(crate) fn save(&self) -> CarrierState {
        match self {
            Self::Mmio(device) => CarrierState::Mmio(device.save()),
            Self::Pci(function) => CarrierState::Pci(function.save()),
        }
    }

    /// Takes a saved device over; says whether it was carried in the same way.
    #[expect(dead_code, reason = "snapshots of a whole machine ask for it")]
    pub(crate) fn restore(&self, state: CarrierState) -> Result<bool, RestoreError> {
        match (self, state) {
            (Self::Mmio(device), CarrierState::Mmio(state)) => device.restore(state).map(|()| true),
            (Self::Pci(function), CarrierState::Pci(state)) => function.restore(state).map(|()| true),
            _ => Ok(false),
        }
    }
}

impl Registers for Mmio {
    fn read(&self, offset: u64, into: &mut [u8]) {
        Self::read(self, offset, into);
    }

    fn write(&self, offset: u64, bytes: &[u8]) {
        Self::write(self, offset, bytes);
    }
}

/// The bus's ports.
struct Ports(Arc<Bus>);

impl Registers for Ports {
    fn read(&self, offset: u64, into: &mut [u8]) {
        self.0.read_port(ADDRESS_PORT + offset as u16, into);
    }

    fn write(&self, offset: u64, bytes: &[u8]) {
        self.0.write_port(ADDRESS_PORT + offset as u16, bytes);
    }
}

/// The memory in which the bus's windows lie, wherever the guest moves them.
struct Windows(Arc<Bus>);

impl Registers for Windows {
    fn read(&self, offset: u64, into: &mut [u8]) {
        if let Some((function, offset)) = self.0.find(layout::PCI_MEMORY + offset) {
            function.read(offset, into);
        }
    }

    fn write(&self, offset: u64, bytes: &[u8]) {
        if let Some((function, offset)) = self.0.find(layout::PCI_MEMORY + offset) {
            function.write(offset, bytes);
        }
    }
}

/// Places the devices; gives what the firmware's tables have to tell of them.
pub(crate) fn place(
    spec: &MachineSpec,
    devices: Vec<Box<dyn Device>>,
    memory: &Memory,
    vm: &Arc<dyn Vm>,
    buses: &mut Buses,
) -> Result<(Vec<Carrier>, ToldBus), MachineError> {
    match spec.bus {
        DeviceBus::Mmio => place_on_pages(devices, memory, vm, buses),
        DeviceBus::Pci => place_on_bus(devices, memory, vm, buses),
    }
}

fn place_on_pages(
    devices: Vec<Box<dyn Device>>,
    memory: &Memory,
    vm: &Arc<dyn Vm>,
    buses: &mut Buses,
) -> Result<(Vec<Carrier>, ToldBus), MachineError> {
    let places = (layout::LAST_GSI - layout::VIRTIO_GSI + 1) as usize;
    if devices.len() > places {
        return Err(SpecError::Devices(devices.len(), places).into());
    }
    let (mut carriers, mut told) = (Vec::new(), Vec::new());
    for (number, device) in devices.into_iter().enumerate() {
        let gpa = layout::VIRTIO + number as u64 * layout::VIRTIO_PAGE;
        let gsi = layout::VIRTIO_GSI + number as u32;
        let device = Arc::new(Mmio::new(device, memory.clone(), pulse(vm, gsi)).map_err(failed("virtio"))?);
        buses.add_memory(gpa, layout::VIRTIO_PAGE, device.clone());
        told.push(MmioDevice { gpa: gpa as u32, gsi });
        carriers.push(Carrier::Mmio(device));
    }
    Ok((carriers, ToldBus::Pages(told)))
}

fn place_on_bus(
    devices: Vec<Box<dyn Device>>,
    memory: &Memory,
    vm: &Arc<dyn Vm>,
    buses: &mut Buses,
) -> Result<(Vec<Carrier>, ToldBus), MachineError> {
    let mut bus = Bus::new(layout::PCI_MEMORY as u32);
    let mut carriers = Vec::new();
    for device in devices {
        let vm = Arc::clone(vm);
        let send = Arc::new(move |message| {
            // A message that the guest has made up may go nowhere, as on a PC.
            let _nowhere = vm.signal_msi(message);
        });
        // Every driver of these devices takes messages; the pins are not connected.
        let function = Function::new(device, memory.clone(), send, Arc::new(|_| {})).map_err(failed("virtio"))?;
        let function = Arc::new(function);
        bus.add(Arc::clone(&function)).map_err(failed("virtio"))?;
        carriers.push(Carrier::Pci(function));
    }
    let bus = Arc::new(bus);
    buses.add_ports(ADDRESS_PORT, 8, Arc::new(Ports(Arc::clone(&bus))));
    buses.add_memory(layout::PCI_MEMORY, layout::PCI_MEMORY_SIZE, Arc::new(Windows(bus)));
    Ok((carriers, ToldBus::Pci))
}
