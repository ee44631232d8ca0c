//! runtime.md: what each operation may be asked in which state, and what is then to be seen.

use serde_json::json;

use crate::subject::{SOON, Subject, test};

#[test]
fn a_container_goes_through_its_states() {
    test(|s| {
        let bundle = s.sh("sleep 60");
        let container = bundle.create();
        let state = container.state();
        assert_eq!(state["status"], "created");
        assert_eq!(state["id"], *container.id);
        assert_eq!(state["bundle"].as_str(), bundle.folder().to_str());
        assert!(state["ociVersion"].as_str().is_some_and(|version| version.starts_with("1.")), "{state}");
        let pid = container.pid();
        assert!(std::path::Path::new(&format!("/proc/{pid}")).exists());
        container.call("start", &[]).expect(0);
        assert_eq!((container.status().as_str(), container.pid()), ("running", pid));
        container.end();
        let stopped = container.state();
        assert!(stopped["pid"].is_null() || stopped["pid"] == 0, "{stopped}");
        container.call("delete", &[]).expect(0);
        container.call("state", &[]).fails();
    });
}

#[test]
fn a_program_runs_only_after_start() {
    test(|s| {
        let container = s.sh("echo x > /etc/started; sleep 60").create();
        let file = s.rootfs().join("etc/started");
        // The container stands, mounted and limited, and the program does not run.
        assert!(!file.exists());
        container.call("start", &[]).expect(0);
        assert_eq!(container.await_file(&file), "x\n");
    });
}

#[test]
fn start_returns_while_the_program_runs_and_a_program_that_ends_is_stopped() {
    test(|s| {
        let container = s.sh("exit 3").start();
        container.await_status("stopped");
        container.call("delete", &[]).expect(0);
    });
}

#[test]
fn operations_on_an_unknown_container_fail() {
    test(|s| {
        for words in [
            &["state", "nobody"][..],
            &["start", "nobody"],
            &["kill", "nobody", "KILL"],
            &["delete", "nobody"],
            &["exec", "nobody", "true"],
            &["pause", "nobody"],
            &["resume", "nobody"],
            &["ps", "nobody"],
            &["update", "--pids-limit", "10", "nobody"],
        ] {
            let run = s.call(words).fails();
            assert!(run.err.contains("nobody") || run.err.contains("not exist"), "{words:?}: {}", run.err);
        }
    });
}

#[test]
fn operations_without_an_id_fail() {
    test(|s| {
        for verb in ["create", "run", "state", "start", "kill", "delete", "exec", "pause", "resume", "ps", "update"] {
            s.call(&[verb]).fails();
        }
    });
}

#[test]
fn a_forced_delete_of_an_unknown_container_is_no_error() {
    test(|s| {
        s.call(&["delete", "--force", "nobody"]).expect(0);
        s.call(&["delete", "-f", "nobody"]).expect(0);
    });
}

#[test]
fn an_id_that_is_in_use_is_refused_and_its_owner_stays() {
    test(|s| {
        let first = s.sh("sleep 60");
        let container = first.start();
        let pid = container.pid();
        let mut second = s.bundle();
        second.id.clone_from(&first.id);
        let run = second.run().fails();
        assert!(run.err.contains("exist"), "{}", run.err);
        assert_eq!((container.status().as_str(), container.pid()), ("running", pid));
        let (_, again) = second.try_create();
        again.fails();
        assert_eq!(container.status(), "running");
    });
}

#[test]
fn an_id_is_free_again_after_delete() {
    test(|s| {
        let bundle = s.sh("sleep 60");
        for _ in 0..2 {
            let container = bundle.start();
            container.call("delete", &["--force"]).expect(0);
            container.call("state", &[]).fails();
        }
    });
}

/// Checks that a name is refused, and that nothing was made outside of the runtime's folder.
#[track_caller]
fn bad_id(s: &Subject, id: &str) {
    let folder = s.bundle().write();
    let run = s.call(&["run", "--bundle", folder.to_str().unwrap(), id]);
    assert!(run.code > 0 && run.code < 128 && !run.out.contains("RAN"), "the id {id:?} gave {run:?}");
}

