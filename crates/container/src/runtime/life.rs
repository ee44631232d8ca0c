//! The life of a container: made, started, killed, deleted.

use super::clock::Moment;
use super::criu::{Criu, Field};
use super::folder::{Folder, Root};
use super::group::{self, Planned};
use super::record::{Birth, Mark, Origin, Record};
use super::status::{self, Status};
use crate::agent::Listener;
use crate::command::log::Log;
use crate::create::{self, Container, First, Owners, Pivot, Plan, Terms, await_exec, reap};
use crate::error::{Doing, Result, SetupError};
use crate::hooks::{self, State};
use crate::resctrl::Resctrl;
use crate::stdio::Stdio;
use crate::sync::{Line, Word};
use cgroup::Group;
use control::{FailureKind, Rootfs, SeccompProgram};
use oci_spec::runtime::{Hook, LinuxNamespaceType, Spec};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::mount::MountPropagationFlags;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::borrow::Cow;
use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use sys::mount::UnmountFlags;
use sys::process::{Namespaces, SingleThread};

const SIGKILL: i32 = 9;
/// How long a killed process may take to end.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);

/// What to make.
pub(crate) struct Order<'a> {
    pub(crate) root: &'a Root,
    pub(crate) id: &'a str,
    /// Absolute.
    pub(crate) bundle: &'a Path,
    pub(crate) spec: &'a Spec,
    pub(crate) stdio: Stdio,
    pub(crate) preserved: u32,
    pub(crate) pivot: Pivot,
    pub(crate) keyring: Keyring,
    pub(crate) start: Start,
    /// Who makes the control group.
    pub(crate) driver: group::Driver,
    pub(crate) rootless: group::Rootless,
    pub(crate) readiness: Readiness,
    /// Told what had to be left out or changed.
    pub(crate) log: &'a Log,
}

/// Whether the container gets a session keyring of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keyring {
    Own,
    Callers,
}

/// Whether somebody waits until the program says that it is ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Readiness {
    Awaited,
    Nobodys,
}

/// Who starts the container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Start {
    /// This process.
    Here,
    /// A later one.
    Later,
}

/// A container that has been made.
pub(crate) struct Made<'a> {
    pub(crate) folder: Folder,
    pub(crate) container: Container,
    pub(crate) record: Record<'a>,
    pub(crate) birth: Birth,
}

impl Made<'_> {
    /// Takes the container away, whose first process is a child of this one.
    pub(crate) fn end(&self, warn: &dyn Fn(&str)) -> Result<()> {
        reap(&self.container.pidfd);
        self.clear(warn)
    }

    /// Takes it away after its end, which the caller has waited for.
    pub(crate) fn clear(&self, warn: &dyn Fn(&str)) -> Result<()> {
        let (birth, group) = (Some(&self.birth), &self.container.group);
        destroy(&Remains { folder: &self.folder, record: &self.record, birth, group }, warn)
    }
}

/// A container that is there: its folder and what is known of it.
pub(crate) struct Known {
    pub(crate) folder: Folder,
    pub(crate) record: Record<'static>,
    pub(crate) birth: Option<Birth>,
    pub(crate) status: Status,
    /// The first process, if it lived when it was looked at.
    pub(crate) process: Option<OwnedFd>,
}

impl Known {
    /// Looks at a container.
    ///
    /// # Errors
    /// [`FailureKind::NotFound`] where there is none.
    pub(crate) fn find(root: &Root, id: &str) -> Result<Self> {
        let folder = root.find(id)?;
        let Some((record, birth)) = Record::read(&folder)? else {
            return Err(SetupError::new(FailureKind::NotFound, "container does not exist"));
        };
        let (status, process) = status::look(birth.as_ref());
        Ok(Self { folder, record, birth, status, process })
    }

    /// The first process, of which it is sure that it is the recorded one.
    ///
    /// # Errors
    /// [`FailureKind::Conflict`] where it has ended.
    pub(crate) fn init(&self) -> Result<(&Birth, BorrowedFd<'_>)> {
        let living = self.birth.as_ref().zip(self.process.as_ref().map(AsFd::as_fd));
        living.ok_or_else(not_running)
    }

    /// Its control group.
    pub(crate) fn group(&self) -> Result<Group> {
        let record = self.birth.as_ref().map_or(&self.record.group, |birth| &birth.group);
        Group::from_record(record).doing(|| "cannot open the control group")
    }
}

