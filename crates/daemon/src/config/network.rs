//! What the daemon is told about its networks.

use super::{File, either, lists};
use anyhow::{Result, bail};
use clap::Args;
use engine::NetworkDefaults;
use engine::net::Subnet;
use engine::net::ipam::Pool;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Flags of the default network, and of all that choose their own addresses.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct NetworkFlags {
    /// Bridge of the default network, which is made when the first container needs it; by default insula0. With none there is no
    /// such network
    #[arg(long, short = 'b', value_name = "NAME")]
    bridge: Option<String>,
    /// Address of the default network's bridge, with its subnet: 172.17.0.1/16
    #[arg(long, value_name = "ADDRESS/LENGTH")]
    bip: Option<Subnet>,
    /// IPv6 address of the default network's bridge, with its subnet: fd00:17::1/64
    #[arg(long, value_name = "ADDRESS/LENGTH")]
    bip6: Option<Subnet>,
    /// Part of the default network's subnet that containers get addresses from; without --bip the whole of it
    #[arg(long, value_name = "SUBNET")]
    fixed_cidr: Option<Subnet>,
    /// As --fixed-cidr, of IPv6
    #[arg(long, value_name = "SUBNET")]
    fixed_cidr_v6: Option<Subnet>,
    /// Address that containers of the default network have as their way out; by default the bridge's
    #[arg(long, value_name = "ADDRESS")]
    default_gateway: Option<IpAddr>,
    /// As --default-gateway, of IPv6
    #[arg(long, value_name = "ADDRESS")]
    default_gateway_v6: Option<IpAddr>,
    /// Whether containers of the default network reach each other at all ports; by default true
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    icc: Option<bool>,
    /// Where ports of the default network's containers are published that name no address
    #[arg(long, value_name = "ADDRESS")]
    ip: Option<IpAddr>,
    /// Whether what leaves the default network gets the host's address; by default true
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    ip_masq: Option<bool>,
    /// Whether the host is let pass packets on where a network needs it; by default true
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    ip_forward: Option<bool>,
    /// Option of networks that are made without it: bridge=com.docker.network.driver.mtu=1400
    #[arg(long, value_name = "DRIVER=OPTION=VALUE", value_parser = option)]
    default_network_opt: Vec<(String, (String, String))>,
    /// Largest packet of the default network, in bytes
    #[arg(long, value_name = "BYTES")]
    mtu: Option<u32>,
    /// Give the default network IPv6 as well
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    ipv6: Option<bool>,
    /// Addresses that networks get in equal parts: base=10.10.0.0/16,size=24
    #[arg(long, value_name = "base=SUBNET,size=LENGTH", value_parser = pool)]
    default_address_pool: Vec<Pool>,
    /// Address that containers with --add-host NAME:host-gateway get, one of each family; by default that of the default network's
    /// bridge
    #[arg(long, value_name = "ADDRESS")]
    host_gateway_ip: Vec<IpAddr>,
}

/// An entry of `default-address-pools`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PoolEntry {
    base: String,
    size: u8,
}

/// Options of networks, by driver.
pub(super) type Options = BTreeMap<String, BTreeMap<String, String>>;

