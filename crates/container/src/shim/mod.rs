//! The helper beside one container: a single thread around one epoll set.
//!
//! ```text
//!   daemon(s) ── control frames ──> serve ──> create / exec
//!                                    │            │ streams, pidfd
//!   clients <── frames or raw ── client <── task <┘──> log
//! ```
//!
//! It lives as long as the container's record needs it: through the death of daemons, until [`control::Request::Quit`]. Output is
//! recorded before any client gets it; a client that lags behind slows the process down, one that has gone does not.

mod checkpoint;
mod client;
mod daemon;
mod foreign;
mod log;
mod poll;
mod serve;
mod task;
mod zygote;

use crate::create::Container;
use crate::error::Doing;
use checkpoint::Outside;
use client::{Client, Heard};
use control::{Event, Exit, Log, Phase, ProcessId};
use daemon::Daemon;
use foreign::Foreign;
use log::LogWriter;
use oci_spec::runtime::LinuxResources;
use poll::{Poller, Source, Stream, Token};
use rustix::event::epoll::EventFlags;
use rustix::process::{DumpableBehavior, WaitId, WaitIdOptions, waitid};
use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use sys::process::{Namespaces, SingleThread};
use task::Task;

pub use foreign::IN_FRONT;
pub use zygote::zygote;

/// The key of the container's first process among the tasks.
const INIT: u32 = 0;
/// How long clients may still take output after the daemon has let us go, in milliseconds.
const PARTING_MS: u64 = 10_000;
/// After this long without events, in milliseconds, memory that is not needed goes back.
const QUIET_MS: u64 = 300;
/// After word of memory running out: how often and how long to look for a kill, in milliseconds.
const OOM_LOOK_MS: u64 = 10;
const OOM_WATCH_MS: u64 = 2000;

/// The helper's whole state.
#[derive(Debug)]
pub struct Shim {
    proof: SingleThread,
    poller: Poller,
    next_key: u32,
    listener: Option<Source>,
    daemons: BTreeMap<u32, Daemon>,
    tasks: BTreeMap<u32, Task>,
    clients: BTreeMap<u32, Client>,
    log: Option<LogWriter>,
    home: Option<Home>,
    phase: Phase,
    exit: Option<Exit>,
    container: Option<Container>,
    /// What makes the container, if it is not we.
    foreign: Option<Foreign>,
    /// What a checkpoint has to know.
    outside: Outside,
    /// Its processes come from a checkpoint, and run already.
    restored: bool,
    memory: Option<Source>,
    oom_kills: u64,
    /// Memory ran out where the kernel may not kill for it.
    starved: bool,
    /// Until when to look whether the kernel killed something: it tells before it does.
    oom_watch_ms: Option<u64>,
    quit_by_ms: Option<u64>,
    idle_trimmed: bool,
}

/// Where the helper's own files are.
#[derive(Debug)]
struct Home {
    runtime_dir: PathBuf,
    exit_file: Option<PathBuf>,
    own_pids: bool,
    open_stdin: bool,
}

impl Home {
    fn remove_files(&self) {
        // the daemon may have removed the whole folder
        let _ = std::fs::remove_file(self.runtime_dir.join("shim.sock"));
    }
}

/// Runs a program as process 1 of a container that another runtime makes; the program's end is this process's.
///
/// # Errors
/// What keeps it from being one.
pub fn init(words: &[std::ffi::OsString]) -> crate::Result<()> {
    crate::init::tiny::stand_alone(words)
}

/// Runs the helper with its first connection until it has no more to do.
///
/// # Errors
/// What keeps it from starting or waiting; a container's troubles go over the connection.
pub fn run(connection: OwnedFd) -> crate::Result<()> {
    let proof = SingleThread::check().doing(|| "cannot work with several threads")?;
    // a group of our own, so that no terminal's signal reaches us; we may be leader already
    let _ = rustix::process::setsid();
    sys::process::block_signals();
    // a process that enters a container must not be open to those inside
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable).doing(|| "prctl(PR_SET_DUMPABLE)")?;
    let poller = Poller::new().doing(|| "cannot wait for events")?;
    let mut shim = Shim {
        proof,
        poller,
        next_key: 1,
        listener: None,
        daemons: BTreeMap::new(),
        tasks: BTreeMap::new(),
        clients: BTreeMap::new(),
        log: None,
        home: None,
        phase: Phase::Empty,
        exit: None,
        container: None,
        foreign: None,
        outside: Outside::default(),
        restored: false,
        memory: None,
        oom_kills: 0,
        starved: false,
        oom_watch_ms: None,
        quit_by_ms: None,
        idle_trimmed: false,
    };
    shim.adopt(connection);
    shim.turn()
}

