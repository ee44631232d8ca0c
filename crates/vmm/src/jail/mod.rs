//! The jail: what is left to this program when it runs a guest, so that a guest that takes it over has little more than itself.
//!
//! ```text
//!  insula-vmm, as it was started: opens sockets, the machine's files, /dev/kvm   (sys::handed keeps them)
//!     │ clone3: user, mount, pid, ipc, uts, cgroup, net namespaces
//!     └─> the process of the machine: a folder of its own for a root, a user of its own, no capabilities, no_new_privs,
//!         landlock, a filter of system calls for each kind of thread (lists)
//! ```
//!
//! What is opened later comes by the API's socket (`program::http`), or lies in the process's folder.
//! `docs/vm-jail.md` says what remains.

mod fence;
mod lists;
mod room;

use std::path::PathBuf;
use std::sync::OnceLock;

use serde::Serialize;

pub use lists::{Network, Shares, kinds};
pub use room::{JailError, Leaving, Plan, enter};

/// How this process is confined, as the API tells.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Jail {
    /// Its user's number on the host.
    pub uid: u32,
    /// Namespaces of its own.
    pub namespaces: Vec<&'static str>,
    /// The host's folder that is its root; an empty one, if there is none.
    pub root: Option<PathBuf>,
    /// Capabilities of the one thread that acts for the guest's users in shared folders, only there.
    pub capabilities: &'static [&'static str],
    /// Whether the kernel's landlock confines it as well.
    pub landlock: bool,
    /// Whether each kind of thread has a list of system calls.
    pub seccomp: bool,
    /// What this host did not allow, and why.
    pub missing: Vec<String>,
}

#[derive(Debug, Clone, Copy)]
struct Kept {
    network: Network,
    shares: Shares,
}

static KEPT: OnceLock<Kept> = OnceLock::new();

/// Each thread of the machine does this first: gives up what its kind does not need.
fn narrow(name: &str) {
    let Some(kept) = KEPT.get() else { return };
    if kept.shares == Shares::Some && !name.starts_with("fs") {
        fence::drop_capabilities();
    }
    if lists::of_thread(name, kept.network).confine().is_err() {
        // A thread that can't be confined must not see a byte of the guest's.
        eprintln!("jail: the thread {name} can't be confined");
        std::process::abort();
    }
}
