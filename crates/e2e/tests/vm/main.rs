//! Virtual machines as users meet them: by the program `insula`, with kernels that it has installed.

#![expect(clippy::unwrap_used, reason = "a test's broken expectation is a panic, in its tools as well")]

mod guest;
