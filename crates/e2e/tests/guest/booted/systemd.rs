//! The systemd driver of control groups, with a systemd that runs the machine.
//!
//! # Source
//! systemd.resource-control(5), org.freedesktop.systemd1(5); the form of `cgroupsPath` is runc's.

use std::process::Command;

use serde_json::{Value, json};
use testkit::wait_for;

use super::{group_of, show};
use crate::bundle::Bundle;
use crate::container::Container;
use crate::subject::{Run, SOON, Subject, test};

/// A bundle whose group systemd makes, and the name of its unit.
fn scoped<'a>(s: &'a Subject, script: &str) -> (Bundle<'a>, String) {
    let bundle = s.sh(script);
    // other tests have containers with the same names
    let name = format!("{}-{}", s.group.trim_start_matches('/'), bundle.id);
    let path = json!(format!("system.slice:conf:{name}"));
    (bundle.set("/linux/cgroupsPath", path), format!("conf-{name}.scope"))
}

/// The runtime's command line with systemd as the driver.
fn call(s: &Subject, words: &[&str]) -> Run {
    s.call(&[&["--systemd-cgroup"], words].concat())
}

fn made<'a>(bundle: &Bundle<'a>, verb: &str) -> Run {
    let words = bundle.words(verb);
    call(bundle.subject, &words.iter().map(String::as_str).collect::<Vec<_>>())
}

#[track_caller]
fn started<'a>(bundle: &Bundle<'a>) -> Container<'a> {
    made(bundle, "create").expect(0);
    call(bundle.subject, &["start", &bundle.id]).expect(0);
    Container { subject: bundle.subject, id: bundle.id.clone(), group: String::new() }
}

/// Ends a container, of which systemd must know nothing any more afterwards.
#[track_caller]
fn deleted(container: &Container, unit: &str) {
    let group = group_of(container.pid());
    call(container.subject, &["delete", "--force", &container.id]).expect(0);
    gone(unit);
    assert!(!std::path::Path::new("/sys/fs/cgroup").join(group.trim_start_matches('/')).exists(), "{group} is left");
}

#[track_caller]
fn gone(unit: &str) {
    let seen = wait_for(SOON, || show(unit, "LoadState", &[]).contains("not-found").then_some(()));
    assert!(seen.is_some(), "{}", show(unit, "LoadState,ActiveState,SubState", &[]));
}

#[track_caller]
fn expect(unit: &str, of: &[&str], properties: &[(&str, &str)]) {
    let names: Vec<&str> = properties.iter().map(|(name, _)| *name).collect();
    let text = show(unit, &names.join(","), of);
    for (name, value) in properties {
        let line = format!("{name}={value}");
        assert!(text.lines().any(|one| one == line), "no {line:?} in:\n{text}");
    }
}

#[test]
#[ignore = "runs in a Debian"]
fn the_scope_is_in_the_slice_that_is_named() {
    test(|s| {
        let (bundle, unit) = scoped(s, "sleep 60");
        let path = bundle.group().replace("system.slice", "conf-inner.slice");
        let bundle = bundle.set("/linux/cgroupsPath", json!(path));
        let container = started(&bundle);
        let group = group_of(container.pid());
        assert!(group.starts_with(&format!("/conf.slice/conf-inner.slice/{unit}")), "{group}");
        expect(
            &unit,
            &[],
            &[("ActiveState", "active"), ("Slice", "conf-inner.slice"), ("Transient", "yes"), ("Delegate", "yes")],
        );
        let text = container.exec(&["cat", "/proc/self/cgroup"]).expect(0).text().to_owned();
        assert_eq!(text, format!("0::{group}"));
        // the kernel's own end of the container's processes is enough for the unit's end
        let tree = Command::new("systemd-cgls").args(["--no-pager", "-u", &unit]).output().unwrap();
        assert!(String::from_utf8_lossy(&tree.stdout).contains("sleep 60"), "{tree:?}");
        deleted(&container, &unit);
        // slices that systemd made for it stay, as it does for everybody
        assert!(Command::new("systemctl").args(["stop", "conf.slice"]).status().unwrap().success());
    });
}

