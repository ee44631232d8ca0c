//! What is left when an OCI runtime is killed in the middle, or the kernel refuses a call: nothing that a retry trips over.
//!
//! strace counts the calls that change something, and in later runs kills the process that makes the Nth of a kind, or lets
//! that one fail. The runtime is chosen at run time: `INSULA_E2E_RUNTIME=insula-oci` (the default) or a path. There are more
//! points than a test run has time for: `INSULA_E2E_FAULTS` says how many a test takes (`all`, or a number), and
//! `INSULA_E2E_SEED` which; a failure prints the seed.

#![expect(clippy::unwrap_used, reason = "a test's broken expectation is a panic, in its tools as well")]

mod kernel;
