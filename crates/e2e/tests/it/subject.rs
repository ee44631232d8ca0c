//! The program under test: a private daemon, and clients that talk to it.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use testkit::{Island, Terminal, is_root_or_skip, own_network, rootfs, wait_for};

use crate::leftover;

/// How long a daemon may take to answer, and things on their way out to be gone.
pub(crate) const SOON: Duration = Duration::from_secs(10);
/// Subjects of this process so far, because tests may share one.
static STARTED: AtomicU32 = AtomicU32::new(0);
/// The image that every subject starts with.
pub(crate) const IMAGE: &str = "test:1";

/// Which program is tested.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Insula,
    Dockerd,
}

/// What a client's run gave.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Run {
    /// Checks the exit code, and shows everything when it is another.
    #[track_caller]
    pub(crate) fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, code, "\nstdout: {}\nstderr: {}", self.out, self.err);
        self
    }

    /// Standard output without the white space at its ends.
    pub(crate) fn text(&self) -> &str {
        self.out.trim()
    }
}

/// A private daemon with one image.
#[derive(Debug)]
pub(crate) struct Subject {
    pub(crate) kind: Kind,
    pub(crate) island: Island,
    pub(crate) group: String,
    daemon: Option<Child>,
    /// Further words of the daemon's command line.
    pub(crate) extra: Vec<String>,
    /// Further variables of our daemon, from its next start on.
    pub(crate) variables: Vec<(String, String)>,
}

/// The folder of the programs.
pub(crate) fn programs() -> PathBuf {
    if let Some(folder) = std::env::var_os("INSULA_E2E_BIN") {
        return PathBuf::from(folder);
    }
    let test = std::env::current_exe().unwrap();
    test.parent().and_then(Path::parent).unwrap().to_owned()
}

/// One of our programs.
pub(crate) fn program(name: &str) -> PathBuf {
    let path = programs().join(name);
    assert!(path.is_file(), "{} is not there; cargo xtask test builds it", path.display());
    path
}

/// Which subject the environment names.
pub(crate) fn kind() -> Kind {
    match std::env::var("INSULA_E2E_SUBJECT").as_deref() {
        Err(_) | Ok("" | "insula") => Kind::Insula,
        Ok("dockerd") => Kind::Dockerd,
        Ok(other) => panic!("INSULA_E2E_SUBJECT={other}: there are insula and dockerd"),
    }
}

/// Whether the test is about our own daemon, and the subject is another; prints the reason.
pub(crate) fn skip_unless_insula() -> bool {
    let skip = kind() != Kind::Insula;
    if skip {
        println!("skipped: about insulad only");
    }
    skip
}

/// A root file system as a tar file, made once for all tests of a build.
pub(crate) fn image_tar() -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let tar = folder.join("e2e-root-1.tar");
    let lock = File::create(folder.join("e2e-root.lock")).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    if !tar.exists() {
        let island = Island::new();
        let tree = island.dir("tree");
        rootfs::host_tree(&tree);
        rootfs::tar(&tree, &island.path("root.tar"));
        let half = folder.join("e2e-root-1.half");
        fs::copy(island.path("root.tar"), &half).unwrap();
        fs::rename(half, &tar).unwrap();
    }
    tar
}

impl Subject {
    /// A daemon with the image; `None` if this machine cannot have one, with the reason printed.
    pub(crate) fn start() -> Option<Self> {
        let subject = Self::bare()?;
        let tar = image_tar();
        subject.insula(&["import", tar.to_str().unwrap(), IMAGE]).expect(0);
        Some(subject)
    }

    /// A daemon without an image.
    pub(crate) fn bare() -> Option<Self> {
        Self::bare_with(|_| Vec::new())
    }

