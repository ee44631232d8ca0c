//! Limits and weights, for create and update.

use super::{refuse, text};
use crate::error::ApiError;
use docker_wire::models::{self, HostConfig};
use engine::model::{BlockLimit, Resources, RestartPolicy};

fn positive(value: Option<i64>, field: &str) -> Result<Option<u64>, ApiError> {
    match value {
        None | Some(0) => Ok(None),
        Some(number) => u64::try_from(number)
            .map(Some)
            .map_err(|_| ApiError::invalid(format!("invalid {field} {number}: it cannot be negative"))),
    }
}

fn not_zero(value: Option<i64>) -> Option<i64> {
    value.filter(|number| *number != 0)
}

fn throttles(list: Option<Vec<models::ThrottleDevice>>, field: &str) -> Result<Vec<BlockLimit>, ApiError> {
    let limit = |item: models::ThrottleDevice| {
        let path = text(item.path).ok_or_else(|| ApiError::invalid(format!("{field} has an entry without a Path")))?;
        let rate = item.rate.unwrap_or(0);
        let rate =
            u64::try_from(rate).map_err(|_| ApiError::invalid(format!("invalid rate {rate} for {path} in {field}")))?;
        Ok(BlockLimit { path, rate })
    };
    list.unwrap_or_default().into_iter().map(limit).collect()
}

fn weights(list: Option<Vec<models::ResourcesBlkioWeightDevice>>) -> Result<Vec<BlockLimit>, ApiError> {
    let limit = |item: models::ResourcesBlkioWeightDevice| {
        let path = text(item.path).ok_or_else(|| ApiError::invalid("BlkioWeightDevice has an entry without a Path"))?;
        Ok(BlockLimit { path, rate: item.weight.unwrap_or(0) as u64 })
    };
    list.unwrap_or_default().into_iter().map(limit).collect()
}

/// Takes the limits out of a host configuration.
pub(crate) fn take(host: &mut HostConfig) -> Result<Resources, ApiError> {
    for (value, field) in [
        (host.cpu_count, "HostConfig.CpuCount"),
        (host.cpu_percent, "HostConfig.CpuPercent"),
        (host.io_maximum_iops, "HostConfig.IOMaximumIOps"),
        (host.io_maximum_bandwidth, "HostConfig.IOMaximumBandwidth"),
    ] {
        refuse(not_zero(value).is_some(), field, "it is for Windows containers")?;
    }
    let nano_cpus = not_zero(host.nano_cpus);
    if nano_cpus.is_some() && (not_zero(host.cpu_quota).is_some() || not_zero(host.cpu_period).is_some()) {
        return Err(ApiError::invalid(
            "conflicting options: NanoCpus (--cpus) cannot be set together with CpuPeriod or CpuQuota",
        ));
    }
    Ok(Resources {
        memory_bytes: not_zero(host.memory),
        memory_swap_bytes: not_zero(host.memory_swap),
        memory_reservation_bytes: not_zero(host.memory_reservation),
        memory_swappiness: host.memory_swappiness.filter(|value| *value != -1),
        oom_kill_disable: host.oom_kill_disable.unwrap_or(false),
        nano_cpus,
        cpu_shares: positive(host.cpu_shares, "CpuShares")?,
        cpu_period_us: positive(host.cpu_period, "CpuPeriod")?,
        cpu_quota_us: not_zero(host.cpu_quota),
        cpu_rt_period_us: positive(host.cpu_realtime_period, "CpuRealtimePeriod")?,
        cpu_rt_runtime_us: not_zero(host.cpu_realtime_runtime),
        cpuset_cpus: text(host.cpuset_cpus.take()),
        cpuset_mems: text(host.cpuset_mems.take()),
        // not set and 0 are the kernel's default; -1 lifts a limit that was set before
        pids_limit: not_zero(host.pids_limit),
        blkio_weight: host.blkio_weight.filter(|weight| *weight != 0),
        blkio_weight_device: weights(host.blkio_weight_device.take())?,
        device_read_bps: throttles(host.blkio_device_read_bps.take(), "BlkioDeviceReadBps")?,
        device_write_bps: throttles(host.blkio_device_write_bps.take(), "BlkioDeviceWriteBps")?,
        device_read_iops: throttles(host.blkio_device_read_iops.take(), "BlkioDeviceReadIOps")?,
        device_write_iops: throttles(host.blkio_device_write_iops.take(), "BlkioDeviceWriteIOps")?,
    })
}

