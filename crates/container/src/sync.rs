//! The line between the helper and a process that it is making: one packet a word, descriptors beside it.
//!
//! ```text
//! child -> parent   w TEXT        a warning
//!                   f KIND TEXT   it failed; nothing follows
//!                   r             ready, waits (descriptor: the terminal's master, if there is one)
//!                   h             the root is about to be entered: hooks may run now
//!                   a TEXT        a part of what the agent for system calls is told
//!                   l NUMBER      the descriptor for the agent; waits
//!                   x ERRNO STEP  the last steps failed (`sys::departure`), whose text follows; nothing else does
//! parent -> child   m             ids are mapped (descriptor: the root file system)
//!                   g             go
//!                   s             stay: outlive the parent, wait for another one (answered by r)
//! end of stream at the parent     the program runs (close-on-exec), or the child died
//! ```

use crate::error::{Doing, Result, SetupError};
use control::FailureKind;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use sys::departure::REPORT_HEAD;

const KINDS: [FailureKind; 7] = [
    FailureKind::CommandNotFound,
    FailureKind::CommandNotExecutable,
    FailureKind::Invalid,
    FailureKind::Conflict,
    FailureKind::NotFound,
    FailureKind::Unsupported,
    FailureKind::Internal,
];
const MAX_TEXT: usize = 4096;

/// One word.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Word {
    /// Something had to be left out or changed.
    Warning(String),
    /// The end of it.
    Failed(SetupError),
    /// Waits for [`Word::Go`].
    Ready,
    /// The namespaces stand, the root is about to be entered; waits for [`Word::Go`].
    Hooks,
    /// Outlive the parent, and wait on the listening socket.
    Stay,
    /// The user namespace's ids are mapped.
    Mapped,
    /// A part of what the agent is told that answers system calls; the parts before it belong to the same text.
    Agent(String),
    /// The number of the descriptor on which system calls are answered, to be taken to the agent; waits for [`Word::Go`].
    Listener(i32),
    /// Run the program.
    Go,
}

/// How much of a text fits into one word.
pub(crate) const PART: usize = MAX_TEXT;

/// One end of the line.
#[derive(Debug)]
pub(crate) struct Line(OwnedFd);

impl AsFd for Line {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Line {
    /// Both ends.
    pub(crate) fn pair() -> Result<(Self, Self)> {
        let (one, other) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .doing(|| "cannot make a socket pair")?;
        Ok((Self(one), Self(other)))
    }

    /// An end that was connected by other means.
    pub(crate) fn over(socket: OwnedFd) -> Self {
        Self(socket)
    }

    /// Its descriptor.
    pub(crate) fn into_fd(self) -> OwnedFd {
        self.0
    }

    /// Says a word; a peer that has gone is noticed elsewhere.
    pub(crate) fn say(&self, word: &Word, fds: &[BorrowedFd<'_>]) -> Result<()> {
        let bytes = encode(word);
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if fds.is_empty() {
            // write, as any seccomp program lets it through
            rustix::io::write(&self.0, &bytes).doing(|| "cannot reach the other end")?;
            return Ok(());
        }
        control.push(SendAncillaryMessage::ScmRights(fds));
        sendmsg(&self.0, &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL)
            .doing(|| "cannot reach the other end")?;
        Ok(())
    }

    /// Waits for the next word; `None` at the end.
    pub(crate) fn hear(&self) -> Result<Option<(Word, Vec<OwnedFd>)>> {
        let mut bytes = [0_u8; MAX_TEXT + 2];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let count = loop {
            match recvmsg(&self.0, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC) {
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::CONNRESET) => return Ok(None),
                other => break other.doing(|| "cannot hear the other end")?.bytes,
            }
        };
        let mut fds = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(got) = message {
                fds.extend(got);
            }
        }
        if count == 0 {
            return Ok(None);
        }
        match decode(&bytes[..count]) {
            Some(word) => Ok(Some((word, fds))),
            None => Err(SetupError::new(FailureKind::Internal, "the container's first process said something unknown")),
        }
    }
}

fn encode(word: &Word) -> Vec<u8> {
    let text = |head: &[u8], text: &str| {
        let mut end = text.len().min(MAX_TEXT);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        [head, &text.as_bytes()[..end]].concat()
    };
    match word {
        Word::Warning(warning) => text(b"w", warning),
        Word::Failed(error) => {
            let kind = KINDS.iter().position(|kind| *kind == error.kind).unwrap_or(KINDS.len() - 1);
            text(&[b'f', u8::try_from(kind).unwrap_or(0)], &error.message)
        }
        Word::Ready => b"r".to_vec(),
        Word::Mapped => b"m".to_vec(),
        Word::Agent(part) => text(b"a", part),
        Word::Listener(number) => format!("l{number}").into_bytes(),
        Word::Go => b"g".to_vec(),
        Word::Hooks => b"h".to_vec(),
        Word::Stay => b"s".to_vec(),
    }
}

fn decode(bytes: &[u8]) -> Option<Word> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    match bytes {
        [b'w', rest @ ..] => Some(Word::Warning(text(rest))),
        [b'f', kind, rest @ ..] => Some(Word::Failed(SetupError::new(*KINDS.get(usize::from(*kind))?, text(rest)))),
        [b'r'] => Some(Word::Ready),
        [b'm'] => Some(Word::Mapped),
        [b'a', rest @ ..] => Some(Word::Agent(text(rest))),
        [b'l', rest @ ..] => text(rest).parse().ok().map(Word::Listener),
        [b'g'] => Some(Word::Go),
        [b'h'] => Some(Word::Hooks),
        [b's'] => Some(Word::Stay),
        [REPORT_HEAD, low, high, step @ ..] => {
            let errno = rustix::io::Errno::from_raw_os_error(u16::from_le_bytes([*low, *high]).into());
            Some(Word::Failed(crate::process::failed_step(errno, &text(step))))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_come_through() {
        let (one, other) = Line::pair().unwrap();
        let failed = || Word::Failed(SetupError::new(FailureKind::CommandNotFound, "exec: \"ü\": not found"));
        one.say(&failed(), &[]).unwrap();
        one.say(&Word::Ready, &[other.as_fd()]).unwrap();
        drop(one);
        assert_eq!(other.hear().unwrap().unwrap().0, failed());
        let (word, fds) = other.hear().unwrap().unwrap();
        assert_eq!((word, fds.len()), (Word::Ready, 1));
        assert!(other.hear().unwrap().is_none());
    }

    #[test]
    fn long_text_is_cut_at_a_character() {
        let bytes = encode(&Word::Warning("ü".repeat(MAX_TEXT)));
        assert!(matches!(decode(&bytes), Some(Word::Warning(text)) if text.len() == MAX_TEXT));
    }
}
