use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

use super::packet::{SHUTDOWN_RECEIVE, SHUTDOWN_SEND, STREAM};
use super::*;
use crate::testing::{Driver, Part};

const CID: u64 = 42;

struct Bench {
    driver: Driver,
    folder: tempfile::TempDir,
}

fn bench() -> Bench {
    let folder = tempfile::tempdir().unwrap();
    let vsock = Vsock::new(CID, &folder.path().join("v")).unwrap();
    Bench { driver: Driver::start(Box::new(vsock)), folder }
}

fn packet(operation: Operation, guest_port: u32, host_port: u32) -> Packet {
    Packet {
        source_cid: CID,
        target_cid: HOST_CID,
        source_port: guest_port,
        target_port: host_port,
        length: 0,
        kind: STREAM,
        operation,
        flags: 0,
        buffer: 64 << 10,
        forwarded: 0,
    }
}

impl Bench {
    fn send(&mut self, packet: &Packet, data: &[u8]) {
        let packet = Packet { length: data.len() as u32, ..*packet };
        self.driver.request(1, &[Part::Out(&packet.bytes()), Part::Out(data)]);
    }

    /// The next packet for the guest, with its data.
    fn receive(&mut self) -> (Packet, Vec<u8>) {
        let (head, room) = self.driver.send(0, &[Part::In(4096)]);
        let (used, written) = self.driver.used(0);
        assert_eq!(used, head);
        let bytes = self.driver.read(room[0], written as usize);
        let chain = self.driver.memory.clone();
        let packet =
            crate::testing::read_back(&chain, room[0], packet::HEADER_BYTES, |reader| Packet::read(reader).unwrap());
        assert_eq!((packet.source_cid, packet.target_cid), (HOST_CID, CID));
        (packet, bytes[packet::HEADER_BYTES..].to_vec())
    }

    /// A stream that a program of the host began, to port 7 of the guest.
    fn connected(&mut self) -> (UnixStream, u32) {
        let mut host = UnixStream::connect(self.folder.path().join("v")).unwrap();
        host.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        host.write_all(b"CONNECT 7\n").unwrap();
        let (asked, _) = self.receive();
        assert_eq!((asked.operation, asked.target_port), (Operation::Request, 7));
        self.send(&packet(Operation::Response, 7, asked.source_port), &[]);
        let mut line = String::new();
        BufReader::new(host.try_clone().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, format!("OK {}\n", asked.source_port));
        (host, asked.source_port)
    }
}

#[test]
fn a_program_of_the_host_reaches_one_of_the_guest() {
    let mut bench = bench();
    assert_eq!(bench.driver.config(0, 8), CID.to_le_bytes());
    let (mut host, port) = bench.connected();
    host.write_all(b"ping").unwrap();
    let (got, data) = bench.receive();
    assert_eq!((got.operation, &data[..]), (Operation::Data, &b"ping"[..]));
    bench.send(&packet(Operation::Data, 7, port), b"pong");
    let mut bytes = [0; 4];
    host.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"pong");
    drop(host);
    assert_eq!(bench.receive().0.operation, Operation::Shutdown);
    bench.send(&Packet { flags: SHUTDOWN_RECEIVE | SHUTDOWN_SEND, ..packet(Operation::Shutdown, 7, port) }, &[]);
    assert_eq!(bench.receive().0.operation, Operation::Reset);
    assert_eq!(bench.driver.slot.metrics()["connections"], 0);
}

#[test]
fn a_program_of_the_guest_reaches_one_of_the_host() {
    let mut bench = bench();
    let listener = UnixListener::bind(bench.folder.path().join("v_5000")).unwrap();
    bench.send(&packet(Operation::Request, 1234, 5000), &[]);
    let (answer, _) = bench.receive();
    assert_eq!((answer.operation, answer.source_port, answer.target_port), (Operation::Response, 5000, 1234));
    let (mut host, _) = listener.accept().unwrap();
    bench.send(&packet(Operation::Data, 1234, 5000), b"to the host");
    bench.send(&Packet { flags: SHUTDOWN_SEND, ..packet(Operation::Shutdown, 1234, 5000) }, &[]);
    let mut all = String::new();
    host.read_to_string(&mut all).unwrap();
    assert_eq!(all, "to the host", "and then its end");
    host.write_all(b"late answer").unwrap();
    assert_eq!(bench.receive().1, b"late answer");
}

#[test]
fn nobody_listens() {
    let mut bench = bench();
    bench.send(&packet(Operation::Request, 1234, 5001), &[]);
    assert_eq!(bench.receive().0.operation, Operation::Reset);
    bench.send(&packet(Operation::Data, 1, 2), b"x");
    assert_eq!(bench.receive().0.operation, Operation::Reset, "no such stream");
    bench.send(&Packet { kind: 2, ..packet(Operation::Request, 1, 5000) }, &[]);
    assert_eq!(bench.receive().0.operation, Operation::Reset, "no stream socket");
    bench.send(&packet(Operation::Reset, 1, 2), &[]);
    bench.send(&Packet { source_cid: 3, ..packet(Operation::Request, 1, 2) }, &[]);
    bench.driver.send(0, &[Part::In(100)]);
    bench.driver.slot.serve();
    assert!(bench.driver.rings[0].take().is_none(), "a reset and a liar have no answer");
}

#[test]
fn bad_greetings_are_hung_up_upon() {
    let mut bench = bench();
    for greeting in ["HELLO 7\n", "CONNECT\n", "CONNECT x\n", "CONNECT 4294967296\n", &"C".repeat(40)] {
        let mut host = UnixStream::connect(bench.folder.path().join("v")).unwrap();
        host.write_all(greeting.as_bytes()).unwrap();
        host.set_nonblocking(true).unwrap();
        bench.driver.until("the end", |_| match host.read(&mut [0; 1]) {
            Ok(0) => Some(()),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Some(()),
            _ => None,
        });
    }
    assert_eq!(bench.driver.slot.metrics()["connections"], 0);
}

