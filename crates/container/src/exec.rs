//! One more process in a running container.

use crate::create::{Doomed, attach, await_exec, reap, write_oom};
use crate::error::{Doing, Result, SetupError};
use crate::namespaces::fork_through;
use crate::process::{self, Console, Job, become_root, die_with_parent, join_keyring, live_on};
use crate::schedule::{self, Moment};
use crate::stdio::{self, Ends, Stdio, Streams};
use crate::sync::{Line, Word};
use cgroup::systemd::Scope;
use control::{FailureKind, SeccompProgram};
use oci_spec::runtime::{LinuxPersonalityDomain, Process};
use rustix::io::Errno;
use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use sys::process::{Forked, Namespaces, SingleThread};

/// What to run, and where.
#[derive(Debug)]
pub struct Plan<'a> {
    /// Arguments, environment, user, rights, working folder, terminal.
    pub process: &'a Process,
    /// The compiled seccomp program.
    pub seccomp: Option<&'a SeccompProgram>,
    /// Its streams, where it has no terminal.
    pub stdio: Stdio,
    /// The container's first process.
    pub init: BorrowedFd<'a>,
    /// The namespaces that the container does not share with us.
    pub namespaces: Namespaces,
    /// What to write `0` to in order to join the control group.
    pub groups: Vec<OwnedFd>,
    /// What a runtime's command line asks beyond.
    pub terms: Terms,
}

/// What a runtime's command line asks of a process beyond its configuration.
#[derive(Debug, Default)]
pub struct Terms {
    /// How many descriptors behind the standard streams the program keeps.
    pub preserved: u32,
    /// The name of a session keyring to join.
    pub keyring: Option<CString>,
    /// Whether it ends with the process that started it.
    pub lifetime: Lifetime,
    /// What the agent that answers its system calls is told.
    pub agent: Option<String>,
    /// The execution domain.
    pub personality: Option<LinuxPersonalityDomain>,
    /// The unit into which systemd puts it, where we may not.
    pub scope: Option<Scope>,
}

/// What happens to a process when the one that started it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Lifetime {
    /// It ends too.
    #[default]
    Bound,
    /// Nothing.
    Free,
}

/// A process that runs.
#[derive(Debug)]
pub struct Running {
    /// The process.
    pub pidfd: OwnedFd,
    /// Its process id on the host.
    pub pid: i32,
    /// Our ends of its streams.
    pub streams: Streams,
    /// What had to be left out or changed.
    pub warnings: Vec<String>,
}

/// Starts a process in the container, and returns once its program runs.
///
/// # Errors
/// [`FailureKind::CommandNotFound`] or [`FailureKind::CommandNotExecutable`] for a program that cannot be executed,
/// [`FailureKind::Invalid`] for a configuration that is wrong, [`FailureKind::Internal`] for what the kernel refused. Nothing runs then.
pub fn exec(proof: SingleThread, plan: Plan<'_>) -> Result<Running> {
    let terminal = plan.process.terminal().unwrap_or(false);
    let (mut streams, ends) = stdio::ends(plan.stdio, terminal)?;
    let (line, theirs) = Line::pair()?;
    let way = Way::of(&plan);
    if way != Way::Rootless {
        hide(&plan)?;
    }
    let enter = |back: BorrowedFd<'_>| {
        if way == Way::Rootless {
            join_groups(&plan)?;
        }
        adjust_oom(&plan, &theirs)?;
        if way == Way::Rootless {
            // only now: what a hidden process has in /proc is root's
            hide(&plan)?;
        }
        sys::process::setns(proof, plan.init, plan.namespaces).doing(|| "cannot enter the container's namespaces")?;
        if way == Way::Through {
            let mut kept = vec![theirs.as_fd(), back];
            kept.extend(ends.fds());
            kept.extend(plan.groups.iter().map(AsFd::as_fd));
            sys::process::close_all_but(3 + plan.terms.preserved, &kept);
        }
        Ok(())
    };
    let forked = match way {
        Way::Straight => sys::process::clone3(proof, Namespaces::empty(), None).doing(|| "cannot make a process"),
        Way::Through | Way::Rootless => fork_through(proof, (None, Namespaces::empty()), &theirs, enter),
    };
    if let Ok(Forked::Child) = forked {
        // closed already, or with everything else
        std::mem::forget(line);
        let outcome = inside(proof, (&plan, way), &ends, &theirs);
        if let Err(error) = outcome {
            // nobody hears it only when the helper is gone
            let _ = theirs.say(&Word::Failed(error), &[]);
        }
        sys::process::exit_now(1);
    }
    drop((theirs, ends, plan.groups));
    let Forked::Parent { pid, pidfd } = forked? else { sys::process::exit_now(1) };
    let doomed = Doomed::new(pidfd);
    let mut warnings = Vec::new();
    while terminal && streams.terminal.is_none() {
        match line.hear()? {
            Some((Word::Ready, mut fds)) if !fds.is_empty() => streams.terminal = fds.pop(),
            Some((Word::Failed(error), _)) => return Err(error),
            Some((Word::Warning(text), _)) => warnings.push(text),
            _ => return Err(SetupError::new(FailureKind::Internal, "the process was killed while it was being made")),
        }
    }
    let pidfd = doomed.release()?;
    warnings.extend(await_exec(&line, pidfd.as_fd()).inspect_err(|_| reap(&pidfd))?);
    Ok(Running { pidfd, pid, streams, warnings })
}

