//! Whether the kernel has landlock(7), which confines a process to some files.

#![expect(unsafe_code, reason = "rustix has no landlock")]

/// The version of the kernel's interface; `None` where there is no landlock, or it was not enabled at boot.
///
/// # Source
/// landlock_create_ruleset(2).
#[must_use]
pub fn version() -> Option<u32> {
    const VERSION: libc::c_uint = 1;
    let nothing: *const libc::c_void = std::ptr::null();
    // SAFETY: with this flag the call takes no structure, and gives a number.
    let answer = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, nothing, 0_usize, VERSION) };
    u32::try_from(answer).ok().filter(|version| *version > 0)
}
