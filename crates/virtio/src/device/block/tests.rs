use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

use super::*;
use crate::limit::Rate;
use crate::slot::Attendance;
use crate::testing::{Driver, Part};

fn settings() -> Settings {
    Settings { id: "disk-one".to_owned(), queues: 1, limit: Limit::default() }
}

fn disk(bytes: u64) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(bytes).unwrap();
    file
}

fn open(path: &Path, access: Access) -> Box<Block> {
    let raw = Raw::open(path, access, Cache::Host).unwrap();
    Box::new(Block::new(Box::new(raw), settings()).unwrap())
}

fn header(kind: u32, sector: u64) -> Vec<u8> {
    [&kind.to_le_bytes()[..], &[0; 4], &sector.to_le_bytes()].concat()
}

/// A request with data to the disk; gives the status.
fn put(driver: &mut Driver, kind: u32, sector: u64, data: &[u8]) -> u8 {
    let (answers, _) = driver.request(0, &[Part::Out(&header(kind, sector)), Part::Out(data), Part::In(1)]);
    answers[0][0]
}

/// A request with an answer of `length`; gives it and the status.
fn get(driver: &mut Driver, kind: u32, sector: u64, length: usize) -> (Vec<u8>, u8) {
    let (mut answers, written) = driver.request(0, &[Part::Out(&header(kind, sector)), Part::In(length), Part::In(1)]);
    assert_eq!(written as usize, length + 1);
    let status = answers.pop().unwrap()[0];
    (answers.pop().unwrap(), status)
}

fn clear(kind: u32, driver: &mut Driver, segments: &[(u64, u32, u32)]) -> u8 {
    let bytes: Vec<u8> = segments
        .iter()
        .flat_map(|(sector, count, flags)| {
            [&sector.to_le_bytes()[..], &count.to_le_bytes(), &flags.to_le_bytes()].concat()
        })
        .collect();
    put(driver, kind, 0, &bytes)
}

#[test]
fn what_is_written_is_read_again_and_stands_in_the_file() {
    let mut file = disk(1 << 20);
    let mut driver = Driver::start(open(file.path(), Access::ReadWrite));
    assert_eq!(u64::from_le_bytes(driver.config(0, 8).try_into().unwrap()), 2048);
    let pattern: Vec<u8> = (0..5120_u32).map(|at| (at * 7 % 251) as u8).collect();
    assert_eq!(put(&mut driver, 1, 3, &pattern), 0);
    assert_eq!(get(&mut driver, 0, 3, 5120), (pattern.clone(), 0));
    assert_eq!(put(&mut driver, 4, 0, &[]), 0, "flush");
    let mut bytes = vec![0; 5120];
    file.seek(SeekFrom::Start(3 * 512)).unwrap();
    file.read_exact(&mut bytes).unwrap();
    assert_eq!(bytes, pattern);
    let metrics = driver.slot.metrics();
    assert_eq!((metrics["reads"], metrics["written_bytes"], metrics["flushes"]), (1, 5120, 1));
}

#[test]
fn data_may_lie_in_many_odd_pieces() {
    let file = disk(1 << 20);
    let mut driver = Driver::start(open(file.path(), Access::ReadWrite));
    let data: Vec<u8> = (0..1024_u32).map(|at| at as u8).collect();
    let head = header(1, 0);
    let parts = [&head[..5], &head[5..]].into_iter().chain([&data[..1], &data[1..600], &data[600..]]);
    let mut parts: Vec<_> = parts.map(Part::Out).collect();
    parts.push(Part::In(1));
    assert_eq!(driver.request(0, &parts).0[0], [0]);
    let (answers, _) = driver.request(0, &[Part::Out(&header(0, 0)), Part::In(3), Part::In(1000), Part::In(22)]);
    assert_eq!(answers.concat()[..1024], data);
    assert_eq!(answers[2][21], 0, "the status is the last byte");
}

#[test]
fn nothing_outside_the_disk_is_touched() {
    let file = disk(8192);
    let mut driver = Driver::start(open(file.path(), Access::ReadWrite));
    for sector in [16, 15, u64::MAX, u64::MAX / 512, 1 << 55] {
        assert_eq!(put(&mut driver, 1, sector, &[1; 1024]), 1, "{sector}");
        assert_eq!(get(&mut driver, 0, sector, 1024).1, 1, "{sector}");
    }
    assert_eq!(put(&mut driver, 1, 0, &[1; 100]), 1, "no whole sector");
    assert_eq!(put(&mut driver, 99, 0, &[]), 2, "an unknown request");
    assert_eq!(file.as_file().metadata().unwrap().len(), 8192);
    assert_eq!(driver.slot.metrics()["errors"], 12);
    assert!(!driver.broken());
}

