//! The driver's side, for tests: a queue in guest memory, and a device driven through its slot.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use vm_memory::{Bytes, GuestAddress};

use crate::Memory;
use crate::device::Device;
use crate::interrupt::Signal;
use crate::queue::QueueState;
use crate::slot::{self, Slot};

/// Bytes of guest memory, from address 0.
pub(crate) const MEMORY: usize = 16 << 20;
/// Where the driver's buffers start; below are the queues, 64 KiB each.
const BUFFERS: u64 = 4 << 20;
/// How long a device may take before a test gives up.
const PATIENCE: Duration = Duration::from_secs(20);

/// Memory of a small guest.
pub(crate) fn memory() -> Memory {
    Memory::new(MEMORY as u64).unwrap()
}

/// Counts interrupts.
#[derive(Debug, Default)]
pub(crate) struct Counter {
    pub(crate) queues: AtomicU64,
    pub(crate) configurations: AtomicU64,
}

impl Signal for Counter {
    fn queue(&self, _index: u16) {
        self.queues.fetch_add(1, Ordering::SeqCst);
    }

    fn configuration(&self) {
        self.configurations.fetch_add(1, Ordering::SeqCst);
    }
}

/// One buffer of a request.
pub(crate) enum Part<'b> {
    /// To the device.
    Out(&'b [u8]),
    /// Room for the device's answer.
    In(usize),
}

/// The driver's side of one queue.
#[derive(Debug)]
pub(crate) struct Ring {
    memory: Memory,
    pub(crate) state: QueueState,
    next_descriptor: u16,
    available: u16,
    used: u16,
}

impl Ring {
    pub(crate) fn new(memory: &Memory, index: u16, size: u16) -> Self {
        let base = 0x10000 * (u64::from(index) + 1);
        let state = QueueState {
            size,
            ready: true,
            descriptors: base,
            driver: base + 0x8000,
            device: base + 0xa000,
            next_available: 0,
            next_used: 0,
        };
        Self { memory: memory.clone(), state, next_descriptor: 0, available: 0, used: 0 }
    }

    pub(crate) fn write_descriptor(&mut self, number: u16, address: u64, length: u32, flags: u16, next: u16) {
        let at = self.state.descriptors + 16 * u64::from(number);
        self.memory.ram().write_obj(address, GuestAddress(at)).unwrap();
        self.memory.ram().write_obj(length, GuestAddress(at + 8)).unwrap();
        self.memory.ram().write_obj(flags, GuestAddress(at + 12)).unwrap();
        self.memory.ram().write_obj(next, GuestAddress(at + 14)).unwrap();
    }

    /// Makes a chain of descriptors available by its head.
    pub(crate) fn offer(&mut self, head: u16) {
        let place = u64::from(self.available % self.state.size);
        self.memory.ram().write_obj(head, GuestAddress(self.state.driver + 4 + 2 * place)).unwrap();
        self.available = self.available.wrapping_add(1);
        self.memory.ram().store(self.available, GuestAddress(self.state.driver + 2), Ordering::Release).unwrap();
    }

    /// Asks for interrupts at the next used buffer, with event indices.
    pub(crate) fn ask_for_interrupt(&self) {
        let at = self.state.driver + 4 + 2 * u64::from(self.state.size);
        self.memory.ram().store(self.used, GuestAddress(at), Ordering::SeqCst).unwrap();
    }

    /// What the device gave back last, if it did: head and written bytes.
    pub(crate) fn take(&mut self) -> Option<(u16, u32)> {
        let index: u16 = self.memory.ram().load(GuestAddress(self.state.device + 2), Ordering::Acquire).unwrap();
        if index == self.used {
            return None;
        }
        let place = u64::from(self.used % self.state.size);
        let at = self.state.device + 4 + 8 * place;
        self.used = self.used.wrapping_add(1);
        let head: u32 = self.memory.ram().read_obj(GuestAddress(at)).unwrap();
        Some((head.try_into().unwrap(), self.memory.ram().read_obj(GuestAddress(at + 4)).unwrap()))
    }

    /// Places a chain's buffers in memory and makes it available; gives its head and the addresses of its parts.
    pub(crate) fn add(&mut self, parts: &[Part<'_>], mut at: u64) -> (u16, Vec<u64>) {
        let mut addresses = Vec::new();
        let head = self.next_descriptor;
        for (position, part) in parts.iter().enumerate() {
            let (length, write) = match part {
                Part::Out(bytes) => {
                    self.memory.ram().write_slice(bytes, GuestAddress(at)).unwrap();
                    (bytes.len(), 0)
                }
                Part::In(room) => {
                    self.memory.ram().write_slice(&vec![0xee; *room], GuestAddress(at)).unwrap();
                    (*room, 2)
                }
            };
            let number = self.next_descriptor;
            self.next_descriptor = (number + 1) % self.state.size;
            let more = u16::from(position + 1 < parts.len());
            self.write_descriptor(number, at, length.try_into().unwrap(), more | write, self.next_descriptor);
            addresses.push(at);
            at += (length as u64).next_multiple_of(16);
        }
        self.offer(head);
        (head, addresses)
    }
}

/// A device with a driver.
pub(crate) struct Driver {
    pub(crate) memory: Memory,
    pub(crate) slot: Slot,
    pub(crate) counter: Arc<Counter>,
    pub(crate) rings: Vec<Ring>,
    buffers: u64,
}

impl Driver {
    /// Starts a device that accepts all its features.
    pub(crate) fn start(device: Box<dyn Device>) -> Self {
        Self::start_without(device, 0)
    }

