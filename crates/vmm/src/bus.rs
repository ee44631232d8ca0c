//! The buses: which registers are where. Made once when the machine is assembled; looked up without a lock.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use hv::Bus;

use crate::device::Registers;

#[derive(Clone)]
struct Entry {
    base: u64,
    size: u64,
    registers: Arc<dyn Registers>,
}

/// One address space, sorted by address.
#[derive(Clone, Default)]
struct Space(Vec<Entry>);

impl Space {
    fn add(&mut self, base: u64, size: u64, registers: Arc<dyn Registers>) {
        let at = self.0.partition_point(|entry| entry.base < base);
        let before = at.checked_sub(1).is_none_or(|at| self.0[at].base + self.0[at].size <= base);
        let behind = self.0.get(at).is_none_or(|entry| base + size <= entry.base);
        // Addresses are given out by this program alone.
        assert!(before && behind, "two devices at {base:#x}");
        self.0.insert(at, Entry { base, size, registers });
    }

    fn find(&self, address: u64) -> Option<(&dyn Registers, u64)> {
        let at = self.0.partition_point(|entry| entry.base <= address).checked_sub(1)?;
        let entry = &self.0[at];
        let offset = address - entry.base;
        (offset < entry.size).then_some((entry.registers.as_ref(), offset))
    }

    fn read(&self, address: u64, into: &mut [u8]) {
        into.fill(0xff);
        if let Some((registers, offset)) = self.find(address) {
            registers.read(offset, into);
        }
    }

    fn write(&self, address: u64, bytes: &[u8]) {
        if let Some((registers, offset)) = self.find(address) {
            registers.write(offset, bytes);
        }
    }
}

/// Memory and ports of a machine.
#[derive(Default)]
pub(crate) struct Buses {
    memory: Space,
    ports: Space,
    /// How often a processor left the guest for a register.
    exits: AtomicU64,
}

impl Buses {
    /// How often a processor left the guest for a register of a device.
    pub(crate) fn exits(&self) -> u64 {
        self.exits.load(Ordering::Relaxed)
    }

    fn count(&self) {
        self.exits.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn add_memory(&mut self, base: u64, size: u64, registers: Arc<dyn Registers>) {
        self.memory.add(base, size, registers);
    }

    pub(crate) fn add_ports(&mut self, base: u16, size: u64, registers: Arc<dyn Registers>) {
        self.ports.add(base.into(), size, registers);
    }
}

impl Bus for Buses {
    fn mmio_read(&self, gpa: u64, bytes: &mut [u8]) {
        self.count();
        self.memory.read(gpa, bytes);
    }

    fn mmio_write(&self, gpa: u64, bytes: &[u8]) {
        self.count();
        self.memory.write(gpa, bytes);
    }

    fn pio_in(&self, port: u16, bytes: &mut [u8]) {
        self.count();
        self.ports.read(port.into(), bytes);
    }

    fn pio_out(&self, port: u16, bytes: &[u8]) {
        self.count();
        self.ports.write(port.into(), bytes);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    struct Echo(Mutex<Vec<(u64, Vec<u8>)>>);

    impl Registers for Echo {
        fn read(&self, offset: u64, into: &mut [u8]) {
            into[0] = offset as u8;
        }

        fn write(&self, offset: u64, bytes: &[u8]) {
            self.0.lock().unwrap().push((offset, bytes.to_vec()));
        }
    }

    #[test]
    fn addresses_find_their_devices() {
        let echo = Arc::new(Echo(Mutex::default()));
        let mut buses = Buses::default();
        buses.add_memory(0x2000, 0x1000, echo.clone());
        buses.add_memory(0x1000, 0x1000, Arc::new(Echo(Mutex::default())));
        buses.add_ports(0x3f8, 8, echo.clone());
        let mut byte = [0; 2];
        buses.mmio_read(0x2007, &mut byte);
        assert_eq!(byte, [7, 0xff]);
        for nothing in [0xfff, 0x3000] {
            buses.mmio_read(nothing, &mut byte);
            assert_eq!(byte, [0xff, 0xff]);
        }
        buses.pio_in(0x3fd, &mut byte);
        assert_eq!(byte[0], 5);
        buses.mmio_write(0x2fff, &[1, 2]);
        buses.pio_out(0x400, &[3]);
        assert_eq!(*echo.0.lock().unwrap(), [(0xfff, vec![1, 2])]);
        assert_eq!(buses.exits(), 6);
    }
}
