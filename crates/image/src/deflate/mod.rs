//! How a compressed layer comes back byte for byte from its uncompressed archive and a little more.
//!
//! A gzip stream is a choice: where to write a byte as it is, where to point back, how far. What compressors choose is nearly
//! always what a plain search for the longest match would find, so only where they differ is written down, by an arithmetic
//! coder that learns how often each kind of choice is made. That takes a hundredth or so of what the stream took.
//!
//! ```text
//! reduce:   stream -> tokens -> model (beside the archive) -> coder -> parts
//! restore:  parts  -> coder  -> model (beside the archive) -> tokens -> stream
//! ```
//!
//! The model sees the same on both sides: the archive, and the tokens so far. The format is in `docs/formats/image-store.md`.
//!
//! # Source
//! RFC 1951 (deflate), RFC 1952 (gzip).

mod bits;
mod coder;
mod model;
mod tables;
mod window;

use std::io::{self, BufRead, BufReader, Read, Write};

use bits::{BitReader, BitWriter};
use coder::{Coder, Decoder, Encoder};
use model::{Model, Token};
use tables::{BitSource, Codes, Tables};
use window::Window;

/// What parts begin with.
const MAGIC: [u8; 4] = *b"idf2";
/// The most tokens of one block; compressors make blocks of some ten thousand.
const MOST_TOKENS: u32 = 4 << 20;
/// The longest header of a gzip member, and the longest rest behind the last one.
const LONGEST_HEADER: usize = 60_000;

/// Why a stream has no parts, or parts give no stream.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DeflateError {
    /// Something that no compressor of today writes.
    #[error("the stream has {0}")]
    Odd(&'static str),
    /// The archive is not what the stream has.
    #[error("the archive is another one")]
    Other,
    /// The bytes cannot be read or written, or make no sense.
    #[error("cannot read or write")]
    Io(#[from] io::Error),
}

/// Writes down what `stream`, a gzip file, has beyond `archive`, which is what it decompresses to.
///
/// # Errors
/// [`DeflateError`]; what was written is of no use then.
pub(crate) fn reduce(stream: impl Read, archive: impl Read, mut out: impl Write) -> Result<(), DeflateError> {
    out.write_all(&MAGIC)?;
    let mut bits = BitReader::new(BufReader::with_capacity(1 << 18, stream));
    let (mut coder, mut model) = (Encoder::new(out), Model::default());
    let mut window = Window::new(archive);
    let mut header = member(&mut bits)?.ok_or(DeflateError::Odd("no gzip header"))?;
    loop {
        coder.direct(1, 1)?;
        raw(&mut coder, &header)?;
        while !reduce_block(&mut bits, &mut coder, &mut model, &mut window)? {}
        coder.direct(bits.padding(), 8)?;
        let mut trailer = Vec::new();
        bits.bytes(8, &mut trailer)?;
        raw(&mut coder, &trailer)?;
        match member(&mut bits)? {
            Some(next) => header = next,
            None => break,
        }
    }
    coder.direct(0, 1)?;
    raw(&mut coder, &bits.rest(LONGEST_HEADER)?)?;
    if !window.is_at_end()? {
        return Err(DeflateError::Other);
    }
    coder.finish()?.flush()?;
    Ok(())
}

/// Writes the gzip file whose parts these are.
///
/// # Errors
/// [`DeflateError`]; the file is only right if its digest is.
pub(crate) fn restore(parts: impl Read, archive: impl Read, out: impl Write) -> Result<(), DeflateError> {
    let mut parts = BufReader::with_capacity(1 << 18, parts);
    let mut magic = [0; 4];
    parts.read_exact(&mut magic)?;
    if magic != MAGIC {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "of a version that is not known here").into());
    }
    let (mut coder, mut model) = (Decoder::new(parts)?, Model::default());
    let (mut window, mut bits) = (Window::new(archive), BitWriter::new(out));
    while coder.direct(0, 1)? == 1 {
        restore_raw(&mut coder, &mut bits)?;
        while !restore_block(&mut coder, &mut model, &mut window, &mut bits)? {}
        let padding = coder.direct(0, 8)?;
        bits.align(padding)?;
        restore_raw(&mut coder, &mut bits)?;
    }
    restore_raw(&mut coder, &mut bits)?;
    bits.finish()?.flush()?;
    Ok(())
}

/// The header of a gzip member, if one comes now.
fn member(input: &mut BitReader<impl BufRead>) -> Result<Option<Vec<u8>>, DeflateError> {
    if input.peek(16)? != 0x8b1f {
        return Ok(None);
    }
    let mut header = Vec::new();
    input.bytes(10, &mut header)?;
    let flags = header[3];
    if header[2] != 8 || flags & 0xe0 != 0 {
        return Err(DeflateError::Odd("an unknown kind of gzip header"));
    }
    if flags & 4 != 0 {
        input.bytes(2, &mut header)?;
        let length = usize::from(header[10]) | usize::from(header[11]) << 8;
        input.bytes(length, &mut header)?;
    }
    for text in [8, 16] {
        if flags & text == 0 {
            continue;
        }
        loop {
            input.bytes(1, &mut header)?;
            if header.len() > LONGEST_HEADER {
                return Err(DeflateError::Odd("a gzip header without an end"));
            }
            if header.last() == Some(&0) {
                break;
            }
        }
    }
    if flags & 2 != 0 {
        input.bytes(2, &mut header)?;
    }
    Ok(Some(header))
}

