//! The daemon on a kernel older than this machine's, through the stock client: its layers, and checkpoints, because criu knows that
//! kernel. The tests are ignored, because no other machine may be taken for the guest.

use std::fs::{self, File};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::Duration;

use testkit::{Island, Run, finish, rootfs, wait_for};

/// The machine computes by software.
const SOON: Duration = Duration::from_secs(60);

/// Programs of the image, all in one file.
const APPLETS: &[&str] = &["cat", "chown", "dd", "id", "ls", "nc", "ping", "sh", "sleep", "stat", "touch", "wget"];

/// A daemon with an image, ended with its owner.
pub(crate) struct Daemon {
    pub(crate) island: Island,
    process: Child,
    arguments: Vec<String>,
}

impl Daemon {
    fn start() -> Self {
        Self::start_with(&["--cgroup-parent", "/insula-e2e-guest"])
    }

    /// A daemon with more arguments than those for its folders.
    pub(crate) fn start_with(arguments: &[&str]) -> Self {
        let island = Island::new();
        let arguments: Vec<String> = arguments.iter().map(|one| (*one).to_owned()).collect();
        let process = spawn(&island, &arguments);
        let daemon = Self { island, process, arguments };
        daemon.await_socket();
        let tree = daemon.island.dir("tree");
        for folder in ["bin", "dev", "etc", "proc", "sys", "tmp"] {
            fs::create_dir(tree.join(folder)).unwrap();
        }
        fs::write(tree.join("etc/passwd"), "root:x:0:0::/:/bin/sh\nuser:x:1000:1000::/:/bin/sh\n").unwrap();
        fs::copy("/bin/busybox", tree.join("bin/busybox")).unwrap();
        for name in APPLETS {
            std::os::unix::fs::symlink("busybox", tree.join("bin").join(name)).unwrap();
        }
        let tar = daemon.island.path("tree.tar");
        rootfs::tar(&tree, &tar);
        daemon.docker(&["import", tar.to_str().unwrap(), "small:1"]);
        daemon
    }

    fn await_socket(&self) {
        let up = wait_for(SOON, || UnixStream::connect(self.socket()).is_ok().then_some(()));
        assert!(up.is_some(), "{}\n{}", self.log(), self.threads());
    }

    /// Kills the daemon without a warning, and starts the next one.
    pub(crate) fn replace(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        self.process = spawn(&self.island, &self.arguments);
        self.await_socket();
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.island.path("run/docker.sock")
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.island.path("log")).unwrap_or_default()
    }

    /// Where its threads stand.
    fn threads(&self) -> String {
        let folder = format!("/proc/{}/task", self.process.id());
        let read =
            |path: PathBuf, name: &str| fs::read_to_string(path.join(name)).unwrap_or_default().trim().to_owned();
        let tasks = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
        let shown = tasks.map(|path| ["comm", "wchan", "syscall"].map(|name| read(path.clone(), name)).join(" "));
        shown.collect::<Vec<_>>().join("\n")
    }

    pub(crate) fn run(&self, words: &[&str]) -> Run {
        let mut command = Command::new("docker");
        command.arg("--host").arg(format!("unix://{}", self.socket().display())).args(words);
        // the guest has no plugins
        finish(command.env("DOCKER_CONFIG", self.island.path("config")).env("DOCKER_BUILDKIT", "0"), b"")
    }

    /// What the client says where all is well.
    #[track_caller]
    pub(crate) fn docker(&self, words: &[&str]) -> String {
        let run = self.run(words);
        assert_eq!(run.code, 0, "{words:?}: {}{}\n{}{}", run.out, run.err, self.log(), criu_logs(&self.island));
        run.out.trim().to_owned()
    }

    fn status(&self) -> String {
        self.docker(&["inspect", "-f", "{{.State.Status}}", "counter"])
    }

    fn count(&self) -> u64 {
        self.run(&["exec", "counter", "cat", "/count"]).out.trim().parse().unwrap_or(0)
    }

    #[track_caller]
    fn counts_on(&self, from: u64) -> u64 {
        let on = wait_for(SOON, || Some(self.count()).filter(|count| *count > from));
        on.unwrap_or_else(|| panic!("it stands at {}, and was at {from}", self.count()))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.process.try_wait().is_ok_and(|ended| ended.is_none()) {
            let _ = self.run(&["rm", "-f", "counter"]);
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Starts a daemon on the island.
fn spawn(island: &Island, arguments: &[String]) -> Child {
    let (state, run) = (island.state(), island.run());
    let log = File::options().create(true).append(true).open(island.path("log")).unwrap();
    let mut command = Command::new("insulad");
    command.arg("--root").arg(state).arg("--run").arg(run).args(arguments);
    command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap()
}

/// The last words of criu, wherever it wrote them.
fn criu_logs(island: &Island) -> String {
    let found = Command::new("find").arg(island.root()).args(["-name", "*.log", "-type", "f"]).output().unwrap();
    let mut text = String::new();
    for path in String::from_utf8_lossy(&found.stdout).lines() {
        let log = fs::read_to_string(path).unwrap_or_default();
        let last: Vec<&str> = log.lines().rev().take(40).collect();
        text.push_str(&format!("\n{path}:\n{}\n", last.into_iter().rev().collect::<Vec<_>>().join("\n")));
    }
    text
}

#[test]
#[ignore = "runs in the guest"]
fn a_container_goes_on_from_a_checkpoint() {
    let daemon = Daemon::start();
    let program = "i=0; while :; do i=$((i+1)); echo $i > /count; echo line $i; sleep 0.1; done";
    // without UDP, raw, packet and netlink diagnosis in the kernel, criu takes no network namespace along
    daemon.docker(&["run", "-d", "--network", "host", "--name", "counter", "small:1", "sh", "-c", program]);
    let first = daemon.counts_on(3);
    // left running, then stopped with its checkpoint
    daemon.docker(&["checkpoint", "create", "--leave-running", "counter", "early"]);
    assert_eq!(daemon.status(), "running");
    let second = daemon.counts_on(first);
    daemon.docker(&["checkpoint", "create", "counter", "late"]);
    let ended = wait_for(SOON, || (daemon.status() == "exited").then_some(()));
    assert!(ended.is_some(), "it is {}", daemon.status());
    let listed = daemon.docker(&["checkpoint", "ls", "counter"]);
    assert_eq!(listed.lines().skip(1).collect::<Vec<_>>(), ["early", "late"]);
    daemon.docker(&["start", "--checkpoint", "late", "counter"]);
    assert_eq!(daemon.status(), "running");
    let third = daemon.counts_on(second);
    // its output still goes to its log, and its variables are what they were: no number is missing or said twice
    let said = wait_for(SOON, || {
        let logs = daemon.docker(&["logs", "counter"]);
        logs.ends_with(&format!("line {third}"))
            .then_some(())
            .or_else(|| logs.contains(&format!("line {third}\n")).then_some(()))
    });
    let logs = daemon.docker(&["logs", "counter"]);
    assert!(said.is_some(), "{logs}");
    let numbers: Vec<u64> = logs.lines().filter_map(|line| line.strip_prefix("line ")?.parse().ok()).collect();
    assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1), "{numbers:?}");
    // it is a container as any other: it can be stopped, and run from its beginning
    daemon.docker(&["kill", "counter"]);
    daemon.docker(&["checkpoint", "rm", "counter", "early"]);
    daemon.docker(&["start", "counter"]);
    let again = wait_for(SOON, || Some(daemon.count()).filter(|count| (1..third).contains(count)));
    assert!(again.is_some(), "it stands at {}", daemon.count());
    daemon.docker(&["rm", "-f", "counter"]);
    assert_eq!(daemon.docker(&["ps", "-aq"]), "");
}

