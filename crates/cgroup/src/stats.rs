//! A group's counters in the shape that `events --stats` of an OCI runtime prints.
//!
//! [`Usage`](crate::Usage) is what the engine works with; this is runc's format, field by field, because programs read it.
//! A field that is zero is left out where runc leaves it out.
//!
//! # Source
//! runc's documented `events` output, as runc 1.1 prints it.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::hierarchy::Hierarchy;
use crate::usage::Files;
use crate::{Group, Result};

/// Everything that `events --stats` tells of a container's group.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Stats {
    /// Processor time.
    pub cpu: Cpu,
    /// Usable processors and memory nodes.
    pub cpuset: CpuSet,
    /// Memory.
    pub memory: Memory,
    /// Processes.
    pub pids: Pids,
    /// Block input and output.
    pub blkio: Blkio,
    /// Huge pages, by size.
    pub hugetlb: BTreeMap<String, HugePages>,
    /// Cache and memory bandwidth; the caller adds it where the container has such a group.
    pub intel_rdt: BTreeMap<String, String>,
    /// Always null, as runc prints it for a container whose network it did not make.
    pub network_interfaces: Option<()>,
}

/// Processor time, in nanoseconds.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Cpu {
    /// What was used.
    pub usage: CpuTime,
    /// What a quota held back.
    pub throttling: Throttled,
}

/// Processor time used, in nanoseconds.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct CpuTime {
    /// All of it.
    #[serde(skip_serializing_if = "is_zero")]
    pub total: u64,
    /// By processor.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub percpu: Vec<u64>,
    /// By processor, in the kernel.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub percpu_kernel: Vec<u64>,
    /// By processor, in user mode.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub percpu_user: Vec<u64>,
    /// In the kernel.
    pub kernel: u64,
    /// In user mode.
    pub user: u64,
}

/// How often a quota held the group back.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Throttled {
    /// Periods that have passed.
    #[serde(skip_serializing_if = "is_zero")]
    pub periods: u64,
    /// Periods in which the quota ran out.
    #[serde(skip_serializing_if = "is_zero")]
    pub throttled_periods: u64,
    /// Time held back, in nanoseconds.
    #[serde(skip_serializing_if = "is_zero")]
    pub throttled_time: u64,
}

/// The cpuset controller's files.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct CpuSet {
    /// Usable processors.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cpus: Vec<u16>,
    /// `cpuset.cpu_exclusive`.
    pub cpu_exclusive: u64,
    /// Usable memory nodes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mems: Vec<u16>,
    /// `cpuset.mem_hardwall`.
    pub mem_hardwall: u64,
    /// `cpuset.mem_exclusive`.
    pub mem_exclusive: u64,
    /// `cpuset.memory_migrate`.
    pub memory_migrate: u64,
    /// `cpuset.memory_spread_page`.
    pub memory_spread_page: u64,
    /// `cpuset.memory_spread_slab`.
    pub memory_spread_slab: u64,
    /// `cpuset.memory_pressure`.
    pub memory_pressure: u64,
    /// `cpuset.sched_load_balance`.
    pub sched_load_balance: u64,
    /// `cpuset.sched_relax_domain_level`.
    pub sched_relax_domain_level: i64,
}

/// One kind of memory, in bytes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct MemoryEntry {
    /// The limit; the largest number where there is none.
    pub limit: u64,
    /// In use.
    #[serde(skip_serializing_if = "is_zero")]
    pub usage: u64,
    /// The most that was in use.
    #[serde(skip_serializing_if = "is_zero")]
    pub max: u64,
    /// How often the limit was hit.
    pub failcnt: u64,
}

/// Memory, in bytes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Memory {
    /// Page cache.
    #[serde(skip_serializing_if = "is_zero")]
    pub cache: u64,
    /// All memory.
    pub usage: MemoryEntry,
    /// Memory and swap together.
    pub swap: MemoryEntry,
    /// The kernel's memory for the group.
    pub kernel: MemoryEntry,
    /// Buffers of TCP.
    #[serde(rename = "kernelTCP")]
    pub kernel_tcp: MemoryEntry,
    /// `memory.stat`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub raw: BTreeMap<String, u64>,
}

