//! Task switches, in 32-bit protected mode without paging.

use crate::diff::machine::Machine;
use crate::flags;
use crate::state::{ATTR_DB, ATTR_G, ATTR_P, ATTR_S, CR0_PE, CR0_TS, CS, CpuState, SS, Segment, Table};

const GDT: u64 = 0x1000;
const IDT: u64 = 0x1800;
/// TSS of the task that runs, of another, of one of 16 bits, and of one whose code segment is none.
const OLD: u64 = 0x2000;
const NEW: u64 = 0x2100;
const SMALL: u64 = 0x2200;
const BROKEN: u64 = 0x2300;
const CODE: u64 = 0x3000;
const HANDLER: u64 = 0x4000;
const STACK: u64 = 0x5000;
/// Selectors: code, data, the four TSS in the same order, a task gate to the second.
const SELECTORS: [u16; 7] = [0x08, 0x10, 0x18, 0x20, 0x28, 0x30, 0x38];

fn system(base: u64, limit: u64, kind: u64) -> u64 {
    (limit & 0xffff) | ((base & 0xff_ffff) << 16) | ((0x80 | kind) << 40)
}

fn tss(ip: u64, code: u16) -> Vec<u8> {
    let mut t = vec![0; 0x68];
    let mut put = |at: usize, v: u64| t[at..at + 4].copy_from_slice(&(v as u32).to_le_bytes());
    put(0x20, ip);
    put(0x24, 0x246);
    for n in 0..8 {
        put(0x28 + 4 * n, if n == 4 { STACK } else { 0x100 + n as u64 });
    }
    for n in 0..6 {
        put(0x48 + 4 * n, u64::from(if n == 1 { code } else { 0x10 }));
    }
    t
}

fn tss_16(ip: u16) -> Vec<u8> {
    let mut t = vec![0; 0x2c];
    let mut put = |at: usize, v: u16| t[at..at + 2].copy_from_slice(&v.to_le_bytes());
    put(0x0e, ip);
    put(0x10, 0x46);
    (0..8).for_each(|n| put(0x12 + 2 * n, 0x200 + n as u16));
    (0..4).for_each(|n| put(0x22 + 2 * n, if n == 1 { 8 } else { 0x10 }));
    t
}

/// A machine about to run code, in the first task.
fn machine(code: &[u8]) -> Machine {
    let flat = |kind: u64| 0x00cf_0000_0000_ffff | ((0x90 | kind) << 40);
    let gate = system(0, 0, 5) | 0x20 << 16;
    let gdt: Vec<u8> = [
        0,
        flat(0xb),
        flat(3),
        system(OLD, 0x67, 0xb),
        system(NEW, 0x67, 9),
        system(SMALL, 0x2b, 1),
        system(BROKEN, 0x67, 9),
        gate,
    ]
    .into_iter()
    .flat_map(u64::to_le_bytes)
    .collect();
    let interrupt = |offset: u64| (offset & 0xffff) | (8 << 16) | (0x8e << 40) | ((offset >> 16) << 48);
    let mut idt: Vec<u8> = (0..16).flat_map(|_| interrupt(HANDLER).to_le_bytes()).collect();
    // #GP has a task of its own.
    idt[13 * 8..14 * 8].copy_from_slice(&gate.to_le_bytes());
    let segment = |kind: u32, selector| Segment {
        base: 0,
        limit: u32::MAX,
        attr: kind | ATTR_S | ATTR_P | ATTR_G | ATTR_DB,
        selector,
    };
    let mut s = CpuState { rip: CODE, ..CpuState::default() };
    s.cr0 |= CR0_PE;
    s.seg = [segment(3, 0x10); 6];
    s.seg[CS] = segment(0xb, 8);
    s.gpr[..8].copy_from_slice(&[1, 2, 3, 4, STACK - 0x100, 6, 7, 8]);
    s.rflags = 0x202 | flags::CF;
    s.gdtr = Table { base: GDT, limit: gdt.len() as u16 - 1 };
    s.idtr = Table { base: IDT, limit: idt.len() as u16 - 1 };
    s.tr = Segment { base: OLD, limit: 0x67, attr: 0x8b, selector: SELECTORS[2] };
    s.dr[7] |= 1;
    let memory: [(u64, &[u8]); 8] = [
        (GDT, &gdt),
        (IDT, &idt),
        (OLD, &tss(0, 8)),
        (NEW, &tss(HANDLER + 0x100, 8)),
        (SMALL, &tss_16(0x4200)),
        (BROKEN, &tss(HANDLER + 0x200, 0x10)),
        (CODE, code),
        // iret
        (HANDLER + 0x100, &[0xcf]),
    ];
    Machine::with(s, &memory).unwrap()
}

