//! `insula vm run`.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::process::{Command as Program, Stdio};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions};
use serde_json::{Map, Value, json};

use super::console::{End, Session};
use super::device;
use super::lifecycle;
use super::place::Place;
use crate::context::Context;
use crate::failure::{During as _, Failure, Outcome};
use crate::flags::{Action, Command, Flag, Parsed};
use crate::kernel;
use crate::output;
use crate::value::number;

pub(super) const PROGRAM: &str = "insula-vmm";
/// How long the program may take to listen.
const PATIENCE: Duration = Duration::from_secs(10);
const MIB: i64 = 1 << 20;

/// What a machine is made from.
enum Origin {
    /// Its record.
    Specification,
    /// A snapshot's folder.
    Snapshot(PathBuf),
}

pub(crate) static COMMAND: Command = Command {
    name: "run",
    usage: "[OPTIONS]",
    about: "Boot a Linux kernel in a new virtual machine",
    flags: &[&[
        Flag::switch("balloon", "A balloon, to take memory back"),
        Flag::value("backend", "auto|kvm|soft", "What runs the guest's instructions"),
        Flag::value("boot", "linux|pvh", "How the kernel is entered"),
        Flag::value("bus", "mmio|pci", "What carries the devices"),
        Flag::value("cmdline", "TEXT", "The kernel's command line"),
        Flag::value(
            "console",
            "serial|virtio",
            "Where the guest's console is: ttyS0, or hvc0 with the terminal's size",
        ),
        Flag::value("cpus", "N", "Processors (default 1)"),
        Flag::switch("detach", "Run in the background and print the machine's name").short('d'),
        Flag::list("disk", "FILE[,ro][,qcow2][,backing][,direct]", "A disk, raw or in a qcow2 image"),
        Flag::value("initrd", "FILE", "The kernel's first file system"),
        Flag::value(
            "kernel",
            "FILE|NAME",
            "The kernel: ELF or bzImage, also compressed with zstd, or an installed one",
        ),
        Flag::value("memory", "SIZE", "Memory (default 256m)").short('m'),
        Flag::value("memory-overhead", "SIZE", "The most memory that the machine's process may use beside the guest's"),
        Flag::value("name", "NAME", "The machine's name"),
        Flag::list(
            "net",
            "tap=NAME|user[,mac=ADDRESS][,forward=PORT:PORT][,host]",
            "A network card: on a tap, or without privileges",
        ),
        Flag::switch("no-jail", "Do not confine the machine's process, to look for faults"),
        Flag::value("on-reset", "restart|stop", "What a reset by the guest does"),
        Flag::list("pmem", "FILE[,ro]", "A file that the guest sees as persistent memory"),
        Flag::list("share", "DIR:TAG[:ro]", "A folder that the guest can mount by the tag, as virtiofs"),
        Flag::value("soft-tier", "block|interp", "How the software CPU runs code: translated, or interpreted"),
        Flag::value("soft-time", "host|instructions", "The software CPU's clock (instructions: the same run always)"),
        Flag::switch(
            "test-devices",
            "Ports for guests that are tests: what is written to 0xf4 is the exit code's upper part",
        ),
        Flag::switch("track-dirty", "Note written pages, for incremental snapshots"),
        Flag::value("vsock", "CID", "Sockets to the guest of this number, by vsock.sock in the machine's folder"),
        Flag::switch("rm", "Forget the machine when it has ended"),
    ]],
    action: Action::Run(run),
    ..Command::BLANK
};

/// Flags that choose one of several, with their keys in the specification. Sorted.
const CHOICES: [(&str, &str, &str); 7] = [
    ("backend", "backend", "auto|kvm|soft"),
    ("boot", "boot", "linux|pvh"),
    ("bus", "bus", "mmio|pci"),
    ("console", "console", "serial|virtio"),
    ("on-reset", "on_reset", "restart|stop"),
    ("soft-tier", "soft_tier", "block|interp"),
    ("soft-time", "soft_time", "host|instructions"),
];

fn memory(text: &str) -> Result<i64, String> {
    let bytes = number::bytes(text)?;
    if bytes > 0 && bytes % MIB == 0 { Ok(bytes) } else { Err("give whole MiB, as in 256m".to_owned()) }
}

fn count(text: &str) -> Result<u32, String> {
    text.parse().map_err(|_| "give a number".to_owned())
}

