//! The limits of a container, which can be changed while it runs.

use docker_wire::models::{HostConfig, RestartPolicy, RestartPolicyNameEnum};

use crate::failure::Failure;
use crate::flags::{Flag, Parsed};
use crate::value::number;

/// The flags, which `run`, `create` and `update` have.
pub(crate) static FLAGS: &[Flag] = &[
    Flag::value("blkio-weight", "WEIGHT", "Share of block I/O, 10 to 1000"),
    Flag::value("cpu-period", "MICROSECONDS", "Length of a processor quota's period"),
    Flag::value("cpu-quota", "MICROSECONDS", "Processor time in a period"),
    Flag::value("cpu-shares", "SHARES", "Share of processor time where it is scarce").short('c'),
    Flag::value("cpus", "NUMBER", "Processors' worth of time, as in 1.5"),
    Flag::value("cpuset-cpus", "LIST", "Processors to run on, as in 0-2,4"),
    Flag::value("cpuset-mems", "LIST", "Memory nodes to use, as in 0,1"),
    Flag::value("memory", "BYTES", "Limit memory, as in 512m").short('m'),
    Flag::value("memory-reservation", "BYTES", "Memory to keep under pressure"),
    Flag::value("memory-swap", "BYTES", "Limit memory and swap together; -1 for no limit"),
    Flag::value("pids-limit", "NUMBER", "Limit processes and threads; -1 for no limit"),
    Flag::value("restart", "POLICY", "Start again: no, on-failure[:TIMES], always or unless-stopped"),
];

/// Reads them.
///
/// # Errors
/// Which flag is wrong, and why.
pub(crate) fn read(given: &Parsed) -> Result<HostConfig, Failure> {
    Ok(HostConfig {
        blkio_weight: given.read("blkio-weight", number::blkio_weight)?,
        cpu_period: given.read("cpu-period", number::integer)?,
        cpu_quota: given.read("cpu-quota", number::integer)?,
        cpu_shares: given.read("cpu-shares", number::integer)?,
        nano_cpus: given.read("cpus", number::nano_cpus)?,
        cpuset_cpus: given.read("cpuset-cpus", number::cpu_list)?,
        cpuset_mems: given.read("cpuset-mems", number::cpu_list)?,
        memory: given.read("memory", number::bytes)?,
        memory_reservation: given.read("memory-reservation", number::bytes)?,
        memory_swap: given.read("memory-swap", number::bytes_or_unlimited)?,
        pids_limit: given.read("pids-limit", number::integer)?,
        restart_policy: given.read("restart", restart_policy)?,
        ..HostConfig::default()
    })
}

/// Reads `no`, `always`, `unless-stopped`, `on-failure[:TIMES]`.
fn restart_policy(text: &str) -> Result<RestartPolicy, String> {
    let (name, times) = match text.split_once(':') {
        Some((name, times)) => (name, Some(times)),
        None => (text, None),
    };
    let known = match name {
        "" | "no" => RestartPolicyNameEnum::NO,
        "always" => RestartPolicyNameEnum::ALWAYS,
        "unless-stopped" => RestartPolicyNameEnum::UNLESS_STOPPED,
        "on-failure" => RestartPolicyNameEnum::ON_FAILURE,
        _ => return Err("give no, on-failure[:TIMES], always or unless-stopped".to_owned()),
    };
    let maximum_retry_count = match times {
        Some(_) if name != "on-failure" => return Err("only on-failure takes a number of times".to_owned()),
        Some(times) => match times.parse() {
            Ok(times @ 0..) => Some(times),
            _ => return Err(format!("{times:?} is not a number of times")),
        },
        None => None,
    };
    Ok(RestartPolicy { name: Some(known), maximum_retry_count })
}
