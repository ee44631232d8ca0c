//! The driver's requests, virtio 1.2, 5.2.6.

use super::config::{MOST_SECTORS, MOST_SEGMENTS};
use super::{Access, Block, Disk, SECTOR, Zeroes};
use crate::Memory;
use crate::device::DeviceError;
use crate::queue::{Chain, Reader, Writer};

const OK: u8 = 0;
const ERROR: u8 = 1;
const UNSUPPORTED: u8 = 2;

/// A discard or write-zeroes segment may free its room.
const FLAG_UNMAP: u32 = 1;
const SEGMENT_BYTES: usize = 16;

/// What a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operation {
    Read,
    Write,
    Flush,
    Id,
    Discard,
    WriteZeroes,
    Unknown,
}

/// The operations by the number of their type.
const OPERATIONS: &[(u32, Operation)] = &[
    (0, Operation::Read),
    (1, Operation::Write),
    (4, Operation::Flush),
    (8, Operation::Id),
    (11, Operation::Discard),
    (13, Operation::WriteZeroes),
];

/// One request; what follows the header, and the room before the status.
#[derive(Debug, Clone)]
pub(super) struct Request<'c> {
    operation: Operation,
    sector: u64,
    data: Reader<'c>,
    room: Writer<'c>,
    status: Writer<'c>,
}

impl<'c> Request<'c> {
    /// Takes a chain apart.
    ///
    /// # Errors
    /// It has no whole header or no room for the status, so that the driver could not even be told.
    pub(super) fn parse(chain: &'c Chain, memory: &'c Memory) -> Result<Self, DeviceError> {
        let mut data = chain.reader(memory);
        let header: [u8; 16] = data.array().ok_or(DeviceError::Protocol("a block request without a header"))?;
        let [t0, t1, t2, t3, _, _, _, _, s0, s1, s2, s3, s4, s5, s6, s7] = header;
        let number = u32::from_le_bytes([t0, t1, t2, t3]);
        let operation = OPERATIONS.binary_search_by_key(&number, |entry| entry.0);
        let room = chain.writer(memory);
        let mut status = room.clone();
        let before = room.remaining().checked_sub(1);
        status.skip(before.ok_or(DeviceError::Protocol("a block request without room for its status"))?);
        Ok(Self {
            operation: operation.map_or(Operation::Unknown, |place| OPERATIONS[place].1),
            sector: u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]),
            data,
            room,
            status,
        })
    }

    /// Bytes that move between disk and guest.
    pub(super) fn data_bytes(&self) -> u64 {
        match self.operation {
            Operation::Read => self.room_bytes() as u64,
            Operation::Write => self.data.remaining() as u64,
            _ => 0,
        }
    }

    fn room_bytes(&self) -> usize {
        self.room.remaining() - 1
    }
}

/// The place of `length` bytes at `sector`, if they are whole sectors inside the disk.
fn range(disk: &dyn Disk, sector: u64, length: u64) -> Option<u64> {
    let offset = sector.checked_mul(SECTOR)?;
    let end = offset.checked_add(length)?;
    (length.is_multiple_of(SECTOR) && end <= disk.bytes()).then_some(offset)
}

impl Block {
    /// Does a request and answers it; gives the count of bytes written into the chain.
    pub(super) fn perform(&mut self, mut request: Request<'_>) -> u32 {
        let outcome = match request.operation {
            Operation::Read => self.read(&mut request),
            Operation::Write => self.write(&mut request),
            Operation::Flush => self.flush(),
            Operation::Id => self.id(&mut request),
            Operation::Discard | Operation::WriteZeroes => self.clear(&mut request),
            Operation::Unknown => Err(UNSUPPORTED),
        };
        self.counters.errors += u64::from(outcome.is_err());
        request.status.write(&[outcome.err().unwrap_or(OK)]);
        request.status.written()
    }

    /// Does and answers a request if that needs no wait; none if it does, and then the request is as it was.
    pub(super) fn perform_at_once(&mut self, request: &Request<'_>) -> Option<u32> {
        let mut request = request.clone();
        match request.operation {
            Operation::Read => {
                let length = request.room_bytes();
                let offset = range(self.disk.as_ref(), request.sector, length as u64)?;
                self.disk.read_at_once(&request.room.slices(length), offset).ok()?;
                self.counters.reads += 1;
                self.counters.read_bytes += length as u64;
                request.status.write(&[OK]);
                Some(request.status.written())
            }
            Operation::Write if self.caches() && self.disk.access() == Access::ReadWrite => {
                let length = request.data.remaining();
                let offset = range(self.disk.as_ref(), request.sector, length as u64)?;
                self.unflushed = true;
                self.disk.write_at_once(&request.data.slices(length), offset).ok()?;
                self.counters.writes += 1;
                self.counters.written_bytes += length as u64;
                request.status.write(&[OK]);
                Some(request.status.written())
            }
            Operation::Flush if !self.unflushed => Some(self.perform(request)),
            Operation::Id | Operation::Unknown => Some(self.perform(request)),
            _ => None,
        }
    }

