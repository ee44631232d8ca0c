//! The firmware tables: processors, IOAPIC, devices, power.
//!
//! Hardware-reduced ACPI: no power management timer, no fixed registers. Sleep control, sleep status and reset are three
//! ports; the power button is an event of a generic event device.
//!
//! Source: ACPI 6.5; virtio over MMIO has the hardware id `LNRO0005`, as QEMU gives it.

use acpi_tables::Aml;
use acpi_tables::aml::{
    AddressSpace as Window, AddressSpaceCacheable, Device, EISAName, IO, Interrupt, Memory32Fixed, Method, Name,
    Notify, ONE, Package, Path,
};
use acpi_tables::aml::{ResourceTemplate, ZERO};
use acpi_tables::fadt::{FADTBuilder, Flags, PmProfile};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::madt::{EnabledStatus, IoApic, LocalInterruptController, MADT, ProcessorLocalApic};
use acpi_tables::mcfg::MCFG;
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;
use hv::Memory;
use vm_memory::{Bytes, GuestAddress};

use crate::layout;

const OEM: [u8; 6] = *b"INSULA";
const TABLE: [u8; 8] = *b"INSULAVM";
const REVISION: u32 = 1;
/// Bytes of the root pointer.
const RSDP_SIZE: u64 = 36;
/// What the guest writes to the sleep control register for state 5: the type in bits 2 to 4, and bit 5.
pub(crate) const SLEEP_5: u8 = 5 << 2 | 1 << 5;

/// A device that the tables tell of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MmioDevice {
    pub(crate) gpa: u32,
    pub(crate) gsi: u32,
}

/// Why there are no tables.
#[derive(Debug, thiserror::Error)]
#[error("{bytes} bytes of firmware tables don't fit: the machine has too many devices or too little memory")]
pub struct AcpiError {
    bytes: u64,
}

fn bytes(table: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    table.to_aml_bytes(&mut bytes);
    bytes
}

fn port(offset: u16) -> GAS {
    let port = layout::POWER_PORT + offset;
    GAS::new(AddressSpace::SystemIo, 8, 0, AccessSize::ByteAccess, port.into())
}

fn madt(cpus: u32) -> Vec<u8> {
    let mut madt = MADT::new(OEM, TABLE, REVISION, LocalInterruptController::Address(0xfee0_0000));
    for id in 0..cpus {
        madt.add_structure(ProcessorLocalApic::new(id as u8, id as u8, EnabledStatus::Enabled));
    }
    madt.add_structure(IoApic::new(0, 0xfec0_0000, 0));
    bytes(&madt)
}

fn fadt(dsdt: u64) -> Vec<u8> {
    let mut fadt = FADTBuilder::new(OEM, TABLE, REVISION)
        .dsdt_64(dsdt)
        .preferred_pm_profile(PmProfile::EnterpriseServer)
        .flag(Flags::HwReducedAcpi)
        .flag(Flags::ResetRegSup)
        // There are no fixed buttons.
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton);
    fadt.reset_reg = port(2);
    fadt.reset_value = 1;
    fadt.sleep_control_reg = port(0);
    fadt.sleep_status_reg = port(1);
    // No VGA, no keyboard controller; the clock in the CMOS is there.
    fadt.iapc_boot_arch = (1u16 << 2).into();
    bytes(&fadt.finalize())
}

fn serial() -> Vec<u8> {
    let interrupt = Interrupt::new(true, true, false, false, layout::SERIAL_GSI);
    let io = IO::new(layout::SERIAL_PORT, layout::SERIAL_PORT, 1, 8);
    bytes(&Device::new(
        "COM1".into(),
        vec![
            &Name::new("_HID".into(), &EISAName::new("PNP0501")),
            &Name::new("_UID".into(), &ZERO),
            &Name::new("_CRS".into(), &ResourceTemplate::new(vec![&interrupt, &io])),
        ],
    ))
}

fn clock() -> Vec<u8> {
    bytes(&Device::new(
        "RTC_".into(),
        vec![
            &Name::new("_HID".into(), &EISAName::new("PNP0B00")),
            &Name::new("_CRS".into(), &ResourceTemplate::new(vec![&IO::new(0x70, 0x70, 1, 2)])),
        ],
    ))
}

