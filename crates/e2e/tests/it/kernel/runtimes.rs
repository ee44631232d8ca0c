//! Containers that another OCI runtime of the machine runs, and checkpoints as far as this kernel lets criu go.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use rustix::process::Signal;
use testkit::{Island, rootfs, wait_for};

use crate::subject::{IMAGE, SOON, Subject, image_tar, programs, skip_unless_insula};

/// A runtime that writes down what it is asked.
fn witness(island: &Island, program: &str) -> Option<(PathBuf, PathBuf)> {
    let own = programs().join(program);
    let Some(found) = rootfs::find(program).or_else(|| own.is_file().then_some(own)) else {
        println!("skipped: no {program} in PATH");
        return None;
    };
    let log = island.path(&format!("{program}.calls"));
    let script = format!("#!/bin/sh\necho \"$@\" >> {}\nexec {} \"$@\"\n", log.display(), found.display());
    let wrapper = island.file(&format!("{program}.sh"), &script);
    std::fs::set_permissions(&wrapper, std::fs::Permissions::from_mode(0o755)).unwrap();
    Some((wrapper, log))
}

#[test]
fn containers_run_by_other_runtimes_are_like_ours() {
    if skip_unless_insula() {
        return;
    }
    let mut known = Vec::new();
    let subject = Subject::bare_with(|island| {
        for name in ["runc", "crun", "insula-oci"] {
            known.extend(witness(island, name).map(|(wrapper, log)| (name, wrapper, log)));
        }
        let flags = known
            .iter()
            .flat_map(|(name, wrapper, _)| ["--add-runtime".to_owned(), format!("{name}={}", wrapper.display())]);
        flags.chain(["--add-runtime".to_owned(), "gone=/no/such/runtime".to_owned()]).collect()
    });
    let Some(mut subject) = subject else { return };
    subject.insula(&["import", image_tar().to_str().unwrap(), IMAGE]).expect(0);
    let unknown = subject.insula(&["run", "--runtime", "nope", IMAGE, "true"]).expect(125);
    assert!(unknown.err.contains("unknown or invalid runtime name: nope"), "{}", unknown.err);
    let gone = subject.insula(&["run", "--rm", "--runtime", "gone", IMAGE, "true"]);
    assert!(gone.code != 0 && gone.err.contains("/no/such/runtime"), "{}", gone.err);
    let info = subject.insula(&["info", "--format", "{{json .Runtimes}} {{.DefaultRuntime}}"]).expect(0);
    assert!(info.out.contains("/no/such/runtime") && info.text().ends_with(" insula"), "{}", info.out);
    for (name, _, log) in &known {
        let first = subject.insula(&["run", "--rm", "--runtime", name, IMAGE, "true"]);
        if first.code == 125 && first.err.contains("cgroups in hybrid mode not supported") {
            println!("skipped: {name} can't make a container on this machine: {}", first.err.trim());
            continue;
        }
        first.expect(0);
        life(&mut subject, name);
        let calls = std::fs::read_to_string(log).unwrap();
        for verb in ["create", "start", "exec", "pause", "resume", "update", "kill", "delete"] {
            assert!(calls.contains(&format!(" {verb} ")), "{name} was never asked to {verb}:\n{calls}");
        }
    }
    subject.finish();
}

