//! Network interfaces of the host that the container gets (`linux.netDevices`).
//!
//! They are moved by the side that stays outside, as only it has the right in both namespaces. When the container's network
//! namespace ends, the kernel gives physical ones back and takes virtual ones away.

use crate::error::{Doing, Result};
use crate::namespaces::own;
use oci_spec::runtime::Spec;
use rustix::fs::{Mode, OFlags};
use std::os::fd::{AsFd, BorrowedFd};
use sys::process::{Namespaces, SingleThread};
use sys::rtnetlink::Links;

/// Moves what the configuration names into the network namespace of process `pid`, with its addresses, and sets it up there.
pub(crate) fn give(proof: SingleThread, spec: &Spec, pid: i32, process: BorrowedFd<'_>) -> Result<()> {
    let all = spec.linux().as_ref().and_then(|linux| linux.net_devices().as_ref());
    let Some(all) = all.filter(|all| !all.is_empty()) else { return Ok(()) };
    let path = format!("/proc/{pid}/ns/net");
    let theirs = rustix::fs::open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).doing(|| path.clone())?;
    let links = Links::open().doing(|| "linux.netDevices")?;
    let mut moved = Vec::new();
    for (host, device) in all {
        let what = || format!("linux.netDevices: {host}");
        let name = device.name().as_deref().filter(|name| !name.is_empty()).unwrap_or(host);
        let index = links.index(host).doing(what)?;
        let addresses = links.addresses(index).doing(what)?;
        links.move_to(index, theirs.as_fd(), name).doing(what)?;
        moved.push((name, addresses));
    }
    let home = own(Namespaces::NET)?;
    sys::process::setns(proof, process, Namespaces::NET).doing(|| "linux.netDevices: the network namespace")?;
    let outcome = Links::open().doing(|| "linux.netDevices").and_then(|links| {
        for (name, addresses) in &moved {
            let what = || format!("linux.netDevices: {name}");
            let index = links.index(name).doing(what)?;
            for address in addresses {
                links.add_address(index, address).doing(what)?;
            }
            links.set_up(index).doing(what)?;
        }
        Ok(())
    });
    sys::process::setns(proof, home.as_fd(), Namespaces::NET).doing(|| "cannot return to the host's network")?;
    outcome
}
