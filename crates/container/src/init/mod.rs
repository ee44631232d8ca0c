//! The container's first process, from birth to the user's program.
//!
//! Runs in the new namespaces, still with the host's files in sight until [`root::enter`]. Every path of the container is
//! resolved inside its root by openat2(2), so no symbolic link of an image leads outside; mounts are placed on descriptors.

mod copy;
mod devices;
mod fresh;
mod groups;
pub(crate) mod memory;
pub(crate) mod mounts;
pub(crate) mod names;
mod protect;
pub(crate) mod root;
pub(crate) mod tiny;

use crate::create::{First, Pivot};
use crate::error::{Doing, Result, SetupError};
use crate::hooks::{self, State};
use crate::namespaces;
use crate::process::{self, Job};
use crate::stdio::Ends;
use crate::sync::{Line, Word};
use control::{FailureKind, Rootfs, SeccompProgram};
use oci_spec::runtime::Spec;
use rustix::process::{Resource, Rlimit};
use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};
use sys::process::{Namespaces, SingleThread};

/// What the first process takes with it.
pub(crate) struct Inside<'a> {
    pub(crate) spec: &'a Spec,
    /// Where the root file system comes from.
    pub(crate) rootfs: &'a Rootfs,
    pub(crate) seccomp: Option<&'a SeccompProgram>,
    pub(crate) first: First,
    /// The root file system; comes over the line in a user namespace.
    pub(crate) root: Option<OwnedFd>,
    /// What could be opened for each mount of the configuration outside.
    pub(crate) sources: Vec<mounts::Source>,
    /// The limit of open descriptors that was raised for these, to be put back.
    pub(crate) descriptors: Option<Rlimit>,
    /// What to write `0` to, in each hierarchy, to join the cgroup.
    pub(crate) cgroups: Vec<OwnedFd>,
    pub(crate) ends: Ends,
    pub(crate) line: Line,
    /// Namespaces that are the container's own.
    pub(crate) own: Namespaces,
    /// What a runtime's command line asks beyond the configuration.
    pub(crate) beyond: Beyond<'a>,
}

/// What a runtime's command line asks of the first process.
#[derive(Debug, Default)]
pub(crate) struct Beyond<'a> {
    pub(crate) pivot: Pivot,
    /// How many descriptors behind the standard streams the program keeps.
    pub(crate) preserved: u32,
    /// The name of a session keyring to join.
    pub(crate) keyring: Option<&'a CStr>,
    /// Where to wait for the start once the parent has gone.
    pub(crate) listener: Option<OwnedFd>,
    /// The state that hooks read; without it none run.
    pub(crate) state: Option<State<'a>>,
}

impl Inside<'_> {
    /// Closes what only the new process needs.
    pub(crate) fn close(self) {
        let mut fds = sys::process::take_kept();
        fds.extend(self.cgroups);
        fds.extend(self.root);
        fds.push(self.line.into_fd());
        for source in self.sources {
            match source {
                mounts::Source::Tree { tree, .. } => fds.push(tree),
                mounts::Source::Groups(all) => fds.extend(all.into_iter().filter_map(groups::Shown::into_fd)),
                mounts::Source::Inside | mounts::Source::Later { .. } => {}
            }
        }
        sys::process::close_together(fds);
    }
}

/// Leaves a descriptor open until all are closed at once, before the program's turn; so many as no limit forbids.
fn leave_open(fd: OwnedFd) {
    static LEFT: AtomicU32 = AtomicU32::new(0);
    const MOST: u32 = 100;
    if LEFT.fetch_add(1, Ordering::Relaxed) < MOST {
        std::mem::forget(fd);
    }
}

/// Becomes the container's first process.
pub(crate) fn run(proof: SingleThread, inside: Inside<'_>) -> ! {
    if let Err(error) = build(proof, &inside) {
        // nobody hears it only when the helper is gone, and then this process ends anyway
        let _ = inside.line.say(&Word::Failed(error), &[]);
    }
    sys::process::exit_now(1)
}

fn build(proof: SingleThread, inside: &Inside<'_>) -> Result<()> {
    process::die_with_parent()?;
    // whatever is made here has the mode that it is made with
    rustix::process::umask(rustix::fs::Mode::empty());
    for procs in &inside.cgroups {
        rustix::io::write(procs, b"0").doing(|| "cannot enter the control group")?;
    }
    let entry = match (inside.own.contains(Namespaces::MOUNT), inside.beyond.pivot) {
        (false, _) => root::Entry::Chroot,
        (true, Pivot::Root) => root::Entry::Pivot,
        (true, Pivot::Move) => root::Entry::Move,
    };
    let place = root::place(inside.rootfs, entry);
    let mapped = inside.own.contains(Namespaces::USER);
    let received = if mapped { Some(await_mapping(&inside.line)?) } else { None };
    namespaces::settle(proof, inside)?;
    if inside.own.contains(Namespaces::CGROUP) {
        sys::process::unshare(proof, Namespaces::CGROUP).doing(|| "cannot make a cgroup namespace")?;
    }
    let root = received.as_ref().or(inside.root.as_ref());
    let root = root.ok_or_else(|| SetupError::new(FailureKind::Internal, "no root file system was given"))?;
    if inside.own.contains(Namespaces::NET) {
        sys::netns::raise_loop().doing(|| "cannot set the loop up")?;
    }
    names::set(inside.spec)?;
    names::sysctls(inside.spec)?;
    memory::policy(inside.spec)?;
    let copied = root::attach(root.as_fd(), inside.spec, inside.rootfs, (entry, place))?;
    let root = copied.as_ref().unwrap_or(root);
    let mut fresh = mounts::place(inside, root.as_fd())?;
    devices::make(inside, root.as_fd(), mapped)?;
    mounts::close(inside, &mut fresh, root.as_fd())?;
    protect::place(inside.spec, root.as_fd(), &fresh)?;
    fresh.leave();
    if let Some(limit) = inside.descriptors {
        rustix::process::setrlimit(Resource::Nofile, limit).doing(|| "setrlimit")?;
    }
    // so far beside whoever made it; the control group says where it may be
    crate::schedule::all_processors();
    before_entering(inside, root.as_fd())?;
    root::enter(root.as_fd(), inside.spec, entry)?;
    // closed with everything else when the program's turn comes; closing them here would be calls for nothing
    std::mem::forget((copied, received));
    finish(proof, inside)
}

