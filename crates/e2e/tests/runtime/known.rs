//! What the reference runtimes do otherwise, by name: they keep passing, and everybody can read why.
//!
//! The reasons were seen with Debian 12's packages, runc 1.1.5 and crun 1.8.1.

/// Subject, test, reason; sorted.
const KNOWN: &[(&str, &str, &str)] = &[];

/// Why a subject is known to fail a test.
pub(crate) fn reason(subject: &str, test: &str) -> Option<&'static str> {
    KNOWN.iter().find(|(name, path, _)| *name == subject && *path == test).map(|(_, _, reason)| *reason)
}