/// The refusal of what needs the first process.
pub(crate) fn not_running() -> SetupError {
    SetupError::new(FailureKind::Conflict, "container not running")
}

/// Makes a container. What fails leaves nothing behind.
pub(crate) fn make<'a>(proof: SingleThread, order: &Order<'a>) -> Result<Made<'a>> {
    let seccomp = order.spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref());
    let seccomp = seccomp.map(oci::seccomp::compile).transpose().doing(|| "linux.seccomp")?;
    if let Some(program) = &seccomp {
        order.log.debug(&format!("seccomp filter flags: {}", program.flags));
    }
    for name in seccomp.iter().flat_map(|program| &program.unknown) {
        order.log.debug(&format!("linux.seccomp: {name:?} is no system call here"));
    }
    let planned = plan(order)?;
    let record = record_of(order, &planned, seccomp.as_ref())?;
    within_folder(order, record, seccomp.as_ref(), |folder, record| {
        build(proof, order, folder, record, (seccomp.as_ref(), &planned))
    })
}

/// Makes a container of what criu wrote down. What fails leaves nothing behind.
pub(crate) fn restore<'a>(proof: SingleThread, order: &Order<'a>, criu: Criu) -> Result<Made<'a>> {
    let seccomp = order.spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref());
    let seccomp = seccomp.map(oci::seccomp::compile).transpose().doing(|| "linux.seccomp")?;
    let planned = plan(order)?;
    let record = record_of(order, &planned, seccomp.as_ref())?;
    within_folder(order, record, seccomp.as_ref(), |folder, record| {
        revive(proof, order, (folder, record), (&planned, criu))
    })
}

fn plan(order: &Order<'_>) -> Result<Planned> {
    group::plan(order.spec, order.id, group::rights_by(order.rootless), order.driver)
}

fn record_of<'a>(order: &Order<'a>, planned: &Planned, seccomp: Option<&oci::seccomp::Program>) -> Result<Record<'a>> {
    let spec = order.spec;
    let process = spec.process().as_ref().ok_or_else(|| SetupError::invalid("process property must not be empty"))?;
    let hooks = |pick: fn(&oci_spec::runtime::Hooks) -> &Option<Vec<Hook>>| -> Cow<'a, [Hook]> {
        Cow::Borrowed(spec.hooks().as_ref().and_then(|all| pick(all).as_deref()).unwrap_or_default())
    };
    let linux = spec.linux().as_ref();
    let namespaces = linux.and_then(|linux| linux.namespaces().as_deref()).unwrap_or_default();
    let masked = linux.and_then(|linux| linux.masked_paths().as_deref()).unwrap_or_default();
    let mounts = spec.mounts().iter().flatten();
    let rootfs = crate::check::root(spec, order.bundle)?;
    let beneath = beneath(spec, &rootfs)?;
    Ok(Record {
        form: Record::FORM,
        oci_version: Cow::Borrowed(spec.version()),
        id: Cow::Borrowed(order.id),
        bundle: Cow::Borrowed(order.bundle),
        rootfs,
        created: Moment::now().nanoseconds(),
        owner: group::own_user().as_raw(),
        annotations: Cow::Borrowed(spec.annotations()),
        group: planned.group.record(),
        scope: planned.scope.as_ref().map(|scope| (scope.slice.clone(), scope.unit.clone())),
        own_pids: namespaces.iter().any(|one| one.typ() == LinuxNamespaceType::Pid && one.path().is_none()),
        process: Cow::Borrowed(process),
        poststart: hooks(oci_spec::runtime::Hooks::poststart),
        poststop: hooks(oci_spec::runtime::Hooks::poststop),
        seccomp_flags: seccomp.map(|program| program.flags),
        listener: Listener::of(spec),
        personality: linux.and_then(|linux| Some(linux.personality().as_ref()?.domain())),
        beneath,
        keyring: order.keyring == Keyring::Own,
        binds: mounts.filter(|mount| is_bind(mount)).map(|mount| mount.destination().clone()).collect(),
        masked: masked.iter().map(PathBuf::from).collect(),
        joined: namespaces.iter().filter_map(|one| Some((one.typ().to_string(), one.path().clone()?))).collect(),
    })
}

