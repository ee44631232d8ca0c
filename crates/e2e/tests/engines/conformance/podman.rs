//! podman as root: what its users do, with the runtime under test below conmon.

use std::process::Command;

use testkit::{Cell, Run, Terminal, bundle, finish, wait_for};

use super::{SOON, has_line, tree_tar};

/// The image that every test has.
const IMAGE: &str = "localhost/test:1";

/// podman with folders of its own, in a cell.
struct Podman {
    cell: Cell,
}

impl Podman {
    /// podman with one image; `None` where it can't be had, with the reason printed.
    fn start() -> Option<Self> {
        if !bundle::has_busybox_or_skip() {
            return None;
        }
        let cell = Cell::open(&["podman", "conmon"])?;
        let tar = tree_tar(&cell);
        let config = "[containers]\nnetns=\"none\"\nlog_driver=\"k8s-file\"\n\
                      [engine]\ncgroup_manager=\"cgroupfs\"\nevents_logger=\"file\"\n";
        let _ = cell.island().file("containers.conf", config);
        let _ = cell.island().file("subids", "containers:200000:655360\n");
        let _ = cell
            .shell("for file in subuid subgid; do touch /etc/$file; mount --bind $HOME/subids /etc/$file; done")
            .expect(0);
        cell.settle();
        let podman = Self { cell };
        // The first container of a pod runs it too, and ends when it is asked to.
        let program = r#"CMD ["/bin/sh", "-c", "trap 'exit 0' TERM; sleep 100000 & wait"]"#;
        podman.ok(&["import", "-q", "--change", program, &tar, IMAGE]);
        Some(podman)
    }

    fn command(&self, words: &[&str]) -> Command {
        let island = self.cell.island();
        let [runtime, root] = [bundle::runtime(), island.path("podman")].map(|path| path.display().to_string());
        let own =
            ["podman", "--root", &root, "--runroot", "/run/podman", "--tmpdir", "/run/libpod", "--runtime", &runtime];
        let mut command = self.cell.command(&[&own, words].concat());
        command.env("CONTAINERS_CONF", island.path("containers.conf")).env("XDG_RUNTIME_DIR", "/run");
        command
    }

    fn run(&self, words: &[&str]) -> Run {
        finish(&mut self.command(words), b"")
    }

    #[track_caller]
    fn ok(&self, words: &[&str]) -> String {
        let run = self.run(words);
        assert_eq!(run.code, 0, "podman {words:?}\nstdout: {}\nstderr: {}", run.out, run.err);
        run.out.trim().to_owned()
    }

    /// A throw-away container: what its program printed.
    #[track_caller]
    fn once(&self, options: &[&str], program: &[&str]) -> String {
        self.ok(&[&["run", "--rm"], options, &[IMAGE], program].concat())
    }

    /// Removes all containers and pods, and checks that the cell is empty but for podman's own mounts and lock files.
    fn finish(self) {
        self.ok(&["pod", "rm", "--all", "--force", "--time", "0"]);
        self.ok(&["rm", "--all", "--force", "--time", "0"]);
        let left = || {
            let left = self.cell.leftovers().into_iter();
            // podman keeps its storage mounted, with the folder of its layers on itself when two of its processes end at once, and a
            // parent group for all containers.
            // Pods' groups it removes where controllers are, not in the hierarchy that has only a name.
            let own = |line: &String| {
                let group = line.split("/libpod_parent").nth(1);
                line.contains("/podman ")
                    || line.contains("/podman/overlay ")
                    || group.is_some_and(|rest| matches!(rest, "" | "/conmon"))
                    || group.is_some_and(|rest| line.contains("cgroup/systemd/") && rest.matches('/').count() == 1)
            };
            left.filter(|line| !own(line)).collect::<Vec<_>>()
        };
        let gone = wait_for(SOON, || left().is_empty().then_some(()));
        assert!(gone.is_some(), "left behind:\n{}", left().join("\n"));
    }
}

