//! Uploads: one POST, POST and PUT, or POST, PATCHes and PUT.
//!
//! A body is gathered to about a megabyte, which one blocking job digests and writes while the next is gathered. So a slow
//! client holds no thread, and a fast one no more memory than two such batches. The upload belongs to the job while that
//! runs, also when the client has gone.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::header::{CONTENT_LENGTH, CONTENT_RANGE, HeaderMap, HeaderName, HeaderValue, LOCATION, RANGE};
use hyper::{Response, StatusCode};
use tokio::sync::{Mutex as Turn, OwnedMutexGuard};
use tokio::task::JoinHandle;

use super::refusal::{Code, Refusal, Reply, Result};
use super::{Call, blocking, route};
use crate::body::Body;
use crate::digest::{Algorithm, ContentDigest};
use crate::name::Repository;
use crate::storage::{Storage, Upload, UploadId};

/// Bytes that are digested and written in one job.
const BATCH: usize = 1 << 20;
/// The most uploads that are kept open; the others are opened when they go on.
const MOST_OPEN: usize = 256;
/// How long a request waits for another one that writes to the same upload, such as one whose connection broke.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a client may send nothing.
const STALL: Duration = Duration::from_secs(120);
const UPLOAD_ID: HeaderName = HeaderName::from_static("docker-upload-uuid");

/// An upload while a request has its turn; nothing when it is not open.
type Slot = Option<Upload>;

/// The uploads that are open.
#[derive(Debug, Default)]
pub(crate) struct Uploads(Mutex<HashMap<UploadId, Arc<Turn<Slot>>>>);

impl Uploads {
    /// Waits for the turn to write to an upload, and opens it when it is not.
    async fn turn(&self, storage: &Storage, repository: &Repository, id: &UploadId) -> Result<OwnedMutexGuard<Slot>> {
        let slot = {
            let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if open.len() >= MOST_OPEN {
                // What nobody has a hand on can be opened again.
                open.retain(|_, slot| Arc::strong_count(slot) > 1);
            }
            Arc::clone(open.entry(id.clone()).or_default())
        };
        let turn = tokio::time::timeout(PATIENCE, slot.lock_owned()).await;
        let mut turn = turn.map_err(|_| Refusal::busy("another request is writing to this upload"))?;
        if turn.as_ref().is_none_or(|upload| !upload.is_of(repository)) {
            let (storage, repository, wanted) = (storage.clone(), repository.clone(), id.clone());
            match blocking(move || storage.open_upload(&repository, &wanted)).await {
                Ok(upload) => *turn = Some(upload),
                Err(refusal) => {
                    if turn.is_none() {
                        self.forget(id);
                    }
                    return Err(refusal);
                }
            }
        }
        Ok(turn)
    }

    fn keep(&self, upload: Upload) {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if open.len() < MOST_OPEN {
            open.insert(upload.id().clone(), Arc::new(Turn::new(Some(upload))));
        }
    }

    fn forget(&self, id: &UploadId) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
    }
}

/// `POST /v2/NAME/blobs/uploads/`
pub(super) async fn begin(call: Call, repository: Repository) -> Result {
    if let Some(digest) = call.query.digest("mount")? {
        let from = call.query.get("from").filter(|from| !from.is_empty()).map(str::parse).transpose()?;
        let (storage, to) = (call.api.storage.clone(), repository.clone());
        match blocking(move || storage.mount(&to, &digest, from.as_ref())).await {
            Err(refusal) if refusal.status == StatusCode::NOT_FOUND => {}
            Err(refusal) => return Err(refusal),
            Ok(()) => return Ok(created(&repository, &digest)),
        }
    }
    let digest = call.query.digest("digest")?;
    let algorithm = match (digest, call.query.get("digest-algorithm")) {
        (Some(digest), _) => digest.algorithm(),
        (None, Some(name)) => name
            .parse()
            .map_err(|error: crate::digest::DigestError| Refusal::new(Code::DigestInvalid, error.to_string()))?,
        (None, None) => Algorithm::default(),
    };
    let Some(digest) = digest else {
        let (storage, to) = (call.api.storage.clone(), repository.clone());
        let upload = blocking(move || storage.begin_upload(&to, algorithm)).await?;
        let reply = status_of(StatusCode::ACCEPTED, &upload);
        call.api.uploads.keep(upload);
        return Ok(reply);
    };
    at_once(call, repository, digest, algorithm).await
}

