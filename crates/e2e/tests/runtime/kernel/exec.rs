//! `exec`: its flags, and what it shares with the container's first process.

use serde_json::json;

use crate::subject::test;

#[test]
fn the_exit_code_and_the_streams_are_the_programs() {
    test(|s| {
        let container = s.sh("sleep 60").start();
        let run = container.exec(&["sh", "-c", "echo out; echo err >&2; exit 7"]).expect(7);
        assert_eq!((run.text(), run.err.trim()), ("out", "err"));
        container.exec(&["sh", "-c", "kill -9 $$"]).expect(137);
    });
}

#[test]
fn standard_input_reaches_the_program() {
    test(|s| {
        let container = s.sh("sleep 60").start();
        let file = s.island.file("input", "some words");
        let words = ["exec", &container.id, "cat"];
        let input = std::fs::File::open(file).unwrap();
        let (out, err, mut child) = s.begin(&mut s.command(&words), input.into());
        let code = crate::subject::end_of(&mut child);
        assert_eq!(code, 0, "{}", std::fs::read_to_string(err).unwrap());
        assert_eq!(std::fs::read_to_string(out).unwrap(), "some words");
    });
}

#[test]
fn flags_after_the_id_are_the_programs() {
    test(|s| {
        let container = s.sh("sleep 60").start();
        assert_eq!(container.exec(&["echo", "-e", "--user", "--help"]).expect(0).text(), "--user --help");
    });
}

#[test]
fn the_environment_and_the_folder_are_the_containers_unless_given() {
    test(|s| {
        let bundle = s.sh("sleep 60").push("/process/env", json!("KEPT=yes")).set("/process/cwd", json!("/etc"));
        let container = bundle.start();
        assert_eq!(container.exec(&["sh", "-c", "echo $KEPT $NEW; pwd"]).expect(0).text(), "yes\n/etc");
        let flags = ["-e", "NEW=x y", "-e", "KEPT=no", "--cwd", "/tmp"];
        assert_eq!(container.exec_with(&flags, &["sh", "-c", "echo $KEPT $NEW; pwd"]).expect(0).text(), "no x y\n/tmp");
        assert_eq!(
            container.exec_with(&["--cwd=/tmp", "--env=A=b"], &["sh", "-c", "pwd; echo $A"]).expect(0).text(),
            "/tmp\nb"
        );
    });
}

#[test]
fn the_user_can_be_chosen() {
    test(|s| {
        let container = s.sh("sleep 60").start();
        let ask = "id -u; id -g; id -G";
        assert_eq!(container.exec_with(&["--user", "1000"], &["sh", "-c", ask]).expect(0).text(), "1000\n0\n0");
        assert_eq!(container.exec_with(&["-u", "1000:1001"], &["sh", "-c", ask]).expect(0).text(), "1000\n1001\n1001");
        container.exec_with(&["--user", "nonsense:x"], &["true"]).fails();
    });
}

#[test]
fn further_groups_can_be_given() {
    test(|s| {
        let container = s.sh("sleep 60").start();
        let flags = ["--user", "1000:1000", "--additional-gids", "100", "--additional-gids", "65534"];
        assert_eq!(container.exec_with(&flags, &["id", "-G"]).expect(0).text(), "1000 100 65534");
    });
}

#[test]
fn a_capability_can_be_added() {
    test(|s| {
        let container = s.sh("sleep 60").start();
        let bounding = |flags: &[&str]| {
            let out = container.exec_with(flags, &["grep", "CapBnd", "/proc/self/status"]).expect(0);
            u64::from_str_radix(out.text().split_whitespace().nth(1).unwrap(), 16).unwrap()
        };
        let chown = 1;
        assert_eq!(bounding(&[]) & chown, 0);
        assert_eq!(bounding(&["--cap", "CAP_CHOWN"]), bounding(&[]) | chown);
    });
}

