//! containerd: its client `ctr`, which names the runtime on the command line.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command};

use serde_json::json;
use testkit::{Cell, Run, Terminal, bundle, finish, wait_for};

use super::{SOON, end_daemon, has_line, start_daemon, tree_tar};

/// The image that every test has, also for the pause container of a pod.
pub(super) const IMAGE: &str = "localhost/test:1";

/// A daemon in a cell.
pub(super) struct Containerd {
    pub(super) cell: Cell,
    daemon: Option<Child>,
}

impl Containerd {
    /// A daemon with one image in each of its namespaces; `None` where it can't be had, with the reason printed.
    pub(super) fn start() -> Option<Self> {
        if !bundle::has_busybox_or_skip() {
            return None;
        }
        let cell = Cell::open(&["containerd", "ctr", "sha256sum", "tar"])?;
        let island = cell.island();
        let networks = island.dir("networks");
        let addresses = json!({
            "type": "host-local", "subnet": "10.88.77.0/24", "dataDir": island.path("addresses").display().to_string(),
        });
        let plugin = json!({"type": "ptp", "ipam": addresses});
        let network = json!({"cniVersion": "1.0.0", "name": "pods", "plugins": [plugin]});
        let _ = island.file("networks/10-pods.conflist", &network.to_string());
        let config = island
            .file("config.toml", &configuration(&island.root().display().to_string(), &networks.display().to_string()));
        let mut command = cell.command(&["containerd", "--config", &config.display().to_string()]);
        let daemon = start_daemon(&mut command, &island.path("log"));
        let mut containerd = Self { cell, daemon: Some(daemon) };
        let up = wait_for(SOON, || {
            let ended = containerd.daemon.as_mut().and_then(|daemon| daemon.try_wait().unwrap());
            assert!(ended.is_none(), "containerd ended with {ended:?}:\n{}", containerd.log());
            (containerd.ctr(&["version"]).code == 0).then_some(())
        });
        assert!(up.is_some(), "containerd does not answer:\n{}", containerd.log());
        let image = image(&containerd.cell).display().to_string();
        for space in ["default", "k8s.io"] {
            containerd.ok(&["--namespace", space, "image", "import", &image]);
        }
        Some(containerd)
    }

    pub(super) fn log(&self) -> String {
        fs::read_to_string(self.cell.island().path("log")).unwrap_or_default()
    }

    pub(super) fn socket(&self) -> PathBuf {
        self.cell.island().path("sock")
    }

    fn command(&self, words: &[&str]) -> Command {
        self.cell.command(&[&["ctr", "--address", &self.socket().display().to_string()], words].concat())
    }

    fn ctr(&self, words: &[&str]) -> Run {
        finish(&mut self.command(words), b"")
    }

    #[track_caller]
    fn ok(&self, words: &[&str]) -> String {
        let run = self.ctr(words);
        assert_eq!(run.code, 0, "ctr {words:?}\nstdout: {}\nstderr: {}\n{}", run.out, run.err, self.log());
        run.out.trim().to_owned()
    }

    /// A container `name` with options.
    fn start_one(&self, options: &[&str], name: &str, program: &[&str]) {
        let runtime = bundle::runtime().display().to_string();
        self.ok(&[&["run", "--detach", "--runc-binary", &runtime], options, &[IMAGE, name], program].concat());
    }

    /// A throw-away container.
    fn once(&self, options: &[&str], program: &[&str]) -> Run {
        let runtime = bundle::runtime().display().to_string();
        self.ctr(&[&["run", "--rm", "--runc-binary", &runtime], options, &[IMAGE, "once"], program].concat())
    }

    /// Kills the task `name` and removes it with its container.
    fn remove(&self, name: &str) {
        self.ok(&["task", "kill", "--signal", "SIGKILL", name]);
        let stopped = wait_for(SOON, || self.ok(&["task", "ls"]).contains("STOPPED").then_some(()));
        assert!(stopped.is_some(), "{}", self.ok(&["task", "ls"]));
        // It tells the program's exit code by its own.
        let _ = self.ctr(&["task", "delete", name]);
        self.ok(&["container", "delete", name]);
    }

