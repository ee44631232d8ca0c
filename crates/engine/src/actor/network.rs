//! A container's networks over its life: joined with its start, left with its end, and in between as users say.

use super::{Actor, Answer, reply};
use crate::engine::Inner;
use crate::error::{EngineError, ErrorClass, Result};
use crate::model::{
    Container, ContainerId, DEFAULT_NETWORK, Driver, Endpoint, EndpointLink, EndpointRequest, Event, Network,
    NetworkMode,
};
use crate::network::{self, Granted, Leaving, book::Refusal, names::Linked};
use net::NetError;
use net::dns::View;
use net::firewall::{Publication, Published};
use std::collections::BTreeSet;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

/// How many ports of the host may turn out to be in use before a start gives up.
const PORTS_TRIED: usize = 64;

/// What a start needs of the container's networks.
#[derive(Default)]
pub(super) struct Ready {
    /// The namespace, with its links; none where the helper makes it.
    pub(super) netns: Option<OwnedFd>,
    /// The links are to be made when there is a namespace.
    pub(super) later: Option<Later>,
    /// The containers that it has links to.
    pub(super) linked: Vec<Linked>,
}

/// What is left to do with a namespace that belongs to the container's own user namespace, which is not there before it.
#[derive(Debug)]
pub(super) struct Later {
    view: Option<View>,
}

impl Actor {
    /// Gets the container addresses and ports, stores that it has them, and makes its links.
    pub(super) async fn join_networks(&mut self) -> Result<Ready> {
        let spec = &self.container.spec;
        match spec.network {
            NetworkMode::Networks(_) => {}
            NetworkMode::None if self.container.ids.is_none() => {
                // an empty pool is no failure: the helper then makes the namespace itself
                let netns = self.inner.netns.as_ref().and_then(|pool| pool.take().ok());
                return Ok(Ready { netns, ..Ready::default() });
            }
            _ => return Ok(Ready::default()),
        }
        if let Some(leaving) = self.leaving.take() {
            // its own ports and addresses, from the run before
            let _ = leaving.await;
        }
        let linked = self.inner.running_linked(&self.container)?;
        if self.container.endpoints.contains_key(DEFAULT_NETWORK) {
            if self.inner.config.network.absent {
                // as with Docker's daemon: made while there was one, it goes on without
                let mut next = (*self.container).clone();
                next.endpoints.remove(DEFAULT_NETWORK);
                self.commit(next, Vec::new())?;
            } else {
                network::begin_default(&self.inner).await?;
            }
        }
        let granted = self.grant().await?;
        let mut next = (*self.container).clone();
        next.endpoints = granted.endpoints;
        next.published = granted.published;
        let events = self.network_events("connect", &next);
        self.commit(next, events)?;
        let paths = self.inner.config.paths(&self.container.id);
        let view = self.inner.write_names(&self.container, &paths, &linked)?;
        if self.container.ids.is_some() {
            return Ok(Ready { netns: None, later: Some(Later { view }), linked });
        }
        let (inner, container) = (Arc::clone(&self.inner), Arc::clone(&self.container));
        let netns = blocking(move || network::wired(&inner, &container, view)).await?;
        Ok(Ready { netns: Some(netns), later: None, linked })
    }

    /// Makes the links of a container whose namespace has come with its user namespace.
    pub(super) async fn join_late(&self, later: Later, pid: i32) -> Result<()> {
        let (inner, container) = (Arc::clone(&self.inner), Arc::clone(&self.container));
        blocking(move || {
            let namespace = network::namespace_of(pid)?;
            network::wire(&inner, &container, namespace.as_fd(), later.view)
        })
        .await
    }

    /// Addresses and ports; those of containers that are just leaving are waited for, ports that programs of the host
    /// turn out to have are gone round where the user left a choice.
    async fn grant(&self) -> Result<Granted> {
        let mut busy: BTreeSet<Publication> = BTreeSet::new();
        let mut waited = false;
        for _ in 0..PORTS_TRIED {
            let granted = match self.inner.networks.grant(&self.container, &busy) {
                Ok(granted) => granted,
                Err(Refusal::Taken(_)) if !waited => {
                    waited = true;
                    self.inner.networks.settled().await;
                    continue;
                }
                Err(refusal) => return Err(refusal.into()),
            };
            if granted.published.is_empty() {
                return Ok(granted);
            }
            let (inner, id, published) =
                (Arc::clone(&self.inner), self.container.id.clone(), granted.published.clone());
            let reserved = tokio::task::spawn_blocking(move || network::reserve(&inner, &id, &published)).await;
            let Err(error) = reserved.map_err(|error| cut_short(&error))? else { return Ok(granted) };
            self.inner.networks.take_back(&self.container.id, &granted);
            match error {
                NetError::Port { port, .. } if self.may_choose(&port) => {
                    busy.insert(port);
                }
                error => return Err(self.not_reserved(&granted, &error)),
            }
        }
        Err(EngineError::new(ErrorClass::Internal, "every port that was tried is in use by a program of the host"))
    }

