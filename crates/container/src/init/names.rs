//! What the container calls itself, and kernel settings of its own namespaces.

use crate::error::{Doing, Result, SetupError};
use control::FailureKind;
use oci_spec::runtime::{LinuxNamespaceType, Spec};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

/// Sets host and domain name, in a namespace that is not the host's.
pub(crate) fn set(spec: &Spec) -> Result<()> {
    let all = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_ref());
    if !all.is_some_and(|all| all.iter().any(|one| one.typ() == LinuxNamespaceType::Uts)) {
        return Ok(());
    }
    if let Some(name) = spec.hostname().as_ref().filter(|name| !name.is_empty()) {
        rustix::system::sethostname(name.as_bytes()).doing(|| format!("hostname {name:?}"))?;
    }
    if let Some(name) = spec.domainname().as_ref().filter(|name| !name.is_empty()) {
        rustix::system::setdomainname(name.as_bytes()).doing(|| format!("domainname {name:?}"))?;
    }
    Ok(())
}

/// Settings of the IPC namespace.
const IPC: [&str; 8] = [
    "kernel/msgmax",
    "kernel/msgmnb",
    "kernel/msgmni",
    "kernel/sem",
    "kernel/shm_rmid_forced",
    "kernel/shmall",
    "kernel/shmmax",
    "kernel/shmmni",
];

/// The path of a setting below /proc/sys. As sysctl(8) has it, the first separator tells which of `.` and `/` separates; the
/// other is then the one of them that stands inside a part (`net/ipv4/conf/eth0.1/forwarding`).
pub(crate) fn path(name: &str) -> String {
    let swap = |letter| match letter {
        '.' => '/',
        '/' => '.',
        other => other,
    };
    match name.find(['.', '/']).and_then(|at| name.as_bytes().get(at)) {
        Some(b'.') => name.chars().map(swap).collect(),
        _ => name.to_owned(),
    }
}

/// Refuses settings that do not belong to a namespace of the container's own, as they would change the host.
///
/// # Errors
/// [`FailureKind::Invalid`], naming the setting.
pub(crate) fn check_sysctls(spec: &Spec) -> Result<()> {
    let Some(linux) = spec.linux() else { return Ok(()) };
    let has = |kind| linux.namespaces().iter().flatten().any(|one| one.typ() == kind);
    for name in linux.sysctl().iter().flat_map(|all| all.keys()) {
        let path = path(name);
        if path == "kernel/hostname" {
            return Err(SetupError::invalid(format!("linux.sysctl: {name:?} is what \"hostname\" is for")));
        }
        let (kind, needs) = if path.starts_with("net/") {
            (LinuxNamespaceType::Network, "network")
        } else if IPC.binary_search(&path.as_str()).is_ok() || path.starts_with("fs/mqueue/") {
            (LinuxNamespaceType::Ipc, "ipc")
        } else if path == "kernel/domainname" {
            (LinuxNamespaceType::Uts, "uts")
        } else {
            let text = "is not in a separate kernel namespace; it would change the host";
            return Err(SetupError::invalid(format!("linux.sysctl: sysctl {name:?} {text}")));
        };
        if !has(kind) {
            let text =
                format!("is not in a separate kernel namespace; it needs a {needs} namespace of the container's own");
            return Err(SetupError::invalid(format!("linux.sysctl: sysctl {name:?} {text}")));
        }
        if path.split('/').any(|part| part.is_empty() || part == "..") {
            return Err(SetupError::invalid(format!("linux.sysctl: {name:?} is no name of a setting")));
        }
    }
    Ok(())
}

/// Writes the kernel settings, through the host's /proc: nothing of the container can stand in its place (CVE-2025-52881).
pub(crate) fn sysctls(spec: &Spec) -> Result<()> {
    let asked = spec.linux().as_ref().and_then(|linux| linux.sysctl().as_ref());
    for (name, value) in asked.into_iter().flatten() {
        let full = format!("/proc/sys/{}", path(name));
        let file = match rustix::fs::open(&full, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty()) {
            Err(Errno::NOENT) => {
                let text = format!("linux.sysctl: sysctl {name:?} does not exist on this kernel");
                return Err(SetupError::new(FailureKind::NotFound, text));
            }
            other => other.doing(|| format!("linux.sysctl: {name}"))?,
        };
        rustix::io::write(&file, value.as_bytes()).doing(|| format!("linux.sysctl: sysctl {name}={value}"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::path;

    #[test]
    fn the_first_separator_separates() {
        assert_eq!(path("net.ipv4.conf.eth0/1.forwarding"), "net/ipv4/conf/eth0.1/forwarding");
        assert_eq!(path("net/ipv4/conf/eth0.1/forwarding"), "net/ipv4/conf/eth0.1/forwarding");
        assert_eq!(path("kernel.shmmax"), "kernel/shmmax");
        assert_eq!(path("nothing"), "nothing");
    }

    #[test]
    fn the_table_is_sorted() {
        assert!(super::IPC.is_sorted());
    }
}
