//! How a device reaches its driver: a status word that the transport shows, and a signal that the transport provides.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// A queue has used buffers.
pub const USED: u32 = 1;
/// The configuration has changed.
pub const CONFIGURATION: u32 = 2;

/// The transport's way to the driver. Called from the device's thread.
pub trait Signal: Send + Sync {
    /// A queue has used buffers.
    fn queue(&self, index: u16);
    /// The configuration, or the device's need of a reset, has changed.
    fn configuration(&self);
}

/// A device's interrupts: the status word that the driver reads and acknowledges without a lock, and the signal.
pub struct Interrupt {
    status: AtomicU32,
    /// Changes with each change of the configuration, so that the driver sees one that comes between two reads.
    generation: AtomicU32,
    signal: Arc<dyn Signal>,
}

impl fmt::Debug for Interrupt {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Interrupt").field("status", &self.status).finish_non_exhaustive()
    }
}

impl Interrupt {
    /// Interrupts that go out by `signal`.
    #[must_use]
    pub fn new(signal: Arc<dyn Signal>) -> Self {
        Self { status: AtomicU32::new(0), generation: AtomicU32::new(0), signal }
    }

    /// Tells the driver that a queue has used buffers.
    pub fn queue(&self, index: u16) {
        self.status.fetch_or(USED, Ordering::SeqCst);
        self.signal.queue(index);
    }

    /// Tells the driver to read the configuration and the status again.
    pub fn configuration(&self) {
        self.generation.fetch_add(1, Ordering::SeqCst);
        self.status.fetch_or(CONFIGURATION, Ordering::SeqCst);
        self.signal.configuration();
    }

    /// Why the driver was interrupted.
    #[must_use]
    pub fn status(&self) -> u32 {
        self.status.load(Ordering::SeqCst)
    }

    /// Takes reasons off, and gives those that remain.
    pub fn acknowledge(&self, reasons: u32) -> u32 {
        self.status.fetch_and(!reasons, Ordering::SeqCst) & !reasons
    }

    /// The configuration's generation.
    #[must_use]
    pub fn generation(&self) -> u32 {
        self.generation.load(Ordering::SeqCst)
    }

    /// Sets the word as a snapshot has it.
    pub(crate) fn restore(&self, status: u32) {
        self.status.store(status, Ordering::SeqCst);
    }
}
