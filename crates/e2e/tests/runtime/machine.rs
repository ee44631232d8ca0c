//! What this machine has: control group hierarchies and kernel features.

use std::path::{Path, PathBuf};

/// Whether resources are limited through version 1 groups here.
pub(crate) fn is_v1() -> bool {
    super::subject::mount_table().contains(" - cgroup ")
}

/// The mount points of all hierarchies.
pub(crate) fn hierarchies() -> Vec<PathBuf> {
    let table = super::subject::mount_table();
    let groups = table.lines().filter(|line| line.contains(" - cgroup"));
    groups.filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from).collect()
}

/// The mount point of a controller; of all of them in version 2.
pub(crate) fn hierarchy(controller: &str) -> PathBuf {
    let table = super::subject::mount_table();
    for line in table.lines() {
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let right: Vec<&str> = right.split(' ').collect();
        let named = right[0] == "cgroup" && right[2].split(',').any(|option| option == controller);
        if named || right[0] == "cgroup2" {
            return left.split(' ').nth(4).unwrap().into();
        }
    }
    panic!("the controller {controller} is not mounted")
}

/// Whether a file of a controller exists below its hierarchy; prints the reason for a skip if not.
pub(crate) fn has_controller_or_skip(controller: &str) -> bool {
    let table = super::subject::mount_table();
    let found = table.lines().filter_map(|line| line.split_once(" - ")).any(|(_, right)| {
        right.starts_with("cgroup ")
            && right.rsplit(' ').next().unwrap_or("").split(',').any(|option| option == controller)
    });
    if !found {
        println!("skipped: no {controller} hierarchy of version 1 on this machine");
    }
    found
}

/// Whether a file of the kernel's exists; prints the reason for a skip if not.
pub(crate) fn has_or_skip(path: &str) -> bool {
    let found = Path::new(path).exists();
    if !found {
        println!("skipped: this kernel has no {path}");
    }
    found
}

/// A program of the machine; prints the reason for a skip if it is not installed.
pub(crate) fn program_or_skip(name: &str) -> Option<PathBuf> {
    let found = testkit::rootfs::find(name);
    if found.is_none() {
        println!("skipped: {name} is not installed");
    }
    found
}
