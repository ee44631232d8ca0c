//! A container's streams joined to the user's: one loop over standard input, the connection and signals.
//!
//! Nothing in the loop waits for the container to read: what it has not taken yet is kept back (up to [`PENDING`] bytes, then
//! standard input rests), so that a container which only writes is never stuck behind one that does not read.

use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsFd as _;

use docker_wire::stdcopy;
use rustix::event::{PollFd, PollFlags, poll};
use sys::job::SignalQueue;

use crate::client::Upgraded;
use crate::failure::Failure;
use crate::output;

/// The most bytes of input that wait for the container.
const PENDING: usize = 256 * 1024;
const BUFFER: usize = 32 * 1024;

/// Signals that go to the container in place of ending the client.
pub(crate) const PROXIED: &[(i32, &str)] =
    &[(1, "HUP"), (2, "INT"), (3, "QUIT"), (10, "USR1"), (12, "USR2"), (14, "ALRM"), (15, "TERM")];
/// The signal of a changed window size.
pub(crate) const WINDOW: i32 = 28;

/// How a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// The daemon closed the streams.
    Closed,
    /// The user typed the detach keys.
    Detached,
}

/// Whether standard input goes to the container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Input {
    /// It does.
    Forwarded,
    /// It is left alone.
    Ignored,
}

/// What happens beside the streams.
pub(crate) enum Beside {
    /// A signal came for the container.
    Signal(&'static str),
    /// The window has another size.
    Resized,
}

/// The streams of one container.
pub(crate) struct Session {
    upgraded: Upgraded,
    input: Input,
    unframe: Unframe,
    keys: Keys,
}

impl Session {
    /// Joins the streams; `multiplexed` says how output is framed when the daemon does not.
    pub(crate) fn new(upgraded: Upgraded, input: Input, multiplexed: bool, keys: Keys) -> Self {
        let framed = upgraded.multiplexed.unwrap_or(multiplexed);
        Self { upgraded, input, unframe: if framed { Unframe::framed() } else { Unframe::Raw }, keys }
    }

    /// Carries bytes until the daemon closes.
    ///
    /// # Errors
    /// A connection that fails, or output in frames that are none.
    pub(crate) fn run(
        mut self,
        signals: &SignalQueue,
        beside: &mut dyn FnMut(Beside) -> Result<(), Failure>,
    ) -> Result<End, Failure> {
        let early = std::mem::take(&mut self.upgraded.early);
        self.unframe.feed(&early)?;
        self.upgraded.stream.set_nonblocking(true)?;
        let stdin = io::stdin();
        let mut pending: Vec<u8> = Vec::new();
        let mut input_open = self.input == Input::Forwarded;
        let mut half_closed = !input_open;
        let mut buffer = vec![0; BUFFER];
        loop {
            if !input_open && pending.is_empty() && !half_closed {
                half_closed = true;
                // A daemon that has closed already needs no telling.
                let _ = self.upgraded.stream.shutdown(Shutdown::Write);
            }
            let wants = if pending.is_empty() { PollFlags::IN } else { PollFlags::IN | PollFlags::OUT };
            let mut polled = vec![PollFd::new(&self.upgraded.stream, wants), PollFd::new(signals, PollFlags::IN)];
            if input_open && pending.len() < PENDING {
                polled.push(PollFd::from_borrowed_fd(stdin.as_fd(), PollFlags::IN));
            }
            match poll(&mut polled, None) {
                Err(rustix::io::Errno::INTR) => continue,
                other => other?,
            };
            let events: Vec<PollFlags> = polled.iter().map(PollFd::revents).collect();
            let ready = |index: usize| events.get(index).copied().unwrap_or(PollFlags::empty());
            drop(polled);
            if !ready(1).is_empty() {
                take_signals(signals, beside)?;
            }
            if !ready(2).is_empty() {
                // The raw descriptor, because the standard library's buffer would hide bytes from poll.
                let count = match rustix::io::read(&stdin, &mut *buffer) {
                    Ok(count) => count,
                    Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => continue,
                    // A terminal that has hung up, or a background job's: nothing more comes.
                    Err(_) => 0,
                };
                input_open = count > 0;
                let typed = buffer.get(..count).unwrap_or_default();
                self.keys.watch(typed);
                pending.extend_from_slice(typed);
            }
            if ready(0).contains(PollFlags::OUT) && !pending.is_empty() {
                match self.upgraded.stream.write(&pending) {
                    Ok(count) => drop(pending.drain(..count)),
                    Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                    // The container has closed its input; its output may still come.
                    Err(_) => {
                        pending.clear();
                        input_open = false;
                        half_closed = true;
                    }
                }
            }
            if ready(0).intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) && self.take_output(&mut buffer)? {
                return Ok(if self.keys.typed() { End::Detached } else { End::Closed });
            }
        }
    }

