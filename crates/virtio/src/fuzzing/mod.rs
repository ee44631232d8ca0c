//! Entries for the fuzz targets and their replay: a hostile driver, whose every step the input chooses.
//!
//! ```text
//! step   first byte modulo 8
//! 0      a chain: queue, count of parts, then for each a byte of length and direction, and its content
//! 1      a raw descriptor: queue, number, address u24, length u16, flags, next
//! 2      a head made available: queue, head
//! 3      a notification: queue, the highest bit saying that it may be served where it comes in; then the device is served
//! 4      a write to the configuration space: offset, length, bytes
//! 5      a reset and a new start without some features: their mask
//! 6      a write to memory: address u24, length, bytes
//! 7      a snapshot, and the device at rest
//! ```

mod buses;
mod devices;

pub use buses::{mmio, pci};
pub use devices::{balloon, block, console, entropy, fs, net, pmem, qcow2, user_network, vsock};

use std::sync::Arc;

use vm_memory::{Bytes, GuestAddress};

use crate::Memory;
use crate::device::Device;
use crate::interrupt::Signal;
use crate::queue::QueueState;
use crate::slot::{Attendance, Slot};

/// The guest's memory: small, so that much of what the input names is in it.
const MEMORY: u64 = 1 << 20;
/// The queues' places; small ones, so that they wrap.
const PLACES: u16 = 16;
const RINGS: u64 = 0x1_0000;
const RING_STEP: u64 = 0x1000;
/// Where chains' content goes.
const BUFFERS: u64 = 0x8_0000;
const MOST_STEPS: usize = 256;

/// Nobody listens.
struct Quiet;

impl Signal for Quiet {
    fn queue(&self, _index: u16) {}

    fn configuration(&self) {}
}

/// The input, read on and on; behind its end there are zeroes.
struct Script<'b>(&'b [u8]);

impl<'b> Script<'b> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    fn number(&mut self, bytes: u32) -> u64 {
        (0..bytes).fold(0, |all, place| all | u64::from(self.byte()) << (8 * place))
    }

    fn bytes(&mut self, length: usize) -> &'b [u8] {
        let (taken, rest) = self.0.split_at(length.min(self.0.len()));
        self.0 = rest;
        taken
    }

    fn is_over(&self) -> bool {
        self.0.is_empty()
    }
}

/// The driver's side of a queue.
struct Ring {
    state: QueueState,
    next_descriptor: u16,
    available: u16,
}

struct Driver {
    memory: Memory,
    slot: Slot,
    rings: Vec<Ring>,
    next_buffer: u64,
}

fn ring(index: u64, size: u16) -> Ring {
    let base = RINGS + RING_STEP * index;
    let state = QueueState {
        size: size.min(PLACES),
        ready: true,
        descriptors: base,
        driver: base + 0x400,
        device: base + 0x800,
        next_available: 0,
        next_used: 0,
    };
    Ring { state, next_descriptor: 0, available: 0 }
}

impl Driver {
    fn new(device: Box<dyn Device>) -> Option<Self> {
        let memory = Memory::new(MEMORY).ok()?;
        let slot = Slot::new(device, memory.clone(), Arc::new(Quiet)).ok()?;
        let mut driver = Self { memory, slot, rings: Vec::new(), next_buffer: BUFFERS };
        driver.start(0);
        Some(driver)
    }

    fn start(&mut self, left_out: u64) {
        let slot = &self.slot;
        slot.set_status(0);
        slot.set_status(3);
        let features = (slot.features() & !left_out).to_le_bytes();
        for (page, bits) in (0..).zip(features.as_chunks::<4>().0) {
            slot.set_driver_features(page, u32::from_le_bytes(*bits));
        }
        slot.set_status(11);
        self.rings = (0..).zip(slot.queue_sizes()).map(|(index, size)| ring(index, *size)).collect();
        for (index, ring) in (0..).zip(&self.rings) {
            // What an earlier start left there would count.
            self.put(ring.state.driver, &[0; 0x400]);
            self.put(ring.state.device, &[0; 0x400]);
            slot.set_queue(index, |queue| *queue = ring.state);
        }
        slot.set_status(15);
    }

    fn put(&self, address: u64, bytes: &[u8]) {
        // What is not in memory, no driver can write.
        let _outside = self.memory.ram().write_slice(bytes, GuestAddress(address));
    }

    fn descriptor(&mut self, queue: usize, number: u16, fields: (u64, u32, u16, u16)) {
        let at = self.rings[queue].state.descriptors + 16 * u64::from(number % PLACES);
        let (address, length, flags, next) = fields;
        let bytes = [&address.to_le_bytes()[..], &length.to_le_bytes(), &flags.to_le_bytes(), &next.to_le_bytes()];
        self.put(at, &bytes.concat());
    }

    fn offer(&mut self, queue: usize, head: u16) {
        let ring = &mut self.rings[queue];
        let place = u64::from(ring.available % ring.state.size);
        ring.available = ring.available.wrapping_add(1);
        let (driver, available) = (ring.state.driver, ring.available);
        self.put(driver + 4 + 2 * place, &head.to_le_bytes());
        self.put(driver + 2, &available.to_le_bytes());
    }

