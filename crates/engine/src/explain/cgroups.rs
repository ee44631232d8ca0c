//! cgroup files, their values, and the flags behind them.

use super::{DEFAULT, Row, Subject, size};
use crate::model::BlockLimit;

pub(super) fn rows(subject: &Subject<'_>) -> Vec<Row> {
    let Some(runtime) = &subject.container.runtime else { return Vec::new() };
    let mut rows = Vec::new();
    for file in &runtime.cgroup {
        let name = file.path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        // the rules of the devices cgroup stand in a section of their own
        if name == "devices.allow" || name == "devices.deny" {
            continue;
        }
        let now = subject.live.and_then(|_| std::fs::read_to_string(&file.path).ok());
        let value = now.map_or_else(|| file.value.clone(), |text| text.trim().replace('\n', ", "));
        rows.push(Row::new(file.path.display().to_string(), value, because(subject, &name)));
    }
    let path = subject.engine.inner.config.cgroup_of(subject.container);
    if let Some(pid) = subject.live {
        let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        let ours = text.lines().filter(|line| line.ends_with(&path));
        let controllers: Vec<&str> = ours
            .filter_map(|line| line.split(':').nth(1))
            .map(|name| if name.is_empty() { "unified" } else { name })
            .collect();
        rows.insert(0, Row::new(path, controllers.join(", "), DEFAULT));
    } else {
        rows.insert(0, Row::new(path, "removed at its end", DEFAULT));
    }
    for warning in &runtime.warnings {
        rows.push(Row::new("warning", warning.clone(), "this kernel"));
    }
    rows
}

fn because(subject: &Subject<'_>, file: &str) -> String {
    let asked = &subject.container.spec.resources;
    let sized = |flag: &str, value: Option<i64>| {
        value.filter(|value| *value != 0).map(|value| format!("{flag} {}", size(value)))
    };
    let plain = |flag: &str, value: Option<String>| value.map(|value| format!("{flag} {value}"));
    let rates = |flag: &str, list: &[BlockLimit]| {
        let all: Vec<String> = list.iter().map(|limit| format!("{flag} {}:{}", limit.path, limit.rate)).collect();
        (!all.is_empty()).then(|| all.join(" "))
    };
    let memory = || sized("-m", asked.memory_bytes);
    let reason = match file {
        "memory.limit_in_bytes" | "memory.max" => memory(),
        "memory.memsw.limit_in_bytes" | "memory.swap.max" => sized("--memory-swap", asked.memory_swap_bytes)
            .or_else(|| memory().map(|flag| format!("{flag} (swap as much as memory)"))),
        "memory.soft_limit_in_bytes" | "memory.low" => sized("--memory-reservation", asked.memory_reservation_bytes),
        "memory.swappiness" => plain("--memory-swappiness", asked.memory_swappiness.map(|value| value.to_string())),
        "memory.oom_control" => asked.oom_kill_disable.then(|| "--oom-kill-disable".to_owned()),
        "cpu.cfs_quota_us" | "cpu.cfs_period_us" | "cpu.max" => cpu_time(asked),
        "cpu.shares" | "cpu.weight" => plain("--cpu-shares", asked.cpu_shares.map(|value| value.to_string())),
        "cpu.rt_period_us" => plain("--cpu-rt-period", asked.cpu_rt_period_us.map(|value| value.to_string())),
        "cpu.rt_runtime_us" => plain("--cpu-rt-runtime", asked.cpu_rt_runtime_us.map(|value| value.to_string())),
        "cpuset.cpus" => plain("--cpuset-cpus", asked.cpuset_cpus.clone()),
        "cpuset.mems" => plain("--cpuset-mems", asked.cpuset_mems.clone()),
        "pids.max" => plain("--pids-limit", asked.pids_limit.map(|value| value.to_string())),
        "blkio.weight" | "blkio.bfq.weight" | "io.weight" | "io.bfq.weight" => {
            plain("--blkio-weight", asked.blkio_weight.map(|value| value.to_string()))
        }
        "blkio.throttle.read_bps_device" => rates("--device-read-bps", &asked.device_read_bps),
        "blkio.throttle.write_bps_device" => rates("--device-write-bps", &asked.device_write_bps),
        "blkio.throttle.read_iops_device" => rates("--device-read-iops", &asked.device_read_iops),
        "blkio.throttle.write_iops_device" => rates("--device-write-iops", &asked.device_write_iops),
        "io.max" => rates("--device-read-bps", &asked.device_read_bps)
            .into_iter()
            .chain(rates("--device-write-bps", &asked.device_write_bps))
            .chain(rates("--device-read-iops", &asked.device_read_iops))
            .chain(rates("--device-write-iops", &asked.device_write_iops))
            .reduce(|all, one| format!("{all} {one}")),
        _ => None,
    };
    reason.unwrap_or_else(|| DEFAULT.into())
}

fn cpu_time(asked: &crate::model::Resources) -> Option<String> {
    if let Some(nano) = asked.nano_cpus.filter(|nano| *nano != 0) {
        let whole = nano / 1_000_000_000;
        let rest = format!("{:09}", nano % 1_000_000_000);
        let rest = rest.trim_end_matches('0');
        return Some(if rest.is_empty() { format!("--cpus {whole}") } else { format!("--cpus {whole}.{rest}") });
    }
    let quota = asked.cpu_quota_us.map(|quota| format!("--cpu-quota {quota}"));
    let period = asked.cpu_period_us.map(|period| format!("--cpu-period {period}"));
    quota.into_iter().chain(period).reduce(|all, one| format!("{all} {one}"))
}
