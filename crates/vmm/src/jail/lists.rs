//! Which system calls each kind of thread may make. A call that is in no list of a thread ends the program.
//!
//! The lists are compiled to filters when this program is built. The first rule for a call counts, so lists with wider rules
//! stand first. A thread starts with its maker's filter, and only the main thread makes threads: its filter is the union of
//! those that the machine needs.

use libc as c;
use sys::seccomp::{Argument, Filter, Rule};

use Rule::{Allow, Refuse, When};

const fn is(index: u8, value: u32) -> Argument {
    Argument { index, mask: u32::MAX, value }
}

const fn bits(index: u8, mask: u32, value: u32) -> Argument {
    Argument { index, mask, value }
}

const EXECUTE: u32 = c::PROT_EXEC as u32;
/// Requests of KVM are of this type.
const KVM: Argument = bits(1, 0xff00, 0xae00);
const SET_NONBLOCKING: Argument = is(1, c::FIONBIO as u32);
/// `KVM_IRQ_LINE`, `KVM_SIGNAL_MSI`: how devices interrupt the guest.
const INTERRUPT: [Argument; 2] = [is(1, 0x4008_ae61), is(1, 0x4020_aea5)];
/// `TUNSETVNETHDRSZ`, `TUNSETOFFLOAD`.
const TAP: [Argument; 2] = [is(1, 0x4004_54d8), is(1, 0x4004_54d0)];
/// `UFFDIO_*`.
const USERFAULT: Argument = bits(1, 0xff00, 0xaa00);

/// What any thread needs to live: memory that can't be executed, locks, its name, its end.
const BASE: &[Rule] = &[
    Allow(c::SYS_brk),
    Allow(c::SYS_clock_gettime),
    Allow(c::SYS_clock_nanosleep),
    Allow(c::SYS_close),
    Allow(c::SYS_exit),
    Allow(c::SYS_exit_group),
    // The standard library looks before it closes, in builds for tests.
    When(c::SYS_fcntl, &[is(1, c::F_GETFD as u32)]),
    Allow(c::SYS_futex),
    Allow(c::SYS_getpid),
    Allow(c::SYS_getrandom),
    Allow(c::SYS_gettid),
    Allow(c::SYS_madvise),
    When(c::SYS_mmap, &[bits(2, EXECUTE, 0)]),
    When(c::SYS_mprotect, &[bits(2, EXECUTE, 0)]),
    Allow(c::SYS_mremap),
    // The allocator asks how many processors there are, and can do without an answer.
    Refuse(c::SYS_openat, c::EACCES as u16),
    Allow(c::SYS_munmap),
    When(c::SYS_prctl, &[is(0, c::PR_GET_NAME as u32), is(0, c::PR_SET_NAME as u32)]),
    Allow(c::SYS_read),
    Allow(c::SYS_restart_syscall),
    Allow(c::SYS_rseq),
    Allow(c::SYS_rt_sigprocmask),
    Allow(c::SYS_rt_sigreturn),
    Allow(c::SYS_sched_getaffinity),
    Allow(c::SYS_sched_yield),
    Allow(c::SYS_set_robust_list),
    Allow(c::SYS_sigaltstack),
    Allow(c::SYS_write),
];

