//! Which namespaces a container gets, joins, or shares with the host.

use super::Surroundings;
use crate::error::{EngineError, Result};
use crate::model::{CgroupMode, Container, ContainerSpec, IpcMode, NetworkMode, PidMode, UserMode, UtsMode};
use oci_spec::runtime::{
    LinuxIdMapping, LinuxIdMappingBuilder, LinuxNamespace, LinuxNamespaceBuilder, LinuxNamespaceType as Type,
};
use std::path::PathBuf;

/// Process ids of the containers whose namespaces are joined.
#[derive(Debug, Clone, Default)]
pub(crate) struct Joins {
    pub(crate) ipc: Option<i32>,
    /// The folder of the host that is its shared memory, if that is not the container's alone.
    pub(crate) shm: Option<PathBuf>,
    pub(crate) pid: Option<i32>,
    pub(crate) network: Option<i32>,
}

/// Checks modes against each other.
///
/// # Errors
/// [`crate::ErrorClass::Invalid`].
pub(crate) fn check(spec: &ContainerSpec) -> Result<()> {
    let modes = &spec.namespaces;
    let shares_host = modes.pid == PidMode::Host || modes.ipc == IpcMode::Host || spec.network == NetworkMode::Host;
    if modes.user == UserMode::Auto && (shares_host || spec.privileged) {
        return Err(EngineError::invalid(
            "--userns auto cannot be combined with --privileged or the host's pid, ipc or network namespace: its root has no rights there",
        ));
    }
    if modes.uts == UtsMode::Host && (spec.hostname.is_some() || spec.domainname.is_some()) {
        return Err(EngineError::invalid("conflicting options: hostname and the UTS mode (--uts host)"));
    }
    if let Some(name) = spec.hostname.as_deref()
        && (name.is_empty()
            || name.len() > 63
            || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte)))
    {
        return Err(EngineError::invalid(format!(
            "invalid hostname {name:?}: letters, digits, dots and hyphens, at most 63"
        )));
    }
    network(spec)?;
    for (key, value) in &spec.sysctls {
        sysctl(spec, key, value)?;
    }
    Ok(())
}

/// What does not go with a network of somebody else's.
fn network(spec: &ContainerSpec) -> Result<()> {
    let conflict = |what: &str| Err(EngineError::invalid(format!("conflicting options: {what}")));
    let container = matches!(spec.network, NetworkMode::Container(_));
    if container && spec.hostname.is_some() {
        return conflict("hostname and the network mode");
    }
    if (container || spec.network == NetworkMode::Host) && !spec.links.is_empty() {
        return conflict(if container {
            "container type network can't be used with links. This would result in undefined behavior"
        } else {
            "host type networking can't be used with links. This would result in undefined behavior"
        });
    }
    if container && (!spec.dns.is_empty() || !spec.dns_search.is_empty() || !spec.dns_options.is_empty()) {
        return conflict("dns and the network mode");
    }
    if container && !spec.extra_hosts.is_empty() {
        return conflict("custom host-to-IP mapping and the network mode");
    }
    if container && (!spec.publish.is_empty() || spec.publish_all) {
        return conflict("port publishing and the container type network mode");
    }
    if container && !spec.exposed_ports.is_empty() {
        return conflict("port exposing and the container type network mode");
    }
    Ok(())
}

/// Only parameters that belong to a namespace of the container's own may be set.
fn sysctl(spec: &ContainerSpec, key: &str, _value: &str) -> Result<()> {
    const IPC: &[&str] = &[
        "kernel.msgmax",
        "kernel.msgmnb",
        "kernel.msgmni",
        "kernel.sem",
        "kernel.shmall",
        "kernel.shmmax",
        "kernel.shmmni",
        "kernel.shm_rmid_forced",
    ];
    let host =
        |what: &str| Err(EngineError::invalid(format!("sysctl '{key}' is not allowed in the host's {what} namespace")));
    if IPC.contains(&key) || key.starts_with("fs.mqueue.") {
        return if spec.namespaces.ipc == IpcMode::Host { host("ipc") } else { Ok(()) };
    }
    if key.starts_with("net.") {
        return if spec.network == NetworkMode::Host { host("network") } else { Ok(()) };
    }
    if key == "kernel.domainname" || key == "kernel.hostname" {
        return if spec.namespaces.uts == UtsMode::Host { host("uts") } else { Ok(()) };
    }
    Err(EngineError::invalid(format!(
        "sysctl '{key}' is not in a separate kernel namespace: it would change the host; only net.*, fs.mqueue.* and the IPC ones of kernel.* can be set"
    )))
}

