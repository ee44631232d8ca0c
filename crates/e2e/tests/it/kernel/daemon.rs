//! The daemon's own life: started on demand, once, found again, stopped.

use std::process::Command;

use testkit::{Island, is_root_or_skip, wait_for};

use crate::leftover;
use crate::subject::{Run, SOON, finish, program, skip_unless_insula};

fn insula(island: &Island, words: &[&str]) -> Run {
    let mut command = Command::new(program("insula"));
    command.env_remove("INSULA_HOST").env("INSULA_ROOT", island.path("state")).env("INSULA_RUN", island.path("run"));
    finish(command.args(words), b"")
}

#[test]
fn it_is_started_on_demand_and_says_so_once() {
    if skip_unless_insula() || !is_root_or_skip() {
        return;
    }
    let island = Island::new();
    let status = insula(&island, &["daemon", "status"]).expect(3);
    assert!(status.out.contains("does not run"), "{}", status.out);
    // Ten at once, and still one daemon.
    let runs: Vec<Run> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..10).map(|_| scope.spawn(|| insula(&island, &["ps", "-q"]))).collect();
        clients.into_iter().map(|client| client.join().unwrap()).collect()
    });
    let said = runs.iter().filter(|run| run.err.contains("insula: started insulad (pid ")).count();
    assert_eq!(said, 1, "{runs:?}");
    for run in runs {
        run.expect(0);
    }
    assert_eq!(insula(&island, &["ps", "-q"]).expect(0).err, "");
    let status = insula(&island, &["daemon", "status"]).expect(0);
    assert!(status.out.contains("answers on"), "{}", status.out);
    insula(&island, &["daemon", "logs"]).expect(0);
    let stopped = insula(&island, &["daemon", "stop"]).expect(0);
    assert!(stopped.out.starts_with("stopped insulad (pid "), "{}", stopped.out);
    insula(&island, &["daemon", "status"]).expect(3);
    assert_eq!(insula(&island, &["daemon", "stop"]).expect(0).out.lines().count(), 1);
    // its helpers see that it is gone
    let left = || leftover::of(island.root(), "/nothing");
    assert!(wait_for(SOON, || left().is_empty().then_some(())).is_some(), "{}", left().join("\n"));
}

#[test]
fn it_is_started_with_options() {
    if skip_unless_insula() || !is_root_or_skip() {
        return;
    }
    let island = Island::new();
    let started = insula(&island, &["daemon", "start", "--netns-pool", "0", "--log-level", "debug"]).expect(0);
    assert!(started.out.starts_with("started insulad (pid "), "{}", started.out);
    assert!(insula(&island, &["daemon", "start"]).expect(0).out.contains("runs already"));
    insula(&island, &["daemon", "stop"]).expect(0);
    let wrong = insula(&island, &["daemon", "start", "--netns-pool", "many"]).expect(1);
    assert!(wrong.err.contains("insulad ended at its start") && wrong.err.contains("many"), "{}", wrong.err);
}

#[test]
fn a_folder_that_cannot_be_written_is_named() {
    if skip_unless_insula() || !is_root_or_skip() {
        return;
    }
    let island = Island::new();
    let file = island.file("file", "");
    let mut command = Command::new(program("insula"));
    command.env_remove("INSULA_HOST").arg("--run").arg(file.join("run")).args(["ps"]);
    let run = finish(&mut command, b"").expect(1);
    assert!(run.err.contains("file/run") && run.err.contains("--run"), "{}", run.err);
    // A file system without writing, as root has it.
    let mut command = Command::new(program("insula"));
    command.env_remove("INSULA_HOST").arg("--root").arg("/proc/insula").arg("--run").arg(island.path("run")).arg("ps");
    let run = finish(&mut command, b"").expect(1);
    assert!(run.err.contains("/proc/insula"), "{}", run.err);
    let left = leftover::of(island.root(), "/nothing");
    assert!(left.is_empty(), "{}", left.join("\n"));
}

#[test]
fn a_named_host_is_not_started() {
    if skip_unless_insula() {
        return;
    }
    let island = Island::new();
    let mut command = Command::new(program("insula"));
    command
        .env_remove("INSULA_HOST")
        .arg("--host")
        .arg(format!("unix://{}/no.sock", island.root().display()))
        .arg("ps");
    let run = finish(&mut command, b"").expect(1);
    assert!(run.err.contains("no daemon answers at"), "{}", run.err);
}
