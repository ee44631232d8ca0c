//! What a runtime without a daemon knows of its containers: a folder for each.
//!
//! ```text
//! ROOT/ID/state.json   the record: written before anything outside the folder is made; the first process is added once it exists
//! ROOT/ID/seccomp      its compiled filter, for further processes
//! ROOT/ID/start        the socket on which the first process waits for its start
//!
//!  mkdir ─> record ─> group, process ─> the rest of it ─> created ── start ──> running <─> paused
//!     │ creating                                            │                    │
//!     └────────────────── delete --force ───────────────────┴────> stopped <─────┘ ─── delete ──> nothing
//! ```
//!
//! A status is never written down, it is seen: the kernel knows whether the process has executed its program, and whether it is still
//! the one that was recorded.

pub(crate) mod clock;
pub(crate) mod config;
pub(crate) mod criu;
pub(crate) mod folder;
pub(crate) mod group;
pub(crate) mod join;

pub(crate) mod life;
pub(crate) mod record;
pub(crate) mod status;