/// Processes and threads.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Pids {
    /// Now.
    #[serde(skip_serializing_if = "is_zero")]
    pub current: u64,
    /// At most; 0 for no limit.
    #[serde(skip_serializing_if = "is_zero")]
    pub limit: u64,
}

/// One counter of one device.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct BlkioEntry {
    /// The device's number.
    #[serde(skip_serializing_if = "is_zero")]
    pub major: u64,
    /// The device's number within its major.
    #[serde(skip_serializing_if = "is_zero")]
    pub minor: u64,
    /// The operation; empty for counters of none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub op: String,
    /// The count.
    #[serde(skip_serializing_if = "is_zero")]
    pub value: u64,
}

/// Block input and output with the groups below.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Blkio {
    /// Bytes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io_service_bytes_recursive: Vec<BlkioEntry>,
    /// Operations.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io_serviced_recursive: Vec<BlkioEntry>,
    /// Operations that wait.
    #[serde(rename = "ioQueueRecursive", skip_serializing_if = "Vec::is_empty")]
    pub io_queue_recursive: Vec<BlkioEntry>,
    /// Time in service.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io_service_time_recursive: Vec<BlkioEntry>,
    /// Time in the queue.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io_wait_time_recursive: Vec<BlkioEntry>,
    /// Merged operations.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io_merged_recursive: Vec<BlkioEntry>,
    /// Time of the disk.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io_time_recursive: Vec<BlkioEntry>,
    /// Sectors.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sectors_recursive: Vec<BlkioEntry>,
}

/// Huge pages of one size, in bytes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct HugePages {
    /// In use.
    #[serde(skip_serializing_if = "is_zero")]
    pub usage: u64,
    /// The most that was in use.
    #[serde(skip_serializing_if = "is_zero")]
    pub max: u64,
    /// How often the limit was hit.
    pub failcnt: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the shape that serde calls")]
fn is_zero(value: &u64) -> bool {
    *value == 0
}

impl Group {
    /// The group's counters as an OCI runtime prints them.
    ///
    /// # Errors
    /// When a file can't be read or understood. What the host does not count is zero or empty.
    pub fn stats(&self) -> Result<Stats> {
        let shared = self.shared();
        let files = |hierarchy| Files { hierarchy, group: self.at(hierarchy) };
        let v1 = |controller: &str| shared.v1(controller).map(files);
        let v2 = |controller: &str| shared.v2().filter(|own| own.has(controller)).map(files);
        let mut stats = Stats::default();
        let usage = self.usage()?;
        let time = &mut stats.cpu.usage;
        (time.total, time.kernel, time.user) = (usage.cpu.total_ns, usage.cpu.system_ns, usage.cpu.user_ns);
        time.percpu = usage.cpu.per_cpu_ns;
        let throttling = usage.cpu.throttling;
        stats.cpu.throttling = Throttled {
            periods: throttling.periods,
            throttled_periods: throttling.throttled_periods,
            throttled_time: throttling.throttled_ns,
        };
        stats.pids = Pids { current: usage.pids, limit: usage.pids_limit.unwrap_or(0) };
        if let Some(files) = v1("cpuacct") {
            per_cpu(&files, time)?;
        }
        if let Some(files) = v1("cpuset") {
            stats.cpuset = cpuset(&files)?;
        }
        if let Some(files) = v1("memory") {
            stats.memory = memory_v1(&files)?;
        } else if let Some(files) = v2("memory") {
            stats.memory = memory_v2(&files)?;
        }
        if let Some(files) = v1("blkio") {
            stats.blkio = blkio(&files)?;
        } else if let Some(files) = v2("io") {
            stats.blkio = io(&files)?;
        }
        if let Some(hierarchy) = shared.v1("hugetlb") {
            stats.hugetlb =
                huge_pages(hierarchy, self.at(hierarchy), ["usage_in_bytes", "max_usage_in_bytes", "failcnt"])?;
        } else if let Some(hierarchy) = shared.v2().filter(|own| own.has("hugetlb")) {
            stats.hugetlb = huge_pages(hierarchy, self.at(hierarchy), ["current", "", "events"])?;
        }
        Ok(stats)
    }
}

