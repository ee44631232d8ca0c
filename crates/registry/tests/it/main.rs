//! The registry's public face: server and client over the loopback, with connections that break and processes that die.

mod cache;
mod crash;
mod images;
mod proof;
mod resume;
mod signature;
mod tools;
