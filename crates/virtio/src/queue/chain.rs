//! One request of the driver: buffers to read, then buffers to write.

use vm_memory::{Bytes, GuestAddress, GuestMemory, Permissions};

use hv::vectored::GuestSlice;

use crate::Memory;

/// A piece of the guest's memory; it was checked to lie in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Guest physical address.
    pub address: u64,
    /// Bytes, not 0.
    pub length: u32,
}

/// A chain of descriptors that the device holds until it completes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    pub(super) head: u16,
    pub(super) readable: Vec<Segment>,
    pub(super) writable: Vec<Segment>,
}

impl Chain {
    pub(super) fn new(head: u16) -> Self {
        Self { head, readable: Vec::new(), writable: Vec::new() }
    }

    /// The number by which the chain is given back.
    #[must_use]
    pub fn head(&self) -> u16 {
        self.head
    }

    /// Where the room for the answer lies, for a device that is asked about the room itself.
    #[must_use]
    pub fn room(&self) -> &[Segment] {
        &self.writable
    }

    /// What the driver wrote, to be read in order.
    #[must_use]
    pub fn reader<'c>(&'c self, memory: &'c Memory) -> Reader<'c> {
        Reader(Cursor::new(memory, &self.readable))
    }

    /// The room for the answer, to be filled in order.
    #[must_use]
    pub fn writer<'c>(&'c self, memory: &'c Memory) -> Writer<'c> {
        let cursor = Cursor::new(memory, &self.writable);
        Writer { room: cursor.remaining, cursor }
    }
}

/// A place in a list of segments.
#[derive(Debug, Clone)]
struct Cursor<'c> {
    memory: &'c Memory,
    segments: &'c [Segment],
    /// Bytes of the first segment that are behind.
    offset: u32,
    remaining: u32,
}

impl<'c> Cursor<'c> {
    fn new(memory: &'c Memory, segments: &'c [Segment]) -> Self {
        let remaining = segments.iter().map(|segment| segment.length).sum();
        Self { memory, segments, offset: 0, remaining }
    }

    /// The next run of bytes in one segment, at most `limit` of them.
    fn step(&mut self, limit: usize) -> Option<Segment> {
        let first = self.segments.first()?;
        let left = first.length - self.offset;
        let length = left.min(u32::try_from(limit).unwrap_or(u32::MAX));
        let address = first.address + u64::from(self.offset);
        if length == left {
            self.segments = &self.segments[1..];
            self.offset = 0;
        } else {
            self.offset += length;
        }
        self.remaining -= length;
        Some(Segment { address, length })
    }

    fn skip(&mut self, mut bytes: usize) {
        while bytes > 0 {
            let Some(step) = self.step(bytes) else { return };
            bytes -= step.length as usize;
        }
    }

    fn slices(&mut self, mut bytes: usize, access: Permissions) -> Vec<GuestSlice<'c>> {
        let mut slices = Vec::with_capacity(self.segments.len());
        while bytes > 0 {
            let Some(step) = self.step(bytes) else { break };
            bytes -= step.length as usize;
            let pieces =
                GuestMemory::get_slices(self.memory.ram(), GuestAddress(step.address), step.length as usize, access);
            // The range was checked when the chain was walked.
            slices.extend(pieces.into_iter().flatten().map_while(Result::ok));
        }
        slices
    }
}

/// Reads the driver's buffers one after the other, as if they were one.
#[derive(Debug, Clone)]
pub struct Reader<'c>(Cursor<'c>);

impl<'c> Reader<'c> {
    /// Bytes that are left.
    #[must_use]
    pub fn remaining(&self) -> usize {
        self.0.remaining as usize
    }

    /// Fills `into` as far as there is something left, and says how far that was.
    pub fn read(&mut self, into: &mut [u8]) -> usize {
        let mut done = 0;
        while done < into.len() {
            let Some(step) = self.0.step(into.len() - done) else { break };
            let end = done + step.length as usize;
            if self.0.memory.ram().read_slice(&mut into[done..end], GuestAddress(step.address)).is_err() {
                break;
            }
            done = end;
        }
        done
    }

    /// The next `N` bytes, or none if fewer are left.
    pub fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        (self.remaining() >= N && self.read(&mut bytes) == N).then_some(bytes)
    }

    /// Everything that is left, at most `limit` bytes.
    pub fn rest(&mut self, limit: usize) -> Vec<u8> {
        let mut bytes = vec![0; self.remaining().min(limit)];
        let done = self.read(&mut bytes);
        bytes.truncate(done);
        bytes
    }

    /// Leaves bytes out.
    pub fn skip(&mut self, bytes: usize) {
        self.0.skip(bytes);
    }

    /// Views of the next `bytes` bytes, for a call that reads from the guest's memory itself.
    pub fn slices(&mut self, bytes: usize) -> Vec<GuestSlice<'c>> {
        self.0.slices(bytes, Permissions::Read)
    }
}

/// Writes into the driver's buffers one after the other, as if they were one.
#[derive(Debug, Clone)]
pub struct Writer<'c> {
    cursor: Cursor<'c>,
    room: u32,
}

impl<'c> Writer<'c> {
    /// Bytes for which there is room left.
    #[must_use]
    pub fn remaining(&self) -> usize {
        self.cursor.remaining as usize
    }

    /// Bytes written or skipped so far: what the driver is told.
    #[must_use]
    pub fn written(&self) -> u32 {
        self.room - self.cursor.remaining
    }

    /// Writes `bytes` as far as there is room, and says how far that was.
    pub fn write(&mut self, bytes: &[u8]) -> usize {
        let mut done = 0;
        while done < bytes.len() {
            let Some(step) = self.cursor.step(bytes.len() - done) else { break };
            let end = done + step.length as usize;
            if self.cursor.memory.ram().write_slice(&bytes[done..end], GuestAddress(step.address)).is_err() {
                break;
            }
            done = end;
        }
        done
    }

    /// Writes all of `bytes`, or nothing if there is no room for all.
    pub fn write_all(&mut self, bytes: &[u8]) -> bool {
        self.remaining() >= bytes.len() && self.write(bytes) == bytes.len()
    }

    /// Leaves room out, to be counted as written.
    pub fn skip(&mut self, bytes: usize) {
        self.cursor.skip(bytes);
    }

    /// Views of the room for the next `bytes` bytes, for a call that writes into the guest's memory itself.
    pub fn slices(&mut self, bytes: usize) -> Vec<GuestSlice<'c>> {
        self.cursor.slices(bytes, Permissions::Write)
    }
}
