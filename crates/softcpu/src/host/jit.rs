//! Translated code: where it stands, how it is entered and left, how blocks find each other.
//!
//! While it runs, the host's rsp points at the [`Core`], guest registers stand in the host's registers of the same number
//! (guest rsp in r11; r9, r10, r11 in memory), flags in the host's flags, XMM in XMM. Three short pieces of code lead in and out:
//! *enter*, *exit*, and *step*, which lets the interpreter do one instruction and comes back.

use std::collections::HashMap;
use std::mem::offset_of;

use super::code::{CodeBuf, Entry};
use super::core::{Core, Own, TABLES};
use super::emit::{Code, R9, R10, R11, RSP_HOST};
use super::jumps::Jumps;
use super::lookup::Lookups;
use super::native::{LAST_INSTRUCTION, LAST_OPERAND};
use super::tlb::{Global, Tlb};
use crate::cpu::Terms;
use crate::decode::Op;
use crate::exec::{Counters, Exec};
use crate::flags::ARITH;
use crate::state::{CodeSize, CpuState, FS, GS, Msrs, View};
use crate::translate::flags::FlagsAt;
use crate::translate::{Fpu, Translation};

/// Bytes for translated code.
const CODE_LEN: usize = 48 << 20;
/// In the number of a jump to link: flags are parked there.
pub(crate) const LINK_PARKED: i32 = 1 << 30;
/// No jump to link.
const NO_LINK: u64 = u64::MAX;

pub(crate) const STATE: i32 = offset_of!(Core, state) as i32;
pub(crate) const RIP: i32 = STATE + offset_of!(CpuState, rip) as i32;
pub(crate) const RFLAGS: i32 = STATE + offset_of!(CpuState, rflags) as i32;
pub(crate) const COUNT: i32 = STATE + offset_of!(CpuState, instructions) as i32;
pub(crate) const TLB: i32 = offset_of!(Core, tlb) as i32 + Tlb::VIEWS;
pub(crate) const CPL: i32 = STATE + offset_of!(CpuState, cpl) as i32;
const FX: i32 = STATE + offset_of!(CpuState, fx) as i32;
const OWN: i32 = offset_of!(Core, own) as i32;
pub(crate) const SPARE: i32 = OWN + offset_of!(Own, spare) as i32;
pub(crate) const PARKED: i32 = OWN + offset_of!(Own, parked) as i32;
const SITE: i32 = OWN + offset_of!(Own, site) as i32;
pub(crate) const LINK: i32 = OWN + offset_of!(Own, link) as i32;
pub(crate) const FAR: i32 = OWN + offset_of!(Own, far) as i32;
pub(crate) const PENDING: i32 = OWN + offset_of!(Own, pending) as i32;
pub(crate) const ATTENTION: i32 = OWN + offset_of!(Own, attention) as i32;
const JUMP_TABLES: i32 = OWN + offset_of!(Own, jumps) as i32;
const MSRS: i32 = STATE + offset_of!(CpuState, msr) as i32;
const SWAPPED_GS: i32 = MSRS + offset_of!(Msrs, kernel_gs_base) as i32;
pub(crate) const CR4: i32 = STATE + offset_of!(CpuState, cr4) as i32;
pub(crate) const TSC_OFFSET: i32 = MSRS + offset_of!(Msrs, tsc_offset) as i32;
pub(crate) const TSC_AUX: i32 = MSRS + offset_of!(Msrs, tsc_aux) as i32;
pub(crate) const HOST_TSC_OFFSET: i32 = OWN + offset_of!(Own, tsc_offset) as i32;
const RESUME: i32 = OWN + offset_of!(Own, resume) as i32;
const EXEC: i32 = OWN + offset_of!(Own, exec) as i32;
const HOST_SP: i32 = OWN + offset_of!(Own, host_sp) as i32;
pub(crate) const UNIT: i32 = OWN + offset_of!(Own, unit) as i32;
const HOST_MXCSR: i32 = OWN + offset_of!(Own, host_mxcsr) as i32;

/// Where a guest register's value is kept in the core.
pub(crate) const fn gpr(n: u8) -> i32 {
    STATE + offset_of!(CpuState, gpr) as i32 + 8 * n as i32
}

/// The number of the table of indirect jumps for code of a size in a view.
pub(crate) fn jump_table_of(view: View, size: CodeSize) -> usize {
    view as usize + if size == CodeSize::Bits64 { 0 } else { TABLES / 2 }
}

