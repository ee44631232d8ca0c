//! Where everything behind the contents goes: directories, shared attributes, inodes.
//!
//! Inodes are placed in breadth-first order, so that what one directory lists lies together. An inode with what follows it
//! (attributes, chunk map, tail) never crosses a block when it fits one; gaps are filled from a few blocks that still
//! have room.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io::{Seek, Write};
use std::ops::Bound;

use super::format::{self, BLOCK, BLOCK_U64, InodeFields, Layout, SLOT, Superblock, XATTR_HEADER};
use super::output::Output;
use super::{Contents, ErofsError, Segment};
use crate::tree::{Body, Index, Stat, Time, Tree};

/// The largest xattr body that an inode's 16-bit count can express, with room for sharing.
pub(super) const XATTR_BODY_MAX: usize = 64 << 10;
/// How many blocks with room are remembered while inodes are placed.
const OPEN_BLOCKS: usize = 24;
/// The root's number has 16 bits and must not be 0, which readers of directories take for a deleted entry.
const ROOT_SLOT: u64 = 2;

/// The bytes that the attributes of a file need when none is shared.
pub(super) fn inline_xattr_bytes(stat: &Stat) -> usize {
    if stat.xattrs.is_empty() {
        return 0;
    }
    let entries = stat.xattrs.iter().map(|(name, value)| {
        let rest = format::xattr_prefix(name).map_or(name.len(), |(_, rest)| rest.len());
        (4 + rest + value.len()).next_multiple_of(4)
    });
    XATTR_HEADER + entries.sum::<usize>()
}

/// The chunk size of a sparse file, as a power of two, that keeps map and padding small together: the map costs
/// `4 * size / chunk`, the padding about `chunk` for each segment.
pub(super) fn chunk_bits(size: u64, segments: &[Segment]) -> u8 {
    let count = segments.iter().filter(|segment| segment.length > 0).count() as u64;
    let mut bits = format::BLOCK_BITS;
    let grows = |bits: u8| {
        let chunk = 1_u128 << bits;
        chunk < u128::from(size) && chunk * chunk * u128::from(count) < 4 * u128::from(size)
    };
    while bits < 42 && grows(bits) {
        bits += 1;
    }
    bits
}

/// What one inode needs, in the order of the walk.
struct Placed {
    index: Index,
    parent: usize,
    links: u32,
    kind: u16,
    size: u64,
    layout: Layout,
    xattrs: Vec<u8>,
    compact: bool,
    /// Bytes behind the header and attributes: chunk map or tail.
    behind: usize,
    /// First block of a directory.
    block: u32,
    /// Byte offset in the metadata.
    offset: u64,
}

impl Placed {
    fn header(&self) -> usize {
        (if self.compact { format::COMPACT_INODE } else { format::EXTENDED_INODE }) + self.xattrs.len()
    }

    fn nid(&self) -> u64 {
        self.offset / SLOT
    }
}

/// Writes everything behind the contents; the superblock still lacks its size and name.
pub(super) fn write<W: Write + Seek>(
    tree: &Tree<Contents>,
    tails: &[u8],
    out: &mut Output<W>,
) -> Result<Superblock, ErofsError> {
    let build_time = most_common_time(tree);
    let (mut placed, numbers) = walk(tree);
    let shared = share_xattrs(tree, &placed);
    for inode in &mut placed {
        inode.xattrs = xattr_body(&tree.get(inode.index).stat, &shared.ids);
        let stat = &tree.get(inode.index).stat;
        inode.compact = format::fits_compact(stat, inode.size, inode.links, build_time);
        plan_contents(tree, inode);
    }
    let end = assign_offsets(&mut placed);
    out.pad()?;
    write_directories(tree, &mut placed, &numbers, out)?;
    let xattr_block = out.block()?;
    out.write(&shared.area)?;
    out.pad()?;
    let metadata_block = out.block()?;
    write_inodes(tree, tails, &placed, &numbers, out)?;
    out.pad()?;
    if out.position() / BLOCK_U64 < u64::from(metadata_block) + end.div_ceil(BLOCK_U64) {
        return Err(ErofsError::TooLarge);
    }
    Ok(Superblock {
        root_slot: u16::try_from(ROOT_SLOT).unwrap_or(0),
        inodes: placed.len() as u64,
        build_time,
        metadata_block,
        xattr_block: if shared.area.is_empty() { 0 } else { xattr_block },
        chunked: placed.iter().any(|inode| inode.layout == Layout::Chunks),
        ..Superblock::default()
    })
}

