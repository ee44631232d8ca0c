//! What a program that starts others needs: signals as a readable descriptor, and children with a session or signals of their own.

#![expect(unsafe_code, reason = "signal masks, signalfd and the step between fork and exec have no safe face")]

use std::io;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};

use crate::error::{Result, SysError};

/// Signals that are read from a descriptor in place of interrupting the program.
///
/// The signals stay blocked in the thread that made the queue, and in the threads that it starts afterwards.
#[derive(Debug)]
pub struct SignalQueue {
    fd: OwnedFd,
}

impl SignalQueue {
    /// Blocks `signals` (their numbers) and collects them from now on.
    ///
    /// # Errors
    /// The errno of `sigaddset`, `pthread_sigmask` or `signalfd`.
    pub fn new(signals: &[i32]) -> Result<Self> {
        let mut set = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: the pointer is to storage of the right size, which sigemptyset initialises whole.
        unsafe { libc::sigemptyset(set.as_mut_ptr()) };
        // SAFETY: initialised by sigemptyset above, which cannot fail.
        let mut set = unsafe { set.assume_init() };
        for signal in signals {
            // SAFETY: the set is initialised; a number that is no signal is refused with EINVAL.
            if unsafe { libc::sigaddset(&raw mut set, *signal) } != 0 {
                return Err(SysError::last("sigaddset"));
            }
        }
        // SAFETY: the set is initialised, and the old mask is not asked for.
        let errno = unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) };
        if errno != 0 {
            return Err(SysError::new("pthread_sigmask", rustix::io::Errno::from_raw_os_error(errno)));
        }
        // SAFETY: the set is initialised; -1 asks for a new descriptor.
        let fd = unsafe { libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
        if fd < 0 {
            return Err(SysError::last("signalfd"));
        }
        // SAFETY: the descriptor was just made and nobody else owns it.
        Ok(Self { fd: unsafe { OwnedFd::from_raw_fd(fd) } })
    }

    /// The next signal's number, or `None` if none is waiting.
    ///
    /// # Errors
    /// The errno of `read`.
    pub fn next(&self) -> Result<Option<i32>> {
        let mut record = MaybeUninit::<libc::signalfd_siginfo>::zeroed();
        let size = size_of::<libc::signalfd_siginfo>();
        // SAFETY: the buffer is valid for `size` bytes.
        let count = unsafe { libc::read(self.fd.as_raw_fd(), record.as_mut_ptr().cast(), size) };
        if count < 0 {
            let error = SysError::last("read");
            return if error.errno == rustix::io::Errno::AGAIN { Ok(None) } else { Err(error) };
        }
        // SAFETY: the record is plain numbers, valid for every bit pattern, and was zeroed.
        let record = unsafe { record.assume_init() };
        Ok(i32::try_from(record.ssi_signo).ok().filter(|signal| *signal > 0))
    }
}

impl AsFd for SignalQueue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Starts `command` as the leader of a new session, so that no terminal's signals reach it.
///
/// # Errors
/// What fork, setsid or exec says.
pub fn spawn_in_new_session(command: &mut Command) -> io::Result<Child> {
    // SAFETY: the closure only makes a system call, which is allowed between fork and exec.
    unsafe {
        command.pre_exec(|| {
            rustix::process::setsid()?;
            Ok(())
        })
    };
    command.spawn()
}

/// Has the program that `command` is to run take every signal: it would inherit which ones we hold back.
pub fn with_signals(command: &mut Command) -> &mut Command {
    // SAFETY: the closure only makes a system call, which is allowed between fork and exec.
    unsafe {
        command.pre_exec(|| {
            crate::process::unblock_signals();
            Ok(())
        })
    }
}

/// As [`with_signals`], and without a descriptor of ours or our caller's but the standard streams.
pub fn apart(command: &mut Command) -> &mut Command {
    // SAFETY: the closure only makes a system call, which is allowed between fork and exec.
    unsafe {
        command.pre_exec(|| {
            crate::process::close_on_exec_from(3).map_err(|error| error.errno)?;
            Ok(())
        })
    };
    with_signals(command)
}