/// The mount in which the root file system's folder is, where the container mounts over it in the caller's mount namespace.
fn beneath(spec: &Spec, rootfs: &Path) -> Result<Option<u64>> {
    let all = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_deref()).unwrap_or_default();
    if all.iter().any(|one| one.typ() == LinuxNamespaceType::Mount) {
        return Ok(None);
    }
    mount_of(rootfs).map(Some)
}

/// The number of the mount that a path leads to.
fn mount_of(path: &Path) -> Result<u64> {
    use rustix::fs::{AtFlags, CWD, StatxFlags, statx};
    let found = statx(CWD, path, AtFlags::empty(), StatxFlags::MNT_ID).doing(|| path.display().to_string())?;
    Ok(found.stx_mnt_id)
}

/// Takes the container's root file system away from where it was mounted for everybody to see.
fn uncover(record: &Record<'_>, warn: &dyn Fn(&str)) {
    let Some(beneath) = record.beneath else { return };
    while mount_of(&record.rootfs).is_ok_and(|above| above != beneath) {
        if let Err(error) = sys::mount::umount(&record.rootfs, UnmountFlags::DETACH) {
            if error.errno != rustix::io::Errno::INVAL {
                // what is there is a mount, and not one that somebody else has taken away before us
                warn(&format!("{} stays mounted: {error}", record.rootfs.display()));
            }
            break;
        }
    }
}

/// Reserves the container's folder, writes the record and has the rest made; takes all away again if that fails.
fn within_folder<'a>(
    order: &Order<'_>,
    record: Record<'a>,
    seccomp: Option<&oci::seccomp::Program>,
    build: impl FnOnce(&Folder, &Record<'_>) -> Result<(Container, Birth)>,
) -> Result<Made<'a>> {
    let folder = order.root.reserve(order.id)?;
    let filter = seccomp.map(oci::seccomp::Program::to_bytes);
    match record.write(&folder, filter.as_deref()).and_then(|()| build(&folder, &record)) {
        Ok((container, birth)) => Ok(Made { folder, container, record, birth }),
        Err(error) => {
            uncover(&record, &|text| order.log.warn(text));
            if let Err(left) = folder.remove() {
                order.log.warn(&left.message);
            }
            let state = state_of(&record, "stopped", None);
            hooks::run_each("poststop", &record.poststop, &state).iter().for_each(|text| order.log.warn(text));
            Err(error)
        }
    }
}

/// Whether a mount shows something of the host's.
pub(crate) fn is_bind(mount: &oci_spec::runtime::Mount) -> bool {
    let word = |option: &String| matches!(option.as_str(), "bind" | "rbind");
    mount.typ().as_deref() == Some("bind") || mount.options().iter().flatten().any(word)
}

/// Has criu make the processes again, as children of this one.
fn revive(
    proof: SingleThread,
    order: &Order<'_>,
    (folder, record): (&Folder, &Record<'_>),
    (planned, mut criu): (&Planned, Criu),
) -> Result<(Container, Birth)> {
    let spec = order.spec;
    let group::Made { group, warnings, _placeholder } = group::make(proof, planned, spec, &record.id)?;
    warnings.iter().for_each(|text| order.log.warn(text));
    let listed = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_deref()).unwrap_or_default();
    let namespaces = listed.iter().fold(Namespaces::empty(), |all, one| all | crate::namespaces::kind_of(one.typ()).0);
    let mut birth = Birth {
        pid: 0,
        mark: Mark::Start(0),
        namespaces: namespaces.bits(),
        group: group.record(),
        resctrl: None,
        freezer: group::freezer(&group),
        origin: Origin::Restored,
    };
    let all = spec.hooks().as_ref();
    // hooks see a process whose namespaces are there, as with a new container
    let mut told = |script: &str, pid: i32| {
        if script != "setup-namespaces" || pid == 0 {
            return Ok(());
        }
        birth.of(pid, Mark::at(pid))?.write(folder)?;
        let state = state_of(record, "creating", Some(pid));
        hooks::run_all("prestart", all.and_then(hooks::prestart), &state)?;
        hooks::run_all("createRuntime", all.and_then(|all| all.create_runtime().as_ref()), &state)
    };
    let mut run = || -> Result<(i32, OwnedFd, Option<OwnedFd>)> {
        // criu wants the root to be a mount point; in a namespace of our own nobody else sees it, and nothing is left
        sys::process::unshare(proof, Namespaces::MOUNT).doing(|| "cannot make a mount namespace")?;
        let apart = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        sys::mount::set_propagation(Path::new("/"), apart).doing(|| "cannot part the mounts from the host's")?;
        rustix::mount::mount_bind_recursive(&record.rootfs, &record.rootfs)
            .doing(|| format!("bind {}", record.rootfs.display()))?;
        criu.text(Field::Root, &record.rootfs);
        for root in group::roots(&planned.host, &group) {
            criu.group(&root);
        }
        criu.flag(Field::Notify);
        criu.flag(Field::Sibling);
        let done = criu.run(&mut told)?;
        let number = done.pid.and_then(Pid::from_raw);
        let number = number.ok_or_else(|| SetupError::new(FailureKind::Internal, "criu told no process id"))?;
        let pidfd = pidfd_open(number, PidfdFlags::empty()).doing(|| "pidfd_open")?;
        Ok((number.as_raw_nonzero().get(), pidfd, done.terminal))
    };
    let made = run().and_then(|(pid, pidfd, terminal)| {
        birth.of(pid, Mark::of(pid, pidfd.as_fd()))?.write(folder)?;
        let mut container = Container::restored(pidfd, pid, group.clone(), namespaces);
        container.streams.terminal = terminal;
        Ok((container, birth))
    });
    made.inspect_err(|_| {
        // the failure that brought us here is the one worth telling
        let _ = group.kill().and_then(|()| group.remove());
    })
}

