//! Compressed clusters: each is a stream of its own.

use std::io::Read;

use flate2::{Decompress, FlushDecompress};

/// The largest window of a zstd stream, as a power of two: twice the largest cluster.
const WINDOW: u32 = 22;

/// A cluster of `length` bytes from a raw deflate stream; none if it is damaged. Behind the stream there may be anything.
pub(super) fn inflate(packed: &[u8], length: usize) -> Option<Vec<u8>> {
    let mut content = vec![0; length];
    let mut stream = Decompress::new(false);
    stream.decompress(packed, &mut content, FlushDecompress::Finish).ok()?;
    (stream.total_out() == length as u64).then_some(content)
}

/// A cluster of `length` bytes from a zstd frame; none if it is damaged.
pub(super) fn decompress(packed: &[u8], length: usize) -> Option<Vec<u8>> {
    let mut content = vec![0; length];
    let mut frame = zstd::stream::read::Decoder::with_buffer(packed).ok()?.single_frame();
    frame.window_log_max(WINDOW).ok()?;
    frame.read_exact(&mut content).ok()?;
    Some(content)
}