#[test]
fn a_read_only_disk_stays_as_it_is() {
    let mut file = disk(8192);
    file.write_all(b"kept").unwrap();
    let mut driver = Driver::start(open(file.path(), Access::ReadOnly));
    assert_ne!(driver.slot.features() & 1 << FEATURE_READ_ONLY, 0);
    assert_eq!(driver.slot.features() & 1 << FEATURE_DISCARD, 0);
    assert_eq!(put(&mut driver, 1, 0, &[1; 512]), 1);
    assert_eq!(clear(13, &mut driver, &[(0, 1, 0)]), 1);
    let (bytes, status) = get(&mut driver, 0, 0, 512);
    assert_eq!((&bytes[..4], status), (&b"kept"[..], 0));
    assert_eq!(put(&mut driver, 4, 0, &[]), 0, "a flush has nothing to do");
}

#[test]
fn ranges_are_cleared() {
    let file = disk(1 << 20);
    let mut driver = Driver::start(open(file.path(), Access::ReadWrite));
    assert_eq!(put(&mut driver, 1, 0, &[9; 64 << 10]), 0);
    assert_eq!(clear(13, &mut driver, &[(0, 8, 0), (16, 8, 1)]), 0);
    let bytes = get(&mut driver, 0, 0, 64 << 10).0;
    let zero = |from: usize, to: usize| bytes[from * 512..to * 512].iter().all(|byte| *byte == 0);
    assert!(zero(0, 8) && !zero(8, 9) && zero(16, 24) && !zero(24, 25));
    assert_eq!(clear(11, &mut driver, &[(64, 64, 0)]), 0, "discard");
    assert_eq!(clear(11, &mut driver, &[(64, 64, 1)]), 2, "a discard has no flags");
    assert_eq!(clear(13, &mut driver, &[(0, 1, 2)]), 2, "an unknown flag");
    assert_eq!(clear(13, &mut driver, &[(8, 8, 0), (2048, 1, 0)]), 1, "beyond the end");
    assert_eq!(get(&mut driver, 0, 8, 512).0, [9; 512], "a refused request does nothing");
    assert_eq!(clear(13, &mut driver, &vec![(0, 1, 0); 65]), 1, "too many segments");
    assert_eq!(put(&mut driver, 13, 0, &[0; 17]), 1, "half a segment");
}

#[test]
fn the_disk_has_a_name() {
    let file = disk(8192);
    let mut driver = Driver::start(open(file.path(), Access::ReadWrite));
    assert_eq!(get(&mut driver, 8, 0, 20), (b"disk-one\0\0\0\0\0\0\0\0\0\0\0\0".to_vec(), 0));
    assert_eq!(get(&mut driver, 8, 0, 4).0, b"disk");
}

#[test]
fn a_request_without_header_or_status_asks_for_a_reset() {
    for parts in [vec![Part::Out(&[0; 15]), Part::In(1)], vec![Part::Out(&[0; 16])], vec![Part::In(513)]] {
        let file = disk(8192);
        let mut driver = Driver::start(open(file.path(), Access::ReadWrite));
        driver.send(0, &parts);
        driver.until("the need of a reset", |driver| driver.broken().then_some(()));
    }
}

#[test]
fn the_driver_can_turn_the_cache_off() {
    let file = disk(8192);
    let mut driver = Driver::start(open(file.path(), Access::ReadWrite));
    assert_eq!(driver.config(32, 1), [1]);
    driver.slot.write_config(32, &[0]);
    driver.slot.write_config(0, &[0xff; 8]);
    assert_eq!((driver.config(32, 1), driver.config(0, 8)), (vec![0], 16_u64.to_le_bytes().to_vec()));
    assert_eq!(put(&mut driver, 1, 0, &[1; 512]), 0);
    driver.slot.write_config(32, &[7]);
    assert_eq!(driver.config(32, 1), [0], "there is no such mode");
}

