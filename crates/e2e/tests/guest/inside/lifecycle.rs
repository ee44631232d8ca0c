//! The commands one after the other, and what version 2 shows of them.

use crate::subject::test;

#[test]
#[ignore = "runs in the guest"]
fn a_whole_life() {
    test(|s| {
        let container = s.sh("sleep 60").create();
        assert_eq!(container.status(), "created");
        assert_eq!(container.limit("", "cgroup.procs"), container.pid().to_string());
        container.call("start", &[]).expect(0);
        assert_eq!(container.status(), "running");
        assert_eq!(container.exec(&["cat", "/etc/word"]).expect(0).text(), "word");
        let pids = container.call("ps", &["--format", "json"]).expect(0).json();
        assert!(pids.as_array().unwrap().contains(&container.pid().into()), "{pids}");
        container.call("delete", &[]).fails();
        container.end();
        container.call("delete", &[]).expect(0);
        assert!(!s.group_folder("", &container.group).exists());
    });
}

#[test]
#[ignore = "runs in the guest"]
fn a_paused_container_stands_still() {
    test(|s| {
        let container = s.sh("i=0; while :; do i=$((i+1)); echo $i > /etc/count; sleep 0.02; done").start();
        let file = s.rootfs().join("etc/count");
        let count =
            || std::fs::read_to_string(&file).ok().and_then(|text| text.trim().parse::<u64>().ok()).unwrap_or(0);
        container.await_file(&file);
        container.call("pause", &[]).expect(0);
        assert_eq!(container.status(), "paused");
        assert!(container.limit("", "cgroup.events").contains("frozen 1"));
        let before = count();
        std::thread::sleep(std::time::Duration::from_millis(100));
        assert_eq!(count(), before);
        container.call("pause", &[]).fails();
        container.call("resume", &[]).expect(0);
        assert_eq!(container.status(), "running");
        let on = testkit::wait_for(crate::subject::SOON, || (count() > before).then_some(()));
        assert!(on.is_some(), "it stands at {before}");
        container.call("pause", &[]).expect(0);
        // a frozen process of version 2 can be killed, and a frozen container deleted
        container.kill("KILL").expect(0);
        container.await_status("stopped");
    });
}

#[test]
#[ignore = "runs in the guest"]
fn a_frozen_container_is_deleted_by_force() {
    test(|s| {
        let container = s.sh("sleep 60 & sleep 60").start();
        container.call("pause", &[]).expect(0);
        container.call("delete", &["--force"]).expect(0);
        container.call("state", &[]).fails();
        assert!(!s.group_folder("", &container.group).exists());
    });
}

#[test]
#[ignore = "runs in the guest"]
fn all_processes_end_without_a_pid_namespace_too() {
    test(|s| {
        let container = s.sh("sleep 61 & sleep 61 & wait").no_namespace("pid").start();
        let full = || container.limit("", "cgroup.procs").lines().count() == 3;
        assert!(testkit::wait_for(crate::subject::SOON, || full().then_some(())).is_some());
        s.call(&["kill", "--all", &container.id, "KILL"]).expect(0);
        container.await_status("stopped");
        assert!(container.limit("", "cgroup.events").contains("populated 0"));
        container.call("delete", &[]).expect(0);
    });
}