/// The body of the machine's configuration.
fn specification(context: &Context, given: &Parsed, place: &Place) -> Result<Value, Failure> {
    let chosen = kernel::choose(context, given.value("kernel"))?;
    let mut spec = Map::new();
    spec.insert("kernel".to_owned(), json!(chosen.kernel));
    let mut put = |key: &str, value: Option<Value>| value.map(|value| spec.insert(key.to_owned(), value));
    put("initrd", given.read("initrd", device::absolute)?.or(chosen.initrd).map(|path| json!(path)));
    put("cpus", given.read("cpus", count)?.map(Value::from));
    put("memory", given.read("memory", memory)?.map(Value::from));
    put("disks", given.read_list("disk", device::disk)?.map(Value::from));
    put("nets", given.read_list("net", device::card)?.map(Value::from));
    put("pmems", given.read_list("pmem", device::pmem)?.map(Value::from));
    put("shares", given.read_list("share", device::share)?.map(Value::from));
    let cid = given.read("vsock", device::cid)?;
    put("vsock", cid.map(|cid| json!({ "cid": cid, "path": place.inside().join("vsock.sock") })));
    put("balloon", given.on("balloon").then_some(true.into()));
    put("track_dirty", given.on("track-dirty").then_some(true.into()));
    put("test_devices", given.on("test-devices").then_some(true.into()));
    put("cmdline", given.value("cmdline").map(Value::from));
    for (flag, key, choices) in CHOICES {
        let chosen = |text: &str| {
            let known = choices.split('|').any(|choice| choice == text);
            if known { Ok(Value::from(text)) } else { Err(format!("give {}", choices.replace('|', " or "))) }
        };
        put(key, given.read(flag, chosen)?);
    }
    if given.value("console") == Some("virtio") && given.value("cmdline").is_none() {
        spec.insert("cmdline".to_owned(), "console=hvc0 panic=-1".into());
    }
    Ok(spec.into())
}

/// A name that nobody has: from the process number and the time, so that it needs no randomness.
fn new_name() -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_millis());
    format!("vm-{:x}-{:x}", now & 0xffff_ffff, std::process::id())
}

/// The program beside this one, else the first in `PATH`.
pub(super) fn program() -> PathBuf {
    let beside = std::env::current_exe().ok().map(|path| path.with_file_name(PROGRAM)).filter(|path| path.is_file());
    beside.unwrap_or_else(|| PathBuf::from(PROGRAM))
}

/// The machine's process.
pub(super) struct Process {
    pid: Pid,
}

impl Process {
    /// Ends it, and waits until it is gone.
    fn kill(&self) {
        // It may have ended.
        let _gone = rustix::process::kill_process(self.pid, Signal::KILL);
        let _code = self.wait();
    }

    /// Waits for its end and gives its exit code.
    fn wait(&self) -> Option<u8> {
        let status = loop {
            match rustix::process::waitpid(Some(self.pid), WaitOptions::empty()) {
                Err(Errno::INTR) => {}
                outcome => break outcome.ok().flatten()?.1,
            }
        };
        let code = status.exit_status().or_else(|| status.terminating_signal().map(|signal| 128 + signal))?;
        u8::try_from(code).ok()
    }
}

