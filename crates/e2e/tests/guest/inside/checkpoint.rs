//! `checkpoint` and `restore`.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use serde_json::json;

use crate::bundle::Bundle;
use crate::container::Container;
use crate::subject::{Run, SOON, Subject, end_of, test};

/// Runs a test while no other of these runs: criu's processes find each other by sockets whose names only a network namespace keeps
/// apart.
fn alone<F: Fn(&Subject)>(body: F) {
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    test(body);
}

/// A container that counts.
fn counter(s: &Subject) -> Bundle<'_> {
    // without UDP, raw, packet and netlink diagnosis in the kernel, criu takes no network namespace along
    s.sh("i=0; while :; do i=$((i+1)); echo $i > /etc/count; sleep 0.05; done").no_namespace("network")
}

/// Starts a container whose streams are the null device: criu takes no file along that is not in a mount of the container's.
#[track_caller]
fn start<'a>(bundle: &Bundle<'a>) -> Container<'a> {
    let mut words = bundle.words("run");
    words.insert(1, "--detach".to_owned());
    let mut command = bundle.subject.command(&words.iter().map(String::as_str).collect::<Vec<_>>());
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
    assert!(status.success(), "{words:?}: {status}");
    Container { subject: bundle.subject, id: bundle.id.clone(), group: bundle.group() }
}

fn count_file(s: &Subject) -> PathBuf {
    s.rootfs().join("etc/count")
}