/// Where a table of indirect jumps is named.
pub(crate) const fn jump_table(number: usize) -> i32 {
    JUMP_TABLES + 8 * number as i32
}

/// Where it stands what is added to addresses by fs or gs in 32-bit code.
pub(crate) const fn beyond(segment: usize) -> i32 {
    OWN + (offset_of!(Own, beyond) + 8 * (segment - FS)) as i32
}

/// Far from every address, and from what is left of one that is added.
const BEYOND: u64 = 1 << 62;

/// The other gs base, which swapgs takes.
pub(crate) const fn swapped_gs() -> i32 {
    SWAPPED_GS
}

/// The base address of a segment in the core.
pub(crate) fn segment_base(seg: usize) -> i32 {
    STATE + (offset_of!(CpuState, seg) + seg * size_of::<crate::state::Segment>()) as i32
}

/// Limit and rights of a segment in the core.
pub(crate) fn segment_rights(seg: usize) -> i32 {
    segment_base(seg) + offset_of!(crate::state::Segment, limit) as i32
}

/// The selector of a segment in the core.
pub(crate) fn segment_selector(seg: usize) -> i32 {
    segment_base(seg) + offset_of!(crate::state::Segment, selector) as i32
}

/// Guest registers that stand in the host's of the same number.
const PINNED: [u8; 12] = [0, 1, 2, 3, 5, 6, 7, 8, 12, 13, 14, 15];

/// What identifies a translation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(crate) gpa: u64,
    pub(crate) lin: u64,
    /// View, state of the FP unit, and size of code.
    pub(crate) mode: u8,
}

impl Key {
    pub(crate) fn new(gpa: u64, lin: u64, view: View, fpu: Fpu, size: CodeSize) -> Self {
        let fpu = if fpu == Fpu::Ready { 4 } else { 0 };
        let narrow = if size == CodeSize::Bits64 { 0 } else { 8 };
        Self { gpa, lin, mode: view as u8 | fpu | narrow }
    }

    /// The table of indirect jumps that leads there.
    fn table(&self) -> usize {
        usize::from(self.mode & 3) + if self.mode & 8 == 0 { 0 } else { TABLES / 2 }
    }
}

/// A translation, or the knowledge that there is none.
#[derive(Clone, Copy)]
struct Known {
    generation: u32,
    entry: Option<Entries>,
}

/// Where a block is entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entries {
    /// With flags in the host's flags.
    host: Entry,
    /// With parked flags.
    parked: Entry,
}

/// What is known about a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// Code to enter.
    Code(Entries),
    /// The interpreter has to run it.
    Interpret,
    /// Nothing, or something out of date.
    Unknown,
}

/// A jump that can be pointed to the block where it leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    /// Offset of its distance in the code.
    at: u32,
    /// Where flags are when it is taken.
    flags: FlagsAt,
    /// Of a jump to another page: offset of the code that looks in the table of jumps.
    far: Option<u32>,
}

/// A linked jump to another page.
struct FarLink {
    at: u32,
    /// The distance that it had before.
    unlinked: i32,
}

/// An instruction of translated code that the interpreter may have to do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Site {
    /// Its address.
    pub(crate) rip: u64,
    /// Instructions of its block behind it.
    pub(crate) behind: u32,
    /// Who goes on.
    pub(crate) then: Behind,
    /// Its number among the decoded ones, once it has been needed.
    op: u32,
}

/// What goes on behind an instruction that the interpreter has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Behind {
    /// The translated block, if nothing has changed.
    Block,
    /// Whatever stands at the instruction pointer then.
    Dispatcher,
    /// The same; the instruction goes on in the next page, so that it is looked up anew each time.
    Straddles,
}

/// No op yet.
const NO_OP: u32 = u32::MAX;

/// How translated code was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// The state is whole; go on at its instruction pointer. A jump may be linked to what is found there.
    Next(Option<Link>),
    /// Three faults in a row.
    Triple,
}

/// Addresses of the pieces of code that all blocks use.
#[derive(Clone, Copy, Default)]
pub(crate) struct Thunks {
    enter: u64,
    /// Called with the instruction pointer set: the interpreter does one instruction.
    pub(crate) step: u64,
    /// The same with parked flags.
    pub(crate) step_parked: u64,
    /// Jumped to with the instruction pointer set.
    pub(crate) exit: u64,
    /// The same with parked flags.
    pub(crate) exit_parked: u64,
    /// Called: the guest's registers go into the x87 unit. Nothing else changes.
    pub(crate) unit: u64,
    pub(crate) lookups: Lookups,
}

