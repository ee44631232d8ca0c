//! Virtio over MMIO, version 2: one page of registers and one interrupt line a device.
//!
//! The line is edge-triggered: each interrupt is a pulse, and the status register says why.
//!
//! # Source
//! Virtio 1.2, 4.2 "Virtio Over MMIO".

#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::{set_high, set_low, word};
use crate::Memory;
use crate::device::{Device, RestoreError};
use crate::interrupt::Signal;
use crate::queue::QueueState;
use crate::slot::{Slot, SlotState};

/// The size of a device's register window.
pub const WINDOW_BYTES: u64 = 0x1000;
/// Where the driver notifies of a queue: what an ioeventfd has to watch, with the queue's number as its value.
pub const QUEUE_NOTIFY: u64 = 0x050;

const MAGIC: u32 = u32::from_le_bytes(*b"virt");
const VERSION: u32 = 2;
const VENDOR: u32 = u32::from_le_bytes(*b"INSU");
/// Where a device's own configuration space starts.
const CONFIG: u64 = 0x100;

/// Gives one pulse on a device's interrupt line.
pub type Pulse = Arc<dyn Fn() + Send + Sync>;

struct Line(Pulse);

impl Signal for Line {
    fn queue(&self, _index: u16) {
        self.0();
    }

    fn configuration(&self) {
        self.0();
    }
}

/// What the driver has selected to look at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Selection {
    features: u32,
    driver_features: u32,
    queue: u32,
}

/// A device behind its registers.
#[derive(Debug)]
pub struct Mmio {
    slot: Arc<Slot>,
    selection: Mutex<Selection>,
    /// The shared memory region that the driver asks for; there is none.
    shared_memory: AtomicU32,
}

/// A device and its registers in a snapshot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MmioState {
    selection: Selection,
    /// The device.
    pub slot: SlotState,
}

impl Mmio {
    /// A device that is to be placed on the bus, with its interrupt line.
    ///
    /// # Errors
    /// No descriptor is free.
    pub fn new(device: Box<dyn Device>, memory: Memory, line: Pulse) -> Result<Self, Errno> {
        let slot = Arc::new(Slot::new(device, memory, Arc::new(Line(line)))?);
        Ok(Self { slot, selection: Mutex::default(), shared_memory: AtomicU32::new(0) })
    }

    /// The device.
    #[must_use]
    pub fn slot(&self) -> &Arc<Slot> {
        &self.slot
    }

    /// The driver reads at `offset` in the window. Registers are read 32 bits wide; all else reads 0.
    pub fn read(&self, offset: u64, into: &mut [u8]) {
        into.fill(0);
        if offset >= CONFIG {
            self.slot.read_config(offset - CONFIG, into);
        } else if into.len() == 4
            && let Ok(place) = REGISTERS.binary_search_by_key(&offset, |register| register.offset)
            && let Some(read) = REGISTERS[place].read
        {
            into.copy_from_slice(&read(self, self.selected()).to_le_bytes());
        }
    }

    /// The driver writes at `offset` in the window. Registers are written 32 bits wide; all else is left.
    pub fn write(&self, offset: u64, bytes: &[u8]) {
        if offset >= CONFIG {
            self.slot.write_config(offset - CONFIG, bytes);
        } else if let Ok(value) = bytes.try_into().map(u32::from_le_bytes)
            && let Ok(place) = REGISTERS.binary_search_by_key(&offset, |register| register.offset)
            && let Some(write) = REGISTERS[place].write
        {
            write(self, value);
        }
    }

    /// Everything a snapshot needs; the device has to be at rest.
    #[must_use]
    pub fn save(&self) -> MmioState {
        MmioState { selection: self.selected(), slot: self.slot.save() }
    }

    /// Takes a saved device over.
    ///
    /// # Errors
    /// As [`Slot::restore`].
    pub fn restore(&self, state: MmioState) -> Result<(), RestoreError> {
        self.select(|selection| *selection = state.selection);
        self.slot.restore(state.slot)
    }

