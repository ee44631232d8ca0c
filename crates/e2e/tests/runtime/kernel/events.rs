//! `events`: counters and notifications.

use std::process::Stdio;

use serde_json::json;

use crate::subject::{end_of, test};

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
        let seen = testkit::wait_for(crate::subject::SOON, || (lines() >= 2).then_some(()));
        container.call("delete", &["--force"]).expect(0);
        let code = end_of(&mut child);
        assert!(seen.is_some(), "{}", std::fs::read_to_string(err).unwrap());
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
        let first = testkit::wait_for(crate::subject::SOON, || text().contains("stats").then_some(()));
        std::fs::write(s.rootfs().join("etc/go"), "").unwrap();
        let told = testkit::wait_for(crate::subject::SOON, || text().contains("\"oom\"").then_some(()));
        container.call("delete", &["--force"]).expect(0);
        end_of(&mut child);
        assert!(first.is_some(), "{}", std::fs::read_to_string(err).unwrap());
        assert!(told.is_some(), "{}", text());
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
