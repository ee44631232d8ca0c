//! The kernel proper out of a bzImage, so that the guest need not unpack it.
//!
//! # Source
//! Linux `Documentation/arch/x86/boot.rst`: `setup_sects`, `payload_offset`, `payload_length`. The LZ4 project's
//! `lz4_Block_format.md`, and "Legacy frame" in `lz4_Frame_format.md`.

use std::io::Read as _;

/// No unpacked kernel is larger.
const MOST: u64 = 1 << 30;
/// What LZ4's older format begins with, which the kernel's build uses.
const LZ4: u32 = 0x184c_2102;
/// Bytes that a block of it gives at the most.
const LZ4_BLOCK: usize = 8 << 20;

fn word(file: &[u8], at: usize) -> Option<usize> {
    let bytes = file.get(at..at + 4)?;
    Some(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) as usize)
}

/// The ELF file in a bzImage; `None` if it is packed in a way that is not known here.
pub(super) fn vmlinux(file: &[u8]) -> Option<Vec<u8>> {
    if file.get(0x202..0x206)? != b"HdrS" {
        return None;
    }
    let sectors = if file[0x1f1] == 0 { 4 } else { usize::from(file[0x1f1]) };
    let (offset, length) = (word(file, 0x248)?, word(file, 0x24c)?);
    let begin = ((sectors + 1) * 512).checked_add(offset)?;
    let packed = file.get(begin..begin.checked_add(length)?)?;
    // Behind all but gzip's stands the unpacked size, which a decoder takes for a second stream.
    let packed = if packed.starts_with(&[0x1f, 0x8b]) { packed } else { packed.get(..packed.len().checked_sub(4)?)? };
    let content = if packed.starts_with(&LZ4.to_le_bytes()) {
        lz4(&packed[4..])?
    } else {
        let mut content = Vec::new();
        image::decompress(packed).ok()?.take(MOST).read_to_end(&mut content).ok()?;
        content
    };
    content.starts_with(b"\x7fELF\x02").then_some(content)
}

/// The blocks of an LZ4 file in the older format, each behind its size.
fn lz4(mut packed: &[u8]) -> Option<Vec<u8>> {
    let mut content = Vec::new();
    while !packed.is_empty() {
        let size = word(packed, 0)?;
        lz4_block(packed.get(4..4 + size)?, &mut content)?;
        if content.len() as u64 > MOST {
            return None;
        }
        packed = &packed[4 + size..];
    }
    Some(content)
}

fn next(rest: &mut &[u8]) -> Option<u8> {
    let (first, behind) = rest.split_first()?;
    *rest = behind;
    Some(*first)
}

/// A length that goes on in further bytes as long as they are full.
fn lz4_length(nibble: u8, rest: &mut &[u8]) -> Option<usize> {
    let mut length = usize::from(nibble);
    if nibble == 15 {
        loop {
            let more = next(rest)?;
            length += usize::from(more);
            if more != 255 {
                break;
            }
        }
    }
    Some(length)
}

/// One block: bytes as they are, then a match that is copied from before, again and again; no match at the end.
fn lz4_block(packed: &[u8], content: &mut Vec<u8>) -> Option<()> {
    let (begin, mut rest) = (content.len(), packed);
    while let Some(token) = next(&mut rest) {
        let count = lz4_length(token >> 4, &mut rest)?;
        let (literals, behind) = rest.split_at_checked(count)?;
        content.extend_from_slice(literals);
        rest = behind;
        let Some(low) = next(&mut rest) else { break };
        let back = usize::from(u16::from_le_bytes([low, next(&mut rest)?]));
        let length = lz4_length(token & 15, &mut rest)? + 4;
        let from = content.len().checked_sub(back).filter(|from| back > 0 && *from >= begin)?;
        if content.len() - begin + length > LZ4_BLOCK {
            return None;
        }
        for at in from..from + length {
            content.push(content[at]);
        }
    }
    Some(())
}

