//! bzImage kernels, which unpack themselves.

use hv::Memory;

use super::image::Image;
use super::{BootError, Loaded, low_end};
use crate::layout;

/// Where the setup header begins in the file and in the zero page.
pub(super) const SETUP: u64 = 0x1f1;
/// The most bytes that it can have.
const MOST_SETUP: u64 = 0x290 - SETUP;
/// The magic number at 0x202.
const HDRS: [u8; 4] = *b"HdrS";
/// First version of the protocol with the fields that are used here.
const VERSION: u16 = 0x20c;
/// The kernel is loaded at 1 MiB.
const LOADED_HIGH: u8 = 1;
/// There is an entry for 64-bit mode.
const KERNEL_64: u16 = 1;
/// From the start of the kernel proper.
const ENTRY_64: u64 = 0x200;

/// Puts the kernel proper at 1 MiB; it moves to where it wants to be.
pub(super) fn load(image: &Image, memory: &Memory) -> Result<Loaded, BootError> {
    let not = || BootError::Format(image.path.clone());
    let header: [u8; 0x290] = image.array(0).map_err(|_| not())?;
    let word = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]);
    let long = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    if header[0x202..0x206] != HDRS || word(0x1fe) != 0xaa55 {
        return Err(not());
    }
    if word(0x206) < VERSION || header[0x211] & LOADED_HIGH == 0 || word(0x236) & KERNEL_64 == 0 {
        return Err(BootError::Only32(image.path.clone()));
    }
    let sectors = if header[0x1f1] == 0 { 4 } else { u64::from(header[0x1f1]) };
    let offset = (sectors + 1) * 512;
    let size = image.size.checked_sub(offset).ok_or_else(|| image.damaged("it ends early"))?;
    // The length of the kernel proper in units of 16 bytes.
    if u64::from(long(0x1f4)) * 16 > size {
        return Err(image.damaged("it ends early"));
    }
    let preferred = u64::from(long(0x258)) | u64::from(long(0x25c)) << 32;
    let end = preferred.max(layout::KERNEL).saturating_add(u64::from(long(0x260)).max(size));
    if end > low_end(memory) {
        return Err(BootError::Fit { what: "kernel", end, memory: memory.ram_size() >> 20 });
    }
    image.copy(offset, memory, layout::KERNEL, size)?;
    // The header's end is told by the jump at 0x200.
    let length = (0x202 + u64::from(header[0x201]) - SETUP).min(MOST_SETUP);
    let setup = header[SETUP as usize..(SETUP + length) as usize].to_vec();
    let entry = layout::KERNEL + ENTRY_64;
    Ok(Loaded { entry, end, setup, initrd_max: long(0x22c).into(), ..Loaded::default() })
}