    /// A daemon without an image, with further words on its command line.
    pub(crate) fn bare_with(extra: impl FnOnce(&Island) -> Vec<String>) -> Option<Self> {
        if !is_root_or_skip() {
            return None;
        }
        // The bridges and rules of a daemon are not for the machine that the test runs on.
        own_network();
        let island = Island::new();
        // Below one parent of the suite's own there is no name that another program would use.
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let group = format!("/insula-e2e-{}-{number}", std::process::id());
        let (extra_words, variables) = (extra(&island), Vec::new());
        let mut subject = Self { kind: kind(), island, group, daemon: None, extra: extra_words, variables };
        let _ = (subject.island.state(), subject.island.run());
        subject.start_daemon();
        Some(subject)
    }

    /// The daemon's command line.
    pub(crate) fn daemon_command(&self) -> Command {
        let (state, run) = (self.island.path("state"), self.island.path("run"));
        let mut command = match self.kind {
            Kind::Insula => {
                let mut command = Command::new(program("insulad"));
                command.arg("--root").arg(state).arg("--run").arg(run).args(["--cgroup-parent", &self.group]);
                command.envs(self.variables.iter().map(|(name, value)| (name, value)));
                command
            }
            Kind::Dockerd => {
                let mut command = Command::new("unshare");
                command.args(["-m", "dockerd"]);
                command.arg(format!("--host=unix://{}", self.socket().display()));
                command.arg(format!("--data-root={}", state.display()));
                command.arg(format!("--exec-root={}", self.island.path("exec").display()));
                command.arg(format!("--pidfile={}", run.join("dockerd.pid").display()));
                command
            }
        };
        command.args(&self.extra);
        command
    }

    /// Starts the daemon (again) and waits until it answers.
    pub(crate) fn start_daemon(&mut self) {
        let log = File::options().create(true).append(true).open(self.island.path("daemon.log")).unwrap();
        let mut command = self.daemon_command();
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let limit = SOON * if self.kind == Kind::Dockerd { 3 } else { 1 };
        let up = wait_for(limit, || {
            let ended = child.try_wait().unwrap();
            assert!(ended.is_none(), "the daemon ended with {ended:?}:\n{}", self.log());
            UnixStream::connect(self.socket()).is_ok().then_some(())
        });
        assert!(up.is_some(), "the daemon does not answer:\n{}", self.log());
        self.daemon = Some(child);
    }

