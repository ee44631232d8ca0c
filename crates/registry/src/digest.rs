//! Content addresses with more than one algorithm: `sha256:` and 64 digits, `sha512:` and 128.
//!
//! `oci::digest::Digest` is the SHA-256 that images are named by; a registry must also keep what is named by SHA-512.
//!
//! Source: the OCI image specification, descriptor.md, "Digests".

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::Digest as _;

/// Text that is no digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    /// There is no `ALGORITHM:` in front.
    #[error("invalid digest {text:?}: it must look like sha256:0123…, an algorithm and hexadecimal digits")]
    NoAlgorithm {
        /// The text, at most its beginning.
        text: String,
    },
    /// Another algorithm.
    #[error("unsupported digest algorithm {algorithm:?}; there are sha256 and sha512")]
    Algorithm {
        /// What stands before the colon.
        algorithm: String,
    },
    /// Not the right number of lower-case hexadecimal digits.
    #[error("invalid digest: {algorithm} has {expected} digits of 0-9 and a-f")]
    Digits {
        /// The algorithm.
        algorithm: Algorithm,
        /// How many digits it has.
        expected: usize,
    },
}

/// How a digest is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Algorithm {
    /// SHA-256, which everything uses.
    #[default]
    Sha256,
    /// SHA-512.
    Sha512,
}

impl Algorithm {
    /// All there are.
    pub const ALL: [Self; 2] = [Self::Sha256, Self::Sha512];

    /// Its name in digests.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }

    /// Bytes of a digest.
    #[must_use]
    pub const fn length(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha512 => 64,
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Algorithm {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let known = Self::ALL.into_iter().find(|algorithm| algorithm.name() == text);
        known.ok_or_else(|| DigestError::Algorithm { algorithm: beginning(text) })
    }
}

/// The start of a stranger's text, for messages.
fn beginning(text: &str) -> String {
    text.chars().take(80).collect()
}

/// The digest of some content, written `ALGORITHM:HEX`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContentDigest {
    algorithm: Algorithm,
    /// Zero behind the algorithm's length.
    bytes: [u8; 64],
}

impl ContentDigest {
    /// The SHA-256 of `content`.
    #[must_use]
    pub fn of(content: &[u8]) -> Self {
        Self::with(Algorithm::Sha256, content)
    }

    /// The digest of `content` by some algorithm.
    #[must_use]
    pub fn with(algorithm: Algorithm, content: &[u8]) -> Self {
        let mut digester = Digester::new(algorithm);
        digester.update(content);
        digester.finish()
    }

    fn from_slice(algorithm: Algorithm, from: &[u8]) -> Self {
        let mut bytes = [0; 64];
        bytes[..from.len()].copy_from_slice(from);
        Self { algorithm, bytes }
    }

    /// The algorithm.
    #[must_use]
    pub const fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Its bytes, 32 or 64.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.algorithm.length()]
    }

    /// Its digits without the algorithm, as file names have them.
    #[must_use]
    pub fn hex(&self) -> String {
        hex::encode(self.as_bytes())
    }

    /// The digest of an algorithm with these digits.
    ///
    /// # Errors
    /// When there are too few or many digits, or other characters.
    pub fn from_hex(algorithm: Algorithm, digits: &str) -> Result<Self, DigestError> {
        let bad = DigestError::Digits { algorithm, expected: algorithm.length() * 2 };
        // A digest is a name, and a name has one spelling: capitals are refused.
        if digits.len() != algorithm.length() * 2 || digits.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return Err(bad);
        }
        let mut bytes = [0; 64];
        match hex::decode_to_slice(digits, &mut bytes[..algorithm.length()]) {
            Ok(()) => Ok(Self { algorithm, bytes }),
            Err(_) => Err(bad),
        }
    }

    /// The digest as `oci` has it, if it is a SHA-256.
    #[must_use]
    pub fn sha256(&self) -> Option<oci::digest::Digest> {
        let bytes = self.as_bytes().try_into().ok()?;
        Some(oci::digest::Digest::from_bytes(bytes))
    }
}

impl From<oci::digest::Digest> for ContentDigest {
    fn from(digest: oci::digest::Digest) -> Self {
        Self::from_slice(Algorithm::Sha256, digest.as_bytes())
    }
}

impl fmt::Display for ContentDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm, self.hex())
    }
}

impl fmt::Debug for ContentDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for ContentDigest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let (algorithm, digits) =
            text.split_once(':').ok_or_else(|| DigestError::NoAlgorithm { text: beginning(text) })?;
        Self::from_hex(algorithm.parse()?, digits)
    }
}

impl Serialize for ContentDigest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ContentDigest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Computes a digest while content streams by.
#[derive(Clone)]
pub struct Digester {
    state: State,
    length: u64,
}

#[derive(Clone)]
enum State {
    Sha256(sha2::Sha256),
    Sha512(sha2::Sha512),
}

impl fmt::Debug for Digester {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Digester").field("length", &self.length).finish_non_exhaustive()
    }
}

impl Digester {
    /// A digester that has seen nothing.
    #[must_use]
    pub fn new(algorithm: Algorithm) -> Self {
        let state = match algorithm {
            Algorithm::Sha256 => State::Sha256(sha2::Sha256::new()),
            Algorithm::Sha512 => State::Sha512(sha2::Sha512::new()),
        };
        Self { state, length: 0 }
    }

    /// What it computes.
    #[must_use]
    pub const fn algorithm(&self) -> Algorithm {
        match self.state {
            State::Sha256(_) => Algorithm::Sha256,
            State::Sha512(_) => Algorithm::Sha512,
        }
    }

    /// Takes the next bytes in.
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.state {
            State::Sha256(state) => state.update(bytes),
            State::Sha512(state) => state.update(bytes),
        }
        self.length += bytes.len() as u64;
    }

    /// How many bytes were taken in.
    #[must_use]
    pub const fn length(&self) -> u64 {
        self.length
    }

    /// The digest of all that was taken in.
    #[must_use]
    pub fn finish(self) -> ContentDigest {
        match self.state {
            State::Sha256(state) => ContentDigest::from_slice(Algorithm::Sha256, &state.finalize()),
            State::Sha512(state) => ContentDigest::from_slice(Algorithm::Sha512, &state.finalize()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_algorithms_round_trip() {
        let empty = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(ContentDigest::of(b"").to_string(), empty);
        let long = ContentDigest::with(Algorithm::Sha512, b"insula");
        assert_eq!(long.hex().len(), 128);
        assert_eq!(long.to_string().parse::<ContentDigest>().unwrap(), long);
        assert_eq!(ContentDigest::of(b"x").sha256(), Some(oci::digest::Digest::of(b"x")));
        assert_eq!(long.sha256(), None);
        assert_eq!(ContentDigest::from(oci::digest::Digest::of(b"x")), ContentDigest::of(b"x"));
    }

    #[test]
    fn other_spellings_are_refused() {
        let digits = "a".repeat(64);
        for bad in ["", "abc", "sha256", "sha256:", "md5:00", &format!("sha256:{}", digits.to_uppercase())] {
            assert!(bad.parse::<ContentDigest>().is_err(), "{bad}");
        }
        assert!(format!("sha512:{digits}").parse::<ContentDigest>().is_err());
        assert!(format!("sha256:{}", "é".repeat(32)).parse::<ContentDigest>().is_err());
        assert!(format!("sha256:{digits}").parse::<ContentDigest>().is_ok());
    }
}
