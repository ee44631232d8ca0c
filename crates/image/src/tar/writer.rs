//! Writes a tree as a pax archive whose bytes depend on nothing but the tree.

use std::io::{self, Read, Write};

use super::header::BLOCK;
use super::reader::Kind;
use crate::erofs::Segment;
use crate::tree::{DeviceKind, Stat};

/// Writes entries one behind the other.
#[derive(Debug)]
pub struct Writer<W: Write> {
    out: W,
}

impl<W: Write> Writer<W> {
    /// Begins an archive.
    pub fn new(out: W) -> Self {
        Self { out }
    }

    /// Adds an entry; `data` has exactly the bytes that its kind promises.
    ///
    /// # Errors
    /// The output's or the contents' own.
    pub fn add(&mut self, path: &[u8], stat: &Stat, kind: &Kind, data: &mut dyn Read) -> io::Result<()> {
        let mut name = if path.is_empty() { b".".to_vec() } else { path.to_vec() };
        if *kind == Kind::Directory && name != b"/" {
            name.push(b'/');
        }
        if let Kind::File { size, segments: Some(segments) } = kind {
            return self.sparse(&name, stat, *size, segments, data);
        }
        let (flag, link, size, device) = match kind {
            Kind::File { size, .. } => (b'0', &[][..], *size, None),
            Kind::Directory => (b'5', &[][..], 0, None),
            Kind::Symlink(target) => (b'2', &target[..], 0, None),
            Kind::Hardlink(target) => (b'1', &target[..], 0, None),
            Kind::Device { kind: DeviceKind::Character, major, minor } => (b'3', &[][..], 0, Some((*major, *minor))),
            Kind::Device { kind: DeviceKind::Block, major, minor } => (b'4', &[][..], 0, Some((*major, *minor))),
            Kind::Fifo => (b'6', &[][..], 0, None),
        };
        self.extended(&extended_records(&name, link, stat, size))?;
        self.out.write_all(&header(&name, flag, stat, size, link, device))?;
        let copied = io::copy(&mut data.take(size), &mut self.out)?;
        if copied != size {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file became shorter while it was read"));
        }
        self.pad(size)
    }

    /// A file with holes, in version 1.0 of GNU's form: its map of decimal lines stands in front of its parts.
    fn sparse(
        &mut self,
        name: &[u8],
        stat: &Stat,
        size: u64,
        segments: &[Segment],
        data: &mut dyn Read,
    ) -> io::Result<()> {
        let mut map = format!("{}\n", segments.len());
        for Segment { offset, length } in segments {
            map.push_str(&format!("{offset}\n{length}\n"));
        }
        map.push_str(&"\0".repeat(map.len().next_multiple_of(BLOCK) - map.len()));
        let parts: u64 = segments.iter().map(|segment| segment.length).sum();
        let stored = map.len() as u64 + parts;
        let base = name.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        // what a reader sees that knows no sparse files
        let plain = [b"GNUSparseFile.0/", base].concat();
        let mut extended = Vec::new();
        record(&mut extended, b"GNU.sparse.major", b"1");
        record(&mut extended, b"GNU.sparse.minor", b"0");
        record(&mut extended, b"GNU.sparse.name", name);
        record(&mut extended, b"GNU.sparse.realsize", size.to_string().as_bytes());
        extended.extend(extended_records(&plain, &[], stat, stored));
        self.extended(&extended)?;
        self.out.write_all(&header(&plain, b'0', stat, stored, &[], None))?;
        self.out.write_all(map.as_bytes())?;
        let copied = io::copy(&mut data.take(parts), &mut self.out)?;
        if copied != parts {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file became shorter while it was read"));
        }
        self.pad(stored)
    }

    fn extended(&mut self, records: &[u8]) -> io::Result<()> {
        if records.is_empty() {
            return Ok(());
        }
        let header = header(b"pax", b'x', &Stat { mode: 0o644, ..Stat::default() }, records.len() as u64, &[], None);
        self.out.write_all(&header)?;
        self.out.write_all(records)?;
        self.pad(records.len() as u64)
    }

    /// Writes the end mark.
    ///
    /// # Errors
    /// The output's own.
    pub fn finish(mut self) -> io::Result<W> {
        self.out.write_all(&[0; 2 * BLOCK])?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn pad(&mut self, size: u64) -> io::Result<()> {
        let rest = usize::try_from(size % BLOCK as u64).unwrap_or(0);
        if rest > 0 { self.out.write_all(&[0; BLOCK][rest..]) } else { Ok(()) }
    }
}

/// What the fixed fields cannot hold.
fn extended_records(name: &[u8], link: &[u8], stat: &Stat, size: u64) -> Vec<u8> {
    const OCTAL_7: u32 = 0o7_777_777;
    const OCTAL_11: u64 = 0o77_777_777_777;
    let mut out = Vec::new();
    if name.len() > 100 {
        record(&mut out, b"path", name);
    }
    if link.len() > 100 {
        record(&mut out, b"linkpath", link);
    }
    if size > OCTAL_11 {
        record(&mut out, b"size", size.to_string().as_bytes());
    }
    for (key, id) in [(&b"uid"[..], stat.uid), (b"gid", stat.gid)] {
        if id > OCTAL_7 {
            record(&mut out, key, id.to_string().as_bytes());
        }
    }
    let seconds = stat.mtime.seconds;
    if stat.mtime.nanos != 0 || u64::try_from(seconds).is_ok_and(|seconds| seconds > OCTAL_11) || seconds < 0 {
        let (sign, whole, nanos) = match (seconds < 0, stat.mtime.nanos) {
            (true, nanos) if nanos > 0 => ("-", (seconds + 1).unsigned_abs(), 1_000_000_000 - nanos),
            (true, _) => ("-", seconds.unsigned_abs(), 0),
            (false, nanos) => ("", seconds.unsigned_abs(), nanos),
        };
        let fraction = if nanos == 0 { String::new() } else { format!(".{nanos:09}") };
        record(&mut out, b"mtime", format!("{sign}{whole}{fraction}").as_bytes());
    }
    for (name, value) in &stat.xattrs {
        record(&mut out, &[super::pax::XATTR, name].concat(), value);
    }
    out
}

/// `length keyword=value\n`, where the length counts its own digits.
fn record(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    out.extend_from_slice(length.to_string().as_bytes());
    out.push(b' ');
    out.extend_from_slice(key);
    out.push(b'=');
    out.extend_from_slice(value);
    out.push(b'\n');
}

fn header(name: &[u8], flag: u8, stat: &Stat, size: u64, link: &[u8], device: Option<(u32, u32)>) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    let short = |bytes: &[u8]| bytes[..bytes.len().min(100)].to_vec();
    let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &short(name));
    put(100, format!("{:07o}\0", stat.mode).as_bytes());
    put(108, format!("{:07o}\0", stat.uid.min(0o7_777_777)).as_bytes());
    put(116, format!("{:07o}\0", stat.gid.min(0o7_777_777)).as_bytes());
    put(124, format!("{:011o}\0", size.min(0o77_777_777_777)).as_bytes());
    let seconds = u64::try_from(stat.mtime.seconds).unwrap_or(0).min(0o77_777_777_777);
    put(136, format!("{seconds:011o}\0").as_bytes());
    put(148, b"        ");
    put(156, &[flag]);
    put(157, &short(link));
    put(257, b"ustar\x0000");
    let (major, minor) = device.unwrap_or((0, 0));
    put(329, format!("{major:07o}\0").as_bytes());
    put(337, format!("{minor:07o}\0").as_bytes());
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}
