//! How it is said: length-prefixed JSON with descriptors on a stream socket.

use crate::Envelope;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::VecDeque;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// The longest frame that is accepted, in bytes: an OCI configuration with a very large environment fits.
pub const MAX_FRAME: usize = 16 << 20;
/// The most descriptors that one frame may carry (the kernel's SCM_MAX_FD is 253).
pub const MAX_FDS: usize = 250;

/// A frame that could not be read, written or understood.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The socket failed.
    #[error("control socket: {0}")]
    Socket(rustix::io::Errno),
    /// The peer announced a frame beyond [`MAX_FRAME`].
    #[error("control frame of {0} bytes is longer than {MAX_FRAME}")]
    TooLong(usize),
    /// The frame is not the JSON that was expected.
    #[error("control frame is not understood")]
    Json(#[source] serde_json::Error),
    /// The envelope promises more descriptors than came.
    #[error("control frame promises {promised} descriptors, {came} came")]
    MissingDescriptors {
        /// By the envelope.
        promised: usize,
        /// With the stream.
        came: usize,
    },
}

/// Turns a message into its frame.
///
/// # Errors
/// [`WireError::TooLong`] beyond [`MAX_FRAME`], [`WireError::Json`] if the message cannot be written as JSON.
pub fn encode<T: Serialize>(envelope: &Envelope<T>) -> Result<Vec<u8>, WireError> {
    let mut frame = vec![0; 4];
    serde_json::to_writer(&mut frame, envelope).map_err(WireError::Json)?;
    let length = frame.len() - 4;
    if length > MAX_FRAME {
        return Err(WireError::TooLong(length));
    }
    let prefix = u32::try_from(length).map_err(|_| WireError::TooLong(length))?;
    frame[..4].copy_from_slice(&prefix.to_le_bytes());
    Ok(frame)
}

/// Sends as much of `bytes` as the socket takes, the descriptors with the first byte; returns the bytes taken.
/// A caller that sends the rest of a frame gives no descriptors with it.
///
/// # Errors
/// [`WireError::Socket`]; `EAGAIN` on a full non-blocking socket. Never raises SIGPIPE.
pub fn send(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<usize, WireError> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(fds));
    }
    loop {
        match sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL) {
            Err(rustix::io::Errno::INTR) => {}
            other => return other.map_err(WireError::Socket),
        }
    }
}

/// One frame and the descriptors that came with it.
#[derive(Debug)]
pub struct Frame<T> {
    /// The envelope's id.
    pub id: u64,
    /// The message.
    pub body: T,
    /// Its descriptors, close-on-exec.
    pub fds: Vec<OwnedFd>,
}

/// What one read brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadOutcome {
    /// Some bytes; ask [`FrameReader::next_frame`].
    Bytes,
    /// Nothing now (non-blocking socket).
    WouldBlock,
    /// The peer closed.
    End,
}

/// Collects frames from a stream socket, blocking or not.
#[derive(Debug, Default)]
pub struct FrameReader {
    bytes: Vec<u8>,
    fds: VecDeque<OwnedFd>,
}

impl FrameReader {
    /// An empty reader.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads once from the socket.
    ///
    /// # Errors
    /// [`WireError::Socket`] if the socket failed for another reason than having nothing to read.
    pub fn read(&mut self, socket: impl AsFd) -> Result<ReadOutcome, WireError> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut buffer = [0_u8; 8192];
        let got = loop {
            match recvmsg(&socket, &mut [IoSliceMut::new(&mut buffer)], &mut control, RecvFlags::CMSG_CLOEXEC) {
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => return Ok(ReadOutcome::WouldBlock),
                Err(rustix::io::Errno::CONNRESET) => return Ok(ReadOutcome::End),
                Err(errno) => return Err(WireError::Socket(errno)),
                Ok(got) => break got.bytes,
            }
        };
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = message {
                self.fds.extend(fds);
            }
        }
        if got == 0 {
            return Ok(ReadOutcome::End);
        }
        self.feed(&buffer[..got]);
        Ok(ReadOutcome::Bytes)
    }

    /// Takes the stream's next bytes in.
    pub(crate) fn feed(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The next whole frame, if one has come.
    ///
    /// # Errors
    /// [`WireError::TooLong`], [`WireError::Json`] or [`WireError::MissingDescriptors`]: the stream is then out of step and
    /// must be closed.
    pub fn next_frame<T: DeserializeOwned>(&mut self) -> Result<Option<Frame<T>>, WireError> {
        let Some(prefix) = self.bytes.first_chunk::<4>() else { return Ok(None) };
        let length = u32::from_le_bytes(*prefix) as usize;
        if length > MAX_FRAME {
            return Err(WireError::TooLong(length));
        }
        let Some(json) = self.bytes.get(4..4 + length) else { return Ok(None) };
        let envelope: Envelope<T> = serde_json::from_slice(json).map_err(WireError::Json)?;
        if envelope.fds > self.fds.len() {
            return Err(WireError::MissingDescriptors { promised: envelope.fds, came: self.fds.len() });
        }
        let fds = self.fds.drain(..envelope.fds).collect();
        self.bytes.drain(..4 + length);
        Ok(Some(Frame { id: envelope.id, body: envelope.body, fds }))
    }
}