/// The main thread: makes the machine and its threads, saves and restores it.
const MAIN: &[Rule] = &[
    When(c::SYS_clone, &[bits(0, c::CLONE_THREAD as u32, c::CLONE_THREAD as u32)]),
    // Its flags lie in memory, where a filter can't look: the C library then takes clone.
    Refuse(c::SYS_clone3, c::ENOSYS as u16),
    Allow(c::SYS_capget),
    Allow(c::SYS_capset),
    Allow(c::SYS_dup),
    Allow(c::SYS_epoll_create1),
    Allow(c::SYS_epoll_ctl),
    Allow(c::SYS_epoll_pwait),
    Allow(c::SYS_epoll_wait),
    Allow(c::SYS_eventfd2),
    Allow(c::SYS_fallocate),
    Allow(c::SYS_fcntl),
    Allow(c::SYS_fdatasync),
    Allow(c::SYS_flock),
    Allow(c::SYS_fstat),
    Allow(c::SYS_fstatfs),
    Allow(c::SYS_fsync),
    Allow(c::SYS_ftruncate),
    Allow(c::SYS_getdents64),
    Allow(c::SYS_geteuid),
    // Devices' threads ask for short turns before they narrow this list.
    Allow(c::SYS_getpriority),
    Allow(c::SYS_getsockname),
    Allow(c::SYS_getsockopt),
    When(c::SYS_ioctl, &[KVM, SET_NONBLOCKING, TAP[0], TAP[1], USERFAULT]),
    Allow(c::SYS_lseek),
    Allow(c::SYS_lstat),
    Allow(c::SYS_memfd_create),
    Allow(c::SYS_mkdir),
    // The software CPU's code: a memory file, one view to write and one to run.
    Allow(c::SYS_mmap),
    Allow(c::SYS_newfstatat),
    Allow(c::SYS_open),
    Allow(c::SYS_openat),
    Allow(c::SYS_pipe2),
    Allow(c::SYS_poll),
    Allow(c::SYS_pread64),
    Allow(c::SYS_prlimit64),
    Allow(c::SYS_pwrite64),
    Allow(c::SYS_readlink),
    Allow(c::SYS_rename),
    Allow(c::SYS_renameat2),
    Allow(c::SYS_rmdir),
    Allow(c::SYS_rt_sigaction),
    Allow(c::SYS_sched_setattr),
    Allow(c::SYS_seccomp),
    Allow(c::SYS_stat),
    Allow(c::SYS_statx),
    Allow(c::SYS_sysinfo),
    Allow(c::SYS_tgkill),
    Allow(c::SYS_timerfd_create),
    Allow(c::SYS_timerfd_settime),
    Allow(c::SYS_unlink),
    Allow(c::SYS_unlinkat),
];

/// A vCPU on KVM: runs the guest; what the guest does with a device's registers.
const VCPU_KVM: &[Rule] = &[
    Allow(c::SYS_arch_prctl),
    Allow(c::SYS_epoll_ctl),
    Allow(c::SYS_eventfd2),
    Allow(c::SYS_fcntl),
    When(c::SYS_ioctl, &[KVM, SET_NONBLOCKING, TAP[0], TAP[1]]),
    Allow(c::SYS_tgkill),
    Allow(c::SYS_timerfd_settime),
];

/// A vCPU on the software CPU: translates and runs; no request of KVM.
const VCPU_SOFT: &[Rule] = &[
    Allow(c::SYS_arch_prctl),
    Allow(c::SYS_epoll_ctl),
    Allow(c::SYS_eventfd2),
    Allow(c::SYS_fcntl),
    When(c::SYS_ioctl, &[SET_NONBLOCKING, TAP[0], TAP[1]]),
    Allow(c::SYS_fallocate),
    Allow(c::SYS_membarrier),
    Allow(c::SYS_tgkill),
    Allow(c::SYS_timerfd_settime),
];

/// What a vCPU does for a device at once, without waking its thread: requests of disks and cards that need no wait.
const AT_ONCE: &[Rule] = &[
    Allow(c::SYS_fstat),
    Allow(c::SYS_lseek),
    Allow(c::SYS_pread64),
    Allow(c::SYS_preadv),
    Allow(c::SYS_preadv2),
    Allow(c::SYS_pwrite64),
    Allow(c::SYS_pwritev),
    Allow(c::SYS_pwritev2),
    Allow(c::SYS_readv),
    Allow(c::SYS_writev),
];

/// Threads that wait for others and tell them: of the software CPU's timer and interrupts, of the machine's events.
const WAIT: &[Rule] = &[Allow(c::SYS_epoll_pwait), Allow(c::SYS_epoll_wait), Allow(c::SYS_tgkill)];

/// The software CPU's timer: waits for a timer of the host, and sets it.
const TIMER: &[Rule] = &[Allow(c::SYS_tgkill), Allow(c::SYS_timerfd_settime)];

/// All that devices need: to wait, and to interrupt the guest.
const DEVICE: &[Rule] = &[
    Allow(c::SYS_epoll_ctl),
    Allow(c::SYS_epoll_pwait),
    Allow(c::SYS_epoll_wait),
    Allow(c::SYS_eventfd2),
    Allow(c::SYS_fcntl),
    Allow(c::SYS_timerfd_create),
    Allow(c::SYS_timerfd_settime),
    Allow(c::SYS_tgkill),
];
const RAISE: &[Rule] = &[When(c::SYS_ioctl, &INTERRUPT)];

