//! What all containers share.

use super::distribution::Fetching;
use crate::actor::Ask;
use crate::config::Config;
use crate::error::{EngineError, ErrorClass, Result};
use crate::event_log::EventLog;
use crate::model::{
    Container, ContainerId, Event, EventKind, Exec, ExecId, ExecState, Finished, SeccompChoice, UserMode,
};
use crate::network::Networks;
use crate::plan::{self, Host, capabilities};
use crate::runtime::Runtimes;
use crate::zygote::Zygote;
use ::registry::client::Credentials;
use control::SeccompProgram;
use oci_spec::runtime::LinuxSeccomp;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use store::{Durability, Store, Txn};
use tokio::sync::{mpsc, watch};

pub(crate) struct Inner {
    pub(crate) id: String,
    pub(crate) config: Config,
    pub(crate) host: Host,
    pub(crate) store: Store,
    pub(crate) images: image::Store,
    /// How registries are reached now, as nobody.
    distribution: Mutex<Reach>,
    pub(crate) fetching: Fetching,
    pub(crate) cgroups: cgroup::Host,
    pub(crate) netns: Option<net::NetnsPool>,
    /// A folder with the mount points that every container needs, put below its image as the lowest layer.
    pub(crate) skeleton: OwnedFd,
    pub(crate) zygote: Zygote,
    pub(crate) networks: Networks,
    pub(crate) events: EventLog,
    pub(crate) builds: crate::build::Shared,
    pub(crate) stills: crate::copy::Stills,
    pub(crate) claims: Arc<crate::volume::Claims>,
    pub(super) making_volumes: Mutex<()>,
    /// Told when images have come from elsewhere.
    pub(super) taken: Arc<tokio::sync::Notify>,
    pub(super) registry: RwLock<Registry>,
    /// Told when readers are shown another record, or one no more.
    shown: watch::Sender<()>,
    pub(super) execs: Mutex<HashMap<ExecId, Exec>>,
    /// Those of the configuration, until the settings are read again.
    runtimes: Mutex<Arc<Runtimes>>,
    /// Compiled filters by what they were compiled from: a start does not compile.
    seccomp: Mutex<HashMap<(SeccompChoice, Vec<&'static str>), SeccompProgram>>,
    event_keys: Mutex<VecDeque<String>>,
    /// The last containers that were removed at their own end, and how they ended: a client that asks for that right after
    /// the start may come later than the end of a short program.
    departed: Mutex<VecDeque<(ContainerId, Finished)>>,
    /// Tells two events of one nanosecond apart.
    event_number: AtomicU64,
}

/// How registries are reached, and how much at a time.
#[derive(Clone)]
pub(crate) struct Reach {
    pub(crate) client: ::registry::client::Client,
    pub(crate) downloads: Option<usize>,
    pub(crate) uploads: Option<usize>,
}

impl Reach {
    fn new(from: &crate::Distribution) -> Self {
        let client = ::registry::client::Client::new(from.client.clone(), Credentials::None);
        Self { client, downloads: from.downloads, uploads: from.uploads }
    }
}

/// All containers by id and name.
#[derive(Default)]
pub(super) struct Registry {
    pub(super) by_id: BTreeMap<ContainerId, Slot>,
    pub(super) names: HashMap<String, ContainerId>,
    /// The first ids of the ranges that containers have to themselves.
    pub(super) ranges: BTreeSet<u32>,
}

pub(super) struct Slot {
    pub(super) container: Arc<Container>,
    pub(super) inbox: mpsc::Sender<Ask>,
}

/// Containers that went by themselves whose ends are remembered.
const DEPARTED_KEPT: usize = 64;
/// Filters of so many different containers are kept.
const SECCOMP_KEPT: usize = 64;

pub(super) const CONTAINERS: &str = "container/";
pub(super) const EVENTS: &str = "event/";
pub(super) const VOLUMES: &str = "volume/";

pub(super) struct Parts {
    pub(super) id: String,
    pub(super) config: Config,
    pub(super) host: Host,
    pub(super) store: Store,
    pub(super) images: image::Store,
    pub(super) cgroups: cgroup::Host,
    pub(super) netns: Option<net::NetnsPool>,
    pub(super) skeleton: OwnedFd,
}

impl Inner {
    pub(super) fn new(parts: Parts) -> Self {
        let Parts { id, config, host, store, images, cgroups, netns, skeleton } = parts;
        let zygote = Zygote::new(&config.shim);
        let networks = Networks::new(&config);
        let runtimes = Mutex::new(Arc::new(config.runtimes.clone()));
        let distribution = Mutex::new(Reach::new(&config.distribution));
        let past = store.range(EVENTS);
        let keys = past.iter().map(|entry| entry.key.clone()).collect();
        let events = past.iter().filter_map(|entry| serde_json::from_slice(&entry.value).ok()).collect();
        Self {
            id,
            config,
            host,
            store,
            images,
            distribution,
            fetching: Fetching::default(),
            cgroups,
            netns,
            skeleton,
            networks,
            zygote,
            events: EventLog::new(events),
            builds: crate::build::Shared::default(),
            stills: crate::copy::Stills::default(),
            claims: Arc::default(),
            making_volumes: Mutex::default(),
            taken: Arc::default(),
            registry: RwLock::default(),
            shown: watch::Sender::new(()),
            execs: Mutex::default(),
            runtimes,
            seccomp: Mutex::default(),
            event_keys: Mutex::new(keys),
            departed: Mutex::default(),
            event_number: AtomicU64::new(0),
        }
    }

