//! Making a container, the side that stays outside.

use crate::error::{Doing, Result, SetupError};
use crate::hooks::State;
use crate::init::{self, Beyond, Inside, mounts};
use crate::namespaces::{Wanted, container_root, fork_into, inodes, map_ids};
use crate::schedule::Together;
use crate::stdio::{self, Stdio, Streams};
use crate::sync::{Line, Word};
use cgroup::systemd::{Scope, Systemd};
use cgroup::{Group, Host, Rights};
use control::{CgroupValue, Created, FailureKind, Rootfs, SeccompProgram};
use oci_spec::runtime::{LinuxResources, Spec};
use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::OnceLock;
use sys::process::{Namespaces, SingleThread};

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
    /// Its streams, where it has no terminal.
    pub stdio: Stdio,
    /// What runs as process 1.
    pub first: First,
    /// What a runtime's command line asks beyond.
    pub terms: Terms<'a>,
}

/// What a runtime's command line asks beyond the configuration.
#[derive(Default)]
pub struct Terms<'a> {
    /// How the root file system becomes the root.
    pub pivot: Pivot,
    /// How many descriptors behind the standard streams the program keeps.
    pub preserved: u32,
    /// The name of a session keyring to join.
    pub keyring: Option<&'a CStr>,
    /// A listening socket, if the first process is to wait for its start on it after [`Container::leave`].
    pub listener: Option<OwnedFd>,
    /// The state that hooks read; without it none run.
    pub state: Option<State<'a>>,
    /// Called with the first process's id when the namespaces stand, where the configuration has prestart or createRuntime hooks: runs
    /// them.
    pub hooks: Option<&'a mut dyn FnMut(i32) -> Result<()>>,
    /// Whose the files of the root file system are in a user namespace.
    pub owners: Owners,
    /// The unit into which systemd puts the first process, where its maker may not: before it has namespaces, so only with a user
    /// namespace.
    pub scope: Option<Scope>,
}

impl std::fmt::Debug for Terms<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Terms").field("pivot", &self.pivot).field("preserved", &self.preserved).finish_non_exhaustive()
    }
}

/// How the root file system becomes the root.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Pivot {
    /// By pivot_root(2): nothing of the host's files stays within reach.
    #[default]
    Root,
    /// By moving the mount and chroot(2), for a host whose root is a ramdisk.
    Move,
}

/// Whose the files of the root file system are in a user namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Owners {
    /// They are mapped as the namespace maps ids.
    #[default]
    Mapped,
    /// They are as they are.
    Kept,
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
        await_exec(&line, self.pidfd.as_fd()).map(|_| ())
    }

    /// A container whose processes another program has made, and that runs already.
    pub(crate) fn restored(pidfd: OwnedFd, pid: i32, group: Group, namespaces: Namespaces) -> Self {
        Self { pidfd, pid, group, streams: Streams::default(), namespaces, line: None }
    }

    /// Has the first process outlive this one, and wait for its start on the listening socket of [`Terms::listener`].
    ///
    /// # Errors
    /// [`FailureKind::Internal`] when it is gone, [`FailureKind::Conflict`] for a container that was started already.
    pub fn leave(mut self) -> Result<()> {
        let Some(line) = self.line.take() else {
            return Err(SetupError::new(FailureKind::Conflict, "the container has been started already"));
        };
        line.say(&Word::Stay, &[])?;
        match line.hear()? {
            Some((Word::Ready, _)) => Ok(()),
            _ => Err(SetupError::new(FailureKind::Internal, "the container's first process has ended")),
        }
    }
}

