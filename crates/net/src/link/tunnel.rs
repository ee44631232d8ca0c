//! Networks that span hosts: VXLAN links as ports of a bridge.
//!
//! # Source
//! RFC 7348; ip-link(8), vxlan; bridge(8), fdb.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::rtnl::{self, Change, IFF_UP, IFLA_ADDRESS, IFLA_IFNAME, IFLA_MASTER, IFLA_MTU};
use super::{Links, check_name, failed};
use crate::address::octets;
use crate::{Mac, Result};
use sys::netlink::{Batch, Message};

/// Stands for every link-layer address.
const EVERYBODY: Mac = Mac([0; 6]);

/// Who else is in the network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VxlanPeers {
    /// These hosts.
    Static(Vec<IpAddr>),
    /// Who listens to this multicast address on the link of that name.
    Multicast {
        /// The group.
        group: IpAddr,
        /// The link.
        link: String,
    },
}

/// A tunnel as it is to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VxlanSpec {
    /// The link's name.
    pub name: String,
    /// The network's number, 24 bits.
    pub id: u32,
    /// The bridge that it becomes a port of.
    pub bridge: String,
    /// This host's address towards the others.
    pub local: IpAddr,
    /// The UDP port, the same on all hosts: 4789 by the standard.
    pub port: u16,
    /// The others.
    pub peers: VxlanPeers,
    /// The largest packet inside, in bytes; the tunnel itself needs 50 more, 70 over IPv6.
    pub mtu: Option<u32>,
    /// Its link-layer address.
    pub mac: Option<Mac>,
}

impl Links {
    /// Makes a tunnel as a port of its bridge, up.
    ///
    /// # Errors
    /// [`crate::NetError::NoLink`] for the bridge or the multicast link, or what the kernel answered.
    pub fn create_vxlan(&self, spec: &VxlanSpec) -> Result<()> {
        const ID: u16 = 1;
        const GROUP: u16 = 2;
        const LINK: u16 = 3;
        const LOCAL: u16 = 4;
        const LEARNING: u16 = 7;
        const PORT: u16 = 15;
        const GROUP6: u16 = 16;
        const LOCAL6: u16 = 17;
        check_name(&spec.name)?;
        let bridge = self.index(&spec.bridge)?;
        let link = match &spec.peers {
            VxlanPeers::Static(_) => None,
            VxlanPeers::Multicast { link, .. } => Some(self.index(link)?),
        };
        let common = |message: &mut Message<'_>| {
            message.put_text(IFLA_IFNAME, &spec.name).put_i32(IFLA_MASTER, bridge);
            if let Some(mtu) = spec.mtu {
                message.put_u32(IFLA_MTU, mtu);
            }
            if let Some(mac) = spec.mac {
                message.put(IFLA_ADDRESS, &mac.0);
            }
        };
        let data = |data: &mut Message<'_>| {
            data.put_u32(ID, spec.id).put(PORT, &spec.port.to_be_bytes()).put_u8(LEARNING, 1);
            data.put(if spec.local.is_ipv6() { LOCAL6 } else { LOCAL }, &octets(spec.local));
            if let (VxlanPeers::Multicast { group, .. }, Some(link)) = (&spec.peers, link) {
                data.put(if group.is_ipv6() { GROUP6 } else { GROUP }, &octets(*group)).put_i32(LINK, link);
            }
        };
        let mut batch = Batch::new();
        rtnl::create(&mut batch, "vxlan", IFF_UP, common, data);
        self.socket.run(&batch).map_err(failed(&spec.name))?;
        if let VxlanPeers::Static(peers) = &spec.peers {
            for peer in peers {
                self.add_vxlan_peer(&spec.name, *peer)?;
            }
        }
        Ok(())
    }

    /// Sends what is for all to host `peer` too; the addresses behind it are learnt.
    ///
    /// # Errors
    /// [`crate::NetError::NoLink`], or what the kernel answered.
    pub fn add_vxlan_peer(&self, name: &str, peer: IpAddr) -> Result<()> {
        self.change_forwarding(name, EVERYBODY, peer, Change::Add)
    }

    /// Undoes [`Self::add_vxlan_peer`].
    ///
    /// # Errors
    /// [`crate::NetError::NoLink`], or what the kernel answered.
    pub fn remove_vxlan_peer(&self, name: &str, peer: IpAddr) -> Result<()> {
        self.change_forwarding(name, EVERYBODY, peer, Change::Remove)
    }

    /// Sends frames for `mac` to host `peer` without waiting to learn it.
    ///
    /// # Errors
    /// [`crate::NetError::NoLink`], or what the kernel answered.
    pub fn add_vxlan_station(&self, name: &str, mac: Mac, peer: IpAddr) -> Result<()> {
        self.change_forwarding(name, mac, peer, Change::Add)
    }

    /// Undoes [`Self::add_vxlan_station`].
    ///
    /// # Errors
    /// [`crate::NetError::NoLink`], or what the kernel answered.
    pub fn remove_vxlan_station(&self, name: &str, mac: Mac, peer: IpAddr) -> Result<()> {
        self.change_forwarding(name, mac, peer, Change::Remove)
    }

    fn change_forwarding(&self, name: &str, mac: Mac, peer: IpAddr, change: Change) -> Result<()> {
        let index = self.index(name)?;
        let mut batch = Batch::new();
        rtnl::forward(&mut batch, index, mac, peer, change);
        self.run(name, &batch)
    }
}
