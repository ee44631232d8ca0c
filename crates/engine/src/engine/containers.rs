//! What can be done with containers.

use super::Engine;
use super::inner::lock;
use crate::actor::{self, Ask, Attachment, Changed, Recovering, WaitFor};
use crate::decide::Input;
use crate::error::{EngineError, ErrorClass, Result};
use crate::model::{
    Container, ContainerId, ContainerSpec, ExecId, Finished, HealthCheck, IdRange, IpcMode, MountKind, NamespaceModes,
    NetworkMode, PidMode, Resources, RestartPolicy, UserMode,
};
use crate::{health, names, plan, signal};
use control::{ProcessId, Streams};
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, PoisonError};
use tokio::sync::{mpsc, oneshot};

/// A container that was created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Created {
    /// Its id.
    pub id: ContainerId,
    /// What the user should know.
    pub warnings: Vec<String>,
}

/// How a client attaches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attach {
    /// To which streams.
    pub streams: Streams,
    /// Keys that detach, as Docker writes them; `None` for `ctrl-p,ctrl-q`.
    pub detach_keys: Option<String>,
}

/// How a container is removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Remove {
    /// Kill it if it runs.
    pub force: bool,
    /// Its anonymous volumes too.
    pub volumes: bool,
}

/// A wait that is registered: what happens from now on is not missed.
#[derive(Debug)]
pub struct Wait(oneshot::Receiver<Finished>);

impl Wait {
    /// How it ended.
    ///
    /// # Errors
    /// [`ErrorClass::Unavailable`] if the engine closes first.
    pub async fn outcome(self) -> Result<Finished> {
        self.0.await.map_err(|_| EngineError::new(ErrorClass::Unavailable, "the daemon is shutting down"))
    }
}

/// Ids of a container with a user namespace of its own: 65,536 from here on, one range after the other, above what
/// distributions give to people.
const AUTO_FIRST: u32 = 0x4000_0000;
const AUTO_COUNT: u32 = 65_536;
const AUTO_END: u32 = 0x8000_0000;
const DEFAULT_GRACE_S: i64 = 10;

/// Whether a mount asks for nothing but a volume.
fn is_any(kind: &MountKind) -> bool {
    let bare =
        |labels: &BTreeMap<String, String>, options: &BTreeMap<String, String>| labels.is_empty() && options.is_empty();
    matches!(kind, MountKind::Volume { name: None, subpath: None, labels, options, .. } if bare(labels, options))
}

impl Engine {
    /// Whose processes or memory are to be seen must be there. Clients take "not found" for a word on the image.
    fn donors(&self, modes: &NamespaceModes) -> Result<()> {
        let pid = if let PidMode::Container(who) = &modes.pid { Some(who) } else { None };
        let ipc = if let IpcMode::Container(who) = &modes.ipc { Some(who) } else { None };
        for who in pid.into_iter().chain(ipc) {
            self.inner.container(who).map_err(|error| EngineError::invalid(error.to_string()))?;
        }
        Ok(())
    }

