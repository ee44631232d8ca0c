//! Conformance: the programs as users meet them.
//!
//! The suite is in `tests/it`; it knows no type of ours, only command lines and what they print. Its subject is chosen at run
//! time: `INSULA_E2E_SUBJECT=insula` (the default), or `dockerd`, the reference: what passes on both is compatible.
//! The programs are taken from the folder that the test was built into, or from `INSULA_E2E_BIN`.