#[test]
#[ignore = "runs in a Debian"]
fn a_path_that_is_not_given_is_in_the_systems_slice() {
    test(|s| {
        let bundle = s.sh("sleep 60").without("/linux/cgroupsPath");
        let container = started(&bundle);
        let group = group_of(container.pid());
        assert!(group.starts_with("/system.slice/") && group.contains(&format!("-{}.scope", bundle.id)), "{group}");
        let unit = group.split('/').find(|part| part.ends_with(".scope")).unwrap();
        expect(unit, &[], &[("ActiveState", "active"), ("Slice", "system.slice")]);
        deleted(&container, unit);
    });
}

fn resources() -> Value {
    json!({
        "memory": { "limit": 64 << 20, "swap": 96 << 20, "reservation": 32 << 20 },
        "cpu": { "shares": 1024, "quota": 50_000, "period": 100_000, "cpus": "0-1", "mems": "0" },
        "pids": { "limit": 20 },
        "devices": [
            { "allow": false, "access": "rwm" },
            { "allow": true, "type": "c", "major": 1, "minor": 11, "access": "rw" },
            { "allow": true, "type": "c", "major": 10, "access": "r" }
        ]
    })
}

#[test]
#[ignore = "runs in a Debian"]
fn limits_are_systemds_too() {
    test(|s| {
        let (bundle, unit) = scoped(s, "sleep 60");
        let container = started(&bundle.set("/linux/resources", resources()));
        expect(
            &unit,
            &[],
            &[
                ("MemoryMax", "67108864"),
                ("MemorySwapMax", "33554432"),
                ("MemoryLow", "33554432"),
                ("CPUQuotaPerSecUSec", "500ms"),
                ("TasksMax", "20"),
                ("AllowedCPUs", "0-1"),
                ("AllowedMemoryNodes", "0"),
                ("DevicePolicy", "strict"),
            ],
        );
        let weight = show(&unit, "CPUWeight", &[]);
        // the curve of runtime-spec 1.3, or the line before it
        assert!(["CPUWeight=100\n", "CPUWeight=39\n"].contains(&&*weight), "{weight}");
        let devices = show(&unit, "DeviceAllow", &[]);
        for allowed in ["char-pts rwm", "/dev/char/1:3 rwm", "/dev/char/1:11 rw"] {
            assert!(devices.contains(allowed), "no {allowed} in {devices}");
        }
        // all of a kind, by its number or its name
        assert!(devices.contains("char-10 r\n") || devices.contains("char-misc r\n"), "{devices}");
        let group = Container { group: group_of(container.pid()), ..container };
        let table = [
            ("memory.max", "67108864"),
            ("memory.swap.max", "33554432"),
            ("pids.max", "20"),
            ("cpu.max", "50000 100000"),
        ];
        for (file, value) in table {
            assert_eq!(group.limit("", file), value, "{file}");
        }
        deleted(&group, &unit);
    });
}

#[test]
#[ignore = "runs in a Debian"]
fn changed_limits_stay_when_systemd_looks_again() {
    test(|s| {
        let (bundle, unit) = scoped(s, "sleep 60");
        let container = started(&bundle.set("/linux/resources", resources()));
        let flags = ["--memory", "50331648", "--memory-swap", "50331648", "--pids-limit", "30", "--cpu-quota", "20000"];
        call(s, &[&["update"], &flags[..], &[&*container.id]].concat()).expect(0);
        let told =
            [("MemoryMax", "50331648"), ("TasksMax", "30"), ("CPUQuotaPerSecUSec", "200ms"), ("MemorySwapMax", "0")];
        expect(&unit, &[], &told);
        let container = Container { group: group_of(container.pid()), ..container };
        let look = || ["memory.max", "pids.max", "cpu.max"].map(|file| container.limit("", file));
        assert_eq!(look(), ["50331648", "30", "20000 100000"]);
        assert!(Command::new("systemctl").arg("daemon-reload").status().unwrap().success());
        expect(&unit, &[], &told);
        assert_eq!(look(), ["50331648", "30", "20000 100000"]);
        deleted(&container, &unit);
    });
}

