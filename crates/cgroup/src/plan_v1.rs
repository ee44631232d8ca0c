//! Resources as version 1 files.
//!
//! # Source
//! Linux `Documentation/admin-guide/cgroup-v1/`, runtime-spec `config-linux.md`.

use oci_spec::runtime::{
    LinuxBlockIo, LinuxCpu, LinuxHugepageLimit, LinuxMemory, LinuxNetwork, LinuxResources, LinuxThrottleDevice,
};

use crate::Result;
use crate::plan::{Missing, NO_CONTROLLER, Setting, Step, lack, page_size, rdma, v1_amount, warn};

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
        plan_hugepage(limit, &mut steps)?;
    }
    if let Some(network) = resources.network() {
        plan_network(network, &mut steps);
    }
    rdma(resources, fail("RDMA resources"), &mut steps);
    if resources.unified().as_ref().is_some_and(|files| !files.is_empty()) {
        steps.push(lack("this host uses control groups version 1, which have no unified settings"));
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
    // An idle group has no share of its own, and the kernel refuses to set one.
    if let Some(shares) = cpu.shares().filter(|shares| *shares > 0 && cpu.idle() != Some(1)) {
        let setting = Setting::new("cpu", "cpu.shares", shares, fail("the share of processor time"));
        // The other way round a group that was idle would refuse its new share.
        steps.extend(idle(cpu));
        steps.push(Step::One(setting.kept()));
    } else {
        steps.extend(idle(cpu));
    }
    let mut together = Vec::new();
    if let Some(burst) = cpu.burst() {
        let missing = Missing::Ignore("this kernel has no processor bursts; the setting is ignored");
        together.push(Setting::new("cpu", "cpu.cfs_burst_us", burst, missing));
    }
    if let Some(period) = cpu.period().filter(|period| *period > 0) {
        together.push(Setting::new("cpu", "cpu.cfs_period_us", period, fail("processor time")));
    }
    if let Some(quota) = cpu.quota().filter(|quota| *quota != 0) {
        together.push(Setting::new("cpu", "cpu.cfs_quota_us", v1_amount(quota), fail("processor time")));
    }
    if !together.is_empty() {
        steps.push(Step::Together(together));
    }
    let realtime = warn("this kernel has no real-time group scheduling");
    let mut together = Vec::new();
    if let Some(period) = cpu.realtime_period().filter(|period| *period > 0) {
        together.push(Setting::new("cpu", "cpu.rt_period_us", period, realtime));
    }
    if let Some(runtime) = cpu.realtime_runtime().filter(|runtime| *runtime != 0) {
        together.push(Setting::new("cpu", "cpu.rt_runtime_us", runtime, realtime));
    }
    if !together.is_empty() {
        steps.push(Step::Together(together));
    }
}

fn idle(cpu: &LinuxCpu) -> Option<Step> {
    let missing = warn("this kernel has no idle scheduling of groups");
    cpu.idle().map(|idle| Step::One(Setting::new("cpu", "cpu.idle", idle, missing)))
}

