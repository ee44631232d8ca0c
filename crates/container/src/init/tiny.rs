//! A tiny process 1: starts the program, forwards signals, reaps, ends with the program's code.

use crate::error::{Doing, Result, SetupError};
use crate::process::Job;
use crate::sync::Word;
use rustix::process::{Pid, WaitOptions, wait};
use std::ffi::OsString;
use std::io::Write as _;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use sys::process::SingleThread;

/// Never returns with success: either the program's code ends this process, or the failure is told.
pub(crate) fn run(proof: SingleThread, job: &Job<'_>) -> Result<()> {
    sys::process::block_signals();
    let Some(child) = sys::process::fork(proof).doing(|| "cannot start the program")? else {
        own_group(job);
        if let Err(error) = job.run(proof) {
            let code = if error.kind == control::FailureKind::CommandNotFound { 127 } else { 126 };
            // heard by the helper, which then ends the container
            let _ = job.line.say(&Word::Failed(error), &[]);
            sys::process::exit_now(code);
        }
        sys::process::exit_now(126)
    };
    // the program's own copy of the line tells whether it could be executed
    job.confine()?;
    close_line(job);
    attend(child)
}

/// Process 1 of a container that another runtime makes: the program that the words name, with us in front of it. Returns only
/// what keeps it from being one.
pub(crate) fn stand_alone(words: &[OsString]) -> Result<()> {
    let (program, arguments) = words.split_first().ok_or_else(|| SetupError::invalid("no program is named"))?;
    let proof = SingleThread::check().doing(|| "cannot work with several threads")?;
    sys::process::block_signals();
    if let Some(child) = sys::process::fork(proof).doing(|| "cannot start the program")? {
        attend(child);
    }
    if rustix::termios::isatty(rustix::stdio::stdin()) {
        foreground();
    }
    sys::process::unblock_signals();
    let error = Command::new(program).args(arguments).exec();
    // standard error is the container's
    let _ = writeln!(std::io::stderr(), "insula-shim: {}: {error}", program.display());
    sys::process::exit_now(if error.kind() == std::io::ErrorKind::NotFound { 127 } else { 126 })
}

/// Hands signals on and reaps until the program has ended.
fn attend(child: i32) -> ! {
    loop {
        let signal = sys::process::wait_for_signal().unwrap_or(0);
        match signal {
            libc::SIGCHLD => reap(child),
            0 | libc::SIGTTIN | libc::SIGTTOU => {}
            other => {
                // the program may have ended just now, and then SIGCHLD follows
                let _ = sys::signal::kill(child, other);
            }
        }
    }
}

/// A group of its own in the terminal's foreground, so that Ctrl-C reaches the program once and not through us again.
fn own_group(job: &Job<'_>) {
    if job.process.terminal().unwrap_or(false) {
        foreground();
    }
}

fn foreground() {
    // without a terminal that obeys, the program still runs
    let _ = rustix::process::setpgid(None, None);
    let _ = rustix::termios::tcsetpgrp(rustix::stdio::stdin(), rustix::process::getpid());
}

fn close_line(job: &Job<'_>) {
    // replaced by an end that nobody reads: the helper sees the program's copy close and no other
    if let Ok(null) = rustix::fs::open("/dev/null", rustix::fs::OFlags::RDONLY, rustix::fs::Mode::empty()) {
        sys::process::replace_fd(null.as_fd(), job.line.as_fd());
    } else {
        sys::process::close_from(3);
    }
}

fn reap(child: i32) {
    while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
        if Some(pid) == Pid::from_raw(child) {
            let code = status.exit_status().or(status.terminating_signal().map(|signal| 128 + signal));
            sys::process::exit_now(code.unwrap_or(1));
        }
    }
}