/// A disk: reads and writes its file.
const BLOCK: &[Rule] = &[
    Allow(c::SYS_fallocate),
    Allow(c::SYS_fdatasync),
    Allow(c::SYS_fstat),
    Allow(c::SYS_fsync),
    Allow(c::SYS_ftruncate),
    Allow(c::SYS_lseek),
    Allow(c::SYS_pread64),
    Allow(c::SYS_preadv),
    Allow(c::SYS_preadv2),
    Allow(c::SYS_pwrite64),
    Allow(c::SYS_pwritev),
    Allow(c::SYS_pwritev2),
];

/// Persistent memory: brings its file to the disk.
const PMEM: &[Rule] = &[Allow(c::SYS_fdatasync), Allow(c::SYS_fsync), Allow(c::SYS_msync)];

/// A card on a tap.
const NET_TAP: &[Rule] =
    &[When(c::SYS_ioctl, &[TAP[0], TAP[1], INTERRUPT[0], INTERRUPT[1]]), Allow(c::SYS_readv), Allow(c::SYS_writev)];

/// A card in a network of its own, which goes out through sockets.
const NET_USER: &[Rule] = &[
    Allow(c::SYS_accept4),
    Allow(c::SYS_bind),
    Allow(c::SYS_connect),
    Allow(c::SYS_getpeername),
    Allow(c::SYS_getsockname),
    Allow(c::SYS_getsockopt),
    When(c::SYS_ioctl, &[SET_NONBLOCKING, TAP[0], TAP[1], INTERRUPT[0], INTERRUPT[1]]),
    Allow(c::SYS_readv),
    Allow(c::SYS_recvfrom),
    Allow(c::SYS_recvmsg),
    Allow(c::SYS_sendmsg),
    Allow(c::SYS_sendto),
    Allow(c::SYS_setsockopt),
    Allow(c::SYS_shutdown),
    When(c::SYS_socket, &[is(0, c::AF_INET as u32), is(0, c::AF_INET6 as u32), is(0, c::AF_UNIX as u32)]),
    Allow(c::SYS_writev),
];

/// The quiet devices in one thread: sockets, balloon, random numbers, console.
const LIGHT: &[Rule] = &[
    Allow(c::SYS_accept4),
    Allow(c::SYS_connect),
    Allow(c::SYS_fallocate),
    Allow(c::SYS_getsockopt),
    When(c::SYS_ioctl, &[SET_NONBLOCKING, INTERRUPT[0], INTERRUPT[1]]),
    Allow(c::SYS_readv),
    Allow(c::SYS_recvfrom),
    Allow(c::SYS_recvmsg),
    Allow(c::SYS_sendmsg),
    Allow(c::SYS_sendto),
    Allow(c::SYS_shutdown),
    When(c::SYS_socket, &[is(0, c::AF_UNIX as u32)]),
    Allow(c::SYS_writev),
];

/// A folder of the host.
const FS: &[Rule] = &[
    Allow(c::SYS_copy_file_range),
    Allow(c::SYS_faccessat2),
    Allow(c::SYS_fallocate),
    Allow(c::SYS_fchmod),
    Allow(c::SYS_fchmodat),
    Allow(c::SYS_fchmodat2),
    Allow(c::SYS_fchown),
    Allow(c::SYS_fchownat),
    Allow(c::SYS_fdatasync),
    Allow(c::SYS_fgetxattr),
    Allow(c::SYS_flistxattr),
    Allow(c::SYS_flock),
    Allow(c::SYS_fremovexattr),
    Allow(c::SYS_fsetxattr),
    Allow(c::SYS_fstat),
    Allow(c::SYS_fstatfs),
    Allow(c::SYS_fsync),
    Allow(c::SYS_ftruncate),
    Allow(c::SYS_getdents64),
    Allow(c::SYS_getxattr),
    Allow(c::SYS_linkat),
    Allow(c::SYS_listxattr),
    Allow(c::SYS_lseek),
    Allow(c::SYS_mkdirat),
    Allow(c::SYS_mknodat),
    Allow(c::SYS_newfstatat),
    Allow(c::SYS_openat),
    Allow(c::SYS_openat2),
    Allow(c::SYS_pread64),
    Allow(c::SYS_preadv),
    Allow(c::SYS_preadv2),
    Allow(c::SYS_pwrite64),
    Allow(c::SYS_pwritev),
    Allow(c::SYS_pwritev2),
    Allow(c::SYS_readlinkat),
    Allow(c::SYS_removexattr),
    Allow(c::SYS_renameat),
    Allow(c::SYS_renameat2),
    Allow(c::SYS_setxattr),
    Allow(c::SYS_statx),
    Allow(c::SYS_symlinkat),
    Allow(c::SYS_syncfs),
    Allow(c::SYS_umask),
    Allow(c::SYS_unlinkat),
    Allow(c::SYS_utimensat),
];

