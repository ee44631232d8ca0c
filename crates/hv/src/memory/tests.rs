use std::sync::Mutex;

use vm_memory::Bytes;

use super::*;

#[test]
fn ram_goes_around_the_hole() {
    let check = |size: u64, expect: &[(u64, u64, u64)]| {
        let got: Vec<_> = ranges(size).unwrap().iter().map(|range| (range.gpa, range.size, range.offset)).collect();
        assert_eq!(got, expect, "{size:#x}");
    };
    check(0x1000, &[(0, 0x1000, 0)]);
    check(DEVICE_HOLE, &[(0, DEVICE_HOLE, 0)]);
    check(DEVICE_HOLE + 0x2000, &[(0, DEVICE_HOLE, 0), (HIGH_RAM, 0x2000, DEVICE_HOLE)]);
    for bad in [0, 1, 4095, MAX_RAM + PAGE_SIZE] {
        assert!(matches!(ranges(bad), Err(MemoryError::Size(size)) if size == bad));
    }
}

#[test]
fn writes_of_devices_are_dirty_pages() {
    let memory = Memory::new(64 * PAGE_SIZE * 3).unwrap();
    memory.ram().write_slice(&[1; 8192], GuestAddress(0x800)).unwrap();
    memory.ram().write_obj(7u64, GuestAddress(100 * PAGE_SIZE)).unwrap();
    assert_eq!(memory.take_dirty(), [vec![0b111, 1 << 36, 0]]);
    assert_eq!(memory.take_dirty(), [vec![0, 0, 0]]);
}

struct Told(Mutex<Vec<(u64, u64)>>);

impl CodeWatch for Told {
    fn overwritten(&self, gpa: u64, len: u64) {
        self.0.lock().unwrap().push((gpa, len));
    }
}

#[test]
fn overwritten_code_is_told() {
    let memory = Memory::new(16 * PAGE_SIZE).unwrap();
    let told = Arc::new(Told(Mutex::new(Vec::new())));
    memory.watch_code(told.clone());
    let tracker = memory.regions()[0].tracker();
    tracker.mark_code(0x1040, 3);
    memory.ram().write_obj(1u8, GuestAddress(0x103f)).unwrap();
    memory.ram().write_obj(1u8, GuestAddress(0x1080)).unwrap();
    memory.ram().write_obj(1u32, GuestAddress(0x107c)).unwrap();
    memory.ram().write_slice(&[0; 4096], GuestAddress(0x800)).unwrap();
    tracker.clear_code(0x1040, 3);
    memory.ram().write_obj(1u32, GuestAddress(0x1040)).unwrap();
    assert_eq!(*told.0.lock().unwrap(), [(0x107c, 4), (0x800, 4096)]);
}

#[test]
fn discarded_pages_are_zero_and_dirty() {
    let memory = Memory::new(16 * PAGE_SIZE).unwrap();
    memory.ram().write_slice(&[1; 3 * 4096], GuestAddress(0x1000)).unwrap();
    memory.take_dirty();
    memory.discard(0x1800, 0x1900).unwrap();
    let read = |gpa| memory.ram().read_obj::<u8>(GuestAddress(gpa)).unwrap();
    assert_eq!([read(0x1fff), read(0x2000), read(0x2fff), read(0x3000)], [1, 0, 0, 1]);
    assert_eq!(memory.take_dirty(), [vec![0b100]]);
    assert!(matches!(memory.discard(0xf000, 0x2000), Err(MemoryError::Range { .. })));
}

#[test]
fn private_memory_leaves_its_file_alone() {
    let first = Memory::new(4 * PAGE_SIZE).unwrap();
    first.ram().write_obj(42u32, GuestAddress(0x2000)).unwrap();
    let backing =
        Backing { range: first.ranges()[0], file: Arc::clone(first.file(0).unwrap()), sharing: Sharing::Private };
    let second = Memory::map(vec![backing]).unwrap();
    second.ram().write_obj(43u32, GuestAddress(0x2000)).unwrap();
    assert_eq!(first.ram().read_obj::<u32>(GuestAddress(0x2000)).unwrap(), 42);
    second.discard(0x2000, 0x1000).unwrap();
    assert_eq!(second.ram().read_obj::<u32>(GuestAddress(0x2000)).unwrap(), 42);
}

#[test]
fn ranges_are_found() {
    let memory = Memory::new(4 * PAGE_SIZE).unwrap();
    assert_eq!(memory.find(0x3fff, 1).unwrap().1, 0x3fff);
    assert!(memory.find(0x3fff, 2).is_none());
    assert!(memory.find(0x4000, 0).is_none());
    assert!(memory.find(u64::MAX, 1).is_none());
}
