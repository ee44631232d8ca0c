//! What the Docker Engine API is asked for: containers, networks and volumes as docker compose makes them, under its names and
//! with its labels, so that either can go on with what the other has made.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::hash;
use crate::project::{
    Attachment, DeviceRequest, Mount, NetworkSpec, Pairs, Port, Project, Resource, Service, VolumeSpec,
};

mod host;
pub mod label;

pub use host::{Injected, injected};

/// The version of docker compose whose names, labels and hashes these are.
pub const VERSION: &str = "2.40.3";

/// What only the daemon knows about what a container needs.
#[derive(Debug, Clone, Default)]
pub struct Found {
    /// The image's id.
    pub image: String,
    /// The containers of other services whose namespaces, volumes or names are used: service, and its containers' ids and names.
    pub services: BTreeMap<String, Vec<(String, String)>>,
    /// Volumes without a name that a former container has left: target in the container, and volume.
    pub volumes: BTreeMap<String, String>,
}

/// Which of a service's containers is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Which {
    /// One that belongs to the service, by its number from 1.
    Number(usize),
    /// One for a single program, by a word that nobody else has.
    OneOff(String),
}

/// A container as it is to be made.
#[derive(Debug, Clone)]
pub struct Container {
    /// Its name.
    pub name: String,
    /// The body of `POST /containers/create`.
    pub body: Value,
    /// The networks to join beside the first one: name, and the body's `EndpointConfig`.
    pub networks: Vec<(String, Value)>,
    /// The platform of the image, if the file names one.
    pub platform: Option<String>,
}

/// The name of a service's container.
#[must_use]
pub fn container_name(project: &Project, service: &Service, which: &Which) -> String {
    let (name, separator) = (&project.name, project.separator);
    match (which, &service.spec.container_name) {
        (Which::Number(_), Some(name)) => name.clone(),
        (Which::Number(number), None) => format!("{name}{separator}{}{separator}{number}", service.name),
        (Which::OneOff(word), _) => format!("{name}{separator}{}{separator}run{separator}{word}", service.name),
    }
}

/// A service in which the names of other services are replaced with their containers, because a container's hash depends on it.
#[must_use]
pub fn resolved(service: &Service, found: &Found) -> Service {
    let id = |name: &str| found.services.get(name).and_then(|list| list.first()).map(|(id, _)| id.clone());
    let mut node = service.node.clone();
    for field in ["network_mode", "ipc", "pid"] {
        let other = node.text_of(field).and_then(|mode| mode.strip_prefix("service:")).and_then(id);
        if let (Some(id), Some(map)) = (other, node.as_map_mut())
            && let Some(mode) = map.get_mut(field)
        {
            mode.value = crate::node::Value::Text(format!("container:{id}"));
        }
    }
    if let Some(from) = node.as_map_mut().and_then(|map| map.get_mut("volumes_from"))
        && let crate::node::Value::List(list) = &mut from.value
    {
        for element in list {
            let Some(text) = element.as_text().map(str::to_owned) else { continue };
            let (name, mode) = text.split_once(':').map_or((text.as_str(), ""), |(name, mode)| (name, mode));
            let resolved = match (name, id(name)) {
                ("container", _) => mode.to_owned(),
                (_, Some(id)) if mode.is_empty() => id,
                (_, Some(id)) => format!("{id}:{mode}"),
                (_, None) => continue,
            };
            element.value = crate::node::Value::Text(resolved);
        }
    }
    let Ok(mut resolved) = Service::new(&service.name, node) else { return service.clone() };
    // the user may have asked for another number than the file
    resolved.spec.scale = service.spec.scale;
    resolved
}