/// Starts the machine's process, which comes out of a program that confines itself and then ends.
fn start(place: &Place, origin: Origin, given: &Parsed) -> Result<Process, Failure> {
    let path = place.file("vmm.log");
    let log = OpenOptions::new().create(true).append(true).mode(0o600).open(&path);
    let log = log.during(|| format!("opening {}", path.display()))?;
    let mut command = Program::new(program());
    for (flag, file) in [
        ("--api-sock", "api.sock"),
        ("--console-log", "console.log"),
        ("--console-sock", "console.sock"),
        ("--lock", "lock"),
    ] {
        command.arg(flag).arg(place.file(file));
    }
    match origin {
        Origin::Specification => command.arg("--machine").arg(place.file("machine.json")),
        Origin::Snapshot(folder) => command.arg("--restore").arg(folder),
    };
    if given.on("no-jail") {
        command.arg("--no-jail");
    } else {
        command.arg("--leave").arg("--inside").arg(place.inside()).arg("--cgroup").arg(place.new_group()?);
    }
    if let Some(overhead) = given.read("memory-overhead", memory)? {
        command.arg("--overhead").arg(overhead.to_string());
    }
    let copy = log.try_clone().during(|| "copying a descriptor".to_owned())?;
    command.current_dir("/").stdin(Stdio::null()).stdout(copy).stderr(log);
    sys::job::with_signals(&mut command);
    let mut child = sys::job::spawn_in_new_session(&mut command).map_err(|error| {
        Failure::new(format!("cannot start {PROGRAM}: {error}; install it beside insula, or put it in PATH"))
    })?;
    let since = Instant::now();
    loop {
        let ended = child.try_wait().during(|| format!("waiting for {PROGRAM}"))?;
        if given.on("no-jail") && ended.is_none() && place.file("api.sock").exists() && place.pid().is_some() {
            break;
        }
        if ended.is_some_and(|status| status.success()) {
            break;
        }
        if ended.is_some() || since.elapsed() > PATIENCE {
            // One that hangs is of no use either.
            let _ended = child.kill();
            let _ended = child.wait();
            return Err(complaint(&std::fs::read_to_string(&path).unwrap_or_default()));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    let pid = place.pid().and_then(Pid::from_raw);
    Ok(Process { pid: pid.ok_or_else(|| Failure::new(format!("{PROGRAM} did not say which process the machine is")))? })
}

/// What the program said last, without its name: the user does not run it.
fn complaint(said: &str) -> Failure {
    let last = said.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("nothing");
    match last.strip_prefix("insula-vmm: ") {
        Some(why) => Failure::new(why),
        None => Failure::new(format!("{PROGRAM} did not start; it said: {}", said.trim())),
    }
}

/// The machine's process with, unless it is to be in the background, its console, which is joined before the guest says its
/// first word. The requests are what makes the machine run.
fn begin(
    place: &Place,
    origin: Origin,
    requests: &[(&str, Option<Value>)],
    given: &Parsed,
) -> Result<(Process, Option<Session>), Failure> {
    let process = start(place, origin, given)?;
    let mut session = None;
    let mut ask = || {
        for (path, body) in requests {
            if session.is_none() && !given.on("detach") {
                session = Some(Session::open(&place.file("console.sock"))?);
            }
            place.request("PUT", path, body.as_ref())?;
        }
        Ok(())
    };
    let booted: Result<(), Failure> = ask();
    if let Err(failure) = booted {
        // Nothing runs that could be of use.
        process.kill();
        return Err(failure);
    }
    Ok((process, session))
}

fn run(context: &Context, given: &Parsed) -> Outcome {
    let name = given.value("name").map_or_else(new_name, str::to_owned);
    let place = Place::of(context, &name)?;
    let spec = specification(context, given, &place)?;
    place.take(&spec)?;
    go(&place, Origin::Specification, &[("/boot", None)], given)
}

pub(crate) static RESTORE: Command = Command {
    name: "restore",
    usage: "[OPTIONS] FOLDER",
    about: "Let a machine go on from a snapshot",
    flags: &[&[
        Flag::value("backend", "auto|kvm|soft", "What runs the guest's instructions (default: what did)"),
        Flag::value(
            "check",
            "all|touch|none",
            "When memory is compared with its checksums: at once, when touched, never (default all)",
        ),
        Flag::switch("detach", "Run in the background and print the machine's name").short('d'),
        Flag::value("memory-overhead", "SIZE", "The most memory that the machine's process may use beside the guest's"),
        Flag::value("name", "NAME", "The machine's name"),
        Flag::switch("no-jail", "Do not confine the machine's process, to look for faults"),
        Flag::switch("rm", "Forget the machine when it has ended"),
    ]],
    arguments: (1, 1),
    action: Action::Run(restore),
    ..Command::BLANK
};

fn restore(context: &Context, given: &Parsed) -> Outcome {
    let name = given.value("name").map_or_else(new_name, str::to_owned);
    let place = Place::of(context, &name)?;
    let folder = device::absolute(given.first()).map_err(Failure::new)?;
    let mut body = json!({ "path": folder });
    if let Some(backend) = given.value("backend") {
        body["backend"] = backend.into();
    }
    if let Some(check) = given.value("check") {
        body["check"] = check.into();
    }
    place.take(&json!({ "restored_from": folder }))?;
    go(&place, Origin::Snapshot(folder), &[("/restore", Some(body)), ("/resume", None)], given)
}

/// Starts the machine's process, and stays with it unless it is to be in the background.
fn go(place: &Place, origin: Origin, requests: &[(&str, Option<Value>)], given: &Parsed) -> Outcome {
    let name = &place.name;
    // One that comes while the machine is made is for the machine as well.
    let signals = if given.on("detach") { None } else { Some(lifecycle::hold_signals()?) };
    let (process, session) = match begin(place, origin, requests, given) {
        Ok(begun) => begun,
        Err(failure) => {
            // Somebody else's machine may have come to live here meanwhile.
            if !place.alive() {
                place.remove()?;
            }
            return Err(failure);
        }
    };
    let Some(session) = session else {
        output::line(name);
        return Ok(0);
    };
    if let Some(signals) = signals {
        lifecycle::end_by_signal(signals, place)?;
    }
    if session.join(place)? == End::Left {
        output::note(&format!("the machine goes on; come back with: insula vm console {name}"));
        return Ok(0);
    }
    let code = process.wait();
    if given.on("rm") || given.value("name").is_none() {
        place.remove()?;
    }
    Ok(code.unwrap_or(1))
}
