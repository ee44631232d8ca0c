//! The memory file: pieces of memory with their checksums.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use hv::Memory;
use hv::memory::{PAGE_SIZE, Range};
use rustix::fs::{OFlags, SeekFrom};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use sys::handed;
use vm_memory::{Bytes, GuestAddress};

use super::format::{Packing, State};
use super::{MEMORY, SnapshotError, file};

/// A piece lies inside of one part of the memory of this size, and is read as a whole.
pub(super) const PIECE: u64 = 256 << 10;
/// Quick: a restored machine waits for the unpacking.
const LEVEL: i32 = 1;

/// Whole pages next to each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "(u64, u32, u32, u64, u32)", into = "(u64, u32, u32, u64, u32)")]
pub(super) struct Piece {
    /// Offset in the machine's memory, as its ranges count it.
    pub(super) at: u64,
    /// Bytes.
    pub(super) size: u32,
    /// CRC-32C of the bytes as the file has them.
    pub(super) checksum: u32,
    /// Where the memory file has it.
    pub(super) place: u64,
    /// Bytes there.
    pub(super) stored: u32,
}

impl From<(u64, u32, u32, u64, u32)> for Piece {
    fn from((at, size, checksum, place, stored): (u64, u32, u32, u64, u32)) -> Self {
        Self { at, size, checksum, place, stored }
    }
}

impl From<Piece> for (u64, u32, u32, u64, u32) {
    fn from(piece: Piece) -> Self {
        (piece.at, piece.size, piece.checksum, piece.place, piece.stored)
    }
}

impl Piece {
    /// The offset of the first byte behind it. Both are far from the end of their types.
    pub(super) fn end(&self) -> u64 {
        self.at.saturating_add(self.size.into())
    }
}

fn is_zero(bytes: &[u8]) -> bool {
    // Whole words at once: this looks at all of the guest's memory.
    let (words, tail) = bytes.as_chunks::<16>();
    words.iter().all(|word| u128::from_ne_bytes(*word) == 0) && tail.iter().all(|byte| *byte == 0)
}

/// Which pages of a region go to the file.
#[derive(Debug, Clone, Copy)]
pub(super) enum Pages<'a> {
    /// All but those of zeroes.
    Used,
    /// The marked ones, zeroes too, for the parent may have something else there.
    Marked(&'a [u64]),
}

impl Pages<'_> {
    fn wanted(&self, page: u64, bytes: &[u8]) -> bool {
        match self {
            Self::Used => !is_zero(bytes),
            Self::Marked(words) => Self::marked(words, page),
        }
    }

    fn marked(words: &[u64], page: u64) -> bool {
        words.get((page / 64) as usize).is_some_and(|word| word >> (page % 64) & 1 != 0)
    }

    /// Whether the part has to be looked at.
    fn any(&self, first: u64, count: u64) -> bool {
        match self {
            Self::Used => true,
            Self::Marked(words) => (first..first + count).any(|page| Self::marked(words, page)),
        }
    }
}

/// Writes pieces to a memory file.
pub(super) struct Writer<'a> {
    to: &'a File,
    packing: Packing,
    end: u64,
    pub(super) pieces: Vec<Piece>,
}

impl<'a> Writer<'a> {
    pub(super) fn new(to: &'a File, packing: Packing) -> Self {
        Self { to, packing, end: 0, pieces: Vec::new() }
    }

    /// Writes pages of one region.
    pub(super) fn region(&mut self, memory: &Memory, range: &Range, pages: Pages<'_>) -> io::Result<()> {
        let mut buffer = vec![0; PIECE as usize];
        let mut done = 0;
        while done < range.size {
            // Parts are counted from the beginning of memory, not of the region.
            let at = range.offset + done;
            let size = (PIECE - at % PIECE).min(range.size - done);
            let first = done / PAGE_SIZE;
            if pages.any(first, size / PAGE_SIZE) {
                let part = &mut buffer[..size as usize];
                let gpa = GuestAddress(range.gpa + done);
                memory.ram().read_slice(part, gpa).map_err(|error| io::Error::other(error.to_string()))?;
                self.part(part, at, |page, bytes| pages.wanted(first + page, bytes))?;
            }
            done += size;
        }
        Ok(())
    }

