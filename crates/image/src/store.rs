//! The store: what is there, what comes, what goes.
//!
//! ```text
//! index.json                    every image with its names and layers, names with several images; replaced in one rename: the point of commitment
//! blobs/sha256/<hex>            configurations; manifests that images came with, and the compressed layers those name
//! blobs/sha256/<hex>.parts      what a compressed layer has beyond its layer, in its place
//! layers/<hex>/layer.erofs      a layer (or layers/<hex>/root/, where the kernel has no EROFS)
//! layers/<hex>/archive.recipe   how its archive comes back, byte for byte
//! layers/<hex>/layer.json       what the layer should be
//! builds/<hex>                  which layer a build's step made, by its cache key
//! tmp/                          work in progress
//! lock                          held by the one process that uses the store
//! ```
//!
//! The index is in memory, so that a container's start reads no list and opens no file twice. Whatever the index does not
//! name does not exist: opening the store removes it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use oci::digest::Digest;
use oci::reference::Reference;
use oci_spec::image::ImageConfiguration;
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use crate::error::ImageError;
use crate::family::Family;
use crate::import::{self, LayerFormat, LayerRecord};
use crate::model::{
    DiskUsage, Force, Image, ImageId, ImportOptions, LayerId, Problem, PruneScope, Pruned, Removed, StoredManifest,
};
use crate::mount::{Layers, Mounts};

pub(crate) mod build;
mod check;
mod family;
mod intake;
pub(crate) mod reduced;
mod sweeper;

pub use intake::{Intake, Keep, LayerRules, NewImage, TakenLayer, layers_of};

/// A store of images on disk, opened by one process. Clones are cheap and share it.
#[derive(Debug, Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    root: PathBuf,
    /// Has ended before the lock is given back.
    sweeper: sweeper::Sweeper,
    /// Holds the lock as long as it is open.
    _lock: File,
    state: Mutex<State>,
    mounts: Mounts,
}

/// What the store has.
#[derive(Debug, Default)]
struct State {
    images: BTreeMap<ImageId, Known>,
    references: BTreeMap<Reference, ImageId>,
    /// The names that stand for more than their image.
    families: BTreeMap<Reference, Family>,
    /// What builds have made and will find again.
    cache: build::Cache,
    /// What no image needs yet.
    held: intake::Held,
}

/// An image in memory.
#[derive(Debug, Clone)]
struct Known {
    layers: Vec<LayerId>,
    size: u64,
    /// The configuration, or what is wrong with it.
    config: Result<ImageConfiguration, String>,
    manifests: Vec<StoredManifest>,
    /// The image that it was made of here.
    parent: Option<ImageId>,
    /// When it last got a name, in milliseconds since 1970.
    tagged_ms: Option<u64>,
}

/// The file `index.json`.
#[derive(Debug, Serialize, Deserialize)]
struct Index {
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

impl Store {
    /// Opens the store in `root`, which is made when it is missing; leftovers of interrupted work are removed.
    ///
    /// # Errors
    /// [`ImageError::Locked`] while another process has it, [`ImageError::DamagedIndex`], [`ImageError::File`].
    pub fn open(root: &Path) -> Result<Self, ImageError> {
        Self::open_with(root, Mounts::default())
    }

    /// As [`Store::open`], but new layers get the given format whatever the kernel can do.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn open_with_format(root: &Path, format: LayerFormat) -> Result<Self, ImageError> {
        Self::open_with(root, Mounts::with_format(format))
    }

