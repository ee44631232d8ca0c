//! Making a container, the side that stays outside.

use crate::error::{Doing, Result, SetupError};
use crate::init::{self, Inside, mounts};
use crate::stdio::{self, Ends, Input, Streams};
use crate::sync::{Line, Word};
use cgroup::{Group, Host};
use control::{CgroupValue, Created, FailureKind, Rootfs, SeccompProgram};
use oci_spec::runtime::{LinuxIdMapping, LinuxNamespaceType, LinuxResources, Spec};
use rustix::fs::{CWD, Mode, OFlags};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use sys::process::{Forked, Namespaces, SingleThread};

/// What to make.
#[derive(Debug)]
pub struct Plan<'a> {
    /// The OCI configuration.
    pub spec: &'a Spec,
    /// Where the root file system comes from.
    pub rootfs: &'a Rootfs,
    /// Its layers, top first: descriptors of mounts.
    pub layers: Vec<OwnedFd>,
    /// A network namespace to join in place of the configuration's.
    pub netns: Option<OwnedFd>,
    /// The compiled seccomp program.
    pub seccomp: Option<&'a SeccompProgram>,
    /// Whether an input is kept open.
    pub input: Input,
    /// What runs as process 1.
    pub first: First,
}

/// What runs as process 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum First {
    /// The user's program.
    Program,
    /// A tiny init of ours that starts the program, forwards signals and reaps.
    Init,
}

/// A container that stands; its first process waits for [`Container::start`].
#[derive(Debug)]
pub struct Container {
    /// The first process.
    pub pidfd: OwnedFd,
    /// Its process id on the host.
    pub pid: i32,
    /// Its control group.
    pub group: Group,
    /// Our ends of its streams.
    pub streams: Streams,
    /// The namespaces that it does not share with us.
    pub namespaces: Namespaces,
    line: Option<Line>,
}

impl Container {
    /// Lets the program run, and returns once it does.
    ///
    /// # Errors
    /// [`FailureKind::CommandNotFound`] or [`FailureKind::CommandNotExecutable`] for a program that cannot be executed,
    /// [`FailureKind::Conflict`] for a container that was started already.
    pub fn start(&mut self) -> Result<()> {
        let Some(line) = self.line.take() else {
            return Err(SetupError::new(FailureKind::Conflict, "the container has been started already"));
        };
        line.say(&Word::Go, &[])?;
        await_exec(&line).map(|_| ())
    }
}

/// Collects what a child says until its program runs; returns its warnings.
pub(crate) fn await_exec(line: &Line) -> Result<Vec<String>> {
    let mut warnings = Vec::new();
    loop {
        match line.hear()? {
            None => return Ok(warnings),
            Some((Word::Warning(text), _)) => warnings.push(text),
            Some((Word::Failed(error), _)) => return Err(error),
            Some(_) => {}
        }
    }
}

/// A child that dies with this value unless it is let go.
pub(crate) struct Doomed(Option<OwnedFd>);

impl Doomed {
    pub(crate) fn new(pidfd: OwnedFd) -> Self {
        Self(Some(pidfd))
    }

    pub(crate) fn release(mut self) -> Result<OwnedFd> {
        self.0.take().ok_or_else(|| SetupError::new(FailureKind::Internal, "the process is gone"))
    }
}

impl Drop for Doomed {
    fn drop(&mut self) {
        if let Some(pidfd) = self.0.take() {
            reap(&pidfd);
        }
    }
}

/// Kills a child and waits for its end.
pub(crate) fn reap(pidfd: &OwnedFd) {
    use rustix::process::{Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};
    // either may fail only because the process has gone already
    let _ = pidfd_send_signal(pidfd, Signal::KILL);
    let _ = waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED);
}

/// The control group, removed again unless the container came to stand.
struct Tentative(Option<Group>);

impl Drop for Tentative {
    fn drop(&mut self) {
        if let Some(group) = self.0.take() {
            // the failure that brought us here is the one worth telling
            let _ = group.kill();
            let _ = group.remove();
        }
    }
}

/// The host's control groups, looked at once: copies of a process that has looked already need not look again.
///
/// # Errors
/// [`FailureKind::Internal`] where there are none.
pub fn cgroups() -> Result<&'static Host> {
    static HOST: OnceLock<Host> = OnceLock::new();
    if let Some(host) = HOST.get() {
        return Ok(host);
    }
    let host = Host::detect().doing(|| "cannot look at the control groups")?;
    Ok(HOST.get_or_init(|| host))
}

