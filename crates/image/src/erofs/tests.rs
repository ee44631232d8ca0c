//! The writer against a small reader of its own: what the format says, not what the writer thinks.

use std::collections::BTreeMap;
use std::io::Cursor;

use super::format::{BLOCK, EXTENDED_INODE, MAGIC, SUPER_OFFSET, verify_first_block};
use super::{Node, Segment, Writer};
use crate::tree::{Stat, Time};

/// Just enough of a reader to find a file and its bytes.
struct Image(Vec<u8>);

struct Found {
    layout: u16,
    mode: u16,
    size: u64,
    links: u32,
    place: u32,
    /// Where the bytes behind the inode and its attributes begin.
    behind: usize,
}

impl Image {
    fn u16(&self, at: usize) -> u16 {
        u16::from_le_bytes(self.0[at..at + 2].try_into().unwrap())
    }

    fn u32(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.0[at..at + 4].try_into().unwrap())
    }

    fn u64(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.0[at..at + 8].try_into().unwrap())
    }

    fn root(&self) -> u64 {
        u64::from(self.u16(SUPER_OFFSET + 14))
    }

    fn inode(&self, nid: u64) -> Found {
        let at = self.u32(SUPER_OFFSET + 40) as usize * BLOCK + nid as usize * 32;
        let format = self.u16(at);
        let extended = format & 1 == 1;
        let count = self.u16(at + 2) as usize;
        let xattrs = if count == 0 { 0 } else { 12 + 4 * (count - 1) };
        Found {
            layout: format >> 1,
            mode: self.u16(at + 4),
            size: if extended { self.u64(at + 8) } else { u64::from(self.u32(at + 8)) },
            links: if extended { self.u32(at + 44) } else { u32::from(self.u16(at + 6)) },
            place: self.u32(at + 16),
            behind: at + if extended { EXTENDED_INODE } else { 32 } + xattrs,
        }
    }

    fn contents(&self, found: &Found) -> Vec<u8> {
        let size = found.size as usize;
        let start = found.place as usize * BLOCK;
        match found.layout {
            0 => self.0[start..start + size].to_vec(),
            2 => {
                let whole = size / BLOCK * BLOCK;
                let tail = size - whole;
                assert!(found.behind % BLOCK + tail <= BLOCK, "an inline tail crosses a block");
                [&self.0[start..start + whole], &self.0[found.behind..found.behind + tail]].concat()
            }
            4 => {
                let chunk = BLOCK << (found.place & 31);
                let mut out = vec![0; size];
                for number in 0..size.div_ceil(chunk) {
                    let block = self.u32(found.behind + number * 4);
                    if block != u32::MAX {
                        let (from, to) = (number * chunk, size.min((number + 1) * chunk));
                        out[from..to].copy_from_slice(&self.0[block as usize * BLOCK..][..to - from]);
                    }
                }
                out
            }
            other => panic!("layout {other}"),
        }
    }

    fn entries(&self, found: &Found) -> Vec<(Vec<u8>, u64)> {
        let bytes = self.contents(found);
        let mut out = Vec::new();
        for block in bytes.chunks(BLOCK) {
            let offset = |entry: usize| u16::from_le_bytes([block[entry * 12 + 8], block[entry * 12 + 9]]) as usize;
            let count = offset(0) / 12;
            for entry in 0..count {
                let end = if entry + 1 < count { offset(entry + 1) } else { block.len() };
                let name = &block[offset(entry)..end];
                let name = name.split(|byte| *byte == 0).next().unwrap().to_vec();
                out.push((name, u64::from_le_bytes(block[entry * 12..entry * 12 + 8].try_into().unwrap())));
            }
        }
        assert!(out.is_sorted_by(|a, b| a.0 < b.0), "names are not in byte order");
        out
    }

    /// Every path with its inode number.
    fn walk(&self) -> BTreeMap<Vec<u8>, u64> {
        let mut out = BTreeMap::new();
        let mut pending = vec![(Vec::new(), self.root(), self.root())];
        while let Some((path, nid, parent)) = pending.pop() {
            let found = self.inode(nid);
            if found.mode & 0o170_000 == 0o040_000 {
                for (name, child) in self.entries(&found) {
                    match &name[..] {
                        b"." => assert_eq!(child, nid),
                        b".." => assert_eq!(child, parent),
                        _ => pending.push(([&path[..], b"/", &name].concat(), child, nid)),
                    }
                }
            }
            out.insert(path, nid);
        }
        out
    }

    fn read(&self, path: &str) -> Vec<u8> {
        self.contents(&self.inode(self.walk()[path.as_bytes()]))
    }
}