#[test]
fn the_guest_s_credit_is_kept() {
    let mut bench = bench();
    let (host, port) = bench.connected();
    host.set_nonblocking(true).unwrap();
    let full = || -> usize {
        let mut total = 0;
        while let Ok(done) = (&host).write(&[7; 8192]) {
            total += done;
        }
        total
    };
    assert!(full() > 70_000, "the socket is too small for the test");
    let mut got = 0;
    while got < 64 << 10 {
        got += bench.receive().1.len();
    }
    assert_eq!(got, 64 << 10, "as much as the guest said");
    bench.driver.send(0, &[Part::In(4096)]);
    for _ in 0..3 {
        bench.driver.slot.serve();
    }
    assert!(bench.driver.rings[0].take().is_none(), "there is no credit");
    let credit = Packet { forwarded: 10, ..packet(Operation::CreditUpdate, 7, port) };
    bench.driver.request(1, &[Part::Out(&credit.bytes())]);
    assert_eq!(bench.driver.used(0).1 as usize, packet::HEADER_BYTES + 10);
}

#[test]
fn our_credit_is_kept_and_given_back() {
    let mut bench = bench();
    let (mut host, port) = bench.connected();
    let mut sent = 0_usize;
    // Until the host's socket and our buffer are full.
    let mut held = 0;
    while held < (connection::BUFFER as usize) {
        bench.send(&packet(Operation::Data, 7, port), &[3; 4096]);
        sent += 4096;
        bench.driver.request(1, &[Part::Out(&packet(Operation::CreditRequest, 7, port).bytes())]);
        let books = loop {
            let got = bench.receive().0;
            if got.operation == Operation::CreditUpdate {
                break got;
            }
        };
        held = sent - books.forwarded as usize;
    }
    let reader = std::thread::spawn(move || {
        let mut bytes = vec![0; sent];
        host.read_exact(&mut bytes).unwrap();
        (host, bytes.iter().all(|byte| *byte == 3))
    });
    let update = loop {
        let got = bench.receive().0;
        if sent - got.forwarded as usize <= connection::BUFFER as usize / 2 {
            break got;
        }
    };
    assert_eq!(update.operation, Operation::CreditUpdate, "the guest is told without asking");
    bench.driver.until("the host to have read all", |_| reader.is_finished().then_some(()));
    assert!(reader.join().unwrap().1);
}

#[test]
fn a_guest_that_overruns_its_credit_loses_the_stream() {
    let mut bench = bench();
    let (mut host, port) = bench.connected();
    let lie = Packet { length: connection::BUFFER + 1, ..packet(Operation::Data, 7, port) };
    bench.driver.request(1, &[Part::Out(&lie.bytes()), Part::Out(&vec![1; connection::BUFFER as usize + 1])]);
    assert_eq!(bench.receive().0.operation, Operation::Reset);
    assert_eq!(host.read(&mut [0; 8]).unwrap(), 0);
}

#[test]
fn broken_packets_ask_for_a_reset() {
    for (queue, parts) in [
        (1, vec![Part::Out(&[0; 43][..])]),
        (1, vec![Part::Out(&Packet { length: 5, ..packet(Operation::Data, 1, 1) }.bytes()[..]), Part::Out(b"abcd")]),
    ] {
        let mut bench = bench();
        bench.driver.send(queue, &parts);
        bench.driver.slot.serve();
        assert!(bench.driver.broken());
    }
    let mut bench = bench();
    bench.driver.send(0, &[Part::In(44)]);
    bench.driver.send(1, &[Part::Out(&packet(Operation::Data, 1, 1).bytes())]);
    bench.driver.slot.serve();
    assert!(bench.driver.broken(), "no room for any data");
}

#[test]
fn a_guest_that_does_not_read_answers_waits() {
    let mut bench = bench();
    let mut taken = 0;
    loop {
        bench.driver.send(1, &[Part::Out(&packet(Operation::Data, 1, 1).bytes())]);
        bench.driver.slot.serve();
        if bench.driver.rings[1].take().is_none() {
            break;
        }
        taken += 1;
        assert!(taken < 10_000, "the answers pile up");
    }
    assert!(taken >= 1000);
    bench.receive();
    bench.driver.used(1);
    assert!(!bench.driver.broken());
}

#[test]
fn a_restored_guest_is_told_that_its_streams_are_gone() {
    let folder = tempfile::tempdir().unwrap();
    let mut vsock = Vsock::new(CID, &folder.path().join("v")).unwrap();
    vsock.restore(serde_json::Value::Null).unwrap();
    let mut driver = Driver::start(Box::new(vsock));
    let (answers, written) = driver.request(2, &[Part::In(8)]);
    assert_eq!((written, &answers[0][..4]), (4, &[0; 4][..]));
    drop(driver);
    assert!(!folder.path().join("v").exists(), "the socket's file is left");
}

#[test]
fn what_a_killed_machine_left_makes_room_and_nothing_else_does() {
    let folder = tempfile::tempdir().unwrap();
    let (left, used, file) = (folder.path().join("left"), folder.path().join("used"), folder.path().join("file"));
    drop(UnixListener::bind(&left).unwrap());
    assert!(left.exists());
    let vsock = Vsock::new(CID, &left).unwrap();
    assert!(UnixStream::connect(&left).is_ok());
    drop(vsock);
    let _listener = UnixListener::bind(&used).unwrap();
    std::fs::write(&file, b"kept").unwrap();
    for taken in [&used, &file] {
        assert!(Vsock::new(CID, taken).is_err());
        assert!(taken.exists());
    }
}
