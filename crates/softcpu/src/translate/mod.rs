//! Blocks of guest code to host code, without anything between: most instructions are copied, some with other registers.
//!
//! An instruction with a memory operand gets the TLB's lookup in front of it and its operand replaced by the host address in
//! r9; if the lookup fails, nothing has happened yet and the interpreter does the whole instruction. What is not
//! translated goes the same way, so faults are precise by construction. What becomes of flags meanwhile stands in [`flags`].
//!
//! A block has two entries: one for flags in the host's flags, where a linked jump leads, and one for parked flags, where tables of
//! jumps lead too. The code begins with what it wants itself; the other entry brings them there.

mod bits;
pub(crate) mod flags;
mod memory;
mod narrow;
mod operand;
mod string;
mod system;
#[cfg(test)]
mod tests;
mod transfer;
mod unit;

use std::ops::Range;

use iced_x86::{Encoder, FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpKind, Register};

use crate::cpu::BuiltIn;
use crate::host::emit::{Code, R9, R10, R11, RSP_HOST};
use crate::host::jit::{Behind, COUNT, FAR, Jit, LINK, LINK_PARKED, RIP, Thunks};
use crate::host::lookup::Access;
use crate::host::ram::PAGE;
use crate::state::{CR4_SMAP, CodeSize, EFER_SCE, View};
use flags::{First, Flags, Live, Setter};
use memory::{Look, Miss};
use narrow::Form;

/// Instructions of a block at most.
const LONGEST: usize = 64;
/// Instructions of several turns of a loop that are made in a row, if they are so few: they share the look at what wants the CPU, and the
/// count.
const IN_A_ROW: usize = 24;
/// `jmp rel32`.
const JMP: &[u8] = &[0xe9];
/// `call rel32`.
const CALL: &[u8] = &[0xe8];
/// `jne rel32`.
const JNE: &[u8] = &[0x0f, 0x85];
/// `ja rel32`.
const JA: &[u8] = &[0x0f, 0x87];
/// `jae rel32`, which is `jnc rel32`.
const JAE: &[u8] = &[0x0f, 0x83];
/// `jb rel32`, which is `jc rel32`.
const JB: &[u8] = &[0x0f, 0x82];

/// Where and how a block runs.
pub(crate) struct Place<'a> {
    /// Linear address of its first instruction.
    pub(crate) lin: u64,
    /// Its page up to where it may reach, as memory has it.
    pub(crate) page: &'a [u8],
    /// How wide addresses are.
    pub(crate) size: CodeSize,
    /// Permissions of data accesses.
    pub(crate) view: View,
    /// Values that may stand in the code.
    pub(crate) built_in: BuiltIn,
    /// Other CPUs share the memory.
    pub(crate) locks: Locks,
    /// XMM registers may be used.
    pub(crate) fpu: Fpu,
    /// Whether a block may go on with itself.
    pub(crate) pace: Pace,
    /// Host address of the code to be made.
    pub(crate) at: u64,
    /// The same as an offset, for links.
    pub(crate) offset: usize,
    pub(crate) thunks: Thunks,
}

impl Place<'_> {
    /// An address of instructions, within what they reach.
    fn wrapped(&self, rip: u64) -> u64 {
        if self.size == CodeSize::Bits64 { rip } else { rip & 0xffff_ffff }
    }

    /// Where a direct jump leads.
    fn target(&self, g: &Guest) -> u64 {
        self.wrapped(g.rip.wrapping_add(g.instr.near_branch_target()))
    }

    /// Where the next instruction stands.
    fn next(&self, g: &Guest) -> u64 {
        self.wrapped(g.rip.wrapping_add(g.instr.len() as u64))
    }

    /// Whether EFLAGS.AC changes the view.
    fn smap(&self) -> bool {
        self.built_in.cr4 & CR4_SMAP != 0
    }
}

/// Whether FP and SIMD instructions run without a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fpu {
    Ready,
    Trapped,
}

/// How far translated code may run by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pace {
    /// Until something wants the CPU.
    Free,
    /// A block at most, as instructions are waited for by their number.
    Counted,
}

