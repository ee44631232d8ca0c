//! Clients that people build on, beside docker's own: docker-py, testcontainers, and docker-compose as Debian has it.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::subject::{IMAGE, Subject, finish};
use testkit::rootfs;

/// What is installed; another list needs another folder.
const PACKAGES: &[&str] = &["docker>=7,<8", "testcontainers>=4,<5"];
const FOLDER: &str = "client-venv-1";

/// An interpreter with the libraries, made once for all tests of a build; `None` with the reason printed if they cannot be had.
fn python() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let lock = File::create(folder.join("client-venv.lock")).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let (venv, mark) = (folder.join(FOLDER), folder.join(FOLDER).join("complete"));
    let python = venv.join("bin/python");
    if mark.exists() {
        return Some(python);
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = std::env::split_paths(&path).map(|folder| folder.join("python3")).find(|file| file.is_file());
    let Some(system) = system else {
        println!("skipped: no python3; cargo xtask setup installs what tests need");
        return None;
    };
    // a folder that an interrupted test left begins anew
    let _ = std::fs::remove_dir_all(&venv);
    let made = finish(Command::new(system).args(["-m", "venv"]).arg(&venv), b"");
    if made.code != 0 {
        println!("skipped: python3 makes no virtual environment: {}{}", made.out, made.err);
        return None;
    }
    let mut install = Command::new(&python);
    let got =
        finish(install.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]).args(PACKAGES), b"");
    if got.code != 0 {
        println!("skipped: the package index gives no client libraries: {}{}", got.out, got.err);
        return None;
    }
    File::create(mark).unwrap();
    Some(python)
}

/// Runs a script of `clients/` against a subject with an image; it says what it has done.
fn run(script: &str, last: &str) {
    let Some(python) = python() else { return };
    let Some(subject) = Subject::start() else { return };
    let shared = subject.island.dir("shared");
    let _ = subject.island.file("shared/note", "note for the container\n");
    let file = subject.island.file("script.py", script);
    let mut command = Command::new(python);
    command.arg(file).arg(IMAGE).arg(shared);
    command.env("DOCKER_HOST", format!("unix://{}", subject.socket().display()));
    command.env("DOCKER_CONFIG", subject.island.path("docker-config")).env_remove("DOCKER_CONTEXT");
    // its reaper is an image of its own, from a registry
    command.env("TESTCONTAINERS_RYUK_DISABLED", "true").env("PYTHONWARNINGS", "ignore");
    let got = finish(&mut command, b"").expect(0);
    assert!(got.out.lines().last().is_some_and(|line| line == last), "{}", got.out);
    subject.finish();
}

#[test]
fn docker_py() {
    run(include_str!("../clients/docker_py.py"), "done: build");
}

#[test]
fn testcontainers() {
    run(include_str!("../clients/testcontainers_py.py"), "done");
}

const COMPOSE: &str = r#"
version: "3.8"
services:
  one:
    image: test:1
    command: sh -c 'echo from one >/shared/note; echo one is up; sleep 1000'
    volumes: [shared:/shared]
    networks: {default: {aliases: [first]}}
    stop_grace_period: 1s
  two:
    image: test:1
    command: sh -c 'echo two is up; sleep 1000'
    depends_on: [one]
    environment: {GREETING: "${GREETING:-hello}"}
    volumes: ["shared:/shared:ro"]
    stop_grace_period: 1s
volumes:
  shared:
    labels: {tier: test}
"#;

#[test]
fn docker_compose() {
    if rootfs::find("docker-compose").is_none() {
        println!("skipped: no docker-compose; cargo xtask setup installs what tests need");
        return;
    }
    let Some(subject) = Subject::start() else { return };
    let file = subject.island.file("project/docker-compose.yml", COMPOSE);
    let compose = |words: &[&str], code: i32| {
        let mut command = Command::new("docker-compose");
        command.args(["--no-ansi", "-p", "shop", "-f"]).arg(&file).args(words).current_dir(subject.island.root());
        command.env("DOCKER_HOST", format!("unix://{}", subject.socket().display()));
        command.env("DOCKER_CONFIG", subject.island.path("docker-config")).env_remove("DOCKER_CONTEXT");
        finish(&mut command, b"").expect(code)
    };
    compose(&["up", "-d"], 0);
    let shown = compose(&["ps"], 0).out;
    assert!(shown.matches("Up").count() == 2 && shown.contains("shop_one_1"), "{shown}");
    assert_eq!(
        compose(&["exec", "-T", "two", "sh", "-c", "cat /shared/note; echo $GREETING"], 0).out,
        "from one\nhello\n"
    );
    compose(&["exec", "-T", "two", "touch", "/shared/x"], 1);
    let logs = compose(&["logs", "--no-color"], 0).out;
    assert!(logs.contains("one is up") && logs.contains("two is up"), "{logs}");
    let again = compose(&["up", "-d"], 0);
    assert!(
        again.err.contains("shop_one_1 is up-to-date") && again.err.contains("shop_two_1 is up-to-date"),
        "{}",
        again.err
    );
    compose(&["up", "-d", "--scale", "two=2"], 0);
    assert_eq!(compose(&["ps", "-q", "two"], 0).out.lines().count(), 2);
    compose(&["restart", "-t", "0", "two"], 0);
    compose(&["stop", "one"], 0);
    assert!(compose(&["ps", "one"], 0).out.contains("Exit"));
    compose(&["start", "one"], 0);
    assert_eq!(compose(&["run", "--rm", "-T", "two", "cat", "/shared/note"], 0).out, "from one\n");
    let label = ["volume", "ls", "-q", "-f", "label=com.docker.compose.project=shop"];
    assert_eq!(subject.insula(&label).expect(0).text(), "shop_shared");
    compose(&["down", "-v", "-t", "0"], 0);
    assert_eq!(subject.insula(&label).expect(0).text(), "");
    subject.finish();
}
