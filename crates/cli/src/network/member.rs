//! `insula network connect` and `disconnect`.

use docker_wire::models::{EndpointIpamConfig, EndpointSettings, NetworkConnectRequest, NetworkDisconnectRequest};

use super::path;
use crate::client::Client;
use crate::context::Context;
use crate::failure::Outcome;
use crate::flags::{Action, Command, Flag, Parsed};
use crate::value::{number, pair};

pub(crate) static CONNECT: Command = Command {
    name: "connect",
    usage: "[OPTIONS] NETWORK CONTAINER",
    about: "Put a container into a network",
    flags: &[&[
        Flag::list("alias", "NAME", "A name of the container there"),
        Flag::list("driver-opt", "NAME=VALUE", "An option of its link there"),
        Flag::value("gw-priority", "NUMBER", "Of several networks the one with the highest is the way out"),
        Flag::value("ip", "ADDRESS", "Its IPv4 address there"),
        Flag::value("ip6", "ADDRESS", "Its IPv6 address there"),
        Flag::list("link", "CONTAINER[:ALIAS]", "Know another container by a name"),
        Flag::list("link-local-ip", "ADDRESS", "A further address of its link"),
        Flag::value("mac-address", "ADDRESS", "The link-layer address of its link"),
    ]],
    arguments: (2, 2),
    action: Action::Run(connect),
    ..Command::BLANK
};

pub(crate) static DISCONNECT: Command = Command {
    name: "disconnect",
    usage: "[OPTIONS] NETWORK CONTAINER",
    about: "Take a container out of a network",
    flags: &[&[Flag::switch("force", "Say nothing if it is not there").short('f')]],
    arguments: (2, 2),
    action: Action::Run(disconnect),
    ..Command::BLANK
};

fn connect(context: &Context, given: &Parsed) -> Outcome {
    let [network, container] = given.arguments.as_slice() else { return Ok(1) };
    let ipam = EndpointIpamConfig {
        ipv4_address: given.read("ip", pair::address)?,
        ipv6_address: given.read("ip6", pair::address)?,
        link_local_ips: given.read_list("link-local-ip", pair::address)?,
    };
    let settings = EndpointSettings {
        ipam_config: (ipam != EndpointIpamConfig::default()).then_some(ipam),
        links: given.list("link"),
        mac_address: given.value("mac-address").map(str::to_owned),
        aliases: given.list("alias"),
        driver_opts: pair::map(given.read_list("driver-opt", pair::option)?),
        gw_priority: given.read("gw-priority", number::integer)?,
        ..EndpointSettings::default()
    };
    let body = NetworkConnectRequest { container: container.clone(), endpoint_config: Some(settings) };
    Client::new(context).post_json(&path(network, "/connect"), &body)?;
    Ok(0)
}

fn disconnect(context: &Context, given: &Parsed) -> Outcome {
    let [network, container] = given.arguments.as_slice() else { return Ok(1) };
    let body = NetworkDisconnectRequest { container: container.clone(), force: Some(given.on("force")) };
    Client::new(context).post_json(&path(network, "/disconnect"), &body)?;
    Ok(0)
}
