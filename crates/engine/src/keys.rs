//! Key sequences that detach a terminal, as Docker writes them.

use crate::error::{EngineError, Result};

/// `ctrl-p,ctrl-q` as bytes; `None` and an empty text give just that.
///
/// # Errors
/// [`crate::ErrorClass::Invalid`] for a key that is none.
pub(crate) fn parse(text: Option<&str>) -> Result<Vec<u8>> {
    let text = text.filter(|text| !text.is_empty()).unwrap_or("ctrl-p,ctrl-q");
    text.split(',').map(|key| one(key).ok_or_else(|| wrong(text, key))).collect()
}

fn one(key: &str) -> Option<u8> {
    match (key.as_bytes(), key.strip_prefix("ctrl-").map(str::as_bytes)) {
        ([byte], _) if byte.is_ascii() => Some(*byte),
        (_, Some([letter @ b'a'..=b'z'])) => Some(letter - b'a' + 1),
        (_, Some([b'@'])) => Some(0),
        (_, Some([sign @ (b'[' | b'\\' | b']' | b'^' | b'_')])) => Some(sign - b'@'),
        _ => None,
    }
}

fn wrong(text: &str, key: &str) -> EngineError {
    EngineError::invalid(format!(
        "Invalid detach keys ({text}) provided: {key:?} is no key; give a character or ctrl- with a letter, @, [, \\, ], ^ or _, separated by commas"
    ))
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn keys() {
        for (text, want) in
            [(None, vec![16, 17]), (Some(""), vec![16, 17]), (Some("a,ctrl-@,ctrl-["), vec![b'a', 0, 27])]
        {
            assert_eq!(parse(text).ok(), Some(want), "{text:?}");
        }
        for bad in ["ctrl-", "ctrl-A", "ab", ",", "ctrl-1"] {
            assert!(parse(Some(bad)).is_err(), "{bad}");
        }
    }
}
