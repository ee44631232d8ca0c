//! `update`: changes limits of a container.

use super::flags::{Command, Flag, Order, Parsed};
use super::{Context, Failure, Outcome};
use crate::error::Doing as _;
use crate::runtime::config;
use crate::runtime::life::Known;
use crate::runtime::status::Status;
use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxIntelRdt, LinuxMemory, LinuxPids, LinuxResources};
use std::io::Read as _;
use std::path::Path;

static FLAGS: [Flag; 20] = [
    Flag::value("blkio-weight", "relative weight of block input and output, 10 to 1000"),
    Flag::value("cpu-burst", "processor time that may be saved up, in microseconds"),
    Flag::value("cpu-idle", "1 for a group that only gets idle processors"),
    Flag::value("cpu-period", "period of the processor quota, in microseconds"),
    Flag::value("cpu-quota", "processor time in a period, in microseconds"),
    Flag::value("cpu-rt-period", "period of the real-time quota, in microseconds"),
    Flag::value("cpu-rt-runtime", "real-time processor time in a period, in microseconds"),
    Flag::value("cpu-share", "relative weight of processor time"),
    Flag::value("cpuset-cpus", "processors to use"),
    Flag::value("cpuset-mems", "memory nodes to use"),
    Flag::value("kernel-memory", "ignored, as kernels do"),
    Flag::value("kernel-memory-tcp", "ignored, as kernels do"),
    Flag::value("l3-cache-schema", "schema of the third-level cache"),
    Flag::value("mem-bw-schema", "schema of the memory bandwidth"),
    Flag::value("memory", "memory, in bytes or with k, m, g; -1 for no limit"),
    Flag::value("memory-reservation", "memory that is left to it under pressure"),
    Flag::value("memory-swap", "memory and swap together; -1 for no limit"),
    Flag::value("pids-limit", "number of processes; -1 for no limit"),
    Flag::value("resources", "a file with resources as in a configuration, or - for standard input").letter('r'),
    Flag::switch("systemd-cgroup", "ignored here; see the flag before the command"),
];

pub(super) static COMMAND: Command = Command {
    name: "update",
    usage: "[FLAGS] ID",
    about: "change limits of a container",
    flags: &[&FLAGS],
    order: Order::Mixed,
    arguments: (1, 1),
    failure_code: 1,
    run,
};

/// What of a configuration a file of resources is.
const PART: &str = "linux.resources";

fn run(context: &Context, parsed: &Parsed) -> Outcome {
    let known = Known::find(&context.root, parsed.id())?;
    if matches!(known.status, Status::Stopped | Status::Creating) {
        return Err(Failure::new("container not running"));
    }
    let mut resources = match parsed.value("resources").filter(|path| !path.is_empty()) {
        Some("-") => {
            let mut bytes = Vec::new();
            let read = std::io::stdin().take(config::MOST_BYTES).read_to_end(&mut bytes);
            read.map_err(|error| Failure::new(format!("standard input: {error}")))?;
            crate::check::objects(&bytes, PART)?;
            config::parse(&bytes, "standard input")?
        }
        Some(path) => {
            let bytes = config::read(Path::new(path))?;
            crate::check::objects(&bytes, PART)?;
            config::parse::<LinuxResources>(&bytes, path)?
        }
        None => from_flags(parsed)?,
    };
    let shares = shares(parsed);
    let class = known.birth.as_ref().and_then(|birth| birth.resctrl.as_ref());
    if shares.is_some() && class.is_none() {
        return Err(Failure::new(
            "--l3-cache-schema, --mem-bw-schema: the container has no class of service; give it one by linux.intelRdt",
        ));
    }
    // what a container may do with devices is not changed
    resources.set_devices(None);
    let applied = known.group()?.apply(&resources).doing(|| "cannot change the limits")?;
    applied.warnings.iter().for_each(|text| context.log.warn(text));
    if let Some(scope) = known.record.unit() {
        crate::runtime::group::tell(&scope, &resources)?;
    }
    if let (Some(shares), Some(class)) = (&shares, class) {
        class.apply(shares).doing(|| "cannot change the shares of cache and bandwidth")?;
    }
    Ok(0)
}

