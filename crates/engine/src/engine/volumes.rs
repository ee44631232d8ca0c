//! Volumes: folders that outlive containers.
//!
//! What is mounted for a volume follows from the records of containers: it is there while one that runs has the volume, so that a
//! daemon that was killed finds its way back by looking.

use super::Engine;
use super::inner::{Inner, VOLUMES, lock};
use crate::build::tree::Tree;
use crate::error::{EngineError, Result};
use crate::model::{Container, ContainerId, Event, EventKind, Mount, MountKind, Phase, Propagation, VolumeMount};
use crate::volume::{self, Claim, LocalOptions, NewVolume, Ready, Volume};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::Path;
use std::sync::{Arc, PoisonError};
use store::Txn;

/// The files of the images that a container mounts, by the mounts' targets.
pub(crate) type ImageMounts = BTreeMap<String, Tree>;

/// What removed volumes are called until they are deleted.
const REMOVED: &str = ".removed-";

/// The volumes of a new container.
#[derive(Debug, Default)]
pub(super) struct Attached {
    pub(super) volumes: Vec<VolumeMount>,
    pub(super) anonymous: Vec<String>,
    /// Held until the container's record says that it has them.
    pub(super) claims: Vec<Claim>,
}

impl Engine {
    /// All volumes, by name.
    #[must_use]
    pub fn volumes(&self) -> Vec<Volume> {
        self.inner.volumes()
    }

    /// A volume by name.
    ///
    /// # Errors
    /// [`crate::ErrorClass::NotFound`].
    pub fn volume(&self, name: &str) -> Result<Volume> {
        self.inner.existing(name)
    }

    /// Makes a volume, or gives the one that has the name already.
    ///
    /// # Errors
    /// [`crate::ErrorClass::Invalid`] for a wrong name or option, or a size that cannot be limited here.
    pub async fn create_volume(&self, new: NewVolume) -> Result<Volume> {
        self.blocking(move |inner| {
            let _claim = new.name.as_deref().map(|name| inner.claims.claim(name));
            inner.ensure_volume(new)
        })
        .await
    }

    /// Removes a volume that no container has.
    ///
    /// # Errors
    /// [`crate::ErrorClass::Conflict`] if one has it, [`crate::ErrorClass::NotFound`].
    pub async fn remove_volume(&self, name: &str) -> Result<()> {
        let volume = self.volume(name)?;
        self.blocking(move |inner| inner.remove_volume(&volume.name)).await
    }

    /// The lengths of all files of some volumes, in bytes, in the same order.
    ///
    /// # Errors
    /// If the daemon ends meanwhile.
    pub async fn volume_lengths(&self, volumes: &[Volume]) -> Result<Vec<u64>> {
        let paths: Vec<_> = volumes.iter().map(|volume| volume.path.clone()).collect();
        self.blocking(move |_| Ok(paths.iter().map(|path| volume::length(path)).collect())).await
    }

    /// Tells that volumes were pruned, and how many bytes that gave back.
    pub fn volumes_pruned(&self, bytes: u64) {
        let words = BTreeMap::from([("reclaimed".to_owned(), bytes.to_string())]);
        self.inner.store_event(self.inner.events.event(EventKind::Volume, "prune", "", words));
    }

    /// Writes a volume as a tar archive; `out` is written on a thread of its own.
    ///
    /// # Errors
    /// [`crate::ErrorClass::NotFound`], before anything is written; or what reading and writing say.
    pub async fn backup_volume(&self, name: &str, out: impl Write + Send + 'static) -> Result<()> {
        let name = name.to_owned();
        self.blocking(move |inner| {
            let claim = inner.claims.claim(&name);
            let volume = inner.existing(&name)?;
            inner.mount_volume(&volume)?;
            let done = volume::backup(&volume, out);
            drop(claim);
            inner.unmount_if_idle(&volume);
            done
        })
        .await
    }