impl NetworkFlags {
    /// Puts the command line and the file together; also options of networks that are made.
    pub(super) fn with(self, file: &File) -> Result<(NetworkDefaults, Options)> {
        let subnet = |name: &str, flag: Option<Subnet>, text: &Option<String>| -> Result<Option<Subnet>> {
            let parse =
                |text: &String| text.parse().map_err(|error| anyhow::anyhow!("bad value of {name}: {text:?}: {error}"));
            either(name, flag, text.as_ref().map(parse).transpose()?)
        };
        let of_file: Result<Vec<Pool>> = file
            .default_address_pools
            .iter()
            .map(|entry| {
                pool(&format!("base={},size={}", entry.base, entry.size))
                    .map_err(|why| anyhow::anyhow!("bad value of default-address-pools: {why}"))
            })
            .collect();
        let bridge = either("bridge", self.bridge, file.bridge.clone())?.filter(|name| !name.is_empty());
        let addresses = [subnet("bip", self.bip, &file.bip)?, subnet("bip6", self.bip6, &file.bip6)?];
        let ranges = [
            subnet("fixed-cidr", self.fixed_cidr, &file.fixed_cidr)?,
            subnet("fixed-cidr-v6", self.fixed_cidr_v6, &file.fixed_cidr_v6)?,
        ];
        let gateways = [
            either("default-gateway", self.default_gateway, file.default_gateway)?,
            either("default-gateway-v6", self.default_gateway_v6, file.default_gateway_v6)?,
        ];
        let is_v6 = |subnet: Option<Subnet>| subnet.map(Subnet::is_v6);
        let families = [
            ("bip", is_v6(addresses[0]), false),
            ("bip6", is_v6(addresses[1]), true),
            ("fixed-cidr", is_v6(ranges[0]), false),
            ("fixed-cidr-v6", is_v6(ranges[1]), true),
            ("default-gateway", gateways[0].map(|address| address.is_ipv6()), false),
            ("default-gateway-v6", gateways[1].map(|address| address.is_ipv6()), true),
        ];
        if let Some((name, ..)) = families.iter().find(|(_, is, wanted)| is.is_some_and(|is| is != *wanted)) {
            bail!("bad value of {name}: it is an address of the other version of IP");
        }
        let options = Options::from_iter(file.default_network_opts.clone());
        let mut of_flags = Options::new();
        for (driver, (key, value)) in self.default_network_opt {
            of_flags.entry(driver).or_default().insert(key, value);
        }
        let some = |options: Options| (!options.is_empty()).then_some(options);
        let options = either("default-network-opts", some(of_flags), some(options))?.unwrap_or_default();
        let defaults = NetworkDefaults {
            absent: bridge.as_deref() == Some("none"),
            bridge,
            addresses: addresses.into_iter().flatten().collect(),
            ranges: ranges.into_iter().flatten().collect(),
            gateways: gateways.into_iter().flatten().collect(),
            separate: !either("icc", self.icc, file.icc)?.unwrap_or(true),
            unmasked: !either("ip-masq", self.ip_masq, file.ip_masq)?.unwrap_or(true),
            publish_at: either("ip", self.ip, file.ip)?,
            leave_forwarding: !either("ip-forward", self.ip_forward, file.ip_forward)?.unwrap_or(true),
            mtu: either("mtu", self.mtu, file.mtu)?,
            v6: either("ipv6", self.ipv6, file.ipv6)?.unwrap_or(false),
            pools: lists("default-address-pools", self.default_address_pool, of_file?)?,
            host_gateways: host_gateways(self.host_gateway_ip, file)?,
        };
        Ok((defaults, options))
    }
}

fn option(text: &str) -> Result<(String, (String, String)), String> {
    let whole = text.split_once('=').filter(|(driver, _)| !driver.is_empty());
    let read = whole.and_then(|(driver, rest)| Some((driver.to_owned(), super::container::pair(rest).ok()?)));
    read.ok_or_else(|| {
        format!("{text:?} is not DRIVER=OPTION=VALUE, such as bridge=com.docker.network.driver.mtu=1400")
    })
}

/// What flags say, or the file by the name it had first or by the one for several.
fn host_gateways(flags: Vec<IpAddr>, file: &File) -> Result<Vec<IpAddr>> {
    let one = file.host_gateway_ip.into_iter().collect();
    let of_file = lists("host-gateway-ip", one, file.host_gateway_ips.clone())?;
    let all = lists("host-gateway-ips", flags, of_file)?;
    for is_v4 in [true, false] {
        if all.iter().filter(|address| address.is_ipv4() == is_v4).count() > 1 {
            let family = if is_v4 { "IPv4" } else { "IPv6" };
            bail!("only one {family} host gateway IP address can be specified: {all:?}");
        }
    }
    Ok(all)
}

fn pool(text: &str) -> Result<Pool, String> {
    let (mut base, mut size) = (None, None);
    for part in text.split(',') {
        match part.split_once('=') {
            Some(("base", value)) => base = Some(value.parse::<Subnet>().map_err(|error| error.to_string())?),
            Some(("size", value)) => size = value.parse::<u8>().ok(),
            _ => {}
        }
    }
    match (base, size) {
        (Some(base), Some(size)) if size >= base.prefix() && size <= if base.is_v6() { 128 } else { 32 } => {
            Ok(Pool { base: base.network(), size })
        }
        _ => Err(format!("{text:?} is not base=SUBNET,size=LENGTH, such as base=10.10.0.0/16,size=24")),
    }
}
