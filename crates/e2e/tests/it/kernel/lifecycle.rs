//! From created to gone: stop, kill, pause, exec, logs, top, stats, rename, lists.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;
use std::time::Instant;

use crate::subject::{IMAGE, Kind, SOON, Subject};

#[test]
fn stop_asks_and_kill_does_not() {
    let Some(subject) = Subject::start() else { return };
    // process 1 gets no signal that it has not asked for yet
    let background = |name: &str, options: &[&str], trap: &str| {
        let script = format!("trap {trap}; echo ready; while :; do sleep 0.05; done");
        subject.background(name, options, &["sh", "-c", &script]);
        let ready = || subject.insula(&["logs", name]).out.contains("ready").then_some(());
        assert!(testkit::wait_for(SOON, ready).is_some(), "{name}");
    };
    background("polite", &[], "'exit 3' TERM");
    subject.insula(&["stop", "-t", "10", "polite"]).expect(0);
    assert_eq!(subject.field("polite", "{{.State.ExitCode}}"), "3");
    background("deaf", &[], "'' TERM");
    let begin = Instant::now();
    subject.insula(&["stop", "-t", "1", "deaf"]).expect(0);
    assert!(begin.elapsed().as_millis() >= 900, "{:?}", begin.elapsed());
    assert_eq!(subject.field("deaf", "{{.State.ExitCode}}"), "137");
    subject.background("killed", &[], &["sleep", "100"]);
    subject.insula(&["kill", "killed"]).expect(0);
    subject.await_field("killed", "{{.State.Status}} {{.State.ExitCode}}", "exited 137");
    background("own", &["--stop-signal", "USR1"], "'exit 4' USR1");
    subject.insula(&["stop", "own"]).expect(0);
    assert_eq!(subject.field("own", "{{.State.ExitCode}}"), "4");
    subject.insula(&["kill", "own"]).expect(1);
    subject.insula(&["restart", "killed"]).expect(0);
    assert_eq!(subject.field("killed", "{{.State.Running}}"), "true");
    let refused = subject.insula(&["rm", "killed"]).expect(1);
    assert!(refused.err.contains("running"), "{}", refused.err);
    subject.insula(&["rm", "-f", "killed"]).expect(0);
    subject.insula(&["rm", "polite", "deaf", "own"]).expect(0);
    subject.assert_empty();
    subject.finish();
}

#[test]
fn a_paused_container_halts() {
    let Some(subject) = Subject::start() else { return };
    subject.background("halted", &[], &["sh", "-c", "while :; do echo tick; sleep 0.02; done"]);
    subject.insula(&["pause", "halted"]).expect(0);
    assert_eq!(subject.field("halted", "{{.State.Status}}"), "paused");
    assert!(subject.insula(&["ps"]).expect(0).out.contains("(Paused)"));
    let before = subject.insula(&["logs", "halted"]).expect(0).out;
    std::thread::sleep(std::time::Duration::from_millis(200));
    assert_eq!(subject.insula(&["logs", "halted"]).expect(0).out, before);
    subject.insula(&["exec", "halted", "true"]).expect(1);
    subject.insula(&["unpause", "halted"]).expect(0);
    let more = testkit::wait_for(SOON, || (subject.insula(&["logs", "halted"]).out.len() > before.len()).then_some(()));
    assert!(more.is_some());
    subject.insula(&["rm", "-f", "halted"]).expect(0);
    subject.assert_empty();
    subject.finish();
}

#[test]
fn programs_are_run_in_a_running_container() {
    let Some(subject) = Subject::start() else { return };
    subject.background("host", &["-e", "A=1"], &["sleep", "100"]);
    let run =
        subject.insula(&["exec", "-e", "B=2", "-w", "/tmp", "host", "sh", "-c", "echo $A$B; pwd; exit 5"]).expect(5);
    assert_eq!(run.out, "12\n/tmp\n");
    assert_eq!(subject.insula(&["exec", "-u", "1000", "host", "id", "-u"]).expect(0).text(), "1000");
    assert_eq!(subject.insula_with(&["exec", "-i", "host", "cat"], b"fed\n").expect(0).out, "fed\n");
    let same = subject.insula(&["exec", "host", "readlink", "/proc/self/ns/pid", "/proc/1/ns/pid"]).expect(0);
    let links: Vec<&str> = same.out.lines().collect();
    assert_eq!(links[0], links[1]);
    let missing = subject.insula(&["exec", "host", "nope"]);
    assert!([126, 127].contains(&missing.code), "{missing:?}");
    assert!(missing.err.contains("nope") || missing.out.contains("nope"), "{missing:?}");
    subject.insula(&["exec", "-d", "host", "touch", "/made"]).expect(0);
    let made =
        testkit::wait_for(SOON, || (subject.insula(&["exec", "host", "test", "-e", "/made"]).code == 0).then_some(()));
    assert!(made.is_some());
    let top = subject.insula(&["top", "host"]).expect(0);
    assert!(top.out.contains("sleep 100") && top.out.contains("PID"), "{}", top.out);
    subject.insula(&["rm", "-f", "host"]).expect(0);
    let gone = subject.insula(&["exec", "host", "true"]).expect(1);
    assert!(gone.err.contains("host"), "{}", gone.err);
    subject.assert_empty();
    subject.finish();
}

