//! Caches in folders of the client's: OCI layouts, whose blobs come and go one by one.

use super::Session;
use crate::rpc::{Code, Status};
use crate::wire::Empty;
use crate::wire::content::{COMMIT, InfoRequest, ReadRequest, ReadResponse, WRITE, WriteRequest, WriteResponse};
use bytes::Bytes;
use hyper::HeaderMap;
use hyper::header::{HeaderName, HeaderValue};
use oci::digest::{Digest, Digester};
use serde_json::{Value, json};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

const INFO: &str = "/containerd.services.content.v1.Content/Info";
const READ: &str = "/containerd.services.content.v1.Content/Read";
const STORE: &str = "/containerd.services.content.v1.Content/Write";
const STORE_ID: HeaderName = HeaderName::from_static("buildkit-attachable-store-id");
const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// The most bytes in one message.
const PIECE: usize = 256 << 10;
/// The longest manifest that is read, in bytes.
const LONGEST: u64 = 8 << 20;
/// The most bytes of one blob.
const MOST: u64 = 256 << 30;

/// A folder of the client's.
#[derive(Debug)]
pub(crate) struct Store<'a> {
    session: &'a Session,
    id: HeaderValue,
}

fn broken(what: &str) -> impl Fn(std::io::Error) -> Status {
    move |error| Status::told(format!("{what}: {error}"))
}

fn blob(folder: &Path, digest: &Digest) -> PathBuf {
    folder.join("blobs/sha256").join(digest.hex())
}

/// The digest of a descriptor.
fn digest(descriptor: &Value) -> Result<Digest, Status> {
    let text = descriptor["digest"].as_str().unwrap_or_default();
    text.parse().map_err(|_| Status::told(format!("the cache's manifest names no digest of sha256: {text:?}")))
}

impl<'a> Store<'a> {
    /// The folder by the name that the client has for it.
    pub(crate) fn new(session: &'a Session, path: &str) -> Result<Self, Status> {
        session.demand(READ, "store for caches in folders")?;
        let id = HeaderValue::from_str(&format!("local:{path}"));
        let id = id.map_err(|_| Status::told(format!("a cache's folder cannot be called {path:?}")))?;
        Ok(Self { session, id })
    }

    fn metadata(&self) -> HeaderMap {
        HeaderMap::from_iter([(STORE_ID, self.id.clone())])
    }

    /// Copies a cache from the client into an OCI layout here.
    pub(crate) async fn fetch(&self, manifest: &str, folder: &Path) -> Result<(), Status> {
        let cannot = broken("cannot keep the cache");
        let top = digest(&json!({ "digest": manifest }))?;
        fs::create_dir_all(folder.join("blobs/sha256")).map_err(&cannot)?;
        self.blob(&top, LONGEST, folder).await?;
        let bytes = fs::read(blob(folder, &top)).map_err(&cannot)?;
        let parsed: Value = serde_json::from_slice(&bytes)
            .map_err(|error| Status::told(format!("the cache's manifest makes no sense: {error}")))?;
        for descriptor in parsed["layers"].as_array().into_iter().flatten().chain([&parsed["config"]]) {
            self.blob(&digest(descriptor)?, MOST, folder).await?;
        }
        let entry = json!({ "mediaType": OCI_MANIFEST, "digest": top.to_string(), "size": bytes.len() });
        let index = json!({ "schemaVersion": 2, "manifests": [entry] });
        fs::write(folder.join("index.json"), index.to_string()).map_err(&cannot)
    }

    async fn blob(&self, digest: &Digest, most: u64, folder: &Path) -> Result<(), Status> {
        let cannot = broken("cannot keep the cache");
        let (out, mut answers) = self.session.channel.call(READ, self.metadata())?;
        out.send(&ReadRequest { digest: digest.to_string(), offset: 0, size: 0 }).await?;
        drop(out);
        let mut file = File::create(blob(folder, digest)).map_err(&cannot)?;
        let (mut digester, mut length) = (Digester::new(), 0_u64);
        while let Some(piece) = answers.next_answer::<ReadResponse>().await? {
            length += piece.data.len() as u64;
            if length > most {
                return Err(Status::told(format!("the cache's blob {digest} has more than {most} bytes")));
            }
            digester.update(&piece.data);
            file.write_all(&piece.data).map_err(&cannot)?;
        }
        match digester.finish() == *digest {
            true => Ok(()),
            false => Err(Status::told(format!("the cache's blob {digest} is damaged"))),
        }
    }

    /// Copies a cache from an OCI layout here to the client; its manifest's descriptor.
    pub(crate) async fn store(&self, folder: &Path) -> Result<Value, Status> {
        let cannot = broken("cannot read the cache that was made");
        let read = |path: &Path| -> Result<Value, Status> {
            let bytes = fs::read(path).map_err(&cannot)?;
            serde_json::from_slice(&bytes).map_err(|error| Status::new(Code::INTERNAL, error.to_string()))
        };
        let descriptor = read(&folder.join("index.json"))?["manifests"][0].clone();
        let manifest = read(&blob(folder, &digest(&descriptor)?))?;
        let parts = manifest["layers"].as_array().into_iter().flatten().chain([&manifest["config"]]);
        // the manifest comes last: whatever it names is there
        for part in parts.chain([&descriptor]) {
            self.send(&digest(part)?, folder).await?;
        }
        Ok(descriptor)
    }

    async fn send(&self, digest: &Digest, folder: &Path) -> Result<(), Status> {
        let cannot = broken("cannot read the cache that was made");
        let name = digest.to_string();
        let (out, mut answers) = self.session.channel.call(INFO, self.metadata())?;
        out.send(&InfoRequest { digest: name.clone() }).await?;
        drop(out);
        if answers.next_answer::<Empty>().await.is_ok_and(|found| found.is_some()) {
            return Ok(());
        }
        let mut file = File::open(blob(folder, digest)).map_err(&cannot)?;
        let total = i64::try_from(file.metadata().map_err(&cannot)?.len()).unwrap_or(i64::MAX);
        let (out, mut answers) = self.session.channel.call(STORE, self.metadata())?;
        let request = WriteRequest {
            reference: format!("cache-{}", digest.hex()),
            total,
            expected: name,
            ..WriteRequest::default()
        };
        let (mut piece, mut offset) = (vec![0; PIECE], 0_i64);
        loop {
            let count = file.read(&mut piece).map_err(&cannot)?;
            let action = if count == 0 { COMMIT } else { WRITE };
            let data = Bytes::copy_from_slice(&piece[..count]);
            out.send(&WriteRequest { action, offset, data, ..request.clone() }).await?;
            match answers.next_answer::<WriteResponse>().await {
                Ok(Some(_)) if count > 0 => offset += i64::try_from(count).unwrap_or(0),
                Ok(_) => return Ok(()),
                Err(status) if status.code == Code::ALREADY_EXISTS => return Ok(()),
                Err(status) => return Err(status),
            }
        }
    }
}
