//! The network of containers.
//!
//! - [`NetnsPool`]: namespaces ready to be entered. Making one is the most expensive single step of a start.
//! - [`Links`]: bridges, a container's links, tunnels, limits; over rtnetlink.
//! - [`ipam`]: who has which address; pure functions over plain data.
//! - [`firewall`]: one nftables table that is ours: published ports, masquerading, isolation.
//! - [`dns`]: names inside the networks, and the way out for all others.
//! - [`netd`]: the helper that serves the names and guards the table while no daemon runs.
//! - [`cni`]: other people's network plugins, and being one.
//! - [`hosts_file`], [`Resolver`]: the files that name things.
//!
//! Everything here blocks, for microseconds mostly, and knows no tokio. No thread of the caller leaves its namespace for
//! good.
//!
//! Neighbours: `sys` below; the engine above, which stores what is to be and calls here to make it so.

mod address;
pub mod cni;
pub mod conntrack;
pub mod dns;
mod error;
mod files;
pub mod firewall;
pub mod forwarding;
pub mod fuzzing;
pub mod ipam;
mod link;
pub mod netd;
mod netns;
mod statistics;

pub use address::{AddressError, Mac, Subnet};
pub use error::{NetError, Result};
pub use files::{HOST_GATEWAY, Origin, Resolver, extra_host, hostname_file, hosts_file, hosts_file_for};
pub use link::{
    Attachment, BridgeSpec, EndpointSpec, IpvlanMode, LINK_NAME_MAX, Link, Links, MacvlanMode, Rate, Route, RouteEntry,
    Switch, VxlanPeers, VxlanSpec,
};
pub use netns::{NetnsPool, create_netns, netns_inode};
pub use statistics::{LinkStatistics, link_statistics, parse_link_statistics};
pub use sys::netlink::Refusal;
