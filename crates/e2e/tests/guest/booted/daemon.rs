//! The daemon in a Debian as its users have it: systemd has the control groups, the disk is ext4, and the kernel is the distribution's.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use testkit::wait_for;

use crate::engine::Daemon;

/// The machine computes by software.
const SOON: Duration = Duration::from_secs(60);
/// The group above those of the containers.
const PARENT: &str = "/insula-e2e";

impl Daemon {
    /// The file of a container's group: by its name in version 2, or the one that version 1 has for it.
    fn group_file(&self, id: &str, parent: &str, v2: &str, v1: (&str, &str)) -> String {
        let top = Path::new("/sys/fs/cgroup");
        let (top, name) = match top.join("cgroup.controllers").exists() {
            true => (top.to_owned(), v2),
            false => (top.join(v1.0), v1.1),
        };
        let path: PathBuf = top.join(format!("{}/{id}/{name}", parent.trim_start_matches('/')));
        let text = fs::read_to_string(&path);
        text.unwrap_or_else(|error| panic!("{}: {error}\n{}", path.display(), self.log())).trim().to_owned()
    }
}

#[test]
#[ignore = "runs in a Debian"]
fn limits_are_kept_and_changed() {
    let daemon = Daemon::start_with(&["--cgroup-parent", PARENT]);
    let limits = ["-m", "64m", "--memory-swap", "64m", "--cpus", "0.5", "--cpuset-cpus", "0", "--pids-limit", "20"];
    let run = ["run", "-d", "--name", "counter", "--network", "none"];
    let id = daemon.docker(&[&run[..], &limits, &["small:1", "sleep", "1000"]].concat());
    let file = |v2: &str, v1: (&str, &str)| daemon.group_file(&id, PARENT, v2, v1);
    assert_eq!(file("memory.max", ("memory", "memory.limit_in_bytes")), (64 << 20).to_string());
    assert_eq!(file("pids.max", ("pids", "pids.max")), "20");
    assert_eq!(file("cpuset.cpus", ("cpuset", "cpuset.cpus")), "0");
    let quota = file("cpu.max", ("cpu", "cpu.cfs_quota_us"));
    assert!(["50000 100000", "50000"].contains(&&*quota), "{quota}");
    // what clients show of it
    let stats = daemon.docker(&["stats", "--no-stream", "--format", "{{.Name}} {{.MemUsage}} {{.PIDs}}", "counter"]);
    assert!(stats.starts_with("counter ") && stats.ends_with("/ 64MiB 1"), "{stats}");
    assert!(daemon.docker(&["top", "counter"]).contains("sleep 1000"));
    let own = daemon.docker(&["exec", "counter", "cat", "/proc/self/cgroup"]);
    assert!(own.lines().all(|line| line.ends_with(":/") || !line.contains(&id)), "{own}");
    // changed while it runs
    daemon.docker(&["update", "-m", "96m", "--memory-swap", "96m", "--pids-limit", "30", "--cpus", "0.25", "counter"]);
    assert_eq!(file("memory.max", ("memory", "memory.limit_in_bytes")), (96 << 20).to_string());
    assert_eq!(file("pids.max", ("pids", "pids.max")), "30");
    daemon.docker(&["pause", "counter"]);
    let frozen = file("cgroup.freeze", ("freezer", "freezer.state"));
    assert!(["1", "FROZEN"].contains(&&*frozen), "{frozen}");
    assert_eq!(daemon.docker(&["inspect", "-f", "{{.State.Status}}", "counter"]), "paused");
    daemon.docker(&["unpause", "counter"]);
    // systemd looks at its own again, and at nothing of ours
    assert!(Command::new("systemctl").arg("daemon-reload").status().unwrap().success());
    assert_eq!(file("pids.max", ("pids", "pids.max")), "30");
    daemon.docker(&["rm", "-f", "counter"]);
    // too much memory
    let small = ["run", "--name", "counter", "--network", "none", "-m", "16m", "--memory-swap", "16m", "small:1"];
    let ended = daemon.run(&[&small[..], &["dd", "if=/dev/zero", "of=/dev/null", "bs=64M", "count=1"]].concat());
    assert_eq!(ended.code, 137, "{}{}\n{}", ended.out, ended.err, daemon.log());
    let told = wait_for(SOON, || {
        let told = daemon.docker(&["inspect", "-f", "{{.State.OOMKilled}}", "counter"]);
        (told == "true").then_some(())
    });
    assert!(told.is_some(), "{}", daemon.log());
    daemon.docker(&["rm", "counter"]);
    // elsewhere
    let elsewhere = ["run", "-d", "--name", "counter", "--network", "none", "--cgroup-parent", "/elsewhere"];
    let id = daemon.docker(&[&elsewhere[..], &["--pids-limit", "7", "small:1", "sleep", "1000"]].concat());
    assert_eq!(daemon.group_file(&id, "/elsewhere", "pids.max", ("pids", "pids.max")), "7");
    daemon.docker(&["rm", "-f", "counter"]);
    println!("{}", doctor(&daemon));
}

