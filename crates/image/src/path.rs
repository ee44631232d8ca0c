//! Paths inside a layer: bytes, relative, without `.`, `..`, empty components or NUL.

/// The longest name of one component that Linux takes.
pub(crate) const NAME_MAX: usize = 255;
/// The longest whole path that a layer may have.
pub(crate) const PATH_MAX: usize = 4096;

/// Why a name cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// It has a `..` component.
    #[error("it has a \"..\" component")]
    DotDot,
    /// It has a NUL byte.
    #[error("it has a NUL byte")]
    Nul,
    /// One component is too long.
    #[error("one of its components is longer than 255 bytes")]
    NameTooLong,
    /// The whole is too long.
    #[error("it is longer than 4096 bytes")]
    PathTooLong,
}

/// Makes a path from an archive usable: leading slashes, empty and `.` components go; what could lead out is refused.
///
/// # Errors
/// [`PathError`].
pub(crate) fn clean(raw: &[u8]) -> Result<Vec<u8>, PathError> {
    if raw.contains(&0) {
        return Err(PathError::Nul);
    }
    let mut out = Vec::with_capacity(raw.len());
    for name in raw.split(|byte| *byte == b'/') {
        match name {
            b"" | b"." => continue,
            b".." => return Err(PathError::DotDot),
            long if long.len() > NAME_MAX => return Err(PathError::NameTooLong),
            name => {
                if !out.is_empty() {
                    out.push(b'/');
                }
                out.extend_from_slice(name);
            }
        }
    }
    if out.len() > PATH_MAX { Err(PathError::PathTooLong) } else { Ok(out) }
}

/// The same for who takes `..` as a file system does at its root: it leads to the folder above, and nowhere from the top.
///
/// # Errors
/// [`PathError`], but for `..`.
pub(crate) fn rooted(raw: &[u8]) -> Result<Vec<u8>, PathError> {
    let mut parts: Vec<&[u8]> = Vec::new();
    for name in raw.split(|byte| *byte == b'/') {
        match name {
            b"" | b"." => {}
            b".." => drop(parts.pop()),
            name => parts.push(name),
        }
    }
    clean(&parts.join(&b'/'))
}

/// The components of a clean path.
pub(crate) fn components(path: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    path.split(|byte| *byte == b'/').filter(|name| !name.is_empty())
}

/// A clean path's parents and last name; `None` for the root.
pub(crate) fn split(path: &[u8]) -> Option<(&[u8], &[u8])> {
    if path.is_empty() {
        return None;
    }
    Some(match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (&[], path),
    })
}

/// The path for a message: bytes that are no text are escaped, and what is very long is cut.
pub(crate) fn show(path: &[u8]) -> String {
    const SHOWN: usize = 300;
    if path.is_empty() {
        return ".".to_owned();
    }
    let cut = &path[..path.len().min(SHOWN)];
    let mut text = String::new();
    for chunk in cut.utf8_chunks() {
        text.extend(chunk.valid().chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }));
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    if cut.len() < path.len() {
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_below_the_top() {
        let check = |raw: &str, expect: &str| assert_eq!(rooted(raw.as_bytes()).unwrap(), expect.as_bytes());
        check("../foo", "foo");
        check("/bar", "bar");
        check("a/../../b/./c/..", "b");
        check("..", "");
        assert_eq!(clean(b"../foo"), Err(PathError::DotDot));
        assert_eq!(rooted(b"a/\0"), Err(PathError::Nul));
        assert_eq!(rooted(&[b'x'; NAME_MAX + 1]), Err(PathError::NameTooLong));
    }
}
