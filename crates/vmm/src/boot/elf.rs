//! ELF kernels: `vmlinux`, and others with a PVH note.

use hv::Memory;

use super::image::Image;
use super::{BootError, Loaded, low_end};
use crate::layout;

const CLASS_64: u8 = 2;
const LITTLE_ENDIAN: u8 = 1;
const MACHINE_X86_64: u16 = 62;
const LOAD: u32 = 1;
const NOTE: u32 = 4;
const HEADER_SIZE: u16 = 56;
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

/// Puts the kernel's segments at their physical addresses.
pub(super) fn load(image: &Image, memory: &Memory) -> Result<Loaded, BootError> {
    let header: [u8; 64] = image.array(0)?;
    let (class, machine) = (header[4], u16_at(&header, 18));
    if class != CLASS_64 || header[5] != LITTLE_ENDIAN || machine != MACHINE_X86_64 {
        return Err(BootError::Architecture { path: image.path.clone(), machine, class });
    }
    if u16_at(&header, 54) != HEADER_SIZE {
        return Err(image.damaged("its program headers have an unknown size"));
    }
    let (table, count) = (u64_at(&header, 32), u16_at(&header, 56));
    let mut loaded = Loaded { entry: 0, pvh: None, end: 0, setup: Vec::new(), initrd_max: u64::MAX };
    let virtual_entry = u64_at(&header, 24);
    loaded.entry = virtual_entry;
    for index in 0..u64::from(count) {
        let at =
            table.checked_add(index * u64::from(HEADER_SIZE)).ok_or_else(|| image.damaged("an offset is too large"))?;
        let program: [u8; HEADER_SIZE as usize] = image.array(at)?;
        let (kind, offset, gpa) = (u32_at(&program, 0), u64_at(&program, 8), u64_at(&program, 24));
        let (stored, size) = (u64_at(&program, 32), u64_at(&program, 40));
        if kind == NOTE {
            loaded.pvh = loaded.pvh.or(find_pvh(image, offset, stored)?);
        }
        if kind != LOAD || size == 0 {
            continue;
        }
        let end = gpa.checked_add(size).ok_or_else(|| image.damaged("an address is too large"))?;
        if gpa < layout::KERNEL || stored > size {
            return Err(image.damaged("a segment lies below 1 MiB, or is larger in the file than in memory"));
        }
        if end > low_end(memory) {
            return Err(BootError::Fit { what: "kernel", end, memory: memory.ram_size() >> 20 });
        }
        image.copy(offset, memory, gpa, stored)?;
        loaded.end = loaded.end.max(end);
        // An entry given as a virtual address is meant where its segment is loaded.
        let linear = u64_at(&program, 16);
        if (linear..linear.saturating_add(size)).contains(&virtual_entry) && linear != gpa {
            loaded.entry = virtual_entry - linear + gpa;
        }
    }
    if !(layout::KERNEL..loaded.end).contains(&loaded.entry) {
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
