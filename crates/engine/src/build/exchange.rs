//! Caches of other stores: what other builds have done is found by the same keys, and what this one has done is kept for them.
//!
//! ```text
//! cache at a registry or in a folder: manifest -> configuration (the document below) and the steps' layers
//! image with its cache in it:         manifest -> configuration with the document as one more field, and the image's layers
//! ```
//!
//! A key says all that a step's outcome depends on, so a layer that somebody else made under it will do; that is why only
//! places are asked that the user has named. A layer is fetched when its step is reached, and not before.

use super::execute::Build;
use super::proofs::Proofs;
use super::request::{BuildEvent, CachePlace, CacheSource, CacheSteps, CacheTarget};
use crate::engine::{Engine, Inner, compress, image_error, refused, target_of};
use crate::error::{EngineError, ErrorClass, Result};
use image::build::{Base, CacheKey};
use image::{CacheRecord, Held, Keep, LayerId, LayerRules};
use oci::digest::Digest;
use oci::platform::Platform;
use oci::reference::Reference;
use registry::client::{BlobSource, Remote};
use registry::manifest::{Descriptor, Manifest, OCI_INDEX, OCI_MANIFEST};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};
use tokio::sync::mpsc;

/// What the document is, in manifests.
const MEDIA_TYPE: &str = "application/vnd.insula.build-cache.v1+json";
/// What it is called within an image's configuration.
const FIELD: &str = "insula.build.cache.v1";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
/// The longest document that is read, in bytes.
const LONGEST: usize = 32 << 20;

/// A step of this build that is there.
#[derive(Debug, Clone)]
pub(super) struct DoneStep {
    pub(super) stage: usize,
    pub(super) keys: Vec<Digest>,
    pub(super) record: CacheRecord,
}

/// Everything that a place has.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Document {
    steps: Vec<Entry>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    keys: BTreeSet<Digest>,
    /// The number of its layer in the manifest; none for a record that is only a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    layer: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    diff_id: Option<LayerId>,
    created: String,
    content: Digest,
    text: String,
}

/// A place that could be read.
struct Opened {
    document: Document,
    layers: Vec<Descriptor>,
    files: Files,
}

/// Where layers come from.
#[derive(Debug, Clone)]
enum Files {
    /// They are in this store.
    Here,
    Remote(Remote),
    Folder(PathBuf),
}

/// What one key stands for elsewhere.
#[derive(Debug)]
struct Known {
    record: CacheRecord,
    descriptor: Option<Descriptor>,
    files: Files,
}

/// What other stores have.
#[derive(Debug, Default)]
pub(super) struct Imported {
    steps: BTreeMap<Digest, Known>,
}

fn unreadable(what: impl std::fmt::Display, error: &dyn std::error::Error) -> EngineError {
    EngineError::because(ErrorClass::Invalid, what, error)
}

/// Reads what the places have. One that cannot be read is told of and left out: a build needs none of them.
pub(super) async fn import(
    inner: &Arc<Inner>,
    sources: &[CacheSource],
    proofs: &Proofs,
    events: &mpsc::Sender<BuildEvent>,
) -> Imported {
    let mut imported = Imported::default();
    for source in sources {
        let opened = match source {
            CacheSource::Folder(path) => open_folder(path),
            CacheSource::Named(name) => match open_here(inner, name) {
                Some(opened) => Ok(opened),
                None => open_remote(inner, name, proofs).await,
            },
        };
        match opened {
            Ok(opened) => imported.add(opened),
            Err(error) => {
                let place = match source {
                    CacheSource::Folder(path) => path.display().to_string(),
                    CacheSource::Named(name) => name.familiar(),
                };
                let _ = events.send(BuildEvent::Warning(format!("no cache from {place}: {error}"))).await;
            }
        }
    }
    imported
}

