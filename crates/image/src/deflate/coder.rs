//! An arithmetic coder of single decisions, each with a probability that follows what was decided before.

use std::io::{self, Read, Write};

/// How often a decision is yes, of 32768; moved by a 32nd of the way each time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Odds(u16);

const BITS: u32 = 15;
const RATE: u32 = 5;
const LEAST: u32 = 1 << 24;

impl Default for Odds {
    fn default() -> Self {
        Self(1 << (BITS - 1))
    }
}

impl Odds {
    fn learn(&mut self, yes: bool) {
        if yes {
            self.0 += ((1 << BITS) - self.0) >> RATE;
        } else {
            self.0 -= self.0 >> RATE;
        }
    }

    fn part(self, range: u32) -> u32 {
        (range >> BITS) * u32::from(self.0)
    }
}

/// One side or the other: what is asked is what was decided when writing, and is ignored when reading.
pub(super) trait Coder {
    /// A decision.
    fn decide(&mut self, odds: &mut Odds, yes: bool) -> io::Result<bool>;

    /// A number of so many bits, each as likely as not.
    fn direct(&mut self, value: u32, bits: u32) -> io::Result<u32>;
}

/// Writes decisions.
pub(super) struct Encoder<W: Write> {
    out: io::BufWriter<W>,
    low: u64,
    range: u32,
    /// A byte that a carry may still change, and how many of 255 come behind it.
    held: u8,
    waiting: u64,
}

impl<W: Write> Encoder<W> {
    pub(super) fn new(out: W) -> Self {
        Self { out: io::BufWriter::with_capacity(1 << 16, out), low: 0, range: u32::MAX, held: 0, waiting: 1 }
    }

    fn shift(&mut self) -> io::Result<()> {
        let carry = (self.low >> 32) as u8;
        if self.low < 0xff00_0000 || carry == 1 {
            self.out.write_all(&[self.held.wrapping_add(carry)])?;
            for _ in 1..self.waiting {
                self.out.write_all(&[0xff_u8.wrapping_add(carry)])?;
            }
            self.waiting = 0;
            self.held = (self.low >> 24) as u8;
        }
        self.waiting += 1;
        self.low = (self.low & 0x00ff_ffff) << 8;
        Ok(())
    }

    fn normalize(&mut self) -> io::Result<()> {
        while self.range < LEAST {
            self.range <<= 8;
            self.shift()?;
        }
        Ok(())
    }

    /// Writes what is held.
    pub(super) fn finish(mut self) -> io::Result<W> {
        for _ in 0..5 {
            self.shift()?;
        }
        self.out.into_inner().map_err(io::IntoInnerError::into_error)
    }
}

impl<W: Write> Coder for Encoder<W> {
    fn decide(&mut self, odds: &mut Odds, yes: bool) -> io::Result<bool> {
        let part = odds.part(self.range);
        if yes {
            self.range = part;
        } else {
            self.low += u64::from(part);
            self.range -= part;
        }
        odds.learn(yes);
        self.normalize()?;
        Ok(yes)
    }

    fn direct(&mut self, value: u32, bits: u32) -> io::Result<u32> {
        for bit in (0..bits).rev() {
            self.range >>= 1;
            if value >> bit & 1 == 1 {
                self.low += u64::from(self.range);
            }
            self.normalize()?;
        }
        Ok(value)
    }
}

/// Reads decisions.
pub(super) struct Decoder<R> {
    input: R,
    code: u32,
    range: u32,
}

impl<R: Read> Decoder<R> {
    pub(super) fn new(mut input: R) -> io::Result<Self> {
        let mut first = [0; 5];
        input.read_exact(&mut first)?;
        Ok(Self { input, code: u32::from_be_bytes([first[1], first[2], first[3], first[4]]), range: u32::MAX })
    }

    fn normalize(&mut self) -> io::Result<()> {
        while self.range < LEAST {
            let mut next = [0];
            self.input.read_exact(&mut next)?;
            self.code = self.code << 8 | u32::from(next[0]);
            self.range <<= 8;
        }
        Ok(())
    }
}

impl<R: Read> Coder for Decoder<R> {
    fn decide(&mut self, odds: &mut Odds, _: bool) -> io::Result<bool> {
        let part = odds.part(self.range);
        let yes = self.code < part;
        if yes {
            self.range = part;
        } else {
            self.code -= part;
            self.range -= part;
        }
        odds.learn(yes);
        self.normalize()?;
        Ok(yes)
    }

    fn direct(&mut self, _: u32, bits: u32) -> io::Result<u32> {
        let mut value = 0;
        for _ in 0..bits {
            self.range >>= 1;
            let one = self.code >= self.range;
            if one {
                self.code -= self.range;
            }
            value = value << 1 | u32::from(one);
            self.normalize()?;
        }
        Ok(value)
    }
}
