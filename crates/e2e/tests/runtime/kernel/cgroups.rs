//! config-linux.md: the control group's path, and every resource.

use std::fs;

use serde_json::{Value, json};

use crate::container::Container;
use crate::machine::{has_controller_or_skip, hierarchies, is_v1};
use crate::subject::{Subject, test};

/// A container that sleeps, with resources.
#[track_caller]
fn limited<'a>(s: &'a Subject, resources: Value) -> Container<'a> {
    let mut bundle = s.sh("sleep 60");
    for (name, value) in resources.as_object().unwrap() {
        bundle = bundle.set(&format!("/linux/resources/{name}"), value.clone());
    }
    bundle.create()
}

/// A number below a file of a group.
#[track_caller]
fn expect(container: &Container, controller: &str, table: &[(&str, &str)]) {
    for (file, value) in table {
        assert_eq!(container.limit(controller, file), *value, "{file}");
    }
}

#[test]
fn the_first_process_is_in_its_group_in_every_hierarchy() {
    test(|s| {
        let bundle = s.sh("sleep 60");
        let container = bundle.create();
        let text = fs::read_to_string(format!("/proc/{}/cgroup", container.pid())).unwrap();
        let placed = |line: &&str| line.ends_with(&bundle.group());
        // The list has the machine's second version too, which this test has taken away from the runtime.
        let other: Vec<&str> = text.lines().filter(|line| !placed(line) && !line.starts_with("0::")).collect();
        assert!(other.is_empty(), "not in {}: {other:?}", bundle.group());
        if !is_v1() {
            assert!(text.lines().any(|line| placed(&line)), "{text}");
        }
    });
}

#[test]
fn the_groups_are_gone_after_delete() {
    test(|s| {
        let bundle = s.sh("sleep 60");
        let container = bundle.start();
        let all = || hierarchies().into_iter().map(|folder| folder.join(bundle.group().trim_start_matches('/')));
        assert!(all().any(|group| group.exists()));
        container.call("delete", &["--force"]).expect(0);
        let left: Vec<_> = all().filter(|group| group.join("cgroup.procs").exists()).collect();
        assert!(left.is_empty(), "{left:?}");
    });
}

#[test]
fn the_groups_of_a_foreground_run_are_gone() {
    test(|s| {
        let bundle = s.sh("true");
        bundle.run().expect(0);
        let all = hierarchies().into_iter().map(|folder| folder.join(bundle.group().trim_start_matches('/')));
        let left: Vec<_> = all.filter(|group| group.join("cgroup.procs").exists()).collect();
        assert!(left.is_empty(), "{left:?}");
    });
}

#[test]
fn a_relative_path_is_taken_the_same_way_each_time() {
    test(|s| {
        let name = s.group.trim_start_matches('/').to_owned();
        let where_is = || {
            let bundle = s.sh("grep -E ':(pids|memory|cpu):|^0::' /proc/self/cgroup | grep conf | sort");
            bundle.set("/linux/cgroupsPath", json!(format!("{name}/relative"))).out()
        };
        let (first, second) = (where_is(), where_is());
        assert!(first.contains("relative"), "{first}");
        assert_eq!(first, second);
    });
}

#[test]
fn without_a_path_there_is_a_group_of_its_own() {
    test(|s| {
        let bundle = s.sh("sleep 60").without("/linux/cgroupsPath");
        let container = bundle.create();
        let own = fs::read_to_string("/proc/self/cgroup").unwrap();
        let its = fs::read_to_string(format!("/proc/{}/cgroup", container.pid())).unwrap();
        let pids = |text: &str| {
            text.lines().find(|line| line.contains(":pids:") || line.starts_with("0::")).map(str::to_owned)
        };
        if is_v1() {
            assert_ne!(pids(&own), pids(&its));
            assert!(its.contains(&container.id), "{its}");
        }
        container.call("delete", &["--force"]).expect(0);
    });
}

#[test]
fn a_path_does_not_lead_out_of_the_hierarchy() {
    test(|s| {
        let outside = format!("{}/../../../../../../../../../{}/x", s.group, s.group);
        let bundle = s.sh("cat /proc/self/cgroup").set("/linux/cgroupsPath", json!(outside));
        let run = bundle.run();
        assert!(run.code != 0 || !run.out.contains(".."), "{run:?}");
    });
}

