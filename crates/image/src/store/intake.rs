//! How an image comes from elsewhere: its layers and blobs one by one, the image itself last.
//!
//! What an [`Intake`] has taken is there at once, for other intakes as well, and is held until the intake ends; what no image
//! needs by then goes. A killed process leaves things that no image names, which go when the store is opened.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use oci::digest::{Digest, Digester};
use oci::reference::Reference;

use super::{Known, Store, blob_path, import_record, layer_folder, sync_folder, to_json, write_synced};
use crate::error::ImageError;
use crate::import;
use crate::layer::{LayerError, Rules};
use crate::model::{Image, ImageId, LayerId, StoredManifest};
use crate::recipe::Replay;

/// What intakes hold, with the number of those that do.
#[derive(Debug, Default)]
pub(super) struct Held {
    pub(super) layers: BTreeMap<LayerId, usize>,
    pub(super) blobs: BTreeMap<Digest, usize>,
}

/// An image on its way into the store. What was taken and no image needs goes when this is dropped.
#[derive(Debug)]
pub struct Intake {
    store: Store,
    mine: Mutex<(Vec<LayerId>, Vec<Digest>)>,
}

/// Whether the bytes of a layer's archive are kept as they came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// No: it comes back uncompressed, by its recipe.
    No,
    /// Yes, and this is known to be their digest.
    As(Digest),
    /// Yes, under the digest that they will have.
    Measured,
}

/// A layer that was taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TakenLayer {
    /// The digest of its uncompressed archive.
    pub layer: LayerId,
    /// The bytes that were kept, and their number.
    pub blob: Option<(Digest, u64)>,
}

/// An image whose layers were taken.
#[derive(Debug, Clone)]
pub struct NewImage {
    /// The configuration, byte for byte.
    pub config: Vec<u8>,
    /// The manifest that it came with.
    pub manifest: Option<StoredManifest>,
    /// The name that it gets.
    pub reference: Option<Reference>,
}

impl Store {
    /// Begins to take in an image.
    #[must_use]
    pub fn intake(&self) -> Intake {
        Intake { store: self.clone(), mine: Mutex::default() }
    }

    /// The bytes that were kept under a digest: a configuration, a manifest, a compressed layer. `None` if there are none.
    #[must_use]
    pub fn blob(&self, digest: &Digest) -> Option<(PathBuf, u64)> {
        let path = blob_path(&self.inner.root, digest);
        let size = fs::metadata(&path).ok()?.len();
        Some((path, size))
    }

    /// A layer's archive as it came, uncompressed, and its length.
    ///
    /// # Errors
    /// [`ImageError::NoArchive`] for a layer of an older version of this program; [`ImageError::File`].
    pub fn archive(&self, layer: &LayerId) -> Result<(impl Read + Send + 'static, u64), ImageError> {
        archive(&self.inner.root, layer)
    }

    /// Remembers that an image is somewhere under a manifest.
    ///
    /// # Errors
    /// [`ImageError::NotFound`], [`ImageError::File`].
    pub fn add_manifest(&self, id: &ImageId, manifest: StoredManifest) -> Result<(), ImageError> {
        let mut state = self.state();
        let known = state.images.get_mut(id).ok_or_else(|| ImageError::NotFound { name: id.to_string() })?;
        let before = known.manifests.clone();
        merge(&mut known.manifests, manifest);
        let saved = self.save(&state);
        if saved.is_err()
            && let Some(known) = state.images.get_mut(id)
        {
            known.manifests = before;
        }
        saved
    }
}

/// As [`Store::archive`].
pub(super) fn archive(root: &Path, layer: &LayerId) -> Result<(impl Read + Send + 'static, u64), ImageError> {
    let folder = layer_folder(root, layer);
    let missing = |reason: String| ImageError::NoArchive { layer: *layer, reason };
    let record = import_record(root, layer).map_err(missing)?;
    if record.recipe_size == 0 {
        return Err(missing("it was made by an older version".to_owned()));
    }
    let file = (record.format == import::LayerFormat::Erofs).then(|| Path::new(record.format.file_name()));
    let replay = Replay::open(&folder, file).map_err(ImageError::file("read", &folder))?;
    Ok((io::BufReader::with_capacity(256 << 10, replay), record.archive_size))
}

