//! The store's files: the index, records of layers, configurations.

use super::reduced;
use super::state::{Known, State};
use crate::error::ImageError;
use crate::family::Family;
use crate::import::{LayerFormat, LayerRecord};
use crate::model::{ImageId, LayerId, StoredManifest};
use oci::digest::Digest;
use oci::reference::Reference;
use oci_spec::image::ImageConfiguration;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The file `index.json`.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Index {
    version: u32,
    images: Vec<IndexImage>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    families: Vec<IndexFamily>,
}

#[derive(Debug, Serialize, Deserialize)]
struct IndexFamily {
    reference: Reference,
    #[serde(flatten)]
    family: Family,
}

#[derive(Debug, Serialize, Deserialize)]
struct IndexImage {
    id: ImageId,
    size: u64,
    layers: Vec<LayerId>,
    references: Vec<Reference>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    manifests: Vec<StoredManifest>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    parent: Option<ImageId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tagged_ms: Option<u64>,
}

const INDEX_VERSION: u32 = 1;

impl Index {
    pub(super) fn of(state: &State) -> Self {
        Self {
            version: INDEX_VERSION,
            images: state
                .images
                .iter()
                .map(|(id, known)| IndexImage {
                    id: *id,
                    size: known.size,
                    layers: known.layers.clone(),
                    references: state.names(id),
                    manifests: known.manifests.clone(),
                    parent: known.parent,
                    tagged_ms: known.tagged_ms,
                })
                .collect(),
            families: state
                .whole_families()
                .map(|(reference, family)| IndexFamily { reference: reference.clone(), family: family.clone() })
                .collect(),
        }
    }
}

/// A layer's folder.
pub(crate) fn layer_folder(root: &Path, layer: &LayerId) -> PathBuf {
    root.join("layers").join(layer.0.hex())
}

/// What a layer should be.
pub(crate) fn import_record(root: &Path, layer: &LayerId) -> Result<LayerRecord, String> {
    let path = layer_folder(root, layer).join("layer.json");
    let bytes = fs::read(&path).map_err(|error| format!("cannot be read ({error})"))?;
    let record: LayerRecord = serde_json::from_slice(&bytes).map_err(|error| format!("makes no sense ({error})"))?;
    if record.diff_id == *layer { Ok(record) } else { Err("belongs to another layer".to_owned()) }
}

pub(super) fn blob_path(root: &Path, digest: &Digest) -> PathBuf {
    root.join("blobs/sha256").join(digest.hex())
}

pub(super) fn hexes<'a>(digests: impl Iterator<Item = &'a Digest>) -> BTreeSet<String> {
    digests.map(|digest| digest.hex()).collect()
}

/// Whether a layer that is there already can stand for the one just made.
pub(super) fn layer_looks_good(folder: &Path, record: &LayerRecord) -> bool {
    let Ok(bytes) = fs::read(folder.join("layer.json")) else { return false };
    let Ok(existing) = serde_json::from_slice::<LayerRecord>(&bytes) else { return false };
    let file = folder.join(existing.format.file_name());
    let there = match existing.format {
        LayerFormat::Erofs => fs::metadata(&file).is_ok_and(|stat| stat.len() == existing.size),
        LayerFormat::Directory => file.is_dir(),
    };
    there && existing == *record
}

pub(super) fn load(root: &Path) -> Result<State, ImageError> {
    let path = root.join("index.json");
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(State::default()),
        Err(error) => return Err(ImageError::file("read", &path)(error)),
    };
    let damaged = |reason: String| ImageError::DamagedIndex { path: path.clone(), folder: root.to_owned(), reason };
    let index: Index = serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
    if index.version != INDEX_VERSION {
        return Err(damaged(format!("version {} is not known here", index.version)));
    }
    let mut state = State::default();
    for image in index.images {
        state.references.extend(image.references.into_iter().map(|reference| (reference, image.id)));
        let config = load_config(root, &image.id);
        let (manifests, parent, tagged_ms) = (image.manifests, image.parent, image.tagged_ms);
        let known = Known { layers: image.layers, size: image.size, config, manifests, parent, tagged_ms };
        state.images.insert(image.id, known);
    }
    state.families = index.families.into_iter().map(|one| (one.reference, one.family)).collect();
    Ok(state)
}

