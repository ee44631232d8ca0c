//! The host's own processor as the judge: runs a few instructions natively from a given state and says what became of it.
//!
//! Code stands at a fixed low address in front of a page of `int3`, data at another, the same addresses that the guest
//! gets. Every run ends in a signal; its context holds all registers exactly as the processor left them. One run at a time.

use std::arch::naked_asm;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::state::{CodeSize, CpuState, Fx};

/// Where code stands.
pub(crate) const CODE: u64 = 0x2000_0000;
/// Where data stands: two pages to read and write, one to read, and nothing behind them.
pub(crate) const DATA: u64 = 0x1000_0000;
/// Bytes of data.
pub(crate) const DATA_LEN: usize = 0x3000;
const PAGE: usize = 0x1000;
const ALT_STACK: usize = 1 << 16;

/// Registers in and out. `repr(C)`: the entry code knows the offsets.
#[repr(C, align(64))]
struct Context {
    gpr: [u64; 16],
    rflags: u64,
    target: u64,
    host_sp: u64,
    rip: u64,
    trap: u64,
    error: u64,
    address: u64,
    fx: Fx,
}

/// The one context; the signal handler has no other way to find it.
struct Shared(std::cell::UnsafeCell<Context>);
// SAFETY: `RUNNING` is held whenever it is used.
unsafe impl Sync for Shared {}

static CONTEXT: Shared = Shared(std::cell::UnsafeCell::new(Context {
    gpr: [0; 16],
    rflags: 0,
    target: 0,
    host_sp: 0,
    rip: 0,
    trap: 0,
    error: 0,
    address: 0,
    fx: Fx([0; 512]),
}));
static RUNNING: Mutex<()> = Mutex::new(());

/// What ended a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Trap {
    /// The exception's vector; 3 is the end of the code.
    pub(crate) vector: u8,
    /// Its error code.
    pub(crate) error: u32,
    /// CR2 if it was a page fault.
    pub(crate) address: u64,
}

/// The judge. Only one exists at a time.
pub(crate) struct Oracle {
    code: *mut u8,
    data: *mut u8,
    _one: MutexGuard<'static, ()>,
}

/// Saves what a function has to keep, becomes the guest, and returns when the signal handler says so.
#[unsafe(naked)]
unsafe extern "sysv64" fn enter(context: *mut Context) {
    naked_asm!(
        "push rbx", "push rbp", "push r12", "push r13", "push r14", "push r15",
        "mov [rdi + 144], rsp",
        "fxrstor64 [rdi + 192]",
        "push qword ptr [rdi + 128]",
        "popfq",
        "mov rax, [rdi]",
        "mov rcx, [rdi + 8]",
        "mov rdx, [rdi + 16]",
        "mov rbx, [rdi + 24]",
        "mov rsp, [rdi + 32]",
        "mov rbp, [rdi + 40]",
        "mov rsi, [rdi + 48]",
        "mov r8, [rdi + 64]",
        "mov r9, [rdi + 72]",
        "mov r10, [rdi + 80]",
        "mov r11, [rdi + 88]",
        "mov r12, [rdi + 96]",
        "mov r13, [rdi + 104]",
        "mov r14, [rdi + 112]",
        "mov r15, [rdi + 120]",
        "mov rdi, [rdi + 56]",
        "jmp qword ptr [rip + {context} + 136]",
        context = sym CONTEXT,
    )
}

/// As [`enter`], for 32-bit code in segments that are the whole address space.
#[unsafe(naked)]
unsafe extern "sysv64" fn enter32(context: *mut Context) {
    naked_asm!(
        "push rbx", "push rbp", "push r12", "push r13", "push r14", "push r15",
        "mov [rdi + 144], rsp",
        "mov eax, {data}",
        "mov ds, eax",
        "mov es, eax",
        "mov gs, eax",
        "fxrstor64 [rdi + 192]",
        "push qword ptr [rdi + 128]",
        "popfq",
        "mov eax, [rdi]",
        "mov ecx, [rdi + 8]",
        "mov edx, [rdi + 16]",
        "mov ebx, [rdi + 24]",
        "mov esp, [rdi + 32]",
        "mov ebp, [rdi + 40]",
        "mov esi, [rdi + 48]",
        "mov edi, [rdi + 56]",
        "jmp fword ptr [rip + {context} + 136]",
        data = const USER_DATA,
        context = sym CONTEXT,
    )
}

