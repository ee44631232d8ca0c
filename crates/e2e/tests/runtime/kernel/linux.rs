//! config-linux.md: kernel parameters, masked and read-only paths, propagation, personality, memory policy, and more.

use serde_json::json;

use crate::subject::test;

#[test]
fn kernel_parameters_of_own_namespaces_are_set() {
    test(|s| {
        let sysctl = json!({
            "net.ipv4.ip_forward": "1", "net.core.somaxconn": "256", "kernel.shmmax": "123456789", "fs.mqueue.msg_max": "42",
            "kernel.domainname": "example.net"
        });
        let script = "cd /proc/sys; cat net/ipv4/ip_forward net/core/somaxconn kernel/shmmax fs/mqueue/msg_max kernel/domainname";
        let bundle = s.sh(script).set("/linux/sysctl", sysctl);
        assert_eq!(bundle.out(), "1\n256\n123456789\n42\nexample.net");
    });
}

#[test]
fn kernel_parameters_may_be_written_with_slashes() {
    test(|s| {
        let bundle = s.sh("cat /proc/sys/net/ipv4/ip_forward");
        assert_eq!(bundle.set("/linux/sysctl", json!({ "net/ipv4/ip_forward": "1" })).out(), "1");
    });
}

#[test]
fn kernel_parameters_of_the_machine_are_refused() {
    test(|s| {
        for name in ["kernel.panic", "vm.swappiness", "kernel.hostname", "fs.file-max", "nonsense"] {
            s.bundle().set("/linux/sysctl", json!({ (name): "1" })).refused();
        }
        s.bundle().no_namespace("network").set("/linux/sysctl", json!({ "net.core.somaxconn": "256" })).refused();
        s.bundle()
            .no_namespace("ipc")
            .no_mount("/dev/mqueue")
            .set("/linux/sysctl", json!({ "kernel.shmmax": "1" }))
            .refused();
    });
}

#[test]
fn a_kernel_parameter_does_not_lead_elsewhere() {
    test(|s| {
        let before = std::fs::read_to_string("/proc/sys/kernel/panic").unwrap();
        s.bundle().set("/linux/sysctl", json!({ "net/../kernel/panic": "77" })).run();
        let after = std::fs::read_to_string("/proc/sys/kernel/panic").unwrap();
        std::fs::write("/proc/sys/kernel/panic", &before).unwrap();
        assert_eq!(before, after);
    });
}

#[test]
fn a_value_that_the_kernel_refuses_is_refused() {
    test(|s| {
        s.bundle().set("/linux/sysctl", json!({ "net.ipv4.ip_forward": "nonsense" })).refused();
    });
}

#[test]
fn masked_paths_can_not_be_read() {
    test(|s| {
        let script = "cat /proc/version | wc -c; ls /lower | wc -l; cat /etc/word; echo x > /etc/word || echo refused";
        let masked = json!(["/proc/version", "/lower", "/etc/word", "/proc/does-not-exist"]);
        let run = s.sh(script).set("/linux/maskedPaths", masked).run().expect(0);
        assert_eq!(run.text().split_whitespace().next(), Some("0"));
        assert!(!run.out.contains("word"), "{}", run.out);
        assert_eq!(run.text().split_whitespace().nth(1), Some("0"), "{}", run.out);
        assert_eq!(std::fs::read_to_string(s.rootfs().join("etc/word")).unwrap(), "word");
        assert!(s.rootfs().join("lower/deep").exists());
    });
}

#[test]
fn masked_folders_can_not_be_written() {
    test(|s| {
        let bundle =
            s.sh("echo x > /lower/x && echo written || echo refused").set("/linux/maskedPaths", json!(["/lower"]));
        assert_eq!(bundle.out(), "refused");
    });
}

#[test]
fn read_only_paths_can_be_read_and_not_written() {
    test(|s| {
        let script = "cat /etc/word; echo x > /etc/word || echo refused; echo x > /lower/deep/file || echo refused; \
                      echo 1 > /proc/sys/net/ipv4/ip_forward || echo refused";
        let bundle =
            s.sh(script).set("/linux/readonlyPaths", json!(["/etc/word", "/lower", "/proc/sys", "/no/such/path"]));
        assert_eq!(bundle.out(), "wordrefused\nrefused\nrefused");
    });
}