/// The power button and the device whose interrupt says that it was pressed.
fn button() -> Vec<u8> {
    let interrupt = Interrupt::new(true, true, false, false, layout::EVENT_GSI);
    let target = Path::new("PWRB");
    let pressed = Notify::new(&target, &0x80u8);
    let button = bytes(&Device::new("PWRB".into(), vec![&Name::new("_HID".into(), &EISAName::new("PNP0C0C"))]));
    let events = bytes(&Device::new(
        "GED_".into(),
        vec![
            &Name::new("_HID".into(), &"ACPI0013"),
            &Name::new("_UID".into(), &ONE),
            &Name::new("_CRS".into(), &ResourceTemplate::new(vec![&interrupt])),
            &Method::new("_EVT".into(), 1, true, vec![&pressed]),
        ],
    ));
    [button, events].concat()
}

fn virtio(number: usize, device: &MmioDevice) -> Vec<u8> {
    let name = format!("V{number:03X}");
    let memory = Memory32Fixed::new(true, device.gpa, layout::VIRTIO_PAGE as u32);
    let interrupt = Interrupt::new(true, true, false, false, device.gsi);
    bytes(&Device::new(
        name.as_str().into(),
        vec![
            &Name::new("_HID".into(), &"LNRO0005"),
            &Name::new("_UID".into(), &(number as u32)),
            &Name::new("_CCA".into(), &ONE),
            &Name::new("_CRS".into(), &ResourceTemplate::new(vec![&memory, &interrupt])),
        ],
    ))
}

/// The PCI host bridge: bus 0, its windows, the ports of its configuration space.
fn bridge() -> Vec<u8> {
    let end = (layout::PCI_WINDOWS + layout::PCI_WINDOWS_SIZE - 1) as u32;
    let windows =
        Window::<u32>::new_memory(AddressSpaceCacheable::NotCacheable, true, layout::PCI_WINDOWS as u32, end, None);
    let numbers = Window::<u16>::new_bus_number(0, 0);
    let ports = IO::new(0xcf8, 0xcf8, 1, 8);
    bytes(&Device::new(
        "PCI0".into(),
        vec![
            &Name::new("_HID".into(), &EISAName::new("PNP0A08")),
            &Name::new("_CID".into(), &EISAName::new("PNP0A03")),
            &Name::new("_SEG".into(), &ZERO),
            &Name::new("_UID".into(), &ZERO),
            &Name::new("_CCA".into(), &ONE),
            &Name::new("_CRS".into(), &ResourceTemplate::new(vec![&numbers, &ports, &windows])),
        ],
    ))
}

fn dsdt(devices: &[MmioDevice], pci: Option<Vec<u8>>) -> Vec<u8> {
    let mut inside = [serial(), clock(), button(), pci.unwrap_or_default()].concat();
    for (number, device) in devices.iter().enumerate() {
        inside.extend(virtio(number, device));
    }
    let sleep = bytes(&Name::new("_S5_".into(), &Package::new(vec![&5u8])));
    // The scope's children are bytes already.
    let scope = acpi_tables::aml::Scope::raw("_SB_".into(), inside);
    let mut table = Sdt::new(*b"DSDT", 36, 2, OEM, TABLE, REVISION);
    table.append_slice(&scope);
    table.append_slice(&sleep);
    table.as_slice().to_vec()
}

/// Whether a machine has a PCI bus.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PciBus {
    Present,
    Absent,
}

/// Writes the tables for a machine and gives the root pointer's address.
pub(crate) fn write_to(memory: &Memory, cpus: u32, devices: &[MmioDevice], pci: PciBus) -> Result<u64, AcpiError> {
    let mut tables: Vec<u8> = vec![0; RSDP_SIZE.next_multiple_of(64) as usize];
    let mut add = |table: Vec<u8>| {
        let at = layout::ACPI + tables.len() as u64;
        tables.extend(table);
        tables.resize(tables.len().next_multiple_of(64), 0);
        at
    };
    let dsdt = add(dsdt(devices, (pci == PciBus::Present).then(bridge)));
    let mut entries = vec![add(fadt(dsdt)), add(madt(cpus))];
    if pci == PciBus::Present {
        let mut mcfg = MCFG::new(OEM, TABLE, REVISION);
        mcfg.add_ecam(layout::PCI_ECAM, 0, 0, 0);
        entries.push(add(bytes(&mcfg)));
    }
    let mut xsdt = XSDT::new(OEM, TABLE, REVISION);
    entries.into_iter().for_each(|entry| xsdt.add_entry(entry));
    let xsdt = add(bytes(&xsdt));
    let root = bytes(&Rsdp::new(OEM, xsdt));
    tables[..root.len()].copy_from_slice(&root);
    let error = AcpiError { bytes: tables.len() as u64 };
    if tables.len() as u64 > layout::ACPI_SIZE || memory.ram().write_slice(&tables, GuestAddress(layout::ACPI)).is_err()
    {
        return Err(error);
    }
    Ok(layout::ACPI)
}
