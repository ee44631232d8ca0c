//! PVH's start info.

use hv::Memory;

use super::{BootError, Initrd, memory_map, write};
use crate::layout;

const MAGIC: u32 = 0x336e_c578;
/// The version with a memory map.
const VERSION: u32 = 1;

pub(super) fn write_to(memory: &Memory, initrd: Initrd, rsdp: u64) -> Result<(), BootError> {
    let mut map = Vec::new();
    let parts: Vec<_> = memory_map(memory).into_iter().filter(|(_, size, _)| *size != 0).collect();
    for (gpa, size, kind) in &parts {
        map.extend(gpa.to_le_bytes());
        map.extend(size.to_le_bytes());
        map.extend(kind.to_le_bytes());
        map.extend(0u32.to_le_bytes());
    }
    let modules = u32::from(initrd.size != 0);
    // Address, size, command line, reserved.
    let module: Vec<u8> = [initrd.gpa, initrd.size, 0, 0].iter().flat_map(|word| word.to_le_bytes()).collect();
    let mut info = Vec::new();
    for word in [MAGIC, VERSION, 0, modules] {
        info.extend(word.to_le_bytes());
    }
    for word in [if modules == 0 { 0 } else { layout::PVH_MODULES }, layout::CMDLINE, rsdp, layout::PVH_MAP] {
        info.extend(word.to_le_bytes());
    }
    info.extend((parts.len() as u32).to_le_bytes());
    info.extend(0u32.to_le_bytes());
    write(memory, layout::PVH_INFO, &info)?;
    write(memory, layout::PVH_MODULES, &module)?;
    write(memory, layout::PVH_MAP, &map)
}
