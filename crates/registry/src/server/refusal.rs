//! Errors in the specification's form.

use hyper::header::{ALLOW, CONTENT_RANGE, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use hyper::{Response, StatusCode};
use serde::Serialize;
use serde_json::{Value, json};

use crate::body::Body;
use crate::failure::chain;
use crate::name::NameError;
use crate::storage::StorageError;

/// The error codes of the specification, and those that Docker's registry has beyond them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(crate) enum Code {
    BlobUnknown,
    BlobUploadInvalid,
    BlobUploadUnknown,
    Denied,
    DigestInvalid,
    ManifestBlobUnknown,
    ManifestInvalid,
    ManifestUnknown,
    NameInvalid,
    NameUnknown,
    PaginationNumberInvalid,
    RangeInvalid,
    SizeInvalid,
    TagInvalid,
    #[serde(rename = "TOOMANYREQUESTS")]
    TooManyRequests,
    Unauthorized,
    Unavailable,
    Unknown,
    Unsupported,
}

impl Code {
    const fn status(self) -> StatusCode {
        match self {
            Self::BlobUnknown | Self::BlobUploadUnknown | Self::ManifestUnknown | Self::NameUnknown => {
                StatusCode::NOT_FOUND
            }
            // The specification wants 404 or 400 for what a manifest lacks; Docker's registry and all clients have 400.
            Self::ManifestBlobUnknown
            | Self::BlobUploadInvalid
            | Self::DigestInvalid
            | Self::ManifestInvalid
            | Self::NameInvalid
            | Self::PaginationNumberInvalid
            | Self::SizeInvalid
            | Self::TagInvalid => StatusCode::BAD_REQUEST,
            Self::Denied => StatusCode::FORBIDDEN,
            Self::RangeInvalid => StatusCode::RANGE_NOT_SATISFIABLE,
            Self::TooManyRequests => StatusCode::TOO_MANY_REQUESTS,
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Self::Unknown => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Unsupported => StatusCode::METHOD_NOT_ALLOWED,
        }
    }
}

/// An answer that is an error.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    code: Code,
    message: String,
    details: Vec<Value>,
    headers: Vec<(HeaderName, String)>,
}

pub(crate) type Reply = Response<Body>;
pub(crate) type Result<T = Reply> = std::result::Result<T, Refusal>;

impl Refusal {
    pub(crate) fn new(code: Code, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { status: code.status(), code, message, details: Vec::new(), headers: Vec::new() }
    }

    pub(crate) fn with_status(self, status: StatusCode) -> Self {
        Self { status, ..self }
    }

    pub(crate) fn with_header(mut self, name: HeaderName, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// A method that a resource does not have.
    pub(crate) fn method(allowed: &'static str) -> Self {
        Self::new(Code::Unsupported, format!("the operation is unsupported here; there are {allowed}"))
            .with_header(ALLOW, allowed)
    }

    /// Nobody, or the wrong password.
    pub(crate) fn unauthorized() -> Self {
        // clients show the words of an error only if there is more to it than its code
        let details = vec![json!({ "scheme": "Basic" })];
        Self { details, ..Self::new(Code::Unauthorized, "authentication required") }
            .with_header(WWW_AUTHENTICATE, r#"Basic realm="Insula Registry", charset="UTF-8""#)
    }

    /// A range outside of the content.
    pub(crate) fn range(size: u64) -> Self {
        Self::new(Code::RangeInvalid, format!("the range is not within the content's {size} bytes"))
            .with_header(CONTENT_RANGE, format!("bytes */{size}"))
    }

    /// Something that cannot be done at the moment.
    pub(crate) fn busy(message: &str) -> Self {
        Self::new(Code::Unavailable, message).with_header(RETRY_AFTER, "5")
    }

    pub(crate) fn into_reply(self) -> Reply {
        let one = |detail: Option<&Value>| {
            let mut error = json!({ "code": self.code, "message": self.message });
            if let Some(detail) = detail {
                error["detail"] = detail.clone();
            }
            error
        };
        let errors: Vec<Value> = match self.details.as_slice() {
            [] => vec![one(None)],
            details => details.iter().map(|detail| one(Some(detail))).collect(),
        };
        let mut reply = Response::new(Body::full(json!({ "errors": errors }).to_string()));
        *reply.status_mut() = self.status;
        reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        for (name, value) in self.headers {
            if let Ok(value) = HeaderValue::from_str(&value) {
                reply.headers_mut().insert(name, value);
            }
        }
        reply
    }
}

impl From<StorageError> for Refusal {
    fn from(error: StorageError) -> Self {
        let text = chain(&error);
        match error {
            StorageError::NoBlob { digest, .. } => {
                Self { details: vec![json!({ "digest": digest })], ..Self::new(Code::BlobUnknown, "blob unknown") }
            }
            StorageError::NoManifest { .. } => Self::new(Code::ManifestUnknown, text),
            StorageError::NoRepository { .. } => Self::new(Code::NameUnknown, text),
            StorageError::NoUpload { .. } => Self::new(Code::BlobUploadUnknown, text),
            StorageError::Mismatch { .. } => Self::new(Code::DigestInvalid, text),
            StorageError::Missing { missing, .. } => {
                let details = missing.iter().map(|digest| json!({ "digest": digest })).collect();
                Self {
                    details,
                    ..Self::new(Code::ManifestBlobUnknown, "the manifest refers to a blob that is not here")
                }
            }
            StorageError::Manifest(_) => Self::new(Code::ManifestInvalid, text),
            StorageError::Locked { .. } | StorageError::File { .. } => {
                // What a stranger reads does not name our files.
                tracing::error!(error = text, "the registry's store");
                let full = StatusCode::INSUFFICIENT_STORAGE;
                if error.is_full() {
                    return Self::new(Code::Unavailable, "the registry's disk is full").with_status(full);
                }
                Self::new(Code::Unknown, "the registry's store has failed; its log says why")
            }
        }
    }
}

impl From<NameError> for Refusal {
    fn from(error: NameError) -> Self {
        let code = if error == NameError::Tag { Code::TagInvalid } else { Code::NameInvalid };
        Self::new(code, error.to_string())
    }
}
