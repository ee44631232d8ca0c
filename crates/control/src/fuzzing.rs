//! What the fuzz targets call. The seeds in `fuzz/corpus-seeds` go through the same functions in this crate's tests.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{Envelope, FrameReader, Message, Request, encode};

/// A stream of frames, in either direction.
pub fn frames(bytes: &[u8]) {
    check::<Request>(bytes);
    check::<Message>(bytes);
}

/// How the stream is cut into pieces makes no difference.
fn check<T: DeserializeOwned + Serialize>(bytes: &[u8]) {
    let whole = read::<T>(bytes, bytes.len().max(1));
    let in_pieces = read::<T>(bytes, 7);
    assert_eq!(whole, in_pieces, "frames that were read");
}

fn read<T: DeserializeOwned + Serialize>(bytes: &[u8], piece: usize) -> usize {
    let mut reader = FrameReader::new();
    let mut frames = 0;
    for piece in bytes.chunks(piece) {
        reader.feed(piece);
        loop {
            match reader.next_frame::<T>() {
                Ok(Some(frame)) => {
                    frames += 1;
                    let written = encode(&Envelope { id: frame.id, fds: frame.fds.len(), body: frame.body });
                    assert!(written.is_ok(), "what was read cannot be written: {written:?}");
                }
                Ok(None) => break,
                Err(_) => return frames,
            }
        }
    }
    frames
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use proptest::collection::vec;
    use proptest::prelude::*;

    type Target = (&'static str, fn(&[u8]));

    const TARGETS: &[Target] = &[("control_frames", super::frames)];

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
    fn the_seeds_hold_frames_of_both_directions() {
        let read: Vec<_> = seeds("control_frames")
            .iter()
            .map(|seed| (super::read::<crate::Request>(seed, 4096), super::read::<crate::Message>(seed, 4096)))
            .collect();
        assert!(read.iter().any(|(requests, _)| *requests > 1), "{read:?}");
        assert!(read.iter().any(|(_, messages)| *messages > 1), "{read:?}");
    }
}
