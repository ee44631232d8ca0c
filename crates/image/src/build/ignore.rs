//! `.dockerignore`: which files of a folder are no part of the context.
//!
//! # Source
//! Docker's "Build context", "`.dockerignore` files". The rules in short: one pattern a line; `#` in the first column begins a
//! comment; blanks around a pattern go; `!` makes an exception; the path is cleaned as Go's `path.Clean` does and loses a
//! leading slash; `*` and `?` stop at slashes, `**` does not; the last pattern that matches a path or one of its parents decides.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::dockerfile::GlobError;
use crate::dockerfile::glob::{Glob, Stars, has_wildcard};

/// The longest file of patterns.
pub(crate) const FILE_BYTES: u64 = 1 << 20;
/// The most patterns.
pub(crate) const PATTERNS: usize = 10_000;

/// Why patterns cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IgnoreError {
    /// The file cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A pattern is none.
    #[error("\"{pattern}\" (line {line}) is no pattern")]
    Pattern {
        /// The pattern.
        pattern: String,
        /// Its line, or its number where there are no lines.
        line: usize,
        /// Why.
        #[source]
        source: GlobError,
    },
    /// `!` alone.
    #[error("\"!\" (line {line}) excludes nothing: a pattern must follow")]
    Bare {
        /// Its line.
        line: usize,
    },
    /// Too much.
    #[error("{what}: more than the limit of {limit}")]
    Limit {
        /// Of what.
        what: &'static str,
        /// How much is allowed.
        limit: u64,
    },
}

/// Patterns in their order.
#[derive(Debug, Clone, Default)]
pub struct Ignore {
    patterns: Vec<Pattern>,
}

#[derive(Debug, Clone)]
struct Pattern {
    effect: Effect,
    matcher: Matcher,
    /// The components in front of the first wildcard, and whether there is one.
    literal: Vec<String>,
    wild: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Effect {
    Exclude,
    Except,
}

#[derive(Debug, Clone)]
enum Matcher {
    Glob(Glob),
    /// `**name`: whatever ends so.
    Suffix(String),
}

impl Ignore {
    /// Reads the text of a `.dockerignore`.
    ///
    /// # Errors
    /// [`IgnoreError`] for a line that is no pattern.
    pub fn parse(bytes: &[u8]) -> Result<Self, IgnoreError> {
        if bytes.len() as u64 > FILE_BYTES {
            return Err(IgnoreError::Limit { what: "bytes of the file", limit: FILE_BYTES });
        }
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        let text = String::from_utf8_lossy(bytes);
        let mut ignore = Self::default();
        for (number, line) in text.split('\n').enumerate() {
            if line.starts_with('#') || line.trim().is_empty() {
                continue;
            }
            let line = line.trim();
            let (effect, pattern) = match line.strip_prefix('!') {
                Some(rest) => (Effect::Except, rest.trim()),
                None => (Effect::Exclude, line),
            };
            ignore.add(effect, pattern, number + 1)?;
        }
        Ok(ignore)
    }

    /// Patterns that stand alone, as `--exclude` has them.
    ///
    /// # Errors
    /// [`IgnoreError`] for one that is no pattern.
    pub fn from_patterns(patterns: &[String]) -> Result<Self, IgnoreError> {
        let mut ignore = Self::default();
        for (number, pattern) in patterns.iter().enumerate() {
            let (effect, pattern) = match pattern.trim().strip_prefix('!') {
                Some(rest) => (Effect::Except, rest.trim()),
                None => (Effect::Exclude, pattern.trim()),
            };
            ignore.add(effect, pattern, number + 1)?;
        }
        Ok(ignore)
    }