impl Shim {
    fn key(&mut self) -> u32 {
        let key = self.next_key;
        self.next_key = self.next_key.wrapping_add(1).max(1);
        key
    }

    fn adopt(&mut self, connection: OwnedFd) {
        // this end's own flag, the daemon's end is another file
        let _ = rustix::io::ioctl_fionbio(&connection, true);
        let key = self.key();
        let source = self.poller.source(connection, Token::Daemon(key));
        self.daemons.insert(key, Daemon::new(source));
    }

    fn turn(&mut self) -> crate::Result<()> {
        let mut quiet = false;
        while !self.done() {
            let trim = quiet && !self.idle_trimmed && self.phase == Phase::Running;
            self.idle_trimmed |= trim;
            let timeout = self.timeout();
            if trim {
                // the last before waiting, so that little is touched again
                sys::process::trim_memory();
            }
            let events = self.poller.wait(timeout).doing(|| "cannot wait for events")?;
            quiet = events.is_empty();
            self.idle_trimmed &= quiet;
            for (token, flags) in events {
                self.handle(token, flags);
            }
            self.check_memory();
            if let Some(log) = &mut self.log {
                log.push();
            }
            self.settle();
            if self.foreign.is_some() {
                foreign::reap_strangers(&|pid| self.tasks.values().any(|task| task.pid == pid));
            }
        }
        Ok(())
    }

    fn done(&self) -> bool {
        match self.quit_by_ms {
            Some(by) => self.clients.is_empty() || now_ms() >= by,
            None => self.phase == Phase::Empty && self.daemons.is_empty(),
        }
    }

    fn timeout(&self) -> Option<u64> {
        let deadlines = self.tasks.values().filter_map(|task| task.deadline_ms).chain(self.quit_by_ms);
        let now = now_ms();
        let trim = (!self.idle_trimmed && self.phase == Phase::Running).then_some(now + QUIET_MS);
        let memory = self.oom_watch_ms.map(|_| now + OOM_LOOK_MS);
        let log = self.log.as_ref().and_then(LogWriter::again_ms).map(|again| now + again);
        deadlines.chain(trim).chain(memory).chain(log).min().map(|deadline| deadline.saturating_sub(now))
    }

    fn handle(&mut self, token: Token, flags: EventFlags) {
        match token {
            Token::Listener => self.accept(),
            Token::Memory => self.memory_event(),
            Token::Daemon(key) => self.serve(key, flags),
            Token::Client(key) => self.client_ready(key, flags),
            Token::End(key) => self.process_ended(key),
            Token::Input(key) => {
                if let Some(task) = self.tasks.get_mut(&key) {
                    task.push_input();
                }
            }
            Token::Output(key, stream) => self.output_ready(key, stream),
        }
    }

    fn accept(&mut self) {
        let Some(listener) = &self.listener else { return };
        if let Ok(connection) = rustix::net::accept_with(listener, rustix::net::SocketFlags::CLOEXEC) {
            self.adopt(connection);
        }
    }

    /// Reads a process's output once: to the log first, then to its clients.
    fn output_ready(&mut self, key: u32, stream: Stream) {
        let Some(task) = self.tasks.get_mut(&key) else { return };
        let mut buffer = [0_u8; 16 << 10];
        let Some(count) = task.read(stream, &mut buffer) else { return };
        let bytes = &buffer[..count];
        if let Some(log) = self.log.as_mut().filter(|_| key == INIT) {
            log.record(stream, bytes);
        }
        let lost: Vec<u32> = self
            .clients
            .iter_mut()
            .filter_map(|(own, client)| (client.task == key && !client.output(stream, bytes)).then_some(*own))
            .collect();
        for client in lost {
            self.lose(client);
        }
    }

    fn client_ready(&mut self, key: u32, flags: EventFlags) {
        let Some(client) = self.clients.get_mut(&key) else { return };
        let gone = flags.intersects(EventFlags::HUP | EventFlags::ERR);
        if flags.contains(EventFlags::OUT) && !client.flush() {
            self.lose(key);
            return;
        }
        if flags.contains(EventFlags::IN) || gone {
            // of a client that has gone, everything that it left; else once a turn
            while self.hear(key) && gone {}
        }
        if gone {
            self.lose(key);
        }
    }