/// Makes a container up to the point where its program would run.
///
/// # Errors
/// [`FailureKind::Invalid`] and [`FailureKind::Unsupported`] for what the configuration asks in vain, [`FailureKind::NotFound`] for a bind source that
/// is not there, [`FailureKind::Internal`] for what the kernel refused. Nothing of the container is left then.
pub fn create(proof: SingleThread, plan: Plan<'_>) -> Result<(Container, Created)> {
    let wanted = Wanted::of(plan.spec, plan.netns)?;
    let host = cgroups()?;
    let linux = plan.spec.linux().as_ref();
    let path = linux.and_then(|linux| linux.cgroups_path().clone());
    let path = path.ok_or_else(|| SetupError::invalid("linux.cgroupsPath is missing"))?;
    let default = LinuxResources::default();
    let resources = linux.and_then(|linux| linux.resources().as_ref()).unwrap_or(&default);
    let (group, applied) = host.create(&path.to_string_lossy(), resources).doing(|| "cannot make the control group")?;
    let mut tentative = Tentative(Some(group.clone()));

    let terminal = plan.spec.process().as_ref().and_then(oci_spec::runtime::Process::terminal).unwrap_or(false);
    let (mut streams, ends) = if terminal { (Streams::default(), Ends::Terminal) } else { stdio::pipes(plan.input)? };
    let sources = mounts::open_sources(plan.spec, &group, host.version())?;
    let mapped = wanted.new.contains(Namespaces::USER);
    let root = if mapped { None } else { Some(init::root::open(plan.rootfs, &plan.layers, None)?) };
    let into = group.v2_fd();
    let joins = if into.is_some() { Vec::new() } else { group.join_fds().doing(|| "cannot open the control group")? };
    let (line, theirs) = Line::pair()?;
    let inside = Inside {
        spec: plan.spec,
        seccomp: plan.seccomp,
        first: plan.first,
        root,
        sources,
        cgroups: joins,
        ends,
        line: theirs,
        own: wanted.new,
    };
    let (pid, pidfd) = fork_into(proof, &wanted, into.as_ref(), inside)?;
    let doomed = Doomed::new(pidfd);
    let mut warnings = applied.warnings;
    warnings.extend(adjust_oom(pid, plan.spec));
    if mapped {
        let user = map_ids(pid, plan.spec)?;
        // overlayfs acts as whoever mounts it, and must be somebody that the container's ids know
        let (uid, gid) = container_root(plan.spec);
        sys::process::set_fs_ids(uid, gid).doing(|| "cannot act as the container's root")?;
        let root = init::root::open(plan.rootfs, &plan.layers, Some(user.as_fd()));
        sys::process::set_fs_ids(0, 0).doing(|| "cannot act as ourselves again")?;
        let root = root?;
        line.say(&Word::Mapped, &[root.as_fd()])?;
    }
    streams.terminal = await_ready(&line, &mut warnings)?;
    let namespaces = inodes(pid);
    let cgroup = applied.values.into_iter().map(|(path, value)| CgroupValue { path, value }).collect();
    tentative.0 = None;
    let pidfd = doomed.release()?;
    let container =
        Container { pidfd, pid, group, streams, namespaces: wanted.new | wanted.joined(), line: Some(line) };
    Ok((container, Created { pid, namespaces, cgroup, warnings }))
}

fn await_ready(line: &Line, warnings: &mut Vec<String>) -> Result<Option<OwnedFd>> {
    loop {
        match line.hear()? {
            Some((Word::Ready, mut fds)) => return Ok(fds.pop()),
            Some((Word::Warning(text), _)) => warnings.push(text),
            Some((Word::Failed(error), _)) => return Err(error),
            Some(_) => {}
            None => {
                let text = "the container's first process was killed while it was being made; its memory limit may be too small";
                return Err(SetupError::new(FailureKind::Internal, text));
            }
        }
    }
}

/// Forks in the wanted namespaces; existing ones are entered first and left again afterwards, because a child in a user
/// namespace of its own could not enter them.
fn fork_into(
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
struct Wanted {
    new: Namespaces,
    joins: Vec<(Namespaces, OwnedFd)>,
    offsets: String,
}

impl Wanted {
    fn of(spec: &Spec, netns: Option<OwnedFd>) -> Result<Self> {
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

    fn joined(&self) -> Namespaces {
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

fn inodes(pid: i32) -> Vec<(String, u64)> {
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

fn map_ids(pid: i32, spec: &Spec) -> Result<OwnedFd> {
    let linux = spec.linux().as_ref();
    let uids = linux.and_then(|linux| linux.uid_mappings().as_deref()).unwrap_or_default();
    let gids = linux.and_then(|linux| linux.gid_mappings().as_deref()).unwrap_or_default();
    write_maps(pid, uids, gids)
}

/// Who root of the container is outside.
fn container_root(spec: &Spec) -> (u32, u32) {
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

/// Sets how readily the kernel kills the process for want of memory; lowering it needs a right that we may lack.
fn adjust_oom(pid: i32, spec: &Spec) -> Option<String> {
    let wanted = spec.process().as_ref()?.oom_score_adj()?;
    write_oom(pid, wanted)
}

pub(crate) fn write_oom(pid: i32, wanted: i32) -> Option<String> {
    let path = format!("/proc/{pid}/oom_score_adj");
    let error = std::fs::write(Path::new(&path), wanted.to_string()).err()?;
    Some(format!("oom_score_adj {wanted} was not set: {error}"))
}
