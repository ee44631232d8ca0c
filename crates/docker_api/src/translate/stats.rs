//! A sample of what a container uses, as `docker stats` reads it.

use super::time::{NEVER, rfc3339};
use docker_wire::models::{
    ContainerBlkioStatEntry, ContainerBlkioStats, ContainerCpuStats, ContainerCpuUsage, ContainerMemoryStats,
    ContainerNetworkStats, ContainerPidsStats, ContainerStatsResponse, ContainerStorageStats, ContainerThrottlingData,
};
use engine::Usage;
use engine::model::Container;

/// The sample, with the one before it to compare with. Without a limit of its own a container may use the host's memory.
pub(crate) fn sample(
    container: &Container,
    host_memory_bytes: u64,
    usage: &Usage,
    before: Option<&Usage>,
) -> ContainerStatsResponse {
    let group = &usage.group;
    let networks = usage.links.iter().map(|link| {
        let counters = ContainerNetworkStats {
            rx_bytes: Some(link.rx_bytes),
            rx_packets: Some(link.rx_packets),
            rx_errors: Some(link.rx_errors),
            rx_dropped: Some(link.rx_dropped),
            tx_bytes: Some(link.tx_bytes),
            tx_packets: Some(link.tx_packets),
            tx_errors: Some(link.tx_errors),
            tx_dropped: Some(link.tx_dropped),
            ..Default::default()
        };
        (link.name.clone(), counters)
    });
    ContainerStatsResponse {
        id: Some(container.id.to_string()),
        name: Some(format!("/{}", container.name)),
        os_type: Some("linux".to_owned()),
        read: Some(rfc3339(usage.at_ns)),
        preread: Some(before.map_or_else(|| NEVER.to_owned(), |before| rfc3339(before.at_ns))),
        cpu_stats: Some(cpu(usage)),
        precpu_stats: Some(before.map(cpu).unwrap_or_default()),
        memory_stats: Some(memory(usage, host_memory_bytes)),
        networks: Some(networks.collect()),
        pids_stats: Some(ContainerPidsStats {
            current: Some(group.pids),
            limit: Some(group.pids_limit.unwrap_or(u64::MAX)),
        }),
        blkio_stats: Some(block(usage)),
        num_procs: Some(0),
        storage_stats: Some(ContainerStorageStats::default()),
    }
}

fn cpu(usage: &Usage) -> ContainerCpuStats {
    let cpu = &usage.group.cpu;
    ContainerCpuStats {
        cpu_usage: Some(ContainerCpuUsage {
            total_usage: Some(cpu.total_ns),
            percpu_usage: Some(cpu.per_cpu_ns.clone()).filter(|list| !list.is_empty()),
            usage_in_kernelmode: Some(cpu.system_ns),
            usage_in_usermode: Some(cpu.user_ns),
        }),
        system_cpu_usage: Some(usage.host_cpu_ns),
        online_cpus: Some(usage.cpus),
        throttling_data: Some(ContainerThrottlingData {
            periods: Some(cpu.throttling.periods),
            throttled_periods: Some(cpu.throttling.throttled_periods),
            throttled_time: Some(cpu.throttling.throttled_ns),
        }),
    }
}

fn memory(usage: &Usage, host_memory_bytes: u64) -> ContainerMemoryStats {
    let memory = &usage.group.memory;
    // clients subtract the page cache that the kernel gives up first, under the name of the cgroup version that they guess
    let mut stats: std::collections::HashMap<String, u64> = memory.stat.clone().into_iter().collect();
    if !stats.is_empty() {
        stats.entry("inactive_file".to_owned()).or_insert(memory.inactive_file);
    }
    ContainerMemoryStats {
        usage: Some(memory.bytes),
        max_usage: Some(memory.max_bytes),
        stats: Some(stats),
        failcnt: Some(memory.failures),
        limit: Some(memory.limit.unwrap_or(host_memory_bytes)),
        ..Default::default()
    }
}

fn block(usage: &Usage) -> ContainerBlkioStats {
    let (mut bytes, mut operations) = (Vec::new(), Vec::new());
    for device in &usage.group.block {
        let entry = |op: &str, value: u64| ContainerBlkioStatEntry {
            major: Some(device.major.into()),
            minor: Some(device.minor.into()),
            op: Some(op.to_owned()),
            value: Some(value),
        };
        bytes.extend([entry("read", device.read_bytes), entry("write", device.write_bytes)]);
        operations.extend([entry("read", device.read_ops), entry("write", device.write_ops)]);
    }
    ContainerBlkioStats {
        io_service_bytes_recursive: Some(bytes),
        io_serviced_recursive: Some(operations),
        ..Default::default()
    }
}
