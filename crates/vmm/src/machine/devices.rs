//! The virtio devices of a specification, and where they are put.

use std::collections::BTreeMap;
use std::sync::Arc;

use control::machine::{ConsoleDevice, DeviceBus, DiskFormat, DiskSpec, LimitSpec, MachineSpec, NetSpec, ShareSpec};
use hv::memory::{Backing, HIGH_RAM, Range, RegionKind, Sharing as MemorySharing};
use hv::{Level, Memory, Vm};
use rustix::fs::OFlags;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use sys::handed;
use virtio::device::balloon::{self, Balloon, Pump};
use virtio::device::block::{self, Access, Block, Cache, Disk, DiskError, Raw};
use virtio::device::block::{Backing as Chain, Qcow2};
use virtio::device::entropy::Entropy;
use virtio::device::fs::{Fs, Sharing};
use virtio::device::net::user::{Forward, HostAccess, Protocol, UserSettings};
use virtio::device::net::{self, Net, TapBackend};
use virtio::device::pmem::Pmem;
use virtio::device::vsock::Vsock;
use virtio::device::{Activity, Device, RestoreError};
use virtio::limit::{Limit, Rate};
use virtio::service::Service;
use virtio::slot::Slot;
use virtio::transport::mmio::{Mmio, MmioState};
use virtio::transport::pci::bus::{self, Bus};
use virtio::transport::pci::{Function, FunctionState};

use super::specification::{self, SpecError};
use super::terminal::Terminal;
use super::{ConsoleOutput, MachineError};
use crate::acpi::MmioDevice;
use crate::bus::Buses;
use crate::device::Registers;
use crate::layout;

/// Persistent memory lies at multiples of this, the guest's largest pages.
const PMEM_STEP: u64 = 1 << 30;
/// The guest's driver takes whole sections of memory only.
const PMEM_UNIT: u64 = 2 << 20;

impl Registers for Mmio {
    fn read(&self, offset: u64, into: &mut [u8]) {
        Self::read(self, offset, into);
    }

    fn write(&self, offset: u64, bytes: &[u8]) {
        Self::write(self, offset, bytes);
    }
}

/// The PCI bus's configuration space in memory.
struct Ecam(Arc<Bus>);

impl Registers for Ecam {
    fn read(&self, offset: u64, into: &mut [u8]) {
        self.0.read_ecam(offset, into);
    }

    fn write(&self, offset: u64, bytes: &[u8]) {
        self.0.write_ecam(offset, bytes);
    }
}

/// The PCI bus's configuration space behind ports.
struct Ports(Arc<Bus>);

impl Registers for Ports {
    fn read(&self, offset: u64, into: &mut [u8]) {
        self.0.read_port(bus::ADDRESS_PORT + offset as u16, into);
    }

    fn write(&self, offset: u64, bytes: &[u8]) {
        self.0.write_port(bus::ADDRESS_PORT + offset as u16, bytes);
    }
}

/// The devices' windows: wherever the guest has put them.
struct Windows(Arc<Bus>);

impl Registers for Windows {
    fn read(&self, offset: u64, into: &mut [u8]) {
        if let Some((function, offset)) = self.0.find(layout::PCI_WINDOWS + offset) {
            function.read(offset, into);
        }
    }

    fn write(&self, offset: u64, bytes: &[u8]) {
        if let Some((function, offset)) = self.0.find(layout::PCI_WINDOWS + offset) {
            function.write(offset, bytes);
        }
    }
}

pub(super) fn failed<E: Into<Box<dyn std::error::Error + Send + Sync>>>(device: &str) -> impl Fn(E) -> MachineError {
    let device = device.to_owned();
    move |source| MachineError::Device { device: device.clone(), source: source.into() }
}

/// A pulse on an interrupt line.
pub(super) fn pulse(vm: &Arc<dyn Vm>, gsi: u32) -> Arc<dyn Fn() + Send + Sync> {
    let vm = Arc::clone(vm);
    Arc::new(move || {
        // The line is one that this program gave out: there is nothing that could refuse.
        let _refused = vm.set_irq_line(gsi, Level::High).and_then(|()| vm.set_irq_line(gsi, Level::Low));
    })
}

fn limit(spec: LimitSpec) -> Limit {
    let rate = |per_second| Rate { per_second, burst: 0 };
    Limit { bytes: rate(spec.bytes), operations: rate(spec.operations) }
}