/// All translated code of a CPU.
pub(crate) struct Jit {
    code: CodeBuf,
    thunks: Thunks,
    /// Where the thunks end.
    start: usize,
    known: HashMap<Key, Known, Mixing>,
    jumps: Vec<Jumps>,
    far: Vec<FarLink>,
    sites: Vec<Site>,
    ops: Vec<Op>,
    /// Something has changed that is built into translations: they are to be forgotten before any is entered.
    pub(crate) stale: bool,
    /// What translations and jumps take for granted.
    pub(crate) terms: Terms,
    /// The state of the map of code when jumps were last remembered.
    pub(crate) epoch: u64,
    /// Translated code is left for good at this number of instructions.
    pub(crate) end: u64,
    /// Instructions translated.
    pub(crate) translated: u64,
    /// Translations in the room for code.
    kept: usize,
}

/// Mixes keys faster than the default; they are no strangers' choice that could hurt.
#[derive(Clone, Copy, Default)]
struct Mixing;

#[derive(Default)]
struct Mixed(u64);

impl std::hash::BuildHasher for Mixing {
    type Hasher = Mixed;

    fn build_hasher(&self) -> Mixed {
        Mixed(0)
    }
}

impl std::hash::Hasher for Mixed {
    fn finish(&self) -> u64 {
        self.0 ^ (self.0 >> 29)
    }

    fn write(&mut self, bytes: &[u8]) {
        for b in bytes {
            self.write_u64(u64::from(*b));
        }
    }

    fn write_u64(&mut self, v: u64) {
        self.0 = (self.0 ^ v).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23);
    }

    fn write_u8(&mut self, v: u8) {
        self.write_u64(u64::from(v));
    }
}

/// Loads the guest's registers; rsp is the core.
fn load_guest(c: &mut Code) {
    c.fx_group(2, RSP_HOST, FX + 24);
    for x in 0..16 {
        c.load_xmm(x, RSP_HOST, FX + 160 + 16 * i32::from(x));
    }
    c.load(R9, RSP_HOST, RFLAGS);
    // and r9d, the six
    c.raw(&[0x41, 0x81, 0xe1]);
    c.u32(ARITH as u32);
    c.push(R9);
    c.popfq();
    for r in PINNED {
        c.load(r, RSP_HOST, gpr(r));
    }
    c.load(R11, RSP_HOST, gpr(4));
}

/// Stores the guest's registers; rsp is the core.
fn store_guest(c: &mut Code) {
    for r in PINNED {
        c.store(RSP_HOST, gpr(r), r);
    }
    c.store(RSP_HOST, gpr(4), R11);
    c.pushfq();
    c.pop(R9);
    // and r9d, the six
    c.raw(&[0x41, 0x81, 0xe1]);
    c.u32(ARITH as u32);
    c.load(R10, RSP_HOST, RFLAGS);
    // and r10, without the six
    c.raw(&[0x49, 0x81, 0xe2]);
    c.u32(!ARITH as u32);
    // or r10, r9
    c.raw(&[0x4d, 0x09, 0xca]);
    c.store(RSP_HOST, RFLAGS, R10);
    // cmp byte [unit], 0
    c.raw(&[0x80, 0xbc, 0x24]);
    c.u32(UNIT as u32);
    c.u8(0);
    let plain = c.branch(&[0x0f, 0x84]);
    c.fx_group(0, RSP_HOST, FX);
    // Addresses of the host's are no guest's business.
    c.store_imm(RSP_HOST, FX + LAST_INSTRUCTION as i32, 0);
    c.store_imm(RSP_HOST, FX + LAST_OPERAND as i32, 0);
    c.store_imm(RSP_HOST, UNIT, 0);
    let stored = c.branch(&[0xe9]);
    c.here(plain);
    store_vectors(c, 0);
    c.here(stored);
    c.fx_group(2, RSP_HOST, HOST_MXCSR);
}

/// Stores XMM registers and MXCSR, where the core is `beyond` bytes from rsp.
fn store_vectors(c: &mut Code, beyond: i32) {
    for x in 0..16 {
        c.store_xmm(RSP_HOST, beyond + FX + 160 + 16 * i32::from(x), x);
    }
    c.fx_group(3, RSP_HOST, beyond + FX + 24);
}

