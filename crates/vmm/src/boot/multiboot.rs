//! The multiboot protocol, version 1, as other loaders have it behind `-kernel`: small kernels in 32-bit mode, test suites
//! among them.
//!
//! # Source
//! Multiboot Specification 0.6.96.

use hv::Memory;

use super::image::Image;
use super::{BootError, Initrd, Loaded, Native, low_end, memory_map, write};
use crate::layout;

/// What the kernel's header begins with, and where in the file it ends at the latest.
const HEADER: u32 = 0x1bad_b002;
const HEADER_END: u64 = 8192;
/// What the kernel finds in EAX.
pub(super) const LOADER: u64 = 0x2bad_b002;
/// The header itself says where things go.
const ADDRESSES: u32 = 1 << 16;
/// Wishes that can't be passed over: modules at page bounds, a memory map, a display.
const ALIGNED: u32 = 1;
const WITH_MEMORY: u32 = 1 << 1;
const MUST: u32 = 0xffff;
/// Parts of the information: sizes of memory, command line, modules, memory map, the loader's name.
const TELLS: u32 = 1 | 1 << 2 | 1 << 3 | 1 << 6 | 1 << 9;
/// Bytes of the information.
const SIZE: usize = 88;
/// Where in its page the loader's name and the list of modules are.
const NAME: u64 = 0x80;
const MODULES: u64 = 0x90;
const NAME_TEXT: &[u8] = b"insula-vmm\0";

/// The header: its place in the file, and its words behind the checksum.
pub(super) struct Header {
    at: u64,
    flags: u32,
    /// Addresses of the header, the content's begin and end, the end of memory that is cleared, the entry.
    addresses: [u32; 5],
}

/// Looks for the header.
pub(super) fn find(image: &Image) -> Result<Option<Header>, BootError> {
    let mut bytes = vec![0; image.size.min(HEADER_END) as usize];
    image.read(0, &mut bytes)?;
    let word = |at: usize| bytes.get(at..at + 4).map(|word| u32::from_le_bytes([word[0], word[1], word[2], word[3]]));
    for at in (0..bytes.len().saturating_sub(11)).step_by(4) {
        let (Some(HEADER), Some(flags), Some(check)) = (word(at), word(at + 4), word(at + 8)) else { continue };
        if HEADER.wrapping_add(flags).wrapping_add(check) == 0 {
            let mut addresses = [0; 5];
            for (n, address) in addresses.iter_mut().enumerate() {
                *address = word(at + 12 + n * 4).unwrap_or(0);
            }
            if flags & MUST & !(ALIGNED | WITH_MEMORY) != 0 {
                return Err(image.damaged("its multiboot header asks for what this loader has not, a display"));
            }
            return Ok(Some(Header { at: at as u64, flags, addresses }));
        }
    }
    Ok(None)
}

/// Loads a kernel that is no ELF file, by the addresses in its header; `None` if it has no such header.
pub(super) fn load(image: &Image, memory: &Memory) -> Result<Option<Loaded>, BootError> {
    let Some(Header { at, addresses, .. }) = find(image)?.filter(|header| header.flags & ADDRESSES != 0) else {
        return Ok(None);
    };
    let [header, begin, content_end, clear_end, entry] = addresses.map(u64::from);
    // The content begins as far before the header in the file as in memory.
    let offset = header.checked_sub(begin).and_then(|before| at.checked_sub(before));
    let offset = offset.ok_or_else(|| image.damaged("its multiboot header contradicts itself"))?;
    let rest = image.size - offset;
    let size = if content_end == 0 { rest } else { content_end.saturating_sub(begin) };
    let end = (begin + size).max(clear_end);
    if begin < layout::KERNEL || size == 0 || size > rest || !(begin..end).contains(&entry) {
        return Err(image.damaged("its multiboot header has addresses that can't be"));
    }
    if end > low_end(memory) {
        return Err(BootError::Fit { what: "kernel", end, memory: memory.ram_size() >> 20 });
    }
    image.copy(offset, memory, begin, size)?;
    Ok(Some(Loaded { entry, end, initrd_max: u32::MAX.into(), native: Native::Multiboot, ..Loaded::default() }))
}

/// Writes what the kernel is told.
pub(super) fn write_to(memory: &Memory, initrd: Initrd) -> Result<(), BootError> {
    let here = layout::MULTIBOOT_INFO;
    let map_at = here + 0x100;
    let mut map = Vec::new();
    for (gpa, size, kind) in memory_map(memory).into_iter().filter(|(_, size, _)| *size != 0) {
        // The size of the entry without this word.
        map.extend(20u32.to_le_bytes());
        map.extend(gpa.to_le_bytes());
        map.extend(size.to_le_bytes());
        map.extend(kind.to_le_bytes());
    }
    let mut info = vec![0; SIZE];
    let mut put = |at: usize, word: u64| info[at..at + 4].copy_from_slice(&(word as u32).to_le_bytes());
    put(0, TELLS.into());
    // KiB below and above 1 MiB.
    put(4, layout::LOW_END >> 10);
    put(8, low_end(memory).saturating_sub(layout::KERNEL) >> 10);
    put(16, layout::CMDLINE);
    put(20, u64::from(initrd.size != 0));
    put(24, here + MODULES);
    put(44, map.len() as u64);
    put(48, map_at);
    put(64, here + NAME);
    // Begin, end, a string, reserved.
    let module = [initrd.gpa, initrd.gpa + initrd.size, layout::CMDLINE, 0];
    let module: Vec<u8> = module.iter().flat_map(|word| (*word as u32).to_le_bytes()).collect();
    write(memory, here, &info)?;
    write(memory, here + NAME, NAME_TEXT)?;
    write(memory, here + MODULES, &module)?;
    write(memory, map_at, &map)
}
