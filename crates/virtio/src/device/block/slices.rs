//! Lists of guest buffers as one run of bytes: parts of it, zeroes in it, copies of it.

use hv::vectored::GuestSlice;

/// Zeroes are written in pieces of this size.
static ZEROES: [u8; 4096] = [0; 4096];

/// Bytes in all of them.
pub(super) fn length(slices: &[GuestSlice<'_>]) -> usize {
    slices.iter().map(|slice| slice.len()).sum()
}

/// The `length` bytes from `start` on; fewer if there are no more.
pub(super) fn part<'m>(slices: &[GuestSlice<'m>], mut start: usize, mut length: usize) -> Vec<GuestSlice<'m>> {
    let mut part = Vec::with_capacity(slices.len());
    for slice in slices {
        if length == 0 {
            break;
        }
        let skipped = start.min(slice.len());
        start -= skipped;
        let here = (slice.len() - skipped).min(length);
        // Inside the slice by its own length.
        if here > 0
            && let Ok(piece) = slice.subslice(skipped, here)
        {
            part.push(piece);
            length -= here;
        }
    }
    part
}

/// Fills all of them with zeroes.
pub(super) fn clear(slices: &[GuestSlice<'_>]) {
    for slice in slices {
        for start in (0..slice.len()).step_by(ZEROES.len()) {
            let here = (slice.len() - start).min(ZEROES.len());
            if let Ok(piece) = slice.subslice(start, here) {
                piece.copy_from(&ZEROES[..here]);
            }
        }
    }
}

/// Fills them from `bytes`, which are as many.
pub(super) fn fill(slices: &[GuestSlice<'_>], mut bytes: &[u8]) {
    for slice in slices {
        let (here, rest) = bytes.split_at(slice.len().min(bytes.len()));
        slice.copy_from(here);
        bytes = rest;
    }
}

/// Copies them to `bytes`, which are as many.
pub(super) fn copy(slices: &[GuestSlice<'_>], mut bytes: &mut [u8]) {
    for slice in slices {
        let (here, rest) = bytes.split_at_mut(slice.len().min(bytes.len()));
        slice.copy_to(here);
        bytes = rest;
    }
}
