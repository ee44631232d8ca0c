//! One processor: its state, its caches, and the loop that runs blocks.

use crate::decode::Op;
use crate::decode::cache::{BlockCache, Length, NextPage, Source};
use crate::exec::{Board, Exec, First, Shared};
use crate::fault::{Done, Fault, GP0, vector};
use crate::flags;
use crate::host::core::{Core, CoreBox};
use crate::host::jit::{Behind, Exit, Found, Jit, Key, Link, Site, enter};
use crate::host::native::Natives;
use crate::host::ram::PAGE;
use crate::mmu::fetch::FetchTlb;
use crate::state::{CR0_EM, CR0_TS, CR4_FSGSBASE, CR4_OSFXSR, CR4_SMAP, CS, CodeSize, CpuState, View};
use crate::translate::{Fpu, Locks, Pace, Place};

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

/// What runs 64-bit code, and 32-bit code in segments that are the whole address space.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tier {
    /// Translated code where a block runs often enough, the interpreter elsewhere.
    #[default]
    Translate,
    /// The interpreter alone: slower, and the judge of the other.
    Interpret,
}

/// A processor.
pub(crate) struct Cpu {
    core: CoreBox,
    fetch: Box<FetchTlb>,
    natives: Natives,
    blocks: BlockCache,
    jit: Jit,
    tier: Tier,
}

impl Cpu {
    /// A processor after reset.
    ///
    /// # Errors
    /// There is no memory for generated code.
    pub(crate) fn new(shared: &Shared, tier: Tier) -> std::io::Result<Self> {
        Ok(Self {
            core: CoreBox::new(std::sync::Arc::clone(&shared.ram))?,
            fetch: Box::new(FetchTlb::new()),
            natives: Natives::new()?,
            blocks: BlockCache::new(),
            jit: Jit::new()?,
            tier,
        })
    }

    /// Instructions translated so far.
    #[cfg(any(test, feature = "diff"))]
    pub(crate) fn translated(&self) -> u64 {
        self.jit.translated
    }

    pub(crate) fn state(&self) -> &CpuState {
        &self.core.state
    }

    pub(crate) fn state_mut(&mut self) -> &mut CpuState {
        &mut self.core.state
    }

    /// To be called when the state was changed from outside.
    pub(crate) fn state_changed(&mut self) {
        self.core.tlb.flush();
        self.fetch.flush();
        self.jit.forget_jumps();
        self.jit.stale = true;
    }

    /// Every page becomes read-only in the TLB: the next write to each is seen.
    pub(crate) fn protect_all(&mut self) {
        self.core.tlb.protect_all();
    }

    /// Forgets that a page may be written; says whether it could be.
    pub(crate) fn protect(&mut self, shared: &Shared, gpa: u64) -> bool {
        shared.ram.page(gpa).is_some_and(|p| self.core.tlb.protect(p))
    }

