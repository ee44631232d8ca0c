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

#[test]
fn calls_are_sorted_and_counted_by_process() {
    assert!(CALLS.is_sorted());
    let trace =
        "7 mkdirat(3, \"a\") = 0\n7 mkdirat(3, \"b\") = 0\n9 mkdirat(4, \"c\") = 0\n9 read(4) = 1\n9 write(1) = 1\n";
    let expected = [("mkdirat", 1), ("mkdirat", 2), ("write", 1)].map(|(call, nth)| Point { call, nth });
    assert_eq!(points(trace), expected);
}
