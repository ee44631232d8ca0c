use std::io::Write;

use vm_memory::{Bytes, GuestAddress};

use super::*;

/// An ELF file with one segment of four bytes at 1 MiB, and a PVH note.
fn elf(change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut file = vec![0; 64 + 2 * 56];
    let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"\x7fELF\x02\x01\x01");
    put(18, &62u16.to_le_bytes());
    put(24, &0x10_0000u64.to_le_bytes());
    put(32, &64u64.to_le_bytes());
    put(54, &56u16.to_le_bytes());
    put(56, &2u16.to_le_bytes());
    for (at, kind, offset, size) in [(64, 1u32, 176u64, 4u64), (120, 4, 180, 20)] {
        put(at, &kind.to_le_bytes());
        put(at + 8, &offset.to_le_bytes());
        put(at + 16, &0xffff_ffff_8100_0000u64.to_le_bytes());
        put(at + 24, &0x10_0000u64.to_le_bytes());
        put(at + 32, &size.to_le_bytes());
        put(at + 40, &0x2000u64.to_le_bytes());
    }
    file.extend(b"code");
    file.extend([4, 0, 0, 0, 4, 0, 0, 0, 18, 0, 0, 0]);
    file.extend(b"Xen\0\x40\x00\x10\x00");
    change(&mut file);
    file
}

