//! Errors as clients show them: with the place in the Dockerfile as a detail of their status.
//!
//! # Source
//! BuildKit, `solver/errdefs` and `util/grpcerrors`: details are JSON under the name that their type is registered by.

use crate::rpc::Status;
use crate::wire::Any;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use engine::EngineError;
use serde_json::json;

const SOURCE: &str = "github.com/moby/buildkit/errdefs.Source+json";
const VERTEX: &str = "github.com/moby/buildkit/errdefs.Vertex+json";

/// A Dockerfile as a client is to see it.
#[derive(Debug, Clone)]
pub(crate) struct SourceFile {
    pub(crate) name: String,
    pub(crate) text: Vec<u8>,
}

/// An error without a place.
pub(crate) fn failed(error: EngineError) -> Status {
    Status::told(error.to_string())
}

/// An error of a build. Its place goes as a detail, since clients show the lines around it themselves.
pub(super) fn with_source(error: EngineError, file: &SourceFile) -> Status {
    let Some(mark) = error.mark().filter(|_| !file.text.is_empty()) else { return failed(error) };
    // clients count lines from one and letters from nought
    let line = mark.place.span.line;
    let place = json!({ "line": line, "character": mark.place.span.column.saturating_sub(1) });
    let end = json!({ "line": mark.place.span.last_line.max(line) });
    let detail = json!({
        "info": { "filename": file.name, "data": STANDARD.encode(&file.text), "language": "Dockerfile" },
        "ranges": [{ "start": place, "end": end }],
    });
    let mut status = Status::told(mark.what.clone());
    status.details.push(Any { type_url: SOURCE.to_owned(), value: detail.to_string().into_bytes() });
    status
}

/// Says which vertex went wrong: records of builds are shown with the end of its output.
pub(super) fn with_vertex(mut status: Status, digest: Option<&str>) -> Status {
    if let Some(digest) = digest {
        let value = json!({ "digest": digest }).to_string().into_bytes();
        status.details.push(Any { type_url: VERTEX.to_owned(), value });
    }
    status
}
