//! What happens in numbers, in the text format that Prometheus reads.
//!
//! Counters live here; what containers use is asked of the kernel when somebody asks for it. Names and meanings stand in
//! `docs/how-to/watch-with-prometheus.md`.
//!
//! # Source
//! Prometheus, "Exposition formats", text-based format 0.0.4; "Metric and label naming".

mod machine;

use engine::{Engine, Usage};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// The media type of the text.
pub(crate) const MEDIA: &str = "text/plain; version=0.0.4; charset=utf-8";
/// Upper bounds of a histogram's buckets, in seconds.
const BOUNDS: [f64; 12] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];
/// How long what takes long to measure counts as measured.
const FRESH: Duration = Duration::from_secs(60);

/// Everything that is counted.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    counts: Mutex<Counts>,
    /// When volumes were measured, and how many bytes they had.
    volumes: tokio::sync::Mutex<Option<(Instant, u64)>>,
    /// How many requests have been answered.
    answered: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Counts {
    /// By route, method and status.
    requests: BTreeMap<(&'static str, &'static str, u16), u64>,
    /// By route and method.
    durations: BTreeMap<(&'static str, &'static str), Histogram>,
    starts: Histogram,
    failed_starts: u64,
    /// By action.
    events: BTreeMap<String, u64>,
}

#[derive(Debug, Default, Clone)]
struct Histogram {
    buckets: [u64; BOUNDS.len()],
    count: u64,
    sum: f64,
}

impl Histogram {
    fn add(&mut self, seconds: f64) {
        for (bucket, bound) in self.buckets.iter_mut().zip(BOUNDS) {
            *bucket += u64::from(seconds <= bound);
        }
        self.count += 1;
        self.sum += seconds;
    }

    fn write(&self, out: &mut Text, name: &str, labels: &[(&str, &str)]) {
        for (bucket, bound) in self.buckets.iter().zip(BOUNDS) {
            let bound = bound.to_string();
            out.sample(&format!("{name}_bucket"), &[labels, &[("le", bound.as_str())]].concat(), *bucket as f64);
        }
        out.sample(&format!("{name}_bucket"), &[labels, &[("le", "+Inf")]].concat(), self.count as f64);
        out.sample(&format!("{name}_sum"), labels, self.sum);
        out.sample(&format!("{name}_count"), labels, self.count as f64);
    }
}

/// The text as it grows.
#[derive(Debug, Default)]
struct Text(String);

impl Text {
    /// Says what the samples that follow are: `counter`, `gauge` or `histogram`.
    fn about(&mut self, name: &str, kind: &str, help: &str) {
        // writing to a string does not fail
        let _ = write!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        self.0.push_str(name);
        if !labels.is_empty() {
            let pairs: Vec<String> = labels.iter().map(|(key, value)| format!("{key}=\"{}\"", escape(value))).collect();
            let _ = write!(self.0, "{{{}}}", pairs.join(","));
        }
        let _ = writeln!(self.0, " {value}");
    }

    /// One sample with its description.
    fn one(&mut self, name: &str, kind: &str, help: &str, value: f64) {
        self.about(name, kind, help);
        self.sample(name, &[], value);
    }
}

fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

impl Metrics {
    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells of every answer, by their number.
    pub(crate) fn answers(&self) -> watch::Receiver<u64> {
        self.answered.subscribe()
    }

    /// A request was answered; what streams behind the answer's head does not count.
    pub(crate) fn answered(&self, route: &'static str, method: &hyper::Method, status: u16, took: Duration) {
        let method = known(method);
        let seconds = took.as_secs_f64();
        self.answered.send_modify(|count| *count += 1);
        let mut counts = self.counts();
        *counts.requests.entry((route, method, status)).or_default() += 1;
        counts.durations.entry((route, method)).or_default().add(seconds);
        if route == "/containers/{id}/start" {
            match status {
                204 => counts.starts.add(seconds),
                // it runs already, or there is none
                304 | 404 => {}
                _ => counts.failed_starts += 1,
            }
        }
    }

    /// Something happened to a container.
    pub(crate) fn happened(&self, action: &str) {
        let word = action.split(':').next().unwrap_or_default().trim();
        let mut counts = self.counts();
        match counts.events.get_mut(word) {
            Some(count) => *count += 1,
            None => drop(counts.events.insert(word.to_owned(), 1)),
        }
    }

