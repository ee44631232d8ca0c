//! The differential fuzzer: random instructions from random states, on the host's processor and here, compared.
//!
//! Registers, flags (without those that the manual leaves undefined), FP and SIMD registers, memory and faults with their error
//! codes and addresses must agree. What can't be compared at user level of the host (privileged state, segment loads, calls to
//! the kernel) is left out by [`generate::comparable`]. Half of them are 64-bit code and half 32-bit code; [`blocks`] are compared between
//! the tiers.

mod blocks;
pub(crate) mod generate;
pub(crate) mod machine;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use iced_x86::{Code, Instruction, Mnemonic};

use crate::cpu::Tier;
use crate::host::oracle::{CODE, DATA_LEN, Oracle, Trap};
use crate::state::CpuState;

use machine::Machine;

/// How often each instruction form ran, by its name in the manual's notation, and how often it completed.
pub type Coverage = BTreeMap<String, (u64, u64)>;

/// What a run of the fuzzer found.
#[derive(Debug, Default)]
pub struct Report {
    /// Instructions compared.
    pub cases: u64,
    /// Blocks compared between the tiers.
    pub blocks: u64,
    /// Of the instructions, those that also ran as translated code.
    pub translated: u64,
    /// Forms that ran.
    pub coverage: Coverage,
    /// Disagreements, described: at most a hundred.
    pub failures: Vec<String>,
    /// Disagreements in all.
    pub failed: u64,
}

impl Report {
    fn note(&mut self, text: String) {
        self.failed += 1;
        if self.failures.len() < 100 {
            self.failures.push(text);
        }
    }
}

/// A small generator of numbers: xorshift64*, so that a seed names a case for ever.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    pub(crate) fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// Runs until `limit` instructions or `time` are over.
///
/// # Errors
/// The host refuses the fixed mappings that both sides use.
pub fn run(seed: u64, limit: u64, time: Duration) -> std::io::Result<Report> {
    let mut oracle = Oracle::new()?;
    let mut machine = Machine::new()?;
    let mut random = Random::new(seed);
    let mut report = Report::default();
    let mut forms: BTreeMap<u16, (u64, u64)> = BTreeMap::new();
    let end = Instant::now() + time;
    while report.cases < limit && (report.cases % 256 != 0 || Instant::now() < end) {
        if random.one_in(4) {
            report.blocks += 1;
            if let Err(text) = blocks::compare(&mut random, &mut machine) {
                report.note(text);
            }
        }
        let Some(case) = generate::case(&mut random) else { continue };
        report.cases += 1;
        let (mut verdict, completed) = compare(&mut oracle, &mut machine, &case);
        if verdict.is_err() {
            // A host whose thread moves between processors may run what stood there before: what it does twice is judged.
            verdict = compare(&mut oracle, &mut machine, &case).0;
        }
        let form = forms.entry(case.instr.code() as u16).or_default();
        form.0 += 1;
        form.1 += u64::from(completed);
        if let Err(text) = verdict {
            report.note(text);
        }
    }
    report.translated = machine.translated();
    for (code, counts) in forms {
        if let Some(code) = Code::values().nth(usize::from(code)) {
            report.coverage.insert(code.op_code().instruction_string().to_owned(), counts);
        }
    }
    Ok(report)
}

/// One instruction and where it starts from.
pub(crate) struct Case {
    pub(crate) page: Box<[u8; 4096]>,
    pub(crate) at: usize,
    pub(crate) instr: Instruction,
    pub(crate) state: CpuState,
    pub(crate) data: Vec<u8>,
}

fn compare(oracle: &mut Oracle, machine: &mut Machine, case: &Case) -> (Result<(), String>, bool) {
    oracle.set_data(&case.data);
    let mut native = case.state.clone();
    let trap = oracle.run(&case.page, case.at, &mut native);
    let mut native_data = vec![0; DATA_LEN];
    oracle.data(&mut native_data);
    let completed = trap.vector == 3 || native.rip != CODE + case.at as u64;
    let mut wrong = Vec::new();
    for tier in [Tier::Interpret, Tier::Translate] {
        let before = wrong.len();
        let (ours, fault, our_data) = machine.run(case, tier);
        judge_end(case, &native, &trap, &ours, fault, &mut wrong);
        judge_registers(case, &native, &ours, completed, &mut wrong);
        // Ten bytes go in two pieces on the host, the first of which stays if the second faults; and a masked store may fault
        // there for bytes that its mask leaves out.
        let pieces = case.instr.memory_size().size() == 10 || generate::masked_store(&case.instr);
        if completed || !pieces {
            judge_memory(&native_data, &our_data, &mut wrong);
        }
        if wrong.len() > before {
            wrong.push(format!("on {tier:?}"));
        }
    }
    if wrong.is_empty() {
        return (Ok(()), completed);
    }
    let bytes = &case.page[case.at..case.at + case.instr.len()];
    let text = format!(
        "{:?} `{}` {bytes:02x?}\n  {}\n  from gpr {:x?} flags {:#x}",
        case.instr.code(),
        case.instr,
        wrong.join("\n  "),
        case.state.gpr,
        case.state.rflags
    );
    (Err(text), completed)
}

