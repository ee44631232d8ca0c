//! The few devices of a PC that are no virtio: serial port, keyboard controller (its reset line), clock, power; and what
//! guests that are tests have.

mod cmos;
mod keyboard;
mod power;
mod serial;
mod trial;

pub(crate) use cmos::Cmos;
pub(crate) use keyboard::Keyboard;
pub(crate) use power::{Button, Power, PowerOrder};
pub(crate) use serial::{SerialPort, SerialSaved};
pub(crate) use trial::{Answers, ExitPort, Lines, Slate};

/// Registers on a bus: ports or memory. Offsets count from the first one.
pub(crate) trait Registers: Send + Sync {
    /// Reads; what is not answered stays as it is, all ones.
    fn read(&self, offset: u64, into: &mut [u8]);

    /// Writes.
    fn write(&self, offset: u64, bytes: &[u8]);
}
