//! Session keyrings, keyctl(2).

#![expect(unsafe_code, reason = "keyctl has no safe face")]

use crate::{Result, SysError};
use std::ffi::CStr;

const JOIN_SESSION_KEYRING: libc::c_int = 1;
const SETPERM: libc::c_int = 5;
/// All for whoever has it, seeing, reading, searching and linking for the user.
const PERMISSIONS: libc::c_long = 0x3f1b_0000;

/// Gives this process the session keyring of a name, a new one where there is none.
///
/// # Errors
/// `ENOSYS` where the kernel or a filter has no keyrings, `EDQUOT` at the user's limit, `EACCES` for somebody else's keyring.
pub fn join_session(name: &CStr) -> Result<()> {
    // SAFETY: the name ends with a null byte and lives through the call.
    let key = unsafe { libc::syscall(libc::SYS_keyctl, JOIN_SESSION_KEYRING, name.as_ptr()) };
    if key == -1 {
        return Err(SysError::last("keyctl"));
    }
    // SAFETY: plain numbers.
    if unsafe { libc::syscall(libc::SYS_keyctl, SETPERM, key, PERMISSIONS) } == -1 {
        return Err(SysError::last("keyctl"));
    }
    Ok(())
}
