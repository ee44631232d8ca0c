//! The rules by table.

use super::*;
use crate::model::{ContainerId, ContainerSpec, Process, Runtime};

fn words(line: &[&str]) -> Vec<String> {
    line.iter().map(ToString::to_string).collect()
}

fn running(check: HealthCheck) -> Container {
    let spec = ContainerSpec { health: Some(check), ..ContainerSpec::default() };
    let mut container = Container::passing(ContainerId::known("ab"), "web", spec, Process::default(), 1);
    container.phase = Phase::Running;
    container.runtime = Some(Runtime {
        pid: 1,
        started_ns: 100 * SECOND_NS,
        namespaces: Vec::new(),
        cgroup: Vec::new(),
        warnings: Vec::new(),
    });
    begin(&mut container);
    container
}

fn shell(line: &str) -> HealthCheck {
    HealthCheck { test: words(&["CMD-SHELL", line]), ..HealthCheck::default() }
}

fn probe(at_s: u64, code: i32) -> Probe {
    Probe { started_ns: at_s * SECOND_NS, ended_ns: at_s * SECOND_NS, code, output: String::new() }
}

#[test]
fn failures_in_a_row_make_it_ill_and_one_success_makes_it_well() {
    let mut container = running(shell("x"));
    let mut seen = Vec::new();
    for (at, code) in [(101, 1), (102, 1), (103, 0), (104, 1), (105, 2), (106, -1), (107, 1), (108, 0)] {
        let changed = judge(&mut container, &probe(at, code));
        let health = container.health.as_ref().unwrap();
        seen.push((changed.is_some(), health.status, health.failing_streak));
    }
    use HealthStatus::{Healthy, Starting, Unhealthy};
    let expect = [
        (false, Starting, 1),
        (false, Starting, 2),
        (true, Healthy, 0),
        (false, Healthy, 1),
        (false, Healthy, 2),
        (true, Unhealthy, 3),
        (false, Unhealthy, 4),
        (true, Healthy, 0),
    ];
    assert_eq!(seen, expect);
    let kept = &container.health.as_ref().unwrap().probes;
    assert_eq!(kept.iter().map(|probe| probe.code).collect::<Vec<_>>(), [1, 2, -1, 1, 0]);
}

#[test]
fn failures_of_the_start_do_not_count() {
    let mut container = running(HealthCheck { start_period_ns: 10 * SECOND_NS, retries: 1, ..shell("x") });
    assert_eq!(judge(&mut container, &probe(105, 1)), None);
    assert_eq!(container.health.as_ref().unwrap().failing_streak, 0);
    assert_eq!(judge(&mut container, &probe(111, 1)), Some(HealthStatus::Unhealthy));
    let mut well = running(HealthCheck { start_period_ns: 10 * SECOND_NS, retries: 1, ..shell("x") });
    assert_eq!(judge(&mut well, &probe(101, 0)), Some(HealthStatus::Healthy));
    assert_eq!(judge(&mut well, &probe(102, 1)), Some(HealthStatus::Unhealthy), "once well, the start is over");
}

#[test]
fn the_next_probe_is_due() {
    let plain = running(shell("x"));
    assert_eq!(next_ms(&plain, 100 * SECOND_NS), Some(30_000));
    let slow = running(HealthCheck { start_period_ns: 60 * SECOND_NS, interval_ns: 7 * SECOND_NS, ..shell("x") });
    assert_eq!(next_ms(&slow, 100 * SECOND_NS), Some(5_000));
    assert_eq!(next_ms(&slow, 160 * SECOND_NS), Some(7_000));
    let mut paused = plain;
    paused.phase = Phase::Paused;
    assert_eq!(next_ms(&paused, 100 * SECOND_NS), None);
    assert_eq!(next_ms(&running(HealthCheck { test: words(&["NONE"]), ..HealthCheck::default() }), 0), None);
}

#[test]
fn commands_have_three_forms() {
    let of = |test: &[&str]| command(&HealthCheck { test: words(test), ..HealthCheck::default() });
    assert_eq!(of(&["CMD", "a", "b"]), Some(words(&["a", "b"])));
    assert_eq!(of(&["CMD-SHELL", "a b"]), Some(words(&["/bin/sh", "-c", "a b"])));
    for none in [&[][..], &["NONE"], &["CMD"], &["CMD", ""], &["CMD-SHELL", ""]] {
        assert_eq!(of(none), None, "{none:?}");
    }
    let own = HealthCheck { shell: words(&["/bin/bash", "-ec"]), ..shell("x") };
    assert_eq!(command(&own), Some(words(&["/bin/bash", "-ec", "x"])));
}

#[test]
fn what_is_missing_is_the_images() {
    let image = HealthCheck { interval_ns: 5, retries: 9, ..shell("image") };
    let merged = |asked| merge(asked, Some(image.clone()), &[]).unwrap();
    assert_eq!(merged(None), image);
    let only = merged(Some(HealthCheck { timeout_ns: 8, ..HealthCheck::default() }));
    assert_eq!((only.test, only.interval_ns, only.timeout_ns), (image.test.clone(), 5, 8));
    let own = merged(Some(HealthCheck { retries: 2, ..shell("own") }));
    assert_eq!((own.test, own.retries, own.interval_ns), (words(&["CMD-SHELL", "own"]), 2, 5));
    assert_eq!(merge(None, None, &[]), None);
}

#[test]
fn mistakes_are_named() {
    let wrong = |asked: HealthCheck| check(&asked).unwrap_err().to_string();
    assert!(
        wrong(HealthCheck { interval_ns: 5, ..shell("x") }).contains("Interval in Healthcheck cannot be less than 1ms")
    );
    assert!(wrong(HealthCheck { test: words(&["SHELL", "x"]), ..HealthCheck::default() }).contains("SHELL"));
    assert!(check(&shell("x")).is_ok());
}