#[test]
fn foreground_streams_and_exit_codes() {
    let Some(podman) = Podman::start() else { return };
    assert_eq!(podman.once(&[], &["echo", "hello"]), "hello");
    let run = podman.run(&["run", "--rm", IMAGE, "sh", "-c", "echo out; echo err >&2; exit 7"]).expect(7);
    assert_eq!((run.out.trim(), run.err.trim()), ("out", "err"));
    let run = finish(&mut podman.command(&["run", "--rm", "-i", IMAGE, "cat"]), b"through");
    assert_eq!(run.ok(), "through");
    // Docker's codes: 127 for a program that is not there, 126 for one that can't be run.
    let run = podman.run(&["run", "--rm", IMAGE, "/no/such"]).expect(127);
    assert!(run.err.contains("/no/such"), "{}", run.err);
    let run = podman.run(&["run", "--rm", IMAGE, "/etc/passwd"]).expect(126);
    assert!(run.err.to_lowercase().contains("permission denied"), "{}", run.err);
    podman.finish();
}

#[test]
fn a_detached_container_through_its_life() {
    let Some(podman) = Podman::start() else { return };
    let script = "trap 'echo term; exit 3' TERM; echo ready; while :; do sleep 0.1; done";
    podman.ok(&["run", "-d", "--name", "a", "--stop-timeout", "20", IMAGE, "sh", "-c", script]);
    let ready = wait_for(SOON, || podman.ok(&["logs", "a"]).contains("ready").then_some(()));
    assert!(ready.is_some());
    has_line(&podman.run(&["ps"]), &["a", "Up"]);
    assert!(podman.ok(&["exec", "a", "ps"]).contains("sleep"));
    let _ = podman.run(&["exec", "a", "sh", "-c", "exit 9"]).expect(9);
    let _ = podman.run(&["exec", "a", "/no/such"]).expect(127);
    assert_eq!(
        podman.ok(&[
            "exec",
            "--user",
            "1000:1000",
            "--workdir",
            "/tmp",
            "-e",
            "X=y",
            "a",
            "sh",
            "-c",
            "id -u; pwd; echo $X"
        ]),
        "1000\n/tmp\ny"
    );
    assert_eq!(finish(&mut podman.command(&["exec", "-i", "a", "cat"]), b"in").ok(), "in");
    podman.ok(&["exec", "-d", "a", "touch", "/tmp/detached"]);
    let made = wait_for(SOON, || (podman.run(&["exec", "a", "test", "-e", "/tmp/detached"]).code == 0).then_some(()));
    assert!(made.is_some(), "the detached exec did nothing");
    assert!(podman.ok(&["top", "a"]).contains("COMMAND"));
    assert!(podman.ok(&["stats", "--no-stream", "--format", "{{.Name}} {{.PIDs}}", "a"]).starts_with("a "));
    podman.ok(&["pause", "a"]);
    assert_eq!(podman.ok(&["inspect", "-f", "{{.State.Status}}", "a"]), "paused");
    podman.ok(&["unpause", "a"]);
    podman.ok(&["stop", "a"]);
    assert_eq!(podman.ok(&["inspect", "-f", "{{.State.ExitCode}}", "a"]), "3");
    assert!(podman.ok(&["logs", "a"]).contains("term"));
    podman.ok(&["start", "a"]);
    podman.ok(&["kill", "-s", "KILL", "a"]);
    assert_eq!(podman.ok(&["wait", "a"]), "137");
    podman.ok(&["restart", "--time", "0", "a"]);
    podman.ok(&["update", "--memory", "64m", "a"]);
    assert_eq!(podman.ok(&["exec", "a", "sh", "-c", MEMORY]), (64 << 20).to_string());
    podman.ok(&["rm", "-f", "--time", "0", "a"]);
    podman.finish();
}

/// Prints the memory limit of the container's own group, on v1 and on v2.
const MEMORY: &str = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || cat /sys/fs/cgroup/memory.max";

