//! config.md, mounts, and what config-linux.md adds: order, types, options, propagation, ids.

use serde_json::json;

use crate::bundle::Bundle;
use crate::machine::is_v1;
use crate::subject::{Subject, test};

/// A folder of the machine with a file in it.
fn source(s: &Subject) -> String {
    let _ = s.island.file("source/file", "content");
    s.island.file("source/below/file", "below").parent().unwrap().parent().unwrap().display().to_string()
}

/// The options that the container sees of the mount at `/mnt`: those of the mount and those of the file system.
#[track_caller]
fn options(bundle: Bundle) -> String {
    let out = bundle.sh("grep ' /mnt ' /proc/self/mountinfo | tail -1").out();
    let (left, right) = out.split_once(" - ").unwrap_or_else(|| panic!("no mount at /mnt: {out}"));
    let left: Vec<&str> = left.split(' ').collect();
    format!(",{},{},", left[5], right.rsplit(' ').next().unwrap())
}

#[test]
fn a_folder_of_the_machine_is_bound() {
    test(|s| {
        let bundle = s.sh("cat /mnt/file && echo new > /mnt/new").mount("bind", &source(s), "/mnt", &["bind", "rw"]);
        assert_eq!(bundle.out(), "content");
        assert!(s.island.path("source/new").exists());
    });
}

#[test]
fn a_bind_needs_no_type_and_bind_in_the_options_needs_no_other() {
    test(|s| {
        let source = source(s);
        let bundle = s.sh("cat /mnt/file");
        let mount = json!({ "destination": "/mnt", "source": source, "options": ["rbind"] });
        assert_eq!(bundle.push("/mounts", mount).out(), "content");
        assert_eq!(s.sh("cat /mnt/file").mount("none", &source, "/mnt", &["bind"]).out(), "content");
    });
}

#[test]
fn a_relative_source_is_looked_up_in_the_bundle() {
    test(|s| {
        let bundle = s.sh("cat /mnt/x").mount("bind", "inside", "/mnt", &["bind"]);
        std::fs::create_dir_all(bundle.folder().join("inside")).unwrap();
        std::fs::write(bundle.folder().join("inside/x"), "relative").unwrap();
        assert_eq!(bundle.out(), "relative");
    });
}

#[test]
fn a_file_is_bound_over_a_file_that_is_made_if_needed() {
    test(|s| {
        let file = s.island.file("one", "one").display().to_string();
        let bundle = s.sh("cat /etc/word /etc/made/by/runtime").mount("bind", &file, "/etc/word", &["bind", "ro"]);
        assert_eq!(bundle.mount("bind", &file, "/etc/made/by/runtime", &["bind"]).out(), "oneone");
    });
}

#[test]
fn a_source_that_does_not_exist_is_refused() {
    test(|s| {
        s.bundle().mount("bind", "/nonexistent/source", "/mnt", &["bind"]).refused();
    });
}

#[test]
fn a_destination_is_made_if_needed() {
    test(|s| {
        let bundle = s.sh("echo x > /new/er/est/file; cat /new/er/est/file");
        assert_eq!(bundle.mount("tmpfs", "tmpfs", "/new/er/est", &[]).out(), "x");
    });
}

#[test]
fn a_destination_that_is_not_absolute_is_taken_from_the_root_or_refused() {
    test(|s| {
        let run = s.sh("grep -c ' /mnt ' /proc/self/mountinfo").mount("tmpfs", "tmpfs", "mnt", &[]).run();
        assert!(run.code != 0 || run.text() == "1", "{run:?}");
    });
}

#[test]
fn a_mount_without_a_destination_is_refused() {
    test(|s| {
        s.bundle().push("/mounts", json!({ "type": "tmpfs", "source": "tmpfs" })).refused();
    });
}

#[test]
fn mounts_are_made_in_their_order() {
    test(|s| {
        let bundle = s.sh("ls /mnt; cat /mnt/b/file");
        let bundle = bundle.mount("tmpfs", "tmpfs", "/mnt", &[]).mount("bind", &source(s), "/mnt/b", &["bind"]);
        assert_eq!(bundle.out(), "b\ncontent");
        let hidden =
            s.sh("ls /mnt").mount("bind", &source(s), "/mnt/b", &["bind"]).mount("tmpfs", "tmpfs", "/mnt", &[]);
        assert_eq!(hidden.out(), "");
    });
}

#[test]
fn a_read_only_bind_is_read_only_and_the_source_is_not() {
    test(|s| {
        let bundle = s.sh("echo x > /mnt/new || echo refused").mount("bind", &source(s), "/mnt", &["bind", "ro"]);
        assert_eq!(bundle.out(), "refused");
        std::fs::write(s.island.path("source/new"), "x").unwrap();
    });
}

