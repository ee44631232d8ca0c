//! Memory balloon: memory that the guest lends to the host, or says that it does not use.
//!
//! ```text
//! queues   inflate, deflate: arrays of page numbers      statistics: the driver's figures, given back when new ones are wanted
//!          reporting: the free ranges themselves, to be taken from under the guest until it gives them back
//! ```
//!
//! The host sets a target; the driver inflates or deflates to it, and writes how far it came. With deflate-on-OOM it takes
//! pages back by itself before it kills a program. A queue whose feature the driver did not take does not count: those behind
//! it move up.
//!
//! # Source
//! Virtio 1.2, 5.5 "Traditional Memory Balloon Device".

mod statistics;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{Device, DeviceError, Kind, Metrics, Running, Wake, read_space};
use crate::events::{Interest, Kick};
use crate::queue::Chain;
use statistics::Statistics;

const QUEUE_SIZE: u16 = 128;
/// Pages are of this size here, whatever the guest's are.
pub const PAGE_BYTES: u64 = 4096;
const FEATURE_STATISTICS: u32 = 1;
const FEATURE_DEFLATE_ON_OOM: u32 = 2;
const FEATURE_REPORTING: u32 = 5;

const INFLATE: u16 = 0;
const DEFLATE: u16 = 1;
const ORDERED: u64 = 0;

/// How a balloon is shown to the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Settings {
    /// Bytes that the guest is to lend from the beginning.
    pub target: u64,
    /// What the guest does when it runs out of memory.
    pub pressure: Pressure,
}

/// What a guest does that runs out of memory while it lends some.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pressure {
    /// It takes pages back.
    Deflate,
    /// It kills a program.
    Keep,
}

#[derive(Debug)]
struct Orders {
    target: AtomicU64,
    statistics: AtomicU64,
    lent: AtomicU64,
    kick: Kick,
}

/// The host's hand on a balloon, from any thread.
#[derive(Debug, Clone)]
pub struct Pump(Arc<Orders>);

impl Pump {
    /// The guest is to lend this many bytes, in whole pages.
    pub fn set_target(&self, bytes: u64) {
        self.0.target.store(bytes, Ordering::SeqCst);
        self.0.kick.kick();
    }

    /// What the guest is to lend.
    #[must_use]
    pub fn target(&self) -> u64 {
        self.0.target.load(Ordering::SeqCst)
    }

    /// What the guest says it lends, bytes.
    #[must_use]
    pub fn lent(&self) -> u64 {
        self.0.lent.load(Ordering::SeqCst)
    }

    /// Asks the guest for new figures; they are among the metrics once it has answered.
    pub fn ask_for_statistics(&self) {
        self.0.statistics.fetch_add(1, Ordering::SeqCst);
        self.0.kick.kick();
    }
}

/// The device.
#[derive(Debug)]
pub struct Balloon {
    settings: Settings,
    orders: Arc<Orders>,
    /// The target that the driver reads, pages.
    target: u32,
    /// What the driver says it lends, pages.
    actual: u32,
    statistics: Statistics,
    taken: u64,
    reported: u64,
    refused: u64,
}

impl Balloon {
    /// A balloon, and the host's hand on it.
    ///
    /// # Errors
    /// No descriptor is free.
    pub fn new(settings: Settings) -> Result<(Self, Pump), DeviceError> {
        let orders = Arc::new(Orders {
            target: AtomicU64::new(settings.target),
            statistics: AtomicU64::new(0),
            lent: AtomicU64::new(0),
            kick: Kick::new().map_err(DeviceError::host("eventfd"))?,
        });
        let balloon = Self {
            settings,
            orders: Arc::clone(&orders),
            target: pages(settings.target),
            actual: 0,
            statistics: Statistics::default(),
            taken: 0,
            reported: 0,
            refused: 0,
        };
        Ok((balloon, Pump(orders)))
    }

    fn statistics_queue(running: &Running) -> Option<u16> {
        running.has(FEATURE_STATISTICS).then_some(2)
    }

    fn reporting_queue(running: &Running) -> Option<u16> {
        let place = 2 + u16::from(running.has(FEATURE_STATISTICS));
        running.has(FEATURE_REPORTING).then_some(place)
    }

    /// The host has given orders.
    fn obey(&mut self, running: &mut Running) -> Result<(), DeviceError> {
        self.orders.kick.take();
        let target = pages(self.orders.target.load(Ordering::SeqCst));
        if target != self.target {
            self.target = target;
            running.interrupt.configuration();
        }
        let asked = self.orders.statistics.load(Ordering::SeqCst);
        match Self::statistics_queue(running).and_then(|queue| running.queue(queue)) {
            Some(queue) => self.statistics.ask(queue, asked),
            None => Ok(()),
        }
    }

    /// Does something with each chain of a queue.
    fn each(
        &mut self,
        running: &mut Running,
        index: u16,
        mut work: impl FnMut(&mut Self, &crate::Memory, &Chain) -> Result<(), DeviceError>,
    ) -> Result<(), DeviceError> {
        let memory = running.memory.clone();
        let Some(queue) = running.queue(index) else { return Ok(()) };
        while let Some(chain) = queue.pop()? {
            work(self, &memory, &chain)?;
            queue.complete(chain.head(), 0)?;
        }
        queue.signal()?;
        Ok(())
    }

