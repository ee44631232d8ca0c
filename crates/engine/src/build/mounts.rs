//! `RUN --mount`: what a step sees beside its own files.
//!
//! Files of the context, of stages and of images are copied into the step's work folder, so that whatever the step does to
//! them goes with it; caches are folders below the engine's own, which outlive the build.

use super::agent::Agent;
use super::execute::Build;
use super::place::Placer;
use super::tree::{Tree, Upper, open};
use crate::error::{EngineError, ErrorClass, Result};
use crate::model::{Mount as ContainerMount, MountKind, Propagation, ReadOnlyDepth};
use image::build::copy::{self, Destination, Existing, Selection, Shape};
use image::build::{FileKind, Files, RunMount, RunStep};
use image::dockerfile::{Access, Mount, MountOwner, Presence, Sharing};
use image::{LayerId, Layers};
use oci::digest::Digest;
use rustix::fs::{Mode, OFlags, ResolveFlags};
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What was made ready for a step.
#[derive(Default)]
pub(super) struct Mounted {
    pub(super) mounts: Vec<ContainerMount>,
    /// Secrets that are variables.
    pub(super) env: Vec<String>,
    /// The user's agents, for as long as the step runs.
    agents: Vec<Agent>,
    /// Locks of cache folders, held until the step has ended.
    _locks: Vec<tokio::sync::OwnedMutexGuard<()>>,
    /// Folders that a step has for itself since another step has the cache.
    _private: Vec<tempfile::TempDir>,
}

/// A step and where its mounts are made ready.
pub(super) struct Prepare<'a> {
    pub(super) build: &'a Build,
    pub(super) step: &'a RunStep,
    /// What it begins with.
    pub(super) layers: &'a [LayerId],
    pub(super) upper: &'a Upper,
}

fn cannot(error: std::io::Error) -> EngineError {
    EngineError::internal("cannot make a step's mounts ready", &error)
}

fn bind(target: &str, source: &Path, access: Access) -> ContainerMount {
    ContainerMount {
        target: target.to_owned(),
        read_only: access == Access::Read,
        kind: MountKind::Bind {
            source: source.to_string_lossy().into_owned(),
            create_source: false,
            propagation: Propagation::Rprivate,
            non_recursive: true,
            read_only_depth: ReadOnlyDepth::default(),
        },
    }
}

