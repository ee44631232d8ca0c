//! What networks have on the host: their links, the kernel's switches, and the helper that is told of everything.

use super::guard::failed;
use super::{has_names, names, wiring};
use crate::engine::Inner;
use crate::error::{EngineError, Result};
use crate::model::{Container, Driver, Network};
use net::dns::{NetworkNames, View};
use net::forwarding::{self, Version};
use net::netd::{Netd, Request};
use net::{Links, NetError};
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use store::Txn;
use sys::socket::ShortPath;

/// Where the kernel's switches are kept that were changed.
const FORWARDING: &str = "forwarding";

/// Tells a helper that is new to us everything. One that a daemon before us started keeps what it has, but for what has
/// gone in between.
fn tell(inner: &Inner, netd: &Netd) -> Result<()> {
    let cannot = |error: NetError| failed("cannot tell the network helper what there is", &error);
    let status = netd.status().map_err(cannot)?;
    let running = inner.running();
    let alive: BTreeSet<&str> = running.iter().map(|container| container.id.as_str()).collect();
    let mut requests = vec![Request::SetRules(inner.rules())];
    let mut zones: BTreeMap<String, NetworkNames> = BTreeMap::new();
    for network in inner.networks.book().networks().filter(|network| has_names(network)) {
        let subnets = network.spec.subnets.iter().filter_map(|asked| asked.subnet).collect();
        zones.insert(network.spec.name.clone(), NetworkNames { subnets, containers: BTreeMap::new() });
    }
    for container in &running {
        for (name, link) in container.links() {
            if let Some(zone) = zones.get_mut(name) {
                zone.containers.insert(container.id.to_string(), names::names(link));
            }
        }
    }
    requests.extend(zones.into_iter().map(|(network, names)| Request::SetNetworkNames { network, names }));
    let gone = |list: &[String]| list.iter().filter(|who| !alive.contains(who.as_str())).cloned().collect::<Vec<_>>();
    requests.extend(gone(&status.owners).into_iter().map(|owner| Request::Release { owner }));
    requests.extend(gone(&status.attached).into_iter().map(|container| Request::Detach { container }));
    let kept = running.iter().filter(|one| !one.published.is_empty() && !status.owners.contains(&one.id.to_string()));
    requests.extend(kept.map(|one| Request::Reserve { owner: one.id.to_string(), ports: one.published.clone() }));
    for request in requests {
        match netd.call(&request, &[]) {
            // somebody else has taken the port while there was no helper; packets go to the container all the same
            Err(NetError::Port { reason, .. }) => tracing::warn!(reason, "a published port is not kept from others"),
            outcome => drop(outcome.map_err(cannot)?),
        }
    }
    let host = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    for container in running.iter().filter(|one| one.pid() > 0 && !status.attached.contains(&one.id.to_string())) {
        let Some(view) = inner.view(container, &host) else { continue };
        if let Err(error) = attach_running(netd, container, view) {
            tracing::warn!(container = %container.id, %error, "a container has no resolver");
        }
    }
    Ok(())
}

pub(super) fn attach_running(netd: &Netd, container: &Container, view: View) -> Result<()> {
    let namespace = namespace_of(container.pid())?;
    let process = process(container.pid());
    let fds: Vec<BorrowedFd<'_>> = [namespace.as_fd()].into_iter().chain(process.iter().map(AsFd::as_fd)).collect();
    let request = Request::Attach { container: container.id.to_string(), view };
    netd.call(&request, &fds).map(drop).map_err(|error| failed("cannot attach a resolver", &error))
}

/// The network namespace of a process.
pub(crate) fn namespace_of(pid: i32) -> Result<OwnedFd> {
    std::fs::File::open(format!("/proc/{pid}/ns/net"))
        .map(OwnedFd::from)
        .map_err(|error| EngineError::internal("cannot open a container's network namespace", &error))
}

pub(super) fn process(pid: i32) -> Option<OwnedFd> {
    let pid = rustix::process::Pid::from_raw(pid)?;
    rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).ok()
}

