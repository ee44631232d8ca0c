//! `insula network create`.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use docker_wire::models::{ConfigReference, Ipam, IpamConfig, NetworkCreateRequest};

use crate::client::Client;
use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::flags::{Action, Command, Flag, Parsed};
use crate::value::pair;
use crate::{output, table};

pub(crate) static COMMAND: Command = Command {
    name: "create",
    usage: "[OPTIONS] NETWORK",
    about: "Make a network",
    flags: &[&[
        Flag::switch("attachable", "Let containers join it by hand"),
        Flag::list("aux-address", "NAME=ADDRESS", "An address that is somebody else's"),
        Flag::value("config-from", "NETWORK", "Make it from a network that was made with --config-only"),
        Flag::switch("config-only", "Make only a pattern for other networks"),
        Flag::value("driver", "DRIVER", "bridge, macvlan, ipvlan or vxlan (bridge)").short('d'),
        Flag::list("gateway", "ADDRESS", "The gateway of a subnet"),
        Flag::switch("ingress", "Make a swarm's network; there is none"),
        Flag::switch("internal", "No way in or out but to the host"),
        Flag::value("ipam-driver", "DRIVER", "Who gives addresses: default"),
        Flag::list("ipam-opt", "NAME=VALUE", "An option of who gives addresses"),
        Flag::list("ip-range", "SUBNET", "The part of a subnet that addresses are given from"),
        Flag::switch("ipv4", "Give IPv4 addresses (on; turn off with =false)"),
        Flag::switch("ipv6", "Give IPv6 addresses"),
        Flag::list("label", "NAME[=VALUE]", "Set a label"),
        Flag::list("opt", "NAME=VALUE", "Set an option, as in com.docker.network.driver.mtu=1400").short('o'),
        Flag::value("scope", "SCOPE", "Where it is: local"),
        Flag::list("subnet", "SUBNET", "A subnet, as in 10.20.0.0/16 or fd00:20::/64"),
    ]],
    arguments: (1, 1),
    action: Action::Run(create),
    ..Command::BLANK
};

fn create(context: &Context, given: &Parsed) -> Outcome {
    let answer = Client::new(context).post_json("/networks/create", &request(given)?)?;
    match table::text(&answer, "/Warning") {
        "" => {}
        warning => output::note(&format!("warning: {warning}")),
    }
    output::line(table::text(&answer, "/Id"));
    Ok(0)
}

fn request(given: &Parsed) -> Result<NetworkCreateRequest, Failure> {
    if given.on("config-only") && given.value("config-from").is_some() {
        return Err(Failure::new("--config-only does not go with --config-from; give one or the other"));
    }
    let ipam = Ipam {
        driver: Some(given.value("ipam-driver").unwrap_or("default").to_owned()),
        config: Some(subnets(given)?),
        options: pair::map(given.read_list("ipam-opt", pair::option)?),
    };
    let labels: HashMap<String, String> =
        given.read_list("label", pair::label)?.unwrap_or_default().into_iter().collect();
    Ok(NetworkCreateRequest {
        name: given.first().to_owned(),
        driver: Some(given.value("driver").unwrap_or("bridge").to_owned()),
        scope: given.value("scope").map(str::to_owned),
        internal: Some(given.on("internal")),
        attachable: Some(given.on("attachable")),
        ingress: Some(given.on("ingress")),
        config_only: Some(given.on("config-only")),
        config_from: given.value("config-from").map(|name| ConfigReference { network: Some(name.to_owned()) }),
        ipam: Some(ipam),
        enable_ipv4: given.value("ipv4").map(|value| value == "true"),
        enable_ipv6: given.value("ipv6").map(|value| value == "true"),
        options: Some(pair::map(given.read_list("opt", pair::option)?).unwrap_or_default()),
        labels: Some(labels),
    })
}

/// A subnet as address and length of its prefix.
fn subnet(text: &str) -> Result<(IpAddr, u32), String> {
    let wrong = || format!("{text:?} is no subnet, such as 10.20.0.0/16");
    let (address, prefix) = text.split_once('/').ok_or_else(wrong)?;
    let address: IpAddr = address.parse().map_err(|_| wrong())?;
    let prefix = prefix.parse().ok().filter(|prefix| *prefix <= if address.is_ipv6() { 128 } else { 32 });
    Ok((address, prefix.ok_or_else(wrong)?))
}

