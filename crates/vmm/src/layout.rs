//! Where things are in a machine's address space.
//!
//! ```text
//!        0x500  GDT                       0xc000_0000  virtio over MMIO, a page each     [hole below 4 GiB]
//!       0x6000  PVH start info            0xe000_0000  PCI configuration space (ECAM)
//!       0x7000  zero page                 0xe100_0000  PCI memory, 32 bits
//!       0x9000  page tables for boot      0xfec0_0000  IOAPIC
//!    0x2_0000   command line              0xfee0_0000  local APICs
//!    0x9_0000   multiboot information
//!    0x9_fc00   end of low memory         0x1_0000_0000  RAM goes on, then pmem
//!    0xe_0000   ACPI tables
//!    0xf_fff0   reset vector
//!   0x10_0000   the kernel, the initrd at the end of low RAM
//! ```

/// The boot processor's descriptor table.
pub(crate) const GDT: u64 = 0x500;
/// First byte behind it.
pub(crate) const GDT_END: u64 = 0x600;
/// PVH's start info.
pub(crate) const PVH_INFO: u64 = 0x6000;
/// PVH's memory map.
pub(crate) const PVH_MAP: u64 = 0x6100;
/// PVH's list of modules.
pub(crate) const PVH_MODULES: u64 = 0x6080;
/// Linux's boot parameters.
pub(crate) const ZERO_PAGE: u64 = 0x7000;
/// Top of the stack at the kernel's entry.
pub(crate) const BOOT_STACK: u64 = 0x8ff0;
/// Page tables that map the first 4 GiB to themselves: PML4, PDPT, four page directories.
pub(crate) const PAGE_TABLES: u64 = 0x9000;
/// The command line.
pub(crate) const CMDLINE: u64 = 0x2_0000;
/// Bytes of it, with its end.
pub(crate) const CMDLINE_SIZE: usize = 0x1_0000;
/// What a multiboot kernel is told: a page.
pub(crate) const MULTIBOOT_INFO: u64 = 0x9_0000;
/// First byte that belongs to the BIOS.
pub(crate) const LOW_END: u64 = 0x9_fc00;
/// ACPI's tables.
pub(crate) const ACPI: u64 = 0xe_0000;
/// Bytes for them.
pub(crate) const ACPI_SIZE: u64 = RESET_VECTOR - ACPI;
/// Where guests jump to in real mode that want to start again by the firmware.
pub(crate) const RESET_VECTOR: u64 = 0xf_fff0;
/// Where kernels begin.
pub(crate) const KERNEL: u64 = 0x10_0000;
/// The first virtio device's page.
pub(crate) const VIRTIO: u64 = 0xc000_0000;
/// Bytes of a device's page.
pub(crate) const VIRTIO_PAGE: u64 = 0x1000;
/// The first virtio device's interrupt line.
pub(crate) const VIRTIO_GSI: u32 = 5;
/// The last interrupt line.
pub(crate) const LAST_GSI: u32 = 23;
/// The line of the power button's device.
pub(crate) const EVENT_GSI: u32 = 3;
/// The serial port's line.
pub(crate) const SERIAL_GSI: u32 = 4;
/// The serial port's registers.
pub(crate) const SERIAL_PORT: u16 = 0x3f8;
/// Where guests that are tests find ports that keep what is written, twice the same four.
pub(crate) const SLATE_PORTS: [u16; 2] = [0xe0, 0xe8];
/// Memory of a device that does the same.
pub(crate) const SLATE: u64 = 0xff00_0000;
/// Bytes of it.
pub(crate) const SLATE_SIZE: u64 = 0x1_0000;
/// A port for each interrupt line, from the first.
pub(crate) const LINE_PORTS: u16 = 0x2000;
/// Power management registers of the ACPI tables: sleep control, sleep status, reset.
pub(crate) const POWER_PORT: u16 = 0x600;
/// The port by which a guest that is a test ends the machine.
pub(crate) const EXIT_PORT: u16 = 0xf4;
/// The ports that answer it what the machine is.
pub(crate) const ANSWER_PORT: u16 = 0x510;
/// The PCI bus's configuration space.
pub(crate) const PCI_ECAM: u64 = 0xe000_0000;
/// Its devices' windows.
pub(crate) const PCI_WINDOWS: u64 = 0xe100_0000;
/// Bytes for them.
pub(crate) const PCI_WINDOWS_SIZE: u64 = 0x100_0000;
/// The line that its devices share for drivers without MSI-X.
pub(crate) const PCI_GSI: u32 = 16;
