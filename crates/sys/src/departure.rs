//! Leaving this program for another one so that nothing of it can be reached from there.
//!
//! A process that is about to run a container's program is, until then, this program: `/proc/self/exe` leads to our own file on the host.
//! An image can have that file executed (`#!/proc/self/exe`, an ELF interpreter of that name) and then opened for writing
//! (CVE-2019-5736). The usual cure is to run from a sealed copy, which costs a second execve(2) at every start. Here the
//! process forgets its own file instead: it goes to a page of anonymous memory, unmaps the program there, and names the
//! program to come as its executable (`PR_SET_MM_MAP`). Whoever follows the link then finds a file of the container.
//!
//! ```text
//! depart: page of anonymous memory <- a loop of thirty instructions that makes prepared system calls
//!         munmap our segments | prctl(PR_SET_MM_MAP, exe) | the caller's steps: capset, seccomp, ... | execve
//! ```
//!
//! The same loop makes the last steps before execve(2) that must have nothing in between, such as seccomp(2).
//!
//! # Source
//! prctl(2) `PR_SET_MM`, `struct prctl_mm_map` of `linux/prctl.h`.

#![expect(
    unsafe_code,
    reason = "the program's own code is unmapped while it runs; prepared system calls are made by assembly"
)]

use crate::process::SingleThread;
use crate::{Result, SysError};
use rustix::fd::{AsRawFd, BorrowedFd};
use rustix::io::Errno;
use std::ffi::{CStr, CString, c_char, c_void};

/// A system call that the loop makes.
#[repr(C)]
struct Call {
    number: usize,
    arguments: [usize; 6],
    /// What to write to the report when it fails; null goes on in spite of it.
    report: *mut u8,
    report_len: usize,
}

/// How a report begins: a byte that says so, then the errno in two bytes (little endian), then the caller's own bytes.
pub const REPORT_HEAD: u8 = b'x';
const HEAD: usize = 3;
/// What a report says, behind its head, when the kernel would not let go of our file.
pub const FORGET: &str = "cannot let go of the runtime's own program";

/// The last calls of this program.
#[derive(Debug, Default)]
pub struct Departure {
    steps: Vec<Step>,
}

#[derive(Debug)]
struct Step {
    number: libc::c_long,
    arguments: [usize; 6],
    report: Vec<u8>,
    /// What the arguments point at; `Vec`s and boxes do not move their contents.
    _kept: Kept,
}

#[derive(Debug)]
enum Kept {
    Nothing,
    Capabilities { _header: Box<[u32; 2]>, _sets: Box<[u32; 6]> },
    Filter { _program: Box<libc::sock_fprog>, _instructions: Vec<u64> },
    Mask { _mask: Box<u64> },
    Program { _path: CString, _texts: [Vec<CString>; 2], _lists: [Vec<*const c_char>; 2] },
}

impl Departure {
    /// Sets all three sets of capabilities: effective, permitted, inheritable.
    pub fn capabilities(&mut self, effective: u64, permitted: u64, inheritable: u64, report: &[u8]) {
        const VERSION_3: u32 = 0x2008_0522;
        let [low, high] = [0, 32].map(|shift| [effective, permitted, inheritable].map(|set| half(set, shift)));
        let sets = Box::new([low[0], low[1], low[2], high[0], high[1], high[2]]);
        let header = Box::new([VERSION_3, 0]);
        let arguments = [addr(&*header), addr(&*sets), 0, 0, 0, 0];
        self.push(libc::SYS_capset, arguments, report, Kept::Capabilities { _header: header, _sets: sets });
    }

    /// Puts a capability, by its number, in the ambient set; one that may not be raised is left out.
    pub fn ambient(&mut self, capability: u32) {
        let arguments = [word(libc::PR_CAP_AMBIENT), word(libc::PR_CAP_AMBIENT_RAISE), capability as usize, 0, 0, 0];
        let step = Step { number: libc::SYS_prctl, arguments, report: Vec::new(), _kept: Kept::Nothing };
        self.steps.push(step);
    }

