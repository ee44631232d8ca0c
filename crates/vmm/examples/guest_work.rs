//! What `cargo xtask bench vm` runs in a guest, as its first process: the piece of work that the kernel's command line names by `work=`.
//!
//! `guest_work archive FILE [PROGRAM]` writes itself, or another program, as the guest's first file system. The pieces are those by which translators differ: plain integers,
//! floating point and vectors, memory, system calls, faults, processes.

use std::fs::File;
use std::hint::black_box;
use std::io::{Read, Write};
use std::path::Path;
use std::process::Command;

/// A piece of work, by its name.
type Piece = (&'static str, fn());

/// Sorted by name.
const PIECES: [Piece; 16] = [
    ("atomic", atomic),
    ("chase", chase),
    ("copy", copy),
    ("double", double),
    ("fault", fault),
    ("float", float),
    ("integer", integer),
    ("nothing", || {}),
    ("pipe", pipe),
    ("sha256", sha256),
    ("sieve", sieve),
    ("sort", sort),
    ("spawn", spawn),
    ("switch", switch),
    ("syscall", syscall),
    ("vector", vector),
];

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    match arguments.get(1).map(String::as_str) {
        Some("archive") => match arguments.get(3) {
            Some(program) => archive_other(Path::new(&arguments[2]), Path::new(program)),
            None => testkit::guest::archive_self(Path::new(&arguments[2])),
        },
        Some("end") => {}
        _ => work(),
    }
}

/// Makes a program the guest's first.
fn archive_other(path: &Path, program: &Path) {
    let program = std::fs::read(program).expect("the program can be read");
    let archive = testkit::guest::archive(&[("init".to_owned(), 0o755, program)]);
    std::fs::write(path, archive).expect("the archive can be written");
}

/// Does the work, says so on the console, and ends the guest.
fn work() {
    let wanted = std::env::var("work").unwrap_or_default();
    let flags = rustix::mount::MountFlags::empty();
    let _ = rustix::mount::mount("devtmpfs", "/dev", "devtmpfs", flags, None);
    let piece = PIECES.iter().find(|(name, _)| *name == wanted);
    if let Some((name, piece)) = piece {
        say(&format!("BEGIN {name}"));
        piece();
        say(&format!("DONE {name} 1"));
    }
    rustix::fs::sync();
    let _ = rustix::system::reboot(rustix::system::RebootCommand::Restart);
}

fn say(line: &str) {
    if let Ok(mut console) = File::options().write(true).open("/dev/console") {
        let _ = writeln!(console, "{line}");
    }
}

fn integer() {
    let (mut a, mut b) = (1_u64, 2_u64);
    for turn in 0..400_000_000_u64 {
        a = a.wrapping_add(b ^ turn);
        b = b.wrapping_mul(3).wrapping_add(1);
    }
    black_box(a);
}

fn sieve() {
    let mut prime = vec![true; 1 << 20];
    for _ in 0..24 {
        prime.fill(true);
        for number in 2..prime.len() {
            if prime[number] {
                (2 * number..prime.len()).step_by(number).for_each(|multiple| prime[multiple] = false);
            }
        }
        black_box(&prime);
    }
}

/// The rounds of SHA-256, over its own output.
fn sha256() {
    let mut state = [1_u32, 2, 3, 4, 5, 6, 7, 8];
    for _ in 0..600_000 {
        let mut words = [0_u32; 64];
        for (at, word) in words.iter_mut().enumerate().take(16) {
            *word = state[at & 7].wrapping_add(1);
        }
        for at in 16..64 {
            let (far, near) = (words[at - 15], words[at - 2]);
            let low = far.rotate_right(7) ^ far.rotate_right(18) ^ (far >> 3);
            let high = near.rotate_right(17) ^ near.rotate_right(19) ^ (near >> 10);
            words[at] = words[at - 16].wrapping_add(low).wrapping_add(words[at - 7]).wrapping_add(high);
        }
        let [mut a, mut b, mut c, mut d, mut e, mut f, mut g, mut h] = state;
        for word in words {
            let mixed = (e.rotate_right(6) ^ e.rotate_right(11) ^ e.rotate_right(25)).wrapping_add((e & f) ^ (!e & g));
            let first = h.wrapping_add(mixed).wrapping_add(word).wrapping_add(0x428a_2f98);
            let turned = a.rotate_right(2) ^ a.rotate_right(13) ^ a.rotate_right(22);
            let second = turned.wrapping_add((a & b) ^ (a & c) ^ (b & c));
            (h, g, f, e, d, c, b, a) = (g, f, e, d.wrapping_add(first), c, b, a, first.wrapping_add(second));
        }
        for (word, more) in state.iter_mut().zip([a, b, c, d, e, f, g, h]) {
            *word = word.wrapping_add(more);
        }
    }
    black_box(state);
}

