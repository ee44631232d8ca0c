//! Device nodes and the links beside them.

use super::{Inside, root};
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
        mount.destination() == Path::new("/dev") && matches!(mount.typ().as_deref(), Some("bind" | "none") | None)
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
    let old = rustix::process::umask(Mode::empty());
    for (name, major, minor) in DEFAULT {
        let made = if mapped {
            bind(root, &Path::new("/dev").join(name), &Path::new("/dev").join(name))
        } else {
            match mknodat(&dev, name, FileType::CharacterDevice, Mode::from_raw_mode(0o666), makedev(major, minor)) {
                Err(errno) if errno == Errno::EXIST || (!fresh && errno == Errno::ROFS) => Ok(()),
                other => other.doing(|| format!("device /dev/{name}")),
            }
        };
        made?;
    }
    for (name, target) in LINKS {
        match symlinkat(target, &dev, name) {
            Err(errno) if errno == Errno::EXIST || (!fresh && errno == Errno::ROFS) => {}
            other => other.doing(|| format!("link /dev/{name}"))?,
        }
    }
    let devices = spec.linux().as_ref().and_then(|linux| linux.devices().as_deref()).unwrap_or_default();
    let outcome = devices.iter().try_for_each(|device| asked(device, root, mapped));
    rustix::process::umask(old);
    outcome
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
        let host = rustix::fs::stat(path).doing(what)?;
        if host.st_rdev != makedev(major, minor) {
            return Err(SetupError::unsupported(format!(
                "{}: another device than on the host, in a user namespace",
                what()
            )));
        }
        return bind(root, path, path);
    }
    let folder = root::ensure_dir(root, path.parent().unwrap_or(Path::new("/"))).doing(what)?;
    let mode = Mode::from_raw_mode(device.file_mode().unwrap_or(0o666) & 0o7777);
    match mknodat(&folder, name, kind, mode, makedev(major, minor)) {
        Err(Errno::EXIST) => {
            let have = root::resolve(root, path, OFlags::PATH | OFlags::NOFOLLOW).doing(what)?;
            let stat = rustix::fs::fstat(&have).doing(what)?;
            if FileType::from_raw_mode(stat.st_mode) != kind || stat.st_rdev != makedev(major, minor) {
                return Err(SetupError::invalid(format!("{}: the image has something else there", what())));
            }
            chmodat(&folder, name, mode, AtFlags::empty()).doing(what)?;
        }
        other => other.doing(what)?,
    }
    let (uid, gid) = (device.uid().unwrap_or(0), device.gid().unwrap_or(0));
    if uid != 0 || gid != 0 {
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        chownat(&folder, name, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)), flags).doing(what)?;
    }
    Ok(())
}
