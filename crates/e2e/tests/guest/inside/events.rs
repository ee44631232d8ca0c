//! `events`: counters, and the end of memory.

use std::process::Stdio;

use serde_json::json;

use crate::subject::{SOON, end_of, test};

#[test]
#[ignore = "runs in the guest"]
fn counters() {
    test(|s| {
        let bundle = s.sh("sleep 60").set("/linux/resources/pids", json!({ "limit": 20 }));
        let container = bundle.set("/linux/resources/memory", json!({ "limit": 64 << 20 })).start();
        let event = container.call("events", &["--stats"]).expect(0).json();
        let data = &event["data"];
        assert!(data["cpu"]["usage"]["total"].as_u64().unwrap() > 0, "{event}");
        assert!(data["memory"]["usage"]["usage"].as_u64().unwrap() > 0, "{event}");
        assert_eq!(data["memory"]["usage"]["limit"], 64 << 20, "{event}");
        assert_eq!((&data["pids"]["limit"], &data["pids"]["current"]), (&json!(20), &json!(1)), "{event}");
    });
}

#[test]
#[ignore = "runs in the guest"]
fn the_end_of_memory_is_told() {
    test(|s| {
        // the first process stays, so that there is somebody to tell of
        let script =
            "while [ ! -e /etc/go ]; do sleep 0.02; done; dd if=/dev/zero of=/dev/null bs=200M count=1; sleep 60";
        let container = s.sh(script).set("/linux/resources/memory", json!({ "limit": 32 << 20 })).start();
        let words = ["events", "--interval", "100ms", &container.id];
        let (out, err, mut child) = s.begin(&mut s.command(&words), Stdio::null());
        let text = || std::fs::read_to_string(&out).unwrap();
        let first = testkit::wait_for(SOON, || text().contains("stats").then_some(()));
        std::fs::write(s.rootfs().join("etc/go"), "").unwrap();
        let told = testkit::wait_for(SOON, || text().contains("\"oom\"").then_some(()));
        let kills = container.limit("", "memory.events");
        container.call("delete", &["--force"]).expect(0);
        assert_eq!(end_of(&mut child), 0);
        assert!(first.is_some(), "{}", std::fs::read_to_string(err).unwrap());
        assert!(told.is_some(), "{}", text());
        assert!(kills.contains("oom_kill 1"), "{kills}");
    });
}
