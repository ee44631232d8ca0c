//! Device nodes and the links beside them.

use super::{Inside, leave_open, root};
use crate::error::{Doing, Result, SetupError};
use oci_spec::runtime::{LinuxDevice, LinuxDeviceType};
use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags, Uid, chmodat, chownat, makedev, mknodat, symlinkat};
use rustix::io::Errno;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use sys::mount::{OpenTreeFlags, move_mount_onto, open_tree};

const DEFAULT: [(&str, u32, u32); 6] =
    [("full", 1, 7), ("null", 1, 3), ("random", 1, 8), ("tty", 5, 0), ("urandom", 1, 9), ("zero", 1, 5)];
const LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("ptmx", "pts/ptmx"),
    ("stderr", "/proc/self/fd/2"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
];

/// Makes the default devices and those of the configuration. In a user namespace nodes cannot be made: the host's are
/// bound in their place. A /dev bound from the host is left as it is.
pub(crate) fn make(inside: &Inside<'_>, root: BorrowedFd<'_>, mapped: bool) -> Result<()> {
    let spec = inside.spec;
    let bound = spec.mounts().iter().flatten().any(|mount| {
        mount.destination() == Path::new("/dev") && matches!(mount.typ().as_deref(), Some("bind" | "none" | "") | None)
    });
    if bound {
        return Ok(());
    }
    let fresh = spec.mounts().iter().flatten().any(|mount| mount.destination() == Path::new("/dev"));
    let dev = match root::ensure_dir(root, Path::new("/dev")) {
        // a read-only root without a /dev of its own has what its image has
        Err(Errno::ROFS) => return Ok(()),
        other => other.doing(|| "/dev")?,
    };
    let outcome = defaults(root, dev.as_fd(), mapped, fresh);
    let devices = spec.linux().as_ref().and_then(|linux| linux.devices().as_deref()).unwrap_or_default();
    let outcome = outcome.and_then(|()| devices.iter().try_for_each(|device| asked(device, root, mapped)));
    leave_open(dev);
    outcome
}

fn defaults(root: BorrowedFd<'_>, dev: BorrowedFd<'_>, mapped: bool, fresh: bool) -> Result<()> {
    // a /dev of the image's own on a read-only root has what it has
    let kept = |errno| errno == Errno::ROFS && !fresh;
    let mut bound = mapped;
    for (name, major, minor) in DEFAULT {
        let path = Path::new("/dev").join(name);
        if !bound {
            let mode = Mode::from_raw_mode(0o666);
            match mknodat(dev, name, FileType::CharacterDevice, mode, makedev(major, minor)) {
                Ok(()) => continue,
                Err(Errno::EXIST) => {
                    same(root, &path, FileType::CharacterDevice, makedev(major, minor))?;
                    continue;
                }
                Err(errno) if kept(errno) => continue,
                // in somebody else's user namespace nodes cannot be made either
                Err(Errno::PERM) => bound = true,
                Err(errno) => return Err(errno).doing(|| format!("device /dev/{name}")),
            }
        }
        bind(root, &path, &path)?;
    }
    for (name, target) in LINKS {
        match symlinkat(target, dev, name) {
            Err(Errno::EXIST) if name == "ptmx" => {
                // an image's own node would lead to the host's terminals
                rustix::fs::unlinkat(dev, name, AtFlags::empty()).doing(|| "link /dev/ptmx")?;
                symlinkat(target, dev, name).doing(|| "link /dev/ptmx")?;
            }
            Err(errno) if errno == Errno::EXIST || kept(errno) => {}
            other => other.doing(|| format!("link /dev/{name}"))?,
        }
    }
    if fresh && rustix::fs::access("/proc/kcore", rustix::fs::Access::EXISTS).is_ok() {
        match symlinkat("/proc/kcore", dev, "core") {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno).doing(|| "link /dev/core"),
        }
    }
    Ok(())
}

/// Refuses what is there in place of a device.
fn same(root: BorrowedFd<'_>, path: &Path, kind: FileType, device: u64) -> Result<()> {
    let what = || format!("device {}", path.display());
    let have = root::resolve(root, path, OFlags::PATH | OFlags::NOFOLLOW).doing(what)?;
    let stat = rustix::fs::fstat(&have).doing(what)?;
    let device_differs = kind != FileType::Fifo && stat.st_rdev != device;
    if FileType::from_raw_mode(stat.st_mode) != kind || device_differs {
        return Err(SetupError::invalid(format!("{}: the image has something else there", what())));
    }
    Ok(())
}

fn bind(root: BorrowedFd<'_>, host: &Path, shown: &Path) -> Result<()> {
    let what = || format!("device {}", shown.display());
    let tree = open_tree(CWD, host, OpenTreeFlags::OPEN_TREE_CLONE).doing(what)?;
    let place = root::ensure_file(root, shown).doing(what)?;
    move_mount_onto(tree.as_fd(), place.as_fd()).doing(what)
}

fn asked(device: &LinuxDevice, root: BorrowedFd<'_>, mapped: bool) -> Result<()> {
    let path = device.path();
    let what = || format!("device {}", path.display());
    let name = path.file_name().ok_or_else(|| SetupError::invalid(format!("{}: no name", what())))?;
    if path == Path::new("/dev/ptmx") {
        // engines list all of the host's for a privileged container; this one is the link to the container's own
        return Ok(());
    }
    let kind = match device.typ() {
        LinuxDeviceType::B => FileType::BlockDevice,
        LinuxDeviceType::C | LinuxDeviceType::U => FileType::CharacterDevice,
        LinuxDeviceType::P => FileType::Fifo,
        LinuxDeviceType::A => return Err(SetupError::invalid(format!("{}: type a is for rules only", what()))),
    };
    let number = |value: i64| u32::try_from(value).map_err(|_| SetupError::invalid(format!("{}: bad number", what())));
    let (major, minor) =
        if kind == FileType::Fifo { (0, 0) } else { (number(device.major())?, number(device.minor())?) };
    if mapped && kind != FileType::Fifo {
        return bind_same(device, root, makedev(major, minor));
    }
    let folder = root::ensure_dir(root, path.parent().unwrap_or(Path::new("/"))).doing(what)?;
    let mode = Mode::from_raw_mode(device.file_mode().unwrap_or(0o666) & 0o7777);
    match mknodat(&folder, name, kind, mode, makedev(major, minor)) {
        Err(Errno::EXIST) => {
            same(root, path, kind, makedev(major, minor))?;
            chmodat(&folder, name, mode, AtFlags::empty()).doing(what)?;
        }
        Err(Errno::PERM) if kind != FileType::Fifo => return bind_same(device, root, makedev(major, minor)),
        other => other.doing(what)?,
    }
    let (uid, gid) = (device.uid().unwrap_or(0), device.gid().unwrap_or(0));
    if uid != 0 || gid != 0 {
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        chownat(&folder, name, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)), flags).doing(what)?;
    }
    Ok(())
}

/// In a user namespace: the host's node, if it is the same device.
fn bind_same(device: &LinuxDevice, root: BorrowedFd<'_>, number: u64) -> Result<()> {
    let path = device.path();
    let host = rustix::fs::stat(path).doing(|| format!("device {} of the host", path.display()))?;
    if host.st_rdev != number {
        let text = format!("device {}: another device than on the host, in a user namespace", path.display());
        return Err(SetupError::unsupported(text));
    }
    bind(root, path, path)
}