    /// Makes a container: its record, folders and files. Nothing runs yet.
    ///
    /// # Errors
    /// [`ErrorClass::Invalid`] for a wrong value, [`ErrorClass::NotFound`] for an unknown image, [`ErrorClass::Conflict`]
    /// for a name that is taken. Nothing is left then.
    pub async fn create(&self, mut spec: ContainerSpec) -> Result<Created> {
        let inner = &self.inner;
        let mut warnings = plan::check(&spec, &inner.host)?;
        plan::mounts::settle(&mut spec.mounts, &inner.config.root)?;
        spec.runtime = inner.runtimes().choose(spec.runtime.take())?;
        // who shares a network is known in it by one name; a container that is not there is asked for at the start, since
        // clients take 404 here for an image that is missing
        if let NetworkMode::Container(who) = &spec.network
            && let Ok(other) = inner.container(who)
        {
            spec.hostname = Some(plan::namespaces::shown_hostname(&other));
            spec.domainname.clone_from(&other.spec.domainname);
        }
        if inner.config.network.absent {
            super::networks::without_default(&mut spec);
        }
        self.donors(&spec.namespaces)?;
        plan::namespaces::pin(&mut spec, |who| inner.container(who).ok().map(|other| other.id.to_string()));
        warnings.extend(self.unsupported_limits(&spec.resources));
        let image = self.wanted_image(&spec)?;
        let process = plan::process::merge(&spec, &image.config)?;
        plan::devices::plan(&spec)?;
        plan::cdi::resolve(&spec.device_requests, &inner.config.cdi_folders)?;
        plan::resources::plan(&spec.resources, Vec::new())?;
        let id = ContainerId::random().map_err(|error| EngineError::internal("cannot make an id", &error))?;
        let endpoints = inner.networks.endpoints(&spec)?;
        if crate::network::names::is_linking(&spec) {
            for text in &spec.links {
                let name = crate::network::names::link_parts(text).0;
                // clients take "not found" for a word on the image, and go to fetch it
                let missing = |error| EngineError::invalid(format!("could not get container for {name}: {error}"));
                inner.container(name).map_err(missing)?;
            }
        }
        let ids = self.ids(&spec)?;
        let mut container = Container {
            name: String::new(),
            image_id: image.id.to_string(),
            process,
            created_ns: crate::clock::now_ns(),
            phase: crate::model::Phase::Created,
            runtime: None,
            finished: None,
            restart_count: 0,
            restarting: false,
            stopped_by_user: false,
            start_again: false,
            stop_untold: false,
            restart_untold: false,
            remove_at_end: false,
            health: None,
            remove_volumes: false,
            anonymous_volumes: Vec::new(),
            volumes: Vec::new(),
            ids,
            endpoints,
            published: net::firewall::Published::new(),
            spec,
            id: id.clone(),
        };
        self.inherit_mounts(&mut container)?;
        inherit(&mut container, &image);
        self.inherit_health(&mut container, &image)?;
        container.name =
            self.reserve_name(container.spec.name.as_deref(), &id).inspect_err(|_| self.release_ids(&container))?;
        let made = match self.make_files(&mut container, &image).await {
            // the record takes the place of the claims
            Ok(_claims) => self.record(&container),
            Err(error) => Err(error),
        };
        if let Err(error) = made {
            self.release_name(&container.name);
            self.release_ids(&container);
            let _ = crate::sweep::folder(&inner.config.paths(&id).dir);
            for volume in &container.anonymous_volumes {
                let _ = inner.remove_volume(volume);
            }
            return Err(error);
        }
        Ok(Created { id, warnings })
    }

    /// The mounts of other containers, but those over what the container has of its own.
    fn inherit_mounts(&self, container: &mut Container) -> Result<()> {
        let own = container.spec.mounts.len();
        for from in container.spec.volumes_from.clone() {
            // clients take "not found" for a word on the image, and go to fetch it
            let other = self.container(&from.container).map_err(|error| EngineError::invalid(error.to_string()))?;
            for mount in &other.spec.mounts {
                let mut mount = mount.clone();
                match &mut mount.kind {
                    MountKind::Volume { name, no_copy, .. } => {
                        let known = other.volumes.iter().find(|volume| volume.target == mount.target);
                        let Some(volume) = known else { continue };
                        (*name, *no_copy) = (Some(volume.name.clone()), true);
                    }
                    MountKind::Bind { .. } => {}
                    _ => continue,
                }
                mount.read_only |= from.read_only;
                match container.spec.mounts.iter().position(|have| have.target == mount.target) {
                    // its own count, but for those that are only to be some volume, and of the others the last
                    Some(at) if at < own && !is_any(&container.spec.mounts[at].kind) => {}
                    Some(at) => container.spec.mounts[at] = mount,
                    None => container.spec.mounts.push(mount),
                }
            }
        }
        Ok(())
    }

