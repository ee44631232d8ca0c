//! `cargo xtask bench runtime`: what an OCI runtime costs, each on the same bundle, in turns.
//!
//! Each measurement starts a program several times in the runtime's own control group, so that one counter has all of its
//! processor time, that of the container, of the kernel's work for it, and of whatever it leaves running. The floor
//! (`crates/container/examples/start_floor.rs`) does the kernel work of `run` and nothing else.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::measure::{Groups, Sample, Spread};
use super::peers::small_tree;
use crate::shell::{self, Run, find_program, step};

/// Built programs that are measured, or measure.
#[derive(Clone, Copy)]
pub(super) struct Examples<'a> {
    /// The kernel work of a run and nothing else.
    pub(super) floor: &'a Path,
    /// Starts a program many times at no cost of its own: what this program costs itself would be counted.
    pub(super) repeat: &'a Path,
}

/// How often each thing is done.
pub(super) struct Effort {
    pub(super) rounds: u32,
    pub(super) batch: u32,
}

const AT_ONCE: u32 = 50;

/// A runtime to measure.
struct Runtime {
    name: &'static str,
    program: PathBuf,
    dir: PathBuf,
    group: String,
}

/// Whether containers run under Docker's system call filter.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Filter {
    None,
    Docker,
}

impl Filter {
    fn bundle(self) -> &'static str {
        match self {
            Self::None => "plain",
            Self::Docker => "filtered",
        }
    }
}

/// Measures everything; `bin` holds our programs.
pub(super) fn measure(bin: &Path, examples: &Examples<'_>, effort: &Effort) -> Result<String> {
    let groups = Groups::create()?;
    let dir = super::remains::folder("runtime");
    let outcome = fs::create_dir_all(&dir)
        .with_context(|| format!("cannot create {}", dir.display()))
        .and_then(|()| all(bin, *examples, effort, &groups, &dir));
    groups.remove();
    super::clear(&dir);
    outcome
}

fn all(bin: &Path, examples: Examples<'_>, effort: &Effort, groups: &Groups, dir: &Path) -> Result<String> {
    let rootfs = dir.join("rootfs");
    small_tree(&rootfs)?;
    let caps = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"];
    let profile = oci::seccomp::default_profile(&caps, oci_spec::runtime::Arch::ScmpArchNative);
    let filter = dir.join("filter");
    let compiled = oci::seccomp::compile(&profile).context("cannot compile Docker's profile")?;
    fs::write(&filter, compiled.to_bytes()).context("cannot write the filter")?;
    let profile = serde_json::to_value(&profile).context("cannot write Docker's profile as JSON")?;
    let mut runtimes = Vec::new();
    let programs = [("insula-oci", Some(bin.join("insula-oci")))];
    let peers = ["crun", "runc", "youki"].map(|name| (name, find_program(name)));
    for (name, program) in programs.into_iter().chain(peers) {
        let Some(program) = program else { continue };
        let runtime = Runtime { name, program, dir: dir.join(name), group: groups.work(name) };
        runtime.bundles(&rootfs, &profile)?;
        runtimes.push(runtime);
    }
    // those last that can only be measured by some commands
    let (mut runtimes, mut others): (Vec<_>, Vec<_>) = runtimes.into_iter().partition(Runtime::is_whole);
    let whole = runtimes.len();
    runtimes.append(&mut others);
    let (running, others) = runtimes.split_at(whole);
    let mut parts = vec![
        step("run, in turns", || runs(running, examples, &rootfs, None, effort, groups))?,
        step("run with Docker's filter", || runs(running, examples, &rootfs, Some(&filter), effort, groups))?,
        step("create, start, delete", || three_commands(&runtimes, effort, groups))?,
        step("exec", || execs(running, effort, groups))?,
        step("many at once", || at_once(running, examples, effort, groups))?,
        step("system calls and memory", || footprint(running, examples.floor, &rootfs))?,
    ];
    for other in others {
        parts.push(format!(
            "{}: only create, start and delete were measured; its other commands do not always end.\n",
            other.name
        ));
    }
    Ok(parts.join("\n"))
}

impl Runtime {
    /// A bundle with `true`, one with `true` under the filter, and one that stays.
    fn bundles(&self, rootfs: &Path, profile: &Value) -> Result<()> {
        for (name, args, filtered) in
            [("plain", ["true"].as_slice(), false), ("filtered", &["true"], true), ("idle", &["sleep", "600"], false)]
        {
            let bundle = self.dir.join(name);
            fs::create_dir_all(&bundle).with_context(|| format!("cannot create {}", bundle.display()))?;
            let mut config = config(rootfs, args, &format!("{}/{name}", self.group));
            if filtered {
                config["linux"]["seccomp"] = profile.clone();
            }
            let file = bundle.join("config.json");
            fs::write(&file, config.to_string()).with_context(|| format!("cannot write {}", file.display()))?;
        }
        Ok(())
    }