/// The shares of cache and memory bandwidth that are asked for.
fn shares(parsed: &Parsed) -> Option<LinuxIntelRdt> {
    let text = |name: &str| parsed.value(name).filter(|text| !text.is_empty()).map(str::to_owned);
    let (cache, bandwidth) = (text("l3-cache-schema"), text("mem-bw-schema"));
    if cache.is_none() && bandwidth.is_none() {
        return None;
    }
    let mut shares = LinuxIntelRdt::default();
    shares.set_l3_cache_schema(cache).set_mem_bw_schema(bandwidth);
    Some(shares)
}

fn from_flags(parsed: &Parsed) -> Result<LinuxResources, Failure> {
    let mut resources = LinuxResources::default();
    let given = |names: &[&str]| names.iter().any(|name| parsed.value(name).is_some_and(|text| !text.is_empty()));
    if given(&["memory", "memory-reservation", "memory-swap"]) {
        let mut memory = LinuxMemory::default();
        memory.set_limit(bytes(parsed, "memory")?);
        memory.set_reservation(bytes(parsed, "memory-reservation")?);
        memory.set_swap(bytes(parsed, "memory-swap")?);
        resources.set_memory(Some(memory));
    }
    let of_cpu = FLAGS.iter().map(|flag| flag.name).filter(|name| name.starts_with("cpu")).collect::<Vec<_>>();
    if given(&of_cpu) {
        let text = |name: &str| parsed.value(name).filter(|text| !text.is_empty()).map(str::to_owned);
        let mut cpu = LinuxCpu::default();
        cpu.set_shares(parsed.number("cpu-share")?);
        cpu.set_quota(parsed.number("cpu-quota")?);
        cpu.set_period(parsed.number("cpu-period")?);
        cpu.set_burst(parsed.number("cpu-burst")?);
        cpu.set_idle(parsed.number("cpu-idle")?);
        cpu.set_realtime_runtime(parsed.number("cpu-rt-runtime")?);
        cpu.set_realtime_period(parsed.number("cpu-rt-period")?);
        cpu.set_cpus(text("cpuset-cpus")).set_mems(text("cpuset-mems"));
        resources.set_cpu(Some(cpu));
    }
    if let Some(weight) = parsed.number("blkio-weight")? {
        let mut block = LinuxBlockIo::default();
        block.set_weight(Some(weight));
        resources.set_block_io(Some(block));
    }
    if let Some(limit) = parsed.number("pids-limit")? {
        let mut pids = LinuxPids::default();
        pids.set_limit(limit);
        resources.set_pids(Some(pids));
    }
    Ok(resources)
}

/// A number of bytes: plain, -1, or with a unit of 1024s.
fn bytes(parsed: &Parsed, name: &str) -> Result<Option<i64>, Failure> {
    let Some(text) = parsed.value(name).filter(|text| !text.is_empty()) else { return Ok(None) };
    size(text).map(Some).ok_or_else(|| Failure::new(format!("invalid value for {name}: {text:?}; write 512m or -1")))
}

fn size(text: &str) -> Option<i64> {
    if let Ok(number) = text.parse() {
        return Some(number);
    }
    let lower = text.to_ascii_lowercase();
    let digits = lower.trim_end_matches(|letter: char| letter.is_ascii_alphabetic()).trim_end();
    let unit = lower.get(digits.len()..)?.trim();
    let power = "bkmgtp".find(unit.chars().next()?)?;
    if !matches!(unit.get(1..)?, "" | "b" | "ib") {
        return None;
    }
    let scale = 1024_i64.checked_pow(u32::try_from(power).ok()?)?;
    digits.parse::<i64>().ok()?.checked_mul(scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        for (text, want) in
            [("-1", -1), ("0", 0), ("1024", 1024), ("2k", 2048), ("1M", 1 << 20), ("3GiB", 3 << 30), ("5 mb", 5 << 20)]
        {
            assert_eq!(size(text), Some(want), "{text}");
        }
        for bad in ["", "m", "1x", "1mm", "99999999999p"] {
            assert_eq!(size(bad), None, "{bad}");
        }
    }
}