fn copy() {
    let (from, mut to) = (vec![7_u8; 64 << 10], vec![0_u8; 64 << 10]);
    for _ in 0..200_000 {
        to.copy_from_slice(black_box(&from));
        black_box(&to);
    }
}

fn double() {
    let (mut x, mut sum) = (1.0_f64, 0.0_f64);
    for turn in 0..60_000_000_u32 {
        x = x * black_box(1.0001) + 0.5;
        sum += x / (1.0001 + f64::from(turn));
        if x > 1e9 {
            x = 1.0;
        }
    }
    black_box(sum);
}

fn float() {
    let (mut a, b) = (vec![1.0_f32; 1024], vec![2.0_f32; 1024]);
    for _ in 0..400_000 {
        for (a, b) in a.iter_mut().zip(black_box(&b)) {
            *a = *a * 0.5 + b;
        }
        black_box(&a);
    }
}

fn vector() {
    let (mut a, b) = (vec![1_u32; 1024], vec![2_u32; 1024]);
    for _ in 0..600_000 {
        for (a, b) in a.iter_mut().zip(black_box(&b)) {
            *a = (*a ^ b).wrapping_add(*a << 1);
        }
        black_box(&a);
    }
}

fn chase() {
    let places = 1_usize << 18;
    let next: Vec<usize> = (0..places).map(|at| (at * 7919 + 13) & (places - 1)).collect();
    let mut at = 0;
    for _ in 0..60_000_000 {
        at = next[at];
    }
    black_box(at);
}

fn sort() {
    let mut seed = 1_u32;
    for _ in 0..40 {
        let mut numbers: Vec<u32> = (0..200_000)
            .map(|_| {
                seed = seed.wrapping_mul(1_103_515_245).wrapping_add(12_345);
                seed >> 8
            })
            .collect();
        numbers.sort_unstable();
        black_box(&numbers);
    }
}

fn atomic() {
    use std::sync::atomic::{AtomicU64, Ordering};
    let counter = AtomicU64::new(0);
    for turn in 0..200_000_000 {
        counter.fetch_add(turn, Ordering::SeqCst);
    }
    black_box(counter);
}

fn syscall() {
    for _ in 0..4_000_000 {
        black_box(rustix::process::getppid());
    }
}

fn pipe() {
    let (mut reader, mut writer) = std::io::pipe().expect("a pipe");
    let mut bytes = [0_u8; 64];
    for _ in 0..800_000 {
        writer.write_all(&bytes).expect("there is room");
        reader.read_exact(&mut bytes).expect("it was written");
    }
}

/// Two threads that wake each other, so that the processor goes from one to the other.
fn switch() {
    let ((mut asked, mut ask), (mut answered, mut answer)) =
        (std::io::pipe().expect("a pipe"), std::io::pipe().expect("a pipe"));
    let other = std::thread::spawn(move || {
        let mut byte = [0_u8];
        while asked.read_exact(&mut byte).is_ok() && answer.write_all(&byte).is_ok() {}
    });
    let mut byte = [0_u8];
    for _ in 0..150_000 {
        ask.write_all(&byte).expect("there is room");
        answered.read_exact(&mut byte).expect("an answer comes");
    }
    drop(ask);
    let _ = other.join();
}

/// Large blocks are mappings of their own, whose pages come with a fault each.
fn fault() {
    for _ in 0..60 {
        let mut block = vec![0_u8; 16 << 20];
        block.iter_mut().step_by(4096).for_each(|byte| *byte = 1);
        black_box(&block);
    }
}

fn spawn() {
    for _ in 0..600 {
        let _ = Command::new("/init").arg("end").status();
    }
}
