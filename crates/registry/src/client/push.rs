//! Pushing: blobs that are not there yet, then manifests.

use std::io::{self, Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use hyper::header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, RANGE};
use hyper::{Method, StatusCode, Uri};
use tokio::sync::mpsc;

use super::address::{self, Origin};
use super::call::{Ask, is_passing, jittered};
use super::remote::Remote;
use super::{ClientError, Progress};
use crate::body::Body;
use crate::digest::ContentDigest;
use crate::manifest::Descriptor;
use crate::name::{Repository, Target};

/// Bytes that are read and sent at once.
const PIECE: usize = 128 << 10;
/// Pieces that are read ahead.
const AHEAD: usize = 4;

/// Something to push, which can be read again from any place when a connection breaks.
pub trait BlobSource: Send + Sync {
    /// Opens it at a byte. Called and read on threads that may block.
    ///
    /// # Errors
    /// When it cannot be read.
    fn open_at(&self, at: u64) -> io::Result<Box<dyn Read + Send>>;
}

impl BlobSource for Bytes {
    fn open_at(&self, at: u64) -> io::Result<Box<dyn Read + Send>> {
        let at = usize::try_from(at).unwrap_or(usize::MAX).min(self.len());
        Ok(Box::new(io::Cursor::new(self.slice(at..))))
    }
}

impl BlobSource for PathBuf {
    fn open_at(&self, at: u64) -> io::Result<Box<dyn Read + Send>> {
        let mut file = std::fs::File::open(self)?;
        file.seek(SeekFrom::Start(at))?;
        Ok(Box::new(file))
    }
}

/// How a blob came to be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pushed {
    /// It was there before.
    Existed,
    /// The registry took it from another repository.
    Mounted,
    /// It was sent.
    Uploaded,
}

/// An upload that goes on.
struct Going {
    location: Uri,
    at: u64,
}

impl Remote {
    /// Makes sure that the repository has a blob: looks, tries to mount it from other repositories of the registry, sends it.
    /// A broken connection goes on where the registry says that it was.
    ///
    /// # Errors
    /// When the registry or the source refuses.
    pub async fn push_blob(
        &self,
        descriptor: &Descriptor,
        source: Arc<dyn BlobSource>,
        mount_from: &[Repository],
        progress: Option<Arc<dyn Progress>>,
    ) -> Result<Pushed, ClientError> {
        let this = self.clone().writable();
        if this.blob_size(&descriptor.digest).await?.is_some() {
            return Ok(Pushed::Existed);
        }
        for from in mount_from {
            if this.mount(&descriptor.digest, from).await? {
                return Ok(Pushed::Mounted);
            }
        }
        let (mut going, mut failures): (Option<Going>, u32) = (None, 0);
        loop {
            let before = going.as_ref().map_or(0, |going| going.at);
            let error = match this.try_upload(descriptor, &source, &mut going, progress.as_ref()).await {
                Ok(()) => return Ok(Pushed::Uploaded),
                Err(error) => error,
            };
            // An upload that the registry had accepted and has no more.
            let lost = going.is_some() && matches!(error, ClientError::NotFound { .. });
            if !lost && !can_resume(&error) {
                return Err(error);
            }
            this.ask_where(&mut going).await;
            let at = going.as_ref().map_or(0, |going| going.at);
            failures = if at > before { 0 } else { failures + 1 };
            if failures > self.client().inner.config.retries {
                return Err(error);
            }
            if let Some(progress) = &progress {
                progress.resumed(&descriptor.digest, at);
            }
            tokio::time::sleep(jittered(self.client().inner.config.pause * failures)).await;
        }
    }

    async fn mount(&self, digest: &ContentDigest, from: &Repository) -> Result<bool, ClientError> {
        let this = self.mounting(from);
        let path = format!("blobs/uploads/?mount={digest}&from={from}");
        let ask = this.ask_origin(Method::POST, &path, &digest.to_string()).await?.header(CONTENT_LENGTH, "0");
        let answered = match self.client().ask(&ask).await {
            Ok(answered) => answered,
            // It may not be ours to mount from.
            Err(ClientError::Denied { .. } | ClientError::NotFound { .. } | ClientError::Status { .. }) => {
                return Ok(false);
            }
            Err(error) => return Err(error),
        };
        if answered.response.status() == StatusCode::CREATED {
            return Ok(true);
        }
        // The registry has begun an upload in its place, which nobody wants.
        if let Ok(location) = answered.location()
            && Origin::of(&location)? == Origin::of(&ask.uri)?
        {
            let ask = this.new_ask(Method::DELETE, location, digest.to_string());
            let _ = self.client().ask_once(&ask, None).await;
        }
        Ok(false)
    }

