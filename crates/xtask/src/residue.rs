//! What is on the machine because of us: mounts, control groups, network namespaces, processes.
//!
//! Taken before and after, two pictures show what was left behind. Things that other programs made meanwhile are kept
//! out as far as they can be told apart: control groups count only when they bear our name,
//! processes when they run the programs that were built here.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// What was found at one moment.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Residue {
    mounts: BTreeSet<String>,
    cgroups: BTreeSet<String>,
    netns: BTreeSet<String>,
    processes: BTreeSet<String>,
}

impl Residue {
    /// Looks at the machine; of processes, at those that run the programs in `bin`.
    pub(crate) fn take(bin: &Path) -> Self {
        let mountinfo = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let mut residue = Self { mounts: mounts(&mountinfo), cgroups: cgroups(&mountinfo), ..Self::default() };
        for process in processes() {
            let folder = Path::new("/proc").join(process.to_string());
            if let Ok(netns) = fs::read_link(folder.join("ns/net")) {
                residue.netns.insert(netns.to_string_lossy().into_owned());
            }
            if fs::read_link(folder.join("exe")).is_ok_and(|program| program.starts_with(bin)) {
                let name = fs::read_to_string(folder.join("comm")).unwrap_or_default();
                residue.processes.insert(format!("{} {process}", name.trim_end()));
            }
        }
        residue
    }

    /// What is here now and was not in `before`, one line a thing.
    pub(crate) fn since(&self, before: &Self) -> Vec<String> {
        let kinds = [
            ("mount", &self.mounts, &before.mounts),
            ("control group", &self.cgroups, &before.cgroups),
            ("network namespace", &self.netns, &before.netns),
            ("process", &self.processes, &before.processes),
        ];
        let new = kinds.iter().flat_map(|(kind, now, then)| now.difference(then).map(move |it| format!("{kind} {it}")));
        new.collect()
    }

    /// How many there are of each kind.
    pub(crate) fn counts(&self) -> String {
        format!(
            "{} mounts, {} control groups, {} network namespaces, {} processes of Insula",
            self.mounts.len(),
            self.cgroups.len(),
            self.netns.len(),
            self.processes.len()
        )
    }
}

/// The process ids that exist now.
pub(crate) fn processes() -> Vec<i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// Mount points with what is mounted there; ids and options change without a mount being left behind.
fn mounts(mountinfo: &str) -> BTreeSet<String> {
    let described = mountinfo.lines().filter_map(|line| {
        let (mount, source) = line.split_once(" - ")?;
        Some(format!("{} ({})", mount.split(' ').nth(4)?, source.split(' ').next()?))
    });
    described.collect()
}

/// Groups of ours, in every hierarchy: those below a folder whose name begins with `insula`.
fn cgroups(mountinfo: &str) -> BTreeSet<String> {
    let hierarchies = mountinfo.lines().filter_map(|line| {
        let (mount, source) = line.split_once(" - ")?;
        source.starts_with("cgroup").then(|| PathBuf::from(mount.split(' ').nth(4).unwrap_or_default()))
    });
    let mut found = BTreeSet::new();
    for top in hierarchies.flat_map(|hierarchy| folders(&hierarchy)) {
        if top.file_name().is_some_and(|name| name.to_string_lossy().starts_with("insula")) {
            let mut open = vec![top];
            while let Some(group) = open.pop() {
                open.extend(folders(&group));
                found.insert(group.display().to_string());
            }
        }
    }
    found
}

/// The folders directly in `folder`; a group may vanish while we look.
pub(crate) fn folders(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_new_is_named() {
        let of = |names: &[&str]| Residue {
            mounts: names.iter().map(|name| (*name).to_owned()).collect(),
            ..Residue::default()
        };
        assert_eq!(of(&["/a", "/b"]).since(&of(&["/a", "/c"])), ["mount /b"]);
        assert!(of(&["/a"]).since(&of(&["/a"])).is_empty());
    }

    #[test]
    fn mounts_are_known_by_place_and_kind() {
        let line = "36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue\n";
        assert_eq!(mounts(line).into_iter().collect::<Vec<_>>(), ["/mnt2 (ext3)"]);
    }

    #[test]
    fn groups_are_found_below_our_name_only() {
        let fake = tempfile::tempdir().unwrap();
        for group in ["insula/c1", "insula-demo-7", "system/insula"] {
            fs::create_dir_all(fake.path().join(group)).unwrap();
        }
        let line = format!("31 30 0:29 / {} rw - cgroup cgroup rw,cpu\n", fake.path().display());
        let found: Vec<_> = cgroups(&line).into_iter().collect();
        let expected = ["insula", "insula-demo-7", "insula/c1"];
        assert_eq!(found, expected.map(|group| fake.path().join(group).display().to_string()));
    }

    #[test]
    fn this_process_exists() {
        let own = i32::try_from(std::process::id()).unwrap();
        assert!(processes().contains(&own));
    }
}
