//! Published ports, asked and shown.

use crate::error::ApiError;
use crate::translate::text;
use docker_wire::models::{PortBinding, PortMap, PortSummary, PortSummaryTypeEnum};
use engine::model::{Container, PublishRequest};
use engine::net::firewall::{Protocol, Publication};
use std::collections::BTreeSet;

/// `80/tcp` as port and protocol.
fn port(text: &str) -> Result<(u16, Protocol), ApiError> {
    let (number, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let number = number.parse::<u16>().ok().filter(|number| *number > 0);
    let number = number.ok_or_else(|| ApiError::invalid(format!("invalid port specification: {text:?}")))?;
    let protocol = protocol
        .parse()
        .map_err(|_| ApiError::invalid(format!("invalid port specification: {text:?}: unknown protocol")))?;
    Ok((number, protocol))
}

/// The ports that are to be published.
pub(crate) fn publish(bindings: Option<PortMap>) -> Result<Vec<PublishRequest>, ApiError> {
    let mut requests = Vec::new();
    for (key, list) in bindings.unwrap_or_default() {
        let (number, protocol) = port(&key)?;
        // a port without a binding is published somewhere
        let list = list.filter(|list| !list.is_empty()).unwrap_or_else(|| vec![PortBinding::default()]);
        for binding in list {
            let host = match text(binding.host_ip) {
                None => None,
                Some(value) => {
                    let bare = value.trim_start_matches('[').trim_end_matches(']');
                    Some(bare.parse().map_err(|_| ApiError::invalid(format!("invalid IP address: {value}")))?)
                }
            };
            let host_ports = text(binding.host_port).map(|value| host_ports(&value)).transpose()?.flatten();
            requests.push(PublishRequest { port: number, protocol, host, host_ports });
        }
    }
    requests.sort_by_key(|one| (one.protocol, one.port, one.host_ports, one.host));
    Ok(requests)
}

fn host_ports(value: &str) -> Result<Option<(u16, u16)>, ApiError> {
    let wrong = || ApiError::invalid(format!("invalid port specification: {value:?}"));
    let (first, last) = value.split_once('-').unwrap_or((value, value));
    let (first, last) = (first.parse::<u16>().map_err(|_| wrong())?, last.parse::<u16>().map_err(|_| wrong())?);
    if first > last {
        return Err(wrong());
    }
    Ok((first > 0).then_some((first, last)))
}

/// The bindings as they were asked for.
pub(crate) fn show_publish(requests: &[PublishRequest]) -> PortMap {
    let mut map = PortMap::new();
    for one in requests {
        let ports = one.host_ports.map(
            |(first, last)| {
                if first == last { first.to_string() } else { format!("{first}-{last}") }
            },
        );
        let binding = PortBinding {
            host_ip: Some(one.host.map(|host| host.to_string()).unwrap_or_default()),
            host_port: Some(ports.unwrap_or_default()),
        };
        map.entry(format!("{}/{}", one.port, one.protocol)).or_default().get_or_insert_default().push(binding);
    }
    map
}

/// The ports of a running container: where each that is published can be reached, and the exposed others.
pub(crate) fn ports(container: &Container) -> PortMap {
    if !container.is_alive() {
        return PortMap::new();
    }
    let mut map: PortMap = container.spec.exposed_ports.iter().map(|port| (with_protocol(port), None)).collect();
    for one in published(container) {
        if one.is_direct() {
            map.entry(format!("{}/{}", one.to_port, one.protocol)).or_default();
            continue;
        }
        let binding =
            PortBinding { host_ip: Some(one.host_address().to_string()), host_port: Some(one.port.to_string()) };
        map.entry(format!("{}/{}", one.to_port, one.protocol)).or_default().get_or_insert_default().push(binding);
    }
    map
}

/// What is published: all that belongs to a port of the container together, the addresses of a port of the host too.
fn published(container: &Container) -> Vec<Publication> {
    let mut all: Vec<Publication> = container.published.iter().collect();
    all.sort_by_key(|one| (one.protocol, one.to_port, one.port, one.host_address()));
    all
}

fn with_protocol(port: &str) -> String {
    if port.contains('/') { port.to_owned() } else { format!("{port}/tcp") }
}

/// The same for a list of containers.
pub(crate) fn port_list(container: &Container) -> Vec<PortSummary> {
    if !container.is_alive() {
        return Vec::new();
    }
    let kind = |protocol: Protocol| {
        Some(match protocol {
            Protocol::Tcp => PortSummaryTypeEnum::TCP,
            Protocol::Udp => PortSummaryTypeEnum::UDP,
            Protocol::Sctp => PortSummaryTypeEnum::SCTP,
        })
    };
    let published = published(container);
    let mut reached: BTreeSet<(Protocol, u16)> = published.iter().map(|one| (one.protocol, one.to_port)).collect();
    let shown = published.iter().map(|one| PortSummary {
        ip: Some(one.host_address().to_string()).filter(|_| !one.is_direct()),
        private_port: one.to_port,
        public_port: Some(one.port).filter(|_| !one.is_direct()),
        typ: kind(one.protocol),
    });
    let mut list: Vec<PortSummary> = shown.collect();
    list.dedup();
    for text in &container.spec.exposed_ports {
        let Ok((number, protocol)) = port(text) else { continue };
        // each once: an image says "80/tcp" where a container says "80"
        if reached.insert((protocol, number)) {
            list.push(PortSummary { ip: None, private_port: number, public_port: None, typ: kind(protocol) });
        }
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::StatusCode;
    use serde_json::json;

    #[test]
    fn ports_are_read_and_shown() {
        let bindings = json!({ "80/tcp": [{ "HostIp": "127.0.0.1", "HostPort": "8080" }, { "HostPort": "" }],
            "53/udp": [{ "HostPort": "5300-5310" }], "9/sctp": null });
        let requests = publish(serde_json::from_value(bindings).unwrap()).unwrap();
        assert_eq!(requests.len(), 4);
        let shown = show_publish(&requests);
        assert_eq!(shown["53/udp"].as_ref().unwrap()[0].host_port.as_deref(), Some("5300-5310"));
        assert_eq!(shown["80/tcp"].as_ref().unwrap().len(), 2);
        for bad in [
            json!({ "x": [] }),
            json!({ "80/icmp": [] }),
            json!({ "80/tcp": [{ "HostPort": "9-8" }] }),
            json!({ "80/tcp": [{ "HostPort": "70000" }] }),
            json!({ "80/tcp": [{ "HostIp": "here" }] }),
        ] {
            let error = publish(serde_json::from_value(bad.clone()).unwrap()).unwrap_err();
            assert_eq!(error.status, StatusCode::BAD_REQUEST, "{bad}");
        }
    }
}