fn bzimage(change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut file = vec![0; 1024];
    file[0x1f1] = 1;
    file[0x1f4] = 2;
    file[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
    file[0x201] = 0x6a;
    file[0x202..0x206].copy_from_slice(b"HdrS");
    file[0x206..0x208].copy_from_slice(&0x20fu16.to_le_bytes());
    file[0x211] = 1;
    file[0x22c..0x230].copy_from_slice(&0x7fff_ffffu32.to_le_bytes());
    file[0x236] = 1;
    file[0x25b] = 1;
    file[0x262] = 1;
    file.extend([0x90; 32]);
    change(&mut file);
    file
}

struct Guest {
    memory: Memory,
    folder: tempfile::TempDir,
}

impl Guest {
    fn new(mib: u64) -> Self {
        Self { memory: Memory::new(mib << 20).unwrap(), folder: tempfile::tempdir().unwrap() }
    }

    fn file(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::File::create(&path).unwrap().write_all(content).unwrap();
        path
    }

    fn load(&self, kernel: &[u8], initrd: Option<&[u8]>, protocol: BootProtocol) -> Result<Entry, BootError> {
        let kernel = self.file("kernel", kernel);
        let initrd = initrd.map(|content| self.file("initrd", content));
        load(
            &self.memory,
            &Payload { kernel: &kernel, initrd: initrd.as_deref(), cmdline: "a=b", protocol, rsdp: 0xe_0000 },
        )
    }

    fn word(&self, gpa: u64) -> u32 {
        self.memory.ram().read_obj(GuestAddress(gpa)).unwrap()
    }
}

#[test]
fn elf_kernels_are_put_at_their_addresses() {
    let guest = Guest::new(32);
    assert_eq!(guest.load(&elf(|_| ()), Some(b"init"), BootProtocol::Linux).unwrap(), Entry::Linux(0x10_0000));
    assert_eq!(guest.word(0x10_0000), u32::from_le_bytes(*b"code"));
    let initrd = guest.word(layout::ZERO_PAGE + 0x218);
    assert_eq!((initrd, guest.word(layout::ZERO_PAGE + 0x21c)), (0x1ff_f000, 4));
    assert_eq!(guest.word(initrd.into()), u32::from_le_bytes(*b"init"));
    assert_eq!(guest.word(layout::CMDLINE), u32::from_le_bytes(*b"a=b\0"));
    // Four parts of memory, the third one up to 32 MiB.
    assert_eq!(guest.word(layout::ZERO_PAGE + 0x1e8) & 0xff, 4);
    assert_eq!(guest.word(layout::ZERO_PAGE + 0x2d0 + 40 + 8), 0x1f0_0000);
}

#[test]
fn pvh_starts_at_the_entry_of_the_note() {
    let guest = Guest::new(32);
    assert_eq!(guest.load(&elf(|_| ()), Some(b"init"), BootProtocol::Pvh).unwrap(), Entry::Pvh(0x10_0040));
    assert_eq!(guest.word(layout::PVH_INFO), 0x336e_c578);
    assert_eq!(guest.word(layout::PVH_MODULES), 0x1ff_f000);
    let bzimage = guest.load(&bzimage(|_| ()), None, BootProtocol::Pvh);
    assert!(matches!(bzimage, Err(BootError::NoPvh(_))));
}

#[test]
fn virtual_entries_are_meant_where_the_segment_is() {
    let guest = Guest::new(32);
    let kernel = elf(|file| file[24..32].copy_from_slice(&0xffff_ffff_8100_0100u64.to_le_bytes()));
    assert_eq!(guest.load(&kernel, None, BootProtocol::Linux).unwrap(), Entry::Linux(0x10_0100));
}

#[test]
fn compressed_kernels_are_unpacked() {
    let guest = Guest::new(32);
    let packed = zstd::encode_all(elf(|_| ()).as_slice(), 1).unwrap();
    assert_eq!(guest.load(&packed, None, BootProtocol::Linux).unwrap(), Entry::Linux(0x10_0000));
    assert!(matches!(guest.load(&packed[..packed.len() / 2], None, BootProtocol::Linux), Err(BootError::Read { .. })));
}

#[test]
fn bzimages_keep_their_header() {
    let guest = Guest::new(32);
    assert_eq!(guest.load(&bzimage(|_| ()), None, BootProtocol::Linux).unwrap(), Entry::Linux(0x10_0200));
    assert_eq!(guest.word(0x10_0000), 0x9090_9090);
    assert_eq!(guest.word(layout::ZERO_PAGE + 0x202), u32::from_le_bytes(*b"HdrS"));
    assert_eq!(guest.word(layout::ZERO_PAGE + 0x210) & 0xff, 0xff);
}

#[test]
fn bad_kernels_are_refused_with_the_reason() {
    let guest = Guest::new(32);
    let refused = |kernel: &[u8]| guest.load(kernel, None, BootProtocol::Linux).unwrap_err();
    assert!(matches!(refused(b""), BootError::Format(_)));
    assert!(matches!(refused(b"#!/bin/sh\nexit 0\n"), BootError::Format(_)));
    assert!(matches!(refused(&elf(|file| file[18] = 183)), BootError::Architecture { machine: 183, class: 2, .. }));
    assert!(matches!(refused(&elf(|file| file[4] = 1)), BootError::Architecture { class: 1, .. }));
    assert!(matches!(refused(&elf(|file| file.truncate(178))), BootError::Damaged { .. }));
    assert!(matches!(refused(&elf(|file| file.truncate(100))), BootError::Damaged { .. }));
    // A segment over the low memory's data, one behind the end, an entry in none.
    assert!(matches!(refused(&elf(|file| file[64 + 24..64 + 32].fill(0))), BootError::Damaged { .. }));
    assert!(matches!(refused(&elf(|file| file[64 + 27] = 0x10)), BootError::Fit { what: "kernel", .. }));
    assert!(matches!(refused(&elf(|file| file[27] = 0x7f)), BootError::Damaged { .. }));
    assert!(matches!(refused(&bzimage(|file| file[0x236] = 0)), BootError::Only32(_)));
    assert!(matches!(refused(&bzimage(|file| file.truncate(1040))), BootError::Damaged { .. }));
    assert!(matches!(refused(&bzimage(|file| file[0x25b] = 0x7f)), BootError::Fit { .. }));
}

#[test]
fn what_does_not_fit_is_refused() {
    let guest = Guest::new(16);
    let large = vec![0; 17 << 20];
    let error = guest.load(&elf(|_| ()), Some(&large), BootProtocol::Linux).unwrap_err();
    assert!(error.to_string().contains("the initrd does not fit"), "{error}");
    let kernel = guest.file("kernel", &elf(|_| ()));
    let long = "x".repeat(layout::CMDLINE_SIZE);
    for cmdline in [long.as_str(), "a\0b"] {
        let payload = Payload { kernel: &kernel, initrd: None, cmdline, protocol: BootProtocol::Linux, rsdp: 0 };
        assert!(matches!(load(&guest.memory, &payload), Err(BootError::Cmdline(_))));
    }
    let missing =
        Payload { kernel: Path::new("/nowhere"), initrd: None, cmdline: "", protocol: BootProtocol::Linux, rsdp: 0 };
    assert!(matches!(load(&guest.memory, &missing), Err(BootError::Read { what: "kernel", .. })));
}

#[test]
fn garbage_never_panics() {
    let guest = Guest::new(16);
    let mut seed = 7u64;
    for round in 0..2_000 {
        let mut kernel = if round % 2 == 0 { elf(|_| ()) } else { bzimage(|_| ()) };
        for _ in 0..3 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let at = (seed >> 33) as usize % kernel.len();
            kernel[at] = (seed >> 24) as u8;
        }
        let _any = guest.load(&kernel, None, BootProtocol::Pvh);
    }
}