    fn part(&mut self, part: &[u8], at: u64, wanted: impl Fn(u64, &[u8]) -> bool) -> io::Result<()> {
        let mut begin = None;
        let page_bytes = PAGE_SIZE as usize;
        for (number, page) in (0..).zip(part.chunks(page_bytes)) {
            let from = number as usize * page_bytes;
            match (begin, wanted(number, page)) {
                (None, true) => begin = Some(from),
                (Some(start), false) => {
                    self.piece(&part[start..from], at + start as u64)?;
                    begin = None;
                }
                _ => {}
            }
        }
        begin.map_or(Ok(()), |start| self.piece(&part[start..], at + start as u64))
    }

    fn piece(&mut self, bytes: &[u8], at: u64) -> io::Result<()> {
        let size = bytes.len() as u32;
        let (place, stored, checksum) = match self.packing {
            Packing::None => {
                self.to.write_all_at(bytes, at)?;
                (at, size, crc32c::crc32c(bytes))
            }
            Packing::Zstd => {
                let packed = zstd::bulk::compress(bytes, LEVEL)?;
                self.to.write_all_at(&packed, self.end)?;
                let place = self.end;
                self.end += packed.len() as u64;
                (place, packed.len() as u32, crc32c::crc32c(&packed))
            }
        };
        self.pieces.push(Piece { at, size, checksum, place, stored });
        Ok(())
    }
}

/// The memory file of one snapshot, open.
#[derive(Debug)]
pub(super) struct Layer {
    pub(super) file: std::sync::Arc<File>,
    pub(super) packing: Packing,
    pub(super) pieces: Vec<Piece>,
    path: PathBuf,
}

impl Layer {
    pub(super) fn open(folder: &Path, state: &State) -> Result<Self, SnapshotError> {
        let path = folder.join(MEMORY);
        let memory = handed::open(&path, OFlags::RDONLY).map_err(file("opening", &path))?;
        let size = memory.metadata().map_err(file("reading", &path))?.len();
        let wanted = match state.packing {
            Packing::None => state.spec.memory,
            Packing::Zstd => state.pieces.last().map_or(0, |piece| piece.place.saturating_add(piece.stored.into())),
        };
        if size != wanted {
            return Err(SnapshotError::Damaged("its memory has another size"));
        }
        Ok(Self { file: memory.into(), packing: state.packing, pieces: state.pieces.clone(), path })
    }

    /// Reads a piece, which has to be as it was written.
    pub(super) fn read(&self, piece: &Piece, into: &mut Vec<u8>) -> Result<(), SnapshotError> {
        let damaged = || SnapshotError::Memory { path: self.path.clone(), at: piece.at };
        let stored = piece.stored as usize;
        // What compresses to more than itself and a little is none of ours.
        if stored as u64 > 2 * PIECE {
            return Err(damaged());
        }
        into.resize(stored, 0);
        self.file.read_exact_at(into, piece.place).map_err(file("reading", &self.path))?;
        if crc32c::crc32c(into) != piece.checksum {
            return Err(damaged());
        }
        if self.packing == Packing::Zstd {
            *into = zstd::bulk::decompress(into, piece.size as usize).map_err(|_| damaged())?;
        }
        if into.len() != piece.size as usize {
            return Err(damaged());
        }
        Ok(())
    }

    /// Compares everything with its checksums; between the pieces there is nothing.
    pub(super) fn check(&self) -> Result<(), SnapshotError> {
        let mut bytes = Vec::new();
        for piece in &self.pieces {
            self.read(piece, &mut bytes)?;
        }
        if self.packing == Packing::None { self.check_holes() } else { Ok(()) }
    }