/// The time that most inodes have: they need none of their own then.
fn most_common_time(tree: &Tree<Contents>) -> Time {
    let mut counts: BTreeMap<Time, usize> = BTreeMap::new();
    for number in 0..tree.len() {
        let stat = &tree.get(Index(u32::try_from(number).unwrap_or(0))).stat;
        *counts.entry(stat.mtime).or_default() += 1;
    }
    // Of equally common ones the earliest.
    let mut best = (Time::default(), 0);
    for (time, count) in counts {
        if count > best.1 {
            best = (time, count);
        }
    }
    best.0
}

/// Everything that can be reached from the root, breadth first, with the names of each counted.
fn walk(tree: &Tree<Contents>) -> (Vec<Placed>, HashMap<Index, usize>) {
    let mut placed: Vec<Placed> = Vec::new();
    let mut numbers: HashMap<Index, usize> = HashMap::new();
    let mut queue = VecDeque::from([(Tree::<Contents>::ROOT, 0)]);
    while let Some((index, parent)) = queue.pop_front() {
        if let Some(number) = numbers.get(&index) {
            placed[*number].links += 1;
            continue;
        }
        let number = placed.len();
        numbers.insert(index, number);
        let body = &tree.get(index).body;
        let (kind, size, links) = match body {
            Body::Directory(entries) => {
                let mut subdirectories = 0;
                for child in entries.values() {
                    subdirectories += u32::from(matches!(tree.get(*child).body, Body::Directory(_)));
                    queue.push_back((*child, number));
                }
                let size = format::directory_size(names(entries).into_iter().map(|(name, _)| name));
                (format::mode::DIRECTORY, size, 2 + subdirectories)
            }
            Body::File(Contents::Flat { size, .. } | Contents::Chunks { size, .. }) => {
                (format::mode::REGULAR, *size, 1)
            }
            Body::Symlink(target) => (format::mode::SYMLINK, target.len() as u64, 1),
            Body::Device { kind, .. } => (format::device_mode(*kind), 0, 1),
            Body::Fifo => (format::mode::FIFO, 0, 1),
            Body::Socket => (format::mode::SOCKET, 0, 1),
        };
        placed.push(Placed {
            index,
            parent,
            links,
            kind,
            size,
            layout: Layout::Plain,
            xattrs: Vec::new(),
            compact: false,
            behind: 0,
            block: 0,
            offset: 0,
        });
    }
    (placed, numbers)
}

/// What a directory entry stands for.
#[derive(Clone, Copy)]
enum Target {
    Itself,
    Parent,
    Child(Index),
}

/// A directory's names with `.` and `..` where they belong in byte order.
fn names(entries: &BTreeMap<Box<[u8]>, Index>) -> Vec<(&[u8], Target)> {
    const DOTS: [(&[u8], Target); 2] = [(b".", Target::Itself), (b"..", Target::Parent)];
    let first = before(entries, b".");
    let second = before(entries, b"..");
    let mut list: Vec<(&[u8], Target)> = entries.iter().map(|(name, index)| (&**name, Target::Child(*index))).collect();
    list.insert(second, DOTS[1]);
    list.insert(first, DOTS[0]);
    list
}

/// How many names come before `name`.
fn before(entries: &BTreeMap<Box<[u8]>, Index>, name: &[u8]) -> usize {
    entries.range::<[u8], _>((Bound::Unbounded, Bound::Excluded(name))).count()
}

/// Attributes that several inodes have.
struct SharedXattrs {
    area: Vec<u8>,
    ids: HashMap<Vec<u8>, u32>,
}

