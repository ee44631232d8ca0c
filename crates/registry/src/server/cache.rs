//! Being a cache of another registry: what is not here is fetched from there, once, and given on while it comes.
//!
//! A blob is fetched by a task of its own, into an upload of the store, digested on the way. Whoever asks for it meanwhile
//! reads along from the file, up to where it is written; the last bytes are only shown when all of it was right. So a wrong
//! blob reaches nobody's end, and a client that leaves does not stop it for the others.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use hyper::Response;
use hyper::StatusCode;
use hyper::header::{CONTENT_RANGE, HeaderMap, RANGE};
use tokio::sync::{mpsc, watch};

use super::refusal::{Code, Refusal, Result};
use super::upload::set;
use super::{Upstream, blob, blocking, route};
use crate::body::Body;
use crate::client::{ClientError, ErrorKind, Remote};
use crate::digest::ContentDigest;
use crate::failure::chain;
use crate::manifest::Descriptor;
use crate::name::{Repository, Target};
use crate::storage::{Presence, Storage, StoredManifest, Upload};

/// Bytes that a reader takes from the file at once.
const PIECE: u64 = 256 << 10;
/// Bytes that are held back until all is verified.
const HELD_BACK: u64 = 1;

/// The way to the other registry.
pub(super) struct Cache {
    upstream: Upstream,
    storage: Storage,
    fetching: Arc<Mutex<HashMap<(Repository, ContentDigest), Fetching>>>,
}

/// A blob that is being fetched.
#[derive(Clone)]
struct Fetching {
    file: Arc<File>,
    size: u64,
    state: watch::Receiver<State>,
}

/// How far a fetch is.
#[derive(Debug, Clone)]
enum State {
    /// So many bytes can be read.
    Going(u64),
    /// All of it was right.
    Done,
    /// It ends here.
    Failed(String),
}

impl Cache {
    pub(super) fn new(upstream: Upstream, storage: Storage) -> Self {
        Self { upstream, storage, fetching: Arc::default() }
    }

    fn remote(&self, repository: &Repository) -> Result<Remote> {
        // On Docker's hub a single part is below library/.
        let hub = self.upstream.domain == oci::reference::DEFAULT_DOMAIN && !repository.as_str().contains('/');
        let path = if hub { format!("library/{repository}") } else { repository.to_string() };
        self.upstream.client.remote(&self.upstream.domain, &path).map_err(|error| refused(&error))
    }

    /// A manifest: a digest's from here if it is here; a tag's as the other registry has it now, or as it was when that
    /// cannot be reached.
    pub(super) async fn manifest(&self, repository: &Repository, target: &Target) -> Result<StoredManifest> {
        let here = self.stored(repository, target).await;
        if let (Target::Digest(_), Ok(_)) = (target, &here) {
            return here;
        }
        let remote = self.remote(repository)?;
        let error = match remote.resolve(target).await {
            Ok(digest) => {
                if let Ok(known) = &here
                    && known.digest == digest
                {
                    return here;
                }
                match remote.manifest(target).await {
                    Ok(fetched) => {
                        let (storage, to, target) = (self.storage.clone(), repository.clone(), target.clone());
                        let media_type = fetched.descriptor.media_type.clone();
                        return blocking(move || {
                            storage.put_manifest(&to, &target, &media_type, &fetched.bytes, Presence::Later)?;
                            storage.manifest(&to, &target)
                        })
                        .await;
                    }
                    Err(error) => error,
                }
            }
            Err(error) => error,
        };
        match here {
            Ok(known) if error.kind() == ErrorKind::Unavailable => {
                tracing::warn!(error = chain(&error), "the other registry is away; this is what it had");
                Ok(known)
            }
            _ => Err(refused(&error)),
        }
    }

    async fn stored(&self, repository: &Repository, target: &Target) -> Result<StoredManifest> {
        let (storage, repository, target) = (self.storage.clone(), repository.clone(), target.clone());
        blocking(move || storage.manifest(&repository, &target)).await
    }

    pub(super) async fn tags(&self, repository: &Repository) -> Result<Vec<String>> {
        let mut tags = self.remote(repository)?.tags().await.map_err(|error| refused(&error))?;
        tags.sort_unstable();
        Ok(tags)
    }

    pub(super) async fn referrers(&self, repository: &Repository, subject: &ContentDigest) -> Result<Vec<Descriptor>> {
        let mut found = self.remote(repository)?.referrers(subject, None).await.map_err(|error| refused(&error))?;
        found.sort_by_key(|descriptor| descriptor.digest);
        Ok(found)
    }

    pub(super) async fn blob_size(&self, repository: &Repository, digest: &ContentDigest) -> Result<u64> {
        let size = self.remote(repository)?.blob_size(digest).await.map_err(|error| refused(&error))?;
        size.ok_or_else(|| Refusal::new(Code::BlobUnknown, "blob unknown"))
    }

    /// A blob that is not here, while it comes.
    pub(super) async fn blob(&self, repository: &Repository, digest: &ContentDigest, headers: &HeaderMap) -> Result {
        let fetching = self.fetch(repository, digest).await?;
        let wanted = headers.get(RANGE).and_then(|value| value.to_str().ok());
        let part = wanted.map(|wanted| route::range(wanted, fetching.size)).transpose()?.flatten();
        let (start, length) = part.unwrap_or((0, fetching.size));
        let size = fetching.size;
        let (sender, receiver) = mpsc::channel(2);
        tokio::spawn(read_along(fetching, start, start + length, sender));
        let mut reply = Response::new(Body::Stream(receiver, length));
        blob::describe(&mut reply, digest);
        if part.is_some() {
            *reply.status_mut() = StatusCode::PARTIAL_CONTENT;
            set(&mut reply, CONTENT_RANGE, &format!("bytes {start}-{}/{size}", start + length - 1));
        }
        Ok(reply)
    }

