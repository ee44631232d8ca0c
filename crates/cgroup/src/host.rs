//! The host's hierarchies, found once.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use oci_spec::runtime::LinuxResources;
use serde::{Deserialize, Serialize};

use crate::group::{Applied, Group, Tenants};
use crate::hierarchy::{Access, CgroupMount, Hierarchy, Kind, parse_mounts, read_all, usual_mounts};
use crate::place::{Own, Place};
use crate::{CgroupError, Result};

/// Which generations of control groups a host has mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Version {
    /// Only version 1 hierarchies.
    V1,
    /// Only the version 2 hierarchy.
    V2,
    /// Both: each controller belongs to one of them.
    Hybrid,
}

/// Which limits the host's kernel and mounts can keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "a table of independent yes-or-no answers, one a limit")]
pub struct Supports {
    /// Memory limits.
    pub memory: bool,
    /// Limits of memory and swap together.
    pub swap: bool,
    /// Memory reservations.
    pub memory_reservation: bool,
    /// Disabling the out-of-memory killer for a group.
    pub oom_kill_disable: bool,
    /// Shares of processor time.
    pub cpu_shares: bool,
    /// Quotas of processor time (`--cpus`).
    pub cpu_quota: bool,
    /// Choosing processors and memory nodes.
    pub cpuset: bool,
    /// Limits on the number of processes.
    pub pids: bool,
    /// Relative weight of block input and output.
    pub block_weight: bool,
    /// Speed limits of block devices.
    pub block_throttle: bool,
    /// Limits on huge pages.
    pub hugetlb: bool,
    /// Rules about device nodes.
    pub devices: bool,
    /// Pausing all processes.
    pub freeze: bool,
}

/// The host's hierarchies, each opened once; cheap to clone.
#[derive(Debug, Clone)]
pub struct Host {
    pub(crate) shared: Arc<Shared>,
}

/// What a host and its groups share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) version: Version,
    /// The hierarchies that groups are made in.
    pub(crate) hierarchies: Vec<Arc<Hierarchy>>,
    /// For each slot, which of the hierarchy's groups is mounted.
    roots: Vec<String>,
    supports: OnceLock<Supports>,
}

impl Host {
    /// Finds the hierarchies that are mounted in this mount namespace.
    ///
    /// # Errors
    /// When the mount table or a hierarchy can't be opened, or no hierarchy is mounted.
    pub fn detect() -> Result<Self> {
        Self::of(parse_mounts(&read_table("/proc/self/mountinfo")?, Path::new("/")), Access::Kept)
    }

    /// As [`Self::detect`], for a program that makes or opens one group and ends: nothing is kept open, so that a
    /// hierarchy costs nothing until it is used, and only the mounts below `/sys/fs/cgroup` are looked at, unless there
    /// are none, or `asked` has a limit that none of them can keep.
    ///
    /// # Errors
    /// When the mount table can't be read, or no hierarchy is mounted.
    pub fn glance(asked: Option<&LinuxResources>) -> Result<Self> {
        let mounts = match usual_mounts() {
            Some(mounts) if asked.is_none_or(|limits| can_keep(&mounts, limits)) => mounts,
            _ => parse_mounts(&read_table("/proc/self/mountinfo")?, Path::new("/")),
        };
        Self::of(mounts, Access::ByPath)
    }

    /// Takes the hierarchies from the text of a `mountinfo` file, with every mount point below `root`.
    ///
    /// # Errors
    /// When a hierarchy can't be opened, or the text has none.
    pub fn from_mounts(mountinfo: &str, root: &Path) -> Result<Self> {
        Self::of(parse_mounts(mountinfo, root), Access::Kept)
    }