    fn check_holes(&self) -> Result<(), SnapshotError> {
        let failed = |errno: Errno| file("reading", &self.path)(errno.into());
        let (mut at, mut pieces, mut bytes) = (0, self.pieces.iter().peekable(), Vec::new());
        loop {
            let data = match rustix::fs::seek(&*self.file, SeekFrom::Data(at)) {
                Err(Errno::NXIO) => return Ok(()),
                outcome => outcome.map_err(failed)?,
            };
            let end = rustix::fs::seek(&*self.file, SeekFrom::Hole(data)).map_err(failed)?;
            at = data;
            while at < end {
                while pieces.next_if(|piece| piece.end() <= at).is_some() {}
                let (from, to) = pieces.peek().map_or((end, end), |piece| (piece.at, piece.end()));
                if from <= at {
                    at = to;
                    continue;
                }
                let size = (from.min(end) - at).min(PIECE);
                bytes.resize(size as usize, 0);
                self.file.read_exact_at(&mut bytes, at).map_err(file("reading", &self.path))?;
                if !is_zero(&bytes) {
                    return Err(SnapshotError::Memory { path: self.path.clone(), at });
                }
                at += size;
            }
        }
    }

    /// Copies everything into memory.
    pub(super) fn apply(&self, memory: &Memory) -> Result<(), SnapshotError> {
        let mut bytes = Vec::new();
        for piece in &self.pieces {
            self.read(piece, &mut bytes)?;
            let inside = |range: &Range| (range.offset..range.offset + range.size).contains(&piece.at);
            let Some(region) = memory.regions().iter().find(|region| inside(&region.range)) else {
                return Err(SnapshotError::Damaged("it has memory that its machine has not"));
            };
            let gpa = GuestAddress(region.range.gpa + (piece.at - region.range.offset));
            memory.ram().write_slice(&bytes, gpa).map_err(|error| {
                let source = io::Error::other(error.to_string());
                file("reading", &self.path)(source)
            })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hv::memory::RegionKind;

    fn range(memory: &Memory) -> Range {
        memory.regions()[0].range
    }

    #[test]
    fn marked_pages_are_joined_inside_of_parts() {
        let memory = Memory::new(128 * PAGE_SIZE).unwrap();
        let file = tempfile::tempfile().unwrap();
        let mut writer = Writer::new(&file, Packing::None);
        writer.region(&memory, &range(&memory), Pages::Marked(&[1 << 63 | 0b110, 1])).unwrap();
        let found: Vec<_> = writer.pieces.iter().map(|piece| (piece.at / PAGE_SIZE, piece.size)).collect();
        assert_eq!(found, [(1, 8192), (63, 4096), (64, 4096)]);
        assert_eq!(range(&memory).kind, RegionKind::Ram);
    }

    #[test]
    fn zeroes_are_left_out_and_damage_is_found_everywhere() {
        for packing in [Packing::None, Packing::Zstd] {
            let memory = Memory::new(128 * PAGE_SIZE).unwrap();
            memory.ram().write_obj(1u8, GuestAddress(3 * PAGE_SIZE)).unwrap();
            memory.ram().write_obj(7u8, GuestAddress(100 * PAGE_SIZE + 9)).unwrap();
            let file = tempfile::tempfile().unwrap();
            let mut writer = Writer::new(&file, packing);
            writer.region(&memory, &range(&memory), Pages::Used).unwrap();
            let pieces = writer.pieces;
            assert_eq!(pieces.iter().map(|piece| piece.at / PAGE_SIZE).collect::<Vec<_>>(), [3, 100]);
            if packing == Packing::None {
                file.set_len(128 * PAGE_SIZE).unwrap();
            }
            let size = file.metadata().unwrap().len();
            let layer = Layer { file: file.try_clone().unwrap().into(), packing, pieces, path: "memory".into() };
            layer.check().unwrap();
            let fresh = Memory::new(128 * PAGE_SIZE).unwrap();
            layer.apply(&fresh).unwrap();
            assert_eq!(fresh.ram().read_obj::<u8>(GuestAddress(100 * PAGE_SIZE + 9)).unwrap(), 7);
            let step = if packing == Packing::None { 1021 } else { 1 };
            for at in (0..size).step_by(step) {
                let mut byte = [0];
                file.read_exact_at(&mut byte, at).unwrap();
                file.write_all_at(&[byte[0] ^ 1 << (at % 8)], at).unwrap();
                assert!(matches!(layer.check(), Err(SnapshotError::Memory { .. })), "{packing:?}, byte {at}");
                file.write_all_at(&byte, at).unwrap();
            }
            layer.check().unwrap();
        }
    }
}
