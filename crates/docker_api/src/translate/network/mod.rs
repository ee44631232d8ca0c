//! Networks, endpoints and published ports: Docker's words to ours and back.

mod endpoint;
mod options;
mod ports;

pub(crate) use endpoint::{endpoint, endpoints, networks, old_settings};
pub(crate) use ports::{port_list, ports, publish, show_publish};

use super::text;
use crate::error::ApiError;
use docker_wire::models::{IpamConfig, NetworkCreateRequest};
use engine::model::{Driver, Member, Network, NetworkSpec};
use engine::net::Subnet;
use engine::net::ipam::SubnetRequest;
use options::link_options;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// The driver's name as clients have it.
pub(crate) fn driver(network: &Network) -> &'static str {
    match network.spec.driver {
        _ if network.spec.template => "null",
        Driver::Bridge if network.spec.link.tunnel.is_some() => "vxlan",
        Driver::Bridge => "bridge",
        Driver::Macvlan => "macvlan",
        Driver::Ipvlan => "ipvlan",
        Driver::Host => "host",
        Driver::None => "null",
    }
}

/// A request for a network.
pub(crate) fn spec(body: NetworkCreateRequest) -> Result<NetworkSpec, ApiError> {
    let kind = text(body.driver).unwrap_or_else(|| "bridge".to_owned());
    let (driver, tunnelled) = match kind.as_str() {
        "default" | "bridge" => (Driver::Bridge, false),
        "vxlan" => (Driver::Bridge, true),
        "macvlan" => (Driver::Macvlan, false),
        "ipvlan" => (Driver::Ipvlan, false),
        "host" => (Driver::Host, false),
        "null" | "none" => (Driver::None, false),
        "overlay" => {
            return Err(ApiError::new(
                hyper::StatusCode::SERVICE_UNAVAILABLE,
                "This node is not a swarm manager. Networks between hosts are made with --driver vxlan.",
            ));
        }
        other => {
            return Err(ApiError::not_found(format!(
                "could not find plugin {other} in v1 plugin registry: plugin not found"
            )));
        }
    };
    if body.ingress.unwrap_or(false) {
        return Err(ApiError::new(hyper::StatusCode::SERVICE_UNAVAILABLE, "This node is not a swarm manager."));
    }
    let words: BTreeMap<String, String> = body.options.unwrap_or_default().into_iter().collect();
    let ipam = body.ipam.unwrap_or_default();
    match ipam.driver.as_deref().unwrap_or_default() {
        "" | "default" => {}
        // it has no addresses to give, and every driver here gives some
        "null" => return Err(ApiError::invalid("ipv4 pool is empty")),
        other => return Err(ApiError::not_found(format!("could not find IPAM driver {other}: plugin not found"))),
    }
    let subnets = subnets(ipam.config.unwrap_or_default())?;
    let asked6 = subnets.iter().any(|asked| asked.v6);
    Ok(NetworkSpec {
        name: body.name,
        driver,
        v4: body.enable_ipv4.unwrap_or(true),
        v6: body.enable_ipv6.unwrap_or(asked6),
        internal: body.internal.unwrap_or(false),
        attachable: body.attachable.unwrap_or(false),
        subnets,
        link: link_options(&words, driver, tunnelled)?,
        template: body.config_only.unwrap_or(false),
        made_from: body.config_from.and_then(|from| text(from.network)),
        words,
        address_words: ipam.options.unwrap_or_default().into_iter().collect(),
        labels: body.labels.unwrap_or_default().into_iter().collect(),
    })
}

fn subnets(list: Vec<IpamConfig>) -> Result<Vec<SubnetRequest>, ApiError> {
    let one = |config: IpamConfig| {
        let wrong =
            |what: &str, value: &str| ApiError::invalid(format!("invalid network config:\ninvalid {what} {value}"));
        let subnet = |what: &str, value: Option<String>| {
            let read = |value: String| value.parse::<Subnet>().map_err(|_| wrong(what, &value));
            text(value).map(read).transpose()
        };
        let address = |what: &str, value: &str| value.parse::<IpAddr>().map_err(|_| wrong(what, value));
        let wanted = subnet("subnet", config.subnet)?;
        let gateway = text(config.gateway).map(|value| address("gateway", &value)).transpose()?;
        let mut auxiliary = BTreeMap::new();
        for (name, value) in config.auxiliary_addresses.unwrap_or_default() {
            auxiliary.insert(name, address("auxiliary address", &value)?);
        }
        let v6 = wanted.is_some_and(Subnet::is_v6);
        Ok(SubnetRequest {
            subnet: wanted,
            range: subnet("ip-range", config.ip_range)?,
            gateway,
            auxiliary,
            v6,
            pooled: false,
        })
    };
    list.into_iter().map(one).collect()
}

