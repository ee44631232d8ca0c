//! The Container Network Interface, from both sides: running the plugins of a configuration ([`Runner`]), and being a
//! plugin for other engines ([`main`]).
//!
//! # Source
//! CNI specification 1.1.0.

mod list;
mod plugin;
mod state;

use std::path::PathBuf;

pub use list::{NetworkList, Runner, Target};
pub use plugin::{Output, main};
use serde::{Deserialize, Serialize};

/// The versions that we understand, the newest last.
pub const VERSIONS: &[&str] = &["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// Something about plugins that failed.
#[derive(Debug, thiserror::Error)]
pub enum CniError {
    /// A configuration could not be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A configuration is none.
    #[error("network configuration {name} is not understood: {reason}")]
    Configuration {
        /// The file or network.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// No folder of plugins has this one.
    #[error(
        "there is no plugin \"{kind}\" in {folders}; install it, for instance with the package containernetworking-plugins"
    )]
    Missing {
        /// The plugin.
        kind: String,
        /// Where was looked.
        folders: String,
    },
    /// A plugin could not be run.
    #[error("cannot run plugin {}", path.display())]
    Run {
        /// The program.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A plugin has refused.
    #[error("plugin {kind} refused {command}: {failure}")]
    Plugin {
        /// The plugin.
        kind: String,
        /// What it was to do.
        command: &'static str,
        /// What it says.
        failure: Failure,
    },
}

/// What a plugin says when it fails.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, thiserror::Error)]
#[error("{msg}{}{details}", if details.is_empty() { "" } else { ": " })]
#[serde(rename_all = "camelCase", default)]
pub struct Failure {
    /// The version of the interface.
    pub cni_version: String,
    /// The number: below 100 those of the specification.
    pub code: u32,
    /// In short.
    pub msg: String,
    /// At length.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub details: String,
}
