//! What goes on without a daemon, and what the next one finds.

use std::process::Command;

use super::{docker, fetch, helper, serve, shell, subject};
use crate::subject::{SOON, Subject, skip_unless_insula};
use testkit::wait_for;

#[test]
fn traffic_and_names_go_on_without_a_daemon() {
    if skip_unless_insula() {
        return;
    }
    let Some(mut subject) = subject() else { return };
    docker(&subject, &["network", "create", "--subnet", "10.63.0.0/24", "shop"]).expect(0);
    serve(&subject, "web", &["--network", "shop", "-p", "8080:80"]);
    serve(&subject, "gone", &["--network", "shop", "--ip", "10.63.0.9", "-p", "8081:80"]);
    let asking =
        "while true; do timeout 5 nslookup web 127.0.0.11 >/tmp/last 2>&1 && echo $? >>/tmp/good; sleep 0.1; done";
    docker(&subject, &["run", "-d", "--name", "asker", "--network", "shop", super::NET, "sh", "-c", asking]).expect(0);
    let init = docker(&subject, &["inspect", "-f", "{{.State.Pid}}", "gone"]).expect(0);
    let init = rustix::process::Pid::from_raw(init.text().parse().unwrap()).unwrap();
    subject.end_daemon(rustix::process::Signal::KILL);
    assert_eq!(fetch("http://127.0.0.1:8080/"), "served\n", "a published port without a daemon");
    rustix::process::kill_process(init, rustix::process::Signal::KILL).unwrap();
    subject.start_daemon();
    subject.await_field("gone", "{{.State.Status}}", "exited");
    // what has ended meanwhile has given up its address and port
    let again = ["--network", "shop", "--ip", "10.63.0.9", "-p", "8081:80"];
    shell(&subject, &again, "timeout 5 wget -qO- http://web/").expect(0);
    assert_eq!(fetch("http://127.0.0.1:8080/"), "served\n", "under the next daemon");
    let before = "wc -l </tmp/good";
    let count = |subject: &Subject| docker(subject, &["exec", "asker", "sh", "-c", before]).text().parse::<u32>().ok();
    let first = wait_for(SOON, || count(&subject)).expect("names were found");
    assert!(wait_for(SOON, || count(&subject).filter(|now| *now > first)).is_some(), "names go on");
    // somebody's firewall is loaded anew
    if Command::new("nft").args(["flush", "ruleset"]).status().is_ok_and(|status| status.success()) {
        assert_eq!(fetch("http://127.0.0.1:8080/"), "served\n", "after nft flush ruleset");
    } else {
        println!("not tried: no nft here");
    }
    // and somebody kills the helper
    let old = helper(&subject).expect("a helper");
    rustix::process::kill_process(old, rustix::process::Signal::KILL).unwrap();
    let new = wait_for(SOON, || helper(&subject).filter(|pid| *pid != old));
    assert!(new.is_some(), "the helper is replaced");
    let found = wait_for(SOON, || {
        let asked = shell(&subject, &["--network", "shop"], "timeout 5 wget -qO- http://web/");
        (asked.out == "served\n").then_some(())
    });
    assert!(found.is_some(), "names under the next helper");
    assert_eq!(fetch("http://[::1]:8080/"), "served\n", "what the helper itself carries");
    subject.finish();
}
