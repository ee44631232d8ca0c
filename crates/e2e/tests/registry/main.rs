//! Conformance of registries: the OCI distribution specification over raw HTTP, and stock clients.
//!
//! The subject is chosen at run time: `INSULA_E2E_REGISTRY=insula` (the default) or `docker-registry`, Debian's. What passes on
//! both is compatible; [`subject::Difference`] names what only one of them does.

#![expect(clippy::unwrap_used, reason = "a test's broken expectation is a panic, in its tools as well")]

mod conformance;
mod http;
mod subject;
