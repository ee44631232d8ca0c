//! Pushing: an image goes out under the digests that it came with, where its compressed layers were kept; else its layers
//! are compressed anew.

use super::Engine;
use super::distribution::{LayerStep, Progress, Proof, Teller, refused, short};
use super::images::{parse, wrong};
use crate::error::{EngineError, Result};
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use image::{Image, Intake, LayerId, PinnedName, StoredManifest, WholeBlob};
use oci::digest::Digest;
use oci::platform::Platform;
use oci::reference::Reference;
use registry::client::{BlobSource, Pushed, Remote};
use registry::manifest::{DOCKER_MANIFEST, Descriptor, Manifest, OCI_MANIFEST};
use registry::name::{Repository, Target};
use std::io::{self, Read, Write};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

/// Layers that are sent at once.
const PARALLEL: usize = 4;
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
pub(super) const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";

/// In whose words a manifest is written that the image did not come with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Docker,
    /// As indexes have them.
    Oci,
}

/// What is sent.
pub(super) struct Parcel {
    pub(super) manifest: Bytes,
    pub(super) media_type: String,
    config: (Descriptor, Bytes),
    layers: Vec<(Descriptor, Arc<dyn BlobSource>)>,
    /// Holds the layers that were compressed for this.
    _work: Option<tempfile::TempDir>,
    /// Holds those that the image came with.
    _held: Option<Intake>,
    pub(super) kept: Option<StoredManifest>,
}

/// A compressed layer as it came, which is made again only if the registry does not have it.
struct Kept {
    store: image::Store,
    digest: Digest,
    whole: Mutex<Option<WholeBlob>>,
}

impl BlobSource for Kept {
    fn open_at(&self, at: u64) -> io::Result<Box<dyn Read + Send>> {
        let mut whole = self.whole.lock().unwrap_or_else(PoisonError::into_inner);
        let blob = match whole.take() {
            Some(blob) => blob,
            None => self.store.whole_blob(&self.digest).map_err(io::Error::other)?,
        };
        whole.insert(blob).path.open_at(at)
    }
}

impl Engine {
    /// Sends an image to its registry: one tag, or all of the repository if the name has none. With a platform, its image alone
    /// goes by that name.
    ///
    /// # Errors
    /// [`crate::ErrorClass::NotFound`] if there is no such image here, what the registry says.
    pub async fn push(
        &self,
        name: &str,
        platform: Option<&Platform>,
        proof: Proof,
        progress: mpsc::Sender<Progress>,
    ) -> Result<()> {
        let reference = parse(name)?;
        let repository = reference.repository();
        let line = format!("The push refers to repository [{repository}]");
        let _ = progress.send(Progress::Line(line)).await;
        let images = self.inner.images.list().map_err(wrong)?;
        let names = images.iter().flat_map(|image| image.references.iter().map(move |name| (name, image)));
        let tagged: Vec<(Reference, Image)> = names
            .filter(|(one, _)| match reference.tag() {
                Some(_) => **one == reference,
                None => one.repository() == repository,
            })
            .map(|(one, image)| (one.clone(), image.clone()))
            .collect();
        if tagged.is_empty() {
            let text = format!("An image does not exist locally with the tag: {}", reference.familiar_name());
            return Err(EngineError::not_found(text));
        }
        for (reference, image) in tagged {
            let family = self.inner.images.family(&reference);
            let image = self.part_for(&image, family.as_ref(), platform)?;
            let remote = self.remote(&reference, proof.clone())?.writable();
            // A registry that is not to be reached or refuses says so before layers are compressed for it.
            remote.blob_size(&image.id.0.into()).await.map_err(refused)?;
            match family.filter(|_| platform.is_none()) {
                Some(family) => self.push_family(&reference, &image, &family, &remote, &progress).await?,
                None => {
                    let parcel = self.parcel(&image, Form::Docker).await?;
                    self.send(&reference, &image, &remote, &parcel, &progress).await?;
                    self.finish(&reference, &image, &remote, parcel, &progress).await?;
                }
            }
            self.tell_as(&image, "push", &reference.familiar());
        }
        Ok(())
    }

