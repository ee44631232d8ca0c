use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use super::*;
use crate::events::{Events, Interest, Kick};
use crate::limit::Rate;
use crate::slot::Attendance;
use crate::testing::{Driver, Part};

/// A wire whose other end is the test.
#[derive(Default)]
struct Wire {
    to_guest: VecDeque<Vec<u8>>,
    from_guest: Vec<Vec<u8>>,
    offloads: Vec<u64>,
    wants: Vec<Want>,
}

struct TestBackend {
    wire: Arc<Mutex<Wire>>,
    kick: Arc<Kick>,
    pairs: u16,
}

impl Backend for TestBackend {
    fn pairs(&self) -> u16 {
        self.pairs
    }

    fn offloads(&self) -> u64 {
        OFFLOADS
    }

    fn set_offloads(&mut self, features: u64) -> Result<(), DeviceError> {
        self.wire.lock().unwrap().offloads.push(features);
        Ok(())
    }

    fn start(&mut self, events: &Events, token: u64) -> Result<(), DeviceError> {
        events.add(&self.kick, token, Interest::IN).map_err(DeviceError::host("epoll_ctl"))
    }

    fn stop(&mut self, events: &Events) {
        events.remove(&self.kick);
    }

    fn watch(&mut self, _: &Events, _: u64, _: u16, want: Want) -> Result<(), DeviceError> {
        self.wire.lock().unwrap().wants.push(want);
        Ok(())
    }

    fn transmit(&mut self, _pair: u16, frame: Frame<'_, '_>) -> bool {
        self.wire.lock().unwrap().from_guest.push(frame.bytes());
        true
    }

    fn receive(&mut self, _pair: u16, into: &mut Vec<u8>) -> Option<usize> {
        self.kick.take();
        let frame = self.wire.lock().unwrap().to_guest.pop_front()?;
        into[..HEADER_BYTES].copy_from_slice(&PLAIN_HEADER);
        into[HEADER_BYTES..HEADER_BYTES + frame.len()].copy_from_slice(&frame);
        Some(HEADER_BYTES + frame.len())
    }
}

struct Card {
    driver: Driver,
    wire: Arc<Mutex<Wire>>,
    kick: Arc<Kick>,
}

fn settings() -> Settings {
    Settings {
        mac: [2, 0, 0, 0, 0, 7],
        mtu: Some(1400),
        receive_limit: Limit::default(),
        transmit_limit: Limit::default(),
    }
}

fn card(settings: Settings, pairs: u16, left_out: u64) -> Card {
    let wire = Arc::new(Mutex::new(Wire::default()));
    let kick = Arc::new(Kick::new().unwrap());
    let backend = TestBackend { wire: Arc::clone(&wire), kick: Arc::clone(&kick), pairs };
    let net = Net::new(Box::new(backend), settings).unwrap();
    Card { driver: Driver::start_without(Box::new(net), left_out), wire, kick }
}

impl Card {
    fn comes(&self, frame: &[u8]) {
        self.wire.lock().unwrap().to_guest.push_back(frame.to_vec());
        self.kick.kick();
    }
}

fn frame(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at % 255) as u8).collect()
}

#[test]
fn frames_go_out_behind_their_header() {
    let mut card = card(settings(), 1, 0);
    assert_eq!(card.driver.config(0, 12), [2, 0, 0, 0, 0, 7, 1, 0, 1, 0, 0x78, 0x05]);
    card.driver.request(1, &[Part::Out(&PLAIN_HEADER), Part::Out(&frame(60)), Part::Out(&frame(1000))]);
    let sent = card.wire.lock().unwrap().from_guest.pop().unwrap();
    assert_eq!(sent, [&PLAIN_HEADER[..], &frame(60), &frame(1000)].concat());
    assert_eq!(card.driver.slot.metrics()["transmitted_bytes"], 1060);
    assert_eq!(card.wire.lock().unwrap().offloads, [OFFLOADS]);
}

#[test]
fn a_frame_comes_in_as_many_buffers_as_it_takes() {
    let mut card = card(settings(), 1, 0);
    let rooms: Vec<u64> = (0..4).map(|_| card.driver.send(0, &[Part::In(100)]).1[0]).collect();
    card.comes(&frame(250));
    let written: Vec<u32> = (0..3).map(|_| card.driver.used(0).1).collect();
    assert_eq!(written, [100, 100, 62]);
    let bytes: Vec<u8> = rooms.iter().zip(&written).flat_map(|(at, n)| card.driver.read(*at, *n as usize)).collect();
    assert_eq!((&bytes[10..12], &bytes[12..]), (&[3, 0][..], &frame(250)[..]));
}

