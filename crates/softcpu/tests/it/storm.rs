//! Storms: random code at the kernel's level, with random control registers, page tables and descriptor tables. Whatever the guest does, the
//! machine answers: it stops when it is asked to, tells its state, takes it back, and keeps within its memory.
//!
//! `SOFTCPU_STORM=SECONDS[,SEED]` makes it longer.

use std::sync::Mutex;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use hv::cpu_model::CpuModel;
use hv::state::{MpState, Segment, Table, VcpuState};
use hv::{Bus, Exit, Memory, Vm};
use softcpu::{Choices, SoftVm, Tier};
use vm_memory::{Bytes, GuestAddress};

use crate::random::{Asked, Random};

const MEMORY: u64 = 4 << 20;
const PAGE: u64 = 0x1000;
/// Pages of code, of which handlers are some.
const CODE: u64 = 0x1_0000;
const CODE_PAGES: u64 = 32;
const TABLES: u64 = 0x10_0000;
const GDT: u64 = 0x20_0000;
const IDT: u64 = 0x20_1000;
/// How long a guest runs between two questions.
const GUST: Duration = Duration::from_millis(15);
/// Within which a processor stops, also on a machine that has much else to do.
const PATIENCE: Duration = Duration::from_secs(120);
/// Of translated code, a processor.
const CODE_BYTES: u64 = 48 << 20;

/// Devices that answer anything.
pub(crate) struct Noise;

impl Bus for Noise {
    fn mmio_read(&self, _: u64, bytes: &mut [u8]) {
        bytes.fill(0x5a);
    }

    fn mmio_write(&self, _: u64, _: &[u8]) {}

    fn pio_in(&self, _: u16, bytes: &mut [u8]) {
        bytes.fill(0xa5);
    }

    fn pio_out(&self, _: u16, _: &[u8]) {}
}

/// Pieces that random bytes seldom make.
const PIECES: [&[u8]; 30] = [
    &[0x0f, 0x20, 0xc0],                   // mov rax, cr0
    &[0x0f, 0x22, 0xc0],                   // mov cr0, rax
    &[0x0f, 0x22, 0xd8],                   // mov cr3, rax
    &[0x0f, 0x22, 0xe0],                   // mov cr4, rax
    &[0x0f, 0x23, 0xf8],                   // mov dr7, rax
    &[0x0f, 0x30],                         // wrmsr
    &[0x0f, 0x32],                         // rdmsr
    &[0x0f, 0x01, 0x10],                   // lgdt [rax]
    &[0x0f, 0x01, 0x18],                   // lidt [rax]
    &[0x0f, 0x01, 0x38],                   // invlpg [rax]
    &[0x0f, 0x05],                         // syscall
    &[0x0f, 0x07],                         // sysret
    &[0x48, 0x0f, 0x07],                   // sysretq
    &[0x0f, 0x34],                         // sysenter
    &[0x0f, 0x35],                         // sysexit
    &[0x48, 0xcf],                         // iretq
    &[0xcf],                               // iret
    &[0xfb, 0xf4],                         // sti; hlt
    &[0x9d],                               // popf
    &[0x0f, 0x00, 0xd8],                   // ltr ax
    &[0x0f, 0x00, 0xd0],                   // lldt ax
    &[0x8e, 0xd0],                         // mov ss, eax
    &[0xcb],                               // retf
    &[0xb9, 0x80, 0x00, 0x00, 0xc0],       // mov ecx, EFER
    &[0xbf, 0x00, 0x00, 0x01, 0x00, 0xaa], // mov edi, CODE; stosb
    &[0xb9, 0x00, 0x10, 0, 0, 0xf3, 0xab], // mov ecx, 4096; rep stos
    &[0xf3, 0xa4],                         // rep movsb
    &[0x0f, 0xae, 0x08],                   // fxrstor [rax]
    &[0xd9, 0x28, 0xd9, 0xe8, 0xde, 0xf9], // fldcw [rax]; fld1; fdivp
    &[0xeb, 0xfe],                         // jmp to itself
];

