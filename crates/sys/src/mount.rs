//! The new mount interface: fsopen(2), fsconfig(2), fsmount(2), open_tree(2), move_mount(2), mount_setattr(2).

#![expect(unsafe_code, reason = "mount_setattr has no safe face in rustix")]

use crate::{Result, SysError};
use rustix::fs::CWD;
use rustix::mount as raw;
use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::Path;

pub use rustix::mount::{MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags};

bitflags::bitflags! {
    /// Attributes of a mount, `MOUNT_ATTR_*`.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub struct MountAttr: u64 {
        /// Read-only.
        const RDONLY = 0x1;
        /// Set-user-id bits do nothing.
        const NOSUID = 0x2;
        /// Devices cannot be opened.
        const NODEV = 0x4;
        /// Programs cannot be executed.
        const NOEXEC = 0x8;
        /// The field of access time handling; clear it before one of its values is set.
        const ATIME_FIELD = 0x70;
        /// Access times are not updated.
        const NOATIME = 0x10;
        /// Access times are always updated.
        const STRICTATIME = 0x20;
        /// Access times of directories are not updated.
        const NODIRATIME = 0x80;
        /// Owners are mapped by the user namespace given with the change.
        const IDMAP = 0x0010_0000;
        /// Symbolic links are not followed.
        const NOSYMFOLLOW = 0x0020_0000;
    }
}

/// A file system configuration that failed, with the kernel's own explanation where it gave one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{filesystem}{}: {error}{}{log}", if option.is_empty() { String::new() } else { format!(" option {option}") },
    if log.is_empty() { "" } else { ": " })]
pub struct FsError {
    /// The file system's type.
    pub filesystem: String,
    /// The option that was being set, empty for other steps.
    pub option: String,
    /// The call and its errno.
    pub error: SysError,
    /// Lines of the context's log, joined with `; `.
    pub log: String,
}

impl FsError {
    /// What the kernel answered.
    #[must_use]
    pub fn errno(&self) -> rustix::io::Errno {
        self.error.errno
    }
}

/// A file system that is being configured.
#[derive(Debug)]
pub struct FsContext {
    fd: OwnedFd,
    filesystem: String,
}

impl FsContext {
    /// Begins to configure a file system of the given type.
    ///
    /// # Errors
    /// `ENODEV` for a type that the kernel does not know, `EPERM` without the right to mount.
    pub fn open(filesystem: &str) -> std::result::Result<Self, FsError> {
        let fd = raw::fsopen(filesystem, raw::FsOpenFlags::FSOPEN_CLOEXEC).map_err(|errno| FsError {
            filesystem: filesystem.to_owned(),
            option: String::new(),
            error: SysError::new("fsopen", errno),
            log: String::new(),
        })?;
        Ok(Self { fd, filesystem: filesystem.to_owned() })
    }

    fn outcome<T>(
        &self,
        call: &'static str,
        option: &str,
        outcome: rustix::io::Result<T>,
    ) -> std::result::Result<T, FsError> {
        outcome.map_err(|errno| FsError {
            filesystem: self.filesystem.clone(),
            option: option.to_owned(),
            error: SysError::new(call, errno),
            log: self.log(),
        })
    }

    /// Its descriptor, for whoever closes many at once.
    #[must_use]
    pub fn into_fd(self) -> OwnedFd {
        self.fd
    }

    /// Sets an option to a text.
    ///
    /// # Errors
    /// `EINVAL` for an option or value that the file system does not know.
    pub fn set_string(&self, key: &str, value: &str) -> std::result::Result<(), FsError> {
        self.outcome("fsconfig", key, raw::fsconfig_set_string(self.fd.as_fd(), key, value))
    }

    /// Sets an option that has no value.
    ///
    /// # Errors
    /// As [`Self::set_string`].
    pub fn set_flag(&self, key: &str) -> std::result::Result<(), FsError> {
        self.outcome("fsconfig", key, raw::fsconfig_set_flag(self.fd.as_fd(), key))
    }

