//! A blob on its way here.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::StatusCode;
use hyper::body::Incoming;
use hyper::header::{CONTENT_RANGE, RANGE};
use tokio::runtime::Handle;

use super::call::{Answered, host_of, jittered};
use super::remote::Remote;
use super::{ClientError, Progress};
use crate::digest::Digester;
use crate::manifest::Descriptor;

/// How long a registry may send nothing before the connection counts as broken.
const STALL: Duration = Duration::from_secs(60);

/// A blob as it comes, piece by piece.
///
/// The last piece is only given when size and digest of all were right, so whoever has read to the end has the right
/// content; whoever used earlier pieces must throw the result away on an error. A broken connection goes on where it was.
pub struct BlobStream {
    remote: Remote,
    descriptor: Descriptor,
    digester: Digester,
    body: Option<Incoming>,
    /// Bytes to leave out: of a registry that has no ranges.
    skip: u64,
    host: String,
    failures: u32,
    done: bool,
    progress: Option<Arc<dyn Progress>>,
}

impl std::fmt::Debug for BlobStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BlobStream").field("digest", &self.descriptor.digest).finish_non_exhaustive()
    }
}

impl BlobStream {
    /// Asks for the blob, so that errors such as a missing one come at once.
    pub(super) async fn open(
        remote: Remote,
        descriptor: Descriptor,
        progress: Option<Arc<dyn Progress>>,
    ) -> Result<Self, ClientError> {
        let answered = remote.ask_blob(&descriptor.digest, None).await?;
        let digester = Digester::new(descriptor.digest.algorithm());
        let host = host_of(&answered.uri);
        let body = Some(answered.response.into_body());
        Ok(Self { remote, descriptor, digester, body, skip: 0, host, failures: 0, done: false, progress })
    }

    /// What comes.
    #[must_use]
    pub const fn descriptor(&self) -> &Descriptor {
        &self.descriptor
    }

