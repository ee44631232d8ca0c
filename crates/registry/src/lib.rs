//! OCI distribution: a registry to serve, and a client for any registry.
//!
//! ```text
//! server    HTTP: requests, answers, authentication, TLS          storage   blobs, uploads, manifests, tags on disk; synchronous
//! client    resolve, pull, push, search, credentials, mirrors     cosign    signatures of images
//! ```
//!
//! [`server::serve`] runs a registry, with [`server::Config::proxy`] one that caches another. [`client::Client`] talks to any
//! registry and hands blobs out as verified streams, which is how the image store turns layers into EROFS while they
//! come. Bytes from the other side never make either panic.
//!
//! Neighbours: `oci` for names and platforms below; the engine above. Nothing here knows images' content.
//!
//! Source: the OCI distribution specification 1.1, and what Docker's registry and clients do beyond it.

mod body;

pub mod client;
pub mod digest;
mod escape;
mod failure;
pub mod manifest;
pub mod name;
pub mod server;
pub mod storage;

/// Entry points for the fuzz targets in `fuzz/`: each takes bytes from a stranger and must neither panic nor hang.
#[doc(hidden)]
pub mod fuzzing;
