//! Real engines from the distribution over an OCI runtime: podman, containerd with its CRI plugin, dockerd.
//!
//! The runtime is chosen at run time: `INSULA_E2E_RUNTIME=insula-oci` (the default), `runc`, `crun` or a path. Each engine
//! lives in a cell (`testkit::Cell`) with namespaces, control groups and state folders of its own.

#![expect(clippy::unwrap_used, reason = "a test's broken expectation is a panic, in its tools as well")]

mod conformance;
