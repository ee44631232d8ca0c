//! What carries a device to its driver: a page of registers, or a function on the PCI bus.

pub mod mmio;