    /// Starts a device without some of its features.
    pub(crate) fn start_without(device: Box<dyn Device>, left_out: u64) -> Self {
        let memory = memory();
        let counter = Arc::new(Counter::default());
        let slot = Slot::new(device, memory.clone(), counter.clone()).unwrap();
        let rings = (0..).zip(slot.queue_sizes()).map(|(index, size)| Ring::new(&memory, index, *size)).collect();
        let mut driver = Self { memory, slot, counter, rings, buffers: BUFFERS };
        driver.negotiate(left_out);
        driver
    }

    pub(crate) fn negotiate(&mut self, left_out: u64) {
        let slot = &self.slot;
        slot.set_status(1);
        slot.set_status(3);
        let features = slot.features() & !left_out;
        slot.set_driver_features(0, (features & 0xffff_ffff) as u32);
        slot.set_driver_features(1, (features >> 32) as u32);
        slot.set_status(11);
        assert_eq!(slot.status(), 11, "the features were not accepted");
        for (index, ring) in (0..).zip(&self.rings) {
            slot.set_queue(index, |queue| *queue = ring.state);
        }
        slot.set_status(15);
        assert_eq!(slot.status(), 15, "the device did not start");
    }

    /// Room for a request's buffers.
    pub(crate) fn place(&mut self, bytes: usize) -> u64 {
        let at = self.buffers;
        assert!((bytes as u64) < MEMORY as u64 - BUFFERS, "the test's buffer is larger than its guest");
        if at + bytes as u64 + 4096 > MEMORY as u64 {
            self.buffers = BUFFERS;
            return self.place(bytes);
        }
        self.buffers += (bytes as u64 + 4096).next_multiple_of(16);
        at
    }

    /// Adds a request to a queue and notifies the device; gives the head and where the parts are.
    pub(crate) fn send(&mut self, queue: u16, parts: &[Part<'_>]) -> (u16, Vec<u64>) {
        let bytes = parts.iter().map(|part| match part {
            Part::Out(bytes) => bytes.len() + 16,
            Part::In(room) => room + 16,
        });
        let at = self.place(bytes.sum());
        let ring = &mut self.rings[usize::from(queue)];
        ring.ask_for_interrupt();
        let added = ring.add(parts, at);
        self.slot.kick(queue.into());
        added
    }

    /// Serves the device until `done` gives something.
    pub(crate) fn until<T>(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> Option<T>) -> T {
        let found = testkit::wait_for(PATIENCE, || {
            self.slot.serve();
            done(self)
        });
        found.unwrap_or_else(|| panic!("waited in vain for {what}; status {:#x}", self.slot.status()))
    }

    /// Serves the device until a queue has something used.
    pub(crate) fn used(&mut self, queue: u16) -> (u16, u32) {
        self.until("a used buffer", |driver| driver.rings[usize::from(queue)].take())
    }

    /// Reads the guest's memory.
    pub(crate) fn read(&self, address: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.memory.ram().read_slice(&mut bytes, GuestAddress(address)).unwrap();
        bytes
    }

    /// Does one request to its end; gives what the device wrote into each `In` part, and the written count.
    pub(crate) fn request(&mut self, queue: u16, parts: &[Part<'_>]) -> (Vec<Vec<u8>>, u32) {
        let (head, addresses) = self.send(queue, parts);
        let (used, written) = self.used(queue);
        assert_eq!(used, head, "another chain came back");
        let answers = parts.iter().zip(&addresses).filter_map(|(part, address)| match part {
            Part::In(room) => Some(self.read(*address, *room)),
            Part::Out(_) => None,
        });
        (answers.collect(), written)
    }

    /// The device's configuration space.
    pub(crate) fn config(&self, offset: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.slot.read_config(offset, &mut bytes);
        bytes
    }

    /// Whether the device asked for a reset.
    pub(crate) fn broken(&self) -> bool {
        self.slot.status() & slot::NEEDS_RESET != 0
    }
}

/// Reads bytes of the guest's memory as the device reads a request.
pub(crate) fn read_back<T>(
    memory: &Memory,
    at: u64,
    length: usize,
    read: impl FnOnce(&mut crate::queue::Reader<'_>) -> T,
) -> T {
    let mut ring = Ring::new(memory, 200, 4);
    ring.write_descriptor(0, at, length.try_into().unwrap(), 0, 0);
    ring.offer(0);
    let interrupt = Arc::new(crate::interrupt::Interrupt::new(Arc::new(Counter::default())));
    let mut queue = crate::queue::Queue::new(200, ring.state, false, memory, &interrupt).unwrap();
    let chain = queue.pop().unwrap().unwrap();
    read(&mut chain.reader(memory))
}