/// `cpuacct.usage_all`: a head line, then for each processor its number, user and kernel time.
fn per_cpu(files: &Files<'_>, time: &mut CpuTime) -> Result<()> {
    for line in files.text("cpuacct.usage_all")?.lines().skip(1) {
        let mut words = line.split_whitespace().skip(1);
        if let (Some(user), Some(kernel)) = (words.next(), words.next()) {
            time.percpu_user.push(files.parse("cpuacct.usage_all", user)?);
            time.percpu_kernel.push(files.parse("cpuacct.usage_all", kernel)?);
        }
    }

    Ok(())
}

fn cpuset(files: &Files<'_>) -> Result<CpuSet> {
    let level = files.text("cpuset.sched_relax_domain_level")?;
    Ok(CpuSet {
        cpus: list(&files.text("cpuset.cpus")?),
        cpu_exclusive: files.number("cpuset.cpu_exclusive")?,
        mems: list(&files.text("cpuset.mems")?),
        mem_hardwall: files.number("cpuset.mem_hardwall")?,
        mem_exclusive: files.number("cpuset.mem_exclusive")?,
        memory_migrate: files.number("cpuset.memory_migrate")?,
        memory_spread_page: files.number("cpuset.memory_spread_page")?,
        memory_spread_slab: files.number("cpuset.memory_spread_slab")?,
        memory_pressure: files.number("cpuset.memory_pressure")?,
        sched_load_balance: files.number("cpuset.sched_load_balance")?,
        sched_relax_domain_level: level.trim().parse().unwrap_or(0),
    })
}

/// The numbers of a list such as `0-2,7`; what is no list is no number.
fn list(text: &str) -> Vec<u16> {
    let mut all = Vec::new();
    for part in text.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.parse::<u16>(), last.parse::<u16>()) {
            all.extend(first..=last);
        }
    }
    all
}

fn memory_v1(files: &Files<'_>) -> Result<Memory> {
    let entry = |name: &str| -> Result<MemoryEntry> {
        let file = |field: &str| files.number(&format!("memory.{name}{field}"));
        Ok(MemoryEntry {
            limit: file("limit_in_bytes")?,
            usage: file("usage_in_bytes")?,
            max: file("max_usage_in_bytes")?,
            failcnt: file("failcnt")?,
        })
    };
    let raw = files.table("memory.stat")?;
    Ok(Memory {
        cache: raw.get("cache").copied().unwrap_or(0),
        usage: entry("")?,
        swap: entry("memsw.")?,
        kernel: entry("kmem.")?,
        kernel_tcp: entry("kmem.tcp.")?,
        raw,
    })
}

fn memory_v2(files: &Files<'_>) -> Result<Memory> {
    let entry = |name: &str| -> Result<MemoryEntry> {
        let text = files.text(&format!("memory.{name}max"))?;
        let limit = match text.trim() {
            "" => 0,
            "max" => u64::MAX,
            number => files.parse(name, number)?,
        };
        let usage = files.number(&format!("memory.{name}current"))?;
        Ok(MemoryEntry { limit, usage, max: files.number(&format!("memory.{name}peak"))?, failcnt: 0 })
    };
    let raw = files.table("memory.stat")?;
    let (mut usage, swap) = (entry("")?, entry("swap.")?);
    usage.failcnt = files.table("memory.events")?.get("max").copied().unwrap_or(0);
    // The files count swap alone; the format counts memory and swap together.
    let together = MemoryEntry {
        limit: if swap.limit == u64::MAX { u64::MAX } else { swap.limit.saturating_add(usage.limit) },
        usage: swap.usage.saturating_add(usage.usage),
        max: 0,
        failcnt: 0,
    };
    Ok(Memory {
        cache: raw.get("file").copied().unwrap_or(0),
        usage,
        swap: together,
        kernel: MemoryEntry::default(),
        kernel_tcp: MemoryEntry::default(),
        raw,
    })
}

