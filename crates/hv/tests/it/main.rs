//! Tests of `hv` from outside.

#![expect(clippy::unwrap_used, reason = "what a test expects may fail it")]

mod kernel;