    fn may_choose(&self, port: &Publication) -> bool {
        let spec = &self.container.spec;
        let asked = spec.publish.iter().filter(|one| one.port == port.to_port && one.protocol == port.protocol);
        let fixed = asked.filter_map(|one| one.host_ports).any(|(first, last)| first == last && first == port.port);
        !fixed
    }

    fn not_reserved(&self, granted: &Granted, error: &NetError) -> EngineError {
        let NetError::Port { port, reason } = error else {
            return EngineError::internal("cannot publish ports", error);
        };
        let id = granted.endpoints.values().find_map(|endpoint| endpoint.link.as_ref()).map(|link| link.id.as_str());
        let Publication { protocol, to, to_port, .. } = port;
        let at = std::net::SocketAddr::new(port.host_address(), port.port);
        EngineError::new(
            ErrorClass::Internal,
            format!(
                "driver failed programming external connectivity on endpoint {} ({}): failed to bind host port for {at}:{to}:{to_port}/{protocol}: address already in use: {reason}",
                self.container.name,
                id.unwrap_or_default()
            ),
        )
    }

    /// Stores that the container has no links any more, and has them taken away behind the answer.
    pub(super) fn leave_networks(&mut self) {
        if self.container.links().next().is_none() {
            return;
        }
        let events = self.network_events("disconnect", &self.container);
        let joined = self.inner.networks.joined(&self.container);
        let mut next = (*self.container).clone();
        let granted = Granted { endpoints: next.endpoints.clone(), published: std::mem::take(&mut next.published) };
        for endpoint in next.endpoints.values_mut() {
            endpoint.link = None;
        }
        if let Err(error) = self.commit(next, events) {
            tracing::error!(container = %self.container.id, %error, "cannot store that a container left its networks");
        }
        let leaving = Leaving { container: self.container.id.clone(), joined, granted };
        self.leaving = Some(network::leave(&self.inner, leaving));
    }

    fn network_events(&self, action: &str, container: &Container) -> Vec<Event> {
        let joined = self.inner.networks.joined(container);
        joined.iter().map(|one| self.inner.network_event(action, &one.network, Some(&container.id))).collect()
    }

    /// Tells the resolver with which process it goes; nobody waits for it.
    pub(super) fn own_resolver(&self, pid: i32) {
        if self.container.links().next().is_some() {
            let (inner, id): (Arc<Inner>, ContainerId) = (Arc::clone(&self.inner), self.container.id.clone());
            tokio::task::spawn_blocking(move || network::own(&inner, &id, pid));
        }
    }

    pub(super) async fn on_connect(&mut self, network: Arc<Network>, request: EndpointRequest, answer: Answer<()>) {
        let joined = async {
            if network.is_default() && self.container.is_alive() {
                network::begin_default(&self.inner).await?;
            }
            // which may have got other addresses with that
            let network = self.inner.networks.book().by_id(&network.id).cloned().unwrap_or(network);
            self.connect(&network, request).await
        };
        reply(answer, joined.await);
    }

