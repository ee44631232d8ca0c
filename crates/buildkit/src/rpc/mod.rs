//! gRPC over HTTP/2: both sides of it, since in a session the client of the connection is the server of the calls.
//!
//! ```text
//! POST /package.Service/Method    content-type: application/grpc
//! 0 | length, 4 bytes | message   … any number of them, both ways
//! trailers: grpc-status, grpc-message, grpc-status-details-bin
//! ```
//!
//! # Source
//! gRPC over HTTP2, `doc/PROTOCOL-HTTP2.md` of gRPC.

mod client;
mod frame;
mod server;
mod status;

pub(crate) use client::{Channel, Outgoing};
pub(crate) use frame::next_in;
pub(crate) use server::{Call, Method, Replies, serve};
pub(crate) use status::{Code, Status};

use hyper_util::rt::TokioTimer;
use std::time::Duration;

/// How much may be on its way in one call, and in all calls of a connection, in bytes.
const WINDOW: (u32, u32) = (1 << 20, 4 << 20);
/// How long a connection may be silent before it is asked whether it is there, and how long that may take.
const SILENCE: Duration = Duration::from_secs(60);
const ANSWER: Duration = Duration::from_secs(30);

fn timer() -> TokioTimer {
    TokioTimer::new()
}
