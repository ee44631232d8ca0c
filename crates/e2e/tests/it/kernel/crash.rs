//! Daemon and helper killed at the worst moment: nothing is lost, nothing is left.

use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::subject::{Subject, skip_unless_insula};

const COUNT: usize = 400;

#[test]
fn no_line_is_lost_when_the_daemon_is_killed() {
    if skip_unless_insula() {
        return;
    }
    let Some(mut subject) = Subject::start() else { return };
    let program = format!("i=0; while [ $i -lt {COUNT} ]; do echo line $i; i=$((i+1)); sleep 0.002; done; exit 23");
    subject.background("talk", &[], &["sh", "-c", &program]);
    for _ in 0..3 {
        std::thread::sleep(Duration::from_millis(150));
        subject.end_daemon(Signal::KILL);
        std::thread::sleep(Duration::from_millis(50));
        subject.start_daemon();
        let listed = subject.insula(&["ps", "-a", "--format", "{{.Names}}"]).expect(0);
        assert_eq!(listed.text(), "talk");
    }
    assert_eq!(subject.insula(&["wait", "talk"]).expect(0).text(), "23");
    let logs = subject.insula(&["logs", "talk"]).expect(0).out;
    let expect: String = (0..COUNT).map(|i| format!("line {i}\n")).collect();
    assert!(logs == expect, "{} of {COUNT} lines:\n{logs}", logs.lines().count());
    assert_eq!(subject.field("talk", "{{.State.ExitCode}} {{.State.Status}}"), "23 exited");
    subject.insula(&["rm", "talk"]).expect(0);
    subject.assert_empty();
    subject.finish();
}

#[test]
fn an_end_without_a_daemon_is_recorded() {
    if skip_unless_insula() {
        return;
    }
    let Some(mut subject) = Subject::start() else { return };
    subject.background("gone", &[], &["sh", "-c", "sleep 0.4; echo last words; exit 42"]);
    subject.background("kept", &["--restart", "no"], &["sleep", "100"]);
    subject.insula(&["create", "--name", "made", crate::subject::IMAGE, "true"]).expect(0);
    subject.background("thrown", &["--rm"], &["sleep", "0.3"]);
    subject.end_daemon(Signal::KILL);
    std::thread::sleep(Duration::from_millis(800));
    subject.start_daemon();
    subject.await_field("gone", "{{.State.Status}} {{.State.ExitCode}}", "exited 42");
    assert_eq!(subject.insula(&["logs", "gone"]).expect(0).out, "last words\n");
    assert_eq!(subject.field("kept", "{{.State.Status}}"), "running");
    assert_eq!(subject.insula(&["exec", "kept", "echo", "still"]).expect(0).text(), "still");
    assert_eq!(subject.field("made", "{{.State.Status}}"), "created");
    let removed =
        testkit::wait_for(crate::subject::SOON, || (subject.insula(&["inspect", "thrown"]).code == 1).then_some(()));
    assert!(removed.is_some(), "--rm was forgotten");
    subject.insula(&["start", "made"]).expect(0);
    subject.finish();
}

#[test]
fn containers_outlive_a_stopped_daemon() {
    if skip_unless_insula() {
        return;
    }
    let Some(mut subject) = Subject::start() else { return };
    let mut terminal =
        subject.terminal(&["run", "-it", "--name", "shell", "--network", "none", crate::subject::IMAGE, "sh"]);
    terminal.send("A=remembered; echo rea''dy\r");
    terminal.expect("ready\r\n", crate::subject::SOON);
    subject.end_daemon(Signal::TERM);
    // The helper holds the terminal, so it goes on without the daemon.
    terminal.send("echo $A-alo''ne\r");
    terminal.expect("remembered-alone", crate::subject::SOON);
    subject.start_daemon();
    let mut second = subject.terminal(&["attach", "shell"]);
    second.send("echo $A-again; exit 3\r");
    second.expect("remembered-again", crate::subject::SOON);
    assert_eq!(second.wait(crate::subject::SOON).code(), Some(3), "{}", second.shown());
    assert_eq!(terminal.wait(crate::subject::SOON).code(), Some(3), "{}", terminal.shown());
    subject.finish();
}

#[test]
fn a_killed_helper_leaves_nothing() {
    if skip_unless_insula() {
        return;
    }
    let Some(subject) = Subject::start() else { return };
    subject.background("victim", &[], &["sleep", "100"]);
    let pid: i32 = subject.field("victim", "{{.State.Pid}}").parse().unwrap();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap().trim().parse::<i32>().unwrap();
    let name = std::fs::read_to_string(format!("/proc/{parent}/comm")).unwrap();
    assert!(name.starts_with("insula-shim"), "the parent is {name}");
    kill_process(Pid::from_raw(parent).unwrap(), Signal::KILL).unwrap();
    subject.await_field("victim", "{{.State.Running}}", "false");
    let process = format!("/proc/{pid}");
    let gone = testkit::wait_for(crate::subject::SOON, || (!std::path::Path::new(&process).exists()).then_some(()));
    assert!(gone.is_some(), "the container's process is left: {:?}", std::fs::read_to_string(process + "/status"));
    assert_ne!(subject.field("victim", "{{.State.ExitCode}}"), "0");
    subject.insula(&["start", "victim"]).expect(0);
    assert_eq!(subject.field("victim", "{{.State.Running}}"), "true");
    subject.insula(&["rm", "-f", "victim"]).expect(0);
    subject.assert_empty();
    subject.finish();
}