    /// Replaces a volume's content by that of an archive, all at once, or leaves it as it is. A volume that is not there is made.
    ///
    /// # Errors
    /// [`crate::ErrorClass::Conflict`] while a container that runs has it, [`crate::ErrorClass::Invalid`] for a damaged archive.
    pub async fn restore_volume(&self, name: &str, archive: Box<dyn Read + Send>) -> Result<Volume> {
        let new = NewVolume { name: Some(name.to_owned()), ..NewVolume::default() };
        self.blocking(move |inner| {
            let name = new.name.clone().unwrap_or_default();
            let fresh = inner.volume(&name).is_none();
            let busy = || {
                let running = inner.users(&name, Container::is_alive);
                EngineError::conflict(format!(
                    "restore {name}: volume is in use - [{}]; stop what runs with it first",
                    running.join(", ")
                ))
            };
            let volume = inner.ensure_volume(new)?;
            let owned = inner.claims.own_idle(&name).ok_or_else(busy)?;
            let done = if inner.users(&name, Container::is_alive).is_empty() {
                inner.mount_volume_owned(&volume).and_then(|()| volume::restore(&volume, archive))
            } else {
                Err(busy())
            };
            drop(owned);
            inner.unmount_if_idle(&volume);
            if let Err(error) = done {
                if fresh {
                    let _ = inner.remove_volume(&name);
                }
                return Err(error);
            }
            Ok(volume)
        })
        .await
    }
}

impl Inner {
    pub(crate) fn volumes(&self) -> Vec<Volume> {
        self.store.range(VOLUMES).iter().filter_map(|entry| serde_json::from_slice(&entry.value).ok()).collect()
    }

    fn volume(&self, name: &str) -> Option<Volume> {
        let entry = self.store.get(&format!("{VOLUMES}{name}"))?;
        serde_json::from_slice(&entry.value).ok()
    }

    fn existing(&self, name: &str) -> Result<Volume> {
        self.volume(name).ok_or_else(|| EngineError::not_found(format!("get {name}: no such volume")))
    }

    /// The ids of the containers that have a volume and are what `like` asks.
    fn users(&self, name: &str, like: impl Fn(&Container) -> bool) -> Vec<String> {
        let registry = self.registry.read().unwrap_or_else(PoisonError::into_inner);
        let all = registry.by_id.values().map(|slot| &slot.container);
        let having = all.filter(|container| container.volumes.iter().any(|volume| volume.name == name));
        having.filter(|container| like(container)).map(|container| container.id.to_string()).collect()
    }

    /// The volume of that name, made if it is not there. A made-up name cannot be taken; another one is claimed by the caller.
    fn ensure_volume(&self, new: NewVolume) -> Result<Volume> {
        self.ensure_volume_for(None, new)
    }

    fn ensure_volume_for(&self, made_for: Option<&ContainerId>, new: NewVolume) -> Result<Volume> {
        let given = new.name.filter(|name| !name.is_empty());
        if let Some(name) = &given {
            volume::check_name(name)?;
            if let Some(volume) = self.volume(name) {
                return Ok(volume);
            }
        }
        let options = LocalOptions::parse(&new.options)?;
        let anonymous = given.is_none();
        let name = given.map_or_else(random_name, Ok)?;
        let home = self.config.volumes().join(&name);
        let failed = |error: std::io::Error| EngineError::internal(format!("cannot make volume {name}"), &error);
        // one at a time, so that no name is made twice and no project counts for two
        let _making = lock(&self.making_volumes);
        if let Some(volume) = self.volume(&name) {
            return Ok(volume);
        }
        std::fs::create_dir_all(&home).map_err(failed)?;
        let project = options.limit(&home, self.volumes().iter().filter_map(|volume| volume.project));
        let project = project.inspect_err(|_| drop(std::fs::remove_dir(&home)))?;
        std::fs::create_dir_all(home.join("_data")).map_err(failed)?;
        let volume = Volume {
            name,
            path: home.join("_data"),
            created_ns: crate::clock::now_ns(),
            labels: new.labels,
            options: new.options,
            anonymous,
            made_for: made_for.filter(|_| anonymous).cloned(),
            project,
        };
        self.commit(self.recorded(&volume)?)?;
        self.tell_of(&volume.name, "create");
        Ok(volume)
    }

    fn recorded(&self, volume: &Volume) -> Result<Txn> {
        Ok(Txn::new().put(format!("{VOLUMES}{}", volume.name), record(volume)?))
    }

    /// Adds what the records of volumes become that stay when their container goes.
    pub(super) fn with_volumes_left(&self, mut txn: Txn, container: &Container) -> Result<Txn> {
        for volume in container.anonymous_volumes.iter().filter_map(|name| self.volume(name)) {
            let json = record(&Volume { made_for: None, ..volume.clone() })?;
            txn = txn.put(format!("{VOLUMES}{}", volume.name), json);
        }
        Ok(txn)
    }

