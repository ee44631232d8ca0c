//! Probes and islands for tests: what a test may touch, what it must leave behind, and how a person would type.
//!
//! This crate is used by tests only, so a broken expectation panics with what was seen; nothing here returns errors
//! that a test would unwrap anyway.

pub mod bundle;
mod cell;
mod command;
pub mod compat;
pub mod corpus;
mod dice;
pub mod guest;
mod island;
mod network;
mod residue;
pub mod rootfs;
pub mod stage;
mod terminal;
mod tracer;

pub use cell::Cell;
pub use command::{Run, finish};
pub use dice::Dice;
pub use island::Island;
pub use network::own_network;
pub use residue::Residue;
pub use terminal::Terminal;
pub use tracer::kill_at;

use std::time::{Duration, Instant};

/// Whether this process is root; prints the reason when a test has to be skipped because it is not.
#[must_use]
pub fn is_root_or_skip() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        println!("skipped: needs root");
    }
    root
}

/// Asks `probe` again and again until it gives something, at most for `timeout`.
#[must_use]
pub fn wait_for<T>(timeout: Duration, mut probe: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + timeout;
    loop {
        if let Some(found) = probe() {
            return Some(found);
        }
        if Instant::now() >= deadline {
            return None;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