    fn command(&self, words: &[&str]) -> Run {
        Run::new(&self.program).arg("--root").arg(self.dir.join("state")).args(words).timeout(Duration::from_secs(60))
    }

    /// The words of a `run`, the program first.
    fn run_words(&self, filter: Filter, id: &str) -> Vec<OsString> {
        let (state, bundle) = (self.dir.join("state"), self.dir.join(filter.bundle()));
        let program = self.program.as_os_str();
        [program, "--root".as_ref(), state.as_ref(), "run".as_ref(), "--bundle".as_ref(), bundle.as_ref(), id.as_ref()]
            .map(OsString::from)
            .into()
    }

    /// Whether all its commands work. youki 0.7's `run` misses its program's end now and then, and waits for ever; its `exec` fails
    /// where the program's own file is on a file system that cannot seal.
    fn is_whole(&self) -> bool {
        self.name != "youki"
    }

    fn state(&self, id: &str) -> Result<Value> {
        let text = self.command(&["state", id]).output()?;
        serde_json::from_str(&text).with_context(|| format!("cannot read what `{} state` printed", self.name))
    }

    fn await_end(&self, id: &str, pid: i64) -> Result<()> {
        let gone = |pid: i64| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('Z'))
        };
        let deadline = Instant::now() + Duration::from_secs(10);
        while !gone(pid) {
            ensure!(Instant::now() < deadline, "container {id} of {} does not end", self.name);
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }
}