impl Prepare<'_> {
    pub(super) async fn all(&self) -> Result<Mounted> {
        let mut out = Mounted::default();
        for (number, path) in self.step.volumes.iter().enumerate() {
            let folder = self.upper.path().join("mounts").join(format!("volume-{number}"));
            self.volume(path.clone(), folder.clone()).await?;
            out.mounts.push(bind(path, &folder, Access::Write));
        }
        for (number, mount) in self.step.mounts.iter().enumerate() {
            self.one(mount, &self.upper.path().join("mounts").join(number.to_string()), &mut out).await?;
        }
        if let Some(script) = &self.step.script {
            let path = self.upper.path().join("script");
            fs::write(&path, &script.contents).map_err(cannot)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).map_err(cannot)?;
            out.mounts.push(bind(&script.path, &path, Access::Read));
        }
        Ok(out)
    }

    async fn one(&self, run: &RunMount, folder: &Path, out: &mut Mounted) -> Result<()> {
        match &run.mount {
            Mount::Bind { source, target, access, .. } => {
                let path = self.fill(run, source, folder).await?;
                out.mounts.push(bind(target, &path, *access));
            }
            Mount::Cache { id, target, access, sharing, source, owner, .. } => {
                let path = self.cache(run, (id, source), *sharing, *owner, out).await?;
                out.mounts.push(bind(target, &path, *access));
            }
            Mount::Tmpfs { target, size_bytes } => out.mounts.push(ContainerMount {
                target: target.clone(),
                read_only: false,
                kind: MountKind::Tmpfs { bytes: *size_bytes, mode: Some(0o755), options: Vec::new() },
            }),
            Mount::Secret { id, target, env, presence, owner } => {
                let Some(secret) = self.build.secret(id).await? else {
                    return missing(
                        *presence,
                        format!("the secret \"{id}\" was not given; give it with: --secret id={id},src=FILE"),
                    );
                };
                if let Some(name) = env {
                    let text = String::from_utf8(secret.clone()).map_err(|_| {
                        EngineError::invalid(format!("the secret \"{id}\" is no text, so that it cannot be a variable"))
                    })?;
                    out.env.push(format!("{name}={text}"));
                }
                if let Some(target) = target {
                    fs::write(folder, secret).map_err(cannot)?;
                    owned(folder, *owner)?;
                    out.mounts.push(bind(target, folder, Access::Read));
                }
            }
            Mount::Ssh { id, target, presence, owner } => {
                let Some(socket) = self.build.agent(id).await? else {
                    return missing(
                        *presence,
                        format!("the SSH agent \"{id}\" was not given; give it with: --ssh {id}"),
                    );
                };
                let target = target.clone().unwrap_or_else(|| format!("/run/buildkit/ssh_agent.{}", out.agents.len()));
                if out.agents.is_empty() {
                    out.env.push(format!("SSH_AUTH_SOCK={target}"));
                }
                out.agents.push(Agent::serve(folder, socket.clone()).map_err(cannot)?);
                owned(folder, *owner)?;
                out.mounts.push(bind(&target, folder, Access::Write));
            }
        }
        Ok(())
    }

    /// Copies what is in a volume so far into a folder of the step's, which goes with it.
    async fn volume(&self, path: String, folder: PathBuf) -> Result<()> {
        let (inner, layers) = (Arc::clone(&self.build.inner), self.layers.to_vec());
        super::execute::blocking(move || {
            let tree = Tree::open(&inner, &layers, "of the build")?;
            let found = tree.look(path.trim_matches('/').as_bytes());
            let found = found.map_err(|error| EngineError::internal("cannot look at a volume", &error))?;
            let Some(stat) = found.filter(|file| file.kind == FileKind::Directory).map(|file| file.stat) else {
                return fs::create_dir(&folder).map_err(cannot);
            };
            copy_out(&tree, &path, &folder, false)?;
            chown(&folder, Some(stat.uid), Some(stat.gid)).map_err(cannot)?;
            fs::set_permissions(&folder, fs::Permissions::from_mode(stat.mode.into())).map_err(cannot)
        })
        .await
    }

    /// Copies what a mount shows into a folder of the step's; the path of the folder, or of the one file.
    async fn fill(&self, run: &RunMount, source: &str, folder: &Path) -> Result<PathBuf> {
        let Some(origin) = run.origin.clone() else { return Err(EngineError::invalid("a mount has no source")) };
        let files = self.build.files(&origin).await?;
        let folder = folder.to_owned();
        let source = if source.is_empty() { "/".to_owned() } else { source.to_owned() };
        let context = origin.is_given();
        let done = tokio::task::spawn_blocking(move || copy_out(&*files, &source, &folder, context)).await;
        done.map_err(|error| EngineError::internal("copying was cut short", &error))?
    }

    /// The folder of a cache, made and filled where it is new.
    async fn cache(
        &self,
        run: &RunMount,
        (id, source): (&str, &str),
        sharing: Sharing,
        owner: MountOwner,
        out: &mut Mounted,
    ) -> Result<PathBuf> {
        let root = self.build.inner.config.root.join("build-caches");
        fs::create_dir_all(&root).map_err(cannot)?;
        fs::set_permissions(&root, fs::Permissions::from_mode(0o711)).map_err(cannot)?;
        // what one stage has filled is not another one's
        let filled = run.origin.as_ref().and_then(|origin| self.build.identity(origin));
        let key = filled.map_or_else(|| id.to_owned(), |digest| format!("{id}\0{digest}\0{source}"));
        let path = root.join(Digest::of(key.as_bytes()).hex());
        let lock = self.build.inner.builds.lock(&path);
        let path = match sharing {
            Sharing::Shared => path,
            Sharing::Locked => {
                out._locks.push(lock.lock_owned().await);
                path
            }
            Sharing::Private => match lock.try_lock_owned() {
                Ok(guard) => {
                    out._locks.push(guard);
                    path
                }
                Err(_) => {
                    let own = tempfile::Builder::new().prefix("private-").tempdir_in(&root).map_err(cannot)?;
                    let path = own.path().join("root");
                    out._private.push(own);
                    path
                }
            },
        };
        if path.is_dir() {
            return Ok(path);
        }
        // whole or not at all: filled beside, then moved into place
        let beside = tempfile::Builder::new().prefix("new-").tempdir_in(&root).map_err(cannot)?;
        let mut fresh = beside.path().join("root");
        if run.origin.is_some() {
            fresh = self.fill(run, source, &fresh).await?;
        } else {
            fs::create_dir(&fresh).map_err(cannot)?;
        }
        owned(&fresh, owner)?;
        match fs::rename(&fresh, &path) {
            // another step was faster
            Err(_) if path.is_dir() => {}
            other => other.map_err(cannot)?,
        }
        Ok(path)
    }
}

