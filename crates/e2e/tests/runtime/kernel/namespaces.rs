//! config-linux.md: namespaces, mappings of ids, offsets of clocks, network devices.

use std::path::PathBuf;
use std::process::Command;

use serde_json::json;

use crate::machine::{has_or_skip, program_or_skip};
use crate::subject::{Subject, test};

/// A namespace of this test's thread.
fn own(kind: &str) -> PathBuf {
    std::fs::read_link(format!("/proc/thread-self/ns/{kind}")).unwrap()
}

/// A namespace as the container sees it.
fn seen(s: &Subject, kind: &str, change: fn(crate::bundle::Bundle<'_>) -> crate::bundle::Bundle<'_>) -> String {
    change(s.bundle().args(&["readlink", &format!("/proc/self/ns/{kind}")])).out()
}

#[test]
fn each_namespace_that_is_listed_is_new() {
    test(|s| {
        for kind in ["pid", "net", "ipc", "uts", "mnt"] {
            let found = seen(s, kind, |bundle| bundle);
            assert_ne!(PathBuf::from(&found), own(kind), "{kind}");
            assert!(found.starts_with(&format!("{kind}:[")), "{found}");
        }
        assert_ne!(PathBuf::from(seen(s, "cgroup", |bundle| bundle.namespace("cgroup"))), own("cgroup"));
        assert_ne!(PathBuf::from(seen(s, "user", |bundle| bundle.user_namespace(100_000))), own("user"));
    });
}

#[test]
fn a_namespace_that_is_not_listed_is_the_callers() {
    test(|s| {
        assert_eq!(PathBuf::from(seen(s, "pid", |bundle| bundle.no_namespace("pid"))), own("pid"));
        assert_eq!(PathBuf::from(seen(s, "net", |bundle| bundle.no_namespace("network"))), own("net"));
        assert_eq!(
            PathBuf::from(seen(s, "ipc", |bundle| bundle.no_namespace("ipc").no_mount("/dev/mqueue"))),
            own("ipc")
        );
        let uts = |bundle: crate::bundle::Bundle<'_>| -> PathBuf {
            bundle.no_namespace("uts").without("/hostname").args(&["readlink", "/proc/self/ns/uts"]).out().into()
        };
        assert_eq!(uts(s.bundle()), own("uts"));
        assert_eq!(PathBuf::from(seen(s, "cgroup", |bundle| bundle)), own("cgroup"));
        assert_eq!(PathBuf::from(seen(s, "user", |bundle| bundle)), own("user"));
    });
}

#[test]
fn a_namespace_by_path_is_joined() {
    test(|s| {
        let first = s.sh("sleep 60").namespace("cgroup").start();
        for (index, (kind, file)) in
            [("pid", "pid"), ("network", "net"), ("ipc", "ipc"), ("uts", "uts"), ("cgroup", "cgroup")]
                .iter()
                .enumerate()
        {
            let path = format!("/proc/{}/ns/{file}", first.pid());
            let bundle = s.bundle().namespace("cgroup").args(&["readlink", &format!("/proc/self/ns/{file}")]);
            let bundle = if *kind == "uts" { bundle.without("/hostname") } else { bundle };
            // The cgroup namespace comes after the mount namespace, which can't be joined.
            let number = if *kind == "cgroup" { 5 } else { index };
            let bundle = bundle.set(&format!("/linux/namespaces/{number}"), json!({ "type": kind, "path": path }));
            assert_eq!(PathBuf::from(bundle.out()), std::fs::read_link(&path).unwrap(), "{kind}");
        }
    });
}

#[test]
fn a_user_namespace_by_path_is_joined() {
    test(|s| {
        let first = s.sh("sleep 60").user_namespace(100_000).start();
        let path = format!("/proc/{}/ns/user", first.pid());
        let bundle = s.bundle().args(&["cat", "/proc/self/uid_map"]);
        let out = bundle.push("/linux/namespaces", json!({ "type": "user", "path": path })).out();
        assert_eq!(out.split_whitespace().collect::<Vec<_>>(), ["0", "100000", "65536"]);
    });
}