    /// Health checks and shells are Docker's words, which the OCI's configuration has no fields for.
    fn inherit_health(&self, container: &mut Container, image: &image::Image) -> Result<()> {
        let bytes = self.inner.images.config_bytes(&image.id).map_err(super::images::wrong)?;
        let unreadable = |error| EngineError::internal("the image's configuration cannot be read", &error);
        let config = image::build::ImageSpec::from_json(&bytes).map_err(unreadable)?.config;
        let of_image = config.healthcheck.map(|health| HealthCheck {
            test: health.test,
            interval_ns: health.interval,
            timeout_ns: health.timeout,
            start_period_ns: health.start_period,
            start_interval_ns: health.start_interval,
            retries: u32::try_from(health.retries).unwrap_or(u32::MAX),
            shell: Vec::new(),
        });
        let asked = container.spec.health.take();
        container.spec.health = health::merge(asked, of_image, &config.shell);
        Ok(())
    }

    /// The image that a container is made from. One of another platform than is asked for counts as missing, so that clients fetch
    /// what they want.
    fn wanted_image(&self, spec: &ContainerSpec) -> Result<image::Image> {
        let (images, name) = (&self.inner.images, &spec.image);
        let missing = |error| super::images::missing(name, error);
        let Some(platform) = &spec.platform else { return images.get(name).map_err(missing) };
        if let Some(image) = images.on_platform(name, platform).map_err(missing)? {
            return Ok(image);
        }
        let actual = images.get(name).map_err(missing)?.platform();
        Err(EngineError::not_found(format!(
            "image with reference {name} was found but does not match the specified platform: wanted {platform}, actual: {actual}"
        )))
    }

    fn unsupported_limits(&self, asked: &Resources) -> Vec<String> {
        let supports = self.inner.cgroups.supports();
        let mut warnings = Vec::new();
        let mut warn = |wanted: bool, has: bool, words: &str| {
            if wanted && !has {
                warnings.push(words.to_owned());
            }
        };
        warn(
            asked.blkio_weight.is_some_and(|weight| weight != 0) || !asked.blkio_weight_device.is_empty(),
            supports.block_weight,
            "Your kernel does not support Block I/O weight or the cgroup is not mounted. Weight discarded.",
        );
        warn(
            asked.memory_swap_bytes.is_some_and(|swap| swap != 0),
            supports.swap,
            "Your kernel does not support swap limit capabilities or the cgroup is not mounted. Memory limited without swap.",
        );
        warn(
            asked.pids_limit.is_some_and(|limit| limit > 0),
            supports.pids,
            "Your kernel does not support pids limit capabilities or the cgroup is not mounted. PIDs limit discarded.",
        );
        warnings
    }

    /// Puts the name into the registry before the slow work, so that two creations cannot both get it.
    fn reserve_name(&self, asked: Option<&str>, id: &ContainerId) -> Result<String> {
        let mut registry = self.inner.registry.write().unwrap_or_else(PoisonError::into_inner);
        let name = match asked {
            Some(name) => {
                let name = names::checked(name)?;
                if let Some(other) = registry.names.get(name) {
                    return Err(EngineError::conflict(format!(
                        "Conflict. The container name \"/{name}\" is already in use by container \"{other}\". You have to remove (or rename) that container to be able to reuse that name."
                    )));
                }
                name.to_owned()
            }
            None => free_name(|name| registry.names.contains_key(name))?,
        };
        registry.names.insert(name.clone(), id.clone());
        Ok(name)
    }

    fn release_name(&self, name: &str) {
        self.inner.registry.write().unwrap_or_else(PoisonError::into_inner).names.remove(name);
    }

    fn release_ids(&self, container: &Container) {
        self.inner.registry.write().unwrap_or_else(PoisonError::into_inner).release_ids(container);
    }