/// The helper, started and told where need be; blocks.
pub(crate) fn helper(inner: &Arc<Inner>) -> Result<Arc<Netd>> {
    inner.networks.guard.helper(|netd| {
        tell(inner, netd)?;
        mention_foreign_drops();
        let (weak, socket) = (Arc::downgrade(inner), inner.networks.guard.socket().to_owned());
        // a helper that somebody kills is replaced at once, not with the next container
        tokio::runtime::Handle::current().spawn(async move {
            let path = ShortPath::of(&socket);
            if let Ok(path) = &path
                && let Ok(mut stream) = tokio::net::UnixStream::connect(path).await
            {
                let _ = tokio::io::AsyncReadExt::read(&mut stream, &mut [0; 1]).await;
            }
            let Some(inner) = weak.upgrade() else { return };
            if inner.networks.closing.load(Ordering::Relaxed) {
                return;
            }
            tracing::warn!("the network helper has gone; starting another");
            let started = tokio::task::spawn_blocking(move || {
                if let Some(gone) = inner.networks.guard.known() {
                    inner.networks.guard.lost(&gone);
                }
                helper(&inner).map(drop)
            });
            if let Ok(Err(error)) = started.await {
                tracing::error!(%error, "no network helper");
            }
        });
        Ok(())
    })
}

/// A packet has to pass everybody's chains: who looks for one that a firewall dropped finds a hint in the log.
fn mention_foreign_drops() {
    let drops = net::firewall::Firewall::open().and_then(|firewall| firewall.foreign_drops()).unwrap_or_default();
    for one in drops {
        let (table, chain) = (&one.table, &one.chain);
        tracing::warn!(
            "chain {chain} of table {table} drops what it does not know, containers' packets too; see insula doctor"
        );
    }
}

