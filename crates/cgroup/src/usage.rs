//! What a group uses: the kernel's counters in one shape for both generations.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::hierarchy::Hierarchy;
use crate::host::Shared;
use crate::{CgroupError, Result};

/// Everything that a group's counters tell; what the host does not count is zero or empty.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Usage {
    /// Processor time.
    pub cpu: CpuUsage,
    /// Memory.
    pub memory: MemoryUsage,
    /// Processes and threads that exist now.
    pub pids: u64,
    /// Their limit; `None` where there is none.
    pub pids_limit: Option<u64>,
    /// Block input and output, by device.
    pub block: Vec<BlockUsage>,
}

/// Processor time of a group.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct CpuUsage {
    /// All of it, in nanoseconds.
    pub total_ns: u64,
    /// In user mode, in nanoseconds.
    pub user_ns: u64,
    /// In the kernel, in nanoseconds.
    pub system_ns: u64,
    /// By processor, in nanoseconds; empty on version 2, which does not count it.
    pub per_cpu_ns: Vec<u64>,
    /// What the quota held back.
    pub throttling: Throttling,
}

/// How often a processor quota held a group back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Throttling {
    /// Periods that have passed.
    pub periods: u64,
    /// Periods in which the quota ran out.
    pub throttled_periods: u64,
    /// Time held back, in nanoseconds.
    pub throttled_ns: u64,
}

/// Memory of a group, in bytes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct MemoryUsage {
    /// In use, page cache included.
    pub bytes: u64,
    /// The most that was in use; 0 where the kernel does not keep it.
    pub max_bytes: u64,
    /// The limit; `None` where there is none.
    pub limit: Option<u64>,
    /// Page cache.
    pub cache: u64,
    /// Page cache that the kernel would give up first; `docker stats` subtracts it.
    pub inactive_file: u64,
    /// Swap in use.
    pub swap: u64,
    /// How often the limit was hit.
    pub failures: u64,
    /// The kernel's own table, `memory.stat`.
    pub stat: BTreeMap<String, u64>,
}

/// Input and output of one block device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct BlockUsage {
    /// The device's number.
    pub major: u32,
    /// The device's number within its major.
    pub minor: u32,
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub write_bytes: u64,
    /// Read operations.
    pub read_ops: u64,
    /// Write operations.
    pub write_ops: u64,
}

/// Kernel ticks a second in the files that count in ticks; fixed for programs since Linux 2.6.
const TICKS_PER_SECOND: u64 = 100;
/// Version 1's "no limit" is the largest page-aligned number.
const NO_LIMIT: u64 = 1 << 62;

/// A group's files in one hierarchy.
pub(crate) struct Files<'a> {
    pub(crate) hierarchy: &'a Hierarchy,
    pub(crate) group: &'a str,
}

impl Files<'_> {
    pub(crate) fn text(&self, name: &str) -> Result<String> {
        Ok(self.hierarchy.read_optional(&format!("{}/{name}", self.group))?.unwrap_or_default())
    }

    pub(crate) fn parse(&self, name: &str, text: &str) -> Result<u64> {
        text.trim().parse().map_err(|_| CgroupError::Parse {
            file: self.hierarchy.path(&format!("{}/{name}", self.group)),
            text: text.to_owned(),
        })
    }

    /// The one number of a file; 0 when there is no such file.
    pub(crate) fn number(&self, name: &str) -> Result<u64> {
        let text = self.text(name)?;
        if text.trim().is_empty() { Ok(0) } else { self.parse(name, &text) }
    }

    /// The limit in a file; `max` and version 1's largest number are none.
    fn limit(&self, name: &str) -> Result<Option<u64>> {
        let text = self.text(name)?;
        match text.trim() {
            "" | "max" | "-1" => Ok(None),
            number => Ok(Some(self.parse(name, number)?).filter(|limit| *limit < NO_LIMIT)),
        }
    }

    /// A file of `name number` lines.
    pub(crate) fn table(&self, name: &str) -> Result<BTreeMap<String, u64>> {
        let mut table = BTreeMap::new();
        for line in self.text(name)?.lines() {
            if let Some((key, value)) = line.split_once(' ') {
                table.insert(key.to_owned(), self.parse(name, value)?);
            }
        }
        Ok(table)
    }
}

