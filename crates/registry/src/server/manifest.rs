//! Manifests, and the lists of tags, repositories and referrers.

use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, ETAG, HeaderName, LINK, LOCATION};
use hyper::{Method, Response, StatusCode};
use serde::Serialize;
use serde_json::json;

use super::refusal::{Code, Refusal, Reply, Result};
use super::upload::{empty, set};
use super::{CONTENT_DIGEST, Call, blob, blocking};
use crate::body::Body;
use crate::digest::ContentDigest;
use crate::escape::percent_encode;
use crate::manifest::{Descriptor, MAX_MANIFEST, OCI_INDEX};
use crate::name::{Repository, Target};
use crate::storage::{Presence, StoredManifest};

const SUBJECT: HeaderName = HeaderName::from_static("oci-subject");
const FILTERS_APPLIED: HeaderName = HeaderName::from_static("oci-filters-applied");

/// `GET /v2/`
pub(super) fn base() -> Reply {
    json_reply("application/json", &json!({}))
}

/// `GET` and `HEAD /v2/NAME/manifests/REFERENCE`
pub(super) async fn get(call: Call, repository: Repository, target: Target) -> Result {
    let stored = match &call.api.cache {
        Some(cache) => cache.manifest(&repository, &target).await?,
        None => {
            let storage = call.api.storage.clone();
            blocking(move || storage.manifest(&repository, &target)).await?
        }
    };
    Ok(answer(&call, stored))
}

fn answer(call: &Call, stored: StoredManifest) -> Reply {
    if blob::matches(call.request.headers(), &stored.digest) {
        return blob::not_modified(&stored.digest);
    }
    let size = stored.bytes.len();
    let is_head = call.request.method() == Method::HEAD;
    let mut reply = Response::new(if is_head { Body::empty() } else { Body::full(stored.bytes) });
    set(&mut reply, CONTENT_LENGTH, &size.to_string());
    set(&mut reply, CONTENT_TYPE, &stored.media_type);
    set(&mut reply, CONTENT_DIGEST, &stored.digest.to_string());
    set(&mut reply, ETAG, &format!("\"{}\"", stored.digest));
    reply
}

/// `PUT /v2/NAME/manifests/REFERENCE`
pub(super) async fn put(call: Call, repository: Repository, target: Target) -> Result {
    let header = call.request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let content_type = header.unwrap_or_default().to_owned();
    let storage = call.api.storage.clone();
    let bytes = match Limited::new(call.request.into_body(), MAX_MANIFEST).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) if error.is::<LengthLimitError>() => {
            let text = format!("the manifest has more than {MAX_MANIFEST} bytes");
            return Err(Refusal::new(Code::ManifestInvalid, text).with_status(StatusCode::PAYLOAD_TOO_LARGE));
        }
        Err(error) => {
            return Err(Refusal::new(Code::ManifestInvalid, format!("the connection broke: {error}")));
        }
    };
    let to = repository.clone();
    let put = move || storage.put_manifest(&to, &target, &content_type, &bytes, Presence::Required);
    let accepted = blocking(put).await?;
    let mut reply = empty(StatusCode::CREATED);
    set(&mut reply, LOCATION, &format!("/v2/{repository}/manifests/{}", accepted.digest));
    set(&mut reply, CONTENT_DIGEST, &accepted.digest.to_string());
    if let Some(subject) = accepted.subject {
        set(&mut reply, SUBJECT, &subject.to_string());
    }
    Ok(reply)
}

/// `DELETE /v2/NAME/manifests/REFERENCE`
pub(super) async fn delete(call: Call, repository: Repository, target: Target) -> Result {
    let storage = call.api.storage.clone();
    blocking(move || storage.delete_manifest(&repository, &target)).await?;
    Ok(empty(StatusCode::ACCEPTED))
}

/// `GET /v2/NAME/tags/list`
pub(super) async fn tags(call: Call, repository: Repository) -> Result {
    let all = match &call.api.cache {
        Some(cache) => cache.tags(&repository).await?,
        None => {
            let (storage, wanted) = (call.api.storage.clone(), repository.clone());
            blocking(move || storage.tags(&wanted)).await?
        }
    };
    let (tags, next) = call.query.page()?.of(all);
    let mut reply = json_reply("application/json", &json!({ "name": repository.as_str(), "tags": tags }));
    link(&mut reply, &format!("/v2/{repository}/tags/list"), next);
    Ok(reply)
}

/// `GET /v2/_catalog`
pub(super) async fn catalog(call: Call) -> Result {
    let storage = call.api.storage.clone();
    let all = blocking(move || storage.repositories()).await?;
    let (names, next) = call.query.page()?.of(all.iter().map(Repository::to_string).collect());
    let mut reply = json_reply("application/json", &json!({ "repositories": names }));
    link(&mut reply, "/v2/_catalog", next);
    Ok(reply)
}

/// `GET /v2/NAME/referrers/DIGEST`
pub(super) async fn referrers(call: Call, repository: Repository, subject: ContentDigest) -> Result {
    let mut all = match &call.api.cache {
        Some(cache) => cache.referrers(&repository, &subject).await?,
        None => {
            let (storage, wanted) = (call.api.storage.clone(), repository.clone());
            blocking(move || storage.referrers(&wanted, &subject)).await?
        }
    };
    let wanted = call.query.get("artifactType").map(str::to_owned);
    if let Some(wanted) = &wanted {
        all.retain(|descriptor| descriptor.artifact_type.as_deref() == Some(wanted));
    }
    if let Some(after) = call.query.digest("last")? {
        all.retain(|descriptor| descriptor.digest > after);
    }
    let next = cut(&mut all).map(|last| match &wanted {
        Some(wanted) => format!("last={last}&artifactType={}", percent_encode(wanted)),
        None => format!("last={last}"),
    });
    let index = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": all });
    let mut reply = json_reply(OCI_INDEX, &index);
    if wanted.is_some() {
        set(&mut reply, FILTERS_APPLIED, "artifactType");
    }
    link(&mut reply, &format!("/v2/{repository}/referrers/{subject}"), next);
    Ok(reply)
}

/// Cuts a list where it would become larger than a manifest may be; the last one that stays, if some go.
fn cut(all: &mut Vec<Descriptor>) -> Option<ContentDigest> {
    let mut size = 0;
    let fitting = all.iter().take_while(|one| {
        size += serde_json::to_vec(one).map_or(0, |text| text.len() + 1);
        size < MAX_MANIFEST - 1024
    });
    // One at least, or the client would ask for ever.
    let count = fitting.count().max(1);
    if count >= all.len() {
        return None;
    }
    all.truncate(count);
    all.last().map(|last| last.digest)
}

fn json_reply(media_type: &str, value: &impl Serialize) -> Reply {
    let mut reply = Response::new(Body::full(serde_json::to_vec(value).unwrap_or_default()));
    set(&mut reply, CONTENT_TYPE, media_type);
    reply
}

fn link(reply: &mut Reply, path: &str, next: Option<String>) {
    if let Some(next) = next {
        set(reply, LINK, &format!("<{path}?{next}>; rel=\"next\""));
    }
}
