//! The helper program, driven over its control socket. Needs root; each test counts as skipped without it.

mod attach;
mod harness;
mod life;
mod limits;
mod roots;