    fn failed(doing: &'static str) -> impl Fn(rustix::io::Errno) -> u8 {
        move |errno| {
            tracing::warn!(%errno, doing, "the disk fails");
            ERROR
        }
    }

    fn read(&mut self, request: &mut Request<'_>) -> Result<(), u8> {
        let length = request.room_bytes();
        let offset = range(self.disk.as_ref(), request.sector, length as u64).ok_or(ERROR)?;
        self.disk.read(&request.room.slices(length), offset).map_err(Self::failed("read"))?;
        self.counters.reads += 1;
        self.counters.read_bytes += length as u64;
        Ok(())
    }

    fn write(&mut self, request: &mut Request<'_>) -> Result<(), u8> {
        let length = request.data.remaining();
        let offset = range(self.disk.as_ref(), request.sector, length as u64).ok_or(ERROR)?;
        self.writable()?;
        self.unflushed = true;
        self.disk.write(&request.data.slices(length), offset).map_err(Self::failed("write"))?;
        self.counters.writes += 1;
        self.counters.written_bytes += length as u64;
        self.through()
    }

    fn flush(&mut self) -> Result<(), u8> {
        self.counters.flushes += 1;
        if self.unflushed {
            self.disk.flush().map_err(Self::failed("flush"))?;
            self.unflushed = false;
        }
        Ok(())
    }

    fn id(&mut self, request: &mut Request<'_>) -> Result<(), u8> {
        let mut id = [0; super::ID_BYTES];
        let name = self.settings.id.as_bytes();
        let length = name.len().min(id.len());
        id[..length].copy_from_slice(&name[..length]);
        let room = request.room_bytes().min(id.len());
        request.room.write(&id[..room]);
        Ok(())
    }

    /// Discards, or writes zeroes. All segments are checked before the first is touched.
    fn clear(&mut self, request: &mut Request<'_>) -> Result<(), u8> {
        self.writable()?;
        let segments = request.data.remaining() / SEGMENT_BYTES;
        if !request.data.remaining().is_multiple_of(SEGMENT_BYTES) || segments > MOST_SEGMENTS as usize {
            return Err(ERROR);
        }
        let mut ranges = Vec::with_capacity(segments);
        while let Some(segment) = request.data.array::<SEGMENT_BYTES>() {
            let [s0, s1, s2, s3, s4, s5, s6, s7, n0, n1, n2, n3, f0, f1, f2, f3] = segment;
            let sector = u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]);
            let count = u32::from_le_bytes([n0, n1, n2, n3]);
            let flags = u32::from_le_bytes([f0, f1, f2, f3]);
            let allowed = if request.operation == Operation::WriteZeroes { FLAG_UNMAP } else { 0 };
            if flags & !allowed != 0 {
                return Err(UNSUPPORTED);
            }
            let length = u64::from(count) * SECTOR;
            let offset = range(self.disk.as_ref(), sector, length).ok_or(ERROR)?;
            if count > MOST_SECTORS {
                return Err(ERROR);
            }
            let below = if flags & FLAG_UNMAP == 0 { Zeroes::Keep } else { Zeroes::Free };
            ranges.push((offset, length, below));
        }
        self.unflushed = true;
        for (offset, length, below) in ranges.into_iter().filter(|range| range.1 > 0) {
            let outcome = match request.operation {
                Operation::Discard => self.disk.discard(offset, length),
                _ => self.disk.write_zeroes(offset, length, below),
            };
            outcome.map_err(Self::failed("discard"))?;
        }
        self.counters.discards += 1;
        self.through()
    }

    fn writable(&self) -> Result<(), u8> {
        if self.disk.access() == Access::ReadWrite { Ok(()) } else { Err(ERROR) }
    }

    /// Without a write-back cache a write has to last at once.
    fn through(&mut self) -> Result<(), u8> {
        if self.caches() {
            return Ok(());
        }
        self.disk.flush().map_err(Self::failed("flush"))
    }

    /// Whether writes may stay in the host's cache until a flush.
    fn caches(&self) -> bool {
        self.write_back && self.config.write_back()
    }
}
