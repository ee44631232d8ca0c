//! Limits and weights: checks as Docker makes them, then the OCI form.

use super::{Host, devices};
use crate::error::{EngineError, Result};
use crate::model::{BlockLimit, Resources};
use oci_spec::runtime::{
    LinuxBlockIo, LinuxCpu, LinuxDeviceCgroup, LinuxMemory, LinuxPidsBuilder, LinuxResources, LinuxThrottleDevice,
    LinuxThrottleDeviceBuilder, LinuxWeightDeviceBuilder,
};

/// Below this a container cannot even start: 6 MiB, as Docker has it.
pub(crate) const MINIMUM_MEMORY: i64 = 6 << 20;
const DEFAULT_PERIOD_US: u64 = 100_000;

/// Checks the values against each other and the host.
///
/// # Errors
/// [`crate::ErrorClass::Invalid`], naming the flag.
pub(crate) fn check(asked: &Resources, host: &Host) -> Result<Vec<String>> {
    let mut warnings = Vec::new();
    memory(asked, &mut warnings)?;
    cpu(asked, host)?;
    if asked.blkio_weight.is_some_and(|weight| weight != 0 && !(10..=1000).contains(&weight)) {
        return Err(EngineError::invalid("Range of blkio weight is from 10 to 1000"));
    }
    for (list, set) in [("--cpuset-cpus", &asked.cpuset_cpus), ("--cpuset-mems", &asked.cpuset_mems)] {
        if let Some(set) = set.as_deref().filter(|set| !set.is_empty()) {
            cpuset(list, set, host)?;
        }
    }
    Ok(warnings)
}

fn memory(asked: &Resources, warnings: &mut Vec<String>) -> Result<()> {
    let limit = set(asked.memory_bytes);
    let both = set(asked.memory_swap_bytes);
    let soft = set(asked.memory_reservation_bytes);
    if limit.is_some_and(|limit| limit < MINIMUM_MEMORY) {
        return Err(EngineError::invalid("Minimum memory limit allowed is 6MB; give -m 6m or more"));
    }
    match (limit, both) {
        (None, Some(both)) if both > 0 => {
            return Err(EngineError::invalid(
                "You should always set the Memory limit when using Memoryswap limit, see usage: give -m with --memory-swap",
            ));
        }
        (Some(limit), Some(both)) if both > 0 && both < limit => {
            return Err(EngineError::invalid(
                "Minimum memoryswap limit should be larger than memory limit, see usage: --memory-swap counts memory and swap together",
            ));
        }
        _ => {}
    }
    if soft.is_some_and(|soft| soft < MINIMUM_MEMORY) {
        return Err(EngineError::invalid("Minimum memory reservation allowed is 6MB"));
    }
    if let (Some(limit), Some(soft)) = (limit, soft)
        && limit < soft
    {
        return Err(EngineError::invalid(
            "Minimum memory limit can not be less than memory reservation limit, see usage",
        ));
    }
    if asked.memory_swappiness.is_some_and(|value| !(-1..=100).contains(&value)) {
        return Err(EngineError::invalid(
            "Invalid value for --memory-swappiness, valid memory swappiness range is 0-100",
        ));
    }
    if asked.oom_kill_disable && limit.is_none() {
        warnings.push(
            "OOM killer is disabled for the container, but no memory limit is set: this can starve the host".into(),
        );
    }
    Ok(())
}

fn cpu(asked: &Resources, host: &Host) -> Result<()> {
    if let Some(nano) = set(asked.nano_cpus) {
        let most = i64::from(host.cpus) * 1_000_000_000;
        if nano < 10_000_000 || nano > most {
            return Err(EngineError::invalid(format!(
                "Range of CPUs is from 0.01 to {}.00, as there are only {} CPUs available",
                host.cpus, host.cpus
            )));
        }
        if asked.cpu_quota_us.unwrap_or(0) != 0 || asked.cpu_period_us.unwrap_or(0) != 0 {
            return Err(EngineError::invalid(
                "Conflicting options: Nano CPUs and CPU Period cannot both be set: --cpus stands for --cpu-quota and --cpu-period",
            ));
        }
    }
    if asked.cpu_period_us.is_some_and(|period| period != 0 && !(1_000..=1_000_000).contains(&period)) {
        return Err(EngineError::invalid(
            "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)",
        ));
    }
    if asked.cpu_quota_us.is_some_and(|quota| quota > 0 && quota < 1_000) {
        return Err(EngineError::invalid("CPU cfs quota can not be less than 1ms (i.e. 1000)"));
    }
    Ok(())
}

fn set(value: Option<i64>) -> Option<i64> {
    value.filter(|value| *value != 0)
}

