//! Cache keys: digests of everything that a step's outcome depends on, and of nothing else.
//!
//! The format is written down in `docs/formats/build-cache-key.md`.

use std::fmt;

use oci::digest::{Digest, Digester};

/// Names the outcome of a step: two steps with the same key write the same files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CacheKey(pub Digest);

impl fmt::Display for CacheKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Digests named fields so that no two lists of fields look the same: each name and value has its length in front.
#[derive(Debug)]
pub(crate) struct Canonical {
    digester: Digester,
}

impl Canonical {
    /// Begins with the name of what is digested.
    pub(crate) fn new(domain: &str) -> Self {
        let mut canonical = Self { digester: Digester::new() };
        canonical.bytes(domain.as_bytes());
        canonical
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.digester.update(&(bytes.len() as u64).to_be_bytes());
        self.digester.update(bytes);
    }

    pub(crate) fn field(&mut self, name: &str, value: &[u8]) {
        self.bytes(name.as_bytes());
        self.bytes(value);
    }

    pub(crate) fn number(&mut self, name: &str, value: u64) {
        self.field(name, &value.to_be_bytes());
    }

    pub(crate) fn finish(self) -> Digest {
        self.digester.finish()
    }
}
