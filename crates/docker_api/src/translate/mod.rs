//! Docker's words to ours and back. Nothing that a client sets is dropped in silence: what Insula does not have is refused by
//! name.

pub(crate) mod create;
pub(crate) mod describe;
pub(crate) mod health;
pub(crate) mod image;
pub(crate) mod list;
pub(crate) mod mounts;
pub(crate) mod network;
pub(crate) mod progress;
pub(crate) mod resources;
pub(crate) mod stats;
#[cfg(test)]
mod tests;
pub(crate) mod time;

use crate::error::ApiError;

/// A number with Docker's size suffixes: `64m`, `1.5GiB`, `4096`.
#[must_use]
pub fn parse_bytes(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(digits);
    let shift = match suffix.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        "p" | "pb" | "pib" => 50,
        _ => return None,
    };
    match number.split_once('.') {
        None => number.parse::<u64>().ok()?.checked_mul(1 << shift),
        Some((whole, fraction)) => {
            let whole = if whole.is_empty() { 0 } else { whole.parse::<u64>().ok()? };
            let fraction = fraction.get(..fraction.len().min(9))?;
            let thousandths: u128 = if fraction.is_empty() { 0 } else { fraction.parse::<u64>().ok()?.into() };
            let scale = 10_u128.pow(u32::try_from(fraction.len()).ok()?);
            let part = u64::try_from((thousandths << shift) / scale).ok()?;
            whole.checked_mul(1 << shift)?.checked_add(part)
        }
    }
}

/// Refuses a field that is set and that Insula does not have.
pub(crate) fn refuse(set: bool, field: &str, instead: &str) -> Result<(), ApiError> {
    if !set {
        return Ok(());
    }
    let hint = if instead.is_empty() { String::new() } else { format!("; {instead}") };
    Err(ApiError::unsupported(format!("{field} is not supported{hint}")))
}

/// True for a list, map or text that is there and not empty.
pub(crate) trait Filled {
    fn filled(&self) -> bool;
}

impl<T> Filled for Option<Vec<T>> {
    fn filled(&self) -> bool {
        self.as_ref().is_some_and(|list| !list.is_empty())
    }
}

impl<K, V> Filled for Option<std::collections::HashMap<K, V>> {
    fn filled(&self) -> bool {
        self.as_ref().is_some_and(|map| !map.is_empty())
    }
}

impl Filled for Option<String> {
    fn filled(&self) -> bool {
        self.as_ref().is_some_and(|text| !text.is_empty())
    }
}

/// Text that is not empty.
pub(crate) fn text(value: Option<String>) -> Option<String> {
    value.filter(|text| !text.is_empty())
}
