//! Volumes: folders that outlive containers.

use super::Engine;
use super::inner::{Inner, VOLUMES};
use crate::error::{EngineError, Result};
use crate::model::{Container, EventKind, MountKind, VolumeMount};
use crate::volume::check_name;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;
use store::Txn;

/// A local volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// Its name.
    pub name: String,
    /// Its folder on the host.
    pub path: PathBuf,
    /// When it was made, nanoseconds since the Unix epoch.
    pub created_ns: u64,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

impl Engine {
    /// All volumes, by name.
    #[must_use]
    pub fn volumes(&self) -> Vec<Volume> {
        self.inner.store.range(VOLUMES).iter().filter_map(|entry| serde_json::from_slice(&entry.value).ok()).collect()
    }

    /// A volume by name.
    ///
    /// # Errors
    /// [`crate::ErrorClass::NotFound`].
    pub fn volume(&self, name: &str) -> Result<Volume> {
        self.inner.volume(name).ok_or_else(|| EngineError::not_found(format!("get {name}: no such volume")))
    }

    /// Makes a volume, or gives the one that has the name already. Without a name one is made up.
    ///
    /// # Errors
    /// [`crate::ErrorClass::Invalid`] for a wrong name.
    pub fn create_volume(&self, name: Option<&str>, labels: BTreeMap<String, String>) -> Result<Volume> {
        match name.filter(|name| !name.is_empty()) {
            Some(name) => {
                check_name(name)?;
                self.inner.ensure_volume(name, labels)
            }
            None => self.inner.ensure_volume(&random_name()?, labels),
        }
    }

    /// Removes a volume that no container has.
    ///
    /// # Errors
    /// [`crate::ErrorClass::Conflict`] if one has it, [`crate::ErrorClass::NotFound`].
    pub fn remove_volume(&self, name: &str) -> Result<()> {
        self.volume(name)?;
        self.inner.remove_volume(name)
    }
}

impl Inner {
    fn volume(&self, name: &str) -> Option<Volume> {
        let entry = self.store.get(&format!("{VOLUMES}{name}"))?;
        serde_json::from_slice(&entry.value).ok()
    }

    fn ensure_volume(&self, name: &str, labels: BTreeMap<String, String>) -> Result<Volume> {
        if let Some(volume) = self.volume(name) {
            return Ok(volume);
        }
        let path = self.config.volumes().join(name).join("_data");
        std::fs::create_dir_all(&path)
            .map_err(|error| EngineError::internal(format!("cannot make volume {name}"), &error))?;
        let volume = Volume { name: name.to_owned(), path, created_ns: crate::clock::now_ns(), labels };
        let json = serde_json::to_vec(&volume)
            .map_err(|error| EngineError::internal("cannot write the volume's record", &error))?;
        self.commit(Txn::new().put(format!("{VOLUMES}{name}"), json))?;
        self.store_event(self.events.event(
            EventKind::Volume,
            "create",
            name,
            BTreeMap::from([("driver".into(), "local".into())]),
        ));
        Ok(volume)
    }

    /// Makes the volumes that a new container asks for and notes them in its record.
    pub(super) fn attach_volumes(&self, container: &mut Container) -> Result<()> {
        for mount in container.spec.mounts.clone() {
            let MountKind::Volume { name, .. } = &mount.kind else { continue };
            let name = match name {
                Some(name) => name.clone(),
                None => {
                    let name = random_name()?;
                    container.anonymous_volumes.push(name.clone());
                    name
                }
            };
            let volume = self.ensure_volume(&name, BTreeMap::new())?;
            container.volumes.push(VolumeMount {
                name,
                source: volume.path.to_string_lossy().into_owned(),
                target: mount.target,
                read_only: mount.read_only,
            });
        }
        Ok(())
    }

    /// Before a start: sources that Docker makes on demand.
    pub(crate) fn refresh_volumes(&self, container: &Container) -> Result<()> {
        for mount in &container.spec.mounts {
            if let MountKind::Bind { source, create_source: true, .. } = &mount.kind {
                let made = match std::fs::symlink_metadata(source) {
                    Ok(_) => Ok(()),
                    Err(_) => std::fs::create_dir_all(source),
                };
                made.map_err(|error| EngineError::internal(format!("cannot make the bind source {source}"), &error))?;
            }
        }
        Ok(())
    }

    pub(crate) fn remove_volume(&self, name: &str) -> Result<()> {
        let used = {
            let registry = self.registry.read().unwrap_or_else(std::sync::PoisonError::into_inner);
            let has = |container: &Container| container.volumes.iter().any(|volume| volume.name == name);
            registry
                .by_id
                .values()
                .find(|slot| slot.container.phase != crate::model::Phase::Removing && has(&slot.container))
                .map(|slot| slot.container.id.clone())
        };
        if let Some(id) = used {
            return Err(EngineError::conflict(format!("remove {name}: volume is in use - [{id}]")));
        }
        if self.volume(name).is_none() {
            return Ok(());
        }
        self.commit(Txn::new().delete(format!("{VOLUMES}{name}")))?;
        crate::sweep::folder(&self.config.volumes().join(name))
            .map_err(|error| EngineError::internal(format!("cannot delete volume {name}"), &error))?;
        self.store_event(self.events.event(
            EventKind::Volume,
            "destroy",
            name,
            BTreeMap::from([("driver".into(), "local".into())]),
        ));
        Ok(())
    }
}

fn random_name() -> Result<String> {
    let id =
        crate::model::ContainerId::random().map_err(|error| EngineError::internal("cannot make a name", &error))?;
    Ok(id.to_string())
}