#[test]
#[ignore = "runs in a Debian"]
fn a_scope_is_paused_and_resumed() {
    test(|s| {
        let (bundle, unit) = scoped(s, "while true; do echo x >> /tmp/file; sleep 0.1; done");
        let container = started(&bundle);
        container.await_file(&s.rootfs().join("tmp/file"));
        call(s, &["pause", &container.id]).expect(0);
        assert_eq!(container.status(), "paused");
        let group = Container { group: group_of(container.pid()), ..container };
        assert_eq!(group.limit("", "cgroup.freeze"), "1");
        let size = || std::fs::metadata(s.rootfs().join("tmp/file")).unwrap().len();
        let before = size();
        std::thread::sleep(std::time::Duration::from_millis(500));
        assert_eq!(size(), before);
        // limits can be changed meanwhile, and it stays paused
        call(s, &["update", "--pids-limit", "30", &group.id]).expect(0);
        assert_eq!(group.status(), "paused");
        call(s, &["resume", &group.id]).expect(0);
        assert_eq!(group.status(), "running");
        assert!(wait_for(SOON, || (size() > before).then_some(())).is_some());
        deleted(&group, &unit);
    });
}

#[test]
#[ignore = "runs in a Debian"]
fn an_ended_container_can_be_deleted_and_its_name_used_again() {
    test(|s| {
        let (bundle, unit) = scoped(s, "exit 7");
        for _ in 0..2 {
            let run = made(&bundle, "run");
            assert_eq!(run.code, 7, "{run:?}");
            gone(&unit);
        }
        let container = started(&bundle);
        container.await_status("stopped");
        call(s, &["delete", &container.id]).expect(0);
        gone(&unit);
        // what is ended by systemd is a stopped container
        let (bundle, unit) = scoped(s, "sleep 60");
        let container = started(&bundle);
        assert!(Command::new("systemctl").args(["kill", "--signal=KILL", &unit]).status().unwrap().success());
        container.await_status("stopped");
        call(s, &["delete", &container.id]).expect(0);
    });
}

#[test]
#[ignore = "runs in a Debian"]
fn a_container_that_can_not_be_leaves_no_unit() {
    test(|s| {
        let (bundle, unit) = scoped(s, "true");
        let bundle = bundle.set("/process/args", json!(["/not/there"]));
        made(&bundle, "run").fails();
        gone(&unit);
        let (bundle, unit) = scoped(s, "true");
        let bundle = bundle.mount("nonsense", "nonsense", "/mnt", &[]);
        made(&bundle, "create").fails();
        gone(&unit);
    });
}

#[test]
#[ignore = "runs in a Debian"]
fn annotations_are_properties() {
    test(|s| {
        let (bundle, unit) = scoped(s, "sleep 60");
        let annotations = json!({
            "org.systemd.property.CollectMode": "'inactive-or-failed'",
            "org.systemd.property.TimeoutStopUSec": "uint64 7000000"
        });
        let container = started(&bundle.set("/annotations", annotations));
        expect(&unit, &[], &[("CollectMode", "inactive-or-failed"), ("TimeoutStopUSec", "7s")]);
        deleted(&container, &unit);
        let (bundle, unit) = scoped(s, "true");
        made(&bundle.set("/annotations", json!({ "org.systemd.property.Nonsense": "true" })), "run").fails();
        gone(&unit);
    });
}

#[test]
#[ignore = "runs in a Debian"]
fn a_path_that_is_none_of_systemds_is_refused() {
    test(|s| {
        for path in ["/conf/x", "a:b", "nonsense:conf:x", "a--b.slice:conf:x"] {
            let bundle = s.bundle().set("/linux/cgroupsPath", json!(path));
            let run = made(&bundle, "run");
            assert!(!run.out.contains("RAN"), "{path} was taken");
            run.fails();
        }
    });
}

#[test]
#[ignore = "runs in a Debian"]
fn devices_are_denied_before_and_after_a_look_of_systemds() {
    test(|s| {
        let kmsg = json!([{ "path": "/dev/kmsg", "type": "c", "major": 1, "minor": 11, "fileMode": 0o666 }]);
        let (bundle, unit) = scoped(s, "sleep 60");
        let container = started(&bundle.set("/linux/devices", kmsg));
        let try_it =
            || container.exec(&["sh", "-c", "echo x > /dev/null && echo null; echo x > /dev/kmsg && echo KMSG"]).out;
        assert_eq!(try_it(), "null\n");
        assert!(Command::new("systemctl").arg("daemon-reload").status().unwrap().success());
        assert_eq!(try_it(), "null\n");
        deleted(&container, &unit);
    });
}
