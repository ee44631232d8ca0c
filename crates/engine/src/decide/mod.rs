//! The rules of a container's life: `(record, input, now) -> (record', effects)`.
//!
//! Pure and synchronous: no clock, no driver, no I/O, so that tests can throw any order of inputs at it. The task that owns
//! a container (`actor`) feeds it and carries out the effects in the order given, after the new record is stored.

mod recovery;

pub(crate) use recovery::{Found, Step, is_recorded, recovery, starts_again};

use crate::error::{EngineError, ErrorClass, Result};
use crate::health;
use crate::model::{Container, Finished, HealthStatus, Phase, Probe, RestartPolicy, Runtime};
use crate::signal;
use control::Exit;

/// What may come to a container: first what users ask, then what was observed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Input {
    /// Run it.
    Start,
    /// Ask it to end with `signal`; after the grace period, kill it.
    Stop { signal: i32, grace_ms: Option<u64> },
    /// End it as a stop does, and run it again, whatever else its end is to bring.
    Restart { signal: i32, grace_ms: Option<u64> },
    /// Send a signal.
    Kill(i32),
    /// Freeze it.
    Pause,
    /// Thaw it.
    Unpause,
    /// Remove it, killing it first if forced; on request with the volumes that nobody named.
    Remove { force: bool, volumes: bool },
    /// The user's program runs.
    Launched(Runtime),
    /// It could not be run; nothing of the attempt is left.
    LaunchFailed { code: i32, error: String },
    /// The helper says it is frozen.
    Frozen,
    /// The helper says it is thawed.
    Thawed,
    /// Its first process has ended.
    Ended(Exit),
    /// The helper is gone without a word: with it the container.
    HelperGone,
    /// It runs on, and the daemon that was to stop it was killed: nobody was told that it stops.
    StopForgotten,
    /// The grace period of a stop is over.
    GraceOver,
    /// The pause before a restart is over.
    RestartDue,
    /// It is time to see whether it is well.
    ProbeDue,
    /// How that went.
    Probed(Probe),
}

/// What the owner has to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Start the helper, create and start.
    Launch,
    /// Send a signal to the first process.
    Signal(i32),
    /// Freeze the cgroup.
    Freeze,
    /// Thaw it.
    Thaw,
    /// Feed [`Input::GraceOver`] after so many milliseconds.
    ArmGrace(u64),
    /// Feed [`Input::RestartDue`] after so many milliseconds.
    ArmRestart(u64),
    /// Feed [`Input::ProbeDue`] after so many milliseconds.
    ArmProbe(u64),
    /// Run the command that tells whether it is well, and feed [`Input::Probed`].
    Probe,
    /// Let the helper go and release what the run held.
    Dismiss,
    /// Kill and remove what a lost helper left: processes, cgroup.
    Sweep,
    /// Delete the container's files, volumes that go with it, and at last its record.
    Delete,
    /// Tell watchers; the container's own attributes are added.
    Emit(&'static str, Vec<(&'static str, String)>),
}

/// The new record and what to do.
#[derive(Debug, PartialEq)]
pub(crate) struct Decision {
    pub(crate) container: Container,
    pub(crate) effects: Vec<Effect>,
}

/// A run that lasted so long resets the restart back-off, in nanoseconds.
const STEADY_NS: u64 = 10_000_000_000;
const FIRST_BACKOFF_MS: u64 = 100;
const LONGEST_BACKOFF_MS: u64 = 60_000;
/// What a lost helper's container is recorded with: it was killed with SIGKILL.
const LOST_CODE: i32 = 137;