#[test]
fn memory_is_limited() {
    test(|s| {
        if !has_controller_or_skip("memory") {
            return;
        }
        let container =
            limited(s, json!({ "memory": { "limit": 64 << 20, "reservation": 32 << 20, "swappiness": 40 } }));
        expect(
            &container,
            "memory",
            &[
                ("memory.limit_in_bytes", "67108864"),
                ("memory.soft_limit_in_bytes", "33554432"),
                ("memory.swappiness", "40"),
            ],
        );
    });
}

#[test]
fn memory_with_swap_is_limited() {
    test(|s| {
        if !has_controller_or_skip("memory") {
            return;
        }
        let container = limited(s, json!({ "memory": { "limit": 64 << 20, "swap": 96 << 20 } }));
        expect(
            &container,
            "memory",
            &[("memory.limit_in_bytes", "67108864"), ("memory.memsw.limit_in_bytes", "100663296")],
        );
        let unlimited = limited(s, json!({ "memory": { "limit": 64 << 20, "swap": -1 } }));
        assert!(unlimited.limit("memory", "memory.memsw.limit_in_bytes").len() > 15);
    });
}

#[test]
fn memory_without_a_limit_is_minus_one() {
    test(|s| {
        if !has_controller_or_skip("memory") {
            return;
        }
        let container = limited(s, json!({ "memory": { "limit": -1 } }));
        assert!(container.limit("memory", "memory.limit_in_bytes").len() > 15);
    });
}

#[test]
fn swap_below_the_limit_is_refused() {
    test(|s| {
        s.bundle().set("/linux/resources/memory", json!({ "limit": 64 << 20, "swap": 32 << 20 })).refused();
    });
}

#[test]
fn the_killer_can_be_switched_off() {
    test(|s| {
        if !has_controller_or_skip("memory") {
            return;
        }
        let on = limited(s, json!({ "memory": { "limit": 64 << 20, "disableOOMKiller": true } }));
        assert!(on.limit("memory", "memory.oom_control").contains("oom_kill_disable 1"));
        let off = limited(s, json!({ "memory": { "limit": 64 << 20, "disableOOMKiller": false } }));
        assert!(off.limit("memory", "memory.oom_control").contains("oom_kill_disable 0"));
    });
}

#[test]
fn a_limit_of_kernel_memory_is_set_or_passed_over() {
    test(|s| {
        if !has_controller_or_skip("memory") {
            return;
        }
        // Kernels since 5.16 have no such limit; the specification does not recommend it.
        let container = limited(s, json!({ "memory": { "kernelTCP": 8 << 20 } }));
        expect(&container, "memory", &[("memory.kmem.tcp.limit_in_bytes", "8388608")]);
    });
}

#[test]
fn memory_beyond_the_limit_ends_the_program() {
    test(|s| {
        let bundle = s.bundle().args(&["dd", "if=/dev/zero", "of=/dev/null", "bs=200M", "count=1"]);
        let run = bundle.set("/linux/resources/memory", json!({ "limit": 32 << 20, "swap": 32 << 20 })).run();
        assert_eq!(run.code, 137, "{run:?}");
    });
}

#[test]
fn a_limit_of_memory_that_is_too_small_is_refused_in_a_word() {
    test(|s| {
        if !has_controller_or_skip("memory") {
            return;
        }
        s.bundle().set("/linux/resources/memory", json!({ "limit": 4096 })).refused();
    });
}

#[test]
fn processor_time_is_shared_and_limited() {
    test(|s| {
        if !has_controller_or_skip("cpu") {
            return;
        }
        let container = limited(s, json!({ "cpu": { "shares": 512, "quota": 20_000, "period": 50_000 } }));
        expect(
            &container,
            "cpu",
            &[("cpu.shares", "512"), ("cpu.cfs_quota_us", "20000"), ("cpu.cfs_period_us", "50000")],
        );
        let free = limited(s, json!({ "cpu": { "quota": -1 } }));
        expect(&free, "cpu", &[("cpu.cfs_quota_us", "-1")]);
    });
}

#[test]
fn a_burst_of_processor_time_is_allowed() {
    test(|s| {
        if !has_controller_or_skip("cpu") {
            return;
        }
        let container = limited(s, json!({ "cpu": { "quota": 50_000, "period": 100_000, "burst": 20_000 } }));
        expect(&container, "cpu", &[("cpu.cfs_burst_us", "20000")]);
    });
}

#[test]
fn an_idle_group_is_idle() {
    test(|s| {
        if !has_controller_or_skip("cpu") {
            return;
        }
        let container = limited(s, json!({ "cpu": { "idle": 1 } }));
        expect(&container, "cpu", &[("cpu.idle", "1")]);
    });
}

