//! Split virtqueues: what the driver makes available is popped as a [`Chain`], and goes back as used.
//!
//! ```text
//! descriptors  16 bytes each: address u64, length u32, flags u16, next u16
//! driver       flags u16, index u16, heads u16 x size, used_event u16
//! device       flags u16, index u16, (head u32, written u32) x size, avail_event u16
//! ```
//!
//! The driver is hostile: an index that runs ahead, a head outside the table, a loop or a buffer outside the memory is a
//! [`QueueError`], after which the device needs a reset.
//!
//! # Source
//! Virtio 1.2, 2.7 "Split Virtqueues".

mod chain;
#[cfg(test)]
mod tests;

pub use chain::{Chain, Reader, Segment, Writer};

use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use serde::{Deserialize, Serialize};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

use crate::Memory;
use crate::interrupt::Interrupt;

/// The most descriptors of one chain, an indirect table's included: the kernel takes as many buffers in one call.
pub const MAX_CHAIN: u16 = 1024;
/// The largest queue, virtio 1.2, 2.7.
pub const MAX_SIZE: u16 = 32768;

const FLAG_NEXT: u16 = 1;
const FLAG_WRITE: u16 = 2;
const FLAG_INDIRECT: u16 = 4;
const AVAIL_NO_INTERRUPT: u16 = 1;
const DESCRIPTOR_BYTES: u64 = 16;

/// What the driver did that no driver may do. The device needs a reset afterwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum QueueError {
    /// A ring does not lie in the guest's memory.
    #[error("queue {queue}: address {address:#x} is not in the guest's memory")]
    Address {
        /// The queue.
        queue: u16,
        /// The first address that is not there.
        address: u64,
    },
    /// More chains are available than the queue has places.
    #[error("queue {queue}: {pending} chains are available in a queue of {size}")]
    Overrun {
        /// The queue.
        queue: u16,
        /// How many the driver claims.
        pending: u16,
        /// How many there can be.
        size: u16,
    },
    /// A descriptor's number is outside its table.
    #[error("queue {queue}: descriptor {number} is outside the table")]
    Descriptor {
        /// The queue.
        queue: u16,
        /// The number.
        number: u16,
    },
    /// A chain is longer than its table or than [`MAX_CHAIN`], so it loops, or its bytes do not fit 32 bits.
    #[error("queue {queue}: the chain at {head} is too long")]
    Long {
        /// The queue.
        queue: u16,
        /// The chain's head.
        head: u16,
    },
    /// A chain's flags contradict each other: an indirect table in another or with a next, a readable buffer after a
    /// writable one.
    #[error("queue {queue}: the chain at {head} is malformed")]
    Malformed {
        /// The queue.
        queue: u16,
        /// The chain's head.
        head: u16,
    },
    /// The queue was made ready with a size or an alignment that the specification forbids.
    #[error("queue {queue}: size {size} or the alignment of its rings is wrong")]
    Layout {
        /// The queue.
        queue: u16,
        /// The size the driver set.
        size: u16,
    },
}

/// Where a queue stands: what the driver configured and how far the device came.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueState {
    /// Places.
    pub size: u16,
    /// Whether the driver enabled it.
    pub ready: bool,
    /// Address of the descriptor table.
    pub descriptors: u64,
    /// Address of the driver's ring ("available").
    pub driver: u64,
    /// Address of the device's ring ("used").
    pub device: u64,
    /// Index of the next chain to take.
    pub next_available: u16,
    /// Index of the next chain to give back.
    pub next_used: u16,
}

/// A running queue.
#[derive(Debug)]
pub struct Queue {
    index: u16,
    state: QueueState,
    event_index: bool,
    /// The used index when the driver was last thought of.
    signalled: u16,
    memory: Memory,
    interrupt: Arc<Interrupt>,
}

/// A descriptor as it stands in the table.
#[derive(Debug, Clone, Copy)]
struct Descriptor {
    address: u64,
    length: u32,
    flags: u16,
    next: u16,
}

