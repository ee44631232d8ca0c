use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use super::*;
use crate::testing::{Driver, Part};

fn port(name: &str) -> (Port, UnixStream) {
    let (near, far) = UnixStream::pair().unwrap();
    far.set_read_timeout(Some(std::time::Duration::from_secs(20))).unwrap();
    (Port::new(name, Some(near.try_clone().unwrap().into()), Some(near.into())).unwrap(), far)
}

#[test]
fn bytes_go_both_ways() {
    let (port, mut far) = port("");
    let (console, _) = Console::new(vec![port]).unwrap();
    let mut driver = Driver::start(Box::new(console));
    driver.request(1, &[Part::Out(b"hello "), Part::Out(b"host")]);
    let mut bytes = [0; 10];
    far.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"hello host");
    far.write_all(b"hello guest").unwrap();
    let (_, room) = driver.send(0, &[Part::In(6)]);
    assert_eq!(driver.used(0).1, 6);
    let (_, rest) = driver.send(0, &[Part::In(100)]);
    assert_eq!(driver.used(0).1, 5);
    assert_eq!([driver.read(room[0], 6), driver.read(rest[0], 5)].concat(), b"hello guest");
    driver.send(0, &[Part::In(100)]);
    driver.slot.serve();
    far.write_all(b"!").unwrap();
    assert_eq!(driver.used(0).1, 1, "a waiting buffer is filled when something comes");
}

#[test]
fn a_slow_host_holds_the_guest_up_and_loses_nothing() {
    let (port, mut far) = port("");
    let (console, _) = Console::new(vec![port]).unwrap();
    let mut driver = Driver::start(Box::new(console));
    let data: Vec<u8> = (0..2_000_000_u32).map(|at| (at % 253) as u8).collect();
    let (head, _) = driver.send(1, &[Part::Out(&data)]);
    driver.slot.serve();
    assert_eq!(driver.rings[1].take(), None, "the socket does not hold so much");
    let reader = std::thread::spawn(move || {
        let mut bytes = vec![0; 2_000_000];
        far.read_exact(&mut bytes).unwrap();
        bytes
    });
    assert_eq!(driver.used(1).0, head);
    assert!(reader.join().unwrap() == data, "bytes were lost or doubled");
}

#[test]
fn a_host_that_hangs_up_does_no_harm() {
    let (port, far) = port("");
    let (console, _) = Console::new(vec![port]).unwrap();
    let mut driver = Driver::start(Box::new(console));
    driver.send(0, &[Part::In(10)]);
    driver.slot.serve();
    drop(far);
    driver.request(1, &[Part::Out(b"into the void")]);
    assert!(!driver.broken());
    assert!(driver.rings[0].take().is_none());
}

#[test]
fn one_port_s_size_stands_in_the_configuration() {
    let (port, _far) = port("");
    let (console, resizer) = Console::new(vec![port]).unwrap();
    let mut driver = Driver::start(Box::new(console));
    resizer.resize(Size { columns: 132, rows: 43 });
    driver.until("the size", |driver| (driver.config(0, 4) == [132, 0, 43, 0]).then_some(()));
    assert_eq!(driver.counter.configurations.load(Ordering::SeqCst), 1);
}

/// Tells the device something on the control queue.
fn tell(driver: &mut Driver, port: u32, event: u16, value: u16) {
    let message = [&port.to_le_bytes()[..], &event.to_le_bytes(), &value.to_le_bytes()].concat();
    driver.request(3, &[Part::Out(&message)]);
}

/// What the device says next on the control queue.
fn told(driver: &mut Driver) -> (u8, u8, Vec<u8>) {
    let (_, room) = driver.send(2, &[Part::In(64)]);
    let length = driver.used(2).1 as usize;
    let bytes = driver.read(room[0], length);
    (bytes[0], bytes[4], bytes[8..].to_vec())
}

#[test]
fn several_ports_are_named_and_opened_by_control_messages() {
    let (first, _console) = port("");
    let (second, mut agent) = port("org.example.agent");
    let (console, resizer) = Console::new(vec![first, second]).unwrap();
    let mut driver = Driver::start(Box::new(console));
    assert_eq!(driver.slot.queue_sizes().len(), 6);
    resizer.resize(Size { columns: 80, rows: 25 });
    assert_eq!(told(&mut driver), (0, 5, vec![25, 0, 80, 0]));
    tell(&mut driver, 0, 0, 1);
    assert_eq!((told(&mut driver), told(&mut driver)), ((0, 1, vec![]), (1, 1, vec![])));
    tell(&mut driver, 0, 3, 1);
    assert_eq!([told(&mut driver).1, told(&mut driver).1, told(&mut driver).1], [4, 5, 6]);
    tell(&mut driver, 1, 3, 1);
    assert_eq!(told(&mut driver), (1, 7, b"org.example.agent".to_vec()));
    assert_eq!(told(&mut driver).1, 6);
    agent.write_all(b"early").unwrap();
    driver.send(4, &[Part::In(16)]);
    driver.slot.serve();
    assert_eq!(driver.rings[4].take(), None, "nobody in the guest has opened the port");
    tell(&mut driver, 1, 6, 1);
    assert_eq!(driver.used(4).1, 5);
    driver.request(5, &[Part::Out(b"from the agent")]);
    let mut bytes = [0; 14];
    agent.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"from the agent");
    tell(&mut driver, 99, 3, 1);
    tell(&mut driver, 1, 77, 1);
    assert!(!driver.broken());
}

#[test]
fn a_driver_that_only_asks_is_reset() {
    let (first, second) = (port(""), port("x"));
    let (console, _) = Console::new(vec![first.0, second.0]).unwrap();
    let mut driver = Driver::start(Box::new(console));
    let message = [&0_u32.to_le_bytes()[..], &0_u16.to_le_bytes(), &1_u16.to_le_bytes()].concat();
    for _ in 0..=MOST_TOLD {
        driver.send(3, &[Part::Out(&message)]);
        driver.slot.serve();
        while driver.rings[3].take().is_some() {}
    }
    assert!(driver.broken());
}

/// Each question has two answers.
const MOST_TOLD: usize = 256;

#[test]
fn a_short_control_message_asks_for_a_reset() {
    let (first, second) = (port(""), port("x"));
    let (console, _) = Console::new(vec![first.0, second.0]).unwrap();
    let mut driver = Driver::start(Box::new(console));
    driver.send(3, &[Part::Out(&[0; 7])]);
    driver.slot.serve();
    assert!(driver.broken());
}