    /// What the daemon has written.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.island.path("daemon.log")).unwrap_or_default()
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.island.path("run/docker.sock")
    }

    /// The daemon's process.
    pub(crate) fn daemon_pid(&self) -> rustix::process::Pid {
        let id = self.daemon.as_ref().map(Child::id).unwrap();
        rustix::process::Pid::from_raw(i32::try_from(id).unwrap()).unwrap()
    }

    /// Whether the daemon is no more.
    pub(crate) fn daemon_ended(&mut self) -> bool {
        self.daemon.as_mut().is_none_or(|child| child.try_wait().unwrap().is_some())
    }

    /// Waits for a daemon that was killed.
    pub(crate) fn reap_daemon(&mut self) {
        self.daemon.take().unwrap().wait().unwrap();
    }

    /// Sends the daemon a signal and waits for its end.
    pub(crate) fn end_daemon(&mut self, signal: rustix::process::Signal) {
        rustix::process::kill_process(self.daemon_pid(), signal).unwrap();
        let mut child = self.daemon.take().unwrap();
        let limit = SOON * 3;
        let ended = wait_for(limit, || child.try_wait().unwrap());
        if ended.is_none() {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("the daemon did not end in {limit:?}:\n{}", self.log());
        }
    }

    fn client(&self, program: &Path, words: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.arg("--host").arg(format!("unix://{}", self.socket().display()));
        // Below the suite's own group: where the daemon has no such setting, each container gets it.
        command.args(words).current_dir(self.island.root());
        for name in ["INSULA_HOST", "INSULA_ROOT", "INSULA_RUN", "DOCKER_HOST", "DOCKER_CONTEXT"] {
            command.env_remove(name);
        }
        command.env("DOCKER_CONFIG", self.island.path("docker-config"));
        command
    }

    /// Our client's command line.
    pub(crate) fn command(&self, words: &[&str]) -> Command {
        self.client(&program("insula"), words)
    }

    /// Runs our client.
    pub(crate) fn insula(&self, words: &[&str]) -> Run {
        finish(&mut self.command(words), b"")
    }

    /// Runs our client with something to read.
    pub(crate) fn insula_with(&self, words: &[&str], input: &[u8]) -> Run {
        finish(&mut self.command(words), input)
    }

    /// Runs a throw-away container without a network, with further options.
    pub(crate) fn once(&self, options: &[&str], program: &[&str]) -> Run {
        let words = [&["run", "--rm", "--network", "none"][..], options, &[IMAGE], program].concat();
        self.insula(&words)
    }

    /// Starts a container in the background.
    pub(crate) fn background(&self, name: &str, options: &[&str], program: &[&str]) -> String {
        let words = [&["run", "-d", "--network", "none", "--name", name][..], options, &[IMAGE], program].concat();
        self.insula(&words).expect(0).text().to_owned()
    }

    /// The stock client's command line; `None` if it is not installed, with the reason printed.
    pub(crate) fn docker_command(&self, words: &[&str]) -> Option<Command> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let found = std::env::split_paths(&path).map(|folder| folder.join("docker")).find(|path| path.is_file());
        if found.is_none() {
            println!("skipped: no docker client in PATH");
        }
        Some(self.client(&found?, words))
    }

    /// Runs the stock client, which must be there.
    #[track_caller]
    pub(crate) fn docker(&self, words: &[&str]) -> Run {
        finish(&mut self.docker_command(words).unwrap(), b"")
    }

    /// Waits until a container's field has a value for the stock client.
    #[track_caller]
    pub(crate) fn await_docker(&self, name: &str, template: &str, value: &str) {
        let field = || self.docker(&["inspect", "-f", template, name]).expect(0).text().to_owned();
        let seen = wait_for(SOON, || (field() == value).then_some(()));
        assert!(seen.is_some(), "{template} of {name} is {:?}, not {value:?}", field());
    }

    /// Waits until a container has printed this for the stock client.
    #[track_caller]
    pub(crate) fn await_logs(&self, name: &str, text: &str) {
        let seen = wait_for(SOON, || (self.docker(&["logs", name]).expect(0).out == text).then_some(()));
        assert!(seen.is_some(), "{name} has printed {:?}", self.docker(&["logs", name]).out);
    }

    /// Our client at a terminal.
    pub(crate) fn terminal(&self, words: &[&str]) -> Terminal {
        Terminal::spawn(&self.command(words))
    }

    /// One value of a container, by template.
    #[track_caller]
    pub(crate) fn field(&self, name: &str, template: &str) -> String {
        self.insula(&["inspect", "-f", template, name]).expect(0).text().to_owned()
    }

    /// Waits until a container's field has a value.
    #[track_caller]
    pub(crate) fn await_field(&self, name: &str, template: &str, value: &str) {
        let seen = wait_for(SOON, || (self.field(name, template) == value).then_some(()));
        assert!(seen.is_some(), "{template} of {name} is {:?}, not {value:?}", self.field(name, template));
    }

    /// Checks that no container, mount or group of one is left while the daemon runs.
    #[track_caller]
    pub(crate) fn assert_empty(&self) {
        let listed = self.insula(&["ps", "-aq"]).expect(0);
        assert_eq!(listed.text(), "", "containers are left");
        if self.kind == Kind::Insula {
            let gone = wait_for(SOON, || self.container_leftover().is_empty().then_some(()));
            assert!(gone.is_some(), "left behind:\n{}", self.container_leftover().join("\n"));
        }
    }

    fn container_leftover(&self) -> Vec<String> {
        let mut found = leftover::of(self.island.root(), &self.group);
        let daemon = format!("process {} ", self.daemon_pid().as_raw_nonzero());
        // A running daemon may keep its own parent group, though none below it.
        let parent = |line: &str| line.starts_with("control group ") && line.ends_with(&self.group);
        // And so may the helper that it keeps ready to fork others from.
        let ready = |line: &str| line.starts_with("process ") && line.ends_with(" --zygote");
        // And the one that answers for names and guards the packet filter, which ends with the daemon if nobody needs it.
        let names = |line: &str| line.starts_with("process ") && line.contains("/insula-netd ");
        found.retain(|line| !line.starts_with(&daemon) && !parent(line) && !ready(line) && !names(line));
        found
    }

    /// Removes all containers, stops the daemon, and checks that nothing is left of either.
    #[track_caller]
    pub(crate) fn finish(mut self) {
        let ids = self.insula(&["ps", "-aq"]).expect(0);
        let ids: Vec<&str> = ids.out.split_whitespace().collect();
        if !ids.is_empty() {
            self.insula(&[&["rm", "-f"][..], &ids].concat()).expect(0);
        }
        self.assert_empty();
        self.end_daemon(rustix::process::Signal::TERM);
        if self.kind == Kind::Insula {
            let left = || leftover::of(self.island.root(), &self.group);
            let gone = wait_for(SOON, || left().is_empty().then_some(()));
            assert!(gone.is_some(), "left behind:\n{}\n{}", left().join("\n"), self.log());
            assert!(!self.socket().exists(), "the socket is left");
        }
    }
}