#[test]
fn masked_and_read_only_paths_must_be_absolute_or_without_effect() {
    test(|s| {
        for list in ["maskedPaths", "readonlyPaths"] {
            let run =
                s.sh("echo x > /etc/word; cat /etc/word").set(&format!("/linux/{list}"), json!(["etc/word"])).run();
            assert!(run.code != 0 || !run.out.contains("RAN"), "{run:?}");
        }
    });
}

#[test]
fn the_propagation_of_the_root_is_set() {
    test(|s| {
        let kind = |value: &str| {
            let bundle = s.sh("awk '$5 == \"/\"' /proc/self/mountinfo | sed 's/ - .*//' | cut -d' ' -f7-");
            bundle.set("/linux/rootfsPropagation", json!(value)).out()
        };
        assert!(kind("shared").contains("shared:"), "{}", kind("shared"));
        assert_eq!(kind("private"), "");
        assert!(kind("unbindable").contains("unbindable"), "{}", kind("unbindable"));
        for value in ["slave", "rslave", "rprivate"] {
            assert!(!kind(value).contains("shared:"), "{value}");
        }
    });
}

#[test]
fn an_unknown_propagation_of_the_root_is_refused() {
    test(|s| {
        s.bundle().set("/linux/rootfsPropagation", json!("nonsense")).refused();
    });
}

#[test]
fn the_personality_is_set() {
    test(|s| {
        let bundle = s.bundle().args(&["uname", "-m"]).set("/linux/personality", json!({ "domain": "LINUX32" }));
        assert_ne!(bundle.out(), s.bundle().args(&["uname", "-m"]).out());
        s.bundle().set("/linux/personality", json!({ "domain": "LINUX" })).run().expect(0);
    });
}

#[test]
fn an_unknown_personality_is_refused() {
    test(|s| {
        s.bundle().set("/linux/personality", json!({ "domain": "NONSENSE" })).refused();
        s.bundle().set("/linux/personality", json!({ "domain": "LINUX", "flags": ["NONSENSE"] })).refused();
    });
}

#[test]
fn the_memory_policy_is_set() {
    test(|s| {
        let policy = json!({ "mode": "MPOL_BIND", "nodes": "0" });
        let bundle = s.sh("head -1 /proc/self/numa_maps").set("/linux/memoryPolicy", policy);
        let out = bundle.out();
        assert!(out.contains("bind:0") || out.contains("bind=static:0"), "{out}");
    });
}

#[test]
fn an_unknown_memory_policy_is_refused() {
    test(|s| {
        s.bundle().set("/linux/memoryPolicy", json!({ "mode": "MPOL_NONSENSE", "nodes": "0" })).refused();
        s.bundle().set("/linux/memoryPolicy", json!({ "mode": "MPOL_BIND", "nodes": "x" })).refused();
        let flags = json!({ "mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_NONSENSE"] });
        s.bundle().set("/linux/memoryPolicy", flags).refused();
    });
}

#[test]
fn cache_allocation_without_resctrl_is_refused() {
    test(|s| {
        if crate::subject::mount_table().contains(" - resctrl ") {
            return println!("skipped: this machine has resctrl");
        }
        s.bundle().set("/linux/intelRdt", json!({ "closID": "x", "l3CacheSchema": "L3:0=f" })).refused();
    });
}

#[test]
fn a_mount_label_without_selinux_is_refused_or_without_effect() {
    test(|s| {
        let run = s.bundle().set("/linux/mountLabel", json!("system_u:object_r:container_file_t:s0")).run();
        assert!(run.code == 0 && run.text() == "RAN" || run.code > 0 && !run.err.is_empty(), "{run:?}");
    });
}

#[test]
fn no_pivot_works_where_it_is_asked() {
    test(|s| {
        assert_eq!(s.sh("cat /etc/word; ls -d /../etc/word").flags(&["--no-pivot"]).out(), "word/../etc/word");
    });
}

#[test]
fn the_session_keyring_is_the_containers_own() {
    test(|s| {
        if !crate::machine::has_or_skip("/proc/keys") {
            return;
        }
        s.bundle().flags(&["--no-new-keyring"]).run().expect(0);
        let out = s.sh("cat /proc/keys").capabilities(&["CAP_SYS_ADMIN"]).run();
        assert!(out.out.is_empty() || out.out.contains("_ses"), "{out:?}");
    });
}
