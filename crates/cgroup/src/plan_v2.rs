//! Resources as version 2 files.
//!
//! # Source
//! Linux `Documentation/admin-guide/cgroup-v2.rst`, runtime-spec `config-linux.md`.

use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxResources, LinuxThrottleDevice};

use crate::plan::{Missing, Setting, Step, lack, page_size, rdma, v2_amount, warn};
use crate::{CgroupError, Result};

const ADVICE: &str = "leave the limit out, or have the controller delegated to this service (cgroup.subtree_control)";

/// The steps that bring a version 2 group to `resources`.
pub(crate) fn plan(resources: &LinuxResources) -> Result<Vec<Step>> {
    let mut steps = Vec::new();
    if let Some(cpu) = resources.cpu() {
        plan_cpu(cpu, &mut steps);
    }
    if let Some(memory) = resources.memory() {
        plan_memory(memory, &mut steps)?;
    }
    if let Some(pids) = resources.pids() {
        let limit = if pids.limit() > 0 { pids.limit().to_string() } else { "max".to_owned() };
        steps.push(Step::One(Setting::new("pids", "pids.max", limit, fail("the number of processes"))));
    }
    if let Some(block_io) = resources.block_io() {
        plan_block_io(block_io, &mut steps);
    }
    for limit in resources.hugepage_limits().iter().flatten() {
        let (size, value) = (page_size(limit.page_size())?, v2_amount(limit.limit()));
        let file = format!("hugetlb.{size}.max");
        steps.push(Step::One(Setting::new("hugetlb", file, &value, fail("huge pages of that size"))));
        let missing = Missing::Ignore("this kernel does not limit reserved huge pages; only their use is limited");
        steps.push(Step::One(Setting::new("hugetlb", format!("hugetlb.{size}.rsvd.max"), value, missing)));
    }
    if let Some(network) = resources.network()
        && (network.class_id().is_some_and(|class| class != 0)
            || network.priorities().as_ref().is_some_and(|list| !list.is_empty()))
    {
        steps.push(lack("control groups version 2 have no network classes or priorities"));
    }
    rdma(resources, fail("RDMA resources"), &mut steps);
    plan_unified(resources, &mut steps)?;
    Ok(steps)
}

fn fail(what: &'static str) -> Missing {
    Missing::Fail { what, advice: ADVICE }
}

/// Version 1's shares (2 to 262144, default 1024) as version 2's weight (1 to 10000, default 100).
///
/// A curve through both ends and both defaults; the line that runtimes used before gave a default group less than half
/// of its share beside groups that others had made.
///
/// # Source
/// runtime-spec 1.3 and runc 1.3.2: `10^((log2(shares)^2 + 125 * log2(shares)) / 612 - 7 / 34)`, rounded up.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the curve stays between 1 and 10000")]
pub(crate) fn weight_of_shares(shares: u64) -> u64 {
    let shares = u32::try_from(shares).unwrap_or(u32::MAX);
    match shares {
        0..=2 => 1,
        262_144.. => 10_000,
        _ => {
            let log = f64::from(shares).log2();
            let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
            // At the default the result is 100 but for the last bits of the arithmetic.
            (10_f64.powf(exponent) - 1e-9).ceil() as u64
        }
    }
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
        let missing = warn("this kernel has no idle scheduling of groups");
        steps.push(Step::One(Setting::new("cpu", "cpu.idle", idle, missing)));
    }
    // An idle group has no share of its own, and the kernel refuses to set one.
    if let Some(shares) = cpu.shares().filter(|shares| *shares > 0 && cpu.idle() != Some(1)) {
        let weight = weight_of_shares(shares);
        steps.push(Step::One(Setting::new("cpu", "cpu.weight", weight, fail("the share of processor time"))));
    }
    let mut together = Vec::new();
    if let Some(burst) = cpu.burst() {
        let missing = Missing::Ignore("this kernel has no processor bursts; the setting is ignored");
        together.push(Setting::new("cpu", "cpu.max.burst", burst, missing));
    }
    let period = cpu.period().filter(|period| *period > 0);
    let quota = cpu.quota().filter(|quota| *quota != 0);
    if period.is_some() || quota.is_some() {
        let mut value = v2_amount(quota.unwrap_or(-1));
        // the kernel keeps the period that the group has unless one is named
        if let Some(period) = period {
            value = format!("{value} {period}");
        }
        together.push(Setting::new("cpu", "cpu.max", value, fail("processor time")));
    }
    if !together.is_empty() {
        steps.push(Step::Together(together));
    }
    if cpu.realtime_period().is_some_and(|value| value > 0) || cpu.realtime_runtime().is_some_and(|value| value != 0) {
        steps.push(lack("control groups version 2 have no real-time limits"));
    }
}

