//! The archive around the place that is being written: what can be pointed back to, and what comes next.

use std::io::{self, Read};

/// How far back a stream may point.
pub(super) const BACK: usize = 1 << 15;
/// The longest match.
pub(super) const LONGEST: usize = 258;
/// Earlier places that a search looks at.
const DEPTH: usize = 128;
/// A match of this length is good.
const GOOD: usize = 8;
const HASHES: usize = 1 << 16;
/// Bytes that are read at once.
const PIECE: usize = 1 << 20;

/// A match that a search found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// The longest; below three there is none.
    pub(super) length: usize,
    /// The nearest of those.
    pub(super) distance: usize,
    /// The nearest place where four bytes are the same; 0 if there is none.
    pub(super) near: usize,
}

/// See the module.
pub(super) struct Window<R> {
    archive: R,
    buffer: Vec<u8>,
    /// Where we are in the buffer.
    at: usize,
    /// How many bytes of the archive are no longer in the buffer.
    gone: u64,
    ended: bool,
    /// The last place of each hash of four bytes, counted from the archive's start, plus one; whole turns of the number are left out.
    heads: Box<[u32; HASHES]>,
    /// How far back from each place the one before it with the same hash is; 0 if that is too far.
    steps: Box<[u16; BACK]>,
    /// As `heads`, of three bytes.
    threes: Box<[u32; HASHES]>,
    /// Places in the buffer below this one are known to searches.
    known: usize,
    /// The last search, by its place.
    cached: Option<(usize, Found)>,
}

impl<R: Read> Window<R> {
    pub(super) fn new(archive: R) -> Self {
        Self {
            archive,
            buffer: Vec::new(),
            at: 0,
            gone: 0,
            ended: false,
            heads: Box::new([0; HASHES]),
            steps: Box::new([0; BACK]),
            threes: Box::new([0; HASHES]),
            known: 0,
            cached: None,
        }
    }

    /// Sees to it that the longest match and one byte more are there, unless the archive ends.
    fn fill(&mut self) -> io::Result<()> {
        if self.ended || self.buffer.len() - self.at > LONGEST + 4 {
            return Ok(());
        }
        let keep = self.at.min(self.known).saturating_sub(BACK);
        self.buffer.drain(..keep);
        self.gone += keep as u64;
        self.at -= keep;
        self.known -= keep;
        self.cached = self.cached.and_then(|(at, found)| Some((at.checked_sub(keep)?, found)));
        let read = self.archive.by_ref().take(PIECE as u64).read_to_end(&mut self.buffer)?;
        self.ended = read < PIECE;
        Ok(())
    }

