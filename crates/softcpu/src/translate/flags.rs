//! Where the guest's flags are while a block runs, and which of them are still wanted.
//!
//! They stand in the host's flags, or, as lookups and comparisons of our own need those, *parked* in the core until an instruction
//! reads them or sets only some. Whatever may leave the block for the interpreter wants all of them, so that faults show them
//! right; between two instructions that set them they are given up if nothing of the kind stands between.

use iced_x86::{FlowControl, Instruction, Mnemonic, OpKind, Register, RflagsBits, UsedRegister};

use super::narrow::Form;
use super::{Guest, JNE, R10, RSP_HOST, Translator, is_memory};
use crate::host::jit::ATTENTION;
use crate::host::ram::PAGE;

const ALL: u32 = RflagsBits::OF | RflagsBits::SF | RflagsBits::ZF | RflagsBits::AF | RflagsBits::CF | RflagsBits::PF;

/// Where the guest's flags are between blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FlagsAt {
    /// In the host's flags.
    Host,
    /// In the core.
    Parked,
}

/// Where the guest's flags are inside a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flags {
    /// In the host's flags.
    Host,
    /// In the core.
    Parked,
    /// Nowhere, but they can be had again.
    Again(Setter),
}

/// Code that has the flags of an instruction that ran before, as long as the registers that it reads stay. r10 is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Setter {
    code: [u8; 24],
    len: u8,
    /// The registers that it reads, a bit each.
    reads: u16,
}

impl Setter {
    fn new(reads: u16, code: &[u8]) -> Option<Self> {
        let mut s = Self { code: [0; 24], len: code.len() as u8, reads };
        s.code.get_mut(..code.len())?.copy_from_slice(code);
        Some(s)
    }

    /// How to have the flags of an instruction again behind it; `bytes` are its own.
    fn of(i: &Instruction, bytes: &[u8]) -> Option<Self> {
        // Registers that stand in the host's of the same number.
        let pinned = |n: u32| {
            let r = i.op_register(n);
            let number = r.full_register().number() as u8;
            (i.op_kind(n) == OpKind::Register && r.is_gpr() && !matches!(number, 4 | 9..=11)).then_some(number)
        };
        let wide = |n: u32| matches!(i.op_register(n).size(), 4 | 8);
        let constant = |n: u32| {
            let near = i.op_kind(n) != OpKind::Memory && i.op_kind(n) != OpKind::Register;
            near.then(|| i32::try_from(i.immediate(n) as i64).ok().or(i32::try_from(i.immediate(n)).ok()))?
        };
        match i.mnemonic() {
            Mnemonic::Cmp | Mnemonic::Test => {
                let second = if constant(1).is_some() { pinned(0)? } else { pinned(1)? };
                Self::new((1 << pinned(0)?) | (1 << second), bytes)
            }
            Mnemonic::And | Mnemonic::Or | Mnemonic::Xor if wide(0) => {
                let r = pinned(0)?;
                let w = if i.op_register(0).size() == 8 { 8 } else { 0 };
                // test r, r
                Self::new(1 << r, &[0x40 | w | ((r >> 3) << 2) | (r >> 3), 0x85, 0xc0 | ((r & 7) << 3) | (r & 7)])
            }
            Mnemonic::Add | Mnemonic::Sub if wide(0) => Self::sum(i, pinned(0)?, pinned(1), constant(1)),
            _ => None,
        }
    }

    /// add and sub: what the register held before is computed back, and the step is done once more in r10.
    fn sum(i: &Instruction, r: u8, other: Option<u8>, v: Option<i32>) -> Option<Self> {
        let w = if i.op_register(0).size() == 8 { 8 } else { 0 };
        let add = i.mnemonic() == Mnemonic::Add;
        // mov r10, r
        let mut code = vec![0x41 | w | ((r >> 3) << 2), 0x89, 0xc0 | ((r & 7) << 3) | 2];
        // sub or add r10, what is added or taken away; then the other way round
        let (back, forth): (u8, u8) = if add { (5, 0) } else { (0, 5) };
        if let Some(v) = v {
            for op in [back, forth] {
                code.extend([0x41 | w, 0x81, 0xc0 | (op << 3) | 2]);
                code.extend(v.to_le_bytes());
            }
            return Self::new(1 << r, &code);
        }
        let other = other.filter(|&o| o != r)?;
        for op in [back, forth] {
            code.extend([0x41 | w | ((other >> 3) << 2), (op << 3) | 1, 0xc0 | ((other & 7) << 3) | 2]);
        }
        Self::new((1 << r) | (1 << other), &code)
    }

