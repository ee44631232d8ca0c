//! What a container made of its image: seen, exported, and made an image of its own.

use super::Engine;
use super::archive::new_name;
use super::images::wrong;
use crate::error::{EngineError, ErrorClass, Result};
use crate::model::{Container, Phase};
use image::build::{Config as ImageConfig, History, ImageSpec};
use image::dockerfile::Expander;
use image::export::{ExportError, Times};
use image::{ConfigChanges, Image};
use oci::digest::Digest;
use oci::reference::Reference;
use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags};
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;

/// An image to be made of a container.
#[derive(Debug, Clone, Default)]
pub struct Commit {
    /// The container.
    pub container: String,
    /// The image's name.
    pub name: Option<String>,
    /// A remark.
    pub message: String,
    /// Who makes it.
    pub author: String,
    /// Whether the container stands still meanwhile.
    pub pause: bool,
    /// Changes to the configuration.
    pub changes: ConfigChanges,
}

/// Something that a container changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// It was there and is another one, or something below it is.
    Modified(PathBuf),
    /// It was not there.
    Added(PathBuf),
    /// It is gone.
    Deleted(PathBuf),
}

impl Engine {
    /// What a container changed about its image's files, sorted by path.
    ///
    /// # Errors
    /// [`ErrorClass::NotFound`].
    pub async fn changes(&self, who: &str) -> Result<Vec<Change>> {
        let container = self.inner.container(who)?;
        let upper = self.upper(&container)?;
        let image = self.image_of(&container)?;
        self.blocking(move |inner| {
            let Some(upper) = upper else { return Ok(Vec::new()) };
            let below = inner.images.merged(&image, None).map_err(failed)?;
            let mut changes = Vec::new();
            compare(&upper, &below, PathBuf::new(), &mut changes)
                .map_err(|error| EngineError::internal("cannot read the container's files", &error))?;
            Ok(changes)
        })
        .await
    }

    /// Writes all files of a container as one archive.
    ///
    /// # Errors
    /// [`ErrorClass::NotFound`]; what the disk or `out` says.
    pub async fn export(&self, who: &str, out: impl Write + Send + 'static) -> Result<()> {
        let container = self.inner.container(who)?;
        let upper = self.upper(&container)?;
        let image = self.image_of(&container)?;
        self.tell_container(&container, "export", Vec::new());
        self.blocking(move |inner| {
            let merged = inner.images.merged(&image, upper.as_ref().map(AsFd::as_fd)).map_err(failed)?;
            image::export::write_folder(&merged, Times::Kept, out).map_err(failed)
        })
        .await
    }

    /// Makes an image of a container: its image's layers and one with its changes.
    ///
    /// # Errors
    /// [`ErrorClass::NotFound`], [`ErrorClass::Invalid`] for a name that is none.
    pub async fn commit(&self, commit: Commit) -> Result<Image> {
        let name = commit.name.as_deref().map(new_name).transpose()?;
        let container = self.inner.container(&commit.container)?;
        let base = self.image_of(&container)?;
        let upper = self.upper(&container)?;
        let (told_name, comment) = (name.as_ref().map(Reference::familiar), commit.message.clone());
        let paused = commit.pause && container.phase == Phase::Running && self.held_still(&container).await?;
        let record = Arc::clone(&container);
        let made = self
            .blocking(move |inner| {
                let store = &inner.images;
                let mut layers = base.layers.clone();
                let _base = store.hold(&layers);
                let folders: Vec<OwnedFd> = upper.into_iter().collect();
                let held = store.add_diff(&folders, None, Times::Kept).map_err(failed)?;
                layers.extend(held.layers());
                let bytes = store.config_bytes(&base.id).map_err(wrong)?;
                let ids: Vec<Digest> = layers.iter().map(|layer| layer.0).collect();
                let config = configuration(&bytes, &record, &commit, &ids)?;
                store.add_image(&config, &layers, Some(base.id), name.as_slice()).map_err(wrong)
            })
            .await;
        if paused {
            match self.unpause(container.id.as_str()).await {
                // it was killed while it stood still
                Err(error) if error.class() != ErrorClass::Conflict => return Err(error),
                _ => {}
            }
        }
        let image = made?;
        let name = told_name.unwrap_or_default();
        let words = vec![("comment", comment), ("imageID", image.id.to_string()), ("imageRef", name.clone())];
        self.tell_container(&container, "commit", words);
        if !name.is_empty() {
            self.tell_as(&image, "tag", &name);
        }
        Ok(image)
    }

