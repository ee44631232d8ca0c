//! Machines of the software CPU by the crate's public face.

#![expect(clippy::unwrap_used, reason = "what a test expects may fail it")]

mod guest;
mod machine;
mod order;
mod random;
mod storm;
