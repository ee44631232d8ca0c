//! Network card: frames between the guest and a backend of the host.
//!
//! ```text
//! queues   receive 0, transmit 0, (receive 1, transmit 1, ...) control
//! frame    header of 12 bytes: flags, segmentation, checksum, count of buffers | Ethernet frame
//! ```
//!
//! What the driver negotiates about checksums and large segments is handed to the backend, which does the work or has the
//! kernel do it. The control queue is the third when the driver takes one pair of queues only.
//!
//! # Source
//! Virtio 1.2, 5.1 "Network Device".

mod backend;
mod control;
mod receive;
mod tap;
#[cfg(test)]
mod tests;
pub mod user;

use std::fmt;

use super::{Activity, Device, DeviceError, Kind, Metrics, Running, Served, Wake, read_space};
use crate::limit::{Limit, Limiter};
pub use backend::{Backend, Frame, PLAIN_HEADER, Want};
use receive::Receive;
pub use tap::TapBackend;

const QUEUE_SIZE: u16 = 256;
const CONTROL_SIZE: u16 = 64;
/// Bytes of the header in front of each frame.
pub const HEADER_BYTES: usize = 12;
/// The largest frame: 64 KiB of IP in one segment behind an Ethernet header with a VLAN tag.
pub const LARGEST_FRAME: usize = 65_535 + 18;
/// Frames up to this length are sent by the vCPU itself. A stream's longer ones are better sent many at a time, by another thread.
const SHORT: usize = 2048;
/// The most pairs of queues.
pub const MOST_PAIRS: u16 = 16;

const FEATURE_MTU: u32 = 3;
const FEATURE_MAC: u32 = 5;
const FEATURE_MERGE: u32 = 15;
const FEATURE_STATUS: u32 = 16;
const FEATURE_CONTROL: u32 = 17;
const FEATURE_CONTROL_RECEIVE: u32 = 18;
const FEATURE_ANNOUNCE: u32 = 21;
const FEATURE_PAIRS: u32 = 22;
const FEATURE_CONTROL_MAC: u32 = 23;
/// The features about checksums and segments, which are the backend's to offer.
pub const OFFLOADS: u64 = 0x7f83 | 1 << 2;

const RECEIVE_TIMER: u64 = 0;
const TRANSMIT_TIMER: u64 = 1;
/// From here on, a token is a backend's pair.
const BACKEND: u64 = 2;

/// How a card is shown to the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The hardware address.
    pub mac: [u8; 6],
    /// The largest packet, if the guest is to be told.
    pub mtu: Option<u16>,
    /// What may come to the guest.
    pub receive_limit: Limit,
    /// What the guest may send.
    pub transmit_limit: Limit,
}

/// What the configuration's status says: the link is up, and the driver is to announce itself.
const LINK_UP: u8 = 1;
const ANNOUNCE: u8 = 2;

/// A guest that was restored may be somewhere else: those around it learn of that when it announces itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Announcement {
    None,
    /// The driver has to be told.
    Due,
    /// It has been, and has not said yet that it did.
    Told,
}

/// The device.
pub struct Net {
    backend: Box<dyn Backend>,
    settings: Settings,
    /// The address that the driver reads; it may have set another one.
    mac: [u8; 6],
    announcement: Announcement,
    receive_limiter: Limiter,
    transmit_limiter: Limiter,
    pairs: Vec<Receive>,
    /// Pairs that the driver uses.
    active: u16,
    counters: Counters,
}

/// What the device has done.
#[derive(Debug, Default, Clone, Copy)]
struct Counters {
    received: u64,
    received_bytes: u64,
    transmitted: u64,
    transmitted_bytes: u64,
    dropped: u64,
}

