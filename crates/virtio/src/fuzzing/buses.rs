//! The transports' registers under noise: three bytes of place, one of width and direction, and what is written.

use std::sync::Arc;

use super::{MEMORY, Script};
use crate::Memory;
use crate::device::entropy::Entropy;
use crate::limit::Limit;
use crate::transport::mmio::{Mmio, WINDOW_BYTES};
use crate::transport::pci::Function;
use crate::transport::pci::bus::{ADDRESS_PORT, Bus, DATA_PORT};

const MOST_STEPS: usize = 512;
/// Where the bus places windows.
const WINDOWS: u32 = 0xd000_0000;

/// Calls `access` with a place, and bytes to write or room to read into.
fn accesses(bytes: &[u8], mut access: impl FnMut(u64, &[u8], Option<&mut [u8]>)) {
    let mut script = Script(bytes);
    for _ in 0..MOST_STEPS {
        if script.is_over() {
            return;
        }
        let (place, shape) = (script.number(3), script.byte());
        let width = 1 << (shape & 3);
        if shape & 4 == 0 {
            access(place, script.bytes(width), None);
        } else {
            access(place, &[], Some(&mut vec![0; width]));
        }
    }
}

/// A device's page of registers.
pub fn mmio(bytes: &[u8]) {
    let (Ok(memory), Ok(device)) = (Memory::new(MEMORY), Entropy::new(Limit::default())) else { return };
    let Ok(mmio) = Mmio::new(Box::new(device), memory, Arc::new(|| {})) else { return };
    accesses(bytes, |place, bytes, room| {
        match room {
            Some(room) => mmio.read(place % WINDOW_BYTES, room),
            None => mmio.write(place % WINDOW_BYTES, bytes),
        }
        mmio.slot().serve();
    });
    assert!(serde_json::to_string(&mmio.save()).is_ok(), "the device can't be saved");
}

/// A bus with one function: configuration space both ways, and its window wherever it is.
pub fn pci(bytes: &[u8]) {
    let (Ok(memory), Ok(device)) = (Memory::new(MEMORY), Entropy::new(Limit::default())) else { return };
    let function = Function::new(Box::new(device), memory, Arc::new(|_| {}), Arc::new(|_| {}));
    let Ok(function) = function.map(Arc::new) else { return };
    let mut bus = Bus::new(WINDOWS);
    if bus.add(Arc::clone(&function)).is_err() {
        return;
    }
    accesses(bytes, |place, bytes, room| {
        // The highest bits choose: configuration space, ports, window.
        let inside = place & 0x3f_ffff;
        match (place >> 22, room) {
            (0, Some(room)) => bus.read_ecam(inside, room),
            (0, None) => bus.write_ecam(inside, bytes),
            (1, room) => {
                let port =
                    if inside & 8 == 0 { ADDRESS_PORT } else { DATA_PORT + u16::from(inside.to_le_bytes()[0] & 3) };
                match room {
                    Some(room) => bus.read_port(port, room),
                    None => bus.write_port(port, bytes),
                }
            }
            (_, room) => {
                if let Some((function, offset)) = bus.find(u64::from(WINDOWS) + (inside & 0x7fff)) {
                    match room {
                        Some(room) => function.read(offset, room),
                        None => function.write(offset, bytes),
                    }
                }
            }
        }
        function.slot().serve();
    });
    let saved = function.save();
    assert!(serde_json::to_string(&saved).is_ok(), "the function can't be saved");
}
