//! The container runtime: one process from an OCI configuration, and the helper program that stays beside it.
//!
//! ```text
//! create::create ── clone3 ──> init::run        root file system, mounts, devices, names        (new namespaces)
//!      │                          │ ready           process::*    user, capabilities, seccomp, execve
//!      │ <──────── sync ──────────┘ <- go
//!      └─> Container { pidfd, group, streams }
//! exec::exec    ── setns, clone3 ──> process::*     one more process in the same namespaces
//! shim::Shim      the event loop around both: control protocol, terminal, log, attached clients, exit code
//! ```
//!
//! Making a container knows nothing of the shim, so that another face (a runtime command line) can stand over the same
//! code. Neighbours: `cgroup` and `sys` below, `control` for the words that the daemon uses.

mod agent;
pub mod check;
pub mod command;
pub mod create;
pub mod error;
pub mod exec;
pub mod fuzzing;
pub mod hooks;
mod init;
mod interfaces;
mod namespaces;
mod process;
pub mod resctrl;
pub mod runtime;
mod schedule;
pub mod shim;
pub mod stdio;
mod sync;

pub use error::{Result, SetupError};

/// Where other programs are looked for by one that was given no environment.
pub(crate) const SEARCHED: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
