//! Network namespaces, made ahead of need.
//!
//! ```text
//! take ── one ready? ── yes ──> descriptor ──┐
//!             └ no ──> made while waiting ───┴─> wakes the filling thread, which makes up for it
//! ```

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::{NetError, Result, link};

/// How long the filling thread rests after a failure; taking still works meanwhile, only slower.
const REST: Duration = Duration::from_secs(1);

/// A fresh network namespace with its loopback link up; the descriptor is all that keeps it alive.
///
/// The calling thread stays in its own namespace.
///
/// # Errors
/// When the kernel refuses, for lack of rights or because there are too many namespaces.
pub fn create_netns() -> Result<OwnedFd> {
    let (namespace, loopback) = sys::netns::in_new(furnish).map_err(|source| NetError::Namespace { source })?;
    loopback.map_err(|source| NetError::Loopback { source })?;
    Ok(namespace)
}

/// Sets the loopback link of the calling thread's namespace up. Who runs in it may use every port and may ping, root or
/// not: the namespace is nobody else's.
fn furnish() -> sys::Result<()> {
    for (name, value) in [("ipv4/ip_unprivileged_port_start", "0"), ("ipv4/ping_group_range", "0 2147483647")] {
        // a kernel without the switch has no such leave to give
        let _ = link::set_sysctl(name, value);
    }
    link::loopback_up()
}

/// As [`create_netns`], by the thread itself, which then goes home.
fn create_from(home: &OwnedFd) -> Result<OwnedFd> {
    let (namespace, loopback) =
        sys::netns::in_new_and_back(home, furnish).map_err(|source| NetError::Namespace { source })?;
    loopback.map_err(|source| NetError::Loopback { source })?;
    Ok(namespace)
}

/// The number by which the kernel tells namespaces apart, as `/proc/PID/ns/net` shows it.
///
/// # Errors
/// When the descriptor can't be asked.
pub fn netns_inode(namespace: BorrowedFd<'_>) -> Result<u64> {
    let stat = rustix::fs::fstat(namespace)
        .map_err(|errno| NetError::Namespace { source: sys::SysError::new("fstat", errno) })?;
    Ok(stat.st_ino)
}

/// Does `work` with the calling thread in `namespace`, and brings the thread home again.
///
/// # Errors
/// When the namespace can't be entered; when the way home fails, the thread must not go on to do anything with the network.
pub(crate) fn within<T>(namespace: BorrowedFd<'_>, work: impl FnOnce() -> T) -> Result<T> {
    let failed = |call| move |errno| NetError::Enter { source: sys::SysError::new(call, errno) };
    let home = sys::netns::current().map_err(|source| NetError::Enter { source })?;
    move_into_link_name_space(namespace, Some(LinkNameSpaceType::Network)).map_err(failed("setns"))?;
    let outcome = work();
    move_into_link_name_space(home.as_fd(), Some(LinkNameSpaceType::Network)).map_err(failed("setns (back)"))?;
    Ok(outcome)
}

/// Network namespaces that are ready to be entered.
///
/// Dropping the pool stops its thread and gives up the namespaces that nobody took.
#[derive(Debug)]
pub struct NetnsPool {
    shared: Arc<Shared>,
    filler: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    size: usize,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    ready: VecDeque<OwnedFd>,
    stopping: bool,
}

impl Shared {
    /// The state; a panic elsewhere can't have left it half changed.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fills the pool until it is dropped.
    fn fill(&self) {
        let home = sys::netns::current();
        let mut state = self.lock();
        while !state.stopping {
            if state.ready.len() >= self.size {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            drop(state);
            let made = match &home {
                Ok(home) => create_from(home),
                Err(_) => create_netns(),
            };
            state = self.lock();
            match made {
                Ok(namespace) => {
                    state.ready.push_back(namespace);
                    self.changed.notify_all();
                }
                // Whoever takes meets the same failure and reports it; here there is nobody to tell.
                Err(_) if !state.stopping => {
                    state = self.changed.wait_timeout(state, REST).unwrap_or_else(PoisonError::into_inner).0;
                }
                Err(_) => {}
            }
        }
    }
}

impl NetnsPool {
    /// A pool that keeps `size` namespaces ready; with 0 each is made when it is taken, and there is no thread.
    ///
    /// # Errors
    /// When the thread can't be started.
    pub fn new(size: usize) -> Result<Self> {
        let shared = Arc::new(Shared { size, state: Mutex::default(), changed: Condvar::new() });
        let filler = if size == 0 {
            None
        } else {
            let shared = Arc::clone(&shared);
            let thread = std::thread::Builder::new().name("netns-pool".to_owned()).spawn(move || shared.fill());
            Some(thread.map_err(|source| NetError::Thread { source })?)
        };
        Ok(Self { shared, filler })
    }

    /// A namespace of one's own: one that is ready, or else a new one.
    ///
    /// # Errors
    /// When none was ready and the kernel refuses a new one.
    pub fn take(&self) -> Result<OwnedFd> {
        let ready = self.shared.lock().ready.pop_front();
        match ready {
            Some(namespace) => {
                self.shared.changed.notify_all();
                Ok(namespace)
            }
            None => create_netns(),
        }
    }

    /// How many are ready now.
    #[must_use]
    pub fn ready(&self) -> usize {
        self.shared.lock().ready.len()
    }

    /// Waits until the pool is full, at most `timeout`, and says whether it is.
    #[must_use]
    pub fn wait_full(&self, timeout: Duration) -> bool {
        let short = |state: &mut State| state.ready.len() < self.shared.size;
        let guard = self.shared.lock();
        let (state, _) =
            self.shared.changed.wait_timeout_while(guard, timeout, short).unwrap_or_else(PoisonError::into_inner);
        state.ready.len() >= self.shared.size
    }
}

impl Drop for NetnsPool {
    fn drop(&mut self) {
        self.shared.lock().stopping = true;
        self.shared.changed.notify_all();
        if let Some(filler) = self.filler.take() {
            // It panics nowhere; if it did, there is nothing left to stop.
            let _ = filler.join();
        }
    }
}