fn stat(seconds: i64) -> Stat {
    Stat { mode: 0o640, mtime: Time { seconds, nanos: 5 }, ..Stat::default() }
}

fn image(build: impl FnOnce(&mut Writer<Cursor<Vec<u8>>>)) -> Image {
    let mut writer = Writer::new(Cursor::new(Vec::new())).unwrap();
    build(&mut writer);
    let (finished, file) = writer.finish().unwrap();
    let bytes = file.into_inner();
    assert_eq!(finished.size, bytes.len() as u64);
    let rotated = [&bytes[BLOCK..], &bytes[..BLOCK]].concat();
    assert_eq!(finished.digest, oci::digest::Digest::of(&rotated));
    assert_eq!(verify_first_block(&bytes[..BLOCK], finished.size), Ok(finished.uuid));
    Image(bytes)
}

fn bytes(length: usize) -> Vec<u8> {
    (0..length).map(|n| (n % 251) as u8 + 1).collect()
}

#[test]
fn files_of_every_size() {
    let sizes = [0, 1, 100, 4031, 4032, 4033, 4095, 4096, 4097, 8191, 8192, 100_000];
    let image = image(|writer| {
        for size in sizes {
            writer.add_file(format!("d/{size}").as_bytes(), stat(1), size as u64, &mut &bytes(size)[..]).unwrap();
        }
    });
    for size in sizes {
        assert_eq!(image.read(&format!("/d/{size}")), bytes(size), "{size}");
    }
}

#[test]
fn sparse_files() {
    let segment = |offset, length| Segment { offset, length };
    let cases: [(u64, &[Segment]); 6] = [
        (0, &[]),
        (1 << 30, &[]),
        (10_000, &[segment(0, 10_000)]),
        (1 << 20, &[segment(5, 3), segment(100, 1), segment(4095, 2), segment(1_000_000, 48_576)]),
        (40 << 20, &[segment(20 << 20, 1)]),
        (70_001, &[segment(70_000, 1)]),
    ];
    for (size, segments) in cases {
        let data = bytes(segments.iter().map(|segment| segment.length as usize).sum());
        let image = image(|writer| {
            writer.add_sparse_file(b"s", stat(1), size, segments, &mut &data[..]).unwrap();
        });
        assert!(image.0.len() < 2 << 20, "holes of a {size} byte file take {} bytes", image.0.len());
        let read = image.read("/s");
        let mut expected = vec![0; size as usize];
        let mut rest = &data[..];
        for segment in segments {
            let (now, later) = rest.split_at(segment.length as usize);
            expected[segment.offset as usize..][..now.len()].copy_from_slice(now);
            rest = later;
        }
        assert!(read == expected, "{size} {segments:?}");
    }
}

