//! Connections that no rule can redirect: over IPv6 to a container that has only IPv4, and from ::1.
//!
//! The socket that keeps such a port from others listens, and each connection is carried to the container by two
//! threads of the crew for its time. No port has a process or a thread of its own.

use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::crew::Crew;

const PATIENCE: Duration = Duration::from_secs(10);
/// Connections at once; beyond, they are closed.
const MAX: usize = 1024;

static CARRIED: AtomicUsize = AtomicUsize::new(0);

/// A listening port, and where its connections go.
#[derive(Debug)]
pub(super) struct Relay {
    pub(super) listener: TcpListener,
    pub(super) target: SocketAddr,
}

impl Relay {
    /// Takes the connection that waits.
    pub(super) fn accept(&self, crew: &Arc<Crew>) {
        let Ok((client, _)) = self.listener.accept() else { return };
        let Some(place) = Place::take() else { return };
        let (target, others) = (self.target, Arc::clone(crew));
        // A connection that breaks off is closed at both ends; there is nobody else to tell.
        let _ = crew.begin(move || drop(carry(client, target, place, &others)));
    }
}

/// A connection's place among those that are carried.
struct Place;

impl Place {
    fn take() -> Option<Self> {
        let place = Self;
        (CARRIED.fetch_add(1, Ordering::Relaxed) < MAX).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        CARRIED.fetch_sub(1, Ordering::Relaxed);
    }
}

fn carry(client: TcpStream, target: SocketAddr, place: Place, crew: &Arc<Crew>) -> io::Result<()> {
    client.set_nonblocking(false)?;
    let server = TcpStream::connect_timeout(&target, PATIENCE)?;
    let (_, _) = (client.set_nodelay(true), server.set_nodelay(true));
    let ends = Arc::new((client, server, place));
    let back = Arc::clone(&ends);
    crew.begin(move || way(&back.1, &back.0))?;
    way(&ends.0, &ends.1);
    Ok(())
}

fn way(mut from: &TcpStream, mut to: &TcpStream) {
    let copied = io::copy(&mut from, &mut to);
    // One that has ended can't be ended again.
    let _ = to.shutdown(Shutdown::Write);
    if copied.is_err() {
        let _ = from.shutdown(Shutdown::Read);
    }
}
