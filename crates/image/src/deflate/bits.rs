//! Bits of a deflate stream: the lowest of a byte first.

use std::io::{self, BufRead, Write};

/// Reads bits.
pub(super) struct BitReader<R> {
    input: R,
    held: u64,
    count: u32,
}

impl<R: BufRead> BitReader<R> {
    pub(super) fn new(input: R) -> Self {
        Self { input, held: 0, count: 0 }
    }

    fn fill(&mut self, wanted: u32) -> io::Result<()> {
        while self.count < wanted {
            let Some(byte) = self.input.fill_buf()?.first().copied() else {
                return Err(io::ErrorKind::UnexpectedEof.into());
            };
            self.input.consume(1);
            self.held |= u64::from(byte) << self.count;
            self.count += 8;
        }
        Ok(())
    }

    /// The next bits, at most 24.
    pub(super) fn take(&mut self, count: u32) -> io::Result<u32> {
        self.fill(count)?;
        let value = (self.held & ((1 << count) - 1)) as u32;
        self.held >>= count;
        self.count -= count;
        Ok(value)
    }

    /// The rest of the byte that was begun, with a one above it that says where it ends.
    pub(super) fn padding(&mut self) -> u32 {
        let rest = self.count % 8;
        let value = (self.held & ((1 << rest) - 1)) as u32 | 1 << rest;
        self.held >>= rest;
        self.count -= rest;
        value
    }

    /// Takes whole bytes; nothing of a byte may be left over from before.
    pub(super) fn bytes(&mut self, count: usize, out: &mut Vec<u8>) -> io::Result<()> {
        for _ in 0..count {
            out.push(self.take(8)? as u8);
        }
        Ok(())
    }

    /// Takes everything that is left, and stops when that is more than `most` bytes.
    pub(super) fn rest(&mut self, most: usize) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        while out.len() <= most {
            self.peek(8)?;
            if self.count < 8 {
                break;
            }
            out.push(self.take(8)? as u8);
        }
        Ok(out)
    }

    /// What comes next, as far as it is there; nothing is taken.
    pub(super) fn peek(&mut self, count: u32) -> io::Result<u32> {
        match self.fill(count) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {}
            filled => filled?,
        }
        Ok((self.held & ((1 << count) - 1)) as u32)
    }
}

/// Writes bits.
pub(super) struct BitWriter<W: Write> {
    out: io::BufWriter<W>,
    held: u64,
    count: u32,
}

impl<W: Write> BitWriter<W> {
    pub(super) fn new(out: W) -> Self {
        Self { out: io::BufWriter::with_capacity(1 << 18, out), held: 0, count: 0 }
    }

    /// At most 32 bits.
    pub(super) fn put(&mut self, value: u32, count: u32) -> io::Result<()> {
        self.held |= u64::from(value) << self.count;
        self.count += count;
        while self.count >= 8 {
            self.out.write_all(&[(self.held & 0xff) as u8])?;
            self.held >>= 8;
            self.count -= 8;
        }
        Ok(())
    }

    /// What [`BitReader::padding`] gave.
    pub(super) fn align(&mut self, padding: u32) -> io::Result<()> {
        let count = padding.checked_ilog2().unwrap_or(0);
        if count != (8 - self.count) % 8 {
            return Err(io::ErrorKind::InvalidData.into());
        }
        self.put(padding & !(1 << count), count)
    }

    pub(super) fn finish(self) -> io::Result<W> {
        self.out.into_inner().map_err(io::IntoInnerError::into_error)
    }
}
