use super::*;
use serde_json::json;

/// A configuration that is right, changed at one place.
fn changed(pointer: &str, value: Value) -> Value {
    let mut config = json!({
        "ociVersion": "1.2.0", "root": {"path": "rootfs"}, "hostname": "isle",
        "process": {"user": {"uid": 0, "gid": 0}, "args": ["true"], "cwd": "/", "env": ["PATH=/bin"], "capabilities": {}},
        "mounts": [],
        "linux": {"namespaces": [
            {"type": "pid"}, {"type": "mount"}, {"type": "uts"}, {"type": "ipc"}, {"type": "network"}, {"type": "cgroup"},
        ]},
    });
    let (parent, name) = pointer.rsplit_once('/').unwrap();
    config.pointer_mut(parent).unwrap().as_object_mut().unwrap().insert(name.into(), value);
    config
}

fn parse(text: &str) -> (Box<Spec>, Vec<String>) {
    match serde_json::from_str(text) {
        Ok(spec) => (Box::new(spec), Vec::new()),
        Err(_) => lenient(text.as_bytes()).unwrap(),
    }
}

/// What is said of it; empty where it is right.
fn said(pointer: &str, value: Value) -> String {
    let text = changed(pointer, value).to_string();
    match check(&parse(&text).0) {
        Ok(()) => String::new(),
        Err(error) => error.message,
    }
}

#[test]
fn each_class_of_bad_input_is_refused_by_the_name_of_its_field() {
    let spaces = |all: Value| said("/linux/namespaces", all);
    assert!(spaces(json!([{"type": "pid"}, {"type": "pid"}])).starts_with("linux.namespaces"));
    assert!(spaces(json!([{"type": "pid"}, {"type": "mount"}])).starts_with("hostname"));
    assert!(spaces(json!([{"type": "uts"}, {"type": "user"}])).starts_with("linux.uidMappings"));
    let wrong: &[(&str, Value, &str)] = &[
        ("/process/args", json!([]), "process.args"),
        ("/process/cwd", json!("tmp"), "process.cwd"),
        ("/process/env", json!(["A"]), "process.env"),
        ("/process/oomScoreAdj", json!(1001), "process.oomScoreAdj"),
        ("/process/ioPriority", json!({"class": "IOPRIO_CLASS_BE", "priority": 8}), "process.ioPriority"),
        ("/process/scheduler", json!({"policy": "SCHED_OTHER", "nice": 20}), "process.scheduler"),
        ("/process/scheduler", json!({"policy": "SCHED_OTHER", "priority": 1}), "process.scheduler"),
        ("/process/scheduler", json!({"policy": "SCHED_FIFO", "deadline": 1}), "process.scheduler"),
        ("/process/rlimits", json!([{"type": "RLIMIT_CPU", "soft": 2, "hard": 1}]), "process.rlimits"),
        ("/process/selinuxLabel", json!("system_u:object_r:x_t:s0"), "process.selinuxLabel"),
        ("/linux/rootfsPropagation", json!("sideways"), "linux.rootfsPropagation"),
        ("/linux/uidMappings", json!([{"containerID": 0, "hostID": 1, "size": 1}]), "linux.uidMappings"),
        ("/linux/timeOffsets", json!({"monotonic": {"secs": 1}}), "linux.timeOffsets"),
        ("/linux/sysctl", json!({"kernel.panic": "1"}), "linux.sysctl"),
        ("/linux/sysctl", json!({"kernel.hostname": "a"}), "linux.sysctl"),
        ("/linux/devices", json!([{"path": "dev/x", "type": "c", "major": 1, "minor": 1}]), "linux.devices"),
        ("/linux/devices", json!([{"path": "/dev/x", "type": "c", "major": -1, "minor": 1}]), "linux.devices"),
        ("/linux/memoryPolicy", json!({"mode": "MPOL_BIND"}), "linux.memoryPolicy"),
        ("/linux/memoryPolicy", json!({"mode": "MPOL_BIND", "nodes": "x"}), "linux.memoryPolicy"),
        ("/linux/netDevices", json!({"eth0": {"name": "a/b"}}), "linux.netDevices"),
        ("/linux/netDevices", json!({"a0": {"name": "b"}, "b": {}}), "linux.netDevices"),
        ("/linux/seccomp", json!({"defaultAction": "SCMP_ACT_NOTIFY"}), "linux.seccomp.defaultAction"),
        ("/mounts", json!([{"destination": "", "type": "tmpfs"}]), "mounts[0].destination"),
    ];
    for (pointer, value, field) in wrong {
        let text = said(pointer, value.clone());
        assert!(text.starts_with(field), "{pointer} {value}: {text:?}");
    }
    let twice = json!([
        {"type": "RLIMIT_CPU", "soft": 1, "hard": 1}, {"type": "RLIMIT_CPU", "soft": 1, "hard": 1},
    ]);
    assert!(said("/process/rlimits", twice).contains("RLIMIT_CPU is there twice"));
}

#[test]
fn what_is_right_is_let_through() {
    assert_eq!(said("/hostname", json!("isle")), "");
    assert_eq!(said("/linux/sysctl", json!({"net.ipv4.ip_forward": "1", "kernel/shmmax": "65536"})), "");
    let deadline = json!({"policy": "SCHED_DEADLINE", "runtime": 1, "deadline": 2, "period": 3, "flags": ["SCHED_FLAG_DL_OVERRUN"]});
    assert_eq!(said("/process/scheduler", deadline), "");
}

#[test]
fn what_other_runtimes_read_is_read() {
    let nothing = json!([{"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": null}]);
    let text =
        changed("/linux/seccomp", json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": nothing, "flags": null}));
    assert_eq!(check(&parse(&text.to_string()).0), Ok(()));
    let sets = json!({"bounding": ["CAP_KILL", "CAP_FLYING"], "effective": ["CAP_FLYING"], "ambient": null});
    let (spec, warnings) = parse(&changed("/process/capabilities", sets).to_string());
    assert_eq!(warnings, ["ignoring unknown or unavailable capability \"CAP_FLYING\""]);
    let sets = spec.process().as_ref().unwrap().capabilities().as_ref().unwrap();
    assert_eq!(sets.bounding().as_ref().map(std::collections::HashSet::len), Some(1));
    assert!(lenient(b"{\"ociVersion\": 1}").is_none());
}
