//! The only room of unsafe code here: guest memory behind host pointers, and machine code that we make and run.
//!
//! Each file has a face that is safe to use however it is called; what holds it together is written at its `unsafe` blocks.
#![expect(unsafe_code, reason = "guest memory and generated code are reached through host pointers")]

#[expect(clippy::multiple_unsafe_ops_per_block, reason = "one arm a size, all with one reason")]
pub(crate) mod access;
pub(crate) mod code;
pub(crate) mod core;
pub(crate) mod emit;
pub(crate) mod jit;
mod jumps;
pub(crate) mod lookup;
pub(crate) mod native;
#[cfg(any(test, feature = "diff"))]
#[expect(clippy::multiple_unsafe_ops_per_block, reason = "its blocks are sequences of system calls")]
pub(crate) mod oracle;
pub(crate) mod ram;
pub(crate) mod tlb;