/// Reads a configuration and compares it with its digest.
pub(super) fn load_config(root: &Path, id: &ImageId) -> Result<ImageConfiguration, String> {
    let bytes =
        fs::read(blob_path(root, &id.0)).map_err(|error| format!("its configuration cannot be read ({error})"))?;
    if Digest::of(&bytes) != id.0 {
        return Err("its configuration does not have the digest that its id says".to_owned());
    }
    crate::config::read_configuration(&bytes).map_err(|error| format!("its configuration makes no sense ({error})"))
}

pub(super) fn remove_leftovers(root: &Path, state: &State) -> Result<(), ImageError> {
    let layers = hexes(state.all_layers().iter().map(|layer| &layer.0));
    let blobs = hexes(state.all_blobs().iter());
    for (folder, keep) in [("tmp", BTreeSet::new()), ("layers", layers), ("blobs/sha256", blobs)] {
        let path = root.join(folder);
        for entry in fs::read_dir(&path).map_err(ImageError::file("read", &path))? {
            let entry = entry.map_err(ImageError::file("read", &path))?;
            if reduced::blob_name(&entry.file_name()).is_some_and(|name| keep.contains(name)) {
                continue;
            }
            let leftover = entry.path();
            let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
            let removed = if is_folder { remove_folder(&leftover) } else { fs::remove_file(&leftover) };
            removed.map_err(ImageError::file("remove the leftover", &leftover))?;
        }
    }
    Ok(())
}

/// Removes a folder in which somebody may still be writing: a build step of a store that was killed ends a moment after it. What is
/// written to for longer stays, out of everybody's way, until the store is opened the next time.
fn remove_folder(folder: &Path) -> io::Result<()> {
    const PATIENCE: u32 = 20;
    for _ in 0..PATIENCE {
        match fs::remove_dir_all(folder) {
            Err(error) if matches!(error.kind(), io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::ResourceBusy) => {
                std::thread::sleep(Duration::from_millis(20));
            }
            other => return other,
        }
    }
    Ok(())
}

pub(super) fn to_json<T: Serialize>(value: &T, path: &Path) -> Result<Vec<u8>, ImageError> {
    let mut bytes = serde_json::to_vec_pretty(value).map_err(|error| ImageError::file("write", path)(error.into()))?;
    bytes.push(b'\n');
    Ok(bytes)
}

/// The configuration's bytes, with the keys of every object in order: the crate that models it keeps labels unordered.
pub(crate) fn canonical_json(config: &ImageConfiguration) -> Result<Vec<u8>, ImageError> {
    fn sort(value: serde_json::Value) -> serde_json::Value {
        match value {
            serde_json::Value::Object(entries) => {
                let ordered: BTreeMap<String, serde_json::Value> = entries.into_iter().collect();
                ordered.into_iter().map(|(key, value)| (key, sort(value))).collect()
            }
            serde_json::Value::Array(values) => values.into_iter().map(sort).collect(),
            other => other,
        }
    }
    let json = serde_json::to_value(config).and_then(|value| serde_json::to_vec(&sort(value)));
    json.map_err(|error| ImageError::Config(oci_spec::OciSpecError::SerDe(error)))
}

pub(super) fn write_synced(path: &Path, bytes: &[u8]) -> Result<(), ImageError> {
    let write = || {
        let mut file = File::create_new(path)?;
        file.write_all(bytes)?;
        file.sync_data()
    };
    write().map_err(ImageError::file("write", path))
}

pub(super) fn sync_folder(path: &Path) -> Result<(), ImageError> {
    File::open(path).and_then(|folder| folder.sync_all()).map_err(ImageError::file("write to disk", path))
}
