//! Block device: a disk over a file of the host.
//!
//! ```text
//! request   type u32, reserved u32, sector u64 | data ... | status u8
//!           read by the device                   either     written by the device, the chain's last byte
//! ```
//!
//! A write is on the host's disk when a later flush has answered; without the flush feature, or when the driver turned the
//! write-back cache off, when the write itself has answered.
//!
//! # Source
//! Virtio 1.2, 5.2 "Block Device".

mod config;
mod disk;
mod qcow2;
mod raw;
mod request;
mod slices;
#[cfg(test)]
mod tests;

pub use disk::{Access, Cache, Disk, DiskError, SECTOR, Zeroes};
pub use qcow2::{Backing, Qcow2};
pub use raw::Raw;

use super::{Activity, Device, DeviceError, Kind, Metrics, Running, Served, Wake};
use crate::limit::{Limit, Limiter};
use config::Config;
use request::Request;

const QUEUE_SIZE: u16 = 256;
/// Bytes of a disk's name.
pub const ID_BYTES: usize = 20;
const TIMER: u64 = 0;
/// Bytes that one notification moves on its vCPU's thread; with more to move, a thread of its own is worth its price.
const AT_ONCE: u64 = 1 << 20;

const FEATURE_SEGMENTS: u32 = 2;
const FEATURE_READ_ONLY: u32 = 5;
const FEATURE_BLOCK_SIZE: u32 = 6;
const FEATURE_FLUSH: u32 = 9;
const FEATURE_TOPOLOGY: u32 = 10;
const FEATURE_CACHE_MODE: u32 = 11;
const FEATURE_QUEUES: u32 = 12;
const FEATURE_DISCARD: u32 = 13;
const FEATURE_WRITE_ZEROES: u32 = 14;

/// How a disk is shown to the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The name that the guest reads, cut to [`ID_BYTES`].
    pub id: String,
    /// Queues, one for each of the guest's processors as a rule; at least one.
    pub queues: u16,
    /// What the guest may do in a second.
    pub limit: Limit,
}

/// The device.
pub struct Block {
    disk: Box<dyn Disk>,
    config: Config,
    settings: Settings,
    limiter: Limiter,
    /// Whether writes may stay in the host's cache until a flush.
    write_back: bool,
    /// Whether there may be something that a flush has to make last; at first there may, from whoever wrote before.
    unflushed: bool,
    counters: Counters,
}

/// What the device has done.
#[derive(Debug, Default, Clone, Copy)]
struct Counters {
    reads: u64,
    writes: u64,
    flushes: u64,
    discards: u64,
    read_bytes: u64,
    written_bytes: u64,
    errors: u64,
}

impl Block {
    /// A device over an open disk.
    ///
    /// # Errors
    /// No descriptor is free.
    pub fn new(disk: Box<dyn Disk>, mut settings: Settings) -> Result<Self, DeviceError> {
        settings.queues = settings.queues.max(1);
        let config = Config::new(disk.as_ref(), &settings);
        let limiter = Limiter::new(settings.limit)?;
        let unflushed = disk.access() == Access::ReadWrite;
        Ok(Self { disk, config, settings, limiter, write_back: true, unflushed, counters: Counters::default() })
    }

    fn serve_queue(&mut self, running: &mut Running, index: u16) -> Result<(), DeviceError> {
        let memory = running.memory.clone();
        let Some(queue) = running.queue(index) else { return Ok(()) };
        while let Some(chain) = queue.pop()? {
            let request = Request::parse(&chain, &memory)?;
            if !self.limiter.take(request.data_bytes())? {
                queue.unpop();
                break;
            }
            let written = self.perform(request);
            queue.complete(chain.head(), written)?;
        }
        queue.signal()?;
        Ok(())
    }
}

impl Device for Block {
    fn kind(&self) -> Kind {
        Kind::Block
    }