fn own_network(spec: &NetSpec) -> UserSettings {
    let forwards = spec.forwards.iter().map(|forward| Forward {
        protocol: if forward.udp { Protocol::Udp } else { Protocol::Tcp },
        host: forward.host,
        guest_port: forward.guest_port,
    });
    UserSettings {
        forwards: forwards.collect(),
        host_access: if spec.host_loopback { HostAccess::Loopback } else { HostAccess::None },
        ..UserSettings::default()
    }
}

fn disk(number: usize, spec: &DiskSpec, cpus: u32) -> Result<Box<dyn Device>, MachineError> {
    let name = format!("disk{number}");
    let access = if spec.read_only { Access::ReadOnly } else { Access::ReadWrite };
    let cache = if spec.direct { Cache::Direct } else { Cache::Host };
    let chain = if spec.backing { Chain::Opened } else { Chain::Refused };
    let disk: Box<dyn Disk> = match spec.format {
        DiskFormat::Raw => Box::new(Raw::open(&spec.path, access, cache).map_err(failed(&name))?),
        DiskFormat::Qcow2 => Box::new(Qcow2::open(&spec.path, access, cache, chain).map_err(failed(&name))?),
    };
    let settings = block::Settings { id: name.clone(), queues: cpus.min(8) as u16, limit: limit(spec.limit) };
    Ok(Box::new(Block::new(disk, settings).map_err(failed(&name))?))
}

fn card(number: usize, spec: &NetSpec) -> Result<Box<dyn Device>, MachineError> {
    let name = format!("net{number}");
    let settings = net::Settings {
        mac: specification::mac(spec.mac.as_deref(), number)?,
        mtu: None,
        receive_limit: limit(spec.limit),
        transmit_limit: limit(spec.limit),
    };
    let card = match &spec.tap {
        Some(tap) => {
            // Whoever is confined was given it, and may not ask.
            if !handed::confined() {
                there_is(tap)?;
            }
            let backend = TapBackend::open(tap, spec.queues).map_err(|error| failed(&name)(refused(tap, error)))?;
            Net::new(Box::new(backend), settings).map_err(failed(&name))?
        }
        None => Net::in_user_network(settings, &own_network(spec)).map_err(failed(&name))?,
    };
    Ok(Box::new(card))
}

/// Why the host does not open a tap.
fn refused(tap: &str, error: sys::SysError) -> String {
    match error.errno {
        Errno::BUSY => format!("the tap {tap} is in use, by another machine for example"),
        Errno::INVAL => format!("{tap} is no tap, or not one with so many queues: {error}"),
        Errno::PERM => format!("the tap {tap} is another user's: make one with: ip tuntap add NAME mode tap user USER"),
        _ => format!("the tap {tap}: {error}"),
    }
}

/// Root would make a tap that is not there by opening it, and nobody would be at its other end.
fn there_is(tap: &str) -> Result<(), MachineError> {
    use rustix::net::{AddressFamily, SocketType, netdevice, socket};
    let asked = socket(AddressFamily::INET, SocketType::DGRAM, None);
    match asked.and_then(|asked| netdevice::name_to_index(asked, tap)) {
        Ok(_) => Ok(()),
        Err(_) => Err(SpecError::Tap(tap.to_owned()).into()),
    }
}

/// Opens what the devices will need, while this process still may; `sys::handed` keeps it.
pub(super) fn hand_over(spec: &MachineSpec) -> Result<(), MachineError> {
    let mut seen = BTreeMap::new();
    for (number, disk) in spec.disks.iter().enumerate() {
        // Openings of a file that was handed over share their lock, so it can't tell two of one machine's disks apart.
        let absent = |errno: Errno| DiskError::Open { path: disk.path.clone(), source: errno.into() };
        let stat = rustix::fs::stat(&disk.path).map_err(absent).map_err(failed(&format!("disk{number}")))?;
        let other = seen.insert((stat.st_dev, stat.st_ino), disk.read_only);
        if other.is_some_and(|read_only| !read_only || !disk.read_only) {
            return Err(SpecError::DiskTwice(disk.path.clone()).into());
        }
    }
    for (number, disk_spec) in spec.disks.iter().enumerate() {
        drop(disk(number, disk_spec, spec.cpus)?);
    }
    for (number, net) in spec.nets.iter().enumerate() {
        drop(card(number, net)?);
    }
    for share in &spec.shares {
        drop(shared(share)?);
    }
    persistent(spec).map(drop)
}