/// Has the helper do something; one that has gone is replaced first.
pub(super) fn call(inner: &Arc<Inner>, request: &Request, fds: &[BorrowedFd<'_>]) -> net::Result<()> {
    let netd = helper(inner).map_err(|error| NetError::Refused(error.to_string()))?;
    match netd.call(request, fds) {
        Err(NetError::Helper { .. }) => {
            inner.networks.guard.lost(&netd);
            let netd = helper(inner).map_err(|error| NetError::Refused(error.to_string()))?;
            netd.call(request, fds).map(drop)
        }
        outcome => outcome.map(drop),
    }
}

/// Has the helper do something if there is one; what it does not do now, it is told when it is new.
pub(crate) fn mention(inner: &Inner, request: &Request) {
    let Some(netd) = inner.networks.guard.known() else { return };
    match netd.call(request, &[]) {
        Ok(_) => {}
        Err(NetError::Helper { .. }) => inner.networks.guard.lost(&netd),
        Err(error) => tracing::warn!(%error, "the network helper refused"),
    }
}

/// Makes a network's links, unless they are there as far as is known; blocks.
pub(crate) fn make(inner: &Inner, links: &Links, network: &Network) -> Result<()> {
    let is_made = || inner.networks.made().contains(&network.id);
    if is_made() {
        return Ok(());
    }
    let _one = inner.networks.making();
    if is_made() {
        return Ok(());
    }
    let cannot = |error: NetError| failed(format!("cannot make network {}", network.spec.name), &error);
    match network.spec.driver {
        Driver::Bridge => {
            let made = links.create_bridge(&wiring::bridge(network, &inner.config.root));
            made.map_err(|error| others_bridge(network, &error).unwrap_or_else(|| cannot(error)))?;
            if let Some(tunnel) = wiring::tunnel(network)
                && links.inspect(&tunnel.name).map_err(cannot)?.is_none()
            {
                links.create_vxlan(&tunnel).map_err(cannot)?;
            }
            if !network.spec.internal && !inner.config.network.leave_forwarding {
                forward(inner, network)?;
            }
        }
        Driver::Macvlan | Driver::Ipvlan => {
            let parent = wiring::parent(network);
            match (&network.spec.link.parent, wiring::tagged(&parent)) {
                (None, _) => links.create_dummy(&parent).map_err(cannot)?,
                (Some(_), Some((below, id))) if links.inspect(&parent).map_err(cannot)?.is_none() => {
                    links.create_vlan(below, id, &parent).map_err(cannot)?;
                }
                (Some(_), _) => links.set_up(&parent).map_err(cannot)?,
            }
        }
        Driver::Host | Driver::None => {}
    }
    inner.networks.made().insert(network.id.clone());
    Ok(())
}

/// What to do about a bridge that is another daemon's.
fn others_bridge(network: &Network, error: &NetError) -> Option<EngineError> {
    let NetError::OwnedBridge { name, .. } = error else { return None };
    let setting = match network.is_default() {
        true => "give this daemon's default network another with --bridge, or \"bridge\" in its configuration file",
        false => "give the network another with -o com.docker.network.bridge.name",
    };
    let text = format!("cannot make network {}: {error}; {setting}", network.spec.name);
    let remedy = format!("if that daemon is gone for good: ip link delete {name}");
    Some(EngineError::conflict(format!("{text}; {remedy}")))
}

/// Lets the host pass packets on, and keeps what its switches said before.
fn forward(inner: &Inner, network: &Network) -> Result<()> {
    let stored = inner.store.get(FORWARDING).and_then(|entry| serde_json::from_slice(&entry.value).ok());
    let mut before: forwarding::Before = stored.unwrap_or_default();
    let known = before.clone();
    for (wanted, version) in [(network.spec.v4, Version::V4), (network.spec.v6, Version::V6)] {
        if wanted {
            let enabled = forwarding::enable(version, &mut before);
            enabled.map_err(|error| failed("cannot let this host pass packets on", &error))?;
        }
    }
    if before != known {
        let json = serde_json::to_vec(&before)
            .map_err(|error| EngineError::internal("cannot write down the kernel's switches", &error))?;
        inner.commit(Txn::new().put(FORWARDING, json))?;
    }
    Ok(())
}

/// Takes a network's links and rules away; blocks.
pub(crate) fn unmake(inner: &Inner, network: &Network) -> Result<()> {
    let _one = inner.networks.making();
    inner.networks.made().remove(&network.id);
    let cannot = |error: NetError| failed(format!("cannot remove the links of network {}", network.spec.name), &error);
    if network.spec.driver == Driver::Bridge {
        mention(inner, &Request::RemoveNetworkRules { bridge: network.link_name() });
    }
    if has_names(network) {
        mention(inner, &Request::RemoveNetworkNames { network: network.spec.name.clone() });
    }
    let mut own = Vec::new();
    own.extend(wiring::tunnel(network).map(|tunnel| tunnel.name));
    match network.spec.driver {
        Driver::Bridge if !network.spec.link.found => own.push(network.link_name()),
        Driver::Macvlan | Driver::Ipvlan if network.spec.link.parent.is_none() => own.push(network.link_name()),
        // a VLAN that was made for it, unless another network came to it since
        Driver::Macvlan | Driver::Ipvlan if !network.spec.link.found => {
            own.extend(network.spec.link.parent.clone().filter(|parent| {
                let same = |other: &Arc<Network>| other.spec.link.parent.as_ref() == Some(parent);
                wiring::tagged(parent).is_some() && !inner.networks.book().networks().any(same)
            }));
        }
        _ => {}
    }
    if own.is_empty() {
        return Ok(());
    }
    let links = Links::open().map_err(cannot)?;
    links.delete(&own.iter().map(String::as_str).collect::<Vec<_>>()).map_err(cannot)
}

/// What a daemon finds when it starts: links of networks, a helper that has gone on, containers that run. Blocks.
pub(crate) fn resume(inner: &Arc<Inner>) {
    let networks: Vec<Arc<Network>> = inner.networks.book().networks().cloned().collect();
    let running = inner.running();
    let used = |network: &Network| running.iter().any(|one| one.links().any(|(_, link)| link.network == network.id));
    let wanted = networks.iter().filter(|one| !one.spec.template && (!one.is_predefined() || used(one)));
    for network in wanted {
        let made = Links::open()
            .map_err(|error| failed("cannot reach the host's links", &error))
            .and_then(|links| make(inner, &links, network));
        if let Err(error) = made {
            tracing::warn!(network = network.spec.name, %error, "a network is not there");
        }
    }
    let any = running.iter().any(|container| container.links().next().is_some());
    let waiting =
        || ShortPath::of(inner.networks.guard.socket()).and_then(std::os::unix::net::UnixStream::connect).is_ok();
    if (any || waiting())
        && let Err(error) = helper(inner)
    {
        tracing::error!(%error, "containers' names and published ports wait for the network helper");
    }
    for container in running.iter().filter(|one| one.pid() > 0 && one.links().next().is_some()) {
        if let Err(error) = super::life::mend(inner, container) {
            tracing::warn!(container = %container.id, %error, "a container's links are not as they should be");
        }
    }
}

/// Before the daemon ends: a helper that nobody needs goes too. Blocks.
pub(crate) fn close(inner: &Inner) {
    inner.networks.closing.store(true, Ordering::Relaxed);
    let needed = inner.running().iter().any(|container| container.links().next().is_some());
    if !needed {
        mention(inner, &Request::Stop);
    }
}
