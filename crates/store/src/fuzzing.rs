//! What the fuzz targets call. The seeds in `fuzz/corpus-seeds` go through the same functions in this crate's tests.

use std::path::Path;

use crate::Revision;
use crate::log::{self, replay};
use crate::record::{self, RECORD_HEADER};

/// A log file as it stands on the disk.
pub fn log(bytes: &[u8]) {
    check(bytes);
}

/// A log whose checksums are all right, so that changed bytes get past them: eight bytes of base revision, then payloads, each
/// behind its length in two bytes.
pub fn records(bytes: &[u8]) {
    let Some((base, mut rest)) = bytes.split_first_chunk::<8>() else { return };
    let mut file = log::header(Revision(u64::from_le_bytes(*base))).to_vec();
    while let Some((length, tail)) = rest.split_first_chunk::<2>() {
        let (payload, tail) = tail.split_at(tail.len().min(u16::from_le_bytes(*length).into()));
        let start = file.len();
        file.extend_from_slice(&[0; RECORD_HEADER]);
        file.extend_from_slice(payload);
        record::seal(&mut file, start);
        rest = tail;
    }
    check(&file);
}

/// Replays, and holds the books that come out against each other.
fn check(bytes: &[u8]) {
    let path = Path::new("store.log");
    let Ok((state, good)) = replay(path, bytes) else { return };
    match replay(path, &bytes[..good]) {
        Ok((again, whole)) => {
            assert!(whole == good && again.entries == state.entries, "cut at {good}, {whole} is good")
        }
        Err(error) => panic!("the log is damaged after its torn tail was cut: {error}"),
    }
    let live: u64 = state.entries.values().map(|entry| record::entry_size(entry)).sum();
    assert_eq!(state.live_bytes, live, "the live bytes are counted wrongly");
    assert!(state.range_at("", state.oldest()).is_ok(), "the oldest revision cannot be drawn");
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use proptest::collection::vec;
    use proptest::prelude::*;

    type Target = (&'static str, fn(&[u8]));

    const TARGETS: &[Target] = &[("store_log", super::log), ("store_records", super::records)];

    fn seeds(target: &str) -> Vec<Vec<u8>> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus-seeds").join(target);
        fs::read_dir(folder).unwrap().map(|entry| fs::read(entry.unwrap().path()).unwrap()).collect()
    }

    #[test]
    fn seeds_replay() {
        for (target, run) in TARGETS {
            let seeds = seeds(target);
            assert!(!seeds.is_empty(), "{target} has no seeds");
            seeds.iter().for_each(|seed| run(seed));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn noise_and_damaged_seeds_do_no_harm(
            noise in vec(any::<u8>(), 0..600),
            edits in vec(any::<(u16, u8)>(), 1..5),
            cut in any::<u16>(),
        ) {
            for (target, run) in TARGETS {
                run(&noise);
                run(String::from_utf8_lossy(&noise).as_bytes());
                for mut seed in seeds(target).into_iter().filter(|seed| !seed.is_empty()) {
                    let length = seed.len();
                    edits.iter().for_each(|(at, byte)| seed[usize::from(*at) % length] = *byte);
                    run(&seed);
                    run(&seed[..usize::from(cut) % length]);
                }
            }
        }
    }

    #[test]
    fn a_version_at_its_end_does_not_overflow() {
        let seed = seeds("store_records").into_iter().find(|seed| seed.windows(8).any(|eight| eight == [0xff; 8]));
        super::records(&seed.unwrap());
    }
}
