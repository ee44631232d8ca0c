//! ELF kernels: `vmlinux`, others with a PVH note, and 32-bit ones for the multiboot protocol.

use hv::Memory;

use super::image::Image;
use super::multiboot;
use super::{BootError, Loaded, Native, low_end};
use crate::layout;

const LITTLE_ENDIAN: u8 = 1;
const LOAD: u32 = 1;
const NOTE: u32 = 4;
/// Type of the note with the PVH entry.
const XEN_PHYS32_ENTRY: u32 = 18;
/// No kernel has more notes.
const MOST_NOTES: u64 = 1 << 16;

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

/// How wide the file's addresses are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    Bits32,
    Bits64,
}

impl Class {
    /// The class of a file for this processor, by ELF's numbers of class and machine.
    fn of(class: u8, machine: u16) -> Option<Self> {
        match (class, machine) {
            (1, 3) => Some(Self::Bits32),
            (2, 62) => Some(Self::Bits64),
            _ => None,
        }
    }

    /// Bytes of a program header.
    fn program_header(self) -> u16 {
        match self {
            Self::Bits32 => 32,
            Self::Bits64 => 56,
        }
    }
}

/// What the file's header says.
struct Header {
    class: Class,
    entry: u64,
    table: u64,
    count: u16,
}

fn header(image: &Image) -> Result<Header, BootError> {
    let bytes: [u8; 64] = image.array(0)?;
    let (class, machine) = (bytes[4], u16_at(&bytes, 18));
    let known = Class::of(class, machine).filter(|_| bytes[5] == LITTLE_ENDIAN);
    let class = known.ok_or_else(|| BootError::Architecture { path: image.path.clone(), machine, class })?;
    let (entry, table, sizes) = match class {
        Class::Bits32 => (u32_at(&bytes, 24).into(), u32_at(&bytes, 28).into(), 42),
        Class::Bits64 => (u64_at(&bytes, 24), u64_at(&bytes, 32), 54),
    };
    if u16_at(&bytes, sizes) != class.program_header() {
        return Err(image.damaged("its program headers have an unknown size"));
    }
    Ok(Header { class, entry, table, count: u16_at(&bytes, sizes + 2) })
}

/// A part of the file.
struct Program {
    kind: u32,
    offset: u64,
    /// Where it is linked to, and where it is loaded.
    linear: u64,
    gpa: u64,
    /// Bytes in the file and in memory.
    stored: u64,
    size: u64,
}

fn program(image: &Image, header: &Header, index: u16) -> Result<Program, BootError> {
    let step = u64::from(index) * u64::from(header.class.program_header());
    let at = header.table.checked_add(step).ok_or_else(|| image.damaged("an offset is too large"))?;
    Ok(match header.class {
        Class::Bits32 => {
            let bytes: [u8; 32] = image.array(at)?;
            let word = |at| u64::from(u32_at(&bytes, at));
            Program {
                kind: u32_at(&bytes, 0),
                offset: word(4),
                linear: word(8),
                gpa: word(12),
                stored: word(16),
                size: word(20),
            }
        }
        Class::Bits64 => {
            let bytes: [u8; 56] = image.array(at)?;
            let word = |at| u64_at(&bytes, at);
            Program {
                kind: u32_at(&bytes, 0),
                offset: word(8),
                linear: word(16),
                gpa: word(24),
                stored: word(32),
                size: word(40),
            }
        }
    })
}

/// Puts the kernel's segments at their physical addresses.
pub(super) fn load(image: &Image, memory: &Memory) -> Result<Loaded, BootError> {
    let header = header(image)?;
    let mut loaded = Loaded { entry: header.entry, initrd_max: u64::MAX, ..Loaded::default() };
    loaded.native = match header.class {
        Class::Bits64 => Native::Linux,
        Class::Bits32 if multiboot::find(image)?.is_some() => Native::Multiboot,
        Class::Bits32 => Native::None,
    };
    // Boot data lies below 1 MiB, but the multiboot protocol's is out of the way of small kernels there.
    let first = if loaded.native == Native::Multiboot { layout::GDT_END } else { layout::KERNEL };
    let mut found = false;
    for index in 0..header.count {
        let Program { kind, offset, linear, gpa, stored, size } = program(image, &header, index)?;
        if kind == NOTE {
            loaded.pvh = loaded.pvh.or(find_pvh(image, offset, stored)?);
        }
        if kind != LOAD || size == 0 {
            continue;
        }
        let end = gpa.checked_add(size).ok_or_else(|| image.damaged("an address is too large"))?;
        let low = gpa < layout::KERNEL && (gpa < first || end > layout::CMDLINE);
        if low || stored > size {
            return Err(image.damaged("a segment lies below 1 MiB, or is larger in the file than in memory"));
        }
        if end > low_end(memory) {
            return Err(BootError::Fit { what: "kernel", end, memory: memory.ram_size() >> 20 });
        }
        image.copy(offset, memory, gpa, stored)?;
        loaded.end = loaded.end.max(end);
        // An entry given as a virtual address is meant where its segment is loaded.
        if (linear..linear.saturating_add(size)).contains(&header.entry) {
            (loaded.entry, found) = (header.entry - linear + gpa, true);
        }
        found |= (gpa..end).contains(&loaded.entry);
    }
    if loaded.native == Native::None && loaded.pvh.is_none() {
        return Err(BootError::Only32(image.path.clone()));
    }
    loaded.end = loaded.end.max(layout::KERNEL);
    if !found {
        return Err(image.damaged("its entry point lies in no segment"));
    }
    Ok(loaded)
}

/// Looks for Xen's note with the PVH entry among the notes of a segment.
fn find_pvh(image: &Image, offset: u64, size: u64) -> Result<Option<u64>, BootError> {
    if size > MOST_NOTES {
        return Ok(None);
    }
    let mut bytes = vec![0; size as usize];
    image.read(offset, &mut bytes)?;
    let mut rest = bytes.as_slice();
    while rest.len() >= 12 {
        let (name, content, kind) = (u32_at(rest, 0) as usize, u32_at(rest, 4) as usize, u32_at(rest, 8));
        let padded = |size: usize| size.checked_next_multiple_of(4);
        let (Some(name_end), Some(content_size)) =
            (padded(name).and_then(|size| size.checked_add(12)), padded(content))
        else {
            break;
        };
        let Some(next) = name_end.checked_add(content_size).filter(|next| *next <= rest.len()) else { break };
        if kind == XEN_PHYS32_ENTRY && &rest[12..12 + name] == b"Xen\0" && matches!(content, 4 | 8) {
            return Ok(Some(u32_at(rest, name_end).into()));
        }
        rest = &rest[next..];
    }
    Ok(None)
}
