//! What builds need of the store: layers before there is an image, a cache of them by key, images by their very bytes.
//!
//! A record of the cache is one small file, put in place by a rename once its layer is on the disk; a build that is killed
//! leaves a layer without a record, which goes when the store is opened again.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::time::SystemTime;

use oci::digest::Digest;
use oci::reference::Reference;
use serde::{Deserialize, Serialize};

use super::{Known, State, Store, blob_path, sync_folder, to_json, write_synced};
use crate::build::CacheKey;
use crate::diff::write_diff;
use crate::error::ImageError;
use crate::export::{ExportError, Times};
use crate::import::{self, LayerRecord};
use crate::layer::Rules;
use crate::model::{DeviceNodes, EndMark, Image, ImageId, LayerId, Limits};
use crate::mount::Layers;
use crate::store::import_record;

/// What the cache knows under a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheRecord {
    /// The layer; none for what is but a time, such as an image's whose layers are known by others.
    pub layer: Option<LayerId>,
    /// When it was made, as RFC 3339.
    pub created: String,
    /// The key that the files have by their contents, whatever way led to them.
    pub content: Digest,
    /// The instruction.
    pub text: String,
    /// The layer's bytes on disk.
    pub size: u64,
}

/// A record with its use.
#[derive(Debug, Clone)]
pub struct CacheUse {
    /// Its key.
    pub key: Digest,
    /// What it says.
    pub record: CacheRecord,
    /// When it was last found.
    pub used: SystemTime,
    /// Whether an image has its layer too, so that removing the record frees nothing.
    pub shared: bool,
}

/// The records, and the layers that builds hold meanwhile.
#[derive(Debug, Default)]
pub(crate) struct Cache {
    records: BTreeMap<Digest, (CacheRecord, SystemTime)>,
    held: BTreeMap<LayerId, usize>,
}

impl Cache {
    /// Reads the records; those without a layer or without sense go.
    pub(super) fn load(root: &Path) -> Result<Self, ImageError> {
        let folder = root.join("builds");
        let mut cache = Self::default();
        for entry in fs::read_dir(&folder).map_err(ImageError::file("read", &folder))? {
            let path = entry.map_err(ImageError::file("read", &folder))?.path();
            match read_record(root, &path) {
                Some((key, record, used)) => drop(cache.records.insert(key, (record, used))),
                None => fs::remove_file(&path).map_err(ImageError::file("remove the leftover", &path))?,
            }
        }
        Ok(cache)
    }

    pub(super) fn layers(&self) -> impl Iterator<Item = LayerId> {
        let recorded = self.records.values().filter_map(|(record, _)| record.layer);
        recorded.chain(self.held.keys().copied())
    }
}

fn read_record(root: &Path, path: &Path) -> Option<(Digest, CacheRecord, SystemTime)> {
    let key = format!("sha256:{}", path.file_name()?.to_str()?).parse().ok()?;
    let record: CacheRecord = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
    let used = fs::metadata(path).ok()?.modified().ok()?;
    if let Some(layer) = &record.layer {
        import_record(root, layer).ok()?;
    }
    Some((key, record, used))
}

/// Layers that nobody removes as long as this is there.
#[derive(Debug)]
pub struct Held {
    store: Store,
    layers: Vec<LayerId>,
}

impl Held {
    /// The layers, lowest first.
    #[must_use]
    pub fn layers(&self) -> &[LayerId] {
        &self.layers
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut state = self.store.state();
        for layer in &self.layers {
            if let Some(count) = state.cache.held.get_mut(layer) {
                *count -= 1;
                if *count == 0 {
                    state.cache.held.remove(layer);
                }
            }
        }
    }
}

impl Store {
    /// The very bytes of an image's configuration.
    ///
    /// # Errors
    /// [`ImageError::File`].
    pub fn config_bytes(&self, id: &ImageId) -> Result<Vec<u8>, ImageError> {
        let path = blob_path(&self.inner.root, &id.0);
        fs::read(&path).map_err(ImageError::file("read", &path))
    }

    /// Keeps these layers from being removed; nothing when one of them is not there.
    #[must_use]
    pub fn hold(&self, layers: &[LayerId]) -> Option<Held> {
        let mut state = self.state();
        let known = state.all_layers();
        if !layers.iter().all(|layer| known.contains(layer)) {
            return None;
        }
        Some(self.held(&mut state, layers))
    }

    fn held(&self, state: &mut State, layers: &[LayerId]) -> Held {
        for layer in layers {
            *state.cache.held.entry(*layer).or_default() += 1;
        }
        Held { store: self.clone(), layers: layers.to_vec() }
    }

    /// Makes a layer of an archive. Once the holder is dropped it stays for as long as a record or an image names it.
    ///
    /// # Errors
    /// As [`Store::import`].
    pub fn add_layer(&self, archive: impl Read + Send, limits: Limits) -> Result<Held, ImageError> {
        let work = self.work_folder()?;
        let rules = Rules { limits, devices: DeviceNodes::Keep, end: EndMark::Required };
        let record = import::build_layer(archive, work.path(), self.inner.mounts.format(), rules)?;
        self.finish_layer(work, &record)
    }

    fn finish_layer(&self, work: tempfile::TempDir, record: &LayerRecord) -> Result<Held, ImageError> {
        let path = work.path().join("layer.json");
        write_synced(&path, &to_json(record, &path)?)?;
        sync_folder(work.path())?;
        let mut state = self.state();
        self.keep_layer(work, record)?;
        Ok(self.held(&mut state, &[record.diff_id]))
    }