fn count(s: &Subject) -> u64 {
    std::fs::read_to_string(count_file(s)).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

#[track_caller]
fn counts_on(s: &Subject) {
    let before = count(s);
    let on = testkit::wait_for(SOON, || (count(s) > before).then_some(()));
    assert!(on.is_some(), "it stands at {before}");
}

fn images(s: &Subject) -> String {
    s.island.dir("images").display().to_string()
}

fn restore(bundle: &Bundle, flags: &[&str]) -> Run {
    let folder = bundle.folder().display().to_string();
    let words = [&["restore", "--detach", "--bundle", &folder], flags, &[&*bundle.id]].concat();
    bundle.subject.call(&words)
}

/// Shows criu's own log where a run of it failed.
#[track_caller]
fn well(s: &Subject, folder: &str, run: Run) -> Run {
    if run.code != 0 {
        for name in ["dump.log", "restore.log"] {
            let text = std::fs::read_to_string(s.island.path(folder).join(name)).unwrap_or_default();
            let last: Vec<&str> = text.lines().rev().take(60).collect();
            println!("{name}:\n{}", last.into_iter().rev().collect::<Vec<_>>().join("\n"));
        }
    }
    run.expect(0)
}

#[test]
#[ignore = "runs in the guest"]
fn criu_has_what_it_needs() {
    alone(|s| {
        let run = s.finish(Command::new("criu").args(["check", "-v1"]).current_dir(s.island.root()));
        println!("criu check: {} {} {}", run.code, run.out, run.err);
        run.expect(0);
    });
}

#[test]
#[ignore = "runs in the guest"]
fn a_container_goes_on_after_checkpoint_and_restore() {
    alone(|s| {
        let bundle = counter(s);
        let container = start(&bundle);
        container.await_file(&count_file(s));
        let images = images(s);
        well(s, "images", container.call("checkpoint", &["--image-path", &images]));
        container.call("state", &[]).fails();
        let before = count(s);
        well(s, "images", restore(&bundle, &["--image-path", &images]));
        assert_eq!(container.status(), "running");
        counts_on(s);
        assert!(count(s) > before);
        container.call("delete", &["--force"]).expect(0);
    });
}

#[test]
#[ignore = "runs in the guest"]
fn a_container_is_left_running_and_told_where_to_write() {
    alone(|s| {
        let bundle = counter(s);
        let container = start(&bundle);
        container.await_file(&count_file(s));
        let (images, work) = (images(s), s.island.dir("work").display().to_string());
        let flags = ["--leave-running", "--image-path", &images, "--work-path", &work];
        well(s, "work", container.call("checkpoint", &flags));
        assert!(s.island.path("work/dump.log").is_file() && !s.island.path("images/dump.log").exists());
        assert!(s.island.path("images/inventory.img").is_file());
        assert_eq!(container.status(), "running");
        counts_on(s);
        // the name is taken as long as it is there
        restore(&bundle, &["--image-path", &images]).fails();
        counts_on(s);
        container.call("delete", &["--force"]).expect(0);
        well(s, "work", restore(&bundle, &["--image-path", &images, "--work-path", &work]));
        assert!(s.island.path("work/restore.log").is_file());
        counts_on(s);
    });
}

#[test]
#[ignore = "runs in the guest"]
fn a_restored_container_is_one_like_any_other() {
    alone(|s| {
        let hook = |name: &str| json!([{ "path": "/bin/sh", "args": ["sh", "-c", format!("cat > {}/{name}", s.island.root().display())] }]);
        let bundle = counter(s)
            .set(
                "/hooks",
                json!({ "prestart": hook("prestart"), "createRuntime": hook("made"), "poststop": hook("poststop") }),
            )
            .set("/linux/resources/pids", json!({ "limit": 17 }))
            .namespace("cgroup");
        let container = start(&bundle);
        container.await_file(&count_file(s));
        let images = images(s);
        well(s, "images", container.call("checkpoint", &["--image-path", &images]));
        assert!(!s.group_folder("", &container.group).exists());
        let pid_file = s.island.path("pid").display().to_string();
        for name in ["prestart", "made"] {
            std::fs::remove_file(s.island.path(name)).unwrap();
        }
        well(s, "images", restore(&bundle, &["--image-path", &images, "--pid-file", &pid_file]));
        for name in ["prestart", "made"] {
            let told: serde_json::Value =
                serde_json::from_str(&std::fs::read_to_string(s.island.path(name)).unwrap()).unwrap();
            assert_eq!((&told["pid"], &told["status"]), (&json!(container.pid()), &json!("creating")), "{told}");
        }
        assert_eq!(std::fs::read_to_string(&pid_file).unwrap(), container.pid().to_string());
        counts_on(s);
        assert_eq!(container.limit("", "pids.max"), "17");
        assert!(container.limit("", "cgroup.procs").lines().any(|pid| pid == container.pid().to_string()));
        assert_eq!(container.exec(&["cat", "/etc/word"]).expect(0).text(), "word");
        container.call("update", &["--pids-limit", "19"]).expect(0);
        assert_eq!(container.limit("", "pids.max"), "19");
        container.call("pause", &[]).expect(0);
        assert_eq!(container.status(), "paused");
        container.call("resume", &[]).expect(0);
        counts_on(s);
        let pids = container.call("ps", &["--format", "json"]).expect(0).json();
        assert!(pids.as_array().unwrap().contains(&container.pid().into()), "{pids}");
        // and again, from what was restored
        let again = s.island.dir("again").display().to_string();
        well(s, "again", container.call("checkpoint", &["--image-path", &again]));
        well(s, "again", restore(&bundle, &["--image-path", &again]));
        counts_on(s);
        container.end();
        std::fs::remove_file(s.island.path("poststop")).unwrap();
        container.call("delete", &[]).expect(0);
        assert!(container.subject.island.path("poststop").is_file());
        assert!(!s.group_folder("", &container.group).exists());
    });
}

#[test]
#[ignore = "runs in the guest"]
fn a_copy_has_its_own_name_and_group() {
    alone(|s| {
        let bundle = counter(s);
        let container = start(&bundle);
        container.await_file(&count_file(s));
        let images = images(s);
        well(s, "images", container.call("checkpoint", &["--image-path", &images]));
        let other = counter(s);
        other.write();
        well(s, "images", restore(&other, &["--image-path", &images]));
        let copy = Container { subject: s, id: other.id.clone(), group: other.group() };
        assert_eq!(copy.status(), "running");
        counts_on(s);
        let text = std::fs::read_to_string(format!("/proc/{}/cgroup", copy.pid())).unwrap();
        assert_eq!(text.trim(), format!("0::{}", copy.group));
        copy.call("delete", &["--force"]).expect(0);
        assert!(!s.group_folder("", &copy.group).exists());
        // criu makes no group anew that nobody takes away
        assert!(!s.group_folder("", &container.group).exists());
    });
}

#[test]
#[ignore = "runs in the guest"]
fn a_paused_container_is_restored_running() {
    alone(|s| {
        let bundle = counter(s);
        let container = start(&bundle);
        container.await_file(&count_file(s));
        container.call("pause", &[]).expect(0);
        let images = images(s);
        let run = container.call("checkpoint", &["--image-path", &images]);
        if run.code == 0 {
            well(s, "images", restore(&bundle, &["--image-path", &images]));
            counts_on(s);
        } else {
            // a word, and it is as it was
            run.fails();
            assert_eq!(container.status(), "paused");
            container.call("resume", &[]).expect(0);
            counts_on(s);
        }
    });
}

#[test]
#[ignore = "runs in the guest"]
fn pipes_are_found_again() {
    alone(|s| {
        let bundle = s.sh("i=0; while :; do i=$((i+1)); echo $i; sleep 0.05; done").no_namespace("network");
        let piped = |words: &[&str]| {
            let mut command = s.command(words);
            let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
            let lines = BufReader::new(child.stdout.take().unwrap()).lines();
            (child, lines.map(Result::unwrap))
        };
        let mut words = bundle.words("run");
        words.insert(1, "--detach".to_owned());
        let (mut child, mut lines) = piped(&words.iter().map(String::as_str).collect::<Vec<_>>());
        assert!(child.wait().unwrap().success());
        assert_eq!(lines.next().unwrap(), "1");
        let container = Container { subject: s, id: bundle.id.clone(), group: bundle.group() };
        let images = images(s);
        well(s, "images", container.call("checkpoint", &["--image-path", &images]));
        let last: u64 = lines.last().unwrap().parse().unwrap();
        let folder = bundle.folder().display().to_string();
        let words = ["restore", "--detach", "--bundle", &folder, "--image-path", &images, &bundle.id];
        let (mut child, mut lines) = piped(&words);
        assert!(child.wait().unwrap().success());
        assert_eq!(lines.next().unwrap(), (last + 1).to_string());
        container.call("delete", &["--force"]).expect(0);
    });
}

#[test]
#[ignore = "runs in the guest"]
fn the_foreground_waits_for_the_end_and_tells_it() {
    alone(|s| {
        let bundle = s.sh("echo x > /etc/count; while [ ! -e /etc/end ]; do sleep 0.02; done; exit 7");
        let bundle = bundle.no_namespace("network");
        let container = start(&bundle);
        container.await_file(&count_file(s));
        let images = images(s);
        well(s, "images", container.call("checkpoint", &["--image-path", &images]));
        let folder = bundle.folder().display().to_string();
        let words = ["restore", "--bundle", &folder, "--image-path", &images, &bundle.id];
        let mut command = s.command(&words);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let up = testkit::wait_for(SOON, || (container.call("state", &[]).code == 0).then_some(()));
        assert!(up.is_some());
        container.await_status("running");
        std::fs::write(s.rootfs().join("etc/end"), "").unwrap();
        assert_eq!(end_of(&mut child), 7);
        container.call("state", &[]).fails();
    });
}

#[test]
#[ignore = "runs in the guest"]
fn connections_are_taken_along() {
    alone(|s| {
        // both ends are the container's, on the loop of the machine's network
        let script = "nc -l -p 4021 -e cat & sleep 0.3; \
            (i=0; while :; do i=$((i+1)); echo $i; sleep 0.05; done) | nc 127.0.0.1 4021 | \
            while read n; do echo $n > /etc/count; done";
        let bundle = s.sh(script).no_namespace("network");
        let container = start(&bundle);
        container.await_file(&count_file(s));
        let images = images(s);
        container.call("checkpoint", &["--image-path", &images]).fails();
        counts_on(s);
        well(s, "images", container.call("checkpoint", &["--tcp-established", "--image-path", &images]));
        well(s, "images", restore(&bundle, &["--tcp-established", "--image-path", &images]));
        counts_on(s);
    });
}

#[test]
#[ignore = "runs in the guest"]
fn what_fails_says_why_and_leaves_nothing() {
    alone(|s| {
        let bundle = counter(s);
        bundle.write();
        let empty = s.island.dir("empty").display().to_string();
        restore(&bundle, &["--image-path", &empty]).fails();
        s.call(&["state", &bundle.id]).fails();
        let container = start(&bundle);
        container.await_file(&count_file(s));
        let images = images(s);
        // no soft-dirty bits in this kernel: an error that says so, and the container goes on
        let run = container.call("checkpoint", &["--pre-dump", "--image-path", &images]);
        if run.code != 0 {
            assert!(run.fails().err.contains("criu failed"));
        }
        counts_on(s);
        container.call("checkpoint", &["--manage-cgroups-mode", "odd", "--image-path", &images]).fails();
        container.call("checkpoint", &["--empty-ns", "user", "--image-path", &images]).fails();
        counts_on(s);
        well(s, "images", container.call("checkpoint", &["--image-path", &images]));
        std::fs::remove_file(s.island.path("images/core-1.img")).unwrap();
        restore(&bundle, &["--image-path", &images]).fails();
        s.call(&["state", &bundle.id]).fails();
        assert!(!s.group_folder("", &container.group).exists());
    });
}

#[test]
#[ignore = "runs in the guest"]
fn what_engines_ask_for_is_taken_along() {
    alone(|s| {
        let shared = s.island.dir("shared").display().to_string();
        let file = s.island.file("hosts", "hosts\n").display().to_string();
        let hidden = json!(["/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/scsi", "/sys/firmware"]);
        let closed = json!(["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]);
        let bundle = counter(s)
            .mount("bind", &shared, "/mnt", &["rbind", "rw"])
            .mount("bind", &file, "/etc/hosts", &["bind", "ro"])
            .mount("tmpfs", "tmpfs", "/tmp", &["nosuid", "nodev"])
            .mount("cgroup", "cgroup", "/sys/fs/cgroup", &["nosuid", "noexec", "nodev", "relatime", "ro"])
            .namespace("cgroup")
            .set("/linux/maskedPaths", hidden)
            .set("/linux/readonlyPaths", closed);
        let container = start(&bundle);
        container.await_file(&count_file(s));
        container.exec(&["sh", "-c", "echo kept > /tmp/file"]).expect(0);
        let images = images(s);
        well(s, "images", container.call("checkpoint", &["--image-path", &images]));
        well(s, "images", restore(&bundle, &["--image-path", &images]));
        counts_on(s);
        let script = "cat /tmp/file /etc/hosts; cat /proc/keys /proc/kcore | wc -c; ls /proc/scsi /sys/firmware | \
            grep -v : | wc -w; echo x > /mnt/new; (echo 1 > /proc/sys/kernel/hostname) || (echo 1 > /etc/hosts) || echo closed; \
            cat /sys/fs/cgroup/cgroup.procs | wc -l";
        let text = container.exec(&["sh", "-c", script]).expect(0).text().to_owned();
        assert!(text.starts_with("kept\nhosts\n0\n0\nclosed\n"), "{text}");
        assert!(s.island.path("shared/new").is_file());
    });
}

#[test]
#[ignore = "runs in the guest"]
fn a_hook_that_fails_stops_the_restore() {
    alone(|s| {
        let bundle = counter(s);
        let container = start(&bundle);
        container.await_file(&count_file(s));
        let images = images(s);
        well(s, "images", container.call("checkpoint", &["--image-path", &images]));
        let bad = Bundle { subject: s, id: bundle.id.clone(), config: bundle.config.clone(), flags: Vec::new() };
        let bad = bad.set("/hooks", json!({ "createRuntime": [{ "path": "/bin/false" }] }));
        bad.write();
        let run = restore(&bad, &["--image-path", &images]).fails();
        assert!(run.err.contains("createRuntime hook #0"), "{run:?}");
        container.call("state", &[]).fails();
        assert!(!s.group_folder("", &container.group).exists());
    });
}

#[test]
#[ignore = "runs in the guest"]
fn a_terminal_is_handed_on() {
    alone(|s| {
        let bundle = s.sh("while read line; do echo got $line; done").no_namespace("network");
        let bundle = bundle.set("/process/terminal", json!(true));
        let socket = s.island.path("console");
        let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let path = socket.display().to_string();
        let folder = bundle.write().display().to_string();
        let words = ["run", "--detach", "--console-socket", &path, "--bundle", &folder, &bundle.id];
        let said = |terminal: &mut std::fs::File, line: &str| {
            writeln!(terminal, "{line}").unwrap();
            let wanted = format!("got {line}");
            let mut lines = BufReader::new(terminal).lines();
            let found = lines.find(|text| text.as_ref().unwrap().contains(&wanted));
            assert!(found.is_some());
        };
        s.call(&words).expect(0);
        let mut terminal = master(&listener);
        said(&mut terminal, "one");
        let container = Container { subject: s, id: bundle.id.clone(), group: bundle.group() };
        let images = images(s);
        well(s, "images", container.call("checkpoint", &["--image-path", &images]));
        drop(terminal);
        restore(&bundle, &["--image-path", &images]).fails();
        well(s, "images", restore(&bundle, &["--console-socket", &path, "--image-path", &images]));
        let mut terminal = master(&listener);
        said(&mut terminal, "two");
        container.call("delete", &["--force"]).expect(0);
    });
}

/// Takes the terminal that a runtime sends.
fn master(listener: &std::os::unix::net::UnixListener) -> std::fs::File {
    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
    let (stream, _) = listener.accept().unwrap();
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut name = [0; 64];
    let mut room = [std::io::IoSliceMut::new(&mut name)];
    recvmsg(&stream, &mut room, &mut control, RecvFlags::CMSG_CLOEXEC).unwrap();
    let fds = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    std::fs::File::from(fds.unwrap())
}
