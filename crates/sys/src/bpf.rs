//! Device filters of version 2 control groups, bpf(2).

#![expect(unsafe_code, reason = "bpf takes a union of plain structures with addresses in them")]

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use crate::{Result, SysError};

const PROG_LOAD: libc::c_long = 5;
const PROG_ATTACH: libc::c_long = 8;
const PROG_DETACH: libc::c_long = 9;
const PROG_GET_FD_BY_ID: libc::c_long = 13;
const PROG_QUERY: libc::c_long = 16;

/// `BPF_PROG_TYPE_CGROUP_DEVICE`.
const CGROUP_DEVICE_PROGRAM: u32 = 15;
/// `BPF_CGROUP_DEVICE`.
const CGROUP_DEVICE_ATTACH: u32 = 6;
/// `BPF_F_ALLOW_MULTI`: filters of the group and of those above it must all agree.
const ALLOW_MULTI: u32 = 2;
/// More filters than any group has.
const MOST_FILTERS: usize = 64;

#[repr(C)]
#[derive(Default)]
struct LoadAttr {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
}

#[repr(C)]
#[derive(Default)]
struct AttachAttr {
    target_fd: u32,
    attach_bpf_fd: u32,
    attach_type: u32,
    attach_flags: u32,
}

#[repr(C)]
#[derive(Default)]
struct IdAttr {
    id: u32,
    next_id: u32,
    open_flags: u32,
}

#[repr(C)]
#[derive(Default)]
struct QueryAttr {
    target_fd: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    prog_cnt: u32,
    padding: u32,
}

/// Calls bpf with one of the attribute structures.
fn bpf<A>(call: &'static str, command: libc::c_long, attr: &mut A) -> Result<libc::c_long> {
    // SAFETY: the structure is as long as said and lives through the call; each address in it is of memory that its
    // caller keeps alive and that is as long as the structure says.
    let outcome = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<A>()) };
    if outcome < 0 { Err(SysError::last(call)) } else { Ok(outcome) }
}

fn number(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd().cast_unsigned()
}

fn descriptor(raw: libc::c_long) -> Result<OwnedFd> {
    let raw = i32::try_from(raw).map_err(|_| SysError::new("bpf", rustix::io::Errno::BADF))?;
    // SAFETY: the kernel has just made this descriptor for us, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// Loads a device filter and attaches it to the group whose directory is `group`. It stays until the group goes.
///
/// # Errors
/// `EINVAL` or `EACCES` for a program that the verifier refuses, `EPERM` without the right to load programs, `ENOSYS` or `EINVAL` on a
/// kernel without them.
pub fn attach_device_filter(group: BorrowedFd<'_>, program: &[u64]) -> Result<()> {
    let license = c"Apache-2.0";
    let mut load = LoadAttr {
        prog_type: CGROUP_DEVICE_PROGRAM,
        insn_cnt: u32::try_from(program.len()).unwrap_or(u32::MAX),
        insns: program.as_ptr().addr() as u64,
        license: license.as_ptr().addr() as u64,
        ..LoadAttr::default()
    };
    let loaded = descriptor(bpf("bpf(BPF_PROG_LOAD)", PROG_LOAD, &mut load)?)?;
    let mut attach = AttachAttr {
        target_fd: number(group),
        attach_bpf_fd: loaded.as_raw_fd().cast_unsigned(),
        attach_type: CGROUP_DEVICE_ATTACH,
        attach_flags: ALLOW_MULTI,
    };
    bpf("bpf(BPF_PROG_ATTACH)", PROG_ATTACH, &mut attach)?;
    Ok(())
}

/// The ids of the device filters that are attached to the group itself.
///
/// # Errors
/// `EPERM` without the right to ask, `ENOSPC` for more filters than anybody attaches.
pub fn device_filters(group: BorrowedFd<'_>) -> Result<Vec<u32>> {
    let mut ids = [0_u32; MOST_FILTERS];
    let mut query = QueryAttr {
        target_fd: number(group),
        attach_type: CGROUP_DEVICE_ATTACH,
        prog_ids: ids.as_mut_ptr().addr() as u64,
        prog_cnt: u32::try_from(ids.len()).unwrap_or(0),
        ..QueryAttr::default()
    };
    bpf("bpf(BPF_PROG_QUERY)", PROG_QUERY, &mut query)?;
    Ok(ids.into_iter().take(query.prog_cnt as usize).collect())
}

/// Detaches the device filter `id` from the group.
///
/// # Errors
/// `ENOENT` when it is not attached there, `EPERM` without the right.
pub fn detach_device_filter(group: BorrowedFd<'_>, id: u32) -> Result<()> {
    let mut by_id = IdAttr { id, ..IdAttr::default() };
    let program = descriptor(bpf("bpf(BPF_PROG_GET_FD_BY_ID)", PROG_GET_FD_BY_ID, &mut by_id)?)?;
    let mut detach = AttachAttr {
        target_fd: number(group),
        attach_bpf_fd: program.as_raw_fd().cast_unsigned(),
        attach_type: CGROUP_DEVICE_ATTACH,
        attach_flags: 0,
    };
    bpf("bpf(BPF_PROG_DETACH)", PROG_DETACH, &mut detach)?;
    Ok(())
}