/// Applies the rules.
///
/// # Errors
/// A refusal with its class: the record is then unchanged.
pub(crate) fn decide(container: &Container, input: &Input, now_ns: u64) -> Result<Decision> {
    let mut next = container.clone();
    let effects = match input {
        Input::Start => start(&mut next)?,
        Input::Stop { signal, grace_ms } => stop(&mut next, *signal, *grace_ms)?,
        Input::Restart { signal, grace_ms } => restart(&mut next, *signal, *grace_ms)?,
        Input::Kill(signal) => kill(&mut next, *signal)?,
        Input::Pause => match next.phase {
            Phase::Running => vec![Effect::Freeze],
            Phase::Paused => return Err(refuse(container, "is already paused")),
            _ => return Err(refuse(container, "is not running")),
        },
        Input::Unpause => match next.phase {
            Phase::Paused => vec![Effect::Thaw],
            _ => return Err(refuse(container, "is not paused")),
        },
        Input::Remove { force, volumes } => {
            next.remove_volumes |= *volumes;
            remove(&mut next, *force)?
        }
        Input::Launched(runtime) => {
            next.restarting = false;
            next.phase = Phase::Running;
            next.runtime = Some(runtime.clone());
            health::begin(&mut next);
            let mut effects = vec![Effect::Emit("start", Vec::new())];
            if std::mem::take(&mut next.restart_untold) {
                effects.push(Effect::Emit("restart", Vec::new()));
            }
            effects.extend(arm_probe(&next, runtime.started_ns));
            effects
        }
        Input::LaunchFailed { code, error } => launch_failed(&mut next, *code, error, now_ns),
        Input::Frozen if next.phase == Phase::Running => {
            next.phase = Phase::Paused;
            vec![Effect::Emit("pause", Vec::new())]
        }
        Input::Thawed if next.phase == Phase::Paused => {
            next.phase = Phase::Running;
            let mut effects = vec![Effect::Emit("unpause", Vec::new())];
            effects.extend(arm_probe(&next, now_ns));
            effects
        }
        Input::Frozen | Input::Thawed => Vec::new(),
        Input::Ended(exit) => ended(&mut next, exit, [Effect::Dismiss]),
        Input::HelperGone => helper_gone(&mut next, now_ns),
        Input::StopForgotten => {
            next.stopped_by_user &= !next.is_alive();
            Vec::new()
        }
        Input::GraceOver if next.is_alive() => vec![Effect::Signal(signal::KILL), Effect::Thaw],
        Input::RestartDue if next.phase == Phase::Exited && next.restarting => {
            next.restarting = false;
            let again = std::mem::take(&mut next.start_again);
            next.restart_count = if again { 0 } else { next.restart_count.saturating_add(1) };
            next.phase = Phase::Starting;
            vec![Effect::Launch]
        }
        Input::ProbeDue if next.phase == Phase::Running => vec![Effect::Probe],
        Input::Probed(probe) if next.phase == Phase::Running => probed(&mut next, probe, now_ns),
        Input::GraceOver | Input::RestartDue | Input::ProbeDue | Input::Probed(_) => Vec::new(),
    };
    Ok(Decision { container: next, effects })
}

fn arm_probe(container: &Container, now_ns: u64) -> Option<Effect> {
    health::next_ms(container, now_ns).map(Effect::ArmProbe)
}

fn probed(next: &mut Container, probe: &Probe, now_ns: u64) -> Vec<Effect> {
    let changed = health::judge(next, probe);
    let told = changed.map(|status| {
        let action = match status {
            HealthStatus::Starting => "health_status: starting",
            HealthStatus::Healthy => "health_status: healthy",
            HealthStatus::Unhealthy => "health_status: unhealthy",
        };
        Effect::Emit(action, Vec::new())
    });
    told.into_iter().chain(arm_probe(next, now_ns)).collect()
}

fn refuse(container: &Container, why: &str) -> EngineError {
    EngineError::conflict(format!("Container {} {why}", container.id))
}