#[test]
fn no_new_privileges_is_the_containers_or_asked() {
    test(|s| {
        let container = s.sh("sleep 60").set("/process/noNewPrivileges", json!(false)).start();
        let value = |flags: &[&str]| {
            let out = container.exec_with(flags, &["grep", "NoNewPrivs", "/proc/self/status"]).expect(0);
            out.text().split_whitespace().nth(1).unwrap().to_owned()
        };
        assert_eq!(value(&["--no-new-privs"]), "1");
        assert_eq!(value(&[]), "0");
    });
}

#[test]
fn a_process_file_says_all() {
    test(|s| {
        let container = s.sh("sleep 60").start();
        let process = json!({
            "terminal": false, "cwd": "/tmp", "env": ["PATH=/bin", "FROM=file"],
            "args": ["sh", "-c", "pwd; echo $FROM; id -u; grep Max.cpu /proc/self/limits"],
            "user": { "uid": 5, "gid": 6 },
            "rlimits": [{ "type": "RLIMIT_CPU", "soft": 77, "hard": 88 }]
        });
        let file = s.island.file("process.json", &process.to_string()).display().to_string();
        for flag in ["--process", "-p"] {
            let run = s.call(&["exec", flag, &file, &container.id]).expect(0);
            let lines: Vec<&str> = run.text().lines().collect();
            assert_eq!(lines[..3], ["/tmp", "file", "5"]);
            assert_eq!(lines[3].split_whitespace().skip(3).take(2).collect::<Vec<_>>(), ["77", "88"]);
        }
        let broken = s.island.file("broken.json", "{").display().to_string();
        s.call(&["exec", "--process", &broken, &container.id]).fails();
        s.call(&["exec", "--process", "/nonexistent.json", &container.id]).fails();
    });
}

#[test]
fn a_detached_program_goes_on_and_its_number_is_written() {
    test(|s| {
        let container = s.sh("sleep 60").start();
        let file = s.island.path("exec.pid");
        let flags = ["--detach", "--pid-file", file.to_str().unwrap()];
        container.exec_with(&flags, &["sh", "-c", "echo x > /etc/detached; sleep 61"]).expect(0);
        let pid: i32 = std::fs::read_to_string(file).unwrap().trim().parse().unwrap();
        let ns = |pid: i32| std::fs::read_link(format!("/proc/{pid}/ns/mnt")).unwrap();
        assert_eq!(ns(pid), ns(container.pid()));
        assert_eq!(container.await_file(&s.rootfs().join("etc/detached")), "x\n");
    });
}

#[test]
fn a_program_that_does_not_exist_is_an_error_of_its_own() {
    test(|s| {
        let container = s.sh("sleep 60").start();
        let run = container.exec(&["/no/such/program"]).fails();
        assert!(run.err.contains("/no/such/program"), "{}", run.err);
        container.exec(&["/etc/word"]).fails();
        assert_eq!(container.status(), "running");
    });
}

#[test]
fn an_exec_without_a_program_is_refused() {
    test(|s| {
        let container = s.sh("sleep 60").start();
        container.exec(&[]).fails();
    });
}

#[test]
fn an_exec_in_a_stopped_container_is_refused() {
    test(|s| {
        let container = s.sh("true").start();
        container.await_status("stopped");
        container.exec(&["echo", "RAN"]).fails();
    });
}

#[test]
fn an_exec_is_in_the_containers_group_and_limited_as_it() {
    test(|s| {
        let container = s.sh("sleep 60").set("/linux/resources/pids", json!({ "limit": 50 })).start();
        let out = container.exec(&["cat", "/proc/self/cgroup"]).expect(0);
        assert!(out.out.lines().any(|line| line.ends_with(&container.group)), "{}", out.out);
        let run = container.exec(&["sh", "-c", "for i in $(seq 60); do sleep 1 & done"]);
        assert!(run.err.contains("fork"), "{run:?}");
    });
}