/// Adds a manifest to those that are known, or its names to the same one.
pub(super) fn merge(known: &mut Vec<StoredManifest>, new: StoredManifest) {
    match known.iter_mut().find(|old| old.digest == new.digest) {
        Some(old) => {
            for name in new.names {
                if !old.names.contains(&name) {
                    old.names.push(name);
                }
            }
        }
        None => known.push(new),
    }
}

impl Intake {
    /// Whether a layer is there; if so it stays until this intake ends.
    #[must_use]
    pub fn holds_layer(&self, layer: &LayerId) -> bool {
        let mut state = self.store.state();
        let there = import_record(&self.store.inner.root, layer).is_ok_and(|record| record.recipe_size > 0);
        if there {
            self.hold(&mut state.held, Some(*layer), None);
        }
        there
    }

    /// Whether a blob is there; if so it stays until this intake ends.
    #[must_use]
    pub fn holds_blob(&self, digest: &Digest) -> bool {
        let mut state = self.store.state();
        let there = self.store.blob_size(digest).is_some();
        if there {
            self.hold(&mut state.held, None, Some(*digest));
        }
        there
    }

    fn hold(&self, held: &mut Held, layer: Option<LayerId>, blob: Option<Digest>) {
        let mut mine = self.mine.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(layer) = layer {
            *held.layers.entry(layer).or_default() += 1;
            mine.0.push(layer);
        }
        if let Some(blob) = blob {
            *held.blobs.entry(blob).or_default() += 1;
            mine.1.push(blob);
        }
    }

    /// Takes a layer: a tar archive, plain or compressed with gzip or zstd. `expected` is what the configuration says of it.
    ///
    /// # Errors
    /// [`ImageError::Layer`], [`ImageError::OtherLayer`] when it is not the expected one, [`ImageError::File`].
    pub fn layer(
        &self,
        reader: impl Read + Send,
        rules: LayerRules,
        expected: Option<LayerId>,
        keep: Keep,
    ) -> Result<TakenLayer, ImageError> {
        let store = &self.store;
        let work = store.work_folder()?;
        let blobs = store.work_folder()?;
        let kept = blobs.path().join("blob");
        // the archive of a layer that was never compressed comes back from the layer
        let plain = expected.filter(|expected| keep == Keep::As(expected.0));
        let mut tee = Tee::new(reader, &kept, if plain.is_some() { Keep::No } else { keep })?;
        let record = import::build_layer(&mut tee, work.path(), store.inner.mounts.format(), rules.0)?;
        let actual = record.diff_id;
        if let Some(expected) = expected.filter(|expected| *expected != actual) {
            return Err(ImageError::OtherLayer { expected, actual });
        }
        let blob = tee.finish(&kept)?;
        let record_path = work.path().join("layer.json");
        write_synced(&record_path, &to_json(&record, &record_path)?)?;
        sync_folder(work.path())?;
        let mut state = store.state();
        let held = blob.map(|(digest, _)| digest).or(plain.map(|plain| plain.0));
        self.hold(&mut state.held, Some(record.diff_id), held);
        store.keep_layer(work, &record)?;
        if let Some((digest, _)) = blob {
            self.place_blob(&kept, &digest)?;
        }
        let blob = blob.or(plain.map(|plain| (plain.0, record.archive_size)));
        Ok(TakenLayer { layer: record.diff_id, blob })
    }

    /// Takes bytes as they are; `digest` has to be theirs.
    ///
    /// # Errors
    /// [`ImageError::Layer`] when they cannot be read, [`ImageError::OtherBlob`], [`ImageError::File`].
    pub fn blob(&self, reader: impl Read, digest: &Digest) -> Result<u64, ImageError> {
        let work = self.store.work_folder()?;
        let path = work.path().join("blob");
        let mut tee = Tee::new(reader, &path, Keep::Measured)?;
        io::copy(&mut tee, &mut io::sink()).map_err(LayerError::Read)?;
        let Some((actual, size)) = tee.finish(&path)?.filter(|(actual, _)| actual == digest) else {
            return Err(ImageError::OtherBlob { expected: *digest });
        };
        let mut state = self.store.state();
        self.hold(&mut state.held, None, Some(actual));
        self.place_blob(&path, &actual)?;
        Ok(size)
    }

    fn place_blob(&self, from: &Path, digest: &Digest) -> Result<(), ImageError> {
        let path = blob_path(&self.store.inner.root, digest);
        fs::rename(from, &path).map_err(ImageError::file("write", &path))?;
        sync_folder(&self.store.inner.root.join("blobs/sha256"))
    }