/// Docker's restart policy in ours; `None` if none was given.
pub(crate) fn restart(policy: Option<models::RestartPolicy>) -> Result<Option<RestartPolicy>, ApiError> {
    use models::RestartPolicyNameEnum as Name;
    let Some(policy) = policy else { return Ok(None) };
    let retries = policy.maximum_retry_count.unwrap_or(0);
    let bounded = match policy.name {
        Some(Name::ON_FAILURE) => {
            let max_retries = u32::try_from(retries)
                .map_err(|_| ApiError::invalid("invalid restart policy: maximum retry count cannot be negative"))?;
            return Ok(Some(RestartPolicy::OnFailure { max_retries }));
        }
        None | Some(Name::EMPTY) => None,
        Some(Name::NO) => Some(RestartPolicy::No),
        Some(Name::ALWAYS) => Some(RestartPolicy::Always),
        Some(Name::UNLESS_STOPPED) => Some(RestartPolicy::UnlessStopped),
    };
    if retries != 0 {
        return Err(ApiError::invalid(if retries < 0 {
            "invalid restart policy: maximum retry count cannot be negative"
        } else {
            "invalid restart policy: maximum retry count cannot be used with restart policy other than 'on-failure'"
        }));
    }
    Ok(bounded)
}

fn throttles_back(list: &[BlockLimit]) -> Option<Vec<models::ThrottleDevice>> {
    let device = |limit: &BlockLimit| models::ThrottleDevice {
        path: Some(limit.path.clone()),
        rate: Some(i64::try_from(limit.rate).unwrap_or(i64::MAX)),
    };
    Some(list.iter().map(device).collect())
}

fn signed(value: Option<u64>) -> Option<i64> {
    Some(value.map_or(0, |number| i64::try_from(number).unwrap_or(i64::MAX)))
}

/// Shows limits in a host configuration.
pub(crate) fn show(resources: &Resources, host: &mut HostConfig) {
    let weight = |limit: &BlockLimit| models::ResourcesBlkioWeightDevice {
        path: Some(limit.path.clone()),
        weight: usize::try_from(limit.rate).ok(),
    };
    host.memory = Some(resources.memory_bytes.unwrap_or(0));
    host.memory_swap = Some(resources.memory_swap_bytes.unwrap_or(0));
    host.memory_reservation = Some(resources.memory_reservation_bytes.unwrap_or(0));
    host.memory_swappiness = resources.memory_swappiness;
    host.oom_kill_disable = Some(resources.oom_kill_disable);
    host.nano_cpus = Some(resources.nano_cpus.unwrap_or(0));
    host.cpu_shares = signed(resources.cpu_shares);
    host.cpu_period = signed(resources.cpu_period_us);
    host.cpu_quota = Some(resources.cpu_quota_us.unwrap_or(0));
    host.cpu_realtime_period = signed(resources.cpu_rt_period_us);
    host.cpu_realtime_runtime = Some(resources.cpu_rt_runtime_us.unwrap_or(0));
    host.cpuset_cpus = Some(resources.cpuset_cpus.clone().unwrap_or_default());
    host.cpuset_mems = Some(resources.cpuset_mems.clone().unwrap_or_default());
    host.pids_limit = resources.pids_limit;
    host.blkio_weight = Some(resources.blkio_weight.unwrap_or(0));
    host.blkio_weight_device = Some(resources.blkio_weight_device.iter().map(weight).collect());
    host.blkio_device_read_bps = throttles_back(&resources.device_read_bps);
    host.blkio_device_write_bps = throttles_back(&resources.device_write_bps);
    host.blkio_device_read_iops = throttles_back(&resources.device_read_iops);
    host.blkio_device_write_iops = throttles_back(&resources.device_write_iops);
    host.cpu_count = Some(0);
    host.cpu_percent = Some(0);
    host.io_maximum_iops = Some(0);
    host.io_maximum_bandwidth = Some(0);
}

/// Shows a restart policy.
pub(crate) fn show_restart(policy: RestartPolicy) -> models::RestartPolicy {
    use models::RestartPolicyNameEnum as Name;
    let (name, retries) = match policy {
        RestartPolicy::No => (Name::NO, 0),
        RestartPolicy::Always => (Name::ALWAYS, 0),
        RestartPolicy::UnlessStopped => (Name::UNLESS_STOPPED, 0),
        RestartPolicy::OnFailure { max_retries } => (Name::ON_FAILURE, max_retries),
    };
    models::RestartPolicy { name: Some(name), maximum_retry_count: Some(retries.into()) }
}