    fn open_with(root: &Path, mounts: Mounts) -> Result<Self, ImageError> {
        for folder in ["blobs/sha256", "builds", "layers", "tmp"] {
            let path = root.join(folder);
            fs::create_dir_all(&path).map_err(ImageError::file("create", &path))?;
        }
        let root = fs::canonicalize(root).map_err(ImageError::file("open", root))?;
        // Images have programs that run as root for whoever may reach them.
        fs::set_permissions(&root, fs::Permissions::from_mode(0o700)).map_err(ImageError::file("protect", &root))?;
        let lock_path = root.join("lock");
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock_path)
            .map_err(ImageError::file("open", &lock_path))?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(ImageError::Locked { path: root }),
            Err(errno) => return Err(ImageError::file("lock", &lock_path)(errno.into())),
        }
        let mut state = load(&root)?;
        state.cache = build::Cache::load(&root)?;
        remove_leftovers(&root, &state)?;
        let inner = Inner { root, sweeper: sweeper::Sweeper::default(), _lock: lock, state: Mutex::new(state), mounts };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The store's folder.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.inner.root
    }

    /// Makes an image with one layer from an archive: tar, plain or compressed with gzip or zstd.
    ///
    /// The archive is read once. When anything fails, nothing of it is left.
    ///
    /// # Errors
    /// [`ImageError::Layer`] for what is wrong with the archive or the disk it goes to; [`ImageError::File`].
    pub fn import(&self, reader: impl Read + Send, options: ImportOptions) -> Result<Image, ImageError> {
        let created = options.created.unwrap_or_else(SystemTime::now);
        let work = self.work_folder()?;
        let format = self.inner.mounts.format();
        let record = import::build_layer(reader, work.path(), format, (&options).into())?;
        let record_path = work.path().join("layer.json");
        write_synced(&record_path, &to_json(&record, &record_path)?)?;
        sync_folder(work.path())?;
        let config = import::configuration(&record.diff_id, &options, created)?;
        let mut state = self.state();
        self.keep_layer(work, &record)?;
        let image = self.keep_image(&mut state, config, &record, options);
        if image.is_err() {
            self.drop_unreferenced(&state);
        }
        image
    }

    /// All images, newest first, but for those that are there for another platform of some image's name.
    ///
    /// # Errors
    /// None today; damaged images are left out and reported by [`Store::check`].
    pub fn list(&self) -> Result<Vec<Image>, ImageError> {
        let state = self.state();
        let mut images: Vec<Image> =
            state.images.keys().filter(|id| !state.is_hidden(id)).filter_map(|id| state.image(id).ok()).collect();
        images.sort_by(|a, b| b.created.cmp(&a.created).then_with(|| a.id.cmp(&b.id)));
        Ok(images)
    }

    /// The image with this id (whole or the start of it, with or without `sha256:`) or name.
    ///
    /// # Errors
    /// [`ImageError::NotFound`], [`ImageError::Ambiguous`], [`ImageError::BadName`], [`ImageError::DamagedImage`].
    pub fn get(&self, id_or_reference: &str) -> Result<Image, ImageError> {
        let state = self.state();
        let found = state.resolve(id_or_reference)?;
        state.image(&found.id)
    }

    /// Gives an image a further name, which another image loses when it has it.
    ///
    /// # Errors
    /// [`ImageError::NotFound`], [`ImageError::File`].
    pub fn tag(&self, id: &ImageId, reference: Reference) -> Result<(), ImageError> {
        let reference = reference.tagged();
        let mut state = self.state();
        if !state.images.contains_key(id) {
            return Err(ImageError::NotFound { name: id.to_string() });
        }
        let previous = state.refer(&reference, *id);
        let saved = self.save(&state);
        if saved.is_err() {
            state.restore_reference(&reference, previous);
        }
        saved
    }

    /// Removes a name, and the image with its last name; or an image by its id with all its names.
    ///
    /// `in_use` says whether a container needs the image; it is called while the store is locked and must not call the
    /// store. An image in use loses a name only as long as it has another one, or with [`Force::Yes`].
    ///
    /// # Errors
    /// [`ImageError::InUse`], [`ImageError::SeveralNames`], and those of [`Store::get`].
    pub fn remove(
        &self,
        id_or_reference: &str,
        in_use: &dyn Fn(&ImageId) -> bool,
        force: Force,
    ) -> Result<Vec<Removed>, ImageError> {
        let mut state = self.state();
        let Resolved { id, reference } = state.resolve(id_or_reference)?;
        let names = state.names(&id);
        let used = in_use(&id);
        let in_use_error = || ImageError::InUse { name: id_or_reference.to_owned() };
        let (untag, delete) = match reference {
            Some(reference) if names.len() > 1 => (vec![reference], false),
            Some(_) if used && force == Force::No => return Err(in_use_error()),
            Some(reference) => (vec![reference], !used),
            None if used => return Err(in_use_error()),
            None if names.len() > 1 && force == Force::No => {
                return Err(ImageError::SeveralNames { id, count: names.len() });
            }
            None => (names, true),
        };
        let members = state.members(&untag);
        let mut removed = self.forget(&mut state, &id, untag, delete)?;
        removed.extend(self.forget_members(&mut state, members, in_use)?);
        Ok(removed)
    }

    /// Removes images that nobody needs, as far as they are `wanted`, which is asked with nothing for an image that is
    /// damaged. `in_use` as for [`Store::remove`].
    ///
    /// # Errors
    /// [`ImageError::File`]; what was removed before it stays removed.
    pub fn prune(
        &self,
        in_use: &dyn Fn(&ImageId) -> bool,
        scope: PruneScope,
        wanted: &dyn Fn(Option<&Image>) -> bool,
    ) -> Result<Pruned, ImageError> {
        let mut state = self.state();
        let before = self.usage(&state);
        let mut pruned = Pruned::default();
        let ids: Vec<ImageId> = state.images.keys().cloned().collect();
        for id in ids {
            let names = state.names(&id);
            let named = scope == PruneScope::Dangling && !names.is_empty();
            // members of families go with their names
            let gone = !state.images.contains_key(&id) || state.is_hidden(&id);
            if gone || in_use(&id) || named || !wanted(state.image(&id).ok().as_ref()) {
                continue;
            }
            let members = state.members(&names);
            pruned.removed.extend(self.forget(&mut state, &id, names, true)?);
            pruned.removed.extend(self.forget_members(&mut state, members, in_use)?);
        }
        let after = self.usage(&state);
        let total = |usage: DiskUsage| usage.layer_bytes + usage.blob_bytes;
        pruned.reclaimed_bytes = total(before).saturating_sub(total(after));
        Ok(pruned)
    }

    /// The image's layers as detached mounts, topmost first. Layers that are mounted already are shared.
    ///
    /// # Errors
    /// [`ImageError::DamagedLayer`], [`ImageError::Mount`].
    pub fn mount_layers(&self, image: &Image) -> Result<Layers, ImageError> {
        self.inner.mounts.mount(&self.inner.root, &image.layers, &image.id.to_string())
    }

    /// Reads everything again and compares it with its digests.
    ///
    /// # Errors
    /// [`ImageError::File`] when the store cannot be read at all; what is merely wrong is in the list.
    pub fn check(&self) -> Result<Vec<Problem>, ImageError> {
        let (images, layers) = {
            let state = self.state();
            (state.images.clone(), state.all_layers())
        };
        Ok(check::check(&self.inner.root, &images, &layers))
    }

    /// What the store takes on disk.
    ///
    /// # Errors
    /// None today.
    pub fn disk_usage(&self) -> Result<DiskUsage, ImageError> {
        Ok(self.usage(&self.state()))
    }

    /// A folder on the store's file system for work in progress. It goes when it is dropped, and when the store is opened
    /// again after the process was killed.
    ///
    /// # Errors
    /// [`ImageError::File`].
    pub fn work_folder(&self) -> Result<tempfile::TempDir, ImageError> {
        let path = self.inner.root.join("tmp");
        tempfile::Builder::new()
            .prefix("work-")
            .tempdir_in(&path)
            .map_err(ImageError::file("create a folder in", &path))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change is put back when it fails, so that a panic elsewhere leaves nothing half done.
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Moves a finished layer to its place unless it is there already.
    fn keep_layer(&self, work: tempfile::TempDir, record: &LayerRecord) -> Result<(), ImageError> {
        let path = layer_folder(&self.inner.root, &record.diff_id);
        if path.is_dir() && layer_looks_good(&path, record) {
            return Ok(());
        }
        if path.exists() {
            self.discard(&path)?;
        }
        self.inner.mounts.forget(&record.diff_id);
        let from = work.keep();
        if let Err(error) = fs::rename(&from, &path) {
            drop(fs::remove_dir_all(&from));
            return Err(ImageError::file("move the new layer to", &path)(error));
        }
        sync_folder(&self.inner.root.join("layers"))
    }

    fn keep_image(
        &self,
        state: &mut State,
        config: ImageConfiguration,
        layer: &LayerRecord,
        options: ImportOptions,
    ) -> Result<Image, ImageError> {
        let bytes = options.changes.beside(canonical_json(&config)?);
        let bytes = bytes.map_err(|error| ImageError::Config(oci_spec::OciSpecError::SerDe(error)))?;
        let layers = vec![layer.diff_id];
        let known = Known {
            layers,
            size: layer.size,
            config: Ok(config),
            manifests: Vec::new(),
            parent: None,
            tagged_ms: None,
        };
        self.keep_config(state, &bytes, known, options.reference)
    }

    /// Keeps an image whose configuration has these very bytes.
    fn keep_config(
        &self,
        state: &mut State,
        bytes: &[u8],
        mut known: Known,
        reference: Option<Reference>,
    ) -> Result<Image, ImageError> {
        let id = ImageId(Digest::of(bytes));
        let path = blob_path(&self.inner.root, &id.0);
        if fs::read(&path).ok().as_deref() != Some(bytes) {
            let temporary = self.work_folder()?;
            let staged = temporary.path().join("blob");
            write_synced(&staged, bytes)?;
            fs::rename(&staged, &path).map_err(ImageError::file("write", &path))?;
            sync_folder(&self.inner.root.join("blobs/sha256"))?;
        }
        if let Some(old) = state.images.get(&id) {
            let new = std::mem::replace(&mut known.manifests, old.manifests.clone());
            new.into_iter().for_each(|manifest| intake::merge(&mut known.manifests, manifest));
            known.parent = known.parent.or(old.parent);
            known.tagged_ms = old.tagged_ms;
        }
        let previous_image = state.images.insert(id, known);
        let reference = reference.map(Reference::tagged);
        let previous = reference.as_ref().map(|reference| (reference, state.refer(reference, id)));
        if let Err(error) = self.save(state) {
            if let Some((reference, previous)) = previous {
                state.restore_reference(reference, previous);
            }
            match previous_image {
                Some(image) => drop(state.images.insert(id, image)),
                None => drop(state.images.remove(&id)),
            }
            return Err(error);
        }
        state.image(&id)
    }

    /// Takes names and perhaps the image itself out of the index, and then its files.
    fn forget(
        &self,
        state: &mut State,
        id: &ImageId,
        names: Vec<Reference>,
        delete: bool,
    ) -> Result<Vec<Removed>, ImageError> {
        let mut families = Vec::new();
        for name in &names {
            state.references.remove(name);
            families.extend(state.families.remove(name).map(|family| (name.clone(), family)));
        }
        let pinned = state.images.get(id).map(|known| known.manifests.clone()).unwrap_or_default();
        state.unpin(id, &names);
        let image = if delete { state.images.remove(id) } else { None };
        if let Err(error) = self.save(state) {
            state.references.extend(names.into_iter().map(|name| (name, *id)));
            state.families.extend(families);
            if let Some(known) = state.images.get_mut(id) {
                known.manifests = pinned;
            }
            state.images.extend(image.map(|image| (*id, image)));
            return Err(error);
        }
        let deleted = image.is_some();
        if deleted {
            self.drop_unreferenced(state);
        }
        let untagged = names.into_iter().map(Removed::Untagged);
        Ok(untagged.chain(deleted.then_some(Removed::Deleted(*id))).collect())
    }

    /// Removes files that the index no longer names. What cannot be removed now goes when the store is opened again.
    fn drop_unreferenced(&self, state: &State) {
        let mut layers = state.all_layers();
        layers.extend(state.held.layers.keys());
        let mut blobs = state.all_blobs();
        blobs.extend(state.held.blobs.keys());
        for (folder, keep) in
            [("layers", hexes(layers.iter().map(|layer| &layer.0))), ("blobs/sha256", hexes(blobs.iter()))]
        {
            for entry in fs::read_dir(self.inner.root.join(folder)).into_iter().flatten().flatten() {
                if !reduced::blob_name(&entry.file_name()).is_some_and(|name| keep.contains(name)) {
                    drop(self.discard(&entry.path()));
                }
            }
        }
        self.inner.mounts.retain(&layers);
    }

    /// Moves something out of sight in one step; its space comes back soon.
    fn discard(&self, path: &Path) -> Result<(), ImageError> {
        let work = self.work_folder()?;
        let to = work.path().join("old");
        fs::rename(path, &to).map_err(ImageError::file("remove", path))?;
        self.inner.sweeper.remove(work);
        Ok(())
    }

    fn save(&self, state: &State) -> Result<(), ImageError> {
        let path = self.inner.root.join("index.json");
        let index = Index {
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
        };
        let work = self.work_folder()?;
        let staged = work.path().join("index.json");
        write_synced(&staged, &to_json(&index, &path)?)?;
        fs::rename(&staged, &path).map_err(ImageError::file("write", &path))?;
        sync_folder(&self.inner.root)
    }

    fn usage(&self, state: &State) -> DiskUsage {
        let layers = state.all_layers();
        let size = |layer: &LayerId| {
            import_record(&self.inner.root, layer).map_or(0, |record| record.size + record.recipe_size)
        };
        let blob = |digest: &Digest| reduced::disk_bytes(&self.inner.root, digest);
        DiskUsage {
            images: state.images.len(),
            layers: layers.len(),
            layer_bytes: layers.iter().map(size).sum(),
            blob_bytes: state.all_blobs().iter().map(blob).sum(),
        }
    }
}

