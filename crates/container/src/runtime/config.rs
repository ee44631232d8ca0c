//! The configuration of a bundle.

use crate::check;
use crate::error::{Doing, Result, SetupError};
use control::FailureKind;
use oci_spec::runtime::Spec;
use rustix::buffer::spare_capacity;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use serde::de::DeserializeOwned;
use std::path::Path;

/// The largest configuration that is read. A thousand mounts need a fifth of a megabyte.
pub(crate) const MOST_BYTES: u64 = 64 << 20;

/// Reads a configuration, and looks it over; with it come words about what was left out.
///
/// # Errors
/// [`FailureKind::NotFound`] where there is none, [`FailureKind::Invalid`] for one that is too large, cannot be understood or is wrong,
/// [`FailureKind::Unsupported`] for what this host lacks.
pub(crate) fn load(path: &Path) -> Result<(Box<Spec>, Vec<String>)> {
    understand(&read(path)?, &path.display().to_string())
}

/// As [`load`], of a text.
pub(crate) fn understand(bytes: &[u8], what: &str) -> Result<(Box<Spec>, Vec<String>)> {
    let (spec, warnings) = check::parse(bytes).or_else(|error| {
        // once more, to find the place
        parse::<Spec>(bytes, what).and(Err(error))
    })?;
    version(spec.version())?;
    check::check(&spec)?;
    Ok((spec, warnings))
}

/// Reads a file of JSON, up to a limit.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>> {
    let shown = path.display();
    let file =
        rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map_err(|errno| match errno {
            Errno::NOENT => {
                SetupError::new(FailureKind::NotFound, format!("JSON specification file {shown} not found"))
            }
            _ => SetupError::new(FailureKind::Internal, format!("open {shown}: {errno}")),
        })?;
    let size = u64::try_from(rustix::fs::fstat(&file).doing(|| format!("stat {shown}"))?.st_size).unwrap_or(0);
    let mut bytes = Vec::with_capacity(usize::try_from(size.min(MOST_BYTES)).unwrap_or(0) + 1);
    loop {
        let room = bytes.capacity() - bytes.len();
        let count = rustix::io::read(&file, spare_capacity(&mut bytes)).doing(|| format!("read {shown}"))?;
        // what leaves room is the end of a file
        if count < room || u64::try_from(bytes.len()).unwrap_or(u64::MAX) > MOST_BYTES {
            break;
        }
        bytes.reserve(4096);
    }
    sys::process::close_later(file);
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > MOST_BYTES {
        return Err(SetupError::invalid(format!("{shown} is larger than {} MiB", MOST_BYTES >> 20)));
    }
    Ok(bytes)
}

/// Understands JSON; an error names the field.
pub(crate) fn parse<T: DeserializeOwned>(bytes: &[u8], what: &str) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|error| {
        let at = field_at(bytes, error.line(), error.column());
        let at = if at.is_empty() { String::new() } else { format!(": at {at}") };
        SetupError::invalid(format!("{what} cannot be understood{at}: {}{error}", kind_of_error(&at, &error)))
    })
}

/// What else is to be said of an error in the words that callers look for.
fn kind_of_error(at: &str, error: &serde_json::Error) -> &'static str {
    match at.strip_prefix(": at linux.memoryPolicy") {
        Some(field) if field.starts_with(".flags") => "invalid memory policy flag: ",
        Some(field) if field.starts_with(".mode") || error.to_string().contains("`mode`") => {
            "invalid memory policy mode: "
        }
        Some(_) => "invalid memory policy: ",
        None => "",
    }
}

/// The specification's version: the first number must be ours.
fn version(version: &str) -> Result<()> {
    let bad = || SetupError::invalid(format!("ociVersion {version:?} is not of the form 1.2.0"));
    let core = version.split(['-', '+']).next().unwrap_or_default();
    let numbers: Vec<u32> =
        core.split('.').map(|part| part.parse().map_err(|_| bad())).collect::<Result<Vec<u32>>>()?;
    match numbers.as_slice() {
        [1, _, _] => Ok(()),
        [_, _, _] => {
            Err(SetupError::unsupported(format!("ociVersion {version:?}: only versions 1.x.y are understood")))
        }
        _ => Err(bad()),
    }
}

