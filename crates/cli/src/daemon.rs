//! `insula daemon`: start, stop, status and logs of `insulad`; and the start on demand for every other command.

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command as Program, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;
use rustix::process::{Pid, PidfdFlags, Signal};

use crate::context::Context;
use crate::context::endpoint::Endpoint;
use crate::failure::{During as _, Failure, Outcome};
use crate::flags::{Action, Command, Flag, Order, Parsed};
use crate::output;

const PROGRAM: &str = "insulad";
/// How long a daemon may take to answer; it may have many containers to find again.
const START_LIMIT: Duration = Duration::from_secs(30);
/// How long a daemon may take to end.
const STOP_LIMIT: Duration = Duration::from_secs(30);
/// The exit code of `daemon status` when there is none, as init scripts have it.
const NOT_RUNNING: u8 = 3;

pub(crate) static GROUP: Command = Command {
    name: "daemon",
    usage: "COMMAND",
    about: "Start, stop and ask after the daemon",
    action: Action::Group(&[&LOGS, &RELOAD, &START, &STATUS, &STOP, &UPGRADE]),
    ..Command::BLANK
};

static START: Command = Command {
    name: "start",
    usage: "[OPTIONS] [-- INSULAD-OPTIONS...]",
    about: "Start the daemon in the background",
    flags: &[&[
        Flag::value("root", "DIR", "Keep state in this folder (INSULA_ROOT; /var/lib/insula)"),
        Flag::value("run", "DIR", "Keep sockets in this folder (INSULA_RUN; /run/insula)"),
        Flag::value("cgroup-parent", "PATH", "Put containers below this control group"),
        Flag::value("netns-pool", "COUNT", "Keep so many network namespaces ready"),
        Flag::value("userns-remap", "off|UID:GID:COUNT", "Give containers a user namespace with these ids of the host"),
        Flag::value("log-level", "LEVEL", "Write more or less: error, warn, info, debug or trace"),
    ]],
    arguments: (0, Command::MANY),
    action: Action::Run(start),
    ..Command::BLANK
};

static STOP: Command = Command {
    name: "stop",
    usage: "",
    about: "Stop the daemon; containers go on",
    order: Order::Mixed,
    action: Action::Run(stop),
    ..Command::BLANK
};

static STATUS: Command = Command {
    name: "status",
    usage: "",
    about: "Say whether the daemon runs; exit code 3 if not",
    action: Action::Run(status),
    ..Command::BLANK
};

static RELOAD: Command = Command {
    name: "reload",
    usage: "",
    about: "Let the daemon read its settings again",
    action: Action::Run(reload),
    ..Command::BLANK
};

static UPGRADE: Command = Command {
    name: "upgrade",
    usage: "",
    about: "Let the daemon execute its program anew, such as another version; containers go on, no client is refused",
    action: Action::Run(upgrade),
    ..Command::BLANK
};

static LOGS: Command = Command {
    name: "logs",
    usage: "[OPTIONS]",
    about: "Show what the daemon has written",
    flags: &[&[
        Flag::switch("follow", "Go on with what it writes from now").short('f'),
        Flag::value("tail", "LINES", "Begin so many lines before the end (all)").short('n'),
    ]],
    action: Action::Run(logs),
    ..Command::BLANK
};

/// Starts the daemon because a command needs it, and says so.
///
/// # Errors
/// What went wrong, with the end of the daemon's log.
pub(crate) fn start_for_command(context: &Context) -> Result<(), Failure> {
    if let Some(pid) = launch(context, &[])? {
        output::note(&format!("started insulad (pid {pid}); stop it with: insula daemon stop"));
    }
    Ok(())
}

fn start(context: &Context, given: &Parsed) -> Outcome {
    let mut context = context.clone();
    if let Some(root) = given.value("root") {
        context.root = std::path::absolute(root)?;
    }
    if let Some(run) = given.value("run") {
        context.run = std::path::absolute(run)?;
        context.endpoint = Endpoint::Unix(context.run.join("docker.sock"));
    }
    let mut extra = Vec::new();
    for name in ["cgroup-parent", "netns-pool", "userns-remap", "log-level"] {
        if let Some(value) = given.value(name) {
            extra.extend([format!("--{name}"), value.to_owned()]);
        }
    }
    extra.extend(given.arguments.iter().cloned());
    match launch(&context, &extra)? {
        Some(pid) => {
            output::line(&format!("started insulad (pid {pid}) on {}", context.run.join("docker.sock").display()))
        }
        None => output::line(&format!("insulad runs already on {}", context.run.join("docker.sock").display())),
    }
    Ok(0)
}