    fn split<'a>(&'a mut self, shared: &'a Shared, board: &'a dyn Board) -> Exec<'a> {
        let view = self.core.state.view();
        let core = self.core.pointer();
        let Core { state, tlb, .. } = &mut *self.core;
        Exec {
            s: state,
            tlb,
            fetch: &mut self.fetch,
            natives: &mut self.natives,
            blocks: &mut self.blocks,
            jit: &mut self.jit,
            core,
            shared,
            board,
            view,
            leave: false,
            delivered: false,
        }
    }

    /// Does something with the processor between two instructions.
    pub(crate) fn with<T>(&mut self, shared: &Shared, board: &dyn Board, f: impl FnOnce(&mut Exec<'_>) -> T) -> T {
        f(&mut self.split(shared, board))
    }

    /// Runs until something else has to be done, or about `limit` instructions.
    pub(crate) fn run(&mut self, shared: &Shared, board: &dyn Board, limit: u64) -> Left {
        let tier = self.tier;
        Self::run_loop(&mut self.split(shared, board), tier, limit)
    }

    fn run_loop(x: &mut Exec<'_>, tier: Tier, limit: u64) -> Left {
        let mut link = None;
        let end = x.s.instructions.saturating_add(limit);
        x.jit.end = end;
        loop {
            if x.s.halted {
                return Left::Halted;
            }
            let interrupt = x.s.rflags & flags::IF != 0 && x.board.vector_waits();
            if (interrupt || x.board.attention()) && !x.s.shadow || x.s.nmi_due() {
                return Left::Attention;
            }
            if x.s.instructions >= end {
                return Left::Enough;
            }
            let done = if x.shared.counted.is_some() && end - x.s.instructions < LONGEST_BLOCK {
                link = None;
                step(x, Length::One)
            } else if tier == Tier::Translate && translatable(x) {
                translated(x, &mut link)
            } else {
                link = None;
                step(x, Length::All)
            };
            if let Err(f) = done
                && x.raise(f).is_err()
            {
                return Left::Triple;
            }
        }
    }

    /// Runs exactly one instruction, without delivering its fault.
    #[cfg(any(test, feature = "diff"))]
    pub(crate) fn single(&mut self, shared: &Shared, board: &dyn Board) -> Done {
        run_block(&mut self.split(shared, board), Length::One).map(|_| ())
    }

    /// Translates the `len` bytes at the instruction pointer and runs them; a fault is [`Fault::Triple`], whatever it was.
    #[cfg(any(test, feature = "diff"))]
    pub(crate) fn single_translated(&mut self, shared: &Shared, board: &dyn Board, len: usize) -> Done {
        let x = &mut self.split(shared, board);
        let gpa = x.fetch_address(x.s.rip)?;
        let size = x.s.code_size();
        let key = Key::new(gpa, x.s.rip, x.view, Fpu::Ready, size);
        let terms = Terms { fpu: Fpu::Ready, ..Terms::of(x.s) };
        let begin = Begin { key, view: x.view, size, terms, generation: x.shared.code.generation(gpa) };
        let Found::Code(entry) = (if translatable(x) { translate(x, &begin, len) } else { Found::Interpret }) else {
            return run_block(x, Length::One).map(|_| ()).map_err(|_| Fault::Triple);
        };
        x.leave = false;
        match enter(x, entry) {
            Exit::Next(_) => Ok(()),
            Exit::Triple => Err(Fault::Triple),
        }
    }
}

/// What became of an instruction that translated code left to the interpreter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stepped {
    /// Translated code goes on behind it.
    GoOn,
    /// The dispatcher goes on at the instruction pointer.
    Leave,
    /// The CPU shut down.
    Triple,
}

/// One instruction for translated code, by its number. Its block has counted it and those behind it.
pub(crate) fn step_in_block(x: &mut Exec<'_>, number: usize) -> Stepped {
    let (site, op) = x.jit.site(number);
    let counted = x.s.instructions;
    x.view = x.s.view();
    let before = counted - u64::from(site.behind) - 1;
    x.s.instructions = before;
    if let Some(clock) = &x.shared.counted {
        clock.count(before);
    }
    x.leave = false;
    x.s.rip = site.rip;
    if site.then == Behind::Straddles {
        x.s.instructions = counted - 1;
        return match run_block(x, Length::All) {
            Err(f) if x.raise(f).is_err() => Stepped::Triple,
            _ => Stepped::Leave,
        };
    }
    let (done, completed) = match op.map_or_else(|| decode_site(x, number, &site), Ok) {
        Ok(op) => {
            x.s.rip = site.rip.wrapping_add(u64::from(op.len));
            match (op.run)(x, &op) {
                Ok(()) if !x.leave && site.then == Behind::Block => {
                    x.s.instructions = counted;
                    return Stepped::GoOn;
                }
                // What the instruction met by itself: a step that sysret begins, a task that is to be told of.
                Ok(()) if x.s.debug_hits != 0 && !x.s.debug_waits() => (Err(Fault::plain(vector::DB)), 1),
                Ok(()) => (Ok(()), 1),
                Err(f) => {
                    x.s.rip = site.rip;
                    (if f == Fault::Again { Ok(()) } else { Err(f) }, 0)
                }
            }
        }
        // The code has changed meanwhile.
        Err(Fault::Again) => (Ok(()), 0),
        Err(f) => (Err(f), 0),
    };
    x.s.instructions = before + completed;
    match done {
        Err(f) if x.raise(f).is_err() => Stepped::Triple,
        _ => Stepped::Leave,
    }
}

