//! From a process of ours inside the container to the user's program: streams, user, rights, execve.
//!
//! The order matters: limits and user first, while capabilities last; then the program of seccomp(2) and the final
//! capabilities with nothing in between but what they themselves need, so that a strict profile cannot break the start.

use crate::error::{Doing, Result, SetupError};
use crate::stdio::{Ends, LineEnds};
use crate::sync::{Line, Word};
use control::{FailureKind, SeccompProgram};
use oci_spec::runtime::{Capabilities, LinuxPersonalityDomain, PosixRlimit, Process};
use rustix::fs::{CWD, Gid, Mode, OFlags, ResolveFlags, Uid};
use rustix::io::Errno;
use rustix::process::{Rlimit, Signal};
use rustix::termios::{OptionalActions, OutputModes, Winsize};
use rustix::thread as thread_calls;
use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use sys::departure::{Departure, Successor};
use sys::process::SingleThread;

mod numbers;
mod program;

use numbers::{mask, resource};
use program::{Program, failure, home, last_of_each};

const DEVPTS_MAGIC: u64 = 0x1cd1;
const PROC_MAGIC: u64 = 0x9fa0;

/// What a process of ours is to become.
pub(crate) struct Job<'a> {
    pub(crate) process: &'a Process,
    pub(crate) seccomp: Option<&'a SeccompProgram>,
    pub(crate) line: &'a Line,
    /// How many descriptors behind the standard streams the program keeps.
    pub(crate) preserved: u32,
    /// What the agent that answers its system calls is told.
    pub(crate) agent: Option<String>,
}

/// Whether a terminal also becomes the container's console.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Console {
    /// Mounted on /dev/console.
    Mount,
    /// Not.
    None,
}

/// Has the kernel kill this process when the helper dies. It forgets that when ids change.
pub(crate) fn die_with_parent() -> Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).doing(|| "prctl(PR_SET_PDEATHSIG)")
}

/// Outlives the helper from now on.
pub(crate) fn live_on() -> Result<()> {
    rustix::process::set_parent_process_death_signal(None).doing(|| "prctl(PR_SET_PDEATHSIG)")
}

/// Takes a session keyring of the container's own, with the label of its keys; a host without keyrings is no reason to fail.
pub(crate) fn join_keyring(name: &CStr, process: &Process, line: &Line) -> Result<()> {
    label_keys(process)?;
    if let Err(error) = sys::keyring::join_session(name)
        && error.errno != Errno::NOSYS
    {
        // a parent that has gone hears nothing any more
        let _ = line.say(&Word::Warning(format!("session keyring {name:?} was not joined: {error}")), &[]);
    }
    Ok(())
}

/// Whether AppArmor works on this host: its files are there, too, where another module was chosen instead.
pub(crate) fn apparmor() -> bool {
    std::fs::read("/sys/module/apparmor/parameters/enabled").is_ok_and(|text| text.starts_with(b"Y"))
}

/// Has keys that are made from now on carry the process's label, until it becomes its program.
fn label_keys(process: &Process) -> Result<()> {
    selinux_label(process).map_or(Ok(()), |label| {
        attribute("attr/keycreate", label)
            .map_err(|error| SetupError::unsupported(format!("process.selinuxLabel {label:?}: {}", error.message)))
    })
}

fn selinux_label(process: &Process) -> Option<&str> {
    process.selinux_label().as_deref().filter(|label| !label.is_empty())
}

/// Becomes root in a user namespace.
pub(crate) fn become_root() -> Result<()> {
    let (user, group) = (Uid::ROOT, Gid::ROOT);
    thread_calls::set_thread_res_gid(group, group, group).doing(|| "setresgid")?;
    thread_calls::set_thread_res_uid(user, user, user).doing(|| "setresuid")?;
    no_groups()
}