/// Starts the daemon and waits until it answers. Returns its process id, or `None` if one answered already.
fn launch(context: &Context, extra: &[String]) -> Result<Option<u32>, Failure> {
    let run = &context.run;
    fs::create_dir_all(run).during(|| {
        format!("cannot make the folder {}; give another with --run or INSULA_RUN, or try as root", run.display())
    })?;
    // One client starts the daemon; the others wait for it here.
    let lock = OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(false)
        .mode(0o600)
        .open(run.join("start.lock"))
        .during(|| {
            format!("cannot write in {}; give another folder with --run or INSULA_RUN, or try as root", run.display())
        })?;
    rustix::fs::flock(&lock, FlockOperation::LockExclusive).during(|| "cannot lock start.lock".to_owned())?;
    let socket = run.join("docker.sock");
    if UnixStream::connect(&socket).is_ok() {
        return Ok(None);
    }
    let log_path = run.join("insulad.log");
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(&log_path)
        .during(|| format!("cannot write {}", log_path.display()))?;
    let from = log.metadata()?.len();
    let program = find_program();
    let mut command = Program::new(&program);
    command.arg("--root").arg(&context.root).arg("--run").arg(run).args(extra);
    command.current_dir("/").stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    let mut child = sys::job::spawn_in_new_session(&mut command).map_err(|error| {
        let program = program.display();
        Failure::new(format!(
            "cannot start the daemon {program}: {error}; install insulad beside insula, or put it in PATH"
        ))
    })?;
    wait_for_socket(&mut child, &socket).map_err(|why| {
        let tail = log_tail(&log_path, from);
        let said = if tail.is_empty() { String::new() } else { format!("; it said:\n{tail}") };
        Failure::new(format!("{why}{said}"))
    })?;
    Ok(Some(child.id()))
}

fn wait_for_socket(child: &mut Child, socket: &std::path::Path) -> Result<(), String> {
    let begin = Instant::now();
    let mut pause = Duration::from_millis(1);
    loop {
        if UnixStream::connect(socket).is_ok() {
            return Ok(());
        }
        match child.try_wait() {
            Ok(Some(status)) => return Err(format!("insulad ended at its start with {status}")),
            Ok(None) => {}
            Err(error) => return Err(format!("cannot wait for insulad: {error}")),
        }
        if begin.elapsed() > START_LIMIT {
            let seconds = START_LIMIT.as_secs();
            return Err(format!("insulad (pid {}) does not answer after {seconds} seconds", child.id()));
        }
        sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

fn log_tail(path: &std::path::Path, from: u64) -> String {
    let read = || {
        let mut file = File::open(path)?;
        file.seek(SeekFrom::Start(from))?;
        let mut bytes = Vec::new();
        file.take(64 * 1024).read_to_end(&mut bytes)?;
        Ok::<_, std::io::Error>(String::from_utf8_lossy(&bytes).into_owned())
    };
    let text = read().unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines.get(lines.len().saturating_sub(10)..).unwrap_or_default().join("\n")
}

/// The daemon beside this program, else the first in `PATH`.
pub(crate) fn find_program() -> PathBuf {
    let beside = std::env::current_exe().ok().map(|path| path.with_file_name(PROGRAM)).filter(|path| path.is_file());
    beside.unwrap_or_else(|| PathBuf::from(PROGRAM))
}

/// The running daemon of this run folder, held by a descriptor so that its number cannot be another's.
fn running(context: &Context) -> Result<Option<(Pid, rustix::fd::OwnedFd)>, Failure> {
    let path = context.run.join("insulad.pid");
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Failure::new(format!("cannot read {}: {error}", path.display()))),
    };
    let Some(pid) = text.trim().parse::<i32>().ok().and_then(Pid::from_raw) else { return Ok(None) };
    let fd = match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
        Ok(fd) => fd,
        Err(rustix::io::Errno::SRCH) => return Ok(None),
        Err(error) => return Err(Failure::from(error).during(&format!("cannot watch process {pid}"))),
    };
    // Asked after the descriptor was had: the name belongs to the process that it holds, or to nobody. The name may end
    // in " (deleted)" when the program was replaced.
    let link = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
    let name = link.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let ours = name.split(' ').next() == Some(PROGRAM);
    Ok(ours.then_some((pid, fd)))
}

