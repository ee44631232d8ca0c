//! What a container uses, as the daemon's statistics tell it.

use serde_json::Value;

use crate::table;

/// Processor time until a moment, in nanoseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Processors {
    /// The container's.
    pub(crate) own: i64,
    /// The whole host's, idle time included.
    pub(crate) host: i64,
}

/// One sample; sizes in bytes, counted since the container's start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Sample {
    pub(crate) processors: Processors,
    /// How many processors are online.
    pub(crate) cpus: i64,
    pub(crate) used: i64,
    pub(crate) limit: i64,
    pub(crate) received: i64,
    pub(crate) sent: i64,
    pub(crate) read: i64,
    pub(crate) written: i64,
    pub(crate) pids: i64,
}

/// `part` of `whole` in percent, `times` over.
#[expect(clippy::cast_precision_loss, reason = "percentages are shown with two digits")]
pub(crate) fn percent(part: i64, whole: i64, times: i64) -> f64 {
    if part <= 0 || whole <= 0 { 0.0 } else { part as f64 / whole as f64 * times as f64 * 100.0 }
}

impl Processors {
    /// Reads the times below `path`.
    pub(crate) fn read(stats: &Value, path: &str) -> Self {
        let of = |name: &str| table::number(stats, &format!("{path}{name}"));
        Self { own: of("/cpu_usage/total_usage"), host: of("/system_cpu_usage") }
    }
}

impl Sample {
    /// Reads a sample.
    pub(crate) fn read(stats: &Value) -> Self {
        let cpus = match table::number(stats, "/cpu_stats/online_cpus") {
            0 => i64::try_from(table::elements(stats, "/cpu_stats/cpu_usage/percpu_usage").len()).unwrap_or(1).max(1),
            cpus => cpus,
        };
        // What the page cache could give back at once is not counted.
        let cached = ["/memory_stats/stats/total_inactive_file", "/memory_stats/stats/inactive_file"];
        let used = table::number(stats, "/memory_stats/usage");
        let cache = cached.iter().map(|path| table::number(stats, path)).find(|cache| *cache > 0).unwrap_or(0);
        let mut sample = Self {
            processors: Processors::read(stats, "/cpu_stats"),
            cpus,
            used: if cache < used { used - cache } else { used },
            limit: table::number(stats, "/memory_stats/limit"),
            pids: table::number(stats, "/pids_stats/current"),
            ..Self::default()
        };
        let networks = stats.pointer("/networks").and_then(Value::as_object);
        for (_, network) in networks.into_iter().flatten() {
            sample.received += table::number(network, "/rx_bytes");
            sample.sent += table::number(network, "/tx_bytes");
        }
        for entry in table::elements(stats, "/blkio_stats/io_service_bytes_recursive") {
            match table::text(entry, "/op").to_ascii_lowercase().as_str() {
                "read" => sample.read += table::number(entry, "/value"),
                "write" => sample.written += table::number(entry, "/value"),
                _ => {}
            }
        }
        sample
    }

    /// Processor time since another moment; 100 is one processor.
    pub(crate) fn cpu_percent(&self, before: &Processors) -> f64 {
        percent(self.processors.own - before.own, self.processors.host - before.host, self.cpus)
    }
}