    /// Everything as text; virtual machines have their folders in `machines`.
    pub(crate) async fn text(&self, engine: &Engine, machines: &Path) -> String {
        let mut out = Text::default();
        self.requests(&mut out);
        objects(&mut out, engine);
        self.storage(&mut out, engine).await;
        usages(&mut out, engine).await;
        machine::write(&mut out, machines).await;
        process(&mut out);
        out.0
    }

    fn requests(&self, out: &mut Text) {
        let counts = self.counts();
        let name = "insula_http_requests_total";
        out.about(name, "counter", "Requests to the API that were answered.");
        for ((route, method, status), count) in &counts.requests {
            let status = status.to_string();
            out.sample(name, &[("route", route), ("method", method), ("status", &status)], *count as f64);
        }
        let name = "insula_http_request_duration_seconds";
        out.about(name, "histogram", "Time from a request to its answer's head.");
        for ((route, method), histogram) in &counts.durations {
            histogram.write(out, name, &[("route", route), ("method", method)]);
        }
        let name = "insula_container_start_duration_seconds";
        out.about(name, "histogram", "Time of starts that clients asked for and that succeeded.");
        counts.starts.write(out, name, &[]);
        let name = "insula_container_start_failures_total";
        out.one(name, "counter", "Starts that clients asked for and that failed.", counts.failed_starts as f64);
        let name = "insula_container_events_total";
        out.about(name, "counter", "What happened to containers since the daemon was started, by action.");
        for (action, count) in &counts.events {
            out.sample(name, &[("action", action)], *count as f64);
        }
    }

    async fn storage(&self, out: &mut Text, engine: &Engine) {
        if let Ok(usage) = engine.image_usage().await {
            out.one("insula_images", "gauge", "Images.", usage.images as f64);
            let bytes = (usage.layer_bytes + usage.blob_bytes) as f64;
            out.one("insula_image_bytes", "gauge", "What images take on disk, shared layers once.", bytes);
        }
        let volumes = engine.volumes();
        out.one("insula_volumes", "gauge", "Volumes.", volumes.len() as f64);
        let mut kept = self.volumes.lock().await;
        if kept.is_none_or(|(at, _)| at.elapsed() > FRESH) {
            *kept = engine.volume_lengths(&volumes).await.ok().map(|all| (Instant::now(), all.iter().sum()));
        }
        if let Some((_, bytes)) = *kept {
            out.one("insula_volume_bytes", "gauge", "What volumes hold; measured once a minute.", bytes as f64);
        }
    }
}

/// A method as a label; strange ones are one, for their number is the client's choice.
fn known(method: &hyper::Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "DELETE" => "DELETE",
        _ => "other",
    }
}

fn objects(out: &mut Text, engine: &Engine) {
    let info = engine.info();
    let name = "insula_build_info";
    out.about(name, "gauge", "The daemon's version; always 1.");
    let labels = [("version", env!("CARGO_PKG_VERSION")), ("kernel", &info.kernel), ("os", &info.os)];
    out.sample(name, &labels, 1.0);
    let name = "insula_containers";
    out.about(name, "gauge", "Containers by state.");
    let (running, paused, stopped) = info.containers;
    for (state, count) in [("running", running), ("paused", paused), ("stopped", stopped)] {
        out.sample(name, &[("state", state)], count as f64);
    }
    out.one("insula_host_cpus", "gauge", "Processors online.", f64::from(info.cpus));
    out.one("insula_host_memory_bytes", "gauge", "The host's memory.", info.memory_bytes as f64);
}