#[test]
fn later_entries_win_and_links_are_counted() {
    let image = image(|writer| {
        writer.add_file(b"f", stat(1), 3, &mut &b"old"[..]).unwrap();
        writer.link(b"hard", b"f").unwrap();
        writer.add_file(b"f", stat(2), 3, &mut &b"new"[..]).unwrap();
        writer.link(b"deep/er/hard", b"hard").unwrap();
        writer.add(b"gone", stat(1), Node::Directory).unwrap();
        writer.add_file(b"gone/x", stat(1), 1, &mut &b"x"[..]).unwrap();
        writer.add(b"gone", stat(1), Node::Symlink(b"f".to_vec())).unwrap();
        writer.add(b"deep", Stat { mode: 0o700, ..stat(9) }, Node::Directory).unwrap();
    });
    let walk = image.walk();
    assert_eq!(image.read("/f"), b"new");
    assert_eq!(image.read("/hard"), b"old");
    assert_eq!(walk[&b"/hard"[..]], walk[&b"/deep/er/hard"[..]]);
    assert_eq!(image.inode(walk[&b"/hard"[..]]).links, 2);
    assert_eq!(image.inode(walk[&b"/f"[..]]).links, 1);
    assert!(!walk.contains_key(&b"/gone/x"[..]));
    assert_eq!(image.inode(walk[&b"/deep"[..]]).mode, 0o040_700);
    assert_eq!(image.inode(walk[&b"/deep"[..]]).links, 3);
}

#[test]
fn wrong_places_are_named() {
    let mut writer = Writer::new(Cursor::new(Vec::new())).unwrap();
    writer.add(b"l", stat(1), Node::Symlink(b"/etc".to_vec())).unwrap();
    let say = |result: Result<(), super::ErofsError>| result.unwrap_err().to_string();
    assert!(say(writer.add(b"l/x/y", stat(1), Node::Fifo)).contains("\"l/x/y\" lies below \"l\""));
    assert!(say(writer.link(b"h", b"nothing")).contains("\"nothing\""));
    assert!(say(writer.add(b"", stat(1), Node::Fifo)).contains("root"));
    let mut odd = stat(1);
    odd.xattrs.insert(b"other.name".to_vec(), Vec::new());
    assert!(say(writer.add(b"f", odd, Node::Fifo)).contains("other.name"));
    let mut large = stat(1);
    large.xattrs.insert(b"user.x".to_vec(), vec![0; 65_536]);
    assert!(say(writer.add(b"f", large, Node::Fifo)).contains("too long"));
    let mut short = &b"123"[..];
    assert!(say(writer.add_file(b"f", stat(1), 4000, &mut short)).contains("contents of \"f\""));
}

#[test]
fn large_directories_and_attributes() {
    let image = image(|writer| {
        for number in 0..5000 {
            let mut stat = stat(number % 3);
            stat.xattrs.insert(b"user.same".to_vec(), b"value".to_vec());
            stat.xattrs.insert(b"user.own".to_vec(), number.to_string().into_bytes());
            let name = format!("d/{}", "n".repeat(1 + number as usize % 200) + &number.to_string());
            writer.add_file(name.as_bytes(), stat, 2, &mut &b"hi"[..]).unwrap();
        }
        let mut many = stat(1);
        for number in 0..200 {
            many.xattrs.insert(format!("user.{number}").into_bytes(), vec![b'v'; 100]);
        }
        writer.add(b"many", many, Node::Directory).unwrap();
    });
    let walk = image.walk();
    assert_eq!(walk.len(), 5003);
    assert!(
        walk.iter()
            .filter(|(path, _)| path.starts_with(b"/d/"))
            .all(|(_, nid)| image.contents(&image.inode(*nid)) == b"hi")
    );
}

#[test]
fn damage_is_seen_in_the_first_block() {
    let image = image(|_| {});
    let size = image.0.len() as u64;
    let first = &image.0[..BLOCK];
    assert_eq!(image.u32(SUPER_OFFSET), MAGIC);
    assert!(verify_first_block(&first[..100], size).is_err());
    assert!(verify_first_block(first, size + 1).is_err());
    for at in [SUPER_OFFSET, SUPER_OFFSET + 40, BLOCK - 1] {
        let mut changed = first.to_vec();
        changed[at] ^= 1;
        assert!(verify_first_block(&changed, size).is_err(), "{at}");
    }
}