/// Decodes an instruction of a block, all of which is in one page.
fn decode_site(x: &mut Exec<'_>, number: usize, site: &Site) -> Result<Op, Fault> {
    let gpa = x.fetch_address(site.rip)?;
    let mut bytes = [0xff; 15];
    let len = bytes.len().min((PAGE - (gpa & (PAGE - 1))) as usize);
    x.shared.ram.read(gpa, &mut bytes[..len]);
    let size = x.s.code_size();
    let Some(instr) = crate::decode::instruction(&bytes[..len], size) else { return Err(Fault::Again) };
    if x.natives.nearly_full() {
        // Ops hold stubs: both are dropped before translated code is entered again.
        x.jit.stale = true;
        x.leave = true;
    }
    let (op, _) = crate::decode::op(&instr, size, x.natives);
    x.jit.decoded_site(number, op);
    Ok(op)
}

/// The translated code at the instruction pointer, if it is known and nothing else has to be done before.
pub(crate) fn next_code(x: &mut Exec<'_>) -> Option<u64> {
    let interrupt = x.s.rflags & flags::IF != 0 && x.board.vector_waits();
    let other = interrupt || x.s.nmi_due() || x.s.halted || x.board.attention() || x.s.instructions >= x.jit.end;
    let outdated = x.jit.stale || x.jit.epoch != x.shared.code.epoch() || x.jit.terms != Terms::of(x.s);
    if other || outdated || !translatable(x) {
        return None;
    }
    x.view = x.s.view();
    x.jit.jump(x.view, x.s.code_size(), x.s.rip)
}

/// Whether translated code can run now.
fn translatable(x: &Exec<'_>) -> bool {
    let masked = x.s.fx.masked();
    let level = x.s.cpl == 0 || x.s.cpl == 3;
    level
        && (x.s.code64() || x.s.flat32())
        && !x.s.shadow
        && !x.s.checks_alignment()
        && x.s.rflags & (flags::TF | flags::RF) == 0
        && x.s.dr[7] & 0xff == 0
        && masked
}

/// What translations take for granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Terms {
    /// Is part of their keys.
    fpu: Fpu,
    /// Stands in the code itself.
    pub(crate) built_in: BuiltIn,
}

/// Registers whose values stand in translated code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BuiltIn {
    /// Selectors of system calls.
    pub(crate) star: u64,
    /// Where system calls go.
    pub(crate) lstar: u64,
    /// Flags that they clear.
    pub(crate) sfmask: u64,
    /// System calls are allowed.
    pub(crate) efer: u64,
    /// CR4.SMAP and FSGSBASE.
    pub(crate) cr4: u64,
}

impl Terms {
    pub(crate) fn of(s: &CpuState) -> Self {
        let fpu = if s.cr0 & (CR0_EM | CR0_TS) == 0 && s.cr4 & CR4_OSFXSR != 0 { Fpu::Ready } else { Fpu::Trapped };
        let m = &s.msr;
        let cr4 = s.cr4 & (CR4_SMAP | CR4_FSGSBASE);
        Self { fpu, built_in: BuiltIn { star: m.star, lstar: m.lstar, sfmask: m.sfmask, efer: s.efer, cr4 } }
    }
}

