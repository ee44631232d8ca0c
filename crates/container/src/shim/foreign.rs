//! A container that another OCI runtime makes: a program with runc's command line, asked once for each step.
//!
//! ```text
//!   bundle/config.json, bundle/rootfs ──> RUNTIME create ──> the container's first process, left to us as its next
//!   pipes or a console socket         ──┘                    subreaper: its end, streams and log are ours as always
//! ```
//!
//! All that the runtime keeps is below the helper's runtime folder, and goes with it.

use crate::error::{Doing, Result, SetupError};
use crate::namespaces::{container_root, inodes, kind_of, user_namespace};
use crate::stdio::{self, Ends, Stdio, Streams};
use crate::{create, init};
use control::{Afterwards, Create, Created, Exec, FailureKind, Runtime};
use oci_spec::runtime::{LinuxNamespaceBuilder, LinuxNamespaceType, LinuxResources, Mount, Process, Spec};
use rustix::fs::{Mode, OFlags};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketAddrUnix, SocketFlags, SocketType,
};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::Deserialize;
use std::ffi::OsString;
use std::fs::File;
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;
use sys::mount::{UnmountFlags, move_mount_onto, umount};
use sys::process::Namespaces;

/// What has this program be a container's process 1.
pub const IN_FRONT: &str = "--init";
/// More than any runtime writes down of one failure.
const LONGEST_LOG: u64 = 1 << 20;

/// What is known of the runtime and its container.
#[derive(Debug)]
pub(super) struct Foreign {
    runtime: Runtime,
    /// The helper's runtime folder.
    folder: PathBuf,
    id: String,
    /// Its control group.
    cgroup: PathBuf,
    /// Execs so far, for the names of their files.
    execs: u32,
}

/// A process that the runtime has left to us.
pub(super) struct Left {
    pub(super) pid: i32,
    pub(super) pidfd: OwnedFd,
    pub(super) streams: Streams,
}

/// A line of a runtime's log.
#[derive(Deserialize)]
struct Said {
    #[serde(default)]
    level: String,
    #[serde(default)]
    msg: String,
}

/// The root file system where the runtime finds it, until this is dropped.
pub(super) struct Shown(PathBuf);

impl Drop for Shown {
    fn drop(&mut self) {
        // the container's own mounts stay; a folder that was never mounted on is no failure
        let _ = umount(&self.0, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW);
    }
}

impl Foreign {
    /// Has the runtime make the container, or restore it if there is something to restore. It is killed again by the caller
    /// if anything fails behind this.
    ///
    /// # Errors
    /// What the runtime says; nothing is left then.
    pub(super) fn create(
        runtime: Runtime,
        folder: &Path,
        request: &Create,
        (layers, netns): (&[OwnedFd], Option<OwnedFd>),
    ) -> Result<(Self, create::Container, Created)> {
        rustix::process::set_child_subreaper(Some(rustix::process::getpid())).doing(|| "prctl")?;
        let cgroup = request.spec.linux().as_ref().and_then(|linux| linux.cgroups_path().clone()).unwrap_or_default();
        let foreign = Self { runtime, folder: folder.to_owned(), id: request.id.clone(), cgroup, execs: 0 };
        let bundle = folder.join("bundle");
        let rootfs = bundle.join("rootfs");
        std::fs::create_dir_all(&rootfs).doing(|| rootfs.display().to_string())?;
        // a runtime takes its parent folders for the container's: they may be passed through
        let shown = show(request, layers, &rootfs)?;
        write_config(request, &bundle, netns.as_ref())?;
        let made = foreign.make(request, &bundle);
        drop((shown, netns));
        let made = made.and_then(|left| foreign.adopt(&request.spec, left));
        let (container, created) = made.inspect_err(|_| foreign.delete())?;
        Ok((foreign, container, created))
    }