impl fmt::Debug for Net {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Net").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Net {
    /// A card in front of a backend.
    ///
    /// # Errors
    /// No descriptor is free.
    pub fn new(backend: Box<dyn Backend>, settings: Settings) -> Result<Self, DeviceError> {
        let pairs = backend.pairs().clamp(1, MOST_PAIRS);
        Ok(Self {
            receive_limiter: Limiter::new(settings.receive_limit)?,
            transmit_limiter: Limiter::new(settings.transmit_limit)?,
            pairs: (0..pairs).map(|_| Receive::default()).collect(),
            active: 1,
            backend,
            mac: settings.mac,
            announcement: Announcement::None,
            settings,
            counters: Counters::default(),
        })
    }

    fn pair_count(&self) -> u16 {
        u16::try_from(self.pairs.len()).unwrap_or(MOST_PAIRS)
    }

    /// The control queue's number for a driver that uses several pairs or only one.
    fn control_queue(&self, running: &Running) -> u16 {
        if running.has(FEATURE_PAIRS) { 2 * self.pair_count() } else { 2 }
    }

    /// Asks the driver to announce itself, if it has to and was not asked yet.
    fn ask_for_announcement(&mut self, running: &Running) {
        if self.announcement == Announcement::Due {
            self.announcement = Announcement::Told;
            running.interrupt.configuration();
        }
    }

    /// Sends what waits, up to the first frame that is longer than `longest`, and says whether that was all.
    fn transmit(&mut self, running: &mut Running, pair: u16, longest: usize) -> Result<Served, DeviceError> {
        let mut served = Served::All;
        let memory = running.memory.clone();
        let Some(queue) = running.queue(2 * pair + 1) else { return Ok(served) };
        while let Some(chain) = queue.pop()? {
            let mut reader = chain.reader(&memory);
            let length = reader.remaining();
            if !(HEADER_BYTES..=HEADER_BYTES + LARGEST_FRAME).contains(&length) {
                return Err(DeviceError::Protocol("a frame without a header, or one that is too long"));
            }
            if length > longest {
                queue.unpop();
                served = Served::Part;
                break;
            }
            if !self.transmit_limiter.take(length as u64)? {
                queue.unpop();
                break;
            }
            if self.backend.transmit(pair, Frame { reader: &mut reader }) {
                self.counters.transmitted += 1;
                self.counters.transmitted_bytes += (length - HEADER_BYTES) as u64;
            } else {
                self.counters.dropped += 1;
            }
            queue.complete(chain.head(), 0)?;
        }
        queue.signal()?;
        self.backend.transmitted(&running.events, BACKEND)?;
        // What the backend answers itself is there already.
        if self.backend.answers() {
            self.receive(running, pair)?;
        }
        Ok(served)
    }
}

impl Device for Net {
    fn kind(&self) -> Kind {
        Kind::Net
    }

    fn features(&self) -> u64 {
        let control = [FEATURE_CONTROL, FEATURE_CONTROL_RECEIVE, FEATURE_ANNOUNCE, FEATURE_CONTROL_MAC];
        let always = [FEATURE_MAC, FEATURE_MERGE, FEATURE_STATUS].into_iter().chain(control);
        let common = always.fold(0, |all, bit| all | 1 << bit);
        let mtu = u64::from(self.settings.mtu.is_some()) << FEATURE_MTU;
        let pairs = u64::from(self.pairs.len() > 1) << FEATURE_PAIRS;
        common | mtu | pairs | self.backend.offloads() & OFFLOADS
    }

    fn queue_sizes(&self) -> Vec<u16> {
        let mut sizes = vec![QUEUE_SIZE; 2 * self.pairs.len()];
        sizes.push(CONTROL_SIZE);
        sizes
    }

    fn read_config(&self, offset: u64, into: &mut [u8]) {
        let mut space = [0; 12];
        space[..6].copy_from_slice(&self.mac);
        space[6] = LINK_UP | if self.announcement == Announcement::None { 0 } else { ANNOUNCE };
        space[8..10].copy_from_slice(&self.pair_count().to_le_bytes());
        space[10..].copy_from_slice(&self.settings.mtu.unwrap_or_default().to_le_bytes());
        read_space(&space, offset, into);
    }

