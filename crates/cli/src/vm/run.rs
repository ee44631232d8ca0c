//! `insula vm run`.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::process::{Child, Command as Program, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use super::console::{End, Session};
use super::place::Place;
use crate::context::Context;
use crate::failure::{During as _, Failure, Outcome};
use crate::flags::{Action, Command, Flag, Parsed};
use crate::output;
use crate::value::number;

const PROGRAM: &str = "insula-vmm";
/// How long the program may take to listen.
const PATIENCE: Duration = Duration::from_secs(10);
const MIB: i64 = 1 << 20;

pub(crate) static COMMAND: Command = Command {
    name: "run",
    usage: "[OPTIONS] --kernel FILE",
    about: "Boot a Linux kernel in a new virtual machine",
    flags: &[&[
        Flag::switch("balloon", "A balloon, to take memory back"),
        Flag::value("backend", "auto|kvm|soft", "What runs the guest's instructions"),
        Flag::value("boot", "linux|pvh", "How the kernel is entered"),
        Flag::value("bus", "mmio|pci", "What carries the devices"),
        Flag::value("cmdline", "TEXT", "The kernel's command line"),
        Flag::value("cpus", "N", "Processors (default 1)"),
        Flag::switch("detach", "Run in the background and print the machine's name").short('d'),
        Flag::list("disk", "FILE[,ro][,qcow2]", "A disk"),
        Flag::value("initrd", "FILE", "The kernel's first file system"),
        Flag::value("kernel", "FILE", "The kernel: ELF or bzImage, also compressed with zstd"),
        Flag::value("memory", "SIZE", "Memory (default 256m)").short('m'),
        Flag::value("name", "NAME", "The machine's name"),
        Flag::list("net", "tap=NAME|user[,mac=ADDRESS]", "A network card: on a tap, or without privileges"),
        Flag::value("on-reset", "restart|stop", "What a reset by the guest does"),
        Flag::list("share", "DIR:TAG[:ro]", "A folder that the guest can mount by the tag, as virtiofs"),
        Flag::switch("track-dirty", "Note written pages, for incremental snapshots"),
        Flag::value("vsock", "CID", "Sockets to the guest of this number, by vsock.sock in the machine's folder"),
        Flag::switch("rm", "Forget the machine when it has ended"),
    ]],
    action: Action::Run(run),
    ..Command::BLANK
};

/// The file's whole path: the machine's process runs in another folder.
fn absolute(path: &str) -> Result<PathBuf, String> {
    std::path::absolute(path).map_err(|error| error.to_string())
}

fn disk(text: &str) -> Result<Value, String> {
    let (mut path, mut read_only, mut format) = (text, false, "raw");
    while let Some((before, option)) = path.rsplit_once(',') {
        match option {
            "ro" => read_only = true,
            "rw" => read_only = false,
            "raw" | "qcow2" => format = option,
            _ => break,
        }
        path = before;
    }
    if path.is_empty() {
        return Err("give a file, as in disk.img, disk.img,ro or disk.qcow2,qcow2".to_owned());
    }
    Ok(json!({ "path": absolute(path)?, "read_only": read_only, "format": format }))
}

fn share(text: &str) -> Result<Value, String> {
    let (rest, read_only) = text.strip_suffix(":ro").map_or((text, false), |rest| (rest, true));
    match rest.rsplit_once(':') {
        Some((folder, tag)) if !folder.is_empty() && !tag.is_empty() => {
            Ok(json!({ "path": absolute(folder)?, "tag": tag, "read_only": read_only }))
        }
        _ => Err("give a folder and the name by which the guest mounts it, as in ./src:src or ./src:src:ro".to_owned()),
    }
}

fn card(text: &str) -> Result<Value, String> {
    let mut card = Map::new();
    for part in text.split(',') {
        match part.split_once('=') {
            Some((key @ ("tap" | "mac"), value)) if !value.is_empty() => {
                card.insert(key.to_owned(), value.into());
            }
            None if part == "user" => {}
            _ => return Err("give tap=NAME or user, and mac=ADDRESS behind a comma".to_owned()),
        }
    }
    Ok(card.into())
}

fn memory(text: &str) -> Result<i64, String> {
    let bytes = number::bytes(text)?;
    if bytes > 0 && bytes % MIB == 0 { Ok(bytes) } else { Err("give whole MiB, as in 256m".to_owned()) }
}

fn count(text: &str) -> Result<u32, String> {
    text.parse().map_err(|_| "give a number".to_owned())
}