    pub(super) fn code(&self) -> &[u8] {
        &self.code[..usize::from(self.len)]
    }
}

/// What becomes of the flags that a block is entered with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum First {
    /// They are wanted where the host has them.
    Host,
    /// They have to be kept out of the way.
    Parked,
    /// They are given up.
    Dead,
}

/// Flags wanted around an instruction, as iced numbers them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Live {
    pub(super) before: u32,
    pub(super) behind: u32,
}

/// Fills in what is wanted: backwards over a block, behind whose end all are.
pub(super) fn mark(guests: &mut [Guest]) {
    let mut live = ALL;
    for at in (0..guests.len()).rev() {
        let reached = writes_again(&guests[..=at]);
        let g = &mut guests[at];
        let behind = live;
        let read = if may_leave(g) && !reached { ALL } else { g.instr.rflags_read() & ALL };
        live = (live & !set(&g.instr)) | read;
        g.live = Live { before: live, behind };
    }
}

/// Whether an instruction may be left to the interpreter, which may store or pass on all flags.
fn may_leave(g: &Guest) -> bool {
    let i = &g.instr;
    let memory = i.mnemonic() != Mnemonic::Lea && (0..i.op_count()).any(|n| is_memory(i, n));
    g.ends || memory || i.is_stack_instruction() || i.is_string_instruction() || i.is_privileged() || !plain(i)
}

/// Whether the last of these instructions sets all flags and writes where one shortly before it has just written: it can't fault, as that
/// did not, and so nobody sees the flags between the two.
fn writes_again(guests: &[Guest]) -> bool {
    let Some((last, before)) = guests.split_last() else { return false };
    let i = &last.instr;
    if !changes_memory(i) || set(i) != ALL {
        return false;
    }
    let address = |i: &Instruction| {
        let size = i.memory_size().size();
        (i.memory_base(), i.memory_index(), i.memory_index_scale(), i.memory_displacement64(), i.memory_segment(), size)
    };
    let part = |r: Register| [i.memory_base(), i.memory_index()].iter().any(|a| a.full_register() == r.full_register());
    for g in before.iter().rev() {
        let b = &g.instr;
        if changes_memory(b) {
            return address(b) == address(i) && !i.is_ip_rel_memory_operand();
        }
        // Between them only what computes another register.
        let computes = matches!(b.mnemonic(), Mnemonic::Lea | Mnemonic::Mov) && b.op0_kind() == OpKind::Register;
        let loads = b.mnemonic() == Mnemonic::Mov && b.op1_kind() == OpKind::Memory;
        if !computes || loads || part(b.op0_register()) {
            return false;
        }
    }
    false
}

/// Whether an instruction computes in memory and changes no register.
fn changes_memory(i: &Instruction) -> bool {
    use Mnemonic as M;
    is_memory(i, 0) && matches!(i.mnemonic(), M::Add | M::Sub | M::And | M::Or | M::Xor | M::Inc | M::Dec | M::Neg)
}

/// Whether translated code certainly does a register instruction by itself.
fn plain(i: &Instruction) -> bool {
    let jump = matches!(i.flow_control(), FlowControl::UnconditionalBranch | FlowControl::ConditionalBranch);
    jump || super::operand::class(i, super::Fpu::Trapped).is_some()
}

/// The flags that an instruction sets whatever its operands are.
fn set(i: &Instruction) -> u32 {
    if certain(i) { i.rflags_modified() & ALL } else { 0 }
}

/// Whether an instruction sets its flags whatever its operands are.
fn certain(i: &Instruction) -> bool {
    if crate::decode::shifts(i) {
        // A count of zero leaves all flags alone.
        let last = i.op_count() - 1;
        return i.op_kind(last) == OpKind::Immediate8 && i.immediate(last) & 31 != 0;
    }
    match i.mnemonic() {
        // Undefined flags of these stay as they are here, or as the interpreter has them.
        Mnemonic::Bsf | Mnemonic::Bsr | Mnemonic::Tzcnt | Mnemonic::Lzcnt => false,
        _ => !i.is_string_instruction(),
    }
}