/// One container's life by a runtime.
fn life(subject: &mut Subject, runtime: &str) {
    let run = |options: &[&str], program: &[&str]| {
        subject.insula(&[&["run", "--rm", "--runtime", runtime][..], options, &[IMAGE], program].concat())
    };
    let said = run(&[], &["sh", "-c", "echo out; echo err >&2; exit 7"]).expect(7);
    assert_eq!((said.out.as_str(), said.err.as_str()), ("out\n", "err\n"), "{runtime}");
    assert_eq!(run(&[], &["/no/such/program"]).code, 127, "{runtime}");
    assert_eq!(run(&[], &["/etc/passwd"]).code, 126, "{runtime}");
    assert_eq!(run(&["-t"], &["tty"]).expect(0).text(), "/dev/pts/0", "{runtime}");
    assert_eq!(run(&["--hostname", "elsewhere"], &["cat", "/etc/hostname"]).expect(0).text(), "elsewhere");
    let flags = run(&[], &["grep", "Seccomp:", "/proc/self/status"]).expect(0);
    assert_eq!(flags.text().split_whitespace().last(), Some("2"), "no filter by {runtime}");
    let first = run(&["--init"], &["sh", "-c", "cat /proc/1/comm; sh -c 'exit 4'; exit $?"]).expect(4);
    assert_eq!(first.text(), "init", "no process 1 of ours by {runtime}");
    assert_eq!(run(&["--init"], &["/no/such/program"]).code, 127);
    let volume = run(&["-v", "kept:/kept", "--user", "65534"], &["sh", "-c", "id -u; ls -d /kept"]).expect(0);
    assert_eq!(volume.text(), "65534\n/kept");
    let program = "trap 'echo bye; exit 3' TERM; echo up; while :; do sleep 0.05; done";
    let words = ["run", "-d", "--name", "long", "--runtime", runtime, "--memory", "64m", IMAGE, "sh", "-c", program];
    subject.insula(&words).expect(0);
    assert_eq!(subject.field("long", "{{.HostConfig.Runtime}} {{.State.Status}}"), format!("{runtime} running"));
    let exec = |subject: &Subject, words: &[&str]| subject.insula(&[&["exec"][..], words].concat());
    assert_eq!(exec(subject, &["long", "sh", "-c", "echo in; exit 5"]).expect(5).text(), "in");
    assert!(exec(subject, &["-t", "long", "tty"]).expect(0).text().starts_with("/dev/pts/"), "{runtime}");
    assert_eq!(exec(subject, &["long", "/no/such"]).code, 127);
    subject.insula(&["pause", "long"]).expect(0);
    assert_eq!(subject.field("long", "{{.State.Status}}"), "paused");
    subject.insula(&["unpause", "long"]).expect(0);
    subject.insula(&["update", "--memory", "32m", "--memory-swap", "-1", "long"]).expect(0);
    // neither the runtime's container nor what is known of it ends with the daemon
    subject.end_daemon(Signal::KILL);
    subject.start_daemon();
    assert_eq!(subject.field("long", "{{.State.Status}}"), "running");
    assert_eq!(exec(subject, &["long", "echo", "still"]).expect(0).text(), "still");
    subject.insula(&["stop", "long"]).expect(0);
    assert_eq!(subject.field("long", "{{.State.ExitCode}} {{.State.Status}}"), "3 exited");
    assert_eq!(subject.insula(&["logs", "long"]).expect(0).out, "up\nbye\n");
    subject.insula(&["start", "long"]).expect(0);
    subject.insula(&["rm", "-f", "long"]).expect(0);
    subject.assert_empty();
}

#[test]
fn checkpoints_are_kept_whole_or_refused_with_a_reason() {
    if skip_unless_insula() {
        return;
    }
    let Some(subject) = Subject::start() else { return };
    let Some(_) = subject.docker_command(&[]) else { return };
    subject.background("long", &[], &["sh", "-c", "i=0; while :; do i=$((i+1)); echo $i; sleep 0.05; done"]);
    let refused = |words: &[&str], part: &str| {
        let run = subject.docker(words);
        assert!(run.code != 0 && run.err.contains(part), "{words:?}: {}", run.err);
    };
    assert_eq!(subject.docker(&["checkpoint", "ls", "long"]).expect(0).out.lines().count(), 1);
    refused(&["checkpoint", "create", "nobody", "one"], "No such container");
    refused(&["checkpoint", "create", "long", "../one"], "Invalid checkpoint ID");
    refused(&["checkpoint", "rm", "long", "one"], "does not exist");
    refused(&["start", "--checkpoint", "one", "long"], "does not exist");
    let elsewhere = subject.island.dir("checkpoints").display().to_string();
    let made = subject.docker(&["checkpoint", "create", "--checkpoint-dir", &elsewhere, "long", "one"]);
    if made.code != 0 {
        // what criu could not do here has changed nothing
        assert!(made.err.contains("criu"), "{}", made.err);
        println!("skipped: criu can't write processes down here: {}", made.err.trim());
        assert_eq!(subject.field("long", "{{.State.Status}}"), "running");
        assert_eq!(std::fs::read_dir(&elsewhere).unwrap().count(), 0);
        assert_eq!(subject.docker(&["checkpoint", "ls", "long"]).expect(0).out.lines().count(), 1);
        return subject.finish();
    }
    subject.await_field("long", "{{.State.Status}}", "exited");
    let count = || subject.insula(&["logs", "long"]).expect(0).out.lines().count();
    let before = count();
    let listed = subject.docker(&["checkpoint", "ls", "--checkpoint-dir", &elsewhere, "long"]).expect(0);
    assert!(listed.out.contains("one"), "{}", listed.out);
    subject.docker(&["start", "--checkpoint-dir", &elsewhere, "--checkpoint", "one", "long"]).expect(0);
    let on = wait_for(SOON, || (count() > before).then_some(()));
    assert!(on.is_some(), "it stands at {before}");
    let last = subject.insula(&["logs", "--tail", "1", "long"]).expect(0);
    assert!(last.text().parse::<usize>().is_ok_and(|number| number > before), "it began anew: {}", last.out);
    subject.docker(&["checkpoint", "create", "--leave-running", "long", "two"]).expect(0);
    assert_eq!(subject.field("long", "{{.State.Status}}"), "running");
    refused(&["checkpoint", "create", "--leave-running", "long", "two"], "already exists");
    subject.docker(&["checkpoint", "rm", "long", "two"]).expect(0);
    subject.finish();
}
