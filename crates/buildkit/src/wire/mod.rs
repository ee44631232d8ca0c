//! The messages, as far as they are used here. Fields that are not named are skipped when they come.
//!
//! # Source
//! BuildKit 0.13 (records of builds: 0.25), `api/services/control/control.proto`, `frontend/gateway/pb/gateway.proto`,
//! `solver/pb/ops.proto`, `session/*/*.proto`; fsutil, `types/wire.proto` and `types/stat.proto`; gRPC, `google/rpc/status.proto`. The names are theirs.

pub(crate) mod content;
pub(crate) mod control;
pub(crate) mod files;
pub(crate) mod gateway;
pub(crate) mod history;
pub(crate) mod session;

/// `google.protobuf.Timestamp`
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub(crate) struct Timestamp {
    #[prost(int64, tag = "1")]
    pub(crate) seconds: i64,
    #[prost(int32, tag = "2")]
    pub(crate) nanos: i32,
}

impl From<jiff::Timestamp> for Timestamp {
    fn from(time: jiff::Timestamp) -> Self {
        // nanoseconds go forward from the second, also before 1970
        let (seconds, nanos) = (time.as_second(), time.subsec_nanosecond());
        if nanos < 0 {
            return Self { seconds: seconds - 1, nanos: nanos + 1_000_000_000 };
        }
        Self { seconds, nanos }
    }
}

impl Timestamp {
    pub(crate) fn now() -> Self {
        jiff::Timestamp::now().into()
    }
}

/// `google.protobuf.Any`
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct Any {
    #[prost(string, tag = "1")]
    pub(crate) type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) value: Vec<u8>,
}

/// `google.rpc.Status`
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct RpcStatus {
    #[prost(int32, tag = "1")]
    pub(crate) code: i32,
    #[prost(string, tag = "2")]
    pub(crate) message: String,
    #[prost(message, repeated, tag = "3")]
    pub(crate) details: Vec<Any>,
}

/// `BytesMessage` of every package that has one.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct Piece {
    #[prost(bytes = "bytes", tag = "1")]
    pub(crate) data: bytes::Bytes,
}

/// A message without fields.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub(crate) struct Empty {}