    fn ids(&self, spec: &ContainerSpec) -> Result<Option<IdRange>> {
        let shares = spec.network == NetworkMode::Host || spec.namespaces.pid == PidMode::Host || spec.privileged;
        match spec.namespaces.user {
            UserMode::Host => Ok(None),
            UserMode::Default if shares => Ok(None),
            UserMode::Default => Ok(self.inner.config.userns),
            UserMode::Auto => {
                let mut registry = self.inner.registry.write().unwrap_or_else(PoisonError::into_inner);
                // taken at once, so that two creations cannot both get it
                let mut all = (AUTO_FIRST..AUTO_END).step_by(AUTO_COUNT as usize);
                let first = all.find(|first| registry.ranges.insert(*first)).ok_or_else(|| {
                    EngineError::conflict(
                        "--userns auto: every range of ids is taken; remove containers that are not needed",
                    )
                })?;
                Ok(Some(IdRange { first_uid: first, first_gid: first, count: AUTO_COUNT }))
            }
        }
    }

    async fn make_files(&self, container: &mut Container, image: &image::Image) -> Result<Vec<crate::volume::Claim>> {
        let mut claims = Vec::new();
        if container.spec.mounts.iter().any(|mount| matches!(mount.kind, MountKind::Volume { .. })) {
            let (id, mounts, image) = (container.id.clone(), container.spec.mounts.clone(), image.clone());
            let attached = self.blocking(move |inner| inner.attach_volumes(&id, &mounts, &image)).await?;
            container.volumes = attached.volumes;
            container.anonymous_volumes = attached.anonymous;
            claims = attached.claims;
        }
        let paths = self.inner.config.paths(&container.id);
        let made = crate::files::make(container, &paths, &self.inner.networks.host_gateways());
        made.map(|()| claims).map_err(|error| {
            EngineError::internal(format!("cannot make the files of a container in {}", paths.dir.display()), &error)
        })
    }

    fn record(&self, container: &Container) -> Result<()> {
        let event = self.inner.container_event(container, "create", Vec::new());
        self.inner.store_container(container, std::slice::from_ref(&event))?;
        let container = Arc::new(container.clone());
        let inbox = actor::spawn(&self.inner, Arc::clone(&container), Recovering::No);
        self.inner.registry.write().unwrap_or_else(PoisonError::into_inner).insert(container, inbox);
        self.inner.events.publish(event);
        Ok(())
    }

    /// A container's record by id, unique beginning of an id, or name.
    ///
    /// # Errors
    /// [`ErrorClass::NotFound`], or [`ErrorClass::Invalid`] if the beginning fits more than one.
    pub fn container(&self, who: &str) -> Result<Arc<Container>> {
        self.inner.container(who)
    }

    /// All containers, the newest first.
    #[must_use]
    pub fn containers(&self) -> Vec<Arc<Container>> {
        let registry = self.inner.registry.read().unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<_> = registry.by_id.values().map(|slot| Arc::clone(&slot.container)).collect();
        drop(registry);
        all.sort_by_key(|container| std::cmp::Reverse(container.created_ns));
        all
    }

    /// The names that containers have by links of others: `web/db` for whom `web` knows as `db`.
    #[must_use]
    pub fn linked_names(&self) -> BTreeMap<ContainerId, Vec<String>> {
        let mut names: BTreeMap<ContainerId, Vec<String>> = BTreeMap::new();
        for container in self.containers().iter().filter(|container| crate::network::names::is_linking(&container.spec))
        {
            for text in &container.spec.links {
                let (name, alias) = crate::network::names::link_parts(text);
                if let Ok(other) = self.container(name) {
                    names.entry(other.id.clone()).or_default().push(format!("{}/{alias}", container.name));
                }
            }
        }
        names
    }

    /// Whether a text is a sequence of keys that can detach a terminal.
    ///
    /// # Errors
    /// [`ErrorClass::Invalid`] if it is not.
    pub fn check_detach_keys(&self, text: &str) -> Result<()> {
        crate::keys::parse(Some(text)).map(drop)
    }

