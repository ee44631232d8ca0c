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

/// A 32-bit ELF file with one segment at 1 MiB, which begins with a multiboot header, and with a PVH note if `note`.
fn elf32(header: &[u32], note: &[u8]) -> Vec<u8> {
    let mut file = vec![0; 52 + 2 * 32];
    let segment: Vec<u8> = header.iter().flat_map(|word| word.to_le_bytes()).collect();
    let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"\x7fELF\x01\x01\x01");
    put(18, &3u16.to_le_bytes());
    put(24, &0x10_0020u32.to_le_bytes());
    put(28, &52u32.to_le_bytes());
    put(42, &32u16.to_le_bytes());
    put(44, &2u16.to_le_bytes());
    let size = segment.len() as u32;
    for (at, words) in [(52, [1, 116, 0x10_0000, 0x10_0000, size, 0x2000]), (84, [4, 116 + size, 0, 0, 20, 20])] {
        put(at, &words.iter().flat_map(|word: &u32| word.to_le_bytes()).collect::<Vec<_>>());
    }
    file.extend(segment);
    file.extend([4, 0, 0, 0, 4, 0, 0, 0, 18, 0, 0, 0]);
    file.extend(note);
    file
}

const XEN: &[u8] = b"Xen\0\x40\x00\x10\x00";
const NO_NOTE: &[u8] = b"Not\0\x40\x00\x10\x00";

fn header(flags: u32) -> [u32; 3] {
    [0x1bad_b002, flags, 0u32.wrapping_sub(0x1bad_b002).wrapping_sub(flags)]
}

#[test]
fn multiboot_kernels_are_told_where_everything_is() {
    let guest = Guest::new(32);
    let entry = guest.load(&elf32(&header(3), NO_NOTE), Some(b"init"), BootProtocol::Linux).unwrap();
    assert_eq!(entry, Entry::Multiboot(0x10_0020));
    assert_eq!(guest.word(0x10_0000), 0x1bad_b002);
    let told = |at: u64| guest.word(layout::MULTIBOOT_INFO + at);
    assert_eq!((told(0) & 0x4d, told(4), told(8)), (0x4d, 639, 31 << 10));
    let mut cmdline = [0; 11];
    guest.memory.ram().read_slice(&mut cmdline, GuestAddress(told(16).into())).unwrap();
    assert_eq!(&cmdline, b"kernel a=b\0");
    assert_eq!((told(20), guest.word(u64::from(told(24)))), (1, 0x1ff_f000));
    assert_eq!(guest.word(u64::from(told(24)) + 4), 0x1ff_f004);
    // The third part of memory is up to 32 MiB; each has 24 bytes.
    assert_eq!((told(44), guest.word(u64::from(told(48)) + 48 + 12)), (4 * 24, 0x1f0_0000));
    let spec: control::machine::MachineSpec = serde_json::from_str(r#"{"kernel": "kernel"}"#).unwrap();
    let model = hv::cpu_model::CpuModel::v2(spec.cpus);
    let vm = crate::backend::create(hv::Backend::Soft, guest.memory.clone(), &model, &spec).unwrap();
    let mut state = vm.create_vcpu(0).unwrap().state().unwrap();
    begin(&guest.memory, entry, &mut state).unwrap();
    assert_eq!((state.regs.rax, state.regs.rbx), (0x2bad_b002, layout::MULTIBOOT_INFO));
    assert_eq!((state.sregs.cr0 & 0x8000_0001, state.regs.rip), (1, 0x10_0020));
}

#[test]
fn multiboot_kernels_may_be_no_elf_files() {
    let guest = Guest::new(32);
    let [magic, flags, check] = header(1 << 16);
    // 16 bytes, the header, code; the content begins 8 bytes before the header.
    let words = [0, 0, 0, 0, magic, flags, check, 0x20_0008, 0x20_0000, 0, 0x20_1000, 0x20_0028, 0x9090_9090];
    let file: Vec<u8> = words.iter().flat_map(|word: &u32| word.to_le_bytes()).collect();
    assert_eq!(guest.load(&file, None, BootProtocol::Linux).unwrap(), Entry::Multiboot(0x20_0028));
    assert_eq!((guest.word(0x20_0008), guest.word(0x20_0028)), (0x1bad_b002, 0x9090_9090));
    let mut low = file.clone();
    low[32..36].fill(0);
    assert!(matches!(guest.load(&low, None, BootProtocol::Linux), Err(BootError::Damaged { .. })));
}

#[test]
fn kernels_of_32_bits_need_a_way_in() {
    let guest = Guest::new(32);
    let load = |header: &[u32], note, protocol| guest.load(&elf32(header, note), None, protocol);
    assert_eq!(load(&[0; 3], XEN, BootProtocol::Linux).unwrap(), Entry::Pvh(0x10_0040));
    assert_eq!(load(&header(0), XEN, BootProtocol::Pvh).unwrap(), Entry::Pvh(0x10_0040));
    assert!(matches!(load(&[0; 3], NO_NOTE, BootProtocol::Linux), Err(BootError::Only32(_))));
    assert!(matches!(load(&header(4), NO_NOTE, BootProtocol::Linux), Err(BootError::Damaged { .. })));
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
    for round in 0..3_000 {
        let mut kernel = match round % 3 {
            0 => elf(|_| ()),
            1 => elf32(&header(1 << 16), XEN),
            _ => bzimage(|_| ()),
        };
        for _ in 0..3 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let at = (seed >> 33) as usize % kernel.len();
            kernel[at] = (seed >> 24) as u8;
        }
        for protocol in [BootProtocol::Linux, BootProtocol::Pvh] {
            let _any = guest.load(&kernel, None, protocol);
        }
    }
}
