//! SELinux: labels of processes, of mounts and of keys.
//!
//! # Source
//! runtime-spec `config.md`, `process.selinuxLabel`, and `config-linux.md`, `mountLabel`. The policy is in `policy.cil`, and loaded
//! when these tests begin: a container may not read what is `secret_t`, and nobody may become `forbidden_t`.

use serde_json::json;

use super::install;
use crate::bundle::Bundle;
use crate::subject::{Subject, test};

const PROCESS: &str = "system_u:system_r:container_t:s0:c1,c2";
const OTHER: &str = "system_u:system_r:other_t:s0:c3";
const FILES: &str = "system_u:object_r:container_file_t:s0:c1,c2";

fn labelled<'a>(s: &'a Subject, script: &str) -> Bundle<'a> {
    s.sh(script).set("/process/selinuxLabel", json!(PROCESS)).set("/linux/mountLabel", json!(FILES))
}

/// The label that the kernel tells, which ends in a byte of zero.
fn label(text: &str) -> &str {
    text.trim().trim_end_matches('\0')
}

#[test]
#[ignore = "runs in a Debian"]
fn the_first_process_has_the_label() {
    test(|s| {
        assert_eq!(label(&labelled(s, "cat /proc/self/attr/current").out()), PROCESS);
        let bundle = labelled(s, "cat /proc/self/attr/current").set("/process/noNewPrivileges", json!(false));
        assert_eq!(label(&bundle.set("/process/user", json!({ "uid": 1000, "gid": 1000 })).out()), PROCESS);
        // without one it is as it was
        let own = std::fs::read_to_string("/proc/self/attr/current").unwrap();
        assert_eq!(label(&s.sh("cat /proc/self/attr/current").out()), label(&own));
    });
}

#[test]
#[ignore = "runs in a Debian"]
fn the_label_confines() {
    test(|s| {
        let secret = ["context=system_u:object_r:secret_t:s0", "mode=755"];
        let script = "echo word > /mnt/file; cat /mnt/file && echo READ; echo open > /dev/shm/file; cat /dev/shm/file";
        let run = labelled(s, script).without("/linux/mountLabel").mount("tmpfs", "tmpfs", "/mnt", &secret).run();
        assert!(run.out == "open\n" && run.err.contains("ermission denied"), "{run:?}");
        let bundle = s.sh(script).mount("tmpfs", "tmpfs", "/mnt", &secret);
        assert_eq!(bundle.out(), "word\nREAD\nopen");
    });
}

#[test]
#[ignore = "runs in a Debian"]
fn another_process_has_the_label_too() {
    test(|s| {
        let container = labelled(s, "sleep 60").start();
        let text = container.exec(&["cat", "/proc/self/attr/current"]).expect(0).out;
        assert_eq!(label(&text), PROCESS);
        let text = container.exec_with(&["--process-label", OTHER], &["cat", "/proc/self/attr/current"]).expect(0).out;
        assert_eq!(label(&text), OTHER);
        container.exec_with(&["--process-label", "nonsense"], &["echo", "RAN"]).fails();
        assert_eq!(container.status(), "running");
    });
}

#[test]
#[ignore = "runs in a Debian"]
fn mounts_have_the_label() {
    test(|s| {
        install(s, "stat");
        let script = "/usr/bin/stat -c %C /dev/mqueue; grep -E ' (/dev|/dev/shm|/dev/pts|/mnt) ' /proc/mounts";
        let text = labelled(s, script).mount("tmpfs", "tmpfs", "/mnt", &["size=1m"]).out();
        // message queues are older than their mount, and are labelled afterwards
        let text = text.strip_prefix(&format!("{FILES}\n")).unwrap_or_else(|| panic!("{text}"));
        assert_eq!(text.lines().count(), 4, "{text}");
        for line in text.lines() {
            assert!(
                line.contains(&format!("context=\"{FILES}\"")) || line.contains(&format!("context={FILES}")),
                "{line}"
            );
        }
    });
}

#[test]
#[ignore = "runs in a Debian"]
fn the_session_keyring_has_the_processs_label() {
    test(|s| {
        install(s, "keyctl");
        let bundle = labelled(s, "keyctl security @s; keyctl add user word secret @s > /dev/null && echo added");
        let text = bundle.out();
        assert_eq!(text.lines().map(label).collect::<Vec<_>>(), [PROCESS, "added"]);
    });
}

#[test]
#[ignore = "runs in a Debian"]
fn labels_that_the_policy_does_not_know_or_allow_are_refused() {
    test(|s| {
        for bad in
            ["nonsense", "system_u:system_r:unknown_t:s0", "system_u:system_r:forbidden_t:s0", &format!("{PROCESS}9")]
        {
            let run = s.bundle().set("/process/selinuxLabel", json!(bad)).refused();
            println!("{bad}: {}", run.err.trim());
        }
        for bad in ["nonsense", "system_u:object_r:unknown_t:s0"] {
            s.bundle().set("/linux/mountLabel", json!(bad)).refused();
        }
    });
}

#[test]
#[ignore = "runs in a Debian"]
fn an_apparmor_profile_is_refused_here() {
    test(|s| {
        s.bundle().set("/process/apparmorProfile", json!("insula-test")).refused();
        assert_eq!(s.sh("echo RAN").set("/process/apparmorProfile", json!("unconfined")).out(), "RAN");
    });
}