    /// The patterns that hold for a context folder and a Dockerfile: `NAME.dockerignore` beside the Dockerfile wins over the
    /// context's `.dockerignore`. Gives the file too, if there is one.
    ///
    /// # Errors
    /// [`IgnoreError`].
    pub fn find(context: &Path, dockerfile: &Path) -> Result<(Self, Option<PathBuf>), IgnoreError> {
        let mut beside = dockerfile.as_os_str().to_owned();
        beside.push(".dockerignore");
        for path in [PathBuf::from(beside), context.join(".dockerignore")] {
            let failed = |source| IgnoreError::Read { path: path.display().to_string(), source };
            match fs::metadata(&path) {
                Ok(metadata) if metadata.len() > FILE_BYTES => {
                    return Err(IgnoreError::Limit { what: "bytes of the file", limit: FILE_BYTES });
                }
                Ok(_) => {
                    let bytes = fs::read(&path).map_err(failed)?;
                    return Ok((Self::parse(&bytes)?, Some(path)));
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(failed(error)),
            }
        }
        Ok((Self::default(), None))
    }

    fn add(&mut self, effect: Effect, pattern: &str, line: usize) -> Result<(), IgnoreError> {
        if pattern.is_empty() {
            return if effect == Effect::Except { Err(IgnoreError::Bare { line }) } else { Ok(()) };
        }
        if self.patterns.len() >= PATTERNS {
            return Err(IgnoreError::Limit { what: "patterns", limit: PATTERNS as u64 });
        }
        let clean = clean(pattern);
        let clean = if clean.len() > 1 { clean.strip_prefix('/').unwrap_or(&clean) } else { &clean };
        let syntax = |source| IgnoreError::Pattern { pattern: pattern.to_owned(), line, source };
        let matcher = match clean.strip_prefix("**") {
            Some(rest) if !rest.is_empty() && !rest.starts_with('/') && !has_wildcard(rest) => {
                Matcher::Suffix(rest.to_owned())
            }
            _ => Matcher::Glob(Glob::path(clean, Stars::Double).map_err(syntax)?),
        };
        let literal: Vec<String> = clean.split('/').take_while(|name| !has_wildcard(name)).map(str::to_owned).collect();
        self.patterns.push(Pattern { effect, matcher, literal, wild: has_wildcard(clean) });
        Ok(())
    }

    /// Whether there are no patterns.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }

    /// Whether this path, relative and without a leading slash, is left out.
    #[must_use]
    pub fn excludes(&self, path: &str) -> bool {
        let mut excluded = false;
        for pattern in &self.patterns {
            // a pattern that would not change anything need not be tried
            if (pattern.effect == Effect::Exclude) == excluded {
                continue;
            }
            let parents = path.match_indices('/').map(|(at, _)| &path[..at]);
            if std::iter::once(path).chain(parents).any(|part| pattern.matches(part)) {
                excluded = pattern.effect == Effect::Exclude;
            }
        }
        excluded
    }

    /// Whether something below this excluded folder could be an exception.
    #[must_use]
    pub fn may_except_below(&self, folder: &str) -> bool {
        self.patterns.iter().filter(|pattern| pattern.effect == Effect::Except).any(|pattern| {
            let mut names = folder.split('/');
            let same = pattern.literal.iter().zip(names.by_ref()).all(|(literal, name)| literal == name);
            let depth = folder.split('/').count();
            same && (pattern.wild || pattern.literal.len() > depth)
        })
    }
}

impl Pattern {
    fn matches(&self, path: &str) -> bool {
        match &self.matcher {
            Matcher::Glob(glob) => glob.matches(path),
            Matcher::Suffix(suffix) => path.ends_with(suffix.as_str()),
        }
    }
}

/// A path without empty, `.` and, where something is before them, `..` components, as Go's `path.Clean` gives it.
pub(crate) fn clean(path: &str) -> String {
    let rooted = path.starts_with('/');
    let mut out: Vec<&str> = Vec::new();
    for name in path.split('/') {
        match name {
            "" | "." => {}
            ".." if out.last().is_some_and(|last| *last != "..") => drop(out.pop()),
            ".." if rooted => {}
            name => out.push(name),
        }
    }
    match (rooted, out.join("/")) {
        (true, rest) => format!("/{rest}"),
        (false, rest) if rest.is_empty() => ".".to_owned(),
        (false, rest) => rest,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(patterns: &str, cases: &[(&str, bool)]) {
        let ignore = Ignore::parse(patterns.as_bytes()).unwrap();
        for (path, excluded) in cases {
            assert_eq!(ignore.excludes(path), *excluded, "{patterns:?} {path}");
        }
    }

    #[test]
    fn the_rules() {
        check("*/temp*", &[("a/temporary.txt", true), ("a/temp", true), ("a/b/temp", false), ("temp", false)]);
        check("temp?", &[("tempa", true), ("temp", false)]);
        check("**/*.go", &[("a.go", true), ("x/y/a.go", true), ("a.goo", false)]);
        check("*.md\n!README.md", &[("a.md", true), ("README.md", false)]);
        check("*.md\n!README*.md\nREADME-secret.md", &[("README-secret.md", true), ("README-x.md", false)]);
        check("*.md\nREADME-secret.md\n!README*.md", &[("README-secret.md", false)]);
        check("/foo/bar\nx/", &[("foo/bar", true), ("foo/bar/deep", true), ("x", true), ("x/y", true)]);
        check(
            "\u{feff}# note\n #real\r\n  b  \r\n\n./c/../d",
            &[("#real", true), ("b", true), ("d", true), ("note", false)],
        );
        check("*\n!src/**\n! a", &[("src/x/y", false), ("src", true), ("a", false), ("b", true)]);
        check("**foo", &[("xfoo", true), ("a/xfoo", true), ("foox", false)]);
        check("a[b-d]", &[("ac", true), ("ae", false)]);
        check(".\n/", &[("a", false), (".hidden", false)]);
        check("docs/**/*.txt", &[("docs/a.txt", true), ("docs/x/a.txt", true), ("a.txt", false)]);
    }

    #[test]
    fn exceptions_are_looked_for_only_where_they_can_be() {
        let ignore = Ignore::parse(b"*\n!docs/api/x.md\n!src/*.rs").unwrap();
        assert!(
            ignore.may_except_below("docs") && ignore.may_except_below("docs/api") && ignore.may_except_below("src")
        );
        assert!(!ignore.may_except_below("node_modules") && !ignore.may_except_below("docs/other"));
        assert!(Ignore::parse(b"*\n!**/x").unwrap().may_except_below("any/where"));
    }

    #[test]
    fn nonsense_is_named() {
        assert!(Ignore::parse(b"a\n!\n").unwrap_err().to_string().contains("line 2"));
        assert!(Ignore::parse(b"[").unwrap_err().to_string().contains("\"[\" (line 1) is no pattern"));
        let many = "a\n".repeat(PATTERNS + 1);
        assert!(Ignore::parse(many.as_bytes()).unwrap_err().to_string().contains("limit"));
    }

    #[test]
    fn the_file_beside_the_dockerfile_wins() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::write(at(".dockerignore"), "a").unwrap();
        let dockerfile = at("web.Dockerfile");
        assert!(Ignore::find(folder.path(), &dockerfile).unwrap().0.excludes("a"));
        fs::write(at("web.Dockerfile.dockerignore"), "b").unwrap();
        let (ignore, path) = Ignore::find(folder.path(), &dockerfile).unwrap();
        assert!(ignore.excludes("b") && !ignore.excludes("a") && path == Some(at("web.Dockerfile.dockerignore")));
    }

    #[test]
    fn cleaning() {
        for (path, expected) in
            [("", "."), ("/", "/"), ("a//b/./c/..", "a/b"), ("../a", "../a"), ("/../a", "/a"), ("a/..", ".")]
        {
            assert_eq!(clean(path), expected, "{path}");
        }
    }
}
