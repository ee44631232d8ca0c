use super::*;
use crate::testing::{Driver, Part};

#[test]
fn flushes_and_says_where_the_memory_is() {
    let file = Arc::new(tempfile::tempfile().unwrap());
    let mut driver = Driver::start(Box::new(Pmem::new(file, 1 << 32, 1 << 21)));
    assert_eq!(driver.config(0, 16), [(1_u64 << 32).to_le_bytes(), (1_u64 << 21).to_le_bytes()].concat());
    assert_eq!(driver.request(0, &[Part::Out(&[0; 4]), Part::In(4)]), (vec![vec![0; 4]], 4));
    assert_eq!(driver.request(0, &[Part::Out(&[9, 0, 0, 0]), Part::In(4)]).0[0], [1, 0, 0, 0]);
    assert_eq!(driver.request(0, &[Part::Out(&[0]), Part::In(4)]).0[0], [1, 0, 0, 0]);
    assert_eq!(driver.slot.metrics()["flushes"], 1);
    driver.send(0, &[Part::Out(&[0; 4]), Part::In(3)]);
    driver.slot.serve();
    assert!(driver.broken());
}

#[test]
fn a_file_that_cannot_be_flushed_is_an_error_of_the_guest_s_request() {
    let (pipe, _other) = rustix::pipe::pipe().unwrap();
    let mut driver = Driver::start(Box::new(Pmem::new(Arc::new(File::from(pipe)), 0, 0)));
    assert_eq!(driver.request(0, &[Part::Out(&[0; 4]), Part::In(4)]).0[0], [1, 0, 0, 0]);
    assert_eq!(driver.slot.metrics()["errors"], 1);
}
