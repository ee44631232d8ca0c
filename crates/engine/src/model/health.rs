//! Whether a container is well: how that is tested, and what the tests said.

use serde::{Deserialize, Serialize};

/// How it is seen whether a container is well. Times in nanoseconds; 0 stands for the default.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct HealthCheck {
    /// `CMD` and a program with its arguments, `CMD-SHELL` and a line for the image's shell, or `NONE`; empty for the image's.
    pub test: Vec<String>,
    /// Between the end of a probe and the next one; 30 s.
    pub interval_ns: u64,
    /// How long a probe may take; 30 s.
    pub timeout_ns: u64,
    /// After the start, how long failures do not count; none.
    pub start_period_ns: u64,
    /// Between probes until then; 5 s.
    pub start_interval_ns: u64,
    /// How many failures in a row make it ill; 3.
    pub retries: u32,
    /// What `CMD-SHELL` lines are given to; empty for `/bin/sh -c`.
    pub shell: Vec<String>,
}

/// How well a container is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// In one word.
    pub status: HealthStatus,
    /// Failures in a row.
    pub failing_streak: u32,
    /// The last probes, the oldest first.
    pub probes: Vec<Probe>,
}

/// How well a container is, in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HealthStatus {
    /// No probe has succeeded yet, nor have enough failed.
    Starting,
    /// The last probe succeeded, or few failed since one did.
    Healthy,
    /// Too many probes failed in a row, or it does not run.
    Unhealthy,
}

impl HealthStatus {
    /// The word that users know.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
        }
    }
}

/// One probe and how it went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    /// When it was begun, nanoseconds since the Unix epoch.
    pub started_ns: u64,
    /// When it had ended.
    pub ended_ns: u64,
    /// Exit code: 0 for well; -1 where it could not be run or took too long.
    pub code: i32,
    /// The beginning of what it printed.
    pub output: String,
}