/// A network as Docker shows it.
pub(crate) fn network(network: &Network, members: Option<&[Member]>) -> Value {
    let spec = &network.spec;
    let subnet = |asked: &SubnetRequest| {
        let mut config = Map::new();
        let mut set = |key: &str, value: Option<String>| {
            if let Some(value) = value {
                config.insert(key.to_owned(), Value::String(value));
            }
        };
        set("Subnet", asked.subnet.map(|subnet| subnet.to_string()));
        set("IPRange", asked.range.map(|range| range.to_string()));
        set("Gateway", asked.gateway.map(|gateway| gateway.to_string()));
        if !asked.auxiliary.is_empty() {
            config.insert("AuxiliaryAddresses".to_owned(), json!(asked.auxiliary));
        }
        Value::Object(config)
    };
    let mut containers = Map::new();
    for member in members.unwrap_or_default() {
        let link = member.link.as_ref();
        let address = |v6: bool| link.and_then(|link| link.lease(v6)).map(|lease| lease.address.to_string());
        let shown = json!({
            "Name": member.name, "EndpointID": link.map(|link| link.id.clone()).unwrap_or_default(),
            "MacAddress": link.and_then(|link| link.mac).map(|mac| mac.to_string()).unwrap_or_default(),
            "IPv4Address": address(false).unwrap_or_default(), "IPv6Address": address(true).unwrap_or_default(),
        });
        containers.insert(member.container.to_string(), shown);
    }
    json!({
        "Name": spec.name, "Id": network.id.to_string(), "Created": super::time::rfc3339(network.created_ns),
        "Scope": "local", "Driver": driver(network), "EnableIPv4": spec.v4, "EnableIPv6": spec.v6,
        "IPAM": {
            "Driver": "default",
            "Options": if spec.address_words.is_empty() { Value::Null } else { json!(spec.address_words) },
            "Config": spec.subnets.iter().map(subnet).collect::<Vec<_>>(),
        },
        "Internal": spec.internal, "Attachable": spec.attachable, "Ingress": false,
        "ConfigFrom": { "Network": spec.made_from.clone().unwrap_or_default() }, "ConfigOnly": spec.template,
        "Containers": containers, "Options": shown_words(network), "Labels": spec.labels,
    })
}

/// The options in Docker's words; the default network, which nobody has asked for, has some that clients look for.
fn shown_words(network: &Network) -> BTreeMap<String, String> {
    let mut words = network.spec.words.clone();
    if network.is_default() {
        let link = &network.spec.link;
        let mut set = |key: &str, value: String| words.insert(format!("com.docker.network.{key}"), value);
        set("bridge.default_bridge", "true".to_owned());
        set("bridge.enable_icc", (!link.separate).to_string());
        set("bridge.enable_ip_masquerade", link.masquerade.to_string());
        let at = link.publish_at.map_or_else(|| "0.0.0.0".to_owned(), |address| address.to_string());
        set("bridge.host_binding_ipv4", at);
        set("bridge.name", network.link_name());
        set("driver.mtu", link.mtu.unwrap_or(1500).to_string());
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::StatusCode;

    fn read(body: Value) -> Result<NetworkSpec, ApiError> {
        spec(serde_json::from_value(body).unwrap())
    }

    #[test]
    fn options_are_understood() {
        let asked = read(json!({
            "Name": "shop", "Driver": "bridge", "Internal": true, "EnableIPv6": true,
            "IPAM": { "Config": [{ "Subnet": "10.1.0.0/16", "IPRange": "10.1.2.0/24", "Gateway": "10.1.0.9",
                "AuxiliaryAddresses": { "router": "10.1.0.5" } }, { "Subnet": "fd00:1::/64" }] },
            "Options": { "com.docker.network.bridge.name": "shop0", "com.docker.network.driver.mtu": "1400",
                "com.docker.network.bridge.enable_icc": "false", "com.docker.network.bridge.enable_ip_masquerade": "0",
                "com.docker.network.bridge.host_binding_ipv4": "127.0.0.1", "insula.rate.send": "10m",
                "com.docker.network.bridge.trusted_host_interfaces": "eth1:vxlan.1" },
        }))
        .unwrap();
        assert_eq!((asked.link.bridge.as_deref(), asked.link.mtu), (Some("shop0"), Some(1400)));
        assert!(asked.link.separate && !asked.link.masquerade && asked.internal && asked.v6);
        assert_eq!(asked.link.trusted.iter().collect::<Vec<_>>(), ["eth1", "vxlan.1"]);
        assert_eq!(asked.link.rate.send, Some(10 << 20));
        assert_eq!(asked.subnets[0].gateway, "10.1.0.9".parse().ok());
        assert!(asked.subnets[1].v6);
        let far = json!({ "Name": "far", "Driver": "vxlan",
            "Options": { "vxlan.id": "7", "vxlan.local": "10.0.0.1", "vxlan.peers": "10.0.0.2,10.0.0.3" } });
        let tunnel = read(far).unwrap().link.tunnel.unwrap();
        assert_eq!((tunnel.id, tunnel.port, tunnel.peers.len()), (7, 4789, 2));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let check = |body: Value, status: StatusCode, part: &str| {
            let error = read(body).unwrap_err();
            assert_eq!(error.status, status, "{}", error.message);
            assert!(error.message.contains(part), "{}", error.message);
        };
        let wrong = StatusCode::BAD_REQUEST;
        check(json!({ "Name": "a", "Driver": "nope" }), StatusCode::NOT_FOUND, "nope");
        check(json!({ "Name": "a", "Driver": "overlay" }), StatusCode::SERVICE_UNAVAILABLE, "swarm manager");
        check(json!({ "Name": "a", "Driver": "vxlan" }), wrong, "vxlan.id");
        check(json!({ "Name": "a", "IPAM": { "Config": [{ "Subnet": "x" }] } }), wrong, "invalid subnet x");
        check(json!({ "Name": "a", "Options": { "com.docker.network.driver.mtu": "x" } }), wrong, "mtu");
        check(json!({ "Name": "a", "Options": { "insula.rate.send": "fast" } }), wrong, "bytes a second");
        check(json!({ "Name": "a", "IPAM": { "Driver": "null" } }), wrong, "ipv4 pool is empty");
        let mode = json!({ "Name": "a", "Driver": "macvlan", "Options": { "macvlan_mode": "x" } });
        check(mode, wrong, "requested macvlan mode 'x' is not valid");
        let leave = json!({ "Name": "a", "Options": { "com.docker.network.host_ipv4": "::1" } });
        check(leave, wrong, "com.docker.network.host_ipv4");
        check(json!({ "Name": "a", "IPAM": { "Driver": "dhcp" } }), StatusCode::NOT_FOUND, "dhcp");
    }
}
