//! config.md, hooks: when they run, where, with what on their standard input, and what their failure does.

use serde_json::{Value, json};

use crate::bundle::Bundle;
use crate::subject::{mount_table, test};

/// A hook that runs a shell script of the machine's shell.
fn hook(script: &str) -> Value {
    json!({ "path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/usr/bin:/bin"] })
}

/// The file on the island that hooks write to.
fn log(bundle: &Bundle) -> std::path::PathBuf {
    bundle.subject.island.path("hooks.log")
}

const KINDS: &[&str] = &["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];

#[test]
fn hooks_run_in_their_order_and_once() {
    test(|s| {
        let mut bundle = s.sh("echo program >> /mnt/hooks.log; sleep 60");
        let folder = s.island.root().to_str().unwrap().to_owned();
        bundle = bundle.mount("bind", &folder, "/mnt", &["bind", "rw"]);
        let file = log(&bundle);
        for kind in KINDS {
            // The one for the inside runs where the island is at /mnt.
            let path = if *kind == "startContainer" { "/mnt/hooks.log".into() } else { file.display().to_string() };
            for number in 1..3 {
                bundle = bundle.push(&format!("/hooks/{kind}"), hook(&format!("echo {kind}{number} >> {path}")));
            }
        }
        let lines = || std::fs::read_to_string(&file).unwrap_or_default();
        let container = bundle.create();
        let created = "prestart1\nprestart2\ncreateRuntime1\ncreateRuntime2\ncreateContainer1\ncreateContainer2\n";
        assert_eq!(lines(), created);
        container.call("start", &[]).expect(0);
        let program = testkit::wait_for(crate::subject::SOON, || lines().contains("program").then_some(()));
        assert!(program.is_some(), "{}", lines());
        // The program may be faster than the hooks after its start.
        let mut started: Vec<String> = lines()[created.len()..].lines().map(str::to_owned).collect();
        assert_eq!(started[..2], ["startContainer1", "startContainer2"]);
        started.retain(|line| line != "program");
        assert_eq!(started[2..], ["poststart1", "poststart2"]);
        container.end();
        assert!(!lines().contains("poststop"));
        container.call("delete", &[]).expect(0);
        assert!(lines().ends_with("poststop1\npoststop2\n"), "{}", lines());
        assert_eq!(lines().matches("poststop").count(), 2);
    });
}

#[test]
fn hooks_get_the_state_on_standard_input() {
    test(|s| {
        let mut bundle = s.sh("sleep 60").set("/annotations", json!({ "key": "value" }));
        let folder = s.island.root().display().to_string();
        bundle = bundle.mount("bind", &folder, "/mnt", &["bind", "rw"]);
        for kind in KINDS {
            let place = if *kind == "startContainer" { "/mnt".to_owned() } else { folder.clone() };
            bundle = bundle.push(&format!("/hooks/{kind}"), hook(&format!("cat > {place}/state.{kind}")));
        }
        let container = bundle.start();
        let pid = container.pid();
        container.end();
        container.call("delete", &[]).expect(0);
        let statuses = [
            ("prestart", &["creating", "created"][..]),
            ("createRuntime", &["creating"]),
            ("createContainer", &["creating"]),
            ("startContainer", &["created", "starting"]),
            ("poststart", &["running"]),
            ("poststop", &["stopped"]),
        ];
        for (kind, status) in statuses {
            let text = std::fs::read_to_string(s.island.path(&format!("state.{kind}"))).unwrap();
            let state: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{kind}: {error}: {text}"));
            assert_eq!(state["id"], *container.id, "{kind}: {state}");
            assert_eq!(state["bundle"].as_str(), bundle.folder().to_str(), "{kind}: {state}");
            assert_eq!(state["annotations"]["key"], "value", "{kind}: {state}");
            assert!(state["ociVersion"].is_string(), "{kind}: {state}");
            assert!(status.contains(&state["status"].as_str().unwrap()), "{kind}: {state}");
            if ["prestart", "createRuntime", "poststart"].contains(&kind) {
                assert_eq!(state["pid"], pid, "{kind}: {state}");
            }
        }
    });
}

#[test]
fn hooks_have_exactly_their_own_arguments_and_environment() {
    test(|s| {
        let file = s.island.path("seen");
        let script = format!("echo $0 $1 $2 > {0}; /usr/bin/env >> {0}", file.display());
        let hook =
            json!({ "path": "/bin/sh", "args": ["sh", "-c", script, "zero", "one", "t w o"], "env": ["A=b", "C="] });
        s.bundle().push("/hooks/createRuntime", hook).run().expect(0);
        let text = std::fs::read_to_string(file).unwrap();
        let mut lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.remove(0), "zero one t w o");
        lines.retain(|line| !line.starts_with("PWD=") && !line.starts_with("_=") && !line.starts_with("SHLVL="));
        lines.sort_unstable();
        assert_eq!(lines, ["A=b", "C="]);
    });
}

#[test]
fn a_hook_without_an_environment_has_the_callers_unless_it_runs_inside() {
    test(|s| {
        let (outside, inside) = (s.island.path("outside"), s.rootfs().join("tmp/inside"));
        let tell =
            |file: &str| json!({ "path": "/bin/sh", "args": ["sh", "-c", format!("echo \"<$CALLERS>\" > {file}")] });
        let bundle = s.bundle().push("/hooks/createRuntime", tell(outside.to_str().unwrap()));
        let bundle = bundle.push("/hooks/startContainer", tell("/tmp/inside"));
        bundle.write();
        let words = bundle.words("run");
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        s.finish(s.command(&words).env("CALLERS", "word")).expect(0);
        assert_eq!(std::fs::read_to_string(outside).unwrap(), "<word>\n");
        assert_eq!(std::fs::read_to_string(inside).unwrap(), "<>\n", "the container learns nothing of the caller");
    });
}