#[test]
fn ids_that_are_paths_are_refused() {
    test(|s| {
        for id in ["", ".", "..", "../x", "a/b", "/a", "a/../b", "x/"] {
            bad_id(s, id);
        }
        assert!(!s.island.path("x").exists());
    });
}

#[test]
fn ids_with_odd_characters_are_refused() {
    test(|s| {
        for id in ["a b", "a*b", "a\nb", "ä", "a:b", "a\\b", "a$b"] {
            bad_id(s, id);
        }
    });
}

#[test]
fn ids_may_have_letters_digits_and_some_signs() {
    test(|s| {
        for id in ["A-z_0.9+x", "0", "_"] {
            let mut bundle = s.sh("sleep 60");
            bundle.id = format!("c{id}{}", std::process::id());
            s.ids.borrow_mut().push(bundle.id.clone());
            bundle.start().call("delete", &["--force"]).expect(0);
        }
    });
}

#[test]
fn start_of_a_running_or_stopped_container_fails_and_changes_nothing() {
    test(|s| {
        let container = s.sh("sleep 60").start();
        container.call("start", &[]).fails();
        assert_eq!(container.status(), "running");
        container.end();
        container.call("start", &[]).fails();
        assert_eq!(container.status(), "stopped");
    });
}

#[test]
fn kill_of_a_stopped_container_fails() {
    test(|s| {
        let container = s.sh("true").start();
        container.await_status("stopped");
        container.kill("KILL").fails();
    });
}

#[test]
fn kill_of_a_created_container_ends_it() {
    test(|s| {
        let container = s.sh("sleep 60").create();
        container.kill("KILL").expect(0);
        container.await_status("stopped");
        container.call("start", &[]).fails();
        container.call("delete", &[]).expect(0);
    });
}

#[test]
fn kill_sends_term_unless_told_otherwise() {
    test(|s| {
        let script = "trap 'echo term > /etc/got; exit' TERM; echo ready > /etc/ready; while :; do sleep 0.05; done";
        let container = s.sh(script).start();
        container.await_file(&s.rootfs().join("etc/ready"));
        container.call("kill", &[]).expect(0);
        assert_eq!(container.await_file(&s.rootfs().join("etc/got")), "term\n");
        container.await_status("stopped");
    });
}

#[test]
fn signals_have_names_and_numbers() {
    test(|s| {
        let script = "trap 'echo x >> /etc/got' USR1; echo ready > /etc/ready; while :; do sleep 0.05; done";
        let container = s.sh(script).start();
        container.await_file(&s.rootfs().join("etc/ready"));
        for (count, signal) in ["USR1", "SIGUSR1", "10"].into_iter().enumerate() {
            container.kill(signal).expect(0);
            let lines = || std::fs::read_to_string(s.rootfs().join("etc/got")).unwrap_or_default().lines().count();
            let seen = testkit::wait_for(SOON, || (lines() == count + 1).then_some(()));
            assert!(seen.is_some(), "{signal} did not arrive");
        }
        for signal in ["NONSENSE", "-1", "4711", "9x"] {
            container.subject.call(&["kill", "--", &container.id, signal]).fails();
        }
        assert_eq!(container.status(), "running");
    });
}

#[test]
fn kill_all_reaches_every_process_without_a_process_namespace() {
    test(|s| {
        let container = s.sh("sleep 61 & sleep 62 & echo ready > /etc/ready; wait").no_namespace("pid").start();
        container.await_file(&s.rootfs().join("etc/ready"));
        s.call(&["kill", "--all", &container.id, "KILL"]).expect(0);
        container.await_status("stopped");
        container.call("delete", &["--force"]).expect(0);
    });
}

#[test]
fn a_forced_delete_ends_all_processes_without_a_process_namespace() {
    test(|s| {
        let container = s.sh("sleep 63 & sleep 64 & echo ready > /etc/ready; wait").no_namespace("pid").start();
        container.await_file(&s.rootfs().join("etc/ready"));
        container.call("delete", &["--force"]).expect(0);
    });
}

