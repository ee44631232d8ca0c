//! What links, addresses and routes there are.

use super::rtnl::{
    self, ADDRESS_HEADER, IFA_ADDRESS, IFA_LOCAL, IFF_UP, IFLA_ADDRESS, IFLA_IFALIAS, IFLA_IFNAME, IFLA_INFO_KIND,
    IFLA_LINKINFO, IFLA_MASTER, IFLA_MTU, LINK_HEADER, ROUTE_HEADER, RTA_DST, RTA_OIF,
};
use super::{Links, failed};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rustix::io::Errno;

use crate::address::from_octets;
use crate::{Mac, Result, Subnet};
use sys::netlink::{Attributes, Received};

/// A link as the kernel has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// The kernel's number for it.
    pub index: i32,
    /// Its name.
    pub name: String,
    /// What it is, such as `bridge` or `veth`; nothing for a card.
    pub kind: Option<String>,
    /// Its link-layer address, for Ethernet.
    pub mac: Option<Mac>,
    /// The largest packet, in bytes.
    pub mtu: u32,
    /// The bridge that it is a port of.
    pub master: Option<i32>,
    /// Whether it is set up.
    pub up: bool,
    /// Words about it, as `ip link set alias` gives it.
    pub alias: Option<String>,
}

/// A route as the kernel has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RouteEntry {
    /// To where.
    pub to: Subnet,
    /// The link it leaves by.
    pub link: Option<i32>,
}

impl Links {
    /// The link called `name`.
    ///
    /// # Errors
    /// What the kernel answered, unless it is that there is none.
    pub fn inspect(&self, name: &str) -> Result<Option<Link>> {
        let mut found = None;
        match self.socket.ask(&rtnl::get_links(Some(name)), &mut |message| found = read_link(message)) {
            Err(refusal) if refusal.errno() != Errno::NODEV => Err(failed(name)(refusal)),
            _ => Ok(found),
        }
    }

    /// Every link.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn list(&self) -> Result<Vec<Link>> {
        let mut links = Vec::new();
        self.socket
            .ask(&rtnl::get_links(None), &mut |message| links.extend(read_link(message)))
            .map_err(failed("*"))?;
        Ok(links)
    }

    /// Every address with the number of its link.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn addresses(&self) -> Result<Vec<(i32, Subnet)>> {
        let mut addresses = Vec::new();
        let ask = self.socket.ask(&rtnl::get_addresses(), &mut |message| addresses.extend(read_address(message)));
        ask.map_err(failed("*"))?;
        Ok(addresses)
    }

    /// Every route to a place outside of the host itself.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn routes(&self) -> Result<Vec<RouteEntry>> {
        let mut routes = Vec::new();
        self.socket.ask(&rtnl::get_routes(), &mut |message| routes.extend(read_route(message))).map_err(failed("*"))?;
        Ok(routes)
    }

    /// The subnets that the host's routes and addresses use, without the default route: what a new network must not
    /// overlap with. Those of links called `except` don't count.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn used_subnets(&self, except: &[&str]) -> Result<Vec<Subnet>> {
        let links = self.list()?;
        let spared: Vec<i32> =
            links.iter().filter(|link| except.contains(&link.name.as_str())).map(|link| link.index).collect();
        let routes = self.routes()?.into_iter();
        let mut used: Vec<Subnet> = routes
            .filter(|route| route.to.prefix() > 0 && !route.link.is_some_and(|link| spared.contains(&link)))
            .map(|route| route.to)
            .collect();
        let addresses = self.addresses()?.into_iter().filter(|(link, _)| !spared.contains(link));
        used.extend(addresses.map(|(_, address)| address.network()));
        used.sort_unstable();
        used.dedup();
        Ok(used)
    }
}

fn i32_at(bytes: &[u8], at: usize) -> Option<i32> {
    Some(i32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn read_link(message: Received<'_>) -> Option<Link> {
    if message.kind != rtnl::RTM_NEWLINK {
        return None;
    }
    let attributes = message.attributes(LINK_HEADER);
    Some(Link {
        index: i32_at(message.body, 4)?,
        name: attributes.text(IFLA_IFNAME)?,
        kind: attributes.nested(IFLA_LINKINFO).text(IFLA_INFO_KIND),
        mac: attributes.get(IFLA_ADDRESS).and_then(|bytes| bytes.try_into().ok()).map(Mac),
        mtu: attributes.u32(IFLA_MTU).unwrap_or(0),
        master: attributes.u32(IFLA_MASTER).map(u32::cast_signed),
        up: i32_at(message.body, 8)?.cast_unsigned() & IFF_UP != 0,
        alias: attributes.text(IFLA_IFALIAS),
    })
}

fn read_address(message: Received<'_>) -> Option<(i32, Subnet)> {
    if message.kind != rtnl::RTM_NEWADDR {
        return None;
    }
    let attributes: Attributes<'_> = message.attributes(ADDRESS_HEADER);
    let address = from_octets(attributes.get(IFA_LOCAL).or_else(|| attributes.get(IFA_ADDRESS))?)?;
    Some((i32_at(message.body, 4)?, Subnet::new(address, *message.body.get(1)?)?))
}

fn read_route(message: Received<'_>) -> Option<RouteEntry> {
    const RTN_UNICAST: u8 = 1;
    if message.kind != rtnl::RTM_NEWROUTE || *message.body.get(7)? != RTN_UNICAST {
        return None;
    }
    let attributes = message.attributes(ROUTE_HEADER);
    let any = if message.body.first() == Some(&rtnl::family(true)) {
        IpAddr::V6(Ipv6Addr::UNSPECIFIED)
    } else {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED)
    };
    let address = attributes.get(RTA_DST).and_then(from_octets).unwrap_or(any);
    let to = Subnet::new(address, *message.body.get(1)?)?;
    Some(RouteEntry { to, link: attributes.u32(RTA_OIF).map(u32::cast_signed) })
}
