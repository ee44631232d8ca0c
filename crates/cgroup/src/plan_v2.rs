//! Resources as version 2 files.
//!
//! # Source
//! Linux `Documentation/admin-guide/cgroup-v2.rst`, runtime-spec `config-linux.md`.

use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxResources, LinuxThrottleDevice};

use crate::device;
use crate::plan::{Missing, Setting, Step, v2_amount};
use crate::{CgroupError, Result};

const ADVICE: &str = "leave the limit out, or have the controller delegated to this service (cgroup.subtree_control)";

/// The steps that bring a version 2 group to `resources`.
pub(crate) fn plan(resources: &LinuxResources) -> Result<Vec<Step>> {
    let mut steps = Vec::new();
    if let Some(cpu) = resources.cpu() {
        plan_cpu(cpu, &mut steps);
    }
    if let Some(memory) = resources.memory() {
        plan_memory(memory, &mut steps);
    }
    if let Some(pids) = resources.pids() {
        let limit = if pids.limit() > 0 { pids.limit().to_string() } else { "max".to_owned() };
        steps.push(Step::One(Setting::new("pids", "pids.max", limit, fail("the number of processes"))));
    }
    if let Some(block_io) = resources.block_io() {
        plan_block_io(block_io, &mut steps);
    }
    for limit in resources.hugepage_limits().iter().flatten() {
        let file = format!("hugetlb.{}.max", limit.page_size());
        let setting = Setting::new("hugetlb", file, v2_amount(limit.limit()), fail("huge pages of that size"));
        steps.push(Step::One(setting));
    }
    if let Some(network) = resources.network()
        && (network.class_id().is_some() || network.priorities().as_ref().is_some_and(|list| !list.is_empty()))
    {
        let text = "control groups version 2 have no network classes or priorities; the settings are ignored";
        steps.push(Step::Warn(text.to_owned()));
    }
    if let Some(rules) = resources.devices().as_ref().filter(|rules| !rules.is_empty()) {
        steps.push(Step::Devices(device::rules(rules)?));
    }
    plan_unified(resources, &mut steps)?;
    Ok(steps)
}

fn fail(what: &'static str) -> Missing {
    Missing::Fail { what, advice: ADVICE }
}

/// Version 1's shares (2 to 262144, default 1024) as version 2's weight (1 to 10000, default 100).
///
/// The line through the ends of both ranges, as runtimes have agreed on it.
pub(crate) fn weight_of_shares(shares: u64) -> u64 {
    let shares = shares.clamp(2, 262_144);
    1 + (shares - 2) * 9_999 / 262_142
}

/// Version 1's blkio weight (10 to 1000) as version 2's io weight (1 to 10000).
pub(crate) fn io_weight_of_blkio(weight: u16) -> u64 {
    let weight = u64::from(weight.clamp(10, 1000));
    1 + (weight - 10) * 9_999 / 990
}

fn plan_cpu(cpu: &LinuxCpu, steps: &mut Vec<Step>) {
    if let Some(cpus) = cpu.cpus().as_ref().filter(|cpus| !cpus.is_empty()) {
        steps.push(Step::One(Setting::new("cpuset", "cpuset.cpus", cpus, fail("the usable processors"))));
    }
    if let Some(mems) = cpu.mems().as_ref().filter(|mems| !mems.is_empty()) {
        steps.push(Step::One(Setting::new("cpuset", "cpuset.mems", mems, fail("the usable memory nodes"))));
    }
    if let Some(idle) = cpu.idle() {
        let missing = Missing::Warn("this kernel has no idle scheduling of groups; the setting is ignored");
        steps.push(Step::One(Setting::new("cpu", "cpu.idle", idle, missing)));
    }
    if let Some(shares) = cpu.shares().filter(|shares| *shares > 0) {
        let weight = weight_of_shares(shares);
        steps.push(Step::One(Setting::new("cpu", "cpu.weight", weight, fail("the share of processor time"))));
    }
    let period = cpu.period().filter(|period| *period > 0);
    let quota = cpu.quota().filter(|quota| *quota != 0);
    if period.is_some() || quota.is_some() {
        let value = format!("{} {}", v2_amount(quota.unwrap_or(-1)), period.unwrap_or(100_000));
        steps.push(Step::One(Setting::new("cpu", "cpu.max", value, fail("processor time"))));
    }
    if let Some(burst) = cpu.burst() {
        let missing = Missing::Warn("this kernel has no processor bursts; the setting is ignored");
        steps.push(Step::One(Setting::new("cpu", "cpu.max.burst", burst, missing)));
    }
    if cpu.realtime_period().is_some_and(|value| value > 0) || cpu.realtime_runtime().is_some_and(|value| value != 0) {
        let text = "control groups version 2 have no real-time limits; the settings are ignored";
        steps.push(Step::Warn(text.to_owned()));
    }
}

