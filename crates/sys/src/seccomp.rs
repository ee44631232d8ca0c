//! Loading seccomp programs, seccomp(2).

#![expect(unsafe_code, reason = "seccomp takes a structure with an address in it")]

use crate::{Result, SysError};
use rustix::io::Errno;
use std::os::fd::{FromRawFd, OwnedFd};

/// Confines the calling thread by a classic BPF program, each instruction packed as `code | jt << 16 | jf << 24 | k << 32`.
/// Returns the descriptor on which somebody else answers calls, if the flags ask for one (`SECCOMP_FILTER_FLAG_NEW_LISTENER`).
///
/// # Errors
/// `EACCES` without `no_new_privs` or the right to administer, `EINVAL` for a program that the kernel refuses.
pub fn load(flags: u32, instructions: &[u64]) -> Result<Option<OwnedFd>> {
    const NEW_LISTENER: u32 = 8;
    const SET_MODE_FILTER: libc::c_uint = 1;
    let filter: Vec<libc::sock_filter> = instructions
        .iter()
        .map(|&packed| {
            let bytes = packed.to_le_bytes();
            libc::sock_filter {
                code: u16::from_le_bytes([bytes[0], bytes[1]]),
                jt: bytes[2],
                jf: bytes[3],
                k: u32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]),
            }
        })
        .collect();
    let len = u16::try_from(filter.len()).map_err(|_| SysError::new("seccomp", Errno::TOOBIG))?;
    let program = libc::sock_fprog { len, filter: filter.as_ptr().cast_mut() };
    // SAFETY: program and filter live through the call, and the length is the filter's.
    let outcome = unsafe { libc::syscall(libc::SYS_seccomp, SET_MODE_FILTER, flags, &raw const program) };
    match i32::try_from(outcome) {
        Ok(raw) if raw >= 0 && flags & NEW_LISTENER != 0 => {
            // SAFETY: the kernel has just made this descriptor for us, and nobody else knows it.
            Ok(Some(unsafe { OwnedFd::from_raw_fd(raw) }))
        }
        Ok(0) => Ok(None),
        _ => Err(SysError::last("seccomp")),
    }
}

/// What is looked at of an argument: its low half under a mask must be a value.
#[derive(Debug, Clone, Copy)]
pub struct Argument {
    /// Which one, from 0.
    pub index: u8,
    /// Bits that count.
    pub mask: u32,
    /// What they must be.
    pub value: u32,
}

/// A call in a list of what a thread may do.
#[derive(Debug, Clone, Copy)]
pub enum Rule {
    /// It may.
    Allow(i64),
    /// It may if the argument is one of these.
    When(i64, &'static [Argument]),
    /// It is told this errno, as by a kernel that lacks the call.
    Refuse(i64, u16),
}

/// A filter: a program that traps what no rule allows.
#[derive(Debug, Clone, Copy)]
pub struct Filter {
    code: [u64; MOST],
    length: usize,
}

/// Instructions of a filter's longest program.
const MOST: usize = 576;
/// Return values, `SECCOMP_RET_*`.
const ALLOW: u32 = 0x7fff_0000;
const TRAP: u32 = 0x0003_0000;
const ERRNO: u32 = 0x0005_0000;
const KILL: u32 = 0x8000_0000;
/// `AUDIT_ARCH_X86_64`.
const ARCHITECTURE: u32 = 0xc000_003e;
/// Calls from here on are of the x32 ABI.
const X32: u32 = 0x4000_0000;

const LOAD: u16 = 0x20;
const AND: u16 = 0x54;
const EQUAL: u16 = 0x15;
const AT_LEAST: u16 = 0x35;
const RETURN: u16 = 0x06;

impl Filter {
    const fn put(&mut self, code: u16, jt: u8, jf: u8, k: u32) {
        self.code[self.length] = code as u64 | (jt as u64) << 16 | (jf as u64) << 24 | (k as u64) << 32;
        self.length += 1;
    }