    /// Reads once; true at the end.
    fn take_output(&mut self, buffer: &mut [u8]) -> Result<bool, Failure> {
        match self.upgraded.stream.read(buffer) {
            Ok(0) => Ok(true),
            Ok(count) => {
                self.unframe.feed(buffer.get(..count).unwrap_or_default())?;
                Ok(false)
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(false),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(true),
            Err(error) => Err(error.into()),
        }
    }
}

fn take_signals(signals: &SignalQueue, beside: &mut dyn FnMut(Beside) -> Result<(), Failure>) -> Result<(), Failure> {
    while let Some(number) = signals.next()? {
        if number == WINDOW {
            beside(Beside::Resized)?;
        } else if let Some((_, name)) = PROXIED.iter().find(|(signal, _)| *signal == number) {
            beside(Beside::Signal(name))?;
        }
    }
    Ok(())
}

/// Collects the signals that a session cares for.
///
/// # Errors
/// What signalfd(2) says.
pub(crate) fn signals(proxy: bool) -> Result<SignalQueue, Failure> {
    let mut numbers = vec![WINDOW];
    if proxy {
        numbers.extend(PROXIED.iter().map(|(number, _)| *number));
    }
    Ok(SignalQueue::new(&numbers)?)
}

/// Sorts output into its streams.
pub(crate) enum Unframe {
    /// A terminal's bytes: all of it is standard output.
    Raw,
    /// Frames, with what has come of the next one's header and what is left of the present one.
    Framed { header: Vec<u8>, stream: stdcopy::Stream, left: usize },
}

impl Unframe {
    /// Output in frames.
    pub(crate) fn framed() -> Self {
        Self::Framed { header: Vec::new(), stream: stdcopy::Stream::Stdout, left: 0 }
    }

    /// Writes what has come to where it belongs.
    ///
    /// # Errors
    /// A header that is none.
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.sort(bytes, &mut |stream, payload| match stream {
            stdcopy::Stream::Stdout => output::write(payload),
            stdcopy::Stream::Stderr | stdcopy::Stream::System => output::write_error(payload),
        })
    }

    /// Gives what has come to `sink`, by its stream.
    ///
    /// # Errors
    /// A header that is none.
    pub(crate) fn sort(
        &mut self,
        mut bytes: &[u8],
        sink: &mut dyn FnMut(stdcopy::Stream, &[u8]),
    ) -> Result<(), Failure> {
        let (header, stream, left) = match self {
            Self::Raw => {
                if !bytes.is_empty() {
                    sink(stdcopy::Stream::Stdout, bytes);
                }
                return Ok(());
            }
            Self::Framed { header, stream, left } => (header, stream, left),
        };
        while !bytes.is_empty() {
            if *left > 0 {
                let (payload, rest) = bytes.split_at(bytes.len().min(*left));
                sink(*stream, payload);
                *left -= payload.len();
                bytes = rest;
                continue;
            }
            let (part, rest) = bytes.split_at(bytes.len().min(stdcopy::HEADER - header.len()));
            header.extend_from_slice(part);
            bytes = rest;
            if let Ok(whole) = <[u8; stdcopy::HEADER]>::try_from(header.as_slice()) {
                let (which, length) = stdcopy::parse(whole)?;
                *stream = which;
                *left = usize::try_from(length)?;
                header.clear();
            }
        }
        Ok(())
    }
}

