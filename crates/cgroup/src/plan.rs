//! A plan: the files to write for a set of resources, before anything is written.
//!
//! Planning is pure; [`crate::Group`] carries the plan out.

use oci_spec::runtime::LinuxResources;

use crate::{CgroupError, Result};

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
    /// The kernel was built without it: the engine goes on and tells, a runtime refuses.
    Warn {
        /// What the kernel lacks.
        lack: &'static str,
        /// What becomes of the setting then.
        outcome: &'static str,
    },
    /// A setting that means nothing any more: everybody goes on, and this tells.
    Ignore(&'static str),
}

/// Whether a value counts only when the kernel keeps it as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Check {
    /// Whatever the kernel makes of it.
    Taken,
    /// An OCI runtime fails when the kernel clamps it.
    Kept,
}

/// One value for one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Setting {
    pub(crate) controller: &'static str,
    /// The file, and the files to try when the kernel does not have the first, each with its own value.
    pub(crate) candidates: Vec<(String, String)>,
    pub(crate) missing: Missing,
    pub(crate) check: Check,
}

impl Setting {
    pub(crate) fn new(
        controller: &'static str,
        file: impl Into<String>,
        value: impl ToString,
        missing: Missing,
    ) -> Self {
        Self { controller, candidates: vec![(file.into(), value.to_string())], missing, check: Check::Taken }
    }

    /// Has a runtime fail when the kernel clamps the value.
    pub(crate) fn kept(mut self) -> Self {
        self.check = Check::Kept;
        self
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
    /// Write values that constrain each other: what the kernel finds invalid beside an old value of the others is
    /// written again after them.
    Together(Vec<Setting>),
    /// Something that this generation can't do.
    Lack {
        /// What it lacks.
        lack: &'static str,
        /// What becomes of the setting.
        outcome: &'static str,
    },
}

/// A step for what this generation can't do.
pub(crate) fn lack(lack: &'static str) -> Step {
    Step::Lack { lack, outcome: IGNORED }
}

/// A warning for a kernel that was built without something.
pub(crate) fn warn(lack: &'static str) -> Missing {
    Missing::Warn { lack, outcome: IGNORED }
}

/// What becomes of a setting that can't be kept.
pub(crate) const IGNORED: &str = "the setting is ignored";

/// Checks the name of a huge page size, which becomes part of a file's name.
pub(crate) fn page_size(size: &str) -> Result<&str> {
    let digits = size.trim_end_matches(['K', 'M', 'G', 'B']);
    let unit = &size[digits.len()..];
    let number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    if number && matches!(unit, "KB" | "MB" | "GB") {
        return Ok(size);
    }
    let reason = "it is a number and KB, MB or GB, such as 2MB";
    Err(CgroupError::BadValue { what: "huge page size", value: size.to_owned(), reason })
}

/// The lines for `rdma.max`, sorted by device.
pub(crate) fn rdma(resources: &LinuxResources, missing: Missing, steps: &mut Vec<Step>) {
    let mut devices: Vec<_> = resources.rdma().iter().flatten().collect();
    devices.sort_by_key(|(name, _)| *name);
    for (name, limit) in devices {
        let mut line = name.clone();
        for (key, count) in [("hca_handle", limit.hca_handles()), ("hca_object", limit.hca_objects())] {
            if let Some(count) = count {
                line += &format!(" {key}={count}");
            }
        }
        if line.len() > name.len() {
            steps.push(Step::One(Setting::new("rdma", "rdma.max", line, missing)));
        }
    }
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