    fn features(&self) -> u64 {
        let always = [FEATURE_SEGMENTS, FEATURE_BLOCK_SIZE, FEATURE_FLUSH, FEATURE_TOPOLOGY, FEATURE_CACHE_MODE];
        let mut features = always.into_iter().fold(0, |all, bit| all | 1 << bit);
        if self.settings.queues > 1 {
            features |= 1 << FEATURE_QUEUES;
        }
        match self.disk.access() {
            Access::ReadOnly => features | 1 << FEATURE_READ_ONLY,
            Access::ReadWrite => features | 1 << FEATURE_DISCARD | 1 << FEATURE_WRITE_ZEROES,
        }
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE; self.settings.queues.into()]
    }

    fn read_config(&self, offset: u64, into: &mut [u8]) {
        self.config.read(offset, into);
    }

    fn write_config(&mut self, offset: u64, bytes: &[u8]) {
        self.config.write(offset, bytes);
    }

    fn activate(&mut self, running: &mut Running) -> Result<(), DeviceError> {
        self.write_back = running.has(FEATURE_FLUSH);
        self.config.lock_cache_mode(running.has(FEATURE_CACHE_MODE));
        self.limiter.watch(&running.events, TIMER)
    }

    fn serve(&mut self, running: &mut Running, wake: Wake) -> Result<(), DeviceError> {
        match wake {
            Wake::Queue(_) if self.limiter.blocked() => Ok(()),
            Wake::Queue(index) => self.serve_queue(running, index),
            Wake::Source(..) => {
                self.limiter.elapsed();
                (0..self.settings.queues).try_for_each(|index| {
                    if self.limiter.blocked() { Ok(()) } else { self.serve_queue(running, index) }
                })
            }
        }
    }

    fn serve_at_once(&mut self, running: &mut Running, index: u16) -> Result<Served, DeviceError> {
        let memory = running.memory.clone();
        let Some(queue) = running.queue(index).filter(|_| !self.limiter.blocked()) else { return Ok(Served::Part) };
        let (mut moved, mut served) = (0, Served::All);
        while let Some(chain) = queue.pop()? {
            let request = Request::parse(&chain, &memory)?;
            let bytes = request.data_bytes();
            let done =
                if moved + bytes > AT_ONCE || self.limiter.limits() { None } else { self.perform_at_once(&request) };
            let Some(written) = done else {
                queue.unpop();
                served = Served::Part;
                break;
            };
            moved += bytes;
            queue.complete(chain.head(), written)?;
        }
        queue.signal()?;
        Ok(served)
    }

    fn reset(&mut self, running: &Running) {
        self.limiter.ignore(&running.events);
        self.config.reset();
        self.write_back = true;
    }

    fn settle(&mut self, _running: &mut Running) -> Result<(), DeviceError> {
        // A snapshot's disk must not be behind its memory.
        self.disk.flush().map_err(DeviceError::host("flushing the disk"))
    }

    fn save(&self) -> serde_json::Value {
        serde_json::json!({ "write_back": self.config.write_back() })
    }

    fn restore(&mut self, state: serde_json::Value) -> Result<(), serde_json::Error> {
        #[derive(serde::Deserialize)]
        struct Saved {
            write_back: bool,
        }
        let saved: Saved = serde_json::from_value(state)?;
        self.config.write(config::WRITE_BACK, &[saved.write_back.into()]);
        Ok(())
    }

    fn metrics(&self) -> Metrics {
        let Counters { reads, writes, flushes, discards, read_bytes, written_bytes, errors } = self.counters;
        Metrics::from([
            ("discards", discards),
            ("errors", errors),
            ("flushes", flushes),
            ("read_bytes", read_bytes),
            ("reads", reads),
            ("throttled", self.limiter.throttled()),
            ("writes", writes),
            ("written_bytes", written_bytes),
        ])
    }

    fn activity(&self) -> Activity {
        Activity::Busy
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        if self.disk.access() == Access::ReadWrite
            && let Err(errno) = self.disk.flush()
        {
            tracing::error!(%errno, id = self.settings.id, "the disk could not be flushed at its end");
        }
    }
}
