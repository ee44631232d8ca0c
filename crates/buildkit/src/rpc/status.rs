//! How a call ended.

use crate::wire::{Any, RpcStatus};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use hyper::HeaderMap;
use hyper::header::{HeaderName, HeaderValue};
use prost::Message;

const STATUS: HeaderName = HeaderName::from_static("grpc-status");
const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const DETAILS: HeaderName = HeaderName::from_static("grpc-status-details-bin");

/// gRPC's status codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Code(pub(crate) i32);

impl Code {
    pub(crate) const OK: Self = Self(0);
    pub(crate) const CANCELLED: Self = Self(1);
    pub(crate) const UNKNOWN: Self = Self(2);
    pub(crate) const INVALID: Self = Self(3);
    pub(crate) const NOT_FOUND: Self = Self(5);
    pub(crate) const ALREADY_EXISTS: Self = Self(6);
    pub(crate) const EXHAUSTED: Self = Self(8);
    pub(crate) const UNIMPLEMENTED: Self = Self(12);
    pub(crate) const INTERNAL: Self = Self(13);
    pub(crate) const UNAVAILABLE: Self = Self(14);
}

/// Why a call failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Status {
    pub(crate) code: Code,
    pub(crate) message: String,
    pub(crate) details: Vec<Any>,
}

impl Status {
    pub(crate) fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), details: Vec::new() }
    }

    /// Something for the user, before which clients put no code.
    pub(crate) fn told(message: impl Into<String>) -> Self {
        Self::new(Code::UNKNOWN, message)
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(Code::INVALID, message)
    }

    pub(crate) fn unavailable(message: impl Into<String>) -> Self {
        Self::new(Code::UNAVAILABLE, message)
    }

    /// What a call's trailers say; nothing for one that went well.
    pub(super) fn of_trailers(trailers: &HeaderMap) -> Result<(), Self> {
        let text = |name: &HeaderName| trailers.get(name).and_then(|value| value.to_str().ok());
        let code = text(&STATUS).and_then(|code| code.parse().ok()).map_or(Code::UNKNOWN, Code);
        if code == Code::OK {
            return Ok(());
        }
        let details = trailers.get(&DETAILS).map(HeaderValue::as_bytes).unwrap_or_default();
        let details = STANDARD_NO_PAD.decode(details).or_else(|_| STANDARD.decode(details)).unwrap_or_default();
        let details = RpcStatus::decode(&details[..]).unwrap_or_default().details;
        Err(Self { code, message: unescape(text(&MESSAGE).unwrap_or_default()), details })
    }

    /// The trailers of a call that ended so.
    pub(super) fn trailers(outcome: &Result<(), Self>) -> HeaderMap {
        let mut out = HeaderMap::new();
        let Err(status) = outcome else {
            out.insert(STATUS, HeaderValue::from_static("0"));
            return out;
        };
        out.insert(STATUS, HeaderValue::from(status.code.0));
        if let Ok(message) = HeaderValue::from_str(&escape(&status.message)) {
            out.insert(MESSAGE, message);
        }
        if !status.details.is_empty() {
            let bytes = RpcStatus::from(status.clone()).encode_to_vec();
            if let Ok(details) = HeaderValue::from_str(&STANDARD_NO_PAD.encode(bytes)) {
                out.insert(DETAILS, details);
            }
        }
        out
    }
}

impl From<Status> for RpcStatus {
    fn from(status: Status) -> Self {
        Self { code: status.code.0, message: status.message, details: status.details }
    }
}

impl From<RpcStatus> for Status {
    fn from(status: RpcStatus) -> Self {
        Self { code: Code(status.code), message: status.message, details: status.details }
    }
}

/// Bytes that are not plain letters become `%` and two digits.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'%' | 0..=0x1f | 0x7f.. => out.push_str(&format!("%{byte:02X}")),
            plain => out.push(char::from(plain)),
        }
    }
    out
}

fn unescape(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let digits = after.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        match (first, digits.and_then(|digits| u8::from_str_radix(digits, 16).ok())) {
            (b'%', Some(byte)) => {
                out.push(byte);
                rest = &after[2..];
            }
            _ => {
                out.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_survives_its_trailers() {
        let detail = Any { type_url: "a/b".to_owned(), value: vec![0, 255, 7] };
        let status = Status { code: Code::NOT_FOUND, message: "100% \u{e4}\n\"x\"".to_owned(), details: vec![detail] };
        let trailers = Status::trailers(&Err(status.clone()));
        assert_eq!(Status::of_trailers(&trailers), Err(status));
        assert_eq!(Status::of_trailers(&Status::trailers(&Ok(()))), Ok(()));
        assert_eq!(Status::of_trailers(&HeaderMap::new()).unwrap_err().code, Code::UNKNOWN);
    }

    #[test]
    fn what_is_no_escape_stays() {
        assert_eq!(unescape("5% of %zz %41%"), "5% of %zz A%");
    }
}