#[test]
fn options_of_a_mount_are_set() {
    test(|s| {
        for option in ["ro", "nosuid", "nodev", "noexec", "noatime", "nodiratime", "relatime"] {
            let seen = options(s.bundle().mount("tmpfs", "tmpfs", "/mnt", &[option]));
            assert!(seen.contains(&format!(",{option},")), "{option} of a tmpfs: {seen}");
        }
    });
}

#[test]
fn links_can_be_forbidden() {
    test(|s| {
        let seen = options(s.bundle().mount("tmpfs", "tmpfs", "/mnt", &["nosymfollow"]));
        assert!(seen.contains(",nosymfollow,"), "{seen}");
    });
}

#[test]
fn options_of_a_bind_are_set() {
    test(|s| {
        for option in ["ro", "nosuid", "nodev", "noexec", "noatime", "nodiratime"] {
            let seen = options(s.bundle().mount("bind", &source(s), "/mnt", &["bind", option]));
            assert!(seen.contains(&format!(",{option},")), "{option} of a bind: {seen}");
        }
    });
}

#[test]
fn options_that_take_others_back_are_followed_in_their_order() {
    test(|s| {
        let seen =
            options(s.bundle().mount("tmpfs", "tmpfs", "/mnt", &["ro", "noexec", "nosuid", "nodev", "rw", "exec"]));
        assert!(seen.contains(",rw,") && !seen.contains(",noexec,"), "{seen}");
        assert!(seen.contains(",nosuid,") && seen.contains(",nodev,"), "{seen}");
        let strict = options(s.bundle().mount("tmpfs", "tmpfs", "/mnt", &["noatime", "strictatime", "suid", "dev"]));
        assert!(!strict.contains("atime,"), "{strict}");
        let plain = ["async", "diratime", "norelatime", "loud", "nomand", "noiversion", "rw"];
        s.bundle().mount("tmpfs", "tmpfs", "/mnt", &plain).run().expect(0);
    });
}

#[test]
fn the_option_defaults_changes_nothing() {
    test(|s| {
        s.bundle().mount("tmpfs", "tmpfs", "/mnt", &["defaults"]).run().expect(0);
    });
}

#[test]
fn data_of_the_file_system_reaches_it() {
    test(|s| {
        let seen =
            options(s.bundle().mount("tmpfs", "tmpfs", "/mnt", &["size=64k", "mode=751", "nr_inodes=100", "uid=7"]));
        for option in ["size=64k", "mode=751", "nr_inodes=100", "uid=7"] {
            assert!(seen.contains(&format!(",{option},")), "{option}: {seen}");
        }
    });
}

#[test]
fn an_option_that_does_not_exist_is_refused() {
    test(|s| {
        s.bundle().mount("tmpfs", "tmpfs", "/mnt", &["nonsense=1"]).refused();
    });
}

#[test]
fn a_file_system_that_does_not_exist_is_refused() {
    test(|s| {
        s.bundle().mount("nonsense", "none", "/mnt", &[]).refused();
    });
}

#[test]
fn a_plain_bind_leaves_out_what_is_mounted_below_and_a_recursive_one_has_it() {
    test(|s| {
        let source = source(s);
        let below = s.island.path("source/below");
        rustix::mount::mount("tmpfs", &below, "tmpfs", rustix::mount::MountFlags::empty(), None).unwrap();
        std::fs::write(below.join("mounted"), "x").unwrap();
        assert_eq!(s.sh("ls /mnt/below").mount("bind", &source, "/mnt", &["bind"]).out(), "file");
        assert_eq!(s.sh("ls /mnt/below").mount("bind", &source, "/mnt", &["rbind"]).out(), "mounted");
        let ro = s.sh("echo x > /mnt/x || echo refused; echo y > /mnt/below/y && echo written");
        assert_eq!(ro.mount("bind", &source, "/mnt", &["rbind", "ro"]).out(), "refused\nwritten");
        rustix::mount::unmount(&below, rustix::mount::UnmountFlags::empty()).unwrap();
    });
}

#[test]
fn recursive_options_reach_what_is_mounted_below() {
    test(|s| {
        let source = source(s);
        let below = s.island.path("source/below");
        rustix::mount::mount("tmpfs", &below, "tmpfs", rustix::mount::MountFlags::empty(), None).unwrap();
        let script = "echo x > /mnt/x || echo refused; echo y > /mnt/below/y || echo refused";
        assert_eq!(s.sh(script).mount("bind", &source, "/mnt", &["rbind", "rro"]).out(), "refused\nrefused");
        let script = "grep ' /mnt/below ' /proc/self/mountinfo | cut -d' ' -f6";
        let seen =
            s.sh(script).mount("bind", &source, "/mnt", &["rbind", "rnosuid", "rnodev", "rnoexec", "rnoatime"]).out();
        for option in ["nosuid", "nodev", "noexec", "noatime"] {
            assert!(seen.split(',').any(|word| word == option), "{option}: {seen}");
        }
        rustix::mount::unmount(&below, rustix::mount::UnmountFlags::empty()).unwrap();
    });
}

