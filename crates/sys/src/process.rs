//! Making and changing processes: clone3(2), fork(2), execve(2), unshare(2), setns(2), close_range(2), signal masks.

#![expect(unsafe_code, reason = "forking and executing have no safe face; namespace calls touch the whole process")]

use crate::{Result, SysError};
use rustix::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};
use rustix::io::Errno;
use std::ffi::{CStr, CString};
use std::marker::PhantomData;

bitflags::bitflags! {
    /// Namespaces, `CLONE_NEW*`.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub struct Namespaces: u64 {
        /// Clocks.
        const TIME = 0x80;
        /// Mounts.
        const MOUNT = 0x0002_0000;
        /// Control groups.
        const CGROUP = 0x0200_0000;
        /// Host and domain name.
        const UTS = 0x0400_0000;
        /// System V and POSIX message queues.
        const IPC = 0x0800_0000;
        /// Users.
        const USER = 0x1000_0000;
        /// Processes.
        const PID = 0x2000_0000;
        /// Network.
        const NET = 0x4000_0000;
    }
}

/// Proof that the process has one thread, which forking and unsharing need to be sound. It cannot leave its thread.
#[derive(Debug, Clone, Copy)]
pub struct SingleThread(PhantomData<*const ()>);

impl SingleThread {
    /// Looks whether there are others: the kernel lets only a single thread part from its thread group, which then changes nothing
    /// (unshare(2), `CLONE_THREAD`), and says so in a tenth of the time that /proc takes.
    ///
    /// # Errors
    /// `EBUSY` where there is more than one, what `stat` says where nothing may be unshared and /proc is missing.
    pub fn check() -> Result<Self> {
        // SAFETY: either fails or changes nothing.
        if unsafe { libc::unshare(libc::CLONE_THREAD) } == 0 {
            return Ok(Self(PhantomData));
        }
        let stat = rustix::fs::stat("/proc/self/task").map_err(SysError::of("stat"))?;
        // `.`, `..` and a folder for each thread
        if stat.st_nlink == 3 { Ok(Self(PhantomData)) } else { Err(SysError::new("clone3", Errno::BUSY)) }
    }
}

/// Which side of a fork this is.
#[derive(Debug)]
pub enum Forked {
    /// The new process.
    Child,
    /// The old one.
    Parent {
        /// The child's process id, seen from here.
        pid: i32,
        /// The child itself, close-on-exec.
        pidfd: OwnedFd,
    },
}

#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// Forks into new namespaces and, on version 2, straight into a control group (given its folder). The child's end is
/// told by `SIGCHLD` and the descriptor.
///
/// # Errors
/// `EPERM` without the right to make namespaces, `ENOSPC` at a limit of namespaces, `EAGAIN` at a limit of processes.
pub fn clone3(_proof: SingleThread, namespaces: Namespaces, cgroup: Option<BorrowedFd<'_>>) -> Result<Forked> {
    const PIDFD: u64 = 0x1000;
    const INTO_CGROUP: u64 = 0x2_0000_0000;
    let mut pidfd: libc::c_int = -1;
    let args = CloneArgs {
        flags: PIDFD | namespaces.bits() | cgroup.map_or(0, |_| INTO_CGROUP),
        pidfd: (&raw mut pidfd).addr() as u64,
        exit_signal: u64::from(libc::SIGCHLD.cast_unsigned()),
        cgroup: cgroup.map_or(0, |fd| u64::from(fd.as_raw_fd().cast_unsigned())),
        ..CloneArgs::default()
    };
    // SAFETY: one thread only, so the child's copy of memory is consistent; no stack is given, so both return here.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<CloneArgs>()) };
    match pid {
        -1 => Err(SysError::last("clone3")),
        0 => Ok(Forked::Child),
        pid => {
            // SAFETY: the kernel has just made this descriptor for us.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            Ok(Forked::Parent { pid: i32::try_from(pid).unwrap_or(0), pidfd })
        }
    }
}