#[test]
fn a_path_that_is_no_namespace_or_of_another_kind_is_refused() {
    test(|s| {
        for path in ["/nonexistent/ns", "/proc/self/status", "/proc/self/ns/uts", "/"] {
            s.bundle().set("/linux/namespaces/1", json!({ "type": "network", "path": path })).refused();
        }
    });
}

#[test]
fn a_namespace_twice_is_refused() {
    test(|s| {
        s.bundle().namespace("network").refused();
    });
}

#[test]
fn a_namespace_of_an_unknown_kind_is_refused() {
    test(|s| {
        s.bundle().namespace("nonsense").refused();
        s.bundle().push("/linux/namespaces", json!({ "path": "/proc/self/ns/net" })).refused();
    });
}

#[test]
fn the_first_process_has_number_one_and_sees_no_others() {
    test(|s| {
        assert_eq!(s.sh("echo $$; ls /proc | grep -c '^[0-9]*$' | cat").out().lines().next(), Some("1"));
        assert_eq!(s.sh("for p in /proc/[0-9]*; do echo ${p#/proc/}; done").out(), "1");
    });
}

#[test]
fn a_new_network_has_only_the_loop_and_it_is_up() {
    test(|s| {
        let out = s.sh("ls /sys/class/net; cat /sys/class/net/lo/flags").out();
        let lines: Vec<&str> = out.lines().collect();
        assert!(lines.contains(&"lo"), "{out}");
        let flags = u32::from_str_radix(lines.last().unwrap().trim_start_matches("0x"), 16).unwrap();
        assert_eq!(flags & 1, 1, "the loop is down: {out}");
    });
}

#[test]
fn ids_are_mapped() {
    test(|s| {
        let bundle = s.bundle().set(
            "/linux/uidMappings",
            json!([
                { "containerID": 0, "hostID": 100_000, "size": 1000 },
                { "containerID": 2000, "hostID": 300_000, "size": 10 }
            ]),
        );
        let bundle = bundle.set("/linux/gidMappings", json!([{ "containerID": 0, "hostID": 200_000, "size": 1000 }]));
        let out = bundle.namespace("user").sh("cat /proc/self/uid_map /proc/self/gid_map; id -u; id -g").out();
        let words: Vec<&str> = out.split_whitespace().collect();
        assert_eq!(words, ["0", "100000", "1000", "2000", "300000", "10", "0", "200000", "1000", "0", "0"]);
    });
}

#[test]
fn files_that_are_made_belong_to_the_mapped_ids() {
    test(|s| {
        use std::os::unix::fs::MetadataExt as _;
        s.sh("echo x > /tmp/mine").user_namespace(100_000).out();
        let meta = std::fs::metadata(s.rootfs().join("tmp/mine")).unwrap();
        assert_eq!((meta.uid(), meta.gid()), (100_000, 100_000));
        let user =
            s.sh("echo x > /tmp/user").user_namespace(100_000).set("/process/user", json!({ "uid": 5, "gid": 6 }));
        user.out();
        let meta = std::fs::metadata(s.rootfs().join("tmp/user")).unwrap();
        assert_eq!((meta.uid(), meta.gid()), (100_005, 100_006));
    });
}

#[test]
fn devices_and_streams_work_in_a_user_namespace() {
    test(|s| {
        let script = "echo x > /dev/null && head -c3 /dev/zero | wc -c && ls -d /dev/pts/ptmx && echo err >&2";
        let run = s.sh(script).user_namespace(100_000).run().expect(0);
        assert_eq!((run.text(), run.err.trim()), ("3\n/dev/pts/ptmx", "err"));
    });
}

#[test]
fn a_user_that_is_not_mapped_is_refused() {
    test(|s| {
        let bundle = s.bundle().user_namespace(100_000);
        bundle.set("/process/user", json!({ "uid": 70_000, "gid": 0 })).refused();
    });
}

#[test]
fn mappings_without_a_user_namespace_are_refused_or_without_effect() {
    test(|s| {
        let map = json!([{ "containerID": 0, "hostID": 100_000, "size": 10 }]);
        let bundle =
            s.sh("cat /proc/self/uid_map").set("/linux/uidMappings", map.clone()).set("/linux/gidMappings", map);
        let run = bundle.run();
        let own = std::fs::read_to_string("/proc/self/uid_map").unwrap();
        assert!(run.code != 0 || run.text().split_whitespace().eq(own.split_whitespace()), "{run:?}");
    });
}

