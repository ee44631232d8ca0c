//! What a container's start, its end and what users do in between change: namespaces, links, names and ports.

use super::guard::failed;
use super::host::{attach_running, call, helper, make, mention, namespace_of, process};
use super::wiring::{self, Joined};
use super::{Granted, has_names, names};
use crate::config::Paths;
use crate::engine::Inner;
use crate::error::{EngineError, Result};
use crate::model::{Container, ContainerId, DEFAULT_NETWORK, EndpointLink};
use net::dns::View;
use net::firewall::Published;
use net::netd::Request;
use net::{Links, NetError, Rate};
use std::collections::BTreeSet;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

/// The file of the kernel by which packets that a bridge passes on meet the packet filter.
const BRIDGED_PACKETS: &str = "/proc/sys/net/bridge/bridge-nf-call-iptables";

/// Keeps a container's ports from other programs of the host; blocks.
///
/// # Errors
/// [`NetError::Port`] for one that a program has.
pub(crate) fn reserve(inner: &Arc<Inner>, container: &ContainerId, published: &Published) -> net::Result<()> {
    call(inner, &Request::Reserve { owner: container.to_string(), ports: published.clone() }, &[])
}

/// Passes ports on to another address of a running container, or no more; `container` has all that it is to have. Blocks.
pub(crate) fn republish(inner: &Inner, container: &Container, lost: Published, moved: Published) {
    let mut requests = vec![Request::Unpublish(lost)];
    if container.published.is_empty() {
        requests.push(Request::Release { owner: container.id.to_string() });
    } else {
        // what carries connections itself has to know the new address as well
        let (owner, ports) = (container.id.to_string(), container.published.clone());
        requests.extend([Request::Publish(moved), Request::Reserve { owner, ports }]);
    }
    mention(inner, &Request::All(requests));
}

/// A namespace with a container's links in it, its names known and its ports reachable; blocks.
///
/// # Errors
/// As [`wire`].
pub(crate) fn wired(inner: &Arc<Inner>, container: &Container, view: Option<View>) -> Result<OwnedFd> {
    let failed = |error: NetError| EngineError::internal("cannot make a network namespace", &error);
    let namespace = match &inner.netns {
        Some(pool) => pool.take().map_err(failed)?,
        None => net::create_netns().map_err(failed)?,
    };
    wire(inner, container, namespace.as_fd(), view)?;
    Ok(namespace)
}

/// Sees to it that the default network is there, before a container gets an address of it.
///
/// # Errors
/// Its links can't be made, or no subnet is left for it.
pub(crate) async fn begin_default(inner: &Arc<Inner>) -> Result<()> {
    let Some(network) = inner.networks.book().by_name(DEFAULT_NETWORK).cloned() else { return Ok(()) };
    if inner.networks.made().contains(&network.id) {
        return Ok(());
    }
    let inner = Arc::clone(inner);
    let made = tokio::task::spawn_blocking(move || inner.make_default(&network)).await;
    made.map_err(|error| EngineError::internal("making the default network was cut short", &error))?
}

/// Gives a container that no record is kept of its networks, for as long as it runs: the namespace, and what to
/// [`leave`].
///
/// # Errors
/// What there is not, or could not be made; nothing is left then.
pub(crate) async fn join_passing(
    inner: &Arc<Inner>,
    container: &mut Container,
    paths: &Paths,
) -> Result<(OwnedFd, Leaving)> {
    container.endpoints = inner.networks.endpoints(&container.spec)?;
    if container.endpoints.contains_key(DEFAULT_NETWORK) {
        begin_default(inner).await?;
    }
    let granted = inner.networks.grant(container, &BTreeSet::new())?;
    container.endpoints.clone_from(&granted.endpoints);
    let leaving = || Leaving {
        container: container.id.clone(),
        joined: inner.networks.joined(container),
        granted: granted.clone(),
    };
    let wired = async {
        let view = inner.write_names(container, paths, &[])?;
        let (shared, container) = (Arc::clone(inner), container.clone());
        let wired = tokio::task::spawn_blocking(move || wired(&shared, &container, view)).await;
        wired.map_err(|error| EngineError::internal("setting up a network was cut short", &error))?
    };
    match wired.await {
        Ok(namespace) => Ok((namespace, leaving())),
        Err(error) => {
            drop(leave(inner, leaving()));
            Err(error)
        }
    }
}