    /// Takes the pages that the guest lends, neighbours together.
    fn inflate(&mut self, memory: &crate::Memory, chain: &Chain) -> Result<(), DeviceError> {
        let bytes = chain.reader(memory).rest(usize::MAX);
        let (numbers, rest) = bytes.as_chunks::<4>();
        if !rest.is_empty() {
            return Err(DeviceError::Protocol("an array of page numbers is cut in the middle of one"));
        }
        let mut numbers: Vec<u32> = numbers.iter().map(|number| u32::from_le_bytes(*number)).collect();
        numbers.sort_unstable();
        numbers.dedup();
        for run in numbers.chunk_by(|low, high| low + 1 == *high) {
            let (Some(first), count) = (run.first(), run.len() as u64) else { continue };
            self.taken += self.discard(memory, u64::from(*first) * PAGE_BYTES, count * PAGE_BYTES);
        }
        Ok(())
    }

    /// Takes free ranges from under the guest; they read as zeroes, or anything, when it uses them again.
    fn report(&mut self, memory: &crate::Memory, chain: &Chain) {
        for segment in chain.room() {
            self.reported += self.discard(memory, segment.address, segment.length.into());
        }
    }

    /// Gives memory back to the host; a range that is no RAM, or that the host can't take, stays. Gives how much it was.
    fn discard(&mut self, memory: &crate::Memory, gpa: u64, length: u64) -> u64 {
        match memory.discard(gpa, length) {
            Ok(()) => length,
            Err(error) => {
                self.refused += length;
                tracing::debug!(error = &error as &dyn std::error::Error, "memory of the balloon stays where it is");
                0
            }
        }
    }
}

/// Whole pages in a count of bytes.
fn pages(bytes: u64) -> u32 {
    u32::try_from(bytes / PAGE_BYTES).unwrap_or(u32::MAX)
}

impl Device for Balloon {
    fn kind(&self) -> Kind {
        Kind::Balloon
    }

    fn features(&self) -> u64 {
        let deflate = u64::from(self.settings.pressure == Pressure::Deflate) << FEATURE_DEFLATE_ON_OOM;
        1 << FEATURE_STATISTICS | 1 << FEATURE_REPORTING | deflate
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE; 4]
    }

    fn read_config(&self, offset: u64, into: &mut [u8]) {
        let space = [self.target.to_le_bytes(), self.actual.to_le_bytes()].concat();
        read_space(&space, offset, into);
    }

    fn write_config(&mut self, offset: u64, bytes: &[u8]) {
        if let (4, Ok(actual)) = (offset, bytes.try_into()) {
            self.actual = u32::from_le_bytes(actual);
            self.orders.lent.store(u64::from(self.actual) * PAGE_BYTES, Ordering::SeqCst);
        }
    }

    fn activate(&mut self, running: &mut Running) -> Result<(), DeviceError> {
        running.events.add(&self.orders.kick, ORDERED, Interest::IN).map_err(DeviceError::host("epoll_ctl"))
    }

    fn serve(&mut self, running: &mut Running, wake: Wake) -> Result<(), DeviceError> {
        match wake {
            Wake::Source(..) => self.obey(running),
            Wake::Queue(INFLATE) => self.each(running, INFLATE, Self::inflate),
            // The pages come back when the guest touches them.
            Wake::Queue(DEFLATE) => self.each(running, DEFLATE, |_, _, _| Ok(())),
            Wake::Queue(queue) if Some(queue) == Self::statistics_queue(running) => {
                let memory = running.memory.clone();
                running.queue(queue).map_or(Ok(()), |queue| self.statistics.take(queue, &memory))
            }
            Wake::Queue(queue) if Some(queue) == Self::reporting_queue(running) => {
                self.each(running, queue, |balloon, memory, chain| {
                    balloon.report(memory, chain);
                    Ok(())
                })
            }
            Wake::Queue(_) => Ok(()),
        }
    }

    fn reset(&mut self, running: &Running) {
        running.events.remove(&self.orders.kick);
        self.actual = 0;
        self.orders.lent.store(0, Ordering::SeqCst);
        self.statistics = Statistics::default();
    }

    fn settle(&mut self, running: &mut Running) -> Result<(), DeviceError> {
        match Self::statistics_queue(running).and_then(|queue| running.queue(queue)) {
            Some(queue) => {
                self.statistics.put_back(queue);
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn save(&self) -> serde_json::Value {
        serde_json::json!({ "target": self.target, "actual": self.actual })
    }

    fn restore(&mut self, state: serde_json::Value) -> Result<(), serde_json::Error> {
        #[derive(serde::Deserialize)]
        struct Saved {
            target: u32,
            actual: u32,
        }
        let saved: Saved = serde_json::from_value(state)?;
        (self.target, self.actual) = (saved.target, saved.actual);
        self.orders.target.store(u64::from(saved.target) * PAGE_BYTES, Ordering::SeqCst);
        self.orders.lent.store(u64::from(saved.actual) * PAGE_BYTES, Ordering::SeqCst);
        Ok(())
    }

    fn metrics(&self) -> Metrics {
        let mut metrics = self.statistics.figures();
        metrics.extend([
            ("balloon_lent_bytes", u64::from(self.actual) * PAGE_BYTES),
            ("balloon_refused_bytes", self.refused),
            ("balloon_reported_bytes", self.reported),
            ("balloon_taken_bytes", self.taken),
            ("balloon_target_bytes", u64::from(self.target) * PAGE_BYTES),
        ]);
        metrics
    }
}