/// A container of a service, which was [`resolved`].
///
/// # Errors
/// A setting that the Docker Engine API has no word for: its field, and what to do.
pub fn container(project: &Project, service: &Service, which: &Which, found: &Found) -> Result<Container, String> {
    host::check(project, service, found)?;
    let spec = &service.spec;
    let name = container_name(project, service, which);
    let mut labels = pairs(&spec.labels);
    labels.append(&mut label::of_container(project, service, which, &found.image));
    let mut networks = endpoints(project, service, &name, found, which);
    let first = if networks.is_empty() { None } else { Some(networks.remove(0)) };
    let mode = match (&spec.network_mode, &first) {
        (Some(mode), _) => mode.clone(),
        (None, Some((name, _))) => name.clone(),
        (None, None) => "none".to_owned(),
    };
    let mut body = json!({
        "Hostname": spec.hostname,
        "Domainname": spec.domainname,
        "User": spec.user,
        "ExposedPorts": exposed(&spec.expose, &spec.ports),
        "Tty": spec.tty,
        "OpenStdin": spec.stdin_open,
        "StdinOnce": false,
        "AttachStdin": false,
        "AttachStdout": true,
        "AttachStderr": true,
        "Env": variables(&spec.environment),
        "Image": service.image(project),
        "WorkingDir": spec.working_dir,
        "Labels": labels,
        "StopSignal": spec.stop_signal,
        "StopTimeout": spec.stop_grace_period.map(|nanos| nanos.div_euclid(1_000_000_000)),
        "MacAddress": spec.mac_address,
        "Healthcheck": health(service),
        "HostConfig": host::config(project, service, &mode, found),
    });
    // an empty list takes the image's own away, and none at all leaves it
    if let Some(words) = &spec.command {
        set(&mut body, "Cmd", json!(words));
    }
    if let Some(words) = &spec.entrypoint {
        let words = if words.is_empty() { vec![String::new()] } else { words.clone() };
        set(&mut body, "Entrypoint", json!(words));
    }
    if let Some((network, endpoint)) = first {
        set(&mut body, "NetworkingConfig", json!({"EndpointsConfig": {network: endpoint}}));
    }
    prune(&mut body);
    Ok(Container { name, body, networks, platform: spec.platform.clone() })
}

fn set(body: &mut Value, name: &str, value: Value) {
    if let Some(map) = body.as_object_mut() {
        map.insert(name.to_owned(), value);
    }
}

/// Takes away what says nothing.
fn prune(value: &mut Value) {
    if let Some(map) = value.as_object_mut() {
        map.values_mut().for_each(prune);
        map.retain(|_, value| !value.is_null());
    }
}

pub(crate) fn pairs(pairs: &Pairs) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| (name.clone(), value.clone().unwrap_or_default())).collect()
}

/// `NAME=VALUE`, and `NAME` alone for one that the image's value is taken from.
fn variables(pairs: &Pairs) -> Vec<String> {
    let word = |(name, value): (&String, &Option<String>)| match value {
        Some(value) => format!("{name}={value}"),
        None => name.clone(),
    };
    pairs.iter().map(word).collect()
}