/// The piece that puts the guest's registers into the x87 unit.
fn unit_code() -> Code {
    /// Bytes of the return address.
    const RETURN: i32 = 8;
    let mut c = Code::default();
    store_vectors(&mut c, RETURN);
    c.fx_group(1, RSP_HOST, RETURN + FX);
    c.store_imm(RSP_HOST, RETURN + UNIT, 1);
    c.ret();
    c
}

const SAVED: [u8; 6] = [3, 5, 12, 13, 14, 15];

fn leave(c: &mut Code) {
    // The stack outside: one slot for alignment, then what enter pushed.
    c.load(RSP_HOST, RSP_HOST, HOST_SP);
    c.pop(R9);
    for r in SAVED.iter().rev() {
        c.pop(*r);
    }
    c.ret();
}

/// The fields of translated code.
fn own_of(core: *mut Core) -> *mut Own {
    core.wrapping_byte_add(OWN as usize).cast()
}

/// Go on in translated code behind the instruction.
const GO_ON: u64 = 0;
/// Leave translated code.
const LEAVE: u64 = 1;
/// The CPU shut down.
const SHUT_DOWN: u64 = 2;

/// What is added to addresses by fs and gs in 32-bit code.
fn beyond_now(s: &CpuState) -> [u64; 2] {
    [FS, GS].map(|segment| if s.seg[segment].whole() { 0 } else { BEYOND })
}

/// Does one instruction in the interpreter. Any other answer than the three above is the code to go on with.
extern "sysv64" fn step(exec: *mut Exec<'_>, core: *const Core) -> u64 {
    // SAFETY: `enter` stored the pointer made from its exclusive borrow, which lasts until it returns.
    let x = unsafe { &mut *exec };
    // SAFETY: the field belongs to translated code alone, which waits for us.
    let own = unsafe { &mut *own_of(core.cast_mut()) };
    match crate::cpu::step_in_block(x, own.site as usize) {
        crate::cpu::Stepped::GoOn => GO_ON,
        crate::cpu::Stepped::Leave => match crate::cpu::next_code(x) {
            Some(code) => {
                own.pending = u64::from(x.board.vector_waits());
                own.beyond = beyond_now(x.s);
                code
            }
            None => LEAVE,
        },
        crate::cpu::Stepped::Triple => SHUT_DOWN,
    }
}

/// The piece that lets the interpreter do one instruction: entered with parked flags at its begin, with flags in the host's at the offset.
fn step_code() -> (Code, usize) {
    let mut c = Code::default();
    // The return address stands where the core is reached by.
    c.pop(R10);
    c.store(RSP_HOST, RESUME, R10);
    c.unpark();
    let over = c.branch(&[0xe9]);
    let plain_step = c.len();
    c.pop(R10);
    c.store(RSP_HOST, RESUME, R10);
    c.here(over);
    c.store(RSP_HOST, SITE, R9);
    store_guest(&mut c);
    c.mov(3, RSP_HOST);
    c.load(7, 3, EXEC);
    c.mov(6, 3);
    c.load(RSP_HOST, 3, HOST_SP);
    c.mov_imm(0, step as *const () as u64);
    // call rax
    c.raw(&[0xff, 0xd0]);
    c.mov(RSP_HOST, 3);
    // cmp rax, 2; ja to code elsewhere; test eax, eax; jnz out
    c.raw(&[0x48, 0x83, 0xf8, SHUT_DOWN as u8]);
    let elsewhere = c.branch(&[0x0f, 0x87]);
    c.raw(&[0x85, 0xc0]);
    let out = c.branch(&[0x0f, 0x85]);
    load_guest(&mut c);
    c.jump_mem(RSP_HOST, RESUME);
    c.here(elsewhere);
    c.store(RSP_HOST, RESUME, 0);
    load_guest(&mut c);
    // Known code is entered with parked flags.
    c.park();
    c.jump_mem(RSP_HOST, RESUME);
    c.here(out);
    leave(&mut c);
    (c, plain_step)
}