    fn make(&self, request: &Create, bundle: &Path) -> Result<Left> {
        let mut words: Vec<OsString> = Vec::new();
        match &request.restore {
            None => words.push("create".into()),
            Some(images) => {
                words.extend(["restore".into(), "--detach".into(), "--image-path".into(), images.into()]);
                words.extend(["--work-path".into(), (&self.folder).into()]);
            }
        }
        words.extend(["--bundle".into(), bundle.into()]);
        let terminal = request.spec.process().as_ref().and_then(Process::terminal).unwrap_or(false);
        let input = if request.stdio.open_stdin { stdio::Input::Open } else { stdio::Input::Null };
        self.process(words, "init", (terminal, input), &[])
    }

    /// Runs a command that leaves a process to us.
    fn process(
        &self,
        mut words: Vec<OsString>,
        name: &str,
        (terminal, input): (bool, stdio::Input),
        rest: &[OsString],
    ) -> Result<Left> {
        let pid_file = self.folder.join(format!("{name}.pid"));
        // of an earlier run whose helper was killed
        let _ = std::fs::remove_file(&pid_file);
        words.extend(["--pid-file".into(), (&pid_file).into()]);
        let console = terminal.then(|| Console::listen(&self.folder)).transpose()?;
        let (mut streams, ends) = stdio::ends(Stdio::Pipes(input), terminal)?;
        words.extend(console.iter().flat_map(|console| ["--console-socket".into(), console.path().into()]));
        words.push((&self.id).into());
        words.extend_from_slice(rest);
        self.run(&words, ends)?;
        if let Some(console) = console {
            streams.terminal = Some(console.receive()?);
        }
        let text = std::fs::read_to_string(&pid_file).doing(|| pid_file.display().to_string())?;
        let pid: i32 = text.trim().parse().doing(|| format!("{}: {text:?}", pid_file.display()))?;
        let number = Pid::from_raw(pid).ok_or_else(|| SetupError::invalid("the runtime wrote no process id"))?;
        let pidfd = pidfd_open(number, PidfdFlags::empty()).doing(|| "pidfd_open")?;
        // of no more use
        let _ = std::fs::remove_file(&pid_file);
        Ok(Left { pid, pidfd, streams })
    }

    fn adopt(&self, spec: &Spec, left: Left) -> Result<(create::Container, Created)> {
        let linux = spec.linux().as_ref();
        let group = create::cgroups()?.open(&self.cgroup.to_string_lossy()).doing(|| {
            format!("the runtime {} made no control group {}", self.runtime.program.display(), self.cgroup.display())
        })?;
        let listed = linux.and_then(|linux| linux.namespaces().as_deref()).unwrap_or_default();
        let namespaces = listed.iter().fold(Namespaces::empty(), |all, one| all | kind_of(one.typ()).0);
        let pid = left.pid;
        let mut container = create::Container::restored(left.pidfd, pid, group, namespaces);
        container.streams = left.streams;
        Ok((container, Created { pid, namespaces: inodes(pid), cgroup: Vec::new(), warnings: Vec::new() }))
    }

    /// Lets the program run.
    pub(super) fn start(&self) -> Result<()> {
        self.ask(&["start", &self.id])
    }

    pub(super) fn signal(&self, signal: i32) -> Result<()> {
        self.ask(&["kill", &self.id, &signal.to_string()])
    }

    pub(super) fn pause(&self) -> Result<()> {
        self.ask(&["pause", &self.id])
    }

    pub(super) fn resume(&self) -> Result<()> {
        self.ask(&["resume", &self.id])
    }

    pub(super) fn update(&self, resources: &LinuxResources) -> Result<()> {
        let file = self.folder.join("resources.json");
        write_json(&file, resources)?;
        self.ask(&["update", "--resources", &file.to_string_lossy(), &self.id])
    }

    /// Runs one more process in the container.
    pub(super) fn exec(&mut self, request: &Exec) -> Result<Left> {
        self.execs = self.execs.wrapping_add(1);
        let name = format!("exec-{}", self.execs);
        let file = self.folder.join(format!("{name}.json"));
        write_json(&file, &request.process)?;
        let words = vec!["exec".into(), "--detach".into(), "--process".into(), (&file).into()];
        let input = if request.open_stdin { stdio::Input::Open } else { stdio::Input::Null };
        let left = self.process(words, &name, (request.process.terminal().unwrap_or(false), input), &[]);
        // read by now
        let _ = std::fs::remove_file(&file);
        left
    }

