//! Blocks of guest code to host code, without anything between: most instructions are copied, some with other registers.
//!
//! An instruction with a memory operand gets the TLB's lookup in front of it and its operand replaced by the host address in
//! r9; if the lookup fails, nothing has happened yet and the interpreter does the whole instruction. What is not
//! translated goes the same way, so faults are precise by construction. Flags that are still wanted are kept in ax around a
//! lookup. Flags that nothing reads before they are set again may be wrong when an instruction faults.

mod flags_live;
mod operand;
mod system;
mod transfer;

use iced_x86::{Encoder, FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpKind, Register};

use crate::cpu::BuiltIn;
use crate::host::emit::{Code, R9, R10, R11, RSP_HOST};
use crate::host::jit::{Behind, COUNT, FAR, Jit, LINK, RIP, SAVED_RAX, TLB, Thunks};
use crate::host::ram::PAGE;
use crate::host::tlb::Tlb;
use crate::state::{CR4_SMAP, CodeSize, EFER_SCE, View};
use flags_live::Live;

/// Instructions of a block at most.
const LONGEST: usize = 64;
/// `jmp rel32`.
const JMP: &[u8] = &[0xe9];
/// `call rel32`.
const CALL: &[u8] = &[0xe8];
/// `jne rel32`.
const JNE: &[u8] = &[0x0f, 0x85];
/// `ja rel32`.
const JA: &[u8] = &[0x0f, 0x87];

/// Where and how a block runs.
pub(crate) struct Place<'a> {
    /// Linear address of its first instruction.
    pub(crate) lin: u64,
    /// The rest of its page, as memory has it.
    pub(crate) bytes: &'a [u8],
    /// Permissions of data accesses.
    pub(crate) view: View,
    /// Values that may stand in the code.
    pub(crate) built_in: BuiltIn,
    /// Other CPUs share the memory.
    pub(crate) locks: Locks,
    /// XMM registers may be used.
    pub(crate) fpu: Fpu,
    /// Host address of the code to be made.
    pub(crate) at: u64,
    /// The same as an offset, for links.
    pub(crate) offset: usize,
    pub(crate) thunks: Thunks,
}

impl Place<'_> {
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

/// Whether locked instructions have to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Locks {
    /// Several CPUs share the memory.
    Kept,
    /// There is one CPU, and devices make no locked accesses that could meet its own.
    Dropped,
}

/// A way out of the straight line, emitted behind the block.
enum Cold {
    /// The interpreter does the instruction: (branches that lead here, address, instructions behind it, flags in ax, where to
    /// go on).
    Step { from: Vec<usize>, rip: u64, behind: usize, saved: Saved, resume: usize },
    /// The block is left for an address in its page: the jump is linked then. Inside a page no page table can come between.
    Exit { from: usize, rip: u64 },
    /// The block is left for an address in another page: the jump is linked if that is in every address space, else it goes by the
    /// table of jumps.
    FarExit { from: usize, rip: u64 },
}

/// Whether flags stand in ax and guest rax in the core.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Saved {
    Yes,
    No,
}

/// One guest instruction of the block.
struct Guest {
    instr: Instruction,
    rip: u64,
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
}

/// The code of a block, how many instructions it holds and how many bytes they take; nothing if its first instruction is the interpreter's.
pub(crate) fn block<'a>(place: Place<'a>, jit: &'a mut Jit) -> Option<(Code, usize, usize)> {
    let mut guests = decode(&place);
    if guests.is_empty() {
        return None;
    }
    flags_live::mark(&mut guests);
    let mut t = Translator {
        place,
        jit,
        code: Code::default(),
        encoder: Encoder::new(64),
        uses: InstructionInfoFactory::new(),
        cold: Vec::new(),
    };
    t.count(guests.len(), guests[0].live);
    let mut ended = false;
    for (i, g) in guests.iter().enumerate() {
        ended = t.instruction(g, guests.len() - 1 - i);
    }
    if !ended && let Some(last) = guests.last() {
        let next = last.rip.wrapping_add(last.instr.len() as u64);
        t.jump_to(next);
    }
    t.finish_cold();
    let bytes = guests.iter().map(|g| g.instr.len()).sum();
    Some((t.code, guests.len(), bytes))
}

/// The instructions of a block: up to and with a transfer, or up to one that ends translated code.
fn decode(place: &Place<'_>) -> Vec<Guest> {
    let mut guests = Vec::with_capacity(16);
    let mut at = 0;
    while guests.len() < LONGEST && at < place.bytes.len() {
        let Some(instr) = crate::decode::instruction(&place.bytes[at..], CodeSize::Bits64) else { break };
        if !crate::decode::known(&instr) {
            break;
        }
        let ends = ends_before(&instr) && !inline(&instr, place);
        let rip = place.lin.wrapping_add(at as u64);
        at += instr.len();
        let last = ends || instr.flow_control() != FlowControl::Next;
        guests.push(Guest { instr, rip, live: Live::default(), ends });
        if last {
            break;
        }
    }
    guests
}

