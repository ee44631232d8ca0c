//! Reference counts: how often each cluster of the file is in use, and which ones are free.
//!
//! Counts are raised before anything refers to a cluster, and lowered after nothing does any more, so that a power cut leaves clusters
//! that are counted and not used, never the other way round. A new count stays in memory until [`Counts::write_blocks`].

use std::collections::{BTreeMap, BTreeSet, HashSet};

use rustix::io::Errno;

use super::header::{Header, ImageError, REFERENCES};
use super::storage::Storage;

/// Blocks held in memory; more if all of them have changed.
const MOST_BLOCKS: usize = 64;
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;

#[derive(Debug)]
struct Block {
    bytes: Vec<u8>,
    changed: bool,
}

/// The counts of an image that is written.
#[derive(Debug)]
pub(super) struct Counts {
    cluster_bits: u32,
    order: u32,
    /// Where the table of blocks lies, and how many clusters it has.
    place: (u64, u64),
    table: Vec<u64>,
    /// Clusters of the table that have changed.
    changed: BTreeSet<usize>,
    /// Where the table was, if it has moved since the last flush.
    moved_from: Option<(u64, u64)>,
    blocks: BTreeMap<usize, Block>,
    /// Where all blocks lie.
    own: HashSet<u64>,
    /// Below this cluster none is free.
    hint: u64,
    /// Clusters whose counts are lowered after the next flush.
    released: Vec<u64>,
}

impl Counts {
    pub(super) fn read(storage: &mut dyn Storage, header: &Header) -> Result<Self, ImageError> {
        let clusters = header.references_clusters;
        let bytes =
            usize::try_from(clusters * header.cluster()).map_err(|_| ImageError::Range("the table of references"))?;
        let mut raw = vec![0; bytes];
        storage.read(&mut raw, header.references_offset)?;
        let table: Vec<u64> = raw.as_chunks::<8>().0.iter().map(|entry| u64::from_be_bytes(*entry) & OFFSET).collect();
        let mut own = HashSet::new();
        for offset in table.iter().filter(|offset| **offset != 0) {
            if !offset.is_multiple_of(header.cluster()) {
                return Err(ImageError::Range("the place of a block of counts"));
            }
            if !own.insert(*offset) {
                return Err(ImageError::Overlap("blocks of counts"));
            }
        }
        Ok(Self {
            cluster_bits: header.cluster_bits,
            order: header.count_order,
            place: (header.references_offset, clusters),
            table,
            changed: BTreeSet::new(),
            moved_from: None,
            blocks: BTreeMap::new(),
            own,
            hint: 0,
            released: Vec::new(),
        })
    }

    /// Where blocks of counts and their table lie: nothing else may.
    pub(super) fn is_own(&self, cluster: u64) -> bool {
        let (offset, clusters) = self.place;
        let first = offset >> self.cluster_bits;
        (first..first + clusters).contains(&cluster) || self.own.contains(&(cluster << self.cluster_bits))
    }

    fn cluster(&self) -> usize {
        1 << self.cluster_bits
    }

    /// Counts in one block.
    fn entries(&self) -> u64 {
        (1 << (self.cluster_bits + 3)) >> self.order
    }

    fn block(&mut self, storage: &mut dyn Storage, index: usize) -> Result<Option<&mut Block>, Errno> {
        let Some(offset) = self.table.get(index).copied().filter(|offset| *offset != 0) else { return Ok(None) };
        if !self.blocks.contains_key(&index) {
            if self.blocks.len() >= MOST_BLOCKS {
                self.blocks.retain(|_, block| block.changed);
            }
            let mut bytes = vec![0; self.cluster()];
            storage.read(&mut bytes, offset)?;
            self.blocks.insert(index, Block { bytes, changed: false });
        }
        Ok(self.blocks.get_mut(&index))
    }