impl Imported {
    fn add(&mut self, opened: Opened) {
        let Opened { document, layers, files } = opened;
        for entry in document.steps {
            let descriptor = entry.layer.and_then(|at| layers.get(at)).cloned();
            if entry.diff_id.is_some() && descriptor.is_none() && !matches!(files, Files::Here) {
                continue;
            }
            let record = CacheRecord {
                layer: entry.diff_id,
                created: entry.created,
                content: entry.content,
                text: entry.text,
                size: 0,
            };
            for key in entry.keys {
                let known = Known { record: record.clone(), descriptor: descriptor.clone(), files: files.clone() };
                self.steps.entry(key).or_insert(known);
            }
        }
    }

    /// When an image was made elsewhere.
    pub(super) fn time(&self, key: &CacheKey) -> Option<String> {
        let known = self.steps.get(&key.0).filter(|known| known.record.layer.is_none())?;
        known.record.created.parse::<jiff::Timestamp>().ok()?;
        Some(known.record.created.clone())
    }

    /// What another store has under a key, fetched; from then on this store has it. What goes wrong is told of, and the step
    /// is done here.
    pub(super) async fn take(&self, build: &Arc<Build>, key: &CacheKey) -> Option<(CacheRecord, Held)> {
        let known = self.steps.get(&key.0)?;
        let layer = known.record.layer?;
        match take(build, known, layer, key).await {
            Ok(()) => build.inner.images.cached(key),
            Err(error) => {
                let text = format!("cannot use the cached layer of {}: {error}", known.record.text);
                build.tell(BuildEvent::Warning(text)).await;
                None
            }
        }
    }
}

async fn take(build: &Arc<Build>, known: &Known, layer: LayerId, key: &CacheKey) -> Result<()> {
    let store = &build.inner.images;
    let intake = Arc::new(store.intake());
    if !intake.holds_layer(&layer) {
        let missing = || EngineError::not_found("its layer is not there");
        let descriptor = known.descriptor.as_ref().ok_or_else(missing)?;
        match &known.files {
            Files::Here => return Err(missing()),
            Files::Remote(remote) => {
                let engine = Engine { inner: Arc::clone(&build.inner) };
                engine.fetch_layer(remote, descriptor, layer, &intake).await?;
            }
            Files::Folder(folder) => {
                let (path, intake) = (blob(folder, descriptor)?, Arc::clone(&intake));
                let file = File::open(&path);
                let file = file.map_err(|error| unreadable(format!("cannot read {}", path.display()), &error))?;
                let taken = tokio::task::spawn_blocking(move || {
                    intake.layer(file, LayerRules::default(), Some(layer), Keep::No)
                });
                taken
                    .await
                    .map_err(|error| EngineError::internal("reading was cut short", &error))?
                    .map_err(image_error)?;
            }
        }
    }
    let record = CacheRecord { size: store.layer_bytes(&layer), ..known.record.clone() };
    for key in [key.0, record.content] {
        store.remember(&CacheKey(key), record.clone()).map_err(image_error)?;
    }
    Ok(())
}

/// A blob's file in an OCI layout.
fn blob(folder: &Path, descriptor: &Descriptor) -> Result<PathBuf> {
    let digest = descriptor.digest.sha256();
    let digest = digest.ok_or_else(|| EngineError::invalid(format!("no digest of sha256: {}", descriptor.digest)))?;
    Ok(folder.join("blobs/sha256").join(digest.hex()))
}

fn read_blob(folder: &Path, descriptor: &Descriptor) -> Result<Vec<u8>> {
    let path = blob(folder, descriptor)?;
    let bytes = fs::read(&path).map_err(|error| unreadable(format!("cannot read {}", path.display()), &error))?;
    let good = descriptor.digest.sha256().is_some_and(|digest| digest == Digest::of(&bytes));
    if good { Ok(bytes) } else { Err(EngineError::invalid(format!("{} is damaged", path.display()))) }
}