/// Linux's selectors for programs: 32-bit code, 64-bit code, data.
const USER_CODE32: u64 = 0x23;
const USER_CODE64: i64 = 0x33;
const USER_DATA: u32 = 0x2b;

/// Where the signal handler sends the thread, with the host's stack back in place.
#[unsafe(naked)]
unsafe extern "sysv64" fn resume() {
    naked_asm!(
        "cld",
        "fninit",
        "push 0x1f80",
        "ldmxcsr [rsp]",
        "add rsp, 8",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbp",
        "pop rbx",
        "ret",
    )
}

/// Order of registers in a signal's context.
const GREGS: [i32; 16] = [
    libc::REG_RAX,
    libc::REG_RCX,
    libc::REG_RDX,
    libc::REG_RBX,
    libc::REG_RSP,
    libc::REG_RBP,
    libc::REG_RSI,
    libc::REG_RDI,
    libc::REG_R8,
    libc::REG_R9,
    libc::REG_R10,
    libc::REG_R11,
    libc::REG_R12,
    libc::REG_R13,
    libc::REG_R14,
    libc::REG_R15,
];

extern "C" fn on_signal(signal: i32, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel hands a valid context to a handler with SA_SIGINFO.
    let uc = unsafe { &mut *context.cast::<libc::ucontext_t>() };
    // SAFETY: a run is under way, or the rip test below says that it is not and nothing is touched.
    let c = unsafe { &mut *CONTEXT.0.get() };
    let g = &mut uc.uc_mcontext.gregs;
    if c.host_sp == 0 {
        // A crash of our own: the default action takes it when the instruction runs again.
        // SAFETY: resets one signal to its default.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
        return;
    }
    for (v, &r) in c.gpr.iter_mut().zip(&GREGS) {
        *v = g[r as usize] as u64;
    }
    c.rip = g[libc::REG_RIP as usize] as u64;
    c.rflags = g[libc::REG_EFL as usize] as u64;
    c.trap = g[libc::REG_TRAPNO as usize] as u64;
    c.error = g[libc::REG_ERR as usize] as u64;
    c.address = g[libc::REG_CR2 as usize] as u64;
    // SAFETY: the kernel saved at least the FXSAVE image there.
    unsafe { std::ptr::copy_nonoverlapping(uc.uc_mcontext.fpregs.cast::<u8>(), c.fx.0.as_mut_ptr(), 512) };
    g[libc::REG_RSP as usize] = c.host_sp as i64;
    g[libc::REG_RIP as usize] = resume as *const () as i64;
    let selectors = &mut g[libc::REG_CSGSFS as usize];
    *selectors = (*selectors & !0xffff) | USER_CODE64;
    g[libc::REG_EFL as usize] = 0x202;
    c.host_sp = 0;
}