/// The API: takes requests, with descriptors; the main thread does them.
const API: &[Rule] = &[
    Allow(c::SYS_accept4),
    Allow(c::SYS_fcntl),
    Allow(c::SYS_recvfrom),
    Allow(c::SYS_recvmsg),
    Allow(c::SYS_sendto),
    Allow(c::SYS_setsockopt),
];

/// The console: terminals' connections, and the file of what it showed.
const CONSOLE: &[Rule] = &[
    Allow(c::SYS_accept4),
    Allow(c::SYS_epoll_ctl),
    Allow(c::SYS_epoll_pwait),
    Allow(c::SYS_epoll_wait),
    Allow(c::SYS_ftruncate),
    When(c::SYS_ioctl, &[SET_NONBLOCKING]),
    Allow(c::SYS_lseek),
    Allow(c::SYS_recvfrom),
    Allow(c::SYS_sendto),
    Allow(c::SYS_writev),
];

/// Pages of a snapshot that are read when the guest touches them.
const PAGES: &[Rule] = &[
    Allow(c::SYS_epoll_pwait),
    Allow(c::SYS_epoll_wait),
    When(c::SYS_ioctl, &[USERFAULT]),
    Allow(c::SYS_poll),
    Allow(c::SYS_pread64),
];

/// For the tests: a thread that may do nothing.
static BASE_ONLY: Filter = Filter::new(&[BASE]);
static VCPU_KVM_FILTER: Filter = Filter::new(&[VCPU_KVM, AT_ONCE, BASE]);
static VCPU_KVM_NET_FILTER: Filter = Filter::new(&[VCPU_KVM, AT_ONCE, NET_USER, BASE]);
static VCPU_SOFT_FILTER: Filter = Filter::new(&[VCPU_SOFT, AT_ONCE, BASE]);
static VCPU_SOFT_NET_FILTER: Filter = Filter::new(&[VCPU_SOFT, AT_ONCE, NET_USER, BASE]);
static WAIT_FILTER: Filter = Filter::new(&[WAIT, RAISE, BASE]);
static TIMER_FILTER: Filter = Filter::new(&[TIMER, RAISE, BASE]);
static BLOCK_FILTER: Filter = Filter::new(&[BLOCK, DEVICE, RAISE, BASE]);
static PMEM_FILTER: Filter = Filter::new(&[PMEM, DEVICE, RAISE, BASE]);
static NET_TAP_FILTER: Filter = Filter::new(&[NET_TAP, DEVICE, BASE]);
static NET_USER_FILTER: Filter = Filter::new(&[NET_USER, DEVICE, BASE]);
static LIGHT_FILTER: Filter = Filter::new(&[LIGHT, DEVICE, BASE]);
static FS_FILTER: Filter = Filter::new(&[FS, DEVICE, RAISE, BASE]);
static API_FILTER: Filter = Filter::new(&[API, BASE]);
static CONSOLE_FILTER: Filter = Filter::new(&[CONSOLE, BASE]);
static PAGES_FILTER: Filter = Filter::new(&[PAGES, BASE]);

