//! The two levels of tables from the guest's clusters to the file's.
//!
//! ```text
//! first table   62 zeroes and offset | 63 the second table is used by nobody else
//! second table  0 reads as zeroes | 9..56 offset | 62 compressed | 63 the cluster is used by nobody else
//! compressed    offset, then the count of further sectors, in 62 bits divided by the size of clusters
//! ```

use std::collections::{BTreeMap, BTreeSet, HashSet};

use rustix::io::Errno;

use super::header::{Header, ImageError};
use super::storage::Storage;

const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
const ALONE: u64 = 1 << 63;
const COMPRESSED: u64 = 1 << 62;
const ZEROES: u64 = 1;
/// Bytes of second tables held in memory; more if all of them have changed.
const MOST_BYTES: usize = 8 << 20;

/// Where a cluster of the guest is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// In the image below, or nowhere.
    Below,
    /// Nowhere: it reads as zeroes. A cluster may be kept for it.
    Zeroes(Option<u64>),
    /// In the file. It may be written there if it is nobody else's.
    Own(u64),
    Shared(u64),
    Compressed {
        offset: u64,
        bytes: u64,
    },
}

impl Place {
    pub(super) fn read(entry: u64, cluster_bits: u32) -> Result<Self, Errno> {
        if entry & COMPRESSED != 0 {
            let split = 62 - (cluster_bits - 8);
            let offset = entry & ((1 << split) - 1);
            let sectors = (entry & (COMPRESSED - 1)) >> split;
            return Ok(Self::Compressed { offset, bytes: (sectors + 1) * 512 - offset % 512 });
        }
        let offset = entry & OFFSET;
        if !offset.is_multiple_of(1 << cluster_bits) {
            tracing::warn!(entry, "an image's table names a place inside a cluster");
            return Err(Errno::IO);
        }
        Ok(match (entry & ZEROES != 0, offset, entry & ALONE != 0) {
            (true, 0, _) | (true, _, false) => Self::Zeroes(None),
            (true, offset, true) => Self::Zeroes(Some(offset)),
            (false, 0, _) => Self::Below,
            (false, offset, true) => Self::Own(offset),
            (false, offset, false) => Self::Shared(offset),
        })
    }

    fn entry(self) -> u64 {
        match self {
            Self::Zeroes(kept) => ZEROES | kept.map_or(0, |offset| offset | ALONE),
            Self::Own(offset) => offset | ALONE,
            Self::Shared(offset) => offset,
            // Compressed clusters are read, never made.
            Self::Below | Self::Compressed { .. } => 0,
        }
    }
}

/// What an entry of a second table leads to, as the file has it: also what reads as zeroes or is shared.
pub(super) fn clusters_of(entry: u64, cluster_bits: u32) -> std::ops::Range<u64> {
    match Place::read(entry, cluster_bits) {
        Ok(Place::Compressed { offset, bytes }) => {
            offset >> cluster_bits..((offset + bytes - 1) >> cluster_bits).saturating_add(1)
        }
        _ if entry & OFFSET == 0 => 0..0,
        _ => {
            let cluster = (entry & OFFSET) >> cluster_bits;
            cluster..cluster + 1
        }
    }
}

#[derive(Debug)]
struct Second {
    entries: Vec<u64>,
    changed: bool,
    used: u64,
}

impl Second {
    fn used_at(&mut self, clock: u64) -> &mut Self {
        self.used = clock;
        self
    }
}

/// The tables of an image.
#[derive(Debug)]
pub(super) struct Tables {
    cluster_bits: u32,
    place: u64,
    first: Vec<u64>,
    /// Sectors of the first table that have changed.
    changed: BTreeSet<usize>,
    /// Second tables by their number.
    seconds: BTreeMap<usize, Second>,
    /// Where all second tables lie.
    own: HashSet<u64>,
    clock: u64,
}

impl Tables {
    pub(super) fn read(storage: &mut dyn Storage, header: &Header) -> Result<Self, ImageError> {
        // What the file does not hold is not kept in memory either, whatever the header says.
        let end = storage.bytes()?;
        let there =
            (header.first_entries * 8).min(usize::try_from(end.saturating_sub(header.first_offset)).unwrap_or(0));
        let mut raw = vec![0; there.next_multiple_of(8)];
        storage.read(&mut raw, header.first_offset)?;
        let mut first: Vec<u64> = raw.as_chunks::<8>().0.iter().map(|entry| u64::from_be_bytes(*entry)).collect();
        first.resize(header.first_entries, 0);
        let mut own = HashSet::new();
        for entry in first.iter().filter(|entry| **entry & OFFSET != 0) {
            if !(entry & OFFSET).is_multiple_of(header.cluster()) {
                return Err(ImageError::Range("a table's place"));
            }
            if !own.insert(entry & OFFSET) {
                return Err(ImageError::Overlap("tables"));
            }
        }
        Ok(Self {
            cluster_bits: header.cluster_bits,
            place: header.first_offset,
            first,
            changed: BTreeSet::new(),
            seconds: BTreeMap::new(),
            own,
            clock: 0,
        })
    }

    /// Whether a cluster holds a table.
    pub(super) fn is_own(&self, cluster: u64) -> bool {
        let (first, last) =
            (self.place >> self.cluster_bits, (self.place + self.first.len() as u64 * 8 - 1) >> self.cluster_bits);
        (first..=last).contains(&cluster) || self.own.contains(&(cluster << self.cluster_bits))
    }

