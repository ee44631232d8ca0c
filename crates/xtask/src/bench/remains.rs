//! What a run of a bench that was killed has left: control groups and folders, named by the number of the process that the user started.
//!
//! The rest ends by itself: what a bench starts is told of its end, and those of virtual machines run in a process and a network namespace of
//! their own.

use std::path::{Path, PathBuf};

use super::clear;
use crate::island;
use crate::residue::folders;

/// Tells the bench in its private namespaces what number the user sees: there it may have another one.
pub(super) const VARIABLE: &str = "INSULA_BENCH_NUMBER";
const PREFIX: &str = "insula-bench-";

/// The number in the names of this run.
pub(super) fn number() -> u32 {
    let told = std::env::var(VARIABLE).ok().and_then(|text| text.parse().ok());
    told.unwrap_or_else(std::process::id)
}

/// A folder of this run, which is not there yet.
pub(super) fn folder(bench: &str) -> PathBuf {
    std::env::temp_dir().join(format!("{PREFIX}{bench}-{}", number()))
}

/// The control groups of this run.
pub(super) fn groups() -> String {
    format!("{PREFIX}{}", number())
}

/// The number in a name that a run has given.
fn number_in(name: &str) -> Option<u32> {
    name.strip_prefix(PREFIX)?.rsplit('-').next()?.parse().ok()
}

/// Removes what runs have left that have ended, and this one's, where there is something.
pub(super) fn sweep() {
    let own = number();
    let left = |path: &PathBuf| {
        let number = path.file_name().and_then(|name| number_in(name.to_str()?));
        number.is_some_and(|number| number == own || !Path::new("/proc").join(number.to_string()).exists())
    };
    folders(&std::env::temp_dir()).into_iter().filter(left).for_each(|dir| clear(&dir));
    let top = Path::new("/sys/fs/cgroup");
    for hierarchy in std::iter::once(top.to_owned()).chain(folders(top)) {
        for group in folders(&hierarchy).into_iter().filter(left) {
            if let Some(name) = group.file_name().and_then(|name| name.to_str()) {
                island::remove_groups(name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_runs_are_known() {
        assert_eq!(number_in("insula-bench-12"), Some(12));
        assert_eq!(number_in("insula-bench-vm-devices-34"), Some(34));
        assert_eq!(number_in("insula-bench-floor"), None);
        assert_eq!(number_in("insula-demo-12"), None);
    }

    #[test]
    fn what_a_run_that_is_gone_has_left_is_removed_and_nothing_else() {
        let mut gone = std::process::Command::new("true").spawn().unwrap();
        let (ended, alive) = (gone.id(), std::process::Command::new("sleep").arg("60").spawn().unwrap());
        gone.wait().unwrap();
        let dir = |number: u32| std::env::temp_dir().join(format!("{PREFIX}remains-{number}"));
        let (old, busy) = (dir(ended), dir(alive.id()));
        for dir in [&old, &busy] {
            std::fs::create_dir_all(dir.join("run")).unwrap();
        }
        sweep();
        let (swept, kept) = (!old.exists(), busy.exists());
        let mut alive = alive;
        alive.kill().unwrap();
        alive.wait().unwrap();
        clear(&busy);
        assert!(swept && kept);
    }
}