    /// Makes a layer of what writable layers, the topmost first, change about what is below them; see [`write_diff`].
    ///
    /// # Errors
    /// [`ExportError`].
    pub fn add_diff<F: AsFd + Sync>(
        &self,
        layers: &[F],
        base: Option<BorrowedFd<'_>>,
        times: Times,
    ) -> Result<Held, ExportError> {
        let (reader, writer) = io::pipe().map_err(ExportError::Write)?;
        std::thread::scope(|scope| {
            let walk = scope.spawn(move || write_diff(layers, base, times, writer));
            // a walk that fails leaves an archive without an end mark, which is refused
            let held = self.add_layer(reader, Limits::default());
            match (walk.join(), held) {
                (Ok(Err(error @ ExportError::Read { .. })), _) => Err(error),
                (_, held) => Ok(held?),
            }
        })
    }

    /// Layers by their ids, lowest first, as detached mounts, topmost first. `owner` is what messages call the image.
    ///
    /// # Errors
    /// As [`Store::mount_layers`].
    pub fn mount_ids(&self, layers: &[LayerId], owner: &str) -> Result<Layers, ImageError> {
        self.inner.mounts.mount(&self.inner.root, layers, owner)
    }

    /// Makes an image of a configuration's very bytes and layers that are there. `parent` is the image that it was made of.
    ///
    /// # Errors
    /// [`ImageError::File`]; [`ImageError::NotFound`] for a layer that is not there.
    pub fn add_image(
        &self,
        config: &[u8],
        layers: &[LayerId],
        parent: Option<ImageId>,
        names: &[Reference],
    ) -> Result<Image, ImageError> {
        let parsed = crate::config::read_configuration(config).map_err(ImageError::Config)?;
        let mut size = 0;
        for layer in layers {
            let record = import_record(&self.inner.root, layer)
                .map_err(|_| ImageError::NotFound { name: format!("layer {layer}") })?;
            size += record.size;
        }
        let mut state = self.state();
        let (layers, manifests) = (layers.to_vec(), Vec::new());
        let known = Known { layers, size, config: Ok(parsed), manifests, parent, tagged_ms: None };
        let mut image = self.keep_config(&mut state, config, known.clone(), names.first().cloned())?;
        for name in names.iter().skip(1) {
            image = self.keep_config(&mut state, config, known.clone(), Some(name.clone()))?;
        }
        Ok(image)
    }

    /// What a build has made under this key before, its layer held.
    #[must_use]
    pub fn cached(&self, key: &CacheKey) -> Option<(CacheRecord, Held)> {
        let mut state = self.state();
        let now = SystemTime::now();
        let (record, used) = state.cache.records.get_mut(&key.0)?;
        *used = now;
        let record = record.clone();
        let held = self.held(&mut state, record.layer.as_slice());
        drop(state);
        // only for the order in which records go
        if let Ok(file) = fs::File::open(self.record_path(&key.0)) {
            let _ = file.set_modified(now);
        }
        Some((record, held))
    }

    fn record_path(&self, key: &Digest) -> std::path::PathBuf {
        self.inner.root.join("builds").join(key.hex())
    }

    /// Records what a step made.
    ///
    /// # Errors
    /// [`ImageError::File`].
    pub fn remember(&self, key: &CacheKey, record: CacheRecord) -> Result<(), ImageError> {
        let path = self.record_path(&key.0);
        let work = self.work_folder()?;
        let staged = work.path().join("record");
        fs::write(&staged, to_json(&record, &path)?).map_err(ImageError::file("write", &staged))?;
        let mut state = self.state();
        fs::rename(&staged, &path).map_err(ImageError::file("write", &path))?;
        state.cache.records.insert(key.0, (record, SystemTime::now()));
        Ok(())
    }

    /// What a layer takes on disk.
    #[must_use]
    pub fn layer_bytes(&self, layer: &LayerId) -> u64 {
        import_record(&self.inner.root, layer).map_or(0, |record| record.size)
    }

    /// All records.
    #[must_use]
    pub fn cache(&self) -> Vec<CacheUse> {
        let state = self.state();
        let images: std::collections::BTreeSet<LayerId> =
            state.images.values().flat_map(|known| known.layers.iter().copied()).collect();
        let one = |(key, (record, used)): (&Digest, &(CacheRecord, SystemTime))| CacheUse {
            key: *key,
            record: record.clone(),
            used: *used,
            shared: record.layer.is_none_or(|layer| images.contains(&layer)),
        };
        state.cache.records.iter().map(one).collect()
    }

    /// Forgets the records that `unwanted` names, and removes the layers that nobody else has. Returns the keys and the
    /// bytes that came back.
    ///
    /// # Errors
    /// [`ImageError::File`]; what was removed before it stays removed.
    pub fn prune_cache(&self, unwanted: &dyn Fn(&CacheUse) -> bool) -> Result<(Vec<Digest>, u64), ImageError> {
        let gone: Vec<Digest> = self.cache().into_iter().filter(|one| unwanted(one)).map(|one| one.key).collect();
        let mut state = self.state();
        let before = self.usage(&state).layer_bytes;
        for key in &gone {
            let path = self.record_path(key);
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(ImageError::file("remove", &path)(error));
                }
                _ => {}
            }
            state.cache.records.remove(key);
        }
        self.drop_unreferenced(&state);
        let after = self.usage(&state).layer_bytes;
        Ok((gone, before.saturating_sub(after)))
    }
}