fn share_xattrs(tree: &Tree<Contents>, placed: &[Placed]) -> SharedXattrs {
    let mut counts: BTreeMap<Vec<u8>, usize> = BTreeMap::new();
    for inode in placed {
        for (name, value) in &tree.get(inode.index).stat.xattrs {
            if let Some(entry) = format::xattr_entry(name, value) {
                *counts.entry(entry).or_default() += 1;
            }
        }
    }
    let mut shared = SharedXattrs { area: Vec::new(), ids: HashMap::new() };
    for (entry, _) in counts.into_iter().filter(|(_, count)| *count > 1) {
        if let Ok(id) = u32::try_from(shared.area.len() / 4) {
            shared.area.extend_from_slice(&entry);
            shared.ids.insert(entry, id);
        }
    }
    shared
}

fn xattr_body(stat: &Stat, ids: &HashMap<Vec<u8>, u32>) -> Vec<u8> {
    if stat.xattrs.is_empty() {
        return Vec::new();
    }
    let (mut references, mut inline, mut count) = (Vec::new(), Vec::new(), 0_u8);
    for entry in stat.xattrs.iter().filter_map(|(name, value)| format::xattr_entry(name, value)) {
        match ids.get(&entry) {
            Some(id) if count < u8::MAX => {
                count += 1;
                references.extend_from_slice(&id.to_le_bytes());
            }
            _ => inline.extend_from_slice(&entry),
        }
    }
    let mut body = vec![0; XATTR_HEADER];
    body[4] = count;
    body.extend_from_slice(&references);
    body.extend_from_slice(&inline);
    body
}

/// Decides the layout and how many bytes follow the inode.
fn plan_contents(tree: &Tree<Contents>, inode: &mut Placed) {
    let header = inode.header();
    (inode.layout, inode.behind) = match &tree.get(inode.index).body {
        Body::File(Contents::Flat { tail: Some(tail), .. }) => (Layout::Inline, tail.length),
        Body::File(Contents::Chunks { size, bits, .. }) => {
            let chunks = usize::try_from(size.div_ceil(1 << bits)).unwrap_or(usize::MAX / 8);
            (Layout::Chunks, chunks * 4)
        }
        Body::Directory(_) | Body::Symlink(_) => {
            let rest = usize::try_from(inode.size % BLOCK_U64).unwrap_or(0);
            if rest > 0 && header + rest <= BLOCK { (Layout::Inline, rest) } else { (Layout::Plain, 0) }
        }
        _ => (Layout::Plain, 0),
    };
}

/// Gives every inode its offset in the metadata and returns where the metadata ends.
fn assign_offsets(placed: &mut [Placed]) -> u64 {
    // Blocks with room behind their last inode: offset of the room, and how much.
    let mut open: VecDeque<(u64, usize)> = VecDeque::new();
    let mut end = 0_u64;
    for (number, inode) in placed.iter_mut().enumerate() {
        let start = if number == 0 { ROOT_SLOT * SLOT } else { 0 };
        let need = (inode.header() + inode.behind).next_multiple_of(32);
        if let Some(slot) = open.iter().position(|(_, room)| *room >= need) {
            let (offset, room) = open[slot];
            inode.offset = offset;
            if room > need {
                open[slot] = (offset + need as u64, room - need);
            } else {
                open.remove(slot);
            }
            continue;
        }
        let start = if start as usize + need <= BLOCK { start } else { 0 };
        // A root too large to begin behind the reserved slots begins a block later, in a slot that 16 bits still reach.
        let base = if number == 0 && start == 0 { BLOCK_U64 } else { end };
        inode.offset = base + start;
        let used = inode.offset + need as u64;
        end = used.next_multiple_of(BLOCK_U64);
        let room = usize::try_from(end - used).unwrap_or(0);
        if room > 0 {
            open.push_back((used, room));
            if open.len() > OPEN_BLOCKS {
                open.pop_front();
            }
        }
    }
    end
}