    fn selected(&self) -> Selection {
        *self.selection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn select(&self, change: impl FnOnce(&mut Selection)) {
        change(&mut self.selection.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// The selected queue, if there is one of that number.
    fn queue(&self) -> Option<u16> {
        let queue = u16::try_from(self.selected().queue).ok()?;
        (usize::from(queue) < self.slot.queue_sizes().len()).then_some(queue)
    }

    fn set_queue(&self, change: impl FnOnce(&mut QueueState)) {
        if let Some(queue) = self.queue() {
            self.slot.set_queue(queue, change);
        }
    }
}

/// One register: what reading gives and what writing does.
struct Register {
    offset: u64,
    read: Option<fn(&Mmio, Selection) -> u32>,
    write: Option<fn(&Mmio, u32)>,
}

const fn reads(offset: u64, read: fn(&Mmio, Selection) -> u32) -> Register {
    Register { offset, read: Some(read), write: None }
}

const fn writes(offset: u64, write: fn(&Mmio, u32)) -> Register {
    Register { offset, read: None, write: Some(write) }
}

const fn both(offset: u64, read: fn(&Mmio, Selection) -> u32, write: fn(&Mmio, u32)) -> Register {
    Register { offset, read: Some(read), write: Some(write) }
}

/// The registers by offset.
const REGISTERS: &[Register] = &[
    reads(0x000, |_, _| MAGIC),
    reads(0x004, |_, _| VERSION),
    reads(0x008, |mmio, _| mmio.slot.kind() as u32),
    reads(0x00c, |_, _| VENDOR),
    reads(0x010, |mmio, selection| word(mmio.slot.features(), selection.features)),
    writes(0x014, |mmio, value| mmio.select(|selection| selection.features = value)),
    writes(0x020, |mmio, value| mmio.slot.set_driver_features(mmio.selected().driver_features, value)),
    writes(0x024, |mmio, value| mmio.select(|selection| selection.driver_features = value)),
    writes(0x030, |mmio, value| mmio.select(|selection| selection.queue = value)),
    reads(0x034, |mmio, _| mmio.queue().map_or(0, |queue| mmio.slot.queue_sizes()[usize::from(queue)].into())),
    writes(0x038, |mmio, value| mmio.set_queue(|queue| queue.size = u16::try_from(value).unwrap_or(0))),
    both(
        0x044,
        |mmio, _| mmio.queue().and_then(|queue| mmio.slot.queue(queue)).map_or(0, |queue| queue.ready.into()),
        |mmio, value| match (value & 1, mmio.queue()) {
            // The driver waits until it reads that this is so, virtio 1.2, 4.2.2.2.
            (0, Some(queue)) => mmio.slot.stop_queue(queue),
            _ => mmio.set_queue(|queue| queue.ready = true),
        },
    ),
    writes(QUEUE_NOTIFY, |mmio, value| mmio.slot.kick(value)),
    reads(0x060, |mmio, _| mmio.slot.interrupt().status()),
    writes(0x064, |mmio, value| {
        mmio.slot.interrupt().acknowledge(value);
    }),
    both(
        0x070,
        |mmio, _| mmio.slot.status().into(),
        |mmio, value| {
            if let Ok(status) = u8::try_from(value) {
                mmio.slot.set_status(status);
            }
        },
    ),
    writes(0x080, |mmio, value| mmio.set_queue(|queue| set_low(&mut queue.descriptors, value))),
    writes(0x084, |mmio, value| mmio.set_queue(|queue| set_high(&mut queue.descriptors, value))),
    writes(0x090, |mmio, value| mmio.set_queue(|queue| set_low(&mut queue.driver, value))),
    writes(0x094, |mmio, value| mmio.set_queue(|queue| set_high(&mut queue.driver, value))),
    writes(0x0a0, |mmio, value| mmio.set_queue(|queue| set_low(&mut queue.device, value))),
    writes(0x0a4, |mmio, value| mmio.set_queue(|queue| set_high(&mut queue.device, value))),
    writes(0x0ac, |mmio, value| mmio.shared_memory.store(value, Ordering::Relaxed)),
    // A length of all ones says that there is no such region.
    reads(0x0b0, |_, _| u32::MAX),
    reads(0x0b4, |_, _| u32::MAX),
    reads(0x0b8, |_, _| u32::MAX),
    reads(0x0bc, |_, _| u32::MAX),
    reads(0x0fc, |mmio, _| mmio.slot.interrupt().generation()),
];
