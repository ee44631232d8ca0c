//! What only our own daemon and client can be asked: a daemon's own settings, the live view.

use crate::subject::{IMAGE, SOON, Subject, skip_unless_insula};
use std::fs;
use testkit::wait_for;

#[test]
fn cdi_devices_come_from_files() {
    if skip_unless_insula() {
        return;
    }
    let Some(mut subject) = Subject::start() else { return };
    let folder = subject.island.dir("cdi");
    let yaml = "cdiVersion: 0.6.0\nkind: acme.com/thing\ncontainerEdits:\n  env: [ACME=yes]\ndevices:\n- name: one\n  containerEdits:\n    deviceNodes:\n    - {path: /dev/acme, hostPath: /dev/null, permissions: rwm}\n    hooks:\n    - {hookName: createContainer, path: /bin/touch, args: [touch, made-by-hook]}\n";
    fs::write(folder.join("acme.yaml"), yaml).unwrap();
    subject.end_daemon(rustix::process::Signal::TERM);
    subject.extra = vec!["--cdi-spec-dir".to_owned(), folder.display().to_string()];
    subject.start_daemon();
    let seen = subject
        .once(&["--device", "acme.com/thing=one"], &["sh", "-c", "echo $ACME; echo x > /dev/acme; ls -l /dev/acme"]);
    let seen = seen.expect(0);
    assert!(seen.out.starts_with("yes\nc"), "{}", seen.out);
    let missing = subject.once(&["--device", "acme.com/thing=two"], &["true"]);
    assert!(missing.err.contains("unresolvable CDI devices acme.com/thing=two"), "{}", missing.err);
    let none = subject.once(&["--gpus", "all"], &["true"]);
    assert!(none.err.contains("could not select device driver"), "{}", none.err);
    subject.finish();
}

/// A client that waits after the start comes too late for a short program: what it asks for is still known.
#[test]
fn the_end_of_a_container_that_went_by_itself_is_known() {
    if skip_unless_insula() {
        return;
    }
    let Some(subject) = Subject::start() else { return };
    let id = subject.background("short", &["--rm"], &["sh", "-c", "exit 7"]);
    let gone = wait_for(SOON, || subject.insula(&["ps", "-aq"]).text().is_empty().then_some(()));
    assert!(gone.is_some(), "it stays");
    assert_eq!(subject.insula(&["wait", &id]).expect(0).text(), "7");
    assert!(subject.insula(&["wait", "short"]).expect(1).err.contains("No such container"));
    let stays = subject.insula(&["create", IMAGE, "true"]).expect(0).text().to_owned();
    subject.insula(&["rm", &stays]).expect(0);
    subject.insula(&["wait", &stays]).expect(1);
    subject.finish();
}

#[test]
fn top_is_live_on_a_terminal_and_plain_in_a_pipe() {
    if skip_unless_insula() {
        return;
    }
    let Some(subject) = Subject::start() else { return };
    subject.background("busy", &[], &["sh", "-c", "while :; do :; done"]);
    subject.background("idle", &[], &["sleep", "1000"]);
    let plain = subject.insula(&["top", "--interval", "0.5"]).expect(0).out;
    let rows: Vec<&str> = plain.lines().collect();
    assert!(rows[0].starts_with("CONTAINER ID") && rows[1].contains("busy") && rows[2].contains("idle"), "{plain}");
    assert!(!plain.contains('\x1b'), "{plain}");
    let mut terminal = subject.terminal(&["top", "--interval", "0.2"]);
    terminal.expect("PIDS", SOON);
    terminal.expect("busy", SOON);
    terminal.send("a");
    terminal.expect("NAME ▾", SOON);
    terminal.send("q");
    assert_eq!(terminal.wait(SOON).code(), Some(0), "{}", terminal.shown());
    subject.finish();
}