#[test]
#[ignore = "runs in the guest"]
fn layers_are_put_over_each_other_by_a_kernel_of_before() {
    let mut daemon = Daemon::start();
    let context = daemon.island.dir("context");
    fs::write(context.join("one"), "one\n").unwrap();
    fs::write(
        context.join("Dockerfile"),
        "FROM small:1\nCOPY one /one\nRUN echo two > /two\nRUN rm /one && echo three > /three\n",
    )
    .unwrap();
    daemon.docker(&["build", "--network", "none", "-t", "layers", context.to_str().unwrap()]);
    let run = ["run", "--rm", "--network", "none", "layers", "sh", "-c", "cat /two /three; cat /one || echo gone"];
    assert_eq!(daemon.docker(&run), "two\nthree\ngone");
    let read_only = ["run", "--rm", "--network", "none", "--read-only", "layers", "cat", "/two"];
    assert_eq!(daemon.docker(&read_only), "two");
    daemon.docker(&["create", "--name", "counter", "--network", "none", "layers", "sh"]);
    let copied = daemon.island.path("copied");
    daemon.docker(&["cp", "counter:/three", copied.to_str().unwrap()]);
    assert_eq!(fs::read_to_string(&copied).unwrap(), "three\n");
    daemon.docker(&["cp", copied.to_str().unwrap(), "counter:/four"]);
    daemon.docker(&["cp", "counter:/four", daemon.island.path("four").to_str().unwrap()]);
    let exported = daemon.island.path("exported.tar");
    daemon.docker(&["export", "-o", exported.to_str().unwrap(), "counter"]);
    assert!(fs::metadata(&exported).unwrap().len() > 100_000);
    daemon.docker(&["rm", "counter"]);
    daemon.docker(&["rmi", "layers"]);
    // nothing stays in sight once the daemon has gone
    let pid = rustix::process::Pid::from_child(&daemon.process);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    daemon.process.wait().unwrap();
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let ours = daemon.island.root().display().to_string();
    assert!(!mounts.contains(&ours), "{mounts}\n{}", daemon.log());
}

/// As many as Docker's daemon puts over each other: their descriptors' numbers are longer than an option's text may be.
#[test]
#[ignore = "runs in the guest"]
fn layers_are_as_many_as_with_docker() {
    const LAYERS: usize = 127;
    let daemon = Daemon::start();
    let context = daemon.island.dir("context");
    let mut steps = "FROM small:1\n".to_owned();
    for number in 1..LAYERS {
        fs::write(context.join(number.to_string()), format!("{number}\n")).unwrap();
        steps.push_str(&format!("COPY {number} /many/{number}\n"));
        // the uppermost counts
        steps.push_str(if number == LAYERS - 2 { "COPY 1 /many/2\n" } else { "" });
    }
    steps = steps.replacen("COPY 3 /many/3\n", "", 1);
    fs::write(context.join("Dockerfile"), steps).unwrap();
    daemon.docker(&["build", "--network", "none", "-t", "many", context.to_str().unwrap()]);
    let layers = daemon.docker(&["inspect", "-f", "{{len .RootFS.Layers}}", "many"]);
    assert_eq!(layers, LAYERS.to_string());
    for mode in [&["--read-only"][..], &[]] {
        let words = [&["run", "--rm", "--network", "none"][..], mode, &["many", "sh", "-c"]].concat();
        let seen = daemon.docker(&[&words[..], &["ls /many; cat /many/2 /many/126; ls /bin/sh"]].concat());
        let seen: Vec<&str> = seen.lines().collect();
        assert_eq!((seen.len(), &seen[LAYERS - 2..]), (LAYERS + 1, &["1", "126", "/bin/sh"][..]), "{seen:?}");
    }
    daemon.docker(&["rmi", "many"]);
}