fn open_folder(folder: &Path) -> Result<Opened> {
    #[derive(Deserialize)]
    struct Index {
        manifests: Vec<Descriptor>,
    }
    let path = folder.join("index.json");
    let bytes = fs::read(&path).map_err(|error| unreadable(format!("cannot read {}", path.display()), &error))?;
    let index: Index = serde_json::from_slice(&bytes)
        .map_err(|error| unreadable(format!("cannot read {}", path.display()), &error))?;
    let none = || EngineError::not_found(format!("there is no cache in {}", folder.display()));
    let bytes = read_blob(folder, index.manifests.first().ok_or_else(none)?)?;
    let manifest =
        Manifest::parse(&bytes, OCI_MANIFEST).map_err(|error| unreadable("cannot read its manifest", &error))?;
    let config = manifest.config.clone().ok_or_else(none)?;
    opened(manifest, &read_blob(folder, &config)?, Files::Folder(folder.to_owned()))
}

/// An image that is here, if it has a cache in it.
fn open_here(inner: &Inner, name: &Reference) -> Option<Opened> {
    let image = inner.images.get(&name.familiar()).ok()?;
    let config = inner.images.config_bytes(&image.id).ok()?;
    let document = inside(&config)?;
    Some(Opened { document, layers: Vec::new(), files: Files::Here })
}

async fn open_remote(inner: &Arc<Inner>, name: &Reference, proofs: &Proofs) -> Result<Opened> {
    let engine = Engine { inner: Arc::clone(inner) };
    let remote = engine.remote(name, proofs.of(name).await)?;
    let mut found = remote.manifest(&target_of(name)?).await.map_err(refused)?;
    if found.manifest.is_index() {
        found = remote.image(&target_of(name)?, &Platform::host()).await.map_err(refused)?.image;
    }
    let none = || EngineError::not_found("it is no image and no cache");
    let config = found.manifest.config.clone().ok_or_else(none)?;
    let stream = remote.blob(&config, None).await.map_err(refused)?;
    let bytes = stream.into_bytes(LONGEST).await.map_err(refused)?;
    opened(found.manifest, &bytes, Files::Remote(remote))
}

fn opened(manifest: Manifest, config: &[u8], files: Files) -> Result<Opened> {
    let own = manifest.config.as_ref().is_some_and(|config| config.media_type == MEDIA_TYPE);
    let document = match own {
        true => serde_json::from_slice(config).map_err(|error| unreadable("the cache makes no sense", &error))?,
        false => inside(config).ok_or_else(|| {
            EngineError::not_found("the image has no cache in it; build it with: --cache-to type=inline")
        })?,
    };
    Ok(Opened { document, layers: manifest.layers, files })
}

/// The document in an image's configuration.
fn inside(config: &[u8]) -> Option<Document> {
    #[derive(Deserialize)]
    struct Config {
        #[serde(rename = "insula.build.cache.v1")]
        cache: Document,
    }
    serde_json::from_slice::<Config>(config).ok().map(|config| config.cache)
}

/// The configuration with a document about the image's own layers in it.
pub(super) fn inline(build: &Build, layers: &[LayerId], config: Vec<u8>) -> Result<Vec<u8>> {
    let broken = |error: serde_json::Error| EngineError::internal("cannot write the image's cache", &error);
    let mut entries = Vec::new();
    for (layer, step) in unique(build, CacheSteps::Result) {
        match layer.map(|layer| (layer, layers.iter().position(|one| *one == layer))) {
            None => entries.push(entry(&step, None)),
            Some((_, Some(at))) => entries.push(entry(&step, Some(at))),
            // merged with others
            Some((_, None)) => {}
        }
    }
    let mut value: Value = serde_json::from_slice(&config).map_err(broken)?;
    value[FIELD] = serde_json::to_value(Document { steps: entries }).map_err(broken)?;
    serde_json::to_vec(&value).map_err(broken)
}

fn entry(step: &DoneStep, layer: Option<usize>) -> Entry {
    let record = &step.record;
    Entry {
        keys: step.keys.iter().copied().collect(),
        layer,
        diff_id: record.layer,
        created: record.created.clone(),
        content: record.content,
        text: record.text.clone(),
    }
}