    pub(crate) fn of(mounts: Vec<CgroupMount>, access: Access) -> Result<Self> {
        let has = |kind| mounts.iter().any(|mount| mount.kind == kind);
        let version = match (has(Kind::V1), has(Kind::V2)) {
            (true, false) => Version::V1,
            (false, true) => Version::V2,
            (true, true) => Version::Hybrid,
            (false, false) => return Err(CgroupError::NotMounted),
        };
        let mut hierarchies = Vec::with_capacity(mounts.len());
        let mut roots = Vec::with_capacity(mounts.len());
        for mount in mounts {
            let slot = hierarchies.len();
            let mut hierarchy = Hierarchy::open(slot, mount.kind, mount.controllers, mount.mount_point, access)?;
            if hierarchy.kind == Kind::V2 {
                let text = hierarchy.read_optional("cgroup.controllers")?.unwrap_or_default();
                hierarchy.controllers = text.split_whitespace().map(str::to_owned).collect();
                let worth = |name: &&str| hierarchy.has(name);
                if version == Version::Hybrid && !["cpu", "cpuset", "memory", "io", "pids"].iter().any(worth) {
                    if access == Access::Kept {
                        // A hierarchy that limits next to nothing is not worth a group in it at every start of a daemon's.
                        continue;
                    }
                    // It limits nothing, but tells whose a process is, to systemd before all, as with other runtimes.
                    hierarchy.controllers.clear();
                }
            }
            hierarchies.push(Arc::new(hierarchy));
            roots.push(mount.root);
        }
        Ok(Self { shared: Arc::new(Shared { version, hierarchies, roots, supports: OnceLock::new() }) })
    }

    /// Where the container `id` with this `cgroupsPath` belongs.
    ///
    /// An absolute path is taken from the top of each hierarchy. A relative one, and `id` when there is none, is below
    /// the group that this process is in; in version 2 beside it, because a group with processes can't hand its
    /// controllers down.
    ///
    /// # Errors
    /// When the path has `..` in it or can't be a group's name, or this process's own groups can't be read.
    ///
    /// # Source
    /// runtime-spec `config-linux.md`, Cgroups Path; where it leaves the choice to us, runc.
    pub fn place(&self, cgroups_path: Option<&str>, id: &str) -> Result<Place> {
        let own = || Ok(Own::parse(&read_table("/proc/self/cgroup")?));
        Place::resolve(&self.shared, cgroups_path, id, own)
    }

    /// The group that [`Self::create_at`] would make there, for a record that is written before anything is made.
    #[must_use]
    pub fn group_at(&self, place: &Place) -> Group {
        Group::planned(&self.shared, place)
    }

    /// Makes the group of a container as an OCI runtime does, and limits it; nothing of it stays when that fails.
    ///
    /// Other than in [`Self::create`], a limit that this host can't keep is an error, an empty group that exists is
    /// taken as it is, and devices that `resources` does not name are denied, but for those that every container has.
    ///
    /// # Errors
    /// [`CgroupError::NotEmpty`] when the group has processes; when a directory can't be made, a limit is refused by the
    /// kernel, or the host has no controller for it.
    pub fn create_at(&self, place: &Place, resources: &LinuxResources) -> Result<(Group, Applied)> {
        Group::create_at(&self.shared, place, resources, Tenants::None)
    }

    /// As [`Self::create_at`], but a group that has processes is shared with them, with a warning: it is then not ours to kill or
    /// to remove, which [`Group::kill`] and [`Group::remove`] keep to.
    ///
    /// # Errors
    /// When a directory can't be made, a limit is refused by the kernel, or the host has no controller for it.
    pub fn create_or_share(&self, place: &Place, resources: &LinuxResources) -> Result<(Group, Applied)> {
        Group::create_at(&self.shared, place, resources, Tenants::Shared)
    }

    /// As [`Self::create_at`], for a group that may have processes already: the scope that systemd has just made, where
    /// it made one, and a new group in the hierarchies that systemd leaves alone. The caller places its process then.
    ///
    /// # Errors
    /// When a directory can't be made, a limit is refused by the kernel, or the host has no controller for it.
    pub fn adopt(&self, place: &Place, resources: &LinuxResources) -> Result<(Group, Applied)> {
        Group::create_at(&self.shared, place, resources, Tenants::Any)
    }