    /// Has it write the processes down.
    pub(super) fn checkpoint(&self, images: &Path, then: Afterwards) -> Result<()> {
        let (images, work) = (images.to_string_lossy(), self.folder.to_string_lossy());
        let mut words = vec!["checkpoint", "--image-path", &images, "--work-path", &work];
        words.extend((then == Afterwards::Runs).then_some("--leave-running"));
        words.push(&self.id);
        self.ask(&words)
    }

    /// Has it take away what it keeps of a container that has ended.
    pub(super) fn delete(&self) {
        if let Err(error) = self.ask(&["delete", "--force", &self.id]) {
            super::complain(&error.message);
        }
        self.release_groups();
    }

    /// Removes the group above the container's where the daemon has none: in a hierarchy without controllers, which runtimes
    /// use and we do not.
    fn release_groups(&self) {
        let (Ok(host), Some(above)) = (create::cgroups(), self.cgroup.parent()) else { return };
        let above = above.strip_prefix("/").unwrap_or(above);
        let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let mounted =
            table.lines().filter(|line| line.contains(" - cgroup2 ")).filter_map(|line| line.split(' ').nth(4));
        for top in mounted.map(Path::new).filter(|top| !host.hierarchies().any(|(own, _)| own == *top)) {
            if above != Path::new("") {
                // others may still be below it
                let _ = std::fs::remove_dir(top.join(above));
            }
        }
    }

    fn ask(&self, words: &[&str]) -> Result<()> {
        let words: Vec<OsString> = words.iter().map(Into::into).collect();
        self.run(&words, Ends::Inherit)
    }

    /// Runs the program once and waits for its end; with no ends, it reads and writes nothing.
    fn run(&self, words: &[OsString], ends: Ends) -> Result<()> {
        let shown = self.runtime.program.display();
        let log = self.folder.join("runtime.log");
        // of the command before
        let _ = std::fs::remove_file(&log);
        let mut command = Command::new(&self.runtime.program);
        command.env_clear().env("PATH", crate::SEARCHED).current_dir("/").args(&self.runtime.arguments);
        command.arg("--root").arg(self.folder.join("state")).arg("--log").arg(&log).args(["--log-format", "json"]);
        command.args(words);
        match ends {
            Ends::Pipes { stdin, stdout, stderr } => command.stdin(stdin).stdout(stdout).stderr(stderr),
            Ends::Terminal(_) | Ends::Inherit => {
                let null = || File::options().read(true).write(true).open("/dev/null").doing(|| "/dev/null");
                command.stdin(null()?).stdout(null()?).stderr(null()?)
            }
        };
        let ended = sys::job::with_signals(&mut command).status();
        // the ends are in it, and would keep the streams open
        drop(command);
        let status = ended.map_err(|error| SetupError::invalid(format!("cannot run the runtime {shown}: {error}")))?;
        if status.success() {
            return Ok(());
        }
        let verb = words.first().map(|word| word.to_string_lossy()).unwrap_or_default();
        let said = read_log(&log).unwrap_or_else(|| status.to_string());
        Err(SetupError::new(kind_of_failure(&said), format!("{shown} {verb}: {said}")))
    }
}

