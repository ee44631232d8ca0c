//! Names in a registry: repositories, tags, and what a manifest is asked for by.
//!
//! Source: the OCI distribution specification, "Pulling manifests".

use std::fmt;
use std::str::FromStr;

use crate::digest::ContentDigest;

/// The longest repository name, in bytes.
pub const MAX_REPOSITORY: usize = 255;
/// The longest tag, in bytes.
pub const MAX_TAG: usize = 128;

/// Text that is no such name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Not a repository's name.
    #[error("invalid repository name: {reason}")]
    Repository {
        /// The rule that it breaks.
        reason: &'static str,
    },
    /// Neither a tag nor a digest.
    #[error("invalid tag: it has 1 to 128 letters, digits, _, . and -, and starts with a letter, a digit or _")]
    Tag,
}

/// A repository's name in a registry: `library/debian`.
///
/// Parts between slashes are runs of `a-z0-9` with one of `.`, `_`, `__` or any number of `-` between two runs. So no part
/// is empty, is `..` or starts with `_`, which the store's folders rely upon.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Repository(String);

impl Repository {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Repository {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if text.len() > MAX_REPOSITORY {
            return Err(NameError::Repository { reason: "it has more than 255 characters" });
        }
        for part in text.split('/') {
            check_part(part.as_bytes())?;
        }
        Ok(Self(text.to_owned()))
    }
}

fn check_part(mut part: &[u8]) -> Result<(), NameError> {
    let word = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    loop {
        let run = part.iter().take_while(|byte| word(byte)).count();
        if run == 0 {
            return Err(NameError::Repository { reason: "a part starts or ends without a letter a-z or digit" });
        }
        part = &part[run..];
        let separator = part.iter().take_while(|byte| !word(byte)).count();
        match &part[..separator] {
            b"" => return Ok(()),
            b"." | b"_" | b"__" => {}
            dashes if dashes.iter().all(|byte| *byte == b'-') => {}
            _ => {
                return Err(NameError::Repository {
                    reason: "between runs of letters a-z and digits stands one of . or _ or __ or any number of -",
                });
            }
        }
        part = &part[separator..];
    }
}

/// A tag: `latest`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag(String);

impl Tag {
    /// The tag as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Tag {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        let fits = text.bytes().enumerate().all(|(at, byte)| word(byte) || (at > 0 && matches!(byte, b'.' | b'-')));
        if text.is_empty() || text.len() > MAX_TAG || !fits {
            return Err(NameError::Tag);
        }
        Ok(Self(text.to_owned()))
    }
}

/// What a manifest is asked for by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A name that can be moved.
    Tag(Tag),
    /// The content itself.
    Digest(ContentDigest),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tag(tag) => tag.fmt(f),
            Self::Digest(digest) => digest.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repositories_follow_the_grammar() {
        for good in ["a", "library/debian", "a.b/c_d/e__f/g---h", "0", &"a".repeat(255)] {
            assert_eq!(good.parse::<Repository>().unwrap().as_str(), good);
        }
        let long = "a".repeat(256);
        for bad in
            ["", "/", "a/", "/a", "a//b", "A", "a..b", "a/../b", "..", ".", "_a", "a_", "a___b", "a._b", "é", &long]
        {
            assert!(bad.parse::<Repository>().is_err(), "{bad}");
        }
    }

    #[test]
    fn tags_follow_the_grammar() {
        for good in ["latest", "_", "1.0-rc_2", "A", &"x".repeat(128)] {
            assert!(good.parse::<Tag>().is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "-a", "a/b", "a:b", "é", "a b", &"x".repeat(129)] {
            assert!(bad.parse::<Tag>().is_err(), "{bad}");
        }
    }
}
