//! Sparse files: which parts of a file its archive has.

use super::header::{BLOCK, Header, number};
use super::pax::decimal;
use crate::erofs::Segment;

/// More parts than this is an attack, not a file.
pub(super) const SEGMENTS_MAX: usize = 1 << 20;

/// The parts in a GNU sparse header itself, and whether more blocks of parts follow.
pub(super) fn from_header(header: &Header) -> Option<(Vec<(u64, u64)>, Follows)> {
    let pairs = pairs(&header.0[386..482])?;
    Some((pairs, Follows::from_byte(header.0[482])))
}

/// The file's whole length in a GNU sparse header.
pub(super) fn real_size(header: &Header) -> Option<u64> {
    u64::try_from(number(&header.0[483..495])?).ok()
}

/// The parts in a continuation block.
pub(super) fn from_block(block: &[u8; BLOCK]) -> Option<(Vec<(u64, u64)>, Follows)> {
    Some((pairs(&block[..504])?, Follows::from_byte(block[504])))
}

/// Whether another block of parts follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Follows {
    Yes,
    No,
}

impl Follows {
    fn from_byte(byte: u8) -> Self {
        if byte == 0 { Self::No } else { Self::Yes }
    }
}

fn pairs(field: &[u8]) -> Option<Vec<(u64, u64)>> {
    let mut out = Vec::new();
    for pair in field.chunks_exact(24) {
        if pair[0] == 0 {
            break;
        }
        let offset = u64::try_from(number(&pair[..12])?).ok()?;
        let length = u64::try_from(number(&pair[12..])?).ok()?;
        out.push((offset, length));
    }
    Some(out)
}

/// The parts in a `GNU.sparse.map` value: decimal numbers with commas between.
pub(super) fn from_list(list: &[u8]) -> Option<Vec<(u64, u64)>> {
    let numbers: Vec<u64> = list.split(|byte| *byte == b',').map(decimal).collect::<Option<_>>()?;
    if !numbers.len().is_multiple_of(2) {
        return None;
    }
    Some(numbers.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect())
}

/// Sorted, without empty parts, within `size`, and together `stored` bytes long; `None` when the map breaks that.
pub(super) fn check(pairs: Vec<(u64, u64)>, size: u64, stored: u64) -> Option<Vec<Segment>> {
    let (mut end, mut total) = (0_u64, 0_u64);
    let mut out = Vec::with_capacity(pairs.len());
    for (offset, length) in pairs {
        if offset < end {
            return None;
        }
        end = offset.checked_add(length)?;
        total = total.checked_add(length)?;
        if end > size {
            return None;
        }
        if length > 0 {
            out.push(Segment { offset, length });
        }
    }
    (total == stored).then_some(out)
}
