//! The sockets that clients come to: bound here, or passed by systemd.

use anyhow::{Context, Result, bail};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener as StdListener;
use std::path::{Path, PathBuf};
use tokio::net::UnixListener;

/// Where and for whom a socket is made.
pub(crate) struct Place<'a> {
    pub(crate) path: PathBuf,
    pub(crate) mode: u32,
    pub(crate) group: Option<&'a str>,
}

/// Listening sockets, and the path of the one that is ours to remove.
pub(crate) struct Sockets {
    pub(crate) listeners: Vec<UnixListener>,
    pub(crate) path: Option<SocketFile>,
}

/// A socket's file; removed when dropped.
pub(crate) struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // a leftover is replaced by the next daemon
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Makes the socket. It appears at its path with mode and group set, and replaces one that a killed daemon left: whoever
/// calls this holds the pid file.
pub(crate) fn bind(place: &Place<'_>) -> Result<Sockets> {
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
    Ok(Sockets { listeners: vec![tokio_listener(listener)?], path: Some(SocketFile(path.clone())) })
}

/// Takes sockets that are listening already.
pub(crate) fn adopt(passed: Vec<OwnedFd>) -> Result<Sockets> {
    let mut listeners = Vec::with_capacity(passed.len());
    for fd in passed {
        let domain = rustix::net::sockopt::socket_domain(&fd).context("what systemd passed is no socket")?;
        if domain != rustix::net::AddressFamily::UNIX {
            bail!("systemd passed a socket that is not a unix socket; use ListenStream= with a path");
        }
        listeners.push(tokio_listener(StdListener::from(fd))?);
    }
    Ok(Sockets { listeners, path: None })
}

fn tokio_listener(listener: StdListener) -> Result<UnixListener> {
    listener
        .set_nonblocking(true)
        .and_then(|()| UnixListener::from_std(listener))
        .context("cannot listen on the socket")
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

    #[tokio::test]
    async fn socket_has_its_mode_and_goes_with_its_owner() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("docker.sock");
        std::fs::write(&path, "left by another").unwrap();
        let sockets = bind(&Place { path: path.clone(), mode: 0o600, group: None }).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        std::os::unix::net::UnixStream::connect(&path).unwrap();
        drop(sockets);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        assert!(bind(&Place { path, mode: 0o600, group: Some("no such group") }).is_err());
    }
}
