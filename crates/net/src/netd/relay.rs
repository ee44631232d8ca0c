//! Connections that no rule can redirect: over IPv6 to a container that has only IPv4, and from ::1.
//!
//! The socket that keeps such a port from others listens, and each connection is carried to the container by two
//! threads for its time. No port has a process or a thread of its own.

use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(10);
/// Connections at once; beyond, they are closed.
const MAX: usize = 1024;
const STACK: usize = 64 * 1024;

static CARRIED: AtomicUsize = AtomicUsize::new(0);

/// A listening port, and where its connections go.
#[derive(Debug)]
pub(super) struct Relay {
    pub(super) listener: TcpListener,
    pub(super) target: SocketAddr,
}

impl Relay {
    /// Takes the connection that waits.
    pub(super) fn accept(&self) {
        let Ok((client, _)) = self.listener.accept() else { return };
        let target = self.target;
        if CARRIED.fetch_add(1, Ordering::Relaxed) >= MAX {
            CARRIED.fetch_sub(1, Ordering::Relaxed);
            return;
        }
        let carry = move || {
            // A connection that breaks off is closed at both ends; there is nobody else to tell.
            let _ = carry(&client, target);
            CARRIED.fetch_sub(1, Ordering::Relaxed);
        };
        if std::thread::Builder::new().name("relay".to_owned()).stack_size(STACK).spawn(carry).is_err() {
            CARRIED.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

fn carry(client: &TcpStream, target: SocketAddr) -> io::Result<()> {
    client.set_nonblocking(false)?;
    let server = TcpStream::connect_timeout(&target, PATIENCE)?;
    let (_, _) = (client.set_nodelay(true), server.set_nodelay(true));
    let way = |mut from: &TcpStream, mut to: &TcpStream| {
        let copied = io::copy(&mut from, &mut to);
        // One that has ended can't be ended again.
        let _ = to.shutdown(Shutdown::Write);
        if copied.is_err() {
            let _ = from.shutdown(Shutdown::Read);
        }
    };
    std::thread::scope(|scope| {
        let back = std::thread::Builder::new().stack_size(STACK).spawn_scoped(scope, || way(&server, client))?;
        way(client, &server);
        back.join().map_err(|_| io::Error::other("relay"))
    })
}