impl Drop for Subject {
    /// Ends what a failed test has left; a finished one has nothing.
    fn drop(&mut self) {
        let Some(mut child) = self.daemon.take() else {
            leftover::clear(self.island.root(), &self.group);
            return;
        };
        if std::thread::panicking() {
            println!("the daemon's log:\n{}", self.log());
        }
        let listed = finish(&mut self.command(&["ps", "-aq"]), b"");
        for id in listed.out.split_whitespace() {
            finish(&mut self.command(&["rm", "-f", id]), b"");
        }
        // One that has ended already can't be asked to.
        let _ = rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::TERM);
        if wait_for(SOON, || child.try_wait().ok().flatten()).is_none() {
            let _ = child.kill();
            let _ = child.wait();
        }
        leftover::clear(self.island.root(), &self.group);
    }
}

/// How long a client may take before it counts as hanging.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs a command to its end; one that hangs is killed, and its exit code is -1.
pub(crate) fn finish(command: &mut Command, input: &[u8]) -> Run {
    let stdin = if input.is_empty() { Stdio::null() } else { Stdio::piped() };
    let mut child = command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let writer = child.stdin.take().map(|mut stdin| {
        let input = input.to_vec();
        // A program that does not read to the end closes the pipe, which is no mistake of the test.
        std::thread::spawn(move || drop(stdin.write_all(&input)))
    });
    let read = |mut from: Box<dyn std::io::Read + Send>| {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            from.read_to_end(&mut bytes).map(|_| String::from_utf8_lossy(&bytes).into_owned())
        })
    };
    let out = read(Box::new(child.stdout.take().unwrap()));
    let err = read(Box::new(child.stderr.take().unwrap()));
    let deadline = Instant::now() + PATIENCE;
    let status = loop {
        match child.try_wait().unwrap() {
            Some(status) => break Some(status),
            None if Instant::now() > deadline => {
                child.kill().unwrap();
                child.wait().unwrap();
                break None;
            }
            None => std::thread::sleep(Duration::from_millis(2)),
        }
    };
    if let Some(writer) = writer {
        writer.join().unwrap();
    }
    let code = status.and_then(|status| status.code()).unwrap_or(-1);
    Run { code, out: out.join().unwrap().unwrap(), err: err.join().unwrap().unwrap() }
}
