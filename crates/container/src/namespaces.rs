//! Namespaces of a container: which are new, which are joined, and whom the ids of a user namespace stand for.

use crate::create::Doomed;
use crate::error::{Doing, Result, SetupError};
use crate::init::{self, Inside};
use crate::sync::{Line, Word};
use control::FailureKind;
use oci_spec::runtime::{LinuxIdMapping, LinuxNamespaceType, Spec};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::process::DumpableBehavior;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
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
    let flags = wanted.new - Namespaces::CGROUP - Namespaces::TIME;
    let cgroup = cgroup.map(AsFd::as_fd);
    let forked = entered.and_then(|()| match &wanted.user {
        None => sys::process::clone3(proof, flags, cgroup).doing(|| "cannot make the container's process"),
        Some(user) => fork_through(proof, (cgroup, flags), &inside.line, |_| {
            sys::process::setns(proof, user.as_fd(), Namespaces::USER)
                .doing(|| "linux.namespaces: cannot enter the user namespace")
        }),
    });
    if let Ok(Forked::Child) = forked {
        drop(back);
        init::run(proof, inside);
    }
    inside.close();
    for (own, kind) in back {
        match sys::process::setns(proof, own.as_fd(), kind) {
            // Within somebody's user namespace the clocks are the machine's still, and none goes back to those. They are for what this process
            // makes later only, which sees the container's.
            Err(error) if kind == Namespaces::TIME && error.errno == Errno::PERM => {}
            outcome => outcome.doing(|| "cannot return to the host's namespaces")?,
        }
    }
    match forked? {
        Forked::Parent { pid, pidfd } => Ok((pid, pidfd)),
        Forked::Child => sys::process::exit_now(1),
    }
}

/// Forks by way of a process in between, which `enter`s namespaces that nobody comes back from, and has its child there, which is ours
/// all the same, in a version 2 control group and in new namespaces. A failure is also said on the line that the child has. `enter` may
/// close what the child is not to have, but for the descriptor that it is given.
pub(crate) fn fork_through(
    proof: SingleThread,
    (cgroup, new): (Option<BorrowedFd<'_>>, Namespaces),
    theirs: &Line,
    enter: impl FnOnce(BorrowedFd<'_>) -> Result<()>,
) -> Result<Forked> {
    let (line, back) = Line::pair()?;
    let between = sys::process::clone3(proof, Namespaces::empty(), cgroup);
    match between.doing(|| "cannot make a process for the user namespace")? {
        Forked::Child => {
            drop(line);
            let made = enter(back.as_fd()).and_then(|()| {
                sys::process::clone3_sibling(proof, new).doing(|| "cannot make the container's process")
            });
            match made {
                Ok(Forked::Child) => return Ok(Forked::Child),
                Ok(Forked::Parent { pidfd, .. }) => {
                    // heard by our parent, or nobody needs it
                    let _ = back.say(&Word::Ready, &[pidfd.as_fd()]);
                }
                Err(error) => {
                    let _ = theirs.say(&Word::Failed(error.clone()), &[]);
                    let _ = back.say(&Word::Failed(error), &[]);
                }
            }
            sys::process::exit_now(0)
        }
        Forked::Parent { pidfd: between, .. } => {
            drop(back);
            let heard = line.hear();
            let _reaped = rustix::process::waitid(
                rustix::process::WaitId::PidFd(between.as_fd()),
                rustix::process::WaitIdOptions::EXITED,
            );
            let gone = || SetupError::new(FailureKind::Internal, "the way into the user namespace was cut off");
            match heard? {
                Some((Word::Ready, mut fds)) => {
                    let pidfd = fds.pop().ok_or_else(gone)?;
                    Ok(Forked::Parent { pid: pid_of(pidfd.as_fd())?, pidfd })
                }
                Some((Word::Failed(error), _)) => Err(error),
                _ => Err(gone()),
            }
        }
    }
}

/// The process behind a descriptor, as it is numbered here.
pub(crate) fn pid_of(pidfd: BorrowedFd<'_>) -> Result<i32> {
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd())).doing(|| "fdinfo")?;
    let pid = text.lines().find_map(|line| line.strip_prefix("Pid:")).and_then(|pid| pid.trim().parse().ok());
    pid.filter(|pid| *pid > 0).ok_or_else(|| SetupError::new(FailureKind::Internal, "the container's process is gone"))
}