/// Gives up all supplementary groups, unless the user namespace forbids to change them: then they stay, and mean nothing inside.
fn no_groups() -> Result<()> {
    match thread_calls::set_thread_groups(&[]) {
        Err(Errno::PERM) if std::fs::read("/proc/self/setgroups").is_ok_and(|text| text.starts_with(b"deny")) => Ok(()),
        other => other.doing(|| "setgroups"),
    }
}

/// Makes the working folder if the image lacks it; whether it can be entered shows later.
pub(crate) fn make_cwd(process: &Process) {
    if process.cwd() != Path::new("/") && !process.cwd().exists() {
        use std::os::unix::fs::DirBuilderExt as _;
        let _ = std::fs::DirBuilder::new().recursive(true).mode(0o755).create(process.cwd());
    }
}

impl Job<'_> {
    /// Puts the standard streams in place; returns the master of a terminal.
    pub(crate) fn streams(&self, ends: &Ends, console: Console) -> Result<Option<OwnedFd>> {
        rustix::process::setsid().doing(|| "setsid")?;
        let user = self.process.user();
        let owner = (Some(Uid::from_raw(user.uid())), Some(Gid::from_raw(user.gid())));
        match ends {
            Ends::Inherit => {
                own_streams(user.uid(), owner);
                if console == Console::Mount {
                    own_null();
                }
                Ok(None)
            }
            Ends::Pipes { stdin, stdout, stderr } => {
                if user.uid() != 0 || user.gid() != 0 {
                    for pipe in [stdin, stdout, stderr] {
                        // so that /dev/stdout can be opened again; /dev/null of the host is not ours to give
                        let fifo = rustix::fs::fstat(pipe).is_ok_and(|stat| {
                            rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::Fifo
                        });
                        if fifo {
                            let _ = rustix::fs::fchown(pipe, owner.0, owner.1);
                        }
                    }
                }
                place(stdin.as_fd(), stdout.as_fd(), stderr.as_fd())?;
                if console == Console::Mount {
                    own_null();
                }
                Ok(None)
            }
            Ends::Terminal(ends) => {
                let (master, slave) = self.terminal(*ends)?;
                let _ = rustix::fs::fchown(&slave, owner.0, None);
                if console == Console::Mount {
                    mount_console(&slave)?;
                }
                rustix::process::ioctl_tiocsctty(&slave).doing(|| "cannot take the terminal")?;
                place(slave.as_fd(), slave.as_fd(), slave.as_fd())?;
                Ok(Some(master))
            }
        }
    }

    /// A terminal of the container's own devpts, and of nothing that an image may have put in its place.
    fn terminal(&self, ends: LineEnds) -> Result<(OwnedFd, OwnedFd)> {
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let master = rustix::fs::openat2(CWD, "/dev/pts/ptmx", flags, Mode::empty(), ResolveFlags::NO_SYMLINKS)
            .doing(|| "cannot open a terminal at /dev/pts/ptmx")?;
        check_magic(&master, DEVPTS_MAGIC, "/dev/pts/ptmx")?;
        rustix::pty::unlockpt(&master).doing(|| "cannot unlock the terminal")?;
        let peer =
            rustix::pty::OpenptFlags::RDWR | rustix::pty::OpenptFlags::NOCTTY | rustix::pty::OpenptFlags::CLOEXEC;
        let slave = rustix::pty::ioctl_tiocgptpeer(&master, peer).doing(|| "cannot open the terminal")?;
        if ends == LineEnds::Plain {
            let mut modes = rustix::termios::tcgetattr(&slave).doing(|| "cannot ask for the terminal's modes")?;
            modes.output_modes.remove(OutputModes::ONLCR);
            rustix::termios::tcsetattr(&slave, OptionalActions::Now, &modes)
                .doing(|| "cannot set the terminal's modes")?;
        }
        if let Some(size) = self.process.console_size() {
            let cut = |value: u64| u16::try_from(value).unwrap_or(u16::MAX);
            let size = Winsize { ws_row: cut(size.height()), ws_col: cut(size.width()), ws_xpixel: 0, ws_ypixel: 0 };
            rustix::termios::tcsetwinsize(&master, size).doing(|| "cannot set the terminal's size")?;
        }
        Ok((master, slave))
    }

    /// Limits, user and groups; all capabilities that the process may need are still there afterwards.
    pub(crate) fn privileges(&self) -> Result<()> {
        let process = self.process;
        for limit in process.rlimits().iter().flatten() {
            self.limit(limit)?;
        }
        self.label()?;
        crate::schedule::set(process)?;
        if process.no_new_privileges().unwrap_or(false) {
            thread_calls::set_no_new_privs(true).doing(|| "prctl(PR_SET_NO_NEW_PRIVS)")?;
        }
        if let Some(sets) = process.capabilities() {
            let keep = mask(sets.bounding().as_ref());
            for number in (0..64).filter(|number| keep & (1 << number) == 0) {
                let capability = thread_calls::CapabilitySet::from_bits_retain(1 << number);
                match thread_calls::remove_capability_from_bounding_set(capability) {
                    Ok(()) => {}
                    // behind the last that this kernel knows
                    Err(Errno::INVAL) => break,
                    Err(errno) => return Err(errno).doing(|| "prctl(PR_CAPBSET_DROP)"),
                }
            }
        }
        self.user()?;
        if process.user().uid() != 0 || process.user().gid() != 0 {
            // the kernel forgot
            die_with_parent()?;
        }
        let mask = process.user().umask().unwrap_or(0o022);
        rustix::process::umask(Mode::from_raw_mode(mask));
        Ok(())
    }

    fn user(&self) -> Result<()> {
        let user = self.process.user();
        let groups: Vec<Gid> = user.additional_gids().iter().flatten().map(|&gid| Gid::from_raw(gid)).collect();
        let (uid, gid) = (Uid::from_raw(user.uid()), Gid::from_raw(user.gid()));
        if user.uid() != 0 {
            thread_calls::set_keep_capabilities(true).doing(|| "prctl(PR_SET_KEEPCAPS)")?;
        }
        if groups.is_empty() {
            no_groups()?;
        } else {
            thread_calls::set_thread_groups(&groups).doing(|| {
                "process.user.additionalGids: setgroups: a group is not mapped in the user namespace, or it forbids groups"
            })?;
        }
        thread_calls::set_thread_res_gid(gid, gid, gid)
            .doing(|| format!("process.user.gid: setresgid {}", user.gid()))?;
        thread_calls::set_thread_res_uid(uid, uid, uid)
            .doing(|| format!("process.user.uid: setresuid {}", user.uid()))?;
        if user.uid() != 0 {
            let mut sets = thread_calls::capabilities(None).doing(|| "capget")?;
            sets.effective = sets.permitted;
            thread_calls::set_capabilities(None, sets).doing(|| "capset")?;
        }
        Ok(())
    }

    fn limit(&self, limit: &PosixRlimit) -> Result<()> {
        let (resource, name) = resource(limit.typ());
        let number = |value: u64| (value != u64::MAX).then_some(value);
        let wanted = Rlimit { current: number(limit.soft()), maximum: number(limit.hard()) };
        match rustix::process::setrlimit(resource, wanted) {
            Err(Errno::PERM) => {
                let have = rustix::process::getrlimit(resource).maximum;
                let most = |value: Option<u64>| match (value, have) {
                    (Some(value), Some(have)) => Some(value.min(have)),
                    (value, have) => value.or(have),
                };
                let clamped = Rlimit { current: most(wanted.current), maximum: most(wanted.maximum) };
                rustix::process::setrlimit(resource, clamped).doing(|| format!("rlimit {name}"))?;
                let shown = have.map_or_else(|| "unlimited".to_owned(), |have| have.to_string());
                let text = format!("ulimit {name} cannot be raised above {shown} here and was lowered to it");
                self.line.say(&Word::Warning(text), &[])
            }
            other => other.doing(|| format!("rlimit {name} {}:{}", limit.soft(), limit.hard())),
        }
    }

    /// The security module's label for the program.
    fn label(&self) -> Result<()> {
        let process = self.process;
        let profile = process.apparmor_profile().as_deref().filter(|name| !name.is_empty());
        if let Some(profile) = profile.filter(|name| *name != "unconfined" || apparmor()) {
            attribute("attr/apparmor/exec", &format!("exec {profile}"))
                .or_else(|_| attribute("attr/exec", &format!("exec {profile}")))
                .map_err(|error| {
                    SetupError::unsupported(format!("process.apparmorProfile {profile:?}: {}", error.message))
                })?;
        }
        if let Some(label) = selinux_label(process) {
            attribute("attr/exec", label).map_err(|error| {
                SetupError::unsupported(format!("process.selinuxLabel {label:?}: {}", error.message))
            })?;
        }
        label_keys(process)
    }

    /// The seccomp program and the final capabilities, for a process of ours that stays.
    pub(crate) fn confine(&self) -> Result<()> {
        let unprivileged = self.process.no_new_privileges().unwrap_or(false);
        if !unprivileged {
            self.filter()?;
        }
        self.capabilities()?;
        if unprivileged { self.filter() } else { Ok(()) }
    }

    /// Loads the seccomp program now, and not again in the last steps.
    pub(crate) fn filter_early(&mut self) -> Result<()> {
        self.filter()?;
        self.seccomp = None;
        Ok(())
    }

    fn filter(&self) -> Result<()> {
        let Some(program) = self.seccomp else { return Ok(()) };
        let loaded = sys::seccomp::load(program.flags, &program.instructions);
        match loaded.doing(|| FILTER)? {
            Some(listener) => crate::agent::ask(self.line, self.agent.as_deref(), &listener),
            None => Ok(()),
        }
    }

    fn capabilities(&self) -> Result<()> {
        let Some(sets) = self.process.capabilities() else { return Ok(()) };
        let set = |asked: &Option<Capabilities>| thread_calls::CapabilitySet::from_bits_retain(mask(asked.as_ref()));
        let wanted = thread_calls::CapabilitySets {
            effective: set(sets.effective()),
            permitted: set(sets.permitted()),
            inheritable: set(sets.inheritable()),
        };
        thread_calls::set_capabilities(None, wanted)
            .doing(|| "capset: the daemon itself lacks one of the capabilities")?;
        let ambient = mask(sets.ambient().as_ref());
        for number in (0..64).filter(|number| ambient & (1 << number) != 0) {
            let capability = thread_calls::CapabilitySet::from_bits_retain(1 << number);
            match thread_calls::configure_capability_in_ambient_set(capability, true) {
                Ok(()) => {}
                // not permitted and inheritable: such configurations are common, and every runtime runs them
                Err(Errno::PERM) => {}
                Err(errno) => return Err(errno).doing(|| "prctl(PR_CAP_AMBIENT)"),
            }
        }
        Ok(())
    }

    /// Looks whether the program is there, so that a missing one is told before the start. The execution itself has the last word.
    pub(crate) fn look_up(&self) -> Result<()> {
        Program::of(self.process)?.choose(self.process.cwd()).map(drop)
    }

    /// Becomes the program. A failure before the last steps is returned; later this process ends by itself, and says why.
    pub(crate) fn run(&self, proof: SingleThread) -> Result<()> {
        let mut program = Program::of(self.process)?;
        last_of_each(&mut program.environment);
        program.environment.retain(|variable| variable.to_bytes() != b"HOME=");
        if !program.environment.iter().any(|variable| variable.to_bytes().starts_with(b"HOME=")) {
            program.environment.extend(home(self.process.user().uid()));
        }
        // before the working folder: no path leads through a descriptor that the program is not meant to have. Those who own
        // the descriptors must not close them a second time, so there is no way back from here.
        sys::process::close_all_but(3 + self.preserved, &[self.line.as_fd()]);
        let error = self.become_program(proof, program).unwrap_or_else(|error| error);
        let code = if error.kind == FailureKind::CommandNotFound { 127 } else { 126 };
        // heard by whoever waits for the start; without anybody there the code has to do
        let _ = self.line.say(&Word::Failed(error), &[]);
        sys::process::exit_now(code)
    }

    /// Returns only what keeps it from the last steps.
    fn become_program(&self, proof: SingleThread, program: Program) -> Result<SetupError> {
        let cwd = self.process.cwd();
        rustix::process::chdir(cwd).map_err(|errno| {
            SetupError::invalid(format!("cannot enter the working directory {}: {errno}", cwd.display()))
        })?;
        match rustix::process::getcwd(Vec::new()) {
            Ok(path) if path.to_bytes().starts_with(b"/") => {}
            _ => return Err(SetupError::invalid("the working directory is outside of the container")),
        }
        sys::process::reset_sigpipe();
        let path = program.choose(Path::new(""))?.to_owned();
        let departure = self.last_steps()?;
        let report = format!("{EXEC}{}", program.name);
        let Program { arguments, environment, .. } = program;
        let next = Successor { path: &path, arguments, environment, report: report.as_bytes() };
        let error = departure.leave(proof, next, self.line.as_fd());
        Ok(SetupError::new(FailureKind::Internal, format!("cannot leave the runtime's program: {error}")))
    }

    /// What is done last, with nothing in between.
    fn last_steps(&self) -> Result<Departure> {
        const NEW_LISTENER: u32 = 8;
        let mut steps = Departure::default();
        let unprivileged = self.process.no_new_privileges().unwrap_or(false);
        let mut program = self.seccomp;
        if program.is_some_and(|program| program.flags & NEW_LISTENER != 0) {
            // the parent must take the descriptor to the agent before anything else happens
            self.filter()?;
            program = None;
        }
        let load = |steps: &mut Departure| match program {
            Some(program) => {
                steps.seccomp(program.flags, program.instructions.clone(), FILTER.as_bytes()).doing(|| FILTER)
            }
            None => Ok(()),
        };
        if !unprivileged {
            load(&mut steps)?;
        }
        if let Some(sets) = self.process.capabilities() {
            let set = |asked: &Option<Capabilities>| mask(asked.as_ref());
            let (effective, permitted) = (set(sets.effective()), set(sets.permitted()));
            steps.capabilities(effective, permitted, set(sets.inheritable()), CAPSET.as_bytes());
            // one that is not permitted and inheritable is common in configurations, and every runtime runs them
            let ambient = set(sets.ambient());
            (0..64).filter(|number| ambient & (1 << number) != 0).for_each(|number| steps.ambient(number));
        }
        if unprivileged {
            load(&mut steps)?;
        }
        steps.unblock_signals();
        Ok(steps)
    }
}

