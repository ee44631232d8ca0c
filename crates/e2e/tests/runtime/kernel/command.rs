//! The command line of runc: run, list, ps, spec, log files, pid files, and mistakes.

use serde_json::{Value, json};

use crate::subject::test;

#[test]
fn run_removes_the_container_unless_it_is_to_be_kept() {
    test(|s| {
        let gone = s.sh("true");
        gone.run().expect(0);
        s.call(&["state", &gone.id]).fails();
        let kept = s.sh("exit 3").flags(&["--keep"]);
        kept.run().expect(3);
        assert_eq!(s.call(&["state", &kept.id]).expect(0).json()["status"], "stopped");
        s.call(&["delete", &kept.id]).expect(0);
    });
}

#[test]
fn run_in_the_background_returns_at_once() {
    test(|s| {
        for flag in ["--detach", "-d"] {
            let bundle = s.sh("echo x > /etc/ran; sleep 60").flags(&[flag]);
            bundle.run().expect(0);
            assert_eq!(s.call(&["state", &bundle.id]).expect(0).json()["status"], "running");
            s.call(&["delete", "--force", &bundle.id]).expect(0);
        }
        assert!(s.rootfs().join("etc/ran").exists());
    });
}

#[test]
fn run_reads_standard_input_and_hands_on_signals() {
    test(|s| {
        let bundle = s.sh("cat; trap 'echo got; exit 9' TERM; echo ready > /etc/ready; while :; do sleep 0.05; done");
        let words = bundle.words("run");
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let input = std::fs::File::open(s.island.file("input", "typed\n")).unwrap();
        let (out, err, mut child) = s.begin(&mut s.command(&words), input.into());
        let ready = s.rootfs().join("etc/ready");
        let seen = testkit::wait_for(crate::subject::SOON, || ready.exists().then_some(()));
        assert!(seen.is_some(), "{}", std::fs::read_to_string(err).unwrap());
        rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::TERM).unwrap();
        assert_eq!(crate::subject::end_of(&mut child), 9);
        assert_eq!(std::fs::read_to_string(out).unwrap(), "typed\ngot\n");
    });
}

#[test]
fn the_bundle_is_the_working_folder_unless_given() {
    test(|s| {
        let bundle = s.sh("cat /etc/word");
        let folder = bundle.write();
        let run = s.finish(s.command(&["run", &bundle.id]).current_dir(&folder)).expect(0);
        assert_eq!(run.text(), "word");
        let path = folder.to_str().unwrap();
        assert_eq!(s.call(&["run", "-b", path, &bundle.id]).expect(0).text(), "word");
        assert_eq!(s.call(&["run", &format!("--bundle={path}"), &bundle.id]).expect(0).text(), "word");
        let relative = s.finish(s.command(&["run", "--bundle", ".", &bundle.id]).current_dir(&folder));
        assert_eq!(relative.expect(0).text(), "word");
    });
}

#[test]
fn the_process_number_is_written_to_a_file() {
    test(|s| {
        let file = s.island.path("pid");
        let container = s.sh("sleep 60").flags(&["--pid-file", file.to_str().unwrap()]).create();
        assert_eq!(std::fs::read_to_string(&file).unwrap(), container.pid().to_string());
        let bad = s.sh("sleep 60").flags(&["--pid-file", "/nonexistent/folder/pid"]);
        bad.refused();
    });
}

#[test]
fn further_descriptors_are_handed_on_when_asked() {
    test(|s| {
        let file = s.island.file("kept", "through three");
        let bundle = s.sh("cat <&3; echo $LISTEN_FDS; ls /proc/self/fd | tail -1").flags(&["--preserve-fds", "1"]);
        let mut command = std::process::Command::new("sh");
        command
            .args(["-c", "exec 3<\"$0\" 4</dev/null; exec \"$@\""])
            .arg(file)
            .arg(&s.program)
            .arg("--root")
            .arg(s.root());
        let run = s.finish(command.args(bundle.words("run"))).expect(0);
        assert!(run.text().starts_with("through three\n4"), "{}", run.out);
    });
}

#[test]
fn sockets_of_the_caller_are_handed_on_with_their_number() {
    test(|s| {
        let bundle = s.sh("echo $LISTEN_FDS $LISTEN_PID; cat <&3");
        let file = s.island.file("kept", "socket");
        let mut command = std::process::Command::new("sh");
        command
            .args(["-c", "exec 3<\"$0\"; export LISTEN_FDS=1 LISTEN_PID=$$; exec \"$@\""])
            .arg(file)
            .arg(&s.program)
            .arg("--root")
            .arg(s.root());
        assert_eq!(s.finish(command.args(bundle.words("run"))).expect(0).text(), "1 1\nsocket");
    });
}

