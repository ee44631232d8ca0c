//! Machines from outside, by the crate's public face.

#![expect(clippy::unwrap_used, reason = "what a test expects may fail it")]

mod guest;
mod kernel;
mod support;