fn missing(presence: Presence, text: String) -> Result<()> {
    if presence == Presence::Required { Err(EngineError::invalid(text)) } else { Ok(()) }
}

fn owned(path: &Path, owner: MountOwner) -> Result<()> {
    chown(path, Some(owner.uid), Some(owner.gid)).map_err(cannot)?;
    fs::set_permissions(path, fs::Permissions::from_mode(owner.mode.into())).map_err(cannot)
}

/// Copies a file or what is in a folder to `folder`.
fn copy_out(files: &dyn Files, source: &str, folder: &Path, context: bool) -> Result<PathBuf> {
    let selection = Selection { sources: vec![source.to_owned()], ..Selection::default() };
    let mut found = copy::resolve(files, &selection, "the mount's source")
        .map_err(|error| EngineError::because(ErrorClass::Invalid, "cannot make a mount ready", &error))?;
    if context {
        for entry in found.iter_mut().flat_map(|resolved| &mut resolved.entries) {
            (entry.file.stat.uid, entry.file.stat.gid) = (0, 0);
        }
    }
    fs::create_dir(folder).map_err(cannot)?;
    let root = open(folder)?;
    let mut placer = Placer::new(root.as_fd(), None, (0, 0));
    let mut path = folder.to_owned();
    for resolved in &found {
        let destination = Destination::new("/", "/");
        placer.source(resolved, &destination.place(resolved, Existing::Folder), files, None)?;
        if resolved.shape != Shape::Contents {
            use std::os::unix::ffi::OsStrExt;
            path = folder.join(std::ffi::OsStr::from_bytes(&resolved.name));
        }
    }
    placer.finish()?;
    Ok(path)
}

impl Mounted {
    /// Mount points that the runtime had to make are no part of the image, as long as nothing is in them.
    pub(super) fn remove_stubs(&self, upper: &Upper, below: &Layers) {
        let Ok(layer) = upper.layer() else { return };
        for mount in &self.mounts {
            let mut path = mount.target.trim_matches('/').to_owned();
            while !path.is_empty() && !below.fds.iter().any(|fd| is_there(fd, &path)) {
                let Ok(at) = look(&layer, &path) else { break };
                drop(at);
                let gone = upper.path().join("upper").join(&path);
                let empty_file = fs::symlink_metadata(&gone).is_ok_and(|meta| meta.is_file() && meta.len() == 0);
                let removed = if empty_file { fs::remove_file(&gone) } else { fs::remove_dir(&gone) };
                if removed.is_err() {
                    break;
                }
                path = path.rsplit_once('/').map_or_else(String::new, |(parent, _)| parent.to_owned());
            }
        }
    }
}

fn look(root: &impl AsFd, path: &str) -> rustix::io::Result<std::os::fd::OwnedFd> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS;
    rustix::fs::openat2(root, path, OFlags::PATH | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty(), resolve)
}

fn is_there(root: &Arc<std::os::fd::OwnedFd>, path: &str) -> bool {
    look(root, path).is_ok()
}
