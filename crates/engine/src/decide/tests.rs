//! Single rules by table, and the whole by simulation: any order of inputs keeps the invariants.

use super::{Decision, Effect, Input, decide, recovery};
use crate::error::ErrorClass;
use crate::model::{Container, ContainerId, ContainerSpec, Phase, Process, RestartPolicy, Runtime};
use control::Exit;
use proptest::prelude::*;

pub(super) fn container() -> Container {
    Container {
        id: ContainerId::known(&"ab".repeat(32)),
        name: "web".into(),
        spec: ContainerSpec::default(),
        image_id: "sha256:00".into(),
        process: Process { args: vec!["true".into()], stop_signal: 15, ..Process::default() },
        created_ns: 1,
        phase: Phase::Created,
        runtime: None,
        finished: None,
        restart_count: 0,
        restarting: false,
        stopped_by_user: false,
        start_again: false,
        stop_untold: false,
        restart_untold: false,
        remove_at_end: false,
        health: None,
        remove_volumes: false,
        anonymous_volumes: Vec::new(),
        volumes: Vec::new(),
        ids: None,
        endpoints: std::collections::BTreeMap::new(),
        published: net::firewall::Published::new(),
    }
}

fn runtime() -> Runtime {
    Runtime { pid: 42, started_ns: 100, namespaces: Vec::new(), cgroup: Vec::new(), warnings: Vec::new() }
}

fn exit(code: i32) -> Exit {
    Exit { code, oom_killed: false, at_ns: 200 }
}

/// Feeds inputs that must all be accepted; the last decision.
fn run(mut from: Container, inputs: &[Input]) -> Decision {
    let mut last = None;
    for input in inputs {
        let decision = decide(&from, input, 300).unwrap_or_else(|error| panic!("{input:?}: {error}"));
        from = decision.container.clone();
        last = Some(decision);
    }
    last.unwrap()
}

fn running() -> Container {
    run(container(), &[Input::Start, Input::Launched(runtime())]).container
}

fn actions(decision: &Decision) -> Vec<&str> {
    decision
        .effects
        .iter()
        .filter_map(|effect| if let Effect::Emit(action, _) = effect { Some(*action) } else { None })
        .collect()
}

#[test]
fn a_run_goes_through_its_phases() {
    let started = run(container(), &[Input::Start]);
    assert_eq!((started.container.phase, started.effects), (Phase::Starting, vec![Effect::Launch]));
    assert_eq!(running().phase, Phase::Running);
    let ended = run(running(), &[Input::Ended(exit(3))]);
    assert_eq!(ended.container.phase, Phase::Exited);
    assert_eq!(ended.container.finished.as_ref().map(|finished| finished.code), Some(3));
    assert_eq!(actions(&ended), ["die"]);
    assert!(ended.effects.contains(&Effect::Dismiss));
    assert_eq!(run(ended.container, &[Input::Start]).effects, [Effect::Launch]);
}

#[test]
fn auto_remove_deletes_after_the_end_and_after_a_failed_start() {
    let mut asked = container();
    asked.spec.auto_remove = true;
    let ended = run(asked.clone(), &[Input::Start, Input::Launched(runtime()), Input::Ended(exit(0))]);
    assert_eq!(ended.effects.last(), Some(&Effect::Delete));
    let failed = run(asked, &[Input::Start, Input::LaunchFailed { code: 127, error: "no".into() }]);
    assert_eq!(failed.effects, [Effect::Dismiss, Effect::Delete]);
}

#[test]
fn a_forced_removal_waits_for_the_end() {
    let asked = run(running(), &[Input::Remove { force: true, volumes: false }]);
    assert_eq!(asked.effects[0], Effect::Signal(9));
    assert!(!asked.container.spec.auto_remove, "its volumes stay unless asked for");
    assert_eq!(run(asked.container, &[Input::Ended(exit(137))]).effects.last(), Some(&Effect::Delete));
}

#[test]
fn a_failed_first_start_leaves_it_created_with_the_reason() {
    let failed = run(container(), &[Input::Start, Input::LaunchFailed { code: 127, error: "not found".into() }]);
    assert_eq!(failed.container.phase, Phase::Created);
    assert_eq!(
        failed.container.finished.map(|finished| (finished.code, finished.error)),
        Some((127, "not found".into()))
    );
}

#[test]
fn out_of_memory_is_told() {
    let killed = Exit { code: 137, oom_killed: true, at_ns: 200 };
    let ended = run(running(), &[Input::Ended(killed)]);
    assert_eq!(actions(&ended), ["die"]);
    assert!(ended.container.finished.is_some_and(|finished| finished.oom_killed));
}