#[test]
fn a_user_namespace_without_mappings_is_refused() {
    test(|s| {
        s.bundle().namespace("user").refused();
    });
}

#[test]
fn mappings_that_overlap_are_refused() {
    test(|s| {
        let map = json!([{ "containerID": 0, "hostID": 100_000, "size": 10 }, { "containerID": 5, "hostID": 200_000, "size": 10 }]);
        let bundle = s.bundle().namespace("user").set("/linux/uidMappings", map.clone()).set("/linux/gidMappings", map);
        bundle.refused();
    });
}

#[test]
fn the_clocks_of_a_time_namespace_are_moved() {
    test(|s| {
        if !has_or_skip("/proc/self/ns/time") {
            return;
        }
        let offsets = json!({ "monotonic": { "secs": 7 }, "boottime": { "secs": 1_000_000, "nanosecs": 5 } });
        let bundle = s.sh("cat /proc/self/timens_offsets; cut -d. -f1 /proc/uptime").namespace("time");
        let out = bundle.set("/linux/timeOffsets", offsets).out();
        let words: Vec<&str> = out.split_whitespace().collect();
        assert_eq!(words[..6], ["monotonic", "7", "0", "boottime", "1000000", "5"]);
        assert!(words[6].parse::<u64>().unwrap() > 1_000_000, "{out}");
    });
}

#[test]
fn offsets_without_a_time_namespace_are_refused() {
    test(|s| {
        s.bundle().set("/linux/timeOffsets", json!({ "boottime": { "secs": 1 } })).refused();
    });
}

#[test]
fn an_offset_of_an_unknown_clock_is_refused() {
    test(|s| {
        let offsets = json!({ "nonsense": { "secs": 1 } });
        s.bundle().namespace("time").set("/linux/timeOffsets", offsets).refused();
    });
}

#[test]
fn an_exec_is_in_all_the_containers_namespaces() {
    test(|s| {
        let bundle = s.sh("sleep 60").namespace("cgroup").user_namespace(100_000);
        let container = bundle.start();
        for kind in ["pid", "net", "ipc", "uts", "mnt", "cgroup", "user"] {
            let out = container.exec(&["readlink", &format!("/proc/self/ns/{kind}")]).expect(0);
            let its = std::fs::read_link(format!("/proc/{}/ns/{kind}", container.pid())).unwrap();
            assert_eq!(PathBuf::from(out.text()), its, "{kind}");
        }
    });
}

#[test]
fn a_network_device_is_moved_into_the_container_and_renamed() {
    test(|s| {
        let Some(ip) = program_or_skip("ip") else { return };
        let name = format!("cf{}", std::process::id() % 1_000_000);
        let call = |words: &[&str]| s.finish(Command::new(&ip).args(words));
        // A bridge could not leave its namespace.
        let tap = ["tuntap", "add", "dev", &name, "mode", "tap"];
        let made = ["dummy", "veth"].iter().any(|kind| call(&["link", "add", &name, "type", kind]).code == 0)
            || call(&tap).code == 0;
        if !made {
            return println!("skipped: this kernel makes no network device");
        }
        call(&["addr", "add", "192.0.2.7/24", "dev", &name]).expect(0);
        let bundle = s.sh("ip -o addr show dev inner; ls /sys/class/net | sort | tr '\\n' ' '");
        let run = bundle.set(&format!("/linux/netDevices/{name}"), json!({ "name": "inner" })).run();
        // It ends with the container's namespace; if it was not moved, it goes here.
        let stayed = call(&["link", "del", &name]).code == 0;
        let run = run.expect(0);
        assert!(!stayed, "the device was not moved: {}", run.out);
        assert!(run.out.contains("inner") && run.out.contains("192.0.2.7/24"), "{}", run.out);
    });
}

#[test]
fn a_network_device_that_does_not_exist_or_has_no_namespace_to_go_to_is_refused() {
    test(|s| {
        s.bundle().set("/linux/netDevices/nonexistent0", json!({})).refused();
        s.bundle().no_namespace("network").set("/linux/netDevices/lo", json!({})).refused();
    });
}
