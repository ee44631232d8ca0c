//! `events`: counters and notifications.

use std::process::{Child, Stdio};

use serde_json::json;

use crate::subject::{SOON, end_of, test};

/// Waits until something is seen, or the command has ended, and gives whether it was seen.
fn await_or_end(child: &mut Child, seen: impl Fn() -> bool) -> bool {
    let _ = testkit::wait_for(SOON, || (seen() || child.try_wait().unwrap().is_some()).then_some(()));
    seen()
}

#[test]
fn counters_are_printed_once() {
    test(|s| {
        let container = s.sh("sleep 60").set("/linux/resources/pids", json!({ "limit": 20 })).start();
        let event = container.call("events", &["--stats"]).expect(0).json();
        assert_eq!((&event["type"], &event["id"]), (&json!("stats"), &json!(container.id)));
        let data = &event["data"];
        assert!(data["cpu"]["usage"]["total"].as_u64().unwrap() > 0, "{event}");
        assert!(data["memory"]["usage"]["usage"].as_u64().unwrap() > 0, "{event}");
        assert!(data["memory"]["usage"]["limit"].as_u64().unwrap() > 0, "{event}");
        assert!(data["memory"]["raw"].is_object(), "{event}");
        assert_eq!(data["pids"]["limit"], 20, "{event}");
        assert!(data["pids"]["current"].as_u64().unwrap() >= 1, "{event}");
        assert!(data["blkio"].is_object(), "{event}");
    });
}

#[test]
fn counters_are_printed_again_and_again_until_the_end() {
    test(|s| {
        let container = s.sh("sleep 60").start();
        let words = ["events", "--interval", "100ms", &container.id];
        let (out, err, mut child) = s.begin(&mut s.command(&words), Stdio::null());
        let lines = || std::fs::read_to_string(&out).unwrap().lines().count();
        let seen = await_or_end(&mut child, || lines() >= 2);
        container.call("delete", &["--force"]).expect(0);
        let code = end_of(&mut child);
        assert!(seen, "{}", std::fs::read_to_string(err).unwrap());
        assert_eq!(code, 0);
    });
}

#[test]
fn the_end_of_memory_is_told() {
    test(|s| {
        if !crate::machine::has_controller_or_skip("memory") {
            return;
        }
        let script =
            "while [ ! -e /etc/go ]; do sleep 0.02; done; dd if=/dev/zero of=/dev/null bs=200M count=1; sleep 60";
        let container =
            s.sh(script).set("/linux/resources/memory", json!({ "limit": 32 << 20, "swap": 32 << 20 })).start();
        let words = ["events", "--interval", "100ms", &container.id];
        let (out, err, mut child) = s.begin(&mut s.command(&words), Stdio::null());
        let text = || std::fs::read_to_string(&out).unwrap();
        let first = await_or_end(&mut child, || text().contains("stats"));
        std::fs::write(s.rootfs().join("etc/go"), "").unwrap();
        let told = await_or_end(&mut child, || text().contains("\"oom\""));
        container.call("delete", &["--force"]).expect(0);
        end_of(&mut child);
        assert!(first, "{}", std::fs::read_to_string(err).unwrap());
        assert!(told, "{}", text());
    });
}

#[test]
fn counters_of_a_stopped_or_unknown_container_are_refused() {
    test(|s| {
        let container = s.sh("true").start();
        container.await_status("stopped");
        container.call("events", &["--stats"]).fails();
        s.call(&["events", "--stats", "nobody"]).fails();
    });
}