/// The namespaces of the OCI configuration.
pub(crate) fn plan(container: &Container, around: &Surroundings<'_>) -> Vec<LinuxNamespace> {
    let modes = &container.spec.namespaces;
    let new = |kind| LinuxNamespaceBuilder::default().typ(kind).build().unwrap_or_default();
    let join = |kind, pid: Option<i32>, name: &str| {
        let path = PathBuf::from(format!("/proc/{}/ns/{name}", pid.unwrap_or(0)));
        LinuxNamespaceBuilder::default().typ(kind).path(path).build().unwrap_or_default()
    };
    let mut list = vec![new(Type::Mount), new(Type::Time)];
    match modes.pid {
        PidMode::Private => list.push(new(Type::Pid)),
        PidMode::Container(_) => list.push(join(Type::Pid, around.joins.pid, "pid")),
        PidMode::Host => {}
    }
    match modes.ipc {
        IpcMode::Private | IpcMode::Shareable | IpcMode::None => list.push(new(Type::Ipc)),
        IpcMode::Container(_) => list.push(join(Type::Ipc, around.joins.ipc, "ipc")),
        IpcMode::Host => {}
    }
    match container.spec.network {
        // also where one comes from the pool: it is the container's own, whoever made it
        NetworkMode::None | NetworkMode::Networks(_) => list.push(new(Type::Network)),
        NetworkMode::Container(_) => list.push(join(Type::Network, around.joins.network, "net")),
        NetworkMode::Host => {}
    }
    if modes.uts == UtsMode::Private {
        list.push(new(Type::Uts));
    }
    if modes.cgroup == CgroupMode::Private {
        list.push(new(Type::Cgroup));
    }
    if container.ids.is_some() {
        list.push(new(Type::User));
    }
    list
}

/// One range from 0 on.
pub(crate) fn mapping(first: u32, count: u32) -> Vec<LinuxIdMapping> {
    LinuxIdMappingBuilder::default().container_id(0_u32).host_id(first).size(count).build().into_iter().collect()
}

/// The host name to set, if the container has a UTS namespace of its own.
pub(crate) fn hostname(container: &Container) -> Option<String> {
    match container.spec.namespaces.uts {
        UtsMode::Host => None,
        UtsMode::Private => Some(shown_hostname(container)),
    }
}

/// What the container's files call it.
pub(crate) fn shown_hostname(container: &Container) -> String {
    let spec = &container.spec;
    match (&spec.hostname, &spec.network) {
        (Some(own), _) => own.clone(),
        // who shares the host's network goes by its name
        (None, NetworkMode::Host) => rustix::system::uname().nodename().to_string_lossy().into_owned(),
        (None, _) => container.id.short().to_owned(),
    }
}

/// Writes containers' ids in the place of the names by which their namespaces are asked for: an id stays when the name goes to
/// another. One that is not there keeps its name, and is asked for at the start.
pub(crate) fn pin(spec: &mut ContainerSpec, id_of: impl Fn(&str) -> Option<String>) {
    let pin = |who: &mut String| {
        if let Some(id) = id_of(who) {
            *who = id;
        }
    };
    if let NetworkMode::Container(who) = &mut spec.network {
        pin(who);
    }
    if let IpcMode::Container(who) = &mut spec.namespaces.ipc {
        pin(who);
    }
    if let PidMode::Container(who) = &mut spec.namespaces.pid {
        pin(who);
    }
}
