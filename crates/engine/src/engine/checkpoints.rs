//! Checkpoints of containers: folders with their processes written down.
//!
//! A checkpoint is there as a whole or not at all: the helper, which outlives this process, writes it beside its place and
//! renames it.

use super::Engine;
use crate::actor::Ask;
use crate::error::{EngineError, ErrorClass, Result};
use crate::model::ContainerId;
use control::Afterwards;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

impl Engine {
    /// Writes a running container's processes down under a name, below its own folder or below `folder`.
    ///
    /// # Errors
    /// [`ErrorClass::Invalid`] for a bad name, [`ErrorClass::Conflict`] for one that is taken or a container that does not
    /// run, [`ErrorClass::Unsupported`] without criu, [`ErrorClass::Internal`] with what criu says.
    pub async fn checkpoint(&self, who: &str, name: &str, folder: Option<&Path>, then: Afterwards) -> Result<()> {
        let container = self.container(who)?;
        if !container.is_alive() {
            return Err(EngineError::conflict(format!("Container {who} not running")));
        }
        if container.spec.tty {
            return Err(EngineError::invalid(format!(
                "cannot checkpoint container {who}: it has a terminal, whose other end cannot be written down; run it without -t"
            )));
        }
        let folder = self.checkpoint_folder(&container.id, folder)?;
        let images = folder.join(checked(name)?);
        match std::fs::symlink_metadata(&images) {
            Ok(_) => {
                let text = format!("checkpoint with name {name} already exists for container {}", container.name);
                return Err(EngineError::conflict(text));
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(EngineError::internal(format!("cannot look at {}", images.display()), &error)),
        }
        std::fs::create_dir_all(&folder)
            .map_err(|error| EngineError::internal(format!("cannot make {}", folder.display()), &error))?;
        self.ask(who, |answer| Ask::Checkpoint { name: name.to_owned(), images, then, answer })
            .await
            .map_err(|error| EngineError::new(error.class(), format!("Cannot checkpoint container {who}: {error}")))
    }

    /// The names of a container's checkpoints, below its own folder or below `folder`.
    ///
    /// # Errors
    /// [`ErrorClass::NotFound`] for an unknown container, [`ErrorClass::Internal`] for a folder that cannot be read.
    pub fn checkpoints(&self, who: &str, folder: Option<&Path>) -> Result<Vec<String>> {
        let folder = self.checkpoint_folder(&self.container(who)?.id, folder)?;
        let entries = match std::fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(EngineError::internal(format!("cannot read {}", folder.display()), &error)),
        };
        let whole = |entry: std::io::Result<std::fs::DirEntry>| {
            let entry = entry.ok().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))?;
            entry.file_name().into_string().ok().filter(|name| checked(name).is_ok())
        };
        let mut names: Vec<String> = entries.filter_map(whole).collect();
        names.sort_unstable();
        Ok(names)
    }

    /// Deletes a checkpoint.
    ///
    /// # Errors
    /// [`ErrorClass::NotFound`] if there is none of that name.
    pub fn remove_checkpoint(&self, who: &str, name: &str, folder: Option<&Path>) -> Result<()> {
        let images = self.checkpoint_of(who, name, folder)?;
        // gone at once: half a checkpoint is none
        let going = images.with_file_name(format!(".{name}.gone"));
        std::fs::rename(&images, &going)
            .and_then(|()| crate::sweep::folder(&going))
            .map_err(|error| EngineError::internal(format!("cannot delete {}", images.display()), &error))
    }

    /// Runs a container's processes on from where a checkpoint wrote them down; done when they run.
    ///
    /// # Errors
    /// [`ErrorClass::NotFound`] for an unknown checkpoint; else as [`Self::start`].
    pub async fn start_from(&self, who: &str, name: &str, folder: Option<&Path>) -> Result<()> {
        let images = self.checkpoint_of(who, name, folder)?;
        self.ask(who, |answer| Ask::Restore { images, answer }).await
    }

    fn checkpoint_of(&self, who: &str, name: &str, folder: Option<&Path>) -> Result<PathBuf> {
        let container = self.container(who)?;
        let images = self.checkpoint_folder(&container.id, folder)?.join(checked(name)?);
        if images.is_dir() {
            return Ok(images);
        }
        let text = format!("checkpoint {name} does not exist for container {}", container.name);
        Err(EngineError::new(ErrorClass::NotFound, text))
    }

    fn checkpoint_folder(&self, id: &ContainerId, folder: Option<&Path>) -> Result<PathBuf> {
        match folder {
            None => Ok(self.inner.config.paths(id).dir.join("checkpoints")),
            Some(folder) if folder.is_absolute() => Ok(folder.to_owned()),
            Some(folder) => Err(EngineError::invalid(format!(
                "invalid checkpoint folder {}: it has to be an absolute path on the daemon's host",
                folder.display()
            ))),
        }
    }
}

/// A name as Docker allows it, which is also one part of a path.
fn checked(name: &str) -> Result<&str> {
    let first = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    let rest = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte));
    if first && rest && (2..=200).contains(&name.len()) {
        return Ok(name);
    }
    Err(EngineError::invalid(format!("Invalid checkpoint ID ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed")))
}

#[cfg(test)]
mod tests {
    use super::checked;

    #[test]
    fn names_are_single_parts_of_paths() {
        for good in ["a1", "one.two_three-4", "0x"] {
            assert_eq!(checked(good).unwrap(), good);
        }
        for bad in ["", "a", ".hidden", "..", "a/b", "-x", "a b", "ä1"] {
            assert!(checked(bad).unwrap_err().to_string().contains("Invalid checkpoint ID"), "{bad}");
        }
    }
}
