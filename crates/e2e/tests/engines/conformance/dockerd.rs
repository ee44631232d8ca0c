//! dockerd with the runtime under test as its default one, and Docker's own client.

use std::os::unix::net::UnixStream;
use std::process::{Child, Command};

use testkit::{Cell, Run, Terminal, bundle, finish, rootfs, wait_for};

use super::{SOON, end_daemon, has_line, start_daemon, tree_tar};

const IMAGE: &str = "test:1";

/// A daemon in a cell.
struct Dockerd {
    cell: Cell,
    daemon: Option<Child>,
}

impl Dockerd {
    /// A daemon with one image; `None` where it can't be had, with the reason printed.
    fn start() -> Option<Self> {
        if !bundle::has_busybox_or_skip() {
            return None;
        }
        let cell = Cell::open(&["dockerd", "docker", "containerd"])?;
        let tar = tree_tar(&cell);
        let island = cell.island();
        let (socket, root) =
            (format!("unix://{}", island.path("sock").display()), island.path("docker").display().to_string());
        let runtime = format!("--add-runtime=insula={}", bundle::runtime().display());
        let mut command = cell.command(&[
            "dockerd",
            "--bridge=none",
            "--iptables=false",
            "--ip6tables=false",
            "--host",
            &socket,
            "--data-root",
            &root,
            "--exec-root",
            "/run/docker",
            "--pidfile",
            "/run/docker.pid",
            &runtime,
            "--default-runtime=insula",
        ]);
        let daemon = start_daemon(&mut command, &island.path("log"));
        let mut dockerd = Self { cell, daemon: Some(daemon) };
        let up = wait_for(SOON, || {
            let ended = dockerd.daemon.as_mut().and_then(|daemon| daemon.try_wait().unwrap());
            assert!(ended.is_none(), "dockerd ended with {ended:?}:\n{}", dockerd.log());
            UnixStream::connect(dockerd.cell.island().path("sock")).is_ok().then_some(())
        });
        assert!(up.is_some(), "dockerd does not answer:\n{}", dockerd.log());
        dockerd.ok(&["import", &tar, IMAGE]);
        Some(dockerd)
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.cell.island().path("log")).unwrap_or_default()
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(rootfs::find("docker").unwrap());
        command.args(["--host", &format!("unix://{}", self.cell.island().path("sock").display())]).args(words);
        for name in ["DOCKER_HOST", "DOCKER_CONTEXT"] {
            command.env_remove(name);
        }
        command.env("DOCKER_CONFIG", self.cell.island().path("client"));
        command
    }

    fn run(&self, words: &[&str]) -> Run {
        finish(&mut self.command(words), b"")
    }

    #[track_caller]
    fn ok(&self, words: &[&str]) -> String {
        let run = self.run(words);
        assert_eq!(run.code, 0, "docker {words:?}\nstdout: {}\nstderr: {}\n{}", run.out, run.err, self.log());
        run.out.trim().to_owned()
    }

    /// A throw-away container: what its program printed.
    #[track_caller]
    fn once(&self, options: &[&str], program: &[&str]) -> String {
        self.ok(&[&["run", "--rm", "--network=none"], options, &[IMAGE], program].concat())
    }

    /// Ends the daemon, and checks that nothing of its containers is left.
    fn finish(mut self) {
        for id in self.ok(&["ps", "-aq"]).split_whitespace() {
            self.ok(&["rm", "-f", id]);
        }
        end_daemon(self.daemon.take().unwrap());
        let left = || {
            let left = self.cell.leftovers().into_iter();
            // Its parent group for all containers stays, and the mount points of its own folders.
            left.filter(|line| !line.ends_with("/docker") && !line.contains("/docker rw")).collect::<Vec<_>>()
        };
        let gone = wait_for(SOON, || left().is_empty().then_some(()));
        assert!(gone.is_some(), "left behind:\n{}", left().join("\n"));
    }
}

impl Drop for Dockerd {
    fn drop(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            println!("the daemon's log:\n{}", self.log());
            // The cell ends all that is in it.
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
    }
}

