//! What a container uses: one sample.

use crate::engine::Engine;
use crate::error::{EngineError, Result};

/// A sample of a container's use.
#[derive(Debug, Clone, PartialEq)]
pub struct Usage {
    /// When, nanoseconds since the Unix epoch.
    pub at_ns: u64,
    /// What the cgroup counted.
    pub group: cgroup::Usage,
    /// Each network link and its counters.
    pub links: Vec<net::LinkStatistics>,
    /// CPUs online.
    pub cpus: u32,
    /// CPU time of the whole host in nanoseconds, idle time included.
    pub host_cpu_ns: u64,
}

impl Engine {
    /// One sample; of a container that does not run, an empty one.
    ///
    /// # Errors
    /// [`crate::ErrorClass::NotFound`]; [`crate::ErrorClass::Internal`] if the kernel's counters cannot be read.
    pub async fn usage(&self, who: &str) -> Result<Usage> {
        let container = self.container(who)?;
        let mut usage = Usage {
            at_ns: crate::clock::now_ns(),
            group: cgroup::Usage::default(),
            links: Vec::new(),
            cpus: self.inner.host.cpus,
            host_cpu_ns: host_cpu_ns(),
        };
        if !container.is_alive() {
            return Ok(usage);
        }
        let sampled = self.inner.cgroups.open(&self.inner.config.cgroup_of(&container)).and_then(|group| group.usage());
        usage.group = match sampled {
            Ok(group) => group,
            // it may have ended since
            Err(_) if !self.container(who)?.is_alive() => return Ok(usage),
            Err(error) => return Err(EngineError::internal("cannot read the counters", &error)),
        };
        usage.links =
            u32::try_from(container.pid()).ok().and_then(|pid| net::link_statistics(pid).ok()).unwrap_or_default();
        Ok(usage)
    }
}

/// Ticks of /proc/stat are hundredths of a second on every Linux architecture's user interface.
const TICK_NS: u64 = 10_000_000;

fn host_cpu_ns() -> u64 {
    let text = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let ticks = text.lines().next().unwrap_or_default().split_whitespace().skip(1).take(8);
    ticks.filter_map(|tick| tick.parse::<u64>().ok()).sum::<u64>() * TICK_NS
}
