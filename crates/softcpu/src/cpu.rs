//! One processor: its state, its caches, and the loop that runs blocks.

use crate::decode::cache::{BlockCache, NextPage, Source};
use crate::exec::{Board, Exec, Shared};
use crate::fault::{Done, Fault, GP0, vector};
use crate::flags;
use crate::host::native::Natives;
use crate::host::ram::PAGE;
use crate::host::tlb::Tlb;
use crate::mmu::fetch::FetchTlb;
use crate::state::{CS, CodeSize, CpuState};

/// Why the loop was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Left {
    /// The board asks for attention.
    Attention,
    /// `hlt` ran.
    Halted,
    /// As many instructions as asked for have run.
    Enough,
    /// Three faults in a row.
    Triple,
}

/// A processor.
pub(crate) struct Cpu {
    pub(crate) state: Box<CpuState>,
    tlb: Box<Tlb>,
    fetch: Box<FetchTlb>,
    natives: Natives,
    blocks: BlockCache,
}

impl Cpu {
    /// A processor after reset.
    ///
    /// # Errors
    /// There is no memory for generated code.
    pub(crate) fn new(shared: &Shared) -> std::io::Result<Self> {
        Ok(Self {
            state: Box::default(),
            tlb: Tlb::new(std::sync::Arc::clone(&shared.ram)),
            fetch: Box::new(FetchTlb::new()),
            natives: Natives::new()?,
            blocks: BlockCache::new(),
        })
    }

    /// To be called when the state was changed from outside.
    pub(crate) fn state_changed(&mut self) {
        self.tlb.flush();
        self.fetch.flush();
    }

    /// Every page becomes read-only in the TLB: the next write to each is seen.
    pub(crate) fn protect_all(&mut self) {
        self.tlb.protect_all();
    }

    /// Forgets that a page may be written; says whether it could be.
    pub(crate) fn protect(&mut self, shared: &Shared, gpa: u64) -> bool {
        shared.ram.page(gpa).is_some_and(|p| self.tlb.protect(p))
    }

    fn split<'a>(&'a mut self, shared: &'a Shared, board: &'a dyn Board) -> (Exec<'a>, &'a mut BlockCache) {
        let view = self.state.view();
        let x = Exec {
            s: &mut self.state,
            tlb: &mut self.tlb,
            fetch: &mut self.fetch,
            natives: &mut self.natives,
            shared,
            board,
            view,
            leave: false,
        };
        (x, &mut self.blocks)
    }

    /// Does something with the processor between two instructions.
    pub(crate) fn with<T>(&mut self, shared: &Shared, board: &dyn Board, f: impl FnOnce(&mut Exec<'_>) -> T) -> T {
        f(&mut self.split(shared, board).0)
    }

    /// Runs until something else has to be done, or about `limit` instructions.
    pub(crate) fn run(&mut self, shared: &Shared, board: &dyn Board, limit: u64) -> Left {
        let (mut x, blocks) = self.split(shared, board);
        let end = x.s.instructions.saturating_add(limit);
        loop {
            if x.s.halted {
                return Left::Halted;
            }
            let interrupt = x.s.rflags & flags::IF != 0 && x.board.vector_waits();
            if (interrupt || x.board.attention()) && !x.s.shadow {
                return Left::Attention;
            }
            if x.s.instructions >= end {
                return Left::Enough;
            }
            if let Err(f) = step(&mut x, blocks)
                && x.raise(f).is_err()
            {
                return Left::Triple;
            }
        }
    }

    /// Runs exactly one instruction, without delivering its fault.
    #[cfg(any(test, feature = "diff"))]
    pub(crate) fn single(&mut self, shared: &Shared, board: &dyn Board) -> Done {
        let (mut x, blocks) = self.split(shared, board);
        run_block(&mut x, blocks, Length::One)
    }
}

/// How much of a block runs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Length {
    All,
    One,
}

/// Runs one block, or one instruction where something has to happen between two.
fn step(x: &mut Exec<'_>, blocks: &mut BlockCache) -> Done {
    if !x.s.shadow && x.s.rflags & (flags::TF | flags::RF) == 0 && x.s.dr[7] & 0xff == 0 {
        return run_block(x, blocks, Length::All);
    }
    let trap = x.s.rflags & flags::TF != 0;
    if x.s.dr[7] & 0xff != 0 && x.s.rflags & flags::RF == 0 {
        fetch_breakpoints(x)?;
    }
    x.s.shadow = false;
    let before = x.s.instructions;
    let resume = x.s.rflags & flags::RF;
    run_block(x, blocks, Length::One)?;
    if x.s.instructions == before {
        return Ok(());
    }
    if resume != 0 && x.s.rflags & flags::RF != 0 && !x.leave {
        x.s.rflags &= !flags::RF;
    }
    if trap && !x.s.shadow {
        x.s.dr[6] |= 1 << 14;
        return Err(Fault::plain(vector::DB));
    }
    Ok(())
}

/// Breakpoints on the instruction about to run. Source: Intel SDM volume 3B, section 18.3.1.1.
fn fetch_breakpoints(x: &mut Exec<'_>) -> Done {
    let lin = linear_rip(x)?;
    let dr7 = x.s.dr[7];
    for i in 0..4 {
        if dr7 & (3 << (2 * i)) != 0 && (dr7 >> (16 + 4 * i)) & 3 == 0 && x.s.dr[i] == lin {
            x.s.debug_hits |= 1 << i;
        }
    }
    if x.s.debug_hits != 0 { Err(Fault::plain(vector::DB)) } else { Ok(()) }
}

fn linear_rip(x: &Exec<'_>) -> Result<u64, Fault> {
    if x.s.code64() {
        return Ok(x.s.rip);
    }
    let cs = &x.s.seg[CS];
    if x.s.rip > u64::from(cs.limit) {
        return Err(GP0);
    }
    Ok(cs.base.wrapping_add(x.s.rip) & 0xffff_ffff)
}

fn run_block(x: &mut Exec<'_>, blocks: &mut BlockCache, length: Length) -> Done {
    let lin = linear_rip(x)?;
    let size = x.s.code_size();
    let gpa = x.fetch_address(lin)?;
    let next: NextPage = if gpa & (PAGE - 1) > PAGE - 15 {
        x.fetch_address((lin & !(PAGE - 1)).wrapping_add(PAGE))
    } else {
        Err(Fault::Triple)
    };
    let shared = x.shared;
    let mut source =
        Source { ram: &shared.ram, code: &shared.code, natives: x.natives, board: x.board, became_code: Vec::new() };
    let block = blocks.block(gpa, size, &mut source, next)?;
    for page in source.became_code {
        if let Some(p) = shared.ram.page(page) {
            x.tlb.protect(p);
        }
    }
    let ip_mask = match size {
        CodeSize::Bits64 => u64::MAX,
        CodeSize::Bits32 => 0xffff_ffff,
        CodeSize::Bits16 => 0xffff,
    };
    x.leave = false;
    let mut done = 0;
    for op in &block.ops {
        let start = x.s.rip;
        x.s.rip = start.wrapping_add(u64::from(op.len)) & ip_mask;
        if let Err(f) = (op.run)(x, op) {
            x.s.rip = start;
            x.s.instructions += done;
            return if f == Fault::Again { Ok(()) } else { Err(f) };
        }
        done += 1;
        if x.leave || length == Length::One {
            break;
        }
    }
    x.s.instructions += done;
    if x.s.debug_hits != 0 {
        return Err(Fault::plain(vector::DB));
    }
    Ok(())
}
