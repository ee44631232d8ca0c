//! The only room of raw system calls.
//!
//! Each module is a man-page chapter: thin, typed functions with the kernel's own names, no policy. What rustix offers
//! safely is used from there; what it lacks is called here, and only here, with `unsafe`. Every failure is a
//! [`SysError`]: the call's name and the errno, so that a chain of causes ends in the kernel's own words.
//!
//! Neighbours: everything above uses this crate; it uses nothing of ours.

pub mod arena;
pub mod bpf;
pub mod clock;
pub mod copy;
pub mod departure;
pub mod entry;
pub mod error;
pub mod handed;
pub mod job;
pub mod keyring;
pub mod landlock;
pub mod listen_fds;
pub mod loopdev;
pub mod mount;
pub mod mount_options;
pub mod mount_table;
pub mod mountns;
pub mod netlink;
pub mod netns;
pub mod overlay;
pub mod owner;
pub mod process;
pub mod program;
pub mod quota;
pub mod rtnetlink;
pub mod sched;
pub mod seccomp;
pub mod signal;
pub mod socket;
#[cfg(target_arch = "x86_64")]
pub mod trace;
pub mod tun;
pub mod userfault;

pub use error::{Result, SysError};