#[test]
fn logs_are_followed_to_the_end() {
    let Some(subject) = Subject::start() else { return };
    subject.background("talk", &[], &["sh", "-c", "for i in 1 2 3 4 5; do echo line $i; sleep 0.1; done"]);
    let mut child = subject.command(&["logs", "-f", "talk"]).stdout(Stdio::piped()).spawn().unwrap();
    let lines: Vec<String> = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap).collect();
    assert_eq!(lines, ["line 1", "line 2", "line 3", "line 4", "line 5"]);
    assert!(child.wait().unwrap().success());
    let stamped = subject.insula(&["logs", "-t", "--tail", "2", "talk"]).expect(0);
    let stamped: Vec<&str> = stamped.out.lines().collect();
    assert_eq!(stamped.len(), 2);
    assert!(stamped[0].starts_with("20") && stamped[0].ends_with("Z line 4"), "{stamped:?}");
    assert_eq!(subject.insula(&["logs", "--since", "0s", "talk"]).expect(0).out, "");
    subject.finish();
}

#[test]
fn lists_show_what_is_there() {
    let Some(subject) = Subject::start() else { return };
    subject.background("first", &["-l", "kind=a"], &["sleep", "100"]);
    subject.insula(&["create", "--name", "second", "-l", "kind=b", IMAGE, "true"]).expect(0);
    let names = |words: &[&str]| {
        let run = subject.insula(&[&["ps", "--format", "{{.Names}}"][..], words].concat()).expect(0);
        run.out.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    assert_eq!(names(&[]), "first");
    assert_eq!(names(&["-a"]), "second first");
    assert_eq!(names(&["-l"]), "second");
    assert_eq!(names(&["-a", "--filter", "label=kind=a"]), "first");
    assert_eq!(names(&["-a", "--filter", "status=created"]), "second");
    assert_eq!(names(&["-a", "--filter", "name=sec"]), "second");
    subject.insula(&["rename", "second", "third"]).expect(0);
    assert_eq!(names(&["-l"]), "third");
    let table = subject.insula(&["ps", "-a"]).expect(0).out;
    assert!(table.starts_with("CONTAINER ID   IMAGE"), "{table}");
    assert!(table.contains("Created") && table.contains("Up "), "{table}");
    let images = subject.insula(&["images", "--format", "{{.Repository}}:{{.Tag}}"]).expect(0);
    assert_eq!(images.text(), IMAGE);
    subject.insula(&["tag", IMAGE, "other:2"]).expect(0);
    assert_eq!(subject.insula(&["images", "-q"]).expect(0).out.lines().count(), 1);
    assert!(subject.insula(&["rmi", "other:2"]).expect(0).out.contains("Untagged: other:2"));
    let used = subject.insula(&["rmi", IMAGE]).expect(1);
    assert!(used.err.contains("container"), "{}", used.err);
    subject.insula(&["rm", "-f", "first", "third"]).expect(0);
    subject.insula(&["rmi", IMAGE]).expect(0);
    assert_eq!(subject.insula(&["images", "-q"]).expect(0).out, "");
    let version = subject.insula(&["version", "--format", "{{.Server.ApiVersion}}"]).expect(0);
    assert!(version.text().starts_with("1."), "{}", version.out);
    assert!(subject.insula(&["info"]).expect(0).out.contains("Cgroup Version"));
    if subject.kind == Kind::Insula {
        let doctor = subject.insula(&["doctor"]);
        assert!(doctor.out.starts_with("CHECK"), "{doctor:?}");
    }
    subject.finish();
}

#[test]
fn many_start_at_once() {
    let Some(subject) = Subject::start() else { return };
    std::thread::scope(|scope| {
        let subject = &subject;
        // The first ones of the default network come together, too.
        let start = move |i: i32| {
            let network = if i % 2 == 0 { "none" } else { "bridge" };
            subject.insula(&["run", "--rm", "--network", network, IMAGE, "sh", "-c", &format!("exit {i}")])
        };
        let runs: Vec<_> = (0..20).map(|i| scope.spawn(move || (i, start(i)))).collect();
        for run in runs {
            let (i, run) = run.join().unwrap();
            run.expect(i);
        }
    });
    subject.assert_empty();
    subject.finish();
}
