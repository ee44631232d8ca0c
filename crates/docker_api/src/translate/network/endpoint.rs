//! How containers are in networks, asked and shown.

use super::options::rate;
use crate::error::ApiError;
use crate::translate::text;
use docker_wire::models::{EndpointIpamConfig, EndpointSettings, HostConfig, NetworkingConfig};
use engine::model::{Container, DEFAULT_NETWORK, Endpoint, EndpointRequest, NetworkId, NetworkMode};
use engine::net::ipam::Lease;
use engine::net::{Mac, Switch};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

/// How a container wants to be in a network.
pub(crate) fn endpoint(settings: EndpointSettings) -> Result<EndpointRequest, ApiError> {
    let mut problems = Vec::new();
    let mut addresses = Vec::new();
    let mut link_local = Vec::new();
    if let Some(ipam) = settings.ipam_config {
        for (value, v6) in [(ipam.ipv4_address, false), (ipam.ipv6_address, true)] {
            let Some(value) = text(value) else { continue };
            match value.parse::<IpAddr>() {
                Ok(address) if address.is_ipv6() == v6 && !is_mapped(address) => addresses.push(address),
                _ => problems.push(format!("invalid IPv{} address: {value}", if v6 { 6 } else { 4 })),
            }
        }
        for value in ipam.link_local_ips.unwrap_or_default() {
            match value.parse::<IpAddr>() {
                Ok(address) if is_link_local(address) => link_local.push(address),
                _ => problems.push(format!("invalid link-local IP address: {value}")),
            }
        }
    }
    let words: BTreeMap<String, String> = settings.driver_opts.unwrap_or_default().into_iter().collect();
    let mut switches = Vec::new();
    for one in words.get("com.docker.network.endpoint.sysctls").into_iter().flat_map(|list| list.split(',')) {
        match link_switch(one) {
            Some(switch) => switches.push(switch),
            None => problems.push(format!(
                "unrecognised network interface sysctl '{one}'; write net.X.Y.IFNAME.Z=V, where X is ipv4, ipv6 or mpls"
            )),
        }
    }
    if !problems.is_empty() {
        return Err(ApiError::invalid(format!("invalid endpoint settings:\n{}", problems.join("\n"))));
    }
    Ok(EndpointRequest {
        aliases: settings.aliases.unwrap_or_default(),
        addresses,
        link_local,
        mac: text(settings.mac_address).map(|value| mac(&value)).transpose()?,
        links: settings.links.unwrap_or_default(),
        gateway_priority: settings.gw_priority.unwrap_or(0),
        link_name: words.get("com.docker.network.endpoint.ifname").cloned(),
        switches,
        rate: rate(&words)?,
        words,
    })
}

/// `net.ipv4.conf.IFNAME.log_martians=1`; the link's name is known when it is made, and clients may write it small.
fn link_switch(text: &str) -> Option<Switch> {
    let (name, value) = text.split_once('=')?;
    let parts: Vec<&str> = name.split('.').collect();
    let ["net", family @ ("ipv4" | "ipv6" | "mpls"), group, "IFNAME" | "ifname", name] = parts[..] else { return None };
    let good = [group, name].iter().all(|part| !part.is_empty() && !part.contains('/'));
    let [family, group, name, value] = [family, group, name, value].map(str::to_owned);
    good.then_some(Switch { family, group, name, value })
}

/// An IPv4 address in the clothes of an IPv6 one, which no link has.
fn is_mapped(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.to_ipv4_mapped().is_some())
}

/// 169.254.0.0/16 and fe80::/10.
fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

fn mac(value: &str) -> Result<Mac, ApiError> {
    value.parse().map_err(|_| ApiError::invalid(format!("invalid MAC address: {value}")))
}