#[test]
fn processor_values_that_the_kernel_refuses_are_refused() {
    test(|s| {
        s.bundle().set("/linux/resources/cpu", json!({ "period": 5_000_000, "quota": 1000 })).refused();
        s.bundle().set("/linux/resources/cpu", json!({ "period": 100_000, "quota": 10 })).refused();
    });
}

#[test]
fn processors_and_memory_nodes_are_chosen() {
    test(|s| {
        if !has_controller_or_skip("cpuset") {
            return;
        }
        let container = limited(s, json!({ "cpu": { "cpus": "0", "mems": "0" } }));
        expect(&container, "cpuset", &[("cpuset.cpus", "0"), ("cpuset.mems", "0")]);
        let text = fs::read_to_string(format!("/proc/{}/status", container.pid())).unwrap();
        assert!(text.contains("Cpus_allowed_list:\t0\n"), "{text}");
    });
}

#[test]
fn processors_that_do_not_exist_are_refused() {
    test(|s| {
        s.bundle().set("/linux/resources/cpu", json!({ "cpus": "4000" })).refused();
        s.bundle().set("/linux/resources/cpu", json!({ "cpus": "nonsense" })).refused();
    });
}

#[test]
fn realtime_is_refused_or_given_but_not_dropped() {
    test(|s| {
        if !has_controller_or_skip("cpu") {
            return;
        }
        let bundle = s
            .sh("sleep 60")
            .set("/linux/resources/cpu", json!({ "realtimeRuntime": 1000, "realtimePeriod": 1_000_000 }));
        let (container, run) = bundle.try_create();
        if run.code == 0 {
            expect(&container, "cpu", &[("cpu.rt_runtime_us", "1000"), ("cpu.rt_period_us", "1000000")]);
        } else {
            assert!(run.err.contains("rt_runtime"), "{run:?}");
        }
    });
}

#[test]
fn the_number_of_processes_is_limited() {
    test(|s| {
        let run = s
            .sh("for i in 1 2 3 4 5 6 7 8; do sleep 1 & done; wait")
            .set("/linux/resources/pids", json!({ "limit": 4 }))
            .run();
        assert!(run.err.contains("fork"), "{run:?}");
        let container = limited(s, json!({ "pids": { "limit": 100 } }));
        assert_eq!(container.limit("pids", "pids.max"), "100");
        let free = limited(s, json!({ "pids": { "limit": -1 } }));
        assert_eq!(free.limit("pids", "pids.max"), "max");
    });
}

#[test]
fn the_weight_of_block_devices_is_set() {
    test(|s| {
        if !has_controller_or_skip("blkio") {
            return;
        }
        let bundle = s.sh("sleep 60").set("/linux/resources/blockIO", json!({ "weight": 500 }));
        let (container, run) = bundle.try_create();
        let folder = s.group_folder("blkio", &container.group);
        match ["blkio.bfq.weight", "blkio.weight"].iter().find(|file| folder.join(file).exists()) {
            Some(file) => {
                run.expect(0);
                expect(&container, "blkio", &[(file, "500")]);
            }
            None => assert!(run.code != 0, "the kernel has no weights, and the runtime says nothing"),
        }
    });
}

/// The major and minor number of a block device of the machine that can be throttled.
fn block_device() -> Option<(u32, u32)> {
    for entry in fs::read_dir("/sys/block").ok()?.flatten() {
        let text = fs::read_to_string(entry.path().join("dev")).ok()?;
        let (major, minor) = text.trim().split_once(':')?;
        return Some((major.parse().ok()?, minor.parse().ok()?));
    }
    println!("skipped: this machine has no block device");
    None
}

#[test]
fn block_devices_are_throttled() {
    test(|s| {
        let Some((major, minor)) = block_device().filter(|_| has_controller_or_skip("blkio")) else { return };
        let rate = |rate: u64| json!([{ "major": major, "minor": minor, "rate": rate }]);
        let container = limited(
            s,
            json!({ "blockIO": {
            "throttleReadBpsDevice": rate(1_048_576), "throttleWriteBpsDevice": rate(2_097_152),
            "throttleReadIOPSDevice": rate(100), "throttleWriteIOPSDevice": rate(200)
        } }),
        );
        let line = |value: &str| format!("{major}:{minor} {value}");
        expect(
            &container,
            "blkio",
            &[
                ("blkio.throttle.read_bps_device", &line("1048576")),
                ("blkio.throttle.write_bps_device", &line("2097152")),
                ("blkio.throttle.read_iops_device", &line("100")),
                ("blkio.throttle.write_iops_device", &line("200")),
            ],
        );
    });
}