fn judge_memory(host: &[u8], ours: &[u8], wrong: &mut Vec<String>) {
    if let Some(i) = host.iter().zip(ours).position(|(a, b)| a != b) {
        let n = 8.min(DATA_LEN - i);
        wrong.push(format!("memory {i:#x}: host {:02x?} ours {:02x?}", &host[i..i + n], &ours[i..i + n]));
    }
}

/// How it ended: the next address, or the fault.
fn judge_end(
    case: &Case,
    native: &CpuState,
    trap: &Trap,
    ours: &CpuState,
    fault: Option<Trap>,
    wrong: &mut Vec<String>,
) {
    let start = CODE + case.at as u64;
    // A trap at the landing place means that the instruction completed: int3 there, or nothing mapped.
    let landed = trap.vector == 3 || native.rip != start;
    let host_rip = if trap.vector == 3 { native.rip - 1 } else { native.rip };
    match (landed, fault) {
        (true, None) if host_rip == ours.rip => {}
        // What it was is judged by the interpreter.
        (false, Some(Trap { vector: 0xff, .. })) => {}
        (false, Some(f)) if f == *trap || (f.vector == trap.vector && f.vector != 14 && f.error == trap.error) => {}
        // The kernel hides which of its own pages are present: it says that all are.
        (false, Some(f))
            if f.vector == 14
                && f.address == trap.address
                && f.address >= 0x7fff_ffff_f000
                && f.error | 1 == trap.error => {}
        // A masked store may fault for bytes that its mask leaves out.
        (false, None) if generate::masked_store(&case.instr) => {}
        // Which byte of a masked store or an image faults is the processor's business.
        (false, Some(f)) if f.vector == trap.vector && generate::many_accesses(&case.instr) => {}
        _ => wrong.push(format!("end: host {trap:x?} rip {host_rip:#x}, ours {fault:x?} rip {:#x}", ours.rip)),
    }
}

fn judge_registers(case: &Case, native: &CpuState, ours: &CpuState, completed: bool, wrong: &mut Vec<String>) {
    // What comes off the stack before it ends has been put into registers by then.
    let partly = !completed && matches!(case.instr.mnemonic(), Mnemonic::Popa | Mnemonic::Popad);
    let registers = if partly { 0..0 } else { 0..16 };
    for i in registers {
        if native.gpr[i] != ours.gpr[i] {
            wrong.push(format!("gpr {i}: host {:#x} ours {:#x}", native.gpr[i], ours.gpr[i]));
        }
    }
    let undefined = if completed { generate::undefined_flags(&case.instr, &case.state) } else { 0 };
    let compared = crate::flags::ARITH & !undefined | crate::flags::DF;
    if (native.rflags ^ ours.rflags) & compared != 0 {
        wrong.push(format!("flags: host {:#x} ours {:#x}", native.rflags & compared, ours.rflags & compared));
    }
    let (a, b) = (&native.fx.0, &ours.fx.0);
    // Without the last instruction's opcode and addresses, which are the host's own.
    // Processors change the x87 state even if the store of an MMX register faults then.
    if !completed && generate::uses_mmx(&case.instr) {
        return;
    }
    for (name, range) in [("x87 control, status, tag", 0..5), ("mxcsr", 24..28), ("st", 32..160), ("xmm", 160..416)] {
        if a[range.clone()] != b[range.clone()] {
            let i = range.clone().find(|&i| a[i] != b[i]).unwrap_or(0);
            let n = (i + 10).min(range.end);
            wrong.push(format!("{name} at {}: host {:02x?} ours {:02x?}", i - range.start, &a[i..n], &b[i..n]));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_instructions_do_here_what_they_do_on_the_host() {
        let report = run(1, 10_000, Duration::from_secs(20)).unwrap();
        assert!(report.cases > 1000, "only {} cases ran", report.cases);
        assert!(report.translated > report.cases / 4, "only {} were translated", report.translated);
        assert!(report.failures.is_empty(), "{} failures: {}", report.failed, report.failures.join("\n"));
    }
}
