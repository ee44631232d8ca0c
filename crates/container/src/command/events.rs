//! `events`: what a container uses, now or again and again, and when its memory runs out.

use super::flags::{Command, Flag, Order, Parsed};
use super::{Context, Failure, Outcome, print};
use crate::error::Doing as _;
use crate::runtime::life::Known;
use crate::runtime::status::{self, Status};
use cgroup::{BlockUsage, Group, Usage};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::{Map, Value, json};
use std::time::Duration;

static FLAGS: [Flag; 2] = [
    Flag::value("interval", "time between two reports, such as 500ms or 1m (default: 5s)"),
    Flag::switch("stats", "one report, then end"),
];

pub(super) static COMMAND: Command = Command {
    name: "events",
    usage: "[FLAGS] ID",
    about: "print what a container uses and when its memory runs out",
    flags: &[&FLAGS],
    order: Order::Mixed,
    arguments: (1, 1),
    failure_code: 1,
    run,
};

/// What the kernel of version 1 shows for no limit: the largest number of whole pages.
const NO_LIMIT: u64 = 0x7fff_ffff_ffff_f000;

fn run(context: &Context, parsed: &Parsed) -> Outcome {
    let interval = match parsed.value("interval").filter(|text| !text.is_empty()) {
        None => Duration::from_secs(5),
        Some(text) => {
            duration(text).ok_or_else(|| Failure::new(format!("invalid duration {text:?}: write 5s or 500ms")))?
        }
    };
    if interval.is_zero() {
        return Err(Failure::new("duration interval must be greater than 0"));
    }
    let known = Known::find(&context.root, parsed.id())?;
    if matches!(known.status, Status::Stopped | Status::Creating) {
        return Err(Failure::new("container with id ".to_owned() + parsed.id() + " is not running"));
    }
    let group = known.group()?;
    if parsed.on("stats") {
        report(parsed.id(), &group)?;
        return Ok(0);
    }
    let (birth, pidfd) = known.init()?;
    let mut killed = group.oom_kills().unwrap_or(0);
    loop {
        let wait = Timespec::try_from(interval).map_err(|error| Failure::new(error.to_string()))?;
        let ended = match poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&wait)) {
            Ok(ready) => ready > 0,
            Err(rustix::io::Errno::INTR) => false,
            Err(errno) => return Err(Failure::new(format!("poll: {errno}"))),
        };
        let now = group.oom_kills().unwrap_or(killed);
        if now > killed {
            killed = now;
            print(&format!("{{\"type\":\"oom\",\"id\":{}}}\n", json!(parsed.id())));
        }
        if ended || status::of(Some(birth)) == Status::Stopped {
            return Ok(0);
        }
        report(parsed.id(), &group)?;
    }
}

fn report(id: &str, group: &Group) -> Result<(), Failure> {
    let usage = group.usage().doing(|| "cannot read what the container uses")?;
    print(&format!("{}\n", json!({"type": "stats", "id": id, "data": data(&usage)})));
    Ok(())
}

fn data(usage: &Usage) -> Value {
    let (cpu, memory) = (&usage.cpu, &usage.memory);
    let limit = memory.limit.unwrap_or(NO_LIMIT);
    json!({
        "cpu": {
            "usage": {
                "total": cpu.total_ns,
                "percpu": cpu.per_cpu_ns,
                "kernel": cpu.system_ns,
                "user": cpu.user_ns,
            },
            "throttling": plain([
                ("periods", cpu.throttling.periods),
                ("throttledPeriods", cpu.throttling.throttled_periods),
                ("throttledTime", cpu.throttling.throttled_ns),
            ]),
        },
        "memory": {
            "cache": memory.cache,
            "usage": {"limit": limit, "usage": memory.bytes, "max": memory.max_bytes, "failcnt": memory.failures},
            "swap": {"limit": 0, "usage": memory.swap, "failcnt": 0},
            "kernel": {"limit": 0, "failcnt": 0},
            "kernelTCP": {"limit": 0, "failcnt": 0},
            "raw": memory.stat,
        },
        "pids": plain([("current", usage.pids), ("limit", usage.pids_limit.unwrap_or(0))]),
        "blkio": blkio(&usage.block),
        "hugetlb": {},
        "intel_rdt": {},
        "network_interfaces": null,
    })
}

/// Numbers that are left out when they are 0.
fn plain<const N: usize>(all: [(&str, u64); N]) -> Map<String, Value> {
    all.into_iter().filter(|(_, number)| *number > 0).map(|(name, number)| (name.to_owned(), number.into())).collect()
}

fn blkio(all: &[BlockUsage]) -> Value {
    if all.is_empty() {
        return json!({});
    }
    let entries = |pick: fn(&BlockUsage) -> [(&'static str, u64); 2]| -> Vec<Value> {
        let entry = |one: &BlockUsage| {
            pick(one).map(|(op, value)| json!({"major": one.major, "minor": one.minor, "op": op, "value": value}))
        };
        all.iter().flat_map(entry).collect()
    };
    json!({
        "ioServiceBytesRecursive": entries(|one| [("Read", one.read_bytes), ("Write", one.write_bytes)]),
        "ioServicedRecursive": entries(|one| [("Read", one.read_ops), ("Write", one.write_ops)]),
    })
}

/// A duration as Go writes it: 1h2m3.5s, 500ms.
fn duration(text: &str) -> Option<Duration> {
    let mut left = text;
    let mut sum = 0.0_f64;
    while !left.is_empty() {
        let end = left.find(|letter: char| !letter.is_ascii_digit() && letter != '.')?;
        let number: f64 = left.get(..end)?.parse().ok()?;
        left = left.get(end..)?;
        let unit_end = left.find(|letter: char| letter.is_ascii_digit()).unwrap_or(left.len());
        let scale = match left.get(..unit_end)? {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        sum += number * scale;
        left = left.get(unit_end..)?;
    }
    Duration::try_from_secs_f64(sum).ok().filter(|_| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_gos() {
        for (text, want) in [("5s", 5_000), ("500ms", 500), ("1m30s", 90_000), ("1.5s", 1_500)] {
            assert_eq!(duration(text), Some(Duration::from_millis(want)), "{text}");
        }
        for bad in ["", "5", "s", "5x", "-1s"] {
            assert_eq!(duration(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_report_has_the_parts_that_engines_read() {
        let data = data(&Usage::default());
        for part in ["cpu", "memory", "pids", "blkio", "hugetlb", "intel_rdt"] {
            assert!(data.get(part).is_some(), "{part}");
        }
        assert_eq!(data["memory"]["usage"]["limit"], NO_LIMIT);
    }
}
