//! Our side of a comparison: a processor at user level with the same pages at the same addresses.

use std::sync::Arc;

use super::Case;
use crate::code_pages::CodePages;
use crate::cpu::{Cpu, Tier};
use crate::exec::{Board, Counters, First, Shared};
use crate::fault::{Fault, vector};
use crate::host::oracle::{CODE, DATA, DATA_LEN, Trap};
use crate::host::ram::Ram;
use crate::state::{
    ATTR_DB, ATTR_G, ATTR_L, ATTR_P, ATTR_S, ATTR_UNUSABLE, CR0_AM, CR0_ET, CR0_MP, CR0_NE, CR0_PE, CR0_PG, CR0_WP,
    CR4_OSFXSR, CR4_OSXMMEXCPT, CR4_PAE, CS, CpuState, EFER_LMA, EFER_LME, EFER_NXE, SS, Segment,
};

const RAM: usize = 1 << 20;
const CODE_GPA: u64 = 0x2_0000;
const DATA_GPA: u64 = 0x3_0000;
const TABLES: u64 = 0x1000;

/// Nothing asks for attention, ever.
static QUIET: u8 = 0;

/// A board with nothing on it.
pub(crate) struct Empty;

impl Board for Empty {
    fn mmio_read(&self, _: u64, _: usize) -> u64 {
        u64::MAX
    }
    fn mmio_write(&self, _: u64, _: usize, _: u64) {}
    fn input(&self, _: u16, _: usize) -> u32 {
        u32::MAX
    }
    fn output(&self, _: u16, _: usize, _: u32) {}
    fn cpuid(&self, _: u32, _: u32) -> [u32; 4] {
        [0; 4]
    }
    fn rdmsr(&self, _: u32) -> Option<u64> {
        None
    }
    fn wrmsr(&self, _: u32, _: u64) -> bool {
        false
    }
    fn tsc(&self) -> u64 {
        0
    }
    fn tsc_offset(&self) -> u64 {
        0
    }
    fn cr8(&self) -> u64 {
        0
    }
    fn set_cr8(&self, _: u64) {}
    fn attention(&self) -> bool {
        false
    }
    fn attention_flag(&self) -> *const u8 {
        &raw const QUIET
    }
    fn vector_waits(&self) -> bool {
        false
    }
    fn send(&self, _: u32, _: u32) -> bool {
        false
    }
    fn dirty(&self, _: u64) {}
    fn decoded(&self, _: u64, _: u64, _: First) {}

    fn overwritten(&self) {}
}

pub(crate) struct Machine {
    shared: Shared,
    cpu: Cpu,
}

/// Page tables for the code page and the data pages: present, user, and writable where they are on the host.
fn build_tables(ram: &Ram) {
    let store = |at: u64, v: u64| assert!(ram.store::<8>(at, v), "tables fit");
    const USER: u64 = 7;
    store(TABLES, (TABLES + 0x1000) | USER);
    store(TABLES + 0x1000, (TABLES + 0x2000) | USER);
    for (i, (lin, gpa, flags)) in [
        (CODE, CODE_GPA, 5_u64),
        (DATA, DATA_GPA, (1 << 63) | USER),
        (DATA + 0x1000, DATA_GPA + 0x1000, (1 << 63) | USER),
        (DATA + 0x2000, DATA_GPA + 0x2000, (1 << 63) | 5),
    ]
    .into_iter()
    .enumerate()
    {
        let table = TABLES + 0x3000 + if i == 0 { 0 } else { 0x1000 };
        store(TABLES + 0x2000 + ((lin >> 21) & 0x1ff) * 8, table | USER);
        store(table + ((lin >> 12) & 0x1ff) * 8, gpa | flags);
    }
}

/// A user-level 64-bit state on those tables.
pub(crate) fn user_state() -> CpuState {
    let flat = |kind: u32, extra: u32, selector| Segment {
        base: 0,
        limit: u32::MAX,
        attr: kind | ATTR_S | (3 << 5) | ATTR_P | ATTR_G | extra,
        selector,
    };
    let mut s = CpuState { cpl: 3, cr3: TABLES, ..CpuState::default() };
    s.cr0 = CR0_PE | CR0_MP | CR0_ET | CR0_NE | CR0_WP | CR0_AM | CR0_PG;
    s.cr4 = CR4_PAE | CR4_OSFXSR | CR4_OSXMMEXCPT;
    s.efer = EFER_LME | EFER_LMA | EFER_NXE;
    s.seg = [flat(3, ATTR_DB, 0x2b); 6];
    s.seg[CS] = flat(0xb, ATTR_L, 0x33);
    s.seg[SS] = flat(3, ATTR_DB, 0x2b);
    s.tr = Segment { attr: ATTR_UNUSABLE, ..Segment::default() };
    s
}

