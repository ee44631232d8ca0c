//! A group's directories: made or taken, furnished, removed.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use sys::SysError;

use super::members::collect_pids;
use super::{Age, Group, RACES, Tenants, refused};
use crate::hierarchy::{Hierarchy, Kind};
use crate::host::Shared;
use crate::place::plain;
use crate::{CgroupError, Result};

/// How long removal waits for processes that are already dying.
const REMOVE_TIMEOUT: Duration = Duration::from_secs(2);

impl Group {
    /// Makes the directory in every hierarchy, noting each in `made` so that the caller can undo it.
    pub(super) fn make_dirs(&self, made: &mut Vec<Arc<Hierarchy>>) -> Result<()> {
        for hierarchy in &self.shared.hierarchies {
            self.make_dir(hierarchy)?;
            made.push(Arc::clone(hierarchy));
            self.furnish(hierarchy)?;
        }
        Ok(())
    }

    /// Gives a new group what it needs before it can take a process or a limit.
    fn furnish(&self, hierarchy: &Hierarchy) -> Result<()> {
        match hierarchy.kind {
            Kind::V1 if hierarchy.has("cpuset") => inherit_cpuset(hierarchy, self.at(hierarchy)),
            Kind::V1 => Ok(()),
            Kind::V2 => {
                self.delegate(hierarchy);
                Ok(())
            }
        }
    }

    /// Makes the directory, or takes an existing group that has no processes.
    pub(super) fn make_or_take(&self, hierarchy: &Hierarchy, tenants: Tenants) -> Result<Age> {
        let path = self.at(hierarchy);
        let fail = |call, errno| CgroupError::Make { dir: hierarchy.path(path), source: SysError::new(call, errno) };
        for _ in 0..RACES {
            match hierarchy.make_dir(path) {
                Ok(()) => {
                    let outcome = self.furnish(hierarchy);
                    if outcome.is_err() {
                        // The caller knows nothing of this directory yet.
                        let _ = hierarchy.remove_dir(path);
                    }
                    return outcome.map(|()| Age::Fresh);
                }
                Err(Errno::NOENT) => make_parents(hierarchy, path)?,
                Err(Errno::EXIST) => {
                    let mut pids = BTreeSet::new();
                    if tenants != Tenants::Any {
                        collect_pids(hierarchy, path, &mut pids)?;
                    }
                    if !pids.is_empty() && tenants == Tenants::None {
                        return Err(CgroupError::NotEmpty { dir: hierarchy.path(path), count: pids.len() });
                    }
                    let frozen = self.file(hierarchy, "freezer.state");
                    if hierarchy.has("freezer")
                        && hierarchy.read_optional(&frozen)?.is_some_and(|state| state.trim() != "THAWED")
                    {
                        // whoever enters it stands still
                        return Err(CgroupError::Frozen { dir: hierarchy.path(path) });
                    }
                    let mems = self.file(hierarchy, "cpuset.mems");
                    let has_own = hierarchy.has("cpuset")
                        && hierarchy.read_optional(&mems)?.is_some_and(|value| !value.trim().is_empty());
                    if !has_own {
                        self.furnish(hierarchy)?;
                    }
                    return Ok(if pids.is_empty() { Age::Taken } else { Age::Shared(pids.len()) });
                }
                Err(errno) => return Err(fail("mkdirat", errno)),
            }
        }
        Err(fail("mkdirat", Errno::NOENT))
    }

    fn make_dir(&self, hierarchy: &Hierarchy) -> Result<()> {
        let path = self.at(hierarchy);
        let fail = |call, errno| CgroupError::Make { dir: hierarchy.path(path), source: SysError::new(call, errno) };
        for _ in 0..RACES {
            match hierarchy.make_dir(path) {
                Ok(()) => return Ok(()),
                // The parent is not there yet, or was removed with its last group a moment ago.
                Err(Errno::NOENT) => make_parents(hierarchy, path)?,
                Err(Errno::EXIST) => {
                    let mut pids = BTreeSet::new();
                    collect_pids(hierarchy, path, &mut pids)?;
                    if let Some(&pid) = pids.first() {
                        return Err(CgroupError::InUse { dir: hierarchy.path(path), pid });
                    }
                    match remove_tree(hierarchy, path) {
                        Ok(()) => {}
                        // Only a directory that is no control group file system holds plain files.
                        Err(Errno::NOTEMPTY) => return Ok(()),
                        Err(errno) => return Err(fail("rmdir", errno)),
                    }
                }
                Err(errno) => return Err(fail("mkdirat", errno)),
            }
        }
        Err(fail("mkdirat", Errno::NOENT))
    }