    /// Which generations are mounted.
    #[must_use]
    pub fn version(&self) -> Version {
        self.shared.version
    }

    /// The hierarchies that groups are made in: mount point and controllers.
    pub fn hierarchies(&self) -> impl Iterator<Item = (&Path, &[String])> {
        self.shared.hierarchies.iter().map(|own| (own.mount_point.as_path(), own.controllers.as_slice()))
    }

    /// Makes the group `path` (such as `/insula/ID`) in every hierarchy and limits it; nothing stays when that fails.
    ///
    /// An empty group of that name, as a crash leaves it, is replaced.
    ///
    /// # Errors
    /// When the path is not plain, the group is in use, a directory can't be made, a limit is refused by the kernel or
    /// the host has no controller for it.
    pub fn create(&self, path: &str, resources: &LinuxResources) -> Result<(Group, Applied)> {
        Group::create(&self.shared, path, resources)
    }

    /// Makes the group that others are to be made below, so that starts find it: making and removing it each time costs
    /// as much as the rest of a group's life.
    ///
    /// # Errors
    /// When the path is not plain or a directory can't be made.
    pub fn hold(&self, path: &str) -> Result<()> {
        crate::group::hold(&self.shared, path)
    }

    /// Removes a group made by [`Self::hold`] or above a group, and those above it, as far as they are empty.
    ///
    /// # Errors
    /// When the path is not plain.
    pub fn release(&self, path: &str) -> Result<()> {
        crate::group::release(&self.shared, path)
    }

    /// The group `path`, made earlier, perhaps by another process.
    ///
    /// # Errors
    /// [`CgroupError::NotFound`] when no hierarchy has it.
    pub fn open(&self, path: &str) -> Result<Group> {
        Group::open(&self.shared, path)
    }

    /// Which limits this host can keep; asked of the kernel once, by making an empty group and looking at its files.
    #[must_use]
    pub fn supports(&self) -> Supports {
        *self.shared.supports.get_or_init(|| {
            // what was killed while it looked has left its own
            self.shared.hierarchies.iter().for_each(|hierarchy| crate::probe::sweep(hierarchy));
            let name = format!("/{}", crate::probe::name());
            let mut nothing = LinuxResources::default();
            // The default denies every device; the probe limits nothing.
            nothing.set_devices(None);
            let probe = self.create(&name, &nothing);
            let supports = self.shared.look(name.trim_start_matches('/'));
            if let Ok((group, _)) = probe {
                // A probe that can't be removed is an empty directory; the answer stands all the same.
                let _ = group.remove();
            }
            supports
        })
    }
}

impl Shared {
    /// The version 1 hierarchy of a controller.
    pub(crate) fn v1(&self, controller: &str) -> Option<&Hierarchy> {
        self.hierarchies.iter().map(Arc::as_ref).find(|own| own.kind == Kind::V1 && own.has(controller))
    }

    /// Whether this is the version 2 hierarchy beside those of version 1, and limits nothing.
    pub(crate) fn is_aside(&self, hierarchy: &Hierarchy) -> bool {
        self.version == Version::Hybrid && hierarchy.kind == Kind::V2 && hierarchy.controllers.is_empty()
    }

    /// The version 2 hierarchy, when groups are made in it.
    pub(crate) fn v2(&self) -> Option<&Hierarchy> {
        self.hierarchies.iter().map(Arc::as_ref).find(|own| own.kind == Kind::V2)
    }

    /// Hierarchies that a record names, without a look at the mounts.
    pub(crate) fn recorded(hierarchies: Vec<Hierarchy>) -> Self {
        let has = |kind| hierarchies.iter().any(|own| own.kind == kind);
        let version = match (has(Kind::V1), has(Kind::V2)) {
            (true, true) => Version::Hybrid,
            (false, true) => Version::V2,
            _ => Version::V1,
        };
        let hierarchies = hierarchies.into_iter().map(Arc::new).collect();
        Self { version, hierarchies, roots: Vec::new(), supports: OnceLock::new() }
    }