/// Runs translated code, or the interpreter until a block has shown that it is worth translating.
fn translated(x: &mut Exec<'_>, link: &mut Option<Link>) -> Done {
    // A fault on the way must not leave a link to whatever runs next.
    let mut pending = link.take();
    let (now, terms) = (x.shared.code.epoch(), Terms::of(x.s));
    if x.jit.stale || terms.built_in != x.jit.terms.built_in {
        forget_translations(x);
        pending = None;
    } else if now != x.jit.epoch || terms != x.jit.terms {
        x.jit.forget_jumps();
        pending = None;
    }
    (x.jit.epoch, x.jit.terms) = (now, terms);
    // Translated code changes EFLAGS.AC by itself.
    x.view = x.s.view();
    let lin = x.s.rip;
    let (gpa, global) = x.fetch_page(lin)?;
    let size = x.s.code_size();
    let key = Key::new(gpa, lin, x.view, terms.fpu, size);
    let generation = x.shared.code.generation(gpa);
    let found = x.jit.find(&key, generation);
    if found == Found::Unknown {
        // The block may end in another mode than it is translated for.
        let begin = Begin { key, view: x.view, size, terms, generation };
        let entered = run_block(x, Length::All)?;
        if entered >= WORTH && x.shared.code.generation(gpa) == generation {
            translate(x, &begin, usize::MAX);
        }
        return Ok(());
    }
    let Found::Code(entry) = found else {
        return run_block(x, Length::All).map(|_| ());
    };
    // Where each instruction is waited for every block comes back here.
    if x.shared.counted.is_none() {
        if let Some(at) = pending {
            x.jit.link(at, entry, global);
        }
        x.jit.remember_jump(&key, entry, global);
    }
    x.leave = false;
    let exit = enter(x, entry);
    x.view = x.s.view();
    match exit {
        Exit::Next(l) => {
            *link = l;
            Ok(())
        }
        Exit::Triple => Err(Fault::Triple),
    }
}

/// Forgets every translation, and decoded instructions where they have taken up their room.
fn forget_translations(x: &mut Exec<'_>) {
    if x.natives.nearly_full() {
        x.blocks.clear();
        x.natives.clear();
    }
    x.jit.clear(&x.shared.counters);
}

/// No block has more instructions, in the interpreter or translated.
const LONGEST_BLOCK: u64 = 256;

/// How often the interpreter runs a block before it is translated.
const WORTH: u32 = 2;

/// What is so where a block begins.
struct Begin {
    key: Key,
    view: View,
    size: CodeSize,
    terms: Terms,
    /// Of its page, before its bytes were read.
    generation: u32,
}

/// Translates a block, out of at most `limit` bytes.
fn translate(x: &mut Exec<'_>, begin: &Begin, limit: usize) -> Found {
    let Begin { key, view, size, terms, generation } = *begin;
    if x.jit.nearly_full() {
        x.jit.clear(&x.shared.counters);
    }
    let mut page = [0; PAGE as usize];
    let start = key.gpa & !(PAGE - 1);
    let len = limit.saturating_add((key.gpa - start) as usize).min(PAGE as usize);
    if !x.shared.ram.read(start, &mut page[..len]) {
        return x.jit.keep(key, generation, None, &x.shared.counters);
    }
    let place = Place {
        lin: key.lin,
        page: &page[..len],
        size,
        view,
        built_in: terms.built_in,
        locks: if x.shared.cpus > 1 { Locks::Kept } else { Locks::Dropped },
        fpu: terms.fpu,
        pace: if x.shared.counted.is_some() { Pace::Counted } else { Pace::Free },
        at: x.jit.next_address(),
        offset: x.jit.offset_of_next(),
        thunks: x.jit.thunks(),
    };
    let Some(made) = crate::translate::block(place, x.jit) else {
        return x.jit.keep(key, generation, None, &x.shared.counters);
    };
    x.jit.translated += made.guests as u64;
    for part in &made.parts {
        let (gpa, bytes) = (start + part.start as u64, part.len() as u64);
        let first = x.shared.code.mark(gpa, bytes);
        x.board.decoded(gpa, bytes, if first { First::Yes } else { First::No });
        if first && let Some(p) = x.shared.ram.page(gpa) {
            x.tlb.protect(p);
        }
    }
    // A write since the page was read started a new generation: then this translation is never found. But what was not marked yet
    // when it was read may have been written without a trace.
    let mut again = [0; PAGE as usize];
    let there = x.shared.ram.read(start, &mut again[..len]);
    if !there || made.parts.iter().any(|part| again[part.clone()] != page[part.clone()]) {
        return Found::Unknown;
    }
    x.jit.keep(key, generation, Some(&made), &x.shared.counters)
}

