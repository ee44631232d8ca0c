//! The network of containers: namespaces ready to be entered, their links, and the files that name things.
//!
//! Making a network namespace is the most expensive single step of a start, so [`NetnsPool`] keeps some ready, each
//! with its loopback link up. The pool works on a thread of its own; no thread of the caller ever leaves its namespace.
//!
//! Neighbours: `sys` below; the engine above, which hands the descriptors on.

mod error;
mod files;
mod netlink;
mod netns;
mod statistics;

pub use error::{NetError, Result};
pub use files::{Resolver, hostname_file, hosts_file};
pub use netns::{NetnsPool, create_netns, netns_inode};
pub use statistics::{LinkStatistics, link_statistics, parse_link_statistics};