fn stop(context: &Context, _: &Parsed) -> Outcome {
    let Some((pid, fd)) = running(context)? else {
        output::line(&format!("no insulad runs in {}", context.run.display()));
        return Ok(0);
    };
    rustix::process::pidfd_send_signal(&fd, Signal::TERM).during(|| format!("cannot stop insulad (pid {pid})"))?;
    let limit = rustix::event::Timespec { tv_sec: i64::try_from(STOP_LIMIT.as_secs())?, tv_nsec: 0 };
    let mut polled = [rustix::event::PollFd::new(&fd, rustix::event::PollFlags::IN)];
    if rustix::event::poll(&mut polled, Some(&limit))? == 0 {
        let seconds = STOP_LIMIT.as_secs();
        return Err(Failure::new(format!(
            "insulad (pid {pid}) has not ended after {seconds} seconds; see: insula daemon logs"
        )));
    }
    output::line(&format!("stopped insulad (pid {pid})"));
    Ok(0)
}

/// Sends the daemon a signal; its process id.
fn tell(context: &Context, signal: Signal) -> Result<Pid, Failure> {
    let Some((pid, fd)) = running(context)? else {
        return Err(Failure::new(format!("no insulad runs in {}", context.run.display())));
    };
    rustix::process::pidfd_send_signal(&fd, signal).during(|| format!("cannot reach insulad (pid {pid})"))?;
    Ok(pid)
}

fn reload(context: &Context, _: &Parsed) -> Outcome {
    let pid = tell(context, Signal::HUP)?;
    output::line(&format!("insulad (pid {pid}) reads its settings again; what it did is in: insula daemon logs"));
    Ok(0)
}

fn upgrade(context: &Context, _: &Parsed) -> Outcome {
    // the successor writes the file anew, though perhaps with the same number
    let file = context.run.join("insulad.pid");
    let written = || fs::metadata(&file).map(|meta| (meta.ino(), meta.mtime(), meta.mtime_nsec())).ok();
    let before = written();
    let pid = tell(context, Signal::USR2)?;
    let begin = Instant::now();
    while written().is_none_or(|now| Some(now) == before) {
        if begin.elapsed() > START_LIMIT {
            return Err(Failure::new(format!(
                "insulad (pid {pid}) has not come back after {} seconds; see: insula daemon logs",
                START_LIMIT.as_secs()
            )));
        }
        sleep(Duration::from_millis(20));
    }
    let answer = crate::client::Client::new(context).get("/version")?;
    output::line(&format!("insulad (pid {pid}) is version {} now", crate::table::text(&answer, "/Version")));
    Ok(0)
}

fn status(context: &Context, _: &Parsed) -> Outcome {
    let answers = context.endpoint.connect().is_ok();
    let process = running(context)?.map(|(pid, _)| pid);
    let socket = &context.endpoint;
    match (answers, process) {
        (true, Some(pid)) => output::line(&format!("insulad (pid {pid}) answers on {socket}")),
        (true, None) => output::line(&format!("a daemon answers on {socket}")),
        (false, Some(pid)) => {
            output::line(&format!("insulad (pid {pid}) runs, but does not answer on {socket}"));
            return Ok(1);
        }
        (false, None) => {
            output::line(&format!(
                "insulad does not run; start it with: insula daemon start (state in {})",
                context.root.display()
            ));
            return Ok(NOT_RUNNING);
        }
    }
    Ok(0)
}

fn logs(context: &Context, given: &Parsed) -> Outcome {
    let path = context.run.join("insulad.log");
    let mut file = File::open(&path).map_err(|error| {
        let path = path.display();
        Failure::new(format!(
            "cannot read {path}: {error}; a daemon that systemd started writes to: journalctl -u insula"
        ))
    })?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    let tail = given.read("tail", |text| match text {
        "all" => Ok(usize::MAX),
        text => text.parse().map_err(|_| "give a number of lines, or all".to_owned()),
    })?;
    let lines: Vec<&[u8]> = bytes.split_inclusive(|byte| *byte == b'\n').collect();
    let skip = lines.len().saturating_sub(tail.unwrap_or(usize::MAX));
    output::write(&lines.get(skip..).unwrap_or_default().concat());
    while given.on("follow") {
        bytes.clear();
        file.read_to_end(&mut bytes)?;
        output::write(&bytes);
        sleep(Duration::from_millis(200));
    }
    Ok(0)
}
