//! Wall time and processor time of a peer, and the memory of its helpers.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::{island, residue};

/// The bench's control groups: `/<name>/<peer>` with `client` for what we start and `work` for the peer's containers.
///
/// What a group used stays counted in its parent when it is removed, so one counter holds a peer's whole work.
pub(crate) struct Groups {
    name: String,
    hierarchy: PathBuf,
    home: PathBuf,
    counter: Counter,
}

#[derive(Clone, Copy)]
enum Counter {
    /// `cpuacct.usage`, nanoseconds.
    V1,
    /// `usage_usec` of `cpu.stat`, microseconds.
    V2,
}

/// One measured action.
#[derive(Clone, Copy)]
pub(crate) struct Sample {
    pub(crate) wall_ms: f64,
    pub(crate) cpu_ms: f64,
}

/// One measured action whose client is counted apart.
#[derive(Clone, Copy)]
pub(crate) struct Apart {
    pub(crate) wall_ms: f64,
    pub(crate) client_ms: f64,
    pub(crate) server_ms: f64,
}

/// The group of clients.
const CLIENTS: &str = "clients";

impl Groups {
    pub(crate) fn create() -> Result<Self> {
        let top = Path::new("/sys/fs/cgroup");
        let own = fs::read_to_string("/proc/self/cgroup").context("cannot read /proc/self/cgroup")?;
        let (hierarchy, counter) = if top.join("cpuacct").is_dir() {
            (top.join("cpuacct"), Counter::V1)
        } else if top.join("cgroup.controllers").is_file() {
            (top.to_owned(), Counter::V2)
        } else {
            bail!("neither a cpuacct hierarchy nor cgroup v2 is mounted below /sys/fs/cgroup");
        };
        let home = own_group(&own, counter).context("cannot find our own control group")?;
        let home = hierarchy.join(home.trim_start_matches('/'));
        Ok(Self { name: super::remains::groups(), hierarchy, home, counter })
    }

    /// The group for a peer's containers, as control group paths are written.
    pub(crate) fn work(&self, peer: &str) -> String {
        format!("/{}/{peer}/work", self.name)
    }

    /// Moves this process into the peer's group: what it starts from now on is counted there.
    pub(crate) fn enter(&self, peer: &str) -> Result<()> {
        let client = self.group(peer).join("client");
        fs::create_dir_all(&client).with_context(|| format!("cannot create {}", client.display()))?;
        fs::write(client.join("cgroup.procs"), std::process::id().to_string())
            .with_context(|| format!("cannot enter {}", client.display()))
    }

    /// Runs `action` in the peer's group; processor time is read once the peer has come to rest.
    pub(crate) fn measure(&self, peer: &str, action: impl FnOnce() -> Result<()>) -> Result<Sample> {
        self.enter(peer)?;
        let before = self.settled(peer)?;
        let begin = Instant::now();
        action()?;
        let wall = begin.elapsed();
        let cpu = self.settled(peer)?.saturating_sub(before);
        Ok(Sample { wall_ms: wall.as_secs_f64() * 1e3, cpu_ms: cpu.as_secs_f64() * 1e3 })
    }

    /// Runs `action`, which starts clients only, in a group for them; the peer's own is read once it has come to rest.
    pub(crate) fn measure_apart(&self, peer: &str, action: impl FnOnce() -> Result<()>) -> Result<Apart> {
        self.enter(CLIENTS)?;
        let (server, client) = (self.settled(peer)?, self.usage(CLIENTS)?);
        let begin = Instant::now();
        action()?;
        let wall = begin.elapsed();
        let client = self.usage(CLIENTS)?.saturating_sub(client);
        let server = self.settled(peer)?.saturating_sub(server);
        let ms = |duration: Duration| duration.as_secs_f64() * 1e3;
        Ok(Apart { wall_ms: ms(wall), client_ms: ms(client), server_ms: ms(server) })
    }

    /// The peer's processor time until now.
    pub(crate) fn used(&self, peer: &str) -> Result<Duration> {
        self.enter(CLIENTS)?;
        self.usage(peer)
    }

    /// The peer's processor time after a quiet moment: an engine may still tidy up after its client has gone.
    fn settled(&self, peer: &str) -> Result<Duration> {
        let deadline = Instant::now() + Duration::from_secs(2);
        let mut last = self.usage(peer)?;
        loop {
            std::thread::sleep(Duration::from_millis(20));
            let now = self.usage(peer)?;
            if now.saturating_sub(last) < Duration::from_micros(200) || Instant::now() > deadline {
                return Ok(now);
            }
            last = now;
        }
    }