/// Whether locked instructions have to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Locks {
    /// Several CPUs share the memory.
    Kept,
    /// There is one CPU, and devices make no locked accesses that could meet its own. A lock that is there for the order of accesses only is
    /// kept: a device looks at a ring in the moment in which the driver looks whether it does.
    Dropped,
}

/// A way out of the straight line, emitted behind the block.
enum Cold {
    /// The interpreter does the instruction: what leads here, address, instructions behind it, where flags are, where to go on, and
    /// whether r10 is the place of a page there, and the x87 unit holds the guest's registers.
    Step { from: Vec<Miss>, rip: u64, behind: usize, flags: Flags, resume: usize, placed: bool, ready: bool },
    /// The interpreter does the instruction, and the dispatcher goes on.
    Last { from: Vec<Miss>, rip: u64, behind: usize, flags: Flags },
    /// The guest's registers are not in the x87 unit yet: what leads here, and where to go on.
    Unit { from: usize, resume: usize },
    /// The block is left for an address in its page: the jump is linked then. Inside a page no page table can come between.
    Exit { from: usize, rip: u64, flags: Flags },
    /// A row of turns is left for an address, with so many instructions counted that do not run.
    Early { from: usize, rip: u64, flags: Flags, rest: usize },
    /// The block is left for the dispatcher.
    Leave { from: usize, rip: u64, flags: Flags },
    /// The block is left for an address in another page: the jump is linked if that is in every address space, else it goes by the
    /// table of jumps.
    FarExit { from: usize, rip: u64, flags: Flags },
}

/// One guest instruction of the block.
struct Guest {
    instr: Instruction,
    rip: u64,
    /// Whether its bytes may be copied.
    form: Form,
    /// The interpreter does it, and the block is left.
    ends: bool,
    /// Flags wanted at its begin and behind it.
    live: Live,
}

/// A translation under way.
pub(crate) struct Translator<'a> {
    place: Place<'a>,
    /// Where instructions for the interpreter are noted.
    jit: &'a mut Jit,
    code: Code,
    encoder: Encoder,
    uses: InstructionInfoFactory,
    cold: Vec<Cold>,
    /// What is added to r9 for the memory operand at hand.
    offset: i32,
    /// Lookups that may have to be done the long way.
    looks: Vec<Look>,
    /// Where r10 is the place of a page in a table: the register whose page it is.
    placed: Option<Register>,
    /// The x87 unit holds the guest's registers.
    ready: bool,
    /// Where flags are at this point of the code.
    flags: Flags,
    /// How the flags of this point can be had again.
    setter: Option<Setter>,
    /// A block that jumps back to its own begin.
    turn: Turn,
    /// What becomes of the flags that the block is entered with.
    first: First,
    /// Bytes of the page that decided how jumps back are made.
    seen: Vec<Range<usize>>,
}

/// How a block that jumps back to its own begin is made: as itself, and once more for every turn but the first, as then the flags can be
/// had again from its last comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    /// It does not, or has nothing to gain.
    Plain,
    /// The first turn.
    First,
    /// The first turn is made; the branch to the others stands here.
    Others(usize),
    /// The others, which start here.
    Here(usize),
    /// One that goes on to the next in a row: so many instructions are counted behind it.
    Through(usize),
}

/// A block in machine code.
pub(crate) struct Translation {
    pub(crate) code: Code,
    /// Where it is entered with flags in the host's flags.
    pub(crate) host: usize,
    /// Where it is entered with parked flags.
    pub(crate) parked: usize,
    /// Instructions.
    pub(crate) guests: usize,
    /// The parts of the page that it was made from.
    pub(crate) parts: Vec<Range<usize>>,
}

/// Code that leaves an instruction which goes on in the next page to the interpreter.
fn straddler(place: Place<'_>, jit: &mut Jit) -> Translation {
    let lin = place.lin;
    let mut t = Translator::new(place, jit);
    let (host, parked) = t.begin(1, First::Host);
    t.call_step(lin, 0, Behind::Straddles);
    let at = (lin & (PAGE - 1)) as usize;
    let parts = std::iter::once(at..t.place.page.len()).collect();
    Translation { code: t.code, host, parked, guests: 1, parts }
}

