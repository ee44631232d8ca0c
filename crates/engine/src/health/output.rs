//! What a probe prints: frames from its helper, of which the beginning is kept.

use tokio::io::{AsyncRead, AsyncReadExt};

/// So many bytes of a probe's output are kept.
const KEPT_OUTPUT: usize = 4096;

/// Reads a framed stream to its end and gives the beginning of what it carried, both streams in their order. What is beyond is
/// read and dropped, so that the probe does not wait for a reader.
pub(crate) async fn gather(mut from: impl AsyncRead + Unpin) -> String {
    let (mut text, mut raw) = (Vec::new(), Vec::new());
    let mut buffer = [0_u8; 4096];
    loop {
        let count = match from.read(&mut buffer).await {
            Ok(0) | Err(_) => break,
            Ok(count) => count,
        };
        if text.len() <= KEPT_OUTPUT {
            raw.extend_from_slice(&buffer[..count]);
            take_frames(&mut raw, &mut text);
        }
    }
    if text.len() > KEPT_OUTPUT {
        text.truncate(KEPT_OUTPUT);
        text.extend_from_slice(b"...");
    }
    String::from_utf8_lossy(&text).into_owned()
}

/// Moves the payload of whole frames, `[stream, 0, 0, 0, length: u32be] payload`, from `raw` to `text`.
fn take_frames(raw: &mut Vec<u8>, text: &mut Vec<u8>) {
    let mut done = 0;
    while let Some([_, _, _, _, a, b, c, d, rest @ ..]) = raw.get(done..) {
        let length = u32::from_be_bytes([*a, *b, *c, *d]) as usize;
        let Some(payload) = rest.get(..length) else { break };
        text.extend_from_slice(payload);
        done += 8 + length;
    }
    raw.drain(..done);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(bytes: &[u8]) -> Vec<u8> {
        let length = u32::try_from(bytes.len()).unwrap().to_be_bytes();
        [&[1, 0, 0, 0][..], &length, bytes].concat()
    }

    #[tokio::test]
    async fn output_is_joined_and_cut() {
        let stream = [frame(b"one "), frame(b""), frame(b"two"), vec![2, 0, 0]].concat();
        assert_eq!(gather(&stream[..]).await, "one two");
        let long: Vec<u8> = std::iter::repeat_n(frame(&[b'x'; 1000]), 20).flatten().collect();
        let kept = gather(&long[..]).await;
        assert_eq!(kept.len(), KEPT_OUTPUT + 3);
        assert!(kept.ends_with("x..."));
    }
}