/// As [`clone3`], for a process whose parent is to be the caller's own parent, which then waits for it.
///
/// # Errors
/// As [`clone3`]; `EINVAL` where the caller is process 1 of its namespace.
pub fn clone3_sibling(_proof: SingleThread, namespaces: Namespaces) -> Result<Forked> {
    const PIDFD: u64 = 0x1000;
    const PARENT: u64 = 0x8000;
    let mut pidfd: libc::c_int = -1;
    // the signal at its end is that of the caller
    let args = CloneArgs {
        flags: PIDFD | PARENT | namespaces.bits(),
        pidfd: (&raw mut pidfd).addr() as u64,
        ..CloneArgs::default()
    };
    // SAFETY: one thread only, so the child's copy of memory is consistent; no stack is given, so both return here.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<CloneArgs>()) };
    match pid {
        -1 => Err(SysError::last("clone3")),
        0 => Ok(Forked::Child),
        pid => {
            // SAFETY: the kernel has just made this descriptor for us.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            Ok(Forked::Parent { pid: i32::try_from(pid).unwrap_or(0), pidfd })
        }
    }
}

/// Of which kind the namespace is that `namespace` is open on.
///
/// # Errors
/// `ENOTTY` for what is no namespace.
///
/// # Source
/// ioctl_ns(2), `NS_GET_NSTYPE`.
pub fn namespace_type(namespace: BorrowedFd<'_>) -> Result<Namespaces> {
    const GET_TYPE: libc::Ioctl = 0xb703;
    // SAFETY: the request takes no argument and touches no memory of ours.
    let kind = unsafe { libc::ioctl(namespace.as_raw_fd(), GET_TYPE) };
    match u64::try_from(kind) {
        Ok(bits) => Ok(Namespaces::from_bits_retain(bits)),
        Err(_) => Err(SysError::last("ioctl NS_GET_NSTYPE")),
    }
}

/// Forks plainly, for a process that a seccomp program may keep from clone3. `None` in the child, its id in the parent.
///
/// # Errors
/// `EAGAIN` at a limit of processes.
pub fn fork(_proof: SingleThread) -> Result<Option<i32>> {
    // SAFETY: one thread only, so the child's copy of memory is consistent.
    match unsafe { libc::fork() } {
        -1 => Err(SysError::last("fork")),
        0 => Ok(None),
        pid => Ok(Some(pid)),
    }
}

/// Leaves namespaces for new ones; a new pid or time namespace is for children only.
///
/// # Errors
/// `EPERM` without the right, `ENOSPC` at a limit.
pub fn unshare(_proof: SingleThread, namespaces: Namespaces) -> Result<()> {
    let flags = libc::c_int::try_from(namespaces.bits()).unwrap_or(0);
    // SAFETY: one thread only; descriptors and memory stay as they are.
    if unsafe { libc::unshare(flags) } == 0 { Ok(()) } else { Err(SysError::last("unshare")) }
}

/// Enters the namespaces of the process behind a pidfd, or the one namespace of a namespace file.
///
/// # Errors
/// `EINVAL` where the descriptor is none of these or the namespace is already ours (users), `EPERM` without the right, `ESRCH` for a
/// process that has ended.
pub fn setns(_proof: SingleThread, target: BorrowedFd<'_>, namespaces: Namespaces) -> Result<()> {
    let flags = libc::c_int::try_from(namespaces.bits()).unwrap_or(0);
    // SAFETY: one thread only; the descriptor is open.
    if unsafe { libc::setns(target.as_raw_fd(), flags) } == 0 { Ok(()) } else { Err(SysError::last("setns")) }
}

/// Replaces the program. Returns only the failure.
#[must_use]
pub fn execve(path: &CStr, arguments: &[CString], environment: &[CString]) -> SysError {
    let list = |texts: &[CString]| -> Vec<*const libc::c_char> {
        texts.iter().map(|text| text.as_ptr()).chain(std::iter::once(std::ptr::null())).collect()
    };
    let (arguments, environment) = (list(arguments), list(environment));
    // SAFETY: both lists end with a null pointer, and their texts live through the call.
    unsafe { libc::execve(path.as_ptr(), arguments.as_ptr(), environment.as_ptr()) };
    SysError::last("execve")
}

/// Marks every descriptor from `first` on close-on-exec.
///
/// # Errors
/// `ENOSYS` on kernels before 5.9, `EINVAL` before 5.11.
pub fn close_on_exec_from(first: u32) -> Result<()> {
    const CLOEXEC: libc::c_uint = 4;
    // SAFETY: only a flag of descriptors changes.
    let outcome = unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, CLOEXEC) };
    if outcome == 0 { Ok(()) } else { Err(SysError::last("close_range")) }
}

