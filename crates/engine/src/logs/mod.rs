//! A container's output: where it goes, by driver and options, and reading it again.

mod options;
mod read;

pub(crate) use options::{check, file, plan};
pub use read::{LogLine, LogStream, Logs};
