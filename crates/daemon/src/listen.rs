//! The sockets that clients come to: bound here, passed by systemd, or by the daemon that was here before.

use crate::config::{Host, Resolved};
use anyhow::{Context, Result, bail};
use docker_api::{Listener, Tls};
use rustix::net::AddressFamily;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener as StdListener;
use std::path::{Path, PathBuf};
use tokio::net::{TcpListener, UnixListener};

/// Says that the passed sockets are the daemon's own: it was executed anew.
pub(crate) const OWN_SOCKETS: &str = "INSULA_OWN_SOCKETS";

/// Where and for whom a socket is made.
struct Place<'a> {
    path: PathBuf,
    mode: u32,
    group: Option<&'a str>,
}

/// Listening sockets, and the paths of those that are ours to remove.
pub(crate) struct Sockets {
    pub(crate) listeners: Vec<Listener>,
    pub(crate) files: Vec<SocketFile>,
    /// The same sockets once more, for a successor.
    pub(crate) spare: Vec<OwnedFd>,
}

/// A socket's file; removed when dropped.
pub(crate) struct SocketFile(PathBuf);

impl SocketFile {
    /// The file stays, for a successor.
    pub(crate) fn leave(mut self) {
        self.0 = PathBuf::new();
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if !self.0.as_os_str().is_empty() {
            // a leftover is replaced by the next daemon
            let _ = std::fs::remove_file(&self.0);
        }
    }
}

impl Sockets {
    /// Makes the sockets that are asked for, or takes those that were passed.
    pub(crate) async fn open(asked: &Resolved, tls: Option<&Tls>, passed: Vec<OwnedFd>) -> Result<Self> {
        let mut sockets = Self { listeners: Vec::new(), files: Vec::new(), spare: Vec::new() };
        let own = std::env::var_os(OWN_SOCKETS).is_some();
        if !passed.is_empty() {
            for fd in passed {
                sockets.adopt(fd, asked, tls, own)?;
            }
            if own {
                return Ok(sockets);
            }
        } else {
            sockets.bind(asked.run.join("docker.sock"), asked)?;
        }
        for host in &asked.hosts {
            match host {
                Host::Unix(path) => sockets.bind(path.clone(), asked)?,
                Host::Tcp(address) => {
                    let listener = TcpListener::bind(address).await;
                    let listener = listener.with_context(|| format!("cannot listen on tcp://{address}"))?;
                    let at = listener.local_addr().context("cannot listen on TCP")?;
                    tracing::info!(address = %at, tls = tls.is_some(), "listening");
                    if asked.open {
                        tracing::warn!(address, "without TLS: whoever reaches this port is root on this host");
                    }
                    sockets.spare.push(listener.as_fd().try_clone_to_owned().context("cannot copy a socket")?);
                    sockets.listeners.push(Listener::Tcp(listener, tls.cloned()));
                }
            }
        }
        Ok(sockets)
    }

    fn bind(&mut self, path: PathBuf, asked: &Resolved) -> Result<()> {
        let place = Place { path, mode: asked.mode, group: asked.group.as_deref() };
        let (listener, file) = bind(&place)?;
        self.files.push(file);
        self.unix(listener)
    }

    fn unix(&mut self, listener: StdListener) -> Result<()> {
        self.spare.push(listener.as_fd().try_clone_to_owned().context("cannot copy a socket")?);
        let listener = listener.set_nonblocking(true).and_then(|()| UnixListener::from_std(listener));
        self.listeners.push(Listener::Unix(listener.context("cannot listen on the socket")?));
        Ok(())
    }

