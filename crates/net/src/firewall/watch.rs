//! Noticing that somebody else has touched the table.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::io::Errno;
use rustix::net::RecvFlags;

use super::{Firewall, wire};
use crate::{NetError, Result};
use sys::netlink::Socket;

/// The group of nftables' events, as a bit.
const GROUP: u32 = 1 << 6;

/// The kernel's tellings of changes by others; the descriptor is readable when there is one.
#[derive(Debug)]
pub struct Watch(Socket);

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Watch {
    /// Watches the calling thread's namespace.
    ///
    /// # Errors
    /// When there is no nfnetlink socket to be had.
    pub fn open() -> Result<Self> {
        Socket::netfilter_events(GROUP).map(Self).map_err(|source| NetError::Socket { source })
    }

    /// Reads what has been told, without waiting, and says whether somebody other than `own` took something from our
    /// table. When more happened than the kernel could tell, the answer is yes.
    #[must_use]
    pub fn disturbed(&self, own: &Firewall) -> bool {
        let (table, own) = (own.table(), own.port());
        let mut disturbed = false;
        loop {
            let outcome = self.0.receive(RecvFlags::DONTWAIT, &mut |message| {
                let takes = [wire::DELTABLE, 5, 8, 11, 14].map(wire::kind).contains(&message.kind);
                let ours = message.attributes(4).text(1).as_deref() == Some(table);
                disturbed |= takes && ours && Some(message.sender) != own;
                false
            });
            match outcome {
                Ok(_) => {}
                Err(error) if error.errno == Errno::NOBUFS => disturbed = true,
                Err(_) => return disturbed,
            }
        }
    }
}