    fn split(&self, cluster: u64) -> (usize, usize) {
        let entries = self.entries();
        (usize::try_from(cluster / entries).unwrap_or(usize::MAX), usize::try_from(cluster % entries).unwrap_or(0))
    }

    /// How often a cluster is in use.
    pub(super) fn get(&mut self, storage: &mut dyn Storage, cluster: u64) -> Result<u64, Errno> {
        let (index, entry) = self.split(cluster);
        let order = self.order;
        Ok(self.block(storage, index)?.map_or(0, |block| get(&block.bytes, entry, order)))
    }

    fn set(&mut self, storage: &mut dyn Storage, cluster: u64, count: u64) -> Result<(), Errno> {
        let (index, entry) = self.split(cluster);
        let order = self.order;
        if self.block(storage, index)?.is_none() {
            self.add_block(index, cluster)?;
        }
        let block = self.blocks.get_mut(&index).ok_or(Errno::IO)?;
        set(&mut block.bytes, entry, order, count);
        block.changed = true;
        Ok(())
    }

    /// A new block that counts itself, in the cluster after the one that it is needed for: all that it counts are free.
    fn add_block(&mut self, index: usize, needed_for: u64) -> Result<(), Errno> {
        let entries = self.entries();
        let first = needed_for / entries * entries;
        let own = if needed_for + 1 < first + entries { needed_for + 1 } else { first };
        self.insert_block(index, own)?;
        let (order, entry) = (self.order, usize::try_from(own - first).unwrap_or(0));
        self.blocks.get_mut(&index).into_iter().for_each(|block| set(&mut block.bytes, entry, order, 1));
        Ok(())
    }

    /// Takes up to `wanted` free clusters that follow one another; gives the first and how many.
    pub(super) fn allocate(&mut self, storage: &mut dyn Storage, wanted: u64) -> Result<(u64, u64), Errno> {
        let mut first = self.hint;
        loop {
            let (index, _) = self.split(first);
            if index >= self.table.len() {
                self.grow()?;
            }
            if self.get(storage, first)? == 0 {
                break;
            }
            first += 1;
        }
        let mut count = 0;
        while count < wanted.max(1) {
            let cluster = first + count;
            if self.split(cluster).0 >= self.table.len() || self.get(storage, cluster)? != 0 {
                break;
            }
            self.set(storage, cluster, 1)?;
            count += 1;
        }
        self.hint = first + count;
        if (first + count) << self.cluster_bits > OFFSET {
            return Err(Errno::FBIG);
        }
        Ok((first, count))
    }

    /// Moves the table to a place where it has twice the room: behind all that it told of so far, where nothing is in use.
    fn grow(&mut self) -> Result<(), Errno> {
        if self.moved_from.is_some() {
            // It is asked for again after the flush.
            return Err(Errno::AGAIN);
        }
        let (known, clusters, entries) = (self.table.len(), self.place.1 * 2, self.entries());
        let end = known as u64 * entries;
        let blocks = (1..).find(|blocks| blocks * entries >= blocks + clusters).unwrap_or(clusters);
        self.table.resize(usize::try_from(clusters).unwrap_or(usize::MAX).saturating_mul(self.cluster() / 8), 0);
        for (index, cluster) in (known..).zip(end..end + blocks) {
            self.insert_block(index, cluster)?;
        }
        for cluster in end..end + blocks + clusters {
            let (index, entry) = self.split(cluster);
            let block = self.blocks.get_mut(&index).ok_or(Errno::IO)?;
            set(&mut block.bytes, entry, self.order, 1);
        }
        self.moved_from = Some(self.place);
        self.place = ((end + blocks) << self.cluster_bits, clusters);
        self.changed = (0..usize::try_from(clusters).unwrap_or(0)).collect();
        Ok(())
    }

    fn insert_block(&mut self, index: usize, cluster: u64) -> Result<(), Errno> {
        let offset = cluster << self.cluster_bits;
        *self.table.get_mut(index).ok_or(Errno::FBIG)? = offset;
        self.own.insert(offset);
        self.changed.insert(index / (self.cluster() / 8));
        self.blocks.insert(index, Block { bytes: vec![0; self.cluster()], changed: true });
        Ok(())
    }