    /// The fetch of a blob: one that runs, or a new one.
    async fn fetch(&self, repository: &Repository, digest: &ContentDigest) -> Result<Fetching> {
        let key = (repository.clone(), *digest);
        if let Some(running) = self.running(&key) {
            return Ok(running);
        }
        let remote = self.remote(repository)?;
        let size = self.blob_size(repository, digest).await?;
        let (storage, to, algorithm) = (self.storage.clone(), repository.clone(), digest.algorithm());
        let begin = storage.clone();
        let upload = blocking(move || begin.begin_upload(&to, algorithm)).await?;
        let file = upload.reader().map_err(Refusal::from)?;
        let (teller, state) = watch::channel(State::Going(0));
        let new = Fetching { file: Arc::new(file), size, state };
        {
            let mut fetching = self.fetching.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(running) = fetching.get(&key) {
                // Somebody was faster.
                let running = running.clone();
                tokio::task::spawn_blocking(move || storage.cancel_upload(upload));
                return Ok(running);
            }
            fetching.insert(key.clone(), new.clone());
        }
        let (fetching, descriptor) = (Arc::clone(&self.fetching), Descriptor::new("", *digest, size));
        tokio::spawn(async move {
            let state = match fetch(&remote, &descriptor, upload, &storage, &teller).await {
                Ok(()) => State::Done,
                Err(reason) => {
                    tracing::warn!(digest = %descriptor.digest, reason, "a blob cannot be fetched");
                    State::Failed(reason)
                }
            };
            // Who asks from now on finds it in the store, or tries again.
            fetching.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
            let _ = teller.send(state);
        });
        Ok(new)
    }

    fn running(&self, key: &(Repository, ContentDigest)) -> Option<Fetching> {
        self.fetching.lock().unwrap_or_else(PoisonError::into_inner).get(key).cloned()
    }
}

/// Fetches a blob into an upload and makes it part of the store.
async fn fetch(
    remote: &Remote,
    descriptor: &Descriptor,
    mut upload: Upload,
    storage: &Storage,
    teller: &watch::Sender<State>,
) -> std::result::Result<(), String> {
    let lost = |error: tokio::task::JoinError| error.to_string();
    let mut outcome = Ok(());
    match remote.blob(descriptor, None).await {
        Ok(mut stream) => loop {
            let piece = match stream.next().await {
                Ok(Some(piece)) => piece,
                Ok(None) => break,
                Err(error) => {
                    outcome = Err(chain(&error));
                    break;
                }
            };
            let (back, written) = tokio::task::spawn_blocking(move || {
                let written = upload.append(&piece);
                (upload, written)
            })
            .await
            .map_err(lost)?;
            upload = back;
            if let Err(error) = written {
                outcome = Err(chain(&error));
                break;
            }
            // Not quite all, until it is known to be right.
            let shown = upload.length().min(descriptor.size.saturating_sub(HELD_BACK));
            let _ = teller.send(State::Going(shown));
        },
        Err(error) => outcome = Err(chain(&error)),
    }
    let (storage, digest) = (storage.clone(), descriptor.digest);
    let finish = move || match outcome {
        Ok(()) => storage.finish_upload(upload, &digest).map(drop).map_err(|error| chain(&error)),
        Err(reason) => {
            let _ = storage.cancel_upload(upload);
            Err(reason)
        }
    };
    tokio::task::spawn_blocking(finish).await.map_err(lost)?
}

/// Gives a client the bytes from `at` to `end` as they are there.
async fn read_along(mut fetching: Fetching, mut at: u64, end: u64, sender: mpsc::Sender<io::Result<Bytes>>) {
    while at < end {
        let ready = match &*fetching.state.borrow_and_update() {
            State::Going(count) => *count,
            State::Done => fetching.size,
            State::Failed(reason) => {
                // The connection is cut: the client must not take this for the end.
                let error = io::Error::other(reason.clone());
                tokio::spawn(async move { sender.send(Err(error)).await });
                return;
            }
        };
        if at >= ready {
            // The task always says how it ended.
            if fetching.state.changed().await.is_err() && matches!(&*fetching.state.borrow(), State::Going(_)) {
                let _ = sender.send(Err(io::ErrorKind::Interrupted.into())).await;
                return;
            }
            continue;
        }
        let (file, from, count) = (Arc::clone(&fetching.file), at, PIECE.min(ready.min(end) - at));
        let read = tokio::task::spawn_blocking(move || {
            let mut piece = vec![0; usize::try_from(count).unwrap_or(0)];
            file.read_exact_at(&mut piece, from).map(|()| Bytes::from(piece))
        });
        let piece = read.await.unwrap_or_else(|error| Err(io::Error::other(error)));
        let failed = piece.is_err();
        at += count;
        if sender.send(piece).await.is_err() || failed {
            return;
        }
    }
}

/// What the other registry's refusal means here.
fn refused(error: &ClientError) -> Refusal {
    let text = format!("the registry that this one caches: {}", chain(error));
    match error {
        ClientError::NotFound { what, .. } => {
            let code = if what.contains("@sha") { Code::BlobUnknown } else { Code::ManifestUnknown };
            Refusal::new(code, text)
        }
        ClientError::RateLimited { .. } => Refusal::new(Code::TooManyRequests, text),
        ClientError::Denied { .. } => Refusal::new(Code::Denied, text),
        _ => Refusal::new(Code::Unavailable, text).with_status(StatusCode::BAD_GATEWAY),
    }
}