/// Closes every descriptor from `first` on. For a process that will touch none of them again.
pub fn close_from(first: u32) {
    // SAFETY: the caller's process only waits from here on; a later use of such a descriptor fails with EBADF.
    unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, 0) };
}

/// Closes every descriptor from `first` on but some. For a process that will use none of the others again.
pub fn close_all_but(first: u32, kept: &[BorrowedFd<'_>]) {
    let mut kept: Vec<u32> = kept.iter().map(|fd| fd.as_raw_fd().cast_unsigned()).collect();
    kept.sort_unstable();
    let mut next = first;
    for kept in kept.into_iter().filter(|kept| *kept >= first) {
        if kept > next {
            // SAFETY: the caller's process will use none of these again; a later use fails with EBADF.
            unsafe { libc::syscall(libc::SYS_close_range, next, kept - 1, 0) };
        }
        next = kept + 1;
    }
    close_from(next);
}

/// Closes descriptors with as few calls as there are gaps between their numbers.
pub fn close_together(fds: Vec<OwnedFd>) {
    let mut numbers: Vec<u32> = fds.into_iter().map(|fd| fd.into_raw_fd().cast_unsigned()).collect();
    numbers.sort_unstable();
    let mut rest = numbers.as_slice();
    while let [first, ..] = rest {
        let run = (0_u32..).zip(rest).take_while(|(offset, number)| first + offset == **number).count();
        let last = rest.get(run - 1).unwrap_or(first);
        // SAFETY: all of the run were owned here, and nobody else's.
        unsafe { libc::syscall(libc::SYS_close_range, *first, *last, 0) };
        rest = rest.get(run..).unwrap_or_default();
    }
}

/// Keeps a descriptor for [`take_kept`], if the program has said [`keep_to_close`]; otherwise closes it.
pub fn close_later(fd: OwnedFd) {
    let mut kept = KEPT.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    match kept.as_mut() {
        Some(fds) if fds.len() < fds.capacity() => fds.push(fd),
        _ => drop(fd),
    }
}

/// From now on [`close_later`] keeps up to `most` descriptors. For programs that read many small files and live shortly: a call for
/// each that is closed is a tenth of all that they make.
pub fn keep_to_close(most: usize) {
    *KEPT.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(Vec::with_capacity(most));
}

/// What was kept, to be closed.
#[must_use]
pub fn take_kept() -> Vec<OwnedFd> {
    let mut kept = KEPT.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    kept.as_mut().map_or_else(Vec::new, |fds| std::mem::replace(fds, Vec::with_capacity(fds.capacity())))
}

static KEPT: std::sync::Mutex<Option<Vec<OwnedFd>>> = std::sync::Mutex::new(None);

/// Makes `to` another name of what `from` is open on; what it was is closed. It stays close-on-exec.
pub fn replace_fd(from: BorrowedFd<'_>, to: BorrowedFd<'_>) {
    // SAFETY: both are open; the owner of `to` goes on owning a descriptor of that number.
    unsafe { libc::dup3(from.as_raw_fd(), to.as_raw_fd(), libc::O_CLOEXEC) };
}

/// Leaves this process at once, without running any exit handler.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: ends the process.
    unsafe { libc::_exit(code) }
}

/// Lets all signals through again.
pub fn unblock_signals() {
    set_mask(libc::SIG_SETMASK, Fill::Empty);
}

/// Holds all signals back.
pub fn block_signals() {
    set_mask(libc::SIG_SETMASK, Fill::Full);
}

enum Fill {
    Empty,
    Full,
}

fn set_of(fill: &Fill) -> libc::sigset_t {
    let mut set = std::mem::MaybeUninit::<libc::sigset_t>::zeroed();
    match fill {
        // SAFETY: the pointer is to storage of the right size.
        Fill::Empty => unsafe { libc::sigemptyset(set.as_mut_ptr()) },
        // SAFETY: the pointer is to storage of the right size.
        Fill::Full => unsafe { libc::sigfillset(set.as_mut_ptr()) },
    };
    // SAFETY: initialised above; neither call can fail.
    unsafe { set.assume_init() }
}

