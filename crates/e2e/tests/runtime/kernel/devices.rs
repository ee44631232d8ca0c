//! config-linux.md: default devices, devices of the configuration, and who may use what.

use serde_json::json;

use crate::subject::test;

#[test]
fn the_default_devices_are_there() {
    test(|s| {
        let script = "for d in null zero full random urandom tty; do stat -c '%n %t:%T %a %u:%g' /dev/$d; done";
        let expected = "/dev/null 1:3 666 0:0\n/dev/zero 1:5 666 0:0\n/dev/full 1:7 666 0:0\n/dev/random 1:8 666 0:0\n\
                        /dev/urandom 1:9 666 0:0\n/dev/tty 5:0 666 0:0";
        assert_eq!(s.sh(script).out(), expected);
    });
}

#[test]
fn the_default_devices_work_for_every_user() {
    test(|s| {
        let script = "echo x > /dev/null && head -c2 /dev/zero | wc -c && head -c4 /dev/urandom | wc -c; echo x > /dev/full \
                      || echo full";
        let bundle = s.sh(script).set("/process/user", json!({ "uid": 1000, "gid": 1000 }));
        assert_eq!(bundle.out(), "2\n4\nfull");
    });
}

#[test]
fn the_default_links_are_there() {
    test(|s| {
        let script = "for l in fd stdin stdout stderr ptmx; do echo $l $(readlink /dev/$l); done";
        let out = s.sh(script).out();
        for line in ["fd /proc/self/fd", "stdin /proc/self/fd/0", "stdout /proc/self/fd/1", "stderr /proc/self/fd/2"] {
            assert!(out.contains(line), "{line}: {out}");
        }
        assert!(out.contains("ptmx pts/ptmx") || out.contains("ptmx /dev/pts/ptmx"), "{out}");
    });
}

#[test]
fn nothing_else_of_the_machine_is_in_dev() {
    test(|s| {
        let out = s.sh("ls /dev").out();
        let allowed = [
            "core", "fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin", "stdout", "tty",
            "urandom", "zero", "console",
        ];
        let other: Vec<&str> = out.lines().filter(|name| !allowed.contains(name)).collect();
        assert!(other.is_empty(), "{other:?}");
    });
}

#[test]
fn devices_are_made_as_asked() {
    test(|s| {
        let script = "for d in /dev/c /dev/deep/er/b /opt/p /dev/u; do stat -c '%n %F %t:%T %a %u:%g' $d; done";
        let bundle = s.sh(script);
        let bundle = bundle.push(
            "/linux/devices",
            json!({
            "path": "/dev/c", "type": "c", "major": 10, "minor": 229, "fileMode": 0o640, "uid": 3, "gid": 4 }),
        );
        let bundle = bundle.push(
            "/linux/devices",
            json!({
            "path": "/dev/deep/er/b", "type": "b", "major": 7, "minor": 300, "fileMode": 0o600 }),
        );
        let bundle = bundle.push("/linux/devices", json!({ "path": "/opt/p", "type": "p", "fileMode": 0o622 }));
        let bundle = bundle.push("/linux/devices", json!({ "path": "/dev/u", "type": "u", "major": 1, "minor": 3 }));
        let out = bundle.out();
        let lines: Vec<&str> = out.lines().collect();
        assert_eq!(lines[0], "/dev/c character special file a:e5 640 3:4");
        assert_eq!(lines[1], "/dev/deep/er/b block special file 7:12c 600 0:0");
        assert_eq!(lines[2], "/opt/p fifo 0:0 622 0:0");
        assert!(lines[3].starts_with("/dev/u character special file 1:3 "), "{out}");
    });
}

#[test]
fn a_device_may_have_the_path_of_a_default_one() {
    test(|s| {
        let device =
            json!({ "path": "/dev/tty", "type": "c", "major": 5, "minor": 0, "fileMode": 0o600, "uid": 9, "gid": 9 });
        assert_eq!(s.sh("stat -c %a:%u /dev/tty").push("/linux/devices", device).out(), "600:9");
    });
}

#[test]
fn a_device_of_an_unknown_type_is_refused() {
    test(|s| {
        s.bundle().push("/linux/devices", json!({ "path": "/dev/x", "type": "z", "major": 1, "minor": 3 })).refused();
        s.bundle().push("/linux/devices", json!({ "path": "/dev/x", "major": 1, "minor": 3 })).refused();
    });
}

#[test]
fn a_device_without_a_path_is_refused() {
    test(|s| {
        s.bundle().push("/linux/devices", json!({ "type": "c", "major": 1, "minor": 3 })).refused();
    });
}

#[test]
fn a_device_where_another_file_is_is_refused() {
    test(|s| {
        std::fs::write(s.rootfs().join("etc/taken"), "x").unwrap();
        s.bundle()
            .push("/linux/devices", json!({ "path": "/etc/taken", "type": "c", "major": 1, "minor": 3 }))
            .refused();
    });
}

