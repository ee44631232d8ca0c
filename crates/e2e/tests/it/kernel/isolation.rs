//! What keeps containers apart: namespaces, capabilities, seccomp, hidden paths, devices.

use crate::subject::{Kind, Subject, skip_unless_insula};

#[test]
fn namespaces_are_the_containers_own() {
    let Some(subject) = Subject::start() else { return };
    let namespace = |options: &[&str], name: &str| {
        subject.once(options, &["readlink", &format!("/proc/self/ns/{name}")]).expect(0).text().to_owned()
    };
    for name in ["mnt", "pid", "uts", "ipc", "net", "cgroup"] {
        let host = std::fs::read_link(format!("/proc/self/ns/{name}")).unwrap();
        let options: &[&str] = if name == "cgroup" { &["--cgroupns", "private"] } else { &[] };
        assert_ne!(namespace(options, name), host.to_string_lossy(), "{name}");
    }
    for (option, name) in
        [("--pid=host", "pid"), ("--uts=host", "uts"), ("--ipc=host", "ipc"), ("--cgroupns=host", "cgroup")]
    {
        let host = std::fs::read_link(format!("/proc/self/ns/{name}")).unwrap();
        assert_eq!(namespace(&[option], name), host.to_string_lossy(), "{option}");
    }
    let processes = subject.once(&[], &["sh", "-c", "ls /proc | grep -c '^[0-9]'"]).expect(0);
    assert!(processes.text().parse::<u32>().unwrap() < 6, "{}", processes.out);
    subject.finish();
}

#[test]
fn privileges_are_taken_away() {
    let Some(subject) = Subject::start() else { return };
    let caps = |options: &[&str]| {
        let run = subject.once(options, &["sh", "-c", "grep CapEff /proc/self/status | cut -f 2"]).expect(0);
        u64::from_str_radix(run.text(), 16).unwrap()
    };
    assert_eq!(caps(&[]), 0xa804_25fb, "Docker's set");
    assert_eq!(caps(&["--cap-drop", "ALL"]), 0);
    assert_eq!(caps(&["--cap-drop", "ALL", "--cap-add", "NET_ADMIN"]), 1 << 12);
    assert_eq!(caps(&["-u", "1000"]), 0);
    let mount = subject.once(&[], &["mount", "-t", "tmpfs", "none", "/tmp"]);
    assert!(mount.code != 0 && mount.err.contains("denied"), "{mount:?}");
    let seccomp = |options: &[&str]| {
        let run = subject.once(options, &["sh", "-c", "grep '^Seccomp:' /proc/self/status | cut -f 2"]);
        run.expect(0).text().to_owned()
    };
    assert_eq!(seccomp(&[]), "2");
    assert_eq!(seccomp(&["--security-opt", "seccomp=unconfined"]), "0");
    if subject.kind == Kind::Insula {
        // The reference fails where the machine itself lacks a capability.
        assert_eq!(seccomp(&["--privileged"]), "0");
    }
    // Not allowed without SYS_ADMIN, whatever the profile of the kernel: a namespace of one's own.
    assert_ne!(subject.once(&["-u", "1000"], &["unshare", "--user", "true"]).code, 0);
    let profile =
        r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO"}]}"#;
    let option = format!("seccomp={}", subject.island.file("profile.json", profile).display());
    subject.once(&["--security-opt", &option], &["mkdir", "/x"]).expect(1);
    subject.once(&["--security-opt", &option], &["touch", "/x"]).expect(0);
    let no_new = subject.once(&["--security-opt", "no-new-privileges"], &["grep", "NoNewPrivs", "/proc/self/status"]);
    assert_eq!(no_new.expect(0).text(), "NoNewPrivs:\t1");
    subject.finish();
}

