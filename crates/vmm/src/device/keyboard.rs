//! The keyboard controller at ports 0x60 and 0x64, of which only the reset line is there.

use super::{PowerOrder, Registers};

/// Pulses the reset line.
const RESET: u8 = 0xfe;
/// Offset of the command and status register.
const STATUS: u64 = 4;

/// The controller.
pub(crate) struct Keyboard {
    order: Box<dyn Fn(PowerOrder) + Send + Sync>,
}

impl Keyboard {
    pub(crate) fn new(order: Box<dyn Fn(PowerOrder) + Send + Sync>) -> Self {
        Self { order }
    }
}

impl Registers for Keyboard {
    fn read(&self, offset: u64, into: &mut [u8]) {
        // Buffers empty, no key: whoever waits to write may.
        if matches!(offset, 0 | STATUS) {
            into.fill(0);
        }
    }

    fn write(&self, offset: u64, bytes: &[u8]) {
        if offset == STATUS && bytes.first() == Some(&RESET) {
            (self.order)(PowerOrder::Reset);
        }
    }
}