fn set_mask(how: libc::c_int, fill: Fill) {
    let set = set_of(&fill);
    // SAFETY: the set is initialised; the old mask is not asked for.
    unsafe { libc::sigprocmask(how, &raw const set, std::ptr::null_mut()) };
}

/// Waits for the next blocked signal and takes it: `init` programs live on this.
///
/// # Errors
/// `EINTR` where an unblocked signal's handler ran.
pub fn wait_for_signal() -> Result<i32> {
    let set = set_of(&Fill::Full);
    // SAFETY: the set is initialised; no details are asked for.
    match unsafe { libc::sigwaitinfo(&raw const set, std::ptr::null_mut()) } {
        -1 => Err(SysError::last("sigwaitinfo")),
        signal => Ok(signal),
    }
}

/// Gives the signals that the runtime changes (`SIGPIPE`) their default action again.
pub fn reset_sigpipe() {
    // SAFETY: no handler of ours is installed that anything relies on.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
}

/// Sets the execution domain, personality(2).
///
/// # Errors
/// `EINVAL` where the kernel does not know it.
pub fn personality(domain: u64) -> Result<()> {
    // SAFETY: plain number.
    if unsafe { libc::personality(domain) } == -1 { Err(SysError::last("personality")) } else { Ok(()) }
}

/// Whether ids here are not the machine's.
///
/// # Source
/// user_namespaces(7), "User and group ID mappings".
#[must_use]
pub fn in_user_namespace() -> bool {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    !map.is_empty() && !map.split_whitespace().eq(["0", "0", "4294967295"])
}

/// Has every block of at least `bytes` go back to the kernel when it is freed. Otherwise the C library takes large blocks from
/// its heaps as soon as one was freed, and keeps them: for each thread that ever had one.
///
/// # Source
/// mallopt(3), `M_MMAP_THRESHOLD`.
pub fn free_at_once_from(bytes: usize) {
    let bytes = libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX);
    #[cfg(target_env = "gnu")]
    // SAFETY: a plain number for a documented parameter; a value that does not fit is refused, and nothing changes.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, bytes)
    };
    #[cfg(not(target_env = "gnu"))]
    let _ = bytes;
}

/// Gives memory that is not needed now back: freed heap, the stack's unused part, and the mapped pages of the program's own code
/// and constants, which come back from the page cache when they are touched.
pub fn trim_memory() {
    // SAFETY: only gives free heap pages back.
    unsafe { libc::malloc_trim(0) };
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let mut give_back = Vec::new();
    // the program's file comes first: constants, then code; what lies behind the code may have been written to
    let mut before_data = true;
    for line in maps.lines() {
        let mut words = line.split_ascii_whitespace();
        let (Some(range), Some(rights)) = (words.next(), words.next()) else { break };
        let Some((start, end)) = range.split_once('-') else { break };
        let (Ok(start), Ok(end)) = (usize::from_str_radix(start, 16), usize::from_str_radix(end, 16)) else { break };
        if line.ends_with("[stack]") {
            // well below this function's own frame, which is the deepest one in use
            const MARGIN: usize = 16 << 10;
            let here = (&raw const before_data).addr().saturating_sub(MARGIN) & !0xfff;
            give_back.push(start..here.clamp(start, end));
        } else if before_data && !rights.contains('w') && rights.ends_with('p') {
            give_back.push(start..end);
        }
        before_data &= rights.starts_with("r--");
    }
    drop(maps);
    for range in give_back {
        let address = std::ptr::without_provenance_mut::<libc::c_void>(range.start);
        // SAFETY: a private mapping of a file that is not writable holds nothing but the file's content, which comes back; the
        // part of the stack below every frame in use holds nothing.
        unsafe { libc::madvise(address, range.len(), libc::MADV_DONTNEED) };
    }
}

/// Sets who this thread is towards file systems, and gives it back the capabilities that this takes.
///
/// # Errors
/// What capset(2) says.
pub fn set_fs_ids(uid: u32, gid: u32) -> Result<()> {
    // SAFETY: changes ids of this thread only; there is no failure to be seen.
    unsafe { libc::setfsgid(gid) };
    // SAFETY: as above.
    unsafe { libc::setfsuid(uid) };
    let mut sets = rustix::thread::capabilities(None).map_err(SysError::of("capget"))?;
    sets.effective = sets.permitted;
    rustix::thread::set_capabilities(None, sets).map_err(SysError::of("capset"))
}
