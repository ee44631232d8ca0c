//! Resources: set, read back, changed, and felt.

use serde_json::{Value, json};

use super::disk;
use crate::container::Container;
use crate::subject::{Subject, test};

fn limited<'a>(s: &'a Subject, resources: &Value) -> Container<'a> {
    let mut bundle = s.sh("sleep 60");
    for (name, value) in resources.as_object().unwrap() {
        bundle = bundle.set(&format!("/linux/resources/{name}"), value.clone());
    }
    bundle.start()
}

#[track_caller]
fn expect(container: &Container, table: &[(&str, &str)]) {
    for (file, value) in table {
        assert_eq!(container.limit("", file), *value, "{file}");
    }
}

#[test]
#[ignore = "runs in the guest"]
fn processor_memory_and_processes() {
    test(|s| {
        let resources = json!({
            "memory": { "limit": 64 << 20, "swap": 64 << 20, "reservation": 32 << 20 },
            "cpu": { "shares": 512, "quota": 25_000, "period": 50_000, "burst": 10_000, "cpus": "0", "mems": "0" },
            "pids": { "limit": 20 }
        });
        let container = limited(s, &resources);
        let weight = container.limit("", "cpu.weight");
        // the curve of runtime-spec 1.3, or the line before it
        assert!(["59", "20"].contains(&&*weight), "{weight}");
        expect(
            &container,
            &[
                ("memory.max", "67108864"),
                ("memory.low", "33554432"),
                ("cpu.max", "25000 50000"),
                ("cpu.max.burst", "10000"),
                ("cpuset.cpus", "0"),
                ("cpuset.mems", "0"),
                ("pids.max", "20"),
            ],
        );
    });
}

#[test]
#[ignore = "runs in the guest"]
fn no_limit_is_max() {
    test(|s| {
        let resources = json!({ "memory": { "limit": -1 }, "pids": { "limit": -1 }, "cpu": { "quota": -1 } });
        let container = limited(s, &resources);
        expect(&container, &[("memory.max", "max"), ("pids.max", "max"), ("cpu.max", "max 100000")]);
    });
}

#[test]
#[ignore = "runs in the guest"]
fn an_idle_group() {
    test(|s| {
        let container = limited(s, &json!({ "cpu": { "idle": 1 } }));
        expect(&container, &[("cpu.idle", "1")]);
    });
}

#[test]
#[ignore = "runs in the guest"]
fn devices_are_throttled() {
    test(|s| {
        let (major, minor) = disk(s);
        let rate = |rate: u64| json!([{ "major": major, "minor": minor, "rate": rate }]);
        let resources = json!({ "blockIO": {
            "throttleReadBpsDevice": rate(1 << 20),
            "throttleWriteBpsDevice": rate(2 << 20),
            "throttleReadIOPSDevice": rate(100),
            "throttleWriteIOPSDevice": rate(200)
        } });
        let container = limited(s, &resources);
        let value = format!("{major}:{minor} rbps=1048576 wbps=2097152 riops=100 wiops=200");
        expect(&container, &[("io.max", &value)]);
        let changed = json!({ "blockIO": { "throttleReadBpsDevice": rate(0) } });
        let file = s.island.file("changed.json", &changed.to_string()).display().to_string();
        container.call("update", &["--resources", &file]).expect(0);
        expect(&container, &[("io.max", &value.replace("rbps=1048576", "rbps=max"))]);
    });
}

#[test]
#[ignore = "runs in the guest"]
fn huge_pages_and_files_by_name() {
    test(|s| {
        let resources = json!({
            "hugepageLimits": [{ "pageSize": "2MB", "limit": 4 << 20 }],
            "unified": {
                "memory.high": "50331648",
                "cpu.weight": "77",
                "memory.oom.group": "1",
                "cgroup.max.descendants": "7"
            }
        });
        let container = limited(s, &resources);
        let table = [
            ("hugetlb.2MB.max", "4194304"),
            ("memory.high", "50331648"),
            ("cpu.weight", "77"),
            ("memory.oom.group", "1"),
            ("cgroup.max.descendants", "7"),
        ];
        expect(&container, &table);
    });
}

#[test]
#[ignore = "runs in the guest"]
fn what_can_not_be_is_refused() {
    test(|s| {
        let bad = [
            json!({ "unified": { "memory.nonsense": "1" } }),
            json!({ "unified": { "../memory.max": "1" } }),
            json!({ "unified": { "memory.max": "much" } }),
            json!({ "cpu": { "cpus": "4000" } }),
            json!({ "cpu": { "quota": 10 } }),
            json!({ "memory": { "limit": 64 << 20, "swap": 32 << 20 } }),
            json!({ "hugepageLimits": [{ "pageSize": "3MB", "limit": 1 }] }),
            json!({ "rdma": { "mlx5_0": { "hcaHandles": 1 } } }),
        ];
        for resources in bad {
            let (name, value) = resources.as_object().unwrap().iter().next().unwrap();
            s.bundle().set(&format!("/linux/resources/{name}"), value.clone()).refused();
        }
    });
}

#[test]
#[ignore = "runs in the guest"]
fn update_sets_what_is_named() {
    test(|s| {
        let container = limited(s, &json!({ "memory": { "limit": 64 << 20 }, "pids": { "limit": 40 } }));
        let table = [
            (&["--memory", "50331648"][..], "memory.max", "50331648"),
            (&["--memory-reservation", "33554432"], "memory.low", "33554432"),
            (&["--cpu-share", "1024"], "cpu.weight", "100"),
            (&["--cpu-period", "50000", "--cpu-quota", "25000"], "cpu.max", "25000 50000"),
            (&["--cpu-quota", "30000"], "cpu.max", "30000 50000"),
            (&["--cpu-period", "60000"], "cpu.max", "30000 60000"),
            (&["--cpu-quota", "-1"], "cpu.max", "max 60000"),
            (&["--cpuset-cpus", "0"], "cpuset.cpus", "0"),
            (&["--pids-limit", "30"], "pids.max", "30"),
            (&["--pids-limit=-1"], "pids.max", "max"),
        ];
        for (flags, file, value) in table {
            container.call("update", flags).expect(0);
            assert_eq!(container.limit("", file), value, "{flags:?}");
        }
        // the rest is as it was
        expect(&container, &[("memory.max", "50331648"), ("memory.low", "33554432")]);
        container.call("update", &["--cpuset-cpus", "4000"]).fails();
        assert_eq!(container.status(), "running");
    });
}

#[test]
#[ignore = "runs in the guest"]
fn too_much_memory_ends_the_program() {
    test(|s| {
        let bundle = s.sh("exec dd if=/dev/zero of=/dev/null bs=200M count=1");
        let run = bundle.set("/linux/resources/memory", json!({ "limit": 32 << 20 })).run();
        assert_eq!(run.code, 137, "{run:?}");
    });
}

#[test]
#[ignore = "runs in the guest"]
fn too_many_processes_can_not_be() {
    test(|s| {
        let bundle = s.sh("for i in 1 2 3 4 5 6 7 8; do sleep 5 & done; echo all");
        let run = bundle.set("/linux/resources/pids", json!({ "limit": 5 })).run();
        assert!(run.err.contains("fork"), "{run:?}");
    });
}
