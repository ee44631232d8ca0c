//! The Docker Engine API's words: types, stream framing, and our extra routes.
//!
//! [`models`] and [`query`] are the published API description as types (the `bollard-stubs` crate); what that
//! description leaves out, because it is not JSON, is in [`stdcopy`]; what Docker has no word for is in [`extra`].
//! Both the server's facade and the command line use this crate, so the two cannot drift apart.

pub mod extra;
pub mod stdcopy;

pub use bollard_stubs::models;
pub use bollard_stubs::query_parameters as query;

/// The newest API version that we speak.
pub const API_VERSION: &str = "1.51";
/// The oldest API version that we speak.
pub const MIN_API_VERSION: &str = "1.24";
/// The media type of a hijacked connection whose bytes are framed by [`stdcopy`].
pub const MULTIPLEXED_STREAM: &str = "application/vnd.docker.multiplexed-stream";
/// The media type of a hijacked connection whose bytes are a terminal's.
pub const RAW_STREAM: &str = "application/vnd.docker.raw-stream";