    /// Pauses it; false where there is nothing to pause any more, because it has ended meanwhile.
    async fn held_still(&self, container: &Container) -> Result<bool> {
        match self.pause(container.id.as_str()).await {
            Ok(()) => Ok(true),
            Err(error) if error.class() == ErrorClass::Conflict => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn image_of(&self, container: &Container) -> Result<Image> {
        self.inner.images.get(&container.image_id).map_err(wrong)
    }

    /// The container's writable layer; none if it never had one.
    fn upper(&self, container: &Container) -> Result<Option<OwnedFd>> {
        // with a user namespace of its own too: the kernel maps the owners at the mount, on disk they are the container's
        let path = self.inner.config.paths(&container.id).dir.join("upper");
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match rustix::fs::open(&path, flags, Mode::empty()) {
            Ok(fd) => Ok(Some(fd)),
            Err(rustix::io::Errno::NOENT) => Ok(None),
            Err(errno) => Err(EngineError::internal("cannot open the container's files", &std::io::Error::from(errno))),
        }
    }
}

fn failed(error: ExportError) -> EngineError {
    EngineError::new(ErrorClass::Internal, crate::error::chain(&error))
}

/// Walks a writable layer beside what is below it.
fn compare(upper: &OwnedFd, below: &OwnedFd, path: PathBuf, out: &mut Vec<Change>) -> std::io::Result<()> {
    let open = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let strict = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let mut pending = vec![path];
    while let Some(folder) = pending.pop() {
        let here = if folder.as_os_str().is_empty() { PathBuf::from(".") } else { folder.clone() };
        let opened = rustix::fs::openat2(upper, &here, open, Mode::empty(), strict)?;
        for entry in rustix::fs::Dir::read_from(&opened)? {
            let entry = entry?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            let stat = rustix::fs::statat(&opened, name, AtFlags::SYMLINK_NOFOLLOW)?;
            let path = folder.join(std::ffi::OsStr::from_bytes(name.to_bytes()));
            let shown = PathBuf::from("/").join(&path);
            let kind = rustix::fs::FileType::from_raw_mode(stat.st_mode);
            if kind == rustix::fs::FileType::CharacterDevice && stat.st_rdev == 0 {
                out.push(Change::Deleted(shown));
                continue;
            }
            let look = OFlags::PATH | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            let was = rustix::fs::openat2(below, &path, look, Mode::empty(), strict);
            out.push(if was.is_ok() { Change::Modified(shown) } else { Change::Added(shown) });
            if kind == rustix::fs::FileType::Directory {
                pending.push(path);
            }
        }
    }
    out.sort_by(|a, b| a.path().cmp(b.path()));
    Ok(())
}

impl Change {
    /// What it is about.
    #[must_use]
    pub fn path(&self) -> &std::path::Path {
        match self {
            Self::Modified(path) | Self::Added(path) | Self::Deleted(path) => path,
        }
    }
}

/// The image's configuration with what the container was told, what is asked for, and a line of history.
fn configuration(base: &[u8], container: &Container, commit: &Commit, layers: &[Digest]) -> Result<Vec<u8>> {
    let unreadable = |error| EngineError::internal("the image's configuration cannot be read", &error);
    let mut spec = ImageSpec::from_json(base).map_err(unreadable)?;
    told(&mut spec.config, container);
    change(&mut spec.config, &commit.changes);
    if !commit.author.is_empty() {
        spec.author.clone_from(&commit.author);
    }
    let now = jiff::Timestamp::now().to_string();
    spec.history.push(History {
        created: Some(now.clone()),
        created_by: container.process.args.join(" "),
        author: commit.author.clone(),
        comment: commit.message.clone(),
        empty_layer: false,
    });
    let written = spec.to_json(layers, Some(&now));
    let mut document: serde_json::Value = serde_json::from_slice(&written)
        .map_err(|error| EngineError::internal("the image's configuration cannot be written", &error))?;
    // older clients ask what an image was made of; Docker's field, before the OCI's description of images
    document["container"] = container.id.as_str().into();
    document["container_config"] = serde_json::json!({ "Image": container.spec.image, "Cmd": container.process.args });
    Ok(document.to_string().into_bytes())
}

/// What a container was told at its creation is how its image is run.
fn told(config: &mut ImageConfig, container: &Container) {
    let spec = &container.spec;
    if let Some(entrypoint) = &spec.entrypoint {
        config.entrypoint = Some(entrypoint.clone());
        config.cmd = None;
    }
    if !spec.command.is_empty() {
        config.cmd = Some(spec.command.clone());
    }
    config.env = container.process.env.iter().filter(|variable| !variable.starts_with("HOSTNAME=")).cloned().collect();
    if let Some(folder) = &spec.working_dir {
        config.working_dir.clone_from(folder);
    }
    if let Some(user) = &spec.user {
        config.user.clone_from(user);
    }
    config.labels.extend(spec.labels.clone());
    config.exposed_ports.extend(spec.exposed_ports.iter().map(|port| (port.clone(), image::build::config::Nothing {})));
    if let Some(signal) = &spec.stop_signal {
        config.stop_signal.clone_from(signal);
    }
    config.healthcheck = spec.health.as_ref().map(|health| image::build::config::Health {
        test: health.test.clone(),
        interval: health.interval_ns,
        timeout: health.timeout_ns,
        start_period: health.start_period_ns,
        start_interval: health.start_interval_ns,
        retries: health.retries.into(),
    });
}

fn change(config: &mut ImageConfig, changes: &ConfigChanges) {
    if let Some(entrypoint) = &changes.entrypoint {
        config.entrypoint = Some(entrypoint.clone());
    }
    if let Some(cmd) = &changes.cmd {
        config.cmd = Some(cmd.clone());
    }
    for (name, value) in &changes.env {
        // a value may name what is there already: PATH=/opt/bin:$PATH
        let known: std::collections::BTreeMap<String, String> =
            config.env.iter().filter_map(|pair| pair.split_once('=')).map(|(n, v)| (n.into(), v.into())).collect();
        let value = Expander::new(&known, '\\').word(value).unwrap_or_else(|_| value.clone());
        let pair = format!("{name}={value}");
        match config.env.iter_mut().find(|entry| entry.split('=').next() == Some(name)) {
            Some(old) => *old = pair,
            None => config.env.push(pair),
        }
    }
    if let Some(folder) = &changes.working_dir {
        config.working_dir.clone_from(folder);
    }
    if let Some(user) = &changes.user {
        config.user.clone_from(user);
    }
    config.labels.extend(changes.labels.clone());
    let nothing = |name: &String| (name.clone(), image::build::config::Nothing {});
    config.exposed_ports.extend(changes.exposed_ports.iter().map(nothing));
    config.volumes.extend(changes.volumes.iter().map(nothing));
    if let Some(signal) = &changes.stop_signal {
        config.stop_signal.clone_from(signal);
    }
    if let Some(health) = &changes.healthcheck {
        config.healthcheck = Some(health.clone());
    }
    config.on_build.extend(changes.on_build.iter().cloned());
}