#[test]
fn the_propagation_of_a_mount_is_set() {
    test(|s| {
        let source = source(s);
        let kind = |option: &str| {
            let script = "grep ' /mnt ' /proc/self/mountinfo | sed 's/ - .*//' | cut -d' ' -f7-";
            s.sh(script).mount("bind", &source, "/mnt", &["bind", option]).out()
        };
        assert_eq!(kind("private"), "");
        assert_eq!(kind("rprivate"), "");
        assert!(kind("shared").starts_with("shared:"), "{}", kind("shared"));
        assert!(kind("rshared").starts_with("shared:"), "{}", kind("rshared"));
        assert_eq!(kind("unbindable"), "unbindable");
        assert_eq!(kind("runbindable"), "unbindable");
    });
}

#[test]
fn a_mount_of_a_shared_source_becomes_its_slave() {
    test(|s| {
        use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, unmount};
        let source = source(s);
        mount("tmpfs", &source, "tmpfs", MountFlags::empty(), None).unwrap();
        mount_change(&source, MountPropagationFlags::SHARED).unwrap();
        let script = "grep ' /mnt ' /proc/self/mountinfo | sed 's/ - .*//' | cut -d' ' -f7-";
        for option in ["slave", "rslave"] {
            let seen = s.sh(script).mount("bind", &source, "/mnt", &["rbind", option]).out();
            assert!(seen.starts_with("master:"), "{option}: {seen}");
        }
        unmount(&source, UnmountFlags::DETACH).unwrap();
    });
}

#[test]
fn a_tmpfs_can_start_with_what_it_covers() {
    test(|s| {
        let bundle = s.sh("cat /lower/deep/file && echo x > /lower/deep/file && stat -c %a /lower/deep");
        std::os::unix::fs::symlink("deep/file", s.rootfs().join("lower/link")).unwrap();
        let out = bundle.mount("tmpfs", "tmpfs", "/lower", &["tmpcopyup"]).out();
        assert_eq!(out, "deep755");
        assert_eq!(std::fs::read_to_string(s.rootfs().join("lower/deep/file")).unwrap(), "deep");
        let ro = s.sh("cat /lower/link; echo x > /lower/y || echo refused");
        assert_eq!(ro.mount("tmpfs", "tmpfs", "/lower", &["tmpcopyup", "ro"]).out(), "deeprefused");
    });
}

#[test]
fn a_link_in_the_root_does_not_lead_a_mount_outside() {
    test(|s| {
        let outside = s.island.dir("outside");
        std::os::unix::fs::symlink(&outside, s.rootfs().join("out")).unwrap();
        std::os::unix::fs::symlink("../../../../../../..", s.rootfs().join("up")).unwrap();
        let bundle = s.sh("grep -c tmpfs.x /proc/self/mountinfo").mount("tmpfs", "tmpfs.x", "/out/inner", &[]);
        bundle.mount("tmpfs", "tmpfs.x", "/up/mnt", &[]).run();
        assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0, "something was made outside of the root");
    });
}

#[test]
fn proc_and_sys_can_be_mounted_only_as_what_they_are() {
    test(|s| {
        let source = source(s);
        // CVE-2019-16884, CVE-2019-19921.
        s.bundle().no_mount("/proc").mount("bind", &source, "/proc", &["bind"]).refused();
        s.bundle().mount("bind", &source, "/proc/self", &["bind"]).refused();
    });
}

#[test]
fn a_link_at_proc_is_refused() {
    test(|s| {
        let rootfs = s.make_rootfs("other");
        std::fs::remove_dir(rootfs.join("proc")).unwrap();
        std::os::unix::fs::symlink("/tmp", rootfs.join("proc")).unwrap();
        s.bundle().rootfs(&rootfs).refused();
    });
}

#[test]
fn the_control_groups_can_be_mounted() {
    test(|s| {
        let script =
            "grep -c ' /sys/fs/cgroup' /proc/self/mountinfo; ls /sys/fs/cgroup; cat /sys/fs/cgroup/pids/cgroup.procs";
        let out = s.sh(script).mount("cgroup", "cgroup", "/sys/fs/cgroup", &["nosuid", "noexec", "nodev", "ro"]);
        if !is_v1() {
            return println!("skipped: version 1 only");
        }
        let out = out.out();
        let names: Vec<&str> = out.lines().collect();
        assert!(names[0].parse::<usize>().unwrap() > 4, "{out}");
        for name in ["memory", "pids", "devices", "freezer"] {
            assert!(names.contains(&name), "{name}: {out}");
        }
        // Only the container's own group is seen, whatever the namespace.
        assert!(names.contains(&"1"), "{out}");
    });
}

