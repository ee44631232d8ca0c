//! What a vCPU calls for everything that is neither RAM nor the interrupt controllers.

/// Devices behind memory-mapped and port I/O, shared by every vCPU of a machine.
///
/// A call is made on the vCPU's own thread, in the guest's program order, and the vCPU waits for it. What nothing
/// answers reads as all ones and swallows writes, as on a PC. The length of the slice is the width of the access: 1, 2, 4
/// or 8 bytes for memory, 1, 2 or 4 for ports; string instructions make one call an element. Values are little-endian.
pub trait Bus: Sync {
    /// Reads device memory at guest-physical address `gpa`.
    fn mmio_read(&self, gpa: u64, bytes: &mut [u8]);

    /// Writes device memory at guest-physical address `gpa`.
    fn mmio_write(&self, gpa: u64, bytes: &[u8]);

    /// Reads an I/O port.
    fn pio_in(&self, port: u16, bytes: &mut [u8]);

    /// Writes an I/O port.
    fn pio_out(&self, port: u16, bytes: &[u8]);
}

/// A bus with nothing on it.
#[derive(Debug, Clone, Copy, Default)]
pub struct EmptyBus;

impl Bus for EmptyBus {
    fn mmio_read(&self, _gpa: u64, bytes: &mut [u8]) {
        bytes.fill(0xff);
    }

    fn mmio_write(&self, _gpa: u64, _bytes: &[u8]) {}

    fn pio_in(&self, _port: u16, bytes: &mut [u8]) {
        bytes.fill(0xff);
    }

    fn pio_out(&self, _port: u16, _bytes: &[u8]) {}
}