fn shared(share: &ShareSpec) -> Result<Fs, MachineError> {
    let sharing = if share.read_only { Sharing::ReadOnly } else { Sharing::ReadWrite };
    Fs::new(&share.tag, &share.path, sharing).map_err(failed(&format!("share {}", share.tag)))
}

/// Devices, and the hand on the balloon.
type Made = (Vec<Box<dyn Device>>, Option<Pump>);

/// Every virtio device of the specification, in the order in which the guest finds them, and the hand on the balloon.
fn make(spec: &MachineSpec, memory: &Memory) -> Result<Made, MachineError> {
    let mut devices: Vec<Box<dyn Device>> = Vec::new();
    for (number, disk_spec) in spec.disks.iter().enumerate() {
        devices.push(disk(number, disk_spec, spec.cpus)?);
    }
    for (number, net) in spec.nets.iter().enumerate() {
        devices.push(card(number, net)?);
    }
    if let Some(vsock) = &spec.vsock {
        devices.push(Box::new(Vsock::new(vsock.cid.into(), &handed::inside(&vsock.path)).map_err(failed("vsock"))?));
    }
    for share in &spec.shares {
        devices.push(Box::new(shared(share)?));
    }
    let regions = memory.regions().iter().enumerate().filter(|(_, region)| region.range.kind == RegionKind::Pmem);
    for (number, region) in regions {
        if let Some(file) = memory.file(number) {
            devices.push(Box::new(Pmem::new(Arc::clone(file), region.range.gpa, region.range.size)));
        }
    }
    let mut pump = None;
    if spec.balloon {
        let settings = balloon::Settings { target: 0, pressure: balloon::Pressure::Deflate };
        let (balloon, hand) = Balloon::new(settings).map_err(failed("balloon"))?;
        devices.push(Box::new(balloon));
        pump = Some(hand);
    }
    devices.push(Box::new(Entropy::new(Limit::default()).map_err(failed("entropy"))?));
    Ok((devices, pump))
}

/// The files of the persistent memory as parts of the machine's memory, above its RAM.
pub(super) fn persistent(spec: &MachineSpec) -> Result<Vec<Backing>, MachineError> {
    let mut gpa = (HIGH_RAM + spec.memory).next_multiple_of(PMEM_STEP);
    let mut regions = Vec::with_capacity(spec.pmems.len());
    for (number, pmem) in spec.pmems.iter().enumerate() {
        let name = format!("pmem{number}");
        let mode = if pmem.read_only { OFlags::RDONLY } else { OFlags::RDWR };
        let open = |error| failed(&name)(format!("cannot open {}: {error}", pmem.path.display()));
        let file = handed::open(&pmem.path, mode).map_err(open)?;
        let size = file.metadata().map_err(failed(&name))?.len();
        if size == 0 || !size.is_multiple_of(PMEM_UNIT) {
            let why = format!("{} has {size} bytes, not a multiple of 2 MiB", pmem.path.display());
            return Err(failed(&name)(why));
        }
        let sharing = if pmem.read_only { MemorySharing::Private } else { MemorySharing::Shared };
        let range = Range { gpa, size, offset: 0, kind: RegionKind::Pmem };
        regions.push(Backing { range, file: Arc::new(file), sharing });
        gpa = (gpa + size).next_multiple_of(PMEM_STEP);
    }
    Ok(regions)
}

/// A device at its place.
enum Attached {
    Mmio(Arc<Mmio>),
    Pci(Arc<Function>),
}

/// A device as a snapshot has it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum DeviceState {
    Mmio(MmioState),
    Pci(FunctionState),
}

/// All virtio devices of a machine, and their bus.
pub(super) struct Devices {
    attached: Vec<Attached>,
    pub(super) pci: Option<Arc<Bus>>,
    pub(super) pump: Option<Pump>,
    pub(super) terminal: Option<Terminal>,
    /// What the firmware tables tell of.
    pub(super) told: Vec<MmioDevice>,
}

impl Devices {
    /// Makes them and puts them on the machine's buses.
    pub(super) fn new(
        spec: &MachineSpec,
        memory: &Memory,
        vm: &Arc<dyn Vm>,
        buses: &mut Buses,
        output: ConsoleOutput,
    ) -> Result<Self, MachineError> {
        let (mut devices, pump) = make(spec, memory)?;
        let mut terminal = None;
        if spec.console == ConsoleDevice::Virtio {
            let (console, hand) = Terminal::start(output)?;
            devices.push(Box::new(console));
            terminal = Some(hand);
        }
        let mut all = Self { attached: Vec::new(), pci: None, pump, terminal, told: Vec::new() };
        match spec.bus {
            DeviceBus::Mmio => all.on_pages(devices, memory, vm, buses)?,
            DeviceBus::Pci => all.on_pci(devices, memory, vm, buses)?,
        }
        Ok(all)
    }

