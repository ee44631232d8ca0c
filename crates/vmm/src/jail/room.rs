//! Into namespaces, an empty root and another user.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Gid, Mode, OFlags, Uid, XattrFlags};
use rustix::io::Errno;
use rustix::mount::{MountPropagationFlags, OpenTreeFlags};
use rustix::process::Signal;
use sys::mount::{Depth, FsContext, FsError, MountAttr, MountAttrs, mount_setattr, move_mount_onto, open_tree};
use sys::process::{Forked, Namespaces, SingleThread};
use sys::{SysError, handed};

use super::lists::{Network, Shares};
use super::{Jail, KEPT, Kept, fence, narrow};

/// The first of the users that machines' processes run as: this number plus that of the process. The range to 0x713f_ffff is
/// outside of those that distributions, containers and systemd give away.
const FIRST_UID: u32 = 0x7100_0000;
/// Threads of a machine beside its processors: a bound, not a count.
const OTHER_THREADS: u64 = 256;

/// Who stays where the program was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leaving {
    /// The starter waits for the machine's process, whose exit code becomes its own; they end together.
    Wait,
    /// The machine's process becomes a child of the starter's parent, and the starter ends when the jail is closed.
    Leave,
}

/// What the machine needs of the host.
#[derive(Debug)]
pub struct Plan<'a> {
    /// The folder that becomes the process's root, and its user's; an empty one if there is none.
    pub root: Option<&'a Path>,
    /// Its network.
    pub network: Network,
    /// Folders that it shares with its guest.
    pub shares: Vec<PathBuf>,
    /// Its processors.
    pub cpus: u32,
    /// Who stays.
    pub leaving: Leaving,
    /// The file that gets the number of the machine's process.
    pub lock: Option<&'a File>,
}