/// What remains to be done about namespaces by the first process itself.
pub(crate) fn settle(proof: SingleThread, inside: &Inside<'_>) -> Result<()> {
    let joins_user = path_of(inside.spec, LinuxNamespaceType::User).is_some();
    if let Some(path) = path_of(inside.spec, LinuxNamespaceType::Mount) {
        // last, as paths mean something else afterwards; the root and the sources of mounts are open already
        let target = open_namespace(path, Namespaces::MOUNT)?;
        sys::process::setns(proof, target.as_fd(), Namespaces::MOUNT)
            .doing(|| format!("linux.namespaces: cannot enter the mount namespace {}", path.display()))?;
    }
    if inside.own.contains(Namespaces::TIME) && (joins_user || inside.own.contains(Namespaces::USER)) {
        // belongs to the user namespace then; a program gets into it by being executed
        time_namespace(proof, &offsets(inside.spec))?;
    }
    if joins_user {
        crate::process::become_root()?;
        crate::process::die_with_parent()?;
    }
    Ok(())
}

fn time_namespace(proof: SingleThread, offsets: &str) -> Result<()> {
    sys::process::unshare(proof, Namespaces::TIME).doing(|| "cannot make a time namespace")?;
    if offsets.is_empty() {
        return Ok(());
    }
    let write = || std::fs::write("/proc/self/timens_offsets", offsets);
    let outcome = write().or_else(|error| {
        if error.kind() != std::io::ErrorKind::PermissionDenied {
            return Err(error);
        }
        // a process whose ids have changed does not own its own files in /proc, unless it may be dumped
        rustix::process::set_dumpable_behavior(DumpableBehavior::Dumpable)?;
        let outcome = write();
        rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
        outcome
    });
    outcome.doing(|| "linux.timeOffsets")
}

fn offsets(spec: &Spec) -> String {
    let all = spec.linux().as_ref().and_then(|linux| linux.time_offsets().as_ref());
    let line = |(clock, offset): (&String, &oci_spec::runtime::LinuxTimeOffset)| {
        format!("{clock} {} {}\n", offset.secs().unwrap_or(0), offset.nanosecs().unwrap_or(0))
    };
    all.into_iter().flatten().map(line).collect()
}

/// The namespace of a kind that is to be joined. An empty path is none.
fn path_of(spec: &Spec, kind: LinuxNamespaceType) -> Option<&Path> {
    let all = spec.linux().as_ref()?.namespaces().as_ref()?;
    let path = all.iter().find(|one| one.typ() == kind)?.path().as_deref()?;
    (!path.as_os_str().is_empty()).then_some(path)
}

/// Opens a namespace by its path, and sees to it that it is one of the kind.
fn open_namespace(path: &Path, kind: Namespaces) -> Result<OwnedFd> {
    let name = NAMES.iter().find(|(have, _)| *have == kind).map_or("", |(_, name)| *name);
    let what = || format!("linux.namespaces: {name} namespace {}", path.display());
    let fd = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map_err(|errno| {
        let kind = if errno == Errno::NOENT { FailureKind::NotFound } else { FailureKind::Internal };
        SetupError::new(kind, format!("{}: {errno}", what()))
    })?;
    match sys::process::namespace_type(fd.as_fd()) {
        Ok(have) if have == kind => Ok(fd),
        Ok(have) => {
            let other = NAMES.iter().find(|(one, _)| *one == have).map_or("other", |(_, name)| *name);
            Err(SetupError::invalid(format!("{}: is a namespace of type {other}", what())))
        }
        Err(_) => Err(SetupError::invalid(format!("{}: is no namespace", what()))),
    }
}

/// Which namespaces are new and which are joined.
pub(crate) struct Wanted {
    pub(crate) new: Namespaces,
    joins: Vec<(Namespaces, OwnedFd)>,
    /// Of which the container becomes a member, with the ids that it has already.
    user: Option<OwnedFd>,
    /// Entered by the first process itself.
    mount: bool,
    offsets: String,
}