#[test]
fn foreground_streams_codes_and_terminals() {
    let Some(docker) = Dockerd::start() else { return };
    assert_eq!(docker.once(&[], &["echo", "hello"]), "hello");
    let run =
        docker.run(&["run", "--rm", "--network=none", IMAGE, "sh", "-c", "echo out; echo err >&2; exit 7"]).expect(7);
    assert_eq!((run.out.trim(), run.err.trim()), ("out", "err"));
    let piped = finish(&mut docker.command(&["run", "--rm", "-i", "--network=none", IMAGE, "cat"]), b"through");
    assert_eq!(piped.ok(), "through");
    // The daemon makes these codes from the runtime's message.
    let run = docker.run(&["run", "--rm", "--network=none", IMAGE, "/no/such"]).expect(127);
    assert!(run.err.contains("/no/such"), "{}", run.err);
    let run = docker.run(&["run", "--rm", "--network=none", IMAGE, "/etc/passwd"]).expect(126);
    assert!(run.err.to_lowercase().contains("permission denied"), "{}", run.err);
    let mut terminal = Terminal::spawn(&docker.command(&["run", "--rm", "-it", "--network=none", IMAGE, "sh"]));
    terminal.send("tty; stty size\r");
    terminal.expect("/dev/pts/0", SOON);
    // The client looks at its window's size when that changes, and not yet when the shell's first line is there.
    let resized = wait_for(SOON, || {
        terminal.resize(32, 97);
        terminal.resize(31, 97);
        terminal.send("stty size\r");
        std::thread::sleep(std::time::Duration::from_millis(200));
        terminal.shown().contains("31 97").then_some(())
    });
    assert!(resized.is_some(), "{}", terminal.shown());
    terminal.send("exit 4\r");
    assert_eq!(terminal.wait(SOON).code(), Some(4), "{}", terminal.shown());
    docker.finish();
}

#[test]
fn a_detached_container_through_its_life() {
    let Some(docker) = Dockerd::start() else { return };
    let script = "trap 'echo term; exit 3' TERM; echo ready; while :; do sleep 0.1; done";
    docker.ok(&["run", "-d", "--name", "aa", "--network=none", IMAGE, "sh", "-c", script]);
    assert!(wait_for(SOON, || docker.ok(&["logs", "aa"]).contains("ready").then_some(())).is_some());
    has_line(&docker.run(&["ps"]), &["aa", "Up"]);
    assert_eq!(docker.ok(&["inspect", "-f", "{{.HostConfig.Runtime}}", "aa"]), "insula");
    assert!(docker.ok(&["exec", "aa", "ps"]).contains("sleep"));
    let _ = docker.run(&["exec", "aa", "sh", "-c", "exit 9"]).expect(9);
    let missing = docker.run(&["exec", "aa", "/no/such"]);
    // Which of its two codes it takes depends on its version.
    assert!(matches!(missing.code, 126 | 127) && missing.said().contains("/no/such"), "{missing:?}");
    let words = ["exec", "-u", "1000:1000", "-w", "/tmp", "-e", "X=y", "aa", "sh", "-c", "id -u; pwd; echo $X"];
    assert_eq!(docker.ok(&words), "1000\n/tmp\ny");
    assert_eq!(finish(&mut docker.command(&["exec", "-i", "aa", "cat"]), b"in").ok(), "in");
    let mut terminal = Terminal::spawn(&docker.command(&["exec", "-it", "aa", "sh"]));
    terminal.send("tty\r");
    terminal.expect("/dev/pts/0", SOON);
    terminal.send("exit 6\r");
    assert_eq!(terminal.wait(SOON).code(), Some(6), "{}", terminal.shown());
    assert!(docker.ok(&["top", "aa"]).contains("sh -c"));
    assert!(docker.ok(&["stats", "--no-stream", "--format", "{{.Name}}", "aa"]).contains("aa"));
    docker.ok(&["pause", "aa"]);
    assert_eq!(docker.ok(&["inspect", "-f", "{{.State.Status}}", "aa"]), "paused");
    docker.ok(&["unpause", "aa"]);
    docker.ok(&["update", "--memory", "64m", "--memory-swap", "64m", "--pids-limit", "50", "aa"]);
    assert_eq!(docker.ok(&["exec", "aa", "sh", "-c", MEMORY]), (64 << 20).to_string());
    docker.ok(&["stop", "-t", "20", "aa"]);
    assert_eq!(docker.ok(&["inspect", "-f", "{{.State.ExitCode}}", "aa"]), "3");
    docker.ok(&["start", "aa"]);
    docker.ok(&["kill", "aa"]);
    assert_eq!(docker.ok(&["wait", "aa"]), "137");
    docker.ok(&["restart", "-t", "0", "aa"]);
    assert_eq!(docker.ok(&["inspect", "-f", "{{.State.Running}}", "aa"]), "true");
    docker.ok(&["rm", "-f", "aa"]);
    docker.finish();
}

