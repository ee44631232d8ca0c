//! config.md: version, root, hostname, domain name, annotations, and what is not known.

use serde_json::json;

use crate::subject::test;

#[test]
fn versions_of_the_same_major_number_run() {
    test(|s| {
        for version in ["1.0.0", "1.0.2-dev", "1.2.0", "1.3.0"] {
            s.bundle().set("/ociVersion", json!(version)).run().expect(0);
        }
    });
}

#[test]
fn another_major_version_is_refused() {
    test(|s| {
        s.bundle().set("/ociVersion", json!("2.0.0")).refused();
    });
}

#[test]
fn a_version_that_is_no_version_is_refused() {
    test(|s| {
        s.bundle().set("/ociVersion", json!("one")).refused();
        s.bundle().set("/ociVersion", json!("")).refused();
    });
}

#[test]
fn a_missing_version_is_refused() {
    test(|s| {
        s.bundle().without("/ociVersion").refused();
    });
}

#[test]
fn the_root_may_be_relative_to_the_bundle() {
    test(|s| {
        let bundle = s.sh("cat /etc/word").set("/root/path", json!("../rootfs"));
        assert_eq!(bundle.out(), "word");
    });
}

#[test]
fn a_root_that_does_not_exist_is_refused() {
    test(|s| {
        s.bundle().set("/root/path", json!("/nonexistent/root")).refused();
    });
}

#[test]
fn a_root_that_is_a_file_is_refused() {
    test(|s| {
        let file = s.island.file("plain", "x");
        s.bundle().rootfs(&file).refused();
    });
}

#[test]
fn no_root_at_all_is_refused() {
    test(|s| {
        s.bundle().without("/root").refused();
    });
}

#[test]
fn a_root_is_writable_unless_it_is_read_only() {
    test(|s| {
        assert_eq!(s.sh("echo x > /etc/new && cat /etc/new").out(), "x");
        let out = s.sh("echo x > /etc/newer || echo refused; echo y > /dev/shm/ok && cat /dev/shm/ok");
        assert_eq!(out.set("/root/readonly", json!(true)).out(), "refused\ny");
        assert!(!s.rootfs().join("etc/newer").exists());
    });
}

#[test]
fn the_root_is_the_top_and_nothing_of_the_machine_is_mounted() {
    test(|s| {
        let out = s.sh("ls -d /../etc/word && cut -d' ' -f5 /proc/self/mountinfo | sort").out();
        let mut lines = out.lines();
        assert_eq!(lines.next(), Some("/../etc/word"));
        let expected = ["/", "/dev", "/dev/mqueue", "/dev/pts", "/dev/shm", "/proc", "/sys"];
        let extra: Vec<&str> = lines.filter(|line| !expected.contains(line)).collect();
        assert!(extra.is_empty(), "{extra:?}");
    });
}

#[test]
fn the_host_name_is_set_in_the_container_only() {
    test(|s| {
        let before = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
        assert_eq!(
            s.sh("hostname; cat /proc/sys/kernel/hostname").set("/hostname", json!("a-name")).out(),
            "a-name\na-name"
        );
        assert_eq!(std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap(), before);
    });
}

#[test]
fn a_host_name_without_a_uts_namespace_is_refused() {
    test(|s| {
        s.bundle().no_namespace("uts").set("/hostname", json!("mine")).refused();
    });
}

#[test]
fn a_host_name_that_is_too_long_is_refused() {
    test(|s| {
        s.bundle().set("/hostname", json!("x".repeat(65))).refused();
    });
}

#[test]
fn the_domain_name_is_set() {
    test(|s| {
        let bundle = s.sh("cat /proc/sys/kernel/domainname").set("/domainname", json!("example.org"));
        assert_eq!(bundle.out(), "example.org");
    });
}

#[test]
fn a_domain_name_without_a_uts_namespace_is_refused() {
    test(|s| {
        let bundle = s.bundle().no_namespace("uts").without("/hostname");
        bundle.set("/domainname", json!("example.org")).refused();
    });
}

#[test]
fn annotations_are_in_the_state() {
    test(|s| {
        let annotations = json!({ "org.example.key": "value", "empty": "" });
        let container = s.sh("sleep 60").set("/annotations", annotations.clone()).create();
        assert_eq!(container.state()["annotations"], annotations);
    });
}

#[test]
fn unknown_fields_are_not_an_error() {
    test(|s| {
        let bundle = s.bundle().set("/org.example.unknown", json!({ "a": [1, 2] }));
        bundle.set("/process/unknown", json!(1)).set("/linux/unknown", json!(null)).run().expect(0);
    });
}

#[test]
fn parts_for_other_systems_are_not_an_error() {
    test(|s| {
        let bundle = s.bundle().set("/solaris", json!({ "milestone": "x" }));
        bundle.set("/windows", json!({ "layerFolders": ["C:\\x"] })).run().expect(0);
    });
}

#[test]
fn a_null_where_a_field_may_be_missing_is_as_if_missing() {
    test(|s| {
        let bundle = s.bundle().set("/hooks", json!(null)).set("/annotations", json!(null));
        let bundle = bundle.set("/linux/seccomp", json!(null)).set("/process/rlimits", json!(null));
        bundle.set("/linux/devices", json!(null)).set("/linux/maskedPaths", json!(null)).run().expect(0);
    });
}

#[test]
fn a_byte_order_of_fields_does_not_matter_and_neither_do_spaces() {
    test(|s| {
        let bundle = s.bundle();
        let compact = serde_json::to_string(&bundle.config).unwrap();
        let folder = bundle.write_text(&format!("\n\t {} \r\n", compact.replace("\":", "\" :\n")));
        let run = s.call(&["run", "--bundle", folder.to_str().unwrap(), &bundle.id]).expect(0);
        assert_eq!(run.text(), "RAN");
    });
}

#[test]
fn a_configuration_of_a_megabyte_runs() {
    test(|s| {
        let long = "x".repeat(1000);
        let env: Vec<String> = (0..1000).map(|number| format!("V{number}={long}")).collect();
        let bundle = s.sh("echo $V999 | wc -c").set("/process/env", json!(env));
        assert_eq!(bundle.push("/process/env", json!("PATH=/bin")).out(), "1001");
    });
}
