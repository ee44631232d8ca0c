//! Virtual machines: each is a process of its own beside the daemon, found by its folder and asked by its socket.
//!
//! A machine may have been taken over by its guest. What it says is bounded, and only numbers that are known are told on. One that does not answer
//! in time, as it is being written to a snapshot for example, is told of by what the kernel knows of its process.

use super::Text;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::task::JoinSet;

/// How long a machine may take to answer.
const PATIENCE: Duration = Duration::from_secs(1);
/// No machine has more to say.
const MOST_BYTES: u64 = 1 << 20;
/// No machine has more devices that are told of.
const MOST_DEVICES: usize = 64;
/// The name of a machine's process.
const PROGRAM: &str = "insula-vmm";

/// What is asked of one machine.
#[derive(Debug, Default)]
struct Sample {
    name: String,
    phase: Option<String>,
    /// Processor time in seconds, and resident bytes.
    process: Option<(f64, f64)>,
    /// Bytes that the guest was given.
    memory: Option<f64>,
    /// Counters by device.
    devices: Value,
}

/// A number of a machine that its devices count: name, kind, what it says, the device's kind, and the counter there.
type Number = (&'static str, &'static str, &'static str, &'static str, &'static str);

/// The device that stands for all processors.
const PROCESSORS: &str = "processors";
/// The kinds that a machine has one of; samples of others name the device.
const SINGLE: [&str; 2] = ["balloon", PROCESSORS];

/// Sorted by name.
static NUMBERS: &[Number] = &[
    ("insula_vm_balloon_bytes", "gauge", "Memory that the guest lacks.", "balloon", "balloon_lent_bytes"),
    (
        "insula_vm_balloon_reported_bytes_total",
        "counter",
        "Memory that the guest reported as free.",
        "balloon",
        "balloon_reported_bytes",
    ),
    ("insula_vm_balloon_target_bytes", "gauge", "Memory that the guest is to lack.", "balloon", "balloon_target_bytes"),
    ("insula_vm_block_discards_total", "counter", "Discards and writes of zeroes.", "block", "discards"),
    ("insula_vm_block_errors_total", "counter", "Requests that failed.", "block", "errors"),
    ("insula_vm_block_flushes_total", "counter", "Flushes.", "block", "flushes"),
    ("insula_vm_block_read_bytes_total", "counter", "Bytes read.", "block", "read_bytes"),
    ("insula_vm_block_reads_total", "counter", "Reads.", "block", "reads"),
    ("insula_vm_block_throttled_total", "counter", "How often a limit held requests back.", "block", "throttled"),
    ("insula_vm_block_writes_total", "counter", "Writes.", "block", "writes"),
    ("insula_vm_block_written_bytes_total", "counter", "Bytes written.", "block", "written_bytes"),
    ("insula_vm_exits_total", "counter", "How often a processor left the guest for a device.", PROCESSORS, "exits"),
    ("insula_vm_network_dropped_frames_total", "counter", "Frames that were lost.", "net", "dropped"),
    ("insula_vm_network_received_bytes_total", "counter", "Bytes received.", "net", "received_bytes"),
    ("insula_vm_network_received_frames_total", "counter", "Frames received.", "net", "received"),
    ("insula_vm_network_sent_bytes_total", "counter", "Bytes sent.", "net", "transmitted_bytes"),
    ("insula_vm_network_sent_frames_total", "counter", "Frames sent.", "net", "transmitted"),
    ("insula_vm_network_throttled_total", "counter", "How often a limit held frames back.", "net", "throttled"),
    (
        "insula_vm_translated_blocks_total",
        "counter",
        "Blocks that the software CPU translated.",
        PROCESSORS,
        "code_blocks",
    ),
    ("insula_vm_translated_bytes_total", "counter", "Code that the software CPU made.", PROCESSORS, "code_bytes"),
    (
        "insula_vm_translation_flushes_total",
        "counter",
        "How often its translations were all forgotten.",
        PROCESSORS,
        "code_flushes",
    ),
    (
        "insula_vm_translation_invalidations_total",
        "counter",
        "How often translations of a page were.",
        PROCESSORS,
        "code_invalidations",
    ),
];

/// A number of a machine as a whole.
type Whole = (&'static str, &'static str, &'static str, fn(&Sample) -> Option<f64>);

static WHOLES: &[Whole] = &[
    ("insula_vm_cpu_seconds_total", "counter", "Processor time of the machine's process.", |sample| {
        Some(sample.process?.0)
    }),
    ("insula_vm_guest_memory_bytes", "gauge", "Memory that the guest was given.", |sample| sample.memory),
    ("insula_vm_memory_bytes", "gauge", "Resident memory of the machine's process.", |sample| Some(sample.process?.1)),
];

/// Writes the samples of all machines whose folders are in `folder`.
pub(super) async fn write(out: &mut Text, folder: &Path) {
    let samples = all(folder).await;
    let name = "insula_vms";
    out.about(name, "gauge", "Virtual machines by state.");
    for state in ["running", "paused"] {
        let count = samples.iter().filter(|sample| sample.phase.as_deref() == Some(state)).count();
        out.sample(name, &[("state", state)], count as f64);
    }
    for (name, kind, help, read) in WHOLES {
        out.about(name, kind, help);
        for sample in &samples {
            if let Some(value) = read(sample) {
                out.sample(name, &[("name", &sample.name)], value);
            }
        }
    }
    for (name, kind, help, device, counter) in NUMBERS {
        out.about(name, kind, help);
        for sample in &samples {
            for (which, counters) in sample.devices.as_object().into_iter().flatten().take(MOST_DEVICES) {
                let Some(value) = counters.get(counter).and_then(Value::as_u64).filter(|_| is_a(which, device)) else {
                    continue;
                };
                let labels = [("name", sample.name.as_str()), ("device", which.as_str())];
                let shown = if SINGLE.contains(device) { &labels[..1] } else { &labels[..] };
                out.sample(name, shown, value as f64);
            }
        }
    }
}

/// Whether a device is of a kind: its name is that with a number behind, or all of the name where there is only one.
fn is_a(name: &str, kind: &str) -> bool {
    name.strip_prefix(kind).is_some_and(|rest| rest.len() < 4 && rest.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Asks all machines at once, sorted by name.
async fn all(folder: &Path) -> Vec<Sample> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut asked: JoinSet<Option<Sample>> = entries.flatten().map(|entry| ask(entry.path())).collect();
    let mut samples = Vec::new();
    while let Some(answer) = asked.join_next().await {
        samples.extend(answer.ok().flatten());
    }
    samples.sort_by(|one, other| one.name.cmp(&other.name));
    samples
}

/// Asks one machine; none if it has ended.
async fn ask(folder: PathBuf) -> Option<Sample> {
    let name = folder.file_name()?.to_str()?.to_owned();
    let socket = folder.join("api.sock");
    let lock = std::fs::read_to_string(folder.join("lock")).unwrap_or_default();
    // Whoever waits for the last one's answer has connected already.
    drop(UnixStream::connect(&socket).await.ok()?);
    let process = lock.trim().parse().ok().and_then(process);
    let told = async { Some((get(&socket, "/").await?, get(&socket, "/metrics").await.unwrap_or_default())) };
    let told = tokio::time::timeout(PATIENCE, told).await.ok().flatten();
    let (machine, devices) = told.unwrap_or_default();
    let phase = machine.get("phase").and_then(Value::as_str).map(str::to_owned);
    let memory = machine.pointer("/spec/memory").and_then(Value::as_u64).map(|bytes| bytes as f64);
    Some(Sample { name, phase, process, memory, devices })
}

async fn get(socket: &Path, path: &str) -> Option<Value> {
    let mut stream = UnixStream::connect(socket).await.ok()?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\n\r\n").as_bytes()).await.ok()?;
    let mut answer = Vec::new();
    stream.take(MOST_BYTES).read_to_end(&mut answer).await.ok()?;
    let head = answer.windows(4).position(|end| end == b"\r\n\r\n")?;
    let done = answer.starts_with(b"HTTP/1.1 200 ");
    done.then(|| serde_json::from_slice(&answer[head + 4..]).ok())?
}

/// Processor time in seconds and resident bytes of a machine's process; none if the number is another's by now.
///
/// # Source
/// proc(5), `stat` and `statm`.
fn process(pid: u32) -> Option<(f64, f64)> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (before, rest) = stat.rsplit_once(") ")?;
    if before.split_once('(')?.1 != PROGRAM {
        return None;
    }
    // The state is the third field.
    let ticks = |field: usize| rest.split(' ').nth(field - 3)?.parse::<u64>().ok();
    let spent = ticks(14)? + ticks(15)?;
    let pages = std::fs::read_to_string(format!("/proc/{pid}/statm")).ok()?.split(' ').nth(1)?.parse::<u64>().ok()?;
    let seconds = spent as f64 / rustix::param::clock_ticks_per_second() as f64;
    Some((seconds, (pages * rustix::param::page_size() as u64) as f64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};
    use std::os::unix::net::UnixListener;

    /// A machine that answers each path with its text, as often as it is asked.
    fn machine(folder: &Path, answers: &'static [(&'static str, &'static str)]) {
        std::fs::create_dir_all(folder).unwrap();
        let listener = UnixListener::bind(folder.join("api.sock")).unwrap();
        std::thread::spawn(move || {
            while let Ok((mut stream, _)) = listener.accept() {
                let mut request = [0; 512];
                let Ok(length @ 1..) = stream.read(&mut request) else { continue };
                let asked = String::from_utf8_lossy(&request[..length]).into_owned();
                let path = asked.split(' ').nth(1).unwrap_or_default();
                let body = answers.iter().find(|answer| answer.0 == path).map_or("", |answer| answer.1);
                let status = if body.is_empty() { "409 Conflict" } else { "200 OK" };
                let _gone = write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
            }
        });
    }

    #[tokio::test]
    async fn machines_are_told_of_by_their_devices() {
        let folder = tempfile::tempdir().unwrap();
        machine(
            &folder.path().join("web"),
            &[
                ("/", r#"{"phase": "running", "spec": {"memory": 268435456}}"#),
                (
                    "/metrics",
                    r#"{"block0": {"reads": 3, "read_bytes": 4096, "flushes": 2}, "net1": {"transmitted_bytes": 1500},
                        "balloon2": {"balloon_lent_bytes": 1048576}, "processors": {"exits": 77, "code_blocks": 5},
                        "block0\"} 1\n": {"reads": 9}, "blockade": {"reads": 9}, "console3": {"received_bytes": 9}}"#,
                ),
            ],
        );
        machine(&folder.path().join("idle"), &[("/", r#"{"phase": "configured", "spec": {"memory": 1048576}}"#)]);
        machine(&folder.path().join("odd"), &[("/", "rubbish"), ("/metrics", "[1, 2]")]);
        // One that has ended, and one that never began.
        drop(UnixListener::bind(folder.path().join("socket")).unwrap());
        std::fs::create_dir(folder.path().join("ended")).unwrap();
        drop(UnixListener::bind(folder.path().join("ended/api.sock")).unwrap());
        let mut out = Text::default();
        write(&mut out, folder.path()).await;
        let values: Vec<&str> = out.0.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(
            values,
            [
                "insula_vms{state=\"running\"} 1",
                "insula_vms{state=\"paused\"} 0",
                "insula_vm_guest_memory_bytes{name=\"idle\"} 1048576",
                "insula_vm_guest_memory_bytes{name=\"web\"} 268435456",
                "insula_vm_balloon_bytes{name=\"web\"} 1048576",
                "insula_vm_block_flushes_total{name=\"web\",device=\"block0\"} 2",
                "insula_vm_block_read_bytes_total{name=\"web\",device=\"block0\"} 4096",
                "insula_vm_block_reads_total{name=\"web\",device=\"block0\"} 3",
                "insula_vm_exits_total{name=\"web\"} 77",
                "insula_vm_network_sent_bytes_total{name=\"web\",device=\"net1\"} 1500",
                "insula_vm_translated_blocks_total{name=\"web\"} 5",
            ]
        );
    }

    #[tokio::test]
    async fn where_no_machine_is_only_the_count_is_told() {
        let mut out = Text::default();
        write(&mut out, Path::new("/nowhere/at/all")).await;
        assert_eq!(out.0.lines().filter(|line| !line.starts_with('#')).count(), 2);
    }

    #[test]
    fn processes_of_other_programs_are_not_counted() {
        assert_eq!(process(std::process::id()), None);
    }

    #[test]
    fn numbers_are_sorted_and_named_by_their_unit() {
        assert!(NUMBERS.is_sorted_by_key(|number| number.0));
        assert!(WHOLES.is_sorted_by_key(|number| number.0));
        let kinds = NUMBERS.iter().map(|number| (number.0, number.1)).chain(WHOLES.iter().map(|it| (it.0, it.1)));
        for (name, kind) in kinds {
            assert_eq!(kind == "counter", name.ends_with("_total"), "{name}");
        }
    }
}
