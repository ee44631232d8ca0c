//! Puts a kernel, its initrd and its command line into memory, and says how the first processor begins.
//!
//! Kernels are ELF or bzImage, as they are or compressed with zstd; they are entered by the 64-bit Linux boot protocol, by
//! their PVH note, or by the multiboot protocol if they are 32-bit ones. Everything read from the files is checked against
//! the memory there is.
//!
//! Source: Linux `Documentation/arch/x86/boot.rst`, Xen's `start_info.h` (PVH).

mod bzimage;
mod elf;
mod image;
mod multiboot;
mod pvh;
mod start;
#[cfg(test)]
mod tests;
mod zero_page;

use std::path::{Path, PathBuf};

use control::machine::BootProtocol;
use hv::memory::DEVICE_HOLE;
use hv::{Memory, VcpuState};
use vm_memory::{Bytes, GuestAddress};

use crate::layout;
use image::Image;
pub(crate) use start::prepare_processor;

/// Why a guest can't be booted.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// A file can't be read.
    #[error("reading the {what} {}", path.display())]
    Read {
        /// Kernel or initrd.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The kernel is neither format.
    #[error("{} is no kernel: neither ELF nor bzImage nor multiboot", .0.display())]
    Format(PathBuf),
    /// The kernel is for another processor.
    #[error("{} is a kernel for another processor (ELF machine {machine}, class {class}): x86-64 is needed", path.display())]
    Architecture {
        /// The file.
        path: PathBuf,
        /// ELF's number of the processor.
        machine: u16,
        /// ELF's class: 1 is 32-bit.
        class: u8,
    },
    /// The file ends early or contradicts itself.
    #[error("{} is damaged: {what}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// In which way.
        what: &'static str,
    },
    /// The kernel has no 64-bit entry, and no other that is known.
    #[error(
        "{} has no 64-bit entry point: a kernel of Linux 3.8 or newer for x86-64 is needed, or one with a multiboot header",
        .0.display()
    )]
    Only32(PathBuf),
    /// The kernel has no PVH note.
    #[error("{} has no PVH entry point; boot it by the Linux protocol", .0.display())]
    NoPvh(PathBuf),
    /// It does not fit.
    #[error(
        "the {what} does not fit: it needs memory up to {end:#x}, and there are {memory} MiB; give the machine more with --memory"
    )]
    Fit {
        /// Kernel or initrd.
        what: &'static str,
        /// First byte behind it.
        end: u64,
        /// RAM of the machine, MiB.
        memory: u64,
    },
    /// The command line is too long or has a zero byte.
    #[error("the command line has {0} bytes, or one that is zero: at most {max} are possible", max = layout::CMDLINE_SIZE - 1)]
    Cmdline(usize),
    /// Something of the boot does not fit into low memory.
    #[error("writing boot data at {0:#x}: the machine has too little memory")]
    Write(u64),
}

/// What to boot.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Payload<'a> {
    pub(crate) kernel: &'a Path,
    pub(crate) initrd: Option<&'a Path>,
    pub(crate) cmdline: &'a str,
    pub(crate) protocol: BootProtocol,
    /// Address of ACPI's root pointer.
    pub(crate) rsdp: u64,
}

/// How the first processor begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Entry {
    /// In 64-bit mode, with the zero page in RSI.
    Linux(u64),
    /// In 32-bit mode, with the start info in RBX.
    Pvh(u64),
    /// In 32-bit mode, with the multiboot information in RBX.
    Multiboot(u64),
}

/// What a kernel can be entered by beside a PVH note.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Native {
    /// The 64-bit Linux boot protocol.
    #[default]
    Linux,
    /// The multiboot protocol.
    Multiboot,
    /// Nothing: it is a 32-bit kernel.
    None,
}

/// A kernel in memory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Loaded {
    pub(crate) entry: u64,
    pub(crate) pvh: Option<u64>,
    /// First byte behind everything that it uses before it knows its memory.
    pub(crate) end: u64,
    /// The setup header of a bzImage, from 0x1f1 on.
    pub(crate) setup: Vec<u8>,
    /// The highest address that the initrd may have.
    pub(crate) initrd_max: u64,
    /// What it can be entered by beside its PVH note.
    pub(crate) native: Native,
}

/// An initrd in memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Initrd {
    pub(crate) gpa: u64,
    pub(crate) size: u64,
}

pub(crate) fn write(memory: &Memory, gpa: u64, bytes: &[u8]) -> Result<(), BootError> {
    memory.ram().write_slice(bytes, GuestAddress(gpa)).map_err(|_| BootError::Write(gpa))
}

fn low_end(memory: &Memory) -> u64 {
    memory.ram_size().min(DEVICE_HOLE)
}

/// What there is of firmware: the keyboard controller pulses the reset line. Linux comes this way when it knows of EFI, which
/// machines with reduced ACPI are said to have.
///
/// mov al, 0xfe; out 0x64, al; hlt; jmp back to hlt
const RESET: [u8; 7] = [0xb0, 0xfe, 0xe6, 0x64, 0xf4, 0xeb, 0xfd];

