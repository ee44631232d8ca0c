//! Groups on the running kernel, each test in groups of its own that it removes.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails where it stands")]

mod guest;
mod kernel;
