//! Archives that should not become images.

use std::error::Error;
use std::fs;
use std::io::{Read, Write};
use std::path::Path;

use image::{EndMark, ImportOptions, Limits, Store};

/// One entry with a right checksum.
pub(crate) fn entry(name: &[u8], kind: u8, link: &[u8], contents: &[u8]) -> Vec<u8> {
    entry_of_size(name, kind, link, contents, contents.len() as u64)
}

/// One entry whose header says another size than it has.
pub(crate) fn entry_of_size(name: &[u8], kind: u8, link: &[u8], contents: &[u8], size: u64) -> Vec<u8> {
    let mut block = vec![0; 512];
    block[..name.len()].copy_from_slice(name);
    block[100..107].copy_from_slice(b"0000644");
    block[108..115].copy_from_slice(b"0000000");
    block[116..123].copy_from_slice(b"0000000");
    block[124..135].copy_from_slice(format!("{size:011o}").as_bytes());
    block[136..147].copy_from_slice(b"00000000001");
    block[156] = kind;
    block[157..157 + link.len()].copy_from_slice(link);
    block[257..265].copy_from_slice(b"ustar\x0000");
    block[329..336].copy_from_slice(b"0000001");
    block[337..344].copy_from_slice(b"0000003");
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    block.extend_from_slice(contents);
    block.resize(block.len().next_multiple_of(512), 0);
    block
}

fn archive(entries: &[Vec<u8>]) -> Vec<u8> {
    [entries.concat(), vec![0; 1024]].concat()
}

/// An error with all its causes.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}

fn files_below(folder: &Path) -> Vec<String> {
    let mut out = Vec::new();
    let mut pending = vec![folder.to_owned()];
    while let Some(path) = pending.pop() {
        for entry in fs::read_dir(&path).unwrap() {
            let entry = entry.unwrap();
            out.push(entry.path().display().to_string());
            if entry.file_type().unwrap().is_dir() {
                pending.push(entry.path());
            }
        }
    }
    out.sort();
    out
}

/// Imports what must fail and returns what is said; nothing may be left.
fn refused(bytes: &[u8], limits: Limits) -> String {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let before = files_below(folder.path());
    let options = ImportOptions { limits, ..ImportOptions::default() };
    let text = match store.import(bytes, options) {
        Err(error) => chain(&error),
        Ok(image) => panic!("became image {}", image.id),
    };
    assert_eq!(files_below(folder.path()), before, "left behind after: {text}");
    assert!(store.list().unwrap().is_empty());
    text
}

fn check(entries: &[Vec<u8>], expected: &[&str]) {
    let text = refused(&archive(entries), Limits::default());
    for part in expected {
        assert!(text.contains(part), "{part:?} is not in: {text}");
    }
}

#[test]
fn names_that_lead_out() {
    check(&[entry(b"a/../../b", b'0', b"", b"x")], &["a/../../b", "\"..\""]);
    check(
        &[entry(b"f", b'0', b"", b""), entry(b"l", b'1', b"../../etc/passwd", b"")],
        &["hard link \"l\"", "etc/passwd"],
    );
    check(&[entry(b"l", b'1', b"/etc/passwd", b"")], &["hard link \"l\"", "etc/passwd", "does not come before"]);
    check(&[entry(b"d", b'5', b"", b""), entry(b"l", b'1', b"d", b"")], &["points at the directory \"d\""]);
    check(
        &[entry(b"s", b'2', b"/etc", b""), entry(b"s/passwd", b'0', b"", b"x")],
        &["s/passwd", "\"s\"", "symbolic link"],
    );
    check(&[entry(b"f", b'0', b"", b"x"), entry(b"f/g", b'0', b"", b"x")], &["f/g", "makes a file"]);
    check(&[entry(b"./", b'2', b"/etc", b"")], &["root"]);
}

