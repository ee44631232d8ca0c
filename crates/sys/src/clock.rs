//! The host's time zone, localtime(3).

#![expect(unsafe_code, reason = "localtime_r is the C library's")]

/// How many seconds the local time is ahead of UTC at a moment, in seconds since 1970.
#[must_use]
pub fn local_offset(seconds: i64) -> i64 {
    let mut local = std::mem::MaybeUninit::<libc::tm>::zeroed();
    let moment: libc::time_t = seconds;
    // SAFETY: both point to what the call expects, for as long as it takes.
    let filled = unsafe { libc::localtime_r(&raw const moment, local.as_mut_ptr()) };
    if filled.is_null() {
        return 0;
    }
    // SAFETY: all zeros are a tm, and the call has filled it.
    unsafe { local.assume_init() }.tm_gmtoff
}
