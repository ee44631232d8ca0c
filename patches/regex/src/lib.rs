//! The `regex` crate's interface over `regex-lite`, by the same authors.
//!
//! `oci-spec` matches one fixed pattern (`execCPUAffinity`, a list of numbers), and the full crate's automata and Unicode tables for it are a third
//! of `insula-oci`, whose size is paid for at each start. Nothing else in the workspace uses `regex`.

pub use regex_lite::*;
