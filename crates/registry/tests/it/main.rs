//! The registry's public face: server and client over the loopback, with connections that break and processes that die.

#![expect(clippy::unwrap_used, reason = "a test's broken expectation is a panic, in its tools as well")]

mod cache;
mod crash;
mod images;
mod load;
mod proof;
mod resume;
mod signature;
mod tools;
