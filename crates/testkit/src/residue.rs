//! What programs can leave behind on a machine, counted before and after.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long things that are already on their way out may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Everything that could be left behind, at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Residue {
    folders: Vec<PathBuf>,
    found: BTreeSet<String>,
}

impl Residue {
    /// Counts mounts, control groups of ours, network namespaces, processes of ours and loop devices.
    #[must_use]
    pub fn take() -> Self {
        Self::take_with(&[])
    }

    /// The same, and every file below `folders`.
    #[must_use]
    pub fn take_with(folders: &[&Path]) -> Self {
        let folders: Vec<PathBuf> = folders.iter().map(|folder| (*folder).to_owned()).collect();
        let mut found = BTreeSet::new();
        mounts(&mut found);
        processes_and_namespaces(&mut found);
        loop_devices(&mut found);
        for folder in &folders {
            files(folder, &mut found);
        }
        Self { folders, found }
    }

    /// What is there now and was not there at first, in words.
    #[must_use]
    pub fn left_behind(&self) -> Vec<String> {
        let folders: Vec<&Path> = self.folders.iter().map(PathBuf::as_path).collect();
        Self::take_with(&folders).found.difference(&self.found).cloned().collect()
    }

    /// Checks that nothing new is left, and waits some seconds for what is still on its way out.
    ///
    /// # Panics
    /// When something is left, with a list of it.
    pub fn assert_same(&self) {
        let gone = crate::wait_for(PATIENCE, || self.left_behind().is_empty().then_some(()));
        if gone.is_none() {
            let left = self.left_behind();
            assert!(left.is_empty(), "left behind:\n  {}", left.join("\n  "));
        }
    }
}

/// Mounts, and on those of control groups the groups whose name or parent's name starts with `insula`.
fn mounts(found: &mut BTreeSet<String>) {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    for line in table.lines() {
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let mut left = left.split(' ');
        let (Some(id), Some(point)) = (left.next(), left.nth(3)) else { continue };
        found.insert(format!("mount {id} {point} ({right})"));
        if right.starts_with("cgroup") {
            groups(Path::new(point), false, 4, found);
        }
    }
}

fn groups(folder: &Path, ours: bool, depth: usize, found: &mut BTreeSet<String>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        let ours = ours || entry.file_name().to_string_lossy().starts_with("insula");
        if ours {
            found.insert(format!("control group {}", entry.path().display()));
        }
        if depth > 0 {
            groups(&entry.path(), ours, depth - 1, found);
        }
    }
}

/// Processes called `insula…`, and the network namespaces that any process is in or holds open.
fn processes_and_namespaces(found: &mut BTreeSet<String>) {
    let Ok(entries) = fs::read_dir("/proc") else { return };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.bytes().all(|byte| byte.is_ascii_digit()) {
            continue;
        }
        let path = entry.path();
        let comm = fs::read_to_string(path.join("comm")).unwrap_or_default();
        let program = fs::read_link(path.join("exe")).ok();
        let program = program.and_then(|path| Some(path.file_name()?.to_string_lossy().into_owned()));
        if comm.starts_with("insula") || program.is_some_and(|program| program.starts_with("insula")) {
            found.insert(format!("process {name} ({})", comm.trim()));
        }
        let mut links = vec![path.join("ns/net")];
        links.extend(fs::read_dir(path.join("fd")).into_iter().flatten().flatten().map(|fd| fd.path()));
        for link in links {
            let target = fs::read_link(link).map(|target| target.to_string_lossy().into_owned()).unwrap_or_default();
            if target.starts_with("net:[") {
                found.insert(format!("network namespace {target}"));
            }
        }
    }
}

/// Loop devices with a file behind them.
fn loop_devices(found: &mut BTreeSet<String>) {
    for entry in fs::read_dir("/sys/block").into_iter().flatten().flatten() {
        if let Ok(file) = fs::read_to_string(entry.path().join("loop/backing_file")) {
            found.insert(format!("loop device {} of {}", entry.file_name().display(), file.trim()));
        }
    }
}

fn files(folder: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        found.insert(format!("file {}", entry.path().display()));
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            files(&entry.path(), found);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_file_is_noticed_and_a_removed_one_forgiven() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("d")).unwrap();
        let mut found = BTreeSet::new();
        files(folder.path(), &mut found);
        let before = Residue { folders: Vec::new(), found };
        let mut later = BTreeSet::new();
        fs::write(folder.path().join("d/new"), "").unwrap();
        files(folder.path(), &mut later);
        let new: Vec<_> = later.difference(&before.found).collect();
        assert_eq!(new, [&format!("file {}/d/new", folder.path().display())]);
    }

    #[test]
    fn a_moment_has_this_machines_mounts_and_namespace() {
        let residue = Residue::take();
        assert!(residue.found.iter().any(|line| line.starts_with("mount ")));
        assert!(residue.found.iter().any(|line| line.starts_with("network namespace net:[")));
    }
}
