//! One process with its streams, from our side.

use super::poll::{Poller, Source, Stream, Token};
use crate::stdio::Streams;
use control::{Exit, ProcessId};
use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use std::os::fd::OwnedFd;

/// Input beyond this is not taken from clients until the process has read some.
const MAX_INPUT: usize = 64 << 10;
/// How long output is awaited after the end, in milliseconds, while somebody else holds the pipe.
const LINGER_MS: u64 = 2000;

/// A process.
#[derive(Debug)]
pub(super) struct Task {
    pub(super) id: ProcessId,
    pub(super) pid: i32,
    pub(super) exit: Option<Exit>,
    /// When to give up on output, by the monotonic clock.
    pub(super) deadline_ms: Option<u64>,
    /// The first client that ends its input ends the process's.
    pub(super) input_once: bool,
    pub(super) tty: bool,
    key: u32,
    pidfd: Option<Source>,
    input: Option<Source>,
    pending: Vec<u8>,
    input_ends: bool,
    outputs: [Option<Source>; 2],
}

impl Task {
    pub(super) fn new(
        poller: &Poller,
        key: u32,
        id: ProcessId,
        (pid, pidfd): (i32, OwnedFd),
        streams: Streams,
    ) -> Self {
        let mut pidfd = poller.source(pidfd, Token::End(key));
        pidfd.want(Some(EventFlags::IN));
        let tty = streams.terminal.is_some();
        let (input, stdout) = match streams.terminal {
            Some(master) => (master.try_clone().ok(), Some(master)),
            None => (streams.stdin, streams.stdout),
        };
        for fd in [&input, &stdout, &streams.stderr].into_iter().flatten() {
            // our ends only: a pipe's ends have flags of their own
            let _ = rustix::io::ioctl_fionbio(fd, true);
        }
        let output = |fd: Option<OwnedFd>, stream| {
            let mut source = poller.source(fd?, Token::Output(key, stream));
            source.want(Some(EventFlags::IN));
            Some(source)
        };
        Self {
            id,
            pid,
            exit: None,
            deadline_ms: None,
            input_once: false,
            tty,
            key,
            pidfd: Some(pidfd),
            input: input.map(|fd| poller.source(fd, Token::Input(key))),
            pending: Vec::new(),
            input_ends: false,
            outputs: [output(stdout, Stream::Stdout), output(streams.stderr, Stream::Stderr)],
        }
    }

    pub(super) fn key(&self) -> u32 {
        self.key
    }

    pub(super) fn pidfd(&self) -> Option<&Source> {
        self.pidfd.as_ref()
    }

    /// Nothing more can come from it.
    pub(super) fn drained(&self) -> bool {
        self.outputs.iter().all(Option::is_none)
    }

    pub(super) fn has_room(&self) -> bool {
        self.pending.len() < MAX_INPUT
    }

    /// Takes input for the process.
    pub(super) fn feed(&mut self, bytes: &[u8]) {
        if self.input.is_some() && !self.input_ends {
            self.pending.extend_from_slice(bytes);
            self.push_input();
        }
    }

    /// The process reads end of file once it has read what is pending. A terminal has no such end.
    pub(super) fn end_input(&mut self) {
        if !self.tty {
            self.input_ends = true;
            self.push_input();
        }
    }

    /// Writes what the process takes.
    pub(super) fn push_input(&mut self) {
        let Some(input) = &mut self.input else { return };
        let mut written = 0;
        let broken = loop {
            match self.pending.get(written..) {
                None | Some([]) => break false,
                Some(rest) => match rustix::io::write(&*input, rest) {
                    Ok(count) => written += count,
                    Err(Errno::INTR) => {}
                    Err(Errno::AGAIN) => break false,
                    Err(_) => break true,
                },
            }
        };
        self.pending.drain(..written);
        if broken || (self.input_ends && self.pending.is_empty()) {
            self.input = None;
            self.pending = Vec::new();
        } else {
            input.want((!self.pending.is_empty()).then_some(EventFlags::OUT));
            if self.pending.is_empty() {
                self.pending = Vec::new();
            }
        }
    }

    /// Reads once from an output. `None` when there is nothing now; an empty read is its end.
    pub(super) fn read(&mut self, stream: Stream, buffer: &mut [u8]) -> Option<usize> {
        let output = &mut self.outputs[stream.index()];
        let source = output.as_ref()?;
        match rustix::io::read(source, buffer) {
            Ok(0) => {
                *output = None;
                None
            }
            Ok(count) => Some(count),
            Err(Errno::AGAIN | Errno::INTR) => None,
            // EIO of a terminal whose other side has no holder any more
            Err(_) => {
                *output = None;
                None
            }
        }
    }

    /// Reads outputs or leaves them alone while a client lags behind.
    pub(super) fn watch_outputs(&mut self, paused: bool) {
        for output in self.outputs.iter_mut().flatten() {
            output.want((!paused).then_some(EventFlags::IN));
        }
    }

    /// The process has ended.
    pub(super) fn ended(&mut self, exit: Exit, now_ms: u64) {
        self.pidfd = None;
        self.input = None;
        self.exit = Some(exit);
        self.deadline_ms = Some(now_ms + LINGER_MS);
    }

    /// Gives up on outputs that others hold open.
    pub(super) fn abandon_outputs(&mut self) {
        self.outputs = [None, None];
    }

    /// Sets the terminal's size.
    pub(super) fn resize(&self, rows: u16, cols: u16) -> Option<rustix::io::Result<()>> {
        let terminal = self.outputs[0].as_ref().filter(|_| self.tty)?;
        let size = rustix::termios::Winsize { ws_row: rows, ws_col: cols, ws_xpixel: 0, ws_ypixel: 0 };
        Some(rustix::termios::tcsetwinsize(terminal, size))
    }
}