fn plan_memory(memory: &LinuxMemory, steps: &mut Vec<Step>) {
    let limit = memory.limit().filter(|limit| *limit != 0);
    if let Some(total) = memory.swap().filter(|swap| *swap != 0).or(limit.filter(|limit| *limit < 0)) {
        // The specification counts memory and swap together; this file counts swap alone.
        let swap = match limit {
            _ if total < 0 => -1,
            Some(limit) if limit > 0 => (total - limit).max(0),
            _ => total,
        };
        let missing = Missing::Warn("this kernel does not account swap; the limit of memory and swap is ignored");
        steps.push(Step::One(Setting::new("memory", "memory.swap.max", v2_amount(swap), missing)));
    }
    if let Some(limit) = limit {
        steps.push(Step::One(Setting::new("memory", "memory.max", v2_amount(limit), fail("memory"))));
    }
    if let Some(reservation) = memory.reservation().filter(|value| *value != 0) {
        let setting = Setting::new("memory", "memory.low", v2_amount(reservation), fail("reserved memory"));
        steps.push(Step::One(setting));
    }
    if memory.disable_oom_killer() == Some(true) {
        let text = "control groups version 2 cannot disable the out-of-memory killer; the setting is ignored";
        steps.push(Step::Warn(text.to_owned()));
    }
    if memory.swappiness().is_some_and(|value| value <= 200) {
        let text = "control groups version 2 have no swappiness; the setting is ignored";
        steps.push(Step::Warn(text.to_owned()));
    }
}

fn plan_block_io(block_io: &LinuxBlockIo, steps: &mut Vec<Step>) {
    let no_weight = Missing::Warn("this kernel has no io weight; --blkio-weight is ignored");
    if let Some(weight) = block_io.weight().filter(|weight| *weight > 0) {
        let setting = Setting::new("io", "io.bfq.weight", weight, no_weight)
            .or("io.weight", format!("default {}", io_weight_of_blkio(weight)));
        steps.push(Step::One(setting));
    }
    for device in block_io.weight_device().iter().flatten() {
        if let Some(weight) = device.weight().filter(|weight| *weight > 0) {
            let number = format!("{}:{}", device.major(), device.minor());
            let setting = Setting::new("io", "io.bfq.weight", format!("{number} {weight}"), no_weight)
                .or("io.weight", format!("{number} {}", io_weight_of_blkio(weight)));
            steps.push(Step::One(setting));
        }
    }
    let mut throttle = |key: &str, devices: &Option<Vec<LinuxThrottleDevice>>| {
        for device in devices.iter().flatten() {
            // 0 takes a limit away in version 1; here that is the word max.
            let rate = if device.rate() == 0 { "max".to_owned() } else { device.rate().to_string() };
            let value = format!("{}:{} {key}={rate}", device.major(), device.minor());
            steps.push(Step::One(Setting::new("io", "io.max", value, fail("the speed of devices"))));
        }
    };
    throttle("rbps", block_io.throttle_read_bps_device());
    throttle("wbps", block_io.throttle_write_bps_device());
    throttle("riops", block_io.throttle_read_iops_device());
    throttle("wiops", block_io.throttle_write_iops_device());
}

fn plan_unified(resources: &LinuxResources, steps: &mut Vec<Step>) -> Result<()> {
    let Some(files) = resources.unified() else { return Ok(()) };
    let mut files: Vec<_> = files.iter().collect();
    files.sort();
    for (file, value) in files {
        // The files of the core (cgroup.procs and its kin) move processes and change the tree; they are not limits.
        if file.contains('/') || file.starts_with('.') || file.starts_with("cgroup.") || !file.contains('.') {
            return Err(CgroupError::BadPath { path: file.clone() });
        }
        for line in value.lines() {
            steps.push(Step::One(Setting::new("unified", file.as_str(), line, fail("that resource"))));
        }
    }
    Ok(())
}