    fn on_pages(
        &mut self,
        devices: Vec<Box<dyn Device>>,
        memory: &Memory,
        vm: &Arc<dyn Vm>,
        buses: &mut Buses,
    ) -> Result<(), MachineError> {
        let places = (layout::LAST_GSI - layout::VIRTIO_GSI + 1) as usize;
        if devices.len() > places {
            return Err(SpecError::Devices(devices.len(), places).into());
        }
        for (number, device) in (0..).zip(devices) {
            let (gpa, gsi) = (layout::VIRTIO + u64::from(number) * layout::VIRTIO_PAGE, layout::VIRTIO_GSI + number);
            let device = Arc::new(Mmio::new(device, memory.clone(), pulse(vm, gsi)).map_err(failed("virtio"))?);
            buses.add_memory(gpa, layout::VIRTIO_PAGE, device.clone());
            self.told.push(MmioDevice { gpa: gpa as u32, gsi });
            self.attached.push(Attached::Mmio(device));
        }
        Ok(())
    }

    fn on_pci(
        &mut self,
        devices: Vec<Box<dyn Device>>,
        memory: &Memory,
        vm: &Arc<dyn Vm>,
        buses: &mut Buses,
    ) -> Result<(), MachineError> {
        let (count, mut bus) = (devices.len(), Bus::new(layout::PCI_WINDOWS as u32));
        for device in devices {
            let (sender, liner) = (Arc::clone(vm), Arc::clone(vm));
            let send = Arc::new(move |msi| {
                // A message to nobody is the guest's mistake.
                let _nobody = sender.signal_msi(msi);
            });
            let line = Arc::new(move |level| {
                // As with pulses: the line is there.
                let _refused = liner.set_irq_line(layout::PCI_GSI, level);
            });
            let function = Function::new(device, memory.clone(), send, line).map_err(failed("virtio"))?;
            let function = Arc::new(function);
            bus.add(Arc::clone(&function)).map_err(|_| SpecError::Devices(count, bus::DEVICES - 1))?;
            self.attached.push(Attached::Pci(function));
        }
        let bus = Arc::new(bus);
        buses.add_memory(layout::PCI_ECAM, bus::ECAM_BYTES, Arc::new(Ecam(Arc::clone(&bus))));
        buses.add_memory(layout::PCI_WINDOWS, layout::PCI_WINDOWS_SIZE, Arc::new(Windows(Arc::clone(&bus))));
        buses.add_ports(bus::ADDRESS_PORT, 8, Arc::new(Ports(Arc::clone(&bus))));
        self.pci = Some(bus);
        Ok(())
    }

    pub(super) fn slots(&self) -> impl Iterator<Item = &Arc<Slot>> {
        self.attached.iter().map(|device| match device {
            Attached::Mmio(device) => device.slot(),
            Attached::Pci(function) => function.slot(),
        })
    }

    /// Threads for the devices: one each for the busy ones, one for the rest.
    pub(super) fn serve(&self) -> Result<Vec<Service>, MachineError> {
        let (busy, light): (Vec<_>, Vec<_>) = self.slots().cloned().partition(|slot| slot.activity() == Activity::Busy);
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

    pub(super) fn save(&self) -> Vec<DeviceState> {
        let state = |device: &Attached| match device {
            Attached::Mmio(device) => DeviceState::Mmio(device.save()),
            Attached::Pci(function) => DeviceState::Pci(function.save()),
        };
        self.attached.iter().map(state).collect()
    }

    /// Takes saved states over; `None` if they are of other devices.
    pub(super) fn restore(&self, states: Vec<DeviceState>) -> Option<Result<(), RestoreError>> {
        if states.len() != self.attached.len() {
            return None;
        }
        for (device, state) in self.attached.iter().zip(states) {
            let restored = match (device, state) {
                (Attached::Mmio(device), DeviceState::Mmio(state)) => device.restore(state),
                (Attached::Pci(function), DeviceState::Pci(state)) => function.restore(state),
                _ => return None,
            };
            if restored.is_err() {
                return Some(restored);
            }
        }
        Some(Ok(()))
    }
}