    /// By id, unique beginning of an id, or name.
    pub(crate) fn container(&self, who: &str) -> Result<Arc<Container>> {
        let registry = self.registry.read().unwrap_or_else(PoisonError::into_inner);
        registry.find(who).map(|slot| Arc::clone(&slot.container))
    }

    /// All containers.
    pub(crate) fn all_containers(&self) -> Vec<Arc<Container>> {
        let registry = self.registry.read().unwrap_or_else(PoisonError::into_inner);
        registry.by_id.values().map(|slot| Arc::clone(&slot.container)).collect()
    }

    pub(super) fn owner(&self, who: &str) -> Result<(ContainerId, mpsc::Sender<Ask>)> {
        let registry = self.registry.read().unwrap_or_else(PoisonError::into_inner);
        registry.find(who).map(|slot| (slot.container.id.clone(), slot.inbox.clone()))
    }

    /// Shows the newest record to readers.
    pub(crate) fn publish(&self, container: &Arc<Container>) {
        let mut registry = self.registry.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = registry.by_id.get_mut(&container.id) {
            slot.container = Arc::clone(container);
        }
        drop(registry);
        self.shown.send_replace(());
    }

    /// Returns as soon as the records that readers are shown are so.
    pub(crate) async fn until(&self, mut so: impl FnMut() -> bool) {
        // the sender is ours: it is not gone while we wait
        let _ = self.shown.subscribe().wait_for(|()| so()).await;
    }

    /// Stores a record with the events that tell of it, in one transaction.
    pub(crate) fn store_container(&self, container: &Container, events: &[Event]) -> Result<()> {
        let json =
            serde_json::to_vec(container).map_err(|error| EngineError::internal("cannot write the record", &error))?;
        let txn = Txn::new().put(container_key(&container.id), json);
        self.commit(self.with_events(txn, events)?)
    }

    /// Stores events, and a record if it has changed.
    pub(crate) fn store_change(&self, container: Option<&Container>, events: &[Event]) -> Result<()> {
        match container {
            Some(container) => self.store_container(container, events),
            None => self.commit(self.with_events(Txn::new(), events)?),
        }
    }

    /// Remembers how a container ended that goes by itself.
    pub(crate) fn remember_end(&self, id: ContainerId, end: Finished) {
        let mut departed = lock(&self.departed);
        if departed.len() >= DEPARTED_KEPT {
            departed.pop_front();
        }
        departed.push_back((id, end));
    }