impl Jit {
    /// Room for translations, without any.
    ///
    /// # Errors
    /// The system has no memory.
    pub(crate) fn new() -> std::io::Result<Self> {
        let mut jit = Self {
            code: CodeBuf::new(CODE_LEN)?,
            thunks: Thunks::default(),
            start: 0,
            known: HashMap::default(),
            jumps: (0..TABLES).map(|_| Jumps::new()).collect::<std::io::Result<_>>()?,
            far: Vec::new(),
            sites: Vec::new(),
            ops: Vec::new(),
            stale: false,
            terms: Terms::of(&CpuState::default()),
            epoch: 0,
            end: u64::MAX,
            translated: 0,
            kept: 0,
        };
        let failed = || std::io::Error::from(std::io::ErrorKind::OutOfMemory);
        let mut c = Code::default();
        for r in SAVED {
            c.push(r);
        }
        c.push(7);
        c.store(7, HOST_SP, RSP_HOST);
        c.mov(RSP_HOST, 7);
        c.store(RSP_HOST, SPARE, 6);
        c.fx_group(3, RSP_HOST, HOST_MXCSR);
        load_guest(&mut c);
        c.jump_mem(RSP_HOST, SPARE);
        let enter = jit.code.push(&c.bytes).ok_or_else(failed)?;

        let mut c = Code::default();
        c.unpark();
        let plain_exit = c.len();
        store_guest(&mut c);
        // xor eax, eax
        c.raw(&[0x31, 0xc0]);
        leave(&mut c);
        let exit = jit.code.push(&c.bytes).ok_or_else(failed)?;

        let (c, plain_step) = step_code();
        let step = jit.code.push(&c.bytes).ok_or_else(failed)?;

        let unit = jit.code.push(&unit_code().bytes).ok_or_else(failed)?;

        let lookups = Lookups::new(|c| {
            let made = jit.code.push(&c.bytes).ok_or_else(failed)?;
            Ok(jit.code.address(made))
        })?;
        let at = |e| jit.code.address(e);
        jit.thunks = Thunks {
            enter: at(enter),
            step: at(step) + plain_step as u64,
            step_parked: at(step),
            exit: at(exit) + plain_exit as u64,
            exit_parked: at(exit),
            unit: at(unit),
            lookups,
        };
        jit.start = jit.code.used();
        Ok(jit)
    }

    /// The pieces that blocks jump to and call.
    pub(crate) fn thunks(&self) -> Thunks {
        self.thunks
    }

    /// Where the next block will run.
    pub(crate) fn next_address(&self) -> u64 {
        self.code.next_address()
    }

    /// What is known about a block in a generation of its page.
    pub(crate) fn find(&self, key: &Key, generation: u32) -> Found {
        match self.known.get(key) {
            Some(k) if k.generation == generation => k.entry.map_or(Found::Interpret, Found::Code),
            _ => Found::Unknown,
        }
    }

    /// Whether the room for code is nearly used up.
    pub(crate) fn nearly_full(&self) -> bool {
        self.code.left() < 1 << 20
    }

    /// Keeps a translation, or that there is none; `counters` hear of it.
    pub(crate) fn keep(&mut self, key: Key, generation: u32, made: Option<&Translation>, counters: &Counters) -> Found {
        let entry = made.and_then(|t| {
            let start = self.code.push(&t.code.bytes)?.0;
            counters.kept(self.code.used() - start as usize);
            self.kept += 1;
            Some(Entries { host: Entry(start + t.host as u32), parked: Entry(start + t.parked as u32) })
        });
        self.known.insert(key, Known { generation, entry });
        entry.map_or(Found::Interpret, Found::Code)
    }

    /// Forgets every translation; `counters` hear of it.
    pub(crate) fn clear(&mut self, counters: &Counters) {
        counters.forgot(self.code.used() - self.start, std::mem::take(&mut self.kept));
        self.known.clear();
        // What jumped there is gone with it.
        self.far.clear();
        self.forget_jumps();
        self.sites.clear();
        self.ops.clear();
        self.code.truncate(self.start);
        self.stale = false;
    }

    /// Forgets which addresses have code: page tables or code have changed.
    pub(crate) fn forget_jumps(&mut self) {
        self.jumps.iter_mut().for_each(Jumps::clear);
        self.unlink();
    }

    /// As [`Self::forget_jumps`], where only what is not global has changed.
    pub(crate) fn forget_local_jumps(&mut self) {
        self.jumps.iter_mut().for_each(Jumps::clear_local);
    }