    fn chain(&mut self, queue: usize, script: &mut Script<'_>) {
        let parts = u16::from(script.byte() % 6 + 1);
        let head = self.rings[queue].next_descriptor;
        for part in 0..parts {
            let shape = script.byte();
            // The lowest bit is the direction; the highest makes it long.
            let length = u32::from(shape >> 1 & 63) * if shape & 0x80 == 0 { 1 } else { 96 };
            if self.next_buffer + u64::from(length) > MEMORY {
                self.next_buffer = BUFFERS;
            }
            let address = self.next_buffer;
            self.next_buffer += u64::from(length).next_multiple_of(16);
            if shape & 1 == 0 {
                self.put(address, script.bytes(length as usize));
            }
            let number = self.rings[queue].next_descriptor;
            let next = (number + 1) % PLACES;
            self.rings[queue].next_descriptor = next;
            let flags = u16::from(part + 1 < parts) | u16::from(shape & 1) << 1;
            self.descriptor(queue, number, (address, length, flags, next));
        }
        self.offer(queue, head);
    }

    fn step(&mut self, script: &mut Script<'_>) {
        let kind = script.byte() % 8;
        let choice = if kind < 4 { script.byte() } else { 0 };
        let queue = usize::from(choice) % self.rings.len();
        match kind {
            0 => self.chain(queue, script),
            1 => {
                let number = u16::from(script.byte());
                let (address, length) = (script.number(3), script.number(2));
                let (flags, next) = (u16::from(script.byte() & 7), u16::from(script.byte()));
                self.descriptor(queue, number, (address, u32::try_from(length).unwrap_or(0), flags, next));
            }
            2 => {
                let head = u16::from(script.byte());
                self.offer(queue, head);
            }
            3 => {
                let attendance = if choice < 0x80 { Attendance::Alone } else { Attendance::Attended };
                self.slot.set_attendance(attendance);
                self.slot.kick(u32::try_from(queue).unwrap_or(0));
                self.slot.serve();
            }
            4 => {
                let (offset, length) = (script.number(1), usize::from(script.byte() % 9));
                self.slot.write_config(offset, script.bytes(length));
                self.slot.read_config(offset, &mut vec![0; length]);
            }
            5 => {
                let mask = script.number(4);
                self.start(mask);
            }
            6 => {
                let (address, length) = (script.number(3), usize::from(script.byte()));
                let bytes = script.bytes(length);
                self.put(address, bytes);
            }
            _ => {
                self.slot.settle();
                assert!(serde_json::to_string(&self.slot.save()).is_ok(), "the device can't be saved");
                self.slot.wake();
            }
        }
    }
}

/// Lets the input drive a device, and saves and serves it at the end.
fn drive(device: Box<dyn Device>, bytes: &[u8]) {
    let Some(mut driver) = Driver::new(device) else { return };
    let mut script = Script(bytes);
    for _ in 0..MOST_STEPS {
        if script.is_over() {
            break;
        }
        driver.step(&mut script);
    }
    driver.slot.wake();
    driver.slot.serve();
    let saved = driver.slot.save();
    driver.slot.set_status(0);
    assert_eq!(driver.slot.status(), 0, "a reset has to help");
    // Whatever the driver did, its state has to be one that can be taken over, or refused.
    let _refused = driver.slot.restore(saved);
    driver.slot.serve();
}

#[cfg(test)]
#[path = "../../../../fuzz/replay.rs"]
mod replay;

#[cfg(test)]
mod tests {
    use super::replay::{Target, disturb, replay};

    const TARGETS: &[Target] = &[
        ("virtio_balloon", super::balloon),
        ("virtio_block", super::block),
        ("virtio_console", super::console),
        ("virtio_entropy", super::entropy),
        ("virtio_fs", super::fs),
        ("virtio_mmio", super::mmio),
        ("virtio_net", super::net),
        ("virtio_pci", super::pci),
        ("virtio_pmem", super::pmem),
        ("virtio_qcow2", super::qcow2),
        ("virtio_user_network", super::user_network),
        ("virtio_vsock", super::vsock),
    ];

    #[test]
    fn seeds_replay() {
        replay(TARGETS);
    }

    #[test]
    fn noise_and_damaged_seeds_do_no_harm() {
        disturb(TARGETS);
    }

    /// A seed that no longer reaches its device is no seed: its requests have to come through.
    #[test]
    fn the_seeds_do_what_they_are_for() {
        let check = |target: &str, device: Box<dyn crate::device::Device>, count: &str| {
            let mut driver = super::Driver::new(device).unwrap();
            for seed in super::replay::seeds(target) {
                let mut script = super::Script(&seed);
                while !script.is_over() {
                    driver.step(&mut script);
                }
            }
            assert!(driver.slot.metrics()[count] > 0, "{target}: {:?}", driver.slot.metrics());
        };
        check("virtio_block", super::devices::block_device().unwrap(), "written_bytes");
        check("virtio_entropy", super::devices::entropy_device().unwrap(), "bytes");
        check("virtio_net", super::devices::net_device().unwrap(), "received");
        check("virtio_balloon", super::devices::balloon_device().unwrap(), "balloon_taken_bytes");
    }
}