#[test]
fn a_hook_before_the_root_is_entered_changes_the_root() {
    test(|s| {
        // By relative paths, from the folder that becomes the root, as hooks that add a host's libraries do.
        let tools = "test -x ./bin/busybox && touch ./etc/added && mount --bind ./etc/word ./etc/added";
        let bundle = s.sh("cat /etc/added; grep -c ' /etc/added ' /proc/self/mountinfo");
        let run = bundle.push("/hooks/createContainer", hook(tools)).run().expect(0);
        assert_eq!(run.text(), "word1");
        assert!(!mount_table().contains("/etc/added"), "the mount is the container's only");
    });
}

#[test]
fn hooks_run_where_the_specification_says() {
    test(|s| {
        let folder = s.island.root().display().to_string();
        let ask = |name: &str, place: &str| {
            let file = format!("{place}/{name}");
            hook(&format!(
                "readlink /proc/self/ns/mnt > {file}.half; readlink /proc/self/ns/pid >> {file}.half; mv {file}.half {file}"
            ))
        };
        let bundle = s.sh("sleep 60").mount("bind", &folder, "/mnt", &["bind", "rw"]);
        let bundle = bundle.push("/hooks/createRuntime", ask("runtime", &folder));
        let bundle = bundle.push("/hooks/createContainer", ask("container", &folder));
        let bundle = bundle.push("/hooks/startContainer", ask("start", "/mnt"));
        let bundle = bundle.push("/hooks/poststart", ask("post", &folder));
        let container = bundle.start();
        let own = |kind: &str| std::fs::read_link(format!("/proc/thread-self/ns/{kind}")).unwrap();
        let its = |kind: &str| std::fs::read_link(format!("/proc/{}/ns/{kind}", container.pid())).unwrap();
        let seen = |name: &str| {
            let text = container.await_file(&s.island.path(name));
            text.lines().map(std::path::PathBuf::from).collect::<Vec<_>>()
        };
        assert_eq!(seen("runtime"), [own("mnt"), own("pid")]);
        assert_eq!(seen("container")[0], its("mnt"));
        assert_eq!(seen("start"), [its("mnt"), its("pid")]);
        assert_eq!(seen("post"), [own("mnt"), own("pid")]);
    });
}

#[test]
fn a_hook_of_creation_that_fails_stops_the_creation() {
    test(|s| {
        for kind in ["prestart", "createRuntime", "createContainer"] {
            let bundle = s.bundle().push(&format!("/hooks/{kind}"), hook("exit 7"));
            bundle.refused();
        }
    });
}

#[test]
fn a_hook_of_start_that_fails_stops_the_start() {
    test(|s| {
        let bundle = s.sh("echo RAN").push("/hooks/startContainer", hook("exit 7"));
        bundle.refused();
        let container = bundle.create();
        container.call("start", &[]).fails();
        container.await_status("stopped");
    });
}

#[test]
fn a_hook_after_the_end_that_fails_does_not_keep_the_container() {
    test(|s| {
        let file = s.island.path("second");
        let bundle = s.sh("true").push("/hooks/poststop", hook("exit 7"));
        let bundle = bundle.push("/hooks/poststop", hook(&format!("echo x > {}", file.display())));
        let container = bundle.start();
        container.await_status("stopped");
        container.call("delete", &[]).expect(0);
        container.call("state", &[]).fails();
        assert!(file.exists(), "the next hook did not run");
    });
}

#[test]
fn hooks_after_the_end_run_after_a_failed_start_too() {
    test(|s| {
        let file = s.island.path("post");
        let bundle = s.bundle().push("/hooks/createContainer", hook("exit 7"));
        bundle.push("/hooks/poststop", hook(&format!("echo x > {}", file.display()))).refused();
        assert!(file.exists(), "the hook did not run");
    });
}

#[test]
fn a_hook_that_takes_too_long_is_ended_and_an_error() {
    test(|s| {
        let mut slow = hook("exec sleep 100");
        slow["timeout"] = json!(1);
        s.bundle().push("/hooks/createRuntime", slow).refused();
    });
}

#[test]
fn a_hook_that_is_quick_enough_is_no_error() {
    test(|s| {
        let mut quick = hook("exit 0");
        quick["timeout"] = json!(100);
        s.bundle().push("/hooks/createRuntime", quick).run().expect(0);
    });
}

#[test]
fn a_timeout_that_is_not_above_zero_is_refused() {
    test(|s| {
        let mut never = hook("true");
        never["timeout"] = json!(-1);
        s.bundle().push("/hooks/createRuntime", never).refused();
    });
}

#[test]
fn a_hook_without_a_path_or_with_a_relative_one_is_refused() {
    test(|s| {
        s.bundle().push("/hooks/createRuntime", json!({ "args": ["sh"] })).refused();
        s.bundle().push("/hooks/createRuntime", json!({ "path": "sh", "args": ["sh", "-c", "true"] })).refused();
        s.bundle().push("/hooks/createRuntime", json!({ "path": "/no/such/hook" })).refused();
    });
}

#[test]
fn a_hook_may_look_away_from_its_input() {
    test(|s| {
        let annotations: serde_json::Map<String, Value> =
            (0..200).map(|number| (format!("key{number}"), json!("x".repeat(1000)))).collect();
        let bundle = s.bundle().set("/annotations", json!(annotations));
        bundle.push("/hooks/createRuntime", hook("exec 0<&-; exit 0")).run().expect(0);
    });
}
