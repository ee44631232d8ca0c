//! `checkpoint` and `restore`.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::bundle::Bundle;
use crate::container::Container;
use crate::subject::{Run, SOON, Subject, test};

/// A container that counts.
fn counter(s: &Subject) -> Bundle<'_> {
    // without UDP, raw, packet and netlink diagnosis in the kernel, criu takes no network namespace along
    s.sh("i=0; while :; do i=$((i+1)); echo $i > /etc/count; sleep 0.05; done").no_namespace("network")
}

/// Starts a container whose streams are the null device: criu takes no file along that is not in a mount of the container's.
#[track_caller]
fn start<'a>(bundle: &Bundle<'a>) -> Container<'a> {
    let mut words = bundle.words("run");
    words.insert(1, "--detach".to_owned());
    let mut command = bundle.subject.command(&words.iter().map(String::as_str).collect::<Vec<_>>());
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
    assert!(status.success(), "{words:?}: {status}");
    Container { subject: bundle.subject, id: bundle.id.clone(), group: bundle.group() }
}

fn count_file(s: &Subject) -> PathBuf {
    s.rootfs().join("etc/count")
}

fn count(s: &Subject) -> u64 {
    std::fs::read_to_string(count_file(s)).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

#[track_caller]
fn counts_on(s: &Subject) {
    let before = count(s);
    let on = testkit::wait_for(SOON, || (count(s) > before).then_some(()));
    assert!(on.is_some(), "it stands at {before}");
}

fn images(s: &Subject) -> String {
    s.island.dir("images").display().to_string()
}

fn restore(bundle: &Bundle, flags: &[&str]) -> Run {
    let folder = bundle.folder().display().to_string();
    let words = [&["restore", "--detach", "--bundle", &folder], flags, &[&*bundle.id]].concat();
    bundle.subject.call(&words)
}

/// Shows criu's own log where a run of it failed.
#[track_caller]
fn well(s: &Subject, folder: &str, run: Run) -> Run {
    if run.code != 0 {
        for name in ["dump.log", "restore.log"] {
            let text = std::fs::read_to_string(s.island.path(folder).join(name)).unwrap_or_default();
            let last: Vec<&str> = text.lines().rev().take(60).collect();
            println!("{name}:\n{}", last.into_iter().rev().collect::<Vec<_>>().join("\n"));
        }
    }
    run.expect(0)
}

#[test]
#[ignore = "runs in the guest"]
fn criu_has_what_it_needs() {
    test(|s| {
        let run = s.finish(Command::new("criu").args(["check", "-v1"]).current_dir(s.island.root()));
        println!("criu check: {} {} {}", run.code, run.out, run.err);
        run.expect(0);
    });
}

#[test]
#[ignore = "runs in the guest"]
fn a_container_goes_on_after_checkpoint_and_restore() {
    test(|s| {
        let bundle = counter(s);
        let container = start(&bundle);
        container.await_file(&count_file(s));
        let images = images(s);
        well(s, "images", container.call("checkpoint", &["--image-path", &images]));
        container.call("state", &[]).fails();
        let before = count(s);
        well(s, "images", restore(&bundle, &["--image-path", &images]));
        assert_eq!(container.status(), "running");
        counts_on(s);
        assert!(count(s) > before);
        container.call("delete", &["--force"]).expect(0);
    });
}