/// The usage of `group`.
pub(crate) fn read<'a>(shared: &'a Shared, group: &dyn Fn(&Hierarchy) -> &'a str) -> Result<Usage> {
    let mut usage = Usage::default();
    let v1 = |controller: &str| shared.v1(controller).map(|hierarchy| Files { hierarchy, group: group(hierarchy) });
    let v2 = |controller: &str| {
        shared.v2().filter(|own| own.has(controller)).map(|hierarchy| Files { hierarchy, group: group(hierarchy) })
    };
    if let Some(files) = v1("cpuacct") {
        read_cpuacct(&files, &mut usage.cpu)?;
    } else if let Some(hierarchy) = shared.v2() {
        // The core counts processor time, also without the cpu controller.
        read_cpu_v2(&Files { hierarchy, group: group(hierarchy) }, &mut usage.cpu)?;
    }
    if let Some(files) = v1("cpu") {
        let table = files.table("cpu.stat")?;
        usage.cpu.throttling = Throttling {
            periods: of(&table, "nr_periods"),
            throttled_periods: of(&table, "nr_throttled"),
            throttled_ns: of(&table, "throttled_time"),
        };
    }
    if let Some(files) = v1("memory") {
        usage.memory = read_memory_v1(&files)?;
    } else if let Some(files) = v2("memory") {
        usage.memory = read_memory_v2(&files)?;
    }
    if let Some(files) = v1("pids").or_else(|| v2("pids")) {
        usage.pids = files.number("pids.current")?;
        usage.pids_limit = files.limit("pids.max")?;
    }
    if let Some(files) = v1("blkio") {
        usage.block = read_blkio(&files)?;
    } else if let Some(files) = v2("io") {
        usage.block = read_io(&files)?;
    }
    Ok(usage)
}

/// The group's count of processes that were killed because memory ran out.
pub(crate) fn oom_kills<'a>(shared: &'a Shared, group: &dyn Fn(&Hierarchy) -> &'a str) -> Result<u64> {
    let (hierarchy, file) = match (shared.v1("memory"), shared.v2().filter(|own| !shared.is_aside(own))) {
        (Some(own), _) => (own, "memory.oom_control"),
        (None, Some(own)) => (own, "memory.events"),
        (None, None) => return Ok(0),
    };
    Ok(of(&Files { hierarchy, group: group(hierarchy) }.table(file)?, "oom_kill"))
}

/// Whether the group's processes stand still for want of memory, because the kernel may not kill them. Version 2 has no such switch.
pub(crate) fn starves<'a>(shared: &'a Shared, group: &dyn Fn(&Hierarchy) -> &'a str) -> Result<bool> {
    let Some(hierarchy) = shared.v1("memory") else { return Ok(false) };
    let table = Files { hierarchy, group: group(hierarchy) }.table("memory.oom_control")?;
    Ok(of(&table, "oom_kill_disable") == 1 && of(&table, "under_oom") == 1)
}

fn of(table: &BTreeMap<String, u64>, key: &str) -> u64 {
    table.get(key).copied().unwrap_or(0)
}

fn read_cpuacct(files: &Files<'_>, cpu: &mut CpuUsage) -> Result<()> {
    cpu.total_ns = files.number("cpuacct.usage")?;
    for word in files.text("cpuacct.usage_percpu")?.split_whitespace() {
        cpu.per_cpu_ns.push(files.parse("cpuacct.usage_percpu", word)?);
    }
    let ticks = files.table("cpuacct.stat")?;
    let tick_ns = 1_000_000_000 / TICKS_PER_SECOND;
    cpu.user_ns = of(&ticks, "user").saturating_mul(tick_ns);
    cpu.system_ns = of(&ticks, "system").saturating_mul(tick_ns);
    Ok(())
}