/// A page of code: random bytes, known pieces among them, or instructions that write over themselves.
fn code(r: &mut Random) -> Vec<u8> {
    let mut page = Vec::with_capacity(PAGE as usize + 16);
    let kind = r.below(4);
    while page.len() < PAGE as usize {
        match kind {
            0 => page.extend(r.next().to_le_bytes()),
            1 if r.one_in(3) => page.extend(PIECES[r.below(PIECES.len() as u64) as usize]),
            // inc byte [rip + n]; mov [rip + n], al, and jumps between them
            2 if r.one_in(2) => page.extend([0xfe, 0x05, r.next() as u8, 0, 0, 0]),
            2 => page.extend([0x88, 0x05, r.next() as u8, 0xff, 0xff, 0xff, 0xeb, r.next() as u8]),
            // add eax, n; add [rdi], eax; short jumps
            3 if r.one_in(3) => page.extend([0x70 | (r.next() as u8 & 15), r.next() as u8]),
            3 => page.extend([0x05, r.next() as u8, 0, 0, 0, 0x01, 0x07]),
            _ => page.extend(&r.next().to_le_bytes()[..1 + r.below(7) as usize]),
        }
    }
    page.truncate(PAGE as usize);
    page
}

/// Fills memory: code, tables that mostly map it one to one, and descriptors that are mostly valid.
fn fill(r: &mut Random, memory: &Memory, size: Size) {
    let ram = memory.ram();
    let put = |at: u64, v: u64| ram.write_slice(&v.to_le_bytes(), GuestAddress(at)).unwrap();
    for page in 0..CODE_PAGES {
        ram.write_slice(&code(r), GuestAddress(CODE + page * PAGE)).unwrap();
    }
    for level in 0..3 {
        put(TABLES + level * PAGE, (TABLES + (level + 1) * PAGE) | 7);
    }
    let second = TABLES + 4 * PAGE;
    put(TABLES + 2 * PAGE + 8, second | 7);
    for entry in 0..1024_u64 {
        let page = if r.one_in(64) { r.next() >> 1 } else { entry * PAGE };
        let flags = if r.one_in(16) { r.below(0x200) } else { 0x67 };
        put(TABLES + 3 * PAGE + entry * 8, page | flags);
    }
    let attribute = match size {
        Size::Wide => 0x00af_9a00_0000_ffff_u64,
        Size::Narrow => 0x00cf_9a00_0000_ffff,
        Size::Real => 0x000f_9a00_0000_ffff,
    };
    for (n, d) in
        [0, attribute, 0x00cf_9200_0000_ffff, attribute | 3 << 45, 0x00cf_f200_0000_ffff].into_iter().enumerate()
    {
        put(GDT + 8 * n as u64, d);
    }
    for n in 5..32 {
        put(GDT + 8 * n, r.next());
    }
    for vector in 0..256_u64 {
        let handler = CODE + r.below(CODE_PAGES * PAGE);
        let kind = [0x8e00_u64, 0x8f00, 0xee00, 0x8500, 0x8c00, r.next() & 0xff00][r.below(6) as usize];
        let low = (handler & 0xffff) | (8 << 16) | (kind << 32) | ((handler & 0xffff_0000) << 32);
        match size {
            Size::Wide => {
                put(IDT + 16 * vector, low);
                put(IDT + 16 * vector + 8, if r.one_in(64) { r.next() } else { 0 });
            }
            _ => put(IDT + 8 * vector, low),
        }
    }
}

/// How wide the code is at the begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Size {
    Real,
    Narrow,
    Wide,
}

/// A state in which the first instructions have a chance.
fn begin(r: &mut Random, state: &mut VcpuState, size: Size) {
    let flat = |selector, access| Segment { base: 0, limit: u32::MAX, selector, access };
    let near = |r: &mut Random| if r.one_in(3) { r.next() } else { r.below(MEMORY) };
    let g = &mut state.regs;
    for register in [
        &mut g.rax, &mut g.rbx, &mut g.rcx, &mut g.rdx, &mut g.rsi, &mut g.rdi, &mut g.rbp, &mut g.r8, &mut g.r9,
        &mut g.r12,
    ] {
        *register = near(r);
    }
    g.rsp = 0x30_0000 - 8 * r.below(64);
    g.rip = CODE + r.below(CODE_PAGES * PAGE);
    g.rflags = 2 | r.next() & if r.one_in(4) { 0x0004_7fd5 } else { 0x0ad5 };
    let s = &mut state.sregs;
    for segment in [&mut s.ds, &mut s.es, &mut s.ss, &mut s.fs, &mut s.gs] {
        *segment = flat(0x10, 0xc093);
    }
    (s.gdt, s.idt) = (Table { base: GDT, limit: 0xff }, Table { base: IDT, limit: 0xfff });
    match size {
        Size::Wide => {
            s.cs = flat(8, 0xa09b);
            (s.cr0, s.cr3, s.efer) = (0x8005_0033, TABLES, 0xd01);
            s.cr4 = 0x620 | r.next() & 0x31_0880;
        }
        Size::Narrow => {
            s.cs = flat(8, 0xc09b);
            (s.cr0, s.cr4) = (0x33, 0x600);
        }
        Size::Real => {
            s.cs = Segment { base: CODE, limit: 0xffff, selector: (CODE >> 4) as u16, access: 0x9b };
            g.rip &= 0xffff;
            s.cr0 = 0x10;
        }
    }
    state.mp_state = MpState::Runnable;
}