    /// How a container ended that went by itself a while ago.
    pub(super) fn remembered_end(&self, id: &str) -> Option<Finished> {
        lock(&self.departed).iter().find(|(departed, _)| departed.as_str() == id).map(|(_, end)| end.clone())
    }

    /// Removes a record; the volumes that the container leaves are there for their own sake from then on.
    pub(crate) fn forget_container(&self, container: &Container, event: &Event) -> Result<()> {
        let txn = self.with_volumes_left(Txn::new().delete(container_key(&container.id)), container)?;
        self.commit(self.with_events(txn, std::slice::from_ref(event))?)?;
        let mut registry = self.registry.write().unwrap_or_else(PoisonError::into_inner);
        registry.by_id.remove(&container.id);
        registry.release_ids(container);
        registry.names.retain(|_, id| *id != container.id);
        drop(registry);
        self.shown.send_replace(());
        Ok(())
    }

    /// An event about a container.
    pub(crate) fn container_event(&self, container: &Container, action: &str, words: Vec<(&str, String)>) -> Event {
        let mut attributes: BTreeMap<String, String> = container.spec.labels.clone();
        attributes.insert("image".into(), container.spec.image.clone());
        attributes.insert("name".into(), container.name.clone());
        attributes.extend(words.into_iter().map(|(key, value)| (key.to_owned(), value)));
        self.events.event(EventKind::Container, action, container.id.as_str(), attributes)
    }

    /// An event that belongs to no container's record.
    pub(crate) fn store_event(&self, event: Event) {
        let stored = self.with_events(Txn::new(), std::slice::from_ref(&event)).and_then(|txn| self.commit(txn));
        if let Err(error) = stored {
            tracing::error!(%error, "cannot store an event");
        }
        self.events.publish(event);
    }

    pub(super) fn with_events(&self, mut txn: Txn, events: &[Event]) -> Result<Txn> {
        let mut keys = lock(&self.event_keys);
        for event in events {
            let json =
                serde_json::to_vec(event).map_err(|error| EngineError::internal("cannot write an event", &error))?;
            // what happened is no part of it: the action of an exec is a command line, which may be long
            let number = self.event_number.fetch_add(1, Ordering::Relaxed);
            let key = format!("{EVENTS}{:020}-{}-{number}", event.at_ns, event.id.get(..12).unwrap_or_default());
            txn = txn.put(key.clone(), json);
            keys.push_back(key);
            if keys.len() > crate::event_log::KEPT
                && let Some(oldest) = keys.pop_front()
            {
                txn = txn.delete(oldest);
            }
        }
        Ok(txn)
    }

    /// What users were told survives a killed daemon at once and a power cut a moment later.
    pub(crate) fn commit(&self, txn: Txn) -> Result<()> {
        self.store
            .commit(txn.durability(Durability::Process))
            .map(|_| ())
            .map_err(|error| EngineError::internal("cannot store the new state", &error))
    }

    pub(super) fn flush(&self) -> Result<()> {
        // stays where containers go on
        let _ = self.cgroups.release(&self.config.cgroup_parent);
        self.store.flush().map_err(|error| EngineError::internal("cannot bring the state to the disk", &error))
    }

    /// The compiled seccomp filter of a container.
    pub(crate) fn seccomp(&self, container: &Container) -> Result<Option<SeccompProgram>> {
        let spec = &container.spec;
        let choice = &spec.security.seccomp;
        if *choice == SeccompChoice::Unconfined || (spec.privileged && *choice == SeccompChoice::Default) {
            return Ok(None);
        }
        let names = capabilities::effective(spec, &self.host)?;
        let key = (choice.clone(), names.clone());
        if let Some(program) = lock(&self.seccomp).get(&key) {
            return Ok(Some(program.clone()));
        }
        let program = plan::security::compile(choice, &names)?;
        let mut kept = lock(&self.seccomp);
        if kept.len() >= SECCOMP_KEPT {
            kept.clear();
        }
        kept.insert(key, program.clone());
        Ok(Some(program))
    }

