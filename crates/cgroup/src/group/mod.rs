//! One group: a directory of the same name in every hierarchy.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use oci_spec::runtime::LinuxResources;
use rustix::fs::OFlags;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use sys::SysError;

use crate::hierarchy::{Access, Hierarchy, Kind};
use crate::host::Shared;
use crate::place::{Named, Place, Rights, plain};
use crate::usage::{self, Usage};
use crate::{CgroupError, Result};

mod dirs;
mod limit;
mod members;

use dirs::remove_tree;
pub(crate) use dirs::{hold, release};

/// How often a parent group may vanish under a create before that gives up.
const RACES: usize = 64;

/// What limiting a group did.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Applied {
    /// Each file that was written, with the value that the kernel shows in it afterwards.
    pub values: Vec<(PathBuf, String)>,
    /// What this host can't do and a container can live without, in words for the user.
    pub warnings: Vec<String>,
}

/// A group of processes with limits.
///
/// Dropping a `Group` leaves the kernel's group as it is; [`Group::remove`] removes it.
#[derive(Debug, Clone)]
pub struct Group {
    shared: Arc<Shared>,
    /// The path inside each hierarchy by slot, or one for all; without the leading slash.
    paths: Arc<[String]>,
    manner: Manner,
    rights: Rights,
    tenancy: Tenancy,
}

/// Whose processes are in a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Tenancy {
    /// The container's only, as far as we know.
    #[default]
    Own,
    /// Others' too: they were there first.
    Shared,
}

impl Tenancy {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
    fn is_own(&self) -> bool {
        *self == Self::Own
    }
}

/// How limits are set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manner {
    /// Tell what the kernel made of each value, and go on without what it lacks, with a warning.
    Told,
    /// Only write, and fail at what is missing: what an OCI runtime does.
    Strict,
}

/// Where a group is, to find it again without a look at the host: see [`Group::record`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupRecord {
    hierarchies: Vec<RecordedDir>,
    #[serde(default)]
    rights: Rights,
    #[serde(default, skip_serializing_if = "Tenancy::is_own")]
    tenancy: Tenancy,
}

/// A group's directory in one hierarchy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct RecordedDir {
    kind: Kind,
    controllers: Vec<String>,
    mount_point: PathBuf,
    path: String,
}

/// Whether a group that exists may have processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tenants {
    /// It is refused if it has.
    None,
    /// They stay, and the group is not the container's alone.
    Shared,
    /// The caller knows of them.
    Any,
}

/// Whether a group was made just now, and so has the kernel's defaults.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Age {
    Fresh,
    /// Found empty, and taken for a new container.
    Taken,
    /// Found with so many processes, and shared.
    Shared(usize),
    /// In use by the container whose limits change.
    Standing,
}

impl Group {
    pub(crate) fn create(shared: &Arc<Shared>, path: &str, resources: &LinuxResources) -> Result<(Self, Applied)> {
        let group = Self::told(shared, path)?;
        let mut made = Vec::with_capacity(shared.hierarchies.len());
        let outcome = group.make_dirs(&mut made).and_then(|()| group.limit(resources, Age::Fresh));
        group.or_undo(outcome, made)
    }

    pub(crate) fn planned(shared: &Arc<Shared>, place: &Place) -> Self {
        let (manner, rights) = (Manner::Strict, place.rights);
        Self { shared: Arc::clone(shared), paths: Arc::clone(&place.paths), manner, rights, tenancy: Tenancy::Own }
    }

    pub(crate) fn create_at(
        shared: &Arc<Shared>,
        place: &Place,
        resources: &LinuxResources,
        tenants: Tenants,
    ) -> Result<(Self, Applied)> {
        let rights = place.rights;
        let mut group = Self::planned(shared, place);
        let mut made = Vec::with_capacity(shared.hierarchies.len());
        let mut closed = Vec::new();
        let mut age = Age::Fresh;
        let mut warning = None;
        for hierarchy in &shared.hierarchies {
            match group.make_or_take(hierarchy, tenants) {
                Ok(Age::Fresh) => made.push(Arc::clone(hierarchy)),
                Ok(Age::Shared(count)) => {
                    (age, group.tenancy) = (Age::Taken, Tenancy::Shared);
                    let dir = hierarchy.path(group.at(hierarchy));
                    let found = CgroupError::NotEmpty { dir, count };
                    warning.get_or_insert_with(|| format!("{found}; it is shared with them, and so are the limits"));
                }
                Ok(_) => age = Age::Taken,
                Err(CgroupError::Make { .. }) if shared.is_aside(hierarchy) => closed.push(hierarchy.slot),
                Err(CgroupError::Make { source, .. })
                    if rights == Rights::User
                        && place.named == Named::ById
                        && matches!(source.errno, Errno::ACCESS | Errno::PERM | Errno::ROFS) =>
                {
                    closed.push(hierarchy.slot);
                }
                Err(error) => return group.or_undo(Err(error), made),
            }
        }
        if !closed.is_empty() {
            group.shared = Arc::new(shared.without(&closed));
        }
        let outcome = group.limit(resources, age).map(|mut applied| {
            applied.warnings.extend(warning);
            applied
        });
        group.or_undo(outcome, made)
    }

