//! A container's end of a network.
//!
//! ```text
//! sendmsg 1, host:       pair on the bridge, near end up, far end straight in the container's namespace
//! sendmsg 2, container:  far end up, addresses, then routes
//! ```

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::Path;

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::rtnl::{self, IFF_UP, IFLA_ADDRESS, IFLA_IFNAME, IFLA_LINK, IFLA_MTU, IFLA_NET_NS_FD, Peer, Port};
use super::{Links, check_name, failed, rate::Rate};
use crate::{Mac, NetError, Result, Subnet, netns};
use sys::netlink::{Batch, Message};

const IFLA_MACVLAN_MODE: u16 = 1;
const IFLA_IPVLAN_MODE: u16 = 1;
const IFLA_IPVLAN_FLAGS: u16 = 2;

/// How sub-links of one parent see each other.
///
/// # Source
/// ip-link(8), macvlan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MacvlanMode {
    /// Not at all.
    Private,
    /// Through a switch outside that sends frames back.
    Vepa,
    /// Straight.
    Bridge,
    /// One sub-link has the parent for itself.
    Passthru,
}

/// At which layer packets go from the parent to sub-links.
///
/// # Source
/// ip-link(8), ipvlan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IpvlanMode {
    /// As a switch does.
    L2,
    /// As a router does; no broadcasts.
    L3,
    /// As a router does, and the host's packet filter sees it.
    L3s,
}

/// What a container's link hangs on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Attachment {
    /// A bridge, through a pair.
    Bridge {
        /// The bridge's name.
        bridge: String,
        /// The name of the pair's end that stays.
        near: String,
        /// No frames to other isolated ports: containers of the network don't see each other.
        isolated: bool,
        /// Frames may come back where they came from: needed by a published port that its own container calls, where the
        /// host's bridges hand their packets to the packet filter.
        hairpin: bool,
    },
    /// A parent link, with a link-layer address of its own.
    Macvlan {
        /// The parent's name.
        parent: String,
        /// Who sees whom.
        mode: MacvlanMode,
    },
    /// A parent link, with the parent's link-layer address.
    Ipvlan {
        /// The parent's name.
        parent: String,
        /// At which layer.
        mode: IpvlanMode,
    },
}

/// A way out of the container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// To where; a prefix of length 0 is the default route.
    pub to: Subnet,
    /// Through whom; without it straight out of the link.
    pub via: Option<IpAddr>,
}

impl Route {
    /// The default route through `gateway`.
    #[must_use]
    pub fn default_via(gateway: IpAddr) -> Self {
        let any = if gateway.is_ipv6() { IpAddr::V6(Ipv6Addr::UNSPECIFIED) } else { IpAddr::V4(Ipv4Addr::UNSPECIFIED) };
        let to = Subnet::new(any, 0).unwrap_or(Subnet::host(any));
        Self { to, via: Some(gateway) }
    }
}

/// A container's link as it is to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointSpec {
    /// What it hangs on.
    pub attachment: Attachment,
    /// The link's name in the container, such as `eth0`.
    pub name: String,
    /// The link-layer address; without it the one of the first address. An ipvlan has its parent's.
    pub mac: Option<Mac>,
    /// Addresses, each with the length of its subnet's prefix.
    pub addresses: Vec<Subnet>,
    /// Routes, beside those to the addresses' own subnets.
    pub routes: Vec<Route>,
    /// The largest packet, in bytes.
    pub mtu: Option<u32>,
    /// Limits for what the container receives and sends; only on a bridge.
    pub rate: Rate,
    /// Switches of the kernel for the link, set before it has an address.
    #[serde(default)]
    pub switches: Vec<Switch>,
}

/// A switch that the kernel has for each link: `/proc/sys/net/FAMILY/GROUP/LINK/NAME`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Switch {
    /// Such as `ipv4`.
    pub family: String,
    /// Such as `conf`.
    pub group: String,
    /// Such as `log_martians`.
    pub name: String,
    /// What it is to say.
    pub value: String,
}

