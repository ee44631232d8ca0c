//! Networks on the running kernel, in namespaces that live in descriptors only, so nothing is left behind.

#![expect(clippy::unwrap_used, reason = "what a test expects may fail it")]

mod hosts;
mod kernel;