    /// The byte at this place.
    pub(super) fn byte(&mut self) -> io::Result<u8> {
        self.fill()?;
        self.buffer.get(self.at).copied().ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    /// Goes on by so many bytes, which must be there.
    pub(super) fn advance(&mut self, count: usize) -> io::Result<()> {
        self.fill()?;
        if self.buffer.len() - self.at < count {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.at += count;
        self.learn(self.at);
        Ok(())
    }

    pub(super) fn is_at_end(&mut self) -> io::Result<bool> {
        self.fill()?;
        Ok(self.at == self.buffer.len())
    }

    /// The four bytes at a place.
    fn four(&self, at: usize) -> Option<u32> {
        let bytes = self.buffer.get(at..at + 4)?;
        Some(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    fn place(&self, at: usize) -> u32 {
        self.gone.wrapping_add(at as u64) as u32
    }

    /// Lets searches know all places below `end`.
    fn learn(&mut self, end: usize) {
        let mut place = self.place(self.known);
        let bytes = self.buffer.get(self.known..(end + 3).min(self.buffer.len())).unwrap_or_default();
        for window in bytes.windows(4) {
            let four = u32::from_le_bytes([window[0], window[1], window[2], window[3]]);
            let now = place.wrapping_add(1);
            let head = &mut self.heads[hash(four)];
            let step = now.wrapping_sub(*head);
            self.steps[place as usize % BACK] = if *head != 0 && step <= BACK as u32 { step as u16 } else { 0 };
            *head = now;
            self.threes[hash(four << 8)] = now;
            place = now;
        }
        self.known = self.known.max(end);
    }

    /// How many bytes so far back are the same as those here.
    pub(super) fn same(&self, at: usize, distance: usize) -> usize {
        let most = LONGEST.min(self.buffer.len() - at);
        let Some(from) = at.checked_sub(distance) else { return 0 };
        let (here, there) = (&self.buffer[at..at + most], &self.buffer[from..from + most]);
        common(here, there)
    }

    /// How long a match of this distance is here.
    pub(super) fn length_at(&self, distance: usize) -> usize {
        self.same(self.at, distance)
    }

    /// Searches at this place, and at the next one if that could matter.
    pub(super) fn search(&mut self, until: usize) -> io::Result<(Found, Option<Found>)> {
        self.fill()?;
        let here = match self.cached {
            Some((at, found)) if at == self.at => found,
            _ => self.find(self.at, DEPTH),
        };
        if here.length < 3 || here.length >= until || self.at + 1 >= self.buffer.len() {
            return Ok((here, None));
        }
        self.learn(self.at + 1);
        // a good match is reason enough for compressors to look less far for a better one
        let next = self.find(self.at + 1, if here.length >= GOOD { DEPTH / 4 } else { DEPTH });
        self.cached = Some((self.at + 1, next));
        Ok((here, Some(next)))
    }

    fn find(&self, at: usize, depth: usize) -> Found {
        let most = LONGEST.min(self.buffer.len() - at);
        let Some(four) = self.four(at) else { return Found::default() };
        let place = self.place(at);
        let here = &self.buffer[at..at + most];
        let mut found = Found { length: 3, ..Found::default() };
        let mut distance = place.wrapping_add(1).wrapping_sub(self.heads[hash(four)]) as usize;
        let furthest = BACK.min(at);
        let mut last = four;
        for _ in 0..depth {
            if distance == 0 || distance > furthest {
                break;
            }
            let from = at - distance;
            let there = &self.buffer[from..from + most];
            let end = found.length;
            // most places fall short at the end of what is to be exceeded
            if word(there, end - 3) == last && word(there, 0) == four {
                if found.near == 0 {
                    found.near = distance;
                }
                let length = common(here, there);
                if length > end {
                    (found.length, found.distance) = (length, distance);
                    if length == most {
                        break;
                    }
                    last = word(here, length - 3);
                }
            }
            let step = self.steps[place.wrapping_sub(distance as u32) as usize % BACK];
            if step == 0 {
                break;
            }
            distance += usize::from(step);
        }
        if found.distance > 0 {
            return found;
        }
        let distance = place.wrapping_add(1).wrapping_sub(self.threes[hash(four << 8)]) as usize;
        if distance == 0 || distance > furthest {
            return Found::default();
        }
        let length = self.same(at, distance);
        if length < 3 { Found::default() } else { Found { length, distance, near: 0 } }
    }
}

fn hash(four: u32) -> usize {
    (four.wrapping_mul(0x9e37_79b1) >> 16) as usize
}

fn word(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).map_or(0, |word| u32::from_le_bytes([word[0], word[1], word[2], word[3]]))
}

/// How many bytes two runs of the same length begin with together.
fn common(here: &[u8], there: &[u8]) -> usize {
    let (eights, rest) = here.as_chunks::<8>();
    let (others, last) = there.as_chunks::<8>();
    for (number, (one, other)) in eights.iter().zip(others).enumerate() {
        let differ = u64::from_le_bytes(*one) ^ u64::from_le_bytes(*other);
        if differ != 0 {
            return number * 8 + (differ.trailing_zeros() / 8) as usize;
        }
    }
    let same = rest.iter().zip(last).take_while(|(one, other)| one == other).count();
    eights.len() * 8 + same
}
