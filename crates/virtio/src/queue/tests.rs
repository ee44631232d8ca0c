use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::*;
use crate::testing::{Counter, Part, Ring, memory};

struct Bench {
    ring: Ring,
    queue: Queue,
    counter: Arc<Counter>,
}

fn bench(size: u16, event_index: bool) -> Bench {
    let memory = memory();
    let counter = Arc::new(Counter::default());
    let interrupt = Arc::new(Interrupt::new(counter.clone()));
    let ring = Ring::new(&memory, 0, size);
    let queue = Queue::new(0, ring.state, event_index, &memory, &interrupt).unwrap();
    Bench { ring, queue, counter }
}

#[test]
fn chains_come_in_order_and_go_back() {
    let mut bench = bench(4, false);
    for round in 0..10_u8 {
        bench.ring.add(&[Part::Out(&[round; 3]), Part::Out(&[round + 1; 2]), Part::In(8)], 0x50_0000);
        let chain = bench.queue.pop().unwrap().unwrap();
        let memory = bench.queue.memory().clone();
        let mut reader = chain.reader(&memory);
        assert_eq!(reader.remaining(), 5);
        assert_eq!(reader.array::<4>(), Some([round, round, round, round + 1]));
        assert_eq!(reader.array::<4>(), None, "only one byte is left");
        assert_eq!(reader.rest(100), [round + 1]);
        let mut writer = chain.writer(&memory);
        assert!(!writer.write_all(&[1; 9]), "there is room for 8");
        assert!(writer.write_all(&[7; 8]));
        bench.queue.complete(chain.head(), writer.written()).unwrap();
        assert_eq!(bench.ring.take(), Some((chain.head(), 8)));
        assert!(bench.queue.pop().unwrap().is_none());
    }
}

#[test]
fn chains_that_belong_together_are_seen_together() {
    let mut bench = bench(4, false);
    for _ in 0..3 {
        bench.ring.add(&[Part::In(8)], 0x50_0000);
    }
    let chains: Vec<Chain> = (0..3).map(|_| bench.queue.pop().unwrap().unwrap()).collect();
    let Bench { ring, queue, .. } = &mut bench;
    let given = chains.iter().map(|chain| {
        assert_eq!(ring.take(), None, "the driver sees a part");
        (chain.head(), 5)
    });
    queue.complete_together(given).unwrap();
    for chain in &chains {
        assert_eq!(ring.take(), Some((chain.head(), 5)));
    }
}

#[test]
fn the_driver_is_told_when_it_wants_to_be() {
    let mut plain = bench(4, false);
    let signal = |bench: &mut Bench| {
        bench.ring.add(&[Part::In(1)], 0x50_0000);
        let chain = bench.queue.pop().unwrap().unwrap();
        bench.queue.complete(chain.head(), 0).unwrap();
        bench.queue.signal().unwrap();
        bench.queue.signal().unwrap();
        bench.counter.queues.load(Ordering::SeqCst)
    };
    assert_eq!(signal(&mut plain), 1, "one completion, one interrupt");
    plain.queue.memory().ram().write_obj(AVAIL_NO_INTERRUPT, GuestAddress(plain.ring.state.driver)).unwrap();
    assert_eq!(signal(&mut plain), 1, "the driver polls");

    let mut indexed = bench(4, true);
    assert_eq!(signal(&mut indexed), 1, "asked for at index 0");
    assert_eq!(signal(&mut indexed), 1, "the driver has not asked again");
    indexed.ring.take();
    indexed.ring.take();
    indexed.ring.ask_for_interrupt();
    assert_eq!(signal(&mut indexed), 2);
    let asked: u16 = {
        assert!(indexed.queue.pop().unwrap().is_none());
        let at = indexed.ring.state.device + 4 + 8 * 4;
        indexed.queue.memory().ram().read_obj(GuestAddress(at)).unwrap()
    };
    assert_eq!(asked, 3, "the driver is to notify of the fourth chain");
}