#[test]
fn containers_are_listed() {
    test(|s| {
        let bundle = s.sh("sleep 60").set("/annotations", json!({ "a": "b" }));
        let first = bundle.start();
        let second = s.sh("sleep 60").create();
        let quiet = s.call(&["list", "--quiet"]).expect(0);
        let mut ids: Vec<&str> = quiet.text().lines().collect();
        ids.sort_unstable();
        assert_eq!(ids, [&*first.id, &*second.id]);
        assert_eq!(s.call(&["list", "-q"]).expect(0).out, quiet.out);
        let table = s.call(&["list"]).expect(0);
        let lines: Vec<Vec<&str>> = table.text().lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[0], ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"], "{}", table.out);
        let row = lines.iter().find(|row| row[0] == first.id).unwrap();
        assert_eq!(row[1..4], [&*first.pid().to_string(), "running", bundle.folder().to_str().unwrap()]);
        let json = s.call(&["list", "--format", "json"]).expect(0).json();
        let entry = json.as_array().unwrap().iter().find(|entry| entry["id"] == *second.id).unwrap();
        assert_eq!((&entry["status"], &entry["pid"]), (&json!("created"), &json!(second.pid())));
        assert!(entry["bundle"].is_string() && entry["created"].is_string() && entry["owner"].is_string(), "{entry}");
    });
}

#[test]
fn an_empty_list_is_empty() {
    test(|s| {
        assert_eq!(s.call(&["list", "--quiet"]).expect(0).text(), "");
        assert_eq!(s.call(&["list"]).expect(0).text().lines().count(), 1);
        let json = s.call(&["list", "--format", "json"]).expect(0).json();
        assert!(json.is_null() || json == json!([]), "{json}");
        s.call(&["list", "--format", "nonsense"]).fails();
    });
}

#[test]
fn processes_are_shown() {
    test(|s| {
        let container = s.sh("sleep 61 & sleep 62 & wait").start();
        let pids = || {
            let json = container.call("ps", &["--format", "json"]).expect(0).json();
            json.as_array().unwrap().iter().map(|pid| pid.as_i64().unwrap()).collect::<Vec<_>>()
        };
        let all = testkit::wait_for(crate::subject::SOON, || Some(pids()).filter(|pids| pids.len() == 3));
        assert!(all.is_some_and(|pids| pids.contains(&i64::from(container.pid()))));
        let table = container.call("ps", &[]).expect(0);
        assert!(table.out.lines().next().unwrap().contains("PID"), "{}", table.out);
        assert!(table.out.contains("sleep 61") && table.out.contains("sleep 62"), "{}", table.out);
        assert_eq!(table.text().lines().count(), 4);
        let custom = s.call(&["ps", &container.id, "-o", "pid,comm"]).expect(0);
        assert!(custom.out.contains("sleep") && !custom.out.contains("sleep 61"), "{}", custom.out);
    });
}

#[test]
fn a_default_configuration_is_written_and_runs() {
    test(|s| {
        let folder = s.island.dir("fresh");
        s.finish(s.command(&["spec"]).current_dir(&folder)).expect(0);
        let text = std::fs::read_to_string(folder.join("config.json")).unwrap();
        let mut config: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(config["root"]["path"], "rootfs");
        assert_eq!(config["process"]["args"], json!(["sh"]));
        // Version 1 shows a container no groups but its own, so the namespace is for the user to add, once.
        let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
        let unified = std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
        assert_eq!(namespaces.iter().any(|one| one["type"] == "cgroup"), unified);
        if !unified {
            namespaces.push(json!({ "type": "cgroup" }));
        }
        config["root"]["path"] = json!(s.rootfs());
        config["process"]["terminal"] = json!(false);
        config["process"]["args"] = json!(["echo", "default"]);
        let bundle = s.bundle();
        let path = bundle.write_text(&config.to_string());
        // Its group has no name of its own.
        let run = s.call(&["run", "--bundle", path.to_str().unwrap(), &bundle.id]);
        assert_eq!(run.expect(0).text(), "default");
        s.finish(s.command(&["spec"]).current_dir(&folder)).fails();
        let other = s.island.dir("other");
        s.call(&["spec", "--bundle", other.to_str().unwrap()]).expect(0);
        assert!(other.join("config.json").exists());
    });
}

#[test]
fn a_rootless_configuration_has_a_user_namespace() {
    test(|s| {
        let folder = s.island.dir("fresh");
        s.finish(s.command(&["spec", "--rootless"]).current_dir(&folder)).expect(0);
        let text = std::fs::read_to_string(folder.join("config.json")).unwrap();
        let config: Value = serde_json::from_str(&text).unwrap();
        let kinds: Vec<&str> = config["linux"]["namespaces"]
            .as_array()
            .unwrap()
            .iter()
            .map(|namespace| namespace["type"].as_str().unwrap())
            .collect();
        assert!(kinds.contains(&"user") && !kinds.contains(&"network"), "{kinds:?}");
        assert_eq!(config["linux"]["uidMappings"][0]["size"], 1);
    });
}