fn start(next: &mut Container) -> Result<Vec<Effect>> {
    match next.phase {
        Phase::Created | Phase::Exited => {
            next.phase = Phase::Starting;
            next.restarting = false;
            next.start_again = false;
            next.restart_untold = false;
            next.stopped_by_user = false;
            next.restart_count = 0;
            Ok(vec![Effect::Launch])
        }
        Phase::Starting | Phase::Running => {
            Err(EngineError::new(ErrorClass::NotModified, format!("Container {} is already running", next.id)))
        }
        Phase::Paused => Err(EngineError::conflict("cannot start a paused container, try unpause instead")),
        Phase::Removing => Err(EngineError::conflict("container is marked for removal and cannot be started")),
    }
}

fn stop(next: &mut Container, signal: i32, grace_ms: Option<u64>) -> Result<Vec<Effect>> {
    next.stopped_by_user = true;
    next.start_again = false;
    next.restart_untold = false;
    if !next.is_alive() {
        return match next.phase {
            // a pending restart is called off
            Phase::Exited if std::mem::take(&mut next.restarting) => Ok(vec![Effect::Emit("stop", Vec::new())]),
            Phase::Created | Phase::Exited => {
                Err(EngineError::new(ErrorClass::NotModified, format!("Container {} is not running", next.id)))
            }
            _ => Err(refuse(next, "is being removed")),
        };
    }
    let mut effects = match grace_ms {
        Some(0) => vec![Effect::Signal(signal::KILL)],
        Some(grace) => vec![Effect::Signal(signal), Effect::ArmGrace(grace)],
        None => vec![Effect::Signal(signal)],
    };
    // a pause may be on its way that has not been told of yet; one that is not frozen does not mind
    effects.push(Effect::Thaw);
    effects.push(Effect::Emit("kill", vec![("signal", signal.to_string())]));
    next.stop_untold = true;
    Ok(effects)
}

fn restart(next: &mut Container, signal: i32, grace_ms: Option<u64>) -> Result<Vec<Effect>> {
    if !next.is_alive() {
        let effects = start(next)?;
        next.restart_untold = true;
        return Ok(effects);
    }
    let stopped = next.stopped_by_user;
    let effects = stop(next, signal, grace_ms)?;
    next.stopped_by_user = stopped;
    next.start_again = true;
    next.restart_untold = true;
    Ok(effects)
}

fn kill(next: &mut Container, signal: i32) -> Result<Vec<Effect>> {
    if !next.is_alive() {
        if std::mem::take(&mut next.restarting) {
            next.stopped_by_user = true;
            return Ok(Vec::new());
        }
        return Err(EngineError::conflict(format!(
            "cannot kill container: {}: container {} is not running",
            next.name, next.id
        )));
    }
    let mut effects = vec![Effect::Signal(signal)];
    // what a stop would send counts as one: no policy starts it again
    if signal == signal::KILL || signal == next.process.stop_signal {
        next.stopped_by_user = true;
        effects.push(Effect::Thaw);
    }
    effects.push(Effect::Emit("kill", vec![("signal", signal.to_string())]));
    Ok(effects)
}

fn remove(next: &mut Container, force: bool) -> Result<Vec<Effect>> {
    match next.phase {
        Phase::Exited if next.restarting && !force => Err(EngineError::conflict(format!(
            "cannot remove container \"/{}\": container is restarting: stop the container before removing or force remove",
            next.name
        ))),
        Phase::Created | Phase::Exited => {
            next.restarting = false;
            next.phase = Phase::Removing;
            Ok(vec![Effect::Delete])
        }
        Phase::Removing => Err(refuse(next, "is already being removed")),
        Phase::Starting | Phase::Running | Phase::Paused if force => {
            next.stopped_by_user = true;
            next.remove_at_end = true;
            Ok(vec![
                Effect::Signal(signal::KILL),
                Effect::Thaw,
                Effect::Emit("kill", vec![("signal", signal::KILL.to_string())]),
            ])
        }
        phase => {
            let state = if phase == Phase::Paused { "paused" } else { "running" };
            Err(EngineError::conflict(format!(
                "cannot remove container \"/{}\": container is {state}: stop the container before removing or force remove",
                next.name
            )))
        }
    }
}