    /// A cluster is used once less, from the next flush on.
    pub(super) fn release(&mut self, cluster: u64) {
        self.released.push(cluster);
    }

    /// Writes what has changed. The caller's next sync makes it last.
    pub(super) fn write_blocks(&mut self, storage: &mut dyn Storage) -> Result<(), Errno> {
        for (index, block) in self.blocks.iter_mut().filter(|(_, block)| block.changed) {
            storage.write(&block.bytes, self.table[*index])?;
            block.changed = false;
        }
        if self.changed.is_empty() {
            return Ok(());
        }
        storage.sync()?;
        let per_cluster = self.cluster() / 8;
        for at in &self.changed {
            let entries = &self.table[at * per_cluster..(at + 1) * per_cluster];
            let bytes: Vec<u8> = entries.iter().flat_map(|entry| entry.to_be_bytes()).collect();
            storage.write(&bytes, self.place.0 + ((*at as u64) << self.cluster_bits))?;
        }
        self.changed.clear();
        if let Some((offset, clusters)) = self.moved_from.take() {
            storage.sync()?;
            let mut bytes = [0; 12];
            bytes[..8].copy_from_slice(&self.place.0.to_be_bytes());
            bytes[8..].copy_from_slice(&u32::try_from(self.place.1).unwrap_or(u32::MAX).to_be_bytes());
            let mut head = [0; 512];
            storage.read(&mut head, 0)?;
            let at = usize::try_from(REFERENCES).unwrap_or(0);
            head[at..at + bytes.len()].copy_from_slice(&bytes);
            storage.write(&head, 0)?;
            let first = offset >> self.cluster_bits;
            self.released.extend(first..first + clusters);
        }
        Ok(())
    }

    /// Lowers what was released, once nothing on the disk refers to it, and gives the room back. A power
    /// cut before that is on the disk leaves them counted, and nothing else.
    pub(super) fn settle(&mut self, storage: &mut dyn Storage) -> Result<(), Errno> {
        if self.released.is_empty() {
            return Ok(());
        }
        for cluster in std::mem::take(&mut self.released) {
            let count = self.get(storage, cluster)?;
            // One that is not counted was counted wrongly before.
            if count == 0 {
                continue;
            }
            self.set(storage, cluster, count - 1)?;
            if count == 1 {
                self.hint = self.hint.min(cluster);
                storage.punch(cluster << self.cluster_bits, 1 << self.cluster_bits);
            }
        }
        self.write_blocks(storage)
    }
}

/// A count; those of less than a byte begin at the lowest bits.
fn get(block: &[u8], entry: usize, order: u32) -> u64 {
    if order < 3 {
        let (bits, per_byte) = (1 << order, 8 >> order);
        let mask = (1_u32 << bits) - 1;
        return u64::from(u32::from(block[entry / per_byte]) >> (entry % per_byte * bits) & mask);
    }
    let bytes = 1 << (order - 3);
    block[entry * bytes..(entry + 1) * bytes].iter().fold(0, |all, byte| all << 8 | u64::from(*byte))
}

pub(super) fn set(block: &mut [u8], entry: usize, order: u32, count: u64) {
    if order < 3 {
        let (bits, per_byte) = (1 << order, 8 >> order);
        let shift = entry % per_byte * bits;
        let mask = ((1_u32 << bits) - 1) << shift;
        let byte = &mut block[entry / per_byte];
        let value = u32::from(*byte) & !mask | u32::try_from(count).unwrap_or(0) << shift & mask;
        *byte = value.to_le_bytes()[0];
        return;
    }
    let bytes = 1 << (order - 3);
    block[entry * bytes..(entry + 1) * bytes].copy_from_slice(&count.to_be_bytes()[8 - bytes..]);
}