/// Whether an instruction needs the flags that stand before it: it reads them, or passes some of them on beside those that it sets.
fn needs(g: &Guest) -> bool {
    let i = &g.instr;
    i.rflags_read() & ALL != 0 || (i.rflags_modified() & ALL != 0 && g.live.behind & !set(i) != 0)
}

/// What becomes of the flags that a block, already marked, is entered with.
pub(super) fn first(guests: &[Guest]) -> First {
    for g in guests {
        if g.live.before == 0 {
            return First::Dead;
        }
        let i = &g.instr;
        let lookup = i.mnemonic() != Mnemonic::Lea && (0..i.op_count()).any(|n| is_memory(i, n))
            || i.is_stack_instruction()
            || matches!(i.flow_control(), FlowControl::Return | FlowControl::Call | FlowControl::IndirectBranch);
        if lookup && !g.ends {
            return First::Parked;
        }
        if g.ends || needs(g) || i.rflags_modified() & ALL != 0 {
            return First::Host;
        }
    }
    First::Host
}

impl Translator<'_> {
    /// Puts the flags away: nothing that follows may read the host's. r10 is lost.
    pub(super) fn park(&mut self) {
        self.placed = None;
        self.code.park();
        self.flags = Flags::Parked;
    }

    /// Before code of our own that changes the host's flags.
    pub(super) fn free_flags(&mut self, g: &Guest) {
        if self.flags == Flags::Host && g.live.before != 0 {
            match self.setter {
                Some(s) => self.flags = Flags::Again(s),
                None => self.park(),
            }
        }
    }

    /// Makes the host's flags the guest's. r10 may be lost.
    pub(super) fn fetch_flags(&mut self) {
        match self.flags {
            Flags::Host => return,
            Flags::Parked => self.code.unpark(),
            Flags::Again(s) => self.code.raw(s.code()),
        }
        (self.flags, self.placed) = (Flags::Host, None);
    }

    /// Before the flags go to another block by a table of jumps. r10 may be lost.
    pub(super) fn park_flags(&mut self) {
        if self.flags != Flags::Parked {
            self.fetch_flags();
            self.park();
        }
    }

    /// Before an instruction that may change what [`Setter`] reads.
    pub(super) fn keep_setter(&mut self, g: &Guest) {
        let Some(s) = self.setter else { return };
        let changed = |r: &UsedRegister| {
            r.register().is_gpr()
                && super::writes(r.access())
                && s.reads & (1 << r.register().full_register().number()) != 0
        };
        if !g.ends && !self.uses.info(&g.instr).used_registers().iter().any(changed) {
            return;
        }
        self.setter = None;
        match self.flags {
            Flags::Again(_) if g.live.before == 0 => self.flags = Flags::Host,
            Flags::Again(_) => self.fetch_flags(),
            _ => {}
        }
    }

    /// Before an instruction is run as it is.
    pub(super) fn before(&mut self, g: &Guest) {
        if needs(g) {
            self.fetch_flags();
        }
    }

    /// Behind it.
    pub(super) fn behind(&mut self, g: &Guest) {
        if g.instr.rflags_modified() & ALL != 0 {
            self.flags = Flags::Host;
            let at = (g.rip & (PAGE - 1)) as usize;
            let bytes = &self.place.page[at..at + g.instr.len()];
            self.setter = if g.form == Form::Same { Setter::of(&g.instr, bytes) } else { None };
        }
    }

    /// A jump back looks whether something else wants the CPU, and leaves for `target` then. `then`: what becomes of the flags there.
    pub(super) fn poll(&mut self, target: u64, then: First) {
        let at = self.flags;
        self.placed = None;
        if at == Flags::Host && then != First::Dead {
            self.park();
        }
        self.code.load(R10, RSP_HOST, ATTENTION);
        // cmp byte [r10], 0
        self.code.raw(&[0x41, 0x80, 0x3a, 0]);
        let wanted = self.code.branch(JNE);
        let flags = self.flags;
        self.cold.push(super::Cold::Leave { from: wanted, rip: target, flags });
        if at == Flags::Host && then == First::Host {
            self.fetch_flags();
        }
    }
}
