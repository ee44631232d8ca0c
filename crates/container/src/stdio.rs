//! The standard streams of a process: its ends and ours.

use crate::error::{Doing, Result};
use rustix::fs::{Mode, OFlags};
use rustix::pipe::{PipeFlags, pipe_with};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Our ends.
#[derive(Debug, Default)]
pub struct Streams {
    /// Writes to the process's input.
    pub stdin: Option<OwnedFd>,
    /// Reads its output.
    pub stdout: Option<OwnedFd>,
    /// Reads its errors.
    pub stderr: Option<OwnedFd>,
    /// A terminal's master, in place of the three.
    pub terminal: Option<OwnedFd>,
}

/// The process's ends.
#[derive(Debug)]
pub(crate) enum Ends {
    /// It makes a terminal itself and sends the master.
    Terminal(LineEnds),
    /// What this process itself has.
    Inherit,
    /// Pipes; an input of `/dev/null` where none is kept open.
    Pipes { stdin: OwnedFd, stdout: OwnedFd, stderr: OwnedFd },
}

impl Ends {
    /// What is open for it.
    pub(crate) fn fds(&self) -> Vec<BorrowedFd<'_>> {
        match self {
            Self::Terminal(_) | Self::Inherit => Vec::new(),
            Self::Pipes { stdin, stdout, stderr } => vec![stdin.as_fd(), stdout.as_fd(), stderr.as_fd()],
        }
    }
}

/// Where a process without a terminal has its streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stdio {
    /// Pipes, whose other ends are ours.
    Pipes(Input),
    /// Those of this process.
    Inherit,
    /// Those of this process; between a terminal and ours stands this process, line for line.
    Relay,
}

/// How a terminal shows the end of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LineEnds {
    /// With a carriage return before it, for a screen.
    Screen,
    /// As it was written: the terminal or the file that it is relayed to knows best.
    Plain,
}

/// Whether an input is kept open for clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input {
    /// Clients may write.
    Open,
    /// The process reads end of file.
    Null,
}

/// Makes both ends; a terminal is made by the process itself.
pub(crate) fn ends(asked: Stdio, terminal: bool) -> Result<(Streams, Ends)> {
    match (terminal, asked) {
        (true, Stdio::Relay) => Ok((Streams::default(), Ends::Terminal(LineEnds::Plain))),
        (true, _) => Ok((Streams::default(), Ends::Terminal(LineEnds::Screen))),
        (false, Stdio::Inherit | Stdio::Relay) => Ok((Streams::default(), Ends::Inherit)),
        (false, Stdio::Pipes(input)) => pipes(input),
    }
}

fn pipes(input: Input) -> Result<(Streams, Ends)> {
    let pipe = || pipe_with(PipeFlags::CLOEXEC).doing(|| "cannot make a pipe");
    let (stdin, ours) = match input {
        Input::Open => {
            let (read, write) = pipe()?;
            (read, Some(write))
        }
        Input::Null => {
            let null = rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
            (null.doing(|| "cannot open /dev/null")?, None)
        }
    };
    let (out_read, stdout) = pipe()?;
    let (err_read, stderr) = pipe()?;
    let streams = Streams { stdin: ours, stdout: Some(out_read), stderr: Some(err_read), terminal: None };
    Ok((streams, Ends::Pipes { stdin, stdout, stderr }))
}