fn plan_memory(memory: &LinuxMemory, steps: &mut Vec<Step>) -> Result<()> {
    let limit = memory.limit().filter(|limit| *limit != 0);
    if let Some(swap) = swap_alone(memory, limit)? {
        let missing = if swap > 0 {
            Missing::Warn {
                lack: "this kernel does not account swap",
                outcome: "the limit of memory and swap is ignored",
            }
        } else {
            Missing::Ignore("this kernel does not account swap; the limit of memory and swap is ignored")
        };
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
        steps.push(lack("control groups version 2 cannot disable the out-of-memory killer"));
    }
    if memory.swappiness().is_some_and(|value| value != u64::MAX) {
        steps.push(lack("control groups version 2 have no swappiness"));
    }
    if memory.kernel_tcp().is_some_and(|value| value > 0) {
        steps.push(lack("control groups version 2 have no limit of their own for TCP buffers"));
    }
    Ok(())
}

/// The specification counts memory and swap together; the file of version 2 counts swap alone.
fn swap_alone(memory: &LinuxMemory, limit: Option<i64>) -> Result<Option<i64>> {
    let bad = |reason| {
        Err(CgroupError::BadValue { what: "memory swap limit", value: format!("{:?}", memory.swap()), reason })
    };
    match (limit, memory.swap().filter(|swap| *swap != 0)) {
        (Some(limit), None) if limit < 0 => Ok(Some(-1)),
        (_, None) => Ok(None),
        (_, Some(total)) if total < 0 => Ok(Some(-1)),
        (None, Some(_)) => bad("it counts memory and swap together, so it needs a memory limit"),
        (Some(limit), Some(_)) if limit < 0 => bad("it counts memory and swap together, and memory is unlimited"),
        (Some(limit), Some(total)) if total < limit => {
            bad("it counts memory and swap together, and is below memory alone")
        }
        (Some(limit), Some(total)) => Ok(Some(total - limit)),
    }
}

fn plan_block_io(block_io: &LinuxBlockIo, steps: &mut Vec<Step>) {
    let no_weight = Missing::Warn { lack: "this kernel has no io weight", outcome: "--blkio-weight is ignored" };
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
    let leaves = block_io.leaf_weight().is_some_and(|weight| weight > 0);
    if leaves || block_io.weight_device().iter().flatten().any(|one| one.leaf_weight().is_some_and(|weight| weight > 0))
    {
        steps.push(lack("control groups version 2 have no leaf weights"));
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
        // These move or kill processes and change the tree; they are not limits.
        let moves = ["cgroup.procs", "cgroup.threads", "cgroup.kill", "cgroup.type", "cgroup.subtree_control"];
        if file.contains(['/', '\0']) || file.starts_with('.') || !file.contains('.') || moves.contains(&file.as_str())
        {
            let reason = "it must be the name of a file of a version 2 group that sets a limit, without slashes";
            return Err(CgroupError::BadValue { what: "unified resource", value: file.clone(), reason });
        }
        for line in value.lines() {
            steps.push(Step::One(Setting::new("unified", file.as_str(), line, fail("that resource"))));
        }
    }
    Ok(())
}