/// A number of a container that runs: name, kind, what it says, and where it is in a sample.
type Number = (&'static str, &'static str, &'static str, fn(&Usage) -> f64);

const SECOND_NS: f64 = 1e9;

static NUMBERS: &[Number] = &[
    ("insula_container_block_read_bytes_total", "counter", "Bytes read from block devices.", |usage| {
        usage.group.block.iter().map(|device| device.read_bytes as f64).sum()
    }),
    ("insula_container_block_written_bytes_total", "counter", "Bytes written to block devices.", |usage| {
        usage.group.block.iter().map(|device| device.write_bytes as f64).sum()
    }),
    ("insula_container_cpu_seconds_total", "counter", "Processor time.", |usage| {
        usage.group.cpu.total_ns as f64 / SECOND_NS
    }),
    ("insula_container_cpu_system_seconds_total", "counter", "Processor time in the kernel.", |usage| {
        usage.group.cpu.system_ns as f64 / SECOND_NS
    }),
    ("insula_container_cpu_throttled_seconds_total", "counter", "Time that a quota held back.", |usage| {
        usage.group.cpu.throttling.throttled_ns as f64 / SECOND_NS
    }),
    ("insula_container_memory_bytes", "gauge", "Memory in use, page cache included.", |usage| {
        usage.group.memory.bytes as f64
    }),
    ("insula_container_memory_limit_bytes", "gauge", "The limit of memory; 0 without.", |usage| {
        usage.group.memory.limit.unwrap_or(0) as f64
    }),
    ("insula_container_network_received_bytes_total", "counter", "Bytes received.", |usage| {
        usage.links.iter().map(|link| link.rx_bytes as f64).sum()
    }),
    ("insula_container_network_sent_bytes_total", "counter", "Bytes sent.", |usage| {
        usage.links.iter().map(|link| link.tx_bytes as f64).sum()
    }),
    ("insula_container_tasks", "gauge", "Processes and threads.", |usage| usage.group.pids as f64),
];

async fn usages(out: &mut Text, engine: &Engine) {
    let mut samples = Vec::new();
    for container in engine.containers().iter().filter(|container| container.is_alive()) {
        // one that ends meanwhile is left out
        if let Ok(usage) = engine.usage(container.id.as_str()).await {
            samples.push((container.id.to_string(), container.name.clone(), container.spec.image.clone(), usage));
        }
    }
    for (name, kind, help, read) in NUMBERS {
        out.about(name, kind, help);
        for (id, container, image, usage) in &samples {
            out.sample(name, &[("id", id), ("name", container), ("image", image)], read(usage));
        }
    }
}

/// The daemon itself, by the names that all programs give these.
fn process(out: &mut Text) {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let resident = pages.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0);
    let bytes = resident * rustix::param::page_size() as u64;
    out.one("process_resident_memory_bytes", "gauge", "Resident memory of the daemon.", bytes as f64);
    let open = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    out.one("process_open_fds", "gauge", "Open descriptors of the daemon.", open as f64);
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    let seconds = time.tv_sec as f64 + time.tv_nsec as f64 / SECOND_NS;
    out.one("process_cpu_seconds_total", "counter", "Processor time of the daemon.", seconds);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_counted_by_route() {
        let metrics = Metrics::default();
        metrics.answered("/_ping", &hyper::Method::GET, 200, Duration::from_millis(2));
        metrics.answered("/_ping", &hyper::Method::GET, 200, Duration::from_secs(20));
        metrics.answered("/containers/{id}/start", &hyper::Method::POST, 204, Duration::from_millis(9));
        metrics.answered("/containers/{id}/start", &hyper::Method::POST, 500, Duration::from_millis(9));
        metrics.happened("exec_start: sh -c \"x\"");
        let mut out = Text::default();
        metrics.requests(&mut out);
        for line in [
            "insula_http_requests_total{route=\"/_ping\",method=\"GET\",status=\"200\"} 2",
            "insula_http_request_duration_seconds_bucket{route=\"/_ping\",method=\"GET\",le=\"0.0025\"} 1",
            "insula_http_request_duration_seconds_bucket{route=\"/_ping\",method=\"GET\",le=\"+Inf\"} 2",
            "insula_container_start_duration_seconds_count 1",
            "insula_container_start_failures_total 1",
            "insula_container_events_total{action=\"exec_start\"} 1",
        ] {
            assert!(out.0.lines().any(|have| have == line), "{line}\n{}", out.0);
        }
    }

    #[test]
    fn label_values_are_escaped() {
        let mut out = Text::default();
        out.sample("x", &[("a", "b\"c\\d\ne")], 1.5);
        assert_eq!(out.0, "x{a=\"b\\\"c\\\\d\\ne\"} 1.5\n");
    }

    #[test]
    fn numbers_are_sorted_and_named_by_their_unit() {
        assert!(NUMBERS.is_sorted_by_key(|number| number.0));
        for (name, kind, ..) in NUMBERS {
            assert_eq!(*kind == "counter", name.ends_with("_total"), "{name}");
        }
    }
}
