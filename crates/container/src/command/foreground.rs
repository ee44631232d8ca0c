//! Standing in front of a process: its terminal, its signals, its end.

use super::flags::Parsed;
use super::notify::Notify;
use super::{Failure, Outcome};
use crate::stdio::Stdio;
use oci_spec::runtime::{Process, Spec};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};
use rustix::process::{WaitId, WaitIdOptions, waitid};
use rustix::termios::{OptionalActions, OutputModes, Termios};
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// How long a socket of the caller's may take to be there.
const SOCKET_TIMEOUT: Duration = Duration::from_secs(1);

/// Whether the command waits for the program's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stay {
    Foreground,
    Detached,
}

/// Where a program that we stay for or not has its streams.
pub(super) fn stdio(stay: Stay) -> Stdio {
    match stay {
        Stay::Foreground => Stdio::Relay,
        Stay::Detached => Stdio::Inherit,
    }
}

/// The socket for the terminal, connected, where one is given; checks that it and the terminal are wanted together.
pub(super) fn console_socket(parsed: &Parsed, spec: &Spec, stay: Stay) -> Result<Option<OwnedFd>, Failure> {
    let terminal = spec.process().as_ref().and_then(Process::terminal).unwrap_or(false);
    connect_console(parsed.value("console-socket"), terminal, stay)
}

/// As [`console_socket`], for a process that does or does not want a terminal.
pub(super) fn connect_console(path: Option<&str>, terminal: bool, stay: Stay) -> Result<Option<OwnedFd>, Failure> {
    match path.filter(|path| !path.is_empty()) {
        None if terminal && stay == Stay::Detached => {
            Err(Failure::new("cannot allocate tty if insula-oci will detach without setting console socket"))
        }
        None => Ok(None),
        Some(_) if !terminal || stay == Stay::Foreground => {
            Err(Failure::new("cannot use console socket if insula-oci will not detach or allocate tty"))
        }
        Some(path) => connect("console socket", path).map(Some),
    }
}

/// Connects to a socket of the caller's. Who starts a receiver and a slower runtime at the same moment finds it listening by the
/// time that is needed; with us it may take one more moment.
fn connect(what: &str, path: &str) -> Result<OwnedFd, Failure> {
    let failed = |errno: Errno| Failure::new(format!("{what} {path}: {errno}"));
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
        .map_err(failed)?;
    let address = SocketAddrUnix::new(path).map_err(failed)?;
    let deadline = Instant::now() + SOCKET_TIMEOUT;
    loop {
        match rustix::net::connect(&socket, &address) {
            Ok(()) => return Ok(socket),
            Err(Errno::NOENT | Errno::CONNREFUSED) if Instant::now() < deadline => {
                std::thread::sleep(SOCKET_TIMEOUT / 100);
            }
            Err(errno) => return Err(failed(errno)),
        }
    }
}

/// The socket for the process's pidfd, connected, where one is given.
pub(super) fn watcher(parsed: &Parsed) -> Result<Option<OwnedFd>, Failure> {
    let path = parsed.value("pidfd-socket").filter(|path| !path.is_empty());
    path.map(|path| connect("pidfd socket", path)).transpose()
}

/// Sends whoever asked for it the process's pidfd.
pub(super) fn tell(watcher: Option<&OwnedFd>, pidfd: &OwnedFd) -> Result<(), Failure> {
    watcher.map_or(Ok(()), |socket| send("pidfd socket", socket, (b"pidfd", pidfd)))
}

/// Sends the master of a terminal, with the name that it was opened by.
pub(super) fn send_terminal(socket: &OwnedFd, master: &OwnedFd) -> Result<(), Failure> {
    send("console socket", socket, (b"/dev/ptmx", master))
}

/// Sends a descriptor with its name.
fn send(what: &str, socket: &OwnedFd, (name, fd): (&[u8], &OwnedFd)) -> Result<(), Failure> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = [fd.as_fd()];
    control.push(SendAncillaryMessage::ScmRights(&fds));
    rustix::net::sendmsg(socket, &[IoSlice::new(name)], &mut control, SendFlags::NOSIGNAL)
        .map_err(|errno| Failure::new(format!("{what}: {errno}")))?;
    Ok(())
}

/// The size of our own terminal, for a program that looks at its own at once.
pub(super) fn own_size() -> Option<oci_spec::runtime::Box> {
    let size = rustix::termios::tcgetwinsize(rustix::stdio::stdin()).ok()?;
    let shape = oci_spec::runtime::BoxBuilder::default().height(size.ws_row).width(size.ws_col);
    shape.build().ok()
}

/// Our own terminal, raw until this is dropped.
struct Raw(Option<Termios>);