/// The new process is in sight of the container's from its birth: until it is the program, nobody there may look into its memory.
fn hide(plan: &Plan<'_>) -> Result<()> {
    if plan.terms.lifetime != Lifetime::Free {
        return Ok(());
    }
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)
        .doing(|| "prctl(PR_SET_DUMPABLE)")
}

/// How a process gets into the container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// By itself.
    Straight,
    /// By way of a process in between, which nobody in the container sees: what is born in its pid namespace then has the container's root,
    /// and no descriptor of ours that leads to the host. Those who may trace processes there cannot be kept from following them.
    Through,
    /// As before, and the way leads through the groups: who has no rights here has them in the user namespace only, from where nobody
    /// comes back.
    Rootless,
}

impl Way {
    fn of(plan: &Plan<'_>) -> Self {
        let rights = || rustix::process::geteuid().is_root();
        match (plan.namespaces.contains(Namespaces::USER), plan.namespaces.contains(Namespaces::PID)) {
            (true, _) if !rights() => Self::Rootless,
            (_, true) => Self::Through,
            (_, false) => Self::Straight,
        }
    }
}

fn join_groups(plan: &Plan<'_>) -> Result<()> {
    let joined = plan.groups.iter().try_for_each(|procs| rustix::io::write(procs, b"0").map(drop));
    match (joined, &plan.terms.scope) {
        (Err(Errno::ACCESS | Errno::PERM), Some(scope)) => attach(scope, rustix::process::getpid().as_raw_pid()),
        (joined, _) => joined.doing(|| "cannot enter the control group"),
    }
}

/// Done by the process itself, or by the one that it is born of, while our own /proc is in sight: nothing of the program runs without it.
fn adjust_oom(plan: &Plan<'_>, line: &Line) -> Result<()> {
    let failed = plan.process.oom_score_adj().and_then(|wanted| write_oom("self", wanted));
    failed.map_or(Ok(()), |warning| line.say(&Word::Warning(warning), &[]))
}

fn inside(proof: SingleThread, (plan, way): (&Plan<'_>, Way), ends: &Ends, line: &Line) -> Result<()> {
    die_with_parent()?;
    schedule::affinity(plan.process, Moment::Initial)?;
    if way != Way::Rootless {
        join_groups(plan)?;
    }
    if way == Way::Straight {
        adjust_oom(plan, line)?;
    }
    if !schedule::names_processors(plan.process, Moment::Initial) {
        schedule::all_processors();
    }
    if way == Way::Straight {
        sys::process::setns(proof, plan.init, plan.namespaces).doing(|| "cannot enter the container's namespaces")?;
    }
    if plan.namespaces.contains(Namespaces::USER) {
        become_root()?;
    }
    let (preserved, agent) = (plan.terms.preserved, plan.terms.agent.clone());
    let job = Job { process: plan.process, seccomp: plan.seccomp, line, preserved, agent };
    if let Some(name) = &plan.terms.keyring {
        join_keyring(name, plan.process, line)?;
    }
    if let Some(master) = job.streams(ends, Console::None)? {
        line.say(&Word::Ready, &[master.as_fd()])?;
    }
    schedule::affinity(plan.process, Moment::Final)?;
    plan.terms.personality.map_or(Ok(()), process::personality)?;
    job.privileges()?;
    if plan.terms.lifetime == Lifetime::Free {
        live_on()?;
    }
    job.run(proof)
}