    /// Compiles lists of rules, in a constant so that a list which is too long does not build.
    ///
    /// # Source
    /// seccomp(2): `struct seccomp_data` has the call at 0, the architecture at 4, the arguments from 16 on.
    #[must_use]
    pub const fn new(lists: &[&[Rule]]) -> Self {
        let mut filter = Self { code: [0; MOST], length: 0 };
        filter.put(LOAD, 0, 0, 4);
        filter.put(EQUAL, 1, 0, ARCHITECTURE);
        filter.put(RETURN, 0, 0, KILL);
        filter.put(LOAD, 0, 0, 0);
        filter.put(AT_LEAST, 0, 1, X32);
        filter.put(RETURN, 0, 0, KILL);
        let mut list = 0;
        while list < lists.len() {
            let mut at = 0;
            while at < lists[list].len() {
                filter.rule(lists[list][at]);
                at += 1;
            }
            list += 1;
        }
        filter.put(RETURN, 0, 0, TRAP);
        filter
    }

    const fn rule(&mut self, rule: Rule) {
        match rule {
            Rule::Allow(call) => {
                self.put(EQUAL, 0, 1, call as u32);
                self.put(RETURN, 0, 0, ALLOW);
            }
            Rule::Refuse(call, errno) => {
                self.put(EQUAL, 0, 1, call as u32);
                self.put(RETURN, 0, 0, ERRNO | errno as u32);
            }
            Rule::When(call, arguments) => {
                // Each argument is four instructions; the trap behind them is one.
                self.put(EQUAL, 0, (arguments.len() * 4 + 1) as u8, call as u32);
                let mut at = 0;
                while at < arguments.len() {
                    let Argument { index, mask, value } = arguments[at];
                    self.put(LOAD, 0, 0, 16 + 8 * index as u32);
                    self.put(AND, 0, 0, mask);
                    self.put(EQUAL, 0, 1, value);
                    self.put(RETURN, 0, 0, ALLOW);
                    at += 1;
                }
                self.put(RETURN, 0, 0, TRAP);
            }
        }
    }

    /// Confines the calling thread, on top of what confines it already: the strictest of all filters counts.
    ///
    /// # Errors
    /// As [`load`].
    pub fn confine(&self) -> Result<()> {
        load(0, &self.code[..self.length]).map(drop)
    }
}

/// The exit code of a process that a filter ended: as by `SIGSYS`.
pub const ENDED_BY_FILTER: i32 = 128 + libc::SIGSYS;

extern "C" fn trapped(_signal: libc::c_int, record: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    // The layout of `siginfo_t` for SIGSYS: three integers and padding, the address of the call, then its number.
    const NUMBER: usize = 24;
    // SAFETY: the kernel gives a whole record, of 128 bytes, to a handler with SA_SIGINFO.
    let number = unsafe { record.cast::<u8>().wrapping_add(NUMBER).cast::<i32>().read_unaligned() };
    let mut name = [0_u8; 16];
    // SAFETY: the kernel writes 16 bytes.
    unsafe { libc::prctl(libc::PR_GET_NAME, name.as_mut_ptr()) };
    let mut digits = [0_u8; 12];
    let (mut left, mut first) = (number.unsigned_abs(), digits.len());
    while first > 0 {
        first -= 1;
        digits[first] = b'0' + (left % 10) as u8;
        left /= 10;
        if left == 0 {
            break;
        }
    }
    let length = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
    for part in
        [b"jail: the thread ", &name[..length], b" tried system call ", &digits[first..], b", which it may not\n"]
    {
        // SAFETY: the bytes live through the call; nothing could be done if it fails.
        unsafe { libc::write(2, part.as_ptr().cast(), part.len()) };
    }
    // SAFETY: ends the process at once, which is allowed in a handler.
    unsafe { libc::_exit(ENDED_BY_FILTER) };
}

/// From now on, a call that a filter traps ends the process with [`ENDED_BY_FILTER`] and a line on standard error that says which
/// thread tried which call.
///
/// # Errors
/// What sigaction(2) says.
pub fn report_trapped() -> Result<()> {
    // SAFETY: the structure is plain numbers, for which zero is "nothing".
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = trapped as *const () as usize;
    action.sa_flags = libc::SA_SIGINFO;
    // SAFETY: the structure lives through the call, and the handler calls only what a handler may.
    let outcome = unsafe { libc::sigaction(libc::SIGSYS, &raw const action, std::ptr::null_mut()) };
    if outcome == 0 { Ok(()) } else { Err(SysError::last("sigaction")) }
}