/// Waits until the helper has mapped the ids, and becomes root there.
fn await_mapping(line: &Line) -> Result<OwnedFd> {
    match line.hear()? {
        Some((Word::Mapped, mut fds)) => {
            let root = fds.pop().ok_or_else(|| SetupError::new(FailureKind::Internal, "no root file system came"))?;
            process::become_root()?;
            process::die_with_parent()?;
            Ok(root)
        }
        _ => sys::process::exit_now(1),
    }
}

/// The hooks that run while the runtime's files are still in sight.
fn before_entering(inside: &Inside<'_>, root: BorrowedFd<'_>) -> Result<()> {
    let (Some(state), Some(all)) = (&inside.beyond.state, inside.spec.hooks()) else { return Ok(()) };
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    let outside = [hooks::prestart(all), all.create_runtime().as_ref()];
    if outside.into_iter().flatten().any(|hooks| !hooks.is_empty()) {
        inside.line.say(&Word::Hooks, &[])?;
        match inside.line.hear()? {
            Some((Word::Go, _)) => {}
            _ => sys::process::exit_now(1),
        }
    }
    let inner = all.create_container().as_ref();
    if inner.is_some_and(|hooks| !hooks.is_empty()) {
        // where those of other runtimes stand: in what becomes the root, whose parts they name by relative paths
        rustix::process::fchdir(root).doing(|| "cannot go to the root file system")?;
    }
    let state = State { status: "creating", pid: Some(own_pid()), ..state.clone() };
    hooks::run_all("createContainer", inner, &state)
}

fn own_pid() -> i32 {
    rustix::process::getpid().as_raw_nonzero().get()
}

fn finish(proof: SingleThread, inside: &Inside<'_>) -> Result<()> {
    let process =
        inside.spec.process().as_ref().ok_or_else(|| SetupError::invalid("the configuration has no process"))?;
    let beyond = &inside.beyond;
    let agent = inside.seccomp.and_then(|_| crate::agent::describe(inside.spec, beyond.state.as_ref()));
    let mut job = Job { process, seccomp: inside.seccomp, line: &inside.line, preserved: beyond.preserved, agent };
    if let Some(name) = beyond.keyring {
        process::join_keyring(name, process, &inside.line)?;
    }
    let terminal = job.streams(&inside.ends, process::Console::Mount)?;
    if let Some(asked) = inside.spec.linux().as_ref().and_then(|linux| linux.personality().as_ref()) {
        process::personality(asked.domain())?;
    }
    job.privileges()?;
    if beyond.listener.is_some() {
        // whoever makes it now wants to know; whoever starts it comes later
        job.look_up()?;
    }
    let master: Vec<_> = terminal.iter().map(AsFd::as_fd).collect();
    inside.line.say(&Word::Ready, &master)?;
    drop(terminal);
    await_start(inside)?;
    if let (Some(state), Some(all)) = (&beyond.state, inside.spec.hooks()) {
        let state = State { status: "created", pid: Some(own_pid()), ..state.clone() };
        let hooks = all.start_container().as_ref().filter(|hooks| !hooks.is_empty());
        if hooks.is_some() {
            // they are programs of the image's, too
            job.filter_early()?;
        }
        hooks::run_all("startContainer", hooks, &state)?;
    }
    match inside.first {
        First::Program => job.run(proof),
        First::Init => tiny::run(proof, &job),
    }
}

/// Waits until the program may run: for the parent's word, or, if the parent leaves, for somebody who connects.
fn await_start(inside: &Inside<'_>) -> Result<()> {
    match (inside.line.hear()?, &inside.beyond.listener) {
        (Some((Word::Go, _)), None) => {
            if inside.beyond.state.is_some() {
                process::live_on()?;
            }
            return Ok(());
        }
        (Some((Word::Stay, _)), Some(listener)) => {
            process::live_on()?;
            inside.line.say(&Word::Ready, &[])?;
            let start = loop {
                match rustix::net::accept_with(listener, rustix::net::SocketFlags::CLOEXEC) {
                    Err(rustix::io::Errno::INTR | rustix::io::Errno::CONNABORTED) => {}
                    other => break other.doing(|| "accept")?,
                }
            };
            // whoever starts is now who is told what happens
            sys::process::replace_fd(start.as_fd(), inside.line.as_fd());
        }
        _ => sys::process::exit_now(1),
    }
    inside.line.say(&Word::Ready, &[])?;
    match inside.line.hear()? {
        Some((Word::Go, _)) => Ok(()),
        _ => sys::process::exit_now(1),
    }
}
