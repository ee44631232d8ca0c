//! The flags of `run` and `create` that say what networks a container is in, and how its ports are reached.

use std::collections::HashMap;

use docker_wire::models::{EndpointIpamConfig, EndpointSettings, NetworkingConfig, PortBinding, PortMap};

use crate::failure::Failure;
use crate::flags::Parsed;
use crate::value::port::{self, Port};

/// What the flags say.
#[derive(Debug)]
pub(super) struct Networks {
    pub(super) mode: String,
    pub(super) endpoints: Option<NetworkingConfig>,
    pub(super) exposed: Option<Vec<String>>,
    pub(super) bindings: Option<PortMap>,
    pub(super) links: Option<Vec<String>>,
}

/// Reads them.
///
/// # Errors
/// Which flag is wrong, and why.
pub(super) fn read(given: &Parsed) -> Result<Networks, Failure> {
    let ports: Vec<Port> =
        given.read_list("publish", port::published)?.unwrap_or_default().into_iter().flatten().collect();
    let mut exposed: Vec<String> = given.read_list("expose", port::exposed)?.unwrap_or_default().concat();
    let mut bindings = PortMap::new();
    for port in ports {
        let key = format!("{}/{}", port.container, port.protocol);
        if !exposed.contains(&key) {
            exposed.push(key.clone());
        }
        let binding = PortBinding { host_ip: Some(port.address), host_port: Some(port.host) };
        bindings.entry(key).or_default().get_or_insert_default().push(binding);
    }
    exposed.sort_unstable();
    exposed.dedup();
    let (mode, endpoints) = endpoints(given)?;
    // links of the default network are the container's; elsewhere they are the endpoint's
    let links = given.list("link").filter(|_| matches!(mode.as_str(), "default" | "bridge"));
    Ok(Networks {
        mode,
        endpoints: (!endpoints.is_empty()).then_some(NetworkingConfig { endpoints_config: Some(endpoints) }),
        exposed: (!exposed.is_empty()).then_some(exposed),
        bindings: (!bindings.is_empty()).then_some(bindings),
        links,
    })
}

/// The first network, and how the container is to be in each.
fn endpoints(given: &Parsed) -> Result<(String, HashMap<String, EndpointSettings>), Failure> {
    let mut named: Vec<(String, EndpointSettings)> = Vec::new();
    for flag in ["network", "net"] {
        named.extend(given.read_list(flag, network)?.unwrap_or_default());
    }
    if let Some((name, _)) = named.iter().find(|(name, _)| named.len() > 1 && !is_joined(name)) {
        return Err(Failure::new(format!("conflicting options: --network {name} does not go with other networks")));
    }
    if named.is_empty() {
        named.push(("default".to_owned(), EndpointSettings::default()));
    }
    let mode = named[0].0.clone();
    let first = &mut named[0].1;
    let address = |flag: &str| given.read(flag, ip).map(|value| value.filter(|value| !value.is_empty()));
    let ipam = EndpointIpamConfig {
        ipv4_address: address("ip")?,
        ipv6_address: address("ip6")?,
        link_local_ips: given.read_list("link-local-ip", ip)?,
    };
    if ipam != EndpointIpamConfig::default() {
        if first.ipam_config.is_some() {
            return Err(Failure::new("conflicting options: cannot specify both --ip and an address of --network"));
        }
        first.ipam_config = Some(ipam);
    }
    let aliases: Vec<String> =
        given.values("network-alias").chain(given.values("net-alias")).map(str::to_owned).collect();
    if !aliases.is_empty() {
        first.aliases.get_or_insert_default().extend(aliases);
    }
    if !matches!(mode.as_str(), "default" | "bridge") && is_joined(&mode) {
        first.links = given.list("link");
    }
    if let Some(mac) = given.value("mac-address") {
        first.mac_address = Some(mac.to_owned());
    }
    let mut all = HashMap::new();
    for (name, settings) in named {
        if (name == mode && settings == EndpointSettings::default()) || !is_joined(&name) {
            continue;
        }
        if all.insert(name.clone(), settings).is_some() {
            return Err(Failure::new(format!("network {name:?} is specified multiple times")));
        }
    }
    Ok((mode, all))
}

/// Whether it is a network that a container has a link in.
fn is_joined(name: &str) -> bool {
    name != "host" && name != "none" && !name.starts_with("container:")
}

fn ip(text: &str) -> Result<String, String> {
    text.parse::<std::net::IpAddr>().map(|_| text.to_owned()).map_err(|_| "it is no IP address".to_owned())
}

/// Reads a network's name, or `name=…,alias=…,ip=…`.
fn network(text: &str) -> Result<(String, EndpointSettings), String> {
    if !text.contains('=') {
        return Ok((text.to_owned(), EndpointSettings::default()));
    }
    let (mut name, mut settings) = (String::new(), EndpointSettings::default());
    let mut ipam = EndpointIpamConfig::default();
    for part in text.split(',') {
        let (key, value) = part.split_once('=').ok_or_else(|| format!("{part:?} is not KEY=VALUE"))?;
        let text = || value.to_owned();
        match key.to_ascii_lowercase().as_str() {
            "name" => name = text(),
            "alias" => settings.aliases.get_or_insert_default().push(text()),
            "ip" => ipam.ipv4_address = Some(ip(value)?),
            "ip6" => ipam.ipv6_address = Some(ip(value)?),
            "link-local-ip" => ipam.link_local_ips.get_or_insert_default().push(ip(value)?),
            "mac-address" => settings.mac_address = Some(text()),
            "gw-priority" => {
                settings.gw_priority = Some(value.parse().map_err(|_| format!("gw-priority {value:?} is no number"))?);
            }
            "driver-opt" => {
                let (key, value) = value.split_once('=').ok_or("driver-opt needs KEY=VALUE")?;
                settings.driver_opts.get_or_insert_default().insert(key.to_owned(), value.to_owned());
            }
            other => {
                return Err(format!(
                    "unknown field {other:?}; there are name, alias, ip, ip6, link-local-ip, mac-address, gw-priority and driver-opt"
                ));
            }
        }
    }
    if name.is_empty() {
        return Err("it has no name=".to_owned());
    }
    settings.ipam_config = (ipam != EndpointIpamConfig::default()).then_some(ipam);
    Ok((name, settings))
}
