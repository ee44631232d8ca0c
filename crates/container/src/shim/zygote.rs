//! A helper kept ready: it forks one copy of itself for each connection that it is sent.
//!
//! A fork of a small process that has started already costs a third of starting one (no program to load, no C library to
//! set up, which on virtual machines alone takes longer than a namespace), and the copies share their memory until they
//! write to it. The daemon keeps one; it ends with the daemon, its copies do not.

use crate::error::{Doing, SetupError};
use control::{FailureKind, FrameReader, ReadOutcome, WireError};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::os::fd::OwnedFd;
use sys::process::SingleThread;
use sys::signal::Reaping;

const QUIET: Timespec = Timespec { tv_sec: 0, tv_nsec: 300_000_000 };

/// Serves until the daemon closes `connection`. In the copies, what it returns is the helper's end.
///
/// # Errors
/// What keeps it from starting, or a daemon that does not speak the protocol.
pub fn zygote(connection: OwnedFd) -> crate::Result<()> {
    let proof = SingleThread::check().doing(|| "cannot work with several threads")?;
    let _ = rustix::process::setsid();
    sys::signal::reap_children(Reaping::ByKernel).doing(|| "sigaction")?;
    // each copy then has it; what is wrong with it is each copy\'s to say
    let _ = crate::create::cgroups();
    let wire =
        |error: WireError| SetupError::new(FailureKind::Internal, format!("the daemon's connection failed: {error}"));
    let mut reader = FrameReader::new();
    loop {
        while let Some(frame) = reader.next_frame::<()>().map_err(wire)? {
            for connection_of_one in frame.fds {
                if sys::process::fork(proof).doing(|| "fork")?.is_none() {
                    drop((connection, reader));
                    // the helper waits for its own children
                    sys::signal::reap_children(Reaping::ByParent).doing(|| "sigaction")?;
                    return super::run(connection_of_one);
                }
            }
        }
        rest(&connection);
        match reader.read(&connection).map_err(wire)? {
            ReadOutcome::End => return Ok(()),
            ReadOutcome::Bytes | ReadOutcome::WouldBlock => {}
        }
    }
}

/// Gives the memory of the program's text back when nothing comes for a while: whoever forks next reads it from the page
/// cache again.
fn rest(connection: &OwnedFd) {
    let mut waiting = [PollFd::new(connection, PollFlags::IN)];
    if poll(&mut waiting, Some(&QUIET)) == Ok(0) {
        sys::process::trim_memory();
    }
}
