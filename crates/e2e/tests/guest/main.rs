//! The OCI runtime on a kernel whose only control groups are of version 2, and where CRIU works: in a guest.
//!
//! `guest` boots one machine and runs this same binary in it; what it runs there is in `inside`, which is ignored here. The
//! tools are those of the conformance suite, `tests/runtime`.

#![expect(clippy::unwrap_used, reason = "a test's broken expectation is a panic, in its tools as well")]

mod booted;
#[expect(dead_code, reason = "the suite asks for more of a bundle")]
#[path = "../runtime/bundle.rs"]
mod bundle;
#[path = "../runtime/container.rs"]
mod container;
mod engine;
mod guest;
mod inside;
#[path = "../runtime/known.rs"]
mod known;
#[path = "../it/leftover.rs"]
mod leftover;
#[expect(dead_code, reason = "the suite asks for more of a machine")]
#[path = "../runtime/machine.rs"]
mod machine;
#[path = "../runtime/subject.rs"]
mod subject;