    pub(super) async fn parcel(&self, image: &Image, form: Form) -> Result<Parcel> {
        let (store, wanted) = (self.inner.images.clone(), image.clone());
        self.blocking(move |_| parcel(&store, &wanted, form)).await
    }

    /// Sends the layers and the configuration.
    pub(super) async fn send(
        &self,
        reference: &Reference,
        image: &Image,
        remote: &Remote,
        parcel: &Parcel,
        progress: &mpsc::Sender<Progress>,
    ) -> Result<()> {
        for (layer, _) in &parcel.layers {
            let _ = progress.send(Progress::Layer(short(&layer.digest), LayerStep::Preparing)).await;
        }
        let from = sisters(reference, image);
        let teller = Teller::new(progress.clone(), LayerStep::Sending);
        let places = Arc::new(Semaphore::new(self.inner.reach().uploads.unwrap_or(PARALLEL)));
        let mut running = JoinSet::new();
        for (descriptor, source) in parcel.layers.iter().cloned() {
            let (remote, from, places) = (remote.clone(), from.clone(), Arc::clone(&places));
            let (teller, progress) = (Arc::clone(&teller), progress.clone());
            running.spawn(async move {
                let _place = places.acquire_owned().await;
                let pushed = remote.push_blob(&descriptor, source, &from, Some(teller)).await.map_err(refused)?;
                let step = match pushed {
                    Pushed::Existed => LayerStep::Known,
                    Pushed::Mounted => LayerStep::Mounted,
                    Pushed::Uploaded => LayerStep::Sent,
                };
                let _ = progress.send(Progress::Layer(short(&descriptor.digest), step)).await;
                Ok::<(), EngineError>(())
            });
        }
        while let Some(joined) = running.join_next().await {
            joined.map_err(|error| EngineError::internal("sending a layer was cut short", &error))??;
        }
        let (descriptor, config) = parcel.config.clone();
        remote.push_blob(&descriptor, Arc::new(config), &[], None).await.map_err(refused).map(drop)
    }

    /// Sends the manifest, and remembers where the image is.
    async fn finish(
        &self,
        reference: &Reference,
        image: &Image,
        remote: &Remote,
        parcel: Parcel,
        progress: &mpsc::Sender<Progress>,
    ) -> Result<()> {
        let (tag, target) = tag(reference)?;
        let bytes = parcel.manifest.clone();
        let digest = remote.push_manifest(&target, &parcel.media_type, bytes.clone()).await.map_err(refused)?;
        let size = bytes.len() as u64;
        let _ = progress.send(Progress::Pushed { tag, digest: digest.to_string(), size }).await;
        if let Some(digest) = digest.sha256() {
            let (id, media_type) = (image.id, parcel.media_type.clone());
            let name = PinnedName { repository: reference.repository(), digest };
            let blobs = parcel.kept.as_ref().map(|kept| kept.blobs.clone()).unwrap_or_default();
            let manifest = StoredManifest { digest, media_type, blobs, names: vec![name] };
            self.blocking(move |inner| {
                let intake = inner.images.intake();
                intake.blob(&bytes[..], &digest).map_err(wrong)?;
                inner.images.add_manifest(&id, manifest).map_err(wrong)
            })
            .await?;
        }
        Ok(())
    }
}

/// The tag that is pushed.
pub(super) fn tag(reference: &Reference) -> Result<(String, Target)> {
    let tag = reference.tag().unwrap_or(oci::reference::DEFAULT_TAG).to_owned();
    let target = tag.parse().map(Target::Tag).map_err(|error| EngineError::internal("a tag that is none", &error))?;
    Ok((tag, target))
}

/// Repositories of the same registry that have the image already.
fn sisters(reference: &Reference, image: &Image) -> Vec<Repository> {
    let names = image.manifests.iter().flat_map(|manifest| &manifest.names);
    let others = names.filter_map(|name| name.repository.strip_prefix(reference.domain())?.strip_prefix('/'));
    others.filter(|path| *path != reference.path()).filter_map(|path| path.parse().ok()).take(4).collect()
}