/// What a name led to.
struct Resolved {
    id: ImageId,
    /// The name, when it was one and not an id.
    reference: Option<Reference>,
}

impl State {
    fn names(&self, id: &ImageId) -> Vec<Reference> {
        self.references.iter().filter(|(_, of)| *of == id).map(|(reference, _)| reference.clone()).collect()
    }

    fn all_layers(&self) -> BTreeSet<LayerId> {
        let images = self.images.values().flat_map(|known| known.layers.iter().copied());
        images.chain(self.cache.layers()).collect()
    }

    /// Every blob that an image needs: configurations, manifests, compressed layers.
    fn all_blobs(&self) -> BTreeSet<Digest> {
        let of_manifest = |manifest: &StoredManifest| {
            let names = manifest.names.iter().map(|name| name.digest);
            names.chain(manifest.blobs.iter().copied()).chain([manifest.digest]).collect::<Vec<_>>()
        };
        let manifests = self.images.values().flat_map(|known| known.manifests.iter().flat_map(of_manifest));
        let members = self.families.values().flat_map(|family| &family.members);
        let attested = members.flat_map(|member| member.predicates.iter().map(|predicate| predicate.blob));
        self.images.keys().map(|id| id.0).chain(manifests).chain(attested).collect()
    }

    /// Takes the digests away that an image has in repositories where it lost its last tag.
    fn unpin(&mut self, id: &ImageId, names: &[Reference]) {
        for repository in names.iter().map(Reference::repository) {
            let tagged = self.references.iter().any(|(name, of)| of == id && name.repository() == repository);
            if let Some(known) = self.images.get_mut(id).filter(|_| !tagged) {
                for manifest in &mut known.manifests {
                    manifest.names.retain(|name| name.repository != repository);
                }
            }
        }
    }

