//! A plan: the files to write for a set of resources, before anything is written.
//!
//! Planning is pure; [`crate::Group`] carries the plan out.

use crate::device::Rule;

/// What to do when a file is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Missing {
    /// The limit can't be kept, so the container must not start.
    Fail {
        /// The resource, for the message.
        what: &'static str,
        /// What the user can do.
        advice: &'static str,
    },
    /// The kernel was built without it: go on with this warning.
    Warn(&'static str),
}

/// One value for one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Setting {
    pub(crate) controller: &'static str,
    /// The file, and the files to try when the kernel does not have the first, each with its own value.
    pub(crate) candidates: Vec<(String, String)>,
    pub(crate) missing: Missing,
}

impl Setting {
    pub(crate) fn new(
        controller: &'static str,
        file: impl Into<String>,
        value: impl ToString,
        missing: Missing,
    ) -> Self {
        Self { controller, candidates: vec![(file.into(), value.to_string())], missing }
    }

    /// Adds a file to try when those before it don't exist.
    pub(crate) fn or(mut self, file: impl Into<String>, value: impl ToString) -> Self {
        self.candidates.push((file.into(), value.to_string()));
        self
    }
}

/// One step of a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// Write one value.
    One(Setting),
    /// Write two values that constrain each other: when the kernel finds the first invalid beside the old second one,
    /// the second goes first.
    Pair(Setting, Setting),
    /// Restrict the devices.
    Devices(Vec<Rule>),
    /// Tell the user something; nothing to write.
    Warn(String),
}

/// Memory in the kernel's words for version 1: `-1` is no limit.
pub(crate) fn v1_amount(value: i64) -> String {
    if value < 0 { "-1".to_owned() } else { value.to_string() }
}

/// An amount in the kernel's words for version 2: `max` is no limit.
pub(crate) fn v2_amount(value: i64) -> String {
    if value < 0 { "max".to_owned() } else { value.to_string() }
}

pub(crate) const NO_CONTROLLER: &str = "leave the limit out, or enable the controller in the kernel and mount it";