#[test]
fn several_queues_and_a_limit() {
    let file = disk(1 << 20);
    let limit = Limit { operations: Rate { per_second: 1000, burst: 1 }, ..Limit::default() };
    let settings = Settings { queues: 3, limit, ..settings() };
    let raw = Raw::open(file.path(), Access::ReadWrite, Cache::Host).unwrap();
    let mut driver = Driver::start(Box::new(Block::new(Box::new(raw), settings).unwrap()));
    assert_eq!(driver.config(34, 2), [3, 0]);
    let mut waiting = Vec::new();
    for queue in [0, 1, 2, 2, 1, 0] {
        let (head, _) = driver
            .send(queue, &[Part::Out(&header(1, u64::from(queue))), Part::Out(&[queue as u8 + 1; 512]), Part::In(1)]);
        waiting.push((queue, head));
    }
    for (queue, head) in waiting {
        assert_eq!(driver.used(queue), (head, 1));
    }
    assert!(driver.slot.metrics()["throttled"] > 0);
    assert_eq!(get(&mut driver, 0, 1, 1024).0, [[2; 512], [3; 512]].concat());
}

#[test]
fn a_disk_belongs_to_one_writer() {
    let file = disk(8192);
    let open = |access| Raw::open(file.path(), access, Cache::Host);
    let first = open(Access::ReadWrite).unwrap();
    for access in [Access::ReadOnly, Access::ReadWrite] {
        assert!(matches!(open(access), Err(DiskError::Locked { .. })));
    }
    drop(first);
    let readers = [open(Access::ReadOnly).unwrap(), open(Access::ReadOnly).unwrap()];
    assert!(matches!(open(Access::ReadWrite), Err(DiskError::Locked { .. })));
    drop(readers);
}

#[test]
fn what_is_no_disk_is_refused() {
    let odd = disk(1000);
    let refused = |path: &Path| Raw::open(path, Access::ReadOnly, Cache::Host).unwrap_err();
    assert!(matches!(refused(odd.path()), DiskError::Size { bytes: 1000, .. }));
    assert!(matches!(refused(Path::new("/")), DiskError::Type { .. } | DiskError::Open { .. }));
    assert!(matches!(refused(Path::new("/dev/null")), DiskError::Type { .. }));
    assert!(matches!(refused(Path::new("/nowhere")), DiskError::Open { .. }));
}

#[test]
fn direct_access_takes_any_buffer() {
    let folder = tempfile::tempdir_in("/var/tmp").unwrap();
    let path = folder.path().join("disk");
    std::fs::File::create(&path).unwrap().set_len(1 << 20).unwrap();
    let raw = match Raw::open(&path, Access::ReadWrite, Cache::Direct) {
        Ok(raw) => raw,
        Err(error) => return println!("skipped: no O_DIRECT here: {error}"),
    };
    let mut driver = Driver::start(Box::new(Block::new(Box::new(raw), settings()).unwrap()));
    let data: Vec<u8> = (0..4096_u32).map(|at| at as u8).collect();
    let head = header(1, 8);
    let status = driver.request(0, &[Part::Out(&head), Part::Out(&data[..100]), Part::Out(&data[100..]), Part::In(1)]);
    assert_eq!(status.0[0], [0]);
    assert_eq!(get(&mut driver, 0, 8, 4096), (data, 0));
}

/// With somebody who serves the rest, a notification does at once what needs no disk; without, nothing is touched.
#[test]
fn a_notification_does_what_needs_no_wait() {
    let mut file = disk(1 << 20);
    file.write_all(&[5; 4096]).unwrap();
    let mut driver = Driver::start(open(file.path(), Access::ReadWrite));
    let head = header(0, 0);
    let request = [Part::Out(&head), Part::In(4096), Part::In(1)];
    driver.send(0, &request);
    assert!(driver.rings[0].take().is_none(), "nobody serves the device");
    driver.used(0);
    driver.slot.set_attendance(Attendance::Attended);
    let (_, places) = driver.send(0, &request);
    // What the host has not in its cache is left to the service; the file was written just now.
    assert_eq!(driver.rings[0].take().map(|used| used.1), Some(4097));
    assert_eq!((driver.read(places[1], 4096), driver.read(places[2], 1)), (vec![5; 4096], vec![0]));
    let (write, flush) = (header(1, 8), header(4, 0));
    driver.send(0, &[Part::Out(&write), Part::Out(&[6; 512]), Part::In(1)]);
    assert!(driver.rings[0].take().is_some(), "a write to the host's memory");
    driver.send(0, &[Part::Out(&flush), Part::In(1)]);
    assert!(driver.rings[0].take().is_none(), "a flush waits for the disk");
    driver.used(0);
    driver.send(0, &[Part::Out(&flush), Part::In(1)]);
    assert!(driver.rings[0].take().is_some(), "there is nothing to flush any more");
    assert_eq!(get(&mut driver, 0, 8, 512), (vec![6; 512], 0));
    driver.slot.set_attendance(Attendance::Alone);
    driver.send(0, &request);
    assert!(driver.rings[0].take().is_none(), "the machine rests");
}
