//! Blobs: GET, HEAD, ranges, DELETE.

use hyper::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderMap, IF_NONE_MATCH, RANGE,
};
use hyper::{Method, Response, StatusCode};

use super::refusal::{Code, Refusal, Reply, Result};
use super::upload::{empty, set};
use super::{CONTENT_DIGEST, Call, blocking, route};
use crate::body::Body;
use crate::digest::ContentDigest;
use crate::name::Repository;
use crate::storage::{Blob, StorageError};

/// `GET` and `HEAD /v2/NAME/blobs/DIGEST`
pub(super) async fn get(call: Call, repository: Repository, digest: ContentDigest) -> Result {
    if call.request.method() == Method::HEAD {
        let (storage, wanted) = (call.api.storage.clone(), repository.clone());
        return match blocking(move || storage.blob_size(&wanted, &digest)).await {
            Ok(size) => Ok(head(&digest, size)),
            Err(refusal) => match &call.api.cache {
                Some(cache) => Ok(head(&digest, cache.blob_size(&repository, &digest).await?)),
                None => Err(refusal),
            },
        };
    }
    if matches(call.request.headers(), &digest) {
        return Ok(not_modified(&digest));
    }
    // Three calls on names that the kernel has in memory cost less than handing them to another thread.
    match (call.api.storage.blob(&repository, &digest), &call.api.cache) {
        (Ok(blob), _) => send(call.request.headers(), &digest, blob),
        (Err(StorageError::NoBlob { .. }), Some(cache)) => {
            cache.blob(&repository, &digest, call.request.headers()).await
        }
        (Err(error), _) => Err(error.into()),
    }
}

fn head(digest: &ContentDigest, size: u64) -> Reply {
    let mut reply = empty(StatusCode::OK);
    set(&mut reply, CONTENT_LENGTH, &size.to_string());
    describe(&mut reply, digest);
    reply
}

/// A blob, or the part of it that is asked for.
pub(super) fn send(headers: &HeaderMap, digest: &ContentDigest, blob: Blob) -> Result {
    let size = blob.size;
    let wanted = headers.get(RANGE).and_then(|value| value.to_str().ok());
    let part = wanted.map(|wanted| route::range(wanted, size)).transpose()?.flatten();
    let (start, length) = part.unwrap_or((0, size));
    let body = Body::file(blob.file, start, length);
    let mut reply = Response::new(body.map_err(|error| {
        tracing::error!(%digest, %error, "cannot read a blob");
        Refusal::new(Code::Unknown, "the blob cannot be read; the registry's log says why")
    })?);
    describe(&mut reply, digest);
    if part.is_some() {
        *reply.status_mut() = StatusCode::PARTIAL_CONTENT;
        set(&mut reply, CONTENT_RANGE, &format!("bytes {start}-{}/{size}", start + length - 1));
    }
    Ok(reply)
}

/// The headers that every blob has.
pub(super) fn describe(reply: &mut Reply, digest: &ContentDigest) {
    let text = digest.to_string();
    set(reply, CONTENT_TYPE, "application/octet-stream");
    set(reply, ACCEPT_RANGES, "bytes");
    // The content of a digest never changes.
    set(reply, CACHE_CONTROL, "max-age=31536000, immutable");
    set(reply, ETAG, &format!("\"{text}\""));
    set(reply, CONTENT_DIGEST, &text);
}

/// Whether the client has it already.
pub(super) fn matches(headers: &HeaderMap, digest: &ContentDigest) -> bool {
    let known = headers.get(IF_NONE_MATCH).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let tag = format!("\"{digest}\"");
    known.split(',').any(|one| one.trim().trim_start_matches("W/") == tag)
}

pub(super) fn not_modified(digest: &ContentDigest) -> Reply {
    let mut reply = empty(StatusCode::NOT_MODIFIED);
    set(&mut reply, ETAG, &format!("\"{digest}\""));
    reply
}

/// `DELETE /v2/NAME/blobs/DIGEST`
pub(super) async fn delete(call: Call, repository: Repository, digest: ContentDigest) -> Result {
    let storage = call.api.storage.clone();
    blocking(move || storage.delete_blob(&repository, &digest)).await?;
    Ok(empty(StatusCode::ACCEPTED))
}