impl EndpointSpec {
    /// Whether the link takes part in IPv6. One without such an address does not, and has none of the kernel's making.
    fn has_v6(&self) -> bool {
        self.addresses.iter().any(|address| address.is_v6())
    }
}

impl Links {
    /// Makes a container's link in `namespace`, with addresses and routes, up. The container may be running already.
    ///
    /// When something fails, what was made is taken away again.
    ///
    /// # Errors
    /// [`NetError::Name`], [`NetError::NoLink`] for a bridge or parent that is not there, or what the kernel answered.
    pub fn connect(&self, namespace: BorrowedFd<'_>, spec: &EndpointSpec) -> Result<()> {
        check_name(&spec.name)?;
        match &spec.attachment {
            Attachment::Bridge { bridge, near, isolated, hairpin } => {
                check_name(near)?;
                let port = Port { isolated: *isolated, hairpin: *hairpin };
                self.make_pair(namespace, spec, bridge, near, port)?;
            }
            Attachment::Macvlan { parent, mode } => {
                let mode = match mode {
                    MacvlanMode::Private => 1,
                    MacvlanMode::Vepa => 2,
                    MacvlanMode::Bridge => 4,
                    MacvlanMode::Passthru => 8,
                };
                let mac = spec.mac.or_else(|| default_mac(spec));
                self.make_sub_link(namespace, spec, ("macvlan", parent, mac), |data| {
                    data.put_u32(IFLA_MACVLAN_MODE, mode);
                })?;
            }
            Attachment::Ipvlan { parent, mode } => {
                let mode = match mode {
                    IpvlanMode::L2 => 0,
                    IpvlanMode::L3 => 1,
                    IpvlanMode::L3s => 2,
                };
                self.make_sub_link(namespace, spec, ("ipvlan", parent, None), |data| {
                    data.put_u16(IFLA_IPVLAN_MODE, mode).put_u16(IFLA_IPVLAN_FLAGS, 0);
                })?;
            }
        }
        let inside = || {
            switch(spec)?;
            Self::open()
        };
        let outcome = netns::within(namespace, inside).flatten().and_then(|links| links.configure(spec));
        if outcome.is_err() {
            // The first failure is the one to tell.
            let _ = self.disconnect(namespace, spec);
        }
        outcome
    }

    fn make_pair(
        &self,
        namespace: BorrowedFd<'_>,
        spec: &EndpointSpec,
        bridge: &str,
        near: &str,
        port: Port,
    ) -> Result<()> {
        let master = self.index(bridge)?;
        let peer =
            Peer { name: &spec.name, mac: spec.mac.or_else(|| default_mac(spec)), mtu: spec.mtu, netns: namespace };
        let mut batch = Batch::new();
        rtnl::create_pair(&mut batch, near, master, &peer);
        self.socket.run(&batch).map_err(failed(near))?;
        if port == Port::default() && spec.rate == Rate::default() {
            return Ok(());
        }
        let finish = || {
            let index = self.index(near)?;
            let mut batch = Batch::new();
            rtnl::set_port(&mut batch, index, port);
            self.run(near, &batch)?;
            if spec.rate == Rate::default() { Ok(()) } else { self.limit(near, spec.rate) }
        };
        finish().inspect_err(|_| {
            let _ = self.delete(&[near]);
        })
    }