    /// Loads a seccomp program, as [`crate::seccomp::load`] takes it.
    ///
    /// # Errors
    /// `E2BIG` for more instructions than the kernel's structure can name.
    pub fn seccomp(&mut self, flags: u32, instructions: Vec<u64>, report: &[u8]) -> Result<()> {
        const SET_MODE_FILTER: usize = 1;
        let len = u16::try_from(instructions.len()).map_err(|_| SysError::new("seccomp", Errno::TOOBIG))?;
        // a packed instruction has the layout of the kernel's struct on a little-endian machine
        let program = Box::new(libc::sock_fprog { len, filter: instructions.as_ptr().cast_mut().cast() });
        let arguments = [SET_MODE_FILTER, flags as usize, addr(&*program), 0, 0, 0];
        self.push(
            libc::SYS_seccomp,
            arguments,
            report,
            Kept::Filter { _program: program, _instructions: instructions },
        );
        Ok(())
    }

    /// Lets all signals through.
    pub fn unblock_signals(&mut self) {
        let mask = Box::new(0_u64);
        let arguments = [word(libc::SIG_SETMASK), addr(&*mask), 0, size_of::<u64>(), 0, 0];
        // cannot fail
        let step =
            Step { number: libc::SYS_rt_sigprocmask, arguments, report: Vec::new(), _kept: Kept::Mask { _mask: mask } };
        self.steps.push(step);
    }

    fn execute(&mut self, program: Successor<'_>) {
        let Successor { path, arguments, environment, report } = program;
        let path = path.to_owned();
        let list = |texts: &[CString]| -> Vec<*const c_char> {
            texts.iter().map(|text| text.as_ptr()).chain(std::iter::once(std::ptr::null())).collect()
        };
        let lists = [list(&arguments), list(&environment)];
        let at = [path.as_ptr().addr(), lists[0].as_ptr().addr(), lists[1].as_ptr().addr(), 0, 0, 0];
        let kept = Kept::Program { _path: path, _texts: [arguments, environment], _lists: lists };
        self.push(libc::SYS_execve, at, report, kept);
    }

    fn push(&mut self, number: libc::c_long, arguments: [usize; 6], report: &[u8], kept: Kept) {
        let report = [&[REPORT_HEAD, 0, 0], report].concat();
        self.steps.push(Step { number, arguments, report, _kept: kept });
    }

    /// Becomes the program. Returns only what kept it from beginning.
    ///
    /// Where a step fails, [`REPORT_HEAD`], its errno and the bytes given for it are written to `report`, and the process exits with 127 for
    /// `ENOENT` and 126 otherwise; `report` should be close-on-exec, so that its end says that the program runs. Signals with
    /// handlers must be blocked. Where the kernel cannot let go of a program's file ([`supported`]), the steps are made all the same.
    ///
    /// # Errors
    /// What making a page or an anonymous file says.
    pub fn leave(mut self, _proof: SingleThread, program: Successor<'_>, report: BorrowedFd<'_>) -> SysError {
        self.execute(program);
        if !supported() {
            run_as_we_are(self, report);
        }
        match unlink_and_run(self, report) {
            Ok(never) => match never {},
            Err(error) => error,
        }
    }
}

/// The program that comes next.
#[derive(Debug)]
pub struct Successor<'a> {
    /// Its path for execve(2).
    pub path: &'a CStr,
    /// Its arguments, its name first.
    pub arguments: Vec<CString>,
    /// Its environment.
    pub environment: Vec<CString>,
    /// What to report when it cannot be executed.
    pub report: &'a [u8],
}

/// Whether this kernel lets a process change what its executable is.
#[must_use]
pub fn supported() -> bool {
    const SET_MM_MAP_SIZE: usize = 15;
    let mut size = 0_u32;
    let none = 0_usize;
    // SAFETY: the kernel writes four bytes to `size`.
    let answer = unsafe { libc::prctl(libc::PR_SET_MM, SET_MM_MAP_SIZE, &raw mut size, none, none) };
    cfg!(target_arch = "x86_64")
        && answer == 0
        && usize::try_from(size).is_ok_and(|size| size == size_of::<MemoryMap>())
}

/// `struct prctl_mm_map`.
#[repr(C)]
struct MemoryMap {
    start_code: u64,
    end_code: u64,
    start_data: u64,
    end_data: u64,
    start_brk: u64,
    brk: u64,
    start_stack: u64,
    arg_start: u64,
    arg_end: u64,
    env_start: u64,
    env_end: u64,
    auxv: u64,
    auxv_size: u32,
    exe_fd: u32,
}

enum Never {}