/// DR6: a debug register was about to be touched.
const GENERAL_DETECT: u64 = 1 << 13;
/// DR6: a single step.
pub(crate) const SINGLE_STEP: u64 = 1 << 14;

/// Runs one block, or one instruction where something has to happen between two.
fn step(x: &mut Exec<'_>, length: Length) -> Done {
    if !x.s.shadow && x.s.rflags & (flags::TF | flags::RF) == 0 && x.s.dr[7] & 0xff == 0 {
        return run_block(x, length).map(|_| ());
    }
    let trap = x.s.rflags & flags::TF != 0;
    let resume = x.s.rflags & flags::RF;
    if x.s.dr[7] & 0xff != 0 && resume == 0 && !x.s.debug_waits() {
        fetch_breakpoints(x)?;
    }
    x.s.shadow = false;
    x.delivered = false;
    let before = x.s.instructions;
    // The flag is over with the instruction, which may set it again.
    x.s.rflags &= !flags::RF;
    let done = run_block(x, Length::One);
    if x.s.instructions == before {
        x.s.rflags |= resume;
    }
    // Breakpoints on data are traps, reported with the step; everything else is a fault, which has none.
    let fault = done.is_err_and(|f| f != Fault::plain(vector::DB)) || x.s.debug_hits & GENERAL_DETECT != 0;
    if fault {
        return done.map(|_| ());
    }
    if trap && !x.s.debug_waits() && !x.delivered {
        x.s.debug_hits |= SINGLE_STEP;
        return Err(Fault::plain(vector::DB));
    }
    done.map(|_| ())
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

/// Runs a block in the interpreter, or one instruction; returns how often the block has been entered.
fn run_block(x: &mut Exec<'_>, length: Length) -> Result<u32, Fault> {
    let lin = linear_rip(x)?;
    let size = x.s.code_size();
    let gpa = x.fetch_address(lin)?;
    let next: NextPage =
        if gpa & (PAGE - 1) > PAGE - 15 { x.fetch_address(x.page_behind(lin)) } else { Err(Fault::Triple) };
    if x.natives.nearly_full() {
        x.blocks.clear();
        x.natives.clear();
        x.jit.stale = true;
    }
    let shared = x.shared;
    let mut source =
        Source { ram: &shared.ram, code: &shared.code, natives: x.natives, board: x.board, became_code: Vec::new() };
    let block = x.blocks.block(gpa, (size, length), &mut source, next)?;
    block.entered = block.entered.saturating_add(1);
    let entered = block.entered;
    // Shared while they run, so that handlers have all of the CPU.
    let ops = std::sync::Arc::clone(&block.ops);
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
    for op in ops.iter() {
        let start = x.s.rip;
        x.s.rip = start.wrapping_add(u64::from(op.len)) & ip_mask;
        if let Some(clock) = &shared.counted {
            clock.count(x.s.instructions + done);
        }
        if let Err(f) = (op.run)(x, op) {
            x.s.rip = start;
            x.s.instructions += done;
            return match f {
                Fault::Again if x.s.debug_hits != 0 => Err(Fault::plain(vector::DB)),
                Fault::Again => Ok(entered),
                _ => Err(f),
            };
        }
        done += 1;
        if x.leave {
            break;
        }
    }
    x.s.instructions += done;
    if x.s.debug_hits != 0 && !x.s.debug_waits() {
        return Err(Fault::plain(vector::DB));
    }
    Ok(entered)
}