fn cpuset(flag: &str, list: &str, host: &Host) -> Result<()> {
    let bad = || {
        let words = flag.trim_start_matches('-').replace('-', " ");
        EngineError::invalid(format!("Invalid value {list} for {words} ({flag}); give numbers and ranges as in 0-2,5"))
    };
    let is_number = |part: &str| part.trim().parse::<u32>().is_ok();
    if !list.split(',').flat_map(|part| part.splitn(2, '-')).all(is_number) {
        return Err(bad());
    }
    for part in list.split(',') {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        let from: u32 = from.trim().parse().map_err(|_| bad())?;
        let to: u32 = to.trim().parse().map_err(|_| bad())?;
        if from > to {
            return Err(bad());
        }
        if flag == "--cpuset-cpus" && to >= host.cpus {
            return Err(EngineError::invalid(format!(
                "Requested CPUs are not available - requested {list}, available: 0-{}",
                host.cpus.saturating_sub(1)
            )));
        }
    }
    Ok(())
}

/// The OCI form.
///
/// # Errors
/// [`crate::ErrorClass::Invalid`] if a rate limit names no block device.
pub(crate) fn plan(asked: &Resources, rules: Vec<LinuxDeviceCgroup>) -> Result<LinuxResources> {
    let mut resources = LinuxResources::default();
    if !rules.is_empty() {
        resources.set_devices(Some(rules));
    }
    resources.set_memory(plan_memory(asked)).set_cpu(plan_cpu(asked)).set_block_io(plan_block(asked)?);
    if let Some(limit) = asked.pids_limit {
        // below 1: any number, which lifts a limit that was set before
        let limit = if limit > 0 { limit } else { -1 };
        resources.set_pids(LinuxPidsBuilder::default().limit(limit).build().ok());
    }
    Ok(resources)
}

fn plan_memory(asked: &Resources) -> Option<LinuxMemory> {
    let mut memory = LinuxMemory::default();
    let limit = set(asked.memory_bytes);
    // as Docker: as much swap as memory, unless said otherwise
    let both = set(asked.memory_swap_bytes).or(limit.map(|limit| limit.saturating_mul(2)));
    memory
        .set_limit(limit)
        .set_swap(both)
        .set_reservation(set(asked.memory_reservation_bytes))
        .set_swappiness(asked.memory_swappiness.and_then(|value| u64::try_from(value).ok()))
        .set_disable_oom_killer(asked.oom_kill_disable.then_some(true));
    (memory != LinuxMemory::default()).then_some(memory)
}

fn plan_cpu(asked: &Resources) -> Option<LinuxCpu> {
    let mut cpu = LinuxCpu::default();
    let (quota, period) = match set(asked.nano_cpus) {
        Some(nano) => (Some(nano / 10_000), Some(DEFAULT_PERIOD_US)),
        None => (set(asked.cpu_quota_us), asked.cpu_period_us.filter(|period| *period != 0)),
    };
    cpu.set_shares(asked.cpu_shares.filter(|shares| *shares != 0))
        .set_quota(quota)
        .set_period(period)
        .set_realtime_period(asked.cpu_rt_period_us.filter(|period| *period != 0))
        .set_realtime_runtime(set(asked.cpu_rt_runtime_us))
        .set_cpus(asked.cpuset_cpus.clone().filter(|list| !list.is_empty()))
        .set_mems(asked.cpuset_mems.clone().filter(|list| !list.is_empty()));
    (cpu != LinuxCpu::default()).then_some(cpu)
}

fn plan_block(asked: &Resources) -> Result<Option<LinuxBlockIo>> {
    let mut block = LinuxBlockIo::default();
    let mut weights = Vec::new();
    for limit in &asked.blkio_weight_device {
        let (major, minor) = devices::block_numbers(&limit.path, "--blkio-weight-device")?;
        let weight =
            u16::try_from(limit.rate).map_err(|_| EngineError::invalid("Range of blkio weight is from 10 to 1000"))?;
        weights.extend(LinuxWeightDeviceBuilder::default().major(major).minor(minor).weight(weight).build());
    }
    block
        .set_weight(asked.blkio_weight.filter(|weight| *weight != 0))
        .set_weight_device((!weights.is_empty()).then_some(weights))
        .set_throttle_read_bps_device(throttle(&asked.device_read_bps, "--device-read-bps")?)
        .set_throttle_write_bps_device(throttle(&asked.device_write_bps, "--device-write-bps")?)
        .set_throttle_read_iops_device(throttle(&asked.device_read_iops, "--device-read-iops")?)
        .set_throttle_write_iops_device(throttle(&asked.device_write_iops, "--device-write-iops")?);
    Ok((block != LinuxBlockIo::default()).then_some(block))
}

fn throttle(limits: &[BlockLimit], flag: &str) -> Result<Option<Vec<LinuxThrottleDevice>>> {
    let mut list = Vec::new();
    for limit in limits {
        let (major, minor) = devices::block_numbers(&limit.path, flag)?;
        list.extend(LinuxThrottleDeviceBuilder::default().major(major).minor(minor).rate(limit.rate).build());
    }
    Ok((!list.is_empty()).then_some(list))
}
