//! Image names, as Docker's users write them.
//!
//! ```text
//! reference  = name [ ":" tag ] [ "@" digest ]
//! name       = [ domain "/" ] path            domain: has a "." or ":", or is localhost, or has a capital
//! path       = part { "/" part }              part: a-z 0-9 with single "." or "_", "__" or any "-" between
//! tag        = [A-Za-z0-9_][A-Za-z0-9_.-]{0,127}
//! ```
//!
//! A name without a domain is on `docker.io`, and there a single part is below `library/`. The familiar form leaves
//! both out again.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::digest::{Digest, DigestError};

/// The domain of names without one.
pub const DEFAULT_DOMAIN: &str = "docker.io";
/// The tag of names without one.
pub const DEFAULT_TAG: &str = "latest";
const OFFICIAL: &str = "library/";
const MOST_NAME: usize = 255;
const MOST_TAG: usize = 128;

/// Text that is no image name; each says what is wrong and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// Nothing at all.
    #[error("invalid reference format: the image name is empty")]
    Empty,
    /// Capitals in the name.
    #[error("invalid reference format: repository name {name:?} must be lowercase; try {:?}", name.to_lowercase())]
    Uppercase {
        /// The name.
        name: String,
    },
    /// 64 hexadecimal digits, which mean an image's identity and never its name.
    #[error("invalid reference format: {text:?} is an image id; a name cannot be 64 hexadecimal digits")]
    Identity {
        /// The text.
        text: String,
    },
    /// A name that is too long.
    #[error("invalid reference format: the repository name has {length} characters; the most is {MOST_NAME}")]
    TooLong {
        /// Its length.
        length: usize,
    },
    /// A part of the name that breaks the rules.
    #[error("invalid reference format: {reason} in {part:?} at character {at} of {text:?}")]
    Part {
        /// The whole text.
        text: String,
        /// The part.
        part: String,
        /// The rule, in words.
        reason: &'static str,
        /// Where the offence stands in the text, counted from 1.
        at: usize,
    },
    /// A digest that is none.
    #[error("invalid reference format: the part after @ is wrong")]
    Digest {
        /// Why.
        #[from]
        source: DigestError,
    },
}

/// An image name: where it is, what it is called, which version of it.
///
/// Written out in full by [`fmt::Display`], shortened by [`Reference::familiar`]. Comparing two compares the full forms.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    domain: String,
    path: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Reference {
    /// The registry, such as `docker.io` or `localhost:5000`.
    #[must_use]
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The path in the registry, such as `library/debian`.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The tag, when one was given or [`Reference::tagged`] has filled it in.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, when one was given.
    #[must_use]
    pub const fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// Domain and path, without tag and digest: `docker.io/library/debian`.
    #[must_use]
    pub fn repository(&self) -> String {
        format!("{}/{}", self.domain, self.path)
    }

    /// The repository as people write it: `debian`, `team/web`, `localhost:5000/x`.
    #[must_use]
    pub fn familiar_name(&self) -> String {
        if self.domain != DEFAULT_DOMAIN {
            return self.repository();
        }
        match self.path.strip_prefix(OFFICIAL) {
            // 64 digits alone would be read as an image's identity.
            Some(single) if is_identity(single) => self.repository(),
            Some(single) if !single.contains('/') => single.to_owned(),
            // A first part such as foo.bar would be read as a registry.
            _ if split_domain(&self.path).0.is_some() => self.repository(),
            _ => self.path.clone(),
        }
    }

    /// The whole reference as people write it: `debian:bookworm`.
    #[must_use]
    pub fn familiar(&self) -> String {
        format!("{}{}", self.familiar_name(), self.suffix())
    }

    /// The reference with `latest` where neither a tag nor a digest was given.
    #[must_use]
    pub fn tagged(mut self) -> Self {
        if self.tag.is_none() && self.digest.is_none() {
            self.tag = Some(DEFAULT_TAG.to_owned());
        }
        self
    }

    /// The same repository with another tag and without a digest.
    ///
    /// # Errors
    /// When the tag breaks the rules.
    pub fn with_tag(&self, tag: &str) -> Result<Self, ReferenceError> {
        check_tag(tag, tag, 0)?;
        Ok(Self { tag: Some(tag.to_owned()), digest: None, ..self.clone() })
    }

    /// The same repository pinned to a digest, without a tag.
    #[must_use]
    pub fn with_digest(&self, digest: Digest) -> Self {
        Self { tag: None, digest: Some(digest), ..self.clone() }
    }

    fn suffix(&self) -> String {
        let tag = self.tag.as_ref().map(|tag| format!(":{tag}")).unwrap_or_default();
        let digest = self.digest.map(|digest| format!("@{digest}")).unwrap_or_default();
        tag + &digest
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}{}", self.domain, self.path, self.suffix())
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        if text.is_empty() {
            return Err(ReferenceError::Empty);
        }
        if is_identity(text) {
            return Err(ReferenceError::Identity { text: text.to_owned() });
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest.parse::<Digest>()?)),
            None => (text, None),
        };
        // A colon after the last slash starts the tag; before it, it belongs to the registry's port.
        let after_slash = rest.rfind('/').map_or(0, |at| at + 1);
        let (name, tag) = match rest[after_slash..].find(':') {
            Some(colon) => {
                let at = after_slash + colon;
                let tag = &rest[at + 1..];
                check_tag(text, tag, at + 1)?;
                (&rest[..at], Some(tag.to_owned()))
            }
            None => (rest, None),
        };
        let (domain, path, path_at) = split_domain(name);
        if let Some(domain) = domain {
            check_domain(text, domain)?;
        }
        if path.is_empty() {
            return Err(ReferenceError::Empty);
        }
        check_path(text, path, path_at)?;
        let domain = match domain {
            None | Some("index.docker.io") => DEFAULT_DOMAIN,
            Some(domain) => domain,
        };
        let official = domain == DEFAULT_DOMAIN && !path.contains('/');
        let path = if official { format!("{OFFICIAL}{path}") } else { path.to_owned() };
        let length = domain.len() + 1 + path.len();
        if length > MOST_NAME {
            return Err(ReferenceError::TooLong { length });
        }
        Ok(Self { domain: domain.to_owned(), path, tag, digest })
    }
}

