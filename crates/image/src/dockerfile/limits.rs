//! How much a Dockerfile may have; more is taken for an attack or a mistake, and refused by name.

/// Bytes of the file.
pub const FILE_BYTES: usize = 4 << 20;
/// Bytes of one line, as in Docker.
pub const LINE_BYTES: usize = 65_535;
/// Instructions of the file.
pub const INSTRUCTIONS: usize = 10_000;
/// Stages of the file.
pub const STAGES: usize = 1_000;
/// Here-documents of the file.
pub const HEREDOCS: usize = 1_000;
/// Mounts of one RUN.
pub const MOUNTS: usize = 256;