const CAPSET: &str = "capset: we ourselves lack one of the capabilities";
const FILTER: &str = "linux.seccomp: cannot load the seccomp profile";
const EXEC: &str = "exec ";

/// What one of the last steps failed with: the step's own words, as `last_steps` gave them.
pub(crate) fn failed_step(errno: Errno, step: &str) -> SetupError {
    match step.strip_prefix(EXEC) {
        Some(name) => failure(name, Some(errno)),
        None => SetupError::new(FailureKind::Internal, format!("{step}: {errno}")),
    }
}

/// Gives streams that somebody else made to the user, so that /dev/stdout can be opened again; never a device of the host's.
fn own_streams(uid: u32, owner: (Option<Uid>, Option<Gid>)) {
    for stream in [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()] {
        let ours = uid == 0
            || rustix::fs::fstat(stream).is_ok_and(|stat| {
                let kind = rustix::fs::FileType::from_raw_mode(stat.st_mode);
                stat.st_uid == uid || kind == rustix::fs::FileType::CharacterDevice
            });
        if !ours {
            // somebody else's, or on a file system that cannot change
            let _ = rustix::fs::fchown(stream, owner.0, None);
        }
    }
}

/// Has streams that are the host's null device be the container's own: a checkpoint can't name a file of a mount that the container
/// does not have. Where it has no such device, the host's stays.
fn own_null() {
    let null = |fd: BorrowedFd<'_>| {
        rustix::fs::fstat(fd).is_ok_and(|stat| {
            rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::CharacterDevice
                && stat.st_rdev == rustix::fs::makedev(1, 3)
        })
    };
    let of_host = [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()].map(null);
    if !of_host.contains(&true) {
        return;
    }
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let own = rustix::fs::openat2(CWD, "/dev/null", flags, Mode::empty(), ResolveFlags::NO_SYMLINKS);
    let Some(own) = own.ok().filter(|own| null(own.as_fd())) else { return };
    let put = [rustix::stdio::dup2_stdin, rustix::stdio::dup2_stdout, rustix::stdio::dup2_stderr];
    for (_, put) in of_host.iter().zip(put).filter(|(of_host, _)| **of_host) {
        // only a stream that is closed would be refused, and these are not
        let _ = put(&own);
    }
    sys::process::close_later(own);
}

