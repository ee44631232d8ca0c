//! What the daemon asks, and what it gets for an answer.

use super::checkpoint::{self, Outside};
use super::client::Client;
use super::daemon::Daemon;
use super::foreign::Foreign;
use super::poll::Token;
use super::task::Task;
use super::{Home, INIT, PARTING_MS, Shim, now_ms, now_ns};
use crate::create::{self, Container, First, Plan};
use crate::error::{Doing, Result, SetupError};
use crate::exec;
use crate::hooks::{self, State};
use crate::stdio::{Input, Stdio, Streams as Ends};
use control::{
    Afterwards, Create, Created, Exec, ExecAttach, Exit, FailureKind, Frame, Framing, Phase, ProcessId, Reply, Request,
    State as Present, Streams,
};
use rustix::event::epoll::EventFlags;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with};
use rustix::process::{Signal, pidfd_send_signal};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use sys::process::Namespaces;
use sys::socket::ShortPath;

impl Shim {
    /// Handles what a daemon sent.
    pub(super) fn serve(&mut self, key: u32, flags: EventFlags) {
        let Some(mut daemon) = self.daemons.remove(&key) else { return };
        if flags.contains(EventFlags::OUT) && !daemon.flush() {
            return;
        }
        if !flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR) {
            self.daemons.insert(key, daemon);
            return;
        }
        let open = daemon.receive();
        // events that the requests cause must reach this daemon too
        self.daemons.insert(key, daemon);
        loop {
            let Some(daemon) = self.daemons.get_mut(&key) else { return };
            match daemon.request() {
                Ok(Some(frame)) => self.answer(key, frame),
                Ok(None) => break,
                Err(error) => {
                    super::complain(&format!("a daemon's connection is closed: {error}"));
                    self.daemons.remove(&key);
                    return;
                }
            }
        }
        if !matches!(open, Ok(true)) {
            self.daemons.remove(&key);
        }
    }

    fn answer(&mut self, key: u32, frame: Frame<Request>) {
        let reply = self.request(frame.body, frame.fds).unwrap_or_else(|error| Reply::Failed(error.into()));
        let heard = self.daemons.get_mut(&key).is_some_and(|daemon: &mut Daemon| daemon.reply(frame.id, reply));
        if !heard {
            self.daemons.remove(&key);
        }
    }

    fn request(&mut self, request: Request, mut fds: Vec<OwnedFd>) -> Result<Reply> {
        match request {
            Request::Create(create) => self.create(*create, fds),
            Request::Start => self.start(),
            Request::Signal { signal, all } => self.signal(signal, all),
            Request::Pause => self.freeze(Phase::Running, Phase::Paused),
            Request::Resume => self.freeze(Phase::Paused, Phase::Running),
            Request::Update { resources } => {
                let container = self.container.as_ref().ok_or_else(not_running)?;
                match &self.foreign {
                    Some(foreign) => foreign.update(&resources)?,
                    None => container.group.apply(&resources).doing(|| "cannot change the limits").map(|_| ())?,
                }
                self.watch_memory(&resources);
                Ok(Reply::Done)
            }
            Request::Attach { process, streams, ahead, detach_keys } => {
                let connection = fds.pop().ok_or_else(|| SetupError::invalid("no connection came with the request"))?;
                let task = self.find(&process).ok_or_else(|| {
                    SetupError::new(FailureKind::NotFound, "there is no such process to attach to; it may have ended")
                })?;
                let tty = self.tasks.get(&task).is_some_and(|process| process.tty);
                let framing = if tty { Framing::Raw } else { Framing::Multiplexed };
                self.attach(task, connection, ExecAttach { streams, ahead, detach_keys, framing });
                Ok(Reply::Done)
            }
            Request::Exec(exec) => self.exec(*exec, fds),
            Request::Resize { process, rows, cols } => {
                let task = self.find(&process).and_then(|key| self.tasks.get(&key));
                let task = task.ok_or_else(|| SetupError::new(FailureKind::NotFound, "there is no such process"))?;
                // clients size whatever they are attached to: where there is no terminal, there is nothing to do
                task.resize(rows, cols).unwrap_or(Ok(())).doing(|| "cannot resize")?;
                Ok(Reply::Done)
            }
            Request::Kill { process } => {
                let pidfd = self.find(&process).and_then(|key| self.tasks.get(&key)).and_then(Task::pidfd);
                if let Some(pidfd) = pidfd {
                    pidfd_send_signal(pidfd, Signal::KILL)
                        .map_err(sys::SysError::of("pidfd_send_signal"))
                        .doing(|| "cannot kill the process")?;
                }
                Ok(Reply::Done)
            }
            Request::Checkpoint { images, then } => self.checkpoint(&images, then),
            Request::State => Ok(Reply::State(self.state())),
            Request::Quit => self.quit(),
        }
    }

    fn create(&mut self, mut request: Create, mut fds: Vec<OwnedFd>) -> Result<Reply> {
        if request.version != control::VERSION {
            let text = format!(
                "this helper speaks version {} of the control protocol, not {}; install daemon and helper of one version",
                control::VERSION,
                request.version
            );
            return Err(SetupError::unsupported(text));
        }
        if self.phase != Phase::Empty {
            return Err(SetupError::new(FailureKind::Conflict, "this helper has its container already"));
        }
        let netns = if request.netns { fds.pop() } else { None };
        if request.netns && netns.is_none() {
            return Err(SetupError::invalid("no network namespace came with the request"));
        }
        self.open_log(std::mem::take(&mut request.log))?;
        let linux = request.spec.linux().as_ref();
        let own_pids = linux.and_then(|linux| linux.namespaces().as_ref()).is_some_and(|all| {
            all.iter().any(|one| one.typ() == oci_spec::runtime::LinuxNamespaceType::Pid && one.path().is_none())
        });
        self.outside = Outside::of(&request);
        self.restored = request.restore.is_some();
        self.home = Some(Home {
            runtime_dir: std::mem::take(&mut request.runtime_dir),
            exit_file: request.exit_file.take(),
            own_pids,
            open_stdin: request.stdio.open_stdin,
        });
        self.listen().inspect_err(|_| self.forget())?;
        let folder = self.home.as_ref().map(|home| home.runtime_dir.clone()).unwrap_or_default();
        let made = match (request.runtime.clone(), &request.restore) {
            (None, None) => self.build(&request, &folder, (fds, netns)),
            (None, Some(images)) => checkpoint::restore(&request, &folder, images, (&fds, netns)),
            (Some(runtime), _) => {
                Foreign::create(runtime, &folder, &request, (&fds, netns)).map(|(foreign, container, created)| {
                    self.foreign = Some(foreign);
                    (container, created)
                })
            }
        };
        let (mut container, created) = made.inspect_err(|_| self.forget())?;
        let streams = std::mem::take(&mut container.streams);
        let pidfd = container.pidfd.try_clone().doing(|| "dup").inspect_err(|_| {
            create::reap(&container.pidfd);
        })?;
        let mut task = Task::new(&self.poller, INIT, ProcessId::Init, (container.pid, pidfd), streams);
        task.input_once = request.stdio.stdin_once;
        self.tasks.insert(INIT, task);
        self.container = Some(container);
        self.phase = Phase::Created;
        if let Some(resources) = request.spec.linux().as_ref().and_then(|linux| linux.resources().as_ref()) {
            self.watch_memory(resources);
        }
        Ok(Reply::Created(created))
    }

    /// Makes the container ourselves.
    fn build(
        &self,
        request: &Create,
        folder: &Path,
        (layers, netns): (Vec<OwnedFd>, Option<OwnedFd>),
    ) -> Result<(Container, Created)> {
        let state = State {
            oci_version: request.spec.version(),
            id: &request.id,
            status: "creating",
            pid: None,
            bundle: folder,
            annotations: request.spec.annotations().as_ref(),
        };
        let all = request.spec.hooks().as_ref();
        let mut outside = |pid: i32| {
            let state = State { pid: Some(pid), ..state.clone() };
            hooks::run_all("prestart", all.and_then(hooks::prestart), &state)?;
            hooks::run_all("createRuntime", all.and_then(|all| all.create_runtime().as_ref()), &state)
        };
        let mut terms = create::Terms::default();
        if all.is_some() {
            terms.state = Some(state.clone());
            terms.hooks = Some(&mut outside);
        }
        let plan = Plan {
            spec: &request.spec,
            rootfs: &request.rootfs,
            layers,
            netns,
            seccomp: request.seccomp.as_ref(),
            stdio: Stdio::Pipes(if request.stdio.open_stdin { Input::Open } else { Input::Null }),
            first: if request.init { First::Init } else { First::Program },
            terms,
        };
        create::create(self.proof, plan)
    }

    /// Opens the listening socket and leaves our process id beside it.
    fn listen(&mut self) -> Result<()> {
        let Some(home) = &self.home else { return Ok(()) };
        let path = home.runtime_dir.join("shim.sock");
        let what = || format!("cannot listen on {}", path.display());
        let socket =
            socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)
                .doing(what)?;
        // of an earlier helper that was killed
        let _ = std::fs::remove_file(&path);
        let short = ShortPath::of(&path).doing(what)?;
        let old = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o177));

        let bound = SocketAddrUnix::new(short.as_ref()).and_then(|address| bind(&socket, &address));
        rustix::process::umask(old);
        bound.doing(what)?;
        listen(&socket, 16).doing(what)?;
        let mut source = self.poller.source(socket, Token::Listener);
        source.want(Some(EventFlags::IN));
        self.listener = Some(source);
        Ok(())
    }

    /// Undoes what a failed creation left of the helper's own.
    fn forget(&mut self) {
        self.listener = None;
        self.log = None;
        if let Some(home) = self.home.take() {
            home.remove_files();
        }
    }

    fn start(&mut self) -> Result<Reply> {
        if self.phase != Phase::Created {
            return Err(SetupError::new(FailureKind::Conflict, "the container is not waiting to be started"));
        }
        let container = self.container.as_mut().ok_or_else(not_running)?;
        let pid = container.pid;
        let started = match &self.foreign {
            _ if self.restored => Ok(()),
            None => container.start(),
            Some(foreign) => foreign.start(),
        };
        match started {
            Ok(()) => {
                self.phase = Phase::Running;
                self.idle_trimmed = false;
                Ok(Reply::Started { pid })
            }
            Err(error) => {
                let code = match error.kind {
                    FailureKind::CommandNotFound => 127,
                    _ => 126,
                };
                self.tear_down(code);
                Err(error)
            }
        }
    }

    /// Ends a container whose program never ran.
    fn tear_down(&mut self, code: i32) {
        if let Some(container) = &self.container {
            create::reap(&container.pidfd);
        }
        self.tasks.clear();
        self.dismantle();
        let exit = Exit { code, oom_killed: false, at_ns: now_ns() };
        self.write_exit(&exit);
        self.exit = Some(exit);
        self.phase = Phase::Exited;
        for client in self.clients.values_mut() {
            client.leaving = true;
        }
    }

    fn signal(&mut self, signal: i32, all: bool) -> Result<Reply> {
        let container = self.container.as_ref().ok_or_else(not_running)?;
        if all {
            container.group.signal_all(signal).doing(|| format!("cannot send signal {signal}"))?;
            return Ok(Reply::Done);
        }
        if let Some(foreign) = &self.foreign {
            return foreign.signal(signal).map(|()| Reply::Done);
        }
        let outcome = match Signal::from_named_raw(signal) {
            Some(named) => pidfd_send_signal(&container.pidfd, named).map_err(sys::SysError::of("pidfd_send_signal")),
            None => sys::signal::kill(container.pid, signal),
        };
        match outcome {
            Err(error) if error.errno == rustix::io::Errno::SRCH => Err(not_running()),
            Err(error) if error.errno == rustix::io::Errno::INVAL => {
                Err(SetupError::invalid(format!("there is no signal {signal}")))
            }
            other => other.doing(|| format!("cannot send signal {signal}")).map(|()| Reply::Done),
        }
    }

    fn freeze(&mut self, from: Phase, to: Phase) -> Result<Reply> {
        if self.phase != from {
            let text = if to == Phase::Paused { "the container is not running" } else { "the container is not paused" };
            return Err(SetupError::new(FailureKind::Conflict, text));
        }
        let container = self.container.as_ref().ok_or_else(not_running)?;
        match (&self.foreign, to) {
            (Some(foreign), Phase::Paused) => foreign.pause()?,
            (Some(foreign), _) => foreign.resume()?,
            (None, Phase::Paused) => container.group.freeze().doing(|| "cannot pause the container")?,
            (None, _) => container.group.thaw().doing(|| "cannot resume the container")?,
        }
        self.phase = to;
        Ok(Reply::Done)
    }

    fn checkpoint(&mut self, images: &Path, then: Afterwards) -> Result<Reply> {
        if !matches!(self.phase, Phase::Running | Phase::Paused) {
            return Err(not_running());
        }
        let container = self.container.as_ref().ok_or_else(not_running)?;
        checkpoint::write_beside(images, &|fresh| match &self.foreign {
            Some(foreign) => foreign.checkpoint(fresh, then),
            None => checkpoint::dump(container, &self.outside, (fresh, then)),
        })?;
        Ok(Reply::Done)
    }

    fn attach(&mut self, task: u32, connection: OwnedFd, how: ExecAttach) {
        let key = self.key();
        let Some(process) = self.tasks.get_mut(&task) else { return };
        let open = task != INIT || self.home.as_ref().is_some_and(|home| home.open_stdin);
        let streams = Streams { stdin: how.streams.stdin && (open || process.tty), ..how.streams };
        let source = self.poller.source(connection, Token::Client(key));
        let mut client = Client::new(task, source, streams, how.framing, how.detach_keys);
        Self::input(&mut client, process, &how.ahead);
        client.watch(process.has_room());
        self.clients.insert(key, client);
    }

    fn exec(&mut self, request: Exec, mut fds: Vec<OwnedFd>) -> Result<Reply> {
        match self.phase {
            Phase::Running => {}
            Phase::Paused => {
                return Err(SetupError::new(FailureKind::Conflict, "the container is paused, unpause it before exec"));
            }
            _ => return Err(not_running()),
        }
        let process = ProcessId::Exec(request.id.clone());
        if self.find(&process).is_some() {
            return Err(SetupError::new(FailureKind::Conflict, "there is an exec with this id already"));
        }
        let connection = match &request.attach {
            Some(_) => Some(fds.pop().ok_or_else(|| SetupError::invalid("no connection came with the request"))?),
            None => None,
        };
        let (pid, pidfd, streams) = match &mut self.foreign {
            Some(foreign) => {
                let left = foreign.exec(&request)?;
                (left.pid, left.pidfd, left.streams)
            }
            None => self.enter(&request)?,
        };
        let key = self.key();
        let mut task = Task::new(&self.poller, key, process, (pid, pidfd), streams);
        task.input_once = true;
        if !request.open_stdin {
            task.end_input();
        }
        self.tasks.insert(key, task);
        if let (Some(attach), Some(connection)) = (request.attach, connection) {
            let streams = Streams { stdin: attach.streams.stdin && request.open_stdin, ..attach.streams };
            self.attach(key, connection, ExecAttach { streams, ..attach });
        }
        self.idle_trimmed = false;
        Ok(Reply::Started { pid })
    }

    /// Runs one more process in a container of our own.
    fn enter(&self, request: &Exec) -> Result<(i32, OwnedFd, Ends)> {
        let namespaces: Namespaces = self.own_namespaces();
        let container = self.container.as_ref().ok_or_else(not_running)?;
        let running = exec::exec(
            self.proof,
            exec::Plan {
                process: &request.process,
                seccomp: request.seccomp.as_ref(),
                stdio: Stdio::Pipes(if request.open_stdin { Input::Open } else { Input::Null }),
                init: container.pidfd.as_fd(),
                namespaces,
                groups: container.group.join_fds().doing(|| "cannot open the control group")?,
                terms: exec::Terms::default(),
            },
        )?;
        running.warnings.iter().for_each(|warning| super::complain(warning));
        Ok((running.pid, running.pidfd, running.streams))
    }

    fn state(&self) -> Present {
        let pid = self.container.as_ref().map_or(0, |container| container.pid);
        let execs = self.tasks.values().filter(|task| task.exit.is_none()).filter_map(|task| match &task.id {
            ProcessId::Exec(id) => Some((id.clone(), task.pid)),
            ProcessId::Init => None,
        });
        Present { phase: self.phase, pid, exit: self.exit.clone(), execs: execs.collect() }
    }

    fn quit(&mut self) -> Result<Reply> {
        match self.phase {
            Phase::Running | Phase::Paused => {
                return Err(SetupError::new(FailureKind::Conflict, "the container still runs"));
            }
            Phase::Created => self.tear_down(137),
            Phase::Empty | Phase::Exited => {}
        }
        self.forget();
        self.quit_by_ms = Some(now_ms() + PARTING_MS);
        Ok(Reply::Done)
    }
}

fn not_running() -> SetupError {
    SetupError::new(FailureKind::Conflict, "the container is not running")
}