    /// Ids of the execs of a container that have not ended.
    #[must_use]
    pub fn execs_of(&self, id: &ContainerId) -> Vec<ExecId> {
        let goes_on = |exec: &&crate::model::Exec| !matches!(exec.state, crate::model::ExecState::Exited { .. });
        let execs = lock(&self.inner.execs);
        execs.values().filter(|exec| exec.container == *id).filter(goes_on).map(|exec| exec.id.clone()).collect()
    }

    /// Runs it; done when its program runs.
    ///
    /// # Errors
    /// [`ErrorClass::NotModified`] if it runs already, [`ErrorClass::Invalid`] if its program cannot be run.
    pub async fn start(&self, who: &str) -> Result<()> {
        self.command(who, Input::Start).await
    }

    /// Asks it to end, kills it after the grace period; done when it has ended.
    ///
    /// # Errors
    /// [`ErrorClass::NotModified`] if it does not run.
    pub async fn stop(&self, who: &str, timeout_s: Option<i64>, signal: Option<&str>) -> Result<()> {
        let container = self.container(who)?;
        let (signal, grace_ms) = ending(&container, timeout_s, signal)?;
        self.command(container.id.as_str(), Input::Stop { signal, grace_ms }).await
    }

    /// Stops and starts it; one that goes with its end stays for once.
    ///
    /// # Errors
    /// As [`Self::stop`] and [`Self::start`].
    pub async fn restart(&self, who: &str, timeout_s: Option<i64>, signal: Option<&str>) -> Result<()> {
        let container = self.container(who)?;
        let (signal, grace_ms) = ending(&container, timeout_s, signal)?;
        self.command(container.id.as_str(), Input::Restart { signal, grace_ms }).await
    }

    /// Sends a signal by name or number, SIGKILL if empty.
    ///
    /// # Errors
    /// [`ErrorClass::Conflict`] if it does not run.
    pub async fn kill(&self, who: &str, signal: &str) -> Result<()> {
        let number = if signal.is_empty() { signal::KILL } else { signal::number(signal)? };
        self.command(who, Input::Kill(number)).await
    }

    /// Freezes all its processes.
    ///
    /// # Errors
    /// [`ErrorClass::Conflict`] if it does not run.
    pub async fn pause(&self, who: &str) -> Result<()> {
        self.command(who, Input::Pause).await
    }

    /// Thaws all its processes.
    ///
    /// # Errors
    /// [`ErrorClass::Conflict`] if it is not paused.
    pub async fn unpause(&self, who: &str) -> Result<()> {
        self.command(who, Input::Unpause).await
    }

    /// Removes it.
    ///
    /// # Errors
    /// [`ErrorClass::Conflict`] if it runs and `force` is not given.
    pub async fn remove(&self, who: &str, how: Remove) -> Result<()> {
        let container = self.container(who)?;
        self.command(container.id.as_str(), Input::Remove { force: how.force, volumes: how.volumes }).await
    }

    /// Takes a link to another container away from it; both containers stay.
    ///
    /// # Errors
    /// [`ErrorClass::NotFound`] if it has none by this name.
    pub async fn unlink(&self, who: &str, alias: &str) -> Result<()> {
        let alias = alias.to_owned();
        self.ask(who, |answer| Ask::Unlink { alias, answer }).await
    }

    /// Gives it another name.
    ///
    /// # Errors
    /// [`ErrorClass::Invalid`] for a wrong name, [`ErrorClass::Conflict`] for one that is taken.
    pub async fn rename(&self, who: &str, new_name: &str) -> Result<()> {
        let container = self.container(who)?;
        if new_name.strip_prefix('/').unwrap_or(new_name) == container.name {
            return Err(EngineError::invalid("Renaming a container with the same name as its current name"));
        }
        let name = self.reserve_name(Some(new_name), &container.id)?;
        let renamed = self.ask(container.id.as_str(), |answer| Ask::Rename { name: name.clone(), answer }).await;
        self.release_name(if renamed.is_ok() { &container.name } else { &name });
        renamed
    }

