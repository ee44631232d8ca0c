//! Following a program instruction by instruction: ptrace(2). For tools; nothing that serves users asks for it.

#![expect(unsafe_code, reason = "neither rustix nor the standard library has ptrace")]

use std::collections::BTreeMap;
use std::mem::MaybeUninit;

use crate::{Result, SysError};

/// How a process that is followed goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pace {
    /// As it is, until it executes the program to look at.
    Waiting,
    /// An instruction at a time.
    Stepping,
}

/// Follows a child of this process, which waits for `release`, and all that it makes: the next program that it executes is
/// gone through an instruction at a time, in every process of it, until each executes something else or ends. `seen` is told
/// the address of each instruction.
///
/// # Errors
/// `EPERM` where the child may not be traced; what ptrace(2) says otherwise. What was followed dies with this process.
pub fn follow(child: i32, release: impl FnOnce(), seen: &mut dyn FnMut(u64)) -> Result<()> {
    const OPTIONS: libc::c_int = libc::PTRACE_O_TRACECLONE
        | libc::PTRACE_O_TRACEFORK
        | libc::PTRACE_O_TRACEVFORK
        | libc::PTRACE_O_TRACEEXEC
        | libc::PTRACE_O_EXITKILL;
    ask(libc::PTRACE_SEIZE, child, usize::try_from(OPTIONS).unwrap_or(0))?;
    release();
    let mut followed = BTreeMap::from([(child, Pace::Waiting)]);
    while !followed.is_empty() {
        let mut status = 0;
        // SAFETY: the kernel writes one number to `status`.
        let process = unsafe { libc::waitpid(-1, &raw mut status, libc::__WALL) };
        if process < 0 {
            return Err(SysError::last("waitpid"));
        }
        if !libc::WIFSTOPPED(status) {
            followed.remove(&process);
            continue;
        }
        let (signal, event) = (libc::WSTOPSIG(status), status >> 16);
        // what a process makes is stopped, too, before its first instruction
        let pace = followed.entry(process).or_insert(Pace::Stepping);
        if event == libc::PTRACE_EVENT_EXEC {
            if *pace == Pace::Stepping {
                followed.remove(&process);
                ask(libc::PTRACE_DETACH, process, 0)?;
                continue;
            }
            *pace = Pace::Stepping;
        }
        let ours = event != 0 || signal == libc::SIGTRAP;
        let deliver = if ours { 0 } else { usize::try_from(signal).unwrap_or(0) };
        let how = match pace {
            Pace::Waiting => libc::PTRACE_CONT,
            Pace::Stepping => {
                seen(instruction(process)?);
                libc::PTRACE_SINGLESTEP
            }
        };
        match ask(how, process, deliver) {
            // it was killed in the meantime, and its end will be told
            Err(error) if error.errno == rustix::io::Errno::SRCH => {}
            other => other?,
        }
    }
    Ok(())
}

fn ask(request: libc::c_uint, process: i32, data: usize) -> Result<()> {
    // SAFETY: none of the requests made here has the kernel read or write memory of ours.
    let outcome = unsafe { libc::ptrace(request, process, 0_usize, data) };
    if outcome == 0 { Ok(()) } else { Err(SysError::last("ptrace")) }
}

/// Where a stopped process is.
fn instruction(process: i32) -> Result<u64> {
    let mut registers = MaybeUninit::<libc::user_regs_struct>::uninit();
    // SAFETY: the kernel writes all registers to a structure of just that form.
    let outcome = unsafe { libc::ptrace(libc::PTRACE_GETREGS, process, 0_usize, registers.as_mut_ptr()) };
    if outcome != 0 {
        return Err(SysError::last("ptrace"));
    }
    // SAFETY: it was written just now.
    Ok(unsafe { registers.assume_init() }.rip)
}