#[test]
fn the_processes_of_a_container_end_with_its_first() {
    test(|s| {
        let container = s.sh("sleep 65 & sleep 66 & echo ready > /etc/ready; wait").start();
        container.await_file(&s.rootfs().join("etc/ready"));
        container.end();
        container.call("delete", &[]).expect(0);
    });
}

#[test]
fn delete_of_a_running_container_fails_without_force() {
    test(|s| {
        let container = s.sh("sleep 60").start();
        container.call("delete", &[]).fails();
        assert_eq!(container.status(), "running");
        container.call("delete", &["--force"]).expect(0);
        container.call("state", &[]).fails();
    });
}

#[test]
fn delete_of_a_created_container_works_as_in_practice_or_fails_and_changes_nothing() {
    test(|s| {
        // The specification: only a stopped one. runc deletes a created one all the same.
        let container = s.sh("sleep 60").create();
        let run = container.call("delete", &[]);
        if run.code == 0 {
            container.call("state", &[]).fails();
        } else {
            assert_eq!(container.status(), "created");
        }
    });
}

#[test]
fn delete_twice_fails_the_second_time() {
    test(|s| {
        let container = s.sh("true").start();
        container.await_status("stopped");
        container.call("delete", &[]).expect(0);
        container.call("delete", &[]).fails();
    });
}

#[test]
fn a_program_that_goes_away_between_create_and_start_is_reported_by_start_or_stops() {
    test(|s| {
        let program = s.rootfs().join("bin/extra");
        std::fs::copy(s.rootfs().join("bin/busybox"), &program).unwrap();
        let container = s.bundle().args(&["/bin/extra", "true"]).create();
        std::fs::remove_file(&program).unwrap();
        // runc does not wait for the program, so it can't say.
        container.call("start", &[]);
        container.await_status("stopped");
        container.call("delete", &[]).expect(0);
    });
}

#[test]
fn a_changed_configuration_does_not_reach_a_created_container() {
    test(|s| {
        let bundle = s.sh("echo first > /etc/which; sleep 60");
        let container = bundle.create();
        bundle.write_text("{}");
        container.call("start", &[]).expect(0);
        assert_eq!(container.await_file(&s.rootfs().join("etc/which")), "first\n");
        assert_eq!(container.exec(&["echo", "still"]).expect(0).text(), "still");
        container.end();
        container.call("delete", &[]).expect(0);
    });
}

#[test]
fn pause_stops_the_processes_and_resume_lets_them_go_on() {
    test(|s| {
        let container = s.sh("while :; do echo x >> /etc/ticks; sleep 0.01; done").start();
        let ticks = s.rootfs().join("etc/ticks");
        container.await_file(&ticks);
        container.call("pause", &[]).expect(0);
        container.await_status("paused");
        let size = || std::fs::metadata(&ticks).unwrap().len();
        let before = size();
        std::thread::sleep(std::time::Duration::from_millis(100));
        assert_eq!(size(), before);
        container.call("resume", &[]).expect(0);
        assert_eq!(container.status(), "running");
        let on = testkit::wait_for(SOON, || (size() > before).then_some(()));
        assert!(on.is_some(), "the processes stand still after resume");
    });
}

#[test]
fn pause_and_resume_fail_where_they_make_no_sense() {
    test(|s| {
        let container = s.sh("sleep 60").start();
        container.call("resume", &[]).fails();
        container.end();
        container.call("pause", &[]).fails();
        container.call("resume", &[]).fails();
    });
}

#[test]
fn a_paused_container_can_be_killed_and_deleted_by_force() {
    test(|s| {
        let container = s.sh("sleep 60").start();
        container.call("pause", &[]).expect(0);
        container.call("delete", &["--force"]).expect(0);
        container.call("state", &[]).fails();
    });
}

#[test]
fn an_exec_in_a_paused_container_is_refused() {
    test(|s| {
        let container = s.sh("sleep 60").start();
        container.call("pause", &[]).expect(0);
        container.exec(&["true"]).fails();
        container.call("resume", &[]).expect(0);
        container.exec(&["true"]).expect(0);
    });
}

