//! Boots a Linux kernel (ELF) to its serial console with nothing around the CPU but an 8250: `softcpu_boot KERNEL INITRD [CMDLINE]`.
//! Says at the end what it cost. `SOFT_TIER=interp` is the interpreter alone, `SOFT_TIME=instructions` a clock that counts them.

use std::collections::VecDeque;
use std::hash::Hasher;
use std::io::Write;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use hv::clock::TimeSource;
use hv::cpu_model::CpuModel;
use hv::state::{MpState, Segment};
use hv::{Bus, Exit, Level, Memory, Vm};
use softcpu::{Choices, SoftVm, Tier};
use vm_memory::{Bytes, GuestAddress};

const ZERO_PAGE: u64 = 0x7000;
const CMDLINE: u64 = 0x2_0000;
const TABLES: u64 = 0x9000;
const GDT: u64 = 0x500;
const MEMORY: u64 = 256 << 20;

#[derive(Default)]
struct Uart {
    ier: u8,
    lcr: u8,
    mcr: u8,
    divisor: [u8; 2],
    input: VecDeque<u8>,
    thre_due: bool,
}

/// The bus: a serial port, and the keyboard controller's reset line.
struct Board<'a> {
    vm: &'a SoftVm,
    uart: Mutex<Uart>,
    over: AtomicBool,
    kicker: hv::Kicker,
}

impl Board<'_> {
    fn irq(&self, u: &Uart) {
        let high = (u.ier & 2 != 0 && u.thre_due) || (u.ier & 1 != 0 && !u.input.is_empty());
        self.vm.set_irq_line(4, if high { Level::High } else { Level::Low }).expect("line 4");
    }
}

impl Bus for Board<'_> {
    fn mmio_read(&self, _: u64, bytes: &mut [u8]) {
        bytes.fill(0xff);
    }

    fn mmio_write(&self, _: u64, _: &[u8]) {}

    fn pio_in(&self, port: u16, bytes: &mut [u8]) {
        bytes.fill(0xff);
        let mut u = self.uart.lock().expect("uart");
        bytes[0] = match port {
            0x3f8 if u.lcr & 0x80 != 0 => u.divisor[0],
            0x3f9 if u.lcr & 0x80 != 0 => u.divisor[1],
            0x3f8 => u.input.pop_front().unwrap_or(0),
            0x3f9 => u.ier,
            0x3fa if u.ier & 1 != 0 && !u.input.is_empty() => 0xc4,
            0x3fa if u.ier & 2 != 0 && u.thre_due => {
                u.thre_due = false;
                0xc2
            }
            0x3fa => 0xc1,
            0x3fb => u.lcr,
            0x3fc => u.mcr,
            0x3fd => 0x60 | u8::from(!u.input.is_empty()),
            0x3fe => 0xb0,
            _ => 0xff,
        };
        if (0x3f8..0x400).contains(&port) {
            self.irq(&u);
        }
    }

    fn pio_out(&self, port: u16, bytes: &[u8]) {
        let v = bytes[0];
        let mut u = self.uart.lock().expect("uart");
        match port {
            0x3f8 if u.lcr & 0x80 != 0 => u.divisor[0] = v,
            0x3f9 if u.lcr & 0x80 != 0 => u.divisor[1] = v,
            0x3f8 => {
                std::io::stdout().write_all(&[v]).expect("stdout");
                u.thre_due = true;
            }
            0x3f9 => {
                if v & 2 != 0 && u.ier & 2 == 0 {
                    u.thre_due = true;
                }
                u.ier = v;
            }
            0x3fb => u.lcr = v,
            0x3fc => u.mcr = v,
            0x64 if v == 0xfe => {
                self.over.store(true, Ordering::SeqCst);
                self.kicker.kick();
            }
            _ => {}
        }
        if (0x3f8..0x400).contains(&port) {
            self.irq(&u);
        }
    }
}

fn word(b: &[u8], at: usize, n: usize) -> u64 {
    b[at..at + n].iter().rev().fold(0, |v, &x| (v << 8) | u64::from(x))
}

/// Copies the segments of an ELF file into memory; returns its entry.
fn load_elf(memory: &Memory, elf: &[u8]) -> u64 {
    let (at, size, count) = (word(elf, 32, 8) as usize, word(elf, 54, 2) as usize, word(elf, 56, 2) as usize);
    for i in 0..count {
        let p = &elf[at + i * size..];
        if word(p, 0, 4) == 1 {
            let (offset, paddr, len) = (word(p, 8, 8) as usize, word(p, 24, 8), word(p, 32, 8) as usize);
            memory.ram().write_slice(&elf[offset..offset + len], GuestAddress(paddr)).expect("the kernel fits");
        }
    }
    word(elf, 24, 8)
}