/// A program without what is never loaded: names for debuggers are most of it, and a guest has them in its memory.
pub(super) fn loaded(mut file: Vec<u8>) -> Vec<u8> {
    const LOAD: usize = 1;
    let half = |at: usize| Some(usize::from(u16::from_le_bytes([*file.get(at)?, *file.get(at + 1)?])));
    let table = word(&file, 32).zip(half(56)).filter(|_| file.starts_with(b"\x7fELF\x02"));
    let Some((table, count)) = table else { return file };
    let ends = (0..count).filter_map(|index| {
        let at = table + index * 56;
        (word(&file, at)? == LOAD).then_some(word(&file, at + 8)? + word(&file, at + 32)?)
    });
    if let Some(end) = ends.max().filter(|end| (64..=file.len()).contains(end)) {
        file.truncate(end);
        // There are no sections any more.
        file[40..48].fill(0);
        file[60..64].fill(0);
    }
    file
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn programs_run_without_what_is_not_loaded() {
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let less = loaded(own.clone());
        assert!(less.len() < own.len());
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("program");
        std::fs::write(&path, less).unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let ran = std::process::Command::new(&path).args(["--list", "kernel::unpack"]).output().unwrap();
        assert!(String::from_utf8_lossy(&ran.stdout).contains("programs_run_without"), "{ran:?}");
        assert_eq!(loaded(b"#!/bin/sh".to_vec()), b"#!/bin/sh");
    }

    #[test]
    fn lz4_is_unpacked() {
        let check = |packed: &[u8], expect: Option<&[u8]>| assert_eq!(lz4(packed).as_deref(), expect, "{packed:?}");
        check(&[], Some(b""));
        check(&[4, 0, 0, 0, 0x30, b'a', b'b', b'c'], Some(b"abc"));
        // Two bytes, a match of six that overlaps itself, one byte; and the same once more, with a long run.
        let one = [7, 0, 0, 0, 0x22, b'a', b'b', 2, 0, 0x10, b'c'];
        check(&one, Some(b"ababababc"));
        let long = [&[21, 0, 0, 0, 0xf0, 3][..], &[b'x'; 18], &[1]].concat();
        check(&long, None);
        let long = [&[20, 0, 0, 0, 0xf0, 3][..], &[b'x'; 18]].concat();
        check(&[&one[..], &long].concat(), Some(b"ababababcxxxxxxxxxxxxxxxxxx"));
        // A match from before the block, from nowhere, behind the end; a block that ends early.
        check(&[&one[..], &[4, 0, 0, 0, 0x10, b'a', 2, 0]].concat(), None);
        check(&[4, 0, 0, 0, 0x10, b'a', 0, 0], None);
        check(&[9, 0, 0, 0, 0x10], None);
        for length in 0..one.len() {
            let _any = lz4(&one[..length]);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn damaged_kernels_are_refused_or_unpacked_but_harm_nothing(
            noise in proptest::collection::vec(any::<u8>(), 0..300),
            (sectors, offset, length) in (any::<u8>(), any::<u32>(), any::<u32>()),
            kind in prop::sample::select(vec![&b"\x1f\x8b\x08"[..], b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd", b"\x02\x21\x4c\x18", b""]),
        ) {
            let _any = lz4(&noise);
            let _any = loaded([b"\x7fELF\x02", &noise[..]].concat());
            let mut file = vec![0; 1024];
            file[0x1f1] = sectors;
            file[0x202..0x206].copy_from_slice(b"HdrS");
            file[0x248..0x24c].copy_from_slice(&offset.to_le_bytes());
            file[0x24c..0x250].copy_from_slice(&length.to_le_bytes());
            file.extend(kind);
            file.extend(&noise);
            prop_assert!(vmlinux(&file).is_none());
            // and where the kernel is said to be where it stands
            let size = u32::try_from(kind.len() + noise.len()).unwrap();
            file[0x1f1] = 1;
            file[0x248..0x24c].fill(0);
            file[0x24c..0x250].copy_from_slice(&size.to_le_bytes());
            let _any = vmlinux(&file);
        }
    }

    #[test]
    fn only_what_is_a_kernel_is_unpacked() {
        let mut file = vec![0; 1024];
        file[0x1f1] = 1;
        file[0x202..0x206].copy_from_slice(b"HdrS");
        file[0x248] = 16;
        // An empty gzip stream's worth of a kernel, stored.
        let elf = b"\x7fELF\x02rest";
        let mut packed = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 1, elf.len() as u8, 0, !(elf.len() as u8), 0xff];
        packed.extend(elf);
        let mut crc = !0u32;
        for byte in elf {
            crc ^= u32::from(*byte);
            for _ in 0..8 {
                crc = crc >> 1 ^ (0xedb8_8320 & 0u32.wrapping_sub(crc & 1));
            }
        }
        packed.extend((!crc).to_le_bytes());
        packed.extend((elf.len() as u32).to_le_bytes());
        file[0x24c] = packed.len() as u8;
        file.extend([0; 16]);
        file.extend(&packed);
        assert_eq!(vmlinux(&file).as_deref(), Some(elf.as_slice()));
        assert_eq!(vmlinux(&file[..file.len() - 9]), None);
        file[0x202] = 0;
        assert_eq!(vmlinux(&file), None);
        assert_eq!(vmlinux(b""), None);
    }
}
