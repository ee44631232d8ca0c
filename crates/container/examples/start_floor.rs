//! The floor under a container's start: the kernel work of `insula-oci run`, and nothing else.
//!
//! `start_floor ROOTFS CGROUP [FILTER]` makes the control group in every version 1 hierarchy, a process in new namespaces with the default mounts, devices, masked and
//! read-only paths, the seccomp program in `FILTER` (packed instructions, eight bytes each), runs `/bin/true` there, waits, and
//! removes the groups. There is no configuration to read, no state to keep, no error to explain: what the bench
//! measures above this is the runtime's own.

#![no_main]

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, makedev, mkdirat, mknodat, openat, symlinkat};
use rustix::io::Errno;
use rustix::process::{WaitId, WaitIdOptions, waitid};
use rustix::thread::{CapabilitySet, CapabilitySets, remove_capability_from_bounding_set};
use std::convert::Infallible;
use std::ffi::{CString, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use sys::mount::{
    Depth, FsContext, MountAttr, MountAttrs, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, mount_setattr,
    move_mount, open_tree, pivot_root_here, set_propagation,
};
use sys::process::{Forked, Namespaces, SingleThread};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

sys::entry!(floor);
#[cfg(musl)]
sys::in_place_of_glibc!();

fn floor(arguments: Vec<OsString>) -> u8 {
    run(&arguments).unwrap_or_else(|error| {
        eprintln!("start_floor: {error}");
        1
    })
}

fn run(arguments: &[OsString]) -> Outcome<u8> {
    let (Some(rootfs), Some(group)) = (arguments.get(1), arguments.get(2)) else {
        return Err("usage: start_floor ROOTFS CGROUP [FILTER]".into());
    };
    let filter = arguments.get(3).map(std::fs::read).transpose()?;
    let filter = filter.map(|bytes| {
        let packed = |chunk: &[u8]| u64::from_le_bytes(chunk.try_into().unwrap_or_default());
        bytes.chunks_exact(8).map(packed).collect::<Vec<u64>>()
    });
    let groups = make_groups(Path::new(group))?;
    let root = open_tree(CWD, Path::new(rootfs), OpenTreeFlags::OPEN_TREE_CLONE)?;
    let proof = SingleThread::check()?;
    let kinds = Namespaces::MOUNT | Namespaces::UTS | Namespaces::IPC | Namespaces::NET | Namespaces::PID;
    let Forked::Parent { pidfd, .. } = sys::process::clone3(proof, kinds, None)? else {
        let outcome = child(proof, &root, &groups, filter.as_deref());
        let Err(error) = outcome;
        eprintln!("start_floor: {error}");
        sys::process::exit_now(1)
    };
    let ended = waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED)?;
    for (folder, _) in &groups {
        rustix::fs::rmdir(folder)?;
    }
    let code = ended.and_then(|status| status.exit_status()).unwrap_or(1);
    Ok(u8::try_from(code).unwrap_or(1))
}

