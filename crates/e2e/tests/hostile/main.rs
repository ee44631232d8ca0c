//! Hostile bundles and containers against an OCI runtime: a test for each known way out, named after it.
//!
//! The runtime is chosen at run time: `INSULA_E2E_RUNTIME=insula-oci` (the default), `runc`, `crun` or a path. A test first
//! shows that its trap would spring (the positive control), then that it does not with the runtime. What a reference
//! program of the distribution is known not to hold is in `known.rs`.

#![expect(clippy::unwrap_used, reason = "a test's broken expectation is a panic, in its tools as well")]

mod kernel;
mod known;