/// A whole blob in one request.
async fn at_once(call: Call, repository: Repository, digest: ContentDigest, algorithm: Algorithm) -> Result {
    let storage = call.api.storage.clone();
    let length = content_length(call.request.headers())?;
    let mut body = call.request.into_body();
    if length.is_some_and(|length| length <= BATCH as u64) {
        let mut pieces = Vec::new();
        let (_, outcome) = gather(&mut body, &mut pieces).await;
        outcome?;
        check_length(length, pieces.iter().map(|piece| piece.len() as u64).sum())?;
        let to = repository.clone();
        blocking(move || storage.put_blob(&to, &digest, &pieces.concat())).await?;
        return Ok(created(&repository, &digest));
    }
    let (begin, to) = (storage.clone(), repository.clone());
    let upload = blocking(move || begin.begin_upload(&to, algorithm)).await?;
    let turn = Arc::new(Turn::new(Some(upload))).lock_owned().await;
    let (mut turn, outcome) = receive(turn, &mut body).await;
    let Some(upload) = turn.take() else { return Err(gone()) };
    // Nobody knows the name of this upload, so it can't go on.
    let outcome = outcome.and_then(|count| check_length(length, count));
    blocking(move || match outcome {
        Ok(()) => storage.finish_upload(upload, &digest).map(drop).map_err(Refusal::from),
        Err(refusal) => storage.cancel_upload(upload).map_err(Refusal::from).and(Err(refusal)),
    })
    .await?;
    Ok(created(&repository, &digest))
}

/// `GET /v2/NAME/blobs/uploads/ID`
pub(super) async fn status(call: Call, repository: Repository, id: UploadId) -> Result {
    let turn = call.api.uploads.turn(&call.api.storage, &repository, &id).await?;
    turn.as_ref().map(|upload| status_of(StatusCode::NO_CONTENT, upload)).ok_or_else(gone)
}

/// `PATCH /v2/NAME/blobs/uploads/ID`
pub(super) async fn append(call: Call, repository: Repository, id: UploadId) -> Result {
    let turn = call.api.uploads.turn(&call.api.storage, &repository, &id).await?;
    let upload = turn.as_ref().ok_or_else(gone)?;
    let length = check_place(upload, call.request.headers())?;
    let mut body = call.request.into_body();
    let (turn, outcome) = receive(turn, &mut body).await;
    let count = outcome?;
    check_length(length, count)?;
    // The answer says how much is kept, so it has to be.
    let turn = blocking(move || turn.as_ref().map_or(Ok(()), Upload::sync).map(|()| turn)).await?;
    turn.as_ref().map(|upload| status_of(StatusCode::ACCEPTED, upload)).ok_or_else(gone)
}

/// `PUT /v2/NAME/blobs/uploads/ID?digest=…`
pub(super) async fn finish(call: Call, repository: Repository, id: UploadId) -> Result {
    let digest = call.query.digest("digest")?;
    let digest = digest.ok_or_else(|| Refusal::new(Code::DigestInvalid, "the parameter digest is missing"))?;
    let turn = call.api.uploads.turn(&call.api.storage, &repository, &id).await?;
    let upload = turn.as_ref().ok_or_else(gone)?;
    let length = check_place(upload, call.request.headers())?;
    let mut body = call.request.into_body();
    let (mut turn, outcome) = receive(turn, &mut body).await;
    check_length(length, outcome?)?;
    let upload = turn.take().ok_or_else(gone)?;
    let storage = call.api.storage.clone();
    let outcome = blocking(move || {
        let finished = storage.finish_upload(upload, &digest);
        // The turn ends when there is no upload any more.
        drop(turn);
        finished
    })
    .await;
    call.api.uploads.forget(&id);
    outcome?;
    Ok(created(&repository, &digest))
}

/// `DELETE /v2/NAME/blobs/uploads/ID`
pub(super) async fn cancel(call: Call, repository: Repository, id: UploadId) -> Result {
    let mut turn = call.api.uploads.turn(&call.api.storage, &repository, &id).await?;
    let upload = turn.take().ok_or_else(gone)?;
    let storage = call.api.storage.clone();
    blocking(move || storage.cancel_upload(upload)).await?;
    call.api.uploads.forget(&id);
    Ok(empty(StatusCode::NO_CONTENT))
}

/// Writes a whole body to an upload; gives back the turn and how many bytes came.
async fn receive(turn: OwnedMutexGuard<Slot>, body: &mut Incoming) -> (OwnedMutexGuard<Slot>, Result<u64>) {
    let mut written = 0;
    let mut job: Option<JoinHandle<(OwnedMutexGuard<Slot>, Result<()>)>> = None;
    let mut idle = Some(turn);
    loop {
        let mut pieces = Vec::new();
        let (last, outcome) = gather(body, &mut pieces).await;
        let turn = match (job.take(), idle.take()) {
            (Some(job), _) => match job.await {
                Ok((turn, Ok(()))) => turn,
                Ok((turn, Err(refusal))) => return (turn, Err(refusal)),
                Err(_) => return (Arc::new(Turn::new(None)).lock_owned().await, Err(gone())),
            },
            (None, Some(turn)) => turn,
            (None, None) => return (Arc::new(Turn::new(None)).lock_owned().await, Err(gone())),
        };
        written += pieces.iter().map(|piece| piece.len() as u64).sum::<u64>();
        let running = tokio::task::spawn_blocking(move || write(turn, &pieces));
        if !last {
            job = Some(running);
            continue;
        }
        // What came before a connection broke is kept: the client asks how much that is and goes on.
        return match running.await {
            Ok((turn, Ok(()))) => (turn, outcome.map(|()| written)),
            Ok((turn, Err(refusal))) => (turn, Err(refusal)),
            Err(_) => (Arc::new(Turn::new(None)).lock_owned().await, Err(gone())),
        };
    }
}

