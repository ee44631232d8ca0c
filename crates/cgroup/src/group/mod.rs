//! One group: a directory of the same name in every hierarchy.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use oci_spec::runtime::LinuxResources;
use rustix::fs::OFlags;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use sys::SysError;

use crate::hierarchy::{Access, Hierarchy, Kind};
use crate::host::Shared;
use crate::place::{Named, Place, Rights, plain};
use crate::plan::NO_CONTROLLER;
use crate::usage::{self, Usage};
use crate::{CgroupError, Result};

mod limit;

/// How often a parent group may vanish under a create before that gives up.
const RACES: usize = 64;
/// How long a freeze or thaw may take.
const FREEZE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long removal waits for processes that are already dying.
const REMOVE_TIMEOUT: Duration = Duration::from_secs(2);

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

    /// Stops every process of the group where it is, and returns when all of them stand still.
    ///
    /// # Errors
    /// When the host can't freeze groups, or the group is not frozen after ten seconds.
    pub fn freeze(&self) -> Result<()> {
        self.set_frozen("frozen")
    }

    /// Lets the processes of a frozen group go on.
    ///
    /// # Errors
    /// When the host can't freeze groups, or the group is not thawed after ten seconds.
    pub fn thaw(&self) -> Result<()> {
        self.set_frozen("thawed")
    }

    /// The processes of the group and of the groups below it, sorted.
    ///
    /// # Errors
    /// When a file can't be read or has no numbers in it. A group that is gone has no processes.
    pub fn pids(&self) -> Result<Vec<i32>> {
        let shared = &self.shared;
        let best = shared.v2().filter(|_| shared.hierarchies.len() == 1).or_else(|| shared.v1("pids"));
        let Some(hierarchy) = best.or_else(|| shared.v1("freezer")).or(shared.hierarchies.first().map(Arc::as_ref))
        else {
            return Ok(Vec::new());
        };
        let mut pids = BTreeSet::new();
        collect_pids(hierarchy, self.at(hierarchy), &mut pids)?;
        Ok(pids.into_iter().collect())
    }

    /// Sends a signal to every process of the group and of the groups below it, and says to how many.
    ///
    /// # Errors
    /// When a process can't be signalled for another reason than that it is gone.
    pub fn signal_all(&self, signal: i32) -> Result<usize> {
        let mut reached = 0;
        for pid in self.pids()? {
            match sys::signal::kill(pid, signal) {
                Ok(()) => reached += 1,
                Err(error) if error.errno == Errno::SRCH => {}
                Err(source) => return Err(CgroupError::Signal { pid, signal, source }),
            }
        }
        Ok(reached)
    }

    /// Kills every process of the group and of the groups below it, also when they fork meanwhile or are frozen; none where some
    /// are others'.
    ///
    /// # Errors
    /// When a process can't be signalled.
    pub fn kill(&self) -> Result<()> {
        const SIGKILL: i32 = 9;
        if self.tenancy == Tenancy::Shared {
            return Ok(());
        }
        let whole = self.shared.v2().filter(|own| !self.shared.is_aside(own));
        let at_once = whole.is_some_and(|own| own.write(&self.file(own, "cgroup.kill"), "1").is_ok());
        // Each round reaches what was forked before it; only a process killed twice has not been reaped yet.
        let mut killed = BTreeSet::new();
        let rounds = if at_once { 0 } else { RACES };
        for _ in 0..rounds {
            let before = killed.len();
            for pid in self.pids()? {
                match sys::signal::kill(pid, SIGKILL) {
                    Ok(()) => killed.insert(pid),
                    Err(error) if error.errno == Errno::SRCH => false,
                    Err(source) => return Err(CgroupError::Signal { pid, signal: SIGKILL, source }),
                };
            }
            if killed.len() == before {
                break;
            }
        }
        if let Some(freezer) = self.shared.v1("freezer") {
            // A frozen process of version 1 dies only after it is thawed; groups that were never frozen don't mind.
            let _ = freezer.write(&self.file(freezer, "freezer.state"), "THAWED");
        }
        Ok(())
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

    /// Makes the directory in every hierarchy, noting each in `made` so that the caller can undo it.
    fn make_dirs(&self, made: &mut Vec<Arc<Hierarchy>>) -> Result<()> {
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
    fn make_or_take(&self, hierarchy: &Hierarchy, tenants: Tenants) -> Result<Age> {
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

    fn set_frozen(&self, state: &'static str) -> Result<()> {
        let freeze = state == "frozen";
        let unsupported =
            || CgroupError::Unsupported { what: "running processes", controller: "freezer", advice: NO_CONTROLLER };
        let (hierarchy, write, value, read, done) = if let Some(own) = self.shared.v1("freezer") {
            let word = if freeze { "FROZEN" } else { "THAWED" };
            (own, self.file(own, "freezer.state"), word, self.file(own, "freezer.state"), word)
        } else {
            let own = self.shared.v2().ok_or_else(unsupported)?;
            let (value, done) = if freeze { ("1", "frozen 1") } else { ("0", "frozen 0") };
            (own, self.file(own, "cgroup.freeze"), value, self.file(own, "cgroup.events"), done)
        };
        let deadline = Instant::now() + FREEZE_TIMEOUT;
        let mut pause = Duration::from_micros(50);
        loop {
            // Version 1 can lose the race with a process that forks; writing again freezes what it left.
            hierarchy.write(&write, value).map_err(|source| refused(hierarchy, &write, value.to_owned(), source))?;
            if hierarchy.read(&read)?.lines().any(|line| line.trim() == done) {
                return Ok(());
            }
            if Instant::now() > deadline {
                if freeze {
                    // Half frozen is worse than not frozen.
                    let _ = self.thaw();
                }
                let timeout_ms = u64::try_from(FREEZE_TIMEOUT.as_millis()).unwrap_or(u64::MAX);
                return Err(CgroupError::StateTimeout { dir: hierarchy.path(self.at(hierarchy)), state, timeout_ms });
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(10));
        }
    }

    fn remove_from(&self, hierarchy: &Hierarchy) -> Result<()> {
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

fn collect_pids(hierarchy: &Hierarchy, path: &str, pids: &mut BTreeSet<i32>) -> Result<()> {
    let file = format!("{path}/cgroup.procs");
    for line in hierarchy.read_optional(&file)?.unwrap_or_default().lines() {
        let pid: i32 = line
            .trim()
            .parse()
            .map_err(|_| CgroupError::Parse { file: hierarchy.path(&file), text: line.to_owned() })?;
        // 0 is a process of another pid namespace, and as a target of kill it would be our own process group.
        if pid > 0 {
            pids.insert(pid);
        }
    }
    for child in hierarchy.children(path) {
        collect_pids(hierarchy, &format!("{path}/{child}"), pids)?;
    }
    Ok(())
}

/// Removes a directory and the groups below it; what is gone counts as removed.
fn remove_tree(hierarchy: &Hierarchy, path: &str) -> std::result::Result<(), Errno> {
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
