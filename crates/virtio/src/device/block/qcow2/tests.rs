use imago::{FormatCreateBuilder, StorageCreateOptions};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

use super::*;
use crate::Memory;

const MIB: u64 = 1 << 20;

fn create(path: &Path, bytes: u64, backing: Option<&str>) {
    let options = StorageCreateOptions::new().filename(path);
    let storage = <Storage as imago::Storage>::create_open(options).unwrap();
    let mut builder = Image::<Storage>::create_builder(storage).size(bytes);
    if let Some(backing) = backing {
        builder = builder.backing(backing.to_owned(), FORMAT.to_owned());
    }
    builder.create().unwrap();
}

fn open(path: &Path) -> Qcow2 {
    Qcow2::open(path, Access::ReadWrite, Cache::Host, Backing::Opened).unwrap()
}

struct Guest(Memory);

impl Guest {
    fn new() -> Self {
        Self(Memory::new(MIB).unwrap())
    }

    fn put(&self, disk: &mut Qcow2, bytes: &[u8], offset: u64) {
        self.0.ram().write_slice(bytes, GuestAddress(0)).unwrap();
        let half = bytes.len() / 2;
        let slices = [(0, half), (half, bytes.len() - half)]
            .map(|(at, length)| self.0.ram().get_slice(GuestAddress(at as u64), length).unwrap());
        disk.write(&slices, offset).unwrap();
    }

    fn get(&self, disk: &mut Qcow2, length: usize, offset: u64) -> Vec<u8> {
        let slice = self.0.ram().get_slice(GuestAddress(0x8_0000), length).unwrap();
        disk.read(&[slice], offset).unwrap();
        let mut bytes = vec![0; length];
        self.0.ram().read_slice(&mut bytes, GuestAddress(0x8_0000)).unwrap();
        bytes
    }
}

#[test]
fn what_was_flushed_survives_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk.qcow2");
    create(&path, 64 * MIB, None);
    let (guest, mut disk) = (Guest::new(), open(&path));
    assert_eq!(disk.bytes(), 64 * MIB);
    guest.put(&mut disk, &[1; 5120], 10 * MIB + 512);
    guest.put(&mut disk, &[2; 131_072], 40 * MIB - 1024);
    disk.flush().unwrap();
    let killed = folder.path().join("killed.qcow2");
    std::fs::copy(&path, &killed).unwrap();
    let mut again = open(&killed);
    assert_eq!(guest.get(&mut again, 5120, 10 * MIB + 512), [1; 5120]);
    assert_eq!(guest.get(&mut again, 131_072, 40 * MIB - 1024), vec![2; 131_072]);
    assert_eq!(guest.get(&mut again, 512, 0), [0; 512]);
    assert!(std::fs::metadata(&killed).unwrap().len() < 2 * MIB, "it grows as it is written");
}

#[test]
fn ranges_are_cleared() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk.qcow2");
    create(&path, 8 * MIB, None);
    let (guest, mut disk) = (Guest::new(), open(&path));
    guest.put(&mut disk, &vec![7; 262_144], 0);
    disk.write_zeroes(512, 1024, Zeroes::Keep).unwrap();
    disk.write_zeroes(65_536, 65_536, Zeroes::Free).unwrap();
    disk.discard(131_072, 65_536).unwrap();
    let bytes = guest.get(&mut disk, 131_072, 0);
    assert_eq!((&bytes[..512], &bytes[512..1536], bytes[1536]), (&[7; 512][..], &[0; 1024][..], 7));
    assert!(bytes[65_536..].iter().all(|byte| *byte == 0));
}

#[test]
fn an_image_upon_another_is_opened_only_when_that_is_allowed() {
    let folder = tempfile::tempdir().unwrap();
    let (base, top) = (folder.path().join("base.qcow2"), folder.path().join("top.qcow2"));
    create(&base, MIB, None);
    let guest = Guest::new();
    let mut disk = open(&base);
    guest.put(&mut disk, &[3; 4096], 0);
    disk.flush().unwrap();
    drop(disk);
    create(&top, MIB, Some("base.qcow2"));
    let refused = Qcow2::open(&top, Access::ReadWrite, Cache::Host, Backing::Refused).unwrap_err();
    assert!(matches!(&refused, DiskError::Backing { backing, .. } if backing == "base.qcow2"), "{refused:?}");
    let mut disk = open(&top);
    assert_eq!(guest.get(&mut disk, 4096, 0), [3; 4096]);
    guest.put(&mut disk, &[4; 512], 512);
    drop(disk);
    let mut below = open(&base);
    assert_eq!(guest.get(&mut below, 4096, 0), [3; 4096], "the image below was written");
    drop(below);
    let mut disk = open(&top);
    assert_eq!(guest.get(&mut disk, 1536, 0), [[3; 512], [4; 512], [3; 512]].concat());
}

#[test]
fn a_malformed_image_is_refused_and_one_in_use_too() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk.qcow2");
    create(&path, MIB, None);
    let refused = |path: &Path| Qcow2::open(path, Access::ReadWrite, Cache::Host, Backing::Refused).unwrap_err();
    let held = open(&path);
    assert!(matches!(refused(&path), DiskError::Locked { .. }));
    drop(held);
    let good = std::fs::read(&path).unwrap();
    let bad = folder.path().join("bad.qcow2");
    let damaged = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        bytes
    };
    for bytes in
        [vec![], b"QFI".to_vec(), good[..50].to_vec(), damaged(0, 0), damaged(7, 9), damaged(23, 63), damaged(79, 1)]
    {
        std::fs::write(&bad, &bytes).unwrap();
        assert!(matches!(refused(&bad), DiskError::Format { .. } | DiskError::Size { .. }), "{:?}", refused(&bad));
    }
}