#[test]
fn stop_signals_then_kills() {
    let stopped = run(running(), &[Input::Stop { signal: 15, grace_ms: Some(10_000) }]);
    assert_eq!(stopped.effects[..2], [Effect::Signal(15), Effect::ArmGrace(10_000)]);
    assert_eq!(run(stopped.container, &[Input::GraceOver]).effects, [Effect::Signal(9), Effect::Thaw]);
    let at_once = run(running(), &[Input::Stop { signal: 15, grace_ms: Some(0) }]);
    assert_eq!(at_once.effects[0], Effect::Signal(9));
}

#[test]
fn what_a_stop_would_send_is_a_stop_and_nothing_else_is() {
    for (signal, again) in [(15, false), (9, false), (1, true)] {
        let mut record = running();
        record.spec.restart = RestartPolicy::Always;
        let ended = run(record, &[Input::Kill(signal), Input::Ended(exit(1))]);
        assert_eq!(ended.container.restarting, again, "{signal}");
    }
}

#[test]
fn a_frozen_container_is_thawed_to_die() {
    let paused = run(running(), &[Input::Frozen]).container;
    for input in
        [Input::Kill(9), Input::Stop { signal: 15, grace_ms: None }, Input::Remove { force: true, volumes: false }]
    {
        assert!(run(paused.clone(), std::slice::from_ref(&input)).effects.contains(&Effect::Thaw), "{input:?}");
    }
}

#[test]
fn refusals_have_their_class() {
    let paused = run(running(), &[Input::Frozen]).container;
    let ended = run(running(), &[Input::Ended(exit(0))]).container;
    let cases = [
        (running(), Input::Start, ErrorClass::NotModified),
        (running(), Input::Remove { force: false, volumes: false }, ErrorClass::Conflict),
        (running(), Input::Unpause, ErrorClass::Conflict),
        (paused.clone(), Input::Pause, ErrorClass::Conflict),
        (paused, Input::Start, ErrorClass::Conflict),
        (ended.clone(), Input::Stop { signal: 15, grace_ms: None }, ErrorClass::NotModified),
        (ended, Input::Kill(9), ErrorClass::Conflict),
        (container(), Input::Pause, ErrorClass::Conflict),
    ];
    for (from, input, class) in cases {
        assert_eq!(
            decide(&from, &input, 0).map_err(|error| error.class()),
            Err(class),
            "{input:?} of {:?}",
            from.phase
        );
    }
}

#[test]
fn the_restart_policy_backs_off_and_heeds_the_user() {
    let mut asked = container();
    asked.spec.restart = RestartPolicy::OnFailure { max_retries: 2 };
    let mut now = run(asked, &[Input::Start, Input::Launched(runtime())]).container;
    let mut pauses = Vec::new();
    loop {
        let ended = run(now, &[Input::Ended(exit(1))]);
        let Some(Effect::ArmRestart(pause)) = ended.effects.last().cloned() else { break };
        pauses.push(pause);
        now = run(ended.container, &[Input::RestartDue, Input::Launched(runtime())]).container;
    }
    assert_eq!(pauses, [100, 200]);
    let mut always = container();
    always.spec.restart = RestartPolicy::Always;
    let stopped = run(
        always,
        &[
            Input::Start,
            Input::Launched(runtime()),
            Input::Stop { signal: 15, grace_ms: None },
            Input::Ended(exit(143)),
        ],
    );
    assert!(!stopped.effects.iter().any(|effect| matches!(effect, Effect::ArmRestart(_))));
}

#[test]
fn a_restart_comes_before_what_an_end_brings_else() {
    let restart = Input::Restart { signal: 15, grace_ms: Some(10) };
    let mut record = running();
    record.spec.auto_remove = true;
    let ended = run(record.clone(), &[restart.clone(), Input::Ended(exit(0))]);
    assert_eq!((ended.container.phase, ended.container.restarting), (Phase::Exited, true));
    assert!(ended.effects.contains(&Effect::ArmRestart(0)) && !ended.effects.contains(&Effect::Delete));
    assert!(recovery::starts_again(&ended.container), "a new daemon goes on with it");
    let again = run(ended.container.clone(), &[Input::RestartDue]);
    assert_eq!((again.container.phase, again.container.restart_count), (Phase::Starting, 0));
    // the next end is one like all others
    let over = run(again.container, &[Input::Launched(runtime()), Input::Ended(exit(0))]);
    assert_eq!(over.container.phase, Phase::Removing);
    // who asks later wins
    let stop = Input::Stop { signal: 15, grace_ms: None };
    assert_eq!(run(record.clone(), &[restart.clone(), stop, Input::Ended(exit(0))]).container.phase, Phase::Removing);
    let remove = Input::Remove { force: true, volumes: false };
    assert_eq!(run(running(), &[restart.clone(), remove, Input::Ended(exit(0))]).container.phase, Phase::Removing);
    assert_eq!(run(container(), &[restart]).effects, [Effect::Launch]);
}

