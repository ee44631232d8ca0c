//! What every thread of a machine does first: a hook for whoever confines them.

use std::sync::OnceLock;

static ENTRY: OnceLock<fn(&str)> = OnceLock::new();

/// From now on, `entry` is called by each thread of a machine that begins, with the thread's name.
pub fn at_begin(entry: fn(&str)) {
    // The first one stays: a second caller would loosen what the first one has fastened.
    let _stays = ENTRY.set(entry);
}

/// To be called first by each thread that runs a part of a machine.
pub fn begin() {
    if let Some(entry) = ENTRY.get() {
        entry(std::thread::current().name().unwrap_or_default());
    }
}