impl Queue {
    /// A running queue, its rings checked against the memory.
    ///
    /// # Errors
    /// The size is not a power of two within the limits, or a ring is misaligned or outside the memory.
    pub fn new(
        index: u16,
        state: QueueState,
        event_index: bool,
        memory: &Memory,
        interrupt: &Arc<Interrupt>,
    ) -> Result<Self, QueueError> {
        let size = state.size;
        let aligned =
            state.descriptors.is_multiple_of(16) && state.driver.is_multiple_of(2) && state.device.is_multiple_of(4);
        if !size.is_power_of_two() || size > MAX_SIZE || !aligned {
            return Err(QueueError::Layout { queue: index, size });
        }
        let places = u64::from(size);
        let rings = [
            (state.descriptors, DESCRIPTOR_BYTES * places),
            (state.driver, 6 + 2 * places),
            (state.device, 6 + 8 * places),
        ];
        for (address, bytes) in rings {
            let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
            if !memory.ram().check_range(GuestAddress(address), bytes) {
                return Err(QueueError::Address { queue: index, address });
            }
        }
        Ok(Self {
            index,
            state,
            event_index,
            signalled: state.next_used,
            memory: memory.clone(),
            interrupt: Arc::clone(interrupt),
        })
    }

    /// The queue's number in its device.
    #[must_use]
    pub fn index(&self) -> u16 {
        self.index
    }

    /// Where the queue stands.
    #[must_use]
    pub fn state(&self) -> QueueState {
        self.state
    }

    /// The memory that the queue lies in.
    #[must_use]
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// The next chain; when there is none, the driver is asked to notify the device of the next one.
    ///
    /// # Errors
    /// The driver broke the queue.
    pub fn pop(&mut self) -> Result<Option<Chain>, QueueError> {
        if self.pending()? == 0 {
            self.ask_for_notification()?;
            if self.pending()? == 0 {
                return Ok(None);
            }
        }
        let place = self.state.next_available % self.state.size;
        let head = self.load(self.state.driver + 4 + 2 * u64::from(place))?;
        let chain = self.walk(head)?;
        self.state.next_available = self.state.next_available.wrapping_add(1);
        Ok(Some(chain))
    }

    /// Puts the chain that was popped last back, to be popped again.
    pub fn unpop(&mut self) {
        self.state.next_available = self.state.next_available.wrapping_sub(1);
    }

    /// How many chains wait to be popped.
    ///
    /// # Errors
    /// More than the queue has places.
    pub fn pending(&self) -> Result<u16, QueueError> {
        let available = self.load(self.state.driver + 2)?;
        let pending = available.wrapping_sub(self.state.next_available);
        if pending > self.state.size {
            return Err(QueueError::Overrun { queue: self.index, pending, size: self.state.size });
        }
        Ok(pending)
    }

    /// Gives a chain back, with the count of bytes written into it. The driver hears of it by [`Queue::signal`].
    ///
    /// # Errors
    /// The ring has left the memory.
    pub fn complete(&mut self, head: u16, written: u32) -> Result<(), QueueError> {
        self.complete_together([(head, written)])
    }

    /// Gives chains back that belong together: the driver sees either none of them or all.
    ///
    /// # Errors
    /// The ring has left the memory.
    pub fn complete_together(&mut self, chains: impl IntoIterator<Item = (u16, u32)>) -> Result<(), QueueError> {
        let mut next = self.state.next_used;
        for (head, written) in chains {
            let address = self.state.device + 4 + 8 * u64::from(next % self.state.size);
            let mut element = [0; 8];
            element[..4].copy_from_slice(&u32::from(head).to_le_bytes());
            element[4..].copy_from_slice(&written.to_le_bytes());
            self.memory.ram().write_slice(&element, GuestAddress(address)).map_err(|_| self.outside(address))?;
            next = next.wrapping_add(1);
        }
        self.state.next_used = next;
        self.store(self.state.device + 2, next)
    }

    /// Interrupts the driver if something was given back since the last time and it wants to know.
    ///
    /// # Errors
    /// The ring has left the memory.
    pub fn signal(&mut self) -> Result<(), QueueError> {
        let (old, new) = (self.signalled, self.state.next_used);
        if old == new {
            return Ok(());
        }
        self.signalled = new;
        // The driver writes its wish and then looks at the index; here it is the other way round.
        fence(Ordering::SeqCst);
        let wanted = if self.event_index {
            let event = self.load(self.state.driver + 4 + 2 * u64::from(self.state.size))?;
            new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
        } else {
            self.load(self.state.driver)? & AVAIL_NO_INTERRUPT == 0
        };
        if wanted {
            self.interrupt.queue(self.index);
        }
        Ok(())
    }

