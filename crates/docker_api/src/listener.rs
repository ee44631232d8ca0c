//! Where clients come in, and what a connection is: a unix socket, TCP, or TLS over TCP.

use engine::registry::server::{ServeError, TlsFiles, acceptor};
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::{Arc, PoisonError, RwLock};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// How long a client may take to shake hands.
const HANDSHAKE: Duration = Duration::from_secs(15);

/// A listening socket.
#[derive(Debug)]
pub enum Listener {
    /// A unix socket: who may connect is a matter of its owner and mode.
    Unix(UnixListener),
    /// TCP; with TLS, who may connect is a matter of certificates, else everybody may.
    Tcp(TcpListener, Option<Tls>),
}

/// A certificate, its key, and whose certificates clients must have; clones are the same one.
#[derive(Clone)]
pub struct Tls {
    files: TlsFiles,
    acceptor: Arc<RwLock<TlsAcceptor>>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Tls").field("files", &self.files).finish_non_exhaustive()
    }
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// [`ServeError`] if one cannot be read or used.
    pub fn load(files: TlsFiles) -> Result<Self, ServeError> {
        let acceptor = Arc::new(RwLock::new(acceptor(&files)?));
        Ok(Self { files, acceptor })
    }

    /// Reads the files again: for connections from now on. If that fails, what was read before stays.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn reload(&self) -> Result<(), ServeError> {
        let fresh = acceptor(&self.files)?;
        *self.acceptor.write().unwrap_or_else(PoisonError::into_inner) = fresh;
        Ok(())
    }

    fn current(&self) -> TlsAcceptor {
        self.acceptor.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl From<UnixListener> for Listener {
    fn from(listener: UnixListener) -> Self {
        Self::Unix(listener)
    }
}

/// A connection before anything was read from it.
pub(crate) enum Accepted {
    Ready(Stream),
    Handshake(TcpStream, Tls),
}

impl Listener {
    pub(crate) async fn accept(&self) -> io::Result<Accepted> {
        match self {
            Self::Unix(listener) => Ok(Accepted::Ready(Stream::Unix(listener.accept().await?.0))),
            Self::Tcp(listener, tls) => {
                let (stream, _): (TcpStream, SocketAddr) = listener.accept().await?;
                // heads and small bodies must not wait for each other's acknowledgement
                let _ = stream.set_nodelay(true);
                Ok(match tls {
                    None => Accepted::Ready(Stream::Tcp(stream)),
                    Some(tls) => Accepted::Handshake(stream, tls.clone()),
                })
            }
        }
    }
}

impl Accepted {
    /// Shakes hands where that is the custom; `None` for a client that does not.
    pub(crate) async fn stream(self) -> Option<Stream> {
        let (stream, tls) = match self {
            Self::Ready(stream) => return Some(stream),
            Self::Handshake(stream, tls) => (stream, tls),
        };
        match tokio::time::timeout(HANDSHAKE, tls.current().accept(stream)).await {
            Ok(Ok(stream)) => return Some(Stream::Tls(Box::new(stream))),
            Ok(Err(error)) => tracing::debug!(%error, "a client did not shake hands"),
            Err(_) => tracing::debug!("a client took too long to shake hands"),
        }
        None
    }
}

/// A client's connection.
pub(crate) enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Stream {
    /// The socket itself; for TLS one end of a pair, whose other end is kept in step with the connection.
    pub(crate) fn into_socket(self) -> io::Result<OwnedFd> {
        match self {
            Self::Unix(stream) => Ok(stream.into_std()?.into()),
            Self::Tcp(stream) => Ok(stream.into_std()?.into()),
            Self::Tls(mut stream) => {
                let (near, far) = UnixStream::pair()?;
                tokio::spawn(async move {
                    let mut near = near;
                    // either side may end it; there is nobody to tell
                    let _ = copy_bidirectional(&mut stream, &mut near).await;
                });
                Ok(far.into_std()?.into())
            }
        }
    }
}

macro_rules! each {
    ($stream:expr, $inner:ident => $call:expr) => {
        match $stream.get_mut() {
            Stream::Unix($inner) => {
                let $inner = Pin::new($inner);
                $call
            }
            Stream::Tcp($inner) => {
                let $inner = Pin::new($inner);
                $call
            }
            Stream::Tls($inner) => {
                let $inner = Pin::new($inner.as_mut());
                $call
            }
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        each!(self, inner => inner.poll_read(cx, into))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        each!(self, inner => inner.poll_write(cx, bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, inner => inner.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, inner => inner.poll_shutdown(cx))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        each!(self, inner => inner.poll_write_vectored(cx, pieces))
    }

    fn is_write_vectored(&self) -> bool {
        !matches!(self, Self::Tls(_))
    }
}