    fn entries(&self) -> u64 {
        1 << (self.cluster_bits - 3)
    }

    fn split(&self, cluster: u64) -> (usize, usize) {
        let index = usize::try_from(cluster / self.entries()).unwrap_or(usize::MAX);
        (index, usize::try_from(cluster % self.entries()).unwrap_or(0))
    }

    /// Whether changed tables take so much memory that they are to be written.
    pub(super) fn is_full(&self) -> bool {
        let changed = self.seconds.values().filter(|table| table.changed).count();
        changed << self.cluster_bits > MOST_BYTES
    }

    /// Whether what is known of a cluster of the guest is in memory.
    pub(super) fn has(&self, cluster: u64) -> bool {
        let (index, _) = self.split(cluster);
        self.seconds.contains_key(&index) || self.first.get(index).is_none_or(|entry| entry & OFFSET == 0)
    }

    fn load(&mut self, storage: &mut dyn Storage, index: usize) -> Result<Option<&mut Second>, Errno> {
        self.clock += 1;
        if !self.seconds.contains_key(&index) {
            let Some(offset) = self.first.get(index).map(|entry| entry & OFFSET).filter(|offset| *offset != 0) else {
                return Ok(None);
            };
            self.make_room();
            let mut raw = vec![0; 1 << self.cluster_bits];
            storage.read(&mut raw, offset)?;
            let entries = raw.as_chunks::<8>().0.iter().map(|entry| u64::from_be_bytes(*entry)).collect();
            self.seconds.insert(index, Second { entries, changed: false, used: 0 });
        }
        let clock = self.clock;
        let table = self.seconds.get_mut(&index);
        Ok(table.map(|table| table.used_at(clock)))
    }

    fn make_room(&mut self) {
        if self.seconds.len() << self.cluster_bits < MOST_BYTES {
            return;
        }
        let oldest = self.seconds.iter().filter(|(_, table)| !table.changed).min_by_key(|(_, table)| table.used);
        if let Some(index) = oldest.map(|(index, _)| *index) {
            self.seconds.remove(&index);
        }
    }

    /// The raw entry of a cluster of the guest.
    pub(super) fn entry(&mut self, storage: &mut dyn Storage, cluster: u64) -> Result<u64, Errno> {
        let (index, at) = self.split(cluster);
        Ok(self.load(storage, index)?.map_or(0, |table| table.entries[at]))
    }

    /// Where a cluster of the guest is.
    pub(super) fn place(&mut self, storage: &mut dyn Storage, cluster: u64) -> Result<Place, Errno> {
        let bits = self.cluster_bits;
        self.entry(storage, cluster).and_then(|entry| Place::read(entry, bits))
    }

    /// Where the second table of a cluster of the guest lies, if it has none that may be changed: the one that is shared, or nothing.
    pub(super) fn unready(&self, cluster: u64) -> Option<Option<u64>> {
        let entry = self.first.get(self.split(cluster).0).copied().unwrap_or(0);
        let offset = entry & OFFSET;
        (offset == 0 || entry & ALONE == 0).then_some((offset != 0).then_some(offset))
    }

    /// Gives a cluster of the guest a second table of its own, at `to` in the file.
    pub(super) fn ready(&mut self, storage: &mut dyn Storage, cluster: u64, to: u64) -> Result<(), Errno> {
        let (index, _) = self.split(cluster);
        let entries = 1 << (self.cluster_bits - 3);
        match self.load(storage, index)? {
            Some(table) => {
                // What both tables lead to is the other one's too.
                table.entries.iter_mut().filter(|entry| **entry & COMPRESSED == 0).for_each(|entry| *entry &= !ALONE);
                table.changed = true;
            }
            None => {
                self.make_room();
                let used = self.clock;
                self.seconds.insert(index, Second { entries: vec![0; entries], changed: true, used });
            }
        }
        let entry = self.first.get_mut(index).ok_or(Errno::IO)?;
        self.own.remove(&(*entry & OFFSET));
        self.own.insert(to);
        *entry = to | ALONE;
        self.changed.insert(index / 64);
        Ok(())
    }

    /// Says where a cluster of the guest is from now on; it has a table of its own.
    pub(super) fn set(&mut self, storage: &mut dyn Storage, cluster: u64, place: Place) -> Result<(), Errno> {
        let (index, at) = self.split(cluster);
        let table = self.load(storage, index)?.ok_or(Errno::IO)?;
        table.entries[at] = place.entry();
        table.changed = true;
        Ok(())
    }

    /// Writes what has changed, in order: what it refers to is on the disk already. Says whether anything was written.
    pub(super) fn write(&mut self, storage: &mut dyn Storage) -> Result<bool, Errno> {
        let mut written = false;
        for (index, table) in self.seconds.iter_mut().filter(|(_, table)| table.changed) {
            let bytes: Vec<u8> = table.entries.iter().flat_map(|entry| entry.to_be_bytes()).collect();
            storage.write(&bytes, self.first[*index] & OFFSET)?;
            table.changed = false;
            written = true;
        }
        if self.changed.is_empty() {
            return Ok(written);
        }
        storage.sync()?;
        for sector in std::mem::take(&mut self.changed) {
            let mut bytes = [0; 512];
            let end = self.first.len().min(sector * 64 + 64);
            for (place, entry) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(&self.first[sector * 64..end]) {
                *place = entry.to_be_bytes();
            }
            storage.write(&bytes[..(end - sector * 64) * 8], self.place + sector as u64 * 512)?;
        }
        Ok(true)
    }
}