/// Prints the memory limit of the container's own group, on v1 and on v2.
const MEMORY: &str = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || cat /sys/fs/cgroup/memory.max";

/// Whether this process could hand every capability that the kernel knows to a container.
fn has_all_capabilities() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("CapBnd:")).unwrap();
    let last: u32 = std::fs::read_to_string("/proc/sys/kernel/cap_last_cap").unwrap().trim().parse().unwrap();
    u64::from_str_radix(line.trim(), 16).unwrap().count_ones() == last + 1
}

#[test]
fn options_reach_the_kernel() {
    let Some(docker) = Dockerd::start() else { return };
    assert_eq!(docker.once(&["--memory", "32m"], &["sh", "-c", MEMORY]), (32 << 20).to_string());
    let quota = "cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us 2>/dev/null || cut -d' ' -f1 /sys/fs/cgroup/cpu.max";
    assert_eq!(docker.once(&["--cpus", "0.5"], &["sh", "-c", quota]), "50000");
    let run = docker.run(&["run", "--rm", "--network=none", "--read-only", IMAGE, "touch", "/x"]).expect(1);
    assert!(run.err.contains("Read-only"), "{}", run.err);
    assert!(docker.once(&["--init"], &["ps"]).contains("docker-init"), "no init process");
    if has_all_capabilities() {
        let all = docker.once(&["--privileged"], &["sh", "-c", "mount -t tmpfs x /tmp && echo mounted"]);
        assert_eq!(all, "mounted");
    } else {
        println!("skipped a part: --privileged asks for every capability, and this machine's root lacks some");
    }
    assert_eq!(docker.once(&["--cap-drop=all"], &["grep", "CapEff", "/proc/self/status"]), "CapEff:\t0000000000000000");
    assert_eq!(docker.once(&["-u", "1000"], &["id", "-u"]), "1000");
    let _ = docker.cell.island().file("shared/f", "inside\n");
    let volume = format!("{}:/v:ro", docker.cell.island().path("shared").display());
    assert_eq!(
        docker.once(&["-v", &volume], &["sh", "-c", "cat /v/f; touch /v/g 2>/dev/null || echo ro"]),
        "inside\nro"
    );
    assert!(docker.once(&["--tmpfs", "/fast:size=4m"], &["grep", "/fast", "/proc/mounts"]).contains("size=4096k"));
    assert_eq!(docker.once(&["--ulimit", "nofile=123:456"], &["sh", "-c", "ulimit -n; ulimit -Hn"]), "123\n456");
    assert_eq!(docker.once(&["--hostname", "here", "--pid=host"], &["hostname"]), "here");
    let seccomp = ["grep", "Seccomp:", "/proc/self/status"];
    assert_eq!(docker.once(&[], &seccomp), "Seccomp:\t2");
    assert_eq!(docker.once(&["--security-opt", "seccomp=unconfined"], &seccomp), "Seccomp:\t0");
    docker.finish();
}