#[test]
fn stops_and_restarts_are_told_when_they_are_done() {
    let stop = Input::Stop { signal: 15, grace_ms: Some(10) };
    let restart = Input::Restart { signal: 15, grace_ms: Some(10) };
    let stopped = run(running(), &[stop.clone(), Input::Ended(exit(0))]);
    assert_eq!(actions(&stopped), ["die", "stop"]);
    let ended = run(running(), &[restart.clone(), Input::Ended(exit(0))]);
    assert_eq!(actions(&ended), ["die", "stop"]);
    let again = run(ended.container.clone(), &[Input::RestartDue, Input::Launched(runtime())]);
    assert_eq!(actions(&again), ["start", "restart"]);
    // once each, and not for what others bring about
    assert_eq!(actions(&run(again.container, &[Input::Kill(9), Input::Ended(exit(137))])), ["die"]);
    assert_eq!(actions(&run(ended.container.clone(), &[Input::Start, Input::Launched(runtime())])), ["start"]);
    assert_eq!(actions(&run(ended.container, &[stop])), ["stop"]);
    assert_eq!(actions(&run(container(), &[restart, Input::Launched(runtime())])), ["start", "restart"]);
}

#[test]
fn a_run_that_is_found_is_not_about_to_begin() {
    let mut record = running();
    (record.phase, record.restarting, record.stopped_by_user) = (Phase::Exited, true, true);
    let found = run(record, &[Input::Launched(runtime()), Input::StopForgotten]).container;
    assert_eq!((found.phase, found.restarting, found.stopped_by_user), (Phase::Running, false, false));
    let stopped = run(found, &[Input::Stop { signal: 15, grace_ms: None }, Input::Ended(exit(0))]).container;
    assert!(!stopped.restarting && !recovery::starts_again(&stopped));
}

#[test]
fn a_lost_helper_is_swept_up() {
    let lost = run(running(), &[Input::HelperGone]);
    assert_eq!(lost.container.phase, Phase::Exited);
    assert_eq!(lost.container.finished.as_ref().map(|finished| finished.code), Some(137));
    assert!(lost.effects.contains(&Effect::Sweep));
    assert_eq!(run(container(), &[Input::HelperGone]).effects, []);
}

fn any_input() -> impl Strategy<Value = Input> {
    prop_oneof![
        Just(Input::Start),
        (0..2_u64).prop_map(|grace| Input::Stop { signal: 15, grace_ms: Some(grace * 10) }),
        (0..2_u64).prop_map(|grace| Input::Restart { signal: 15, grace_ms: Some(grace * 10) }),
        prop_oneof![Just(9), Just(15), Just(1)].prop_map(Input::Kill),
        Just(Input::Pause),
        Just(Input::Unpause),
        any::<bool>().prop_map(|force| Input::Remove { force, volumes: force }),
        Just(Input::Launched(runtime())),
        Just(Input::LaunchFailed { code: 127, error: "no".into() }),
        Just(Input::Frozen),
        Just(Input::Thawed),
        (0..2).prop_map(|code| Input::Ended(exit(code))),
        Just(Input::HelperGone),
        Just(Input::GraceOver),
        Just(Input::RestartDue),
    ]
}

/// What a helper and a kernel can really send in a phase.
fn possible(phase: Phase, input: &Input) -> bool {
    match input {
        Input::Launched(_) | Input::LaunchFailed { .. } => phase == Phase::Starting,
        Input::Ended(_) => matches!(phase, Phase::Running | Phase::Paused),
        Input::Frozen => phase == Phase::Running,
        Input::Thawed => phase == Phase::Paused,
        _ => true,
    }
}

proptest! {
    #[test]
    fn any_history_keeps_the_invariants(inputs in prop::collection::vec(any_input(), 1..40), auto_remove: bool, always: bool) {
        let mut now = container();
        now.spec.auto_remove = auto_remove;
        now.spec.restart = if always && !auto_remove { RestartPolicy::Always } else { RestartPolicy::No };
        let mut launched = 0;
        let mut released = 0;
        for input in inputs.iter().filter(|_| true) {
            if !possible(now.phase, input) {
                continue;
            }
            let Ok(decision) = decide(&now, input, 300) else { continue };
            launched += decision.effects.iter().filter(|effect| **effect == Effect::Launch).count();
            released += decision.effects.iter().filter(|effect| **effect == Effect::Dismiss).count();
            // deletion is decided once, and nothing comes after it
            prop_assert_eq!(decision.effects.contains(&Effect::Delete), now.phase != Phase::Removing && decision.container.phase == Phase::Removing);
            // signals go only to what is alive
            if decision.effects.iter().any(|effect| matches!(effect, Effect::Signal(_))) {
                prop_assert!(now.is_alive());
            }
            // an exit is recorded exactly when life ends
            if now.is_alive() && !decision.container.is_alive() {
                prop_assert!(decision.container.finished.is_some());
            }
            // what a run holds is released when it ends, and a new run begins only after that
            prop_assert_eq!(launched - released, usize::from(decision.container.is_alive()));
            now = decision.container;
        }
    }
}
