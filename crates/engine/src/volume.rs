//! The rule for volume names.

use crate::error::{EngineError, Result};

/// Checks a volume's name.
///
/// # Errors
/// [`crate::ErrorClass::Invalid`].
pub(crate) fn check_name(name: &str) -> Result<()> {
    let good = name.len() >= 2
        && name.len() <= 255
        && name.as_bytes()[0].is_ascii_alphanumeric()
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte));
    if good {
        return Ok(());
    }
    Err(EngineError::invalid(format!(
        "create {name}: {name:?} includes invalid characters for a local volume name, only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed. If you intended to pass a host directory, use absolute path"
    )))
}
