//! Links and what hangs on them: bridges, pairs into containers, sub-links of a parent, tunnels, queues.
//!
//! [`Links`] is the face: it holds one rtnetlink socket of one namespace, blocks, and may be used by one thread at a time
//! or opened again cheaply.

mod bridge;
mod endpoint;
mod rate;
pub(crate) mod rtnl;
mod show;
mod tunnel;

use std::net::IpAddr;
use std::os::fd::BorrowedFd;

use rustix::io::Errno;

pub use bridge::BridgeSpec;
pub(crate) use bridge::set_sysctl;
pub use endpoint::{Attachment, EndpointSpec, IpvlanMode, MacvlanMode, Route, Switch};
pub use rate::Rate;
pub use show::{Link, RouteEntry};
pub use tunnel::{VxlanPeers, VxlanSpec};

use crate::{NetError, Result, netns};
use sys::netlink::{Batch, Refusal, Socket};

/// The longest name that the kernel gives a link, in bytes.
pub const LINK_NAME_MAX: usize = 15;

/// The links of one network namespace.
#[derive(Debug)]
pub struct Links {
    socket: Socket,
}

impl Links {
    /// Those of the calling thread's namespace.
    ///
    /// # Errors
    /// When there is no rtnetlink socket to be had.
    pub fn open() -> Result<Self> {
        Socket::route().map(|socket| Self { socket }).map_err(|source| NetError::Socket { source })
    }

    /// Those of another namespace; the calling thread is back in its own when this returns.
    ///
    /// # Errors
    /// When the namespace can't be entered.
    pub fn open_in(namespace: BorrowedFd<'_>) -> Result<Self> {
        netns::within(namespace, Self::open)?
    }

    /// Deletes the links called `names`; those that are gone already are no error.
    ///
    /// The kernel waits some milliseconds for each, so this belongs behind the answer to a client. A link that was moved
    /// into a namespace goes with the namespace, and so does a pair of which one end is there.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn delete(&self, names: &[&str]) -> Result<()> {
        for name in names {
            let mut batch = Batch::new();
            rtnl::delete(&mut batch, name);
            match self.socket.run(&batch) {
                Err(refusal) if refusal.errno() != Errno::NODEV => return Err(failed(name)(refusal)),
                _ => {}
            }
        }
        Ok(())
    }

    /// Makes a link that leads nowhere and sets it up, for sub-links that are to see each other only; one that is there
    /// stays.
    ///
    /// # Errors
    /// [`NetError::Name`], [`NetError::Kind`] when the kernel has none, or what it answered.
    pub fn create_dummy(&self, name: &str) -> Result<()> {
        check_name(name)?;
        if self.inspect(name)?.is_some() {
            return self.set_up(name);
        }
        let mut batch = Batch::new();
        let common = |message: &mut sys::netlink::Message<'_>| {
            message.put_text(rtnl::IFLA_IFNAME, name);
        };
        rtnl::create(&mut batch, "dummy", rtnl::IFF_UP, common, |_| {});
        self.socket.run(&batch).map_err(|refusal| {
            if refusal.errno() == Errno::OPNOTSUPP {
                NetError::Kind { kind: "dummy".to_owned() }
            } else {
                failed(name)(refusal)
            }
        })
    }

    /// Gives the link called `name` an address more.
    ///
    /// # Errors
    /// [`NetError::NoLink`], or what the kernel answered.
    pub fn add_address(&self, name: &str, address: crate::Subnet) -> Result<()> {
        let index = self.index(name)?;
        let mut batch = Batch::new();
        rtnl::add_address(&mut batch, index, address);
        self.run(name, &batch)
    }

    /// Adds a route through `gateway`, or straight out of the link called `name`.
    ///
    /// # Errors
    /// [`NetError::NoLink`], or what the kernel answered.
    pub fn add_route(&self, name: &str, to: crate::Subnet, gateway: Option<IpAddr>) -> Result<()> {
        let index = self.index(name)?;
        let mut batch = Batch::new();
        rtnl::add_route(&mut batch, to, gateway, Some(index));
        self.run(name, &batch)
    }

    /// Sets the link called `name` up.
    ///
    /// # Errors
    /// [`NetError::NoLink`], or what the kernel answered.
    pub fn set_up(&self, name: &str) -> Result<()> {
        let index = self.index(name)?;
        let mut batch = Batch::new();
        rtnl::set_up(&mut batch, index);
        self.run(name, &batch)
    }

    /// The number of the link called `name`. Asked by ioctl: that takes none of the locks under which the kernel makes
    /// links and namespaces, for which a question over rtnetlink would wait.
    fn index(&self, name: &str) -> Result<i32> {
        match rustix::net::netdevice::name_to_index(&self.socket, name) {
            Ok(index) => Ok(index.cast_signed()),
            Err(Errno::NODEV) => Err(NetError::NoLink { name: name.to_owned() }),
            Err(errno) => {
                let source = sys::SysError::new("ioctl SIOCGIFINDEX", errno);
                Err(failed(name)(Refusal { what: "find link", source }))
            }
        }
    }

    fn run(&self, name: &str, batch: &Batch) -> Result<()> {
        self.socket.run(batch).map_err(failed(name))
    }
}

/// Sets the loopback link of the calling thread's network namespace up.
///
/// # Errors
/// What the kernel answered.
pub(crate) fn loopback_up() -> sys::Result<()> {
    /// The loopback link is the first of every namespace.
    const LOOPBACK: i32 = 1;
    let socket = Socket::route()?;
    let mut batch = Batch::new();
    rtnl::set_up(&mut batch, LOOPBACK);
    socket.run(&batch).map_err(|refusal| refusal.source)
}

/// Turns a refusal into an error that names the link.
fn failed(name: &str) -> impl FnOnce(Refusal) -> NetError {
    let link = name.to_owned();
    move |source| NetError::Link { link, source }
}

/// Whether the kernel takes `name` for a link.
pub(crate) fn check_name(name: &str) -> Result<()> {
    let good = (1..=LINK_NAME_MAX).contains(&name.len())
        && name != "."
        && name != ".."
        && !name.bytes().any(|byte| byte.is_ascii_whitespace() || byte == b'/' || byte == b':' || byte == 0);
    if good { Ok(()) } else { Err(NetError::Name { name: name.to_owned() }) }
}