    async fn connect(&mut self, network: &Arc<Network>, request: EndpointRequest) -> Result<()> {
        let container = &self.container;
        let name = &network.spec.name;
        let denied = |text: String| Err(EngineError::new(ErrorClass::Denied, text));
        if network.is_predefined() && !request.aliases.is_empty() {
            return Err(EngineError::invalid(network::ALIAS_HERE));
        }
        match network.spec.driver {
            Driver::Host => {
                return denied(
                    "container cannot be disconnected from host network or connected to host network".into(),
                );
            }
            Driver::None => {
                return denied("container cannot be connected to multiple networks with one of the networks in private (none) mode".into());
            }
            Driver::Bridge | Driver::Macvlan | Driver::Ipvlan => {}
        }
        match &container.spec.network {
            NetworkMode::Networks(_) => {}
            NetworkMode::None => {
                return denied("container cannot be connected to multiple networks with one of the networks in private (none) mode".into());
            }
            NetworkMode::Host | NetworkMode::Container(_) => {
                return denied("container sharing network namespace with another container or host cannot be connected to any other network".into());
            }
        }
        self.inner.networks.check(network, &request)?;
        let mut endpoint = Endpoint { request, link: None };
        if !container.is_alive() {
            // as with Docker's daemon: what was said before is replaced
            let mut next = Container::clone(container);
            next.endpoints.insert(name.clone(), endpoint);
            return self.commit(next, Vec::new());
        }
        if container.endpoints.contains_key(name) {
            return denied(format!("endpoint with name {} already exists in network {name}", container.name));
        }
        let link = match self.inner.networks.grant_one(container, network, &endpoint) {
            Err(Refusal::Taken(_)) => {
                self.inner.networks.settled().await;
                self.inner.networks.grant_one(container, network, &endpoint)?
            }
            outcome => outcome?,
        };
        endpoint.link = Some(link.clone());
        let (before, mut next) = ((*self.container).clone(), (*self.container).clone());
        next.endpoints.insert(name.clone(), endpoint);
        let event = self.inner.network_event("connect", network, Some(&next.id));
        self.commit(next, vec![event])?;
        if let Err(error) = self.make_connection(&link).await {
            tracing::debug!(endpoint = link.id, %error, "cannot connect");
            let endpoints = [(name.clone(), Endpoint { request: EndpointRequest::default(), link: Some(link) })].into();
            self.inner.networks.take_back(&before.id, &Granted { endpoints, published: Published::new() });
            let event = self.inner.network_event("disconnect", network, Some(&before.id));
            self.commit(before, vec![event])?;
            self.renew_names()?;
            return Err(error);
        }
        Ok(())
    }

    /// Makes a running container's new link, and passes its ports on to where its way out is now.
    async fn make_connection(&mut self, link: &EndpointLink) -> Result<()> {
        let view = self.renew_names()?;
        let (inner, container, made) = (Arc::clone(&self.inner), Arc::clone(&self.container), link.clone());
        blocking(move || network::join(&inner, &container, &made, view)).await?;
        let Err(error) = self.move_ports().await else { return Ok(()) };
        let mut without = (*self.container).clone();
        without.endpoints.retain(|_, endpoint| endpoint.link.as_ref() != Some(link));
        let gone = self.inner.networks.joined(&self.container).into_iter().find(|one| one.link.id == link.id);
        if let Some(gone) = gone {
            let inner = Arc::clone(&self.inner);
            blocking(move || network::part(&inner, &without, &gone, None)).await?;
        }
        Err(error)
    }

    /// Passes a running container's ports on to its ways out, where those are others than they were.
    async fn move_ports(&mut self) -> Result<()> {
        let mut busy: BTreeSet<Publication> = BTreeSet::new();
        for _ in 0..PORTS_TRIED {
            let held = self.container.published.clone();
            let mut next = (*self.container).clone();
            next.published = self.inner.networks.republished(&self.container, &busy)?;
            if next.published == held {
                return Ok(());
            }
            let (inner, id, ports) = (Arc::clone(&self.inner), next.id.clone(), next.published.clone());
            let reserved = tokio::task::spawn_blocking(move || network::reserve(&inner, &id, &ports)).await;
            if let Err(error) = reserved.map_err(|error| cut_short(&error))? {
                let granted = Granted { endpoints: next.endpoints.clone(), published: next.published.clone() };
                self.inner.networks.swap_ports(&next.id, &next.published, &held);
                match error {
                    NetError::Port { port, .. } if self.may_choose(&port) => {
                        busy.insert(port);
                        continue;
                    }
                    error => {
                        let (inner, id) = (Arc::clone(&self.inner), self.container.id.clone());
                        // those that it has had all the time were free for nobody else
                        let _ = tokio::task::spawn_blocking(move || network::reserve(&inner, &id, &held)).await;
                        return Err(self.not_reserved(&granted, &error));
                    }
                }
            }
            let (lost, moved) = (held.without(&next.published), next.published.without(&held));
            self.commit(next, Vec::new())?;
            let (inner, container) = (Arc::clone(&self.inner), Arc::clone(&self.container));
            return blocking(move || {
                network::republish(&inner, &container, lost, moved);
                Ok(())
            })
            .await;
        }
        Err(EngineError::new(ErrorClass::Internal, "every port that was tried is in use by a program of the host"))
    }

    pub(super) async fn on_disconnect(&mut self, network: Arc<Network>, answer: Answer<()>) {
        reply(answer, self.disconnect(&network).await);
    }

    /// Forgets the container's place in a network that is no more.
    pub(super) fn on_forget(&mut self, network: &str, answer: Answer<()>) {
        let mut next = (*self.container).clone();
        let known = next.endpoints.remove(network).is_some_and(|endpoint| endpoint.link.is_none());
        let outcome = if known {
            self.commit(next, Vec::new())
        } else {
            let id = &self.container.id;
            let text = format!("container {id} is not connected to the network {network}");
            Err(EngineError::new(ErrorClass::Denied, text))
        };
        reply(answer, outcome);
    }