/// The code of a block; nothing if its first instruction is the interpreter's.
pub(crate) fn block<'a>(place: Place<'a>, jit: &'a mut Jit) -> Option<Translation> {
    let at = (place.lin & (PAGE - 1)) as usize;
    let guests = decode(&place, at);
    if guests.is_empty() {
        let straddles = crate::decode::instruction(&place.page[at..], place.size).is_none();
        return straddles.then(|| straddler(place, jit));
    }
    let mut t = Translator::new(place, jit);
    let first = flags::first(&guests);
    let turns = t.place.pace == Pace::Free && turns(&guests, &t.place);
    let (times, turn) = match first {
        First::Dead if turns => (times(&guests), Turn::Plain),
        First::Parked if turns => (1, Turn::First),
        _ => (1, Turn::Plain),
    };
    let (host, parked) = t.begin(times * guests.len(), first);
    let ended = t.in_a_row(&guests, times, turn);
    t.other_turns(&guests);
    if !ended && let Some(last) = guests.last() {
        let next = t.place.next(last);
        t.jump_to(next);
    }
    t.finish_cold();
    let mut parts = t.seen;
    parts.push(at..at + length(&guests));
    Some(Translation { code: t.code, host, parked, guests: guests.len(), parts })
}

/// Whether a block ends in a conditional jump to its begin.
fn turns(guests: &[Guest], place: &Place<'_>) -> bool {
    guests.last().is_some_and(|g| g.instr.is_jcc_short_or_near() && !g.ends && place.target(g) == place.lin)
}

/// How often a block that jumps back to its begin is made in a row.
fn times(guests: &[Guest]) -> usize {
    (IN_A_ROW / guests.len()).clamp(1, 4)
}

/// Bytes of instructions in a row.
fn length(guests: &[Guest]) -> usize {
    guests.iter().map(|g| g.instr.len()).sum()
}

/// The instructions of a block that starts at an offset of the page: up to and with a transfer, or up to one that ends translated
/// code. What they want of flags is marked.
fn decode(place: &Place<'_>, at: usize) -> Vec<Guest> {
    let mut guests = Vec::with_capacity(16);
    let start = place.lin & !(PAGE - 1);
    let mut at = at;
    while guests.len() < LONGEST && at < place.page.len() {
        let Some(instr) = crate::decode::instruction(&place.page[at..], place.size) else { break };
        if !crate::decode::known(&instr) {
            break;
        }
        let instr = crate::decode::as_older(instr);
        let narrow = place.size == CodeSize::Bits32;
        let (instr, form) = if narrow { narrow::widened(instr) } else { (instr, Form::Same) };
        let ends = ends_before(&instr) && !inline(&instr, place) || narrow && narrow::ends(&instr);
        let rip = start.wrapping_add(at as u64);
        at += instr.len();
        let last = ends || instr.flow_control() != FlowControl::Next;
        guests.push(Guest { instr, rip, form, live: Live::default(), ends });
        if last {
            break;
        }
    }
    flags::mark(&mut guests);
    guests
}

/// Whether an instruction that ends blocks elsewhere is done in translated code.
fn inline(i: &Instruction, place: &Place<'_>) -> bool {
    let kernel = place.view != View::User;
    let wide = place.size == CodeSize::Bits64;
    match i.mnemonic() {
        Mnemonic::Stac | Mnemonic::Clac => kernel && place.smap(),
        Mnemonic::Sti => kernel,
        Mnemonic::Syscall => wide && system::call_view(&place.built_in).is_some(),
        Mnemonic::Sysretq => wide && kernel && place.built_in.efer & EFER_SCE != 0,
        _ => false,
    }
}

