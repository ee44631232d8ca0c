//! Names of the empty groups in which a host is asked what it can limit, and the end of those that nobody asks any more.

use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

use crate::hierarchy::Hierarchy;

/// What every such name begins with.
const PREFIX: &str = "insula-probe-";
/// How old a group has to be whose process cannot be looked for, because it is of another process namespace. Asking takes milliseconds.
const OLD: Duration = Duration::from_secs(60);

/// Who asks: a process, by its id in its namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Asker {
    /// The inode of the process namespace; 0 where that cannot be told.
    namespace: u64,
    process: u32,
}

impl Asker {
    fn this() -> Self {
        use std::os::unix::fs::MetadataExt as _;
        let namespace = std::fs::metadata("/proc/self/ns/pid").map_or(0, |found| found.ino());
        Self { namespace, process: std::process::id() }
    }

    /// Who made a group of this name; `None` for other groups.
    fn of(name: &str) -> Option<Self> {
        let mut numbers = name.strip_prefix(PREFIX)?.split('-');
        let asker = Self { namespace: numbers.next()?.parse().ok()?, process: numbers.next()?.parse().ok()? };
        let _number: u32 = numbers.next()?.parse().ok()?;
        numbers.next().is_none().then_some(asker)
    }

    /// Whether the process has gone; `None` if that cannot be told from here.
    fn has_gone(self, this: Self) -> Option<bool> {
        let seen = self.namespace == this.namespace && self.namespace != 0;
        seen.then(|| !Path::new("/proc").join(self.process.to_string()).exists())
    }
}

/// A name that nobody else takes.
pub(crate) fn name() -> String {
    // two hosts of one process may look at the same moment
    static PROBES: AtomicU32 = AtomicU32::new(0);
    let Asker { namespace, process } = Asker::this();
    format!("{PREFIX}{namespace}-{process}-{}", PROBES.fetch_add(1, Ordering::Relaxed))
}

/// Removes the groups of processes that ended while they asked.
pub(crate) fn sweep(hierarchy: &Hierarchy) {
    let this = Asker::this();
    for name in hierarchy.children(".") {
        let Some(asker) = Asker::of(&name) else { continue };
        let old = || {
            let made = std::fs::metadata(hierarchy.path(&name)).and_then(|found| found.modified());
            made.is_ok_and(|made| SystemTime::now().duration_since(made).is_ok_and(|age| age >= OLD))
        };
        if asker.has_gone(this).unwrap_or_else(old) {
            // somebody else may be quicker
            let _ = hierarchy.remove_dir(&name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hierarchy::{Access, Kind};

    #[test]
    fn a_name_tells_whose_it_is() {
        assert_eq!(Asker::of(&name()), Some(Asker::this()));
        assert_ne!(name(), name());
        for other in ["insula", "insula-probe-", "insula-probe-1-2", "insula-probe-1-2-3-4", "insula-probe-a-2-3"] {
            assert_eq!(Asker::of(other), None, "{other}");
        }
    }

    #[test]
    fn groups_of_those_that_have_gone_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        let this = Asker::this();
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let gone = child.id();
        child.wait().unwrap();
        let kept = [name(), format!("{PREFIX}1-{gone}-0"), "insula".to_owned(), format!("{PREFIX}x")];
        let left = format!("{PREFIX}{}-{gone}-0", this.namespace);
        let all = kept.iter().chain([&left]);
        all.for_each(|name| std::fs::create_dir(folder.path().join(name)).unwrap());
        let hierarchy = Hierarchy::open(0, Kind::V2, Vec::new(), folder.path().to_owned(), Access::Kept).unwrap();
        sweep(&hierarchy);
        assert!(!folder.path().join(&left).exists());
        assert!(kept.iter().all(|name| folder.path().join(name).exists()));
    }
}