/// The configuration that `runc spec` writes, with a root of ours.
pub(super) fn config(rootfs: &Path, args: &[&str], group: &str) -> Value {
    let caps = json!(["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]);
    let quiet = ["nosuid", "noexec", "nodev"];
    let with = |more: &[&str]| quiet.iter().chain(more).map(|word| json!(word)).collect::<Value>();
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": false, "user": {"uid": 0, "gid": 0}, "args": args, "cwd": "/", "noNewPrivileges": true,
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
            "capabilities": {"bounding": caps, "effective": caps, "permitted": caps},
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
        },
        "root": {"path": rootfs, "readonly": true},
        "hostname": "bench",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
             "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
             "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
            {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": with(&["mode=1777", "size=65536k"])},
            {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": with(&[])},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": with(&["ro"])},
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": with(&["relatime", "ro"])},
        ],
        "linux": {
            "cgroupsPath": group,
            "resources": {"devices": [{"allow": false, "access": "rwm"}]},
            "namespaces": [{"type": "pid"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"},
                           {"type": "cgroup"}],
            "maskedPaths": ["/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
                            "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/sys/firmware", "/proc/scsi"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    })
}

/// What a peer, by its name, is to do; it is told which of a batch this is.
type Work<'a> = (&'a str, Box<dyn Fn(u32) -> Result<()> + 'a>);

/// Samples of each peer, by name, in the order of their turns.
struct Table {
    samples: Vec<(String, Vec<Sample>)>,
}

impl Table {
    /// Lets every peer do `once` `batch` times, in turns, `rounds` times after one round that warms caches.
    fn take(peers: &[Work<'_>], effort: &Effort, groups: &Groups) -> Result<Self> {
        let mut samples: Vec<(String, Vec<Sample>)> =
            peers.iter().map(|(name, _)| ((*name).to_owned(), Vec::new())).collect();
        for round in 0..=effort.rounds {
            for ((name, once), (_, kept)) in peers.iter().zip(&mut samples) {
                let sample = groups.measure(name, || (0..effort.batch).try_for_each(once))?;
                ensure!(!shell::interrupted(), "interrupted");
                if round > 0 {
                    let batch = f64::from(effort.batch);
                    kept.push(Sample { wall_ms: sample.wall_ms / batch, cpu_ms: sample.cpu_ms / batch });
                }
            }
        }
        Ok(Self { samples })
    }

    /// The same for one of `count` things that were done at a time.
    fn each(mut self, count: u32) -> Self {
        for sample in self.samples.iter_mut().flat_map(|(_, samples)| samples) {
            sample.wall_ms /= f64::from(count);
            sample.cpu_ms /= f64::from(count);
        }
        self
    }

    fn spread(&self, name: &str, of: fn(&Sample) -> f64) -> Option<Spread> {
        let (_, samples) = self.samples.iter().find(|(have, _)| have == name)?;
        Some(Spread::of(samples.iter().map(of)))
    }

    fn print(&self, title: &str, goal: &str) -> String {
        let cpu = |name: &str| self.spread(name, |one| one.cpu_ms);
        let median = |name: &str| cpu(name).map(|spread| spread.median);
        let ratio = |own: f64, other: Option<f64>| other.map_or("-".to_owned(), |other| format!("{:.2}", own / other));
        let mut text = format!(
            "## {title}\n\n{goal}\n\n| | CPU ms: median (min - max) | wall ms: median (min - max) | CPU, crun = 1 | CPU, runc = 1 | CPU, floor = 1 |\n\
             |---|---|---|---|---|---|\n"
        );
        for (name, _) in &self.samples {
            let (Some(own), Some(wall)) = (cpu(name), self.spread(name, |one| one.wall_ms)) else { continue };
            let ratios = ["crun", "runc", "floor"].map(|other| ratio(own.median, median(other)));
            let _ = writeln!(text, "| {name} | {own} | {wall} | {} |", ratios.join(" | "));
        }
        text
    }
}

fn runs(
    runtimes: &[Runtime],
    examples: Examples<'_>,
    rootfs: &Path,
    filter: Option<&Path>,
    effort: &Effort,
    groups: &Groups,
) -> Result<String> {
    let kind = if filter.is_some() { Filter::Docker } else { Filter::None };
    let batch = effort.batch.to_string();
    let repeat = || Run::new(examples.repeat).arg("after").arg(&batch).timeout(Duration::from_secs(300));
    let mut peers: Vec<Work<'_>> = Vec::new();
    let group = groups.work("floor");
    peers.push((
        "floor",
        Box::new(move |_| repeat().arg(examples.floor).arg(rootfs).arg(format!("{group}-{{}}")).args(filter).check()),
    ));
    for runtime in runtimes {
        peers.push((runtime.name, Box::new(move |_| repeat().args(runtime.run_words(kind, "c{}")).check())));
    }
    // the floor makes no group but its own
    make_parents(&groups.work("floor"))?;
    let table = Table::take(&peers, &Effort { rounds: effort.rounds, batch: 1 }, groups)?.each(effort.batch);
    let (title, goal) = match kind {
        Filter::None => ("`run` of true", "Goal: at most 0.45x crun's CPU, 1.3x the floor's."),
        Filter::Docker => {
            ("`run` of true with Docker's seccomp profile", "Goal: at most 0.35x crun 1.8.1's CPU, 0.15x runc 1.1.5's.")
        }
    };
    Ok(table.print(title, goal))
}

/// Makes the parent of a group in every version 1 hierarchy; the bench removes all of its groups at its end.
pub(super) fn make_parents(group: &str) -> Result<()> {
    let parent = Path::new(group).parent().unwrap_or(Path::new("/"));
    let parent = parent.strip_prefix("/").unwrap_or(parent);
    for entry in fs::read_dir("/sys/fs/cgroup").context("cannot list /sys/fs/cgroup")?.flatten() {
        let top = entry.path();
        if !top.join("tasks").is_file() {
            continue;
        }
        let mut folder = top.clone();
        for part in parent {
            let above = folder.clone();
            folder.push(part);
            fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
            for file in ["cpuset.cpus", "cpuset.mems"] {
                if let Ok(value) = fs::read(above.join(file)) {
                    fs::write(folder.join(file), value).with_context(|| format!("cannot set {file}"))?;
                }
            }
        }
    }
    Ok(())
}

fn three_commands(runtimes: &[Runtime], effort: &Effort, groups: &Groups) -> Result<String> {
    let mut peers: Vec<Work<'_>> = Vec::new();
    for runtime in runtimes {
        let file = runtime.dir.join("pid");
        peers.push((
            runtime.name,
            Box::new(move |number| {
                let id = format!("t{number}");
                let create = runtime.command(&["create", "--bundle"]).arg(runtime.dir.join("plain"));
                create.arg("--pid-file").arg(&file).arg(&id).check()?;
                let pid = fs::read_to_string(&file).context("cannot read the pid file")?;
                runtime.command(&["start", &id]).check()?;
                runtime.await_end(&id, pid.trim().parse().context("the pid file holds no number")?)?;
                runtime.command(&["delete", &id]).check()
            }),
        ));
    }
    let table = Table::take(&peers, effort, groups)?;
    Ok(table.print("create, start, delete as three commands", "Goal: at most 0.4x crun's CPU."))
}

fn execs(runtimes: &[Runtime], effort: &Effort, groups: &Groups) -> Result<String> {
    for runtime in runtimes {
        groups.enter(runtime.name)?;
        let null = |run: Run| run.quiet().status();
        let created =
            null(runtime.command(&["run", "--detach", "--bundle"]).arg(runtime.dir.join("idle")).arg("idle"))?;
        ensure!(created.success(), "{} cannot start the container to exec in", runtime.name);
    }
    let mut peers: Vec<Work<'_>> = Vec::new();
    for runtime in runtimes {
        peers.push((runtime.name, Box::new(move |_| runtime.command(&["exec", "idle", "true"]).check())));
    }
    let outcome = Table::take(&peers, effort, groups);
    for runtime in runtimes {
        groups.enter(runtime.name)?;
        let pid = runtime.state("idle")?["pid"].as_i64().context("the state has no pid")?;
        runtime.command(&["kill", "idle", "KILL"]).check()?;
        runtime.await_end("idle", pid)?;
        runtime.command(&["delete", "idle"]).check()?;
    }
    Ok(outcome?.print("exec of true in a running container", "Goal: at most 0.5x crun's CPU."))
}

fn at_once(runtimes: &[Runtime], examples: Examples<'_>, effort: &Effort, groups: &Groups) -> Result<String> {
    let mut peers: Vec<Work<'_>> = Vec::new();
    for runtime in runtimes {
        runtime.many()?;
        let words = runtime.run_words(Filter::None, "m{}");
        let bundle = runtime.dir.join("many-{}");
        peers.push((
            runtime.name,
            Box::new(move |_| {
                let (head, tail) = words.split_at(words.len() - 2);
                let id = tail.last().context("no id")?;
                let run =
                    Run::new(examples.repeat).arg("beside").arg(AT_ONCE.to_string()).args(head).arg(&bundle).arg(id);
                run.timeout(Duration::from_secs(300)).check()
            }),
        ));
    }
    let few = Effort { rounds: effort.rounds.div_ceil(3), batch: 1 };
    let table = Table::take(&peers, &few, groups)?;
    let mut text =
        table.print(&format!("{AT_ONCE} runs at once (one line: all of them)"), "Goal: at most 0.45x crun's CPU.");
    let mut peers: Vec<Work<'_>> = Vec::new();
    for runtime in runtimes {
        peers.push((
            runtime.name,
            Box::new(move |_| {
                let run = Run::new(examples.repeat).args(["after", "100"]).args(runtime.run_words(Filter::None, "s{}"));
                run.timeout(Duration::from_secs(300)).check()
            }),
        ));
    }
    // in turns, too: what the host's other guests take would else be one runtime's
    let table = Table::take(&peers, &few, groups)?.each(100);
    text += "\n";
    text += &table.print("100 runs one after another (mean of each)", "Goal: at most 0.45x crun's CPU.");
    Ok(text)
}

impl Runtime {
    /// Bundles with control groups of their own: runtimes refuse a group that has processes already.
    fn many(&self) -> Result<()> {
        let text = fs::read_to_string(self.dir.join("plain/config.json")).context("cannot read the bundle")?;
        let mut config: Value = serde_json::from_str(&text).context("cannot read the bundle")?;
        for number in 0..AT_ONCE {
            let bundle = self.dir.join(format!("many-{number}"));
            config["linux"]["cgroupsPath"] = format!("{}/many-{number}", self.group).into();
            fs::create_dir_all(&bundle).with_context(|| format!("cannot create {}", bundle.display()))?;
            let file = bundle.join("config.json");
            fs::write(&file, config.to_string()).with_context(|| format!("cannot write {}", file.display()))?;
        }
        Ok(())
    }
}

/// System calls of one run, the runtime's peak memory, and the size of its program.
fn footprint(runtimes: &[Runtime], floor: &Path, rootfs: &Path) -> Result<String> {
    let mut text = "## One `run` of true: system calls, peak memory, size\n\n\
                    Goal: under 300 calls, at most 2.5 MiB, below 3 MB. All processes are counted up to the container's program, whose own calls \
                    (mostly its loader's) stand beside.\n\n\
                    | | system calls | `true`'s own | peak memory MiB | program MB |\n|---|---|---|---|---|\n"
        .to_owned();
    let dir = rootfs.parent().unwrap_or(rootfs);
    let mut programs =
        vec![("floor", floor.to_owned(), vec![rootfs.display().to_string(), "/insula-bench-floor".into()])];
    for runtime in runtimes {
        let words = ["--root", &runtime.dir.join("state").display().to_string(), "run", "--bundle"].map(str::to_owned);
        let mut words = words.to_vec();
        words.extend([runtime.dir.join("plain").display().to_string(), "footprint".to_owned()]);
        programs.push((runtime.name, runtime.program.clone(), words));
    }
    let mut calls_by_name = BTreeMap::new();
    for (name, program, words) in &programs {
        let trace = dir.join(format!("{name}.calls"));
        Run::new("strace").args(["-f", "-o"]).arg(&trace).arg(program).args(words).check()?;
        let trace = fs::read_to_string(&trace).context("cannot read what strace saw")?;
        let calls = Calls::of(&trace);
        let runtime = runtimes.iter().find(|runtime| runtime.name == *name);
        let peak = runtime.map(peak_memory).transpose()?;
        #[expect(clippy::cast_precision_loss, reason = "memory of a program is far below 2^52 KiB")]
        let peak = peak.map_or("-".to_owned(), |kib| format!("{:.2}", kib as f64 / 1024.0));
        let size = fs::metadata(program).with_context(|| format!("no {}", program.display()))?.len();
        #[expect(clippy::cast_precision_loss, reason = "sizes of programs are far below 2^52")]
        let size = size as f64 / 1e6;
        let total: u32 = calls.runtime.values().sum();
        let _ = writeln!(text, "| {name} | {total} | {} | {peak} | {size:.2} |", calls.program);
        calls_by_name.insert(*name, calls);
    }
    if let Some(own) = calls_by_name.get("insula-oci") {
        let mut sorted: Vec<_> = own.runtime.iter().collect();
        sorted.sort_by_key(|(name, count)| (std::cmp::Reverse(**count), (*name).clone()));
        let list: Vec<String> = sorted.iter().map(|(name, count)| format!("{name} {count}")).collect();
        let _ = write!(text, "\nOurs, call by call: {}.\n", list.join(", "));
    }
    Ok(text)
}

/// The system calls that a trace shows: the runtime's by name, and how many the container's program made.
struct Calls {
    runtime: BTreeMap<String, u32>,
    program: u32,
}

impl Calls {
    /// Counts the lines of `strace -f`: `PID call(…`.
    fn of(trace: &str) -> Self {
        let mut calls = Self { runtime: BTreeMap::new(), program: 0 };
        let mut programs = Vec::new();
        for line in trace.lines() {
            let Some((pid, rest)) = line.split_once(' ') else { continue };
            let rest = rest.trim_start();
            let Some((name, arguments)) = rest.split_once('(').filter(|_| !rest.starts_with('<')) else { continue };
            if programs.contains(&pid) {
                calls.program += 1;
                continue;
            }
            *calls.runtime.entry(name.to_owned()).or_default() += 1;
            if name == "execve"
                && arguments.split('"').nth(1).is_some_and(|path| path.ends_with("/true"))
                && !rest.contains("= -1")
            {
                programs.push(pid);
            }
        }
        calls
    }
}

/// The most memory, in KiB, that the runtime's own process has had while it waits for a container that it runs.
fn peak_memory(runtime: &Runtime) -> Result<u64> {
    let id = "memory";
    let mut child = runtime.command(&["run", "--bundle"]).arg(runtime.dir.join("idle")).arg(id).quiet().spawn()?;
    let deadline = Instant::now() + Duration::from_secs(10);
    while !runtime.state(id).is_ok_and(|state| state["status"] == "running") {
        ensure!(Instant::now() < deadline, "{} does not start a container", runtime.name);
        std::thread::sleep(Duration::from_millis(20));
    }
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).context("cannot read its memory")?;
    runtime.command(&["kill", id, "KILL"]).check()?;
    child.wait().context("cannot wait for the runtime")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
    line.trim().trim_end_matches(" kB").parse().context("VmHWM is no number")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_programs_own_calls_are_told_apart() {
        let trace = "1 execve(\"/bin/rt\", [\"rt\"]) = 0\n1 clone3({}) = 2\n2 execve(\"/sbin/true\", [\"true\"]) = -1 ENOENT\n\
                     2 execve(\"/bin/true\", [\"true\"]) = 0\n2 brk(NULL) = 1\n2 <... brk resumed>) = 0\n1 exit_group(0) = ?\n2 +++ exited with 0 +++\n";
        let calls = Calls::of(trace);
        assert_eq!((calls.runtime["execve"], calls.runtime.values().sum::<u32>(), calls.program), (3, 5, 1));
    }
}