/// The body of the machine's configuration.
fn specification(given: &Parsed, place: &Place) -> Result<Value, Failure> {
    let Some(kernel) = given.read("kernel", absolute)? else {
        return Err(Failure::new("a kernel is needed; give it with --kernel FILE"));
    };
    let mut spec = Map::new();
    spec.insert("kernel".to_owned(), json!(kernel));
    let mut put = |key: &str, value: Option<Value>| value.map(|value| spec.insert(key.to_owned(), value));
    put("initrd", given.read("initrd", absolute)?.map(|path| json!(path)));
    put("cpus", given.read("cpus", count)?.map(Value::from));
    put("memory", given.read("memory", memory)?.map(Value::from));
    put("disks", given.read_list("disk", disk)?.map(Value::from));
    put("nets", given.read_list("net", card)?.map(Value::from));
    put("shares", given.read_list("share", share)?.map(Value::from));
    let cid = given.read("vsock", count)?;
    put("vsock", cid.map(|cid| json!({ "cid": cid, "path": place.file("vsock.sock") })));
    put("balloon", given.on("balloon").then_some(true.into()));
    put("track_dirty", given.on("track-dirty").then_some(true.into()));
    for (flag, key) in
        [("backend", "backend"), ("boot", "boot"), ("bus", "bus"), ("cmdline", "cmdline"), ("on-reset", "on_reset")]
    {
        put(key, given.value(flag).map(Value::from));
    }
    Ok(spec.into())
}

/// A name that nobody has: from the process number and the time, so that it needs no randomness.
fn new_name() -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_millis());
    format!("vm-{:x}-{:x}", now & 0xffff_ffff, std::process::id())
}

/// The program beside this one, else the first in `PATH`.
fn program() -> PathBuf {
    let beside = std::env::current_exe().ok().map(|path| path.with_file_name(PROGRAM)).filter(|path| path.is_file());
    beside.unwrap_or_else(|| PathBuf::from(PROGRAM))
}

fn start(place: &Place) -> Result<Child, Failure> {
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
    let copy = log.try_clone().during(|| "copying a descriptor".to_owned())?;
    command.current_dir("/").stdin(Stdio::null()).stdout(copy).stderr(log);
    let mut child = sys::job::spawn_in_new_session(&mut command).map_err(|error| {
        Failure::new(format!("cannot start {PROGRAM}: {error}; install it beside insula, or put it in PATH"))
    })?;
    let since = Instant::now();
    while !place.file("api.sock").exists() {
        let ended = child.try_wait().during(|| format!("waiting for {PROGRAM}"))?;
        if ended.is_some() || since.elapsed() > PATIENCE {
            // One that hangs is of no use either.
            let _ended = child.kill();
            let _ended = child.wait();
            let said = std::fs::read_to_string(&path).unwrap_or_default();
            return Err(Failure::new(format!("{PROGRAM} did not start; it said: {}", said.trim())));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(child)
}

/// The machine's process with, unless it is to be in the background, its console, which is joined before the guest says its
/// first word. The requests are what makes the machine run.
fn begin(
    place: &Place,
    requests: &[(&str, Option<Value>)],
    given: &Parsed,
) -> Result<(Child, Option<Session>), Failure> {
    let mut child = start(place)?;
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
        let _gone = child.kill();
        let _gone = child.wait();
        return Err(failure);
    }
    Ok((child, session))
}

fn run(context: &Context, given: &Parsed) -> Outcome {
    let name = given.value("name").map_or_else(new_name, str::to_owned);
    let place = Place::of(context, &name)?;
    let spec = specification(given, &place)?;
    place.take(&spec)?;
    go(&place, &[("/machine", Some(spec)), ("/boot", None)], given)
}

pub(crate) static RESTORE: Command = Command {
    name: "restore",
    usage: "[OPTIONS] FOLDER",
    about: "Let a machine go on from a snapshot",
    flags: &[&[
        Flag::value("backend", "auto|kvm|soft", "What runs the guest's instructions (default: what did)"),
        Flag::switch("detach", "Run in the background and print the machine's name").short('d'),
        Flag::value("name", "NAME", "The machine's name"),
        Flag::switch("rm", "Forget the machine when it has ended"),
    ]],
    arguments: (1, 1),
    action: Action::Run(restore),
    ..Command::BLANK
};

fn restore(context: &Context, given: &Parsed) -> Outcome {
    let name = given.value("name").map_or_else(new_name, str::to_owned);
    let place = Place::of(context, &name)?;
    let folder = absolute(given.first()).map_err(Failure::new)?;
    let mut body = json!({ "path": folder });
    if let Some(backend) = given.value("backend") {
        body["backend"] = backend.into();
    }
    place.take(&json!({ "restored_from": folder }))?;
    go(&place, &[("/restore", Some(body)), ("/resume", None)], given)
}

/// Starts the machine's process, and stays with it unless it is to be in the background.
fn go(place: &Place, requests: &[(&str, Option<Value>)], given: &Parsed) -> Outcome {
    let name = &place.name;
    let (mut child, session) = match begin(place, requests, given) {
        Ok(begun) => begun,
        Err(failure) => {
            place.remove()?;
            return Err(failure);
        }
    };
    let Some(session) = session else {
        output::line(name);
        return Ok(0);
    };
    if session.join()? == End::Left {
        output::note(&format!("the machine goes on; come back with: insula vm console {name}"));
        return Ok(0);
    }
    let status = child.wait().during(|| format!("waiting for {PROGRAM}"))?;
    if given.on("rm") || given.value("name").is_none() {
        place.remove()?;
    }
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}