fn parcel(store: &image::Store, image: &Image, form: Form) -> Result<Parcel> {
    let config = Bytes::from(store.config_bytes(&image.id).map_err(wrong)?);
    match store.whole_manifest(image) {
        Some(kept) => as_it_came(store, image, kept, config),
        None => compressed(store, image, config, form),
    }
}

fn as_it_came(store: &image::Store, image: &Image, kept: &StoredManifest, config: Bytes) -> Result<Parcel> {
    let gone = || EngineError::conflict(format!("image {} was removed meanwhile", image.id));
    let (path, _) = store.blob(&kept.digest).ok_or_else(gone)?;
    let bytes = std::fs::read(&path).map_err(|error| EngineError::internal("cannot read a manifest", &error))?;
    let broken = |error: registry::manifest::ManifestError| EngineError::internal("a kept manifest is damaged", &error);
    let manifest = Manifest::parse(&bytes, &kept.media_type).map_err(broken)?;
    let (held, mut layers) = (store.intake(), Vec::new());
    if !image.layers.iter().all(|layer| held.holds_layer(layer)) {
        return Err(gone());
    }
    for layer in &manifest.layers {
        let digest = layer.digest.sha256().filter(|digest| held.holds_blob(digest)).ok_or_else(gone)?;
        let source = Kept { store: store.clone(), digest, whole: Mutex::default() };
        layers.push((layer.clone(), Arc::new(source) as Arc<dyn BlobSource>));
    }
    let descriptor = manifest.config.clone().ok_or_else(gone)?;
    let (media_type, kept) = (manifest.media_type, Some(kept.clone()));
    Ok(Parcel {
        manifest: bytes.into(),
        media_type,
        config: (descriptor, config),
        layers,
        _work: None,
        _held: Some(held),
        kept,
    })
}

fn compressed(store: &image::Store, image: &Image, config: Bytes, form: Form) -> Result<Parcel> {
    let (media_type, config_type, layer_type) = match form {
        Form::Docker => (DOCKER_MANIFEST, DOCKER_CONFIG, DOCKER_LAYER),
        Form::Oci => (OCI_MANIFEST, OCI_CONFIG, OCI_LAYER),
    };
    let work = store.work_folder().map_err(wrong)?;
    let mut layers = Vec::new();
    for (number, layer) in image.layers.iter().enumerate() {
        let path = work.path().join(number.to_string());
        let (digest, size) = compress(store, layer, &path)?;
        let descriptor = Descriptor::new(layer_type, digest.into(), size);
        layers.push((descriptor, Arc::new(path) as Arc<dyn BlobSource>));
    }
    let described: Vec<&Descriptor> = layers.iter().map(|(descriptor, _)| descriptor).collect();
    let descriptor = Descriptor::new(config_type, image.id.0.into(), config.len() as u64);
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": media_type, "config": descriptor, "layers": described,
    });
    let manifest = Bytes::from(manifest.to_string());
    let (media_type, config) = (media_type.to_owned(), (descriptor, config));
    Ok(Parcel { manifest, media_type, config, layers, _work: Some(work), _held: None, kept: None })
}

/// Compresses a layer; the same layer gives the same bytes.
pub(crate) fn compress(store: &image::Store, layer: &LayerId, path: &std::path::Path) -> Result<(Digest, u64)> {
    let (mut archive, _) = store.archive(layer).map_err(wrong)?;
    let mut write = || -> io::Result<(Digest, u64)> {
        let file = io::BufWriter::with_capacity(256 << 10, std::fs::File::create_new(path)?);
        let digested = Digested { inner: file, digester: oci::digest::Digester::new() };
        let mut encoder = GzEncoder::new(digested, Compression::default());
        io::copy(&mut archive, &mut encoder)?;
        let mut digested = encoder.finish()?;
        digested.inner.flush()?;
        Ok((digested.digester.clone().finish(), digested.digester.length()))
    };
    write().map_err(|error| EngineError::internal(format!("cannot compress layer {layer}"), &error))
}

/// Digests what is written.
struct Digested<W> {
    inner: W,
    digester: oci::digest::Digester,
}

impl<W: Write> Write for Digested<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.digester.update(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