    async fn try_upload(
        &self,
        descriptor: &Descriptor,
        source: &Arc<dyn BlobSource>,
        going: &mut Option<Going>,
        progress: Option<&Arc<dyn Progress>>,
    ) -> Result<(), ClientError> {
        let what = descriptor.digest.to_string();
        if going.is_none() {
            let ask = self.ask_origin(Method::POST, "blobs/uploads/", &what).await?.header(CONTENT_LENGTH, "0");
            *going = Some(Going { location: self.client().ask(&ask).await?.location()?, at: 0 });
        }
        let Some(going) = going else { return Ok(()) };
        while going.at < descriptor.size {
            let left = descriptor.size - going.at;
            let count = self.client().inner.config.chunk.map_or(left, |chunk| chunk.clamp(1, left));
            let mut ask = self.new_ask(Method::PATCH, going.location.clone(), what.clone());
            ask = ask.header(CONTENT_TYPE, "application/octet-stream").header(CONTENT_LENGTH, &count.to_string());
            if count < left || going.at > 0 {
                ask = ask.header(CONTENT_RANGE, &format!("{}-{}", going.at, going.at + count - 1));
            }
            let body = send_from(descriptor, Arc::clone(source), going.at, count, progress.cloned());
            let answered = self.client().ask_once(&ask, Some(body)).await?;
            let answered = self.client().good(&ask, answered).await?;
            going.location = answered.location()?;
            going.at += count;
        }
        let uri = address::with_parameter(&going.location, "digest", &what)?;
        let ask = self.new_ask(Method::PUT, uri, what).header(CONTENT_LENGTH, "0");
        let answered = self.client().ask_once(&ask, None).await?;
        self.client().good(&ask, answered).await.map(drop)
    }

    /// Asks how far an upload came; when that cannot be known, a new one is begun.
    async fn ask_where(&self, going: &mut Option<Going>) {
        let Some(known) = going.take() else { return };
        let ask = self.new_ask(Method::GET, known.location.clone(), "an upload".to_owned());
        let Ok(answered) = self.client().ask(&ask).await else { return };
        let last = answered.header(RANGE).and_then(|text| {
            let text = text.trim().trim_start_matches("bytes=");
            text.strip_prefix("0-")?.parse::<u64>().ok()
        });
        // "0-0" is nothing or one byte.
        let Some(last) = last.filter(|last| *last > 0) else { return };
        *going = Some(Going { location: answered.location().unwrap_or(known.location), at: last + 1 });
    }

    /// Puts a manifest; all that it refers to has to be there.
    ///
    /// # Errors
    /// When the registry refuses, or takes it for another one.
    pub async fn push_manifest(
        &self,
        target: &Target,
        media_type: &str,
        bytes: Bytes,
    ) -> Result<ContentDigest, ClientError> {
        let this = self.clone().writable();
        let expected = match target {
            Target::Digest(digest) => *digest,
            Target::Tag(_) => ContentDigest::of(&bytes),
        };
        let ask = this.ask_origin(Method::PUT, &format!("manifests/{target}"), &target.to_string()).await?;
        let ask = Ask { body: bytes, ..ask }.header(CONTENT_TYPE, media_type);
        let answered = self.client().ask(&ask).await?;
        let said = hyper::header::HeaderName::from_static("docker-content-digest");
        let said: Option<ContentDigest> = answered.header(said).and_then(|text| text.parse().ok());
        match said.filter(|said| said.algorithm() == expected.algorithm() && *said != expected) {
            Some(actual) => {
                let (expected, actual) = (expected.to_string(), actual.to_string());
                Err(ClientError::Digest { host: super::call::host_of(&ask.uri), expected, actual })
            }
            None => Ok(expected),
        }
    }
}

fn can_resume(error: &ClientError) -> bool {
    match error {
        ClientError::Connect { .. } | ClientError::Broken { .. } => true,
        ClientError::Status { status, .. } => is_passing(*status) || *status == StatusCode::RANGE_NOT_SATISFIABLE,
        _ => false,
    }
}

/// A body of part of a source, read ahead by a thread that may block.
fn send_from(
    descriptor: &Descriptor,
    source: Arc<dyn BlobSource>,
    at: u64,
    count: u64,
    progress: Option<Arc<dyn Progress>>,
) -> Body {
    let (sender, receiver) = mpsc::channel(AHEAD);
    let (digest, all) = (descriptor.digest, descriptor.size);
    tokio::task::spawn_blocking(move || {
        let mut done = at;
        let read = source.open_at(at).and_then(|reader| {
            let mut reader = reader.take(count);
            while done < at + count {
                let mut piece = Vec::with_capacity(PIECE);
                reader.by_ref().take(PIECE as u64).read_to_end(&mut piece)?;
                if piece.is_empty() {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                done += piece.len() as u64;
                if sender.blocking_send(Ok(piece.into())).is_err() {
                    // The connection is gone.
                    return Ok(());
                }
                if let Some(progress) = &progress {
                    progress.advanced(&digest, done, all);
                }
            }
            Ok(())
        });
        if let Err(error) = read {
            tracing::warn!(%digest, %error, "what should be pushed cannot be read");
            let _ = sender.blocking_send(Err(error));
        }
    });
    Body::Stream(receiver, count)
}
