//! Persistent memory: a file of the host that the guest sees as memory, and this device to make it last.
//!
//! The file is mapped by whoever makes the guest's memory ([`hv::memory::Backing`]); here is its address for the driver, and
//! the flush that the mapping lacks.
//!
//! # Source
//! Virtio 1.2, 5.19 "PMEM Device".

#[cfg(test)]
mod tests;

use std::fs::File;
use std::sync::Arc;

use super::{Activity, Device, DeviceError, Kind, Metrics, Running, Wake, read_space};

const QUEUE_SIZE: u16 = 64;
const FLUSH: u32 = 0;
const OK: u32 = 0;
const FAILED: u32 = 1;

/// The device.
#[derive(Debug)]
pub struct Pmem {
    file: Arc<File>,
    start: u64,
    bytes: u64,
    flushes: u64,
    errors: u64,
}

impl Pmem {
    /// A device for the region of `bytes` bytes at `start`, over `file`.
    #[must_use]
    pub fn new(file: Arc<File>, start: u64, bytes: u64) -> Self {
        Self { file, start, bytes, flushes: 0, errors: 0 }
    }

    fn flush(&mut self) -> u32 {
        self.flushes += 1;
        match rustix::fs::fdatasync(&self.file) {
            Ok(()) => OK,
            Err(errno) => {
                self.errors += 1;
                tracing::warn!(%errno, "the persistent memory can't be flushed");
                FAILED
            }
        }
    }
}

impl Device for Pmem {
    fn kind(&self) -> Kind {
        Kind::Pmem
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE]
    }

    fn read_config(&self, offset: u64, into: &mut [u8]) {
        let space = [self.start.to_le_bytes(), self.bytes.to_le_bytes()].concat();
        read_space(&space, offset, into);
    }

    fn activate(&mut self, _running: &mut Running) -> Result<(), DeviceError> {
        Ok(())
    }

    fn serve(&mut self, running: &mut Running, _wake: Wake) -> Result<(), DeviceError> {
        let memory = running.memory.clone();
        let Some(queue) = running.queue(0) else { return Ok(()) };
        let mut flushed = None;
        while let Some(chain) = queue.pop()? {
            let kind = chain.reader(&memory).array().map(u32::from_le_bytes);
            let mut writer = chain.writer(&memory);
            if writer.remaining() < 4 {
                return Err(DeviceError::Protocol("a pmem request without room for its answer"));
            }
            // What waits together was written before the first of them was looked at: one flush is enough for all.
            let answer = match kind {
                Some(FLUSH) => *flushed.get_or_insert_with(|| self.flush()),
                _ => FAILED,
            };
            writer.write(&answer.to_le_bytes());
            queue.complete(chain.head(), writer.written())?;
        }
        queue.signal()?;
        Ok(())
    }

    fn reset(&mut self, _running: &Running) {}

    fn metrics(&self) -> Metrics {
        Metrics::from([("errors", self.errors), ("flushes", self.flushes)])
    }

    fn activity(&self) -> Activity {
        Activity::Busy
    }
}