    fn tell_of(&self, name: &str, action: &str) {
        let words = BTreeMap::from([("driver".into(), "local".into())]);
        self.store_event(self.events.event(EventKind::Volume, action, name, words));
    }

    /// Makes the volumes that a new container asks for, and fills those that are new with what its image has there. If that
    /// fails, the ones without a name are gone again.
    pub(super) fn attach_volumes(&self, id: &ContainerId, mounts: &[Mount], image: &image::Image) -> Result<Attached> {
        let mut attached = Attached::default();
        for mount in mounts {
            if let Err(error) = self.attach_volume(id, mount, image, &mut attached) {
                attached.claims.clear();
                for name in &attached.anonymous {
                    let _ = self.remove_volume(name);
                }
                return Err(error);
            }
        }
        Ok(attached)
    }

    fn attach_volume(
        &self,
        id: &ContainerId,
        mount: &Mount,
        image: &image::Image,
        attached: &mut Attached,
    ) -> Result<()> {
        let MountKind::Volume { name, no_copy, subpath, labels, options } = &mount.kind else { return Ok(()) };
        let new = NewVolume { name: name.clone(), labels: labels.clone(), options: options.clone() };
        attached.claims.extend(name.as_deref().map(|name| self.claims.claim(name)));
        let volume = self.ensure_volume_for(Some(id), new)?;
        if name.is_none() {
            attached.anonymous.push(volume.name.clone());
            attached.claims.push(self.claims.claim(&volume.name));
        }
        if !no_copy && subpath.is_none() {
            let filled = self.fill(&volume, image, &mount.target);
            self.unmount_if_idle(&volume);
            filled?;
        }
        attached.volumes.push(VolumeMount {
            name: volume.name,
            source: volume.path.to_string_lossy().into_owned(),
            target: mount.target.clone(),
            read_only: mount.read_only,
        });
        Ok(())
    }

    fn fill(&self, volume: &Volume, image: &image::Image, target: &str) -> Result<()> {
        use crate::volume::Seen;
        let _owned = self.claims.own(&volume.name);
        self.mount_volume_owned(volume)?;
        if !volume::is_empty(&volume.path).unwrap_or(true) {
            return Ok(());
        }
        let files = Tree::open(self, &image.layers, &image.id.to_string())?;
        let alone = !volume.is_mount() && self.users(&volume.name, Container::is_alive).is_empty();
        volume::fill(volume, files.root(), target, if alone { Seen::No } else { Seen::Yes })
    }

    /// Brings what a volume's options name to its place, if it is not there yet.
    fn mount_volume(&self, volume: &Volume) -> Result<()> {
        if !volume.is_mount() {
            return Ok(());
        }
        let _owned = self.claims.own(&volume.name);
        self.mount_volume_owned(volume)
    }

    fn mount_volume_owned(&self, volume: &Volume) -> Result<()> {
        if !volume.is_mount() || volume::is_mounted(volume) {
            return Ok(());
        }
        LocalOptions::parse(&volume.options)?.mount(volume)
    }

    /// Takes it away again when nobody needs it.
    fn unmount_if_idle(&self, volume: &Volume) {
        if !volume.is_mount() {
            return;
        }
        let _owned = self.claims.own(&volume.name);
        let claims = self.claims.count(&volume.name);
        // a creation may claim it for itself and be here with that
        if claims > 1 || !self.users(&volume.name, Container::is_alive).is_empty() || !volume::is_mounted(volume) {
            return;
        }
        if let Err(error) = volume::unmount(volume) {
            tracing::warn!(volume = volume.name, %error, "a volume stays mounted");
        }
    }

    /// Before a start: sources that are made on demand, what volumes' options name, parts of volumes, images' files.
    pub(crate) async fn ready_mounts(self: &Arc<Self>, container: &Container) -> Result<Ready> {
        let quick = container.spec.mounts.iter().all(|mount| match &mount.kind {
            MountKind::Bind { create_source, propagation, .. } => {
                !create_source && matches!(propagation, Propagation::Rprivate)
            }
            MountKind::Tmpfs { .. } => true,
            MountKind::Volume { .. } | MountKind::Image { .. } => false,
        });
        if quick {
            return Ok(Ready::default());
        }
        let (inner, container) = (Arc::clone(self), container.clone());
        let done = tokio::task::spawn_blocking(move || inner.ready_all(&container)).await;
        done.map_err(|error| EngineError::internal("the work was cut short", &error))?
    }

