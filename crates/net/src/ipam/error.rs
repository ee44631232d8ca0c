//! Why somebody gets no address.

use std::net::IpAddr;

use crate::Subnet;

/// A request for a subnet or an address that can't be met.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IpamError {
    /// The network has its subnets already.
    #[error("network {network} has its subnets already")]
    Network {
        /// The network.
        network: String,
    },
    /// There is no such network.
    #[error("network {network} has no subnets")]
    NoNetwork {
        /// The network.
        network: String,
    },
    /// Another network has some of these addresses.
    #[error("subnet {subnet} overlaps with {other} of network {owner}; choose another with --subnet")]
    Overlap {
        /// What was asked for.
        subnet: Subnet,
        /// The other network.
        owner: String,
        /// Its subnet.
        other: Subnet,
    },
    /// Every subnet of the pools is in use by a network or by a route of the host.
    #[error(
        "every subnet of the address pools is in use by networks or by the host's routes; \
         remove networks, name one with --subnet, or give the daemon more pools"
    )]
    Exhausted,
    /// The subnet has no room for a gateway and a container.
    #[error("subnet {subnet} has no room for a gateway and a container")]
    TooSmall {
        /// The subnet.
        subnet: Subnet,
    },
    /// The range is not part of the subnet.
    #[error("range {range} is not within subnet {subnet}")]
    Range {
        /// The range.
        range: Subnet,
        /// The subnet.
        subnet: Subnet,
    },
    /// The gateway is not part of the subnet.
    #[error("gateway {gateway} is not within subnet {subnet}")]
    Gateway {
        /// The gateway.
        gateway: IpAddr,
        /// The subnet.
        subnet: Subnet,
    },
    /// An auxiliary address is not part of the subnet.
    #[error("auxiliary address {name}={address} is not within subnet {subnet}")]
    Auxiliary {
        /// Its name.
        name: String,
        /// The address.
        address: IpAddr,
        /// The subnet.
        subnet: Subnet,
    },
    /// An auxiliary address is the gateway's, or another auxiliary one's.
    #[error("failed to allocate secondary ip address ({name}:{address}): Address already in use")]
    AuxiliaryTaken {
        /// Its name.
        name: String,
        /// The address.
        address: IpAddr,
    },
    /// Somebody has the address.
    #[error("address {address} is in use by {holder}")]
    Taken {
        /// The address.
        address: IpAddr,
        /// Who has it.
        holder: String,
    },
    /// The address belongs to no subnet of the network.
    #[error("address {address} belongs to no subnet of network {network}")]
    Outside {
        /// The address.
        address: IpAddr,
        /// The network.
        network: String,
    },
    /// Every address is given out.
    #[error("network {network} has no free address left in {range}")]
    Full {
        /// The network.
        network: String,
        /// Where addresses are given from.
        range: Subnet,
    },
}
