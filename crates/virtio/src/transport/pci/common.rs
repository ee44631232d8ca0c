//! The common registers, virtio 1.2, 4.1.4.3.

use std::sync::PoisonError;

use serde::{Deserialize, Serialize};

use super::{Function, NOTIFY_STEP};
use crate::queue::QueueState;
use crate::transport::{set_high, set_low, word};

const BYTES: usize = 0x38;

/// What the driver has selected to look at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Selection {
    features: u32,
    driver_features: u32,
    queue: u16,
}

/// What a write to a register does.
enum Write {
    Byte(fn(&Function, u8)),
    Half(fn(&Function, u16)),
    Word(fn(&Function, u32)),
}

/// The registers that can be written, by offset.
const WRITES: &[(u64, Write)] = &[
    (0x00, Write::Word(|function, value| function.select(|selection| selection.features = value))),
    (0x08, Write::Word(|function, value| function.select(|selection| selection.driver_features = value))),
    (
        0x0c,
        Write::Word(|function, value| {
            let page = function.selected().driver_features;
            function.slot.set_driver_features(page, value);
        }),
    ),
    (0x10, Write::Half(|function, value| function.msix.set_configuration_vector(value))),
    (
        0x14,
        Write::Byte(|function, value| {
            function.slot.set_status(value);
            if value == 0 {
                function.msix.forget_vectors();
            }
        }),
    ),
    (0x16, Write::Half(|function, value| function.select(|selection| selection.queue = value))),
    (0x18, Write::Half(|function, value| function.set_queue(|queue, _| queue.size = value))),
    (0x1a, Write::Half(|function, value| function.msix.set_queue_vector(function.selected().queue, value))),
    (
        0x1c,
        Write::Half(|function, value| {
            if value == 1 {
                function.set_queue(|queue, largest| {
                    queue.ready = true;
                    // A driver that is content with the size that it reads need not write it.
                    queue.size = if queue.size == 0 { largest } else { queue.size };
                });
            }
        }),
    ),
    (0x20, Write::Word(|function, value| function.set_queue(|queue, _| set_low(&mut queue.descriptors, value)))),
    (0x24, Write::Word(|function, value| function.set_queue(|queue, _| set_high(&mut queue.descriptors, value)))),
    (0x28, Write::Word(|function, value| function.set_queue(|queue, _| set_low(&mut queue.driver, value)))),
    (0x2c, Write::Word(|function, value| function.set_queue(|queue, _| set_high(&mut queue.driver, value)))),
    (0x30, Write::Word(|function, value| function.set_queue(|queue, _| set_low(&mut queue.device, value)))),
    (0x34, Write::Word(|function, value| function.set_queue(|queue, _| set_high(&mut queue.device, value)))),
];

impl Function {
    fn selected(&self) -> Selection {
        *self.selection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn select(&self, change: impl FnOnce(&mut Selection)) {
        change(&mut self.selection.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn set_queue(&self, change: impl FnOnce(&mut QueueState, u16)) {
        let number = self.selected().queue;
        if let Some(largest) = self.slot.queue_sizes().get(usize::from(number)) {
            self.slot.set_queue(number, |queue| change(queue, *largest));
        }
    }

    /// The registers as they read now.
    fn image(&self) -> [u8; BYTES] {
        let selection = self.selected();
        let mut image = [0; BYTES];
        let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
        put(0x00, &selection.features.to_le_bytes());
        put(0x04, &word(self.slot.features(), selection.features).to_le_bytes());
        put(0x08, &selection.driver_features.to_le_bytes());
        put(0x0c, &word(self.slot.driver_features(), selection.driver_features).to_le_bytes());
        put(0x10, &self.msix.configuration_vector().to_le_bytes());
        put(0x12, &u16::try_from(self.slot.queue_sizes().len()).unwrap_or(u16::MAX).to_le_bytes());
        put(0x14, &[self.slot.status(), self.slot.interrupt().generation().to_le_bytes()[0]]);
        put(0x16, &selection.queue.to_le_bytes());
        if let Some(queue) = self.slot.queue(selection.queue) {
            let largest = self.slot.queue_sizes()[usize::from(selection.queue)];
            let size = if queue.size == 0 { largest } else { queue.size };
            put(0x18, &size.to_le_bytes());
            put(0x1a, &self.msix.queue_vector(selection.queue).to_le_bytes());
            put(0x1c, &u16::from(queue.ready).to_le_bytes());
            // In units of the step: a queue's own number.
            const { assert!(NOTIFY_STEP == 4) };
            put(0x1e, &selection.queue.to_le_bytes());
            put(0x20, &queue.descriptors.to_le_bytes());
            put(0x28, &queue.driver.to_le_bytes());
            put(0x30, &queue.device.to_le_bytes());
        }
        image
    }

    pub(super) fn read_common(&self, offset: u64, into: &mut [u8]) {
        crate::device::read_space(&self.image(), offset, into);
    }

    pub(super) fn write_common(&self, offset: u64, bytes: &[u8]) {
        let Ok(place) = WRITES.binary_search_by_key(&offset, |entry| entry.0) else { return };
        match (&WRITES[place].1, bytes) {
            (Write::Byte(write), [value]) => write(self, *value),
            (Write::Half(write), [a, b]) => write(self, u16::from_le_bytes([*a, *b])),
            (Write::Word(write), [a, b, c, d]) => write(self, u32::from_le_bytes([*a, *b, *c, *d])),
            // A 64-bit register at once.
            (Write::Word(_), [low @ .., _, _, _, _]) if low.len() == 4 => {
                self.write_common(offset, &bytes[..4]);
                self.write_common(offset + 4, &bytes[4..]);
            }
            _ => {}
        }
    }
}
