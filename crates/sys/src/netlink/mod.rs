//! Netlink: how the kernel is told about links, addresses, routes, queues, packet filters and tracked connections.
//!
//! ```text
//! message   = length u32, kind u16, flags u16, sequence u32, sender u32, fixed header, attributes
//! attribute = length u16, kind u16, value, padding to 4 bytes; a value may be attributes again
//! ```
//! All numbers are in the machine's byte order but where a protocol says otherwise.
//!
//! [`Batch`] writes many messages that one `sendmsg` carries; [`Socket`] sends them and reads the answers;
//! [`Attributes`] reads what came. What messages mean is for whoever sends them: [`crate::rtnetlink`] and the `net` crate.
//!
//! # Source
//! netlink(7), rtnetlink(7), Linux `include/uapi/linux/{netlink,rtnetlink}.h`.

mod batch;
mod read;
mod socket;
#[cfg(test)]
mod tests;

pub use batch::{Batch, Message, NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE};
pub use read::{Attributes, Messages, Received};
pub use socket::{Refusal, Socket};
