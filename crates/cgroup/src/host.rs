//! The host's hierarchies, found once.

use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

use oci_spec::runtime::LinuxResources;
use serde::{Deserialize, Serialize};

use crate::group::{Applied, Group};
use crate::hierarchy::{Hierarchy, Kind, parse_mounts};
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
    pub(crate) hierarchies: Vec<Hierarchy>,
    supports: OnceLock<Supports>,
}

impl Host {
    /// Finds the hierarchies that are mounted in this mount namespace.
    ///
    /// # Errors
    /// When the mount table or a hierarchy can't be opened, or no hierarchy is mounted.
    pub fn detect() -> Result<Self> {
        let path = Path::new("/proc/self/mountinfo");
        let bytes = std::fs::read(path).map_err(|source| CgroupError::Mounts { path: path.to_owned(), source })?;
        Self::from_mounts(&String::from_utf8_lossy(&bytes), Path::new("/"))
    }

    /// Takes the hierarchies from the text of a `mountinfo` file, with every mount point below `root`.
    ///
    /// # Errors
    /// When a hierarchy can't be opened, or the text has none.
    pub fn from_mounts(mountinfo: &str, root: &Path) -> Result<Self> {
        let mounts = parse_mounts(mountinfo, root);
        let has = |kind| mounts.iter().any(|mount| mount.kind == kind);
        let version = match (has(Kind::V1), has(Kind::V2)) {
            (true, false) => Version::V1,
            (false, true) => Version::V2,
            (true, true) => Version::Hybrid,
            (false, false) => return Err(CgroupError::NotMounted),
        };
        let mut hierarchies = Vec::with_capacity(mounts.len());
        for mount in mounts {
            let mut hierarchy = Hierarchy::open(mount.kind, mount.controllers, mount.mount_point)?;
            if hierarchy.kind == Kind::V2 {
                let text = hierarchy.read_optional("cgroup.controllers")?.unwrap_or_default();
                hierarchy.controllers = text.split_whitespace().map(str::to_owned).collect();
                // Beside version 1, a hierarchy that limits next to nothing is not worth a group in it at every start.
                let worth = |name: &&str| hierarchy.has(name);
                if version == Version::Hybrid && !["cpu", "cpuset", "memory", "io", "pids"].iter().any(worth) {
                    continue;
                }
            }
            hierarchies.push(hierarchy);
        }
        Ok(Self { shared: Arc::new(Shared { version, hierarchies, supports: OnceLock::new() }) })
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
            // Two hosts of one process may look at the same moment.
            static PROBES: AtomicU32 = AtomicU32::new(0);
            let probe = PROBES.fetch_add(1, Ordering::Relaxed);
            let name = format!("/insula-probe-{}-{probe}", std::process::id());
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
        self.hierarchies.iter().find(|own| own.kind == Kind::V1 && own.has(controller))
    }

    /// The version 2 hierarchy, when groups are made in it.
    pub(crate) fn v2(&self) -> Option<&Hierarchy> {
        self.hierarchies.iter().find(|own| own.kind == Kind::V2)
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
