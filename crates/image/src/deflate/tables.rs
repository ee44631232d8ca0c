//! Huffman codes of a block: read, used, and used again for writing.

use std::io::{self, BufRead, Write};

use super::DeflateError;
use super::bits::{BitReader, BitWriter};
use super::model::Token;

/// Where a block's head comes from.
pub(super) trait BitSource {
    fn bits(&mut self, count: u32) -> io::Result<u32>;
}

/// The order in which the lengths of the code for lengths stand.
const ORDER: [usize; 19] = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];
const LENGTH_BASE: [u16; 29] =
    [3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 15, 17, 19, 23, 27, 31, 35, 43, 51, 59, 67, 83, 99, 115, 131, 163, 195, 227, 258];
const LENGTH_BITS: [u32; 29] = [0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0];
const DISTANCE_BASE: [u16; 30] = [
    1, 2, 3, 4, 5, 7, 9, 13, 17, 25, 33, 49, 65, 97, 129, 193, 257, 385, 513, 769, 1025, 1537, 2049, 3073, 4097, 6145,
    8193, 12289, 16385, 24577,
];
const END: usize = 256;

fn distance_bits(symbol: usize) -> u32 {
    (symbol as u32 / 2).saturating_sub(1)
}

/// The lengths of a block's codes.
pub(super) struct Tables {
    literals: Vec<u8>,
    distances: Vec<u8>,
}

impl Tables {
    /// Those that need not be told.
    pub(super) fn fixed() -> Self {
        let literal = |symbol: u16| match symbol {
            0..=143 => 8,
            144..=255 => 9,
            256..=279 => 7,
            _ => 8,
        };
        Self { literals: (0..288).map(literal).collect(), distances: vec![5; 30] }
    }

    /// Reads a block's head.
    pub(super) fn read(source: &mut impl BitSource) -> Result<Self, DeflateError> {
        let literals = source.bits(5)? as usize + 257;
        let distances = source.bits(5)? as usize + 1;
        let count = source.bits(4)? as usize + 4;
        let mut lengths = [0; 19];
        for place in &ORDER[..count] {
            lengths[*place] = source.bits(3)? as u8;
        }
        let codes = canonical(&lengths);
        let mut all: Vec<u8> = Vec::with_capacity(literals + distances);
        while all.len() < literals + distances {
            let symbol = one(source, &codes)?;
            let (value, times) = match symbol {
                16 => (*all.last().ok_or(DeflateError::Odd("codes that begin with nothing"))?, 3 + source.bits(2)?),
                17 => (0, 3 + source.bits(3)?),
                18 => (0, 11 + source.bits(7)?),
                length => (length as u8, 1),
            };
            all.extend(std::iter::repeat_n(value, times as usize));
        }
        if all.len() != literals + distances || literals > 286 || all[END] == 0 {
            return Err(DeflateError::Odd("codes that make no sense"));
        }
        let distances = all.split_off(literals);
        Ok(Self { literals: all, distances })
    }

    /// All tokens of the block.
    pub(super) fn tokens(&self, bits: &mut BitReader<impl BufRead>, most: u32) -> Result<Vec<Token>, DeflateError> {
        let (literals, distances) = (Lookup::of(&self.literals)?, Lookup::of(&self.distances)?);
        let mut tokens = Vec::new();
        loop {
            let symbol = literals.next(bits)?;
            tokens.push(match symbol {
                0..END => Token::Literal(symbol as u8),
                END => return Ok(tokens),
                _ => {
                    let at = symbol - END - 1;
                    let (Some(base), Some(extra)) = (LENGTH_BASE.get(at), LENGTH_BITS.get(at)) else {
                        return Err(DeflateError::Odd("a length that there is not"));
                    };
                    let length = base + bits.take(*extra)? as u16;
                    if length == 258 && at != 28 {
                        return Err(DeflateError::Odd("its longest matches in two ways"));
                    }
                    let symbol = distances.next(bits)?;
                    let base = DISTANCE_BASE.get(symbol).ok_or(DeflateError::Odd("a distance that there is not"))?;
                    Token::Match { length, distance: base + bits.take(distance_bits(symbol))? as u16 }
                }
            });
            if tokens.len() >= most as usize {
                return Err(DeflateError::Odd("a block of too many tokens"));
            }
        }
    }
}