    /// The group with what limiting it gave, or nothing of what was made.
    fn or_undo(self, outcome: Result<Applied>, made: Vec<Arc<Hierarchy>>) -> Result<(Self, Applied)> {
        match outcome {
            Ok(applied) => Ok((self, applied)),
            Err(error) => {
                for hierarchy in made {
                    // The first failure is the one to report; a directory that stays is empty and replaced next time.
                    let _ = self.remove_from(&hierarchy);
                }
                Err(error)
            }
        }
    }

    pub(crate) fn open(shared: &Arc<Shared>, path: &str) -> Result<Self> {
        let group = Self::told(shared, path)?;
        if shared.hierarchies.iter().any(|hierarchy| hierarchy.exists(group.at(hierarchy))) {
            Ok(group)
        } else {
            Err(CgroupError::NotFound { path: path.to_owned() })
        }
    }

    fn told(shared: &Arc<Shared>, path: &str) -> Result<Self> {
        let paths = Arc::new([plain(path)?]);
        let (manner, rights, tenancy) = (Manner::Told, Rights::Full, Tenancy::Own);
        Ok(Self { shared: Arc::clone(shared), paths, manner, rights, tenancy })
    }

    /// Where the group is, for a later command that need not look at the host again.
    #[must_use]
    pub fn record(&self) -> GroupRecord {
        let dir = |own: &Arc<Hierarchy>| RecordedDir {
            kind: own.kind,
            controllers: own.controllers.clone(),
            mount_point: own.mount_point.clone(),
            path: self.at(own).to_owned(),
        };
        let hierarchies = self.shared.hierarchies.iter().map(dir).collect();
        GroupRecord { hierarchies, rights: self.rights, tenancy: self.tenancy }
    }

    /// The group of a record. Nothing is opened or looked at, so the group may be gone.
    ///
    /// # Errors
    /// When a path in the record is none that we write.
    pub fn from_record(record: &GroupRecord) -> Result<Self> {
        let mut hierarchies = Vec::with_capacity(record.hierarchies.len());
        let mut paths = Vec::with_capacity(record.hierarchies.len());
        for (slot, dir) in record.hierarchies.iter().enumerate() {
            let mount_point = dir.mount_point.clone();
            hierarchies.push(Hierarchy::open(slot, dir.kind, dir.controllers.clone(), mount_point, Access::ByPath)?);
            paths.push(plain(&format!("/{}", dir.path))?);
        }
        let shared = Arc::new(Shared::recorded(hierarchies));
        let (rights, tenancy) = (record.rights, record.tenancy);
        Ok(Self { shared, paths: paths.into(), manner: Manner::Strict, rights, tenancy })
    }

    /// The group's directories by controller, with the name `""` for version 2: `cgroup_paths` of runc's state.
    #[must_use]
    pub fn controller_dirs(&self) -> BTreeMap<String, PathBuf> {
        let mut dirs = BTreeMap::new();
        for hierarchy in &self.shared.hierarchies {
            let dir = hierarchy.path(self.at(hierarchy));
            if hierarchy.kind == Kind::V2 {
                dirs.insert(String::new(), dir);
            } else {
                dirs.extend(hierarchy.controllers.iter().map(|name| (name.clone(), dir.clone())));
            }
        }
        dirs
    }

    /// The group's path in one hierarchy, without the leading slash.
    pub(crate) fn at(&self, hierarchy: &Hierarchy) -> &str {
        self.paths.get(hierarchy.slot).or(self.paths.first()).map_or("", String::as_str)
    }

    /// The group's path inside every hierarchy, such as `/insula/ID`; where they differ, that of the first.
    #[must_use]
    pub fn path(&self) -> String {
        format!("/{}", self.paths.first().map_or("", String::as_str))
    }

    /// The group's directory in each hierarchy.
    #[must_use]
    pub fn dirs(&self) -> Vec<PathBuf> {
        self.shared.hierarchies.iter().map(|hierarchy| hierarchy.path(self.at(hierarchy))).collect()
    }

    /// As [`Self::dirs`], without that of a hierarchy which limits nothing and stands beside those that do.
    #[must_use]
    pub fn limiting_dirs(&self) -> Vec<PathBuf> {
        let limiting = self.shared.hierarchies.iter().filter(|own| !self.shared.is_aside(own));
        limiting.map(|hierarchy| hierarchy.path(self.at(hierarchy))).collect()
    }