/// The state that hooks and agents are told.
pub(crate) fn state_of<'a>(record: &'a Record<'_>, status: &'a str, pid: Option<i32>) -> State<'a> {
    State {
        oci_version: &record.oci_version,
        id: &record.id,
        status,
        pid,
        bundle: &record.bundle,
        annotations: (*record.annotations).as_ref(),
    }
}

fn build(
    proof: SingleThread,
    order: &Order<'_>,
    folder: &Folder,
    record: &Record<'_>,
    (seccomp, planned): (Option<&oci::seccomp::Program>, &Planned),
) -> Result<(Container, Birth)> {
    if order.readiness == Readiness::Awaited {
        folder.show_notify()?;
    }
    let listener = if order.start == Start::Later { Some(folder.listen()?) } else { None };
    let class = class_of(order)?;
    let group::Made { group, warnings, _placeholder } = group::make(proof, planned, order.spec, order.id)?;
    let (recorded, freezer) = (group.record(), group::freezer(&group));
    let mut birth = Birth {
        pid: 0,
        mark: Mark::Start(0),
        namespaces: 0,
        group: recorded,
        resctrl: class.kept.clone(),
        freezer,
        origin: Origin::Made,
    };
    let spec_hooks = order.spec.hooks().as_ref();
    let mut run_hooks = |pid: i32| {
        birth.of(pid, Mark::at(pid))?.write(folder)?;
        let state = state_of(record, "creating", Some(pid));
        hooks::run_all("prestart", spec_hooks.and_then(hooks::prestart), &state)?;
        hooks::run_all("createRuntime", spec_hooks.and_then(|all| all.create_runtime().as_ref()), &state)
    };
    let keyring = (order.keyring == Keyring::Own).then(|| keyring_of(order.id)).transpose()?;
    let program = seccomp.map(|program| SeccompProgram { flags: program.flags, instructions: program.packed() });
    let plan = Plan {
        spec: order.spec,
        rootfs: &Rootfs::Directory { path: record.rootfs.clone() },
        layers: Vec::new(),
        netns: None,
        seccomp: program.as_ref(),
        stdio: order.stdio,
        first: First::Program,
        terms: Terms {
            pivot: order.pivot,
            preserved: order.preserved,
            keyring: keyring.as_deref(),
            listener,
            state: Some(state_of(record, "creating", None)),
            hooks: Some(&mut run_hooks),
            owners: Owners::Kept,
            scope: planned.scope.clone().filter(|_| group::rights() == cgroup::Rights::User),
        },
    };
    // the words of runc's log, which whoever looks for a fault looks for
    order.log.debug("nsexec container setup: making the container's namespaces");
    let (container, warnings) = create::create_in(proof, plan, (&planned.host, group), warnings)?;
    order.log.debug(&format!("child process in init(): {}", container.pid));
    order.log.debug("init: closing the pipe to signal completion: the container is made");
    warnings.iter().for_each(|text| order.log.warn(text));
    birth.namespaces = container.namespaces.bits();
    let placed = birth.resctrl.as_ref().map_or(Ok(()), |class| class.place(container.pid)).doing(|| "linux.intelRdt");
    match placed.and_then(|()| birth.of(container.pid, Mark::of(container.pid, container.pidfd.as_fd()))?.write(folder))
    {
        Ok(()) => {
            class.keep();
            Ok((container, birth))
        }
        Err(error) => {
            abandon(&container, &|text| order.log.warn(text));
            Err(error)
        }
    }
}