impl Serialize for Reference {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Reference {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

fn is_identity(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Splits off a first part that can only be a registry; the number is where the path starts.
fn split_domain(name: &str) -> (Option<&str>, &str, usize) {
    match name.split_once('/') {
        Some((first, path))
            if first.contains(['.', ':'])
                || first == "localhost"
                || first.bytes().any(|byte| byte.is_ascii_uppercase()) =>
        {
            (Some(first), path, first.len() + 1)
        }
        _ => (None, name, 0),
    }
}

/// An error about `part`, whose offence stands at byte `at` of `text`.
fn offence(text: &str, part: &str, reason: &'static str, at: usize) -> ReferenceError {
    let at = text.char_indices().take_while(|(index, _)| *index < at).count() + 1;
    ReferenceError::Part { text: text.to_owned(), part: part.to_owned(), reason, at }
}

fn check_tag(text: &str, tag: &str, at: usize) -> Result<(), ReferenceError> {
    if tag.is_empty() {
        return Err(offence(text, tag, "the tag is missing after the colon", at));
    }
    if tag.len() > MOST_TAG {
        return Err(offence(text, tag, "a tag has at most 128 characters", at + MOST_TAG));
    }
    for (index, byte) in tag.bytes().enumerate() {
        let word = byte.is_ascii_alphanumeric() || byte == b'_';
        if !(word || (index > 0 && matches!(byte, b'.' | b'-'))) {
            let reason = if index == 0 {
                "a tag starts with a letter, a digit or _"
            } else {
                "a tag has only letters, digits, _, . and -"
            };
            return Err(offence(text, tag, reason, at + index));
        }
    }
    Ok(())
}

fn check_domain(text: &str, domain: &str) -> Result<(), ReferenceError> {
    let (host, port) = if let Some(bracket) = domain.strip_prefix('[') {
        let Some((address, rest)) = bracket.split_once(']') else {
            return Err(offence(text, domain, "the bracket of the address is not closed", 0));
        };
        if address.parse::<std::net::Ipv6Addr>().is_err() {
            return Err(offence(text, domain, "there is no IPv6 address between the brackets", 1));
        }
        ("", rest)
    } else {
        match domain.find(':') {
            Some(colon) => (&domain[..colon], &domain[colon..]),
            None => (domain, ""),
        }
    };
    if !domain.starts_with('[') {
        let mut at = 0;
        for label in host.split('.') {
            let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
            if label.is_empty() || label.starts_with('-') || label.ends_with('-') || !label.bytes().all(fits) {
                return Err(offence(text, domain, "the registry is no valid host name", at));
            }
            at += label.len() + 1;
        }
    }
    let is_port = |digits: &str| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    match port.strip_prefix(':') {
        None if port.is_empty() => Ok(()),
        Some(digits) if is_port(digits) => Ok(()),
        _ => Err(offence(text, domain, "the registry's port is no number", domain.len() - port.len())),
    }
}

fn check_path(text: &str, path: &str, start: usize) -> Result<(), ReferenceError> {
    if path.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Err(ReferenceError::Uppercase { name: path.to_owned() });
    }
    let mut at = start;
    for part in path.split('/') {
        check_part(text, part, at)?;
        at += part.len() + 1;
    }
    Ok(())
}

/// Checks one part of a path: runs of letters and digits, with one separator between each two.
fn check_part(text: &str, part: &str, at: usize) -> Result<(), ReferenceError> {
    if part.is_empty() {
        return Err(offence(text, part, "a part of the name is empty", at));
    }
    let word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = part.as_bytes();
    if let Some(bad) = bytes.iter().position(|byte| !word(*byte) && !b"._-".contains(byte)) {
        let reason = "a name has only lowercase letters, digits and separators";
        return Err(offence(text, part, reason, at + bad));
    }
    for edge in [0, bytes.len() - 1] {
        if !word(bytes[edge]) {
            let reason = "a part of a name starts and ends with a letter or digit";
            return Err(offence(text, part, reason, at + edge));
        }
    }
    let mut index = 0;
    while index < bytes.len() {
        let run = bytes[index..].iter().take_while(|byte| !word(**byte)).count();
        let separator = &part[index..index + run];
        if run > 1 && separator != "__" && separator.bytes().any(|byte| byte != b'-') {
            let reason = "between letters stands one of . or _ or __ or any number of -";
            return Err(offence(text, part, reason, at + index + 1));
        }
        index += run.max(1);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