    fn ready_all(&self, container: &Container) -> Result<Ready> {
        let mut ready = Ready::default();
        for (number, mount) in container.spec.mounts.iter().enumerate() {
            match &mount.kind {
                MountKind::Bind { source, create_source, propagation, .. } => {
                    if *create_source && std::fs::symlink_metadata(source).is_err() {
                        std::fs::create_dir_all(source).map_err(|error| {
                            EngineError::internal(format!("error while creating mount source path '{source}'"), &error)
                        })?;
                    }
                    let slave = matches!(propagation, Propagation::Rslave);
                    // what nobody asked for is not missed either: there a slave of a private mount is private
                    if !(slave && crate::plan::mounts::concerns(Path::new(source), &self.config.root)) {
                        volume::check_propagation(Path::new(source), *propagation)?;
                    }
                }
                MountKind::Volume { subpath, .. } => {
                    self.ready_volume(container, mount, subpath.as_deref(), &mut ready)?
                }
                MountKind::Image { image, subpath } => {
                    let image = self.images.get(image).map_err(|error| super::images::missing(image, error))?;
                    let files = Tree::open(self, &image.layers, &image.id.to_string())?;
                    let place = self.config.paths(&container.id).runtime.join(format!("image-{number}"));
                    ready.place(&mount.target, files.root(), &place, subpath.as_deref().unwrap_or_default())?;
                }
                MountKind::Tmpfs { .. } => {}
            }
        }
        self.tell_of_mounts(container, "mount");
        Ok(ready)
    }

    /// For whoever looks into a container that does not run: what its volumes' options name is mounted, and the images among its mounts
    /// are opened. Blocks.
    pub(crate) fn ready_for_copy(&self, container: &Container) -> Result<ImageMounts> {
        for used in &container.volumes {
            self.mount_volume(&self.existing(&used.name)?)?;
        }
        let mut images = ImageMounts::new();
        for mount in &container.spec.mounts {
            if let MountKind::Image { image, .. } = &mount.kind {
                let image = self.images.get(image).map_err(|error| super::images::missing(image, error))?;
                images.insert(mount.target.clone(), Tree::open(self, &image.layers, &image.id.to_string())?);
            }
        }
        Ok(images)
    }

    fn ready_volume(
        &self,
        container: &Container,
        mount: &Mount,
        subpath: Option<&str>,
        ready: &mut Ready,
    ) -> Result<()> {
        let Some(used) = container.volumes.iter().find(|volume| volume.target == mount.target) else { return Ok(()) };
        let volume = self.existing(&used.name)?;
        self.mount_volume(&volume)?;
        if let Some(subpath) = subpath.filter(|subpath| !subpath.is_empty()) {
            ready.add(&mount.target, volume::within(&volume.path, subpath)?);
        }
        Ok(())
    }

    /// After a container's end: what was mounted for its volumes goes, if nobody else needs it.
    pub(crate) fn release_mounts(self: &Arc<Self>, container: &Container) {
        if container.volumes.is_empty() {
            return;
        }
        let (inner, container) = (Arc::clone(self), container.clone());
        // not on a thread that others wait for: a server may be out of reach
        tokio::task::spawn_blocking(move || {
            for used in &container.volumes {
                if let Some(volume) = inner.volume(&used.name) {
                    inner.unmount_if_idle(&volume);
                }
            }
            inner.tell_of_mounts(&container, "unmount");
        });
    }

    fn tell_of_mounts(&self, container: &Container, action: &str) {
        let event = |used: &VolumeMount| {
            let mut words: BTreeMap<String, String> =
                BTreeMap::from([("container".into(), container.id.to_string()), ("driver".into(), "local".into())]);
            if action == "mount" {
                words.insert("destination".into(), used.target.clone());
                words.insert("read/write".into(), (!used.read_only).to_string());
                words.insert("propagation".into(), String::new());
            }
            self.events.event(EventKind::Volume, action, &used.name, words)
        };
        let events: Vec<Event> = container.volumes.iter().map(event).collect();
        if events.is_empty() {
            return;
        }
        if let Err(error) = self.store_change(None, &events) {
            tracing::error!(%error, "cannot store an event");
        }
        events.into_iter().for_each(|event| self.events.publish(event));
    }