    /// Sets an option to a descriptor.
    ///
    /// # Errors
    /// `EINVAL` where the option takes no descriptor on this kernel.
    pub fn set_fd(&self, key: &str, value: BorrowedFd<'_>) -> std::result::Result<(), FsError> {
        self.outcome("fsconfig", key, raw::fsconfig_set_fd(self.fd.as_fd(), key, value))
    }

    /// Sets an option to a path, resolved at once from the current directory.
    ///
    /// # Errors
    /// As [`Self::set_string`], and those of the path's resolution.
    pub fn set_path(&self, key: &str, value: &Path) -> std::result::Result<(), FsError> {
        self.outcome("fsconfig", key, raw::fsconfig_set_path(self.fd.as_fd(), key, value, CWD))
    }

    /// Makes the file system itself from what was configured.
    ///
    /// # Errors
    /// Whatever the file system says of its options; the log tells which.
    pub fn create(&self) -> std::result::Result<(), FsError> {
        self.outcome("fsconfig", "", raw::fsconfig_create(self.fd.as_fd()))
    }

    /// A detached mount of the file system that was created.
    ///
    /// # Errors
    /// `EPERM` where the namespace forbids it (proc and sysfs that would show more than the current ones).
    pub fn mount(&self, attributes: MountAttr) -> std::result::Result<OwnedFd, FsError> {
        let flags = raw::MountAttrFlags::from_bits_retain(u32::try_from(attributes.bits()).unwrap_or(0));
        self.outcome("fsmount", "", raw::fsmount(self.fd.as_fd(), raw::FsMountFlags::FSMOUNT_CLOEXEC, flags))
    }

    /// Reads what the context has to say; each read gives one message `e text`, `w text` or `i text`.
    fn log(&self) -> String {
        let mut lines = Vec::new();
        let mut buffer = [0_u8; 512];
        while let Ok(count) = rustix::io::read(&self.fd, &mut buffer) {
            if count == 0 || lines.len() > 16 {
                break;
            }
            let text = String::from_utf8_lossy(&buffer[..count]);
            lines.push(text.get(2..).unwrap_or("").trim().to_owned());
        }
        lines.join("; ")
    }
}

/// Opens a mount or a copy of one: with `OPEN_TREE_CLONE` a detached bind mount, with `AT_RECURSIVE` of all below.
///
/// # Errors
/// Those of the path's resolution; `EINVAL` for a clone of a mount that is not ours to see.
pub fn open_tree(directory: BorrowedFd<'_>, path: &Path, flags: OpenTreeFlags) -> Result<OwnedFd> {
    raw::open_tree(directory, path, flags | OpenTreeFlags::OPEN_TREE_CLOEXEC).map_err(SysError::of("open_tree"))
}

/// Places the detached mount `from` on the very file or directory that `to` is open on.
///
/// # Errors
/// `EINVAL` where `from` is no detached mount, `ENOTDIR` where one is a directory and the other not.
pub fn move_mount_onto(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    raw::move_mount(from, "", to, "", flags).map_err(SysError::of("move_mount"))
}

/// Places a mount.
///
/// # Errors
/// Those of [`move_mount_onto`] and of the paths' resolution.
pub fn move_mount(
    from: BorrowedFd<'_>,
    from_path: &Path,
    to: BorrowedFd<'_>,
    to_path: &Path,
    flags: MoveMountFlags,
) -> Result<()> {
    raw::move_mount(from, from_path, to, to_path, flags).map_err(SysError::of("move_mount"))
}

/// A change to mounts' attributes.
#[derive(Debug, Clone, Copy, Default)]
pub struct MountAttrs<'a> {
    /// Attributes to set.
    pub set: MountAttr,
    /// Attributes to clear.
    pub clear: MountAttr,
    /// New propagation type, if any.
    pub propagation: Option<MountPropagationFlags>,
    /// The user namespace of [`MountAttr::IDMAP`].
    pub user_namespace: Option<BorrowedFd<'a>>,
}

