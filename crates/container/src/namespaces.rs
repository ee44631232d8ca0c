//! Namespaces of a container: which are new, which are joined, and whom the ids of a user namespace stand for.

use crate::create::Doomed;
use crate::error::{Doing, Result, SetupError};
use crate::init::{self, Inside};
use oci_spec::runtime::{LinuxIdMapping, LinuxNamespaceType, Spec};
use rustix::fs::{CWD, Mode, OFlags};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use sys::process::{Forked, Namespaces, SingleThread};

/// Forks in the wanted namespaces; existing ones are entered first and left again afterwards, because a child in a user
/// namespace of its own could not enter them.
pub(crate) fn fork_into(
    proof: SingleThread,
    wanted: &Wanted,
    cgroup: Option<&OwnedFd>,
    inside: Inside<'_>,
) -> Result<(i32, OwnedFd)> {
    let mut back = Vec::new();
    let entered = wanted.enter(proof, &mut back);
    let forked = entered.and_then(|()| {
        let flags = wanted.new - Namespaces::CGROUP - Namespaces::TIME;
        sys::process::clone3(proof, flags, cgroup.map(AsFd::as_fd)).doing(|| "cannot make the container's process")
    });
    if let Ok(Forked::Child) = forked {
        drop(back);
        init::run(proof, inside);
    }
    drop(inside);
    for (own, kind) in back {
        sys::process::setns(proof, own.as_fd(), kind).doing(|| "cannot return to the host's namespaces")?;
    }
    match forked? {
        Forked::Parent { pid, pidfd } => Ok((pid, pidfd)),
        Forked::Child => sys::process::exit_now(1),
    }
}

/// Which namespaces are new and which are joined.
pub(crate) struct Wanted {
    pub(crate) new: Namespaces,
    joins: Vec<(Namespaces, OwnedFd)>,
    offsets: String,
}

impl Wanted {
    pub(crate) fn of(spec: &Spec, netns: Option<OwnedFd>) -> Result<Self> {
        let linux = spec.linux().as_ref().ok_or_else(|| SetupError::invalid("the configuration has no linux part"))?;
        let mut wanted = Self { new: Namespaces::empty(), joins: Vec::new(), offsets: String::new() };
        for namespace in linux.namespaces().iter().flatten() {
            let (kind, _) = kind_of(namespace.typ());
            if kind == Namespaces::NET && netns.is_some() {
                continue;
            }
            match namespace.path() {
                None => wanted.new |= kind,
                Some(path) if kind == Namespaces::USER || kind == Namespaces::MOUNT => {
                    let text = format!("namespace {}: only new user and mount namespaces can be used", path.display());
                    return Err(SetupError::unsupported(text));
                }
                Some(path) => {
                    let fd = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
                    wanted.joins.push((kind, fd.doing(|| format!("namespace {}", path.display()))?));
                }
            }
        }
        wanted.joins.extend(netns.map(|fd| (Namespaces::NET, fd)));
        for (clock, offset) in linux.time_offsets().iter().flatten() {
            let (seconds, nanoseconds) = (offset.secs().unwrap_or(0), offset.nanosecs().unwrap_or(0));
            wanted.offsets += &format!("{clock} {seconds} {nanoseconds}\n");
        }
        if !wanted.new.contains(Namespaces::MOUNT) {
            return Err(SetupError::unsupported("a container needs a mount namespace of its own"));
        }
        Ok(wanted)
    }

    pub(crate) fn joined(&self) -> Namespaces {
        self.joins.iter().fold(Namespaces::empty(), |all, (kind, _)| all | *kind)
    }

    fn enter(&self, proof: SingleThread, back: &mut Vec<(OwnedFd, Namespaces)>) -> Result<()> {
        for (kind, target) in &self.joins {
            back.push((own(*kind)?, *kind));
            sys::process::setns(proof, target.as_fd(), *kind).doing(|| "cannot enter a namespace")?;
        }
        if self.new.contains(Namespaces::TIME) {
            // the helper itself stays where it is, its children are born in the new namespace
            sys::process::unshare(proof, Namespaces::TIME).doing(|| "cannot make a time namespace")?;
            if !self.offsets.is_empty() {
                std::fs::write("/proc/self/timens_offsets", &self.offsets).doing(|| "linux.timeOffsets")?;
            }
        }
        Ok(())
    }
}