/// Watches what is typed for the detach keys, which the daemon acts upon.
#[derive(Debug, Default)]
pub(crate) struct Keys {
    sequence: Vec<u8>,
    recent: Vec<u8>,
}

impl Keys {
    /// Watches for a sequence as Docker writes it: `ctrl-p,ctrl-q`, `ctrl-@,x`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut sequence = Vec::new();
        for key in text.split(',') {
            let byte = match key.to_ascii_lowercase().strip_prefix("ctrl-").map(str::as_bytes) {
                Some([letter @ b'a'..=b'z']) => letter - b'a' + 1,
                Some([b'@']) => 0,
                Some([b'[']) => 27,
                Some([b'\\']) => 28,
                Some([b']']) => 29,
                Some([b'^']) => 30,
                Some([b'_']) => 31,
                Some(_) => {
                    return Err(format!("unknown key {key:?}; give ctrl-a to ctrl-z, or ctrl- and one of @[\\]^_"));
                }
                None => match key.as_bytes() {
                    [single] => *single,
                    _ => {
                        return Err(format!(
                            "unknown key {key:?}; give single characters and ctrl-X, with commas between"
                        ));
                    }
                },
            };
            sequence.push(byte);
        }
        Ok(Self { sequence, recent: Vec::new() })
    }

    fn watch(&mut self, typed: &[u8]) {
        self.recent.extend_from_slice(typed);
        if !self.typed() {
            let keep = self.sequence.len().saturating_sub(1);
            let surplus = self.recent.len().saturating_sub(keep);
            drop(self.recent.drain(..surplus));
        }
    }

    fn typed(&self) -> bool {
        !self.sequence.is_empty() && self.recent.windows(self.sequence.len()).any(|window| window == self.sequence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_sorted_however_they_are_cut() {
        let mut wire = Vec::new();
        for (stream, text) in
            [(stdcopy::Stream::Stdout, "out"), (stdcopy::Stream::Stderr, "error"), (stdcopy::Stream::Stdout, "")]
        {
            wire.extend_from_slice(&stdcopy::header(stream, u32::try_from(text.len()).unwrap()));
            wire.extend_from_slice(text.as_bytes());
        }
        for size in 1..wire.len() {
            let (mut out, mut error) = (Vec::new(), Vec::new());
            let mut unframe = Unframe::framed();
            for part in wire.chunks(size) {
                unframe
                    .sort(part, &mut |stream, payload| match stream {
                        stdcopy::Stream::Stdout => out.extend_from_slice(payload),
                        _ => error.extend_from_slice(payload),
                    })
                    .unwrap();
            }
            assert_eq!((out.as_slice(), error.as_slice()), (&b"out"[..], &b"error"[..]), "cut at {size}");
        }
        assert!(Unframe::framed().sort(&[9; 8], &mut |_, _| {}).is_err());
    }

    #[test]
    fn detach_keys_are_recognised_across_reads() {
        let mut keys = Keys::parse("ctrl-p,ctrl-q").unwrap();
        keys.watch(b"abc\x10");
        assert!(!keys.typed());
        keys.watch(b"\x11");
        assert!(keys.typed());
        keys.watch(b"more");
        assert!(keys.typed());
        assert_eq!(Keys::parse("ctrl-@,x").unwrap().sequence, [0, b'x']);
        assert!(Keys::parse("ctrl-%").is_err());
        assert!(Keys::parse("shift-a").is_err());
        assert!(!Keys::default().typed());
    }
}
