use std::sync::atomic::Ordering;

use super::*;
use crate::limit::Rate;
use crate::testing::{Driver, Part};

#[test]
fn fills_what_it_is_given() {
    let mut driver = Driver::start(Box::new(Entropy::new(Limit::default()).unwrap()));
    let (answers, written) = driver.request(0, &[Part::In(100), Part::In(4000)]);
    assert_eq!(written, 4100);
    assert!(answers.iter().all(|answer| answer.iter().any(|byte| *byte != 0xee)));
    assert_ne!(answers[1][..100], answers[0][..], "the same bytes twice");
    let (_, written) = driver.request(0, &[Part::In(MOST + 1)]);
    assert_eq!(written as usize, MOST, "a large request is answered in part");
    assert_eq!(driver.slot.metrics()["requests"], 2);
    assert_eq!(driver.counter.queues.load(Ordering::SeqCst), 2, "one interrupt each");
}

#[test]
fn a_request_without_room_comes_back_empty() {
    let mut driver = Driver::start(Box::new(Entropy::new(Limit::default()).unwrap()));
    assert_eq!(driver.request(0, &[Part::Out(b"hello")]).1, 0);
}

#[test]
fn a_limit_delays_and_then_goes_on() {
    // Slow enough that a test that has to wait for its own turn does not fill the bucket each time.
    let limit = Limit { bytes: Rate { per_second: 400, burst: 100 }, ..Limit::default() };
    let mut driver = Driver::start(Box::new(Entropy::new(limit).unwrap()));
    for _ in 0..4 {
        assert_eq!(driver.request(0, &[Part::In(100)]).1, 100);
    }
    assert!(driver.slot.metrics()["throttled"] >= 1, "{:?}", driver.slot.metrics());
}