/// This process's own namespace of a kind.
pub(crate) fn own(kind: Namespaces) -> Result<OwnedFd> {
    let name = NAMES.iter().find(|(have, _)| *have == kind).map_or("mnt", |(_, name)| *name);
    // a process's pid namespace is that of its children only after a setns, its own stays
    rustix::fs::open(format!("/proc/self/ns/{name}"), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .doing(|| format!("cannot open /proc/self/ns/{name}"))
}

const NAMES: [(Namespaces, &str); 8] = [
    (Namespaces::CGROUP, "cgroup"),
    (Namespaces::IPC, "ipc"),
    (Namespaces::MOUNT, "mnt"),
    (Namespaces::NET, "net"),
    (Namespaces::PID, "pid"),
    (Namespaces::TIME, "time"),
    (Namespaces::USER, "user"),
    (Namespaces::UTS, "uts"),
];

fn kind_of(kind: LinuxNamespaceType) -> (Namespaces, &'static str) {
    match kind {
        LinuxNamespaceType::Mount => (Namespaces::MOUNT, "mnt"),
        LinuxNamespaceType::Cgroup => (Namespaces::CGROUP, "cgroup"),
        LinuxNamespaceType::Uts => (Namespaces::UTS, "uts"),
        LinuxNamespaceType::Ipc => (Namespaces::IPC, "ipc"),
        LinuxNamespaceType::User => (Namespaces::USER, "user"),
        LinuxNamespaceType::Pid => (Namespaces::PID, "pid"),
        LinuxNamespaceType::Network => (Namespaces::NET, "net"),
        LinuxNamespaceType::Time => (Namespaces::TIME, "time"),
    }
}

pub(crate) fn inodes(pid: i32) -> Vec<(String, u64)> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let Ok(folder) = rustix::fs::openat(CWD, format!("/proc/{pid}/ns"), flags, Mode::empty()) else {
        return Vec::new();
    };
    let inode =
        |name: &str| rustix::fs::statat(&folder, name, rustix::fs::AtFlags::empty()).ok().map(|stat| stat.st_ino);
    NAMES.iter().filter_map(|(_, name)| Some(((*name).to_owned(), inode(name)?))).collect()
}

/// A user namespace with the given mappings and nobody in it, for idmapped mounts.
pub(crate) fn user_namespace(uids: &[LinuxIdMapping], gids: &[LinuxIdMapping]) -> Result<OwnedFd> {
    let proof = SingleThread::check().doing(|| "cannot fork")?;
    match sys::process::clone3(proof, Namespaces::USER, None).doing(|| "cannot make a user namespace")? {
        Forked::Child => loop {
            // killed as soon as the namespace is open
            rustix::event::pause();
        },
        Forked::Parent { pid, pidfd } => {
            let _doomed = Doomed::new(pidfd);
            write_maps(pid, uids, gids)
        }
    }
}

pub(crate) fn map_ids(pid: i32, spec: &Spec) -> Result<OwnedFd> {
    let linux = spec.linux().as_ref();
    let uids = linux.and_then(|linux| linux.uid_mappings().as_deref()).unwrap_or_default();
    let gids = linux.and_then(|linux| linux.gid_mappings().as_deref()).unwrap_or_default();
    write_maps(pid, uids, gids)
}

/// Who root of the container is outside.
pub(crate) fn container_root(spec: &Spec) -> (u32, u32) {
    let linux = spec.linux().as_ref();
    let first = |mappings: Option<&Vec<LinuxIdMapping>>| {
        mappings.into_iter().flatten().find(|one| one.container_id() == 0).map_or(0, LinuxIdMapping::host_id)
    };
    let uid = first(linux.and_then(|linux| linux.uid_mappings().as_ref()));
    (uid, first(linux.and_then(|linux| linux.gid_mappings().as_ref())))
}

fn write_maps(pid: i32, uids: &[LinuxIdMapping], gids: &[LinuxIdMapping]) -> Result<OwnedFd> {
    let lines = |mappings: &[LinuxIdMapping]| {
        let line = |one: &LinuxIdMapping| format!("{} {} {}\n", one.container_id(), one.host_id(), one.size());
        mappings.iter().map(line).collect::<String>()
    };
    if uids.is_empty() || gids.is_empty() {
        return Err(SetupError::invalid("a user namespace needs linux.uidMappings and linux.gidMappings"));
    }
    let folder = PathBuf::from(format!("/proc/{pid}"));
    std::fs::write(folder.join("uid_map"), lines(uids)).doing(|| "cannot map users")?;
    std::fs::write(folder.join("gid_map"), lines(gids)).doing(|| "cannot map groups")?;
    rustix::fs::open(folder.join("ns/user"), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .doing(|| "cannot open the user namespace")
}
