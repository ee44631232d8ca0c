//! Limits for trees of files: project identities of files, and project quotas.
//!
//! # Source
//! ioctl_xfs_fsgetxattr(2), quotactl_fd(2), the kernel's `include/uapi/linux/fs.h` and `dqblk_xfs.h`.

#![expect(unsafe_code, reason = "file attributes and quotas have no safe face in rustix")]

use crate::{Result, SysError};
use std::os::fd::{AsRawFd, BorrowedFd};

/// `FS_IOC_FSGETXATTR`, `FS_IOC_FSSETXATTR`.
const GET_ATTRIBUTES: libc::c_ulong = 0x801c_581f;
const SET_ATTRIBUTES: libc::c_ulong = 0x401c_5820;
/// `FS_XFLAG_PROJINHERIT`: what is made below gets the same project.
const INHERIT: u32 = 0x200;
/// `PRJQUOTA`.
const PROJECT: u32 = 2;
/// `Q_XSETQLIM` and `Q_XGETQUOTA`, which ext4 understands as well as XFS.
const SET_LIMIT: u32 = ('X' as u32) << 8 | 4;
const GET_QUOTA: u32 = ('X' as u32) << 8 | 3;
/// `FS_DQ_BSOFT | FS_DQ_BHARD`.
const BLOCK_LIMITS: u16 = 1 << 2 | 1 << 3;
/// `FS_PROJ_QUOTA` in a quota's flags.
const OF_PROJECT: i8 = 2;
/// Quotas count in so many bytes.
const BASIC_BLOCK: u64 = 512;

/// `struct fsxattr`.
#[repr(C)]
#[derive(Default)]
struct Attributes {
    flags: u32,
    extent_size: u32,
    extents: u32,
    project: u32,
    copy_extent_size: u32,
    pad: [u8; 8],
}

/// `struct fs_disk_quota`.
#[repr(C)]
#[derive(Default)]
struct DiskQuota {
    version: i8,
    flags: i8,
    fields: u16,
    id: u32,
    blocks_hard: u64,
    blocks_soft: u64,
    inodes_hard: u64,
    inodes_soft: u64,
    blocks: u64,
    inodes: u64,
    inode_timer: i32,
    block_timer: i32,
    inode_warnings: u16,
    block_warnings: u16,
    inode_timer_high: i8,
    block_timer_high: i8,
    realtime_timer_high: i8,
    padding: i8,
    realtime_hard: u64,
    realtime_soft: u64,
    realtime_blocks: u64,
    realtime_timer: i32,
    realtime_warnings: u16,
    padding3: i16,
    padding4: [i8; 8],
}

/// What a project uses and may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProjectQuota {
    /// Bytes in use.
    pub used_bytes: u64,
    /// The most bytes; 0 for no limit.
    pub limit_bytes: u64,
}

/// Puts a folder into a project, and with it all that is made in it from now on.
///
/// # Errors
/// `ENOTTY` or `EOPNOTSUPP` where the file system knows no projects, `EINVAL` where it was made without them.
pub fn set_project(folder: BorrowedFd<'_>, project: u32) -> Result<()> {
    let mut attributes = Attributes::default();
    // SAFETY: the kernel writes one structure of this layout.
    let got = unsafe { libc::ioctl(folder.as_raw_fd(), GET_ATTRIBUTES, &raw mut attributes) };
    if got != 0 {
        return Err(SysError::last("FS_IOC_FSGETXATTR"));
    }
    attributes.project = project;
    attributes.flags |= INHERIT;
    // SAFETY: the kernel reads one structure of this layout.
    let set = unsafe { libc::ioctl(folder.as_raw_fd(), SET_ATTRIBUTES, &raw const attributes) };
    if set == 0 { Ok(()) } else { Err(SysError::last("FS_IOC_FSSETXATTR")) }
}

/// Limits what the files of a project take, on the file system that `folder` is on. 0 takes the limit away.
///
/// # Errors
/// `ESRCH` where project quotas are not switched on, `ENOSYS` before Linux 5.14, `EPERM` without `CAP_SYS_ADMIN`.
pub fn set_project_limit(folder: BorrowedFd<'_>, project: u32, bytes: u64) -> Result<()> {
    let blocks = bytes.div_ceil(BASIC_BLOCK);
    let mut quota = DiskQuota {
        version: 1,
        flags: OF_PROJECT,
        fields: BLOCK_LIMITS,
        id: project,
        blocks_hard: blocks,
        blocks_soft: blocks,
        ..DiskQuota::default()
    };
    quotactl(folder, SET_LIMIT, project, &mut quota)
}

/// What the files of a project take and may take, on the file system that `folder` is on.
///
/// # Errors
/// As [`set_project_limit`]; `ENOENT` for a project that has neither files nor a limit.
pub fn project_quota(folder: BorrowedFd<'_>, project: u32) -> Result<ProjectQuota> {
    let mut quota = DiskQuota::default();
    quotactl(folder, GET_QUOTA, project, &mut quota)?;
    Ok(ProjectQuota { used_bytes: quota.blocks * BASIC_BLOCK, limit_bytes: quota.blocks_hard * BASIC_BLOCK })
}

fn quotactl(folder: BorrowedFd<'_>, command: u32, project: u32, quota: &mut DiskQuota) -> Result<()> {
    let command = command << 8 | PROJECT;
    // SAFETY: the structure lives through the call and has the layout that these commands read and write.
    let done = unsafe { libc::syscall(libc::SYS_quotactl_fd, folder.as_raw_fd(), command, project, &raw mut *quota) };
    if done == 0 { Ok(()) } else { Err(SysError::last("quotactl_fd")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_are_as_long_as_the_kernels() {
        assert_eq!(size_of::<Attributes>(), 28);
        assert_eq!(size_of::<DiskQuota>(), 112);
    }
}