    /// As [`Store::tag`].
    ///
    /// # Errors
    /// Those of [`Store::tag`].
    pub fn name(&self, id: &ImageId, reference: Reference) -> Result<(), ImageError> {
        self.store.tag(id, reference)
    }

    /// As [`Store::name_family`].
    ///
    /// # Errors
    /// Those of [`Store::name_family`].
    pub fn name_family(&self, family: &crate::family::Family, names: &[Reference]) -> Result<Image, ImageError> {
        self.store.name_family(family, names)
    }

    /// Makes the image of the layers that its configuration names, all of which this intake holds.
    ///
    /// # Errors
    /// [`ImageError::Config`] for a configuration that is none, [`ImageError::MissingLayer`], [`ImageError::File`].
    pub fn image(&self, new: NewImage) -> Result<Image, ImageError> {
        let config = crate::config::read_configuration(&new.config).map_err(ImageError::Config)?;
        let layers = config.rootfs().diff_ids().iter().map(|text| parse_layer(text)).collect::<Result<Vec<_>, _>>()?;
        let store = &self.store;
        let mut state = store.state();
        let mut size = 0;
        for layer in &layers {
            let record = import_record(&store.inner.root, layer);
            size += record.map_err(|_| ImageError::MissingLayer { layer: *layer })?.size;
        }
        let manifests = new.manifest.into_iter().collect();
        let known = Known { layers, size, config: Ok(config), manifests, parent: None, tagged_ms: None };
        store.keep_config(&mut state, &new.config, known, new.reference)
    }
}

fn parse_layer(text: &str) -> Result<LayerId, ImageError> {
    text.parse().map(LayerId).map_err(|_| ImageError::BadLayer { text: text.to_owned() })
}

/// The layers that a configuration names, lowest first.
///
/// # Errors
/// [`ImageError::Config`], [`ImageError::BadLayer`].
pub fn layers_of(config: &[u8]) -> Result<Vec<LayerId>, ImageError> {
    let config = crate::config::read_configuration(config).map_err(ImageError::Config)?;
    config.rootfs().diff_ids().iter().map(|text| parse_layer(text)).collect()
}

impl Drop for Intake {
    fn drop(&mut self) {
        let mine = self.mine.get_mut().unwrap_or_else(PoisonError::into_inner);
        let mut state = self.store.state();
        for layer in &mine.0 {
            release(&mut state.held.layers, layer);
        }
        for blob in &mine.1 {
            release(&mut state.held.blobs, blob);
        }
        self.store.drop_unreferenced(&state);
    }
}

fn release<T: Ord>(held: &mut BTreeMap<T, usize>, one: &T) {
    if let Some(count) = held.get_mut(one) {
        *count -= 1;
        if *count == 0 {
            held.remove(one);
        }
    }
}

/// Limits and wishes for a layer; those of an import by default.
#[derive(Debug, Clone, Copy)]
pub struct LayerRules(Rules);

impl Default for LayerRules {
    fn default() -> Self {
        Self((&crate::model::ImportOptions::default()).into())
    }
}

/// Writes down what is read.
struct Tee<R> {
    inner: R,
    file: Option<File>,
    keep: Keep,
    digester: Digester,
    length: u64,
}

impl<R: Read> Tee<R> {
    fn new(inner: R, path: &Path, keep: Keep) -> Result<Self, ImageError> {
        let file = match keep {
            Keep::No => None,
            Keep::As(_) | Keep::Measured => Some(File::create_new(path).map_err(ImageError::file("create", path))?),
        };
        Ok(Self { inner, file, keep, digester: Digester::new(), length: 0 })
    }

    /// Reads what decompressors leave behind, and brings the bytes to the disk.
    fn finish(mut self, path: &Path) -> Result<Option<(Digest, u64)>, ImageError> {
        io::copy(&mut self, &mut io::sink()).map_err(LayerError::Read)?;
        let Some(file) = self.file else { return Ok(None) };
        file.sync_data().map_err(ImageError::file("write to disk", path))?;
        let digest = match self.keep {
            Keep::As(digest) => digest,
            Keep::No | Keep::Measured => self.digester.finish(),
        };
        Ok(Some((digest, self.length)))
    }
}

impl<R: Read> Read for Tee<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(out)?;
        if let Some(file) = &mut self.file {
            file.write_all(&out[..count])?;
            self.length += count as u64;
            if self.keep == Keep::Measured {
                self.digester.update(&out[..count]);
            }
        }
        Ok(count)
    }
}