/// Makes a container's links in its namespace, its names known and its ports reachable; blocks.
///
/// # Errors
/// What could not be made; what was made goes with the namespace and with [`leave`].
pub(crate) fn wire(
    inner: &Arc<Inner>,
    container: &Container,
    namespace: BorrowedFd<'_>,
    view: Option<View>,
) -> Result<()> {
    let joined = inner.networks.joined(container);
    let host = Links::open().map_err(|error| failed("cannot reach the host's links", &error))?;
    for (one, out) in joined.iter().zip(wiring::ways_out(&joined)) {
        connect(inner, &host, container, one, out, namespace)?;
    }
    let mut requests = Vec::new();
    if !container.published.is_empty() {
        requests.push(Request::Publish(container.published.clone()));
    }
    requests.extend(joined.iter().filter_map(|one| set_names(container, one)));
    let fds = if view.is_some() { vec![namespace] } else { Vec::new() };
    requests.extend(view.map(|view| Request::Attach { container: container.id.to_string(), view }));
    if requests.is_empty() {
        helper(inner)?;
    } else {
        let told = call(inner, &Request::All(requests), &fds);
        told.map_err(|error| failed("cannot set up names and ports", &error))?;
    }
    tell_linked(inner, container);
    Ok(())
}

/// Tells running containers that have links to one where it is now.
fn tell_linked(inner: &Inner, container: &Container) {
    let means = |text: &String| {
        let (name, _) = names::link_parts(text);
        name == container.name || (!name.is_empty() && container.id.as_str().starts_with(name))
    };
    for other in inner.running() {
        let through_names = other.endpoints.values().any(|endpoint| endpoint.request.links.iter().any(means));
        if other.pid() == 0 || !(through_names || other.spec.links.iter().any(means)) {
            continue;
        }
        let linked = inner.linked(&other).unwrap_or_default();
        match inner.write_names(&other, &inner.config.paths(&other.id), &linked) {
            Ok(Some(view)) => mention(inner, &Request::SetView { container: other.id.to_string(), view }),
            Ok(None) => {}
            Err(error) => {
                tracing::warn!(container = %other.id, %error, "a container does not hear of a link's other end")
            }
        }
    }
}

fn set_names(container: &Container, joined: &Joined) -> Option<Request> {
    has_names(&joined.network).then(|| Request::SetNames {
        network: joined.network.spec.name.clone(),
        container: container.id.to_string(),
        names: names::names(&joined.link),
    })
}

/// Makes one link of a container; blocks.
pub(crate) fn connect(
    inner: &Inner,
    host: &Links,
    container: &Container,
    joined: &Joined,
    out: wiring::WayOut,
    namespace: BorrowedFd<'_>,
) -> Result<()> {
    let hairpin = !container.published.is_empty() && std::fs::exists(BRIDGED_PACKETS).unwrap_or(false);
    let spec = wiring::link(joined, out, hairpin);
    make(inner, host, &joined.network)?;
    let connected = match host.connect(namespace, &spec) {
        Err(NetError::NoLink { .. }) => {
            // somebody has deleted what we knew to be there
            inner.networks.made().remove(&joined.network.id);
            make(inner, host, &joined.network)?;
            host.connect(namespace, &spec)
        }
        outcome => outcome,
    };
    connected.map_err(|error| {
        failed(format!("failed to set up container networking: network {}", joined.network.spec.name), &error)
    })
}

/// Tells the helper with which process a container's resolver goes; blocks.
pub(crate) fn own(inner: &Inner, container: &ContainerId, pid: i32) {
    if let (Some(netd), Some(process)) = (inner.networks.guard.known(), process(pid)) {
        // it goes with the container's end as well, if the daemon is there to see it
        let _ = netd.call(&Request::SetOwner { container: container.to_string() }, &[process.as_fd()]);
    }
}

/// What a container leaves when it has ended.
pub(crate) struct Leaving {
    pub(crate) container: ContainerId,
    pub(crate) joined: Vec<Joined>,
    pub(crate) granted: Granted,
}

/// Takes a container's rules and names away, then gives back its addresses and ports, all off the runtime's threads.
pub(crate) fn leave(inner: &Arc<Inner>, leaving: Leaving) -> tokio::task::JoinHandle<()> {
    let inner = Arc::clone(inner);
    inner.networks.leaving.send_modify(|count| *count += 1);
    tokio::task::spawn_blocking(move || {
        let owner = leaving.container.to_string();
        let mut requests = Vec::new();
        if !leaving.granted.published.is_empty() {
            requests.push(Request::Unpublish(leaving.granted.published.clone()));
            requests.push(Request::Release { owner: owner.clone() });
        }
        for one in leaving.joined.iter().filter(|one| has_names(&one.network)) {
            requests.push(Request::RemoveNames { network: one.network.spec.name.clone(), container: owner.clone() });
        }
        requests.push(Request::Detach { container: owner });
        mention(&inner, &Request::All(requests));
        for one in &leaving.joined {
            let rate = wiring::rate(&one.network, &one.endpoint);
            if rate != Rate::default()
                && let Err(error) = Links::open().and_then(|links| links.clear_limits(&one.link.near()))
            {
                tracing::warn!(%error, "a container's limits are left");
            }
        }
        inner.networks.take_back(&leaving.container, &leaving.granted);
        inner.networks.leaving.send_modify(|count| *count -= 1);
    })
}