    /// The same host without some of its hierarchies, which a user may not write.
    pub(crate) fn without(&self, slots: &[usize]) -> Self {
        let hierarchies = self.hierarchies.iter().filter(|own| !slots.contains(&own.slot)).cloned().collect();
        Self { version: self.version, hierarchies, roots: self.roots.clone(), supports: OnceLock::new() }
    }

    /// Which of the hierarchy's groups is mounted.
    pub(crate) fn root_of(&self, hierarchy: &Hierarchy) -> &str {
        self.roots.get(hierarchy.slot).map_or("/", String::as_str)
    }

    fn look(&self, group: &str) -> Supports {
        let v1 = |controller: &str, file: &str| {
            self.v1(controller).is_some_and(|own| own.exists(&format!("{group}/{file}")))
        };
        let v2 = |file: &str| self.v2().is_some_and(|own| own.exists(&format!("{group}/{file}")));
        Supports {
            memory: v1("memory", "memory.limit_in_bytes") || v2("memory.max"),
            swap: v1("memory", "memory.memsw.limit_in_bytes") || v2("memory.swap.max"),
            memory_reservation: v1("memory", "memory.soft_limit_in_bytes") || v2("memory.low"),
            oom_kill_disable: v1("memory", "memory.oom_control"),
            cpu_shares: v1("cpu", "cpu.shares") || v2("cpu.weight"),
            cpu_quota: v1("cpu", "cpu.cfs_quota_us") || v2("cpu.max"),
            cpuset: v1("cpuset", "cpuset.cpus") || v2("cpuset.cpus"),
            pids: v1("pids", "pids.max") || v2("pids.max"),
            block_weight: v1("blkio", "blkio.weight")
                || v1("blkio", "blkio.bfq.weight")
                || v2("io.weight")
                || v2("io.bfq.weight"),
            block_throttle: v1("blkio", "blkio.throttle.read_bps_device") || v2("io.max"),
            hugetlb: self.v1("hugetlb").is_some() || self.v2().is_some_and(|own| own.has("hugetlb")),
            devices: v1("devices", "devices.allow") || self.v2().is_some(),
            freeze: v1("freezer", "freezer.state") || v2("cgroup.freeze"),
        }
    }
}

/// The text of a table of this process in `/proc`.
/// Whether there is a controller for each kind of limit, or version 2 alone, whose one hierarchy has all that there is.
pub(crate) fn can_keep(mounts: &[CgroupMount], limits: &LinuxResources) -> bool {
    let network = limits.network().as_ref();
    let wanted = [
        ("memory", limits.memory().is_some()),
        ("cpu", limits.cpu().is_some()),
        ("cpuset", limits.cpu().as_ref().is_some_and(|cpu| cpu.cpus().is_some() || cpu.mems().is_some())),
        ("pids", limits.pids().is_some()),
        ("blkio", limits.block_io().is_some()),
        ("hugetlb", limits.hugepage_limits().is_some()),
        ("net_cls", network.is_some_and(|network| network.class_id().is_some())),
        ("net_prio", network.is_some_and(|network| network.priorities().is_some())),
        ("rdma", limits.rdma().is_some()),
        ("devices", limits.devices().is_some()),
    ];
    let has = |name: &str| mounts.iter().any(|mount| mount.controllers.iter().any(|controller| controller == name));
    mounts.iter().all(|mount| mount.kind == Kind::V2) || wanted.iter().all(|(name, asked)| !asked || has(name))
}

pub(crate) fn read_table(path: &str) -> Result<String> {
    let wrap = |errno: rustix::io::Errno| CgroupError::Mounts { path: path.into(), source: errno.into() };
    let file =
        rustix::fs::open(path, rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC, rustix::fs::Mode::empty());
    let file = file.map_err(wrap)?;
    let text = read_all(&file).map_err(wrap);
    sys::process::close_later(file);
    text
}