#[test]
fn the_hosts_secrets_are_hidden() {
    let Some(subject) = Subject::start() else { return };
    assert_eq!(
        subject.once(&[], &["sh", "-c", "cat /proc/kcore /proc/keys 2>/dev/null | wc -c"]).expect(0).text(),
        "0"
    );
    assert_ne!(subject.once(&[], &["sh", "-c", "echo 0 > /proc/sys/kernel/panic"]).code, 0);
    assert_ne!(subject.once(&[], &["sh", "-c", "echo b > /proc/sysrq-trigger"]).code, 0);
    subject.once(&[], &["sh", "-c", "ls /dev/kmsg /dev/mem"]).expect(2);
    for device in ["null", "zero", "full", "random", "urandom", "tty", "ptmx"] {
        subject.once(&[], &["test", "-c", &format!("/dev/{device}")]).expect(0);
    }
    // A node may be made, but the control group keeps it shut.
    let node = "mknod /tmp/mem c 1 1 && cat /tmp/mem > /dev/null";
    let run = subject.once(&[], &["sh", "-c", node]).expect(1);
    assert!(run.err.contains("not permitted") || run.err.contains("denied"), "{}", run.err);
    subject.once(&["--device", "/dev/kmsg:/dev/kmsg:r"], &["test", "-c", "/dev/kmsg"]).expect(0);
    subject.finish();
}

#[test]
fn explain_says_what_asked_for_what() {
    if skip_unless_insula() {
        return;
    }
    let Some(subject) = Subject::start() else { return };
    subject.background("shown", &["-m", "512m", "--pids-limit", "64", "--cap-add", "NET_ADMIN"], &["sleep", "100"]);
    let text = subject.insula(&["explain", "shown"]).expect(0).out;
    let line =
        |what: &str| text.lines().find(|line| line.contains(what)).unwrap_or_else(|| panic!("no {what} in:\n{text}"));
    let memory = if text.contains("memory.limit_in_bytes") { "memory.limit_in_bytes" } else { "memory.max" };
    assert!(line(memory).contains("536870912") && line(memory).contains("-m 512m"), "{}", line(memory));
    assert!(line("pids.max").contains("64"), "{}", line("pids.max"));
    assert!(line("NET_ADMIN").contains("--cap-add"), "{}", line("NET_ADMIN"));
    for namespace in ["mnt", "pid", "uts", "ipc", "net", "cgroup", "time"] {
        line(namespace);
    }
    let json = subject.insula(&["explain", "--json", "shown"]).expect(0).out;
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert!(json["sections"].as_array().unwrap().len() >= 5);
    subject.insula(&["kill", "shown"]).expect(0);
    subject.await_field("shown", "{{.State.Running}}", "false");
    let later = subject.insula(&["explain", "shown"]).expect(0).out;
    assert!(later.contains("536870912"), "{later}");
    let missing = subject.insula(&["explain", "nobody"]).expect(1);
    assert!(missing.err.contains("nobody"), "{}", missing.err);
    subject.finish();
}

#[test]
fn users_can_be_a_range_of_their_own() {
    if skip_unless_insula() {
        return;
    }
    let Some(subject) = Subject::start() else { return };
    let own = ["--userns", "auto"];
    let run =
        subject.once(&own, &["sh", "-c", "id -u; cat /proc/self/uid_map; touch /made; stat -c %u /made"]).expect(0);
    let words: Vec<&str> = run.out.split_whitespace().collect();
    assert_eq!((words[0], words[1], words[3], words[4]), ("0", "0", "65536", "0"), "{}", run.out);
    assert!(words[2].parse::<u32>().unwrap() >= 1 << 30, "root is somebody else outside: {}", run.out);
    // a volume is one place for containers with different ranges, and keeps the owners that they see
    let mapped = ["--userns", "auto", "-v", "shared:/data"];
    subject.once(&mapped, &["sh", "-c", "echo kept > /data/x"]).expect(0);
    let shown = subject.once(&["-v", "shared:/data"], &["sh", "-c", "cat /data/x; stat -c %u /data/x"]).expect(0);
    assert_eq!(shown.out, "kept\n0\n");
    subject.once(&["--userns", "auto", "--privileged"], &["true"]).expect(125);
    subject.assert_empty();
    subject.finish();
}