/// Collects what a child says until its program runs, and takes its seccomp listener to the agent; returns its warnings.
pub(crate) fn await_exec(line: &Line, process: BorrowedFd<'_>) -> Result<Vec<String>> {
    let (mut warnings, mut agent) = (Vec::new(), String::new());
    loop {
        match line.hear()? {
            None => return Ok(warnings),
            Some((Word::Warning(text), _)) => warnings.push(text),
            Some((Word::Failed(error), _)) => return Err(error),
            Some((Word::Agent(part), _)) => agent.push_str(&part),
            Some((Word::Listener(number), _)) => {
                crate::agent::serve(process, &agent, number)?;
                line.say(&Word::Go, &[])?;
            }
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

    /// The child.
    pub(crate) fn process(&self) -> Result<BorrowedFd<'_>> {
        let process = self.0.as_ref().map(AsFd::as_fd);
        process.ok_or_else(|| SetupError::new(FailureKind::Internal, "the process is gone"))
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

/// Makes a container, with its control group, up to the point where its program would run.
///
/// # Errors
/// As [`create_in`].
pub fn create(proof: SingleThread, plan: Plan<'_>) -> Result<(Container, Created)> {
    crate::check::check(plan.spec)?;
    let host = cgroups()?;
    let linux = plan.spec.linux().as_ref();
    let path = linux.and_then(|linux| linux.cgroups_path().clone());
    let path = path.ok_or_else(|| SetupError::invalid("linux.cgroupsPath is missing"))?;
    let default = LinuxResources::default();
    let resources = linux.and_then(|linux| linux.resources().as_ref()).unwrap_or(&default);
    let (group, applied) = host.create(&path.to_string_lossy(), resources).doing(|| "cannot make the control group")?;
    let (container, warnings) = create_in(proof, plan, (host, group), applied.warnings)?;
    let namespaces = inodes(container.pid);
    let cgroup = applied.values.into_iter().map(|(path, value)| CgroupValue { path, value }).collect();
    let pid = container.pid;
    Ok((container, Created { pid, namespaces, cgroup, warnings }))
}

/// Makes a container in a control group up to the point where its program would run; adds to the warnings.
///
/// # Errors
/// [`FailureKind::Invalid`] and [`FailureKind::Unsupported`] for what the configuration asks in vain, [`FailureKind::NotFound`] for a bind source that
/// is not there, [`FailureKind::Internal`] for what the kernel refused. Nothing of the container or its group is left then.
pub fn create_in(
    proof: SingleThread,
    plan: Plan<'_>,
    (host, group): (&Host, Group),
    mut warnings: Vec<String>,
) -> Result<(Container, Vec<String>)> {
    let mut tentative = Tentative(Some(group.clone()));
    let wanted = Wanted::of(plan.spec, plan.netns)?;
    let terminal = plan.spec.process().as_ref().and_then(oci_spec::runtime::Process::terminal).unwrap_or(false);
    let (mut streams, ends) = stdio::ends(plan.stdio, terminal)?;
    let descriptors = mounts::make_room(plan.spec);
    let sources = mounts::open_sources(plan.spec, &group, host.version())?;
    let mapped = wanted.new.contains(Namespaces::USER);
    let root = if mapped { None } else { Some(init::root::open(plan.rootfs, &plan.layers, None)?) };
    let mut terms = plan.terms;
    let attached = terms.scope.take().filter(|_| mapped);
    let into = if attached.is_some() { None } else { group.v2_fd() };
    let joins = if into.is_some() || attached.is_some() {
        Vec::new()
    } else {
        group.join_fds().doing(|| "cannot open the control group")?
    };
    // theirs beside the control group's, which are closed in one go
    let (theirs, line) = Line::pair()?;
    let inside = Inside {
        spec: plan.spec,
        rootfs: plan.rootfs,
        seccomp: plan.seccomp,
        first: plan.first,
        root,
        sources,
        descriptors,
        cgroups: joins,
        ends,
        line: theirs,
        own: wanted.new,
        beyond: Beyond {
            pivot: terms.pivot,
            preserved: terms.preserved,
            keyring: terms.keyring,
            listener: terms.listener,
            state: terms.state,
        },
    };
    // hooks would inherit it
    let together = plan.spec.hooks().is_none().then(Together::start).flatten();
    let (pid, pidfd) = fork_into(proof, &wanted, into.as_ref(), inside)?;
    let doomed = Doomed::new(pidfd);
    crate::interfaces::give(proof, plan.spec, pid, doomed.process()?)?;
    warnings.extend(adjust_oom(pid, plan.spec));
    if let Some(scope) = &attached {
        attach(scope, pid)?;
    }
    if mapped {
        let user = map_ids(pid, plan.spec)?;
        // overlayfs acts as whoever mounts it, and must be somebody that the container's ids know
        let (uid, gid) = container_root(plan.spec);
        sys::process::set_fs_ids(uid, gid).doing(|| "cannot act as the container's root")?;
        let owners = (terms.owners == Owners::Mapped).then(|| user.as_fd());
        let root = init::root::open(plan.rootfs, &plan.layers, owners);
        sys::process::set_fs_ids(0, 0).doing(|| "cannot act as ourselves again")?;
        let root = root?;
        line.say(&Word::Mapped, &[root.as_fd()])?;
    }
    streams.terminal = await_ready(&line, &mut warnings, &mut |line| {
        if let Some(hooks) = terms.hooks.as_mut() {
            hooks(pid)?;
        }
        line.say(&Word::Go, &[])
    })?;
    drop(together);
    tentative.0 = None;
    let pidfd = doomed.release()?;
    let container =
        Container { pidfd, pid, group, streams, namespaces: wanted.new | wanted.joined(), line: Some(line) };
    Ok((container, warnings))
}

/// Has the user's systemd put a process into its unit.
pub(crate) fn attach(scope: &Scope, pid: i32) -> Result<()> {
    let what = || format!("systemd did not put the process into {}", scope.unit);
    let pid = u32::try_from(pid).unwrap_or(0);
    Systemd::connect(Rights::User).and_then(|mut systemd| systemd.attach(scope, pid)).doing(what)
}

fn await_ready(
    line: &Line,
    warnings: &mut Vec<String>,
    hooks: &mut dyn FnMut(&Line) -> Result<()>,
) -> Result<Option<OwnedFd>> {
    loop {
        match line.hear()? {
            Some((Word::Ready, mut fds)) => return Ok(fds.pop()),
            Some((Word::Warning(text), _)) => warnings.push(text),
            Some((Word::Failed(error), _)) => return Err(error),
            Some((Word::Hooks, _)) => hooks(line)?,
            Some(_) => {}
            None => {
                let text = "the container's first process was killed while it was being made; its memory limit may be too small";
                return Err(SetupError::new(FailureKind::Internal, text));
            }
        }
    }
}

/// Sets how readily the kernel kills the process for want of memory; lowering it needs a right that we may lack.
fn adjust_oom(pid: i32, spec: &Spec) -> Option<String> {
    let wanted = spec.process().as_ref()?.oom_score_adj()?;
    write_oom(&pid.to_string(), wanted)
}

/// Of a process by its number, or of "self".
pub(crate) fn write_oom(process: &str, wanted: i32) -> Option<String> {
    let path = format!("/proc/{process}/oom_score_adj");
    let error = std::fs::write(Path::new(&path), wanted.to_string()).err()?;
    Some(format!("oom_score_adj {wanted} was not set: {error}"))
}