    /// What the peer has used until now, without waiting for it to come to rest.
    pub(crate) fn usage(&self, peer: &str) -> Result<Duration> {
        let file = self.group(peer).join(match self.counter {
            Counter::V1 => "cpuacct.usage",
            Counter::V2 => "cpu.stat",
        });
        let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        parse_usage(&text, self.counter).with_context(|| format!("cannot understand {}", file.display()))
    }

    fn group(&self, peer: &str) -> PathBuf {
        self.hierarchy.join(&self.name).join(peer)
    }

    /// Moves back to where we came from and removes all groups of the bench.
    pub(crate) fn remove(&self) {
        let _ = fs::write(self.home.join("cgroup.procs"), std::process::id().to_string());
        island::remove_groups(&self.name);
    }
}

fn own_group(proc_cgroup: &str, counter: Counter) -> Option<&str> {
    proc_cgroup.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next()?, fields.next()?);
        let ours = match counter {
            Counter::V1 => controllers.split(',').any(|name| name == "cpuacct"),
            Counter::V2 => controllers.is_empty(),
        };
        ours.then_some(path)
    })
}

fn parse_usage(text: &str, counter: Counter) -> Option<Duration> {
    match counter {
        Counter::V1 => text.trim().parse().ok().map(Duration::from_nanos),
        Counter::V2 => {
            let value = text.lines().find_map(|line| line.strip_prefix("usage_usec "))?;
            value.parse().ok().map(Duration::from_micros)
        }
    }
}

/// The middle and the ends of some numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    min: f64,
    max: f64,
}

impl Spread {
    pub(crate) fn of(numbers: impl IntoIterator<Item = f64>) -> Self {
        let mut sorted: Vec<f64> = numbers.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let at = |index: usize| sorted.get(index).copied().unwrap_or(f64::NAN);
        let half = sorted.len() / 2;
        let median =
            if sorted.len().is_multiple_of(2) { f64::midpoint(at(half.saturating_sub(1)), at(half)) } else { at(half) };
        Self { median, min: at(0), max: at(sorted.len().saturating_sub(1)) }
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "**{:.2}** ({:.2} - {:.2})", self.median, self.min, self.max)
    }
}

/// The processes with this name, as the kernel shortens it.
pub(crate) fn processes_named(name: &str) -> Vec<i32> {
    let short = &name[..name.len().min(15)];
    let named = |pid: &i32| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim_end() == short);
    residue::processes().into_iter().filter(named).collect()
}

/// Mean proportional set size in MB and mean thread count; nothing when there is no process.
pub(crate) fn memory(pids: &[i32]) -> Option<(f64, f64)> {
    let field = |pid: i32, file: &str, name: &str| -> Option<f64> {
        let text = fs::read_to_string(format!("/proc/{pid}/{file}")).ok()?;
        text.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next()?.parse().ok()
    };
    let (mut kib, mut threads, mut count) = (0.0, 0.0, 0.0);
    for &pid in pids {
        kib += field(pid, "smaps_rollup", "Pss:")?;
        threads += field(pid, "status", "Threads:")?;
        count += 1.0;
    }
    (count > 0.0).then(|| (kib * 1024.0 / 1e6 / count, threads / count))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_even_and_odd_counts() {
        assert_eq!(Spread::of([3.0, 1.0, 2.0]), Spread { median: 2.0, min: 1.0, max: 3.0 });
        assert_eq!(Spread::of([4.0, 1.0]), Spread { median: 2.5, min: 1.0, max: 4.0 });
        assert!(Spread::of([]).median.is_nan());
    }

    #[test]
    fn both_counters_are_read() {
        assert_eq!(parse_usage("1500000\n", Counter::V1), Some(Duration::from_micros(1500)));
        assert_eq!(parse_usage("usage_usec 7\nuser_usec 3\n", Counter::V2), Some(Duration::from_micros(7)));
        assert_eq!(parse_usage("user_usec 3\n", Counter::V2), None);
    }

    #[test]
    fn our_group_is_found_in_either_version() {
        let text = "4:memory:/m\n2:cpu,cpuacct:/a/b\n0::/u\n";
        assert_eq!(own_group(text, Counter::V1), Some("/a/b"));
        assert_eq!(own_group(text, Counter::V2), Some("/u"));
    }

    #[test]
    fn memory_of_this_process_is_seen() {
        let own = i32::try_from(std::process::id()).unwrap();
        let (mb, threads) = memory(&[own]).unwrap();
        assert!(mb > 0.0 && threads >= 1.0);
        assert!(memory(&[]).is_none());
    }
}
