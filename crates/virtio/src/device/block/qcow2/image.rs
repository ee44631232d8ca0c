//! An open image: the guest's bytes found in the file, and put there.
//!
//! Whatever is not flushed may be lost in a power cut, and nothing else: a flush makes content and counts last, then the second tables,
//! then the first one, each after the other, and only then are counts lowered. In between the file's tables are as they were at the flush
//! before.

use std::ops::Range;

use hv::vectored::GuestSlice;
use rustix::io::Errno;

use super::counts::Counts;
use super::header::{AUTOCLEAR, Compression, Header, ImageError};
use super::storage::Storage;
use super::tables::{Place, Tables, clusters_of};
use super::{Below, compressed};
use crate::device::block::disk::{Access, Zeroes};
use crate::device::block::slices;

/// The largest run of clusters that one call moves.
const MOST_RUN: u64 = 256;

/// What is written.
#[derive(Clone, Copy)]
pub(super) enum Source<'s, 'm> {
    Guest(&'s [GuestSlice<'m>]),
    Host(&'s [u8]),
}

impl Source<'_, '_> {
    fn length(self) -> u64 {
        match self {
            Self::Guest(list) => slices::length(list) as u64,
            Self::Host(bytes) => bytes.len() as u64,
        }
    }

    fn put(self, storage: &mut dyn Storage, from: Range<u64>, offset: u64) -> Result<(), Errno> {
        let (start, length) = (size(from.start), size(from.end - from.start));
        match self {
            Self::Guest(list) => storage.write_guest(&slices::part(list, start, length), offset),
            Self::Host(bytes) => storage.write(&bytes[start..start + length], offset),
        }
    }
}

/// A run of the guest's bytes that lie together.
#[derive(Debug, Clone, Copy)]
struct Run {
    place: Place,
    /// Where it begins in the request.
    start: u64,
    length: u64,
    /// Where it begins on the disk.
    at: u64,
}

