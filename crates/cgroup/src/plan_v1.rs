//! Resources as version 1 files.
//!
//! # Source
//! Linux `Documentation/admin-guide/cgroup-v1/`, runtime-spec `config-linux.md`.

use oci_spec::runtime::{
    LinuxBlockIo, LinuxCpu, LinuxHugepageLimit, LinuxMemory, LinuxNetwork, LinuxResources, LinuxThrottleDevice,
};

use crate::Result;
use crate::device;
use crate::plan::{Missing, NO_CONTROLLER, Setting, Step, v1_amount};

/// The steps that bring a version 1 group to `resources`, in the order in which the kernel accepts them.
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
        steps.push(Step::One(hugepage(limit)));
    }
    if let Some(network) = resources.network() {
        plan_network(network, &mut steps);
    }
    if resources.unified().as_ref().is_some_and(|files| !files.is_empty()) {
        steps.push(Step::Warn("this host uses control groups version 1; version 2 settings are ignored".to_owned()));
    }
    if let Some(rules) = resources.devices().as_ref().filter(|rules| !rules.is_empty()) {
        steps.push(Step::Devices(device::rules(rules)?));
    }
    Ok(steps)
}

fn fail(what: &'static str) -> Missing {
    Missing::Fail { what, advice: NO_CONTROLLER }
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
        steps.push(Step::One(Setting::new("cpu", "cpu.shares", shares, fail("the share of processor time"))));
    }
    let period = cpu.period().filter(|period| *period > 0);
    let quota = cpu.quota().filter(|quota| *quota != 0);
    let of_period = |value| Setting::new("cpu", "cpu.cfs_period_us", value, fail("processor time"));
    let of_quota = |value| Setting::new("cpu", "cpu.cfs_quota_us", v1_amount(value), fail("processor time"));
    match (period, quota) {
        (Some(period), Some(quota)) => steps.push(Step::Pair(of_period(period), of_quota(quota))),
        (Some(period), None) => steps.push(Step::One(of_period(period))),
        (None, Some(quota)) => steps.push(Step::One(of_quota(quota))),
        (None, None) => {}
    }
    if let Some(burst) = cpu.burst() {
        let missing = Missing::Warn("this kernel has no processor bursts; the setting is ignored");
        steps.push(Step::One(Setting::new("cpu", "cpu.cfs_burst_us", burst, missing)));
    }
    let realtime = Missing::Warn("this kernel has no real-time group scheduling; the setting is ignored");
    if let Some(period) = cpu.realtime_period().filter(|period| *period > 0) {
        steps.push(Step::One(Setting::new("cpu", "cpu.rt_period_us", period, realtime)));
    }
    if let Some(runtime) = cpu.realtime_runtime().filter(|runtime| *runtime != 0) {
        steps.push(Step::One(Setting::new("cpu", "cpu.rt_runtime_us", runtime, realtime)));
    }
}

fn plan_memory(memory: &LinuxMemory, steps: &mut Vec<Step>) {
    let limit = memory.limit().filter(|limit| *limit != 0);
    // Unlimited memory implies unlimited memory and swap: the kernel would refuse the first without the second.
    let swap = memory.swap().filter(|swap| *swap != 0).or(limit.filter(|limit| *limit < 0));
    let of_limit = |value| Setting::new("memory", "memory.limit_in_bytes", v1_amount(value), fail("memory"));
    let of_swap = |value| {
        let missing = Missing::Warn("this kernel does not account swap; the limit of memory and swap is ignored");
        Setting::new("memory", "memory.memsw.limit_in_bytes", v1_amount(value), missing)
    };
    match (limit, swap) {
        (Some(limit), Some(swap)) => steps.push(Step::Pair(of_limit(limit), of_swap(swap))),
        (Some(limit), None) => steps.push(Step::One(of_limit(limit))),
        (None, Some(swap)) => steps.push(Step::One(of_swap(swap))),
        (None, None) => {}
    }
    if let Some(reservation) = memory.reservation().filter(|value| *value != 0) {
        let setting =
            Setting::new("memory", "memory.soft_limit_in_bytes", v1_amount(reservation), fail("reserved memory"));
        steps.push(Step::One(setting));
    }
    if let Some(tcp) = memory.kernel_tcp().filter(|value| *value != 0) {
        let missing = Missing::Warn("this kernel does not limit TCP buffers; the setting is ignored");
        steps.push(Step::One(Setting::new("memory", "memory.kmem.tcp.limit_in_bytes", v1_amount(tcp), missing)));
    }
    // Docker sends -1, which arrives here as a huge number, for "as the host has it".
    if let Some(swappiness) = memory.swappiness().filter(|value| *value <= 200) {
        let missing = Missing::Warn("this kernel has no swappiness of groups; the setting is ignored");
        steps.push(Step::One(Setting::new("memory", "memory.swappiness", swappiness, missing)));
    }
    if memory.disable_oom_killer() == Some(true) {
        let missing = Missing::Warn("this kernel cannot disable the out-of-memory killer; the setting is ignored");
        steps.push(Step::One(Setting::new("memory", "memory.oom_control", 1, missing)));
    }
}

