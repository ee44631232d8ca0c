//! What a new daemon makes of a container in its records, from what it finds of it: pure, as the rules are.

use super::Input;
use crate::model::{Container, Phase, RestartPolicy, Runtime};
use control::{Exit, State};

/// What is there of a container.
#[derive(Debug, Clone, Default)]
pub(crate) struct Found {
    /// What its helper says, if one answers.
    pub(crate) helper: Option<State>,
    /// The end that a helper has written down.
    pub(crate) exit: Option<Exit>,
    /// There is a folder of a run.
    pub(crate) runtime: bool,
}

/// What is to be done about it, in order.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Step {
    /// Apply the rules to what has happened unseen.
    Feed(Box<Input>),
    /// Take back what a run holds that is over: [`super::Effect::Sweep`] and [`super::Effect::Dismiss`].
    Release,
    /// Go on with the removal.
    Delete,
}

/// The steps. `observed` tells of a process that another daemon has started.
pub(crate) fn recovery(record: &Container, found: &Found, observed: &dyn Fn(i32) -> Runtime) -> Vec<Step> {
    let holds = found.helper.is_some() || found.runtime || record.links().next().is_some();
    if record.phase == Phase::Removing {
        return if holds { vec![Step::Release, Step::Delete] } else { vec![Step::Delete] };
    }
    let feed = |input: Input| Step::Feed(Box::new(input));
    let Some(helper) = &found.helper else {
        return match &found.exit {
            Some(exit) if record.is_alive() || found.runtime => ended(record, exit, observed),
            _ if record.is_alive() => vec![feed(Input::HelperGone)],
            // a start of which nothing came, or an end that was recorded and not carried out
            _ if holds => vec![Step::Release],
            _ => Vec::new(),
        };
    };
    match helper.phase {
        control::Phase::Empty | control::Phase::Created => {
            // nobody was told that it runs
            if record.phase != Phase::Starting {
                return vec![Step::Release];
            }
            let error = "the daemon ended while it started the container".to_owned();
            vec![feed(Input::LaunchFailed { code: 128, error })]
        }
        control::Phase::Running | control::Phase::Paused => {
            let mut steps = Vec::new();
            if !record.is_alive() || record.phase == Phase::Starting {
                steps.push(feed(Input::Launched(observed(helper.pid))));
            }
            match (helper.phase == control::Phase::Paused, record.phase == Phase::Paused) {
                (true, false) => steps.push(feed(Input::Frozen)),
                (false, true) => steps.push(feed(Input::Thawed)),
                _ => {}
            }
            // a removal is carried through; a stop that nobody was told of, or that was of an earlier run, must not keep the
            // policy from its work for ever
            if record.remove_at_end {
                steps.push(feed(Input::Remove { force: true, volumes: false }));
            } else if record.stopped_by_user {
                steps.push(feed(Input::StopForgotten));
            }
            steps
        }
        control::Phase::Exited => match &helper.exit {
            Some(exit) => ended(record, exit, observed),
            None => vec![feed(Input::HelperGone)],
        },
    }
}

/// An end that nobody saw, perhaps of a run that nobody saw.
fn ended(record: &Container, exit: &Exit, observed: &dyn Fn(i32) -> Runtime) -> Vec<Step> {
    let known = record.finished.as_ref().is_some_and(|finished| finished.at_ns == exit.at_ns);
    if known && !record.is_alive() {
        // told already; only what follows from it was cut off
        return vec![Step::Release];
    }
    let mut steps = Vec::new();
    if !record.is_alive() || record.phase == Phase::Starting {
        let run = Runtime { started_ns: exit.at_ns, ..observed(0) };
        steps.push(Step::Feed(Box::new(Input::Launched(run))));
    }
    steps.push(Step::Feed(Box::new(Input::Ended(exit.clone()))));
    steps
}

/// Whether a container is to run again that is found ended: its policy says so, or it was between its end and the start that follows.
pub(crate) fn starts_again(record: &Container) -> bool {
    let by_policy = match record.spec.restart {
        RestartPolicy::Always => true,
        RestartPolicy::UnlessStopped => !record.stopped_by_user,
        RestartPolicy::No | RestartPolicy::OnFailure { .. } => false,
    };
    record.phase == Phase::Exited && (record.restarting || by_policy)
}

/// Whether a change has to be in the store before anything else happens. `told` says that an event goes with it, which is stored in
/// any case.
pub(crate) fn is_recorded(before: &Container, next: &Container, told: bool) -> bool {
    // a start that has shown nothing yet, and was given no address, needs no record: a daemon that dies here leaves a
    // helper to be found; and one that dies before a removal finds how the container ended once more
    match next.phase {
        // how well it is changes with an event; each probe alone is worth no write
        Phase::Running => told || !differs_in_health_only(next, before),
        Phase::Starting => told || next.links().next().is_some(),
        // one that only was to start is not known to have lived: its files would be gone, and its record not
        Phase::Removing => !(next.spec.auto_remove && matches!(before.phase, Phase::Running | Phase::Paused)),
        _ => true,
    }
}

fn differs_in_health_only(next: &Container, old: &Container) -> bool {
    next.health != old.health && Container { health: old.health.clone(), ..next.clone() } == *old
}
