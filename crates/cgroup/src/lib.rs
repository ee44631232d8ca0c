//! Control groups, version 1 and version 2, under one resource model.
//!
//! The input is always the runtime specification's `LinuxResources`; which files that becomes is decided here and
//! nowhere else. [`Host`] knows the mounted hierarchies and keeps one directory descriptor for each, so that making a
//! group is one `mkdirat` a hierarchy and setting a limit is one open, one write and one read. [`Group`] is a place for
//! processes: limit it, join it, freeze it, kill it, count it, remove it.
//!
//! ```text
//! Host::detect ── create("/insula/ID", resources) ──> Group + Applied (what was written, what could not be)
//!                     │ mkdir in each hierarchy            │ join_fds / v2_fd   a child enters by itself
//!                     │ plan_v1 or plan_v2                 │ place, apply       from outside
//!                     └ undone when any step fails         └ remove             rmdir in each
//! ```
//!
//! Neighbours: `sys` below (only for the version 2 device filter, which is a BPF program); the shim and the engine above.

mod dbus;
mod device;
mod error;
mod group;
mod hierarchy;
mod host;
mod oom;
mod place;
mod plan;
mod plan_v1;
mod plan_v2;
mod probe;
pub mod stats;
pub mod systemd;
mod usage;

pub use error::{CgroupError, Result};
pub use group::{Applied, Group, GroupRecord};
pub use host::{Host, Supports, Version};
pub use oom::{OomNews, OomWatch};
pub use place::{Place, Rights};
pub use stats::Stats;
pub use usage::{BlockUsage, CpuUsage, MemoryUsage, Throttling, Usage};

#[cfg(test)]
mod tests;
