//! The host as a router: the kernel's switches, and what they were before.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::{NetError, Result};

const IPV4: &str = "ipv4/ip_forward";
const IPV6: &str = "ipv6/conf/all/forwarding";
const LINKS: &str = "/proc/sys/net/ipv6/conf";

/// Which version of IP is to be forwarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// What the switches said before they were changed, by their path below `/proc/sys/net`: plain data that the engine
/// stores before it needs it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Before(pub BTreeMap<String, String>);

/// Lets the host of the calling thread's namespace forward packets, and adds to `before` what it changed.
///
/// A host that forwards IPv6 no longer listens to routers; links that did so (`accept_ra` 1) are told to go on (2), or
/// the host would lose its default route.
///
/// # Errors
/// When a switch can't be read or set, as on a read-only /proc.
pub fn enable(version: Version, before: &mut Before) -> Result<()> {
    match version {
        Version::V4 => change(IPV4, "1", before),
        Version::V6 => {
            if read(IPV6)?.is_none_or(|value| value == "1") {
                return Ok(());
            }
            for link in fs::read_dir(LINKS).into_iter().flatten().flatten() {
                let name = format!("ipv6/conf/{}/accept_ra", link.file_name().to_string_lossy());
                if read(&name)?.as_deref() == Some("1") {
                    change(&name, "2", before)?;
                }
            }
            change(IPV6, "1", before)
        }
    }
}

/// Sets the switches back to what they said before; those of links that are gone are left out.
///
/// # Errors
/// When a switch can't be set.
pub fn restore(before: &Before) -> Result<()> {
    // The switch for all first: turning it off resets nothing that follows.
    for (name, value) in before.0.iter().rev() {
        write(name, value)?;
    }
    Ok(())
}

fn change(name: &str, value: &str, before: &mut Before) -> Result<()> {
    match read(name)? {
        Some(found) if found != value => {
            before.0.entry(name.to_owned()).or_insert(found);
            write(name, value)
        }
        _ => Ok(()),
    }
}

fn path(name: &str) -> PathBuf {
    Path::new("/proc/sys/net").join(name)
}

fn read(name: &str) -> Result<Option<String>> {
    match fs::read_to_string(path(name)) {
        Ok(text) => Ok(Some(text.trim().to_owned())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(source) => Err(NetError::Sysctl { path: path(name), source }),
    }
}

fn write(name: &str, value: &str) -> Result<()> {
    match fs::write(path(name), value) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(NetError::Sysctl { path: path(name), source: error }),
        _ => Ok(()),
    }
}