fn contains((base, prefix): (IpAddr, u32), address: IpAddr) -> bool {
    let same = |base: u128, address: u128, width: u32| {
        let shift = width - prefix;
        base.checked_shr(shift).unwrap_or(0) == address.checked_shr(shift).unwrap_or(0)
    };
    match (base, address) {
        (IpAddr::V4(base), IpAddr::V4(address)) => same(base.to_bits().into(), address.to_bits().into(), 32),
        (IpAddr::V6(base), IpAddr::V6(address)) => same(base.to_bits(), address.to_bits(), 128),
        _ => false,
    }
}

/// Gives each range, gateway and further address to the subnet that it is of.
fn subnets(given: &Parsed) -> Result<Vec<IpamConfig>, Failure> {
    let mut list: Vec<((IpAddr, u32), IpamConfig)> = Vec::new();
    for text in given.values("subnet") {
        let read = subnet(text).map_err(|why| Failure::new(format!("bad value {text:?} for --subnet: {why}")))?;
        list.push((read, IpamConfig { subnet: Some(text.to_owned()), ..IpamConfig::default() }));
    }
    let wanted = |flag: &str| !given.values(flag).map(str::to_owned).collect::<Vec<_>>().is_empty();
    if list.is_empty() && ["gateway", "ip-range", "aux-address"].into_iter().any(wanted) {
        return Err(Failure::new("every ip-range or gateway must have a corresponding subnet; give it with --subnet"));
    }
    for (flag, twice) in [("ip-range", "ranges"), ("gateway", "gateways")] {
        for text in given.values(flag) {
            let bad = |why: &str| Failure::new(format!("bad value {text:?} for --{flag}: {why}"));
            let address = match flag {
                "gateway" => text.parse().map_err(|_| bad("it is no address"))?,
                _ => subnet(text).map_err(|why| bad(&why))?.0,
            };
            let found = list.iter_mut().find(|(base, _)| contains(*base, address));
            let (_, config) = found.ok_or_else(|| bad("it is of no subnet that was given"))?;
            let place = if flag == "gateway" { &mut config.gateway } else { &mut config.ip_range };
            if place.replace(text.to_owned()).is_some() {
                return Err(bad(&format!("the subnet has two {twice} then")));
            }
        }
    }
    let auxiliary: BTreeMap<String, String> =
        given.read_list("aux-address", pair::option)?.unwrap_or_default().into_iter().collect();
    for (name, value) in auxiliary {
        let bad = |why: &str| Failure::new(format!("bad value {name}={value} for --aux-address: {why}"));
        let address = value.parse().map_err(|_| bad("it is no address"))?;
        let found = list.iter_mut().find(|(base, _)| contains(*base, address));
        let (_, config) = found.ok_or_else(|| bad("it is of no subnet that was given"))?;
        config.auxiliary_addresses.get_or_insert_default().insert(name.clone(), value.clone());
    }
    Ok(list.into_iter().map(|(_, config)| config).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<serde_json::Value, Failure> {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        let parsed = crate::flags::parse(&COMMAND, &words).map_err(Failure::new)?;
        Ok(serde_json::to_value(request(&parsed)?).unwrap())
    }

    #[test]
    fn ranges_and_gateways_find_their_subnet() {
        let line = "--subnet 10.1.0.0/16 --subnet fd00:1::/64 --gateway fd00:1::9 --ip-range 10.1.2.0/24 \
                    --aux-address router=10.1.0.7 --ipv6 --internal -o a.b=c n";
        let body = read(line).unwrap();
        assert_eq!(body["IPAM"]["Config"][0]["IPRange"], "10.1.2.0/24");
        assert_eq!(body["IPAM"]["Config"][0]["AuxiliaryAddresses"]["router"], "10.1.0.7");
        assert_eq!(body["IPAM"]["Config"][1]["Gateway"], "fd00:1::9");
        assert_eq!((&body["EnableIPv6"], &body["Internal"]), (&true.into(), &true.into()));
        assert_eq!(body["Options"]["a.b"], "c");
        for (line, part) in [
            ("--gateway 10.0.0.1 n", "--subnet"),
            ("--subnet x n", "--subnet"),
            ("--subnet 10.0.0.0/8 --gateway 11.0.0.1 n", "of no subnet"),
            ("--subnet 10.0.0.0/8 --gateway 10.0.0.1 --gateway 10.0.0.2 n", "two gateways"),
            ("--config-only --config-from x n", "--config-from"),
        ] {
            let failure = read(line).unwrap_err();
            assert!(failure.text().contains(part), "{line}: {}", failure.text());
        }
    }
}
