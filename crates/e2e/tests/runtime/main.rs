//! Conformance of OCI runtimes: the runtime-spec and runc's command line, by black-box tests.
//!
//! The subject is chosen at run time: `INSULA_E2E_RUNTIME=insula-oci` (the default), `runc`, `crun`, or the path of another
//! runtime. Where runc and crun differ from what the specification asks for, or lack it, `known.rs` says so by name.
//! No type of ours is used here: only bundles, command lines and what they print.

#![expect(clippy::unwrap_used, reason = "a test's broken expectation is a panic, in its tools as well")]

mod bundle;
mod container;
mod kernel;
mod known;
#[path = "../it/leftover.rs"]
mod leftover;
mod machine;
mod subject;