#[test]
fn indirect_tables_are_followed_once() {
    let mut bench = bench(4, false);
    let memory = bench.queue.memory().clone();
    let table = 0x60_0000_u64;
    let entry = |number: u64, address: u64, length: u32, flags: u16, next: u16| {
        let at = table + 16 * number;
        memory.ram().write_obj(address, GuestAddress(at)).unwrap();
        memory.ram().write_obj(length, GuestAddress(at + 8)).unwrap();
        memory.ram().write_obj(flags, GuestAddress(at + 12)).unwrap();
        memory.ram().write_obj(next, GuestAddress(at + 14)).unwrap();
    };
    for number in 0..9 {
        entry(number, 0x70_0000, 10, FLAG_NEXT, number as u16 + 1);
    }
    entry(9, 0x71_0000, 10, FLAG_WRITE, 0);
    bench.ring.write_descriptor(0, table, 160, FLAG_INDIRECT, 0);
    bench.ring.offer(0);
    let chain = bench.queue.pop().unwrap().unwrap();
    assert_eq!((chain.reader(&memory).remaining(), chain.writer(&memory).remaining()), (90, 10));
    // A device has to pass over a table's own write flag, and to take a table at the end of a chain.
    bench.ring.write_descriptor(1, 0x72_0000, 7, FLAG_NEXT, 2);
    bench.ring.write_descriptor(2, table, 160, FLAG_INDIRECT | FLAG_WRITE, 0);
    bench.ring.offer(1);
    let chain = bench.queue.pop().unwrap().unwrap();
    assert_eq!((chain.reader(&memory).remaining(), chain.writer(&memory).remaining()), (97, 10));

    let malformed = QueueError::Malformed { queue: 0, head: 0 };
    entry(3, table, 160, FLAG_INDIRECT, 0);
    bench.ring.offer(0);
    assert_eq!(bench.queue.pop(), Err(malformed), "a table in a table");
    for (length, flags) in [(0, 0), (17, 0), (160, FLAG_NEXT)] {
        bench.ring.write_descriptor(0, table, length, FLAG_INDIRECT | flags, 0);
        assert_eq!(bench.queue.pop(), Err(malformed), "{length} {flags}");
    }
}

/// What a hostile driver does in a queue of four, and what the queue says.
#[test]
fn a_hostile_driver_is_found_out() {
    let check = |expect: QueueError, act: &dyn Fn(&mut Ring)| {
        let mut bench = bench(4, false);
        act(&mut bench.ring);
        assert_eq!(bench.queue.pop(), Err(expect));
    };
    let outside = crate::testing::MEMORY as u64;
    check(QueueError::Descriptor { queue: 0, number: 4 }, &|ring| ring.offer(4));
    check(QueueError::Overrun { queue: 0, pending: 5, size: 4 }, &|ring| (0..5).for_each(|_| ring.offer(0)));
    check(QueueError::Long { queue: 0, head: 0 }, &|ring| {
        ring.write_descriptor(0, 0, 1, FLAG_NEXT, 1);
        ring.write_descriptor(1, 0, 1, FLAG_NEXT, 0);
        ring.offer(0);
    });
    check(QueueError::Descriptor { queue: 0, number: 9 }, &|ring| {
        ring.write_descriptor(0, 0, 1, FLAG_NEXT, 9);
        ring.offer(0);
    });
    check(QueueError::Malformed { queue: 0, head: 0 }, &|ring| {
        ring.write_descriptor(0, 0, 1, FLAG_NEXT | FLAG_WRITE, 1);
        ring.write_descriptor(1, 0, 1, 0, 0);
        ring.offer(0);
    });
    check(QueueError::Address { queue: 0, address: outside - 1 }, &|ring| {
        ring.write_descriptor(0, outside - 1, 2, 0, 0);
        ring.offer(0);
    });
    check(QueueError::Address { queue: 0, address: u64::MAX }, &|ring| {
        ring.write_descriptor(0, u64::MAX, 2, 0, 0);
        ring.offer(0);
    });
}

#[test]
fn rings_must_lie_in_memory_and_be_aligned() {
    let memory = memory();
    let interrupt = Arc::new(Interrupt::new(Arc::new(Counter::default())));
    let good = Ring::new(&memory, 0, 8).state;
    let outside = crate::testing::MEMORY as u64;
    let refused = |state: QueueState| Queue::new(0, state, false, &memory, &interrupt).unwrap_err();
    for state in [
        QueueState { size: 0, ..good },
        QueueState { size: 3, ..good },
        QueueState { descriptors: 8, ..good },
        QueueState { driver: 1, ..good },
        QueueState { device: 2, ..good },
    ] {
        assert!(matches!(refused(state), QueueError::Layout { .. }), "{state:?}");
    }
    for state in [
        QueueState { descriptors: outside - 16, ..good },
        QueueState { driver: outside - 8, ..good },
        QueueState { device: !3, ..good },
    ] {
        assert!(matches!(refused(state), QueueError::Address { .. }), "{state:?}");
    }
}
