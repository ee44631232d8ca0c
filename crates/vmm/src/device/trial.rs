//! Devices for guests that are tests: a port that ends the machine with a code, and the ports by which such guests ask for
//! the number of processors.
//!
//! # Source
//! QEMU `docs/specs/fw_cfg.rst` (the selector and data ports); its `isa-debug-exit` for the code.

use std::sync::{Mutex, PoisonError};

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

#[cfg(test)]
mod tests {
    use super::*;
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
