//! Entropy device ("rng"): fills the driver's buffers with random bytes of the host.
//!
//! One queue, no configuration, no features. A limit keeps a guest from spending the host's time here.
//!
//! # Source
//! Virtio 1.2, 5.4 "Entropy Device".

#[cfg(test)]
mod tests;

use rustix::rand::{GetRandomFlags, getrandom};

use super::{Device, DeviceError, Kind, Metrics, Running, Wake};
use crate::limit::{Limit, Limiter};

const QUEUE_SIZE: u16 = 64;
/// Bytes given to one request at most; fewer than asked for is a valid answer.
const MOST: usize = 64 << 10;
const TIMER: u64 = 0;

/// The device.
#[derive(Debug)]
pub struct Entropy {
    limiter: Limiter,
    bytes: u64,
    requests: u64,
}

impl Entropy {
    /// A device that gives no more than `limit`.
    ///
    /// # Errors
    /// No descriptor is free.
    pub fn new(limit: Limit) -> Result<Self, DeviceError> {
        Ok(Self { limiter: Limiter::new(limit)?, bytes: 0, requests: 0 })
    }

    fn fill(&mut self, running: &mut Running) -> Result<(), DeviceError> {
        let memory = running.memory.clone();
        let Some(queue) = running.queue(0) else { return Ok(()) };
        while let Some(chain) = queue.pop()? {
            let mut writer = chain.writer(&memory);
            let length = writer.remaining().min(MOST);
            if !self.limiter.take(length as u64)? {
                queue.unpop();
                break;
            }
            let mut bytes = vec![0; length];
            let mut done = 0;
            while done < length {
                done +=
                    getrandom(&mut bytes[done..], GetRandomFlags::empty()).map_err(DeviceError::host("getrandom"))?;
            }
            writer.write(&bytes);
            let written = writer.written();
            self.bytes += u64::from(written);
            self.requests += 1;
            queue.complete(chain.head(), written)?;
        }
        queue.signal()?;
        Ok(())
    }
}

impl Device for Entropy {
    fn kind(&self) -> Kind {
        Kind::Entropy
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE]
    }

    fn read_config(&self, _offset: u64, _into: &mut [u8]) {}

    fn activate(&mut self, running: &mut Running) -> Result<(), DeviceError> {
        self.limiter.watch(&running.events, TIMER)
    }

    fn serve(&mut self, running: &mut Running, wake: Wake) -> Result<(), DeviceError> {
        if let Wake::Source(TIMER, _) = wake {
            self.limiter.elapsed();
        }
        if self.limiter.blocked() { Ok(()) } else { self.fill(running) }
    }

    fn reset(&mut self, running: &Running) {
        self.limiter.ignore(&running.events);
    }

    fn metrics(&self) -> Metrics {
        Metrics::from([("bytes", self.bytes), ("requests", self.requests), ("throttled", self.limiter.throttled())])
    }
}