/// Mounts the root file system for the runtime.
pub(super) fn show(request: &Create, layers: &[OwnedFd], at: &Path) -> Result<Shown> {
    let linux = request.spec.linux().as_ref();
    let maps = |pick: fn(&oci_spec::runtime::Linux) -> &Option<Vec<oci_spec::runtime::LinuxIdMapping>>| {
        linux.and_then(|linux| pick(linux).as_deref()).unwrap_or_default()
    };
    let (uids, gids) = (maps(oci_spec::runtime::Linux::uid_mappings), maps(oci_spec::runtime::Linux::gid_mappings));
    let root = if uids.is_empty() {
        init::root::open(&request.rootfs, layers, None)?
    } else {
        let user = user_namespace(uids, gids)?;
        // as for containers of our own: overlayfs acts as whoever mounts it
        let (uid, gid) = container_root(&request.spec);
        sys::process::set_fs_ids(uid, gid).doing(|| "cannot act as the container's root")?;
        let root = init::root::open(&request.rootfs, layers, Some(user.as_fd()));
        sys::process::set_fs_ids(0, 0).doing(|| "cannot act as ourselves again")?;
        root?
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let place = rustix::fs::open(at, flags, Mode::empty()).doing(|| at.display().to_string())?;
    move_mount_onto(root.as_fd(), place.as_fd()).doing(|| at.display().to_string())?;
    Ok(Shown(at.to_owned()))
}

fn write_config(request: &Create, bundle: &Path, netns: Option<&OwnedFd>) -> Result<()> {
    let mut spec = request.spec.clone();
    if let Some(root) = spec.root_mut() {
        root.set_path(bundle.join("rootfs"));
    }
    if let Some(linux) = spec.linux_mut() {
        let mut all = linux.namespaces().clone().unwrap_or_default();
        // a clock of its own is something that we give to containers, and that not every runtime knows
        all.retain(|one| one.typ() != LinuxNamespaceType::Time || one.path().is_some());
        if let Some(netns) = netns {
            all.retain(|one| one.typ() != LinuxNamespaceType::Network);
            let path = format!("/proc/{}/fd/{}", std::process::id(), netns.as_raw_fd());
            let network = LinuxNamespaceBuilder::default().typ(LinuxNamespaceType::Network).path(path).build();
            all.push(network.doing(|| "the network namespace")?);
        }
        linux.set_namespaces(Some(all));
    }
    if request.init {
        put_before(&mut spec)?;
    }
    write_json(&bundle.join("config.json"), &spec)
}

/// Puts this program before the container's as process 1, from a mount that nobody can write to.
fn put_before(spec: &mut Spec) -> Result<()> {
    // as the daemon named it: we run from a mount of it that has no place
    let own = std::env::args_os().next().map(PathBuf::from).filter(|path| path.is_absolute() && path.is_file());
    let own =
        own.ok_or_else(|| SetupError::unsupported("cannot find insula-shim's own file to put it before the program"))?;
    let mut mounts = spec.mounts().clone().unwrap_or_default();
    // not in a folder of the host's
    let fresh = |mount: &Mount| mount.destination() == Path::new("/dev") && mount.typ().as_deref() == Some("tmpfs");
    let place = if mounts.iter().any(fresh) { "/dev/init" } else { "/sbin/docker-init" };
    let mut mount = Mount::default();
    mount.set_destination(place.into()).set_typ(Some("bind".to_owned())).set_source(Some(own));
    mount.set_options(Some(vec!["bind".to_owned(), "ro".to_owned()]));
    mounts.push(mount);
    spec.set_mounts(Some(mounts));
    if let Some(process) = spec.process_mut() {
        let program = process.args().clone().unwrap_or_default();
        process.set_args(Some([place, IN_FRONT].map(str::to_owned).into_iter().chain(program).collect()));
    }
    Ok(())
}

fn write_json(file: &Path, value: &impl serde::Serialize) -> Result<()> {
    let shown = || file.display().to_string();
    std::fs::write(file, serde_json::to_vec(value).doing(shown)?).doing(shown)
}

/// What the runtime wrote last of an error.
fn read_log(log: &Path) -> Option<String> {
    use std::io::Read as _;
    let mut text = String::new();
    File::open(log).ok()?.take(LONGEST_LOG).read_to_string(&mut text).ok()?;
    let said = |line: &str| match serde_json::from_str::<Said>(line) {
        Ok(said) if matches!(&*said.level, "error" | "fatal" | "panic") => Some(said.msg),
        _ => None,
    };
    text.lines().rev().find_map(said).or_else(|| text.lines().next_back().map(str::to_owned))
}

/// What the daemon is to make of a runtime's words.
fn kind_of_failure(said: &str) -> FailureKind {
    let said = said.to_lowercase();
    let program = said.contains("exec") && !said.contains("mount");
    if said.contains("not found in $path") || (program && said.contains("no such file or directory")) {
        FailureKind::CommandNotFound
    } else if program && said.contains("permission denied") {
        FailureKind::CommandNotExecutable
    } else {
        FailureKind::Internal
    }
}

/// A socket that is sent a terminal's master.
struct Console {
    socket: OwnedFd,
    folder: OwnedFd,
    file: PathBuf,
}

impl Console {
    fn listen(folder: &Path) -> Result<Self> {
        let file = folder.join("console.sock");
        let what = || file.display().to_string();
        let _ = std::fs::remove_file(&file);
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = rustix::fs::open(folder, flags, Mode::empty()).doing(what)?;
        let flags = SocketFlags::CLOEXEC;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).doing(what)?;
        let console = Self { socket, folder, file: file.clone() };
        let address = SocketAddrUnix::new(console.path()).doing(what)?;
        rustix::net::bind(&console.socket, &address).doing(what)?;
        rustix::net::listen(&console.socket, 1).doing(what)?;
        Ok(console)
    }

    /// A name for it that is short enough for an address, however long the folder's is.
    fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/fd/{}/console.sock", std::process::id(), self.folder.as_raw_fd()))
    }

    fn receive(self) -> Result<OwnedFd> {
        let what = || "the runtime sent no terminal";
        // it has connected and ended by now: one that has not never will
        rustix::io::ioctl_fionbio(&self.socket, true).doing(what)?;
        let connection = rustix::net::accept_with(&self.socket, SocketFlags::CLOEXEC).doing(what)?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut room = [0_u8; 4096];
        let parts = &mut [IoSliceMut::new(&mut room)];
        rustix::io::retry_on_intr(|| rustix::net::recvmsg(&connection, parts, &mut control, RecvFlags::CMSG_CLOEXEC))
            .doing(what)?;
        let sent = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(fds) => fds.into_iter().next(),
            _ => None,
        });
        sent.ok_or_else(|| SetupError::new(FailureKind::Internal, what()))
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.file);
    }
}

