//! Options of networks' links.

use crate::error::ApiError;
use crate::translate::parse_bytes;
use engine::model::{Driver, LinkOptions, Tunnel};
use engine::net::firewall::Gateway;
use engine::net::{IpvlanMode, LINK_NAME_MAX, MacvlanMode, Rate};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// The UDP port of tunnels where none is given.
const VXLAN_PORT: u16 = 4789;

fn bad_option(key: &str, value: &str, what: &str) -> ApiError {
    ApiError::invalid(format!("failed to parse {key} value: {value} ({what})"))
}

fn bad_mode(kind: &str, value: &str, usual: &str) -> ApiError {
    let text = format!("requested {kind} mode '{value}' is not valid, '{usual}' mode is the {kind} driver default");
    ApiError::invalid(text)
}

fn switch(key: &str, value: &str) -> Result<bool, ApiError> {
    match value.to_ascii_lowercase().as_str() {
        "1" | "t" | "true" => Ok(true),
        "0" | "f" | "false" => Ok(false),
        _ => Err(bad_option(key, value, "it is true or false")),
    }
}

/// An address of the host's for what leaves a network.
fn host_address<A: std::str::FromStr>(key: &str, value: &str) -> Result<A, ApiError> {
    value.parse().map_err(|_| bad_option(key, value, "it is no address of this version of IP"))
}

fn gateway(key: &str, value: &str) -> Result<Gateway, ApiError> {
    match value {
        "" | "nat" => Ok(Gateway::Nat),
        "nat-unprotected" => Ok(Gateway::NatUnprotected),
        "routed" => Ok(Gateway::Routed),
        _ => Err(bad_option(key, value, "it is nat, nat-unprotected, routed or isolated")),
    }
}

pub(super) fn link_options(
    words: &BTreeMap<String, String>,
    driver: Driver,
    tunnelled: bool,
) -> Result<LinkOptions, ApiError> {
    let mut options = LinkOptions { rate: rate(words)?, ..LinkOptions::default() };
    for (key, value) in words {
        match key.strip_prefix("com.docker.network.").unwrap_or(key) {
            "bridge.name" => options.bridge = Some(value.clone()).filter(|name| !name.is_empty()),
            "driver.mtu" | "mtu" => {
                let mtu = value.parse().ok().filter(|mtu| *mtu >= 68);
                options.mtu = Some(mtu.ok_or_else(|| bad_option(key, value, "it is a number of bytes from 68 on"))?);
            }
            "bridge.enable_ip_masquerade" => options.masquerade = switch(key, value)?,
            "bridge.enable_icc" => options.separate = !switch(key, value)?,
            "bridge.inhibit_ipv4" => options.isolated = switch(key, value)?,
            "bridge.gateway_mode_ipv4" if value == "isolated" => options.isolated = true,
            "bridge.gateway_mode_ipv6" if value == "isolated" => options.isolated = true,
            "bridge.gateway_mode_ipv4" => options.v4 = gateway(key, value)?,
            "bridge.gateway_mode_ipv6" => options.v6 = gateway(key, value)?,
            "bridge.trusted_host_interfaces" => {
                options.trusted = value.split(':').filter(|name| !name.is_empty()).map(str::to_owned).collect();
                if options.trusted.iter().any(|name| name.len() > LINK_NAME_MAX) {
                    return Err(bad_option(key, value, "it is names of links with colons between them"));
                }
            }
            "host_ipv4" => options.leave_v4 = Some(host_address(key, value)?),
            "host_ipv6" => options.leave_v6 = Some(host_address(key, value)?),
            "bridge.host_binding_ipv4" => {
                let address: IpAddr = value.parse().map_err(|_| bad_option(key, value, "it is an address"))?;
                options.publish_at = Some(address).filter(|address| !address.is_unspecified());
            }
            "container_iface_prefix" => options.prefix.clone_from(value),
            "parent" if matches!(driver, Driver::Macvlan | Driver::Ipvlan) => {
                options.parent = Some(value.clone()).filter(|name| !name.is_empty());
            }
            "macvlan_mode" => {
                options.macvlan = match value.as_str() {
                    "" | "bridge" => MacvlanMode::Bridge,
                    "private" => MacvlanMode::Private,
                    "vepa" => MacvlanMode::Vepa,
                    "passthru" => MacvlanMode::Passthru,
                    _ => return Err(bad_mode("macvlan", value, "bridge")),
                }
            }
            "ipvlan_mode" => {
                options.ipvlan = match value.as_str() {
                    "" | "l2" => IpvlanMode::L2,
                    "l3" => IpvlanMode::L3,
                    "l3s" => IpvlanMode::L3s,
                    _ => return Err(bad_mode("ipvlan", value, "l2")),
                }
            }
            _ => {}
        }
    }
    if options.prefix.is_empty() || options.prefix.len() > LINK_NAME_MAX - 2 {
        return Err(ApiError::invalid(format!("invalid prefix of container links: 1 to {} bytes", LINK_NAME_MAX - 2)));
    }
    if tunnelled {
        options.tunnel = Some(tunnel(words)?);
    }
    Ok(options)
}

fn tunnel(words: &BTreeMap<String, String>) -> Result<Tunnel, ApiError> {
    let wanted = |key: &str| {
        words.get(key).ok_or_else(|| {
            ApiError::invalid(format!("a vxlan network needs the option {key}; give it with --opt {key}=…"))
        })
    };
    let address =
        |key: &str, value: &str| value.trim().parse::<IpAddr>().map_err(|_| bad_option(key, value, "it is an address"));
    let id = wanted("vxlan.id")?;
    let local = wanted("vxlan.local")?;
    let peers = wanted("vxlan.peers")?;
    let port = words.get("vxlan.port");
    Ok(Tunnel {
        id: id.parse().map_err(|_| bad_option("vxlan.id", id, "it is a number below 16777216"))?,
        port: match port {
            None => VXLAN_PORT,
            Some(port) => port.parse().map_err(|_| bad_option("vxlan.port", port, "it is a port's number"))?,
        },
        local: address("vxlan.local", local)?,
        peers: peers
            .split([',', ' ', ';'])
            .filter(|peer| !peer.is_empty())
            .map(|peer| address("vxlan.peers", peer))
            .collect::<Result<_, _>>()?,
    })
}

/// `insula.rate.receive` and `insula.rate.send`: bytes a second.
pub(super) fn rate(words: &BTreeMap<String, String>) -> Result<Rate, ApiError> {
    let one = |key: &str| {
        let Some(value) = words.get(key) else { return Ok(None) };
        let bytes = parse_bytes(value).filter(|bytes| *bytes > 0);
        bytes.map(Some).ok_or_else(|| bad_option(key, value, "it is a number of bytes a second, such as 10m"))
    };
    Ok(Rate { receive: one("insula.rate.receive")?, send: one("insula.rate.send")? })
}
