//! Checkpoints by the program `criu`: what it is told, and what it says.

use crate::error::{Doing, Result, SetupError};
use control::FailureKind;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

/// One run of the program.
#[derive(Debug)]
pub(crate) struct Criu {
    arguments: Vec<OsString>,
    log: PathBuf,
}

/// Options of ours that are criu's under the same name.
pub(crate) const SAME: [&str; 6] =
    ["auto-dedup", "ext-unix-sk", "file-locks", "lazy-pages", "shell-job", "tcp-established"];

impl Criu {
    /// A run of one of its verbs over images in a folder; its log is in the work folder.
    pub(crate) fn new(verb: &str, images: &Path, work: &Path) -> Self {
        let name = format!("{}.log", if verb == "restore" { "restore" } else { "dump" });
        let mut criu = Self { arguments: vec![verb.into()], log: work.join(&name) };
        criu.value("--images-dir", images);
        criu.value("--work-dir", work);
        criu.value("--log-file", &name);
        criu.flag("-v4");
        criu
    }

    pub(crate) fn flag(&mut self, name: &str) {
        self.arguments.push(name.into());
    }

    pub(crate) fn value(&mut self, name: &str, value: impl Into<OsString>) {
        self.arguments.push(name.into());
        self.arguments.push(value.into());
    }

    /// Runs it to its end.
    ///
    /// # Errors
    /// [`FailureKind::Unsupported`] where it is not installed, [`FailureKind::Internal`] with the errors of its log.
    pub(crate) fn run(&self) -> Result<()> {
        let status = Command::new("criu").args(&self.arguments).status().map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => SetupError::unsupported(
                "criu is not installed: checkpoints need the program criu in PATH (on Debian: apt-get install criu)",
            ),
            _ => SetupError::new(FailureKind::Internal, format!("criu: {error}")),
        })?;
        if status.success() {
            return Ok(());
        }
        let log = std::fs::read(&self.log).unwrap_or_default();
        let why = errors(&String::from_utf8_lossy(&log));
        let shown = self.log.display();
        Err(SetupError::new(FailureKind::Internal, format!("criu failed ({status}): {why}; log file: {shown}")))
    }
}

/// The lines of a log that tell of an error: the first, which is mostly the cause, and the last, which says what became of it.
fn errors(log: &str) -> String {
    // the time stands in front
    let text = |line: &str| {
        let text = line.split_once(") ").filter(|_| line.starts_with('(')).map_or(line, |(_, text)| text);
        text.trim().to_owned()
    };
    let mut told = log.lines().filter(|line| line.contains("Error")).map(text);
    match (told.next(), told.next_back()) {
        (Some(first), Some(last)) => format!("{first}; {last}"),
        (Some(only), None) => only,
        (None, _) => text(log.lines().next_back().unwrap_or("it wrote no log")),
    }
}

/// What the standard streams of a process are, for finding them again: one line of JSON as runc writes it.
pub(crate) fn write_descriptors(images: &Path, pid: i32) -> Result<()> {
    let name = |fd: u32| {
        let link = std::fs::read_link(format!("/proc/{pid}/fd/{fd}"));
        link.map_or_else(|_| "/dev/null".to_owned(), |path| path.display().to_string())
    };
    let text = serde_json::to_vec(&[name(0), name(1), name(2)]).doing(|| "descriptors.json")?;
    std::fs::write(images.join("descriptors.json"), text)
        .doing(|| images.join("descriptors.json").display().to_string())
}

/// What they were.
pub(crate) fn read_descriptors(images: &Path) -> Result<Vec<String>> {
    let path = images.join("descriptors.json");
    let text = std::fs::read(&path).doing(|| path.display().to_string())?;
    serde_json::from_slice(&text).doing(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_and_the_last_error_are_told() {
        let log = "(00.1) Error (criu/vdso.c:613): vdso: no table\n(00.2) Error (a.c:1): x\n(00.2) Error (b.c:1): end\n(00.3) bye\n";
        assert_eq!(errors(log), "Error (criu/vdso.c:613): vdso: no table; Error (b.c:1): end");
        assert_eq!(errors("(00.1) Error (a.c:1): one"), "Error (a.c:1): one");
        assert_eq!(errors("(00.3) bye"), "bye");
        assert_eq!(errors(""), "it wrote no log");
    }
}