    fn activate(&mut self, running: &mut Running) -> Result<(), DeviceError> {
        self.receive_limiter.watch(&running.events, RECEIVE_TIMER)?;
        self.transmit_limiter.watch(&running.events, TRANSMIT_TIMER)?;
        if !running.has(FEATURE_ANNOUNCE) || !running.has(FEATURE_CONTROL) {
            self.announcement = Announcement::None;
        }
        self.backend.set_offloads(running.features & OFFLOADS)?;
        self.backend.start(&running.events, BACKEND)?;
        (0..self.active).try_for_each(|pair| self.receive(running, pair))
    }

    fn serve(&mut self, running: &mut Running, wake: Wake) -> Result<(), DeviceError> {
        self.ask_for_announcement(running);
        match wake {
            Wake::Source(RECEIVE_TIMER, _) => {
                self.receive_limiter.elapsed();
                (0..self.active).try_for_each(|pair| self.receive(running, pair))
            }
            Wake::Source(TRANSMIT_TIMER, _) => {
                self.transmit_limiter.elapsed();
                (0..self.active).try_for_each(|pair| self.transmit(running, pair, usize::MAX).map(drop))
            }
            Wake::Source(token, _) => {
                let pair = self.backend.ready(&running.events, BACKEND, token)?;
                self.receive(running, pair)
            }
            Wake::Queue(queue) if queue == self.control_queue(running) => self.control(running, queue),
            Wake::Queue(queue) if queue.is_multiple_of(2) => self.receive(running, queue / 2),
            Wake::Queue(_) if self.transmit_limiter.blocked() => Ok(()),
            Wake::Queue(queue) => self.transmit(running, queue / 2, usize::MAX).map(drop),
        }
    }

    fn serve_at_once(&mut self, running: &mut Running, queue: u16) -> Result<Served, DeviceError> {
        // No backend waits: what has no room is lost, as on a wire, or watched for.
        let transmits = queue != self.control_queue(running) && !queue.is_multiple_of(2);
        if transmits && !self.transmit_limiter.blocked() {
            return self.transmit(running, queue / 2, SHORT);
        }
        self.serve(running, Wake::Queue(queue)).map(|()| Served::All)
    }

    fn reset(&mut self, running: &Running) {
        self.receive_limiter.ignore(&running.events);
        self.transmit_limiter.ignore(&running.events);
        self.backend.stop(&running.events);
        self.pairs.iter_mut().for_each(|pair| *pair = Receive::default());
        self.active = 1;
        self.mac = self.settings.mac;
        self.announcement = Announcement::None;
    }

    fn save(&self) -> serde_json::Value {
        serde_json::json!({ "active": self.active, "mac": self.mac, "backend": self.backend.save() })
    }

    fn restore(&mut self, state: serde_json::Value) -> Result<(), serde_json::Error> {
        #[derive(serde::Deserialize)]
        struct Saved {
            active: u16,
            mac: Option<[u8; 6]>,
            #[serde(default)]
            backend: serde_json::Value,
        }
        let saved: Saved = serde_json::from_value(state)?;
        if !saved.backend.is_null() {
            self.backend.restore(saved.backend)?;
        }
        self.active = saved.active.clamp(1, self.pair_count());
        self.mac = saved.mac.unwrap_or(self.settings.mac);
        self.announcement = Announcement::Due;
        Ok(())
    }

    fn metrics(&self) -> Metrics {
        let Counters { received, received_bytes, transmitted, transmitted_bytes, dropped } = self.counters;
        Metrics::from([
            ("dropped", dropped),
            ("received", received),
            ("received_bytes", received_bytes),
            ("throttled", self.receive_limiter.throttled() + self.transmit_limiter.throttled()),
            ("transmitted", transmitted),
            ("transmitted_bytes", transmitted_bytes),
        ])
    }

    fn activity(&self) -> Activity {
        Activity::Busy
    }
}
