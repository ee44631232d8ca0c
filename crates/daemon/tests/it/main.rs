//! The program itself: how it begins, how it ends, and what it leaves.

#![expect(clippy::unwrap_used, reason = "a test fails where anything fails")]

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

const PROGRAM: &str = env!("CARGO_BIN_EXE_insulad");

struct Island(tempfile::TempDir);

/// A daemon that is ended with its test.
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Island {
    /// A killed daemon cannot take its parent group away.
    fn drop(&mut self) {
        for hierarchy in std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
            let _ = std::fs::remove_dir(hierarchy.path().join(group().trim_start_matches('/')));
        }
    }
}

/// The parent group of this test's daemons.
fn group() -> String {
    format!("/insula-test-{}", std::process::id())
}

impl Island {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn arguments(&self, root: &str, run: &str) -> Vec<PathBuf> {
        let cgroup = group();
        let flag = |name: &str| PathBuf::from(name);
        vec![
            flag("--root"),
            self.path(root),
            flag("--run"),
            self.path(run),
            flag("--shim"),
            flag("/bin/true"),
            flag("--netns-pool"),
            flag("0"),
            flag("--cgroup-parent"),
            flag(&cgroup),
            flag("--socket-mode"),
            flag("0600"),
        ]
    }

    /// Starts a daemon and waits for its READY=1.
    fn start(&self) -> Daemon {
        self.start_as(Command::new(PROGRAM).args(self.arguments("root", "run")))
    }

    fn start_as(&self, command: &mut Command) -> Daemon {
        let name = self.path("notify");
        let _ = std::fs::remove_file(&name);
        let notify = UnixDatagram::bind(&name).unwrap();
        notify.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let daemon = Daemon(command.env("NOTIFY_SOCKET", &name).spawn().unwrap());
        let mut word = [0; 64];
        let count = notify.recv(&mut word).unwrap();
        assert_eq!(&word[..count], b"READY=1");
        daemon
    }

    /// Runs a daemon that ends by itself, without success: what it said.
    fn refused(&self, arguments: &[PathBuf]) -> String {
        let said = self.path("said");
        let log = std::fs::File::create(&said).unwrap();
        let mut daemon = Daemon(Command::new(PROGRAM).args(arguments).stderr(log).spawn().unwrap());
        assert!(!ended(&mut daemon).success());
        std::fs::read_to_string(said).unwrap()
    }
}

