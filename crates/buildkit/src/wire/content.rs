//! `containerd.services.content.v1`: a store of blobs, at the client for caches in its folders, and here for records of builds.
//!
//! # Source
//! containerd 1.7, `api/services/content/v1/content.proto`.

use bytes::Bytes;

/// A piece of a blob.
pub(crate) const WRITE: i32 = 1;
/// Ends a blob.
pub(crate) const COMMIT: i32 = 2;

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct InfoRequest {
    #[prost(string, tag = "1")]
    pub(crate) digest: String,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct InfoResponse {
    #[prost(message, optional, tag = "1")]
    pub(crate) info: Option<BlobInfo>,
}

/// `Info`
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct BlobInfo {
    #[prost(string, tag = "1")]
    pub(crate) digest: String,
    #[prost(int64, tag = "2")]
    pub(crate) size: i64,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct ReadRequest {
    #[prost(string, tag = "1")]
    pub(crate) digest: String,
    #[prost(int64, tag = "2")]
    pub(crate) offset: i64,
    #[prost(int64, tag = "3")]
    pub(crate) size: i64,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct ReadResponse {
    #[prost(int64, tag = "1")]
    pub(crate) offset: i64,
    #[prost(bytes = "bytes", tag = "2")]
    pub(crate) data: Bytes,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct WriteRequest {
    #[prost(int32, tag = "1")]
    pub(crate) action: i32,
    /// The writer's name for what it writes.
    #[prost(string, tag = "2")]
    pub(crate) reference: String,
    #[prost(int64, tag = "3")]
    pub(crate) total: i64,
    #[prost(string, tag = "4")]
    pub(crate) expected: String,
    #[prost(int64, tag = "5")]
    pub(crate) offset: i64,
    #[prost(bytes = "bytes", tag = "6")]
    pub(crate) data: Bytes,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct WriteResponse {
    #[prost(int32, tag = "1")]
    pub(crate) action: i32,
    #[prost(int64, tag = "4")]
    pub(crate) offset: i64,
}
