//! The messages of rtnetlink that are needed here, one function each.
//!
//! # Source
//! rtnetlink(7), Linux `include/uapi/linux/{if_link,if_addr,rtnetlink,veth,neighbour}.h`.

use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

use crate::address::octets;
use crate::{Mac, Subnet};
use sys::netlink::{Batch, Message, NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE};

pub(crate) const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const RTM_SETLINK: u16 = 19;
pub(crate) const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
pub(crate) const RTM_NEWROUTE: u16 = 24;
const RTM_GETROUTE: u16 = 26;
const RTM_NEWNEIGH: u16 = 28;
const RTM_DELNEIGH: u16 = 29;
const NLM_F_APPEND: u16 = 0x800;

pub(crate) const IFF_UP: u32 = 1;
const AF_BRIDGE: u8 = 7;

pub(crate) const IFLA_ADDRESS: u16 = 1;
pub(crate) const IFLA_IFNAME: u16 = 3;
pub(crate) const IFLA_MTU: u16 = 4;
pub(crate) const IFLA_LINK: u16 = 5;
pub(crate) const IFLA_MASTER: u16 = 10;
pub(crate) const IFLA_LINKINFO: u16 = 18;
pub(crate) const IFLA_IFALIAS: u16 = 20;
pub(crate) const IFLA_NET_NS_FD: u16 = 28;
pub(crate) const IFLA_INFO_KIND: u16 = 1;
pub(crate) const IFLA_INFO_DATA: u16 = 2;
const IFLA_PROTINFO: u16 = 12;
const IFLA_EXT_MASK: u16 = 29;
const IFLA_BRPORT_MODE: u16 = 4;
const IFLA_BRPORT_LEARNING: u16 = 8;
const IFLA_BRPORT_ISOLATED: u16 = 33;
const VETH_INFO_PEER: u16 = 1;

pub(crate) const IFA_ADDRESS: u16 = 1;
pub(crate) const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
const IFA_FLAGS: u16 = 8;
/// No check for duplicates: the address was allocated, and waiting for the check costs a second.
const IFA_F_NODAD: u32 = 0x02;

pub(crate) const RTA_DST: u16 = 1;
pub(crate) const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTPROT_STATIC: u8 = 4;
const RT_TABLE_MAIN: u8 = 254;
const RTN_UNICAST: u8 = 1;
const SCOPE_UNIVERSE: u8 = 0;
const SCOPE_LINK: u8 = 253;

/// `struct ifinfomsg`.
pub(crate) const LINK_HEADER: usize = 16;
/// `struct ifaddrmsg`.
pub(crate) const ADDRESS_HEADER: usize = 8;
/// `struct rtmsg`.
pub(crate) const ROUTE_HEADER: usize = 12;

const CREATE: u16 = NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;

/// `struct ifinfomsg` for link `index` (0 when a name tells it), which is to be up or left as it is.
fn link_header(family: u8, index: i32, flags: u32) -> [u8; LINK_HEADER] {
    let mut header = [0; LINK_HEADER];
    header[0] = family;
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    // Which flags are meant.
    header[12..16].copy_from_slice(&flags.to_ne_bytes());
    header
}

/// Sets a link up.
pub(crate) fn set_up(batch: &mut Batch, index: i32) {
    batch.message("set link up", RTM_NEWLINK, NLM_F_ACK, &link_header(0, index, IFF_UP));
}

/// Changes a link: `write` adds what changes.
pub(crate) fn change(batch: &mut Batch, index: i32, flags: u32, write: impl FnOnce(&mut Message<'_>)) {
    write(&mut batch.message("change link", RTM_NEWLINK, NLM_F_ACK, &link_header(0, index, flags)));
}

/// Makes a link of a kind; `common` adds its own attributes, `data` those of the kind.
pub(crate) fn create(
    batch: &mut Batch,
    kind: &str,
    flags: u32,
    common: impl FnOnce(&mut Message<'_>),
    data: impl FnOnce(&mut Message<'_>),
) {
    let mut message = batch.message("create link", RTM_NEWLINK, CREATE, &link_header(0, 0, flags));
    common(&mut message);
    message.nest(IFLA_LINKINFO, |info| {
        info.put_text(IFLA_INFO_KIND, kind).nest(IFLA_INFO_DATA, data);
    });
}

/// The other end of a pair, in another namespace at once.
pub(crate) struct Peer<'spec> {
    pub(crate) name: &'spec str,
    pub(crate) mac: Option<Mac>,
    pub(crate) mtu: Option<u32>,
    pub(crate) netns: BorrowedFd<'spec>,
}

/// Makes a pair of links: the near end `name` on `master`, the far end as `peer` says. The near end is
/// up; the kernel opens no far end before it knows the near one.
pub(crate) fn create_pair(batch: &mut Batch, name: &str, master: i32, peer: &Peer<'_>) {
    let common = |message: &mut Message<'_>| {
        message.put_text(IFLA_IFNAME, name).put_i32(IFLA_MASTER, master);
        if let Some(mtu) = peer.mtu {
            message.put_u32(IFLA_MTU, mtu);
        }
    };
    create(batch, "veth", IFF_UP, common, |data| {
        data.nest(VETH_INFO_PEER, |far| {
            far.raw(&link_header(0, 0, 0)).put_text(IFLA_IFNAME, peer.name);
            if let Some(mac) = peer.mac {
                far.put(IFLA_ADDRESS, &mac.0);
            }
            if let Some(mtu) = peer.mtu {
                far.put_u32(IFLA_MTU, mtu);
            }
            far.put_i32(IFLA_NET_NS_FD, peer.netns.as_raw_fd());
        });
    });
}

/// What a bridge's port does beyond forwarding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Port {
    /// A frame may leave where it came in.
    pub(crate) hairpin: bool,
    /// No frame goes from here to another isolated port.
    pub(crate) isolated: bool,
}

