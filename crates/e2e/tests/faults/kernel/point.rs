//! The points of a command at which something can go wrong, and a choice of them.

use std::collections::BTreeMap;

/// Calls that change something, or on which such a change hangs.
pub(super) const CALLS: &[&str] = &[
    "bind",
    "capset",
    "chdir",
    "clone",
    "clone3",
    "connect",
    "dup3",
    "fchdir",
    "fchmod",
    "fchown",
    "fsconfig",
    "fsmount",
    "fsopen",
    "ioctl",
    "keyctl",
    "kill",
    "linkat",
    "listen",
    "memfd_create",
    "mkdir",
    "mkdirat",
    "mknodat",
    "mount",
    "mount_setattr",
    "move_mount",
    "open",
    "open_tree",
    "openat",
    "openat2",
    "pidfd_open",
    "pidfd_send_signal",
    "pivot_root",
    "prctl",
    "pwrite64",
    "recvmsg",
    "rename",
    "renameat",
    "renameat2",
    "rmdir",
    "sendmsg",
    "sendto",
    "setgroups",
    "sethostname",
    "setns",
    "setresgid",
    "setresuid",
    "setsid",
    "socket",
    "socketpair",
    "symlinkat",
    "umount2",
    "unlink",
    "unlinkat",
    "unshare",
    "vfork",
    "waitid",
    "write",
];

/// The calls with which a runtime takes things away; when these fail, something has to stay.
pub(super) const REMOVING: &[&str] = &["kill", "pidfd_send_signal", "rmdir", "umount2", "unlink", "unlinkat", "waitid"];

/// The `nth` call of a kind that a process makes, counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Point {
    pub(super) call: &'static str,
    pub(super) nth: usize,
}

/// All points in a trace of `strace -f -o`: strace counts each process's calls for itself, so the longest counts.
pub(super) fn points(trace: &str) -> Vec<Point> {
    let mut counts: BTreeMap<(&str, &'static str), usize> = BTreeMap::new();
    for line in trace.lines() {
        let Some((pid, rest)) = line.split_once(' ') else { continue };
        let name = rest.trim_start().split('(').next().unwrap_or_default();
        if let Ok(at) = CALLS.binary_search(&name) {
            *counts.entry((pid, CALLS[at])).or_default() += 1;
        }
    }
    let mut longest: BTreeMap<&'static str, usize> = BTreeMap::new();
    for ((_, call), count) in counts {
        let entry = longest.entry(call).or_default();
        *entry = count.max(*entry);
    }
    longest.into_iter().flat_map(|(call, count)| (1..=count).map(move |nth| Point { call, nth })).collect()
}

/// Numbers without a pattern, the same for the same seed.
#[derive(Debug)]
pub(super) struct Dice {
    pub(super) seed: u64,
    state: u64,
}

impl Dice {
    /// From `INSULA_E2E_SEED`, or the clock.
    pub(super) fn new() -> Self {
        let clock = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos();
        let chosen = std::env::var("INSULA_E2E_SEED").ok().and_then(|text| text.parse().ok());
        let seed = chosen.unwrap_or_else(|| u64::try_from(clock & 0xffff_ffff).unwrap());
        Self { seed, state: seed }
    }

    /// A number below `limit`.
    pub(super) fn below(&mut self, limit: usize) -> usize {
        // A 64-bit mixer with a step; any will do here.
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % u64::try_from(limit.max(1)).unwrap()).unwrap()
    }

    /// At most so many of `all` as `INSULA_E2E_FAULTS` says, `usual` without it, in an order of its own.
    pub(super) fn choose<T>(&mut self, mut all: Vec<T>, usual: usize) -> Vec<T> {
        let count = match std::env::var("INSULA_E2E_FAULTS").as_deref() {
            Ok("all") => all.len(),
            Ok(text) => text.parse().unwrap_or_else(|_| panic!("INSULA_E2E_FAULTS={text}: a number, or all")),
            Err(_) => usual,
        };
        for at in 0..all.len() {
            let other = at + self.below(all.len() - at);
            all.swap(at, other);
        }
        all.truncate(count);
        all
    }
}

#[test]
fn calls_are_sorted_and_counted_by_process() {
    assert!(CALLS.is_sorted());
    let trace =
        "7 mkdirat(3, \"a\") = 0\n7 mkdirat(3, \"b\") = 0\n9 mkdirat(4, \"c\") = 0\n9 read(4) = 1\n9 write(1) = 1\n";
    let expected = [("mkdirat", 1), ("mkdirat", 2), ("write", 1)].map(|(call, nth)| Point { call, nth });
    assert_eq!(points(trace), expected);
}

#[test]
fn a_seed_gives_the_same_choice() {
    let choice = |seed| Dice { seed, state: seed }.choose((0..100).collect::<Vec<_>>(), 100);
    assert_eq!(choice(5), choice(5));
    assert_ne!(choice(5), choice(6));
}