#[test]
fn terminals() {
    let Some(podman) = Podman::start() else { return };
    let mut terminal = Terminal::spawn(&podman.command(&["run", "--rm", "-it", IMAGE, "sh"]));
    terminal.send("stty size; tty\r");
    terminal.expect("24 80", SOON);
    terminal.expect("/dev/pts/0", SOON);
    terminal.resize(33, 99);
    terminal.send("sleep 0.5; stty size\r");
    terminal.expect("33 99", SOON);
    terminal.send("exit 4\r");
    assert_eq!(terminal.wait(SOON).code(), Some(4), "{}", terminal.shown());
    podman.ok(&["run", "-d", "--name", "a", IMAGE, "sleep", "1000"]);
    let mut terminal = Terminal::spawn(&podman.command(&["exec", "-it", "a", "sh"]));
    terminal.send("tty; sleep 1000\r");
    terminal.expect("/dev/pts/0", SOON);
    // The shell may be between the two commands, where the first one is lost.
    for _ in 0..3 {
        std::thread::sleep(std::time::Duration::from_millis(300));
        terminal.send("\x03");
    }
    terminal.send("exit 6\r");
    assert_eq!(terminal.wait(SOON).code(), Some(6), "{}", terminal.shown());
    podman.finish();
}

#[test]
fn options_reach_the_kernel() {
    let Some(podman) = Podman::start() else { return };
    let memory = podman.once(&["--memory", "32m", "--memory-reservation", "16m"], &["sh", "-c", MEMORY]);
    assert_eq!(memory, (32 << 20).to_string());
    let quota = "cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us 2>/dev/null || cut -d' ' -f1 /sys/fs/cgroup/cpu.max";
    assert_eq!(podman.once(&["--cpus", "0.5"], &["sh", "-c", quota]), "50000");
    let pids = "cat /sys/fs/cgroup/pids/pids.max 2>/dev/null || cat /sys/fs/cgroup/pids.max";
    assert_eq!(podman.once(&["--pids-limit", "17"], &["sh", "-c", pids]), "17");
    assert_eq!(
        podman
            .once(&["--cpuset-cpus", "0"], &["grep", "Cpus_allowed_list", "/proc/self/status"])
            .split_whitespace()
            .last(),
        Some("0")
    );
    let run = podman.run(&["run", "--rm", "--read-only", IMAGE, "touch", "/x"]).expect(1);
    assert!(run.err.contains("Read-only"), "{}", run.err);
    assert!(
        podman.once(&["--tmpfs", "/fast:size=4m,mode=700"], &["grep", "/fast", "/proc/mounts"]).contains("size=4096k")
    );
    let shared = cell_folder(&podman);
    let volume = format!("{shared}:/v:ro");
    assert_eq!(
        podman.once(&["-v", &volume], &["sh", "-c", "cat /v/f; touch /v/g 2>/dev/null || echo ro"]),
        "inside\nro"
    );
    let volume = format!("{shared}:/v:rshared");
    podman.once(&["-v", &volume], &["touch", "/v/made"]);
    assert!(std::path::Path::new(&shared).join("made").exists());
    let caps = |options: &[&str]| podman.once(options, &["grep", "CapEff", "/proc/self/status"]);
    assert!(caps(&["--cap-drop", "all"]).ends_with("0000000000000000"));
    assert!(caps(&["--cap-drop", "all", "--cap-add", "net_admin"]).ends_with("0000000000001000"));
    let user = podman.once(&["--user", "1000:5", "--group-add", "77"], &["id"]);
    assert!(user.contains("uid=1000") && user.contains("gid=5") && user.contains("77"), "{user}");
    assert_eq!(podman.once(&["--hostname", "here", "--env", "A=b"], &["sh", "-c", "hostname; echo $A"]), "here\nb");
    assert_eq!(
        podman.once(
            &["--ulimit", "nofile=123:456", "--ulimit", "nproc=900:1000"],
            &["sh", "-c", "ulimit -n; ulimit -Hn"]
        ),
        "123\n456"
    );
    assert_eq!(podman.once(&["--sysctl", "net.ipv4.ip_forward=1"], &["cat", "/proc/sys/net/ipv4/ip_forward"]), "1");
    assert_eq!(podman.once(&["--oom-score-adj", "321"], &["cat", "/proc/self/oom_score_adj"]), "321");
    assert_eq!(
        podman.once(&["--shm-size", "1m"], &["sh", "-c", "df /dev/shm | tail -n1 | tr -s ' ' | cut -d' ' -f2"]),
        "1024"
    );
    assert!(podman.once(&["--device", "/dev/full:/dev/other:r"], &["ls", "-l", "/dev/other"]).starts_with('c'));
    assert!(podman.once(&["--privileged"], &["ls", "/dev"]).lines().count() > 15);
    podman.finish();
}