/// A class of service, removed again unless the container came to stand.
struct Class {
    kept: Option<Resctrl>,
}

impl Class {
    fn keep(mut self) {
        self.kept = None;
    }
}

impl Drop for Class {
    fn drop(&mut self) {
        if let Some(class) = &self.kept {
            // the failure that brought us here is the one worth telling
            let _ = class.remove();
        }
    }
}

fn class_of(order: &Order<'_>) -> Result<Class> {
    let asked = order.spec.linux().as_ref().and_then(|linux| linux.intel_rdt().as_ref());
    let Some(asked) = asked else { return Ok(Class { kept: None }) };
    let table = std::fs::read_to_string("/proc/self/mountinfo").doing(|| "/proc/self/mountinfo")?;
    let root = crate::resctrl::mounted(&table);
    let class = Resctrl::create(root.as_deref(), order.id, asked).doing(|| "linux.intelRdt")?;
    Ok(Class { kept: Some(class) })
}

/// The name of a container's session keyring.
pub(crate) fn keyring_of(id: &str) -> Result<CString> {
    CString::new(format!("_ses.{id}")).map_err(|_| SetupError::invalid("a NUL character in the container's id"))
}

impl Birth {
    /// The same for the process that has come to be.
    fn of(&mut self, pid: i32, mark: Option<Mark>) -> Result<&Self> {
        let ended = || SetupError::new(FailureKind::Internal, "the container's first process has ended");
        (self.pid, self.mark) = (pid, mark.ok_or_else(ended)?);
        Ok(self)
    }
}

/// Ends a container that is a child of this process, and takes its group away.
pub(crate) fn abandon(container: &Container, warn: &dyn Fn(&str)) {
    reap(&container.pidfd);
    let gone = container.group.kill().and_then(|()| container.group.remove());
    if let Err(error) = gone {
        warn(&format!("the control group stays: {error}"));
    }
}

/// Starts a container that waits.
pub(crate) fn start(root: &Root, id: &str) -> Result<()> {
    let known = Known::find(root, id)?;
    match known.status {
        Status::Created => {}
        Status::Stopped => {
            return Err(SetupError::new(FailureKind::Conflict, "cannot start a container that has stopped"));
        }
        Status::Running => {
            return Err(SetupError::new(FailureKind::Conflict, "cannot start an already running container"));
        }
        other => {
            let text = format!("cannot start a container in the {other} state");
            return Err(SetupError::new(FailureKind::Conflict, text));
        }
    }
    // before it may run, as it may end at once
    let gone = || SetupError::new(FailureKind::Internal, "the container's process is gone");
    let process = known.process.as_ref().ok_or_else(gone)?;
    let line = Line::over(known.folder.connect()?);
    match line.hear()? {
        Some((Word::Ready, _)) => line.say(&Word::Go, &[])?,
        // somebody else was faster
        _ => return Err(SetupError::new(FailureKind::Conflict, "cannot start an already running container")),
    }
    await_exec(&line, process.as_fd())?;
    poststart(&known.record, known.birth.as_ref().map(|birth| birth.pid), process.as_fd())
}

/// Runs the hooks behind the start; one that fails ends the container.
pub(crate) fn poststart(record: &Record<'_>, pid: Option<i32>, process: BorrowedFd<'_>) -> Result<()> {
    if record.poststart.is_empty() {
        return Ok(());
    }
    let state = state_of(record, "running", pid);
    hooks::run_all("poststart", Some(&record.poststart.to_vec()), &state).inspect_err(|_| {
        // it may end at this moment
        let _ = sys::signal::kill_pidfd(process, SIGKILL);
    })
}

/// Which processes of a container a signal goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Whom {
    First,
    All,
}

