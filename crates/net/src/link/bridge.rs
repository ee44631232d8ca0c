//! Bridges.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::rtnl::{self, IFF_UP, IFLA_ADDRESS, IFLA_IFALIAS, IFLA_IFNAME, IFLA_MTU};
use super::{Link, Links, check_name, failed};
use crate::{Mac, NetError, Result, Subnet};
use sys::netlink::Batch;

const IFLA_BR_FORWARD_DELAY: u16 = 1;
const IFLA_BR_STP_STATE: u16 = 5;
const IFLA_BR_MCAST_SNOOPING: u16 = 23;

/// A bridge as it is to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BridgeSpec {
    /// The link's name, at most [`super::LINK_NAME_MAX`] bytes.
    pub name: String,
    /// The host's addresses in the network: the gateways of its containers. None: the host has no way in.
    pub addresses: Vec<Subnet>,
    /// The largest packet, in bytes; without it the kernel's 1500.
    pub mtu: Option<u32>,
    /// The link-layer address; without it one that follows the first address, so that it stays when ports come and go.
    pub mac: Option<Mac>,
    /// Whether a process of the host may reach published ports of this network through 127.0.0.1; it costs the bridge
    /// the kernel's `route_localnet`, which the firewall's rules make safe again.
    pub localhost: bool,
    /// The folder of the daemon that makes it, which the bridge's alias names; others then keep away from it.
    #[serde(default)]
    pub owner: Option<PathBuf>,
}

/// What an alias begins with that names an owner.
const OWNED: &str = "insula: ";
/// The longest alias, in bytes.
const ALIAS_MAX: usize = 255;

/// The alias that names an owner; none for a path that is too long.
fn alias(owner: &Path) -> Option<String> {
    Some(format!("{OWNED}{}", owner.display())).filter(|text| text.len() <= ALIAS_MAX)
}

/// Whose bridge a link is, if it is another's who may be back.
fn other_owner(link: &Link, owner: Option<&Path>) -> Option<PathBuf> {
    let found = link.alias.as_deref()?.strip_prefix(OWNED).map(PathBuf::from)?;
    (Some(found.as_path()) != owner && found.exists()).then_some(found)
}

impl Links {
    /// Makes a bridge, or brings one that is there to what `spec` says: addresses, MTU, up. No spanning tree, no
    /// multicast snooping (it loses IPv6 neighbours where nobody asks), no delay before a port forwards.
    ///
    /// # Errors
    /// [`NetError::Name`], [`NetError::NotBridge`] when another kind of link has the name, [`NetError::OwnedBridge`] when
    /// the bridge is another daemon's, or what the kernel answered.
    pub fn create_bridge(&self, spec: &BridgeSpec) -> Result<i32> {
        check_name(&spec.name)?;
        let mac = spec.mac.or_else(|| spec.addresses.first().map(|address| Mac::of(address.address())));
        let found = self.inspect(&spec.name)?;
        if let Some(owner) = found.as_ref().and_then(|link| other_owner(link, spec.owner.as_deref())) {
            return Err(NetError::OwnedBridge { name: spec.name.clone(), owner });
        }
        // one that somebody else has made keeps the alias that he gave it
        let named = match &found {
            Some(link) => link.alias.as_ref().is_some_and(|text| text.starts_with(OWNED)),
            None => true,
        };
        let alias = spec.owner.as_deref().filter(|_| named).and_then(alias);
        match found {
            Some(link) if link.kind.as_deref() != Some("bridge") => {
                return Err(NetError::NotBridge { name: spec.name.clone() });
            }
            Some(_) => {}
            None => {
                let mut batch = Batch::new();
                let common = |message: &mut sys::netlink::Message<'_>| {
                    message.put_text(IFLA_IFNAME, &spec.name);
                    if let Some(mac) = mac {
                        message.put(IFLA_ADDRESS, &mac.0);
                    }
                };
                rtnl::create(&mut batch, "bridge", 0, common, |data| {
                    data.put_u32(IFLA_BR_FORWARD_DELAY, 0)
                        .put_u32(IFLA_BR_STP_STATE, 0)
                        .put_u8(IFLA_BR_MCAST_SNOOPING, 0);
                });
                self.run(&spec.name, &batch)?;
            }
        }
        let index = self.index(&spec.name)?;
        self.set_sysctls(spec)?;
        let mut batch = Batch::new();
        for address in &spec.addresses {
            rtnl::add_address(&mut batch, index, *address);
        }
        rtnl::change(&mut batch, index, IFF_UP, |message| {
            if let Some(mtu) = spec.mtu {
                message.put_u32(IFLA_MTU, mtu);
            }
            if let Some(alias) = &alias {
                message.put(IFLA_IFALIAS, alias.as_bytes());
            }
        });
        self.socket.run(&batch).map_err(failed(&spec.name))?;
        Ok(index)
    }

    /// Router advertisements of containers must not change the host's routes; a bridge without IPv6 addresses takes no
    /// part in IPv6.
    fn set_sysctls(&self, spec: &BridgeSpec) -> Result<()> {
        let v6 = spec.addresses.iter().any(|address| address.is_v6());
        set_sysctl(&format!("ipv6/conf/{}/accept_ra", spec.name), "0")?;
        set_sysctl(&format!("ipv6/conf/{}/disable_ipv6", spec.name), if v6 { "0" } else { "1" })?;
        let localnet = if spec.localhost { "1" } else { "0" };
        set_sysctl(&format!("ipv4/conf/{}/route_localnet", spec.name), localnet)
    }
}

/// Writes `/proc/sys/net/NAME` of the calling thread's namespace, when it is there and says something else.
pub(crate) fn set_sysctl(name: &str, value: &str) -> Result<()> {
    let path = Path::new("/proc/sys/net").join(name);
    match fs::read_to_string(&path) {
        Ok(found) if found.trim() == value => Ok(()),
        // A kernel without IPv6 has none of its switches.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        _ => fs::write(&path, value).map_err(|source| NetError::Sysctl { path, source }),
    }
}
