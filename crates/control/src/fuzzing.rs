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
#[path = "../../../fuzz/replay.rs"]
mod replay;

#[cfg(test)]
mod tests {
    use super::replay::{Target, disturb, replay, seeds};

    const TARGETS: &[Target] = &[("control_frames", super::frames)];

    #[test]
    fn seeds_replay() {
        replay(TARGETS);
    }

    #[test]
    fn noise_and_damaged_seeds_do_no_harm() {
        disturb(TARGETS);
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
