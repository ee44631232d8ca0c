use std::os::unix::fs::MetadataExt;

use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::testing::{Driver, Part};

fn balloon(settings: Settings) -> (Driver, Pump) {
    let (balloon, pump) = Balloon::new(settings).unwrap();
    (Driver::start(Box::new(balloon)), pump)
}

const NORMAL: Settings = Settings { target: 0, pressure: Pressure::Deflate };
/// A part of the guest's memory that neither queues nor buffers use.
const SPARE: u64 = 2 << 20;

fn fill(driver: &Driver, from: u64, length: usize) {
    driver.memory.ram().write_slice(&vec![5; length], GuestAddress(from)).unwrap();
}

/// Bytes that the guest's memory takes on the host.
fn resident(driver: &Driver) -> u64 {
    driver.memory.file(0).unwrap().metadata().unwrap().blocks() * 512
}

fn numbers(pages: &[u64]) -> Vec<u8> {
    pages.iter().flat_map(|page| u32::try_from(*page).unwrap().to_le_bytes()).collect()
}

#[test]
fn lent_pages_go_back_to_the_host() {
    let (mut driver, pump) = balloon(NORMAL);
    fill(&driver, SPARE, 32 * 4096);
    let before = resident(&driver);
    pump.set_target(8 * 4096 + 100);
    driver.until("the target", |driver| (driver.config(0, 4) == [8, 0, 0, 0]).then_some(()));
    let first = SPARE / 4096;
    // The rings and the buffer of the request take up to eight pages themselves.
    let order: Vec<u64> = [3, 1, 2, 0, 9, 8, 8].into_iter().chain(16..32).map(|page| first + page).collect();
    driver.request(0, &[Part::Out(&numbers(&order))]);
    assert!(resident(&driver) < before, "nothing went back");
    driver.slot.write_config(4, &6_u32.to_le_bytes());
    assert_eq!(pump.lent(), 6 * 4096);
    assert_eq!(driver.read(SPARE, 4 * 4096), vec![0; 4 * 4096]);
    assert_eq!(driver.read(SPARE + 4 * 4096, 4096), vec![5; 4096], "a page that was not lent");
    assert_eq!(driver.slot.metrics()["balloon_taken_bytes"], 22 * 4096);
    driver.request(1, &[Part::Out(&numbers(&order))]);
    fill(&driver, SPARE, 4096);
    assert_eq!(driver.read(SPARE, 4096), vec![5; 4096], "a page that came back can be used");
}

#[test]
fn pages_that_are_not_there_are_left_and_halves_are_no_pages() {
    let (mut driver, _pump) = balloon(NORMAL);
    driver.request(0, &[Part::Out(&numbers(&[u64::from(u32::MAX), u64::from(u32::MAX) - 1, 1 << 20]))]);
    assert_eq!(driver.slot.metrics()["balloon_refused_bytes"], 3 * 4096);
    assert!(!driver.broken());
    driver.send(0, &[Part::Out(&[0; 5])]);
    driver.slot.serve();
    assert!(driver.broken());
}

#[test]
fn free_ranges_are_taken_from_under_the_guest() {
    let (mut driver, _pump) = balloon(NORMAL);
    fill(&driver, SPARE, 32 * 4096);
    let ring = &mut driver.rings[3];
    ring.write_descriptor(0, SPARE, 16 * 4096, 3, 1);
    ring.write_descriptor(1, SPARE + 24 * 4096, 2 * 4096, 2, 0);
    ring.offer(0);
    driver.slot.kick(3);
    driver.used(3);
    assert_eq!(driver.read(SPARE, 17 * 4096)[..16 * 4096], vec![0; 16 * 4096]);
    assert_eq!(driver.read(SPARE + 16 * 4096, 4096), vec![5; 4096]);
    assert_eq!(driver.slot.metrics()["balloon_reported_bytes"], 18 * 4096);
}

#[test]
fn queues_move_up_when_a_feature_is_not_taken() {
    let (balloon, _pump) = Balloon::new(NORMAL).unwrap();
    let mut driver = Driver::start_without(Box::new(balloon), 1 << FEATURE_STATISTICS);
    driver.request(2, &[Part::In(4096)]);
    assert_eq!(driver.slot.metrics()["balloon_reported_bytes"] + driver.slot.metrics()["balloon_refused_bytes"], 4096);
}

#[test]
fn figures_are_asked_for_and_read() {
    let (mut driver, pump) = balloon(NORMAL);
    let figures = |free: u64| {
        [&4_u16.to_le_bytes()[..], &free.to_le_bytes(), &99_u16.to_le_bytes(), &1_u64.to_le_bytes(), &[1, 2]].concat()
    };
    let (head, _) = driver.send(2, &[Part::Out(&figures(1000))]);
    driver.slot.serve();
    assert_eq!(driver.rings[2].take(), None, "the device holds the buffer");
    assert_eq!(driver.slot.metrics()["guest_free_bytes"], 1000);
    pump.ask_for_statistics();
    assert_eq!(driver.used(2).0, head);
    driver.send(2, &[Part::Out(&figures(2000))]);
    driver.until("new figures", |driver| (driver.slot.metrics()["guest_free_bytes"] == 2000).then_some(()));
}

#[test]
fn the_held_buffer_survives_a_snapshot() {
    let (mut driver, _pump) = balloon(NORMAL);
    driver.send(2, &[Part::Out(&[0; 10])]);
    driver.slot.serve();
    let taken = driver.slot.save().queues[2].next_available;
    driver.slot.settle();
    assert_eq!((taken, driver.slot.save().queues[2].next_available), (1, 0));
}

#[test]
fn the_features_follow_the_settings() {
    let (driver, _) = balloon(Settings { target: 1 << 20, pressure: Pressure::Keep });
    assert_eq!(driver.slot.features() & 1 << FEATURE_DEFLATE_ON_OOM, 0);
    assert_eq!(driver.config(0, 8), [0, 1, 0, 0, 0, 0, 0, 0]);
}