    /// Takes one piece of input from a client; false when there is no more now.
    fn hear(&mut self, key: u32) -> bool {
        let Some(client) = self.clients.get_mut(&key).filter(|client| !client.input_ended) else { return false };
        let Some(task) = self.tasks.get_mut(&client.task) else { return false };
        match client.hear() {
            Heard::Nothing => false,
            Heard::Bytes(bytes) => {
                Self::input(client, task, &bytes);
                if client.leaving {
                    self.part(key);
                    return false;
                }
                true
            }
            Heard::End => {
                client.input_ended = true;
                if client.streams.stdin && task.input_once {
                    task.end_input();
                }
                false
            }
        }
    }

    fn input(client: &mut Client, task: &mut Task, bytes: &[u8]) {
        if !client.streams.stdin {
            return;
        }
        if task.tty {
            let (passed, detached) = client.keys.filter(bytes);
            task.feed(&passed);
            client.leaving |= detached;
        } else {
            task.feed(bytes);
        }
    }

    /// Closes a client's connection.
    fn part(&mut self, key: u32) {
        if let Some(client) = self.clients.remove(&key) {
            client.part();
        }
    }

    /// A client has gone without a word.
    fn lose(&mut self, key: u32) {
        let Some(client) = self.clients.remove(&key) else { return };
        if let Some(task) = self.tasks.get_mut(&client.task)
            && client.streams.stdin
            && !client.input_ended
            && task.input_once
        {
            task.end_input();
        }
    }