/// What the daemon finds out about the host.
fn doctor(daemon: &Daemon) -> String {
    let (root, run) = (daemon.island.path("state"), daemon.island.path("run"));
    let output = Command::new("insula").arg("--root").arg(root).arg("--run").arg(run).arg("doctor").output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[test]
#[ignore = "runs in a Debian"]
fn containers_reach_each_other_and_outlive_the_daemon() {
    let mut daemon = Daemon::start_with(&["--cgroup-parent", PARENT]);
    daemon.docker(&["network", "create", "inner"]);
    let serve = "while :; do echo hello | nc -l -p 80; done";
    daemon.docker(&[
        "run",
        "-d",
        "--name",
        "counter",
        "--network",
        "inner",
        "-p",
        "127.0.0.1:8080:80",
        "small:1",
        "sh",
        "-c",
        serve,
    ]);
    let ask = |daemon: &Daemon| {
        let run = ["run", "--rm", "--network", "inner", "small:1", "sh", "-c", "sleep 5 | nc -w 5 counter 80"];
        daemon.docker(&run)
    };
    assert_eq!(ask(&daemon), "hello");
    let port = || {
        let output = Command::new("busybox")
            .args(["nc", "-w", "5", "127.0.0.1", "8080"])
            .stdin(std::process::Stdio::null())
            .output();
        String::from_utf8_lossy(&output.unwrap().stdout).trim().to_owned()
    };
    let published = wait_for(SOON, || (port() == "hello").then_some(()));
    assert!(published.is_some(), "{}", daemon.log());
    daemon.replace();
    assert_eq!(daemon.docker(&["inspect", "-f", "{{.State.Status}}", "counter"]), "running");
    assert_eq!(ask(&daemon), "hello");
    daemon.docker(&["exec", "counter", "ls", "/"]);
    daemon.docker(&["rm", "-f", "counter"]);
    daemon.docker(&["network", "rm", "inner"]);
}

#[test]
#[ignore = "runs in a Debian"]
fn owners_are_a_containers_own() {
    let daemon = Daemon::start_with(&["--cgroup-parent", PARENT, "--userns-remap", "100000:100000:65536"]);
    let run = ["run", "--rm", "--network", "none", "-v", "shared:/data"];
    let script = "cat /proc/self/uid_map; stat -c %u /bin/busybox; touch /here /data/there && chown 1000 /here && \
        stat -c %u /here /data/there";
    let said = daemon.docker(&[&run[..], &["small:1", "sh", "-c", script]].concat());
    let words: Vec<&str> = said.split_whitespace().collect();
    assert_eq!(words, ["0", "100000", "65536", "0", "1000", "0"], "{}", daemon.log());
    let context = daemon.island.dir("context");
    fs::write(context.join("Dockerfile"), "FROM small:1\nRUN touch /made && chown 7 /made\n").unwrap();
    daemon.docker(&["build", "--network", "none", "-t", "mapped", context.to_str().unwrap()]);
    let run =
        ["run", "-d", "--name", "counter", "--network", "none", "mapped", "sh", "-c", "stat -c %u /made; sleep 1000"];
    daemon.docker(&run);
    let said = wait_for(SOON, || Some(daemon.docker(&["logs", "counter"])).filter(|said| !said.is_empty()));
    assert_eq!(said.as_deref(), Some("7"));
    daemon.docker(&["cp", "counter:/made", daemon.island.path("made").to_str().unwrap()]);
    daemon.docker(&["rm", "-f", "counter"]);
}