/// Sends a signal to a container.
pub(crate) fn kill(root: &Root, id: &str, signal: i32, whom: Whom) -> Result<()> {
    let known = Known::find(root, id)?;
    if whom == Whom::All || (signal == SIGKILL && !known.record.own_pids) {
        let group = known.group()?;
        // without a process namespace the others outlive the first process, and only their group tells of them
        let gone =
            known.status == Status::Stopped && (known.record.own_pids || group.pids().unwrap_or_default().is_empty());
        if whom == Whom::First && gone {
            return Err(SetupError::new(FailureKind::Conflict, "container not running"));
        }
        let sent = if signal == SIGKILL { group.kill().map(|()| 0) } else { group.signal_all(signal) };
        sent.doing(|| "cannot signal the container's processes")?;
        if !group.dirs().is_empty() {
            return Ok(());
        }
        // a user's container may have no group: its first process is all that is known of it
    }
    let (birth, pidfd) = known.init()?;
    sys::signal::kill_pidfd(pidfd.as_fd(), signal).doing(|| format!("process {}", birth.pid))?;
    if signal == SIGKILL && known.status == Status::Paused {
        // version 1 lets nobody die while they are frozen
        known.group()?.thaw().doing(|| "cannot thaw the container")?;
    }
    Ok(())
}

/// What may be deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Force {
    /// A container that does not run.
    No,
    /// Any; one that is not there is no failure.
    Yes,
}

/// Deletes a container.
pub(crate) fn delete(root: &Root, id: &str, force: Force, warn: &dyn Fn(&str)) -> Result<()> {
    let folder = match root.find(id) {
        Err(error) if error.kind == FailureKind::NotFound && force == Force::Yes => return Ok(()),
        other => other?,
    };
    let (record, birth) = match Record::read(&folder) {
        Ok(Some(read)) => read,
        Ok(None) => return folder.remove(),
        Err(error) if force == Force::Yes => {
            warn(&error.message);
            return folder.remove();
        }
        Err(error) => return Err(error),
    };
    let (status, process) = status::look(birth.as_ref());
    if force == Force::No && !matches!(status, Status::Stopped | Status::Created) {
        let text = format!("cannot delete container {id} that is not stopped: {status}");
        return Err(SetupError::new(FailureKind::Conflict, text));
    }
    let recorded = birth.as_ref().map_or(&record.group, |birth| &birth.group);
    let group = Group::from_record(recorded).doing(|| "cannot open the control group")?;
    if let Some(pidfd) = process {
        // it may end at this moment
        let _ = sys::signal::kill_pidfd(pidfd.as_fd(), SIGKILL);
        if status == Status::Paused {
            group.thaw().doing(|| "cannot thaw the container")?;
        }
        await_end(&pidfd)?;
    }
    destroy(&Remains { folder: &folder, record: &record, birth: birth.as_ref(), group: &group }, warn)
}

fn await_end(pidfd: &OwnedFd) -> Result<()> {
    let deadline = Instant::now() + KILL_TIMEOUT;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).doing(|| "poll")?;
        match poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&left)) {
            Ok(0) => return Err(SetupError::new(FailureKind::Internal, "container init still running")),
            Ok(_) => return Ok(()),
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno).doing(|| "poll"),
        }
    }
}

/// What is left of a container whose first process has ended.
pub(crate) struct Remains<'a> {
    pub(crate) folder: &'a Folder,
    pub(crate) record: &'a Record<'a>,
    /// Its first process: without one, a group of the same name may be somebody else's.
    pub(crate) birth: Option<&'a Birth>,
    pub(crate) group: &'a Group,
}

/// Takes away what is left of a container.
pub(crate) fn destroy(remains: &Remains<'_>, warn: &dyn Fn(&str)) -> Result<()> {
    let record = remains.record;
    if remains.birth.is_some() && !record.own_pids {
        remains.group.kill().doing(|| "cannot kill the container's processes")?;
    }
    if let Some(scope) = record.unit()
        && let Err(error) = group::stop(&scope)
    {
        warn(&error.message);
    }
    uncover(record, warn);
    match remains.group.remove() {
        Err(error) if remains.birth.is_some() => return Err(error).doing(|| "cannot remove the control group"),
        _ => {}
    }
    if let Some(class) = remains.birth.and_then(|birth| birth.resctrl.as_ref()) {
        class.remove().doing(|| "cannot remove the class of service")?;
    }
    remains.folder.remove()?;
    let state = state_of(record, "stopped", None);
    hooks::run_each("poststop", &record.poststop, &state).iter().for_each(|text| warn(text));
    Ok(())
}