#[test]
fn a_frame_waits_for_room_and_the_backend_is_not_asked_meanwhile() {
    let mut card = card(settings(), 1, 0);
    card.comes(&frame(150));
    card.driver.send(0, &[Part::In(100)]);
    for _ in 0..3 {
        card.driver.slot.serve();
    }
    assert!(card.driver.rings[0].take().is_none(), "half a frame");
    assert_eq!(card.wire.lock().unwrap().wants, [Want::Nothing]);
    card.driver.send(0, &[Part::In(100)]);
    assert_eq!([card.driver.used(0).1, card.driver.used(0).1], [100, 62]);
    assert_eq!(card.wire.lock().unwrap().wants, [Want::Nothing, Want::Frames]);
}

#[test]
fn without_merging_a_frame_that_is_too_long_is_dropped() {
    let mut card = card(settings(), 1, 1 << FEATURE_MERGE);
    let (head, room) = card.driver.send(0, &[Part::In(100)]);
    card.comes(&frame(89));
    card.comes(&frame(88));
    assert_eq!(card.driver.used(0), (head, 100));
    assert_eq!(card.driver.read(room[0], 100), [&PLAIN_HEADER[..], &frame(88)].concat());
    assert_eq!(card.driver.slot.metrics()["dropped"], 1);
}

fn ask(card: &mut Card, queue: u16, class: u8, number: u8, data: &[u8]) -> u8 {
    card.driver.request(queue, &[Part::Out(&[class, number]), Part::Out(data), Part::In(1)]).0[0][0]
}

#[test]
fn addresses_are_set_and_filtered_for_one_driver() {
    let mut card = card(settings(), 1, 0);
    let table = |count: u32, addresses: usize| [&count.to_le_bytes()[..], &vec![2; 6 * addresses]].concat();
    for (data, answer) in [
        ([table(2, 2), table(1, 1)].concat(), 0),
        ([table(0, 0), table(0, 0)].concat(), 0),
        (table(2, 2), 1),
        ([table(2, 2), table(9, 1)].concat(), 1),
        ([table(u32::MAX, 1), table(0, 0)].concat(), 1),
        ([table(0, 0), table(0, 1)].concat(), 1),
    ] {
        assert_eq!(ask(&mut card, 2, 1, 0, &data), answer, "{data:?}");
    }
    assert_eq!(ask(&mut card, 2, 1, 1, &[3, 0, 0, 0, 0, 1]), 1, "many cards' address");
    assert_eq!(ask(&mut card, 2, 1, 1, &[2, 0, 0]), 1);
    assert_eq!(ask(&mut card, 2, 1, 1, &[2, 0, 0, 0, 0, 1]), 0);
    assert_eq!(card.driver.config(0, 6), [2, 0, 0, 0, 0, 1]);
    let saved = card.driver.slot.save();
    assert_eq!(saved.device["mac"], serde_json::json!([2, 0, 0, 0, 0, 1]));
    card.driver.slot.set_status(0);
    assert_eq!(card.driver.config(0, 6), settings().mac, "another driver begins anew");
}

#[test]
fn a_guest_that_was_restored_is_asked_to_announce_itself_once() {
    let restored = |left_out: u64| {
        let backend = TestBackend { wire: Arc::default(), kick: Arc::new(Kick::new().unwrap()), pairs: 1 };
        let (wire, kick) = (Arc::clone(&backend.wire), Arc::clone(&backend.kick));
        let mut net = Net::new(Box::new(backend), settings()).unwrap();
        // As one of before wrote it.
        net.restore(serde_json::json!({ "active": 1 })).unwrap();
        Card { driver: Driver::start_without(Box::new(net), left_out), wire, kick }
    };
    let mut card = restored(0);
    card.driver.slot.wake();
    card.driver.slot.serve();
    assert_eq!(card.driver.slot.interrupt().status() & 2, 2, "it is told");
    assert_eq!(card.driver.config(6, 1), [3]);
    assert_eq!(ask(&mut card, 2, 3, 0, &[]), 0);
    assert_eq!(card.driver.config(6, 1), [1]);
    assert_eq!(ask(&mut card, 2, 3, 0, &[]), 1, "nobody asked");
    let deaf = restored(1 << FEATURE_ANNOUNCE);
    deaf.driver.slot.wake();
    deaf.driver.slot.serve();
    assert_eq!((deaf.driver.slot.interrupt().status() & 2, deaf.driver.config(6, 1)), (0, vec![1]));
}

#[test]
fn the_control_queue_is_where_the_driver_looks_for_it() {
    let mut one = card(settings(), 1, 0);
    assert_eq!(ask(&mut one, 2, 0, 0, &[1]), 0, "receive everything");
    assert_eq!(ask(&mut one, 2, 9, 9, &[1]), 1, "an unknown command");
    assert_eq!(ask(&mut one, 2, 5, 0, &2_u64.to_le_bytes()), 0);
    assert_eq!(one.wire.lock().unwrap().offloads, [OFFLOADS, 2]);
    assert_eq!(ask(&mut one, 2, 5, 0, &(1_u64 << 15).to_le_bytes()), 1, "no offload");
    let mut three = card(settings(), 3, 0);
    assert_eq!(three.driver.config(8, 2), [3, 0]);
    for (pairs, answer) in [(3_u16, 0), (4, 1), (0, 1)] {
        assert_eq!(ask(&mut three, 6, 4, 0, &pairs.to_le_bytes()), answer, "{pairs}");
    }
    let mut lone = card(settings(), 3, 1 << FEATURE_PAIRS);
    assert_eq!(ask(&mut lone, 2, 0, 1, &[1]), 0, "a driver of one pair has its control queue behind it");
}