    /// As [`Self::forget_jumps`], where one page has changed.
    pub(crate) fn forget_page_jumps(&mut self, lin: u64) {
        let mut found = false;
        for j in &mut self.jumps {
            found |= j.clear_page(lin);
        }
        if found {
            self.unlink();
        }
    }

    /// Takes back the links that led to other pages.
    fn unlink(&mut self) {
        for l in std::mem::take(&mut self.far) {
            self.code.patch(l.at as usize, l.unlinked);
        }
    }

    /// Makes indirect jumps to an address find its code.
    pub(crate) fn remember_jump(&mut self, key: &Key, entries: Entries, global: Global) {
        let code = self.code.address(entries.parked);
        self.jumps[key.table()].set(key.lin, code, global == Global::No);
    }

    /// The code for an address that indirect jumps would find.
    pub(crate) fn jump(&self, view: View, size: CodeSize, lin: u64) -> Option<u64> {
        self.jumps[jump_table_of(view, size)].find(lin)
    }

    /// Points a jump to the block where it leads, or, if that is in another page that is not `global`, to the table of jumps.
    pub(crate) fn link(&mut self, link: Link, to: Entries, global: Global) {
        let to = match link.flags {
            FlagsAt::Host => to.host,
            FlagsAt::Parked => to.parked,
        };
        let distance = |target: u32| target as i32 - (link.at as i32 + 4);
        let Some(table) = link.far else {
            self.code.patch(link.at as usize, distance(to.0));
            return;
        };
        let target = if global == Global::Yes { to.0 } else { table };
        let unlinked = self.code.patch(link.at as usize, distance(target));
        self.far.push(FarLink { at: link.at, unlinked });
    }

    /// Notes an instruction that the interpreter may have to do; returns its number.
    pub(crate) fn add_site(&mut self, rip: u64, behind: u32, then: Behind) -> u32 {
        self.sites.push(Site { rip, behind, then, op: NO_OP });
        (self.sites.len() - 1) as u32
    }

    /// What is known of such an instruction, and itself if it has been decoded.
    pub(crate) fn site(&self, n: usize) -> (Site, Option<Op>) {
        let site = self.sites[n];
        (site, self.ops.get(site.op as usize).copied())
    }

    /// Keeps the decoded instruction.
    pub(crate) fn decoded_site(&mut self, n: usize, op: Op) {
        self.sites[n].op = self.ops.len() as u32;
        self.ops.push(op);
    }

    /// Offset in the code of a place in the block that will be kept next.
    pub(crate) fn offset_of_next(&self) -> usize {
        self.code.used()
    }
}

/// Runs translated code until it leaves. `entries` are of the CPU's own [`Jit`].
pub(crate) fn enter(x: &mut Exec<'_>, entries: Entries) -> Exit {
    let (enter, target) = (x.jit.thunks.enter, x.jit.code.address(entries.host));
    let jumps = std::array::from_fn(|table| x.jit.jumps[table].address());
    let beyond = beyond_now(x.s);
    let attention = x.board.attention_flag() as u64;
    let pending = u64::from(x.board.vector_waits());
    let tsc_offset = x.board.tsc_offset();
    let core: *mut Core = x.core;
    let exec: *mut Exec<'_> = x;
    // SAFETY: `x` was made from this core by `Cpu::split`, and nobody else uses the fields of translated code.
    let own = unsafe { &mut *own_of(core) };
    own.exec = exec as u64;
    own.jumps = jumps;
    own.beyond = beyond;
    own.attention = attention;
    own.pending = pending;
    own.tsc_offset = tsc_offset;
    own.link = NO_LINK;
    own.far = NO_LINK;
    // SAFETY: the address is that of the enter thunk, which has this signature.
    let f: extern "sysv64" fn(*mut Core, u64) -> u32 = unsafe { std::mem::transmute(enter as *const ()) };
    let why = f(core, target);
    // SAFETY: as above.
    let own = unsafe { &*own_of(core) };
    if u64::from(why) == SHUT_DOWN {
        return Exit::Triple;
    }
    if u64::from(why) == LEAVE || own.link == NO_LINK {
        return Exit::Next(None);
    }
    let parked = LINK_PARKED as u64;
    let flags = if own.link & parked != 0 { FlagsAt::Parked } else { FlagsAt::Host };
    let far = (own.far != NO_LINK).then_some(own.far as u32);
    Exit::Next(Some(Link { at: (own.link & !parked) as u32, flags, far }))
}
