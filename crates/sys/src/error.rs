//! The one error of this crate: which call failed and with which errno.

use rustix::io::Errno;

/// A system call that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{call}: {errno}")]
pub struct SysError {
    /// The call's name as its man page has it.
    pub call: &'static str,
    /// What the kernel answered.
    pub errno: Errno,
}

/// The result of a system call.
pub type Result<T> = std::result::Result<T, SysError>;

impl SysError {
    /// An error of `call` with `errno`.
    #[must_use]
    pub const fn new(call: &'static str, errno: Errno) -> Self {
        Self { call, errno }
    }

    /// Turns rustix's bare errno into an error that names its call: `.map_err(SysError::of("mount"))`.
    pub fn of(call: &'static str) -> impl Fn(Errno) -> Self {
        move |errno| Self { call, errno }
    }

    /// The error in `errno` after a raw call returned -1.
    #[must_use]
    pub fn last(call: &'static str) -> Self {
        let raw = std::io::Error::last_os_error().raw_os_error().unwrap_or(0);
        Self { call, errno: Errno::from_raw_os_error(raw) }
    }
}