fn segment(selector: u16, access: u32) -> Segment {
    Segment { base: 0, limit: u32::MAX, selector, access }
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let kernel = std::fs::read(&args[1]).expect("kernel");
    let initrd = std::fs::read(&args[2]).expect("initrd");
    let cmdline = args.get(3).cloned().unwrap_or_else(|| "console=ttyS0 reboot=k panic=-1 acpi=off".to_owned());
    let memory = Memory::new(MEMORY).expect("memory");
    let ram = memory.ram();
    let entry = load_elf(&memory, &kernel);
    let initrd_at = (MEMORY - initrd.len() as u64) & !0xfff;
    ram.write_slice(&initrd, GuestAddress(initrd_at)).expect("initrd");
    ram.write_slice(format!("{cmdline}\0").as_bytes(), GuestAddress(CMDLINE)).expect("command line");
    let put = |at: u64, bytes: &[u8]| ram.write_slice(bytes, GuestAddress(at)).expect("low memory");
    let zero = |at: u64, v: u64, n: usize| put(ZERO_PAGE + at, &v.to_le_bytes()[..n]);
    zero(0x1fe, 0xaa55, 2);
    zero(0x202, 0x5372_6448, 4);
    zero(0x206, 0x20f, 2);
    zero(0x210, 0xff, 1);
    zero(0x218, initrd_at, 4);
    zero(0x21c, initrd.len() as u64, 4);
    zero(0x228, CMDLINE, 4);
    zero(0x230, 0x100_0000, 4);
    for (i, (start, len)) in [(0, 0x9fc00), (0x10_0000, MEMORY - 0x10_0000)].into_iter().enumerate() {
        let at = 0x2d0 + 20 * i as u64;
        zero(at, start, 8);
        zero(at + 8, len, 8);
        zero(at + 16, 1, 4);
    }
    zero(0x1e8, 2, 1);
    for (i, d) in [0, 0, 0x00af_9b00_0000_ffff_u64, 0x00cf_9300_0000_ffff].into_iter().enumerate() {
        put(GDT + 8 * i as u64, &d.to_le_bytes());
    }
    put(TABLES, &(TABLES + 0x1003).to_le_bytes());
    put(TABLES + 0x1000, &(TABLES + 0x2003).to_le_bytes());
    for i in 0..512_u64 {
        put(TABLES + 0x2000 + 8 * i, &((i << 21) | 0x83).to_le_bytes());
    }
    let tier =
        if std::env::var_os("SOFT_TIER").is_some_and(|t| t == "interp") { Tier::Interpret } else { Tier::Translate };
    let counted = std::env::var_os("SOFT_TIME").is_some_and(|t| t == "instructions");
    let time = if counted { TimeSource::Instructions } else { TimeSource::Host };
    let vm = SoftVm::with(memory.clone(), CpuModel::v2(1), 1, Choices { tier, time }).expect("machine");
    let mut vcpu = vm.create_vcpu(0).expect("vcpu");
    let mut s = vcpu.state().expect("state");
    s.regs.rip = entry;
    s.regs.rsi = ZERO_PAGE;
    s.regs.rflags = 2;
    s.sregs.cs = segment(0x10, 0xa09b);
    for seg in [&mut s.sregs.ds, &mut s.sregs.es, &mut s.sregs.ss, &mut s.sregs.fs, &mut s.sregs.gs] {
        *seg = segment(0x18, 0xc093);
    }
    s.sregs.gdt = hv::state::Table { base: GDT, limit: 31 };
    s.sregs.idt = hv::state::Table { base: 0, limit: 0 };
    (s.sregs.cr0, s.sregs.cr3, s.sregs.cr4, s.sregs.efer) = (0x8000_0011, TABLES, 0x20, 0x500);
    s.mp_state = MpState::Runnable;
    vcpu.set_state(&s).expect("state");
    let board = Board { vm: &vm, uart: Mutex::default(), over: AtomicBool::new(false), kicker: vcpu.kicker() };
    let exit = loop {
        match vcpu.run(&board).expect("run") {
            Exit::Kicked if !board.over.load(Ordering::SeqCst) => {}
            e => break e,
        }
    };
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.split_whitespace().collect();
    let seconds = |i: usize| fields.get(i).and_then(|f| f.parse::<f64>().ok()).unwrap_or(0.0) / 100.0;
    let mut hasher = std::hash::DefaultHasher::new();
    let mut page = vec![0_u8; 1 << 20];
    for at in (0..MEMORY).step_by(page.len()) {
        ram.read_slice(&mut page, GuestAddress(at)).expect("memory");
        hasher.write(&page);
    }
    eprintln!("\nmemory {:016x}", hasher.finish());
    eprintln!(
        "{exit:?} after {} instructions, {:.2} s user, {:.2} s system",
        vcpu.instructions().unwrap_or(0),
        seconds(13),
        seconds(14)
    );
}
