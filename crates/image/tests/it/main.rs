//! The image crate from outside: archives made by the machine's own `tar`, images checked by `fsck.erofs` and the kernel.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod bootstrap;
mod corpus;
mod hostile;
mod intake;
mod kernel;
mod store;
mod walk;