#[test]
fn a_failed_create_leaves_the_name_free() {
    test(|s| {
        let mut bundle = s.bundle().args(&["/no/such/program"]);
        bundle.refused();
        bundle = bundle.args(&["sleep", "60"]);
        bundle.start().call("delete", &["--force"]).expect(0);
    });
}

#[test]
fn a_late_failure_of_create_leaves_no_group_and_no_process() {
    test(|s| {
        let bundle = s.bundle().mount("nonsense", "none", "/mnt", &[]);
        bundle.refused();
        for folder in crate::machine::hierarchies() {
            let group = folder.join(bundle.group().trim_start_matches('/'));
            assert!(!group.join("cgroup.procs").exists(), "{} is left", group.display());
        }
    });
}

#[test]
fn state_is_complete_json() {
    test(|s| {
        let container = s.sh("sleep 60").set("/annotations", json!({ "k": "v" })).start();
        let state = container.state();
        for (field, kind) in [("ociVersion", "s"), ("id", "s"), ("status", "s"), ("pid", "n"), ("bundle", "s")] {
            let value = &state[field];
            assert!(if kind == "s" { value.is_string() } else { value.is_u64() }, "{field} in {state}");
        }
        assert!(state["rootfs"].as_str().is_some_and(|path| path.ends_with("rootfs")), "{state}");
        let created = state["created"].as_str().unwrap_or_default();
        assert!(created.len() >= 20 && created.ends_with('Z') && created.contains('T'), "{state}");
    });
}

#[test]
fn many_containers_at_once_do_not_disturb_each_other() {
    test(|s| {
        let bundles: Vec<_> =
            (0..8).map(|number| s.sh(&format!("echo {number} > /dev/shm/x; cat /dev/shm/x"))).collect();
        let mut children = Vec::new();
        for bundle in &bundles {
            let words = bundle.words("run");
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            children.push(s.begin(&mut s.command(&words), std::process::Stdio::null()));
        }
        for (number, (out, err, mut child)) in children.into_iter().enumerate() {
            let code = crate::subject::end_of(&mut child);
            let (out, err) = (std::fs::read_to_string(out).unwrap(), std::fs::read_to_string(err).unwrap());
            assert_eq!((code, out.trim()), (0, &*number.to_string()), "{err}");
        }
    });
}

#[test]
fn what_outlives_the_first_process_without_a_process_namespace_can_be_killed() {
    test(|s| {
        let script = "sleep 71 & sleep 72 & echo ready > /etc/ready; wait";
        let container = s.sh(script).no_namespace("pid").start();
        container.await_file(&s.rootfs().join("etc/ready"));
        let first = rustix::process::Pid::from_raw(container.pid()).unwrap();
        rustix::process::kill_process(first, rustix::process::Signal::KILL).unwrap();
        container.await_status("stopped");
        s.call(&["kill", &container.id, "KILL"]).expect(0);
        testkit::wait_for(SOON, || container.limit("pids", "cgroup.procs").trim().is_empty().then_some(())).unwrap();
        container.call("delete", &[]).expect(0);
        s.call(&["kill", &container.id, "KILL"]).fails();
    });
}

#[test]
fn a_socket_gets_the_first_processs_pidfd() {
    test(|s| {
        for verb in ["run", "exec"] {
            let (socket, receiver) = super::terminal::await_descriptor(s, verb);
            let flags = ["--pidfd-socket", &socket];
            let bundle = s.sh("sleep 60");
            let container = if verb == "run" { bundle.flags(&flags).start() } else { bundle.start() };
            if verb == "exec" {
                container.exec_with(&[&flags[..], &["--detach"]].concat(), &["sleep", "61"]).expect(0);
            }
            let pidfd = receiver.recv_timeout(SOON).unwrap().expect("no descriptor came");
            rustix::process::pidfd_send_signal(&pidfd, rustix::process::Signal::KILL).unwrap();
            if verb == "run" {
                container.await_status("stopped");
            }
            container.call("delete", &["--force"]).expect(0);
        }
    });
}