/// A folder on the island with one file.
fn cell_folder(podman: &Podman) -> String {
    let _ = podman.cell.island().file("shared/f", "inside\n");
    podman.cell.island().path("shared").display().to_string()
}

#[test]
fn security_options() {
    let Some(podman) = Podman::start() else { return };
    let profile = r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO","errnoRet":38}]}"#;
    let profile = podman.cell.island().file("profile.json", profile);
    let option = format!("seccomp={}", profile.display());
    let run = podman.run(&["run", "--rm", "--security-opt", &option, IMAGE, "mkdir", "/x"]).expect(1);
    assert!(run.err.contains("not implemented"), "{}", run.err);
    assert_eq!(
        podman.once(&["--security-opt", "no-new-privileges"], &["grep", "NoNewPrivs", "/proc/self/status"]),
        "NoNewPrivs:\t1"
    );
    let seccomp = ["grep", "Seccomp:", "/proc/self/status"];
    assert_eq!(podman.once(&[], &seccomp), "Seccomp:\t2");
    assert_eq!(podman.once(&["--security-opt", "seccomp=unconfined"], &seccomp), "Seccomp:\t0");
    let run = podman.run(&["run", "--rm", IMAGE, "cat", "/proc/kcore"]);
    assert_eq!(run.out, "", "a masked file has content");
    podman.finish();
}

#[test]
fn user_namespaces() {
    let Some(podman) = Podman::start() else { return };
    let auto = podman.once(&["--userns", "auto"], &["cat", "/proc/self/uid_map"]);
    let fields: Vec<&str> = auto.split_whitespace().collect();
    assert!(fields[0] == "0" && fields[1].parse::<u32>().unwrap() >= 200_000, "{auto}");
    let map = podman.once(
        &["--uidmap", "0:300000:5000", "--gidmap", "0:400000:5000"],
        &["sh", "-c", "cat /proc/self/uid_map /proc/self/gid_map; touch /made; stat -c %u:%g /made"],
    );
    let fields: Vec<&str> = map.split_whitespace().collect();
    assert_eq!(fields, ["0", "300000", "5000", "0", "400000", "5000", "0:0"]);
    podman.finish();
}

#[test]
fn pods_share_namespaces_and_health_is_checked() {
    let Some(podman) = Podman::start() else { return };
    podman.ok(&[
        "pod",
        "create",
        "--name",
        "pod",
        "--network",
        "none",
        "--infra-image",
        IMAGE,
        "--exit-policy",
        "continue",
    ]);
    podman.ok(&["run", "-d", "--pod", "pod", "--name", "one", IMAGE, "sh", "-c", "hostname; sleep 1000"]);
    let script = "for name in uts ipc net; do readlink /proc/self/ns/$name; done";
    let uts = ["sh", "-c", script];
    let first = podman.ok(&[&["exec", "one"][..], &uts].concat());
    assert_eq!(podman.ok(&[&["run", "--rm", "--pod", "pod", IMAGE][..], &uts].concat()), first);
    podman.ok(&["pod", "pause", "pod"]);
    podman.ok(&["pod", "unpause", "pod"]);
    podman.ok(&["pod", "stop", "--time", "0", "pod"]);
    podman.ok(&["pod", "rm", "--force", "--time", "0", "pod"]);
    podman.ok(&[
        "run",
        "-d",
        "--name",
        "healthy",
        "--health-cmd",
        "test -e /fine",
        "--health-interval",
        "disable",
        "--health-retries",
        "1",
        IMAGE,
        "sleep",
        "1000",
    ]);
    let _ = podman.run(&["healthcheck", "run", "healthy"]).expect(1);
    podman.ok(&["exec", "healthy", "touch", "/fine"]);
    podman.ok(&["healthcheck", "run", "healthy"]);
    podman.finish();
}