/// A group in every hierarchy that has controllers, and what to write to in order to join it.
fn make_groups(group: &Path) -> Outcome<Vec<(PathBuf, OwnedFd)>> {
    const CONTROLLERS: [&str; 8] = ["blkio", "cpu", "cpuacct", "cpuset", "devices", "freezer", "memory", "pids"];
    let relative = group.strip_prefix("/").unwrap_or(group);
    let mut groups = Vec::new();
    for controller in CONTROLLERS {
        let folder = Path::new("/sys/fs/cgroup").join(controller).join(relative);
        rustix::fs::mkdir(&folder, Mode::from_raw_mode(0o755))?;
        if controller == "cpuset" {
            // a new group has no processors until it is given its parent's
            for file in ["cpuset.cpus", "cpuset.mems"] {
                let parent = folder.parent().unwrap_or(Path::new("/")).join(file);
                std::fs::write(folder.join(file), std::fs::read(parent)?)?;
            }
        }
        if controller == "devices" {
            deny_devices(&folder)?;
        }
        let tasks = rustix::fs::open(folder.join("tasks"), OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
        groups.push((folder, tasks));
    }
    Ok(groups)
}

/// Nothing but what every container may use; each rule is a write of its own.
fn deny_devices(folder: &Path) -> Outcome<()> {
    const ALLOWED: [&str; 11] = [
        "c *:* m",
        "b *:* m",
        "c 1:3 rwm",
        "c 1:5 rwm",
        "c 1:7 rwm",
        "c 1:8 rwm",
        "c 1:9 rwm",
        "c 5:0 rwm",
        "c 5:2 rwm",
        "c 136:* rwm",
        "c 10:200 rwm",
    ];
    std::fs::write(folder.join("devices.deny"), "a")?;
    let allow = rustix::fs::open(folder.join("devices.allow"), OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    for rule in ALLOWED {
        rustix::io::write(&allow, rule.as_bytes())?;
    }
    Ok(())
}

fn child(
    proof: SingleThread,
    root: &OwnedFd,
    groups: &[(PathBuf, OwnedFd)],
    filter: Option<&[u64]>,
) -> Outcome<Infallible> {
    for (_, tasks) in groups {
        rustix::io::write(tasks, b"0")?;
    }
    sys::process::unshare(proof, Namespaces::CGROUP)?;
    sys::netns::raise_loop()?;
    sys::keyring::join_session(c"floor")?;
    rustix::system::sethostname(b"floor")?;
    set_propagation(Path::new("/"), MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)?;
    let to = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    move_mount(root.as_fd(), Path::new(""), CWD, Path::new("/"), to)?;
    mounts(root.as_fd(), groups)?;
    devices(root.as_fd())?;
    hide(root.as_fd())?;
    rustix::process::fchdir(root)?;
    pivot_root_here()?;
    let read_only = MountAttrs { set: MountAttr::RDONLY, ..MountAttrs::default() };
    mount_setattr(root.as_fd(), Depth::One, &read_only)?;
    rustix::process::chdir("/")?;
    sys::process::close_on_exec_from(3)?;
    rustix::thread::set_no_new_privs(true)?;
    keep_three_capabilities()?;
    if let Some(filter) = filter {
        sys::seccomp::load(0, filter)?;
    }
    let program = CString::new("/bin/true")?;
    Err(sys::process::execve(&program, std::slice::from_ref(&program), &[CString::new("PATH=/bin")?]).into())
}

/// The same three as the measured containers', in every set.
fn keep_three_capabilities() -> Outcome<()> {
    let keep = CapabilitySet::AUDIT_WRITE | CapabilitySet::KILL | CapabilitySet::NET_BIND_SERVICE;
    for number in 0..64 {
        let one = CapabilitySet::from_bits_retain(1 << number);
        if keep.intersects(one) {
            continue;
        }
        match remove_capability_from_bounding_set(one) {
            Err(Errno::INVAL) => break,
            outcome => outcome?,
        }
    }
    let sets = CapabilitySets { effective: keep, permitted: keep, inheritable: CapabilitySet::empty() };
    Ok(rustix::thread::set_capabilities(None, sets)?)
}

const QUIET: MountAttr = MountAttr::NOSUID.union(MountAttr::NODEV).union(MountAttr::NOEXEC);

fn mounts(root: BorrowedFd<'_>, groups: &[(PathBuf, OwnedFd)]) -> Outcome<()> {
    let place = |kind: &str, options: &[(&str, &str)], attributes: MountAttr, at: &str| -> Outcome<()> {
        let context = FsContext::open(kind)?;
        for (key, value) in options {
            if value.is_empty() { context.set_flag(key)? } else { context.set_string(key, value)? }
        }
        context.create()?;
        let tree = context.mount(attributes)?;
        let to = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        Ok(move_mount(tree.as_fd(), Path::new(""), root, Path::new(at), to)?)
    };
    place("proc", &[], MountAttr::empty(), "proc")?;
    place("tmpfs", &[("mode", "755"), ("size", "65536k")], MountAttr::NOSUID, "dev")?;
    for folder in ["dev/pts", "dev/shm", "dev/mqueue"] {
        mkdirat(root, folder, Mode::from_raw_mode(0o755))?;
    }
    let pts = [("newinstance", ""), ("ptmxmode", "0666"), ("mode", "0620"), ("gid", "5")];
    place("devpts", &pts, MountAttr::NOSUID | MountAttr::NOEXEC, "dev/pts")?;
    place("tmpfs", &[("mode", "1777"), ("size", "65536k")], QUIET, "dev/shm")?;
    place("mqueue", &[], QUIET, "dev/mqueue")?;
    place("sysfs", &[], QUIET | MountAttr::RDONLY, "sys")?;
    place("tmpfs", &[("mode", "755")], QUIET, "sys/fs/cgroup")?;
    let to = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    let attributes = MountAttrs { set: QUIET | MountAttr::RDONLY, ..MountAttrs::default() };
    for (folder, _) in groups {
        let controller = folder.strip_prefix("/sys/fs/cgroup").unwrap_or(folder).iter().next().unwrap_or_default();
        let at = Path::new("sys/fs/cgroup").join(controller);
        mkdirat(root, &at, Mode::from_raw_mode(0o755))?;
        let tree = open_tree(CWD, folder, OpenTreeFlags::OPEN_TREE_CLONE)?;
        mount_setattr(tree.as_fd(), Depth::One, &attributes)?;
        move_mount(tree.as_fd(), Path::new(""), root, &at, to)?;
    }
    Ok(())
}

fn devices(root: BorrowedFd<'_>) -> Outcome<()> {
    const NODES: [(&str, u32, u32); 6] =
        [("full", 1, 7), ("null", 1, 3), ("random", 1, 8), ("tty", 5, 0), ("urandom", 1, 9), ("zero", 1, 5)];
    const LINKS: [(&str, &str); 5] = [
        ("fd", "/proc/self/fd"),
        ("ptmx", "pts/ptmx"),
        ("stderr", "/proc/self/fd/2"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
    ];
    rustix::process::umask(Mode::empty());
    let dev = openat(root, "dev", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    for (name, major, minor) in NODES {
        mknodat(&dev, name, FileType::CharacterDevice, Mode::from_raw_mode(0o666), makedev(major, minor))?;
    }
    for (name, target) in LINKS {
        symlinkat(target, &dev, name)?;
    }
    Ok(())
}

fn hide(root: BorrowedFd<'_>) -> Outcome<()> {
    let to = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    for file in ["proc/kcore", "proc/keys", "proc/latency_stats", "proc/sched_debug", "proc/timer_list"] {
        let null = open_tree(root, Path::new("dev/null"), OpenTreeFlags::OPEN_TREE_CLONE)?;
        match move_mount(null.as_fd(), Path::new(""), root, Path::new(file), to) {
            Err(error) if error.errno != Errno::NOENT => return Err(error.into()),
            _ => {}
        }
    }
    for folder in ["proc/acpi", "proc/scsi", "sys/firmware"] {
        if rustix::fs::statat(root, folder, AtFlags::empty()).is_err() {
            continue;
        }
        let context = FsContext::open("tmpfs")?;
        context.create()?;
        let tree = context.mount(MountAttr::RDONLY)?;
        move_mount(tree.as_fd(), Path::new(""), root, Path::new(folder), to)?;
    }
    let read_only = MountAttrs { set: MountAttr::RDONLY, ..MountAttrs::default() };
    for path in ["proc/bus", "proc/fs", "proc/irq", "proc/sys", "proc/sysrq-trigger"] {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::AT_RECURSIVE;
        let Ok(tree) = open_tree(root, Path::new(path), flags) else { continue };
        mount_setattr(tree.as_fd(), Depth::Recursive, &read_only)?;
        move_mount(tree.as_fd(), Path::new(""), root, Path::new(path), to)?;
    }
    Ok(())
}
