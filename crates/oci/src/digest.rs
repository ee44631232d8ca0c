//! Content addresses: `sha256:` and 64 hexadecimal digits.

use std::fmt;
use std::io;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::Digest as _;

/// Text that is no digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    /// There is no `ALGORITHM:` in front.
    #[error("invalid digest {text:?}: it must look like sha256:0123…, an algorithm and hexadecimal digits")]
    NoAlgorithm {
        /// The text.
        text: String,
    },
    /// An algorithm other than SHA-256.
    #[error("unsupported digest algorithm {algorithm:?} in {text:?}; only sha256 is supported")]
    Algorithm {
        /// The text.
        text: String,
        /// What stands before the colon.
        algorithm: String,
    },
    /// Not 64 lower-case hexadecimal digits.
    #[error("invalid digest {text:?}: sha256 has 64 digits of 0-9 and a-f, here are {length} characters")]
    Digits {
        /// The text.
        text: String,
        /// How many characters stand after the colon.
        length: usize,
    },
}

/// The SHA-256 of some content; written `sha256:HEX`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest of `content`.
    #[must_use]
    pub fn of(content: &[u8]) -> Self {
        Self(sha2::Sha256::digest(content).into())
    }

    /// The digest with these 32 bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Its 32 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Its 64 digits without the algorithm, as file names have them.
    #[must_use]
    pub fn hex(&self) -> String {
        hex::encode(self.0)
    }

    /// The first 12 digits, as people see them in lists.
    #[must_use]
    pub fn short(&self) -> String {
        hex::encode(&self.0[..6])
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let (algorithm, digits) =
            text.split_once(':').ok_or_else(|| DigestError::NoAlgorithm { text: text.to_owned() })?;
        if algorithm != "sha256" {
            return Err(DigestError::Algorithm { text: text.to_owned(), algorithm: algorithm.to_owned() });
        }
        let bad = || DigestError::Digits { text: text.to_owned(), length: digits.chars().count() };
        // The digest is a name, and a name has one spelling: capitals are refused.
        if digits.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return Err(bad());
        }
        let mut bytes = [0; 32];
        hex::decode_to_slice(digits, &mut bytes).map_err(|_| bad())?;
        Ok(Self(bytes))
    }
}

impl TryFrom<String> for Digest {
    type Error = DigestError;

    fn try_from(text: String) -> Result<Self, DigestError> {
        text.parse()
    }
}

impl Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Computes a digest while content streams by.
#[derive(Clone, Default)]
pub struct Digester {
    state: sha2::Sha256,
    length: u64,
}

impl fmt::Debug for Digester {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Digester").field("length", &self.length).finish_non_exhaustive()
    }
}

impl Digester {
    /// A digester that has seen nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next bytes in.
    pub fn update(&mut self, bytes: &[u8]) {
        self.state.update(bytes);
        self.length += bytes.len() as u64;
    }

    /// How many bytes were taken in.
    #[must_use]
    pub const fn length(&self) -> u64 {
        self.length
    }

    /// The digest of all that was taken in.
    #[must_use]
    pub fn finish(self) -> Digest {
        Digest(self.state.finalize().into())
    }
}

impl io::Write for Digester {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A reader that digests what passes through it.
#[derive(Debug)]
pub struct DigestReader<R> {
    inner: R,
    digester: Digester,
}

impl<R: io::Read> DigestReader<R> {
    /// Reads from `inner`.
    pub fn new(inner: R) -> Self {
        Self { inner, digester: Digester::new() }
    }

    /// The inner reader and the digester of all that was read so far.
    pub fn into_parts(self) -> (R, Digester) {
        (self.inner, self.digester)
    }
}

impl<R: io::Read> io::Read for DigestReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.digester.update(&buffer[..count]);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn known_value_and_round_trip() {
        assert_eq!(Digest::of(b"").to_string(), EMPTY);
        assert_eq!(EMPTY.parse::<Digest>().unwrap(), Digest::of(b""));
        assert_eq!(Digest::of(b"").short(), "e3b0c44298fc");
        let json = serde_json::to_string(&Digest::of(b"x")).unwrap();
        assert_eq!(serde_json::from_str::<Digest>(&json).unwrap(), Digest::of(b"x"));
    }

    #[test]
    fn streaming_equals_one_piece() {
        let mut digester = Digester::new();
        digester.update(b"in");
        digester.update(b"sula");
        assert_eq!((digester.length(), digester.finish()), (6, Digest::of(b"insula")));
        let mut reader = DigestReader::new(&b"insula"[..]);
        reader.read_to_end(&mut Vec::new()).unwrap();
        assert_eq!(reader.into_parts().1.finish(), Digest::of(b"insula"));
    }

    #[test]
    fn bad_text_is_refused_with_its_reason() {
        let error = |text: &str| text.parse::<Digest>().unwrap_err().to_string();
        assert!(error("abc").contains("must look like sha256:"));
        assert!(error("md5:abc").contains("only sha256"));
        assert!(error("sha256:abc").contains("here are 3 characters"));
        assert!(EMPTY.to_uppercase().replace("SHA256", "sha256").parse::<Digest>().is_err());
        assert!(format!("sha256:{}", "é".repeat(32)).parse::<Digest>().is_err());
    }
}