impl Wanted {
    pub(crate) fn of(spec: &Spec, netns: Option<OwnedFd>) -> Result<Self> {
        let linux = spec.linux().as_ref().ok_or_else(|| SetupError::invalid("the configuration has no linux part"))?;
        let offsets = offsets(spec);
        let mut wanted = Self { new: Namespaces::empty(), joins: Vec::new(), user: None, mount: false, offsets };
        let mut seen = Namespaces::empty();
        for namespace in linux.namespaces().iter().flatten() {
            let (kind, name) = kind_of(namespace.typ());
            if seen.contains(kind) {
                return Err(SetupError::invalid(format!("linux.namespaces: {name} is there twice")));
            }
            seen |= kind;
            if kind == Namespaces::NET && netns.is_some() {
                continue;
            }
            match path_of(spec, namespace.typ()) {
                None => wanted.new |= kind,
                Some(path) => {
                    let fd = open_namespace(path, kind)?;
                    match kind {
                        Namespaces::USER => wanted.user = Some(fd),
                        Namespaces::MOUNT => wanted.mount = true,
                        _ => wanted.joins.push((kind, fd)),
                    }
                }
            }
        }
        wanted.joins.extend(netns.map(|fd| (Namespaces::NET, fd)));
        Ok(wanted)
    }

    pub(crate) fn joined(&self) -> Namespaces {
        let user = if self.user.is_some() { Namespaces::USER } else { Namespaces::empty() };
        let mount = if self.mount { Namespaces::MOUNT } else { Namespaces::empty() };
        self.joins.iter().fold(user | mount, |all, (kind, _)| all | *kind)
    }

    fn enter(&self, proof: SingleThread, back: &mut Vec<(OwnedFd, Namespaces)>) -> Result<()> {
        for (kind, target) in &self.joins {
            back.push((own(*kind)?, *kind));
            let name = NAMES.iter().find(|(have, _)| have == kind).map_or("", |(_, name)| *name);
            sys::process::setns(proof, target.as_fd(), *kind)
                .doing(|| format!("linux.namespaces: cannot enter the {name} namespace"))?;
        }
        if self.new.contains(Namespaces::TIME) && self.user.is_none() && !self.new.contains(Namespaces::USER) {
            // this process itself stays where it is, its children are born in the new namespace
            back.push((own(Namespaces::TIME)?, Namespaces::TIME));
            time_namespace(proof, &self.offsets)?;
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

pub(crate) fn kind_of(kind: LinuxNamespaceType) -> (Namespaces, &'static str) {
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
    if uids.is_empty() || gids.is_empty() {
        return Err(SetupError::invalid("a user namespace needs linux.uidMappings and linux.gidMappings"));
    }
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    map(pid, "uid", uids, uid)?;
    map(pid, "gid", gids, gid)?;
    rustix::fs::open(format!("/proc/{pid}/ns/user"), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .doing(|| "cannot open the user namespace")
}

/// Maps users (`uid`) or groups (`gid`): directly where we may, else by the program that has the right to map what
/// /etc/subuid and /etc/subgid grant; without either, a user may still map itself.
///
/// # Source
/// user_namespaces(7), newuidmap(1), newgidmap(1).
fn map(pid: i32, what: &str, mappings: &[LinuxIdMapping], own: u32) -> Result<()> {
    let line = |one: &LinuxIdMapping| format!("{} {} {}\n", one.container_id(), one.host_id(), one.size());
    let text: String = mappings.iter().map(line).collect();
    let file = format!("/proc/{pid}/{what}_map");
    let alone = matches!(mappings, [one] if one.size() == 1 && one.host_id() == own);
    let failed = match std::fs::write(&file, &text) {
        Ok(()) => return Ok(()),
        Err(error) => error,
    };
    if Errno::from_io_error(&failed) == Some(Errno::PERM) {
        if alone && what == "gid" {
            // who maps only itself must give up changing groups first
            std::fs::write(format!("/proc/{pid}/setgroups"), "deny").doing(|| "setgroups")?;
            return std::fs::write(&file, &text).doing(|| "linux.gidMappings");
        }
        if !rustix::process::geteuid().is_root() {
            return by_program(pid, what, &text);
        }
    }
    Err(failed).doing(|| format!("linux.{what}Mappings: cannot write {:?}", text.trim_end()))
}

fn by_program(pid: i32, what: &str, text: &str) -> Result<()> {
    let program = format!("new{what}map");
    let output = std::process::Command::new(&program).arg(pid.to_string()).args(text.split_whitespace()).output();
    let output = output.map_err(|error| {
        let text = format!("linux.{what}Mappings: an unprivileged user needs the program {program}: {error}");
        SetupError::unsupported(text)
    })?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(SetupError::invalid(format!("linux.{what}Mappings: {program}: {}", said.trim())))
}
