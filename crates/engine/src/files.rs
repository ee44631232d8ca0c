//! The files of a container's folder: its writable layer, and the three that it sees below /etc.

use crate::config::Paths;
use crate::model::{Container, ContainerSpec, NetworkMode};
use crate::plan::namespaces::shown_hostname;
use std::fs::{self, DirBuilder};
use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

/// Makes them. `gateways` are how containers reach the host.
pub(crate) fn make(container: &Container, paths: &Paths, gateways: &[IpAddr]) -> io::Result<()> {
    let folder = |path: &Path, mode| DirBuilder::new().mode(mode).create(path);
    // a container with ids of its own has to pass through to its layer
    folder(&paths.dir, 0o711)?;
    if has_upper(&container.spec) {
        folder(&paths.dir.join("upper"), 0o755)?;
        folder(&paths.dir.join("work"), 0o700)?;
    }
    make_below_etc(container, paths, gateways)
}

/// A read-only root needs an upper layer only where mount points of the user's may have to be made.
pub(crate) fn has_upper(spec: &ContainerSpec) -> bool {
    !spec.read_only_root || !spec.mounts.is_empty() || spec.working_dir.is_some()
}

/// Makes only the three files that it sees below /etc.
pub(crate) fn make_below_etc(container: &Container, paths: &Paths, gateways: &[IpAddr]) -> io::Result<()> {
    let hostname = shown_hostname(container);
    fs::write(&paths.hostname, net::hostname_file(&hostname))?;
    // what they say depends on addresses, which the container gets with its start
    if matches!(container.spec.network, NetworkMode::Networks(_)) {
        return Ok(());
    }
    fs::write(&paths.hosts, hosts(container, &hostname, gateways))?;
    fs::write(&paths.resolv_conf, resolv_conf(container))
}

fn hosts(container: &Container, hostname: &str, gateways: &[IpAddr]) -> String {
    let spec = &container.spec;
    let extra: Vec<(String, IpAddr)> =
        spec.extra_hosts.iter().filter_map(|line| net::extra_host(line, gateways)).flatten().collect();
    if spec.network == NetworkMode::Host
        && let Ok(mut text) = fs::read_to_string("/etc/hosts")
    {
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        for (name, address) in &extra {
            text.push_str(&format!("{address}\t{name}\n"));
        }
        return text;
    }
    let name = spec.domainname.as_deref().map_or_else(|| hostname.to_owned(), |domain| format!("{hostname}.{domain}"));
    net::hosts_file(&name, None, &extra)
}

fn resolv_conf(container: &Container) -> String {
    let spec = &container.spec;
    let host = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    net::Resolver::parse(&host).with(&spec.dns, &spec.dns_search, &spec.dns_options).to_string()
}

/// Makes a folder with the mount points that every container needs and opens it, as a
/// detached mount where the kernel takes those as layers. As the lowest layer
/// it gives way to whatever the image has there, keeps `/proc` and `/etc/hosts` out of every writable layer, and lets
/// read-only containers do without one.
pub(crate) fn skeleton(folder: &Path) -> io::Result<OwnedFd> {
    for name in ["", "dev", "etc", "proc", "sys"] {
        fs::create_dir_all(folder.join(name))?;
    }
    for name in ["hosts", "hostname", "resolv.conf"] {
        fs::File::options().create(true).append(true).open(folder.join("etc").join(name))?;
    }
    if !sys::overlay::takes_detached() {
        let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC;
        return Ok(rustix::fs::open(folder, flags, rustix::fs::Mode::empty())?);
    }
    let flags = sys::mount::OpenTreeFlags::OPEN_TREE_CLONE | sys::mount::OpenTreeFlags::OPEN_TREE_CLOEXEC;
    sys::mount::open_tree(rustix::fs::CWD, folder, flags).map_err(|error| io::Error::other(error.to_string()))
}

/// Bytes of the files below a folder, each file once; links are not followed.
pub(crate) fn content_bytes(folder: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let mut seen = std::collections::HashSet::new();
    let mut pending = vec![folder.to_owned()];
    let mut bytes = 0;
    while let Some(folder) = pending.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let Ok(meta) = entry.metadata() else { continue };
            if meta.is_dir() {
                pending.push(entry.path());
            } else if meta.nlink() == 1 || seen.insert(meta.ino()) {
                bytes += meta.len();
            }
        }
    }
    bytes
}

/// Bytes on disk below a folder; links are not followed.
pub(crate) fn disk_bytes(folder: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    let one = |entry: fs::DirEntry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => disk_bytes(&entry.path()),
        Ok(meta) => meta.blocks() * 512,
        Err(_) => 0,
    };
    entries.flatten().map(one).sum()
}