/// Whether an instruction is the dispatcher's: it changes modes, or more than its step could tell.
fn ends_before(i: &Instruction) -> bool {
    match i.flow_control() {
        FlowControl::Next => {}
        FlowControl::UnconditionalBranch | FlowControl::ConditionalBranch => return i.is_loop() || i.is_loopcc(),
        FlowControl::Call => return i.is_call_far() || i.mnemonic() != Mnemonic::Call,
        FlowControl::IndirectBranch | FlowControl::IndirectCall => {
            return i.is_jmp_far_indirect() || i.is_call_far_indirect();
        }
        FlowControl::Return => return i.mnemonic() != Mnemonic::Ret,
        _ => return true,
    }
    use Mnemonic as M;
    if matches!(i.mnemonic(), M::Fldenv | M::Frstor | M::Fxrstor | M::Fxrstor64 | M::Ldmxcsr | M::Std) {
        return true;
    }
    crate::decode::ends_block(i)
}

impl<'a> Translator<'a> {
    fn new(place: Place<'a>, jit: &'a mut Jit) -> Self {
        let (code, encoder) = (Code::default(), Encoder::new(64));
        let uses = InstructionInfoFactory::new();
        let (cold, seen, looks) = (Vec::new(), Vec::new(), Vec::new());
        Self {
            place,
            jit,
            code,
            encoder,
            uses,
            cold,
            looks,
            offset: 0,
            placed: None,
            ready: false,
            flags: Flags::Host,
            setter: None,
            turn: Turn::Plain,
            first: First::Host,
            seen,
        }
    }

    /// The entries, and behind them the number of instructions is added up. Returns where they are.
    fn begin(&mut self, n: usize, first: First) -> (usize, usize) {
        self.first = first;
        let entries = match first {
            First::Host => {
                self.code.unpark();
                (self.code.len(), 0)
            }
            First::Parked => {
                self.park();
                (0, self.code.len())
            }
            First::Dead => (0, 0),
        };
        self.count(n);
        entries
    }

    /// Adds up the number of instructions. Flags are kept.
    fn count(&mut self, n: usize) {
        self.add_to_count(n as i32);
    }

    fn add_to_count(&mut self, n: i32) {
        self.placed = None;
        self.code.load(R10, RSP_HOST, COUNT);
        self.code.lea(R10, R10, n);
        self.code.store(RSP_HOST, COUNT, R10);
    }

    /// What becomes of flags in the block at an address in this page.
    fn flags_there(&mut self, target: u64) -> First {
        if target == self.place.lin {
            return self.first;
        }
        let at = (target & (PAGE - 1)) as usize;
        let guests = decode(&self.place, at);
        self.seen.push(at..(at + length(&guests) + 15).min(self.place.page.len()));
        flags::first(&guests)
    }

    /// All instructions, several times in a row, the last of which is made as `last`; whether the last instruction ends the block.
    fn in_a_row(&mut self, guests: &[Guest], times: usize, last: Turn) -> bool {
        let mut ended = false;
        for left in (0..times).rev() {
            let rest = left * guests.len();
            self.turn = if left > 0 { Turn::Through(rest) } else { last };
            for (i, g) in guests.iter().enumerate() {
                ended = self.instruction(g, rest + guests.len() - 1 - i);
            }
        }
        ended
    }

    /// Every turn but the first of a block that jumps back to its begin.
    fn other_turns(&mut self, guests: &[Guest]) {
        let (Turn::Others(from), Some(setter)) = (self.turn, self.setter) else { return };
        self.code.here(from);
        let (begin, times) = (self.code.len(), times(guests));
        self.ready = false;
        self.flags = Flags::Again(setter);
        self.poll(self.place.lin, First::Dead);
        self.count(times * guests.len());
        self.in_a_row(guests, times, Turn::Here(begin));
    }

