//! A machine with a serial port to write to and a port that ends it, for guests of a multiboot loader.

use std::hash::{DefaultHasher, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use hv::cpu_model::CpuModel;
use hv::state::{MpState, Segment, Table};
use hv::{Bus, Exit, Kicker, Memory, Vcpu, Vm};
use softcpu::{Choices, SoftVm, Tier};
use vm_memory::{Bytes, GuestAddress};

use crate::random::Random;

const MEMORY: u64 = 32 << 20;
const MULTIBOOT_MAGIC: u64 = 0x2bad_b002;
/// Where the loader's answers stand: all zero.
const ANSWERS: u64 = 0x500;
/// Long enough for a guest beside many other programs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(240);
/// No status yet.
const RUNNING: u32 = u32::MAX;

/// The software CPU's tiers.
pub(crate) const TIERS: [Tier; 2] = [Tier::Interpret, Tier::Translate];

/// What happens to a guest while it runs.
#[derive(Debug)]
pub(crate) enum Course {
    /// Nothing.
    Calm,
    /// It goes on in another machine every so often.
    Moves(Duration),
    /// It rests, or goes on in another machine, at random moments.
    Unrest(Random),
}

impl Course {
    /// How long it runs now, and whether it goes on elsewhere then.
    fn next(&mut self) -> (Duration, bool) {
        match self {
            Self::Calm => (PATIENCE, false),
            Self::Moves(every) => (*every, true),
            Self::Unrest(random) => (Duration::from_micros(random.below(60_000)), random.one_in(6)),
        }
    }
}

/// How a guest ended.
#[derive(Debug)]
pub(crate) struct Ended {
    /// What it wrote to the exit port, or why it ended else.
    pub(crate) status: Result<u32, Exit>,
    /// What it said.
    pub(crate) said: String,
    /// The first processor's instructions.
    pub(crate) instructions: u64,
    /// Of all memory.
    pub(crate) digest: u64,
    /// How often it went on elsewhere.
    pub(crate) moves: usize,
}

#[derive(Default)]
struct Board {
    said: Mutex<String>,
    status: AtomicU32,
    kickers: Mutex<Vec<Kicker>>,
}

impl Board {
    fn end(&self) {
        self.kickers.lock().unwrap().iter().for_each(Kicker::kick);
    }
}

impl Bus for Board {
    fn mmio_read(&self, _: u64, bytes: &mut [u8]) {
        bytes.fill(0xff);
    }

    fn mmio_write(&self, _: u64, _: &[u8]) {}

    fn pio_in(&self, port: u16, bytes: &mut [u8]) {
        bytes.fill(if port == 0x3fd { 0x60 } else { 0xff });
    }

    fn pio_out(&self, port: u16, bytes: &[u8]) {
        match port {
            0x3f8 => self.said.lock().unwrap().push(char::from(bytes[0])),
            0xf4 => {
                self.status.store(u32::from(bytes[0]), Ordering::SeqCst);
                self.end();
            }
            _ => {}
        }
    }
}

/// Compiles the guests in `tests/guests`; `None`, with the reason, without a C compiler.
pub(crate) fn build(folder: &Path, sources: &[&str]) -> Option<PathBuf> {
    let guests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/guests");
    let image = folder.join("guest");
    let flags = "-O1 -m64 -std=gnu11 -ffreestanding -fno-stack-protector -fno-pic -fno-pie -no-pie -mno-red-zone \
                 -mgeneral-regs-only -fno-asynchronous-unwind-tables -fcf-protection=none -static -nostdlib \
                 -Wl,-T,link.ld -Wl,--build-id=none -Wl,-z,noexecstack -Wl,-z,max-page-size=4096 -Wl,-w";
    let compiled = Command::new("cc")
        .current_dir(guests)
        .args(flags.split_whitespace())
        .arg("-o")
        .arg(&image)
        .args(sources)
        .output();
    match compiled {
        Ok(done) if done.status.success() => Some(image),
        Ok(done) => panic!("{}", String::from_utf8_lossy(&done.stderr)),
        Err(error) => {
            println!("skipped: no C compiler: {error}");
            None
        }
    }
}

fn word(bytes: &[u8], at: usize, n: usize) -> u64 {
    bytes[at..at + n].iter().rev().fold(0, |v, &b| (v << 8) | u64::from(b))
}

/// Copies an ELF file's segments into memory; returns where it begins.
fn load(memory: &Memory, elf: &[u8]) -> u64 {
    let (at, size, count) = (word(elf, 32, 8) as usize, word(elf, 54, 2) as usize, word(elf, 56, 2) as usize);
    for p in (0..count).map(|i| &elf[at + i * size..]).filter(|p| word(p, 0, 4) == 1) {
        let (offset, gpa, len) = (word(p, 8, 8) as usize, word(p, 24, 8), word(p, 32, 8) as usize);
        memory.ram().write_slice(&elf[offset..offset + len], GuestAddress(gpa)).unwrap();
    }
    word(elf, 24, 8)
}

/// The state in which a multiboot loader leaves the processor.
fn begin(vcpu: &mut dyn Vcpu, entry: u64) {
    let flat = |selector, access| Segment { base: 0, limit: u32::MAX, selector, access };
    let mut s = vcpu.state().unwrap();
    (s.regs.rip, s.regs.rax, s.regs.rbx, s.regs.rflags) = (entry, MULTIBOOT_MAGIC, ANSWERS, 2);
    s.sregs.cs = flat(0x10, 0xc09b);
    for seg in [&mut s.sregs.ds, &mut s.sregs.es, &mut s.sregs.ss, &mut s.sregs.fs, &mut s.sregs.gs] {
        *seg = flat(0x18, 0xc093);
    }
    s.sregs.cr0 = 0x11;
    s.sregs.idt = Table { base: 0, limit: 0 };
    s.mp_state = MpState::Runnable;
    vcpu.set_state(&s).unwrap();
}

fn digest(memory: &Memory) -> u64 {
    let mut all = vec![0; MEMORY as usize];
    memory.ram().read_slice(&mut all, GuestAddress(0)).unwrap();
    let mut hasher = DefaultHasher::new();
    hasher.write(&all);
    hasher.finish()
}

/// A machine and its processors, between two runs.
struct Guest {
    vm: SoftVm,
    vcpus: Vec<Box<dyn Vcpu>>,
}

impl Guest {
    fn new(memory: Memory, cpus: u32, choices: Choices) -> Self {
        let vm = SoftVm::with(memory, CpuModel::v2(cpus), cpus, choices).unwrap();
        let vcpus = (0..cpus).map(|i| vm.create_vcpu(i).unwrap()).collect();
        Self { vm, vcpus }
    }

    /// The same guest in another machine, as after a snapshot.
    fn moved(mut self, choices: Choices) -> Self {
        let clock = self.vm.clock().unwrap();
        let mut all = vec![0; MEMORY as usize];
        self.vm.memory().ram().read_slice(&mut all, GuestAddress(0)).unwrap();
        let memory = Memory::new(MEMORY).unwrap();
        memory.ram().write_slice(&all, GuestAddress(0)).unwrap();
        let mut other = Self::new(memory, self.vcpus.len() as u32, choices);
        other.vm.set_clock(clock).unwrap();
        for (from, to) in self.vcpus.iter_mut().zip(&mut other.vcpus) {
            to.set_state(&from.state().unwrap()).unwrap();
        }
        other.vm.set_irqchip(&self.vm.irqchip().unwrap()).unwrap();
        other.vm.set_clock(clock).unwrap();
        other
    }

    /// Runs all processors until one ends the machine, or for a time.
    fn run(&mut self, board: &Board, time: Duration) -> Option<Exit> {
        *board.kickers.lock().unwrap() = self.vcpus.iter().map(|vcpu| vcpu.kicker()).collect();
        let crashed = Mutex::new(None);
        let (finished, waited) = std::sync::mpsc::channel::<()>();
        std::thread::scope(|scope| {
            for vcpu in &mut self.vcpus {
                let (crashed, finished) = (&crashed, finished.clone());
                scope.spawn(move || {
                    let exit = vcpu.run(board).unwrap();
                    if exit != Exit::Kicked {
                        *crashed.lock().unwrap() = Some(exit);
                    }
                    board.end();
                    drop(finished);
                });
            }
            drop(finished);
            if waited.recv_timeout(time) == Err(RecvTimeoutError::Timeout) {
                board.end();
            }
        });
        crashed.into_inner().unwrap()
    }
}

/// Runs a guest on `cpus` processors until it ends. In another machine it goes on with each choice in turn.
pub(crate) fn run(image: &Path, cpus: u32, choices: &[Choices], mut course: Course) -> Ended {
    let memory = Memory::new(MEMORY).unwrap();
    let entry = load(&memory, &std::fs::read(image).unwrap());
    let mut guest = Guest::new(memory, cpus, choices[0]);
    begin(&mut *guest.vcpus[0], entry);
    let board = Board { status: AtomicU32::new(RUNNING), ..Board::default() };
    let (begun, mut moves) = (Instant::now(), 0);
    let crashed = loop {
        let (time, moved) = course.next();
        let exit = guest.run(&board, time);
        let over = board.status.load(Ordering::SeqCst) != RUNNING || begun.elapsed() > PATIENCE;
        if exit.is_some() || over {
            break exit;
        }
        if moved {
            moves += 1;
            guest = guest.moved(choices[moves % choices.len()]);
        }
    };
    let status = match (crashed, board.status.load(Ordering::SeqCst)) {
        (Some(exit), _) => Err(exit),
        (None, RUNNING) => {
            let places: Vec<_> =
                guest.vcpus.iter_mut().map(|vcpu| format!("{:#x}", vcpu.state().unwrap().regs.rip)).collect();
            Err(Exit::Failed(format!("it never ended, but is at {places:?}")))
        }
        (None, status) => Ok(status),
    };
    let instructions = guest.vcpus[0].instructions().unwrap();
    let said = board.said.into_inner().unwrap();
    Ended { status, said, instructions, digest: digest(guest.vm.memory()), moves }
}