    /// The profile behind [`Self::seccomp`], for runtimes that compile themselves.
    pub(crate) fn seccomp_profile(&self, container: &Container) -> Result<Option<LinuxSeccomp>> {
        let spec = &container.spec;
        let choice = &spec.security.seccomp;
        if *choice == SeccompChoice::Unconfined || (spec.privileged && *choice == SeccompChoice::Default) {
            return Ok(None);
        }
        plan::security::profile(choice, &capabilities::effective(spec, &self.host)?).map(Some)
    }

    pub(crate) fn runtimes(&self) -> Arc<Runtimes> {
        Arc::clone(&lock(&self.runtimes))
    }

    /// How registries are reached.
    pub(crate) fn reach(&self) -> Reach {
        lock(&self.distribution).clone()
    }

    pub(super) fn set_distribution(&self, distribution: &crate::Distribution) {
        *lock(&self.distribution) = Reach::new(distribution);
    }

    pub(super) fn set_runtimes(&self, runtimes: Runtimes) {
        *lock(&self.runtimes) = Arc::new(runtimes);
    }

    pub(crate) fn cgroup_version(&self) -> &'static str {
        match self.cgroups.version() {
            cgroup::Version::V1 | cgroup::Version::Hybrid => "1",
            cgroup::Version::V2 => "2",
        }
    }

    pub(crate) fn set_exec(&self, id: &str, state: ExecState) {
        if let Some(exec) = lock(&self.execs).get_mut(&ExecId::known(id)) {
            exec.state = state;
        }
    }

    /// Execs that still ran when their container ended were killed with it.
    pub(crate) fn end_execs(&self, container: &ContainerId) {
        for exec in lock(&self.execs).values_mut().filter(|exec| exec.container == *container) {
            if matches!(exec.state, ExecState::Starting | ExecState::Running { .. }) {
                exec.state = ExecState::Exited { code: 137 };
            }
        }
    }

    pub(super) fn execs(&self) -> MutexGuard<'_, HashMap<ExecId, Exec>> {
        lock(&self.execs)
    }
}

impl Registry {
    /// Gives a container's own range of ids back.
    pub(super) fn release_ids(&mut self, container: &Container) {
        if let (UserMode::Auto, Some(ids)) = (&container.spec.namespaces.user, container.ids) {
            self.ranges.remove(&ids.first_uid);
        }
    }

    fn find(&self, who: &str) -> Result<&Slot> {
        let bare = who.strip_prefix('/').unwrap_or(who);
        if let Some(slot) = self.by_id.get(&ContainerId::known(bare)) {
            return Ok(slot);
        }
        if let Some(slot) = self.names.get(bare).and_then(|id| self.by_id.get(id)) {
            return Ok(slot);
        }
        let missing = || EngineError::not_found(format!("No such container: {who}"));
        // by a link: the name of the one that has it, and what it calls the other
        if let Some((parent, alias)) = bare.split_once('/') {
            let parent = self.find(parent).map_err(|_| missing())?;
            let mut links = parent.container.spec.links.iter().map(|text| crate::network::names::link_parts(text));
            let (name, _) = links.find(|(_, known)| *known == alias).ok_or_else(missing)?;
            return self.find(name);
        }
        if bare.is_empty() || !bare.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(missing());
        }
        let mut matching =
            self.by_id.range(ContainerId::known(bare)..).take_while(|(id, _)| id.as_str().starts_with(bare));
        match (matching.next(), matching.next()) {
            (Some((_, slot)), None) => Ok(slot),
            (Some(_), Some(_)) => Err(EngineError::new(
                ErrorClass::Invalid,
                format!("Multiple IDs found with provided prefix: {who}; give more of the id"),
            )),
            _ => Err(missing()),
        }
    }
}

pub(super) fn container_key(id: &ContainerId) -> String {
    format!("{CONTAINERS}{id}")
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