/// The networks of a new container: the first, and how it wants to be in each. `address` is the link-layer address that
/// older clients give beside the networks.
pub(crate) fn networks(
    host: &HostConfig,
    disabled: bool,
    config: Option<NetworkingConfig>,
    address: Option<String>,
) -> Result<(NetworkMode, BTreeMap<String, EndpointRequest>), ApiError> {
    let mode = match host.network_mode.as_deref().unwrap_or_default() {
        _ if disabled => NetworkMode::None,
        "" | "default" => NetworkMode::Networks(DEFAULT_NETWORK.to_owned()),
        "none" => NetworkMode::None,
        "host" => NetworkMode::Host,
        other => match other.strip_prefix("container:") {
            Some("") => return Err(ApiError::invalid("invalid container format container:<name|id>")),
            Some(name) => NetworkMode::Container(name.to_owned()),
            None => NetworkMode::Networks(other.to_owned()),
        },
    };
    let mut endpoints = BTreeMap::new();
    let given = config.and_then(|config| config.endpoints_config).unwrap_or_default();
    for (name, settings) in given {
        let name = if name == "default" { DEFAULT_NETWORK.to_owned() } else { name };
        let own = match &mode {
            NetworkMode::None => name == "none" || disabled,
            NetworkMode::Host => name == "host",
            NetworkMode::Container(other) => name.strip_prefix("container:") == Some(other),
            NetworkMode::Networks(_) => false,
        };
        let request = endpoint(settings)?;
        if own {
            if request.mac.is_some() && matches!(mode, NetworkMode::Container(_)) {
                return Err(ApiError::invalid("conflicting options: mac-address and the network mode"));
            }
            if !request.addresses.is_empty() {
                return Err(ApiError::invalid("user specified IP address is supported on user defined networks only"));
            }
            continue;
        }
        let nothing =
            request == EndpointRequest::default() && matches!(&mode, NetworkMode::Networks(main) if *main == name);
        if !nothing {
            endpoints.insert(name, request);
        }
    }
    if let Some(value) = text(address) {
        let value = mac(&value)?;
        match &mode {
            NetworkMode::Networks(main) => {
                let request = endpoints.entry(main.clone()).or_default();
                if request.mac.is_some_and(|other| other != value) {
                    return Err(ApiError::invalid(
                        "the container-wide MAC address must match the endpoint-specific MAC address for the main network, or be left empty",
                    ));
                }
                request.mac = Some(value);
            }
            _ => return Err(ApiError::invalid("conflicting options: mac-address and the network mode")),
        }
    }
    Ok((mode, endpoints))
}

/// A container's places in its networks.
pub(crate) fn endpoints(container: &Container) -> HashMap<String, EndpointSettings> {
    let whole = match &container.spec.network {
        NetworkMode::None => "none",
        NetworkMode::Host => "host",
        NetworkMode::Container(_) => return HashMap::new(),
        NetworkMode::Networks(_) => {
            return container
                .endpoints
                .iter()
                .map(|(name, endpoint)| (name.clone(), settings(container, endpoint)))
                .collect();
        }
    };
    let id = NetworkId::predefined(whole).to_string();
    let settings = EndpointSettings { network_id: Some(id), ..empty_settings() };
    [(whole.to_owned(), settings)].into()
}

fn empty_settings() -> EndpointSettings {
    let none = || Some(String::new());
    EndpointSettings {
        mac_address: none(),
        network_id: none(),
        endpoint_id: none(),
        gateway: none(),
        ip_address: none(),
        ip_prefix_len: Some(0),
        ipv6_gateway: none(),
        global_ipv6_address: none(),
        global_ipv6_prefix_len: Some(0),
        gw_priority: Some(0),
        ..Default::default()
    }
}

fn settings(container: &Container, endpoint: &Endpoint) -> EndpointSettings {
    let request = &endpoint.request;
    let address = |v6: bool| request.addresses.iter().find(|one| one.is_ipv6() == v6).map(ToString::to_string);
    let asked = !request.addresses.is_empty() || !request.link_local.is_empty();
    let local: Vec<String> = request.link_local.iter().map(ToString::to_string).collect();
    let mut shown = EndpointSettings {
        ipam_config: asked.then(|| EndpointIpamConfig {
            ipv4_address: address(false),
            ipv6_address: address(true),
            link_local_ips: Some(local).filter(|list| !list.is_empty()),
        }),
        links: Some(request.links.clone()).filter(|list| !list.is_empty()),
        mac_address: Some(request.mac.map(|mac| mac.to_string()).unwrap_or_default()),
        aliases: Some(request.aliases.clone()).filter(|list| !list.is_empty()),
        driver_opts: Some(request.words.clone().into_iter().collect()).filter(|map: &HashMap<_, _>| !map.is_empty()),
        gw_priority: Some(request.gateway_priority),
        ..empty_settings()
    };
    let Some(link) = endpoint.link.as_ref().filter(|_| container.is_alive()) else { return shown };
    shown.network_id = Some(link.network.to_string());
    shown.endpoint_id = Some(link.id.clone());
    shown.mac_address = Some(link.mac.map(|mac| mac.to_string()).unwrap_or_default());
    let gateway =
        |lease: Lease| Some(lease.gateway.to_string()).filter(|_| !link.direct).or_else(|| Some(String::new()));
    if let Some(lease) = link.lease(false) {
        shown.ip_address = Some(lease.address.address().to_string());
        shown.ip_prefix_len = Some(lease.address.prefix().into());
        shown.gateway = gateway(lease);
    }
    if let Some(lease) = link.lease(true) {
        shown.global_ipv6_address = Some(lease.address.address().to_string());
        shown.global_ipv6_prefix_len = Some(lease.address.prefix().into());
        shown.ipv6_gateway = gateway(lease);
    }
    // in the default network nobody is known by a name
    if !container.endpoints.get(DEFAULT_NETWORK).is_some_and(|other| other == endpoint) {
        shown.dns_names = Some(link.names.clone());
    }
    shown
}

