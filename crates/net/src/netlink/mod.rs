//! Netlink: how the kernel is told about links, addresses, routes, queues, packet filters and tracked connections.
//!
//! ```text
//! message   = length u32, kind u16, flags u16, sequence u32, sender u32, fixed header, attributes
//! attribute = length u16, kind u16, value, padding to 4 bytes; a value may be attributes again
//! ```
//!
//! [`Batch`] writes many messages that one `sendmsg` carries; [`Socket`] sends them and reads the answers;
//! [`Attributes`] reads what came.
//!
//! # Source
//! netlink(7), rtnetlink(7), Linux `include/uapi/linux/{netlink,rtnetlink}.h`.

mod batch;
mod read;
mod socket;

pub(crate) use batch::{Batch, Message, NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE};
use read::Messages;
pub(crate) use read::{Attributes, Received};
pub use socket::Refusal;
pub(crate) use socket::Socket;

#[cfg(test)]
mod tests;

/// Sets the loopback link of the calling thread's network namespace up.
///
/// # Errors
/// What the kernel answered.
pub(crate) fn loopback_up() -> sys::Result<()> {
    /// The loopback link is the first of every namespace.
    const LOOPBACK: i32 = 1;
    let socket = Socket::route()?;
    let mut batch = Batch::new();
    crate::link::rtnl::set_up(&mut batch, LOOPBACK);
    socket.run(&mut batch).map_err(|refusal| refusal.source)
}

/// Reads anything; for the fuzz target.
pub(crate) fn noise(bytes: &[u8]) {
    for message in Messages(bytes) {
        for (_, value) in message.attributes(4) {
            assert!(Attributes(value).count() <= value.len(), "an attribute without end");
        }
        let _ = socket::acknowledged(message);
    }
}