/// Waits for a daemon's end.
fn ended(daemon: &mut Daemon) -> ExitStatus {
    let begin = Instant::now();
    loop {
        if let Some(status) = daemon.0.try_wait().unwrap() {
            return status;
        }
        assert!(begin.elapsed() < Duration::from_secs(20), "the daemon does not end");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn terminate(mut daemon: Daemon) -> ExitStatus {
    let pid = rustix::process::Pid::from_child(&daemon.0);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    ended(&mut daemon)
}

/// The body of an answer.
fn ask(socket: &Path, request: &str, body: &str) -> String {
    let mut stream = UnixStream::connect(socket).unwrap();
    let length = body.len();
    let head = format!("{request} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n");
    stream.write_all(format!("{head}Content-Length: {length}\r\n\r\n{body}").as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn ping(socket: &Path) {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.write_all(b"GET /_ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("OK"), "{answer}");
}

#[test]
fn begins_serves_ends_and_leaves_nothing_to_trip_over() {
    let island = Island::new();
    let daemon = island.start();
    ping(&island.path("run/docker.sock"));
    assert!(terminate(daemon).success());
    assert!(!island.path("run/docker.sock").exists() && !island.path("run/insulad.pid").exists());
    // and again over the same state
    assert!(terminate(island.start()).success());
}

#[test]
fn a_killed_daemon_stands_in_nobodys_way() {
    let island = Island::new();
    drop(island.start());
    assert!(island.path("run/docker.sock").exists(), "it was killed, not asked");
    let daemon = island.start();
    ping(&island.path("run/docker.sock"));
    assert!(terminate(daemon).success());
}

#[test]
fn two_daemons_do_not_share_a_folder() {
    let island = Island::new();
    let _daemon = island.start();
    let said = island.refused(&island.arguments("root2", "run"));
    assert!(said.contains("a daemon runs already") && said.contains("--run"), "{said}");
    let said = island.refused(&island.arguments("root", "run2"));
    assert!(said.contains("in use by another process"), "{said}");
    assert!(!island.path("run2/insulad.pid").exists(), "the refused one took its pid file along");
    ping(&island.path("run/docker.sock"));
}

#[test]
fn wrong_settings_are_refused_with_what_to_do() {
    let island = Island::new();
    std::fs::write(island.path("file"), "").unwrap();
    let said = island.refused(&island.arguments("file/root", "run"));
    assert!(said.contains("file/root") && said.contains("--root"), "{said}");
    let said = island.refused(&island.arguments("root", "file/run"));
    assert!(said.contains("file/run") && said.contains("--run"), "{said}");
    let mut arguments = island.arguments("root", "run");
    arguments[5] = "/nowhere/insula-shim".into();
    let said = island.refused(&arguments);
    assert!(said.contains("/nowhere/insula-shim") && said.contains("--shim"), "{said}");
    let mut arguments = island.arguments("root", "run");
    arguments.extend(["--socket-group".into(), "no-such-group".into()]);
    let said = island.refused(&arguments);
    assert!(said.contains("no-such-group"), "{said}");
}

#[test]
fn a_service_manager_may_bring_the_socket() {
    let island = Island::new();
    let path = island.path("passed.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let arguments = island.arguments("root", "run");
    // a shell, for the variable has to name the very process that gets the socket
    let mut command = Command::new("sh");
    command.args(["-c", "LISTEN_PID=$$ LISTEN_FDS=1 exec \"$0\" \"$@\" 3<&0 </dev/null", PROGRAM]).args(arguments);
    let daemon = island.start_as(command.stdin(Stdio::from(OwnedFd::from(listener))));
    ping(&path);
    assert!(!island.path("run/docker.sock").exists());
    assert!(terminate(daemon).success());
    assert!(path.exists(), "the socket is the manager's");
}

#[test]
fn the_default_network_is_what_the_settings_say_now() {
    let island = Island::new();
    let socket = island.path("run/docker.sock");
    let shown = |flags: &[&str]| {
        let mut arguments = island.arguments("root", "run");
        arguments.extend(flags.iter().map(PathBuf::from));
        let daemon = island.start_as(Command::new(PROGRAM).args(arguments));
        let shown = ask(&socket, "GET /networks/bridge", "");
        assert!(terminate(daemon).success());
        shown
    };
    let first = shown(&["--bip", "10.254.251.1/24", "--mtu", "1400"]);
    assert!(first.contains("10.254.251.0/24") && first.contains("\"1400\""), "{first}");
    let again = shown(&["--bip", "10.254.251.1/24", "--mtu", "1400"]);
    let id = |text: &str| text.split_once("\"Id\":\"").unwrap().1[..64].to_owned();
    assert_eq!(id(&first), id(&again));
    let other =
        shown(&["--bip", "10.254.252.1/24", "--fixed-cidr", "10.254.252.128/25", "--icc=false", "--ip", "127.0.0.1"]);
    assert!(other.contains("10.254.252.0/24") && other.contains("10.254.252.128/25"), "{other}");
    assert!(other.contains("enable_icc\":\"false\"") && other.contains("host_binding_ipv4\":\"127.0.0.1\""), "{other}");
    let whole = shown(&["--fixed-cidr", "10.254.250.0/24", "--ipv6", "--fixed-cidr-v6", "fd00:254::/64"]);
    assert!(whole.contains("10.254.250.0/24") && whole.contains("fd00:254::/64"), "{whole}");
    let away = shown(&["--fixed-cidr", "10.254.250.0/24", "--default-gateway", "10.254.250.9"]);
    assert!(away.contains("\"DefaultGatewayIPv4\":\"10.254.250.9\""), "{away}");
    let none = shown(&["--bridge", "none"]);
    assert!(none.starts_with("HTTP/1.1 404"), "{none}");
    assert!(shown(&[]).contains("\"Name\":\"bridge\""));
}

#[test]
fn a_file_says_what_is_made_and_is_read_again() {
    let island = Island::new();
    let (socket, file) = (island.path("run/docker.sock"), island.path("daemon.json"));
    let options = r#""default-network-opts": {"bridge": {"com.docker.network.driver.mtu": "1234"}}"#;
    let write = |more: &str| std::fs::write(&file, format!("{{{options}{more}}}")).unwrap();
    write("");
    let mut arguments = island.arguments("root", "run");
    arguments.extend(["--config".into(), file.clone()]);
    let daemon = island.start_as(Command::new(PROGRAM).args(arguments));
    let made = |name: &str, rest: &str| {
        let body = format!(r#"{{"Name": "{name}", "ConfigOnly": true{rest}}}"#);
        let answer = ask(&socket, "POST /networks/create", &body);
        assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
        ask(&socket, &format!("GET /networks/{name}"), "")
    };
    assert!(made("a", "").contains("mtu\":\"1234\""));
    assert!(made("b", r#", "Options": {"com.docker.network.driver.mtu": "1300"}"#).contains("mtu\":\"1300\""));
    assert!(!made("c", r#", "Driver": "macvlan""#).contains("mtu"));
    write(
        r#", "insecure-registries": ["far:5000"], "features": {"buildkit": false}, "proxies": {"http-proxy": "http://u:p@x"}"#,
    );
    let pid = rustix::process::Pid::from_child(&daemon.0);
    rustix::process::kill_process(pid, rustix::process::Signal::HUP).unwrap();
    let begin = Instant::now();
    while !ask(&socket, "GET /info", "").contains("far:5000") {
        assert!(begin.elapsed() < Duration::from_secs(20), "the file is not read again");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(ask(&socket, "GET /_ping", "").to_ascii_lowercase().contains("builder-version: 1"));
    assert!(ask(&socket, "GET /info", "").contains("http://xxxxx:xxxxx@x"));
    assert!(terminate(daemon).success());
}