/// Sets what a bridge's port does.
pub(crate) fn set_port(batch: &mut Batch, index: i32, port: Port) {
    let mut message = batch.message("set bridge port", RTM_SETLINK, NLM_F_ACK, &link_header(AF_BRIDGE, index, 0));
    message.nest(IFLA_PROTINFO, |info| {
        info.put_u8(IFLA_BRPORT_MODE, u8::from(port.hairpin))
            .put_u8(IFLA_BRPORT_ISOLATED, u8::from(port.isolated))
            .put_u8(IFLA_BRPORT_LEARNING, 1);
    });
}

/// Deletes a link by name.
pub(crate) fn delete(batch: &mut Batch, name: &str) {
    batch.message("delete link", RTM_DELLINK, NLM_F_ACK, &link_header(0, 0, 0)).put_text(IFLA_IFNAME, name);
}

/// Asks for the link called `name`, or for all.
pub(crate) fn get_links(name: Option<&str>) -> Batch {
    let mut batch = Batch::new();
    let flags = if name.is_some() { 0 } else { NLM_F_DUMP };
    let mut message = batch.message("get link", RTM_GETLINK, flags, &link_header(0, 0, 0));
    if let Some(name) = name {
        message.put_text(IFLA_IFNAME, name);
    }
    // Without the counters of virtual functions, of which a card may have many.
    message.put_u32(IFLA_EXT_MASK, 8);
    drop(message);
    batch
}

/// Asks for every address.
pub(crate) fn get_addresses() -> Batch {
    let mut batch = Batch::new();
    batch.message("get addresses", RTM_GETADDR, NLM_F_DUMP, &[0; ADDRESS_HEADER]);
    batch
}

/// Asks for every route.
pub(crate) fn get_routes() -> Batch {
    let mut batch = Batch::new();
    batch.message("get routes", RTM_GETROUTE, NLM_F_DUMP, &[0; ROUTE_HEADER]);
    batch
}

/// The number by which netlink knows an address's family.
pub(crate) fn family(v6: bool) -> u8 {
    if v6 { 10 } else { 2 }
}

/// Gives a link an address; one that it has is left as it is.
pub(crate) fn add_address(batch: &mut Batch, index: i32, address: Subnet) {
    let mut header = [0; ADDRESS_HEADER];
    header[0] = family(address.is_v6());
    header[1] = address.prefix();
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    let flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;
    let mut message = batch.message("add address", RTM_NEWADDR, flags, &header);
    let bytes = octets(address.address());
    message.put(IFA_LOCAL, &bytes).put(IFA_ADDRESS, &bytes);
    if address.is_v6() {
        message.put_u32(IFA_FLAGS, IFA_F_NODAD);
    } else if address.prefix() < 31 {
        message.put(IFA_BROADCAST, &octets(address.last()));
    }
}

/// Adds a route to `to`, through `gateway` or, without one, through link `index` itself.
pub(crate) fn add_route(batch: &mut Batch, to: Subnet, gateway: Option<IpAddr>, index: Option<i32>) {
    let mut header = [0; ROUTE_HEADER];
    header[0] = family(to.is_v6());
    header[1] = to.prefix();
    header[4] = RT_TABLE_MAIN;
    header[5] = RTPROT_STATIC;
    header[6] = if gateway.is_some() { SCOPE_UNIVERSE } else { SCOPE_LINK };
    header[7] = RTN_UNICAST;
    let flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;
    let mut message = batch.message("add route", RTM_NEWROUTE, flags, &header);
    if to.prefix() > 0 {
        message.put(RTA_DST, &octets(to.network().address()));
    }
    if let Some(gateway) = gateway {
        message.put(RTA_GATEWAY, &octets(gateway));
    }
    if let Some(index) = index {
        message.put_i32(RTA_OIF, index);
    }
}

/// Whether an entry of a forwarding table comes or goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    Add,
    Remove,
}

/// Changes an entry of a VXLAN link's own table: frames for `mac` (zero: those for all) go to host `peer`.
pub(crate) fn forward(batch: &mut Batch, index: i32, mac: Mac, peer: IpAddr, change: Change) {
    let mut header = [0; 12];
    header[0] = AF_BRIDGE;
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    // Permanent and without ageing; in the link's own table, not in its bridge's.
    header[8..10].copy_from_slice(&0xc0_u16.to_ne_bytes());
    header[10] = 0x02;
    let (kind, flags) = match change {
        Change::Add => (RTM_NEWNEIGH, NLM_F_ACK | NLM_F_CREATE | NLM_F_APPEND),
        Change::Remove => (RTM_DELNEIGH, NLM_F_ACK),
    };
    batch.message("change forwarding entry", kind, flags, &header).put(1, &octets(peer)).put(2, &mac.0);
}
