//! The subnets that networks get when they ask for none.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::Subnet;
use crate::address::{from_number, number};

/// The most parts of one pool that are looked at.
const PARTS_MAX: u128 = 1 << 16;

/// Docker's pools: each with the length of the parts that networks get.
pub const DEFAULT_POOLS: &[(&str, u8)] = &[
    ("172.17.0.0/16", 16),
    ("172.18.0.0/16", 16),
    ("172.19.0.0/16", 16),
    ("172.20.0.0/14", 16),
    ("172.24.0.0/14", 16),
    ("172.28.0.0/14", 16),
    ("192.168.0.0/16", 20),
];

/// Addresses that are given to networks in equal parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pool {
    /// All of them.
    pub base: Subnet,
    /// The length of a part's prefix, in bits.
    pub size: u8,
}

impl Pool {
    /// The parts, in order.
    pub fn parts(&self) -> impl Iterator<Item = Subnet> + use<> {
        let width = if self.base.is_v6() { 128 } else { 32 };
        let size = self.size.clamp(self.base.prefix(), width);
        let (start, v6) = (number(self.base.network().address()), self.base.is_v6());
        let count = 1_u128.checked_shl(u32::from(size - self.base.prefix())).unwrap_or(PARTS_MAX).min(PARTS_MAX);
        let step = 1_u128.checked_shl(u32::from(width - size)).unwrap_or(0);
        (0..count).filter_map(move |part| Subnet::new(from_number(start + part * step, v6), size))
    }
}

/// Docker's pools, and behind them one of the unique local addresses of this host, in parts of /64.
#[must_use]
pub fn default_pools(seed: [u8; 5]) -> Vec<Pool> {
    let parse = |(base, size): &(&str, u8)| Some(Pool { base: base.parse().ok()?, size: *size });
    let mut pools: Vec<Pool> = DEFAULT_POOLS.iter().filter_map(parse).collect();
    let local: IpAddr = super::unique_local(seed, 0).address();
    pools.extend(Subnet::new(local, 48).map(|base| Pool { base, size: 64 }));
    pools
}
