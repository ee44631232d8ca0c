//! Docker's framing of two output streams on one connection.
//!
//! ```text
//! frame := stream:u8  0 0 0  length:u32be  payload     stream: 1 standard output, 2 standard error
//! ```

/// The size of a frame's header in bytes.
pub const HEADER: usize = 8;

/// Which stream a frame belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// An error of the daemon itself, as text.
    System,
}

/// A header that is not one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("unknown stream number {0} in a multiplexed stream")]
pub struct StreamError(u8);

/// The header of a frame with `length` bytes of payload.
#[must_use]
pub fn header(stream: Stream, length: u32) -> [u8; HEADER] {
    let number = match stream {
        Stream::Stdout => 1,
        Stream::Stderr => 2,
        Stream::System => 3,
    };
    let [a, b, c, d] = length.to_be_bytes();
    [number, 0, 0, 0, a, b, c, d]
}

/// Reads a header: the stream and the payload's length in bytes.
///
/// # Errors
/// [`StreamError`] if the stream number is none of Docker's.
pub fn parse(header: [u8; HEADER]) -> Result<(Stream, u32), StreamError> {
    let [number, _, _, _, a, b, c, d] = header;
    let stream = match number {
        // 0 is standard input echoed back, which clients print as output
        0 | 1 => Stream::Stdout,
        2 => Stream::Stderr,
        3 => Stream::System,
        other => return Err(StreamError(other)),
    };
    Ok((stream, u32::from_be_bytes([a, b, c, d])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_round_trips() {
        for stream in [Stream::Stdout, Stream::Stderr, Stream::System] {
            assert_eq!(parse(header(stream, 70_000)), Ok((stream, 70_000)));
        }
        assert_eq!(parse([9, 0, 0, 0, 0, 0, 0, 0]), Err(StreamError(9)));
    }
}