/// Whether a change is for one mount or for all below it too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// This mount alone.
    One,
    /// This mount and all below it.
    Recursive,
}

#[repr(C)]
struct RawAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    user_namespace: u64,
}

/// Changes the attributes of the mount that `mount` is open on.
///
/// # Errors
/// `EINVAL` where `mount` is no mount's root or the mount cannot be mapped, `EPERM` for a locked attribute.
pub fn mount_setattr(mount: BorrowedFd<'_>, depth: Depth, attrs: &MountAttrs<'_>) -> Result<()> {
    let attr = RawAttr {
        set: attrs.set.bits(),
        clear: attrs.clear.bits(),
        propagation: attrs.propagation.map_or(0, |flags| u64::from(flags.bits())),
        user_namespace: attrs.user_namespace.map_or(0, |fd| u64::from(fd.as_raw_fd().cast_unsigned())),
    };
    let flags = libc::AT_EMPTY_PATH
        | match depth {
            Depth::One => 0,
            Depth::Recursive => libc::AT_RECURSIVE,
        };
    let (path, size) = (c"", size_of::<RawAttr>());
    // SAFETY: path and structure live through the call and the structure is as long as said.
    let outcome = unsafe {
        libc::syscall(libc::SYS_mount_setattr, mount.as_raw_fd(), path.as_ptr(), flags, &raw const attr, size)
    };
    if outcome == 0 { Ok(()) } else { Err(SysError::last("mount_setattr")) }
}

/// Unmounts what is mounted at `path`.
///
/// # Errors
/// `EINVAL` where nothing is mounted, `EBUSY` where it is in use and not detached.
pub fn umount(path: &Path, flags: UnmountFlags) -> Result<()> {
    raw::unmount(path, flags).map_err(SysError::of("umount2"))
}

/// Changes the propagation of the mount at `path`.
///
/// # Errors
/// `EINVAL` where `path` is no mount point.
pub fn set_propagation(path: &Path, flags: MountPropagationFlags) -> Result<()> {
    raw::mount_change(path, flags).map_err(SysError::of("mount"))
}

/// Makes the current directory the root directory and takes the old root away, with all its mounts.
/// The current directory must be a mount's root.
///
/// # Errors
/// `EINVAL` where the current directory is no mount's root or its parent is shared.
pub fn pivot_root_here() -> Result<()> {
    rustix::process::pivot_root(".", ".").map_err(SysError::of("pivot_root"))?;
    raw::unmount(".", UnmountFlags::DETACH).map_err(SysError::of("umount2"))?;
    rustix::process::chdir("/").map_err(SysError::of("chdir"))
}

/// Mounts with mount(2) at places in open folders. That call knows paths only, and looking one up through `/proc/self/fd` costs the kernel
/// more than binding a folder does; so the process goes to the folder, once for all that is mounted there.
///
/// The folders must stay open as long as this is used. The last one stays the process's working folder.
#[derive(Debug, Default)]
pub struct Walker {
    here: Option<RawFd>,
}

impl Walker {
    /// Goes to the folder of a place; gives the rest of it, as mount(2) takes it.
    fn go<'a>(&mut self, (folder, name): (BorrowedFd<'_>, &'a Path)) -> Result<&'a Path> {
        if self.here != Some(folder.as_raw_fd()) {
            rustix::process::fchdir(folder).map_err(SysError::of("fchdir"))?;
            self.here = Some(folder.as_raw_fd());
        }
        Ok(if name.as_os_str().is_empty() { Path::new(".") } else { name })
    }