    /// Changes its limits and its restart policy; what is not set stays.
    ///
    /// # Errors
    /// [`ErrorClass::Invalid`] for wrong values, [`ErrorClass::Conflict`] for a policy where it is removed when it ends.
    pub async fn update(&self, who: &str, change: &Resources, restart: Option<RestartPolicy>) -> Result<Vec<String>> {
        let container = self.container(who)?;
        if container.spec.auto_remove && restart.is_some_and(|policy| policy != RestartPolicy::No) {
            return Err(EngineError::conflict(
                "Restart policy cannot be updated because AutoRemove is enabled for the container",
            ));
        }
        let merged = merged(&container.spec.resources, change);
        let mut warnings = plan::resources::check(&merged, &self.inner.host)?;
        warnings.extend(self.unsupported_limits(change));
        let planned = Box::new(plan::resources::plan(&merged, Vec::new())?);
        let change = Box::new(Changed { resources: merged, restart: restart.unwrap_or(container.spec.restart) });
        self.ask(container.id.as_str(), |answer| Ask::Update { change, planned, answer }).await?;
        Ok(warnings)
    }

    /// Bytes of the files that each container has written, and of all that it sees.
    ///
    /// # Errors
    /// [`ErrorClass::Internal`] if the engine closes meanwhile.
    pub async fn sizes(&self, containers: &[Arc<Container>]) -> Result<Vec<(u64, u64)>> {
        let containers = containers.to_vec();
        self.blocking(move |inner| {
            let one = |container: &Arc<Container>| {
                let written = crate::files::content_bytes(&inner.config.paths(&container.id).dir.join("upper"));
                let below = inner.images.get(&container.image_id).map_or(0, |image| image.size_bytes);
                (written, written + below)
            };
            Ok(containers.iter().map(one).collect())
        })
        .await
    }

    /// Registers a wait; nothing that happens after this returns is missed. The id of a container that was removed at its own
    /// end still says for a while how that was.
    ///
    /// # Errors
    /// [`ErrorClass::NotFound`].
    pub async fn wait(&self, who: &str, until: WaitFor) -> Result<Wait> {
        let (outcome, receiver) = oneshot::channel();
        match self.ask(who, |registered| Ask::Wait { until, outcome, registered }).await {
            Ok(()) => Ok(Wait(receiver)),
            Err(error) => {
                let end = self.inner.remembered_end(who).ok_or(error)?;
                let (outcome, receiver) = oneshot::channel();
                // the receiver is right here
                let _ = outcome.send(end);
                Ok(Wait(receiver))
            }
        }
    }

    /// Gives a client's connection to the container's helper, which serves it from then on. Before the start it is kept.
    /// `ahead` are bytes that were read from it already.
    ///
    /// # Errors
    /// [`ErrorClass::Invalid`] for detach keys that are none.
    pub async fn attach(&self, who: &str, how: Attach, connection: OwnedFd, ahead: Vec<u8>) -> Result<()> {
        let detach_keys = crate::keys::parse(how.detach_keys.as_deref())?;
        let attach = Attachment { connection, streams: how.streams, ahead, detach_keys };
        self.ask(who, |answer| Ask::Attach { attach, answer }).await
    }

    /// Sets the terminal's size.
    ///
    /// # Errors
    /// [`ErrorClass::Conflict`] if it does not run.
    pub async fn resize(&self, who: &str, rows: u16, cols: u16) -> Result<()> {
        let container = self.container(who)?;
        self.ask(who, |answer| Ask::Resize { process: ProcessId::Init, rows, cols, answer }).await?;
        self.tell_container(&container, "resize", vec![("height", rows.to_string()), ("width", cols.to_string())]);
        Ok(())
    }

    /// Tells watchers of something that changes no record.
    pub(crate) fn tell_container(&self, container: &Container, action: &str, words: Vec<(&str, String)>) {
        self.inner.store_event(self.inner.container_event(container, action, words));
    }