/// Bytes as they are.
fn raw(coder: &mut impl Coder, bytes: &[u8]) -> Result<(), DeflateError> {
    let count = u32::try_from(bytes.len()).ok().filter(|_| bytes.len() <= LONGEST_HEADER);
    coder.direct(count.ok_or(DeflateError::Odd("bytes behind its end"))?, 16)?;
    for byte in bytes {
        coder.direct(u32::from(*byte), 8)?;
    }
    Ok(())
}

fn restore_raw(coder: &mut impl Coder, bits: &mut BitWriter<impl Write>) -> Result<(), DeflateError> {
    for _ in 0..coder.direct(0, 16)? {
        let byte = coder.direct(0, 8)?;
        bits.put(byte, 8)?;
    }
    Ok(())
}

/// Reads bits of a stream and hands them on.
struct Taken<'a, R, C>(&'a mut BitReader<R>, &'a mut C);

impl<R: BufRead, C: Coder> BitSource for Taken<'_, R, C> {
    fn bits(&mut self, count: u32) -> io::Result<u32> {
        let value = self.0.take(count)?;
        self.1.direct(value, count)
    }
}

/// Gets bits of a stream and writes them.
struct Given<'a, C, W: Write>(&'a mut C, &'a mut BitWriter<W>);

impl<C: Coder, W: Write> BitSource for Given<'_, C, W> {
    fn bits(&mut self, count: u32) -> io::Result<u32> {
        let value = self.0.direct(0, count)?;
        self.1.put(value, count)?;
        Ok(value)
    }
}

/// One block; whether it is the last.
fn reduce_block<R: Read>(
    bits: &mut BitReader<impl BufRead>,
    coder: &mut impl Coder,
    model: &mut Model,
    window: &mut Window<R>,
) -> Result<bool, DeflateError> {
    let (last, kind) = (bits.take(1)? == 1, bits.take(2)?);
    coder.direct(u32::from(last) | kind << 1, 3)?;
    let tables = match kind {
        0 => {
            let padding = bits.padding();
            coder.direct(padding, 8)?;
            let (length, check) = (bits.take(16)?, bits.take(16)?);
            if length ^ check != 0xffff {
                return Err(DeflateError::Odd("a block of a wrong length"));
            }
            coder.direct(length, 16)?;
            for _ in 0..length {
                if u32::from(window.byte()?) != bits.take(8)? {
                    return Err(DeflateError::Other);
                }
                window.advance(1)?;
            }
            return Ok(last);
        }
        1 => Tables::fixed(),
        2 => Tables::read(&mut Taken(bits, coder))?,
        _ => return Err(DeflateError::Odd("a block of an unknown kind")),
    };
    let tokens = tables.tokens(bits, MOST_TOKENS)?;
    coder.direct(tokens.len() as u32, 24)?;
    for token in tokens {
        let (byte, known) = (window.byte()?, model.token(coder, window, token)?);
        if known != token || matches!(token, Token::Literal(literal) if literal != byte) {
            return Err(DeflateError::Other);
        }
        window.advance(token.length())?;
    }
    Ok(last)
}

fn restore_block<R: Read>(
    coder: &mut impl Coder,
    model: &mut Model,
    window: &mut Window<R>,
    bits: &mut BitWriter<impl Write>,
) -> Result<bool, DeflateError> {
    let head = coder.direct(0, 3)?;
    bits.put(head, 3)?;
    let last = head & 1 == 1;
    let tables = match head >> 1 {
        0 => {
            let padding = coder.direct(0, 8)?;
            bits.align(padding)?;
            let length = coder.direct(0, 16)?;
            bits.put(length, 16)?;
            bits.put(length ^ 0xffff, 16)?;
            for _ in 0..length {
                bits.put(u32::from(window.byte()?), 8)?;
                window.advance(1)?;
            }
            return Ok(last);
        }
        1 => Tables::fixed(),
        2 => Tables::read(&mut Given(coder, bits))?,
        _ => return Err(io::Error::from(io::ErrorKind::InvalidData).into()),
    };
    let codes = Codes::of(&tables);
    for _ in 0..coder.direct(0, 24)? {
        let literal = Token::Literal(window.byte()?);
        let token = model.token(coder, window, literal)?;
        codes.put(token, bits)?;
        window.advance(token.length())?;
    }
    codes.end(bits)?;
    Ok(last)
}

#[cfg(test)]
mod tests;
