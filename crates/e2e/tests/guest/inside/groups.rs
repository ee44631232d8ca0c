//! The group itself: where it is, what is handed down, what a container sees of it, and its devices.

use std::process::Command;

use serde_json::json;

use super::disk;
use crate::bundle::Bundle;
use crate::subject::{Subject, test};

fn with_mount<'a>(s: &'a Subject, script: &str) -> Bundle<'a> {
    s.sh(script).mount("cgroup", "cgroup", "/sys/fs/cgroup", &["nosuid", "noexec", "nodev", "relatime", "ro"])
}

#[test]
#[ignore = "runs in the guest"]
fn controllers_are_handed_down() {
    test(|s| {
        let container = s.sh("sleep 60").set("/linux/cgroupsPath", json!(format!("{}/a/b/c", s.group))).start();
        let folder = s.group_folder("", &format!("{}/a/b/c", s.group));
        let have = std::fs::read_to_string(folder.join("cgroup.controllers")).unwrap();
        for name in ["cpuset", "cpu", "io", "memory", "hugetlb", "pids"] {
            assert!(have.split_whitespace().any(|one| one == name), "{name} is not in {have}");
        }
        container.call("delete", &["--force"]).expect(0);
        for path in ["a/b", "a"] {
            // the groups above stay for whoever asked for them
            let _ = std::fs::remove_dir(s.group_folder("", &format!("{}/{path}", s.group)));
        }
    });
}

#[test]
#[ignore = "runs in the guest"]
fn the_first_process_is_made_in_its_group() {
    test(|s| {
        let Some(strace) = testkit::rootfs::find("strace") else {
            panic!("strace is part of the guest");
        };
        let bundle = s.sh("true");
        let folder = bundle.write().display().to_string();
        let trace = s.island.path("trace");
        let mut command = Command::new(strace);
        command.args(["-f", "-e", "trace=clone3,clone,fork,vfork,write", "-o"]).arg(&trace).arg(&s.program);
        command.arg("--root").arg(s.root()).args(["run", "--bundle", &folder, &bundle.id]);
        s.finish(&mut command).expect(0);
        let text = std::fs::read_to_string(trace).unwrap();
        let made = text.lines().any(|line| line.contains("clone3(") && line.contains("CLONE_INTO_CGROUP"));
        assert!(made, "{text}");
    });
}

#[test]
#[ignore = "runs in the guest"]
fn exec_is_in_the_group_too() {
    test(|s| {
        let container = s.sh("sleep 60").start();
        let text = container.exec(&["cat", "/proc/self/cgroup"]).expect(0).text().to_owned();
        assert_eq!(text, format!("0::{}", container.group));
        // a group of its own below: version 2 lets no group with processes hand controllers down, but take some
        let folder = s.group_folder("", &container.group);
        std::fs::create_dir(folder.join("sub")).unwrap();
        let text = container.exec_with(&["--cgroup", "sub"], &["cat", "/proc/self/cgroup"]).expect(0).text().to_owned();
        assert_eq!(text, format!("0::{}/sub", container.group));
    });
}

#[test]
#[ignore = "runs in the guest"]
fn a_container_sees_the_tree_without_a_namespace() {
    test(|s| {
        let bundle = with_mount(s, "cat /proc/self/cgroup; ls /sys/fs/cgroup; touch /sys/fs/cgroup/x || echo closed");
        let text = bundle.out();
        assert!(text.starts_with(&format!("0::{}\n", bundle.group())), "{text}");
        // the whole tree, as /proc tells paths from its top
        assert!(text.contains("init"), "{text}");
        assert!(text.contains("closed"), "{text}");
    });
}

#[test]
#[ignore = "runs in the guest"]
fn a_container_with_a_namespace_sees_its_own_group() {
    test(|s| {
        let script = "cat /proc/self/cgroup; cat /sys/fs/cgroup/pids.max; ls /sys/fs/cgroup; grep cgroup /proc/mounts";
        let bundle = with_mount(s, script).namespace("cgroup").set("/linux/resources/pids", json!({ "limit": 23 }));
        let text = bundle.out();
        assert!(text.starts_with("0::/\n23\n"), "{text}");
        assert!(!text.lines().any(|line| line == "init"), "{text}");
        assert!(text.contains("/sys/fs/cgroup cgroup2 ro,nosuid,nodev,noexec,relatime"), "{text}");
    });
}

