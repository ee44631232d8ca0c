//! What the daemon is told about its networks.

use super::{File, either, lists};
use anyhow::{Result, bail};
use clap::Args;
use engine::NetworkDefaults;
use engine::net::Subnet;
use engine::net::ipam::Pool;
use serde::Deserialize;
use std::net::IpAddr;

/// Flags of the default network, and of all that choose their own addresses.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct NetworkFlags {
    /// Bridge of the default network, which is made when the first container needs it; by default insula0
    #[arg(long, value_name = "NAME")]
    bridge: Option<String>,
    /// Address of the default network's bridge, with its subnet: 172.17.0.1/16
    #[arg(long, value_name = "ADDRESS/LENGTH")]
    bip: Option<Subnet>,
    /// Part of the default network's subnet that containers get addresses from
    #[arg(long, value_name = "SUBNET")]
    fixed_cidr: Option<Subnet>,
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

impl NetworkFlags {
    /// Puts the command line and the file together.
    pub(super) fn with(self, file: &File) -> Result<NetworkDefaults> {
        let subnet = |name: &str, text: &Option<String>| -> Result<Option<Subnet>> {
            let parse =
                |text: &String| text.parse().map_err(|error| anyhow::anyhow!("bad value of {name}: {text:?}: {error}"));
            text.as_ref().map(parse).transpose()
        };
        let of_file: Result<Vec<Pool>> = file
            .default_address_pools
            .iter()
            .map(|entry| {
                pool(&format!("base={},size={}", entry.base, entry.size))
                    .map_err(|why| anyhow::anyhow!("bad value of default-address-pools: {why}"))
            })
            .collect();
        Ok(NetworkDefaults {
            bridge: either("bridge", self.bridge, file.bridge.clone())?,
            address: either("bip", self.bip, subnet("bip", &file.bip)?)?,
            range: either("fixed-cidr", self.fixed_cidr, subnet("fixed-cidr", &file.fixed_cidr)?)?,
            mtu: either("mtu", self.mtu, file.mtu)?,
            v6: either("ipv6", self.ipv6, file.ipv6)?.unwrap_or(false),
            pools: lists("default-address-pools", self.default_address_pool, of_file?)?,
            host_gateways: host_gateways(self.host_gateway_ip, file)?,
        })
    }
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
