//! The versioned protocol between the daemon and its helper processes.
//!
//! A helper (`insula-shim`) owns one workload. The daemon talks to it over a stream socket: first the one it
//! inherited as its standard input, later, after a daemon restart, a fresh connection to the helper's listening socket.
//!
//! ```text
//! frame    := length:u32le  json:[u8; length]          at most MAX_FRAME bytes
//! json     := Envelope<Request>                         daemon -> helper
//!           | Envelope<Message>                         helper -> daemon
//! descriptors travel as SCM_RIGHTS with the frame's first byte; Envelope.fds says how many belong to it
//! ```
//!
//! Requests are answered in any order, matched by [`Envelope::id`]; events carry id 0. No policy lives here.

/// Entry points for the fuzz targets in `fuzz/`: each takes bytes from a stranger and must neither panic nor hang.
#[doc(hidden)]
pub mod fuzzing;
pub mod machine;
mod message;
mod wire;

pub use message::*;
pub use wire::{Frame, FrameReader, MAX_FDS, MAX_FRAME, ReadOutcome, WireError, encode, send};
