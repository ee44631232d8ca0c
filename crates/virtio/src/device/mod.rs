//! The devices, one folder each: what it is, its configuration space, its requests.

pub mod balloon;
pub mod block;
pub mod console;
pub mod entropy;
pub mod fs;
pub mod net;
pub mod pmem;
pub mod vsock;

use std::collections::BTreeMap;
use std::sync::Arc;

use rustix::io::Errno;

use crate::Memory;
use crate::events::{Events, Interest};
use crate::interrupt::Interrupt;
use crate::queue::{Queue, QueueError};

/// What a device is, with its number in virtio 1.2, 5 "Device Types".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(u16)]
pub enum Kind {
    /// Network card.
    Net = 1,
    /// Disk.
    Block = 2,
    /// Console.
    Console = 3,
    /// Source of random numbers.
    Entropy = 4,
    /// Memory balloon.
    Balloon = 5,
    /// Sockets between guest and host.
    Vsock = 19,
    /// File system: a folder of the host.
    Fs = 26,
    /// Persistent memory.
    Pmem = 27,
}

/// Where a device is best run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activity {
    /// With others on one thread: seldom awake, or never for long.
    Light,
    /// On a thread of its own: it moves bytes or waits for the disk.
    Busy,
}

/// Why a device is awake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wake {
    /// The driver notified this queue.
    Queue(u16),
    /// One of the device's own descriptors is ready for something.
    Source(u64, Interest),
}

/// What became of a notification that was served where it came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Served {
    /// The queue is empty, and the driver asked to notify again.
    All,
    /// Something is left for [`Device::serve`].
    Part,
}

/// What a device counts, by name; every number only grows while the device lives, unless its name says otherwise.
pub type Metrics = BTreeMap<&'static str, u64>;

/// Why a device can't go on. The driver sees that it needs a reset.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The driver broke a queue.
    #[error("the driver broke a queue")]
    Queue(#[from] QueueError),
    /// The driver sent something that the device's protocol does not know.
    #[error("the driver broke the protocol: {0}")]
    Protocol(&'static str),
    /// The host refused what the device needs.
    #[error("{doing}: {errno}")]
    Host {
        /// What was tried.
        doing: &'static str,
        /// The kernel's answer.
        errno: Errno,
    },
}

impl DeviceError {
    /// Names what was tried when a bare errno came back.
    pub(crate) fn host(doing: &'static str) -> impl Fn(Errno) -> Self {
        move |errno| Self::Host { doing, errno }
    }
}

/// A saved device does not fit the one that is to take it over.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The snapshot holds another kind of device at this place.
    #[error("the snapshot has a {saved:?} device where this machine has a {here:?} device")]
    Kind {
        /// In the snapshot.
        saved: Kind,
        /// Here.
        here: Kind,
    },
    /// The guest uses features that this device does not offer.
    #[error("the guest uses features {missing:#x} that this {kind:?} device does not offer")]
    Features {
        /// The device.
        kind: Kind,
        /// Bits that are missing.
        missing: u64,
    },
    /// The snapshot has more queues than the device.
    #[error("the snapshot has {saved} queues of a {kind:?} device with {here}")]
    Queues {
        /// The device.
        kind: Kind,
        /// In the snapshot.
        saved: usize,
        /// Here.
        here: usize,
    },
    /// The device's own part can't be read.
    #[error("the snapshot's state of a {kind:?} device is damaged")]
    State {
        /// The device.
        kind: Kind,
        /// What the reader says.
        source: serde_json::Error,
    },
    /// The restored device did not start.
    #[error("the restored {kind:?} device did not start")]
    Start {
        /// The device.
        kind: Kind,
        /// Why.
        source: DeviceError,
    },
}

/// A device that its driver has started.
#[derive(Debug)]
pub struct Running {
    /// The guest's memory.
    pub memory: Memory,
    /// The features both sides agreed upon.
    pub features: u64,
    /// The queues; one that the driver did not enable is none.
    pub queues: Vec<Option<Queue>>,
    /// The way to the driver.
    pub interrupt: Arc<Interrupt>,
    /// What wakes the device.
    pub events: Arc<Events>,
}

impl Running {
    /// Whether both sides agreed upon a feature, by its bit's number.
    #[must_use]
    pub fn has(&self, feature: u32) -> bool {
        self.features >> feature & 1 != 0
    }

    /// A queue, if the driver enabled it.
    pub fn queue(&mut self, index: u16) -> Option<&mut Queue> {
        self.queues.get_mut(usize::from(index)).and_then(Option::as_mut)
    }
}

/// A device model. All calls come under its slot's lock, so it needs none of its own.
///
/// Long work belongs behind a descriptor in [`Running::events`]; whoever serves the device may run others on the same
/// thread, see [`Activity`].
pub trait Device: Send {
    /// What it is.
    fn kind(&self) -> Kind;

    /// The device's own features, bits 0 to 23 and 50 and above; the transport adds those of the queues.
    fn features(&self) -> u64 {
        0
    }

    /// The largest size of each queue, powers of two.
    fn queue_sizes(&self) -> Vec<u16>;

    /// Reads the configuration space; what lies beyond its end stays as it is in `into`, which is zero.
    fn read_config(&self, offset: u64, into: &mut [u8]);

    /// Writes the configuration space; what is read-only or beyond its end is left.
    fn write_config(&mut self, _offset: u64, _bytes: &[u8]) {}

    /// The driver is ready: adds what wakes the device to the events.
    ///
    /// # Errors
    /// The host refused something.
    fn activate(&mut self, running: &mut Running) -> Result<(), DeviceError>;

    /// Does what there is to do.
    ///
    /// # Errors
    /// The driver broke the protocol, or the host refused what the device can't do without: the device needs a reset.
    fn serve(&mut self, running: &mut Running, wake: Wake) -> Result<(), DeviceError>;

    /// The driver notified a queue, and this is its vCPU's thread: does what can be done without waiting for anything of the host.
    ///
    /// # Errors
    /// As [`Device::serve`].
    fn serve_at_once(&mut self, _running: &mut Running, _queue: u16) -> Result<Served, DeviceError> {
        Ok(Served::Part)
    }

    /// Forgets the driver: everything as before the first activation. Descriptors that stay open leave the events here.
    fn reset(&mut self, running: &Running);

    /// Finishes or puts back what is in flight, so that memory and queues can be copied. Serving goes on afterwards.
    ///
    /// # Errors
    /// As [`Device::serve`].
    fn settle(&mut self, _running: &mut Running) -> Result<(), DeviceError> {
        Ok(())
    }

    /// The device's own state beyond its queues.
    fn save(&self) -> serde_json::Value {
        serde_json::Value::Null
    }

    /// Takes over a saved state; the activation follows.
    ///
    /// # Errors
    /// The state is not of this device.
    fn restore(&mut self, _state: serde_json::Value) -> Result<(), serde_json::Error> {
        Ok(())
    }

    /// What the device has counted.
    fn metrics(&self) -> Metrics {
        Metrics::new()
    }

    /// Where it is best run.
    fn activity(&self) -> Activity {
        Activity::Light
    }
}

/// Copies the part of a configuration space that a driver asks for.
pub(crate) fn read_space(space: &[u8], offset: u64, into: &mut [u8]) {
    let Some(from) = usize::try_from(offset).ok().and_then(|offset| space.get(offset..)) else { return };
    let length = from.len().min(into.len());
    into[..length].copy_from_slice(&from[..length]);
}
