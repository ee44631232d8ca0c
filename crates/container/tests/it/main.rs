//! The helper program, driven over its control socket. Needs root; each test counts as skipped without it.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod attach;
mod fields;
mod harness;
mod life;
mod limits;
mod oci;
mod roots;
