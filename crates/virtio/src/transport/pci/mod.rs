//! Virtio over PCI, 1.0 and later: each device is a function with one memory window.
//!
//! ```text
//! BAR 0, 32 KiB   0x0000 common registers   0x1000 interrupt status   0x2000 the device's configuration
//!                 0x3000 notifications, four bytes a queue            0x4000 MSI-X table   0x6000 MSI-X pending bits
//! ```
//!
//! [`bus::Bus`] holds the functions, answers configuration cycles (ECAM, and ports 0xcf8 and 0xcfc) and finds the window that a
//! memory access is for.
//!
//! # Source
//! Virtio 1.2, 4.1 "Virtio Over PCI Bus"; PCI Local Bus Specification 3.0, 6 "Configuration Space" and 6.8.2 "MSI-X".

pub mod bus;
mod common;
mod msix;
mod space;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::Memory;
use crate::device::{Device, RestoreError};
use crate::slot::{Slot, SlotState};
use common::Selection;
pub use msix::{Line, SendMessage};
use msix::{Msix, MsixState};
use space::Space;

/// The size of a function's window.
pub const WINDOW_BYTES: u64 = 0x8000;
/// Where the notifications start in the window: queue N at `4 * N` behind it.
pub const NOTIFY: u64 = 0x3000;
/// Bytes between two queues' notifications.
pub const NOTIFY_STEP: u32 = 4;

const STATUS: u64 = 0x1000;
const CONFIG: u64 = 0x2000;
const TABLE: u64 = 0x4000;
const PENDING: u64 = 0x6000;
/// The bits of an address that say what part of the window it is in.
const PART: u64 = !0xfff;

/// Told when the guest moves a function's window: where it was and where it is now, 0 for nowhere. That is where an
/// ioeventfd has to move.
pub type Moved = Box<dyn Fn(u64, u64) + Send + Sync>;

/// A device on the PCI bus.
pub struct Function {
    slot: Arc<Slot>,
    msix: Arc<Msix>,
    space: Mutex<Space>,
    selection: Mutex<Selection>,
    /// Where the window is decoded; 0 while it is not.
    window: AtomicU64,
    moved: Mutex<Option<Moved>>,
}

impl std::fmt::Debug for Function {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Function")
            .field("slot", &self.slot)
            .field("window", &self.window)
            .finish_non_exhaustive()
    }
}

/// A function in a snapshot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FunctionState {
    space: Vec<u8>,
    msix: MsixState,
    selection: Selection,
    /// The device.
    pub slot: SlotState,
}

impl Function {
    /// A device that is to be placed on the bus; `send` sends its messages, `line` is its pin for a driver without MSI-X.
    ///
    /// # Errors
    /// No descriptor is free.
    pub fn new(device: Box<dyn Device>, memory: Memory, send: SendMessage, line: Line) -> Result<Self, Errno> {
        let queues = device.queue_sizes().len();
        let msix = Arc::new(Msix::new(queues, send, line));
        let slot = Arc::new(Slot::new(device, memory, msix.clone())?);
        let space = Space::of_device(slot.kind(), msix.vectors());
        Ok(Self {
            slot,
            msix,
            space: Mutex::new(space),
            selection: Mutex::default(),
            window: AtomicU64::new(0),
            moved: Mutex::new(None),
        })
    }

    /// The device.
    #[must_use]
    pub fn slot(&self) -> &Arc<Slot> {
        &self.slot
    }

    /// Names who is told of moves of the window.
    pub fn on_move(&self, moved: Moved) {
        *self.moved.lock().unwrap_or_else(PoisonError::into_inner) = Some(moved);
    }

    /// Where the window is decoded, if it is.
    #[must_use]
    pub fn window(&self) -> Option<u64> {
        Some(self.window.load(Ordering::SeqCst)).filter(|window| *window != 0)
    }

    /// Sets the window's place, as firmware would.
    pub fn place(&self, gpa: u32) {
        self.configure(space::BAR, &gpa.to_le_bytes());
    }

    /// The guest reads the configuration space.
    pub fn read_config(&self, register: u16, into: &mut [u8]) {
        let window = self.space().window_access(register, into.len());
        if let Some((offset, length)) = window {
            // The window's bytes through the configuration space, for firmware without memory access.
            let mut bytes = [0; 4];
            self.read(offset, &mut bytes[..length]);
            into.copy_from_slice(&bytes[..into.len()]);
        } else {
            self.space().read(register, into);
        }
    }

    /// The guest writes the configuration space.
    pub fn write_config(&self, register: u16, bytes: &[u8]) {
        let window = self.space().window_access(register, bytes.len());
        if let Some((offset, length)) = window {
            self.write(offset, &bytes[..length.min(bytes.len())]);
        } else {
            self.configure(register, bytes);
        }
    }

    fn configure(&self, register: u16, bytes: &[u8]) {
        let (control, window, masked_line) = {
            let mut space = self.space();
            space.write(register, bytes);
            (space.msix_control(), space.window(), space.line_is_masked())
        };
        self.msix.control(control, masked_line);
        let window = window.unwrap_or(0);
        let before = self.window.swap(window, Ordering::SeqCst);
        if before != window
            && let Some(moved) = &*self.moved.lock().unwrap_or_else(PoisonError::into_inner)
        {
            moved(before, window);
        }
    }

    /// The guest reads at `offset` in the window.
    pub fn read(&self, offset: u64, into: &mut [u8]) {
        into.fill(0);
        let inside = offset & !PART;
        match offset & PART {
            0 => self.read_common(inside, into),
            STATUS if inside == 0 => {
                if let Some(first) = into.first_mut() {
                    let status = self.slot.interrupt().status();
                    self.slot.interrupt().acknowledge(u32::MAX);
                    *first = status.to_le_bytes()[0];
                    self.msix.lower();
                }
            }
            CONFIG => self.slot.read_config(inside, into),
            TABLE | 0x5000 => self.msix.read_table(offset - TABLE, into),
            PENDING => self.msix.read_pending(inside, into),
            _ => {}
        }
    }

    /// The guest writes at `offset` in the window.
    pub fn write(&self, offset: u64, bytes: &[u8]) {
        let inside = offset & !PART;
        match offset & PART {
            0 => self.write_common(inside, bytes),
            CONFIG => self.slot.write_config(inside, bytes),
            NOTIFY => self.slot.kick(u32::try_from(inside).unwrap_or(u32::MAX) / NOTIFY_STEP),
            TABLE | 0x5000 => self.msix.write_table(offset - TABLE, bytes),
            _ => {}
        }
    }

    /// Everything a snapshot needs; the device has to be at rest.
    #[must_use]
    pub fn save(&self) -> FunctionState {
        FunctionState {
            space: self.space().bytes(),
            msix: self.msix.save(),
            selection: *self.selection.lock().unwrap_or_else(PoisonError::into_inner),
            slot: self.slot.save(),
        }
    }

    /// Takes a saved function over.
    ///
    /// # Errors
    /// As [`Slot::restore`].
    pub fn restore(&self, state: FunctionState) -> Result<(), RestoreError> {
        self.msix.restore(&state.msix);
        *self.selection.lock().unwrap_or_else(PoisonError::into_inner) = state.selection;
        for (register, byte) in (0..).zip(&state.space) {
            self.configure(register, &[*byte]);
        }
        self.slot.restore(state.slot)
    }

    fn space(&self) -> MutexGuard<'_, Space> {
        self.space.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
