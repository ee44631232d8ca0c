//! What only our own daemon and client can be asked: a daemon's own settings, the live view.

use crate::subject::{Subject, skip_unless_insula};
use std::fs;

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