fn place(stdin: BorrowedFd<'_>, stdout: BorrowedFd<'_>, stderr: BorrowedFd<'_>) -> Result<()> {
    rustix::stdio::dup2_stdin(stdin).doing(|| "dup2")?;
    rustix::stdio::dup2_stdout(stdout).doing(|| "dup2")?;
    rustix::stdio::dup2_stderr(stderr).doing(|| "dup2")
}

fn mount_console(slave: &OwnedFd) -> Result<()> {
    use sys::mount::{OpenTreeFlags, move_mount_onto, open_tree};
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::AT_EMPTY_PATH;
    let tree = open_tree(slave.as_fd(), Path::new(""), flags).doing(|| "cannot bind the console")?;
    let create =
        OFlags::CREATE | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
    let console =
        rustix::fs::openat2(CWD, "/dev/console", create, Mode::from_raw_mode(0o600), ResolveFlags::NO_SYMLINKS)
            .doing(|| "cannot make /dev/console")?;
    move_mount_onto(tree.as_fd(), console.as_fd()).doing(|| "cannot mount /dev/console")
}

fn check_magic(fd: &OwnedFd, magic: u64, what: &str) -> Result<()> {
    let stat = rustix::fs::fstatfs(fd).doing(|| what.to_owned())?;
    if u64::try_from(stat.f_type).is_ok_and(|have| have == magic) {
        Ok(())
    } else {
        Err(SetupError::invalid(format!("{what} is not on the file system that belongs there")))
    }
}

