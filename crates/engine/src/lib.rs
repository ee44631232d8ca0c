//! The model and its rules: containers, images, volumes, and what may happen to them when.
//!
//! ```text
//!  facades --> Engine (handle) --> actor (one task a container) --> decide (pure) --> store, effects
//!                                                                                       |
//!                                            helper (control protocol) <----------------+
//! ```
//!
//! Invariants: `decide` knows no clock, no driver and no async runtime; only a container's own actor changes its record;
//! the engine links neither the container runtime nor a VMM, it talks to their processes; nothing here knows a word of
//! Docker, Kubernetes or libvirt beyond the texts that users know errors by.

mod actor;
mod bootstrap;
mod build;
mod clock;
mod config;
mod copy;
mod decide;
mod doctor;
mod engine;
mod error;
mod event_log;
mod explain;
mod files;
mod health;
mod helper;
mod host;
mod keys;
mod logs;
pub mod model;
mod names;
mod network;
mod plan;
mod runtime;
mod shm;
mod signal;
mod sweep;
mod top;
mod usage;
mod volume;
mod zygote;

pub use actor::WaitFor;
pub use build::{
    Annotation, Answer, Bases, Bearer, BuildContext, BuildEvent, BuildOutcome, BuildRequest, CACHE_BYTES, CacheEntry,
    CacheFilter, CachePlace, CacheSource, CacheSteps, CacheTarget, Detail, Entitlement, Product, Provenance,
    PrunedCache, Respondent, Reuse, Review, Squash, StageOutline, Supply,
};
pub use clock::now_ns;
pub use config::{Config, Distribution, KeepBlobs, NetworkDefaults, Paths};
pub use control::{Afterwards, Framing, Runtime, Streams};
pub use copy::{CopyOut, Owners, PathStat, Replace};
pub use doctor::{Check, Doctor, Verdict};
pub use engine::{
    Attach, Bootstrap, Change, Commit, Created, Elsewhere, Engine, ExecClient, HostInfo, ImagePart, LayerStep, Leave,
    Naming, Progress, Proof, Pull, Remove, Saving, SearchResult, Wait,
};
pub use error::{EngineError, ErrorClass, Mark, Result, chain};
pub use event_log::Events;
pub use explain::{Explanation, Row, Section};
pub use image;
pub use logs::{LogLine, LogStream, Logs};
pub use net;
pub use plan::security::{masked as masked_paths, readonly as readonly_paths};
pub use registry;
pub use runtime::{OWN as OWN_RUNTIME, Runtimes};
pub use sys::socket::unsent;
pub use top::Top;
pub use usage::Usage;
pub use volume::{NewVolume, Volume};