fn read_cpu_v2(files: &Files<'_>, cpu: &mut CpuUsage) -> Result<()> {
    let table = files.table("cpu.stat")?;
    let ns = |key| of(&table, key).saturating_mul(1000);
    cpu.total_ns = ns("usage_usec");
    cpu.user_ns = ns("user_usec");
    cpu.system_ns = ns("system_usec");
    cpu.throttling = Throttling {
        periods: of(&table, "nr_periods"),
        throttled_periods: of(&table, "nr_throttled"),
        throttled_ns: ns("throttled_usec"),
    };
    Ok(())
}

fn read_memory_v1(files: &Files<'_>) -> Result<MemoryUsage> {
    let stat = files.table("memory.stat")?;
    Ok(MemoryUsage {
        bytes: files.number("memory.usage_in_bytes")?,
        max_bytes: files.number("memory.max_usage_in_bytes")?,
        limit: files.limit("memory.limit_in_bytes")?,
        cache: of(&stat, "total_cache"),
        inactive_file: of(&stat, "total_inactive_file"),
        swap: of(&stat, "total_swap"),
        failures: files.number("memory.failcnt")?,
        stat,
    })
}

fn read_memory_v2(files: &Files<'_>) -> Result<MemoryUsage> {
    let stat = files.table("memory.stat")?;
    Ok(MemoryUsage {
        bytes: files.number("memory.current")?,
        max_bytes: files.number("memory.peak")?,
        limit: files.limit("memory.max")?,
        cache: of(&stat, "file"),
        inactive_file: of(&stat, "inactive_file"),
        swap: files.number("memory.swap.current")?,
        failures: of(&files.table("memory.events")?, "max"),
        stat,
    })
}

/// Lines such as `8:0 Read 4096`, from whichever of the kernel's two sources counts here.
fn read_blkio(files: &Files<'_>) -> Result<Vec<BlockUsage>> {
    let mut devices: BTreeMap<(u32, u32), BlockUsage> = BTreeMap::new();
    let sources = [
        ["blkio.bfq.io_service_bytes_recursive", "blkio.bfq.io_serviced_recursive"],
        ["blkio.throttle.io_service_bytes_recursive", "blkio.throttle.io_serviced_recursive"],
        ["blkio.throttle.io_service_bytes", "blkio.throttle.io_serviced"],
    ];
    for [bytes, ops] in sources {
        for (name, is_bytes) in [(bytes, true), (ops, false)] {
            for line in files.text(name)?.lines() {
                let mut words = line.split(' ');
                let (Some(device), Some(kind), Some(count)) = (words.next(), words.next(), words.next()) else {
                    continue;
                };
                let Some((major, minor)) = device_number(device) else { continue };
                let count = files.parse(name, count)?;
                let usage =
                    devices.entry((major, minor)).or_insert(BlockUsage { major, minor, ..BlockUsage::default() });
                match (kind, is_bytes) {
                    ("Read", true) => usage.read_bytes = count,
                    ("Write", true) => usage.write_bytes = count,
                    ("Read", false) => usage.read_ops = count,
                    ("Write", false) => usage.write_ops = count,
                    _ => {}
                }
            }
        }
        if !devices.is_empty() {
            break;
        }
    }
    Ok(devices.into_values().collect())
}

/// Lines such as `8:0 rbytes=4096 wbytes=0 rios=1 wios=0 dbytes=0 dios=0`.
fn read_io(files: &Files<'_>) -> Result<Vec<BlockUsage>> {
    let mut devices = Vec::new();
    for line in files.text("io.stat")?.lines() {
        let mut words = line.split(' ');
        let Some((major, minor)) = words.next().and_then(device_number) else { continue };
        let mut usage = BlockUsage { major, minor, ..BlockUsage::default() };
        for word in words {
            let Some((key, value)) = word.split_once('=') else { continue };
            let slot = match key {
                "rbytes" => &mut usage.read_bytes,
                "wbytes" => &mut usage.write_bytes,
                "rios" => &mut usage.read_ops,
                "wios" => &mut usage.write_ops,
                _ => continue,
            };
            *slot = files.parse("io.stat", value)?;
        }
        devices.push(usage);
    }
    Ok(devices)
}

fn device_number(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}
