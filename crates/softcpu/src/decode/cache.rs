//! Decoded blocks by guest-physical address.

use std::sync::Arc;

use super::{Flow, Op, instruction, op};
use crate::code_pages::CodePages;
use crate::exec::{Board, First};
use crate::host::native::Natives;
use crate::host::ram::{PAGE, Ram};
use crate::state::CodeSize;

const SLOTS: usize = 1 << 15;
/// Instructions of a block at most: so many run between two looks at what else wants the CPU.
const LONGEST: usize = 48;
const EMPTY: u64 = u64::MAX;

/// A run of instructions inside one page, or a single one that goes on in the next.
pub(crate) struct Block {
    key: u64,
    generation: u32,
    /// The second page and its generation, if the only instruction straddles a page end.
    next: Option<(u64, u32)>,
    pub(crate) ops: Arc<[Op]>,
    /// How often the interpreter has entered it.
    pub(crate) entered: u32,
}

/// All decoded blocks of a CPU: a direct-mapped table.
pub(crate) struct BlockCache {
    slots: Vec<Block>,
}

/// Where the page behind the block's is, or the fault of fetching from it.
pub(crate) type NextPage = Result<u64, crate::fault::Fault>;

/// How much of a block is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Length {
    All,
    /// One instruction: what translated code leaves to the interpreter.
    One,
}

fn key(gpa: u64, size: CodeSize, length: Length) -> u64 {
    (gpa << 3) | ((length as u64) << 2) | size as u64
}

impl BlockCache {
    pub(crate) fn new() -> Self {
        let slots = (0..SLOTS)
            .map(|_| Block { key: EMPTY, generation: 0, next: None, ops: Arc::new([]), entered: 0 })
            .collect();
        Self { slots }
    }

    /// Forgets all blocks.
    pub(crate) fn clear(&mut self) {
        self.slots.iter_mut().for_each(|b| b.key = EMPTY);
    }

    /// The block at `gpa`, decoded if it is not there or its page has changed since.
    ///
    /// # Errors
    /// The second page of an instruction can't be fetched.
    #[inline]
    pub(crate) fn block(
        &mut self,
        gpa: u64,
        (size, length): (CodeSize, Length),
        source: &mut Source<'_>,
        next_page: NextPage,
    ) -> Result<&mut Block, crate::fault::Fault> {
        let k = key(gpa, size, length);
        // An instruction alone often stands right behind a block.
        let slot = ((gpa ^ (gpa >> 15) ^ ((length as u64) << 14)) as usize) % SLOTS;
        let b = &self.slots[slot];
        let mut fresh = b.key == k && b.generation == source.code.generation(gpa);
        if fresh && let Some((page, generation)) = b.next {
            fresh = next_page? == page && source.code.generation(page) == generation;
        }
        if !fresh {
            self.slots[slot] = source.decode(gpa, (size, length), k, next_page)?;
        }
        Ok(&mut self.slots[slot])
    }
}

/// What blocks are decoded from.
pub(crate) struct Source<'a> {
    pub(crate) ram: &'a Ram,
    pub(crate) code: &'a CodePages,
    pub(crate) natives: &'a mut Natives,
    /// Told of what is decoded.
    pub(crate) board: &'a dyn Board,
    /// Pages that have begun to hold code, which this CPU's TLB may not keep writable.
    pub(crate) became_code: Vec<u64>,
}

impl Source<'_> {
    fn mark(&mut self, gpa: u64, len: u64) {
        let first = self.code.mark(gpa, len);
        if first {
            self.became_code.push(gpa);
        }
        self.board.decoded(gpa, len, if first { First::Yes } else { First::No });
    }

    fn decode(
        &mut self,
        gpa: u64,
        (size, length): (CodeSize, Length),
        key: u64,
        next_page: NextPage,
    ) -> Result<Block, crate::fault::Fault> {
        let longest = if length == Length::One { 1 } else { LONGEST };
        // Marked before the bytes are read: a write from now on starts a new generation, which is not the one of before.
        let room = (PAGE - (gpa & (PAGE - 1))) as usize;
        let generation = self.code.generation(gpa);
        self.mark(gpa, room.min(longest * 15) as u64);
        let mut bytes = [0; LONGEST * 15];
        let n = room.min(longest * 15);
        if !self.ram.read(gpa, &mut bytes[..n]) {
            bytes[..n].fill(0xff);
        }
        let mut ops = Vec::with_capacity(12);
        let mut at = 0;
        while ops.len() < longest && at < n {
            let Some(i) = instruction(&bytes[at..n], size) else { break };
            let (o, flow) = op(&i, size, self.natives);
            at += i.len().max(1);
            ops.push(o);
            if flow == Flow::Ends || i.is_invalid() {
                break;
            }
        }
        let mut next = None;
        if ops.is_empty() {
            let page = next_page?;
            let second = self.code.generation(page);
            self.mark(page, 16);
            let mut tail = [0xff; 15];
            self.ram.read(page, &mut tail);
            let mut both = [0; 30];
            both[..n].copy_from_slice(&bytes[..n]);
            both[n..n + 15].copy_from_slice(&tail);
            if let Some(i) = instruction(&both[..n + 15], size) {
                ops.push(op(&i, size, self.natives).0);
            }
            next = Some((page, second));
        }
        Ok(Block { key, generation, next, ops: ops.into(), entered: 0 })
    }
}