/// The same with 32-bit code.
pub(crate) fn user_state32() -> CpuState {
    let mut s = user_state();
    s.seg[CS].attr ^= ATTR_L | ATTR_DB;
    s.seg[CS].selector = 0x23;
    s
}

impl Machine {
    pub(crate) fn new() -> std::io::Result<Self> {
        let ram = Arc::new(Ram::anonymous(RAM)?);
        build_tables(&ram);
        let code = CodePages::new(ram.end());
        let shared = Shared { code, counters: Counters::default(), ram, cpus: 1, counted: None };
        let cpu = Cpu::new(&shared, Tier::Interpret)?;
        Ok(Self { shared, cpu })
    }

    /// A processor with a state and memory of one's own choice.
    #[cfg(test)]
    pub(crate) fn with(state: CpuState, memory: &[(u64, &[u8])]) -> std::io::Result<Self> {
        let mut machine = Self::new()?;
        assert!(memory.iter().all(|(at, bytes)| machine.shared.ram.write(*at, bytes)), "it fits");
        *machine.cpu.state_mut() = state;
        machine.cpu.state_changed();
        Ok(machine)
    }

    /// Runs an instruction, delivers its fault, and tells the state.
    #[cfg(test)]
    pub(crate) fn step(&mut self) -> &CpuState {
        if let Err(f) = self.cpu.single(&self.shared, &Empty) {
            self.cpu.with(&self.shared, &Empty, |x| x.raise(f)).expect("a handler");
        }
        self.cpu.state()
    }

    /// Bytes of memory, as a number.
    #[cfg(test)]
    pub(crate) fn number(&self, at: u64, len: usize) -> u64 {
        let mut bytes = [0; 8];
        assert!(self.shared.ram.read(at, &mut bytes[..len]), "it is there");
        u64::from_le_bytes(bytes)
    }

    /// Instructions that ran as translated code.
    pub(crate) fn translated(&self) -> u64 {
        self.cpu.translated()
    }

    /// Puts a case into registers and memory.
    fn load(&mut self, case: &Case) {
        let ram = &self.shared.ram;
        assert!(ram.write(CODE_GPA, &case.page[..]) && ram.write(DATA_GPA, &case.data), "pages fit");
        self.shared.code.renew(CODE_GPA);
        *self.cpu.state_mut() = case.state.clone();
        // No fault can be delivered: registers stay as it left them.
        self.cpu.state_mut().idtr.limit = 0;
        self.cpu.state_changed();
    }

    fn data(&self) -> Vec<u8> {
        let mut data = vec![0; DATA_LEN];
        assert!(self.shared.ram.read(DATA_GPA, &mut data), "data are there");
        data
    }

    /// Runs the `len` bytes of a case until they are left or fault; returns the state and the data.
    pub(crate) fn run_code(&mut self, case: &Case, tier: Tier, len: usize) -> (CpuState, Vec<u8>) {
        self.load(case);
        let end = CODE + (case.at + len) as u64;
        while self.cpu.state().rip < end {
            let left = (end - self.cpu.state().rip) as usize;
            let done = match tier {
                Tier::Interpret => self.cpu.single(&self.shared, &Empty),
                Tier::Translate => self.cpu.single_translated(&self.shared, &Empty, left),
            };
            if done.is_err() {
                break;
            }
        }
        (self.cpu.state().clone(), self.data())
    }

    /// Runs a case on a tier; returns the state, the fault if there was one, and the data.
    pub(crate) fn run(&mut self, case: &Case, tier: Tier) -> (CpuState, Option<Trap>, Vec<u8>) {
        self.load(case);
        let fault = loop {
            let done = match tier {
                Tier::Interpret => self.cpu.single(&self.shared, &Empty),
                Tier::Translate => self.cpu.single_translated(&self.shared, &Empty, case.instr.len()),
            };
            match done {
                // A long repetition came up for air.
                Ok(()) if self.cpu.state().rip == CODE + case.at as u64 && self.cpu.state().instructions == 0 => {}
                Ok(()) => break None,
                Err(f) => break Some(f),
            }
        };
        let trap = fault.map(|f| match f {
            Fault::Exception { vector: v, error } => Trap {
                vector: v,
                error: error.unwrap_or(0),
                address: if v == vector::PF { self.cpu.state().fault_address } else { 0 },
            },
            _ => Trap { vector: 0xff, error: 0, address: 0 },
        });
        (self.cpu.state().clone(), trap, self.data())
    }
}
