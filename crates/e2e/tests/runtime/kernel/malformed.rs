//! config.json as it must not be: each is refused with a word, and leaves nothing.

use serde_json::json;

use crate::bundle::Bundle;
use crate::subject::{Run, Subject, test};

/// Runs a bundle whose `config.json` is any text; it must be refused.
#[track_caller]
fn refused_text(bundle: &Bundle, text: &str) -> Run {
    let folder = bundle.write_text(text);
    let run = bundle.subject.call(&["run", "--bundle", folder.to_str().unwrap(), &bundle.id]).fails();
    assert!(!run.out.contains("RAN"), "{run:?}");
    assert_ne!(bundle.subject.call(&["state", &bundle.id]).code, 0, "a container is left");
    run
}

#[test]
fn no_configuration_is_refused() {
    test(|s| {
        let bundle = s.bundle();
        let folder = s.island.dir("empty");
        let run = s.call(&["run", "--bundle", folder.to_str().unwrap(), &bundle.id]).fails();
        assert!(run.err.contains("config.json"), "{}", run.err);
        s.call(&["run", "--bundle", "/nonexistent/bundle", &bundle.id]).fails();
        assert!(!s.root().join(&bundle.id).exists());
    });
}

#[test]
fn text_that_is_no_json_is_refused() {
    test(|s| {
        let whole = serde_json::to_string(&s.bundle().config).unwrap();
        let half = &whole[..whole.len() / 2];
        let twice = format!("{whole}{whole}");
        let comma = whole.replacen("\",\"", "\",,\"", 1);
        for text in ["", " ", "{", "}", "null", "[]", "\"x\"", "1", "\u{0}", half, &comma] {
            refused_text(&s.bundle(), text);
        }
        // What comes after the object is an error or not read, but never a second configuration.
        let bundle = s.bundle();
        let folder = bundle.write_text(&twice);
        let run = s.call(&["run", "--bundle", folder.to_str().unwrap(), &bundle.id]);
        assert!(run.out.matches("RAN").count() <= 1, "{run:?}");
    });
}

#[test]
fn bytes_that_are_no_text_are_refused() {
    test(|s| {
        let bundle = s.bundle();
        let folder = bundle.write();
        std::fs::write(folder.join("config.json"), [0xff, 0xfe, b'{', 0, b'}', 0]).unwrap();
        s.call(&["run", "--bundle", folder.to_str().unwrap(), &bundle.id]).fails();
        assert!(!s.root().join(&bundle.id).exists());
    });
}

#[test]
fn depth_without_end_is_refused_without_a_crash() {
    test(|s| {
        refused_text(&s.bundle(), &"[".repeat(200_000));
        refused_text(&s.bundle(), &"{\"a\":".repeat(100_000));
    });
}

#[test]
fn a_configuration_that_is_a_folder_or_a_device_is_refused() {
    test(|s| {
        let bundle = s.bundle();
        let folder = s.island.dir("odd/config.json");
        let parent = folder.parent().unwrap().to_str().unwrap().to_owned();
        s.call(&["run", "--bundle", &parent, &bundle.id]).fails();
        std::fs::remove_dir(&folder).unwrap();
        std::os::unix::fs::symlink("/dev/null", &folder).unwrap();
        s.call(&["run", "--bundle", &parent, &bundle.id]).fails();
    });
}

/// Every field of the table with a value of the wrong type; all that were not refused are named.
#[track_caller]
fn wrong_types(s: &Subject, table: &[(&str, serde_json::Value)]) {
    let mut taken = Vec::new();
    for (pointer, value) in table {
        let bundle = s.bundle().set(pointer, value.clone());
        let run = bundle.run();
        let refused = run.code > 0 && run.code < 128 && !run.out.contains("RAN");
        if !refused || s.root().join(&bundle.id).exists() {
            taken.push(format!("{pointer} = {value} gave {} {}{}", run.code, run.out.trim(), run.err.trim()));
        }
    }
    assert!(taken.is_empty(), "not refused:\n{}", taken.join("\n"));
}

#[test]
fn wrong_types_at_the_top_are_refused() {
    test(|s| {
        wrong_types(
            s,
            &[
                ("/ociVersion", json!(1)),
                ("/root", json!("rootfs")),
                ("/root/path", json!(1)),
                ("/root/readonly", json!("yes")),
                ("/hostname", json!({})),
                ("/mounts", json!("x")),
                ("/mounts/0", json!("x")),
                ("/annotations", json!([])),
                ("/annotations", json!({ "a": 1 })),
                ("/hooks", json!([])),
                ("/linux", json!([])),
            ],
        );
    });
}

#[test]
fn wrong_types_in_process_are_refused() {
    test(|s| {
        wrong_types(
            s,
            &[
                ("/process", json!("sh")),
                ("/process/terminal", json!("no")),
                ("/process/user", json!("root")),
                ("/process/user/uid", json!("0")),
                ("/process/user/uid", json!(-1)),
                ("/process/user/gid", json!(5_000_000_000_u64)),
                ("/process/user/additionalGids", json!(["x"])),
                ("/process/args", json!("sh")),
                ("/process/args", json!([1])),
                ("/process/env", json!({})),
                ("/process/cwd", json!(["/"])),
                ("/process/capabilities", json!("ALL")),
                ("/process/rlimits", json!({})),
                ("/process/rlimits", json!([{ "type": "RLIMIT_CPU", "soft": -1, "hard": "x" }])),
                ("/process/noNewPrivileges", json!(1)),
                ("/process/oomScoreAdj", json!("high")),
            ],
        );
    });
}

#[test]
fn wrong_types_in_linux_are_refused() {
    test(|s| {
        wrong_types(
            s,
            &[
                ("/linux/namespaces", json!({})),
                ("/linux/namespaces/0", json!("pid")),
                ("/linux/uidMappings", json!("0:0:1")),
                ("/linux/devices", json!({ "path": "/dev/x" })),
                ("/linux/cgroupsPath", json!(1)),
                ("/linux/resources", json!([])),
                ("/linux/resources/memory", json!(1024)),
                ("/linux/resources/memory/limit", json!("1M")),
                ("/linux/resources/pids", json!(10)),
                ("/linux/resources/devices", json!("all")),
                ("/linux/resources/cpu", json!({ "shares": "many" })),
                ("/linux/sysctl", json!(["a=b"])),
                ("/linux/seccomp", json!("default")),
                ("/linux/maskedPaths", json!("/proc/kcore")),
                ("/linux/readonlyPaths", json!([1])),
                ("/linux/rootfsPropagation", json!(1)),
            ],
        );
    });
}

#[test]
fn a_nul_byte_in_a_string_is_refused() {
    test(|s| {
        s.bundle().args(&["sh", "-c", "echo RAN", "a\u{0}b"]).refused();
        s.bundle().push("/process/env", json!("A=b\u{0}c")).refused();
    });
}

#[test]
fn a_megabyte_of_arguments_runs_and_more_than_the_kernel_takes_is_refused() {
    test(|s| {
        let many = |count: usize| {
            let mut args = vec!["sh".to_owned(), "-c".to_owned(), "echo RAN $#".to_owned(), "sh".to_owned()];
            args.extend((0..count).map(|_| "x".repeat(1000)));
            s.bundle().set("/process/args", json!(args))
        };
        assert_eq!(many(1000).out(), "RAN 1000");
        many(8000).refused();
    });
}
