//! Whole blocks: random instructions in a row, in the interpreter and as translated code, compared.
//!
//! The interpreter is the judge: what it makes of a single instruction has been compared with the host. What is sought here is what goes
//! wrong between two: flags and places of pages that are taken for granted, registers of units, faults on the way.

use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction, OpKind};

use super::generate::{self, bits};
use super::machine::Machine;
use super::{Case, Random};
use crate::cpu::Tier;
use crate::flags::ARITH;
use crate::host::oracle::{CODE, DATA, DATA_LEN};
use crate::state::{CodeSize, CpuState};

/// Where a block starts in its page.
const AT: usize = 0x100;
/// `cmp eax, ecx`: all flags are defined again.
const DEFINES: [u8; 2] = [0x39, 0xc8];

/// Whether an instruction leaves flags that the tiers may have differently.
fn leaves_undefined(i: &Instruction) -> bool {
    use iced_x86::Mnemonic as M;
    let logic = matches!(i.mnemonic(), M::And | M::Or | M::Xor | M::Test);
    !logic && (i.rflags_undefined() != 0 || crate::decode::shifts(i))
}

/// Whether its memory operand lies in the data, as registers are at the begin.
fn in_data(i: &Instruction, s: &CpuState) -> bool {
    let Some(n) = (0..i.op_count()).find(|&n| i.op_kind(n) == OpKind::Memory) else { return true };
    let at = i.virtual_address(n, 0, |r, _, _| {
        let v = if r.is_segment_register() { 0 } else { s.gpr[r.full_register().number()] };
        Some(if r.size() == 4 { v & 0xffff_ffff } else { v })
    });
    at.is_some_and(|a| (DATA..DATA + DATA_LEN as u64 - 0x1000).contains(&a))
}

/// A random block.
fn block(r: &mut Random) -> (Case, usize) {
    let size = if r.one_in(2) { CodeSize::Bits32 } else { CodeSize::Bits64 };
    let mut s = generate::state(r, size);
    for n in 0..16 {
        if r.below(3) != 0 {
            s.gpr[n] = DATA + 0x800 + (r.below(0x700) & if r.one_in(2) { !15 } else { u64::MAX });
        }
    }
    s.gpr[4] = DATA + 0x1000 + (r.below(64) & !7);
    let wanted = 2 + r.below(14);
    let mut page = Box::new([0xcc_u8; 4096]);
    let (mut at, mut made, mut first) = (AT, 0, None);
    while made < wanted {
        let code = generate::bytes(r, size);
        let i = Decoder::with_ip(bits(&s), &code, CODE + at as u64, DecoderOptions::NONE).decode();
        let plain = generate::comparable(&i) && i.flow_control() == FlowControl::Next && !i.is_privileged();
        if !plain || (!in_data(&i, &s) && !r.one_in(40)) {
            continue;
        }
        page[at..at + i.len()].copy_from_slice(&code[..i.len()]);
        at += i.len();
        if leaves_undefined(&i) {
            page[at..at + DEFINES.len()].copy_from_slice(&DEFINES);
            at += DEFINES.len();
        }
        first.get_or_insert(i);
        made += 1;
    }
    s.rip = CODE + AT as u64;
    let mut data = vec![0_u8; DATA_LEN];
    for chunk in data.chunks_mut(8) {
        chunk.copy_from_slice(&r.next().to_le_bytes());
    }
    (Case { page, at: AT, instr: first.unwrap_or_default(), state: s, data }, at - AT)
}

/// Runs a random block on both tiers; what they disagree about.
pub(super) fn compare(r: &mut Random, machine: &mut Machine) -> Result<(), String> {
    let (case, len) = block(r);
    let (ours, our_data) = machine.run_code(&case, Tier::Translate, len);
    let (judge, data) = machine.run_code(&case, Tier::Interpret, len);
    let mut wrong = Vec::new();
    let mut differ = |what: &str, had: u64, wanted: u64| {
        if had != wanted {
            wrong.push(format!("{what}: {had:#x}, and {wanted:#x} in the interpreter"));
        }
    };
    differ("instruction pointer", ours.rip, judge.rip);
    differ("instructions", ours.instructions, judge.instructions);
    for (n, (had, wanted)) in ours.gpr.iter().zip(&judge.gpr).enumerate() {
        differ(&format!("register {n}"), *had, *wanted);
    }
    differ("flags", ours.rflags & ARITH, judge.rflags & ARITH);
    for at in (0..416).filter(|at| !(5..24).contains(at)) {
        differ(&format!("image of the units at {at}"), u64::from(ours.fx.0[at]), u64::from(judge.fx.0[at]));
    }
    for (at, (had, wanted)) in our_data.iter().zip(&data).enumerate() {
        differ(&format!("memory at {at:#x}"), u64::from(*had), u64::from(*wanted));
    }
    if wrong.is_empty() {
        return Ok(());
    }
    wrong.truncate(8);
    let bytes = &case.page[AT..AT + len];
    let code: Vec<String> = Decoder::with_ip(bits(&case.state), bytes, case.state.rip, DecoderOptions::NONE)
        .iter()
        .map(|i| format!("{:#x} {i}", i.ip()))
        .collect();
    let (gpr, flags) = (case.state.gpr, case.state.rflags);
    Err(format!(
        "block {bytes:02x?}\n  {}\n  {}\n  from gpr {gpr:x?} flags {flags:#x}",
        code.join("\n  "),
        wrong.join("\n  ")
    ))
}
