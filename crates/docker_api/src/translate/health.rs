//! Health checks: what is asked for, and what they said.

use super::time::rfc3339;
use crate::error::ApiError;
use docker_wire::models::{Health, HealthConfig, HealthcheckResult};
use engine::model::{self, HealthCheck};

/// A request's health check in our words.
pub(crate) fn asked(config: HealthConfig) -> Result<HealthCheck, ApiError> {
    let span = |value: Option<i64>, name: &str| {
        u64::try_from(value.unwrap_or(0))
            .map_err(|_| ApiError::invalid(format!("{name} in Healthcheck cannot be less than 1ms")))
    };
    let retries = u32::try_from(config.retries.unwrap_or(0))
        .map_err(|_| ApiError::invalid("Retries in Healthcheck cannot be negative"))?;
    Ok(HealthCheck {
        test: config.test.unwrap_or_default(),
        interval_ns: span(config.interval, "Interval")?,
        timeout_ns: span(config.timeout, "Timeout")?,
        start_period_ns: span(config.start_period, "StartPeriod")?,
        start_interval_ns: span(config.start_interval, "StartInterval")?,
        retries,
        shell: Vec::new(),
    })
}

/// The health check that a container has.
pub(crate) fn config(check: &HealthCheck) -> HealthConfig {
    let span = |ns: u64| i64::try_from(ns).ok().filter(|ns| *ns > 0);
    HealthConfig {
        test: Some(check.test.clone()).filter(|test| !test.is_empty()),
        interval: span(check.interval_ns),
        timeout: span(check.timeout_ns),
        start_period: span(check.start_period_ns),
        start_interval: span(check.start_interval_ns),
        retries: Some(i64::from(check.retries)).filter(|retries| *retries > 0),
    }
}

/// How well it is.
pub(crate) fn shown(health: &model::Health) -> Health {
    let probe = |probe: &model::Probe| HealthcheckResult {
        start: Some(rfc3339(probe.started_ns)),
        end: Some(rfc3339(probe.ended_ns)),
        exit_code: Some(probe.code.into()),
        output: Some(probe.output.clone()),
    };
    Health {
        status: health.status.word().parse().ok(),
        failing_streak: Some(health.failing_streak.into()),
        log: Some(health.probes.iter().map(probe).collect()),
    }
}
