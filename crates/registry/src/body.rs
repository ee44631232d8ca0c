//! What requests and answers carry.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use rustix::io::{Errno, ReadWriteFlags};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Bytes that are read from a file at once: large enough that the calls cost nothing beside the copying, small enough for
/// the processor's cache.
const PIECE: usize = 256 << 10;
/// Pieces of one body after which the memory of the first is likely to be free again.
const REUSED: usize = 3;

/// The body of an answer of ours, or of a request of ours.
pub(crate) enum Body {
    /// All of it, or nothing.
    Full(Option<Bytes>),
    /// Part of a file.
    File(Part),
    /// So many bytes, as they come; an error cuts the connection, so that the client does not take it for the end.
    Stream(mpsc::Receiver<io::Result<Bytes>>, u64),
}

impl Body {
    pub(crate) fn full(bytes: impl Into<Bytes>) -> Self {
        Self::Full(Some(bytes.into()))
    }

    pub(crate) const fn empty() -> Self {
        Self::Full(None)
    }

    /// A part of a file. What fits into one piece is read at once.
    pub(crate) fn file(file: File, start: u64, length: u64) -> io::Result<Self> {
        if length == 0 {
            return Ok(Self::empty());
        }
        let mut part =
            Part { file: Arc::new(file), at: start, end: start + length, coming: None, sent: VecDeque::new() };
        if length <= PIECE as u64
            && let Some(bytes) = part.read_cached()?
            && part.at == part.end
        {
            return Ok(Self::full(bytes));
        }
        part.at = start;
        Ok(Self::File(part))
    }
}

/// A part of a file on its way to a client.
pub(crate) struct Part {
    file: Arc<File>,
    at: u64,
    end: u64,
    /// A read that waits for the disk.
    coming: Option<JoinHandle<io::Result<Vec<u8>>>>,
    /// Pieces that were given out: their memory is used again when the connection has let go of it, which saves clearing
    /// new memory and keeps to what the processor has at hand.
    sent: VecDeque<Bytes>,
}

impl Part {
    fn want(&self) -> usize {
        usize::try_from(self.end - self.at).unwrap_or(PIECE).min(PIECE)
    }

    /// Memory for the next piece.
    fn memory(&mut self) -> BytesMut {
        let want = self.want();
        if self.sent.len() >= REUSED
            && want == PIECE
            && let Some(Ok(again)) = self.sent.pop_front().map(Bytes::try_into_mut)
        {
            return again;
        }
        BytesMut::zeroed(want)
    }

    /// Reads what the kernel has in memory, without waiting; nothing if it has nothing.
    fn read_cached(&mut self) -> io::Result<Option<Bytes>> {
        let mut piece = self.memory();
        let mut buffers = [io::IoSliceMut::new(&mut piece)];
        match rustix::io::preadv2(self.file.as_fd(), &mut buffers, self.at, ReadWriteFlags::NOWAIT) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => {
                self.at += count as u64;
                let mut piece = piece.freeze();
                if piece.len() == PIECE {
                    self.sent.push_back(piece.clone());
                }
                piece.truncate(count);
                Ok(Some(piece))
            }
            Err(Errno::AGAIN | Errno::OPNOTSUPP | Errno::INTR) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        if self.at == self.end {
            return Poll::Ready(None);
        }
        if self.coming.is_none() {
            match self.read_cached() {
                Ok(Some(bytes)) => return Poll::Ready(Some(Ok(bytes))),
                Ok(None) => {}
                Err(error) => return Poll::Ready(Some(Err(error))),
            }
        }
        let (file, at, want) = (&self.file, self.at, self.want());
        let coming = self.coming.get_or_insert_with(|| {
            let file = Arc::clone(file);
            tokio::task::spawn_blocking(move || read_at(&file, at, want))
        });
        let outcome = ready!(Pin::new(coming).poll(cx));
        self.coming = None;
        Poll::Ready(Some(outcome.map_err(io::Error::other).flatten().map(|piece| {
            self.at += piece.len() as u64;
            piece.into()
        })))
    }
}

fn read_at(file: &File, at: u64, want: usize) -> io::Result<Vec<u8>> {
    use std::os::unix::fs::FileExt;
    let mut piece = vec![0; want];
    let count = file.read_at(&mut piece, at)?;
    if count == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    piece.truncate(count);
    Ok(piece)
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match self.get_mut() {
            Self::Full(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::File(part) => part.poll_next(cx).map(|piece| piece.map(|bytes| bytes.map(Frame::data))),
            Self::Stream(pieces, left) => pieces.poll_recv(cx).map(|piece| {
                piece.map(|bytes| {
                    let bytes = bytes?;
                    *left = left.saturating_sub(bytes.len() as u64);
                    Ok(Frame::data(bytes))
                })
            }),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Full(bytes) => bytes.is_none(),
            Self::File(part) => part.at == part.end,
            Self::Stream(_, left) => *left == 0,
        }
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(match self {
            Self::Full(bytes) => bytes.as_ref().map_or(0, |bytes| bytes.len() as u64),
            Self::File(part) => part.end - part.at,
            Self::Stream(_, left) => *left,
        })
    }
}