fn plan_memory(memory: &LinuxMemory, steps: &mut Vec<Step>) {
    let limit = memory.limit().filter(|limit| *limit != 0);
    // Unlimited memory implies unlimited memory and swap: the kernel would refuse the first without the second.
    let swap = memory.swap().filter(|swap| *swap != 0).or(limit.filter(|limit| *limit < 0));
    let of_limit = |value| Setting::new("memory", "memory.limit_in_bytes", v1_amount(value), fail("memory"));
    let of_swap = |value| {
        let missing = Missing::Warn {
            lack: "this kernel does not account swap",
            outcome: "the limit of memory and swap is ignored",
        };
        Setting::new("memory", "memory.memsw.limit_in_bytes", v1_amount(value), missing)
    };
    match (limit, swap) {
        // Implied by us, so that a kernel without the file has nothing to refuse.
        (Some(limit), Some(-1)) if memory.swap().is_none_or(|swap| swap <= 0) => {
            let missing = Missing::Ignore("this kernel does not account swap; memory and swap together have no limit");
            let swap = Setting::new("memory", "memory.memsw.limit_in_bytes", "-1", missing);
            steps.push(Step::Together(vec![of_limit(limit), swap]));
        }
        (Some(limit), Some(swap)) => steps.push(Step::Together(vec![of_limit(limit), of_swap(swap)])),
        (Some(limit), None) => steps.push(Step::One(of_limit(limit))),
        (None, Some(swap)) => steps.push(Step::One(of_swap(swap))),
        (None, None) => {}
    }
    if let Some(kernel) = memory.kernel().filter(|value| *value != 0) {
        let missing = Missing::Ignore("this kernel does not limit kernel memory by itself; the setting is ignored");
        steps.push(Step::One(Setting::new("memory", "memory.kmem.limit_in_bytes", v1_amount(kernel), missing)));
    }
    // Groups have accounted for those below them, always, since Linux 5.11; what cannot be had is told.
    if memory.use_hierarchy() == Some(false) {
        let missing =
            Missing::Ignore("this kernel always accounts memory of the groups below; useHierarchy is ignored");
        steps.push(Step::One(Setting::new("memory", "memory.use_hierarchy", 0, missing)));
    }
    if let Some(reservation) = memory.reservation().filter(|value| *value != 0) {
        let setting =
            Setting::new("memory", "memory.soft_limit_in_bytes", v1_amount(reservation), fail("reserved memory"));
        steps.push(Step::One(setting));
    }
    if let Some(tcp) = memory.kernel_tcp().filter(|value| *value != 0) {
        let missing = warn("this kernel does not limit TCP buffers");
        steps.push(Step::One(Setting::new("memory", "memory.kmem.tcp.limit_in_bytes", v1_amount(tcp), missing)));
    }
    // Docker sends -1, which arrives here as a huge number, for "as the host has it".
    if let Some(swappiness) = memory.swappiness().filter(|value| *value != u64::MAX) {
        let missing = warn("this kernel has no swappiness of groups");
        steps.push(Step::One(Setting::new("memory", "memory.swappiness", swappiness, missing)));
    }
    if memory.disable_oom_killer() == Some(true) {
        let missing = warn("this kernel cannot disable the out-of-memory killer");
        steps.push(Step::One(Setting::new("memory", "memory.oom_control", 1, missing)));
    }
}

fn plan_block_io(block_io: &LinuxBlockIo, steps: &mut Vec<Step>) {
    let no_weight = Missing::Warn { lack: "this kernel has no blkio weight", outcome: "--blkio-weight is ignored" };
    if let Some(weight) = block_io.weight().filter(|weight| *weight > 0) {
        let setting = Setting::new("blkio", "blkio.weight", weight, no_weight).or("blkio.bfq.weight", weight);
        steps.push(Step::One(setting));
    }
    if let Some(weight) = block_io.leaf_weight().filter(|weight| *weight > 0) {
        steps.push(Step::One(Setting::new("blkio", "blkio.leaf_weight", weight, no_weight)));
    }
    let no_device_weight = Missing::Warn {
        lack: "this kernel has no blkio weight of devices",
        outcome: "--blkio-weight-device is ignored",
    };
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

fn plan_hugepage(limit: &LinuxHugepageLimit, steps: &mut Vec<Step>) -> Result<()> {
    let size = page_size(limit.page_size())?;
    let value = v1_amount(limit.limit());
    let file = format!("hugetlb.{size}.limit_in_bytes");
    steps.push(Step::One(Setting::new("hugetlb", file, &value, fail("huge pages of that size"))));
    let missing = Missing::Ignore("this kernel does not limit reserved huge pages; only their use is limited");
    let file = format!("hugetlb.{size}.rsvd.limit_in_bytes");
    steps.push(Step::One(Setting::new("hugetlb", file, value, missing)));
    Ok(())
}

fn plan_network(network: &LinuxNetwork, steps: &mut Vec<Step>) {
    if let Some(class) = network.class_id().filter(|class| *class != 0) {
        steps.push(Step::One(Setting::new("net_cls", "net_cls.classid", class, fail("the network class"))));
    }
    for priority in network.priorities().iter().flatten() {
        let value = format!("{} {}", priority.name(), priority.priority());
        steps.push(Step::One(Setting::new("net_prio", "net_prio.ifpriomap", value, fail("network priorities"))));
    }
}