fn unlink_and_run(departure: Departure, report: BorrowedFd<'_>) -> Result<Never> {
    // nobody's file: empty, so that executing it is refused
    let flags = rustix::fs::MemfdFlags::CLOEXEC;
    let nothing = rustix::fs::memfd_create("insula", flags).map_err(SysError::of("memfd_create"))?;
    let page = code_page()?;
    let here = page.addr() as u64;
    let map = MemoryMap {
        start_code: here,
        end_code: here + 1,
        start_data: here,
        end_data: here,
        start_brk: here,
        brk: here,
        start_stack: here,
        arg_start: here,
        arg_end: here,
        env_start: here,
        env_end: here,
        auxv: 0,
        auxv_size: 0,
        exe_fd: u32::try_from(nothing.as_raw_fd()).unwrap_or(u32::MAX),
    };
    let mut forget = [[REPORT_HEAD, 0, 0].as_slice(), FORGET.as_bytes()].concat();
    let call = |number: libc::c_long, arguments: [usize; 6], report: &mut Vec<u8>| Call {
        number: usize::try_from(number).unwrap_or(usize::MAX),
        arguments,
        report: if report.is_empty() { std::ptr::null_mut() } else { report.as_mut_ptr() },
        report_len: report.len(),
    };
    let mut calls = Vec::with_capacity(8 + departure.steps.len());
    for (start, len) in segments() {
        calls.push(call(libc::SYS_munmap, [start, len, 0, 0, 0, 0], &mut forget));
    }
    const SET_MM_MAP: usize = 14;
    let arguments = [word(libc::PR_SET_MM), SET_MM_MAP, addr(&map), size_of::<MemoryMap>(), 0, 0];
    calls.push(call(libc::SYS_prctl, arguments, &mut forget));
    let mut steps = departure.steps;
    calls.extend(steps.iter_mut().map(|step| call(step.number, step.arguments, &mut step.report)));
    run(page, &calls, report)
}

/// Makes the steps from where we are.
fn run_as_we_are(departure: Departure, report: BorrowedFd<'_>) -> ! {
    let mut code = 126;
    for mut step in departure.steps {
        let [a, b, c, d, e, f] = step.arguments;
        // SAFETY: the steps were made by this module, and what they point at is kept in them.
        if unsafe { libc::syscall(step.number, a, b, c, d, e, f) } >= 0 {
            continue;
        }
        let errno = SysError::last("").errno;
        if let Some(head) = step.report.get_mut(1..HEAD) {
            head.copy_from_slice(&u16::try_from(errno.raw_os_error()).unwrap_or(0).to_le_bytes());
            code = if errno == Errno::NOENT { 127 } else { 126 };
            // nobody hears it only when whoever made us is gone
            let _ = rustix::io::write(report, &step.report);
            break;
        }
    }
    crate::process::exit_now(code)
}

/// The program headers of the running program, as its file has them.
pub(crate) fn program_headers() -> &'static [libc::Elf64_Phdr] {
    // SAFETY: asks for a number.
    let start = unsafe { libc::getauxval(libc::AT_PHDR) };
    // SAFETY: as above.
    let count = unsafe { libc::getauxval(libc::AT_PHNUM) };
    let (Ok(start), Ok(count)) = (usize::try_from(start), usize::try_from(count)) else { return &[] };
    if start == 0 {
        return &[];
    }
    // SAFETY: the kernel says where the headers of the running program lie in its memory, and how many there are; they stay.
    unsafe { std::slice::from_raw_parts(std::ptr::with_exposed_provenance(start), count) }
}

/// The pages of this program's file that are mapped: address and length.
fn segments() -> Vec<(usize, usize)> {
    const PAGE: usize = 4096;
    let headers = program_headers();
    let cut = |value: u64| usize::try_from(value).unwrap_or(0);
    let start = headers.as_ptr().addr();
    let own = headers.iter().find(|one| one.p_type == libc::PT_PHDR).map_or(start, |one| cut(one.p_vaddr));
    let moved = start.wrapping_sub(own);
    let loaded = headers.iter().filter(|one| one.p_type == libc::PT_LOAD && one.p_filesz > 0);
    let range = |one: &libc::Elf64_Phdr| {
        let from = cut(one.p_vaddr).wrapping_add(moved);
        let until = (from + cut(one.p_filesz)).next_multiple_of(PAGE);
        (from & !(PAGE - 1), until - (from & !(PAGE - 1)))
    };
    let mut ranges: Vec<(usize, usize)> = Vec::new();
    for (from, len) in loaded.map(range) {
        match ranges.last_mut() {
            // one after the other
            Some((first, before)) if *first + *before == from => *before += len,
            _ => ranges.push((from, len)),
        }
    }
    ranges
}

