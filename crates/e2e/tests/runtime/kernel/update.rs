//! `update`: every flag, and the file.

use std::process::Stdio;

use serde_json::json;

use crate::machine::has_controller_or_skip;
use crate::subject::{end_of, test};

#[test]
fn each_flag_sets_its_value() {
    test(|s| {
        if !has_controller_or_skip("memory") || !has_controller_or_skip("cpu") || !has_controller_or_skip("cpuset") {
            return;
        }
        let resources = json!({ "limit": 64 << 20, "swap": 96 << 20 });
        let container = s.sh("sleep 60").set("/linux/resources/memory", resources).start();
        let table = [
            (&["--memory", "50331648"][..], "memory", "memory.limit_in_bytes", "50331648"),
            (&["--memory-reservation", "33554432"], "memory", "memory.soft_limit_in_bytes", "33554432"),
            (
                &["--memory", "67108864", "--memory-swap", "134217728"],
                "memory",
                "memory.memsw.limit_in_bytes",
                "134217728",
            ),
            (&["--cpu-share", "200"], "cpu", "cpu.shares", "200"),
            (&["--cpu-period", "50000"], "cpu", "cpu.cfs_period_us", "50000"),
            (&["--cpu-quota", "25000"], "cpu", "cpu.cfs_quota_us", "25000"),
            (&["--cpu-quota", "-1"], "cpu", "cpu.cfs_quota_us", "-1"),
            (&["--cpuset-cpus", "0"], "cpuset", "cpuset.cpus", "0"),
            (&["--cpuset-mems", "0"], "cpuset", "cpuset.mems", "0"),
            (&["--pids-limit", "30"], "pids", "pids.max", "30"),
            (&["--pids-limit=-1"], "pids", "pids.max", "max"),
        ];
        for (flags, controller, file, value) in table {
            container.call("update", flags).expect(0);
            assert_eq!(container.limit(controller, file), value, "{flags:?}");
        }
        assert_eq!(container.status(), "running");
    });
}

#[test]
fn what_is_not_named_stays() {
    test(|s| {
        if !has_controller_or_skip("memory") {
            return;
        }
        let bundle = s.sh("sleep 60").set("/linux/resources/memory", json!({ "limit": 64 << 20 }));
        let container = bundle.set("/linux/resources/pids", json!({ "limit": 40 })).start();
        container.call("update", &["--cpu-share", "300"]).expect(0);
        assert_eq!(container.limit("memory", "memory.limit_in_bytes"), "67108864");
        assert_eq!(container.limit("pids", "pids.max"), "40");
    });
}

#[test]
fn a_file_or_standard_input_says_all() {
    test(|s| {
        if !has_controller_or_skip("memory") {
            return;
        }
        let container = s.sh("sleep 60").start();
        let resources = json!({ "memory": { "limit": 48 << 20 }, "cpu": { "shares": 400 }, "pids": { "limit": 33 } });
        let file = s.island.file("resources.json", &resources.to_string()).display().to_string();
        container.call("update", &["--resources", &file]).expect(0);
        assert_eq!(container.limit("memory", "memory.limit_in_bytes"), "50331648");
        assert_eq!(container.limit("cpu", "cpu.shares"), "400");
        let text = s.island.file("other.json", &json!({ "cpu": { "shares": 500 } }).to_string());
        let words = ["update", "-r", "-", &container.id];
        let input = Stdio::from(std::fs::File::open(text).unwrap());
        let (_, err, mut child) = s.begin(&mut s.command(&words), input);
        let code = end_of(&mut child);
        assert_eq!(code, 0, "{}", std::fs::read_to_string(err).unwrap());
        assert_eq!(container.limit("cpu", "cpu.shares"), "500");
    });
}

#[test]
fn nonsense_is_refused_and_changes_nothing() {
    test(|s| {
        if !has_controller_or_skip("memory") {
            return;
        }
        let container = s.sh("sleep 60").set("/linux/resources/memory", json!({ "limit": 64 << 20 })).start();
        for flags in [
            &["--memory", "much"][..],
            &["--cpu-share", "x"],
            &["--cpuset-cpus", "4000"],
            &["--resources", "/nonexistent.json"],
            &["--cpu-period", "10"],
        ] {
            let run = container.call("update", flags);
            assert!(run.code > 0, "{flags:?} gave {run:?}");
        }
        let broken = s.island.file("broken.json", "{\"memory\":").display().to_string();
        container.call("update", &["--resources", &broken]).fails();
        assert_eq!(container.limit("memory", "memory.limit_in_bytes"), "67108864");
    });
}

#[test]
fn a_limit_below_the_use_is_refused() {
    test(|s| {
        if !has_controller_or_skip("memory") {
            return;
        }
        let script = "dd if=/dev/zero of=/dev/shm/x bs=1M count=16 2>/dev/null; echo x > /etc/ready; sleep 60";
        let container =
            s.sh(script).set("/linux/resources/memory", json!({ "limit": 64 << 20, "swap": 64 << 20 })).start();
        container.await_file(&s.rootfs().join("etc/ready"));
        container.call("update", &["--memory", "4194304"]).fails();
        assert_eq!(container.status(), "running");
    });
}

#[test]
fn an_update_of_a_stopped_container_is_refused() {
    test(|s| {
        let container = s.sh("true").start();
        container.await_status("stopped");
        container.call("update", &["--pids-limit", "10"]).fails();
    });
}