fn write(mut turn: OwnedMutexGuard<Slot>, pieces: &[Bytes]) -> (OwnedMutexGuard<Slot>, Result<()>) {
    let Some(upload) = turn.as_mut() else { return (turn, Err(gone())) };
    let outcome = pieces.iter().try_for_each(|piece| upload.append(piece)).map_err(Refusal::from);
    (turn, outcome)
}

/// Takes pieces of a body until there is enough for a job; whether that was the last of it, and whether it came to its end.
async fn gather(body: &mut Incoming, pieces: &mut Vec<Bytes>) -> (bool, Result<()>) {
    let mut size = 0;
    while size < BATCH {
        match tokio::time::timeout(STALL, body.frame()).await {
            Ok(None) => return (true, Ok(())),
            Ok(Some(Ok(frame))) => {
                if let Ok(piece) = frame.into_data() {
                    size += piece.len();
                    pieces.push(piece);
                }
            }
            Ok(Some(Err(error))) => {
                let text = format!("the connection broke: {error}");
                return (true, Err(Refusal::new(Code::BlobUploadInvalid, text)));
            }
            Err(_) => {
                let refusal = Refusal::new(Code::BlobUploadInvalid, "nothing came for two minutes");
                return (true, Err(refusal.with_status(StatusCode::REQUEST_TIMEOUT)));
            }
        }
    }
    (false, Ok(()))
}

fn content_length(headers: &HeaderMap) -> Result<Option<u64>> {
    let Some(value) = headers.get(CONTENT_LENGTH) else { return Ok(None) };
    let number = value.to_str().ok().and_then(|text| text.trim().parse().ok());
    number.map(Some).ok_or_else(|| Refusal::new(Code::SizeInvalid, "the Content-Length is no number"))
}

fn check_length(expected: Option<u64>, came: u64) -> Result<()> {
    match expected {
        Some(expected) if expected != came => {
            Err(Refusal::new(Code::SizeInvalid, format!("{expected} bytes were announced and {came} came")))
        }
        _ => Ok(()),
    }
}

/// Checks that a chunk belongs where the upload ends; gives its length, if it says it.
fn check_place(upload: &Upload, headers: &HeaderMap) -> Result<Option<u64>> {
    let length = content_length(headers)?;
    let Some(value) = headers.get(CONTENT_RANGE) else { return Ok(length) };
    let bounds = value.to_str().ok().and_then(route::content_range);
    let Some((first, last)) = bounds else {
        return Err(Refusal::new(Code::BlobUploadInvalid, "the Content-Range must look like 0-99"));
    };
    if first != upload.length() {
        let text = format!("the chunk starts at byte {first}, but {} bytes are here", upload.length());
        return Err(Refusal::new(Code::BlobUploadInvalid, text)
            .with_status(StatusCode::RANGE_NOT_SATISFIABLE)
            .with_header(LOCATION, location(upload))
            .with_header(RANGE, received(upload)));
    }
    let size = last - first + 1;
    match length {
        Some(length) if length != size => {
            Err(Refusal::new(Code::SizeInvalid, format!("the Content-Range has {size} bytes, the body {length}")))
        }
        _ => Ok(Some(size)),
    }
}

fn gone() -> Refusal {
    Refusal::new(Code::BlobUploadUnknown, "the upload is finished, cancelled or too old; begin a new one")
}

fn location(upload: &Upload) -> String {
    format!("/v2/{}/blobs/uploads/{}", upload.repository(), upload.id())
}

/// The bytes that are here, with both ends inside; of nothing it is `0-0` as well.
fn received(upload: &Upload) -> String {
    format!("0-{}", upload.length().saturating_sub(1))
}

fn status_of(status: StatusCode, upload: &Upload) -> Reply {
    let mut reply = empty(status);
    for (name, value) in [(LOCATION, location(upload)), (RANGE, received(upload)), (UPLOAD_ID, upload.id().to_string())]
    {
        set(&mut reply, name, &value);
    }
    reply
}

/// 201 for a blob.
fn created(repository: &Repository, digest: &ContentDigest) -> Reply {
    let mut reply = empty(StatusCode::CREATED);
    set(&mut reply, LOCATION, &format!("/v2/{repository}/blobs/{digest}"));
    set(&mut reply, super::CONTENT_DIGEST, &digest.to_string());
    reply
}

pub(super) fn empty(status: StatusCode) -> Reply {
    let mut reply = Response::new(Body::empty());
    *reply.status_mut() = status;
    reply
}

pub(super) fn set(reply: &mut Reply, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        reply.headers_mut().insert(name, value);
    }
}