/// What the older form of a container's network settings says beside the newer: the default network's endpoint, and fields
/// that have been empty for long.
pub(crate) fn old_settings(container: &Container) -> Map<String, Value> {
    let endpoint = container.endpoints.get(DEFAULT_NETWORK).map(|endpoint| settings(container, endpoint));
    let one = endpoint.unwrap_or_else(empty_settings);
    let value = json!({
        "Bridge": "", "HairpinMode": false, "LinkLocalIPv6Address": "", "LinkLocalIPv6PrefixLen": 0,
        "SecondaryIPAddresses": null, "SecondaryIPv6Addresses": null,
        "EndpointID": one.endpoint_id, "Gateway": one.gateway, "IPAddress": one.ip_address,
        "IPPrefixLen": one.ip_prefix_len, "IPv6Gateway": one.ipv6_gateway, "MacAddress": one.mac_address,
        "GlobalIPv6Address": one.global_ipv6_address, "GlobalIPv6PrefixLen": one.global_ipv6_prefix_len,
    });
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::StatusCode;

    #[test]
    fn switches_of_a_link_are_read() {
        let said = |text: &str| link_switch(text).map(|one| [one.family, one.group, one.name, one.value].join(" "));
        assert_eq!(said("net.ipv4.conf.IFNAME.log_martians=1").as_deref(), Some("ipv4 conf log_martians 1"));
        assert_eq!(said("net.ipv6.neigh.ifname.gc_stale_time=30").as_deref(), Some("ipv6 neigh gc_stale_time 30"));
        for wrong in [
            "",
            "net.ipv4.conf.IFNAME.forwarding",
            "net.ipv4.conf.eth0.forwarding=1",
            "net.core.conf.IFNAME.x=1",
            "net.ipv4.conf/../..IFNAME.x=1",
            "net.ipv4.conf.IFNAME.a/b=1",
            "net.ipv4..IFNAME.x=1",
            "kernel.ipv4.conf.IFNAME.x=1",
        ] {
            assert_eq!(said(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn addresses_of_the_wrong_kind_are_refused() {
        let with = |ipam: Value| endpoint(serde_json::from_value(json!({ "IPAMConfig": ipam })).unwrap());
        let good = with(json!({ "IPv6Address": "fd00::5", "LinkLocalIPs": ["169.254.7.7", "fe80::254:7"] })).unwrap();
        assert_eq!((good.addresses.len(), good.link_local.len()), (1, 2));
        for (wrong, part) in [
            (json!({ "IPv4Address": "fd00::5" }), "invalid IPv4 address: fd00::5"),
            (json!({ "IPv6Address": "10.0.0.1" }), "invalid IPv6 address: 10.0.0.1"),
            (json!({ "IPv6Address": "::ffff:10.0.0.1" }), "invalid IPv6 address: ::ffff:10.0.0.1"),
            (json!({ "LinkLocalIPs": ["169.253.5.5"] }), "invalid link-local IP address: 169.253.5.5"),
            (json!({ "LinkLocalIPs": ["2001:db8::89"] }), "invalid link-local IP address: 2001:db8::89"),
        ] {
            let error = with(wrong).unwrap_err();
            assert_eq!(error.status, StatusCode::BAD_REQUEST);
            assert!(error.message.contains(part), "{}", error.message);
        }
    }

    #[test]
    fn modes_name_networks() {
        let host = |mode: &str| HostConfig { network_mode: Some(mode.to_owned()), ..HostConfig::default() };
        let mode = |text: &str| networks(&host(text), false, None, None).unwrap().0;
        assert_eq!(mode("default"), NetworkMode::Networks("bridge".into()));
        assert_eq!(mode("shop"), NetworkMode::Networks("shop".into()));
        assert_eq!(mode("container:web"), NetworkMode::Container("web".into()));
        assert_eq!(networks(&host("host"), true, None, None).unwrap().0, NetworkMode::None);
        let mac = Some("02:42:ac:11:00:09".to_owned());
        let (_, endpoints) = networks(&host(""), false, None, mac.clone()).unwrap();
        assert_eq!(endpoints["bridge"].mac.unwrap().to_string(), "02:42:ac:11:00:09");
        assert!(networks(&host("host"), false, None, mac).is_err());
        let settings =
            EndpointSettings { mac_address: Some("02:42:ac:11:00:09".into()), ..EndpointSettings::default() };
        let config = NetworkingConfig { endpoints_config: Some([("container:web".to_owned(), settings)].into()) };
        let refused = networks(&host("container:web"), false, Some(config), None).unwrap_err();
        assert!(refused.message.contains("mac-address and the network mode"), "{}", refused.message);
    }
}