fn check(done: bool) -> io::Result<()> {
    if done { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Maps `len` bytes of a new memfd twice: at `at` with `prot`, and anywhere to write. Returns the second.
fn map_twice(at: u64, len: usize, prot: &[(usize, i32)]) -> io::Result<*mut u8> {
    // SAFETY: plain system calls with arguments of ours; fixed addresses are refused if anything is there.
    unsafe {
        let fd = libc::memfd_create(c"softcpu-oracle".as_ptr(), libc::MFD_CLOEXEC);
        check(fd >= 0)?;
        check(libc::ftruncate(fd, len as i64) == 0)?;
        let rw = libc::PROT_READ | libc::PROT_WRITE;
        let alias = libc::mmap(std::ptr::null_mut(), len, rw, libc::MAP_SHARED | libc::MAP_POPULATE, fd, 0);
        check(alias != libc::MAP_FAILED)?;
        for &(offset, prot) in prot {
            let want = (at as usize + offset) as *mut libc::c_void;
            let flags = libc::MAP_SHARED | libc::MAP_FIXED_NOREPLACE | libc::MAP_POPULATE;
            let got = libc::mmap(want, PAGE, prot, flags, fd, offset as i64);
            check(got == want)?;
        }
        libc::close(fd);
        Ok(alias.cast())
    }
}

impl Oracle {
    /// Takes the judge; waits while somebody else has it.
    ///
    /// # Errors
    /// The fixed addresses are taken, or the system refuses.
    pub(crate) fn new() -> io::Result<Self> {
        let one = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
        let rw = libc::PROT_READ | libc::PROT_WRITE;
        let rx = libc::PROT_READ | libc::PROT_EXEC;
        let code = map_twice(CODE, PAGE, &[(0, rx)])?;
        let data = map_twice(DATA, DATA_LEN, &[(0, rw), (PAGE, rw), (2 * PAGE, libc::PROT_READ)])?;
        let stack = Box::leak(vec![0_u8; ALT_STACK].into_boxed_slice());
        let alt = libc::stack_t { ss_sp: stack.as_mut_ptr().cast(), ss_flags: 0, ss_size: ALT_STACK };
        // SAFETY: the stack is leaked, so it stays; a zeroed sigaction is a valid one.
        unsafe {
            check(libc::sigaltstack(&alt, std::ptr::null_mut()) == 0)?;
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = on_signal as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            for s in [libc::SIGSEGV, libc::SIGILL, libc::SIGTRAP, libc::SIGFPE, libc::SIGBUS] {
                check(libc::sigaction(s, &action, std::ptr::null_mut()) == 0)?;
            }
        }
        Ok(Self { code, data, _one: one })
    }

    /// Puts bytes into the data pages.
    pub(crate) fn set_data(&mut self, bytes: &[u8]) {
        assert!(bytes.len() <= DATA_LEN);
        // SAFETY: the alias is `DATA_LEN` bytes long, and no reference covers it.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.data, bytes.len()) };
    }

    /// The data pages.
    pub(crate) fn data(&self, out: &mut [u8]) {
        assert!(out.len() <= DATA_LEN);
        // SAFETY: as in `set_data`.
        unsafe { std::ptr::copy_nonoverlapping(self.data, out.as_mut_ptr(), out.len()) };
    }

    /// Runs the code at offset `at` of the code page from a state's general, FP and SIMD registers and arithmetic flags. They
    /// and `rip` are replaced by what became of them.
    pub(crate) fn run(&mut self, page: &[u8; PAGE], at: usize, s: &mut CpuState) -> Trap {
        // SAFETY: the alias is a page long; the guard in `self` makes this the only user of the context.
        let c = unsafe {
            std::ptr::copy_nonoverlapping(page.as_ptr(), self.code, PAGE);
            &mut *CONTEXT.0.get()
        };
        c.gpr = s.gpr;
        c.rflags = s.rflags | 0x202;
        c.target = CODE + at as u64;
        c.fx = s.fx;
        if s.code_size() == CodeSize::Bits32 {
            c.target |= USER_CODE32 << 32;
            // SAFETY: as below.
            unsafe { enter32(CONTEXT.0.get()) };
            for (ours, theirs) in s.gpr.iter_mut().zip(&c.gpr).take(8) {
                *ours = theirs & 0xffff_ffff;
            }
        } else {
            // SAFETY: the code touches the data pages or faults: the generator leaves out instructions that reach further.
            unsafe { enter(CONTEXT.0.get()) };
            s.gpr = c.gpr;
        }
        s.rip = c.rip;
        s.rflags = c.rflags;
        s.fx = c.fx;
        Trap { vector: c.trap as u8, error: c.error as u32, address: c.address }
    }
}

impl Drop for Oracle {
    fn drop(&mut self) {
        // SAFETY: the four mappings are ours and nobody uses them after this.
        unsafe {
            libc::munmap(self.code.cast(), PAGE);
            libc::munmap(self.data.cast(), DATA_LEN);
            libc::munmap(CODE as *mut libc::c_void, PAGE);
            libc::munmap(DATA as *mut libc::c_void, DATA_LEN);
        }
    }
}