/// Whether an instruction that ends blocks elsewhere is done in translated code.
fn inline(i: &Instruction, place: &Place<'_>) -> bool {
    let kernel = place.view != View::User;
    match i.mnemonic() {
        Mnemonic::Stac | Mnemonic::Clac => kernel && place.smap(),
        Mnemonic::Sti => kernel,
        Mnemonic::Syscall => system::call_view(&place.built_in).is_some(),
        Mnemonic::Sysretq => kernel && place.built_in.efer & EFER_SCE != 0,
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
    if matches!(i.mnemonic(), Mnemonic::Ldmxcsr | Mnemonic::Fxrstor | Mnemonic::Fxrstor64 | Mnemonic::Std) {
        return true;
    }
    crate::decode::ends_block(i)
}

impl Translator<'_> {
    /// Adds to the number of instructions, before the first of them.
    fn count(&mut self, n: usize, live: Live) {
        if live.before == 0 {
            self.code.add_mem(RSP_HOST, COUNT, n as i32);
        } else {
            self.code.load(R10, RSP_HOST, COUNT);
            self.code.lea(R10, R10, n as i32);
            self.code.store(RSP_HOST, COUNT, R10);
        }
    }

    /// One instruction; whether it ends the block.
    fn instruction(&mut self, g: &Guest, behind: usize) -> bool {
        if g.ends {
            self.step_and_leave(g);
            return true;
        }
        if g.instr.flow_control() != FlowControl::Next {
            self.transfer(g, behind);
            return true;
        }
        let mark = self.code.len();
        let colds = self.cold.len();
        let ways = [Self::stack, Self::system, Self::divide, Self::plain];
        for way in ways {
            if way(self, g, behind).is_some() {
                return false;
            }
            // Whatever a failed attempt has left is taken back.
            self.code.bytes.truncate(mark);
            self.cold.truncate(colds);
        }
        self.step(g, behind);
        false
    }

    /// Leaves an instruction to the interpreter.
    fn step(&mut self, g: &Guest, behind: usize) {
        self.call_step(g.rip, behind, Behind::Block);
    }

    /// Calls the interpreter for one instruction. Flags are the guest's.
    fn call_step(&mut self, rip: u64, behind: usize, then: Behind) {
        let site = self.jit.add_site(rip, behind as u32, then);
        self.code.mov_imm(R9, u64::from(site));
        let target = self.place.thunks.step;
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

    /// Flags to ax, guest rax to the core.
    fn save_flags(&mut self) {
        self.code.store(RSP_HOST, SAVED_RAX, 0);
        // lahf; seto al
        self.code.raw(&[0x9f, 0x0f, 0x90, 0xc0]);
    }

    /// The way back.
    fn restore_flags(&mut self) {
        // add al, 0x7f; sahf
        self.code.raw(&[0x04, 0x7f, 0x9e]);
        self.code.load(0, RSP_HOST, SAVED_RAX);
    }

    /// The TLB's lookup of the address in r9, which becomes a host address. r10 and flags are lost. Returns the branch that is
    /// taken if it fails.
    fn lookup(&mut self, access: Access, size: usize, aligned: bool) -> usize {
        let table = TLB + Tlb::TABLE * (2 * self.place.view as i32 + i32::from(access == Access::Write));
        let c = &mut self.code;
        c.mov(R10, R9);
        // shr r10, 8; and r10d, 0xff0
        c.raw(&[0x49, 0xc1, 0xea, 8, 0x41, 0x81, 0xe2]);
        c.u32(0xff0);
        // xor r9, [table + r10]
        c.indexed(0x33, R9, R10, table);
        let slow = if aligned {
            // test r9, everything but the aligned offsets of a page
            c.raw(&[0x49, 0xf7, 0xc1]);
            c.u32(!0xff0_u32);
            c.branch(JNE)
        } else {
            // cmp r9, the last offset that fits
            c.raw(&[0x49, 0x81, 0xf9]);
            c.u32(PAGE as u32 - size as u32);
            c.branch(JA)
        };
        // add r9, [table + 8 + r10]
        c.indexed(0x03, R9, R10, table + 8);
        slow
    }

    /// An encoded guest instruction.
    fn encode(&mut self, i: &Instruction) -> Option<()> {
        self.encoder.encode(i, 0).ok()?;
        let bytes = self.encoder.take_buffer();
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
        let memory = operand::memory(i, &mut self.uses)?;
        let Some(memory) = memory else {
            return self.registers_only(g);
        };
        self.address(i, g.rip)?;
        let saved = if g.live.before != 0 { Saved::Yes } else { Saved::No };
        if saved == Saved::Yes {
            self.save_flags();
        }
        let slow = self.lookup(memory.access, memory.size, memory.aligned);
        if saved == Saved::Yes {
            self.restore_flags();
        }
        self.with_memory(i)?;
        let resume = self.code.len();
        self.cold.push(Cold::Step { from: vec![slow], rip: g.rip, behind, saved, resume });
        Some(())
    }

    /// What was put off: emitted behind the block.
    fn finish_cold(&mut self) {
        for cold in std::mem::take(&mut self.cold) {
            match cold {
                Cold::Step { from, rip, behind, saved, resume } => {
                    from.into_iter().for_each(|f| self.code.here(f));
                    if saved == Saved::Yes {
                        self.restore_flags();
                    }
                    self.call_step(rip, behind, Behind::Block);
                    let back = self.place.at + resume as u64;
                    self.code.branch_to(JMP, self.place.at, back);
                }
                Cold::Exit { from, rip } => {
                    self.code.here(from);
                    self.set_rip(rip);
                    let at = self.place.offset + from;
                    self.code.store_imm(RSP_HOST, LINK, at as i32);
                    let exit = self.place.thunks.exit;
                    self.code.branch_to(JMP, self.place.at, exit);
                }
                Cold::FarExit { from, rip } => {
                    self.code.here(from);
                    self.set_rip(rip);
                    let at = self.place.offset + from;
                    self.code.store_imm(RSP_HOST, LINK, at as i32);
                    let far = self.code.store_imm_later(RSP_HOST, FAR);
                    let exit = self.place.thunks.exit;
                    self.code.branch_to(JMP, self.place.at, exit);
                    let table = self.place.offset + self.code.len();
                    self.code.bytes[far..far + 4].copy_from_slice(&(table as u32).to_le_bytes());
                    self.code.mov_imm(R10, rip);
                    self.jump_r10();
                }
            }
        }
    }
}

/// What a lookup is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Access {
    Read,
    Write,
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