/// Collects processes that have become ours and end, but those that somebody waits for.
pub(super) fn reap_strangers(awaited: &dyn Fn(i32) -> bool) {
    use rustix::process::{WaitOptions, waitpid};
    let Ok(text) = std::fs::read_to_string("/proc/thread-self/children") else { return };
    for pid in text.split_whitespace().filter_map(|word| word.parse().ok()).filter(|pid| !awaited(*pid)) {
        // most still run
        let _ = waitpid(Pid::from_raw(pid), WaitOptions::NOHANG);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_read_from_a_runtimes_words() {
        let check = |said: &str, kind| assert_eq!(kind_of_failure(said), kind, "{said}");
        check(r#"exec: "nope": executable file not found in $PATH"#, FailureKind::CommandNotFound);
        check("executable file `nope` not found in $PATH: No such file or directory", FailureKind::CommandNotFound);
        check(r#"exec: "/nope": stat /nope: no such file or directory"#, FailureKind::CommandNotFound);
        check(r#"exec: "/etc/passwd": permission denied"#, FailureKind::CommandNotExecutable);
        check("error mounting \"/x\" to rootfs: no such file or directory", FailureKind::Internal);
        check("cgroup: not found", FailureKind::Internal);
    }

    #[test]
    fn the_last_error_of_a_log_counts() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        let check = |text: &str, expect: Option<&str>| {
            std::fs::write(&log, text).unwrap();
            assert_eq!(read_log(&log).as_deref(), expect);
        };
        check(
            "{\"level\":\"error\",\"msg\":\"one\"}\n{\"level\":\"error\",\"msg\":\"two\"}\n{\"level\":\"warning\",\"msg\":\"three\"}\n",
            Some("two"),
        );
        check("plain words\n", Some("plain words"));
        check("", None);
    }
}