    /// One instruction; whether it ends the block.
    fn instruction(&mut self, g: &Guest, behind: usize) -> bool {
        self.keep_setter(g);
        if g.ends {
            self.step_and_leave(g);
            return true;
        }
        if g.instr.flow_control() != FlowControl::Next {
            self.transfer(g, behind);
            return true;
        }
        let mark = self.code.len();
        let (colds, looks) = (self.cold.len(), self.looks.len());
        let (flags, setter, placed, ready) = (self.flags, self.setter, self.placed, self.ready);
        let ways = [
            Self::stack,
            Self::system,
            Self::processor,
            Self::string,
            Self::bit_in_memory,
            Self::divide,
            Self::plain,
            Self::unit,
        ];
        for way in ways {
            if way(self, g, behind).is_some() {
                return false;
            }
            // Whatever a failed attempt has left is taken back.
            self.code.bytes.truncate(mark);
            self.cold.truncate(colds);
            self.looks.truncate(looks);
            (self.flags, self.setter, self.placed, self.ready) = (flags, setter, placed, ready);
        }
        self.step(g, behind);
        false
    }

    /// Leaves an instruction to the interpreter.
    fn step(&mut self, g: &Guest, behind: usize) {
        // It may unmask exceptions, which translated code must not meet.
        let then = if g.instr.mnemonic() == Mnemonic::Fldcw { Behind::Dispatcher } else { Behind::Block };
        self.call_step(g.rip, behind, then);
        (self.flags, self.setter, self.placed, self.ready) = (Flags::Host, None, None, false);
    }

    /// Calls the interpreter for one instruction. Flags are in the host's flags then, and where they were.
    fn call_step(&mut self, rip: u64, behind: usize, then: Behind) {
        let site = self.jit.add_site(rip, behind as u32, then);
        if let Flags::Again(s) = self.flags {
            self.code.raw(s.code());
        }
        self.code.mov_imm(R9, u64::from(site));
        let target = match self.flags {
            Flags::Host | Flags::Again(_) => self.place.thunks.step,
            Flags::Parked => self.place.thunks.step_parked,
        };
        self.code.branch_to(CALL, self.place.at, target);
    }

    /// Puts an address into the core; r10 is lost if it is a long one.
    fn set_rip(&mut self, rip: u64) {
        match i32::try_from(rip as i64) {
            Ok(v) => self.code.store_imm(RSP_HOST, RIP, v),
            Err(_) => {
                self.code.mov_imm(R10, rip);
                self.code.store(RSP_HOST, RIP, R10);
            }
        }
    }

    /// An encoded guest instruction.
    fn encode(&mut self, i: &Instruction) -> Option<()> {
        let done = self.encoder.encode(i, 0);
        // What can't be encoded, such as `mov ah, [r9]`, has left bytes there, too.
        let bytes = self.encoder.take_buffer();
        done.ok()?;
        self.code.raw(&bytes);
        Some(())
    }

    /// An instruction that is copied, with its registers and memory operand renamed where they have to be.
    fn plain(&mut self, g: &Guest, behind: usize) -> Option<()> {
        let i = &g.instr;
        let class = operand::class(i, self.place.fpu)?;
        if class == operand::Class::Nothing {
            return Some(());
        }
        let Some(memory) = operand::memory(i, &mut self.uses)? else {
            return self.copy_of_registers(g);
        };
        let slow = self.operand_lookup(g, &memory)?;
        let flags = self.flags;
        self.copy_with_memory(g)?;
        self.slow_step(g, behind, vec![slow], flags);
        Some(())
    }

    /// The copy of an instruction without a memory operand.
    fn copy_of_registers(&mut self, g: &Guest) -> Option<()> {
        self.before(g);
        self.registers_only(g)?;
        self.behind(g);
        self.forget_place_of_changed(g);
        Some(())
    }

    /// The copy of an instruction whose memory operand was looked up.
    fn copy_with_memory(&mut self, g: &Guest) -> Option<()> {
        self.before(g);
        self.with_memory(&g.instr)?;
        self.behind(g);
        self.forget_place_of_changed(g);
        Some(())
    }