fn size(bytes: u64) -> usize {
    // No request is larger than memory.
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

pub(super) struct Image {
    storage: Box<dyn Storage>,
    header: Header,
    tables: Tables,
    /// None if it is only read.
    counts: Option<Counts>,
    below: Option<Below>,
    /// The compressed cluster that was read last.
    unpacked: Option<(u64, Vec<u8>)>,
}

impl Image {
    /// The image in a file; what it stands upon is for the caller to open.
    pub(super) fn open(mut storage: Box<dyn Storage>, access: Access) -> Result<Self, ImageError> {
        let header = Header::read(storage.as_mut(), access)?;
        let tables = Tables::read(storage.as_mut(), &header)?;
        let counts = match access {
            Access::ReadOnly => None,
            Access::ReadWrite => Some(Counts::read(storage.as_mut(), &header)?),
        };
        if counts.is_some() && header.autoclear != 0 {
            let mut head = [0; 512];
            storage.read(&mut head, 0)?;
            let at = size(AUTOCLEAR);
            head[at..at + 8].fill(0);
            storage.write(&head, 0)?;
        }
        Ok(Self { storage, header, tables, counts, below: None, unpacked: None })
    }

    pub(super) fn header(&self) -> &Header {
        &self.header
    }

    pub(super) fn set_below(&mut self, below: Below) {
        self.below = Some(below);
    }

    fn cluster(&self) -> u64 {
        self.header.cluster()
    }

    fn place(&mut self, cluster: u64) -> Result<Place, Errno> {
        self.tables.place(self.storage.as_mut(), cluster)
    }

    /// The run at `at`, at most `left` bytes.
    fn run(&mut self, start: u64, at: u64, left: u64) -> Result<Run, Errno> {
        let (bits, cluster) = (self.header.cluster_bits, self.cluster());
        let (number, inside) = (at >> bits, at % cluster);
        let place = self.place(number)?;
        let mut length = cluster - inside;
        for next in 1..MOST_RUN {
            if length >= left {
                break;
            }
            let follows = match (place, self.place(number + next)?) {
                (Place::Below, Place::Below) | (Place::Zeroes(_), Place::Zeroes(_)) => true,
                (Place::Own(first) | Place::Shared(first), Place::Own(here) | Place::Shared(here)) => {
                    here == first + (next << bits)
                }
                _ => false,
            };
            if !follows {
                break;
            }
            length += cluster;
        }
        Ok(Run { place, start, length: length.min(left), at })
    }

    /// Fills guest memory.
    pub(super) fn read(&mut self, into: &[GuestSlice<'_>], offset: u64) -> Result<(), Errno> {
        let (total, mut done) = (slices::length(into) as u64, 0);
        while done < total {
            let run = self.run(done, offset + done, total - done)?;
            let part = slices::part(into, size(run.start), size(run.length));
            match run.place {
                Place::Below => match &mut self.below {
                    Some(below) => below.read(&part, run.at)?,
                    None => slices::clear(&part),
                },
                Place::Zeroes(_) => slices::clear(&part),
                Place::Own(host) | Place::Shared(host) => {
                    self.storage.read_guest(&part, host + run.at % self.cluster())?
                }
                Place::Compressed { offset, bytes } => {
                    let inside = size(run.at % self.cluster());
                    let content = self.unpack(offset, bytes)?;
                    slices::fill(&part, &content[inside..inside + size(run.length)]);
                }
            }
            done += run.length;
        }
        Ok(())
    }

    /// Fills guest memory if everything is in the host's memory.
    pub(super) fn read_at_once(&mut self, into: &[GuestSlice<'_>], offset: u64) -> Result<(), Errno> {
        let length = slices::length(into) as u64;
        let bits = self.header.cluster_bits;
        if !self.tables.has(offset >> bits) || !self.tables.has((offset + length.max(1) - 1) >> bits) {
            return Err(Errno::AGAIN);
        }
        let run = self.run(0, offset, length)?;
        match run.place {
            _ if run.length < length => Err(Errno::AGAIN),
            Place::Own(host) | Place::Shared(host) => self.storage.read_cached(into, host + offset % self.cluster()),
            Place::Zeroes(_) => {
                slices::clear(into);
                Ok(())
            }
            _ => Err(Errno::AGAIN),
        }
    }

    /// Fills host memory, for a cluster that is copied.
    fn read_bytes(&mut self, into: &mut [u8], offset: u64) -> Result<(), Errno> {
        let (total, mut done) = (into.len() as u64, 0);
        while done < total {
            let run = self.run(done, offset + done, total - done)?;
            let part = &mut into[size(run.start)..size(run.start + run.length)];
            match run.place {
                Place::Below => match &mut self.below {
                    Some(below) => below.read_bytes(part, run.at)?,
                    None => part.fill(0),
                },
                Place::Zeroes(_) => part.fill(0),
                Place::Own(host) | Place::Shared(host) => self.storage.read(part, host + run.at % self.cluster())?,
                Place::Compressed { offset, bytes } => {
                    let inside = size(run.at % self.cluster());
                    part.copy_from_slice(&self.unpack(offset, bytes)?[inside..inside + size(run.length)]);
                }
            }
            done += run.length;
        }
        Ok(())
    }

    fn unpack(&mut self, offset: u64, bytes: u64) -> Result<&[u8], Errno> {
        if self.unpacked.as_ref().is_none_or(|unpacked| unpacked.0 != offset) {
            let mut packed = vec![0; size(bytes)];
            self.storage.read(&mut packed, offset)?;
            let length = size(self.cluster());
            let content = match self.header.compression {
                Compression::Deflate => compressed::inflate(&packed, length),
                Compression::Zstd => compressed::decompress(&packed, length),
            };
            let content = content.ok_or_else(|| {
                tracing::warn!(offset, "a compressed cluster of an image is damaged");
                Errno::IO
            })?;
            self.unpacked = Some((offset, content));
        }
        Ok(self.unpacked.as_ref().map_or(&[], |unpacked| &unpacked.1))
    }

    /// Whether a write stays in clusters that are there already, known without reading tables.
    pub(super) fn is_in_place(&mut self, offset: u64, length: u64) -> bool {
        let bits = self.header.cluster_bits;
        let mut clusters = offset >> bits..=(offset + length.max(1) - 1) >> bits;
        clusters.all(|cluster| self.tables.has(cluster) && matches!(self.place(cluster), Ok(Place::Own(_))))
    }

    /// Writes the guest's bytes.
    pub(super) fn write(&mut self, source: Source<'_, '_>, offset: u64) -> Result<(), Errno> {
        let (total, mut done) = (source.length(), 0);
        while done < total {
            let run = self.run(done, offset + done, total - done)?;
            done += match run.place {
                Place::Own(host) => {
                    // A run may go on into clusters that are shared.
                    let run = self.own_part(run)?;
                    self.guard(host, run)?;
                    let to = host + run.at % self.cluster();
                    source.put(self.storage.as_mut(), run.start..run.start + run.length, to)?;
                    run.length
                }
                _ => self.write_new(source, run)?,
            };
        }
        Ok(())
    }

    /// The beginning of a run that is in clusters which may be written.
    fn own_part(&mut self, mut run: Run) -> Result<Run, Errno> {
        let bits = self.header.cluster_bits;
        for cluster in run.at >> bits..=(run.at + run.length - 1) >> bits {
            if !matches!(self.place(cluster)?, Place::Own(_)) {
                run.length = (cluster << bits) - run.at;
                break;
            }
        }
        Ok(run)
    }

    fn is_reserved(&self, cluster: u64) -> bool {
        cluster == 0 || self.tables.is_own(cluster) || self.counts.as_ref().is_some_and(|counts| counts.is_own(cluster))
    }

    /// Nothing is written where tables lie, wherever an entry leads.
    fn guard(&self, host: u64, run: Run) -> Result<(), Errno> {
        let bits = self.header.cluster_bits;
        let last = host + run.at % self.cluster() + run.length - 1;
        if (host >> bits..=last >> bits).any(|cluster| self.is_reserved(cluster)) {
            tracing::warn!(host, "an image's table leads into its own tables");
            return Err(Errno::IO);
        }
        Ok(())
    }

    fn allocate(&mut self, wanted: u64) -> Result<(u64, u64), Errno> {
        let mut flushed = false;
        loop {
            let counts = self.counts.as_mut().ok_or(Errno::ROFS)?;
            let (first, count) = match counts.allocate(self.storage.as_mut(), wanted) {
                // The table of counts moves a second time.
                Err(Errno::AGAIN) if !flushed => {
                    self.flush()?;
                    flushed = true;
                    continue;
                }
                other => other?,
            };
            // Counts may lie, but tables are never written over: what is theirs stays counted, and the search goes on behind it.
            let own = (first..first + count).take_while(|cluster| !self.is_reserved(*cluster)).count() as u64;
            if own > 0 {
                return Ok((first, own));
            }
        }
    }

    /// Gives a cluster of the guest a table that may be changed.
    fn ready(&mut self, cluster: u64) -> Result<(), Errno> {
        let Some(old) = self.tables.unready(cluster) else { return Ok(()) };
        let (to, _) = self.allocate(1)?;
        let bits = self.header.cluster_bits;
        self.tables.ready(self.storage.as_mut(), cluster, to << bits)?;
        if let (Some(old), Some(counts)) = (old, &mut self.counts) {
            counts.release(old >> bits);
        }
        Ok(())
    }

    /// Where a cluster of the guest is from now on. What it was before is used once less.
    fn set(&mut self, cluster: u64, place: Place) -> Result<(), Errno> {
        self.ready(cluster)?;
        let old = self.tables.entry(self.storage.as_mut(), cluster)?;
        self.tables.set(self.storage.as_mut(), cluster, place)?;
        let kept = match place {
            Place::Own(host) | Place::Zeroes(Some(host)) => Some(host >> self.header.cluster_bits),
            _ => None,
        };
        if let Some(counts) = &mut self.counts {
            clusters_of(old, self.header.cluster_bits)
                .filter(|old| Some(*old) != kept)
                .for_each(|old| counts.release(old));
        }
        Ok(())
    }

    /// Writes the beginning of a run into clusters that are new, or were kept; gives how much.
    fn write_new(&mut self, source: Source<'_, '_>, run: Run) -> Result<u64, Errno> {
        if self.tables.is_full() {
            self.flush()?;
        }
        let (bits, cluster) = (self.header.cluster_bits, self.cluster());
        let number = run.at >> bits;
        self.ready(number)?;
        let wanted = ((run.at + run.length - 1) >> bits) - number + 1;
        let (first, count) = match run.place {
            Place::Zeroes(Some(kept)) if !self.is_reserved(kept >> bits) => (kept >> bits, 1),
            Place::Zeroes(_) | Place::Compressed { .. } => self.allocate(1)?,
            _ => self.allocate(wanted)?,
        };
        let end = (run.at + run.length).min((number + count) << bits);
        let length = end - run.at;
        // What is around the bytes in their first and last cluster.
        for edge in [number << bits..run.at, end..end.next_multiple_of(cluster)] {
            if !edge.is_empty() {
                let mut bytes = vec![0; size(edge.end - edge.start)];
                self.read_bytes(&mut bytes, edge.start)?;
                let to = (first << bits) + (edge.start - (number << bits));
                if bytes.iter().any(|byte| *byte != 0) || to < self.storage.bytes()? {
                    self.storage.write(&bytes, to)?;
                }
            }
        }
        source.put(self.storage.as_mut(), run.start..run.start + length, (first << bits) + run.at % cluster)?;
        for step in 0..=((end - 1) >> bits) - number {
            self.set(number + step, Place::Own((first + step) << bits))?;
        }
        Ok(length)
    }

    /// Makes everything last. See the module's text for the order.
    pub(super) fn flush(&mut self) -> Result<(), Errno> {
        let Some(counts) = &mut self.counts else { return Ok(()) };
        let storage = self.storage.as_mut();
        counts.write_blocks(storage)?;
        storage.sync()?;
        if self.tables.write(storage)? {
            storage.sync()?;
        }
        counts.settle(storage)
    }

    fn reads_as_zeroes(&self, place: Place) -> bool {
        matches!(place, Place::Zeroes(_)) || place == Place::Below && self.below.is_none()
    }

    /// The clusters that lie wholly in a range.
    fn whole(&self, offset: u64, length: u64) -> Range<u64> {
        let first = offset.div_ceil(self.cluster());
        // The last cluster may be longer than the disk.
        let end = offset + length;
        let last = if end >= self.header.size { end.div_ceil(self.cluster()) } else { end >> self.header.cluster_bits };
        first..last.max(first)
    }

    /// Forgets a range; clusters that are only partly in it stay.
    pub(super) fn discard(&mut self, offset: u64, length: u64) -> Result<(), Errno> {
        for cluster in self.whole(offset, length) {
            let place = self.place(cluster)?;
            // What is below must not come up again.
            let empty = match (&self.below, self.header.version) {
                (None, _) => Place::Below,
                (Some(_), 2) => continue,
                (Some(_), _) => Place::Zeroes(None),
            };
            if place != empty
                && !(self.reads_as_zeroes(place) && self.tables.entry(self.storage.as_mut(), cluster)? >> 9 == 0)
            {
                self.forget(cluster, empty)?;
            }
        }
        Ok(())
    }

    fn forget(&mut self, cluster: u64, place: Place) -> Result<(), Errno> {
        if self.tables.is_full() {
            self.flush()?;
        }
        self.set(cluster, place)
    }

    /// Makes a range read as zeroes.
    pub(super) fn write_zeroes(&mut self, offset: u64, length: u64, below: Zeroes) -> Result<(), Errno> {
        let (whole, bits, end) = (self.whole(offset, length), self.header.cluster_bits, offset + length);
        if whole.is_empty() {
            return self.write_bytes_of_zero(offset..end);
        }
        self.write_bytes_of_zero(offset..whole.start << bits)?;
        self.write_bytes_of_zero((whole.end << bits).min(end)..end)?;
        for cluster in whole {
            let place = self.place(cluster)?;
            match (place, below) {
                _ if self.reads_as_zeroes(place) => {}
                _ if self.header.version == 2 && self.below.is_some() => {
                    self.write_bytes_of_zero(cluster << bits..((cluster + 1) << bits).min(end))?;
                }
                _ if self.header.version == 2 => self.forget(cluster, Place::Below)?,
                (Place::Own(host), Zeroes::Keep) => self.forget(cluster, Place::Zeroes(Some(host)))?,
                _ => self.forget(cluster, Place::Zeroes(None))?,
            }
        }
        Ok(())
    }

    fn write_bytes_of_zero(&mut self, range: Range<u64>) -> Result<(), Errno> {
        if range.is_empty() {
            return Ok(());
        }
        let mut at = range.start;
        while at < range.end {
            let run = self.run(0, at, range.end - at)?;
            if !self.reads_as_zeroes(run.place) {
                self.write(Source::Host(&vec![0; size(run.length)]), at)?;
            }
            at += run.length;
        }
        Ok(())
    }

    /// Fills host memory from anywhere on the disk; what is behind its end are zeroes.
    pub(super) fn read_below(&mut self, into: &mut [u8], offset: u64) -> Result<(), Errno> {
        let there = size(self.header.size.saturating_sub(offset)).min(into.len());
        let (here, behind) = into.split_at_mut(there);
        behind.fill(0);
        self.read_bytes(here, offset)
    }
}
