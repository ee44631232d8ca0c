//! Linux's boot parameters.

use hv::Memory;

use super::bzimage::SETUP;
use super::{BootError, Initrd, Loaded, memory_map, write};
use crate::layout;

const SIZE: usize = 4096;
/// The table has room for this many parts of memory.
const MOST_PARTS: usize = 128;

fn put(page: &mut [u8], at: usize, bytes: &[u8]) {
    page[at..at + bytes.len()].copy_from_slice(bytes);
}

pub(super) fn write_to(
    memory: &Memory,
    kernel: &Loaded,
    initrd: Initrd,
    cmdline: usize,
    rsdp: u64,
) -> Result<(), BootError> {
    let mut page = vec![0; SIZE];
    if kernel.setup.is_empty() {
        put(&mut page, 0x1fe, &0xaa55u16.to_le_bytes());
        put(&mut page, 0x202, b"HdrS");
        put(&mut page, 0x206, &0x20fu16.to_le_bytes());
        // Loaded at 1 MiB or above, and the alignment that Linux has.
        put(&mut page, 0x211, &[1]);
        put(&mut page, 0x230, &0x100_0000u32.to_le_bytes());
    } else {
        put(&mut page, SETUP as usize, &kernel.setup);
    }
    let halves = |value: u64| ((value as u32).to_le_bytes(), ((value >> 32) as u32).to_le_bytes());
    // A loader without a number of its own.
    put(&mut page, 0x210, &[0xff]);
    let (low, high) = halves(initrd.gpa);
    put(&mut page, 0x218, &low);
    put(&mut page, 0x0c0, &high);
    let (low, high) = halves(initrd.size);
    put(&mut page, 0x21c, &low);
    put(&mut page, 0x0c4, &high);
    put(&mut page, 0x228, &(layout::CMDLINE as u32).to_le_bytes());
    put(&mut page, 0x238, &(cmdline as u32).to_le_bytes());
    put(&mut page, 0x070, &rsdp.to_le_bytes());
    let map = memory_map(memory);
    let parts = map.iter().filter(|(_, size, _)| *size != 0).take(MOST_PARTS);
    let mut count = 0;
    for (n, (gpa, size, kind)) in parts.enumerate() {
        let at = 0x2d0 + n * 20;
        put(&mut page, at, &gpa.to_le_bytes());
        put(&mut page, at + 8, &size.to_le_bytes());
        put(&mut page, at + 16, &kind.to_le_bytes());
        count = n + 1;
    }
    put(&mut page, 0x1e8, &[count as u8]);
    write(memory, layout::ZERO_PAGE, &page)
}