    /// Has a name stand for an image; for what it stood before is given back.
    fn refer(&mut self, reference: &Reference, id: ImageId) -> (Option<ImageId>, Option<Family>) {
        self.tagged(&id);
        (self.references.insert(reference.clone(), id), self.families.remove(reference))
    }

    /// An image gets a name now.
    fn tagged(&mut self, id: &ImageId) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).ok();
        if let Some(known) = self.images.get_mut(id) {
            known.tagged_ms = now.and_then(|now| u64::try_from(now.as_millis()).ok());
        }
    }

    fn restore_reference(&mut self, reference: &Reference, (image, family): (Option<ImageId>, Option<Family>)) {
        match image {
            Some(id) => drop(self.references.insert(reference.clone(), id)),
            None => drop(self.references.remove(reference)),
        }
        self.families.extend(family.map(|family| (reference.clone(), family)));
    }

    fn image(&self, id: &ImageId) -> Result<Image, ImageError> {
        let known = self.images.get(id).ok_or_else(|| ImageError::NotFound { name: id.to_string() })?;
        let config = known.config.clone().map_err(|reason| ImageError::DamagedImage { id: *id, reason })?;
        let created = import::parse_rfc3339(config.created().as_deref());
        Ok(Image {
            id: *id,
            references: self.names(id),
            config,
            layers: known.layers.clone(),
            size_bytes: known.size,
            created,
            manifests: known.manifests.clone(),
            parent: known.parent.filter(|parent| self.images.contains_key(parent)),
            tagged: known.tagged_ms.map(|millis| UNIX_EPOCH + Duration::from_millis(millis)),
        })
    }

    fn resolve(&self, name: &str) -> Result<Resolved, ImageError> {
        let not_found = || ImageError::NotFound { name: name.to_owned() };
        let hex = name.strip_prefix("sha256:").unwrap_or(name);
        let is_hex = !hex.is_empty() && hex.len() <= 64 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if name.len() != hex.len() || hex.len() == 64 {
            return if is_hex { self.by_prefix(hex, name)?.ok_or_else(not_found) } else { Err(not_found()) };
        }
        let parsed: Result<Reference, _> = name.parse().map(Reference::tagged);
        if let Ok(reference) = &parsed {
            if let Some(id) = self.references.get(reference) {
                return Ok(Resolved { id: *id, reference: Some(reference.clone()) });
            }
            if let Some(digest) = reference.digest()
                && let Some(id) = self.pinned(&reference.repository(), &digest)
            {
                return Ok(Resolved { id, reference: None });
            }
            let by_digest = reference.digest().map(ImageId);
            if let Some(id) = by_digest.filter(|id| self.images.contains_key(id)) {
                return Ok(Resolved { id, reference: None });
            }
        }
        if is_hex && let Some(found) = self.by_prefix(hex, name)? {
            return Ok(found);
        }
        match parsed {
            Ok(_) => Err(not_found()),
            Err(source) => Err(ImageError::BadName { name: name.to_owned(), source }),
        }
    }

    /// The image that a repository has under a manifest's digest.
    fn pinned(&self, repository: &str, digest: &Digest) -> Option<ImageId> {
        let names = |known: &Known| {
            let mut names = known.manifests.iter().flat_map(|manifest| &manifest.names);
            names.any(|name| name.repository == repository && name.digest == *digest)
        };
        let mut known = self.images.iter().filter(|(_, known)| names(known)).map(|(id, _)| *id).collect::<Vec<_>>();
        // the digest may be that of an index, of which there are images for other platforms
        known.sort_by_key(|id| !self.references.values().any(|of| of == id));
        known.first().copied()
    }

    fn by_prefix(&self, hex: &str, name: &str) -> Result<Option<Resolved>, ImageError> {
        let mut fitting = self.images.keys().filter(|id| id.0.hex().starts_with(hex));
        let Some(first) = fitting.next() else { return Ok(None) };
        match fitting.count() {
            0 => Ok(Some(Resolved { id: *first, reference: None })),
            more => Err(ImageError::Ambiguous { prefix: name.to_owned(), count: more + 1 }),
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

fn blob_path(root: &Path, digest: &Digest) -> PathBuf {
    root.join("blobs/sha256").join(digest.hex())
}

fn hexes<'a>(digests: impl Iterator<Item = &'a Digest>) -> BTreeSet<String> {
    digests.map(|digest| digest.hex()).collect()
}

/// Whether a layer that is there already can stand for the one just made.
fn layer_looks_good(folder: &Path, record: &LayerRecord) -> bool {
    let Ok(bytes) = fs::read(folder.join("layer.json")) else { return false };
    let Ok(existing) = serde_json::from_slice::<LayerRecord>(&bytes) else { return false };
    let file = folder.join(existing.format.file_name());
    let there = match existing.format {
        LayerFormat::Erofs => fs::metadata(&file).is_ok_and(|stat| stat.len() == existing.size),
        LayerFormat::Directory => file.is_dir(),
    };
    there && existing == *record
}

fn load(root: &Path) -> Result<State, ImageError> {
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
fn load_config(root: &Path, id: &ImageId) -> Result<ImageConfiguration, String> {
    let bytes =
        fs::read(blob_path(root, &id.0)).map_err(|error| format!("its configuration cannot be read ({error})"))?;
    if Digest::of(&bytes) != id.0 {
        return Err("its configuration does not have the digest that its id says".to_owned());
    }
    crate::config::read_configuration(&bytes).map_err(|error| format!("its configuration makes no sense ({error})"))
}

fn remove_leftovers(root: &Path, state: &State) -> Result<(), ImageError> {
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

fn to_json<T: Serialize>(value: &T, path: &Path) -> Result<Vec<u8>, ImageError> {
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

fn write_synced(path: &Path, bytes: &[u8]) -> Result<(), ImageError> {
    let write = || {
        let mut file = File::create_new(path)?;
        file.write_all(bytes)?;
        file.sync_data()
    };
    write().map_err(ImageError::file("write", path))
}

fn sync_folder(path: &Path) -> Result<(), ImageError> {
    File::open(path).and_then(|folder| folder.sync_all()).map_err(ImageError::file("write to disk", path))
}
