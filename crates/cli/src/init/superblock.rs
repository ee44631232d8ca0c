//! What a disk's first bytes say: the file system's type, its number and its name.
//!
//! # Source
//! Linux: `fs/ext4/ext4.h`, `fs/erofs/erofs_fs.h`, `fs/xfs/libxfs/xfs_format.h`, `fs/squashfs/squashfs_fs.h`; ECMA-119.

/// Bytes of a disk that have to be read.
pub(crate) const SIZE: usize = 0x8010;

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) kind: &'static str,
    /// As `UUID=` has it; empty if the file system has none.
    pub(crate) number: String,
    pub(crate) name: String,
}

struct Known {
    kind: &'static str,
    /// Where the mark is, and what it is.
    mark: (usize, &'static [u8]),
    /// Where number and name are; 0 for none.
    number: usize,
    name: (usize, usize),
}

const KNOWN: &[Known] = &[
    Known { kind: "ext4", mark: (0x438, &[0x53, 0xef]), number: 0x468, name: (0x478, 16) },
    Known { kind: "erofs", mark: (0x400, &[0xe2, 0xe1, 0xf5, 0xe0]), number: 0x430, name: (0x440, 16) },
    Known { kind: "xfs", mark: (0, b"XFSB"), number: 32, name: (108, 12) },
    Known { kind: "squashfs", mark: (0, b"hsqs"), number: 0, name: (0, 0) },
    Known { kind: "iso9660", mark: (0x8001, b"CD001"), number: 0, name: (0, 0) },
];

/// Looks for a file system in a disk's first bytes.
pub(crate) fn probe(bytes: &[u8]) -> Option<Found> {
    let has = |known: &&Known| bytes.get(known.mark.0..).is_some_and(|rest| rest.starts_with(known.mark.1));
    let known = KNOWN.iter().find(has)?;
    let number = bytes.get(known.number..known.number + 16).filter(|_| known.number != 0).unwrap_or_default();
    let mut text = String::new();
    for (at, byte) in number.iter().enumerate() {
        if matches!(at, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    let name = bytes.get(known.name.0..known.name.0 + known.name.1).unwrap_or_default();
    let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
    Some(Found { kind: known.kind, number: text, name: String::from_utf8_lossy(name).into_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_systems_are_known_by_their_marks() {
        let mut disk = vec![0; SIZE];
        assert_eq!(probe(&disk), None);
        disk[0x438..0x43a].copy_from_slice(&[0x53, 0xef]);
        disk[0x468..0x478].copy_from_slice(&[0x12; 16]);
        disk[0x478..0x47c].copy_from_slice(b"root");
        let number = "12121212-1212-1212-1212-121212121212".to_owned();
        assert_eq!(probe(&disk), Some(Found { kind: "ext4", number, name: "root".to_owned() }));
        let mut disk = b"hsqs".to_vec();
        assert_eq!(probe(&disk).map(|found| (found.kind, found.number)), Some(("squashfs", String::new())));
        disk.truncate(3);
        assert_eq!(probe(&disk), None);
    }
}
