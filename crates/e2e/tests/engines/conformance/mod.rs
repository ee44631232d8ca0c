mod containerd;
mod cri;
mod cri_api;
mod dockerd;
mod podman;

use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use testkit::{Cell, Run, bundle, rootfs, wait_for};

/// How long a daemon may take to answer, and a terminal to show something.
const SOON: Duration = Duration::from_secs(30);

/// Makes `image.tar` on the island: the layer of a small image, for engines that import a tree.
fn tree_tar(cell: &Cell) -> String {
    let tree = cell.island().dir("tree");
    bundle::busybox_tree(&tree);
    let tar = cell.island().path("tree.tar");
    rootfs::tar(&tree, &tar);
    tar.display().to_string()
}

/// Ends a daemon as its unit file would, and forcibly if it does not end.
fn end_daemon(mut child: Child) {
    // The daemon is a child of the command that entered the cell, in whose namespaces its number is another one.
    let inner = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", child.id())).unwrap_or_default();
    for pid in inner.split_whitespace().filter_map(|pid| rustix::process::Pid::from_raw(pid.parse().ok()?)) {
        // It may have ended by itself.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    }
    if wait_for(SOON, || child.try_wait().ok().flatten()).is_none() {
        let _ = child.kill();
        let _ = child.wait();
        panic!("the daemon did not end");
    }
}

/// Starts a daemon with its log in a file of the island.
fn start_daemon(command: &mut Command, log: &Path) -> Child {
    let log = File::create(log).unwrap();
    command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap()
}

/// Checks that a line of `run`'s output has all the words.
#[track_caller]
fn has_line(run: &Run, words: &[&str]) {
    let found = run.out.lines().any(|line| words.iter().all(|word| line.contains(word)));
    assert!(found, "no line with {words:?}:\n{}\n{}", run.out, run.err);
}

/// Whether CRIU works on this machine; prints its reason when a test has to be skipped because it does not.
fn criu_or_skip(cell: &Cell) -> Option<()> {
    if rootfs::find("criu").is_none() {
        println!("skipped: this machine has no criu; cargo xtask setup installs what tests need");
        return None;
    }
    let check = cell.run(&["criu", "check"]);
    if check.code != 0 {
        println!("skipped: criu check fails on this kernel: {}", check.said().trim());
        return None;
    }
    Some(())
}