    /// Ends the daemon, and checks that nothing of its containers is left.
    pub(super) fn finish(mut self) {
        end_daemon(self.daemon.take().unwrap());
        let left = || {
            let left = self.cell.leftovers().into_iter();
            // The parent groups of its namespaces stay.
            left.filter(|line| !line.ends_with("/default") && !line.ends_with("/k8s.io")).collect::<Vec<_>>()
        };
        let gone = wait_for(SOON, || left().is_empty().then_some(()));
        assert!(gone.is_some(), "left behind:\n{}", left().join("\n"));
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            println!("the daemon's log:\n{}", self.log());
            // The cell ends all that is in it.
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
    }
}

fn configuration(root: &str, networks: &str) -> String {
    let cri = "plugins.\"io.containerd.grpc.v1.cri\"";
    let runtime = bundle::runtime();
    format!(
        "version = 2\nroot = \"{root}/containerd\"\nstate = \"/run/containerd\"\n\
         disabled_plugins = [\"io.containerd.internal.v1.opt\"]\n[grpc]\naddress = \"{root}/sock\"\n\
         [{cri}]\nsandbox_image = \"{IMAGE}\"\ndisable_tcp_service = true\n\
         restrict_oom_score_adj = true\n\
         [{cri}.cni]\nbin_dir = \"/usr/lib/cni\"\nconf_dir = \"{networks}\"\n\
         [{cri}.containerd]\ndefault_runtime_name = \"insula\"\n\
         [{cri}.containerd.runtimes.insula]\nruntime_type = \"io.containerd.runc.v2\"\n\
         [{cri}.containerd.runtimes.insula.options]\nBinaryName = \"{}\"\n",
        runtime.display()
    )
}

/// An image's archive as `docker save` makes it, with one layer.
fn image(cell: &Cell) -> PathBuf {
    let layer = tree_tar(cell);
    let sum = cell.run(&["sha256sum", &layer]).ok();
    let digest = format!("sha256:{}", sum.split(' ').next().unwrap_or_default());
    let config = json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
        "os": "linux",
        "config": {"Env": ["PATH=/bin"], "Cmd": ["sleep", "100000"]},
        "rootfs": {"type": "layers", "diff_ids": [digest]},
    });
    let manifest = json!([{"Config": "config.json", "RepoTags": [IMAGE], "Layers": ["tree.tar"]}]);
    let island = cell.island();
    let _ = island.file("config.json", &config.to_string());
    let _ = island.file("manifest.json", &manifest.to_string());
    let archive = island.path("image.tar");
    let mut tar = Command::new("tar");
    tar.arg("--create").arg("--file").arg(&archive).arg("--directory").arg(island.root());
    let _ = finish(tar.args(["config.json", "manifest.json", "tree.tar"]), b"").expect(0);
    archive
}

#[test]
fn foreground_codes_and_terminal() {
    let Some(containerd) = Containerd::start() else { return };
    assert_eq!(containerd.once(&[], &["echo", "hello"]).ok(), "hello");
    let run = containerd.once(&[], &["sh", "-c", "echo out; echo err >&2; exit 7"]).expect(7);
    assert_eq!((run.out.trim(), run.err.trim()), ("out", "err"));
    let run = containerd.once(&[], &["/no/such"]).expect(1);
    assert!(run.err.contains("/no/such"), "{}", run.err);
    let _ = containerd.once(&["--read-only"], &["touch", "/x"]).expect(1);
    assert_eq!(containerd.once(&["--seccomp"], &["grep", "Seccomp:", "/proc/self/status"]).ok(), "Seccomp:\t2");
    let runtime = bundle::runtime().display().to_string();
    let words = ["run", "--rm", "--tty", "--runc-binary", &runtime, IMAGE, "terminal", "sh"];
    let mut terminal = Terminal::spawn(&containerd.command(&words));
    terminal.send("tty\r");
    terminal.expect("/dev/pts/0", SOON);
    // The size comes with a call of its own, after the start.
    let sized = wait_for(SOON, || {
        terminal.send("stty size\r");
        std::thread::sleep(std::time::Duration::from_millis(200));
        terminal.shown().contains("24 80").then_some(())
    });
    assert!(sized.is_some(), "{}", terminal.shown());
    terminal.send("exit 4\r");
    assert_eq!(terminal.wait(SOON).code(), Some(4), "{}", terminal.shown());
    containerd.finish();
}

