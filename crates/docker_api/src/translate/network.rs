//! Networks, endpoints and published ports: Docker's words to ours and back.

use super::{parse_bytes, text};
use crate::error::ApiError;
use docker_wire::models::{
    EndpointIpamConfig, EndpointSettings, HostConfig, IpamConfig, NetworkCreateRequest, NetworkingConfig, PortBinding,
    PortMap, PortSummary, PortSummaryTypeEnum,
};
use engine::model::{
    Container, DEFAULT_NETWORK, Driver, Endpoint, EndpointRequest, LinkOptions, Member, Network, NetworkId,
    NetworkMode, NetworkSpec, PublishRequest, Tunnel,
};
use engine::net::firewall::{Gateway, Protocol, Publication};
use engine::net::ipam::{Lease, SubnetRequest};
use engine::net::{IpvlanMode, LINK_NAME_MAX, Mac, MacvlanMode, Rate, Subnet, Switch};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

/// The UDP port of tunnels where none is given.
const VXLAN_PORT: u16 = 4789;

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

fn link_options(words: &BTreeMap<String, String>, driver: Driver, tunnelled: bool) -> Result<LinkOptions, ApiError> {
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
fn rate(words: &BTreeMap<String, String>) -> Result<Rate, ApiError> {
    let one = |key: &str| {
        let Some(value) = words.get(key) else { return Ok(None) };
        let bytes = parse_bytes(value).filter(|bytes| *bytes > 0);
        bytes.map(Some).ok_or_else(|| bad_option(key, value, "it is a number of bytes a second, such as 10m"))
    };
    Ok(Rate { receive: one("insula.rate.receive")?, send: one("insula.rate.send")? })
}

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
