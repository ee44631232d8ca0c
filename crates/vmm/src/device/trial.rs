//! Devices for guests that are tests: a port that ends the machine with a code, the ports by which such guests ask for the number of
//! processors, ports and memory that keep what is written, and interrupt lines.
//!
//! # Source
//! QEMU `docs/specs/fw_cfg.rst` (the selector and data ports); its `isa-debug-exit` for the code, its `pc-testdev` for the rest.

use std::sync::{Mutex, PoisonError};

use hv::Level;

use super::Registers;

/// Ends the machine: what is written, doubled and with a one behind, is its exit code.
pub(crate) struct ExitPort {
    end: Box<dyn Fn(u8) + Send + Sync>,
}

impl ExitPort {
    pub(crate) fn new(end: Box<dyn Fn(u8) + Send + Sync>) -> Self {
        Self { end }
    }
}

impl Registers for ExitPort {
    fn read(&self, _offset: u64, into: &mut [u8]) {
        into.fill(0);
    }

    fn write(&self, _offset: u64, bytes: &[u8]) {
        if let Some(first) = bytes.first() {
            (self.end)(first << 1 | 1);
        }
    }
}

/// The signature's, the interface's, the memory's, the processors' and the most processors' keys.
const SIGNATURE: u16 = 0;
const INTERFACE: u16 = 1;
const MEMORY: u16 = 3;
const CPUS: u16 = 5;
const MOST_CPUS: u16 = 15;

/// Answers what the machine is, item by item: a selector's port, and one that gives an item's bytes.
pub(crate) struct Answers {
    memory: u64,
    cpus: u32,
    /// The item that was selected, and how much of it was read.
    at: Mutex<(u16, usize)>,
}

impl Answers {
    pub(crate) fn new(memory: u64, cpus: u32) -> Self {
        Self { memory, cpus, at: Mutex::new((SIGNATURE, 0)) }
    }

    fn item(&self, key: u16) -> Vec<u8> {
        match key {
            SIGNATURE => b"QEMU".to_vec(),
            INTERFACE => 1u32.to_le_bytes().to_vec(),
            MEMORY => self.memory.to_le_bytes().to_vec(),
            CPUS | MOST_CPUS => (self.cpus as u16).to_le_bytes().to_vec(),
            _ => Vec::new(),
        }
    }
}

impl Registers for Answers {
    fn read(&self, offset: u64, into: &mut [u8]) {
        into.fill(0);
        if offset != 1 {
            return;
        }
        let mut at = self.at.lock().unwrap_or_else(PoisonError::into_inner);
        if let (Some(byte), Some(first)) = (self.item(at.0).get(at.1), into.first_mut()) {
            *first = *byte;
        }
        at.1 += 1;
    }

    fn write(&self, offset: u64, bytes: &[u8]) {
        if let (0, [low, high, ..]) = (offset, bytes) {
            *self.at.lock().unwrap_or_else(PoisonError::into_inner) = (u16::from_le_bytes([*low, *high]), 0);
        }
    }
}

/// Registers that give back what was written to them: an instruction that reaches a device can be looked at by what it has done there.
pub(crate) struct Slate {
    bytes: Mutex<Vec<u8>>,
}

impl Slate {
    /// So many bytes of zero.
    pub(crate) fn new(size: u64) -> Self {
        Self { bytes: Mutex::new(vec![0; size as usize]) }
    }
}

impl Registers for Slate {
    fn read(&self, offset: u64, into: &mut [u8]) {
        let bytes = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        for (at, byte) in (offset as usize..).zip(into) {
            *byte = bytes.get(at).copied().unwrap_or(0);
        }
    }

    fn write(&self, offset: u64, from: &[u8]) {
        let mut bytes = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        for (at, byte) in (offset as usize..).zip(from) {
            if let Some(place) = bytes.get_mut(at) {
                *place = *byte;
            }
        }
    }
}

/// Interrupt lines as ports: one each, high while what was written is not zero.
pub(crate) struct Lines {
    set: Box<dyn Fn(u32, Level) + Send + Sync>,
}

impl Lines {
    pub(crate) fn new(set: Box<dyn Fn(u32, Level) + Send + Sync>) -> Self {
        Self { set }
    }
}

impl Registers for Lines {
    fn read(&self, _offset: u64, into: &mut [u8]) {
        into.fill(0);
    }

    fn write(&self, offset: u64, bytes: &[u8]) {
        if let Some(first) = bytes.first() {
            (self.set)(offset as u32, if *first == 0 { Level::Low } else { Level::High });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slate_keeps_what_fits() {
        let slate = Slate::new(4);
        slate.write(1, &[1, 2]);
        slate.write(3, &[3, 4, 5]);
        slate.write(9, &[6]);
        let mut read = [0xff; 8];
        slate.read(0, &mut read);
        assert_eq!(read, [0, 1, 2, 3, 0, 0, 0, 0]);
    }

    #[test]
    fn a_line_is_high_until_zero_is_written() {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let told = Arc::clone(&seen);
        let lines = Lines::new(Box::new(move |line, level| told.lock().unwrap().push((line, level))));
        lines.write(3, &[1]);
        lines.write(3, &[0]);
        lines.write(23, &[0x80, 0, 0, 0]);
        assert_eq!(*seen.lock().unwrap(), [(3, Level::High), (3, Level::Low), (23, Level::High)]);
    }
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU8, Ordering};

    #[test]
    fn items_are_read_byte_by_byte() {
        let answers = Answers::new(256 << 20, 3);
        let check = |key: u16, expect: &[u8]| {
            answers.write(0, &key.to_le_bytes());
            for byte in expect.iter().chain(&[0]) {
                let mut read = [0xff];
                answers.read(1, &mut read);
                assert_eq!(read[0], *byte, "{key}");
            }
        };
        check(SIGNATURE, b"QEMU");
        check(CPUS, &[3, 0]);
        check(MOST_CPUS, &[3, 0]);
        check(MEMORY, &[0, 0, 0, 16, 0, 0, 0, 0]);
        check(77, &[]);
    }

    #[test]
    fn the_code_is_odd() {
        let code = Arc::new(AtomicU8::new(0));
        let told = Arc::clone(&code);
        let port = ExitPort::new(Box::new(move |code| told.store(code, Ordering::SeqCst)));
        for (written, expect) in [(0u8, 1), (1, 3), (0x10, 0x21), (0xff, 0xff)] {
            port.write(0, &u32::from(written).to_le_bytes());
            assert_eq!(code.load(Ordering::SeqCst), expect);
        }
    }
}