#[test]
fn an_exec_has_the_containers_rights() {
    test(|s| {
        let limits = json!([{ "type": "RLIMIT_CPU", "soft": 111, "hard": 222 }]);
        let bundle = s.sh("sleep 60").capabilities(&["CAP_CHOWN"]).set("/process/rlimits", limits);
        let container = bundle.set("/process/oomScoreAdj", json!(500)).start();
        let out = container
            .exec(&["sh", "-c", "grep CapEff /proc/self/status; cat /proc/self/oom_score_adj; ulimit -t"])
            .expect(0);
        let words: Vec<&str> = out.text().split_whitespace().collect();
        assert_eq!(words, ["CapEff:", "0000000000000001", "500", "111"]);
    });
}

#[test]
fn no_descriptor_of_the_runtime_leaks_into_an_exec() {
    test(|s| {
        let container = s.sh("sleep 60").start();
        assert_eq!(container.exec(&["ls", "/proc/self/fd"]).expect(0).text(), "0\n1\n2\n3");
    });
}

#[test]
fn many_execs_at_once_work() {
    test(|s| {
        let container = s.sh("sleep 60").start();
        let mut children = Vec::new();
        for number in 0..10 {
            let text = number.to_string();
            let words = ["exec", &container.id, "echo", &text];
            children.push(s.begin(&mut s.command(&words), std::process::Stdio::null()));
        }
        for (number, (out, err, mut child)) in children.into_iter().enumerate() {
            let code = crate::subject::end_of(&mut child);
            assert_eq!(code, 0, "{}", std::fs::read_to_string(err).unwrap());
            assert_eq!(std::fs::read_to_string(out).unwrap().trim(), number.to_string());
        }
    });
}

#[test]
fn an_exec_in_a_created_container_works_or_is_refused_in_a_word() {
    test(|s| {
        let container = s.sh("sleep 60").create();
        let run = container.exec(&["echo", "in"]);
        assert!(run.code == 0 && run.text() == "in" || run.code > 0 && !run.err.is_empty(), "{run:?}");
        assert_eq!(container.status(), "created");
    });
}

#[test]
fn further_descriptors_are_handed_on_when_asked() {
    test(|s| {
        let container = s.sh("sleep 60").start();
        let file = s.island.file("kept", "through three");
        let mut command = std::process::Command::new("sh");
        command.args(["-c", "exec 3<\"$0\"; exec \"$@\""]).arg(file).arg(&s.program).arg("--root").arg(s.root());
        command.args(["exec", "--preserve-fds", "1", &container.id, "cat", "/proc/self/fd/3"]);
        assert_eq!(s.finish(&mut command).expect(0).text(), "through three");
    });
}

#[test]
fn an_exec_can_be_put_into_a_group_below() {
    test(|s| {
        if !crate::machine::has_controller_or_skip("pids") {
            return;
        }
        let container = s.sh("sleep 60").start();
        std::fs::create_dir(s.group_folder("pids", &container.group).join("below")).unwrap();
        let run = container.exec_with(&["--cgroup", "pids:below"], &["grep", ":pids:", "/proc/self/cgroup"]);
        container.call("delete", &["--force"]).expect(0);
        assert!(run.expect(0).text().ends_with("/below"));
    });
}

#[test]
fn a_process_from_a_file_needs_no_user() {
    test(|s| {
        let container = s.sh("sleep 60").start();
        let process = s.island.file("process", r#"{"args": ["id", "-u"], "cwd": "/", "env": ["PATH=/bin:/usr/bin"]}"#);
        let flags = ["--process", process.to_str().unwrap()];
        assert_eq!(container.exec_with(&flags, &[]).expect(0).text(), "0");
    });
}

#[test]
fn no_group_outside_of_the_containers_can_be_joined() {
    test(|s| {
        let container = s.sh("sleep 60").start();
        for (path, words) in [("..", "sub cgroup path"), ("../..", "sub cgroup path"), ("none", "no such file")] {
            let run = container.exec_with(&["--cgroup", path], &["true"]).fails();
            assert!(run.err.to_lowercase().contains(words), "{path}: {}", run.err);
        }
    });
}