#[test]
#[ignore = "runs in the guest"]
fn a_group_may_be_the_containers_to_divide() {
    test(|s| {
        let script = "mkdir /sys/fs/cgroup/init && echo $$ > /sys/fs/cgroup/init/cgroup.procs && \
            echo +pids +memory > /sys/fs/cgroup/cgroup.subtree_control && mkdir /sys/fs/cgroup/one && \
            echo 9 > /sys/fs/cgroup/one/pids.max && cat /sys/fs/cgroup/one/pids.max";
        let bundle = s.sh(script).namespace("cgroup");
        let bundle = bundle.mount("cgroup", "cgroup", "/sys/fs/cgroup", &["nosuid", "noexec", "nodev", "rw"]);
        assert_eq!(bundle.out(), "9");
    });
}

#[test]
#[ignore = "runs in the guest"]
fn the_group_is_the_containers_root_in_a_user_namespace() {
    test(|s| {
        let bundle = s.sh("stat -c %u /sys/fs/cgroup/cgroup.procs; mkdir /sys/fs/cgroup/one && echo made");
        let bundle = bundle.namespace("cgroup").user_namespace(100_000);
        let bundle = bundle.mount("cgroup", "cgroup", "/sys/fs/cgroup", &["nosuid", "noexec", "nodev", "rw"]);
        assert_eq!(bundle.out(), "0\nmade");
    });
}

#[test]
#[ignore = "runs in the guest"]
fn the_filter_of_devices_denies() {
    test(|s| {
        let (major, minor) = disk(s);
        let script = format!(
            "mknod /tmp/disk b {major} {minor}; dd if=/tmp/disk of=/dev/null bs=512 count=1 && echo OPENED; \
             echo x > /dev/null && echo null; head -c1 /dev/zero | wc -c; echo x > /dev/kmsg && echo KMSG"
        );
        let devices = "/linux/devices";
        let kmsg = json!([{ "path": "/dev/kmsg", "type": "c", "major": 1, "minor": 11, "fileMode": 0o666 }]);
        let bundle = s.sh(&script).capabilities(&["CAP_MKNOD", "CAP_SYS_ADMIN"]).set(devices, kmsg);
        let run = bundle.run();
        assert!(run.out.contains("null\n1\n") && !run.out.contains("OPENED") && !run.out.contains("KMSG"), "{run:?}");
        let allowed = json!([
            { "allow": false, "access": "rwm" },
            { "allow": true, "type": "b", "major": major, "minor": minor, "access": "rm" }
        ]);
        let bundle = s.sh(&script).capabilities(&["CAP_MKNOD"]).set("/linux/resources/devices", allowed);
        let run = bundle.run();
        assert!(run.out.contains("OPENED"), "{run:?}");
    });
}

#[test]
#[ignore = "runs in the guest"]
fn a_user_may_not_open_a_device_that_root_made() {
    test(|s| {
        // read is allowed, write is not: the filter looks at both
        let (major, minor) = disk(s);
        let rules = json!([
            { "allow": false, "access": "rwm" },
            { "allow": true, "type": "b", "major": major, "minor": minor, "access": "r" }
        ]);
        let node = json!([{ "path": "/dev/disk", "type": "b", "major": major, "minor": minor, "fileMode": 0o666 }]);
        let script = "head -c1 /dev/disk | wc -c; (echo x > /dev/disk) && echo WRITTEN; (: <> /dev/disk) && echo BOTH";
        let run = s.sh(script).set("/linux/resources/devices", rules).set("/linux/devices", node).run();
        assert!(run.out.starts_with("1\n") && !run.out.contains("WRITTEN") && !run.out.contains("BOTH"), "{run:?}");
    });
}
