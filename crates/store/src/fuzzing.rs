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
#[path = "../../../fuzz/replay.rs"]
mod replay;

#[cfg(test)]
mod tests {
    use super::replay::{Target, disturb, replay, seeds};

    const TARGETS: &[Target] = &[("store_log", super::log), ("store_records", super::records)];

    #[test]
    fn seeds_replay() {
        replay(TARGETS);
    }

    #[test]
    fn noise_and_damaged_seeds_do_no_harm() {
        disturb(TARGETS);
    }

    #[test]
    fn a_version_at_its_end_does_not_overflow() {
        let seed = seeds("store_records").into_iter().find(|seed| seed.windows(8).any(|eight| eight == [0xff; 8]));
        super::records(&seed.unwrap());
    }
}