fn plan_block_io(block_io: &LinuxBlockIo, steps: &mut Vec<Step>) {
    let no_weight = Missing::Warn("this kernel has no blkio weight; --blkio-weight is ignored");
    if let Some(weight) = block_io.weight().filter(|weight| *weight > 0) {
        let setting = Setting::new("blkio", "blkio.weight", weight, no_weight).or("blkio.bfq.weight", weight);
        steps.push(Step::One(setting));
    }
    if let Some(weight) = block_io.leaf_weight().filter(|weight| *weight > 0) {
        steps.push(Step::One(Setting::new("blkio", "blkio.leaf_weight", weight, no_weight)));
    }
    let no_device_weight =
        Missing::Warn("this kernel has no blkio weight of devices; --blkio-weight-device is ignored");
    for device in block_io.weight_device().iter().flatten() {
        let number = format!("{}:{}", device.major(), device.minor());
        if let Some(weight) = device.weight().filter(|weight| *weight > 0) {
            let value = format!("{number} {weight}");
            let setting = Setting::new("blkio", "blkio.weight_device", &value, no_device_weight)
                .or("blkio.bfq.weight_device", &value);
            steps.push(Step::One(setting));
        }
        if let Some(weight) = device.leaf_weight().filter(|weight| *weight > 0) {
            let value = format!("{number} {weight}");
            steps.push(Step::One(Setting::new("blkio", "blkio.leaf_weight_device", value, no_device_weight)));
        }
    }
    let mut throttle = |file: &str, devices: &Option<Vec<LinuxThrottleDevice>>| {
        for device in devices.iter().flatten() {
            let value = format!("{}:{} {}", device.major(), device.minor(), device.rate());
            steps.push(Step::One(Setting::new("blkio", file, value, fail("the speed of devices"))));
        }
    };
    throttle("blkio.throttle.read_bps_device", block_io.throttle_read_bps_device());
    throttle("blkio.throttle.write_bps_device", block_io.throttle_write_bps_device());
    throttle("blkio.throttle.read_iops_device", block_io.throttle_read_iops_device());
    throttle("blkio.throttle.write_iops_device", block_io.throttle_write_iops_device());
}

fn hugepage(limit: &LinuxHugepageLimit) -> Setting {
    let file = format!("hugetlb.{}.limit_in_bytes", limit.page_size());
    Setting::new("hugetlb", file, v1_amount(limit.limit()), fail("huge pages of that size"))
}

fn plan_network(network: &LinuxNetwork, steps: &mut Vec<Step>) {
    if let Some(class) = network.class_id() {
        steps.push(Step::One(Setting::new("net_cls", "net_cls.classid", class, fail("the network class"))));
    }
    for priority in network.priorities().iter().flatten() {
        let value = format!("{} {}", priority.name(), priority.priority());
        steps.push(Step::One(Setting::new("net_prio", "net_prio.ifpriomap", value, fail("network priorities"))));
    }
}
