//! features.md: what the runtime says it can do, and that it does not say less than it can.

use serde_json::Value;

use crate::subject::test;

fn names(value: &Value) -> Vec<&str> {
    value.as_array().map(|all| all.iter().filter_map(Value::as_str).collect()).unwrap_or_default()
}

#[test]
fn the_features_are_complete() {
    test(|s| {
        let features = s.call(&["features"]).expect(0).json();
        assert!(features["ociVersionMin"].as_str().unwrap().starts_with("1.0"), "{features}");
        assert!(features["ociVersionMax"].as_str().unwrap().starts_with("1."), "{features}");
        for hook in ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"] {
            assert!(names(&features["hooks"]).contains(&hook), "{hook}");
        }
        for option in ["bind", "rbind", "ro", "rw", "nosuid", "rro", "private", "rshared", "tmpcopyup"] {
            assert!(names(&features["mountOptions"]).contains(&option), "{option}");
        }
        let linux = &features["linux"];
        for kind in ["cgroup", "ipc", "mount", "network", "pid", "user", "uts"] {
            assert!(names(&linux["namespaces"]).contains(&kind), "{kind}");
        }
        assert!(names(&linux["capabilities"]).contains(&"CAP_SYS_ADMIN"));
        assert_eq!(linux["cgroup"]["v1"], true);
        assert_eq!(linux["cgroup"]["v2"], true);
        assert!(linux["cgroup"]["systemd"].is_boolean());
        assert_eq!(linux["seccomp"]["enabled"], true);
        for action in ["SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", "SCMP_ACT_KILL_PROCESS", "SCMP_ACT_NOTIFY"] {
            assert!(names(&linux["seccomp"]["actions"]).contains(&action), "{action}");
        }
        assert!(names(&linux["seccomp"]["operators"]).contains(&"SCMP_CMP_MASKED_EQ"));
        assert!(names(&linux["seccomp"]["archs"]).contains(&"SCMP_ARCH_X86_64"));
        assert!(linux["apparmor"]["enabled"].is_boolean());
        assert!(linux["selinux"]["enabled"].is_boolean());
    });
}

#[test]
fn the_features_of_later_versions_are_told() {
    test(|s| {
        let linux = s.call(&["features"]).expect(0).json()["linux"].clone();
        assert!(names(&linux["namespaces"]).contains(&"time"), "{linux}");
        assert!(linux["intelRdt"]["enabled"].is_boolean(), "{linux}");
        assert_eq!(linux["mountExtensions"]["idmap"]["enabled"], true, "{linux}");
        assert!(names(&linux["seccomp"]["supportedFlags"]).contains(&"SECCOMP_FILTER_FLAG_SPEC_ALLOW"), "{linux}");
    });
}
