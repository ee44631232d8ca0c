//! The conformance suite: see the crate's own words.

#![expect(clippy::unwrap_used, reason = "a test's broken expectation is a panic, in its tools as well")]

mod conformance;
mod kernel;
mod leftover;
mod peers;
mod subject;
