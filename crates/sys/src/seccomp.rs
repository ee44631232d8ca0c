//! Loading seccomp programs, seccomp(2).

#![expect(unsafe_code, reason = "seccomp takes a structure with an address in it")]

use crate::{Result, SysError};
use rustix::io::Errno;

/// Confines the calling thread by a classic BPF program, each instruction packed as `code | jt << 16 | jf << 24 | k << 32`.
///
/// # Errors
/// `EACCES` without `no_new_privs` or the right to administer, `EINVAL` for a program that the kernel refuses.
pub fn load(flags: u32, instructions: &[u64]) -> Result<()> {
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
    if outcome == 0 { Ok(()) } else { Err(SysError::last("seccomp")) }
}