    /// Removes a volume that nobody has or works on. Its files are deleted a moment later.
    pub(crate) fn remove_volume(&self, name: &str) -> Result<()> {
        let in_use =
            |ids: &[String]| EngineError::conflict(format!("remove {name}: volume is in use - [{}]", ids.join(", ")));
        let Some(_owned) = self.claims.own_idle(name) else { return Err(in_use(&[])) };
        let users = self.users(name, |container| container.phase != Phase::Removing);
        if !users.is_empty() {
            return Err(in_use(&users));
        }
        let Some(volume) = self.volume(name) else { return Ok(()) };
        let failed =
            |error: &dyn std::error::Error| EngineError::internal(format!("cannot delete volume {name}"), error);
        if volume::is_mounted(&volume) {
            volume::unmount(&volume).map_err(|error| failed(&error))?;
        }
        if let Some(project) = volume.project {
            volume::lift_limit(volume.home(), project);
        }
        // aside before it is forgotten: what is there without a record is somebody's data, what is called so is nobody's
        let aside = self.config.volumes().join(format!("{REMOVED}{}", random_name()?));
        match std::fs::rename(volume.home(), &aside) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(&error)),
            _ => {}
        }
        self.commit(Txn::new().delete(format!("{VOLUMES}{name}")))?;
        self.tell_of(name, "destroy");
        sweep(aside);
        Ok(())
    }

    /// At the start: finishes removals that were cut short, finds volumes whose record is lost, and takes away mounts that nobody
    /// needs any more.
    pub(super) fn recover_volumes(&self) {
        for volume in self.volumes() {
            let _ = crate::sweep::folder(&volume.home().join(".fresh"));
            self.unmount_if_idle(&volume);
            if volume.made_for.as_ref().is_some_and(|id| self.container(id.as_str()).is_err()) {
                tracing::info!(volume = volume.name, "removing what an interrupted creation left");
                if let Err(error) = self.remove_volume(&volume.name) {
                    tracing::warn!(volume = volume.name, %error, "cannot remove a volume");
                }
            }
        }
        let Ok(entries) = std::fs::read_dir(self.config.volumes()) else { return };
        let (mut removed, mut unknown) = (Vec::new(), Vec::new());
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with(REMOVED) {
                removed.push(entry.path());
            } else if self.volume(&name).is_none() && !is_unused(&entry.path(), &name) {
                unknown.push(name);
            }
        }
        if !removed.is_empty() {
            for volume in self.volumes().iter().filter(|volume| !volume.home().exists()) {
                tracing::info!(volume = volume.name, "finishing an interrupted removal");
                if let Err(error) = self.remove_volume(&volume.name) {
                    tracing::warn!(volume = volume.name, %error, "cannot finish an interrupted removal");
                }
            }
        }
        removed.into_iter().for_each(sweep);
        for name in unknown.into_iter().filter(|name| volume::check_name(name).is_ok()) {
            tracing::warn!(volume = name, "a volume's folder has no record; it gets one");
            if let Err(error) = self.ensure_volume(NewVolume { name: Some(name), ..NewVolume::default() }) {
                tracing::warn!(%error, "cannot make a record for a volume");
            }
        }
    }
}

/// Takes a folder without a record away again that a killed daemon has just made, for a volume that nobody was told of; whether it was
/// such a one.
fn is_unused(home: &Path, name: &str) -> bool {
    let data = home.join("_data");
    // nothing goes in which something is
    if name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        let _ = std::fs::remove_dir(&data);
    }
    let _ = std::fs::remove_dir(home);
    !data.is_dir()
}

/// Deletes a folder without anybody's waiting.
fn sweep(folder: std::path::PathBuf) {
    let delete = move || {
        if let Err(error) = crate::sweep::folder(&folder) {
            tracing::warn!(folder = %folder.display(), %error, "cannot delete a removed volume's files");
        }
    };
    match tokio::runtime::Handle::try_current() {
        Ok(runtime) => drop(runtime.spawn_blocking(delete)),
        Err(_) => delete(),
    }
}

fn record(volume: &Volume) -> Result<Vec<u8>> {
    serde_json::to_vec(volume).map_err(|error| EngineError::internal("cannot write the volume's record", &error))
}

fn random_name() -> Result<String> {
    let id = ContainerId::random().map_err(|error| EngineError::internal("cannot make a name", &error))?;
    Ok(id.to_string())
}