    async fn disconnect(&mut self, network: &Arc<Network>) -> Result<()> {
        let container = &self.container;
        let name = &network.spec.name;
        match (&container.spec.network, network.spec.driver) {
            (NetworkMode::Host, Driver::Host) => {
                return Err(EngineError::new(
                    ErrorClass::Denied,
                    "container cannot be disconnected from host network or connected to host network",
                ));
            }
            (NetworkMode::None, Driver::None) => {
                // it may join others now
                let mut next = Container::clone(container);
                next.spec.network = NetworkMode::Networks(name.clone());
                return self.commit(next, Vec::new());
            }
            _ => {}
        }
        if !container.endpoints.contains_key(name) {
            return Err(EngineError::new(
                ErrorClass::Denied,
                format!("container {} is not connected to network {name}", container.id),
            ));
        }
        let before = self.inner.networks.joined(container);
        let mut next = Container::clone(container);
        let gone = next.endpoints.remove(name);
        let Some(link) = gone.and_then(|endpoint| endpoint.link) else { return self.commit(next, Vec::new()) };
        let Some(gone) = before.into_iter().find(|one| one.link.id == link.id) else {
            return self.commit(next, Vec::new());
        };
        // ports that were passed on to an address that goes are passed on to one that stays, if there is one
        let held = next.published.clone();
        if let Ok(published) = self.inner.networks.republished(&next, &BTreeSet::new()) {
            next.published = published;
        } else {
            next.published = held.iter().filter(|one| !link.addresses().contains(&one.to)).collect();
            self.inner.networks.swap_ports(&next.id, &held, &next.published);
        }
        let (lost, moved) = (held.without(&next.published), next.published.without(&held));
        let linked = self.inner.linked(&next).unwrap_or_default();
        let view = self.inner.write_names(&next, &self.inner.config.paths(&next.id), &linked)?;
        let (inner, container, parted) = (Arc::clone(&self.inner), next.clone(), gone.clone());
        let outcome = blocking(move || {
            if !lost.is_empty() || !moved.is_empty() {
                network::republish(&inner, &container, lost, moved);
            }
            network::part(&inner, &container, &parted, view)
        })
        .await;
        // not before: a link that no record tells of would stay, with an address that others get
        let event = self.inner.network_event("disconnect", network, Some(&next.id));
        self.commit(next, vec![event])?;
        let endpoints =
            [(network.spec.name.clone(), Endpoint { request: EndpointRequest::default(), link: Some(link) })];
        let granted = Granted { endpoints: endpoints.into(), published: Published::new() };
        self.inner.networks.take_back(&self.container.id, &granted);
        outcome
    }

    /// Forgets a container that it has a link to. A program that runs keeps the variables that it began with.
    pub(super) fn unlink(&mut self, alias: &str) -> Result<()> {
        let mut next = (*self.container).clone();
        next.spec.links.retain(|text| network::names::link_parts(text).1 != alias);
        if next.spec.links.len() == self.container.spec.links.len() {
            let name = &self.container.name;
            return Err(EngineError::not_found(format!("Could not get link: container {name} has no link {alias}")));
        }
        self.commit(next, Vec::new())?;
        if self.container.is_alive() {
            self.renew_names()?;
        }
        Ok(())
    }

    /// Writes the files of a running container's names anew.
    fn renew_names(&self) -> Result<Option<View>> {
        let linked = self.inner.linked(&self.container).unwrap_or_default();
        self.inner.write_names(&self.container, &self.inner.config.paths(&self.container.id), &linked)
    }

    /// A running container has another name now.
    pub(super) fn rename_in_networks(&mut self) {
        if self.container.links().next().is_none() {
            return;
        }
        let mut next = (*self.container).clone();
        for endpoint in next.endpoints.values_mut() {
            if let Some(link) = &mut endpoint.link {
                link.names = network::names::in_network(&self.container, &endpoint.request.aliases);
            }
        }
        if let Err(error) = self.commit(next, Vec::new()) {
            tracing::error!(container = %self.container.id, %error, "cannot store a container's names");
        }
        let (inner, container) = (Arc::clone(&self.inner), Arc::clone(&self.container));
        tokio::task::spawn_blocking(move || network::rename(&inner, &container));
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|error| cut_short(&error))?
}

fn cut_short(error: &tokio::task::JoinError) -> EngineError {
    EngineError::internal("setting up a container's network was cut short", error)
}