/// Writes the whole blocks of directories and long links, now that every inode has its number.
fn write_directories<W: Write + Seek>(
    tree: &Tree<Contents>,
    placed: &mut [Placed],
    numbers: &HashMap<Index, usize>,
    out: &mut Output<W>,
) -> Result<(), ErofsError> {
    for number in 0..placed.len() {
        let blocks = match &tree.get(placed[number].index).body {
            Body::Directory(_) if placed[number].size >= BLOCK_U64 || placed[number].layout == Layout::Plain => {
                directory(tree, placed, numbers, number)
            }
            Body::Symlink(target) if placed[number].layout == Layout::Plain => vec![target.clone()],
            _ => continue,
        };
        placed[number].block = out.block()?;
        let whole = if placed[number].layout == Layout::Inline { blocks.len() - 1 } else { blocks.len() };
        for block in &blocks[..whole] {
            out.write(block)?;
            out.pad()?;
        }
    }
    Ok(())
}

fn directory(tree: &Tree<Contents>, placed: &[Placed], numbers: &HashMap<Index, usize>, number: usize) -> Vec<Vec<u8>> {
    let Body::Directory(entries) = &tree.get(placed[number].index).body else { return Vec::new() };
    let list: Vec<(&[u8], u64, u8)> = names(entries)
        .into_iter()
        .map(|(name, target)| {
            let to = match target {
                Target::Itself => &placed[number],
                Target::Parent => &placed[placed[number].parent],
                Target::Child(index) => &placed[numbers[&index]],
            };
            (name, to.nid(), format::file_type(to.kind))
        })
        .collect();
    format::directory_blocks(&list)
}

fn write_inodes<W: Write + Seek>(
    tree: &Tree<Contents>,
    tails: &[u8],
    placed: &[Placed],
    numbers: &HashMap<Index, usize>,
    out: &mut Output<W>,
) -> Result<(), ErofsError> {
    let base = out.position();
    let mut order: Vec<usize> = (0..placed.len()).collect();
    order.sort_unstable_by_key(|number| placed[*number].offset);
    let mut bytes = Vec::with_capacity(2 * BLOCK);
    for number in order {
        let inode = &placed[number];
        let node = tree.get(inode.index);
        bytes.clear();
        let fields = InodeFields {
            stat: &node.stat,
            kind: inode.kind,
            layout: inode.layout,
            xattr_bytes: inode.xattrs.len(),
            size: inode.size,
            place: place(&node.body, inode),
            number: u32::try_from(number + 1).unwrap_or(u32::MAX),
            links: inode.links,
        };
        if inode.compact {
            fields.encode_compact(&mut bytes)
        } else {
            fields.encode_extended(&mut bytes)
        }
        bytes.extend_from_slice(&inode.xattrs);
        match &node.body {
            Body::File(Contents::Flat { tail: Some(tail), .. }) => {
                bytes.extend_from_slice(&tails[tail.start..tail.start + tail.length]);
            }
            Body::File(Contents::Chunks { map, .. }) => put_chunks(map, inode.behind / 4, &mut bytes),
            Body::Directory(_) if inode.behind > 0 => {
                bytes.extend_from_slice(&directory(tree, placed, numbers, number).pop().unwrap_or_default());
            }
            Body::Symlink(target) if inode.behind > 0 => bytes.extend_from_slice(target),
            _ => {}
        }
        out.zeros(base + inode.offset - out.position())?;
        out.write(&bytes)?;
    }
    Ok(())
}

/// The inode's four bytes whose meaning depends on its kind and layout.
fn place(body: &Body<Contents>, inode: &Placed) -> u32 {
    match body {
        Body::File(Contents::Flat { block, .. }) => *block,
        Body::File(Contents::Chunks { bits, .. }) => u32::from(bits - format::BLOCK_BITS),
        Body::Directory(_) | Body::Symlink(_) => inode.block,
        Body::Device { major, minor, .. } => format::device_number(*major, *minor),
        Body::Fifo | Body::Socket => 0,
    }
}

fn put_chunks(map: &[(u32, u32)], count: usize, bytes: &mut Vec<u8>) {
    let start = bytes.len();
    bytes.resize(start + count * 4, 0xff);
    for (chunk, block) in map {
        let at = start + *chunk as usize * 4;
        bytes[at..at + 4].copy_from_slice(&block.to_le_bytes());
    }
    debug_assert!(map.iter().all(|(_, block)| *block != format::NULL_BLOCK), "a chunk with data is no hole");
}
