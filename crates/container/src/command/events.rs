//! `events`: what a container uses, now or again and again, and when its memory runs out.

use super::flags::{Command, Flag, Order, Parsed};
use super::{Context, Failure, Outcome, print};
use crate::error::Doing as _;
use crate::runtime::life::Known;
use crate::runtime::status::{self, Status};
use cgroup::{Group, OomNews, Stats};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::Serialize;
use std::time::{Duration, Instant};

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
    let mut memory = group.watch_oom().ok();
    let mut next = Instant::now() + interval;
    loop {
        let left = next.saturating_duration_since(Instant::now());
        let wait = Timespec::try_from(left).map_err(|error| Failure::new(error.to_string()))?;
        let mut fds = vec![PollFd::new(&pidfd, PollFlags::IN)];
        fds.extend(memory.iter().map(|watch| PollFd::new(watch, PollFlags::IN)));
        match poll(&mut fds, Some(&wait)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(Failure::new(format!("poll: {errno}"))),
        }
        let ended = fds.first().is_some_and(|fd| !fd.revents().is_empty());
        drop(fds);
        match memory.as_mut().map(cgroup::OomWatch::take) {
            None | Some(Ok(OomNews::Nothing)) => {}
            Some(Ok(OomNews::OutOfMemory)) => say(&Event { kind: "oom", id: parsed.id(), data: None })?,
            Some(Ok(OomNews::Gone) | Err(_)) => memory = None,
        }
        if ended || status::of(Some(birth)) == Status::Stopped {
            return Ok(0);
        }
        if Instant::now() >= next {
            next += interval;
            report(parsed.id(), &group)?;
        }
    }
}

fn report(id: &str, group: &Group) -> Result<(), Failure> {
    let data = group.stats().doing(|| "cannot read what the container uses")?;
    say(&Event { kind: "stats", id, data: Some(data) })
}

/// A line of the output.
#[derive(Debug, Serialize)]
struct Event<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Stats>,
}

fn say(event: &Event<'_>) -> Result<(), Failure> {
    let text = serde_json::to_string(event).map_err(|error| Failure::new(error.to_string()))?;
    print(&format!("{text}\n"));
    Ok(())
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
}