/// The steps that are wanted, in the order of their stages; what was found under several keys once.
fn unique(build: &Build, wanted: CacheSteps) -> Vec<(Option<LayerId>, DoneStep)> {
    let mut stages = BTreeSet::new();
    for target in &build.plan.targets {
        let mut last = *target;
        stages.insert(last);
        while let Some(Base::Stage(base)) = build.plan.stages.get(&last).map(|stage| &stage.base) {
            stages.insert(*base);
            last = *base;
        }
    }
    let mut done = build.done.lock().unwrap_or_else(PoisonError::into_inner).clone();
    done.sort_by_key(|step| step.stage);
    let mut out: Vec<(Option<LayerId>, DoneStep)> = Vec::new();
    for step in done.into_iter().filter(|step| wanted == CacheSteps::All || stages.contains(&step.stage)) {
        let same = |one: &&mut (Option<LayerId>, DoneStep)| {
            one.0 == step.record.layer && one.1.record.content == step.record.content
        };
        match out.iter_mut().find(same) {
            Some((_, known)) => known.keys.extend(step.keys),
            None => out.push((step.record.layer, step)),
        }
    }
    out
}

/// Keeps the steps at a place; one that is the image itself has them already.
pub(super) async fn export(build: &Arc<Build>, target: &CacheTarget, proofs: &Proofs) -> Result<()> {
    match &target.place {
        CachePlace::Image => {}
        CachePlace::Registry(name) => build.tell(BuildEvent::Keeping(name.familiar())).await,
        CachePlace::Folder(path, _) => build.tell(BuildEvent::Keeping(path.display().to_string())).await,
    }
    let (place, kept) = match &target.place {
        CachePlace::Image => return Ok(()),
        CachePlace::Registry(name) => (name.familiar(), to_registry(build, target.steps, name, proofs).await),
        CachePlace::Folder(path, owner) => {
            let (build, folder, steps, owner) = (Arc::clone(build), path.clone(), target.steps, *owner);
            let kept = tokio::task::spawn_blocking(move || to_folder(&build, steps, &folder, owner)).await;
            let kept = kept.unwrap_or_else(|error| Err(EngineError::internal("writing was cut short", &error)));
            (path.display().to_string(), kept)
        }
    };
    kept.map_err(|error| {
        EngineError::new(error.class(), format!("the image is built, and its cache cannot be kept at {place}: {error}"))
    })
}

/// What is sent or written.
struct Parcel {
    manifest: Vec<u8>,
    config: (Descriptor, Vec<u8>),
    /// Each layer; the file is missing where the place had it already.
    layers: Vec<(Descriptor, Option<PathBuf>)>,
    _work: tempfile::TempDir,
}

/// Compresses what the place does not have yet: `before` is what it had, `there` whether that can still be had.
fn parcel(build: &Build, steps: CacheSteps, before: &BTreeMap<LayerId, Descriptor>) -> Result<Parcel> {
    let store = &build.inner.images;
    let work = store.work_folder().map_err(image_error)?;
    let (mut layers, mut places, mut entries) = (Vec::new(), BTreeMap::new(), Vec::new());
    for (layer, step) in unique(build, steps) {
        let Some(layer) = layer else {
            entries.push(entry(&step, None));
            continue;
        };
        let at = match places.get(&layer) {
            Some(at) => *at,
            None => {
                let at = layers.len();
                match before.get(&layer) {
                    Some(known) => layers.push((known.clone(), None)),
                    None => {
                        let path = work.path().join(at.to_string());
                        let (digest, size) = compress(store, &layer, &path)?;
                        layers.push((Descriptor::new(LAYER, digest.into(), size), Some(path)));
                    }
                }
                places.insert(layer, at);
                at
            }
        };
        entries.push(entry(&step, Some(at)));
    }
    let broken = |error: serde_json::Error| EngineError::internal("cannot write the cache", &error);
    let config = serde_json::to_vec(&Document { steps: entries }).map_err(broken)?;
    let described: Vec<&Descriptor> = layers.iter().map(|(descriptor, _)| descriptor).collect();
    let descriptor = Descriptor::new(MEDIA_TYPE, Digest::of(&config).into(), config.len() as u64);
    let manifest = json!({
        "schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": descriptor, "layers": described,
    });
    Ok(Parcel { manifest: manifest.to_string().into_bytes(), config: (descriptor, config), layers, _work: work })
}