#[test]
fn the_control_groups_of_a_group_namespace_can_be_mounted_and_not_written() {
    test(|s| {
        let script = "cat /proc/self/cgroup | cut -d: -f3 | sort -u; mkdir /sys/fs/cgroup/pids/x || echo refused";
        let bundle = s.sh(script).namespace("cgroup").mount("cgroup", "cgroup", "/sys/fs/cgroup", &["ro"]);
        if !is_v1() {
            return println!("skipped: version 1 only");
        }
        let out = bundle.out();
        let lines: Vec<&str> = out.lines().filter(|line| !line.starts_with("/..")).collect();
        assert_eq!(lines, ["/", "refused"]);
    });
}

#[test]
fn ids_of_a_mount_are_mapped() {
    test(|s| {
        let source = source(s);
        std::os::unix::fs::chown(s.island.path("source/file"), Some(100_005), Some(100_006)).unwrap();
        let map = json!([{ "containerID": 100_000, "hostID": 0, "size": 65536 }]);
        let mount = json!({ "destination": "/mnt", "type": "bind", "source": source, "options": ["bind"],
            "uidMappings": map, "gidMappings": map });
        assert_eq!(s.sh("stat -c %u:%g /mnt/file").push("/mounts", mount).out(), "5:6");
    });
}

#[test]
fn ids_of_a_mount_are_mapped_as_the_containers_by_an_option() {
    test(|s| {
        let source = source(s);
        std::os::unix::fs::chown(s.island.path("source/file"), Some(5), Some(6)).unwrap();
        let bundle = s.sh("stat -c %u:%g /mnt/file").user_namespace(100_000);
        assert_eq!(bundle.mount("bind", &source, "/mnt", &["bind", "idmap"]).out(), "5:6");
    });
}

#[test]
fn thousands_of_mounts_are_made() {
    test(|s| {
        let mut bundle = s.sh("grep -c ' /mnt/' /proc/self/mountinfo").mount("tmpfs", "tmpfs", "/mnt", &[]);
        let source = source(s);
        for number in 0..1000 {
            bundle = bundle.mount("bind", &source, &format!("/mnt/{number}"), &["bind"]);
        }
        assert_eq!(bundle.out(), "1000");
    });
}

#[test]
fn a_destination_with_odd_characters_is_taken_literally() {
    test(|s| {
        let name = "/mnt/a b\\040c\nd,e:ä";
        let bundle = s.bundle().args(&["cat", &format!("{name}/file")]);
        assert_eq!(bundle.mount("bind", &source(s), name, &["bind"]).out(), "content");
    });
}

#[test]
fn mqueue_devpts_and_sysfs_are_what_they_say() {
    test(|s| {
        let script = "for p in /proc /sys /dev/pts /dev/shm /dev/mqueue; do grep \" $p \" /proc/self/mountinfo | sed 's/.* - //' \
                      | cut -d' ' -f1; done";
        assert_eq!(s.sh(script).out(), "proc\nsysfs\ndevpts\ntmpfs\nmqueue");
    });
}

#[test]
fn nothing_of_the_containers_mounts_reaches_the_machine() {
    test(|s| {
        let before = crate::subject::mount_table();
        let container = s.sh("sleep 60").mount("tmpfs", "tmpfs", "/mnt", &[]).start();
        assert_eq!(crate::subject::mount_table(), before);
        container.end();
    });
}

#[test]
fn a_read_only_file_system_in_memory_closes_when_all_is_in_it() {
    test(|s| {
        let bundle = s.sh(
            "grep -c ' /dev tmpfs ro,' /proc/mounts; test -c /dev/null && test -d /dev/pts && echo full; touch /dev/x",
        );
        let bundle = bundle.no_mount("/dev").mount("tmpfs", "tmpfs", "/dev", &["nosuid", "ro", "mode=755"]);
        let bundle =
            bundle.no_mount("/dev/pts").mount("devpts", "devpts", "/dev/pts", &["newinstance", "ptmxmode=0666"]);
        let run = bundle.run();
        assert_eq!(run.text(), "1\nfull", "{}", run.err);
        assert!(run.err.contains("Read-only file system"), "{}", run.err);
    });
}

#[test]
fn proc_goes_on_no_link_of_an_images_even_if_it_leads_nowhere() {
    test(|s| {
        std::fs::remove_dir(s.rootfs().join("proc")).unwrap();
        std::os::unix::fs::symlink("/nowhere", s.rootfs().join("proc")).unwrap();
        s.sh("true").refused();
    });
}