/// Lines such as `8:0 Read 4096` or `8:0 4096`, without the sums.
fn entries(files: &Files<'_>, name: &str) -> Result<Vec<BlkioEntry>> {
    let mut all = Vec::new();
    for line in files.text(name)?.lines() {
        let words: Vec<&str> = line.split([' ', ':']).collect();
        let (op, value) = match words.as_slice() {
            [_, _, op, value] => (*op, *value),
            [_, _, value] => ("", *value),
            _ => continue,
        };
        let (major, minor) = (files.parse(name, words[0])?, files.parse(name, words[1])?);
        all.push(BlkioEntry { major, minor, op: op.to_owned(), value: files.parse(name, value)? });
    }
    Ok(all)
}

fn blkio(files: &Files<'_>) -> Result<Blkio> {
    for prefix in ["blkio.bfq.", "blkio."] {
        let of = |name: &str| entries(files, &format!("{prefix}{name}"));
        let found = Blkio {
            io_service_bytes_recursive: of("io_service_bytes_recursive")?,
            io_serviced_recursive: of("io_serviced_recursive")?,
            io_queue_recursive: of("io_queued_recursive")?,
            io_service_time_recursive: of("io_service_time_recursive")?,
            io_wait_time_recursive: of("io_wait_time_recursive")?,
            io_merged_recursive: of("io_merged_recursive")?,
            io_time_recursive: of("time_recursive")?,
            sectors_recursive: of("sectors_recursive")?,
        };
        if !found.io_serviced_recursive.is_empty() {
            return Ok(found);
        }
    }
    let throttled = |name: &str| -> Result<Vec<BlkioEntry>> {
        let found = entries(files, &format!("blkio.throttle.{name}_recursive"))?;
        if found.is_empty() { entries(files, &format!("blkio.throttle.{name}")) } else { Ok(found) }
    };
    Ok(Blkio {
        io_service_bytes_recursive: throttled("io_service_bytes")?,
        io_serviced_recursive: throttled("io_serviced")?,
        ..Blkio::default()
    })
}

/// Lines such as `8:0 rbytes=4096 wbytes=0 rios=1 wios=0 dbytes=0 dios=0`, in version 1's words.
fn io(files: &Files<'_>) -> Result<Blkio> {
    let mut blkio = Blkio::default();
    for line in files.text("io.stat")?.lines() {
        let mut words = line.split(' ');
        let Some((major, minor)) = words.next().and_then(|device| device.split_once(':')) else { continue };
        let (major, minor) = (files.parse("io.stat", major)?, files.parse("io.stat", minor)?);
        for word in words {
            let Some((key, value)) = word.split_once('=') else { continue };
            let (target, op) = match key {
                "rbytes" => (&mut blkio.io_service_bytes_recursive, "Read"),
                "wbytes" => (&mut blkio.io_service_bytes_recursive, "Write"),
                "dbytes" => (&mut blkio.io_service_bytes_recursive, "Discard"),
                "rios" => (&mut blkio.io_serviced_recursive, "Read"),
                "wios" => (&mut blkio.io_serviced_recursive, "Write"),
                "dios" => (&mut blkio.io_serviced_recursive, "Discard"),
                _ => continue,
            };
            let value = files.parse("io.stat", value)?;
            target.push(BlkioEntry { major, minor, op: op.to_owned(), value });
        }
    }
    Ok(blkio)
}

/// The counters of every page size that the group has files for: in use, at most, failures.
fn huge_pages(hierarchy: &Hierarchy, group: &str, fields: [&str; 3]) -> Result<BTreeMap<String, HugePages>> {
    let files = Files { hierarchy, group };
    let mut all = BTreeMap::new();
    for name in hierarchy.entries(group) {
        let Some((size, field)) = name.strip_prefix("hugetlb.").and_then(|rest| rest.split_once('.')) else { continue };
        if field != fields[0] {
            continue;
        }
        let number = |field: &str| match field {
            "" => Ok(0),
            "events" => Ok(files.table(&format!("hugetlb.{size}.events"))?.get("max").copied().unwrap_or(0)),
            field => files.number(&format!("hugetlb.{size}.{field}")),
        };
        let [usage, max, failcnt] = fields;
        all.insert(size.to_owned(), HugePages { usage: number(usage)?, max: number(max)?, failcnt: number(failcnt)? });
    }
    Ok(all)
}