    /// Takes a socket that is listening already.
    fn adopt(&mut self, fd: OwnedFd, asked: &Resolved, tls: Option<&Tls>, own: bool) -> Result<()> {
        match rustix::net::sockopt::socket_domain(&fd).context("what systemd passed is no socket")? {
            AddressFamily::UNIX => {
                let listener = StdListener::from(fd);
                let path = listener.local_addr().ok().and_then(|address| address.as_pathname().map(Path::to_owned));
                if let Some(path) = path.filter(|_| own) {
                    self.files.push(SocketFile(path));
                }
                self.unix(listener)
            }
            AddressFamily::INET | AddressFamily::INET6 => {
                if tls.is_none() && !asked.open {
                    bail!(
                        "systemd passed a TCP socket, and whoever reaches it without TLS is root on this host: give \
                         --tlsverify with its files, or say --tls=false"
                    );
                }
                self.spare.push(fd.try_clone().context("cannot copy a socket")?);
                let listener = std::net::TcpListener::from(fd);
                let listener = listener.set_nonblocking(true).and_then(|()| TcpListener::from_std(listener));
                self.listeners.push(Listener::Tcp(listener.context("cannot listen on the socket")?, tls.cloned()));
                Ok(())
            }
            _ => bail!("systemd passed a socket that is neither a unix socket nor TCP"),
        }
    }
}

/// Makes a socket. It appears at its path with mode and group set, and replaces one that a killed daemon left: whoever
/// calls this holds the pid file.
fn bind(place: &Place<'_>) -> Result<(StdListener, SocketFile)> {
    let path = &place.path;
    let group = place.group.map(group_id).transpose()?;
    let fresh = path.with_extension(format!("new.{}", std::process::id()));
    match std::fs::remove_file(&fresh) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("cannot remove {}", fresh.display()));
        }
        _ => {}
    }
    let listener = StdListener::bind(&fresh).with_context(|| format!("cannot make the socket {}", fresh.display()))?;
    // from here on the file is removed if a step fails
    let fresh = SocketFile(fresh);
    if let Some(group) = group {
        rustix::fs::chown(&fresh.0, None, Some(group))
            .with_context(|| format!("cannot give {} to its group", fresh.0.display()))?;
    }
    std::fs::set_permissions(&fresh.0, std::fs::Permissions::from_mode(place.mode))
        .with_context(|| format!("cannot set the mode of {}", fresh.0.display()))?;
    std::fs::rename(&fresh.0, path).with_context(|| format!("cannot put the socket at {}", path.display()))?;
    Ok((listener, SocketFile(path.clone())))
}

/// A group's number, from its number or from /etc/group.
fn group_id(name: &str) -> Result<rustix::fs::Gid> {
    if let Ok(number) = name.parse() {
        return Ok(rustix::fs::Gid::from_raw(number));
    }
    let path = Path::new("/etc/group");
    let groups = std::fs::read_to_string(path).context("cannot read /etc/group")?;
    let number = find_group(&groups, name);
    let number =
        number.with_context(|| format!("there is no group {name:?}; make it with: groupadd --system {name}"))?;
    Ok(rustix::fs::Gid::from_raw(number))
}

fn find_group(groups: &str, name: &str) -> Option<u32> {
    let line = groups.lines().map(|line| line.split(':')).find(|fields| fields.clone().next() == Some(name));
    line?.nth(2)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_found_by_name() {
        let groups = "root:x:0:\ndocker:x:998:ann,bob\nbroken\n";
        assert_eq!(find_group(groups, "docker"), Some(998));
        assert_eq!(find_group(groups, "broken"), None);
        assert_eq!(find_group(groups, "dock"), None);
    }

    #[test]
    fn a_socket_has_its_mode_and_goes_with_its_owner() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("docker.sock");
        std::fs::write(&path, "left by another").unwrap();
        let made = bind(&Place { path: path.clone(), mode: 0o600, group: None }).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        std::os::unix::net::UnixStream::connect(&path).unwrap();
        drop(made);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        assert!(bind(&Place { path: path.clone(), mode: 0o600, group: Some("no such group") }).is_err());
        let (_listener, file) = bind(&Place { path: path.clone(), mode: 0o600, group: None }).unwrap();
        file.leave();
        assert!(path.exists());
    }
}