/// Runs one guest for a few gusts; `what` names it.
fn storm(r: &mut Random, tier: Tier, cpus: u32, what: &str) -> usize {
    let memory = Memory::new(MEMORY).unwrap();
    let vm = SoftVm::with(memory.clone(), CpuModel::v2(cpus), cpus, Choices { tier, ..Choices::default() }).unwrap();
    let mut vcpus: Vec<_> = (0..cpus).map(|n| vm.create_vcpu(n).unwrap()).collect();
    let mut resets = 0;
    for gust in 0..4 {
        let size = [Size::Wide, Size::Wide, Size::Narrow, Size::Real][r.below(4) as usize];
        if gust == 0 || r.one_in(2) {
            fill(r, &memory, size);
            for vcpu in &mut vcpus {
                let mut state = vcpu.state().unwrap();
                begin(r, &mut state, size);
                vcpu.set_state(&state).unwrap_or_else(|e| panic!("{what}: a plain state is refused: {e}"));
            }
        }
        resets += run(&mut vcpus, what);
        for vcpu in &mut vcpus {
            let state = vcpu.state().unwrap();
            vcpu.set_state(&state).unwrap_or_else(|e| panic!("{what}: its own state is refused: {e}"));
        }
        let bytes = vm.counters().into_iter().find(|(name, _)| *name == "code_bytes").unwrap().1;
        assert!(bytes <= CODE_BYTES * u64::from(cpus), "{what}: {bytes} bytes of translated code");
    }
    resets
}

/// Lets every processor run for a gust; says how many shut down.
fn run(vcpus: &mut [Box<dyn hv::Vcpu>], what: &str) -> usize {
    let kickers: Vec<_> = vcpus.iter().map(|vcpu| vcpu.kicker()).collect();
    let resets = Mutex::new(0);
    let (done, waited) = channel::<()>();
    std::thread::scope(|scope| {
        for vcpu in vcpus {
            let (resets, done) = (&resets, done.clone());
            scope.spawn(move || {
                match vcpu.run(&Noise).unwrap() {
                    Exit::Kicked => {}
                    Exit::Reset => *resets.lock().unwrap() += 1,
                    Exit::Failed(text) => panic!("{what}: gave up: {text}"),
                }
                drop(done);
            });
        }
        drop(done);
        let begun = Instant::now();
        let mut patience = GUST;
        while waited.recv_timeout(patience) == Err(RecvTimeoutError::Timeout) {
            if begun.elapsed() > PATIENCE {
                // The threads can't be ended: the test can.
                eprintln!("{what}: it doesn't stop");
                std::process::abort();
            }
            // Kicks don't add up, and none is lost.
            kickers.iter().for_each(hv::Kicker::kick);
            patience = PATIENCE;
        }
    });
    resets.into_inner().unwrap()
}

/// Bytes of this process that are in memory.
fn resident() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    pages.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * PAGE
}

#[test]
fn whatever_a_guest_does_its_machine_answers() {
    let Asked { time, first } = Asked::by("SOFTCPU_STORM");
    let (begun, mut storms, mut resets, mut early) = (Instant::now(), 0_u64, 0, 0);
    while time.map_or(storms < 24, |time| begun.elapsed() < time) {
        let seed = first + storms;
        let mut r = Random::new(seed);
        let tier = if seed.is_multiple_of(3) { Tier::Interpret } else { Tier::Translate };
        let cpus = if seed.is_multiple_of(4) { 4 } else { 1 };
        let what = format!("storm {seed} of {cpus} on {tier:?}");
        if time.is_some() {
            println!("{what}");
        }
        resets += storm(&mut r, tier, cpus, &what);
        storms += 1;
        if storms == 12 {
            early = resident();
        }
    }
    let grown = resident().saturating_sub(early);
    println!("{storms} storms, {resets} resets, {} KiB more than after twelve", grown >> 10);
    assert!(grown < 64 << 20, "{grown} bytes have been lost in {storms} storms");
}