#[test]
fn init_and_root_folders() {
    let Some(podman) = Podman::start() else { return };
    if testkit::rootfs::find("catatonit").is_some() {
        assert!(podman.once(&["--init"], &["ps"]).contains("-init"), "no init process");
    } else {
        println!("skipped a part: this machine has no catatonit, so podman run --init can't be tried");
    }
    let tree = podman.cell.island().path("tree").display().to_string();
    assert_eq!(podman.ok(&["run", "--rm", "--rootfs", &tree, "cat", "/etc/hostname"]).lines().count(), 1);
    podman.ok(&["create", "--name", "copied", IMAGE, "cat", "/copy"]);
    let file = podman.cell.island().file("copy", "copied\n");
    podman.ok(&["cp", &file.display().to_string(), "copied:/copy"]);
    assert_eq!(podman.ok(&["start", "--attach", "copied"]), "copied");
    podman.finish();
}

#[test]
fn play_kube() {
    let Some(podman) = Podman::start() else { return };
    let yaml = format!(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: web\nspec:\n  restartPolicy: Never\n  containers:\n  - name: main\n    \
         image: {IMAGE}\n    imagePullPolicy: Never\n    command: [/bin/sh, -c, 'echo played $WORD; trap exit TERM; sleep 1000 & wait']\n    env:\n    \
         - name: WORD\n      value: well\n    resources:\n      limits:\n        memory: 48Mi\n    volumeMounts:\n    \
         - mountPath: /data\n      name: data\n  volumes:\n  - name: data\n    emptyDir: {{}}\n"
    );
    let file = podman.cell.island().file("pod.yaml", &yaml).display().to_string();
    // The pod's first container comes from an image that podman builds from its own catatonit.
    let pause = "[engine]\ncgroup_manager=\"cgroupfs\"\nevents_logger=\"file\"\ninfra_image=\"localhost/test:1\"\n\
                 [containers]\nlog_driver=\"k8s-file\"\n";
    let _ = podman.cell.island().file("containers.conf", pause);
    podman.ok(&["play", "kube", "--network", "none", &file]);
    let played = wait_for(SOON, || podman.ok(&["logs", "web-main"]).contains("played well").then_some(()));
    assert!(played.is_some(), "{}", podman.ok(&["logs", "web-main"]));
    // whole paths: the pod gives no PATH, and not every runtime has one for that case
    assert_eq!(podman.ok(&["exec", "web-main", "/bin/sh", "-c", MEMORY]), (48 << 20).to_string());
    podman.ok(&["exec", "web-main", "/bin/touch", "/data/x"]);
    podman.ok(&["play", "kube", "--down", &file]);
    podman.finish();
}

#[test]
fn checkpoint_and_restore() {
    let Some(podman) = Podman::start() else { return };
    let Some(()) = super::criu_or_skip(&podman.cell) else { return podman.finish() };
    let script = "i=0; while :; do i=$((i+1)); echo $i > /count; sleep 0.05; done";
    podman.ok(&["run", "-d", "--name", "a", IMAGE, "sh", "-c", script]);
    podman.ok(&["container", "checkpoint", "a"]);
    podman.ok(&["container", "restore", "a"]);
    let count = || podman.ok(&["exec", "a", "cat", "/count"]);
    let first = count();
    assert!(wait_for(SOON, || (count() != first).then_some(())).is_some(), "it does not run on");
    podman.finish();
}