/// Puts everything into memory.
pub(crate) fn load(memory: &Memory, payload: &Payload<'_>) -> Result<Entry, BootError> {
    write(memory, layout::RESET_VECTOR, &RESET)?;
    let cmdline = payload.cmdline.as_bytes();
    if cmdline.len() >= layout::CMDLINE_SIZE || cmdline.contains(&0) {
        return Err(BootError::Cmdline(cmdline.len()));
    }
    let image = Image::open(payload.kernel)?;
    let kernel = load_kernel(&image, memory)?;
    let initrd = payload.initrd.map(|path| load_initrd(path, memory, &kernel)).transpose()?.unwrap_or_default();
    if payload.protocol == BootProtocol::Linux && kernel.native == Native::Multiboot {
        // The first word is the kernel's name there.
        let name = payload.kernel.file_name().unwrap_or_default().as_encoded_bytes();
        let words = [name, if cmdline.is_empty() { b"" } else { b" " }, cmdline, &[0]].concat();
        if words.len() > layout::CMDLINE_SIZE {
            return Err(BootError::Cmdline(words.len()));
        }
        write(memory, layout::CMDLINE, &words)?;
        multiboot::write_to(memory, initrd)?;
        return Ok(Entry::Multiboot(kernel.entry));
    }
    write(memory, layout::CMDLINE, &[cmdline, &[0]].concat())?;
    match (payload.protocol, kernel.pvh) {
        (BootProtocol::Linux, Some(entry)) if kernel.native == Native::None => {
            pvh::write_to(memory, initrd, payload.rsdp)?;
            Ok(Entry::Pvh(entry))
        }
        (BootProtocol::Linux, _) => {
            zero_page::write_to(memory, &kernel, initrd, cmdline.len(), payload.rsdp)?;
            Ok(Entry::Linux(kernel.entry))
        }
        (BootProtocol::Pvh, Some(entry)) => {
            pvh::write_to(memory, initrd, payload.rsdp)?;
            Ok(Entry::Pvh(entry))
        }
        (BootProtocol::Pvh, None) => Err(BootError::NoPvh(payload.kernel.to_owned())),
    }
}

fn load_kernel(image: &Image, memory: &Memory) -> Result<Loaded, BootError> {
    if image.is_elf() {
        return elf::load(image, memory);
    }
    match bzimage::load(image, memory) {
        Err(BootError::Format(path)) => multiboot::load(image, memory)?.ok_or(BootError::Format(path)),
        loaded => loaded,
    }
}

/// For the fuzz target: loads a kernel from bytes; what it says of itself lies in its memory.
pub(crate) fn load_stranger(bytes: &[u8]) {
    let Ok(memory) = Memory::new(16 << 20) else { return };
    let Some(image) = Image::of(bytes) else { return };
    if let Ok(kernel) = load_kernel(&image, &memory) {
        assert!(kernel.end <= memory.ram_size() && kernel.entry < kernel.end);
    }
}

/// Puts the initrd at the end of low memory, where no kernel decompresses itself to.
fn load_initrd(path: &Path, memory: &Memory, kernel: &Loaded) -> Result<Initrd, BootError> {
    let fail = |source| BootError::Read { what: "initrd", path: path.to_owned(), source };
    let mut file = sys::handed::open(path, rustix::fs::OFlags::RDONLY).map_err(fail)?;
    let size = file.metadata().map_err(fail)?.len();
    let top = low_end(memory).min(kernel.initrd_max.saturating_add(1));
    let gpa = top.checked_sub(size).map(|gpa| gpa & !0xfff).filter(|gpa| *gpa >= kernel.end);
    let Some(gpa) = gpa else {
        return Err(BootError::Fit { what: "initrd", end: kernel.end + size, memory: memory.ram_size() >> 20 });
    };
    let count = usize::try_from(size).unwrap_or(usize::MAX);
    memory
        .ram()
        .read_exact_volatile_from(GuestAddress(gpa), &mut file, count)
        .map_err(|source| fail(std::io::Error::other(source.to_string())))?;
    Ok(Initrd { gpa, size })
}

/// Parts of the address space as the guest is told them: address, bytes, type as in e820.
pub(crate) fn memory_map(memory: &Memory) -> Vec<(u64, u64, u32)> {
    const RAM: u32 = 1;
    const RESERVED: u32 = 2;
    let mut map = vec![
        (0, layout::LOW_END, RAM),
        (layout::LOW_END, layout::KERNEL - layout::LOW_END, RESERVED),
        (layout::KERNEL, low_end(memory).saturating_sub(layout::KERNEL), RAM),
        // Linux takes the configuration space only from a reserved range.
        (layout::PCI_ECAM, virtio::transport::pci::bus::ECAM_BYTES, RESERVED),
    ];
    let high = memory.regions().iter().map(|region| region.range);
    let high = high.filter(|range| range.gpa >= DEVICE_HOLE && range.kind == hv::memory::RegionKind::Ram);
    map.extend(high.map(|range| (range.gpa, range.size, RAM)));
    map
}

/// The first processor's state at the kernel's entry, from its state after power-on.
pub(crate) fn begin(memory: &Memory, entry: Entry, state: &mut VcpuState) -> Result<(), BootError> {
    match entry {
        Entry::Linux(rip) => start::linux(memory, rip, state),
        Entry::Pvh(rip) => start::flat(memory, rip, layout::PVH_INFO, state),
        Entry::Multiboot(rip) => {
            start::flat(memory, rip, layout::MULTIBOOT_INFO, state)?;
            state.regs.rax = multiboot::LOADER;
            Ok(())
        }
    }
}