/// Makes a running container's link in one more network; blocks.
///
/// # Errors
/// What could not be made; nothing of it is left.
pub(crate) fn join(inner: &Arc<Inner>, container: &Container, link: &EndpointLink, view: Option<View>) -> Result<()> {
    let joined = inner.networks.joined(container);
    let ways = wiring::ways_out(&joined);
    let Some((one, out)) = joined.iter().zip(&ways).find(|(one, _)| one.link.id == link.id) else { return Ok(()) };
    let namespace = namespace_of(container.pid())?;
    let host = Links::open().map_err(|error| failed("cannot reach the host's links", &error))?;
    connect(inner, &host, container, one, *out, namespace.as_fd())?;
    let requests: Vec<Request> = set_names(container, one).into_iter().collect();
    if !requests.is_empty() {
        call(inner, &Request::All(requests), &[]).map_err(|error| failed("cannot set up names", &error))?;
    }
    attach(inner, container, view)
}

/// Makes what links of a running container are not there: a daemon may have been killed between the record and the link, or the link's end
/// and the record. Blocks.
///
/// # Errors
/// What could not be made.
pub(crate) fn mend(inner: &Inner, container: &Container) -> Result<()> {
    let joined = inner.networks.joined(container);
    let namespace = namespace_of(container.pid())?;
    let cannot = |error: NetError| failed("cannot look at a container's links", &error);
    let (host, inside) = (Links::open().map_err(cannot)?, Links::open_in(namespace.as_fd()).map_err(cannot)?);
    for (one, out) in joined.iter().zip(wiring::ways_out(&joined)) {
        // addresses and routes come in the same call as this
        if inside.inspect(&one.link.name).map_err(cannot)?.is_some_and(|link| link.up) {
            continue;
        }
        tracing::info!(container = %container.id, network = one.network.spec.name, "finishing an interrupted connection");
        let spec = wiring::link(one, out, false);
        host.disconnect(namespace.as_fd(), &spec).map_err(cannot)?;
        connect(inner, &host, container, one, out, namespace.as_fd())?;
    }
    Ok(())
}

/// Takes a running container's link away; `container` is without it already. Blocks.
///
/// # Errors
/// What the kernel answered.
pub(crate) fn part(inner: &Arc<Inner>, container: &Container, gone: &Joined, view: Option<View>) -> Result<()> {
    let owner = container.id.to_string();
    if has_names(&gone.network) {
        let network = gone.network.spec.name.clone();
        mention(inner, &Request::RemoveNames { network, container: owner });
    }
    let namespace = namespace_of(container.pid())?;
    let cannot = |error: NetError| failed(format!("cannot leave network {}", gone.network.spec.name), &error);
    let spec = wiring::link(gone, wiring::WayOut::default(), false);
    Links::open().and_then(|host| host.disconnect(namespace.as_fd(), &spec)).map_err(cannot)?;
    let joined = inner.networks.joined(container);
    let inside = Links::open_in(namespace.as_fd()).map_err(cannot)?;
    // the way out may have gone with the link
    for (one, out) in joined.iter().zip(wiring::ways_out(&joined)) {
        for route in wiring::routes(one, out) {
            inside.add_route(&one.link.name, route.to, route.via).map_err(cannot)?;
        }
    }
    attach(inner, container, view)
}

/// Tells the helper a running container's names; blocks.
pub(crate) fn rename(inner: &Inner, container: &Container) {
    for request in inner.networks.joined(container).iter().filter_map(|one| set_names(container, one)) {
        mention(inner, &request);
    }
}

/// Gives a running container a resolver, or changes what it may ask the one it has.
fn attach(inner: &Arc<Inner>, container: &Container, view: Option<View>) -> Result<()> {
    let Some(view) = view else { return Ok(()) };
    let netd = helper(inner)?;
    let change = Request::SetView { container: container.id.to_string(), view: view.clone() };
    match netd.call(&change, &[]) {
        Err(NetError::Refused(_)) => attach_running(&netd, container, view),
        outcome => outcome.map(drop).map_err(|error| failed("cannot set up names", &error)),
    }
}
