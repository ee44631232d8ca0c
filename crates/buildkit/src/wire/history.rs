//! `moby.buildkit.v1`, records of builds: what `docker buildx history` shows.

use super::control::Typed;
use super::{RpcStatus, Timestamp};
use std::collections::BTreeMap;

/// `BuildHistoryEventType`
pub(crate) const STARTED: i32 = 0;
pub(crate) const COMPLETE: i32 = 1;
pub(crate) const DELETED: i32 = 2;

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct HistoryRequest {
    #[prost(bool, tag = "1")]
    pub(crate) active_only: bool,
    #[prost(string, tag = "2")]
    pub(crate) reference: String,
    /// What is known by now, and no more.
    #[prost(bool, tag = "3")]
    pub(crate) early_exit: bool,
    /// Each several conditions with commas between them; one of them has to hold.
    #[prost(string, repeated, tag = "4")]
    pub(crate) filter: Vec<String>,
    #[prost(int32, tag = "5")]
    pub(crate) limit: i32,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct HistoryEvent {
    #[prost(int32, tag = "1")]
    pub(crate) kind: i32,
    #[prost(message, optional, tag = "2")]
    pub(crate) record: Option<Record>,
}

/// `BuildHistoryRecord`
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct Record {
    #[prost(string, tag = "1")]
    pub(crate) reference: String,
    #[prost(string, tag = "2")]
    pub(crate) frontend: String,
    #[prost(btree_map = "string, string", tag = "3")]
    pub(crate) frontend_attrs: BTreeMap<String, String>,
    #[prost(message, repeated, tag = "4")]
    pub(crate) exporters: Vec<Typed>,
    #[prost(message, optional, tag = "5")]
    pub(crate) error: Option<RpcStatus>,
    #[prost(message, optional, tag = "6")]
    pub(crate) created_at: Option<Timestamp>,
    /// Nothing while it is going on.
    #[prost(message, optional, tag = "7")]
    pub(crate) completed_at: Option<Timestamp>,
    #[prost(message, optional, tag = "8")]
    pub(crate) logs: Option<Descriptor>,
    #[prost(btree_map = "string, string", tag = "9")]
    pub(crate) exporter_response: BTreeMap<String, String>,
    #[prost(message, optional, tag = "10")]
    pub(crate) result: Option<ResultInfo>,
    /// As `result`, of each of several platforms.
    #[prost(btree_map = "string, message", tag = "11")]
    pub(crate) results: BTreeMap<String, ResultInfo>,
    #[prost(bool, tag = "14")]
    pub(crate) pinned: bool,
    #[prost(int32, tag = "15")]
    pub(crate) cached_steps: i32,
    #[prost(int32, tag = "16")]
    pub(crate) total_steps: i32,
    #[prost(int32, tag = "17")]
    pub(crate) completed_steps: i32,
    /// The error with all its details, as a blob.
    #[prost(message, optional, tag = "18")]
    pub(crate) external_error: Option<Descriptor>,
    #[prost(int32, tag = "19")]
    pub(crate) warnings: i32,
}

/// A blob that can be fetched.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct Descriptor {
    #[prost(string, tag = "1")]
    pub(crate) media_type: String,
    #[prost(string, tag = "2")]
    pub(crate) digest: String,
    #[prost(int64, tag = "3")]
    pub(crate) size: i64,
    #[prost(btree_map = "string, string", tag = "5")]
    pub(crate) annotations: BTreeMap<String, String>,
}

/// `BuildResultInfo`
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct ResultInfo {
    #[prost(message, repeated, tag = "2")]
    pub(crate) attestations: Vec<Descriptor>,
    /// What each output made, by the output's number.
    #[prost(btree_map = "int64, message", tag = "3")]
    pub(crate) results: BTreeMap<i64, Descriptor>,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct UpdateRequest {
    #[prost(string, tag = "1")]
    pub(crate) reference: String,
    #[prost(bool, tag = "2")]
    pub(crate) pinned: bool,
    #[prost(bool, tag = "3")]
    pub(crate) delete: bool,
    /// Ends traces, of which there are none here.
    #[prost(bool, tag = "4")]
    pub(crate) finalize: bool,
}