#[test]
fn limits_hold_both_ways() {
    let limit = Limit { operations: Rate { per_second: 1000, burst: 1 }, ..Limit::default() };
    let mut card = card(Settings { receive_limit: limit, transmit_limit: limit, ..settings() }, 1, 0);
    for _ in 0..5 {
        card.driver.request(1, &[Part::Out(&PLAIN_HEADER), Part::Out(&frame(60))]);
        card.comes(&frame(60));
        card.driver.send(0, &[Part::In(100)]);
    }
    for _ in 0..5 {
        card.driver.used(0);
    }
    assert!(card.driver.slot.metrics()["throttled"] >= 2);
}

#[test]
fn what_is_no_frame_asks_for_a_reset() {
    let check = |queue: u16, parts: &[Part<'_>]| {
        let mut card = card(settings(), 1, 0);
        card.comes(&frame(60));
        card.driver.send(queue, parts);
        card.driver.until("the need of a reset", |driver| driver.broken().then_some(()));
    };
    check(1, &[Part::Out(&[0; 11])]);
    check(1, &[Part::Out(&vec![0; LARGEST_FRAME + 13])]);
    check(1, &[Part::In(100)]);
    check(0, &[Part::In(11)]);
    check(2, &[Part::Out(&[0, 0, 1])]);
}

mod kernel {
    use std::process::Command;

    use super::*;
    use crate::device::net::TapBackend;

    /// A frame to everybody, of a protocol that nobody has.
    fn broadcast(length: usize) -> Vec<u8> {
        let mut frame = vec![0xff; length];
        frame[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 7]);
        frame[12..14].copy_from_slice(&0x88b5_u16.to_be_bytes());
        frame
    }

    fn run(command: &str) -> String {
        let output = Command::new("sh").args(["-c", command]).output().unwrap();
        assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    #[test]
    fn frames_pass_a_tap_with_several_queues() {
        if !testkit::is_root_or_skip() {
            return;
        }
        let tested = sys::netns::in_new(|| {
            let backend = TapBackend::open("virt-tap0", 2).unwrap();
            run("ip link set virt-tap0 up");
            let net = Net::new(Box::new(backend), settings()).unwrap();
            let mut driver = Driver::start(Box::new(net));
            let count = || -> u64 {
                run("cat /proc/self/net/dev | sed -n 's/.*virt-tap0: *[0-9]* *\\([0-9]*\\).*/\\1/p'")
                    .trim()
                    .parse()
                    .unwrap()
            };
            let before = count();
            for queue in [1, 3] {
                driver.request(queue, &[Part::Out(&PLAIN_HEADER), Part::Out(&broadcast(100))]);
            }
            assert_eq!(count() - before, 2, "the kernel has not seen both frames");
            let room = driver.send(0, &[Part::In(2000)]).1[0];
            let other = driver.send(2, &[Part::In(2000)]).1[0];
            // The kernel looks for a neighbour, by broadcast.
            run("ip addr add 192.0.2.1/24 dev virt-tap0; bash -c 'echo x > /dev/udp/192.0.2.9/9'");
            let frame = driver.until("a frame of the kernel", |driver| {
                [(0, room), (2, other)].into_iter().find_map(|(queue, at)| {
                    let (_, written) = driver.rings[queue].take()?;
                    Some(driver.read(at, written as usize))
                })
            });
            assert_eq!(frame[10..12], [1, 0], "one buffer");
            assert!(frame.len() >= HEADER_BYTES + 14);
        });
        tested.unwrap();
    }
}

/// Short frames go out with their notification; a long one, and what is behind it, is left to the service.
#[test]
fn a_notification_sends_short_frames_at_once() {
    let mut card = card(settings(), 1, 0);
    card.driver.slot.set_attendance(Attendance::Attended);
    card.driver.send(1, &[Part::Out(&PLAIN_HEADER), Part::Out(&frame(60))]);
    assert!(card.driver.rings[1].take().is_some());
    card.driver.send(1, &[Part::Out(&PLAIN_HEADER), Part::Out(&frame(9000))]);
    card.driver.send(1, &[Part::Out(&PLAIN_HEADER), Part::Out(&frame(70))]);
    assert!(card.driver.rings[1].take().is_none());
    card.driver.used(1);
    card.driver.used(1);
    let lengths: Vec<usize> = card.wire.lock().unwrap().from_guest.iter().map(Vec::len).collect();
    assert_eq!(lengths, [72, 9012, 82], "the order is the driver's");
}
