//! The daemon's end of the control protocol: a helper process and the socket to it.

use control::{Envelope, Frame, FrameReader, Message, ReadOutcome, Request, WireError};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use sys::socket::ShortPath;
use tokio::io::Interest;
use tokio::net::UnixStream as AsyncStream;

/// A helper that could not be started, reached or understood.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HelperError {
    /// The program could not be run.
    #[error("cannot run the helper {program}")]
    Spawn {
        program: String,
        #[source]
        cause: io::Error,
    },
    /// Its socket could not be made or reached.
    #[error("cannot reach the helper")]
    Connect(#[source] io::Error),
    /// What went over the socket.
    #[error("the helper's connection failed")]
    Wire(#[source] WireError),
}

/// A connection to a helper.
#[derive(Debug)]
pub(crate) struct Helper {
    socket: AsyncStream,
    reader: FrameReader,
    last_id: u64,
}

impl Helper {
    /// Connects to a helper that a daemon before us started.
    ///
    /// # Errors
    /// [`HelperError::Connect`] if nobody listens there.
    pub(crate) fn connect(socket: &Path) -> Result<Self, HelperError> {
        let stream = ShortPath::of(socket).and_then(UnixStream::connect);
        Self::over(stream.map_err(HelperError::Connect)?)
    }

    /// Talks over a socket whose other end a helper has.
    ///
    /// # Errors
    /// [`HelperError::Connect`] if the runtime takes no more sockets.
    pub(crate) fn over(socket: UnixStream) -> Result<Self, HelperError> {
        socket.set_nonblocking(true).map_err(HelperError::Connect)?;
        let socket = AsyncStream::from_std(socket).map_err(HelperError::Connect)?;
        Ok(Self { socket, reader: FrameReader::new(), last_id: 0 })
    }

    /// Sends a request with its descriptors; returns the id that its reply will have.
    ///
    /// # Errors
    /// [`HelperError::Wire`] if the helper has gone or the request is too long.
    pub(crate) async fn send(&mut self, request: &Request, fds: &[BorrowedFd<'_>]) -> Result<u64, HelperError> {
        self.last_id += 1;
        let envelope = Envelope { id: self.last_id, fds: fds.len(), body: request };
        let frame = control::encode(&envelope).map_err(HelperError::Wire)?;
        let mut done = 0;
        while done < frame.len() {
            let with = if done == 0 { fds } else { &[] };
            self.socket.writable().await.map_err(HelperError::Connect)?;
            // inside try_io, so that the runtime learns of a full socket in the same step
            match self
                .socket
                .try_io(Interest::WRITABLE, || as_io(control::send(self.socket.as_fd(), &frame[done..], with)))
            {
                Ok(sent) => done += sent.map_err(HelperError::Wire)?,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(HelperError::Connect(error)),
            }
        }
        Ok(self.last_id)
    }

    /// The next message, or `None` when the helper has gone. Cancelling it loses nothing.
    ///
    /// # Errors
    /// [`HelperError::Wire`] if what came is not the protocol.
    pub(crate) async fn next(&mut self) -> Result<Option<Frame<Message>>, HelperError> {
        loop {
            if let Some(frame) = self.reader.next_frame().map_err(HelperError::Wire)? {
                return Ok(Some(frame));
            }
            self.socket.readable().await.map_err(HelperError::Connect)?;
            let (socket, reader) = (&self.socket, &mut self.reader);
            let read = socket.try_io(Interest::READABLE, || match reader.read(socket.as_fd()) {
                Ok(ReadOutcome::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
                other => Ok(other),
            });
            match read {
                Ok(Ok(ReadOutcome::End)) => return Ok(None),
                Ok(Ok(_)) => {}
                Ok(Err(error)) => return Err(HelperError::Wire(error)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(HelperError::Connect(error)),
            }
        }
    }
}

/// A full socket as the runtime knows it; all else is the caller's.
fn as_io(sent: Result<usize, WireError>) -> io::Result<Result<usize, WireError>> {
    match sent {
        Err(WireError::Socket(rustix::io::Errno::AGAIN)) => Err(io::ErrorKind::WouldBlock.into()),
        other => Ok(other),
    }
}
