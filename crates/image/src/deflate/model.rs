//! What a compressor is expected to choose, and what it costs to say otherwise.

use std::io::{self, Read};

use super::coder::{Coder, Odds};
use super::window::{BACK, Found, LONGEST, Window};

/// One choice of a compressor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Token {
    /// A byte as it is.
    Literal(u8),
    /// So many bytes from so far back.
    Match { length: u16, distance: u16 },
}

impl Token {
    /// How many bytes it stands for.
    pub(super) fn length(self) -> usize {
        match self {
            Self::Literal(_) => 1,
            Self::Match { length, .. } => usize::from(length),
        }
    }
}

/// A match that is this long is hardly ever given up for one that begins a byte later.
const PATIENCE: usize = 32;
/// Kinds of lengths.
const LENGTHS: usize = 11;
/// zlib does not look further back, so that it need not mind the window's end.
const ZLIB_BACK: usize = BACK - 262;
/// zlib does not take three bytes from further back.
const ZLIB_FAR: usize = 4096;

fn kind(length: usize) -> usize {
    match length {
        0..=2 => 0,
        3 => 1,
        4 => 2,
        5 => 3,
        6 => 4,
        7..=8 => 5,
        9..=16 => 6,
        17..=32 => 7,
        33..=127 => 8,
        128..=257 => 9,
        _ => 10,
    }
}

/// What was learnt so far.
pub(super) struct Model {
    /// Whether there is a match: by the longest one's length, the next place's, the token before, the distance.
    matched: [[[[Odds; 3]; 3]; 5]; LENGTHS],
    /// Whether it is the longest: by its length and whether the last one was.
    longest: [[Odds; 2]; LENGTHS],
    /// Whether it is the nearest one.
    nearest: [Odds; 2],
    /// Whether it is as long as it can be: by that length and whether it is the longest one.
    whole: [[Odds; 2]; LENGTHS],
    lengths: [Odds; 256],
    distances: [Odds; 16],
    last_literals: usize,
    last_longest: bool,
}

impl Default for Model {
    fn default() -> Self {
        let odds = Odds::default();
        Self {
            matched: [[[[odds; 3]; 3]; 5]; LENGTHS],
            longest: [[odds; 2]; LENGTHS],
            nearest: [odds; 2],
            whole: [[odds; 2]; LENGTHS],
            lengths: [odds; 256],
            distances: [odds; 16],
            last_literals: 0,
            last_longest: true,
        }
    }
}

impl Model {
    /// The next token: `actual` when writing; when reading that is the literal, which the archive says.
    pub(super) fn token<R: Read>(
        &mut self,
        coder: &mut impl Coder,
        window: &mut Window<R>,
        actual: Token,
    ) -> io::Result<Token> {
        let (here, next) = window.search(PATIENCE)?;
        let wanted = match actual {
            Token::Match { length, distance } => Some((usize::from(length), usize::from(distance))),
            Token::Literal(_) => None,
        };
        let odds = &mut self.matched[kind(here.length)][relation(here, next)][self.last_literals.min(2)][far(here)];
        if !coder.decide(odds, wanted.is_some())? {
            self.last_literals += 1;
            return Ok(actual);
        }
        self.last_literals = 0;
        let (length, distance) = wanted.unwrap_or((0, 0));
        let distance = self.distance(coder, here, distance)?;
        let most = if distance == here.distance { here.length } else { window.length_at(distance) };
        if most < 3 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a match that is none"));
        }
        let whole = &mut self.whole[kind(most)][usize::from(distance == here.distance)];
        let length = if coder.decide(whole, length == most)? { most } else { self.length(coder, length)? };
        if length > most {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a match that is longer than it can be"));
        }
        Ok(Token::Match { length: length as u16, distance: distance as u16 })
    }

    fn distance(&mut self, coder: &mut impl Coder, here: Found, wanted: usize) -> io::Result<usize> {
        if here.distance > 0 {
            let odds = &mut self.longest[kind(here.length)][usize::from(self.last_longest)];
            self.last_longest = coder.decide(odds, wanted == here.distance)?;
            if self.last_longest {
                return Ok(here.distance);
            }
        }
        let near = here.near > 0 && here.near != here.distance;
        if near && coder.decide(&mut self.nearest[0], wanted == here.near)? {
            return Ok(here.near);
        }
        // as many bits as it has, then those bits
        let size = wanted.max(1).ilog2() as usize;
        let mut bits = 0;
        while bits < 15 && coder.decide(&mut self.distances[bits], size > bits)? {
            bits += 1;
        }
        let low = coder.direct((wanted & ((1 << bits) - 1)) as u32, bits as u32)? as usize;
        Ok((1 << bits | low).min(BACK))
    }

    fn length(&mut self, coder: &mut impl Coder, wanted: usize) -> io::Result<usize> {
        let wanted = wanted.saturating_sub(3);
        let mut node = 1;
        for bit in (0..8).rev() {
            let one = coder.decide(&mut self.lengths[node], wanted >> bit & 1 == 1)?;
            node = node << 1 | usize::from(one);
        }
        Ok((node - 256 + 3).min(LONGEST))
    }
}

/// How the match at the next place is beside the one here.
fn relation(here: Found, next: Option<Found>) -> usize {
    match next {
        None => 0,
        Some(next) if next.length < here.length => 1,
        Some(next) if next.length == here.length => 2,
        Some(next) if next.length == here.length + 1 => 3,
        Some(_) => 4,
    }
}

fn far(here: Found) -> usize {
    match here.distance {
        0..=ZLIB_FAR => 0,
        distance if distance <= ZLIB_BACK => 1,
        _ => 2,
    }
}
