//! AppArmor: profiles are taken on, by the first process and by every other.
//!
//! # Source
//! runtime-spec `config.md`, `process.apparmorProfile`; apparmor.d(5). The profiles are in `profiles`, and loaded when these
//! tests begin.

use serde_json::json;

use crate::bundle::Bundle;
use crate::subject::{Subject, test};

/// Tells the profile, then tries what it forbids.
const SCRIPT: &str =
    "cat /proc/self/attr/current; cat /etc/passwd | wc -l; cat /etc/word; echo x > /etc/new; ls /etc/new";

fn confined<'a>(s: &'a Subject, script: &str) -> Bundle<'a> {
    s.sh(script).set("/process/apparmorProfile", json!("insula-test"))
}

#[test]
#[ignore = "runs in a Debian"]
fn the_first_process_is_confined() {
    test(|s| {
        let run = confined(s, SCRIPT).run();
        assert_eq!(run.out, "insula-test (enforce)\n2\n", "{run:?}");
        assert_eq!(run.err.matches("ermission denied").count(), 2, "{run:?}");
        // as any user, with and without the flag that forbids gaining rights
        let bundle = confined(s, SCRIPT).set("/process/noNewPrivileges", json!(false));
        let run = bundle.set("/process/user", json!({ "uid": 1000, "gid": 1000 })).run();
        assert!(run.out.starts_with("insula-test (enforce)\n2\n") && !run.out.contains("word"), "{run:?}");
    });
}

#[test]
#[ignore = "runs in a Debian"]
fn another_process_is_confined_too() {
    test(|s| {
        let container = confined(s, "sleep 60").start();
        let run = container.exec(&["sh", "-c", SCRIPT]);
        assert!(run.out.starts_with("insula-test (enforce)\n2\n") && !run.out.contains("word"), "{run:?}");
        let run = container.exec_with(&["--apparmor", "insula-other"], &["sh", "-c", SCRIPT]);
        assert!(run.out.starts_with("insula-other (enforce)\n") && run.out.contains("word"), "{run:?}");
        container.exec_with(&["--apparmor", "insula-none"], &["echo", "RAN"]).fails();
        assert_eq!(container.status(), "running");
    });
}

#[test]
#[ignore = "runs in a Debian"]
fn a_profile_of_a_process_file_is_taken_on() {
    test(|s| {
        let container = s.sh("sleep 60").start();
        let text = container.exec(&["cat", "/proc/self/attr/current"]).expect(0).text().to_owned();
        assert_eq!(text, "unconfined");
        let process = json!({
            "args": ["sh", "-c", SCRIPT], "cwd": "/", "env": ["PATH=/bin"], "user": { "uid": 0, "gid": 0 },
            "apparmorProfile": "insula-test"
        });
        let file = s.island.file("process.json", &process.to_string()).display().to_string();
        let run = s.call(&["exec", "--process", &file, &container.id]);
        assert!(run.out.starts_with("insula-test (enforce)\n2\n") && !run.out.contains("word"), "{run:?}");
    });
}

#[test]
#[ignore = "runs in a Debian"]
fn a_profile_that_does_not_exist_is_refused() {
    test(|s| {
        let run = s.bundle().set("/process/apparmorProfile", json!("insula-none")).refused();
        assert!(run.err.to_lowercase().contains("apparmor"), "{run:?}");
    });
}

#[test]
#[ignore = "runs in a Debian"]
fn no_profile_and_unconfined_are_no_confinement() {
    test(|s| {
        assert_eq!(s.sh("cat /proc/self/attr/current").out(), "unconfined");
        let bundle = s.sh("cat /proc/self/attr/current").set("/process/apparmorProfile", json!("unconfined"));
        assert_eq!(bundle.out(), "unconfined");
        assert_eq!(bundle.set("/process/apparmorProfile", json!("")).out(), "unconfined");
    });
}

#[test]
#[ignore = "runs in a Debian"]
fn a_selinux_label_is_refused_here() {
    test(|s| {
        let label = json!("system_u:system_r:container_t:s0");
        s.bundle().set("/process/selinuxLabel", label).refused();
    });
}
