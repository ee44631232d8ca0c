//! Health checks: what probes mean and when the next one is due. Pure; [`decide`](crate::decide) asks it, the container's
//! owner runs the probes.
//!
//! ```text
//!             start              success
//!  (no run) --------> starting ----------> healthy <--+
//!     ^                  |  failures         | failures | success
//!     | end              v  in a row         v          |
//!     +------------- unhealthy <------------+----------+
//! ```
//!
//! # Source
//! Docker's image specification v1.2, "Healthcheck", and what dockerd 28 does.

mod output;

pub(crate) use output::gather;

use crate::error::{EngineError, Result};
use crate::model::{Container, Health, HealthCheck, HealthStatus, Phase, Probe};

const SECOND_NS: u64 = 1_000_000_000;
const INTERVAL_NS: u64 = 30 * SECOND_NS;
const TIMEOUT_NS: u64 = 30 * SECOND_NS;
const START_INTERVAL_NS: u64 = 5 * SECOND_NS;
const RETRIES: u32 = 3;
/// Shorter spans than this are mistakes.
const LEAST_NS: u64 = 1_000_000;
/// So many probes are remembered.
const PROBES_KEPT: usize = 5;
/// Probes' execs have ids that begin so: whoever finds one that still runs knows what it is.
pub(crate) const EXEC_PREFIX: &str = "probe-";

/// Checks what was asked for.
///
/// # Errors
/// [`crate::ErrorClass::Invalid`].
pub(crate) fn check(asked: &HealthCheck) -> Result<()> {
    for (name, span) in [
        ("Interval", asked.interval_ns),
        ("Timeout", asked.timeout_ns),
        ("StartPeriod", asked.start_period_ns),
        ("StartInterval", asked.start_interval_ns),
    ] {
        if span != 0 && span < LEAST_NS {
            return Err(EngineError::invalid(format!("{name} in Healthcheck cannot be less than 1ms")));
        }
    }
    match asked.test.first().map(String::as_str) {
        None | Some("NONE" | "CMD" | "CMD-SHELL") => Ok(()),
        Some(other) => Err(EngineError::invalid(format!(
            "unknown type {other:?} of a health check: the test begins with NONE, CMD or CMD-SHELL"
        ))),
    }
}

/// What was asked for over what the image says: each part that is missing is the image's.
pub(crate) fn merge(asked: Option<HealthCheck>, image: Option<HealthCheck>, shell: &[String]) -> Option<HealthCheck> {
    let mut merged = match (asked, image) {
        (None, None) => return None,
        (Some(one), None) | (None, Some(one)) => one,
        (Some(asked), Some(image)) => HealthCheck {
            interval_ns: or(asked.interval_ns, image.interval_ns),
            timeout_ns: or(asked.timeout_ns, image.timeout_ns),
            start_period_ns: or(asked.start_period_ns, image.start_period_ns),
            start_interval_ns: or(asked.start_interval_ns, image.start_interval_ns),
            retries: if asked.retries == 0 { image.retries } else { asked.retries },
            test: if asked.test.is_empty() { image.test } else { asked.test },
            shell: Vec::new(),
        },
    };
    merged.shell = shell.to_vec();
    Some(merged)
}

fn or(value: u64, default: u64) -> u64 {
    if value == 0 { default } else { value }
}

/// The command that tests it; `None` if it is not tested.
pub(crate) fn command(check: &HealthCheck) -> Option<Vec<String>> {
    let (kind, words) = check.test.split_first()?;
    if words.first().is_none_or(String::is_empty) {
        return None;
    }
    match kind.as_str() {
        "CMD" => Some(words.to_vec()),
        "CMD-SHELL" => {
            let shell = || ["/bin/sh", "-c"].map(str::to_owned).to_vec();
            let mut line = if check.shell.is_empty() { shell() } else { check.shell.clone() };
            line.extend(words.first().cloned());
            Some(line)
        }
        _ => None,
    }
}

/// How long a probe may take.
pub(crate) fn timeout_ns(check: &HealthCheck) -> u64 {
    or(check.timeout_ns, TIMEOUT_NS)
}

/// A container begins to run: its health is to be seen. The probes before are remembered.
pub(crate) fn begin(container: &mut Container) {
    if container.spec.health.as_ref().and_then(command).is_none() {
        container.health = None;
        return;
    }
    let probes = container.health.take().map(|health| health.probes).unwrap_or_default();
    container.health = Some(Health { status: HealthStatus::Starting, failing_streak: 0, probes });
}

/// A container has ended: nobody is well who does not live.
pub(crate) fn end(container: &mut Container) {
    if let Some(health) = &mut container.health {
        health.status = HealthStatus::Unhealthy;
    }
}

/// Takes the outcome of a probe in; the new status if it is another one.
pub(crate) fn judge(container: &mut Container, probe: &Probe) -> Option<HealthStatus> {
    let check = container.spec.health.as_ref()?;
    let retries = if check.retries == 0 { RETRIES } else { check.retries };
    let started_ns = container.runtime.as_ref().map_or(0, |run| run.started_ns);
    let in_start = probe.started_ns.saturating_sub(started_ns) < check.start_period_ns;
    let health = container.health.as_mut()?;
    let before = health.status;
    if probe.code == 0 {
        health.failing_streak = 0;
        health.status = HealthStatus::Healthy;
    } else if before != HealthStatus::Starting || !in_start {
        health.failing_streak = health.failing_streak.saturating_add(1);
        if health.failing_streak >= retries {
            health.status = HealthStatus::Unhealthy;
        }
    }
    health.probes.push(probe.clone());
    let surplus = health.probes.len().saturating_sub(PROBES_KEPT);
    health.probes.drain(..surplus);
    (health.status != before).then_some(health.status)
}

/// Milliseconds until the next probe; `None` if there is none to come.
pub(crate) fn next_ms(container: &Container, now_ns: u64) -> Option<u64> {
    let (check, health) = (container.spec.health.as_ref()?, container.health.as_ref()?);
    if container.phase != Phase::Running {
        return None;
    }
    let started_ns = container.runtime.as_ref().map_or(0, |run| run.started_ns);
    let in_start = now_ns.saturating_sub(started_ns) < check.start_period_ns;
    let span = if health.status == HealthStatus::Starting && in_start {
        or(check.start_interval_ns, START_INTERVAL_NS)
    } else {
        or(check.interval_ns, INTERVAL_NS)
    };
    Some((span / 1_000_000).max(1))
}

#[cfg(test)]
mod tests;