    /// What was put off: emitted behind the block.
    fn finish_cold(&mut self) {
        self.finish_looks();
        for cold in std::mem::take(&mut self.cold) {
            if let Cold::Early { from, rip, flags, rest } = cold {
                self.code.here(from);
                self.flags = flags;
                self.add_to_count(-(rest as i32));
                self.jump_to(rip);
            } else {
                self.cold.push(cold);
            }
        }
        for cold in std::mem::take(&mut self.cold) {
            match cold {
                Cold::Early { .. } => {}
                Cold::Unit { from, resume } => {
                    self.code.here(from);
                    self.code.branch_to(CALL, self.place.at, self.place.thunks.unit);
                    self.code.branch_to(JMP, self.place.at, self.place.at + resume as u64);
                }
                Cold::Step { from, rip, behind, flags, resume, placed, ready } => {
                    self.missed(&from);
                    self.flags = flags;
                    self.call_step(rip, behind, Behind::Block);
                    if placed {
                        // Any place of a table: what is there does not fit, or does.
                        self.code.mov_imm(R10, 0);
                    }
                    if ready {
                        self.code.branch_to(CALL, self.place.at, self.place.thunks.unit);
                    }
                    let back = self.place.at + resume as u64;
                    self.code.branch_to(JMP, self.place.at, back);
                }
                Cold::Last { from, rip, behind, flags } => {
                    self.missed(&from);
                    self.flags = flags;
                    self.call_step(rip, behind, Behind::Dispatcher);
                }
                Cold::Leave { from, rip, flags } => {
                    self.code.here(from);
                    self.flags = flags;
                    self.set_rip(rip);
                    self.leave();
                }
                Cold::Exit { from, rip, flags } => {
                    self.code.here(from);
                    self.ask_for_link(from, rip, flags);
                    self.leave();
                }
                Cold::FarExit { from, rip, flags } => {
                    self.code.here(from);
                    self.ask_for_link(from, rip, flags);
                    let far = self.code.store_imm_later(RSP_HOST, FAR);
                    self.leave();
                    let table = self.place.offset + self.code.len();
                    self.code.bytes[far..far + 4].copy_from_slice(&(table as u32).to_le_bytes());
                    self.park_flags();
                    self.code.mov_imm(R10, rip);
                    self.jump_r10();
                }
            }
        }
    }

    /// Notes the jump that leads here, so that it is linked to what is at `rip`.
    fn ask_for_link(&mut self, from: usize, rip: u64, flags: Flags) {
        self.flags = flags;
        self.fetch_again();
        self.set_rip(rip);
        let at = self.place.offset + from;
        let parked = if flags == Flags::Parked { LINK_PARKED } else { 0 };
        self.code.store_imm(RSP_HOST, LINK, at as i32 | parked);
    }

    /// Flags that can be had again are, before another block wants them.
    fn fetch_again(&mut self) {
        if matches!(self.flags, Flags::Again(_)) {
            self.fetch_flags();
        }
    }

    /// Leaves for the dispatcher; the instruction pointer is set.
    fn leave(&mut self) {
        self.fetch_again();
        let exit = match self.flags {
            Flags::Host | Flags::Again(_) => self.place.thunks.exit,
            Flags::Parked => self.place.thunks.exit_parked,
        };
        self.code.branch_to(JMP, self.place.at, exit);
    }
}

/// Whether an operand is a memory one.
fn is_memory(i: &Instruction, n: u32) -> bool {
    i.op_kind(n) == OpKind::Memory
}

/// Whether an access writes.
fn writes(a: OpAccess) -> bool {
    matches!(a, OpAccess::Write | OpAccess::CondWrite | OpAccess::ReadWrite | OpAccess::ReadCondWrite)
}

/// Whether a register is one of those that translated code keeps in memory.
fn in_memory(r: Register) -> bool {
    r.is_gpr() && matches!(r.full_register(), Register::R9 | Register::R10 | Register::R11)
}

/// The host's register for guest rsp, in the size of `r`.
fn stack_register(r: Register) -> Register {
    debug_assert_eq!(R11, 11);
    match r.size() {
        1 => Register::R11L,
        2 => Register::R11W,
        4 => Register::R11D,
        _ => Register::R11,
    }
}