/// The names that lead to a place in JSON, such as `linux.namespaces[2].type`.
fn field_at(bytes: &[u8], line: usize, column: usize) -> String {
    let start: usize = bytes.split_inclusive(|byte| *byte == b'\n').take(line.saturating_sub(1)).map(<[u8]>::len).sum();
    let end = (start + column).min(bytes.len());
    let mut walk = Walk::default();
    let mut rest = bytes.get(..end).unwrap_or_default();
    while let Some((&byte, more)) = rest.split_first() {
        rest = match byte {
            b'"' => {
                let (text, more) = string(more);
                walk.text = text;
                more
            }
            other => {
                walk.mark(other);
                more
            }
        };
    }
    walk.shown()
}

/// The text of a string behind its first quote, and what follows.
fn string(bytes: &[u8]) -> (String, &[u8]) {
    let mut escaped = false;
    for (at, &byte) in bytes.iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => {
                let (text, rest) = bytes.split_at(at);
                return (String::from_utf8_lossy(text).into_owned(), rest.get(1..).unwrap_or_default());
            }
            _ => {}
        }
    }
    (String::new(), &[])
}

#[derive(Default)]
struct Walk {
    /// For each open object the name of the current member, for each open list the number of the current item.
    path: Vec<Step>,
    text: String,
}

enum Step {
    Member(String),
    Item(usize),
}

impl Walk {
    fn mark(&mut self, byte: u8) {
        match byte {
            b'{' => self.path.push(Step::Member(String::new())),
            b'[' => self.path.push(Step::Item(0)),
            b'}' | b']' => drop(self.path.pop()),
            b':' => {
                let text = std::mem::take(&mut self.text);
                if let Some(Step::Member(name)) = self.path.last_mut() {
                    *name = text;
                }
            }
            b',' => {
                if let Some(Step::Item(at)) = self.path.last_mut() {
                    *at += 1;
                }
            }
            _ => {}
        }
    }

    fn shown(&self) -> String {
        let mut text = String::new();
        for step in &self.path {
            match step {
                Step::Member(name) if name.is_empty() => {}
                Step::Member(name) if text.is_empty() => text.push_str(name),
                Step::Member(name) => {
                    text.push('.');
                    text.push_str(name);
                }
                Step::Item(at) => text.push_str(&format!("[{at}]")),
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(json: &str) -> String {
        parse::<Spec>(json.as_bytes(), "config.json").unwrap_err().message
    }

    #[test]
    fn an_error_names_the_field() {
        let at = |json: &str| check(json).split(": ").nth(1).unwrap().to_owned();
        assert_eq!(at(r#"{"ociVersion": 1}"#), "at ociVersion");
        assert_eq!(
            at(
                "{\"ociVersion\": \"1.0.0\",\n \"linux\": {\"namespaces\": [{\"type\": \"pid\"},\n {\"type\": \"none\"}]}}"
            ),
            "at linux.namespaces[1].type"
        );
        assert_eq!(
            at(r#"{"ociVersion": "1.0.0", "process": {"cwd": "/", "user": {"uid": -1}}}"#),
            "at process.user.uid"
        );
        assert!(check(r#"{"ociVersion": "#).contains("EOF"));
    }

    #[test]
    fn versions_of_another_kind_are_refused() {
        for good in ["1.0.0", "1.2.1-dev", "1.3.0+build", "1.0.0-rc5"] {
            version(good).unwrap();
        }
        for bad in ["", "1", "2.0.0", "0.9.0", "one", "1.2.x"] {
            version(bad).unwrap_err();
        }
    }
}