#[test]
fn the_log_is_written_in_the_form_that_was_asked_for() {
    test(|s| {
        let file = s.island.path("log.json").display().to_string();
        let bundle = s.bundle().args(&["/no/such/program"]);
        let folder = bundle.write();
        let words = ["--log", &file, "--log-format", "json", "run", "--bundle", folder.to_str().unwrap(), &bundle.id];
        s.call(&words).fails();
        let text = std::fs::read_to_string(&file).unwrap();
        let last: Value =
            serde_json::from_str(text.lines().last().unwrap()).unwrap_or_else(|error| panic!("{error}: {text}"));
        assert_eq!(last["level"], "error", "{text}");
        assert!(last["msg"].as_str().unwrap().contains("/no/such/program"), "{text}");
        assert!(last["time"].as_str().unwrap().contains('T'), "{text}");
        let file = s.island.path("log.text").display().to_string();
        let text_words = ["--log", &file, "--log-format=text", "run", "--bundle", folder.to_str().unwrap(), &bundle.id];
        s.call(&text_words).fails();
        assert!(std::fs::read_to_string(&file).unwrap().contains("/no/such/program"));
    });
}

#[test]
fn a_form_of_the_log_that_does_not_exist_is_refused() {
    test(|s| {
        s.call(&["--log-format", "nonsense", "list"]).fails();
    });
}

#[test]
fn two_roots_do_not_know_each_others_containers() {
    test(|s| {
        let container = s.sh("sleep 60").start();
        let other = s.island.dir("other-root");
        let mut command = std::process::Command::new(&s.program);
        command.arg("--root").arg(&other).args(["state", &container.id]);
        s.finish(&mut command).fails();
    });
}

#[test]
fn unknown_commands_and_flags_are_refused() {
    test(|s| {
        for words in [
            &["nonsense"][..],
            &["run", "--nonsense", "x"],
            &["list", "--nonsense"],
            &["--nonsense", "list"],
            &["state", "one", "two"],
            &["create", "--bundle"],
        ] {
            let run = s.call(words);
            assert!(run.code > 0, "{words:?} gave {run:?}");
        }
    });
}

#[test]
fn help_and_version_are_printed() {
    test(|s| {
        for words in [&["--help"][..], &["--version"], &["run", "--help"], &["exec", "--help"]] {
            let run = s.call(words).expect(0);
            assert!(!run.text().is_empty(), "{words:?}");
        }
        assert!(s.call(&["--version"]).out.contains("spec: 1."));
    });
}

#[test]
fn a_runtime_says_the_name_that_it_is_called_by() {
    test(|s| {
        // As where it stands in for runc.
        let named = s.island.path("runc");
        std::os::unix::fs::symlink(&s.program, &named).unwrap();
        let said = |words: &[&str]| {
            let output = std::process::Command::new(&named).args(words).output().unwrap();
            assert!(output.status.success(), "{words:?}: {output:?}");
            String::from_utf8(output.stdout).unwrap()
        };
        let version = said(&["--version"]);
        let starts: Vec<&str> = version.lines().map(|line| line.split(':').next().unwrap()).collect();
        assert!(starts[0].starts_with("runc version ") && starts[1..].starts_with(&["commit", "spec"]), "{version}");
        assert!(said(&["--help"]).contains("runc - Open Container Initiative runtime"));
        assert!(said(&["kill", "--help"]).contains("runc kill"));
    });
}

#[test]
fn the_stages_of_a_start_are_told_to_who_looks_for_a_fault() {
    test(|s| {
        let log = s.island.path("log").display().to_string();
        let told = |words: &[&str]| {
            // not there where nothing was told
            let _ = std::fs::remove_file(&log);
            s.call(&[&["--debug", "--log", &log], words].concat()).expect(0);
            std::fs::read_to_string(&log).unwrap()
        };
        let bundle = s.sh("sleep 60");
        let folder = bundle.write().display().to_string();
        let made = told(&["create", "--bundle", &folder, &bundle.id]);
        for stage in
            ["nsexec container setup", "child process in init()", "init: closing the pipe to signal completion"]
        {
            assert!(made.contains(stage) && made.contains("level=debug"), "{stage}: {made}");
        }
        let joined = told(&["exec", &bundle.id, "true"]);
        for stage in ["nsexec container setup", "child process in init()", "setns_init: about to exec"] {
            assert!(joined.contains(stage), "{stage}: {joined}");
        }
        s.call(&["delete", "--force", &bundle.id]).expect(0);
    });
}