    /// The next piece; nothing after the last.
    ///
    /// # Errors
    /// When the content is wrong, or the connection breaks too often. After an error there is nothing more.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ClientError> {
        if self.done {
            return Ok(None);
        }
        let outcome = self.piece().await;
        if !matches!(outcome, Ok(Some(_))) {
            self.done = true;
            self.body = None;
        }
        outcome
    }

    async fn piece(&mut self) -> Result<Option<Bytes>, ClientError> {
        loop {
            if self.body.is_none() {
                self.resume().await?;
            }
            let Some(body) = self.body.as_mut() else { continue };
            let frame = tokio::time::timeout(STALL, body.frame()).await;
            let reason: Box<dyn std::error::Error + Send + Sync> = match frame {
                Ok(Some(Ok(frame))) => match frame.into_data() {
                    Ok(bytes) => match self.take(bytes)? {
                        Some(bytes) => return Ok(Some(bytes)),
                        None => continue,
                    },
                    Err(_) => continue,
                },
                Ok(None) if self.digester.length() == self.descriptor.size => {
                    self.verify()?;
                    return Ok(None);
                }
                Ok(None) => "the answer ended too early".into(),
                Ok(Some(Err(error))) => error.into(),
                Err(_) => format!("nothing came for {} s", STALL.as_secs()).into(),
            };
            self.broke(reason).await?;
        }
    }

    /// Counts a piece in; nothing if all of it was to be left out.
    fn take(&mut self, mut bytes: Bytes) -> Result<Option<Bytes>, ClientError> {
        let skipped = self.skip.min(bytes.len() as u64);
        self.skip -= skipped;
        let bytes = bytes.split_off(usize::try_from(skipped).unwrap_or(0));
        if bytes.is_empty() {
            return Ok(None);
        }
        let done = self.digester.length() + bytes.len() as u64;
        if done > self.descriptor.size {
            return Err(self.wrong_size(done));
        }
        self.digester.update(&bytes);
        self.failures = 0;
        if done == self.descriptor.size {
            self.verify()?;
        }
        if let Some(progress) = &self.progress {
            progress.advanced(&self.descriptor.digest, done, self.descriptor.size);
        }
        Ok(Some(bytes))
    }

    fn verify(&self) -> Result<(), ClientError> {
        let (actual, expected) = (self.digester.clone().finish(), self.descriptor.digest);
        if actual == expected {
            return Ok(());
        }
        let (expected, actual) = (expected.to_string(), actual.to_string());
        Err(ClientError::Digest { host: self.host.clone(), expected, actual })
    }

    fn wrong_size(&self, actual: u64) -> ClientError {
        let (digest, expected) = (self.descriptor.digest.to_string(), self.descriptor.size);
        ClientError::Size { host: self.host.clone(), digest, expected, actual }
    }

    async fn broke(&mut self, source: Box<dyn std::error::Error + Send + Sync>) -> Result<(), ClientError> {
        self.body = None;
        self.failures += 1;
        if self.failures > self.remote.client().inner.config.retries {
            return Err(ClientError::Broken { host: self.host.clone(), times: self.failures, source });
        }
        tracing::debug!(digest = %self.descriptor.digest, at = self.digester.length(), error = source, "goes on");
        tokio::time::sleep(jittered(self.remote.client().inner.config.pause * (self.failures - 1))).await;
        Ok(())
    }

    async fn resume(&mut self) -> Result<(), ClientError> {
        let at = self.digester.length();
        if let Some(progress) = &self.progress {
            progress.resumed(&self.descriptor.digest, at);
        }
        let answered = self.remote.ask_blob(&self.descriptor.digest, Some(at)).await?;
        self.skip = if at == 0 { 0 } else { self.start_of(&answered, at)? };
        self.host = host_of(&answered.uri);
        self.body = Some(answered.response.into_body());
        Ok(())
    }

    /// How much of an answer we have already.
    fn start_of(&self, answered: &Answered, at: u64) -> Result<u64, ClientError> {
        if answered.response.status() != StatusCode::PARTIAL_CONTENT {
            // All of it again.
            return Ok(at);
        }
        let range = answered.header(CONTENT_RANGE).and_then(|text| text.trim().strip_prefix("bytes "));
        let start = range.and_then(|text| text.split('-').next()).and_then(|first| first.trim().parse::<u64>().ok());
        match start {
            Some(start) if start <= at => Ok(at - start),
            _ => Err(ClientError::Protocol {
                host: host_of(&answered.uri),
                reason: format!("asked for bytes from {at} on, it sends others ({RANGE})"),
            }),
        }
    }

    /// The blob as a reader for threads that may block; `runtime` does the work.
    #[must_use]
    pub const fn into_reader(self, runtime: Handle) -> BlobReader {
        BlobReader { stream: self, runtime, current: Bytes::new() }
    }

    /// All of it, for small blobs such as configurations.
    ///
    /// # Errors
    /// As [`BlobStream::next`], or when it has more than `most` bytes.
    pub async fn into_bytes(mut self, most: usize) -> Result<Bytes, ClientError> {
        if self.descriptor.size > most as u64 {
            return Err(self.wrong_size(self.descriptor.size));
        }
        let mut all = Vec::with_capacity(usize::try_from(self.descriptor.size).unwrap_or(0));
        while let Some(bytes) = self.next().await? {
            all.extend_from_slice(&bytes);
        }
        Ok(all.into())
    }
}

/// A blob for code that reads and blocks. Must not be read on a thread of the runtime itself.
#[derive(Debug)]
pub struct BlobReader {
    stream: BlobStream,
    runtime: Handle,
    current: Bytes,
}

impl io::Read for BlobReader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if out.is_empty() {
            return Ok(0);
        }
        if self.current.is_empty() {
            match self.runtime.block_on(self.stream.next()).map_err(io::Error::other)? {
                Some(bytes) => self.current = bytes,
                None => return Ok(0),
            }
        }
        let now = self.current.split_to(out.len().min(self.current.len()));
        out[..now.len()].copy_from_slice(&now);
        Ok(now.len())
    }
}
