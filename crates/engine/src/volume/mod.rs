//! Volumes: what one is, how the local driver brings it to its place, and who is at work on it.
//!
//! ```text
//! ROOT/volumes/NAME/_data      what containers see; with driver options, a mount point while somebody needs it
//!                  /.fresh     what is being copied or restored and takes the place of _data when it is whole
//! ROOT/volumes/.removed-…      volumes on their way out
//! ```

mod archive;
mod claims;
mod fill;
mod local;
mod propagation;
mod ready;

pub(crate) use archive::{backup, restore};
pub(crate) use claims::{Claim, Claims};
pub(crate) use fill::{Seen, fill};
pub(crate) use local::{LocalOptions, is_mounted, lift_limit, unmount};
pub(crate) use propagation::check as check_propagation;
pub(crate) use ready::{Ready, within};

use crate::error::{EngineError, Result};
use crate::model::ContainerId;
use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// A volume of the local driver.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// Its name.
    pub name: String,
    /// Its folder on the host.
    pub path: PathBuf,
    /// When it was made, nanoseconds since the Unix epoch.
    pub created_ns: u64,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// The local driver's options: `type`, `device`, `o`, `size`.
    #[serde(default)]
    pub options: BTreeMap<String, String>,
    /// Nobody named it.
    #[serde(default)]
    pub anonymous: bool,
    /// The container that it was made for, as long as that is there: a daemon that is killed before it has written the container down, or
    /// while it removes both, leaves a volume that nobody will ever ask for.
    #[serde(default)]
    pub(crate) made_for: Option<ContainerId>,
    /// The project that its size is counted for, where it is limited.
    #[serde(default)]
    pub project: Option<u32>,
}

/// What a new volume is to be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NewVolume {
    /// Its name; one is made up if none.
    pub name: Option<String>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// The local driver's options.
    pub options: BTreeMap<String, String>,
}

impl Volume {
    /// Whether something has to be mounted before it can be used.
    pub(crate) fn is_mount(&self) -> bool {
        self.options.contains_key("type") || self.options.contains_key("device")
    }

    /// The folder that holds all that belongs to it.
    pub(crate) fn home(&self) -> &Path {
        self.path.parent().unwrap_or(&self.path)
    }
}

/// Checks a volume's name.
///
/// # Errors
/// [`crate::ErrorClass::Invalid`].
pub(crate) fn check_name(name: &str) -> Result<()> {
    let good = name.len() >= 2
        && name.len() <= 255
        && name.as_bytes()[0].is_ascii_alphanumeric()
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte));
    if good {
        return Ok(());
    }
    Err(EngineError::invalid(format!(
        "create {name}: {name:?} includes invalid characters for a local volume name, only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed. If you intended to pass a host directory, use absolute path"
    )))
}

/// Opens a folder for looking and for paths below it.
pub(crate) fn open_folder(path: &Path) -> rustix::io::Result<OwnedFd> {
    rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

/// Whether a folder has nothing in it; what a new file system comes with does not count.
pub(crate) fn is_empty(folder: &Path) -> std::io::Result<bool> {
    for entry in std::fs::read_dir(folder)? {
        if entry?.file_name() != "lost+found" {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The lengths of all files below a folder, each file counted once whatever its names; links are not followed.
pub(crate) fn length(folder: &Path) -> u64 {
    let (mut pending, mut seen, mut sum) = (vec![folder.to_owned()], BTreeSet::new(), 0);
    while let Some(folder) = pending.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        for entry in entries.flatten() {
            let Ok(meta) = entry.metadata() else { continue };
            if meta.is_dir() {
                pending.push(entry.path());
            } else if meta.nlink() < 2 || seen.insert((meta.dev(), meta.ino())) {
                sum += meta.len();
            }
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        for good in ["ab", "data", "a_b.c-d", &"x".repeat(255)] {
            assert!(check_name(good).is_ok(), "{good}");
        }
        for bad in ["", "a", "-a", "a/b", "ä1", "a b", &"x".repeat(256)] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn lengths_count_a_file_once() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::create_dir(at("sub")).unwrap();
        std::fs::write(at("sub/a"), "12345").unwrap();
        std::fs::hard_link(at("sub/a"), at("b")).unwrap();
        std::fs::write(at("c"), "123").unwrap();
        assert_eq!(length(folder.path()), 8);
        assert!(!is_empty(folder.path()).unwrap());
        let fresh = tempfile::tempdir().unwrap();
        std::fs::create_dir(fresh.path().join("lost+found")).unwrap();
        assert!(is_empty(fresh.path()).unwrap());
    }
}