    /// Makes a file system and mounts it, with one call. The place is a folder, and a name in it or nothing; the name must not be somebody
    /// else's link, which would be followed.
    ///
    /// # Errors
    /// What mount(2) says; it does not tell which option was wrong.
    pub fn mount(
        &mut self,
        source: &str,
        at: (BorrowedFd<'_>, &Path),
        filesystem: &str,
        attributes: MountAttr,
        data: &str,
    ) -> Result<()> {
        let flags = classic_flags(attributes).ok_or_else(|| SysError::new("mount", rustix::io::Errno::INVAL))?;
        let data = CString::new(data).map_err(|_| SysError::new("mount", rustix::io::Errno::INVAL))?;
        raw::mount(source, self.go(at)?, filesystem, flags, data.as_c_str()).map_err(SysError::of("mount"))
    }

    /// Shows a folder in another place, too, with one call; the place is as in [`Self::mount`].
    ///
    /// # Errors
    /// What mount(2) says.
    pub fn bind(&mut self, source: &Path, at: (BorrowedFd<'_>, &Path)) -> Result<()> {
        raw::mount_bind(source, self.go(at)?).map_err(SysError::of("mount"))
    }
}

/// Attributes as mount(2) has them; `None` for those that it does not.
fn classic_flags(attributes: MountAttr) -> Option<raw::MountFlags> {
    const NOSYMFOLLOW: u32 = 0x100;
    let flags = [
        (MountAttr::RDONLY, raw::MountFlags::RDONLY),
        (MountAttr::NOSUID, raw::MountFlags::NOSUID),
        (MountAttr::NODEV, raw::MountFlags::NODEV),
        (MountAttr::NOEXEC, raw::MountFlags::NOEXEC),
        (MountAttr::NOATIME, raw::MountFlags::NOATIME),
        (MountAttr::STRICTATIME, raw::MountFlags::STRICTATIME),
        (MountAttr::NODIRATIME, raw::MountFlags::NODIRATIME),
        (MountAttr::NOSYMFOLLOW, raw::MountFlags::from_bits_retain(NOSYMFOLLOW)),
    ];
    let known = flags.iter().filter(|(attribute, _)| attributes.contains(*attribute));
    let (seen, flags) = known.fold((MountAttr::empty(), raw::MountFlags::empty()), |(seen, all), (attribute, flag)| {
        (seen | *attribute, all | *flag)
    });
    (seen == attributes).then_some(flags)
}

/// Mounts by the old interface, for what the new one cannot do.
///
/// # Errors
/// Those of mount(2).
pub fn mount_classic(source: &str, target: &Path, filesystem: &str, data: &str) -> Result<()> {
    let data = CString::new(data).map_err(|_| SysError::new("mount", rustix::io::Errno::INVAL))?;
    raw::mount(source, target, filesystem, raw::MountFlags::empty(), data.as_c_str()).map_err(SysError::of("mount"))
}

/// Opens the mounted file system that `root` is the root of, to change its options.
///
/// # Errors
/// `EINVAL` where `root` is no mount's root, `EPERM` without the right to administer the file system.
pub fn fspick(root: BorrowedFd<'_>, filesystem: &str) -> std::result::Result<FsContext, FsError> {
    let flags = raw::FsPickFlags::FSPICK_CLOEXEC | raw::FsPickFlags::FSPICK_EMPTY_PATH;
    let fd = raw::fspick(root, "", flags).map_err(|errno| FsError {
        filesystem: filesystem.to_owned(),
        option: String::new(),
        error: SysError::new("fspick", errno),
        log: String::new(),
    })?;
    Ok(FsContext { fd, filesystem: filesystem.to_owned() })
}

impl FsContext {
    /// Changes the mounted file system to what was configured.
    ///
    /// # Errors
    /// Whatever the file system says of its options.
    pub fn reconfigure(&self) -> std::result::Result<(), FsError> {
        self.outcome("fsconfig", "", raw::fsconfig_reconfigure(self.fd.as_fd()))
    }
}

/// Makes the current directory the root directory of this process alone; the mounts stay as they are.
///
/// # Errors
/// `EPERM` without `CAP_SYS_CHROOT`.
pub fn chroot_here() -> Result<()> {
    rustix::process::chroot(".").map_err(SysError::of("chroot"))?;
    rustix::process::chdir("/").map_err(SysError::of("chdir"))
}