fn exposed(expose: &[String], ports: &[Port]) -> Value {
    let mut map = Map::new();
    for text in expose {
        let (range, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        if let (Ok(first), Ok(last)) = (first.parse::<u16>(), last.parse::<u16>()) {
            map.extend((first..=last).map(|port| (format!("{port}/{protocol}"), json!({}))));
        }
    }
    map.extend(ports.iter().map(|port| (format!("{}/{}", port.target, port.protocol), json!({}))));
    if map.is_empty() { Value::Null } else { map.into() }
}

fn health(service: &Service) -> Option<Value> {
    let health = service.spec.healthcheck.as_ref()?;
    if health.disable {
        return Some(json!({"Test": ["NONE"]}));
    }
    Some(json!({
        "Test": health.test,
        "Interval": health.interval,
        "Timeout": health.timeout,
        "Retries": health.retries,
        "StartPeriod": health.start_period,
        "StartInterval": health.start_interval,
    }))
}

fn endpoints(project: &Project, service: &Service, name: &str, found: &Found, which: &Which) -> Vec<(String, Value)> {
    let links = links(service, found);
    service
        .networks()
        .into_iter()
        .filter_map(|(network, attachment)| {
            let full = project.networks.get(network)?.spec.name.clone();
            Some((full, endpoint(service, attachment, name, &links, which)))
        })
        .collect()
}

fn endpoint(service: &Service, attachment: Option<&Attachment>, name: &str, links: &[String], which: &Which) -> Value {
    let default = Attachment::default();
    let attachment = attachment.unwrap_or(&default);
    let mut aliases = vec![name.to_owned()];
    // another program of the service is not the service
    if matches!(which, Which::Number(_)) {
        aliases.push(service.name.clone());
        aliases.extend(attachment.aliases.iter().cloned());
    }
    let address = json!({
        "IPv4Address": attachment.ipv4_address,
        "IPv6Address": attachment.ipv6_address,
        "LinkLocalIPs": (!attachment.link_local_ips.is_empty()).then_some(&attachment.link_local_ips),
    });
    let mut options = pairs(&attachment.driver_opts);
    if let Some(interface) = &attachment.interface_name {
        options.insert("com.docker.network.endpoint.ifname".to_owned(), interface.clone());
    }
    let mut endpoint = json!({
        "Aliases": aliases,
        "Links": (!links.is_empty()).then_some(links),
        "IPAMConfig": address,
        "DriverOpts": (!options.is_empty()).then_some(options),
        "MacAddress": attachment.mac_address,
        "GwPriority": attachment.gw_priority,
    });
    prune(&mut endpoint);
    endpoint
}

/// `CONTAINER:ALIAS` for every container of every linked service.
fn links(service: &Service, found: &Found) -> Vec<String> {
    let mut links = Vec::new();
    for link in &service.spec.links {
        let (other, alias) = link.split_once(':').unwrap_or((link, link));
        for (_, container) in found.services.get(other).into_iter().flatten() {
            links.push(format!("{container}:{alias}"));
            links.push(format!("{container}:{container}"));
        }
    }
    links.extend(service.spec.external_links.iter().map(|link| {
        let (container, alias) = link.split_once(':').unwrap_or((link, link));
        format!("{container}:{alias}")
    }));
    links
}

/// The body of `POST /networks/create`.
#[must_use]
pub fn network(project: &Project, key: &str, resource: &Resource<NetworkSpec>) -> Value {
    let spec = &resource.spec;
    let mut labels = pairs(&spec.labels);
    labels.append(&mut label::of_resource(project, label::NETWORK, key, hash::network(&resource.node)));
    let pools: Vec<Value> = spec
        .ipam
        .config
        .iter()
        .map(|pool| {
            let aux = pairs(&pool.aux_addresses);
            json!({
                "Subnet": pool.subnet,
                "IPRange": pool.ip_range,
                "Gateway": pool.gateway,
                "AuxiliaryAddresses": (!aux.is_empty()).then_some(aux),
            })
        })
        .collect();
    let ipam = &spec.ipam;
    let asked = !pools.is_empty() || ipam.driver.is_some() || !ipam.options.is_empty();
    let mut body = json!({
        "Name": spec.name,
        "CheckDuplicate": true,
        "Driver": spec.driver.as_deref().unwrap_or("bridge"),
        "Options": pairs(&spec.driver_opts),
        "Internal": spec.internal,
        "Attachable": spec.attachable,
        "EnableIPv4": spec.enable_ipv4,
        "EnableIPv6": spec.enable_ipv6,
        "IPAM": asked.then(|| json!({"Driver": ipam.driver, "Options": pairs(&ipam.options), "Config": pools})),
        "Labels": labels,
    });
    prune(&mut body);
    if let Some(pools) = body.pointer_mut("/IPAM/Config").and_then(Value::as_array_mut) {
        pools.iter_mut().for_each(prune);
    }
    body
}

/// The body of `POST /volumes/create`.
#[must_use]
pub fn volume(project: &Project, key: &str, resource: &Resource<VolumeSpec>) -> Value {
    let spec = &resource.spec;
    let mut labels = pairs(&spec.labels);
    labels.append(&mut label::of_resource(project, label::VOLUME, key, hash::volume(&resource.node)));
    let mut body = json!({
        "Name": spec.name,
        "Driver": spec.driver,
        "DriverOpts": pairs(&spec.driver_opts),
        "Labels": labels,
    });
    prune(&mut body);
    body
}

/// Devices that are asked for by what they can do.
fn device_requests(service: &Service) -> Vec<Value> {
    let reserved = service.spec.deploy.iter().filter_map(|deploy| deploy.resources.reservations.as_ref());
    let reserved = reserved.flat_map(|reservations| reservations.devices.iter()).map(|device| request(device, &[]));
    let gpus = service.spec.gpus.iter().map(|device| request(device, &["gpu"]));
    reserved.chain(gpus).collect()
}

fn request(device: &DeviceRequest, more: &[&str]) -> Value {
    let mut capabilities = device.capabilities.clone();
    for capability in more {
        if !capabilities.iter().any(|known| known == capability) {
            capabilities.push((*capability).to_owned());
        }
    }
    // neither a number nor names: all there are
    let count = if device.device_ids.is_empty() { device.count.unwrap_or(-1) } else { 0 };
    json!({
        "Driver": device.driver.clone().unwrap_or_default(),
        "Count": count,
        "DeviceIDs": device.device_ids,
        "Capabilities": [capabilities],
        "Options": pairs(&device.options),
    })
}

/// The full name of what a mount's source says.
fn source(project: &Project, mount: &Mount) -> Option<String> {
    let source = mount.source.as_ref()?;
    match mount.kind.as_str() {
        "volume" => Some(project.volumes.get(source).map_or_else(|| source.clone(), |volume| volume.spec.name.clone())),
        _ => Some(source.clone()),
    }
}

#[cfg(test)]
mod tests;