/// The jail can't be made.
#[derive(Debug, thiserror::Error)]
pub enum JailError {
    /// A system call.
    #[error("the jail: {0}")]
    Call(SysError),
    /// A call with a path.
    #[error("the jail: {doing}")]
    File {
        /// What was tried.
        doing: String,
        /// What the system said.
        source: io::Error,
    },
    /// A file system.
    #[error("the jail")]
    Mount(#[source] FsError),
    /// Landlock.
    #[error("the jail")]
    Landlock(#[source] landlock::RulesetError),
    /// The starter is gone.
    #[error("the jail: the program that started this one is gone")]
    Alone,
}

fn call(name: &'static str) -> impl Fn(Errno) -> JailError {
    move |errno| JailError::Call(SysError::new(name, errno))
}

fn file(doing: impl Into<String>) -> impl FnOnce(io::Error) -> JailError {
    let doing = doing.into();
    move |source| JailError::File { doing, source }
}

/// What is made ready with the starter's rights.
struct Prepared {
    root: Option<OwnedFd>,
    folders: Vec<(PathBuf, OwnedFd)>,
    privileged: bool,
}

const CLONE: OpenTreeFlags = OpenTreeFlags::OPEN_TREE_CLONE;

/// A mount of its own of a folder: nothing leads up from it.
fn tree(path: &Path) -> Result<OwnedFd, JailError> {
    // What is mounted in a share belongs to it, as for any program.
    let flags = CLONE | OpenTreeFlags::AT_RECURSIVE;
    open_tree(CWD, path, flags).map_err(|error| JailError::File {
        doing: format!("{} {}", error.call, path.display()),
        source: error.errno.into(),
    })
}

fn prepare(plan: &Plan<'_>) -> Result<Prepared, JailError> {
    let privileged = rustix::process::geteuid().is_root();
    if let Some(root) = plan.root {
        let made = rustix::fs::mkdir(root, Mode::RWXU);
        if made != Err(Errno::EXIST) {
            made.map_err(|errno| JailError::File {
                doing: format!("making {}", root.display()),
                source: errno.into(),
            })?;
        }
        if !plan.shares.is_empty() {
            let proc = root.join("proc");
            let made = rustix::fs::mkdir(&proc, Mode::RUSR | Mode::XUSR | Mode::XGRP | Mode::XOTH);
            if made != Err(Errno::EXIST) {
                made.map_err(|errno| JailError::File {
                    doing: format!("making {}", proc.display()),
                    source: errno.into(),
                })?;
            }
        }
    }
    // A user without rights takes them in its own namespace.
    if !privileged {
        return Ok(Prepared { root: None, folders: Vec::new(), privileged });
    }
    trees(plan, privileged)
}

fn trees(plan: &Plan<'_>, privileged: bool) -> Result<Prepared, JailError> {
    let root = plan.root.map(tree).transpose()?;
    let folders = plan.shares.iter().map(|path| Ok((path.clone(), tree(path)?))).collect::<Result<_, JailError>>()?;
    Ok(Prepared { root, folders, privileged })
}

const SPACES: &[(Namespaces, &str)] = &[
    (Namespaces::CGROUP, "cgroup"),
    (Namespaces::IPC, "ipc"),
    (Namespaces::MOUNT, "mount"),
    (Namespaces::NET, "net"),
    (Namespaces::PID, "pid"),
    (Namespaces::USER, "user"),
    (Namespaces::UTS, "uts"),
];

fn fork(plan: &Plan<'_>, namespaces: Namespaces) -> Result<Forked, SysError> {
    let alone = SingleThread::check()?;
    match plan.leaving {
        Leaving::Wait => sys::process::clone3(alone, namespaces, None),
        Leaving::Leave => sys::process::clone3_sibling(alone, namespaces),
    }
}

/// Confines this program. It returns in the machine's process, which may be a new one; a starter that is left never sees the
/// end of this call.
///
/// # Errors
/// [`JailError`]; then the process may not go on.
pub fn enter(plan: &Plan<'_>) -> Result<Jail, JailError> {
    let prepared = prepare(plan)?;
    let all = SPACES.iter().fold(Namespaces::default(), |all, (space, _)| all | *space);
    let wanted = if plan.network == Network::Host { all - Namespaces::NET } else { all };
    let (mut near, far) = UnixStream::pair().map_err(file("making a pair of sockets"))?;
    let mut missing = Vec::new();
    let mut made = wanted;
    let mut forked = fork(plan, wanted);
    if let (Err(error), true) = (&forked, prepared.privileged) {
        // Root can do without the users' namespace, and not without the others.
        missing.push(format!("a user namespace: {error}"));
        made = wanted - Namespaces::USER;
        forked = fork(plan, made);
    }
    match forked {
        Ok(Forked::Parent { pid, pidfd }) => {
            drop(far);
            std::process::exit(stay(plan, &prepared, made, near, (pid, pidfd)));
        }
        Ok(Forked::Child) => {
            near = far;
            inside(plan, prepared, made, near, missing)
        }
        Err(error) if prepared.privileged => Err(JailError::Call(error)),
        Err(error) => {
            missing.push(format!("namespaces: {error}; it sees the files, processes and network of its user"));
            write_pid(plan.lock, std::process::id().cast_signed())?;
            let mut jail = Jail { uid: rustix::process::geteuid().as_raw(), missing, ..Jail::default() };
            close(plan, &mut jail, &[], None)?;
            Ok(jail)
        }
    }
}

fn write_pid(lock: Option<&File>, pid: i32) -> Result<(), JailError> {
    let Some(mut lock) = lock else { return Ok(()) };
    lock.set_len(0).and_then(|()| writeln!(lock, "{pid}")).map_err(file("writing the lock"))
}

fn map_users(plan: &Plan<'_>, privileged: bool, pid: i32) -> io::Result<u32> {
    let own = rustix::process::geteuid().as_raw();
    let uid = if privileged { FIRST_UID + pid.unsigned_abs() } else { own };
    let of = |name: &str| format!("/proc/{pid}/{name}");
    let (users, groups) = if privileged && !plan.shares.is_empty() {
        // Every user of the host may own something in a shared folder.
        let whole = format!("0 0 {}\n", u32::MAX);
        (whole.clone(), whole)
    } else if privileged {
        (format!("{uid} {uid} 1\n"), format!("{uid} {uid} 1\n"))
    } else {
        std::fs::write(of("setgroups"), "deny")?;
        let group = rustix::process::getegid().as_raw();
        (format!("{own} {own} 1\n"), format!("{group} {group} 1\n"))
    };
    std::fs::write(of("uid_map"), users)?;
    std::fs::write(of("gid_map"), groups)?;
    Ok(uid)
}

/// A default list of rights (acl(5)) by which the machine's user may use what others make in its folder: sockets for the guest.
fn welcome(uid: u32) -> Vec<u8> {
    const VERSION: u32 = 2;
    // Tag, rights, whose: the owner, a user, the group, the most for these two, others. Sorted by tag.
    let entries: [(u16, u16, u32); 5] =
        [(1, 7, u32::MAX), (2, 7, uid), (4, 0, u32::MAX), (0x10, 7, u32::MAX), (0x20, 0, u32::MAX)];
    let mut bytes = VERSION.to_le_bytes().to_vec();
    for (tag, rights, whose) in entries {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(rights.to_le_bytes());
        bytes.extend(whose.to_le_bytes());
    }
    bytes
}

/// The starter: gives the new process its user, and waits until the jail is closed, or for its end. The exit code.
fn stay(plan: &Plan<'_>, prepared: &Prepared, made: Namespaces, mut near: UnixStream, child: (i32, OwnedFd)) -> i32 {
    let (pid, pidfd) = child;
    let privileged = prepared.privileged;
    let mut ready = || -> io::Result<bool> {
        let uid = if made.contains(Namespaces::USER) {
            map_users(plan, privileged, pid)?
        } else {
            FIRST_UID + pid.unsigned_abs()
        };
        if let (Some(root), true) = (plan.root, privileged) {
            rustix::fs::chown(root, Some(Uid::from_raw(uid)), Some(Gid::from_raw(uid)))?;
            // On a file system without such lists, whoever makes a socket for the guest has to let its user in.
            let _without = rustix::fs::setxattr(root, "system.posix_acl_default", &welcome(uid), XattrFlags::empty());
        }
        write_pid(plan.lock, pid).map_err(|error| io::Error::other(error.to_string()))?;
        near.write_all(&uid.to_le_bytes())?;
        Ok(near.read(&mut [0; 1])? == 1)
    };
    match ready() {
        Ok(true) if plan.leaving == Leaving::Leave => return 0,
        Ok(true) => {}
        // It has said why.
        Ok(false) => {}
        Err(error) => {
            eprintln!("insula-vmm: the jail: {error}");
            // It may be gone already.
            let _gone = sys::signal::kill_pidfd(pidfd.as_fd(), Signal::KILL.as_raw());
        }
    }
    if plan.leaving == Leaving::Leave {
        return 1;
    }
    use rustix::process::{Pid, WaitOptions, waitpid};
    let status = loop {
        match waitpid(Pid::from_raw(pid), WaitOptions::empty()) {
            Err(Errno::INTR) => {}
            Ok(Some((_, status))) => break status,
            _ => return 1,
        }
    };
    status.exit_status().or_else(|| status.terminating_signal().map(|signal| 128 + signal)).unwrap_or(1)
}

/// The machine's process, with all rights in its own namespaces.
fn inside(
    plan: &Plan<'_>,
    mut prepared: Prepared,
    made: Namespaces,
    mut near: UnixStream,
    missing: Vec<String>,
) -> Result<Jail, JailError> {
    let mut uid = [0; 4];
    near.read_exact(&mut uid).map_err(|_| JailError::Alone)?;
    let uid = u32::from_le_bytes(uid);
    if !prepared.privileged {
        prepared = trees(plan, false)?;
    }
    new_root(plan, &mut prepared)?;
    rustix::system::sethostname(b"insula-vm").map_err(call("sethostname"))?;
    let mut open = Vec::new();
    for (path, folder) in prepared.folders {
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let copy = rustix::fs::openat(&folder, ".", flags | OFlags::CLOEXEC, Mode::empty()).map_err(call("openat"))?;
        handed::forget(&path);
        handed::put(&path, copy).map_err(file("keeping a folder"))?;
        open.push(folder);
    }
    let threads = prepared.privileged.then(|| u64::from(plan.cpus) + OTHER_THREADS);
    let mut jail = Jail {
        uid,
        namespaces: SPACES.iter().filter(|(space, _)| made.contains(*space)).map(|(_, name)| *name).collect(),
        root: plan.root.map(Path::to_owned),
        missing,
        ..Jail::default()
    };
    if prepared.privileged {
        become_user(plan, uid)?;
    } else {
        fence::bound_capabilities(Shares::None).map_err(call("prctl PR_CAPBSET_DROP"))?;
        fence::keep_capabilities(Shares::None).map_err(call("capset"))?;
    }
    close(plan, &mut jail, &open, threads)?;
    handed::confine_to(plan.root);
    near.write_all(&[1]).map_err(|_| JailError::Alone)?;
    Ok(jail)
}

/// Makes the folder, or nothing at all, the root.
fn new_root(plan: &Plan<'_>, prepared: &mut Prepared) -> Result<(), JailError> {
    let quiet = MountAttr::NOSUID | MountAttr::NODEV | MountAttr::NOEXEC;
    sys::mount::set_propagation(Path::new("/"), MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .map_err(JailError::Call)?;
    let old = rustix::fs::open("/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).map_err(call("open"))?;
    let (root, empty) = match prepared.root.take() {
        Some(root) => (root, MountAttr::empty()),
        None => {
            let context = FsContext::open("tmpfs").map_err(JailError::Mount)?;
            context.set_string("size", "64k").map_err(JailError::Mount)?;
            context.create().map_err(JailError::Mount)?;
            (context.mount(quiet).map_err(JailError::Mount)?, MountAttr::RDONLY)
        }
    };
    let proc = if plan.shares.is_empty() {
        None
    } else {
        if !empty.is_empty() {
            rustix::fs::mkdirat(&root, "proc", Mode::RWXU).map_err(call("mkdirat"))?;
        }
        // Only processes, and there is only this one.
        let context = FsContext::open("proc").map_err(JailError::Mount)?;
        context.set_string("subset", "pid").map_err(JailError::Mount)?;
        context.create().map_err(JailError::Mount)?;
        Some(context.mount(quiet).map_err(JailError::Mount)?)
    };
    let attributes = MountAttrs { set: quiet | empty, ..MountAttrs::default() };
    mount_setattr(root.as_fd(), Depth::One, &attributes).map_err(JailError::Call)?;
    move_mount_onto(root.as_fd(), old.as_fd()).map_err(JailError::Call)?;
    if let Some(proc) = proc {
        let place = rustix::fs::openat(&root, "proc", OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
        move_mount_onto(proc.as_fd(), place.map_err(call("openat"))?.as_fd()).map_err(JailError::Call)?;
    }
    rustix::process::fchdir(&root).map_err(call("fchdir"))?;
    sys::mount::pivot_root_here().map_err(JailError::Call)
}

fn become_user(plan: &Plan<'_>, uid: u32) -> Result<(), JailError> {
    use rustix::thread::{set_keep_capabilities, set_thread_groups, set_thread_res_gid, set_thread_res_uid};
    let (user, group) = (Uid::from_raw(uid), Gid::from_raw(uid));
    let shares = if plan.shares.is_empty() { Shares::None } else { Shares::Some };
    // The bounding set comes down while there is the right to do it.
    fence::bound_capabilities(shares).map_err(call("prctl PR_CAPBSET_DROP"))?;
    set_keep_capabilities(true).map_err(call("prctl PR_SET_KEEPCAPS"))?;
    set_thread_groups(&[]).map_err(call("setgroups"))?;
    set_thread_res_gid(group, group, group).map_err(call("setresgid"))?;
    set_thread_res_uid(user, user, user).map_err(call("setresuid"))?;
    fence::keep_capabilities(shares).map_err(call("capset"))
}

/// The fences of the process itself; afterwards nothing can be opened that was not foreseen.
fn close(plan: &Plan<'_>, jail: &mut Jail, open: &[OwnedFd], threads: Option<u64>) -> Result<(), JailError> {
    let privileged = threads.is_some();
    let shares = if plan.shares.is_empty() { Shares::None } else { Shares::Some };
    fence::limit(threads).map_err(call("prctl"))?;
    if plan.leaving == Leaving::Wait && !jail.namespaces.is_empty() {
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).map_err(call("prctl PR_SET_PDEATHSIG"))?;
    }
    // Without a root of its own there is no folder that could be named.
    if !jail.namespaces.is_empty() {
        let root = rustix::fs::open("/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).map_err(call("open"))?;
        let mut folders = vec![root];
        for folder in open {
            folders.push(folder.try_clone().map_err(file("copying a descriptor"))?);
        }
        jail.landlock = fence::landlock(plan.network, &folders).map_err(JailError::Landlock)?;
    } else {
        let mut folders: Vec<OwnedFd> = Vec::new();
        for path in plan.root.into_iter().chain(plan.shares.iter().map(PathBuf::as_path)) {
            let opened = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
            folders.push(opened.map_err(call("open"))?);
        }
        jail.landlock = fence::landlock(plan.network, &folders).map_err(JailError::Landlock)?;
    }
    if !jail.landlock {
        jail.missing.push("landlock: this kernel has it not".to_owned());
    }
    if privileged && shares == Shares::Some {
        jail.capabilities = fence::FOR_SHARES_NAMES;
    }
    let kept = Kept { network: plan.network, shares: if privileged { shares } else { Shares::None } };
    // There is one jail in a process.
    let _once = KEPT.set(kept);
    hv::thread::at_begin(narrow);
    fence::filter(plan.network, shares).map_err(JailError::Call)?;
    jail.seccomp = true;
    Ok(())
}
