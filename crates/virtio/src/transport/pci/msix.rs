//! A function's interrupts: a table of messages with a mask each, and the pin for drivers that use none.
//!
//! ```text
//! table    16 bytes a vector: address u64, data u32, control u32 (bit 0: masked)
//! pending  a bit a vector: it was signalled while masked, and is sent when the mask goes
//! ```

use std::fmt;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hv::{Level, Msi};
use serde::{Deserialize, Serialize};

use crate::interrupt::Signal;

/// What a driver writes, or reads, for "no vector".
const NONE: u16 = 0xffff;
const ENTRY_BYTES: usize = 16;
const MASKED: u8 = 1;
/// More vectors than that no device has: a queue's and the configuration's.
const MOST_VECTORS: usize = 256;

/// Sends a message-signalled interrupt.
pub type SendMessage = Arc<dyn Fn(Msi) + Send + Sync>;
/// Sets the level of a function's pin.
pub type Line = Arc<dyn Fn(Level) + Send + Sync>;

/// The table as it stands, for a snapshot too.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct MsixState {
    table: Vec<u8>,
    pending: Vec<bool>,
    configuration: u16,
    queues: Vec<u16>,
}

#[derive(Debug)]
struct Table {
    enabled: bool,
    masked: bool,
    /// The driver does not want the pin.
    line_masked: bool,
    bytes: Vec<u8>,
    pending: Vec<bool>,
}

/// A function's interrupts.
pub(super) struct Msix {
    table: Mutex<Table>,
    configuration: AtomicU16,
    queues: Vec<AtomicU16>,
    send: SendMessage,
    line: Line,
}

impl fmt::Debug for Msix {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Msix").field("table", &self.table).finish_non_exhaustive()
    }
}

impl Msix {
    /// A vector for each queue and one for the configuration, all masked.
    pub(super) fn new(queues: usize, send: SendMessage, line: Line) -> Self {
        let vectors = (queues + 1).min(MOST_VECTORS);
        let mut bytes = vec![0; vectors * ENTRY_BYTES];
        bytes.iter_mut().skip(12).step_by(ENTRY_BYTES).for_each(|control| *control = MASKED);
        let table = Table { enabled: false, masked: false, line_masked: false, bytes, pending: vec![false; vectors] };
        Self {
            table: Mutex::new(table),
            configuration: AtomicU16::new(NONE),
            queues: (0..queues).map(|_| AtomicU16::new(NONE)).collect(),
            send,
            line,
        }
    }

    pub(super) fn vectors(&self) -> u16 {
        u16::try_from(self.table().pending.len()).unwrap_or(1)
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A vector that there is, or none.
    fn checked(&self, vector: u16) -> u16 {
        if vector < self.vectors() { vector } else { NONE }
    }

    pub(super) fn set_configuration_vector(&self, vector: u16) {
        self.configuration.store(self.checked(vector), Ordering::SeqCst);
    }

    pub(super) fn configuration_vector(&self) -> u16 {
        self.configuration.load(Ordering::SeqCst)
    }

    pub(super) fn set_queue_vector(&self, queue: u16, vector: u16) {
        if let Some(place) = self.queues.get(usize::from(queue)) {
            place.store(self.checked(vector), Ordering::SeqCst);
        }
    }

    pub(super) fn queue_vector(&self, queue: u16) -> u16 {
        self.queues.get(usize::from(queue)).map_or(NONE, |place| place.load(Ordering::SeqCst))
    }

    /// A reset takes the vectors off the queues.
    pub(super) fn forget_vectors(&self) {
        self.configuration.store(NONE, Ordering::SeqCst);
        self.queues.iter().for_each(|queue| queue.store(NONE, Ordering::SeqCst));
        self.lower();
    }

    /// The capability's control, and the pin's mask in the command register.
    pub(super) fn control(&self, (enabled, masked): (bool, bool), line_masked: bool) {
        let mut table = self.table();
        let pin_was_used = !table.enabled && !table.line_masked;
        (table.enabled, table.masked, table.line_masked) = (enabled, masked, line_masked);
        let due = table.due();
        drop(table);
        if pin_was_used && (enabled || line_masked) {
            self.lower();
        }
        due.into_iter().for_each(|message| (self.send)(message));
    }

    pub(super) fn read_table(&self, offset: u64, into: &mut [u8]) {
        crate::device::read_space(&self.table().bytes, offset, into);
    }

    pub(super) fn write_table(&self, offset: u64, bytes: &[u8]) {
        let mut table = self.table();
        for (byte, at) in bytes.iter().zip(offset..) {
            let Some(old) = usize::try_from(at).ok().and_then(|at| table.bytes.get_mut(at)) else { break };
            // Of the control word only the mask is there.
            *old = match at % ENTRY_BYTES as u64 {
                12 => byte & MASKED,
                13..=15 => 0,
                _ => *byte,
            };
        }
        let due = table.due();
        drop(table);
        due.into_iter().for_each(|message| (self.send)(message));
    }

    pub(super) fn read_pending(&self, offset: u64, into: &mut [u8]) {
        let table = self.table();
        let bits: Vec<u8> = table
            .pending
            .chunks(8)
            .map(|bits| bits.iter().rev().fold(0, |all, bit| all << 1 | u8::from(*bit)))
            .collect();
        let bits = [bits, vec![0; 8]].concat();
        crate::device::read_space(&bits, offset, into);
    }

    /// The pin is no longer asserted.
    pub(super) fn lower(&self) {
        (self.line)(Level::Low);
    }

    fn signal(&self, vector: u16) {
        let mut table = self.table();
        if !table.enabled {
            let raise = !table.line_masked;
            drop(table);
            if raise {
                (self.line)(Level::High);
            }
            return;
        }
        let Some(pending) = table.pending.get_mut(usize::from(vector)) else { return };
        *pending = true;
        let due = table.due();
        drop(table);
        due.into_iter().for_each(|message| (self.send)(message));
    }

    pub(super) fn save(&self) -> MsixState {
        let table = self.table();
        MsixState {
            table: table.bytes.clone(),
            pending: table.pending.clone(),
            configuration: self.configuration_vector(),
            queues: self.queues.iter().map(|queue| queue.load(Ordering::SeqCst)).collect(),
        }
    }

    /// Takes a saved table over; the capability's control comes with the configuration space.
    pub(super) fn restore(&self, state: &MsixState) {
        let mut table = self.table();
        table.bytes.iter_mut().zip(&state.table).for_each(|(here, saved)| *here = *saved);
        table.pending.iter_mut().zip(&state.pending).for_each(|(here, saved)| *here = *saved);
        drop(table);
        self.set_configuration_vector(state.configuration);
        (0..).zip(&state.queues).for_each(|(queue, vector)| self.set_queue_vector(queue, *vector));
    }
}

impl Table {
    /// Takes the messages that are pending and masked no longer.
    fn due(&mut self) -> Vec<Msi> {
        if !self.enabled || self.masked {
            return Vec::new();
        }
        let mut due = Vec::new();
        for (entry, pending) in self.bytes.chunks_exact(ENTRY_BYTES).zip(&mut self.pending) {
            if *pending && entry[12] & MASKED == 0 {
                *pending = false;
                let address = entry[..8].try_into().map_or(0, u64::from_le_bytes);
                due.push(Msi { address, data: entry[8..12].try_into().map_or(0, u32::from_le_bytes) });
            }
        }
        due
    }
}

impl Signal for Msix {
    fn queue(&self, index: u16) {
        self.signal(self.queue_vector(index));
    }

    fn configuration(&self) {
        self.signal(self.configuration_vector());
    }
}