/// Everything but the network and shares.
macro_rules! all {
    ($($more:expr),*) => {
        Filter::new(&[$($more,)* MAIN, API, CONSOLE, BLOCK, PMEM, LIGHT_UNION, VCPU_SOFT, VCPU_KVM, NET_TAP, DEVICE, PAGES, BASE])
    };
}
/// As [`LIGHT`], and how its listener is made.
const LIGHT_UNION: &[Rule] = &[
    Allow(c::SYS_bind),
    Allow(c::SYS_connect),
    Allow(c::SYS_listen),
    Allow(c::SYS_recvmsg),
    Allow(c::SYS_sendmsg),
    Allow(c::SYS_shutdown),
    When(c::SYS_socket, &[is(0, c::AF_UNIX as u32)]),
];
static MAIN_FILTER: Filter = all!();
static MAIN_NET_FILTER: Filter = all!(NET_USER_UNION);
static MAIN_FS_FILTER: Filter = all!(FS);
static MAIN_NET_FS_FILTER: Filter = all!(NET_USER_UNION, FS);
/// What [`NET_USER`] has beyond the others, without rules that would narrow theirs.
const NET_USER_UNION: &[Rule] = &[
    Allow(c::SYS_getpeername),
    When(c::SYS_socket, &[is(0, c::AF_INET as u32), is(0, c::AF_INET6 as u32), is(0, c::AF_UNIX as u32)]),
];

/// Whether the machine's process has the host's network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// No.
    None,
    /// Yes: for cards in networks of their own, which go out through the host's sockets.
    Host,
}

/// Whether folders of the host are shared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shares {
    /// No.
    None,
    /// Yes: one thread keeps the right to act for any user there.
    Some,
}

/// The filter of the main thread, under which all others start.
pub(super) fn of_main(network: Network, shares: Shares) -> &'static Filter {
    match (network, shares) {
        (Network::None, Shares::None) => &MAIN_FILTER,
        (Network::Host, Shares::None) => &MAIN_NET_FILTER,
        (Network::None, Shares::Some) => &MAIN_FS_FILTER,
        (Network::Host, Shares::Some) => &MAIN_NET_FS_FILTER,
    }
}

/// Filters by the beginning of threads' names, sorted.
const BY_NAME: &[(&str, &Filter)] = &[
    ("api", &API_FILTER),
    ("block", &BLOCK_FILTER),
    ("console", &CONSOLE_FILTER),
    ("devices", &LIGHT_FILTER),
    ("events", &WAIT_FILTER),
    ("fs", &FS_FILTER),
    ("kvm-vcpu", &VCPU_KVM_FILTER),
    ("net", &NET_TAP_FILTER),
    ("pages", &PAGES_FILTER),
    ("pmem", &PMEM_FILTER),
    ("port", &WAIT_FILTER),
    ("soft-irqfd", &WAIT_FILTER),
    ("soft-timer", &TIMER_FILTER),
    ("soft-vcpu", &VCPU_SOFT_FILTER),
];

/// The same, where the machine has the host's network.
const WITH_NETWORK: &[(&str, &Filter)] =
    &[("kvm-vcpu", &VCPU_KVM_NET_FILTER), ("net", &NET_USER_FILTER), ("soft-vcpu", &VCPU_SOFT_NET_FILTER)];

/// The kinds of threads, by the beginnings of their names.
pub fn kinds() -> impl Iterator<Item = &'static str> {
    BY_NAME.iter().map(|(name, _)| *name)
}

/// The filter of a thread: the least there is, for a name that nobody knows.
pub(super) fn of_thread(name: &str, network: Network) -> &'static Filter {
    let table = if network == Network::Host { WITH_NETWORK.iter() } else { [].iter() };
    table.chain(BY_NAME).find(|(kind, _)| name.starts_with(kind)).map_or(&BASE_ONLY, |(_, filter)| filter)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_sorted_and_no_thread_has_more_than_its_maker() {
        assert!(BY_NAME.is_sorted_by_key(|(name, _)| *name));
        let number = |rule: &Rule| match rule {
            Allow(call) | When(call, _) | Refuse(call, _) => *call,
        };
        let main: Vec<_> =
            [NET_USER_UNION, FS, MAIN, API, CONSOLE, BLOCK, PMEM, LIGHT_UNION, VCPU_SOFT, VCPU_KVM, NET_TAP]
                .into_iter()
                .chain([DEVICE, PAGES, BASE])
                .flatten()
                .map(number)
                .collect();
        for list in [
            AT_ONCE, BASE, VCPU_KVM, VCPU_SOFT, WAIT, TIMER, DEVICE, RAISE, BLOCK, PMEM, NET_TAP, NET_USER, LIGHT, FS,
            API, CONSOLE,
        ] {
            for rule in list {
                assert!(main.contains(&number(rule)), "{rule:?}");
            }
        }
    }
}
