//! Streams of real and made-up compressors come back byte for byte.

use super::*;
use flate2::Compression;
use flate2::write::GzEncoder;
use proptest::prelude::*;

/// Something like an archive: text that repeats itself, numbers, noise, zeros.
fn archive(size: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let words = ["layer ", "/usr/lib/x86_64-linux-gnu/", "insula", "\n", "0000644", "fn main() {}", "zz", " = "];
    let mut out = Vec::with_capacity(size + 64);
    while out.len() < size {
        match next() % 40 {
            0 => out.extend(std::iter::repeat_n(0, (next() % 3000) as usize)),
            1 => (0..next() % 300).for_each(|_| out.push(next() as u8)),
            2 => out.extend(next().to_string().bytes()),
            more => out.extend(words[more as usize % words.len()].bytes()),
        }
    }
    out.truncate(size);
    out
}

fn gzip(archive: &[u8], level: u32) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::new(level));
    encoder.write_all(archive).unwrap();
    encoder.finish().unwrap()
}

fn there_and_back(stream: &[u8], archive: &[u8]) -> usize {
    let mut parts = Vec::new();
    reduce(stream, archive, &mut parts).unwrap();
    let mut back = Vec::new();
    restore(&parts[..], archive, &mut back).unwrap();
    assert!(back == stream, "{} bytes became {}", stream.len(), back.len());
    parts.len()
}

#[test]
fn streams_of_every_level_come_back() {
    let archive = archive(500_000);
    for level in [0, 1, 6, 9] {
        let stream = gzip(&archive, level);
        let parts = there_and_back(&stream, &archive);
        println!("level {level}: {} -> {parts}", stream.len());
        // levels that look for the longest match are foreseen nearly always
        let most = if level != 1 { stream.len() / 20 } else { stream.len() / 4 };
        assert!(parts < most + 200, "level {level}: {parts} of {}", stream.len());
    }
}

#[test]
fn members_headers_and_ends() {
    let archive = archive(200_000);
    let (first, second) = archive.split_at(70_000);
    // with a name and a further field, then a bare member, then nothing in one, then bytes that mean nothing
    let mut stream =
        flate2::GzBuilder::new().filename("n").comment("c").extra(vec![1, 2, 3]).write(Vec::new(), Compression::best());
    stream.write_all(first).unwrap();
    let mut stream = stream.finish().unwrap();
    stream.extend(gzip(second, 6));
    stream.extend(gzip(b"", 6));
    there_and_back(&stream, &archive);
    stream.extend(b"rest");
    there_and_back(&stream, &archive);
    there_and_back(&gzip(b"", 9), b"");
    // flushed in the midst, as parallel compressors do
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    for piece in archive.chunks(10_007) {
        encoder.write_all(piece).unwrap();
        encoder.flush().unwrap();
    }
    there_and_back(&encoder.finish().unwrap(), &archive);
}

#[test]
fn what_is_wrong_is_refused() {
    let archive = archive(100_000);
    let stream = gzip(&archive, 6);
    let refused = |stream: &[u8], archive: &[u8]| reduce(stream, archive, io::sink()).is_err();
    assert!(refused(b"", b"") && refused(b"no gzip at all", b"x"));
    assert!(refused(&stream[..stream.len() / 2], &archive));
    let mut other = archive.clone();
    other[60_000] ^= 1;
    assert!(refused(&stream, &other) && refused(&stream, &archive[..99_999]));
    let mut more = archive.clone();
    more.push(0);
    assert!(refused(&stream, &more));
    let mut parts = Vec::new();
    reduce(&stream[..], &archive[..], &mut parts).unwrap();
    assert!(restore(&parts[..parts.len() / 2], &archive[..], io::sink()).is_err());
    assert!(restore(&b"idf1rest"[..], &archive[..], io::sink()).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    /// Any bytes at all neither panic nor hang, and what is taken comes back.
    #[test]
    fn damaged_streams_are_refused_or_come_back(at in 10_usize..4000, bit in 0_u8..8, seed in 0_usize..50) {
        let archive = archive(8_000 + seed);
        let mut stream = gzip(&archive, 6);
        let at = at % stream.len();
        stream[at] ^= 1 << bit;
        let mut parts = Vec::new();
        if reduce(&stream[..], &archive[..], &mut parts).is_ok() {
            let mut back = Vec::new();
            restore(&parts[..], &archive[..], &mut back).unwrap();
            prop_assert!(back == stream);
        }
    }

    #[test]
    fn damaged_parts_end(at in 0_usize..4000, bit in 0_u8..8) {
        let archive = archive(8_000);
        let mut parts = Vec::new();
        reduce(&gzip(&archive, 1)[..], &archive[..], &mut parts).unwrap();
        let at = at % parts.len();
        parts[at] ^= 1 << bit;
        // tokens stand for bytes of the archive, which ends
        let _ = restore(&parts[..], &archive[..], io::sink());
    }
}