impl Raw {
    fn enter() -> Self {
        let stdin = rustix::stdio::stdin();
        let before = rustix::termios::tcgetattr(stdin).ok();
        if let Some(before) = &before {
            let mut raw = before.clone();
            raw.make_raw();
            // the program's terminal leaves the ends of lines to ours
            raw.output_modes.insert(OutputModes::OPOST);
            // a terminal that stays as it is still shows the output
            let _ = rustix::termios::tcsetattr(stdin, OptionalActions::Now, &raw);
        }
        Self(before)
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            // as above
            let _ = rustix::termios::tcsetattr(rustix::stdio::stdin(), OptionalActions::Drain, before);
        }
    }
}

/// Waits for a process's end, hands signals on (which the caller must have blocked) and stands between its terminal and ours. Returns the
/// exit code, 128 and the signal for one that was killed.
pub(super) fn attend((pidfd, pid): (&OwnedFd, i32), terminal: Option<OwnedFd>, notify: Option<&Notify>) -> Outcome {
    let signals = sys::signal::signal_fd().map_err(|error| Failure::new(error.to_string()))?;
    let raw = terminal.as_ref().map(|_| Raw::enter());
    if let Some(master) = &terminal {
        resize(master);
    }
    let mut relay = Relay { master: terminal, input: Input::Open };
    loop {
        let mut fds = vec![PollFd::new(&signals, PollFlags::IN), PollFd::new(pidfd, PollFlags::IN)];
        let stdin = rustix::stdio::stdin();
        if let Some(master) = &relay.master {
            fds.push(PollFd::new(master, PollFlags::IN));
            if relay.input == Input::Open {
                fds.push(PollFd::new(&stdin, PollFlags::IN));
            }
        }
        let told = fds.len();
        fds.extend(notify.map(|notify| PollFd::new(notify, PollFlags::IN)));
        match poll(&mut fds, None) {
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            Err(errno) => return Err(Failure::new(format!("poll: {errno}"))),
        }
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        drop(fds);
        let is = |at: usize| ready.get(at) == Some(&true);
        if is(0) {
            take_signal(&signals, pidfd, relay.master.as_ref());
        }
        if is(told)
            && let Some(notify) = notify
        {
            notify.relay(pid);
        }
        if is(3) && told > 3 {
            relay.feed();
        }
        let drained = if is(2) && told > 2 { relay.show() } else { true };
        if is(1) && (drained || relay.master.is_none()) {
            break;
        }
    }
    drop(raw);
    code(pidfd)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Input {
    Open,
    Ended,
}

struct Relay {
    master: Option<OwnedFd>,
    input: Input,
}

impl Relay {
    /// What the program shows; says whether there is nothing more for now.
    fn show(&mut self) -> bool {
        let mut bytes = [0_u8; 8192];
        let got = self.master.as_ref().map(|master| rustix::io::read(master, &mut bytes));
        match got {
            Some(Ok(count)) if count > 0 => {
                write_all(rustix::stdio::stdout(), &bytes[..count]);
                false
            }
            Some(Err(Errno::INTR | Errno::AGAIN)) => false,
            // the last one who had it open has gone
            _ => {
                self.master = None;
                true
            }
        }
    }

    /// What the user types.
    fn feed(&mut self) {
        const END_OF_FILE: u8 = 4;
        let mut bytes = [0_u8; 4096];
        let Some(master) = &self.master else { return };
        match rustix::io::read(rustix::stdio::stdin(), &mut bytes) {
            Ok(count) if count > 0 => write_all(master.as_fd(), &bytes[..count]),
            Err(Errno::INTR | Errno::AGAIN) => {}
            _ => {
                self.input = Input::Ended;
                write_all(master.as_fd(), &[END_OF_FILE]);
            }
        }
    }
}

fn write_all(to: BorrowedFd<'_>, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        match rustix::io::write(to, bytes) {
            Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
            Err(Errno::INTR | Errno::AGAIN) => {}
            // whoever reads has gone; the program goes on
            Err(_) => return,
        }
    }
}

fn take_signal(signals: &OwnedFd, pidfd: &OwnedFd, master: Option<&OwnedFd>) {
    match (sys::signal::take(signals.as_fd()), master) {
        (Ok(libc::SIGCHLD | libc::SIGURG | libc::SIGPIPE) | Err(_), _) => {}
        (Ok(libc::SIGWINCH), Some(master)) => resize(master),
        (Ok(signal), _) => {
            // it may have ended just now
            let _ = sys::signal::kill_pidfd(pidfd.as_fd(), signal);
        }
    }
}

fn resize(master: &OwnedFd) {
    if let Ok(size) = rustix::termios::tcgetwinsize(rustix::stdio::stdin()) {
        // shown in the old size where that fails
        let _ = rustix::termios::tcsetwinsize(master, size);
    }
}

fn code(pidfd: &OwnedFd) -> Outcome {
    let ended = loop {
        match waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED) {
            Err(Errno::INTR) => {}
            other => break other.map_err(|errno| Failure::new(format!("waitid: {errno}")))?,
        }
    };
    let code = ended
        .and_then(|status| status.exit_status().or_else(|| status.terminating_signal().map(|signal| 128 + signal)));
    Ok(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}
