//! A network of a test's own.

use std::cell::Cell;
use std::process::Command;

use rustix::thread::UnshareFlags;

thread_local! {
    static MOVED: Cell<bool> = const { Cell::new(false) };
}

/// Moves the calling thread, once, into a network namespace that has nothing but the loopback link. Threads and processes
/// that it starts from then on are there too, so whatever a daemon does to links, routes and packet filters is done to
/// nobody else and gone with the last of them.
///
/// # Panics
/// When the kernel refuses, or `ip` is not there.
#[expect(deprecated, reason = "only unsharing the table of descriptors is unsound, and this does not")]
pub fn own_network() {
    if MOVED.replace(true) {
        return;
    }
    rustix::thread::unshare(UnshareFlags::NEWNET).unwrap_or_else(|errno| panic!("unshare the network: {errno}"));
    let up = Command::new("ip").args(["link", "set", "lo", "up"]).status();
    let up = up.unwrap_or_else(|error| panic!("ip: {error}"));
    assert!(up.success(), "cannot set the loopback link up");
}