#[test]
fn tasks_through_their_life() {
    let Some(containerd) = Containerd::start() else { return };
    containerd.start_one(&["--memory-limit", "33554432"], "one", &["sleep", "1000"]);
    let limits = containerd.cell.groups().into_iter().flat_map(|group| {
        ["memory.limit_in_bytes", "memory.max"].map(|file| fs::read_to_string(group.join("default/one").join(file)))
    });
    assert_eq!(limits.filter_map(Result::ok).collect::<Vec<_>>(), ["33554432\n"]);
    has_line(&containerd.ctr(&["task", "ls"]), &["one", "RUNNING"]);
    assert!(containerd.ok(&["task", "exec", "--exec-id", "e1", "one", "ps"]).contains("sleep 1000"));
    let _ = containerd.ctr(&["task", "exec", "--exec-id", "e2", "one", "sh", "-c", "exit 9"]).expect(9);
    let user = ["task", "exec", "--exec-id", "e3", "--user", "1000", "--cwd", "/tmp", "one", "sh", "-c", "id -u; pwd"];
    assert_eq!(containerd.ok(&user), "1000\n/tmp");
    let missing = containerd.ctr(&["task", "exec", "--exec-id", "e4", "one", "/no/such"]).expect(1);
    assert!(missing.err.contains("/no/such"), "{}", missing.err);
    let mut terminal = Terminal::spawn(&containerd.command(&["task", "exec", "--exec-id", "e5", "--tty", "one", "sh"]));
    terminal.send("tty\r");
    terminal.expect("/dev/pts/0", SOON);
    terminal.send("exit 5\r");
    assert_eq!(terminal.wait(SOON).code(), Some(5), "{}", terminal.shown());
    containerd.ok(&["task", "pause", "one"]);
    has_line(&containerd.ctr(&["task", "ls"]), &["one", "PAUSED"]);
    containerd.ok(&["task", "resume", "one"]);
    assert!(containerd.ok(&["task", "metrics", "one"]).contains("pids.current"));
    let pid = containerd.ok(&["task", "ls"]).lines().find_map(|line| {
        line.strip_prefix("one").map(|rest| rest.split_whitespace().next().unwrap_or_default().to_owned())
    });
    has_line(&containerd.ctr(&["task", "ps", "one"]), &[&pid.unwrap()]);
    containerd.remove("one");
    // The same name again, with all of the machine's namespaces that ctr can hand over.
    containerd.start_one(&["--net-host", "--privileged"], "one", &["sh", "-c", "mount -t tmpfs x /tmp; sleep 1000"]);
    let mounted = wait_for(SOON, || {
        let run = containerd.ctr(&["task", "exec", "--exec-id", "e6", "one", "grep", "/tmp", "/proc/mounts"]);
        (run.code == 0).then_some(())
    });
    assert!(mounted.is_some(), "a privileged container can't mount");
    containerd.remove("one");
    containerd.finish();
}

#[test]
fn a_task_that_is_created_and_never_started() {
    let Some(containerd) = Containerd::start() else { return };
    let runtime = bundle::runtime().display().to_string();
    // ctr has no create without start, but a program that can't be executed ends between the two.
    let words = ["run", "--detach", "--runc-binary", &runtime, IMAGE, "broken", "/etc/passwd"];
    let run = containerd.ctr(&words).expect(1);
    assert!(run.err.to_lowercase().contains("permission denied"), "{}", run.err);
    assert!(!containerd.ok(&["task", "ls"]).contains("broken"));
    containerd.finish();
}

#[test]
fn checkpoint_and_restore() {
    let Some(containerd) = Containerd::start() else { return };
    if super::criu_or_skip(&containerd.cell).is_none() {
        return containerd.finish();
    }
    containerd.start_one(&[], "one", &["sh", "-c", "i=0; while :; do i=$((i+1)); echo $i > /count; sleep 0.05; done"]);
    containerd.ok(&["container", "checkpoint", "--task", "--image", "one", "localhost/saved:1"]);
    containerd.remove("one");
    let runtime = bundle::runtime().display().to_string();
    containerd.ok(&[
        "container",
        "restore",
        "--detach",
        "--live",
        "--runc-binary",
        &runtime,
        "one",
        "localhost/saved:1",
    ]);
    has_line(&containerd.ctr(&["task", "ls"]), &["one", "RUNNING"]);
    containerd.remove("one");
    containerd.finish();
}