    fn make_sub_link(
        &self,
        namespace: BorrowedFd<'_>,
        spec: &EndpointSpec,
        (kind, parent, mac): (&str, &str, Option<Mac>),
        data: impl FnOnce(&mut Message<'_>),
    ) -> Result<()> {
        let parent = self.index(parent)?;
        let mut batch = Batch::new();
        let common = |message: &mut Message<'_>| {
            message.put_text(IFLA_IFNAME, &spec.name).put_i32(IFLA_LINK, parent);
            message.put_i32(IFLA_NET_NS_FD, namespace.as_raw_fd());
            if let Some(mac) = mac {
                message.put(IFLA_ADDRESS, &mac.0);
            }
            if let Some(mtu) = spec.mtu {
                message.put_u32(IFLA_MTU, mtu);
            }
        };
        rtnl::create(&mut batch, kind, IFF_UP, common, data);
        self.socket.run(&batch).map_err(|refusal| {
            if refusal.errno() == Errno::OPNOTSUPP {
                NetError::Kind { kind: kind.to_owned() }
            } else {
                failed(&spec.name)(refusal)
            }
        })
    }

    /// Addresses and routes of the link inside; `self` is the container's namespace.
    fn configure(&self, spec: &EndpointSpec) -> Result<()> {
        let index = self.index(&spec.name)?;
        let mut batch = Batch::new();
        rtnl::set_up(&mut batch, index);
        for address in &spec.addresses {
            rtnl::add_address(&mut batch, index, *address);
        }
        for route in &spec.routes {
            // A gateway outside of every subnet is reached through the link all the same.
            let reached = |via: &IpAddr| spec.addresses.iter().any(|address| address.contains(*via));
            if let Some(via) = route.via.filter(|via| !reached(via)) {
                rtnl::add_route(&mut batch, Subnet::host(via), None, Some(index));
            }
            rtnl::add_route(&mut batch, route.to, route.via, Some(index));
        }
        self.run(&spec.name, &batch)
    }

    /// Takes a container's link away; one that is gone is no error. `namespace` may belong to a running container.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn disconnect(&self, namespace: BorrowedFd<'_>, spec: &EndpointSpec) -> Result<()> {
        match &spec.attachment {
            Attachment::Bridge { near, .. } => {
                self.unlimit(near)?;
                self.delete(&[near])
            }
            Attachment::Macvlan { .. } | Attachment::Ipvlan { .. } => Self::open_in(namespace)?.delete(&[&spec.name]),
        }
    }

    /// Makes the sub-link of `parent` for frames of VLAN `id` (1 to 4094) and sets it up; one that is there stays.
    ///
    /// # Errors
    /// [`NetError::NoLink`], [`NetError::Kind`] when the kernel has no VLANs, or what it answered.
    pub fn create_vlan(&self, parent: &str, id: u16, name: &str) -> Result<()> {
        const IFLA_VLAN_ID: u16 = 1;
        check_name(name)?;
        if self.inspect(name)?.is_some() {
            return self.set_up(name);
        }
        let parent = self.index(parent)?;
        let mut batch = Batch::new();
        let common = |message: &mut Message<'_>| {
            message.put_text(IFLA_IFNAME, name).put_i32(IFLA_LINK, parent);
        };
        rtnl::create(&mut batch, "vlan", IFF_UP, common, |data| {
            data.put_u16(IFLA_VLAN_ID, id);
        });
        self.socket.run(&batch).map_err(|refusal| {
            if refusal.errno() == Errno::OPNOTSUPP {
                NetError::Kind { kind: "vlan".to_owned() }
            } else {
                failed(name)(refusal)
            }
        })
    }
}

/// Sets the link's switches; the calling thread is in the container's namespace.
fn switch(spec: &EndpointSpec) -> Result<()> {
    if !spec.has_v6() {
        super::set_sysctl(&format!("ipv6/conf/{}/disable_ipv6", spec.name), "1")?;
    }
    for one in &spec.switches {
        let path = Path::new("/proc/sys/net").join(&one.family).join(&one.group).join(&spec.name).join(&one.name);
        fs::write(&path, &one.value).map_err(|source| NetError::Sysctl { path, source })?;
    }
    Ok(())
}

fn default_mac(spec: &EndpointSpec) -> Option<Mac> {
    spec.addresses.first().map(|address| Mac::of(address.address()))
}