fn far(opcode: u8, selector: u16) -> [u8; 7] {
    let [low, high] = selector.to_le_bytes();
    [opcode, 0, 0, 0, 0, low, high]
}

/// The kind of a descriptor, as it stands in memory.
fn kind(m: &Machine, selector: u16) -> u64 {
    m.number(GDT + u64::from(selector) + 5, 1) & 0xf
}

#[test]
fn a_jump_takes_another_task_and_leaves_nothing_behind_but_its_state() {
    for selector in [SELECTORS[3], SELECTORS[6]] {
        let mut m = machine(&far(0xea, selector));
        let s = m.step().clone();
        assert_eq!((s.rip, s.rflags, s.tr.base, s.tr.selector), (HANDLER + 0x100, 0x246, NEW, SELECTORS[3]));
        assert_eq!(s.gpr[..8], [0x100, 0x101, 0x102, 0x103, STACK, 0x105, 0x106, 0x107]);
        assert_ne!(s.cr0 & CR0_TS, 0);
        assert_eq!(s.dr[7] & 0xff, 0, "breakpoints of the old task");
        assert_eq!((kind(&m, SELECTORS[2]), kind(&m, SELECTORS[3])), (9, 0xb), "the old one is free");
        assert_eq!((m.number(OLD + 0x20, 4), m.number(OLD + 0x24, 4)), (CODE + 7, 0x203));
        assert_eq!((m.number(OLD + 0x28, 4), m.number(OLD + 0x44, 4)), (1, 8));
        assert_eq!(m.number(OLD + 0x4c, 2), 8, "its code segment");
    }
}

#[test]
fn a_call_nests_and_iret_comes_back() {
    let mut m = machine(&far(0x9a, SELECTORS[3]));
    let s = m.step().clone();
    assert_eq!((s.rip, s.rflags), (HANDLER + 0x100, 0x246 | flags::NT));
    assert_eq!(m.number(NEW, 2), u64::from(SELECTORS[2]), "the link");
    assert_eq!((kind(&m, SELECTORS[2]), kind(&m, SELECTORS[3])), (0xb, 0xb));
    let s = m.step().clone();
    assert_eq!((s.rip, s.rflags, s.tr.base), (CODE + 7, 0x203, OLD));
    assert_eq!(s.gpr[..8], [1, 2, 3, 4, STACK - 0x100, 6, 7, 8]);
    assert_eq!((kind(&m, SELECTORS[2]), kind(&m, SELECTORS[3])), (0xb, 9));
    assert_eq!(m.number(NEW + 0x24, 4), 0x246, "it is nested no more");
    assert_eq!(m.number(NEW + 0x20, 4), HANDLER + 0x101);
}

#[test]
fn an_exception_goes_to_its_task_with_its_code() {
    // mov eax, 0x55; mov ds, eax: a selector of nothing
    let mut m = machine(&[0xb8, 0x55, 0, 0, 0, 0x8e, 0xd8]);
    m.step();
    let s = m.step().clone();
    assert_eq!((s.rip, s.gpr[4]), (HANDLER + 0x100, STACK - 4));
    assert_eq!(m.number(STACK - 4, 4), 0x54, "the selector");
    assert_eq!(m.number(OLD + 0x20, 4), CODE + 5, "the instruction that faulted");
}

#[test]
fn a_task_of_16_bits_has_16_bits() {
    let mut m = machine(&far(0xea, SELECTORS[4]));
    let s = m.step();
    assert_eq!((s.rip, s.rflags, s.gpr[0], s.gpr[7]), (0x4200, 0x46, 0x200, 0x207));
    assert_eq!(s.seg[SS].selector, 0x10);
}

#[test]
fn what_is_wrong_with_a_task_is_told() {
    // A busy one, one with a bad code segment, and one that is too short for what it is.
    let m = &mut machine(&far(0xea, SELECTORS[2]));
    assert_eq!(m.step().rip, HANDLER + 0x100, "#GP, which has a task");
    assert_eq!(m.number(STACK - 4, 4), u64::from(SELECTORS[2]));
    let m = &mut machine(&far(0xea, SELECTORS[5]));
    let s = m.step().clone();
    assert_eq!((s.tr.base, s.rip), (BROKEN, HANDLER), "#TS in the new task");
    assert_eq!(m.number(s.gpr[4], 4), 0x10, "the selector");
    assert_eq!(m.number(s.gpr[4] + 4, 4), HANDLER + 0x200, "nothing of it has run");
}