/// What a place had before, so that the same layer is compressed and sent once.
fn before(opened: Option<Opened>) -> BTreeMap<LayerId, Descriptor> {
    let Some(Opened { document, layers, .. }) = opened else { return BTreeMap::new() };
    let pair = |entry: &Entry| Some((entry.diff_id?, layers.get(entry.layer?)?.clone()));
    document.steps.iter().filter_map(pair).collect()
}

async fn to_registry(build: &Arc<Build>, steps: CacheSteps, name: &Reference, proofs: &Proofs) -> Result<()> {
    let engine = Engine { inner: Arc::clone(&build.inner) };
    let remote = engine.remote(name, proofs.of(name).await)?.writable();
    let mut known = before(open_remote(&build.inner, name, proofs).await.ok());
    let mut lost = Vec::new();
    for (layer, descriptor) in &known {
        if remote.blob_size(&descriptor.digest).await.map_err(refused)?.is_none() {
            lost.push(*layer);
        }
    }
    lost.iter().for_each(|layer| drop(known.remove(layer)));
    let own = Arc::clone(build);
    let parcel = tokio::task::spawn_blocking(move || parcel(&own, steps, &known)).await;
    let parcel = parcel.map_err(|error| EngineError::internal("compressing was cut short", &error))??;
    for (descriptor, path) in &parcel.layers {
        if let Some(path) = path {
            let source: Arc<dyn BlobSource> = Arc::new(path.clone());
            remote.push_blob(descriptor, source, &[], None).await.map_err(refused)?;
        }
    }
    let (descriptor, config) = &parcel.config;
    let source: Arc<dyn BlobSource> = Arc::new(bytes::Bytes::from(config.clone()));
    remote.push_blob(descriptor, source, &[], None).await.map_err(refused)?;
    let manifest = parcel.manifest.clone().into();
    remote.push_manifest(&target_of(name)?, OCI_MANIFEST, manifest).await.map_err(refused).map(drop)
}

fn to_folder(build: &Build, steps: CacheSteps, folder: &Path, owner: Option<(u32, u32)>) -> Result<()> {
    let failed = |path: &Path| {
        let what = format!("cannot write {}", path.display());
        move |error: std::io::Error| EngineError::because(ErrorClass::Invalid, what, &error)
    };
    let mut known = before(open_folder(folder).ok());
    known.retain(|_, descriptor| blob(folder, descriptor).is_ok_and(|path| path.is_file()));
    let parcel = parcel(build, steps, &known)?;
    let blobs = folder.join("blobs/sha256");
    fs::create_dir_all(&blobs).map_err(failed(&blobs))?;
    let own = |path: &Path| match owner {
        Some((user, group)) => std::os::unix::fs::chown(path, Some(user), Some(group)).map_err(failed(path)),
        None => Ok(()),
    };
    // beside its name first: what has a name is whole
    let place = |path: &Path, write: &dyn Fn(&Path) -> std::io::Result<()>| -> Result<()> {
        let staged = path.with_extension("part");
        write(&staged).map_err(failed(&staged))?;
        own(&staged)?;
        fs::rename(&staged, path).map_err(failed(path))
    };
    own(&folder.join("blobs"))?;
    own(&blobs)?;
    for (descriptor, file) in &parcel.layers {
        if let Some(file) = file {
            place(&blob(folder, descriptor)?, &|path| fs::copy(file, path).map(drop))?;
        }
    }
    let (descriptor, config) = &parcel.config;
    place(&blob(folder, descriptor)?, &|path| fs::write(path, config))?;
    let manifest = Descriptor::new(OCI_MANIFEST, Digest::of(&parcel.manifest).into(), parcel.manifest.len() as u64);
    place(&blob(folder, &manifest)?, &|path| fs::write(path, &parcel.manifest))?;
    let index = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [manifest] }).to_string();
    place(&folder.join("oci-layout"), &|path| fs::write(path, br#"{"imageLayoutVersion":"1.0.0"}"#))?;
    place(&folder.join("index.json"), &|path| fs::write(path, &index))
}