/// The codes of lengths, lowest bit first, in the order of their symbols.
fn canonical(lengths: &[u8]) -> Vec<(u32, u32)> {
    let mut counts = [0_u32; 16];
    lengths.iter().for_each(|length| counts[usize::from(*length)] += 1);
    counts[0] = 0;
    let mut next = [0_u32; 17];
    for length in 1..16 {
        next[length + 1] = (next[length] + counts[length]) << 1;
    }
    lengths
        .iter()
        .map(|length| {
            let count = u32::from(*length);
            if count == 0 {
                return (0, 0);
            }
            let code = next[usize::from(*length)];
            next[usize::from(*length)] += 1;
            // an impossible set of lengths has codes that are too long; they are never met
            ((code & ((1 << count) - 1)).reverse_bits() >> (32 - count), count)
        })
        .collect()
}

/// One symbol, bit by bit: for the few of a block's head.
fn one(source: &mut impl BitSource, codes: &[(u32, u32)]) -> Result<usize, DeflateError> {
    let mut code = 0;
    for length in 1..=7 {
        code |= source.bits(1)? << (length - 1);
        if let Some(symbol) = codes.iter().position(|known| *known == (code, length)) {
            return Ok(symbol);
        }
    }
    Err(DeflateError::Odd("a code that there is not"))
}

/// Symbols by the bits that come next.
struct Lookup {
    bits: u32,
    /// The symbol and its length; 0 for bits that mean nothing.
    symbols: Vec<(u16, u8)>,
}

impl Lookup {
    fn of(lengths: &[u8]) -> Result<Self, DeflateError> {
        let bits = u32::from(lengths.iter().copied().max().unwrap_or(0)).max(1);
        let mut symbols = vec![(0, 0); 1 << bits];
        for (symbol, (code, length)) in canonical(lengths).into_iter().enumerate() {
            if length > 0 {
                for place in (code as usize..symbols.len()).step_by(1 << length) {
                    symbols[place] = (symbol as u16, length as u8);
                }
            }
        }
        Ok(Self { bits, symbols })
    }

    fn next(&self, bits: &mut BitReader<impl BufRead>) -> Result<usize, DeflateError> {
        let (symbol, length) = self.symbols[bits.peek(self.bits)? as usize];
        if length == 0 {
            return Err(DeflateError::Odd("a code that there is not"));
        }
        bits.take(u32::from(length))?;
        Ok(usize::from(symbol))
    }
}

/// Writes tokens by a block's codes.
pub(super) struct Codes {
    literals: Vec<(u32, u32)>,
    distances: Vec<(u32, u32)>,
}

impl Codes {
    pub(super) fn of(tables: &Tables) -> Self {
        Self { literals: canonical(&tables.literals), distances: canonical(&tables.distances) }
    }

    fn symbol(codes: &[(u32, u32)], symbol: usize, bits: &mut BitWriter<impl Write>) -> io::Result<()> {
        match codes.get(symbol) {
            Some((code, length)) if *length > 0 => bits.put(*code, *length),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    pub(super) fn put(&self, token: Token, bits: &mut BitWriter<impl Write>) -> io::Result<()> {
        match token {
            Token::Literal(byte) => Self::symbol(&self.literals, usize::from(byte), bits),
            Token::Match { length, distance } => {
                let at = LENGTH_BASE.partition_point(|base| *base <= length) - 1;
                Self::symbol(&self.literals, END + 1 + at, bits)?;
                bits.put(u32::from(length - LENGTH_BASE[at]), LENGTH_BITS[at])?;
                let at = DISTANCE_BASE.partition_point(|base| *base <= distance) - 1;
                Self::symbol(&self.distances, at, bits)?;
                bits.put(u32::from(distance - DISTANCE_BASE[at]), distance_bits(at))
            }
        }
    }

    pub(super) fn end(&self, bits: &mut BitWriter<impl Write>) -> io::Result<()> {
        Self::symbol(&self.literals, END, bits)
    }
}