    /// Opens the file that lets a process join, in each hierarchy: a process of one thread that writes `0` to each of
    /// them has joined.
    ///
    /// In version 1 that is `tasks`: a thread that moves only itself takes no lock over all threads of the machine, while
    /// `cgroup.procs` takes one whose first use after a quiet moment waits for an RCU grace period of several
    /// milliseconds.
    ///
    /// # Errors
    /// When a file can't be opened.
    ///
    /// # Source
    /// `cgroup_procs_write_start` in the kernel's `kernel/cgroup/cgroup.c`.
    pub fn join_fds(&self) -> Result<Vec<OwnedFd>> {
        let open = |hierarchy: &Arc<Hierarchy>| {
            let file = self.file(hierarchy, if hierarchy.kind == Kind::V1 { "tasks" } else { "cgroup.procs" });
            hierarchy.open_file(&file, OFlags::WRONLY).map_err(|errno| CgroupError::Read {
                file: hierarchy.path(&file),
                source: SysError::new("openat", errno),
            })
        };
        self.shared.hierarchies.iter().map(open).collect()
    }

    /// The group's directory for `CLONE_INTO_CGROUP`, on a host where that one directory is the whole group.
    #[must_use]
    pub fn v2_fd(&self) -> Option<OwnedFd> {
        match self.shared.hierarchies.as_slice() {
            [only] if only.kind == Kind::V2 => only.open_dir(self.at(only)).ok(),
            _ => None,
        }
    }

    /// Moves a process into the group.
    ///
    /// # Errors
    /// When the kernel refuses, for instance because the process is gone.
    pub fn place(&self, pid: i32) -> Result<()> {
        for hierarchy in &self.shared.hierarchies {
            let file = self.file(hierarchy, "cgroup.procs");
            let value = pid.to_string();
            hierarchy.write(&file, &value).map_err(|source| refused(hierarchy, &file, value, source))?;
        }
        Ok(())
    }

    /// Changes the group's limits; what `resources` does not name stays. The rules for devices are replaced as a whole
    /// where it names some: the default of [`LinuxResources`] names one that denies all.
    ///
    /// # Errors
    /// When the kernel refuses a value or the host has no controller for it. Values before that one stay written.
    pub fn apply(&self, resources: &LinuxResources) -> Result<Applied> {
        self.limit(resources, Age::Standing)
    }

    /// What the group uses now.
    ///
    /// # Errors
    /// When a file can't be read or understood. What the host does not count is left out.
    pub fn usage(&self) -> Result<Usage> {
        usage::read(&self.shared, &|own| self.at(own))
    }

    /// How many processes of the group the kernel killed because memory ran out.
    ///
    /// # Errors
    /// When the counter can't be read or understood.
    pub fn oom_kills(&self) -> Result<u64> {
        usage::oom_kills(&self.shared, &|own| self.at(own))
    }

    /// Whether its processes stand still for want of memory, because the kernel may not kill them.
    ///
    /// # Errors
    /// When the group's file can't be read or understood.
    ///
    /// # Source
    /// Linux `Documentation/admin-guide/cgroup-v1/memory.rst`, `memory.oom_control`.
    pub fn starves(&self) -> Result<bool> {
        usage::starves(&self.shared, &|own| self.at(own))
    }

    /// Removes the group and the groups below it. The groups above stay, since the next start wants them: see
    /// [`Host::release`](crate::Host::release).
    ///
    /// Kills nothing; waits up to two seconds for processes that are already dying. A group that is gone is removed. One that others
    /// were in before stays while they are.
    ///
    /// # Errors
    /// [`CgroupError::Remove`] with `EBUSY` while it has processes.
    pub fn remove(&self) -> Result<()> {
        if self.tenancy == Tenancy::Shared {
            for hierarchy in &self.shared.hierarchies {
                // Refused while somebody is in it, and that is right.
                let _ = remove_tree(hierarchy, self.at(hierarchy));
            }
            return Ok(());
        }
        let mut outcome = Ok(());
        for hierarchy in &self.shared.hierarchies {
            // Go on after a failure: every directory removed is one less left behind.
            outcome = outcome.and(self.remove_from(hierarchy));
        }
        outcome
    }

    pub(crate) fn file(&self, hierarchy: &Hierarchy, name: &str) -> String {
        format!("{}/{name}", self.at(hierarchy))
    }

    /// The host's hierarchies, as far as the group is in them.
    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
    }
}

/// The error of a refused write, with what the errno usually means for control files.
fn refused(hierarchy: &Hierarchy, file: &str, value: String, source: SysError) -> CgroupError {
    let name = file.rsplit('/').next().unwrap_or(file);
    let hint = match (name, source.errno) {
        (_, Errno::BUSY) if name.starts_with("memory.") => "; the group already uses more than that",
        ("devices.allow", Errno::PERM) => "; the group above does not allow that device",
        ("cgroup.procs", Errno::NOSPC) => "; the group has no processors or memory nodes",
        ("cgroup.procs", Errno::SRCH) => "; the process is gone",
        (_, Errno::INVAL | Errno::RANGE) => {
            "; the value is out of range here or contradicts another limit of the group"
        }
        (_, Errno::NODEV | Errno::NXIO) => "; there is no such device",
        (_, Errno::ACCESS | Errno::PERM | Errno::ROFS) => "; the control group file system does not let us write",
        _ => "",
    };
    CgroupError::Write { file: hierarchy.path(file), value, hint, source }
}
