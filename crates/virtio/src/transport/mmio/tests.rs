use std::sync::atomic::AtomicU64;

use super::*;
use crate::device::entropy::Entropy;
use crate::limit::Limit;
use crate::testing::{Part, Ring, memory};

fn device(memory: &Memory) -> (Mmio, Arc<AtomicU64>) {
    let pulses = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&pulses);
    let line: Pulse = Arc::new(move || {
        count.fetch_add(1, Ordering::SeqCst);
    });
    (Mmio::new(Box::new(Entropy::new(Limit::default()).unwrap()), memory.clone(), line).unwrap(), pulses)
}

fn read(mmio: &Mmio, offset: u64) -> u32 {
    let mut bytes = [0; 4];
    mmio.read(offset, &mut bytes);
    u32::from_le_bytes(bytes)
}

fn write(mmio: &Mmio, offset: u64, value: u32) {
    mmio.write(offset, &value.to_le_bytes());
}

/// What a driver does until its device runs.
fn start(mmio: &Mmio, ring: &Ring) {
    write(mmio, 0x070, 0);
    write(mmio, 0x070, 1);
    write(mmio, 0x070, 3);
    for page in 0..2 {
        write(mmio, 0x014, page);
        let offered = read(mmio, 0x010);
        write(mmio, 0x024, page);
        write(mmio, 0x020, offered);
    }
    write(mmio, 0x070, 11);
    assert_eq!(read(mmio, 0x070), 11);
    write(mmio, 0x030, 0);
    write(mmio, 0x038, ring.state.size.into());
    for (offset, address) in [(0x080, ring.state.descriptors), (0x090, ring.state.driver), (0x0a0, ring.state.device)] {
        write(mmio, offset, address as u32);
        write(mmio, offset + 4, (address >> 32) as u32);
    }
    write(mmio, 0x044, 1);
    write(mmio, 0x070, 15);
}

#[test]
fn a_driver_finds_starts_and_uses_a_device() {
    let memory = memory();
    let (mmio, pulses) = device(&memory);
    assert_eq!([0, 4, 8].map(|offset| read(&mmio, offset)), [0x7472_6976, 2, 4]);
    assert_eq!(read(&mmio, 0x034), 64);
    assert_eq!(read(&mmio, 0x0b0), u32::MAX, "there is no shared memory");
    let mut ring = Ring::new(&memory, 0, 8);
    start(&mmio, &ring);
    assert_eq!(read(&mmio, 0x070), 15);
    ring.add(&[Part::In(16)], 0x50_0000);
    write(&mmio, QUEUE_NOTIFY, 0);
    mmio.slot().serve();
    assert_eq!(ring.take(), Some((0, 16)));
    assert_eq!((read(&mmio, 0x060), pulses.load(Ordering::SeqCst)), (1, 1));
    write(&mmio, 0x064, 1);
    assert_eq!(read(&mmio, 0x060), 0);
    write(&mmio, QUEUE_NOTIFY, 77);
    write(&mmio, 0x044, 0);
    assert_eq!(read(&mmio, 0x044), 0, "a queue is taken back");
    ring.add(&[Part::In(16)], 0x50_0000);
    write(&mmio, QUEUE_NOTIFY, 0);
    mmio.slot().serve();
    assert_eq!((ring.take(), read(&mmio, 0x070)), (None, 15), "it is touched no more, and the device runs on");
    write(&mmio, 0x070, 0);
    assert_eq!((read(&mmio, 0x070), read(&mmio, 0x044)), (0, 0), "reset");
}

#[test]
fn a_broken_queue_asks_for_a_reset_and_the_reset_helps() {
    let memory = memory();
    let (mmio, pulses) = device(&memory);
    let mut ring = Ring::new(&memory, 0, 8);
    start(&mmio, &ring);
    let generation = read(&mmio, 0x0fc);
    ring.offer(9);
    write(&mmio, QUEUE_NOTIFY, 0);
    mmio.slot().serve();
    assert_eq!(read(&mmio, 0x070), 15 | 64);
    assert_eq!((read(&mmio, 0x060), pulses.load(Ordering::SeqCst)), (2, 1), "the driver is told");
    assert_ne!(read(&mmio, 0x0fc), generation);
    write(&mmio, QUEUE_NOTIFY, 0);
    mmio.slot().serve();
    assert_eq!(pulses.load(Ordering::SeqCst), 1, "it is told once");
    memory_cleared(&memory, &ring);
    let mut ring = Ring::new(&memory, 0, 8);
    start(&mmio, &ring);
    ring.add(&[Part::In(16)], 0x50_0000);
    write(&mmio, QUEUE_NOTIFY, 0);
    mmio.slot().serve();
    assert_eq!(ring.take(), Some((0, 16)));
}

fn memory_cleared(memory: &Memory, ring: &Ring) {
    use vm_memory::{Bytes, GuestAddress};
    memory.ram().write_slice(&[0; 0x4000], GuestAddress(ring.state.driver)).unwrap();
}

#[test]
fn features_that_were_not_offered_or_an_old_driver_are_refused() {
    let memory = memory();
    let (mmio, _) = device(&memory);
    write(&mmio, 0x070, 3);
    write(&mmio, 0x024, 1);
    write(&mmio, 0x020, 1 | 1 << 8);
    write(&mmio, 0x070, 11);
    assert_eq!(read(&mmio, 0x070), 3, "a feature too many");
    write(&mmio, 0x020, 0);
    write(&mmio, 0x070, 11);
    assert_eq!(read(&mmio, 0x070), 3, "a driver of before the standard");
    write(&mmio, 0x070, 15);
    assert_eq!(read(&mmio, 0x070), 3, "no start without features");
    write(&mmio, 0x020, 1);
    write(&mmio, 0x070, 11);
    assert_eq!(read(&mmio, 0x070), 11);
}

#[test]
fn a_saved_device_goes_on_elsewhere() {
    let memory = memory();
    let (mmio, _) = device(&memory);
    let mut ring = Ring::new(&memory, 0, 8);
    start(&mmio, &ring);
    for _ in 0..3 {
        ring.add(&[Part::In(16)], 0x50_0000);
        write(&mmio, QUEUE_NOTIFY, 0);
        mmio.slot().serve();
        ring.take().unwrap();
    }
    ring.ask_for_interrupt();
    ring.add(&[Part::In(32)], 0x50_0000);
    write(&mmio, 0x014, 1);
    let saved = serde_json::to_string(&mmio.save()).unwrap();
    drop(mmio);
    let (other, pulses) = device(&memory);
    other.restore(serde_json::from_str(&saved).unwrap()).unwrap();
    assert_eq!((read(&other, 0x070), read(&other, 0x010)), (15, 1), "status and selection are taken over");
    other.slot().serve();
    assert_eq!(ring.take(), Some((3, 32)), "what was waiting is done without a kick");
    assert_eq!(pulses.load(Ordering::SeqCst), 1);
}

#[test]
fn odd_accesses_do_nothing() {
    let memory = memory();
    let (mmio, _) = device(&memory);
    for offset in 0..0x200 {
        for width in [1, 2, 8] {
            mmio.write(offset, &vec![0xff; width]);
            let mut bytes = vec![0xaa; width];
            mmio.read(offset, &mut bytes);
            assert!(bytes.iter().all(|byte| *byte == 0), "{offset:#x} {width}");
        }
    }
    assert_eq!(read(&mmio, 0x070), 0);
}
