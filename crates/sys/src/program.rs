//! Running from where nobody can write to the program.
//!
//! Whoever can look into a process of ours, as a privileged program in a container's process namespace can while another one is
//! brought in, may follow `/proc/PID/exe` to our own file on the host, and write to it once we have ended (CVE-2019-5736).
//! So a program that enters such a namespace first becomes itself once more, from a mount of its file that is read-only and stands
//! in no namespace; where mounts are not ours to make, from a sealed copy in memory.

#![expect(unsafe_code, reason = "execveat(2) replaces the program")]

use crate::mount::{Depth, MountAttr, MountAttrs, OpenTreeFlags, mount_setattr, open_tree};
use crate::{Result, SysError};
use rustix::fs::{CWD, MemfdFlags, Mode, OFlags, SealFlags, StatVfsMountFlags};
use std::ffi::{CString, OsString, c_char};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

const OWN: &str = "/proc/self/exe";

/// Sees to it that this program runs from a file that cannot be written to through its link in /proc. Returns if it does already;
/// otherwise the program starts again, with these arguments, from such a place.
///
/// # Errors
/// What open(2), memfd_create(2) and execveat(2) say.
pub fn be_read_only(arguments: &[OsString]) -> Result<()> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let own = rustix::fs::open(OWN, flags, Mode::empty()).map_err(SysError::of("open"))?;
    let sealed = rustix::fs::fcntl_get_seals(&own).is_ok_and(|seals| seals.contains(SealFlags::WRITE));
    let read_only = rustix::fs::fstatvfs(&own).is_ok_and(|stat| stat.f_flag.contains(StatVfsMountFlags::RDONLY));
    if sealed || read_only {
        // kernels before 6.14 name a program that has no path after its descriptor
        if let Some(name) = arguments.first().and_then(|path| Path::new(path).file_name()) {
            let name = CString::new(name.as_bytes()).unwrap_or_default();
            rustix::thread::set_name(&name).map_err(SysError::of("prctl"))?;
        }
        return Ok(());
    }
    let program = read_only_mount().or_else(|_| sealed_copy(&own))?;
    Err(execute(&program, arguments))
}

fn read_only_mount() -> Result<OwnedFd> {
    let tree = open_tree(CWD, Path::new(OWN), OpenTreeFlags::OPEN_TREE_CLONE)?;
    let attrs = MountAttrs { set: MountAttr::RDONLY, ..MountAttrs::default() };
    mount_setattr(tree.as_fd(), Depth::One, &attrs)?;
    Ok(tree)
}

fn sealed_copy(own: &OwnedFd) -> Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let copy = rustix::fs::memfd_create("insula", flags).map_err(SysError::of("memfd_create"))?;
    while rustix::fs::sendfile(&copy, own, None, 1 << 30).map_err(SysError::of("sendfile"))? > 0 {}
    let seals = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
    rustix::fs::fcntl_add_seals(&copy, seals).map_err(SysError::of("fcntl"))?;
    Ok(copy)
}

/// Replaces this program by the one behind the descriptor; the environment stays. Returns only the failure.
fn execute(program: &OwnedFd, arguments: &[OsString]) -> SysError {
    // neither holds a NUL: they came from execve(2)
    let text = |bytes: &[u8]| CString::new(bytes).unwrap_or_default();
    let arguments: Vec<CString> = arguments.iter().map(|one| text(one.as_bytes())).collect();
    let variable = |(name, value): (OsString, OsString)| text(&[name.into_vec(), value.into_vec()].join(&b'='));
    let environment: Vec<CString> = std::env::vars_os().map(variable).collect();
    let list = |texts: &[CString]| -> Vec<*const c_char> {
        texts.iter().map(|text| text.as_ptr()).chain(std::iter::once(std::ptr::null())).collect()
    };
    let (arguments, environment) = (list(&arguments), list(&environment));
    let (fd, flags) = (program.as_raw_fd(), libc::AT_EMPTY_PATH);
    let (argv, env) = (arguments.as_ptr(), environment.as_ptr());
    // SAFETY: both lists end with a null pointer, and their texts live through the call.
    unsafe { libc::syscall(libc::SYS_execveat, fd, c"".as_ptr(), argv, env, flags) };
    SysError::last("execveat")
}
