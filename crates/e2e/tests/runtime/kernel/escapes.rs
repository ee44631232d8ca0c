//! Known ways out of containers, each named after its report.

use std::os::unix::fs::symlink;
use std::path::Path;

use serde_json::json;

use crate::subject::test;

#[test]
fn cve_2019_5736_the_runtimes_program_can_not_be_overwritten() {
    test(|s| {
        let before = std::fs::read(&s.program).unwrap();
        // A program that is a link to the runtime itself, and an exec that is looked at from inside.
        let container = s.sh("sleep 60").capabilities(&["CAP_SYS_PTRACE", "CAP_DAC_OVERRIDE"]).start();
        symlink("/proc/self/exe", s.rootfs().join("bin/loop")).unwrap();
        let run = container.exec(&["/bin/loop", "true"]);
        let script = "for p in /proc/[0-9]*; do readlink $p/exe; done";
        let seen = container.exec(&["sh", "-c", script]).expect(0);
        let name = s.program.file_name().unwrap().to_str().unwrap();
        assert!(!seen.out.contains(name), "{}{run:?}", seen.out);
        container.end();
        assert!(std::fs::read(&s.program).unwrap() == before, "the runtime's program has changed");
    });
}

/// A file of the machine that is outside of the root, and the way to it from a folder that is outside too.
fn outside(s: &crate::subject::Subject) -> String {
    format!("../../../../../../../../../..{}", s.island.file("outside", "machine").display())
}

#[test]
fn cve_2024_21626_no_descriptor_leads_out_by_the_working_folder() {
    test(|s| {
        let path = outside(s);
        for number in 3..16 {
            let bundle = s.bundle().args(&["cat", &path]);
            let run = bundle.set("/process/cwd", json!(format!("/proc/self/fd/{number}"))).run();
            assert!(!run.out.contains("machine"), "{number}: {run:?}");
        }
    });
}

#[test]
fn cve_2024_21626_exec_has_no_such_folder_either() {
    test(|s| {
        let path = outside(s);
        let container = s.sh("sleep 60").start();
        for number in 3..12 {
            let folder = format!("/proc/self/fd/{number}");
            let run = container.exec_with(&["--cwd", &folder], &["cat", &path]);
            assert!(!run.out.contains("machine"), "{number}: {run:?}");
        }
        symlink("/proc/self/fd/7", s.rootfs().join("link")).unwrap();
        let run = container.exec_with(&["--cwd", "/link"], &["cat", &path]);
        assert!(!run.out.contains("machine"), "{run:?}");
    });
}

#[test]
fn cve_2021_30465_a_volume_with_links_does_not_lead_outside() {
    test(|s| {
        let outside = s.island.dir("outside");
        let volume = s.island.dir("volume");
        symlink("/", volume.join("root")).unwrap();
        symlink(&outside, volume.join("out")).unwrap();
        let volume = volume.display().to_string();
        let source = s.island.dir("source").display().to_string();
        let bundle = s.bundle().mount("bind", &volume, "/vol", &["bind"]);
        bundle.mount("bind", &source, "/vol/out/inner", &["bind"]).mount("tmpfs", "tmpfs", "/vol/root/deep", &[]).run();
        assert_eq!(std::fs::read_dir(outside).unwrap().count(), 0);
        assert!(!Path::new("/deep").exists());
    });
}

#[test]
fn cve_2025_31133_a_link_at_dev_null_does_not_unmask() {
    test(|s| {
        let rootfs = s.make_rootfs("trap");
        symlink("/proc/version", rootfs.join("dev/null")).unwrap();
        // Without a file system on /dev the tree's own entry is what a careless runtime binds.
        let bundle = s
            .sh("cat /etc/word")
            .rootfs(&rootfs)
            .no_mount("/dev/pts")
            .no_mount("/dev/shm")
            .no_mount("/dev/mqueue")
            .no_mount("/dev");
        let run = bundle.set("/linux/maskedPaths", json!(["/etc/word"])).run();
        assert!(!run.out.contains("word") && !run.out.contains("Linux version"), "{run:?}");
    });
}

#[test]
fn cve_2025_52565_a_link_at_the_console_does_not_lead_outside() {
    test(|s| {
        let outside = s.island.file("outside", "content");
        let rootfs = s.make_rootfs("trap");
        symlink(&outside, rootfs.join("dev/console")).unwrap();
        s.bundle().rootfs(&rootfs).run();
        assert_eq!(std::fs::read_to_string(outside).unwrap(), "content");
    });
}

#[test]
fn cve_2025_52881_writes_to_proc_go_to_proc() {
    test(|s| {
        let rootfs = s.make_rootfs("trap");
        std::fs::remove_dir(rootfs.join("proc")).unwrap();
        symlink("/dev/shm", rootfs.join("proc")).unwrap();
        s.bundle().rootfs(&rootfs).set("/linux/sysctl", json!({ "net.ipv4.ip_forward": "1" })).refused();
    });
}

#[test]
fn cve_2016_9962_descriptors_of_the_runtime_are_not_seen_while_it_enters() {
    test(|s| {
        // The first process watches every other process for descriptors that lead to folders outside.
        let script = "while :; do for f in /proc/[0-9]*/fd/*; do case $(readlink $f) in */state*|*/bundle-*) echo $f \
                      $(readlink $f) >> /etc/leak;; esac; done; done 2>/dev/null";
        let container = s.sh(script).capabilities(&["CAP_SYS_PTRACE"]).start();
        for _ in 0..10 {
            container.exec(&["true"]).expect(0);
        }
        let leak = std::fs::read_to_string(s.rootfs().join("etc/leak")).unwrap_or_default();
        assert_eq!(leak, "");
    });
}

#[test]
fn the_release_agent_of_a_group_is_out_of_reach() {
    test(|s| {
        let script = "echo /x > /sys/fs/cgroup/memory/release_agent || echo refused; mkdir /sys/fs/cgroup/memory/x || echo refused";
        let bundle = s.sh(script).mount("cgroup", "cgroup", "/sys/fs/cgroup", &["ro", "nosuid", "noexec", "nodev"]);
        let run = bundle.run();
        assert_eq!(run.text().matches("refused").count(), 2, "{run:?}");
    });
}

#[test]
fn a_root_that_is_a_link_is_followed_on_the_machine_only() {
    test(|s| {
        let link = s.island.path("link");
        symlink(s.rootfs(), &link).unwrap();
        let run = s.sh("cat /etc/word").rootfs(&link).run();
        assert!(run.code == 0 && run.text() == "word" || run.code > 0 && !run.err.is_empty(), "{run:?}");
    });
}

#[test]
fn a_device_tree_of_the_image_is_not_trusted() {
    test(|s| {
        let outside = s.island.dir("outside");
        let rootfs = s.make_rootfs("trap");
        std::fs::remove_dir(rootfs.join("dev")).unwrap();
        symlink(&outside, rootfs.join("dev")).unwrap();
        s.bundle().rootfs(&rootfs).run();
        assert_eq!(std::fs::read_dir(outside).unwrap().count(), 0);
    });
}

#[test]
fn the_machine_is_closed_to_a_subject_that_gets_out() {
    test(|s| {
        let refused = std::fs::create_dir(s.group.as_str()).unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
    });
}