    fn process_ended(&mut self, key: u32) {
        let Some(task) = self.tasks.get_mut(&key) else { return };
        let Some(pidfd) = task.pidfd() else { return };
        let status = waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED | WaitIdOptions::NOHANG);
        let Ok(Some(status)) = status else { return };
        let signal = status.terminating_signal().map(|signal| 128 + signal);
        let code = status.exit_status().or(signal).unwrap_or(255);
        task.ended(Exit { code, oom_killed: false, at_ns: now_ns() }, now_ms());
        if key == INIT {
            let shared = self.home.as_ref().is_some_and(|home| !home.own_pids);
            if let Some(container) = self.container.as_ref().filter(|_| shared) {
                // without a pid namespace of its own, what it started lives on
                let _ = container.group.kill();
            }
        }
    }

    /// After each round: announces ends, and sets what is to be waited for.
    fn settle(&mut self) {
        let now = now_ms();
        let ended: Vec<u32> = self
            .tasks
            .iter_mut()
            .filter(|(_, task)| task.exit.is_some())
            .filter_map(|(key, task)| {
                if task.deadline_ms.is_some_and(|deadline| deadline <= now) {
                    task.abandon_outputs();
                }
                task.drained().then_some(*key)
            })
            .collect();
        // execs first: their end was before init's
        for key in ended.into_iter().rev() {
            self.announce(key);
        }
        let lagging: Vec<u32> =
            self.clients.values().filter(|client| client.lag() > client::MAX_LAG).map(|client| client.task).collect();
        for task in self.tasks.values_mut() {
            task.watch_outputs(lagging.contains(&task.key()));
        }
        let finished: Vec<u32> = self
            .clients
            .iter()
            .filter(|(_, client)| client.leaving && client.lag() == 0)
            .map(|(key, _)| *key)
            .collect();
        finished.into_iter().for_each(|key| self.part(key));
        for client in self.clients.values_mut() {
            let room = self.tasks.get(&client.task).is_none_or(Task::has_room);
            client.watch(room);
        }
    }

    /// A process has ended and all its output is recorded.
    fn announce(&mut self, key: u32) {
        if key == INIT && self.tasks.len() > 1 && self.home.as_ref().is_some_and(|home| home.own_pids) {
            // every other process of the namespace has ended too, and its end is about to be seen
            let waiting = self.tasks.values().any(|task| task.exit.is_none());
            if waiting {
                return;
            }
        }
        let Some(task) = self.tasks.remove(&key) else { return };
        let Some(mut exit) = task.exit.clone() else { return };
        if key == INIT {
            if let Some(log) = &mut self.log {
                log.finish();
            }
            exit.oom_killed = self.dismantle();
            self.phase = Phase::Exited;
            self.exit = Some(exit.clone());
            self.write_exit(&exit);
        }
        for client in self.clients.values_mut().filter(|client| client.task == key) {
            client.leaving = true;
        }
        self.tell(&Event::Exited { process: task.id.clone(), exit });
    }

    fn tell(&mut self, event: &Event) {
        self.daemons.retain(|_, daemon| daemon.event(event.clone()));
    }

    /// Removes the control group; whether memory ran out in it.
    fn dismantle(&mut self) -> bool {
        self.memory = None;
        let Some(container) = self.container.take() else { return false };
        let kills = container.group.oom_kills().unwrap_or(self.oom_kills);
        // the last one may not have been seen before the end that it brought
        if kills > self.oom_kills {
            self.oom_kills = kills;
            self.tell(&Event::OomKilled);
        }
        if let Some(foreign) = self.foreign.take() {
            foreign.delete();
        }
        if let Err(error) = container.group.remove() {
            complain(&format!("cannot remove the control group: {error}"));
        }
        kills > 0 || self.starved
    }

    fn write_exit(&self, exit: &Exit) {
        let Some(file) = self.home.as_ref().and_then(|home| home.exit_file.as_ref()) else { return };
        let fresh = file.with_extension("new");
        let json = serde_json::to_vec(exit).unwrap_or_default();
        let outcome = std::fs::write(&fresh, json).and_then(|()| std::fs::rename(&fresh, file));
        if let Err(error) = outcome {
            complain(&format!("exit file {}: {error}", file.display()));
        }
    }

    /// Has the kernel tell when the container's memory runs out, which takes a limit; version 1 has a descriptor for it.
    fn watch_memory(&mut self, resources: &LinuxResources) {
        let limited = resources.memory().as_ref().is_some_and(|memory| memory.limit().is_some_and(|limit| limit > 0));
        let Some(container) = self.container.as_ref().filter(|_| limited && self.memory.is_none()) else { return };
        let Some(dir) = container.group.dirs().into_iter().find(|dir| dir.join("memory.oom_control").exists()) else {
            return;
        };
        let flags = rustix::event::EventfdFlags::CLOEXEC | rustix::event::EventfdFlags::NONBLOCK;
        let (Ok(event), Ok(control)) =
            (rustix::event::eventfd(0, flags), std::fs::File::open(dir.join("memory.oom_control")))
        else {
            return;
        };
        use std::os::fd::AsRawFd;
        let line = format!("{} {}", event.as_raw_fd(), control.as_raw_fd());
        if std::fs::write(dir.join("cgroup.event_control"), line).is_ok() {
            let mut source = self.poller.source(event, Token::Memory);
            source.want(Some(EventFlags::IN));
            self.memory = Some(source);
        }
    }

    fn memory_event(&mut self) {
        let Some(memory) = &self.memory else { return };
        // the number says how often, the counter below says more
        let _ = rustix::io::read(memory, &mut [0_u8; 8]);
        self.oom_watch_ms = Some(now_ms() + OOM_WATCH_MS);
    }

    fn check_memory(&mut self) {
        let Some(until) = self.oom_watch_ms else { return };
        let group = self.container.as_ref().map(|container| &container.group);
        let kills = group.and_then(|group| group.oom_kills().ok()).unwrap_or(0);
        let starves = group.is_some_and(|group| group.starves().unwrap_or(false));
        if kills > self.oom_kills || starves {
            self.oom_kills = kills;
            self.starved |= starves;
            self.oom_watch_ms = None;
            self.tell(&Event::OomKilled);
        } else if self.container.is_none() || until <= now_ms() {
            self.oom_watch_ms = None;
        }
    }

    fn open_log(&mut self, log: Log) -> crate::Result<()> {
        self.log = if log.file.is_some() || log.service.is_some() {
            Some(LogWriter::open(log, Some(self.proof)).doing(|| "failed to initialize logging driver")?)
        } else {
            None
        };
        Ok(())
    }

    fn find(&self, process: &ProcessId) -> Option<u32> {
        self.tasks.iter().find(|(_, task)| task.id == *process).map(|(key, _)| *key)
    }

    fn own_namespaces(&self) -> Namespaces {
        self.container.as_ref().map_or(Namespaces::empty(), |container| container.namespaces)
    }
}

/// Nanoseconds since the Unix epoch.
fn now_ns() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}

/// Milliseconds of the monotonic clock.
fn now_ms() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1000 + u64::try_from(now.tv_nsec).unwrap_or(0) / 1_000_000
}

/// What has no other place goes to where the daemon has pointed our standard error.
fn complain(text: &str) {
    use std::io::Write;
    // nobody may be there to read it
    let _ = writeln!(std::io::stderr(), "insula-shim: {text}");
}