#[cfg(target_arch = "x86_64")]
std::arch::global_asm!(
    ".pushsection .text.insula_departure, \"ax\", @progbits",
    ".globl insula_departure_begin",
    ".globl insula_departure_end",
    // rdi: the calls, rsi: how many, rdx: the report's descriptor. The stack is not used.
    "insula_departure_begin:",
    "mov r12, rdi",
    "mov r13, rsi",
    "mov r14, rdx",
    "2: mov rax, [r12]",
    "mov rdi, [r12 + 8]",
    "mov rsi, [r12 + 16]",
    "mov rdx, [r12 + 24]",
    "mov r10, [r12 + 32]",
    "mov r8, [r12 + 40]",
    "mov r9, [r12 + 48]",
    "syscall",
    "test rax, rax",
    "js 4f",
    "3: add r12, 72",
    "dec r13",
    "jnz 2b",
    "jmp 5f",
    "4: mov rsi, [r12 + 56]",
    "test rsi, rsi",
    "jz 3b",
    "neg rax",
    "mov [rsi + 1], ax",
    // as a shell has it: 127 for a program that is not there, 126 for one that cannot be executed
    "mov r15d, 126",
    "cmp eax, 2",
    "jne 6f",
    "inc r15d",
    "6: mov rdx, [r12 + 64]",
    "mov rdi, r14",
    "mov eax, 1",
    "syscall",
    "jmp 7f",
    "5: mov r15d, 126",
    "7: mov edi, r15d",
    "mov eax, 231",
    "syscall",
    "ud2",
    "insula_departure_end:",
    ".popsection",
);

#[cfg(target_arch = "x86_64")]
unsafe extern "C" {
    static insula_departure_begin: u8;
    static insula_departure_end: u8;
}

/// A page of anonymous memory with the loop in it.
#[cfg(target_arch = "x86_64")]
fn code_page() -> Result<*mut c_void> {
    use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap_anonymous, mprotect};
    const PAGE: usize = 4096;
    let begin = &raw const insula_departure_begin;
    let len = (&raw const insula_departure_end).addr() - begin.addr();
    let protection = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: new memory at a place of the kernel's choice.
    let page = unsafe { mmap_anonymous(std::ptr::null_mut(), PAGE, protection, MapFlags::PRIVATE) };
    let page = page.map_err(SysError::of("mmap"))?;
    // SAFETY: the loop lies between both symbols and is shorter than a page; the page is ours and writable.
    unsafe { std::ptr::copy_nonoverlapping(begin, page.cast(), len) };
    // SAFETY: the page is ours and nothing else refers to it.
    unsafe { mprotect(page, PAGE, MprotectFlags::READ | MprotectFlags::EXEC) }.map_err(SysError::of("mprotect"))?;
    Ok(page)
}

#[cfg(target_arch = "x86_64")]
fn run(page: *mut c_void, calls: &[Call], report: BorrowedFd<'_>) -> Result<Never> {
    type Loop = unsafe extern "C" fn(*const Call, usize, usize) -> !;
    // SAFETY: the page holds the loop, which has this signature.
    let enter = unsafe { std::mem::transmute::<*mut c_void, Loop>(page) };
    let report = usize::try_from(report.as_raw_fd()).unwrap_or(usize::MAX);
    // SAFETY: the calls and what they point at lie on heap and stack, which stay mapped; it never returns, so no code of
    // ours runs after it was unmapped.
    unsafe { enter(calls.as_ptr(), calls.len(), report) }
}

#[cfg(not(target_arch = "x86_64"))]
fn code_page() -> Result<*mut c_void> {
    Err(SysError::new("prctl", Errno::NOSYS))
}

#[cfg(not(target_arch = "x86_64"))]
fn run(_page: *mut c_void, _calls: &[Call], _report: BorrowedFd<'_>) -> Result<Never> {
    Err(SysError::new("prctl", Errno::NOSYS))
}

fn half(set: u64, shift: u32) -> u32 {
    u32::try_from((set >> shift) & u64::from(u32::MAX)).unwrap_or(0)
}

fn addr<T>(value: &T) -> usize {
    std::ptr::from_ref(value).addr()
}

fn word(value: libc::c_int) -> usize {
    usize::try_from(value).unwrap_or(0)
}
