//! The Docker Engine API over the engine: a facade translates, the engine decides.
//!
//! HTTP/1.1 on unix sockets, TCP, and TLS. One sorted table (`route`) says which request is answered where; `translate` turns Docker's words
//! into the engine's and back; `attach` hands connections that stop being HTTP to the containers' helpers. The types on the wire
//! are `docker_wire`'s.

#![cfg_attr(test, recursion_limit = "256")]

mod attach;
mod error;
mod fold;
/// Entry points for the fuzz targets in `fuzz/`: each takes bytes from a stranger and must neither panic nor hang.
#[doc(hidden)]
pub mod fuzzing;
mod listener;
mod metrics;
mod query;
mod reply;
mod route;
mod server;
mod settings;
mod translate;
mod websocket;

pub use listener::{Listener, Tls};
pub use server::{Limits, Server};
pub use settings::{Defaults, Filter, LimitDefault, Proxies, Settings};
pub use translate::parse_bytes as parse_size;
