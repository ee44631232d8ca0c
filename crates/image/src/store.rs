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

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use oci::digest::Digest;
use oci::reference::Reference;
use oci_spec::image::ImageConfiguration;
use rustix::fs::FlockOperation;

use crate::error::ImageError;
use crate::import::{self, LayerFormat, LayerRecord};
use crate::model::{DiskUsage, Force, Image, ImageId, ImportOptions, LayerId, Problem, PruneScope, Pruned, Removed};
use crate::mount::{Layers, Mounts};

pub(crate) mod build;
mod check;
mod family;
mod files;
mod intake;
pub(crate) mod reduced;
mod state;
mod sweeper;

pub(crate) use files::{canonical_json, import_record, layer_folder};
pub use intake::{Intake, Keep, LayerRules, NewImage, TakenLayer, layers_of};

use files::{
    Index, blob_path, hexes, layer_looks_good, load, load_config, remove_leftovers, sync_folder, to_json, write_synced,
};
use state::{Known, Resolved, State};

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
        let index = Index::of(state);
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