/// Writes to a file of this process in /proc, and to nothing that stands in its place: the way there starts at the root of a
/// proc file system and crosses no mount (CVE-2025-52881).
fn attribute(name: &str, value: &str) -> Result<()> {
    const ROOT_INODE: u64 = 1;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let proc = rustix::fs::open("/proc", flags, Mode::empty()).doing(|| "/proc")?;
    check_magic(&proc, PROC_MAGIC, "/proc")?;
    if rustix::fs::fstat(&proc).doing(|| "/proc")?.st_ino != ROOT_INODE {
        return Err(SetupError::invalid("/proc is not the root of a proc file system"));
    }
    let how = ResolveFlags::BENEATH | ResolveFlags::NO_XDEV | ResolveFlags::NO_MAGICLINKS;
    let path = format!("thread-self/{name}");
    let file = rustix::fs::openat2(&proc, &path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty(), how);
    let file = file.doing(|| format!("/proc/{path}"))?;
    rustix::io::write(&file, value.as_bytes()).doing(|| format!("/proc/{path}"))?;
    Ok(())
}

/// Sets the execution domain that the configuration asks for.
pub(crate) fn personality(domain: LinuxPersonalityDomain) -> Result<()> {
    const LINUX32: u64 = 8;
    let number = match domain {
        LinuxPersonalityDomain::PerLinux => 0,
        LinuxPersonalityDomain::PerLinux32 => LINUX32,
    };
    sys::process::personality(number).doing(|| "linux.personality")
}