    /// Has the parents of a version 2 group hand their controllers down.
    fn delegate(&self, hierarchy: &Hierarchy) {
        if hierarchy.controllers.is_empty() {
            return;
        }
        let have =
            hierarchy.read_optional(&self.file(hierarchy, "cgroup.controllers")).ok().flatten().unwrap_or_default();
        let missing: Vec<&String> =
            hierarchy.controllers.iter().filter(|name| !have.split_whitespace().any(|have| have == *name)).collect();
        if missing.is_empty() {
            return;
        }
        let path = self.at(hierarchy);
        let ends = path.match_indices('/').map(|(at, _)| at);
        for end in std::iter::once(0).chain(ends) {
            let parent = &path[..end];
            let file = if parent.is_empty() {
                "cgroup.subtree_control".to_owned()
            } else {
                format!("{parent}/cgroup.subtree_control")
            };
            let all: Vec<String> = missing.iter().map(|name| format!("+{name}")).collect();
            if hierarchy.write(&file, &all.join(" ")).is_err() {
                for one in all {
                    // A controller that can't be handed down matters only to a limit that needs it, which then says so.
                    let _ = hierarchy.write(&file, &one);
                }
            }
        }
    }

    pub(super) fn remove_from(&self, hierarchy: &Hierarchy) -> Result<()> {
        let deadline = Instant::now() + REMOVE_TIMEOUT;
        let mut pause = Duration::from_micros(200);
        loop {
            match remove_tree(hierarchy, self.at(hierarchy)) {
                Ok(()) => return Ok(()),
                Err(Errno::BUSY) if Instant::now() < deadline => {
                    std::thread::sleep(pause);
                    pause = (pause * 2).min(Duration::from_millis(20));
                }
                Err(errno) => {
                    let dir = hierarchy.path(self.at(hierarchy));
                    return Err(CgroupError::Remove { dir, source: SysError::new("rmdir", errno) });
                }
            }
        }
    }
}

/// Makes `path` in every hierarchy, with no limits and no processes of its own.
pub(crate) fn hold(shared: &Shared, path: &str) -> Result<()> {
    let below = format!("{}/", plain(path)?);
    shared.hierarchies.iter().try_for_each(|hierarchy| make_parents(hierarchy, &below))
}

/// Removes `path` and the groups above it as far as they are empty.
pub(crate) fn release(shared: &Shared, path: &str) -> Result<()> {
    let path = plain(path)?;
    for hierarchy in &shared.hierarchies {
        let mut path = path.as_str();
        // A group with others in it refuses, and that is right.
        while hierarchy.remove_dir(path).is_ok()
            && let Some((parent, _)) = path.rsplit_once('/')
        {
            path = parent;
        }
    }
    Ok(())
}

/// Makes the groups above `path`; those that are there stay as they are.
fn make_parents(hierarchy: &Hierarchy, path: &str) -> Result<()> {
    for (end, _) in path.match_indices('/') {
        let parent = &path[..end];
        match hierarchy.make_dir(parent) {
            Ok(()) if hierarchy.kind == Kind::V1 && hierarchy.has("cpuset") => {
                inherit_cpuset(hierarchy, parent)?;
                // From now on the kernel copies the sets into each new child. Where it can't, each child copies itself.
                let _ = hierarchy.write(&format!("{parent}/cgroup.clone_children"), "1");
            }
            // ENOENT: a racing remove took the grandparent; the caller tries again.
            Ok(()) | Err(Errno::EXIST | Errno::NOENT) => {}
            Err(errno) => {
                return Err(CgroupError::Make { dir: hierarchy.path(parent), source: SysError::new("mkdirat", errno) });
            }
        }
    }
    Ok(())
}

/// Gives a version 1 cpuset group its parent's processors and memory nodes when it has none: an empty group takes no
/// process.
fn inherit_cpuset(hierarchy: &Hierarchy, path: &str) -> Result<()> {
    let parent = path.rsplit_once('/').map_or("", |(parent, _)| parent);
    let below = |dir: &str, name: &str| if dir.is_empty() { name.to_owned() } else { format!("{dir}/{name}") };
    for name in ["cpuset.mems", "cpuset.cpus"] {
        let own = below(path, name);
        let mut value = hierarchy.read_optional(&below(parent, name))?.unwrap_or_default();
        if value.trim().is_empty() && !parent.is_empty() {
            inherit_cpuset(hierarchy, parent)?;
            value = hierarchy.read_optional(&below(parent, name))?.unwrap_or_default();
        }
        let value = value.trim();
        if !value.is_empty() {
            hierarchy.write(&own, value).map_err(|source| refused(hierarchy, &own, value.to_owned(), source))?;
        }
    }
    Ok(())
}

/// Removes a directory and the groups below it; what is gone counts as removed.
pub(super) fn remove_tree(hierarchy: &Hierarchy, path: &str) -> std::result::Result<(), Errno> {
    match hierarchy.remove_dir(path) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::BUSY | Errno::NOTEMPTY) => {}
        Err(errno) => return Err(errno),
    }
    for child in hierarchy.children(path) {
        remove_tree(hierarchy, &format!("{path}/{child}"))?;
    }
    match hierarchy.remove_dir(path) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(errno),
    }
}
