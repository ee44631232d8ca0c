//! Opening: folders, state, and every container found again.

use super::inner::{CONTAINERS, Inner, Parts, Registry, Slot};
use crate::actor::{self, Recovering};
use crate::config::{Config, absolute};
use crate::error::{EngineError, ErrorClass, Result};
use crate::model::{Container, ContainerId, UserMode};
use std::path::Path;
use std::sync::{Arc, PoisonError};
use tokio::sync::{mpsc, watch};

/// How long a helper may take that is to end.
const DISMISSAL: std::time::Duration = std::time::Duration::from_secs(5);

pub(super) async fn open(mut config: Config) -> Result<Arc<Inner>> {
    crate::doctor::warn_of_kernel();
    config.root = absolute(&config.root);
    config.run = absolute(&config.run);
    for folder in [config.root.clone(), config.containers(), config.volumes(), config.run.clone(), config.shims()] {
        private_folder(&folder)?;
    }
    let opened = tokio::task::spawn_blocking(move || parts(config)).await;
    let parts = opened.map_err(|error| EngineError::internal("opening was cut short", &error))??;
    let inner = Arc::new(Inner::new(parts));
    inner.load_networks()?;
    recover(&inner).await;
    let resuming = Arc::clone(&inner);
    let resumed = tokio::task::spawn_blocking(move || {
        resuming.end_passing_networks();
        crate::network::resume(&resuming);
    });
    let resumed = resumed.await;
    resumed.map_err(|error| EngineError::internal("opening was cut short", &error))?;
    super::reduce::start(&inner);
    Ok(inner)
}

/// Containers' files are nobody's business but root's.
fn private_folder(folder: &Path) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o711).create(folder);
    made.and_then(|()| rustix::fs::access(folder, rustix::fs::Access::WRITE_OK).map_err(Into::into)).map_err(|error| {
        EngineError::because(
            ErrorClass::Denied,
            format!(
                "cannot write the folder {}; run as root, or give another one with --root and --run",
                folder.display()
            ),
            &error,
        )
    })
}

fn parts(config: Config) -> Result<Parts> {
    let broken =
        |what: &str, error: &dyn std::error::Error| EngineError::internal(format!("cannot open {what}"), error);
    let store = store::Store::open(&config.root.join("store")).map_err(|error| broken("the state", &error))?;
    let images = image::Store::open(&config.root.join("images")).map_err(|error| broken("the image store", &error))?;
    let cgroups = cgroup::Host::detect().map_err(|error| broken("the control groups", &error))?;
    cgroups.hold(&config.cgroup_parent).map_err(|error| broken("the parent control group", &error))?;
    let netns = match config.netns_pool {
        0 => None,
        size => Some(net::NetnsPool::new(size).map_err(|error| broken("the pool of network namespaces", &error))?),
    };
    let skeleton = crate::files::skeleton(&config.root.join("skeleton"))
        .map_err(|error| broken("the folder of mount points", &error))?;
    let id = identity(&config.root).map_err(|error| broken("the daemon's id", &error))?;
    Ok(Parts { id, host: crate::host::facts(), config, store, images, cgroups, netns, skeleton })
}

/// The id in the state's folder, made up when it is used for the first time.
fn identity(root: &Path) -> std::io::Result<String> {
    let path = root.join("engine-id");
    match std::fs::read_to_string(&path) {
        Ok(id) if !id.trim().is_empty() => return Ok(id.trim().to_owned()),
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut bytes = [0_u8; 16];
    getrandom::fill(&mut bytes).map_err(std::io::Error::other)?;
    // RFC 9562, version 4
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let text = hex::encode(bytes);
    let id = [&text[..8], &text[8..12], &text[12..16], &text[16..20], &text[20..]].join("-");
    std::fs::write(&path, &id)?;
    Ok(id)
}

async fn recover(inner: &Arc<Inner>) {
    let (done, mut all_done) = mpsc::channel(1);
    let (begin, begun) = watch::channel(());
    let mut known = std::collections::BTreeSet::new();
    for entry in inner.store.range(CONTAINERS) {
        let container: Container = match serde_json::from_slice(&entry.value) {
            Ok(container) => container,
            Err(error) => {
                tracing::error!(key = entry.key, %error, "a container's record cannot be read; it is left alone");
                known.insert(entry.key.trim_start_matches(CONTAINERS).to_owned());
                continue;
            }
        };
        known.insert(container.id.to_string());
        inner.networks.book().adopt(&container);
        adopt(inner, container, Recovering::Yes { begin: begun.clone(), done: done.clone() });
    }
    // nobody starts before all are known: addresses and ports, names and rules of the others would count as nobody's
    drop((begin, begun, done));
    // the last owner to know its container's state drops the last sender
    let _ = all_done.recv().await;
    orphans(inner, &known).await;
    let keeper = Arc::clone(inner);
    if let Err(error) = tokio::task::spawn_blocking(move || keeper.recover_volumes()).await {
        tracing::error!(%error, "volumes were not looked after");
    }
}

fn adopt(inner: &Arc<Inner>, container: Container, recovering: Recovering) {
    let container = Arc::new(container);
    // the registry first: an owner that recovers publishes into it
    let mut registry = inner.registry.write().unwrap_or_else(PoisonError::into_inner);
    registry.insert(Arc::clone(&container), actor::spawn(inner, container, recovering));
}

impl Registry {
    pub(super) fn insert(&mut self, container: Arc<Container>, inbox: mpsc::Sender<actor::Ask>) {
        self.names.insert(container.name.clone(), container.id.clone());
        if let (UserMode::Auto, Some(ids)) = (&container.spec.namespaces.user, container.ids) {
            self.ranges.insert(ids.first_uid);
        }
        self.by_id.insert(container.id.clone(), Slot { container, inbox });
    }
}

/// Folders of containers whose creation was cut short before their record was stored.
async fn orphans(inner: &Arc<Inner>, known: &std::collections::BTreeSet<String>) {
    for folder in [inner.config.containers(), inner.config.shims()] {
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if known.contains(&name) {
                continue;
            }
            tracing::info!(folder = %entry.path().display(), "removing what an interrupted creation left");
            dismiss(&entry.path().join("shim.sock")).await;
            let _ = crate::sweep::cgroup(&inner.cgroups, &inner.config.cgroup(&ContainerId::known(&name)));
            let _ = crate::sweep::runtime_folder(&entry.path());
        }
    }
}

/// Ends a helper that nobody waits for any more, and its container: a step of a build whose daemon was killed.
async fn dismiss(socket: &Path) {
    use control::{Event, Message, Phase, ProcessId, Reply, Request};
    let Ok(mut helper) = crate::helper::Helper::connect(socket) else { return };
    let farewell = async {
        helper.send(&Request::State, &[]).await.ok()?;
        while let Ok(Some(frame)) = helper.next().await {
            match frame.body {
                Message::Reply(Reply::State(state)) if matches!(state.phase, Phase::Running | Phase::Paused) => {
                    helper.send(&Request::Signal { signal: crate::signal::KILL, all: true }, &[]).await.ok()?;
                    helper.send(&Request::Resume, &[]).await.ok()?;
                }
                Message::Reply(Reply::State(_)) | Message::Event(Event::Exited { process: ProcessId::Init, .. }) => {
                    helper.send(&Request::Quit, &[]).await.ok()?;
                }
                _ => {}
            }
        }
        Some(())
    };
    if tokio::time::timeout(DISMISSAL, farewell).await.is_err() {
        tracing::warn!(socket = %socket.display(), "a helper without a container does not end");
    }
}