fn launch_failed(next: &mut Container, code: i32, error: &str, now_ns: u64) -> Vec<Effect> {
    next.finished = Some(Finished { code, oom_killed: false, at_ns: now_ns, error: error.to_owned() });
    (next.stop_untold, next.restart_untold) = (false, false);
    let ran_before = next.runtime.is_some();
    next.phase = if ran_before { Phase::Exited } else { Phase::Created };
    let mut effects = vec![Effect::Dismiss];
    if next.spec.auto_remove || next.remove_at_end {
        next.phase = Phase::Removing;
        effects.push(Effect::Delete);
    }
    effects
}

fn helper_gone(next: &mut Container, now_ns: u64) -> Vec<Effect> {
    match next.phase {
        Phase::Starting => {
            let mut effects = vec![Effect::Sweep];
            effects.extend(launch_failed(
                next,
                LOST_CODE,
                "the container's helper process was killed while starting it",
                now_ns,
            ));
            effects
        }
        Phase::Running | Phase::Paused => {
            let exit = Exit { code: LOST_CODE, oom_killed: false, at_ns: now_ns };
            // before a removal, not behind it: what leaves its networks is recorded
            let effects = ended(next, &exit, [Effect::Sweep, Effect::Dismiss]);
            if let Some(finished) = &mut next.finished {
                finished.error = "the container's helper process was killed, and the container with it".into();
            }
            effects
        }
        Phase::Created | Phase::Exited | Phase::Removing => Vec::new(),
    }
}

fn ended<const N: usize>(next: &mut Container, exit: &Exit, release: [Effect; N]) -> Vec<Effect> {
    if !next.is_alive() {
        return Vec::new();
    }
    let ran_ns = next.runtime.as_ref().map_or(0, |run| exit.at_ns.saturating_sub(run.started_ns));
    next.phase = Phase::Exited;
    health::end(next);
    next.finished =
        Some(Finished { code: exit.code, oom_killed: exit.oom_killed, at_ns: exit.at_ns, error: String::new() });
    let mut effects = Vec::new();
    let mut words = vec![("exitCode", exit.code.to_string()), ("execDuration", (ran_ns / 1_000_000_000).to_string())];
    if exit.oom_killed {
        words.push(("oomKilled", "true".into()));
    }
    effects.push(Effect::Emit("die", words));
    if std::mem::take(&mut next.stop_untold) {
        effects.push(Effect::Emit("stop", Vec::new()));
    }
    effects.extend(release);
    if next.start_again && !next.remove_at_end {
        next.restarting = true;
        effects.push(Effect::ArmRestart(0));
    } else if next.spec.auto_remove || next.remove_at_end {
        next.phase = Phase::Removing;
        effects.push(Effect::Delete);
    } else if let Some(backoff) = restart_after(next, exit.code, ran_ns) {
        next.restarting = true;
        effects.push(Effect::ArmRestart(backoff));
    }
    effects
}

/// Milliseconds until the policy starts it again.
fn restart_after(next: &mut Container, code: i32, ran_ns: u64) -> Option<u64> {
    let again = match next.spec.restart {
        RestartPolicy::No => false,
        RestartPolicy::Always | RestartPolicy::UnlessStopped => true,
        RestartPolicy::OnFailure { max_retries } => code != 0 && (max_retries == 0 || next.restart_count < max_retries),
    };
    if !again || next.stopped_by_user {
        return None;
    }
    if ran_ns >= STEADY_NS && !matches!(next.spec.restart, RestartPolicy::OnFailure { .. }) {
        next.restart_count = 0;
    }
    Some(FIRST_BACKOFF_MS.checked_shl(next.restart_count.min(20)).unwrap_or(LONGEST_BACKOFF_MS).min(LONGEST_BACKOFF_MS))
}

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