    /// With event indices the driver notifies only when it passes the index named here.
    fn ask_for_notification(&self) -> Result<(), QueueError> {
        if self.event_index {
            self.store(self.state.device + 4 + 8 * u64::from(self.state.size), self.state.next_available)?;
            fence(Ordering::SeqCst);
        }
        Ok(())
    }

    fn walk(&self, head: u16) -> Result<Chain, QueueError> {
        let long = QueueError::Long { queue: self.index, head };
        let malformed = QueueError::Malformed { queue: self.index, head };
        let (mut table, mut length) = (self.state.descriptors, self.state.size);
        let (mut number, mut indirect, mut left) = (head, false, length.min(MAX_CHAIN));
        let mut chain = Chain::new(head);
        let mut total = 0_u32;
        loop {
            let descriptor = self.descriptor(table, length, number)?;
            if descriptor.flags & FLAG_INDIRECT != 0 {
                let entries = u64::from(descriptor.length) / DESCRIPTOR_BYTES;
                let whole = u64::from(descriptor.length).is_multiple_of(DESCRIPTOR_BYTES);
                // Whether it says that it is written does not count, virtio 1.2, 2.7.5.3.2.
                if indirect || descriptor.flags & FLAG_NEXT != 0 || !whole || entries == 0 {
                    return Err(malformed);
                }
                (table, indirect, number) = (descriptor.address, true, 0);
                length = u16::try_from(entries).map_err(|_| long)?;
                left = length.min(MAX_CHAIN);
                continue;
            }
            left = left.checked_sub(1).ok_or(long)?;
            total = total.checked_add(descriptor.length).ok_or(long)?;
            self.add(&mut chain, descriptor, malformed)?;
            if descriptor.flags & FLAG_NEXT == 0 {
                return Ok(chain);
            }
            number = descriptor.next;
        }
    }

    fn add(&self, chain: &mut Chain, descriptor: Descriptor, malformed: QueueError) -> Result<(), QueueError> {
        if descriptor.length == 0 {
            return Ok(());
        }
        let Descriptor { address, length, .. } = descriptor;
        if !self.memory.ram().check_range(GuestAddress(address), length as usize) {
            return Err(self.outside(address));
        }
        let segment = Segment { address, length };
        if descriptor.flags & FLAG_WRITE != 0 {
            chain.writable.push(segment);
        } else if chain.writable.is_empty() {
            chain.readable.push(segment);
        } else {
            return Err(malformed);
        }
        Ok(())
    }

    fn descriptor(&self, table: u64, length: u16, number: u16) -> Result<Descriptor, QueueError> {
        if number >= length {
            return Err(QueueError::Descriptor { queue: self.index, number });
        }
        let outside = self.outside(table);
        let address = table.checked_add(DESCRIPTOR_BYTES * u64::from(number)).ok_or(outside)?;
        let mut raw = [0; 16];
        self.memory.ram().read_slice(&mut raw, GuestAddress(address)).map_err(|_| outside)?;
        let [a0, a1, a2, a3, a4, a5, a6, a7, l0, l1, l2, l3, f0, f1, n0, n1] = raw;
        Ok(Descriptor {
            address: u64::from_le_bytes([a0, a1, a2, a3, a4, a5, a6, a7]),
            length: u32::from_le_bytes([l0, l1, l2, l3]),
            flags: u16::from_le_bytes([f0, f1]),
            next: u16::from_le_bytes([n0, n1]),
        })
    }

    fn load(&self, address: u64) -> Result<u16, QueueError> {
        let value = self.memory.ram().load::<u16>(GuestAddress(address), Ordering::Acquire);
        value.map(u16::from_le).map_err(|_| self.outside(address))
    }

    fn store(&self, address: u64, value: u16) -> Result<(), QueueError> {
        let outcome = self.memory.ram().store(value.to_le(), GuestAddress(address), Ordering::Release);
        outcome.map_err(|_| self.outside(address))
    }

    fn outside(&self, address: u64) -> QueueError {
        QueueError::Address { queue: self.index, address }
    }
}
