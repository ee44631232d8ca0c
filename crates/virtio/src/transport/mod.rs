//! What carries a device to its driver: a page of registers, or a function on the PCI bus.

pub mod mmio;
pub mod pci;

/// The 32-bit page of a 64-bit register; there are two.
fn word(value: u64, page: u32) -> u32 {
    let bytes = value.to_le_bytes();
    let (low, high) = bytes.split_at(4);
    let page = match page {
        0 => low,
        1 => high,
        _ => &[0; 4],
    };
    page.try_into().map_or(0, u32::from_le_bytes)
}

fn set_low(register: &mut u64, value: u32) {
    *register = *register & !u64::from(u32::MAX) | u64::from(value);
}

fn set_high(register: &mut u64, value: u32) {
    *register = *register & u64::from(u32::MAX) | u64::from(value) << 32;
}