#[test]
fn damage() {
    let good = archive(&[entry(b"first", b'0', b"", b"1"), entry(b"second", b'0', b"", &[7; 5000])]);
    for cut in [1, 511, 512, 1400, 1536, 3000] {
        let text = refused(&good[..cut], Limits::default());
        assert!(text.contains("cut off"), "{cut}: {text}");
        assert!(cut < 1536 || text.contains("second"), "{cut}: {text}");
    }
    // whole entries may just end, unless somebody knows better
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    for cut in [700, 1024, 6600] {
        store.import(&good[..cut], ImportOptions::default()).unwrap();
        let strict = ImportOptions { end: EndMark::Required, ..ImportOptions::default() };
        let text = chain(&store.import(&good[..cut], strict).unwrap_err());
        assert!(text.contains("cut off"), "{cut}: {text}");
    }
    // of nothing an image of nothing is made, as by Docker
    store.import(&b""[..], ImportOptions::default()).unwrap();
    let strict = ImportOptions { end: EndMark::Required, ..ImportOptions::default() };
    assert!(chain(&store.import(&b""[..], strict).unwrap_err()).contains("empty"));
    assert!(refused(&[7; 2048], Limits::default()).contains("checksum is wrong"));
    let mut flipped = good.clone();
    flipped[1024 + 3] ^= 1;
    assert!(refused(&flipped, Limits::default()).contains("checksum is wrong"));
    check(&[entry(b"odd", b'Q', b"", b"")], &["odd", "'Q'"]);
    check(&[entry(b"s", b'2', b"", b"")], &["bad link target"]);
    check(&[entry(b"pax", b'x', b"", b"99 path=oops\n"), entry(b"f", b'0', b"", b"")], &["extended header"]);
    check(&[entry(b"pax", b'x', b"", b"12 path=a\0b\n"), entry(b"f", b'0', b"", b"")], &["NUL"]);
    check(
        &[entry_of_size(b"pax", b'x', b"", b"", 1 << 30), entry(b"f", b'0', b"", b"")],
        &["extended header too large"],
    );
    let long = [b"265 path=".as_slice(), &[b'n'; 255], b"n\n"].concat();
    let long = [format!("{} ", long.len()).into_bytes(), long[4..].to_vec()].concat();
    check(&[entry(b"pax", b'x', b"", &long), entry(b"f", b'0', b"", b"")], &["255"]);
}

#[test]
fn compressed_damage() {
    let good = archive(&[entry(b"f", b'0', b"", &[7; 5000])]);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&good).unwrap();
    let gzip = gzip.finish().unwrap();
    let zstd = zstd::stream::encode_all(&good[..], 1).unwrap();
    let mut bzip2 = Vec::new();
    bzip2::bufread::BzEncoder::new(&good[..], bzip2::Compression::fast()).read_to_end(&mut bzip2).unwrap();
    let mut xz = lzma_rust2::XzWriter::new(Vec::new(), lzma_rust2::XzOptions::with_preset(1)).unwrap();
    xz.write_all(&good).unwrap();
    let xz = xz.finish().unwrap();
    for whole in [&gzip, &zstd, &bzip2, &xz] {
        let text = refused(&whole[..whole.len() / 2], Limits::default());
        assert!(text.contains("cut off") || text.contains("damaged"), "{text}");
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let image = store.import(&whole[..], ImportOptions::default()).unwrap();
        assert_eq!(image.layers[0].0, oci::digest::Digest::of(&good));
    }
    // a dictionary of 1.5 GiB, which no program may make us take
    let mut greedy = xz;
    greedy[12 + 4] = 37;
    let text = refused(&greedy, Limits::default());
    assert!(text.contains("xz stream is damaged"), "{text}");
}

#[test]
fn bombs() {
    let small =
        Limits { entries: 10, file_bytes: 1 << 20, archive_bytes: 1 << 22, layer_bytes: 1 << 21, ..Limits::default() };
    let many: Vec<_> = (0..11).map(|n| entry(format!("{n}").as_bytes(), b'0', b"", b"")).collect();
    assert!(refused(&archive(&many), small).contains("too many entries"));
    let large = entry_of_size(b"large", b'0', b"", b"", 1 << 21);
    assert!(refused(&archive(&[large]), small).contains("file too large"));
    let three: Vec<_> = (0..3).map(|n| entry(format!("{n}").as_bytes(), b'0', b"", &vec![1; 1 << 20])).collect();
    assert!(refused(&archive(&three), small).contains("more than 2097152 bytes"));
    let map = b"22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n36 GNU.sparse.realsize=999999999999\n";
    let sparse = [entry(b"pax", b'x', b"", map), entry(b"holes", b'0', b"", b"0\n")];
    assert!(refused(&archive(&sparse), small).contains("file too large"));
    let zeros = zstd::stream::encode_all(std::io::repeat(0).take(70 << 20), 1).unwrap();
    let text = refused(&zeros, Limits { compression_ratio: 1000, ..Limits::default() });
    assert!(text.contains("limit of 1000 to 1") || text.contains("empty"), "{text}");
}

#[test]
fn a_reader_that_fails_leaves_nothing() {
    struct Failing(usize);
    impl Read for Failing {
        fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
            if self.0 == 0 {
                return Err(std::io::Error::other("the client went away"));
            }
            let header = entry_of_size(b"f", b'0', b"", b"", 1 << 20);
            let now = self.0.min(out.len()).min(512);
            out[..now].copy_from_slice(&header[..now]);
            self.0 -= now;
            Ok(now)
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let before = files_below(folder.path());
    let text = chain(&store.import(Failing(512), ImportOptions::default()).unwrap_err());
    assert!(text.contains("the client went away"), "{text}");
    assert_eq!(files_below(folder.path()), before);
}
