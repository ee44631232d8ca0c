//! Loading seccomp programs, seccomp(2).

#![expect(unsafe_code, reason = "seccomp takes a structure with an address in it")]

use crate::{Result, SysError};
use rustix::io::Errno;
use std::os::fd::{FromRawFd, OwnedFd};

/// Confines the calling thread by a classic BPF program, each instruction packed as `code | jt << 16 | jf << 24 | k << 32`.
/// Returns the descriptor on which somebody else answers calls, if the flags ask for one (`SECCOMP_FILTER_FLAG_NEW_LISTENER`).
///
/// # Errors
/// `EACCES` without `no_new_privs` or the right to administer, `EINVAL` for a program that the kernel refuses.
pub fn load(flags: u32, instructions: &[u64]) -> Result<Option<OwnedFd>> {
    const NEW_LISTENER: u32 = 8;
    const SET_MODE_FILTER: libc::c_uint = 1;
    let filter: Vec<libc::sock_filter> = instructions
        .iter()
        .map(|&packed| {
            let bytes = packed.to_le_bytes();
            libc::sock_filter {
                code: u16::from_le_bytes([bytes[0], bytes[1]]),
                jt: bytes[2],
                jf: bytes[3],
                k: u32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]),
            }
        })
        .collect();
    let len = u16::try_from(filter.len()).map_err(|_| SysError::new("seccomp", Errno::TOOBIG))?;
    let program = libc::sock_fprog { len, filter: filter.as_ptr().cast_mut() };
    // SAFETY: program and filter live through the call, and the length is the filter's.
    let outcome = unsafe { libc::syscall(libc::SYS_seccomp, SET_MODE_FILTER, flags, &raw const program) };
    match i32::try_from(outcome) {
        Ok(raw) if raw >= 0 && flags & NEW_LISTENER != 0 => {
            // SAFETY: the kernel has just made this descriptor for us, and nobody else knows it.
            Ok(Some(unsafe { OwnedFd::from_raw_fd(raw) }))
        }
        Ok(0) => Ok(None),
        _ => Err(SysError::last("seccomp")),
    }
}