#[test]
fn a_block_device_that_does_not_exist_is_refused() {
    test(|s| {
        let rate = json!([{ "major": 4000, "minor": 4000, "rate": 100 }]);
        s.bundle().set("/linux/resources/blockIO", json!({ "throttleReadBpsDevice": rate })).refused();
    });
}

#[test]
fn huge_pages_are_limited_or_their_absence_is_said() {
    test(|s| {
        let limits = json!([{ "pageSize": "2MB", "limit": 4 << 20 }]);
        if !has_controller_or_skip("hugetlb") {
            s.bundle().set("/linux/resources/hugepageLimits", limits).refused();
            return;
        }
        let container = limited(s, json!({ "hugepageLimits": limits }));
        expect(&container, "hugetlb", &[("hugetlb.2MB.limit_in_bytes", "4194304")]);
    });
}

#[test]
fn a_size_of_huge_pages_that_does_not_exist_is_refused() {
    test(|s| {
        s.bundle().set("/linux/resources/hugepageLimits", json!([{ "pageSize": "3MB", "limit": 1 }])).refused();
    });
}

#[test]
fn classes_and_priorities_of_packets_are_set_or_their_absence_is_said() {
    test(|s| {
        let network = json!({ "classID": 1_048_577, "priorities": [{ "name": "lo", "priority": 5 }] });
        let both = has_controller_or_skip("net_cls") && has_controller_or_skip("net_prio");
        if !both {
            s.bundle().set("/linux/resources/network", network).refused();
            return;
        }
        let container = limited(s, json!({ "network": network }));
        expect(&container, "net_cls", &[("net_cls.classid", "1048577")]);
        assert!(container.limit("net_prio", "net_prio.ifpriomap").lines().any(|line| line == "lo 5"));
    });
}

#[test]
fn rdma_is_limited_or_its_absence_is_said() {
    test(|s| {
        let rdma = json!({ "mlx5_1": { "hcaHandles": 3, "hcaObjects": 100 } });
        if !has_controller_or_skip("rdma") {
            s.bundle().set("/linux/resources/rdma", rdma).refused();
        }
    });
}

#[test]
fn unified_values_without_the_second_version_are_refused() {
    test(|s| {
        if !is_v1() {
            let container = limited(s, json!({ "unified": { "pids.max": "77" } }));
            assert_eq!(container.limit("pids", "pids.max"), "77");
            return;
        }
        s.bundle().set("/linux/resources/unified", json!({ "memory.max": "1000000" })).refused();
    });
}

#[test]
fn a_group_with_a_process_in_it_is_refused_or_shared_knowingly() {
    test(|s| {
        let first = s.sh("sleep 60").start();
        let run = s.bundle().set("/linux/cgroupsPath", json!(first.group)).run();
        // runc 1.1 warns, later ones refuse; the first container must not suffer.
        assert!(run.code != 0 || run.err.contains("cgroup") || run.out.contains("RAN"), "{run:?}");
        assert_eq!(first.status(), "running");
    });
}

#[test]
fn a_frozen_group_is_refused() {
    test(|s| {
        if !has_controller_or_skip("freezer") {
            return;
        }
        let bundle = s.bundle();
        let group = s.group_folder("freezer", &bundle.group());
        fs::create_dir_all(&group).unwrap();
        fs::write(group.join("freezer.state"), "FROZEN").unwrap();
        let run = bundle.run();
        fs::write(group.join("freezer.state"), "THAWED").unwrap();
        let refused = run.code > 0;
        // The group was there before, so the runtime may leave it.
        let gone = testkit::wait_for(crate::subject::SOON, || {
            (!group.exists() || fs::remove_dir(&group).is_ok()).then_some(())
        });
        assert!(gone.is_some());
        assert!(refused, "{run:?}");
    });
}

#[test]
fn no_resources_at_all_is_no_error() {
    test(|s| {
        s.bundle().without("/linux/resources").run().expect(0);
        s.bundle().set("/linux/resources", json!({})).run().expect(0);
    });
}

#[test]
fn only_the_containers_group_is_changed() {
    test(|s| {
        if !has_controller_or_skip("memory") {
            return;
        }
        let container = limited(s, json!({ "memory": { "limit": 64 << 20 }, "pids": { "limit": 10 } }));
        let parent = s.group_folder("memory", &s.group).join("memory.limit_in_bytes");
        assert_ne!(fs::read_to_string(parent).unwrap().trim(), "67108864");
        assert_eq!(container.limit("memory", "memory.limit_in_bytes"), "67108864");
    });
}