#[test]
fn a_link_in_the_root_does_not_lead_a_device_outside() {
    test(|s| {
        let outside = s.island.dir("outside");
        std::os::unix::fs::symlink(&outside, s.rootfs().join("out")).unwrap();
        s.bundle().push("/linux/devices", json!({ "path": "/out/x", "type": "c", "major": 1, "minor": 3 })).run();
        assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0, "the device was made outside of the root");
    });
}

#[test]
fn devices_are_bound_from_the_machine_in_a_user_namespace() {
    test(|s| {
        let device = json!({ "path": "/dev/extra", "type": "c", "major": 1, "minor": 5 });
        // A device of the machine with this path is what a user namespace can be given.
        let bundle = s.sh("head -c3 /dev/zero | wc -c").user_namespace(100_000);
        assert_eq!(bundle.out(), "3");
        let run = s.bundle().user_namespace(100_000).push("/linux/devices", device).run();
        assert!(run.code != 0, "there is no /dev/extra on this machine");
    });
}

/// `/dev/fuse`: a device that root may open, and not one of the defaults.
const FUSE: (u32, u32) = (10, 229);

/// Makes a device in the container and reads from it.
const MAKE_AND_READ: &str = "mknod /tmp/n c 10 229 && echo made; mknod /tmp/z c 1 5 && head -c1 /tmp/z | wc -c";

#[test]
fn what_is_not_allowed_can_not_be_made_or_opened() {
    test(|s| {
        let rules = json!([{ "allow": false, "access": "rwm" }, { "allow": true, "type": "c", "major": 1, "minor": 5, "access": "rwm" }]);
        let bundle =
            s.sh("dd if=/mnt/k of=/dev/null bs=1 count=1 && echo opened || echo refused").capabilities(&["CAP_MKNOD"]);
        let bundle = bundle.set("/linux/resources/devices", rules);
        let device = json!({ "path": "/mnt/k", "type": "c", "major": FUSE.0, "minor": FUSE.1 });
        assert_eq!(bundle.push("/linux/devices", device).out(), "refused");
    });
}

#[test]
fn rules_are_applied_in_their_order() {
    test(|s| {
        let deny_all = json!({ "allow": false, "access": "rwm" });
        let allow_all = json!({ "allow": true, "access": "rwm" });
        let one =
            |allow: bool| json!({ "allow": allow, "type": "c", "major": FUSE.0, "minor": FUSE.1, "access": "rwm" });
        let opened = |rules: serde_json::Value| {
            let bundle = s.sh("dd if=/mnt/k of=/dev/null bs=1 count=0 2>/dev/null && echo opened || echo refused");
            let device = json!({ "path": "/mnt/k", "type": "c", "major": FUSE.0, "minor": FUSE.1 });
            bundle.push("/linux/devices", device).set("/linux/resources/devices", rules).out()
        };
        assert_eq!(opened(json!([deny_all, one(true)])), "opened");
        assert_eq!(opened(json!([allow_all])), "opened");
        assert_eq!(opened(json!([deny_all])), "refused");
        assert_eq!(opened(json!([deny_all, one(true), one(false)])), "refused");
    });
}

#[test]
fn the_allow_list_is_the_defaults_and_the_rules() {
    test(|s| {
        if !crate::machine::has_controller_or_skip("devices") {
            return;
        }
        let rules = json!([
            { "allow": false, "access": "rwm" },
            { "allow": true, "type": "c", "major": 10, "minor": 229, "access": "rw" },
            { "allow": true, "type": "b", "major": 8, "access": "r" },
            { "allow": true, "type": "c", "access": "m" }
        ]);
        let container = s.sh("sleep 60").set("/linux/resources/devices", rules).create();
        let list = container.limit("devices", "devices.list");
        for line in
            ["c 10:229 rw", "b 8:* r", "c *:* m", "c 1:3 rwm", "c 1:5 rwm", "c 5:0 rwm", "c 136:* rwm", "c 5:2 rwm"]
        {
            assert!(list.lines().any(|found| found == line), "{line}: {list}");
        }
        assert!(!list.contains("a *:*") && !list.contains("1:11"), "{list}");
    });
}

#[test]
fn a_made_device_needs_both_the_capability_and_the_rule() {
    test(|s| {
        let rules = json!([{ "allow": false, "access": "rwm" }, { "allow": true, "type": "c", "major": 1, "minor": 5, "access": "rwm" }]);
        let bundle = s.sh(MAKE_AND_READ).set("/linux/resources/devices", rules.clone());
        assert!(!bundle.run().out.contains("made"));
        // The capability comes with the kernel's leave; the rule is on the container's group.
        let with = s.sh(MAKE_AND_READ).capabilities(&["CAP_MKNOD"]).set("/linux/resources/devices", rules);
        assert!(with.run().out.lines().any(|line| line == "1"));
    });
}

#[test]
fn a_rule_of_an_unknown_kind_is_refused() {
    test(|s| {
        s.bundle().push("/linux/resources/devices", json!({ "allow": true, "type": "z", "access": "r" })).refused();
        s.bundle().push("/linux/resources/devices", json!({ "allow": true, "type": "c", "access": "q" })).refused();
    });
}
