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
    /// The last place of each hash, counted from the archive's start, plus one; whole turns of the number are left out.
    heads: Vec<u32>,
    /// The place before each that has the same hash.
    before: Vec<u32>,
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
            heads: vec![0; HASHES],
            before: vec![0; BACK],
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

    fn hash(&self, at: usize) -> Option<usize> {
        let three = self.buffer.get(at..at + 3)?;
        let number = u32::from(three[0]) | u32::from(three[1]) << 8 | u32::from(three[2]) << 16;
        Some((number.wrapping_mul(0x9e37_79b1) >> 16) as usize)
    }

    fn place(&self, at: usize) -> u32 {
        self.gone.wrapping_add(at as u64) as u32
    }

    /// Lets searches know all places below `end`.
    fn learn(&mut self, end: usize) {
        while self.known < end {
            if let Some(hash) = self.hash(self.known) {
                let place = self.place(self.known);
                self.before[place as usize % BACK] = self.heads[hash];
                self.heads[hash] = place.wrapping_add(1);
            }
            self.known += 1;
        }
    }

    /// How many bytes so far back are the same as those here.
    pub(super) fn same(&self, at: usize, distance: usize) -> usize {
        let most = LONGEST.min(self.buffer.len() - at);
        let Some(from) = at.checked_sub(distance) else { return 0 };
        let (here, there) = (&self.buffer[at..at + most], &self.buffer[from..from + most]);
        let mut length = 0;
        while length + 8 <= most && here[length..length + 8] == there[length..length + 8] {
            length += 8;
        }
        while length < most && here[length] == there[length] {
            length += 1;
        }
        length
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
        let mut found = Found { length: 2, ..Found::default() };
        let most = LONGEST.min(self.buffer.len() - at);
        let Some(hash) = self.hash(at) else { return Found::default() };
        let place = self.place(at);
        let here = &self.buffer[..at + most];
        let four = here.get(at..at + 4);
        let mut next = self.heads[hash];
        for _ in 0..depth {
            let earlier = next.wrapping_sub(1);
            let distance = place.wrapping_sub(earlier) as usize;
            if next == 0 || distance == 0 || distance > BACK || distance > at {
                break;
            }
            let from = at - distance;
            if found.near == 0 && four.is_some_and(|four| here[from..from + 4] == *four) {
                found.near = distance;
            }
            // most places fall short at the end of what is to be exceeded
            let end = found.length;
            if end < most && here[from + end - 1..=from + end] == here[at + end - 1..=at + end] {
                let length = self.same(at, distance);
                if length > end {
                    (found.length, found.distance) = (length, distance);
                    if length == most {
                        break;
                    }
                }
            }
            next = self.before[earlier as usize % BACK];
        }
        if found.distance == 0 { Found::default() } else { found }
    }
}