    /// Removes the containers of a choice that do not run; their ids and the bytes that came free.
    ///
    /// # Errors
    /// The first failure.
    pub async fn prune_containers(&self, chosen: impl Fn(&Container) -> bool) -> Result<(Vec<ContainerId>, u64)> {
        let mut removed = Vec::new();
        let mut bytes = 0;
        for container in self.containers() {
            if container.is_alive() || container.restarting || !chosen(&container) {
                continue;
            }
            let written = crate::files::content_bytes(&self.paths(&container).dir.join("upper"));
            match self.remove(container.id.as_str(), Remove { force: false, volumes: true }).await {
                Ok(()) => {
                    bytes += written;
                    removed.push(container.id.clone());
                }
                Err(error) if matches!(error.class(), ErrorClass::Conflict | ErrorClass::NotFound) => {}
                Err(error) => return Err(error),
            }
        }
        Ok((removed, bytes))
    }

    async fn command(&self, who: &str, input: Input) -> Result<()> {
        self.ask(who, |answer| Ask::Command(input, answer)).await
    }

    pub(super) async fn ask(&self, who: &str, ask: impl FnOnce(oneshot::Sender<Result<()>>) -> Ask) -> Result<()> {
        let (id, inbox): (ContainerId, mpsc::Sender<Ask>) = self.inner.owner(who)?;
        let (answer, answered) = oneshot::channel();
        let gone = || EngineError::not_found(format!("No such container: {id}"));
        inbox.send(ask(answer)).await.map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }
}

fn free_name(taken: impl Fn(&str) -> bool) -> Result<String> {
    for attempt in 0..64 {
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(|error| EngineError::internal("cannot make a name", &error))?;
        let name = names::made_up(random, attempt);
        if !taken(&name) {
            return Ok(name);
        }
    }
    Err(EngineError::conflict("cannot find a free name; give one with --name"))
}

/// Labels, ports and volumes of the image, below what was asked for.
fn inherit(container: &mut Container, image: &image::Image) {
    let Some(config) = image.config.config() else { return };
    for (key, value) in config.labels().iter().flatten() {
        container.spec.labels.entry(key.clone()).or_insert_with(|| value.clone());
    }
    for port in config.exposed_ports().iter().flatten() {
        if !container.spec.exposed_ports.contains(port) {
            container.spec.exposed_ports.push(port.clone());
        }
    }
    for target in config.volumes().iter().flatten() {
        if !container.spec.mounts.iter().any(|mount| mount.target.trim_end_matches('/') == target.trim_end_matches('/'))
        {
            container.spec.mounts.push(crate::model::Mount {
                target: target.clone(),
                read_only: false,
                kind: MountKind::volume(None),
            });
        }
    }
}

fn merged(old: &Resources, change: &Resources) -> Resources {
    macro_rules! either {
        ($($field:ident),*) => { Resources { $($field: change.$field.clone().or_else(|| old.$field.clone()),)* ..old.clone() } };
    }
    either!(
        memory_bytes,
        memory_swap_bytes,
        memory_reservation_bytes,
        memory_swappiness,
        nano_cpus,
        cpu_shares,
        cpu_period_us,
        cpu_quota_us,
        cpu_rt_period_us,
        cpu_rt_runtime_us,
        cpuset_cpus,
        cpuset_mems,
        pids_limit,
        blkio_weight
    )
}

/// The signal that asks a container to end, and how long it has for it, in milliseconds; none is for ever.
fn ending(container: &Container, timeout_s: Option<i64>, signal: Option<&str>) -> Result<(i32, Option<u64>)> {
    let signal = match signal.filter(|signal| !signal.is_empty()) {
        Some(signal) => signal::number(signal)?,
        None => container.process.stop_signal,
    };
    let grace_s = timeout_s.or(container.spec.stop_timeout_s).unwrap_or(DEFAULT_GRACE_S);
    Ok((signal, u64::try_from(grace_s).ok().map(|seconds| seconds.saturating_mul(1000))))
}
