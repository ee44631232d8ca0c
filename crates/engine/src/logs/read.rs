//! Reading what a container printed: the current log and its rotated elders, then what is added.

use crate::engine::Engine;
use crate::error::{EngineError, Result};
use flate2::read::MultiGzDecoder;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::sync::mpsc;

/// Which lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Logs {
    /// Lines of standard output.
    pub stdout: bool,
    /// Lines of standard error.
    pub stderr: bool,
    /// Go on until the container ends.
    pub follow: bool,
    /// Not before this, nanoseconds since the Unix epoch.
    pub since_ns: Option<u64>,
    /// Not after this.
    pub until_ns: Option<u64>,
    /// Only so many from the end of what is there.
    pub tail: Option<u64>,
}

/// Which stream a line came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// A recorded line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// Where it came from.
    pub stream: LogStream,
    /// When, nanoseconds since the Unix epoch.
    pub at_ns: u64,
    /// What, with its line feed if it had one.
    pub text: Vec<u8>,
    /// What its driver was told to put with it, by name.
    pub attributes: BTreeMap<String, String>,
}

/// A line of the file.
#[derive(Deserialize)]
struct Record<'a> {
    #[serde(borrow)]
    log: std::borrow::Cow<'a, str>,
    #[serde(borrow)]
    stream: std::borrow::Cow<'a, str>,
    time: jiff::Timestamp,
    #[serde(default)]
    attrs: BTreeMap<String, String>,
}

/// Lines that wait for a slow reader.
const BUFFER: usize = 256;
/// How often a followed file is looked at.
const GLANCE: Duration = Duration::from_millis(50);

impl Engine {
    /// Lines of a container's output, the oldest first.
    ///
    /// # Errors
    /// [`crate::ErrorClass::NotFound`]; [`crate::ErrorClass::Unsupported`] if it records nothing.
    pub async fn logs(&self, who: &str, which: Logs) -> Result<mpsc::Receiver<Result<LogLine>>> {
        let container = self.container(who)?;
        let path = super::file(&container, &self.paths(&container)).ok_or_else(|| {
            let text = "configured logging driver does not support reading: nothing of the container's output is kept";
            EngineError::new(crate::ErrorClass::Unsupported, text)
        })?;
        let (lines, receiver) = mpsc::channel(BUFFER);
        let engine = self.clone();
        let id = container.id.to_string();
        // before the caller has an answer: the container may be gone right after, and what it printed shall still be read
        let current = Reading::open(&path).map_err(|error| EngineError::internal("cannot open the log", &error))?;
        tokio::task::spawn_blocking(move || {
            let alive = || engine.container(&id).is_ok_and(|container| container.is_alive());
            if let Err(error) = send_all(&path, current, &which, &lines, alive) {
                let wrong = EngineError::internal("cannot read the log", &error);
                let _ = lines.blocking_send(Err(wrong));
            }
        });
        Ok(receiver)
    }
}

/// A file being read; the inode tells whether the path still names it.
struct Reading {
    reader: BufReader<Box<dyn Read + Send>>,
    inode: u64,
    partial: Vec<u8>,
}

impl Reading {
    fn open(path: &Path) -> std::io::Result<Option<Self>> {
        match File::open(path) {
            Ok(file) => {
                let inode = file.metadata()?.ino();
                let plain: Box<dyn Read + Send> = match path.extension() {
                    Some(extension) if extension == "gz" => Box::new(MultiGzDecoder::new(file)),
                    _ => Box::new(file),
                };
                Ok(Some(Self { reader: BufReader::with_capacity(64 << 10, plain), inode, partial: Vec::new() }))
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The next whole line; what is not whole yet is kept.
    fn line(&mut self) -> std::io::Result<Option<Vec<u8>>> {
        self.reader.read_until(b'\n', &mut self.partial)?;
        if self.partial.ends_with(b"\n") { Ok(Some(std::mem::take(&mut self.partial))) } else { Ok(None) }
    }
}

fn send_all(
    path: &Path,
    mut current: Option<Reading>,
    which: &Logs,
    lines: &mpsc::Sender<Result<LogLine>>,
    alive: impl Fn() -> bool,
) -> std::io::Result<()> {
    let mut skip = match which.tail {
        Some(tail) => count(path, which)?.saturating_sub(tail),
        None => 0,
    };
    // the current file was opened first: a rotation in between shows no line twice and loses none
    for elder in elders(path) {
        if let Some(mut reading) = Reading::open(&elder)?
            && current.as_ref().is_none_or(|current| current.inode != reading.inode)
            && !send_rest(&mut reading, which, &mut skip, lines)?
        {
            return Ok(());
        }
    }
    loop {
        // asked before reading: what is written before the end is then read for certain
        let more = which.follow && alive();
        if let Some(reading) = &mut current
            && !send_rest(reading, which, &mut skip, lines)?
        {
            return Ok(());
        }
        let replaced = match std::fs::metadata(path) {
            Ok(meta) => current.as_ref().is_none_or(|current| current.inode != meta.ino()),
            Err(_) => false,
        };
        if replaced {
            if let Some(reading) = &mut current
                && !send_rest(reading, which, &mut skip, lines)?
            {
                return Ok(());
            }
            current = Reading::open(path)?;
            continue;
        }
        if !more || lines.is_closed() || which.until_ns.is_some_and(|until| crate::clock::now_ns() > until) {
            return Ok(());
        }
        std::thread::sleep(GLANCE);
    }
}

/// Sends what a file has; false if nobody listens any more.
fn send_rest(
    reading: &mut Reading,
    which: &Logs,
    skip: &mut u64,
    lines: &mpsc::Sender<Result<LogLine>>,
) -> std::io::Result<bool> {
    while let Some(line) = reading.line()? {
        let Some(line) = parse(&line).filter(|line| wanted(line, which)) else { continue };
        if *skip > 0 {
            *skip -= 1;
        } else if lines.blocking_send(Ok(line)).is_err() {
            return Ok(false);
        }
    }
    Ok(true)
}

fn count(path: &Path, which: &Logs) -> std::io::Result<u64> {
    let mut count = 0;
    for file in elders(path).into_iter().chain([path.to_owned()]) {
        if let Some(mut reading) = Reading::open(&file)? {
            while let Some(line) = reading.line()? {
                count += u64::from(parse(&line).is_some_and(|line| wanted(&line, which)));
            }
        }
    }
    Ok(count)
}

/// Rotated files, the oldest first.
fn elders(path: &Path) -> Vec<PathBuf> {
    // plain, or compressed since
    let numbered = |n: u32| {
        let plain = PathBuf::from(format!("{}.{n}", path.display()));
        let packed = PathBuf::from(format!("{}.{n}.gz", path.display()));
        if plain.exists() { plain } else { packed }
    };
    let mut list: Vec<PathBuf> = (1..).map(numbered).take_while(|file| file.exists()).collect();
    list.reverse();
    list
}

fn parse(line: &[u8]) -> Option<LogLine> {
    let record: Record<'_> = serde_json::from_slice(line).ok()?;
    Some(LogLine {
        stream: if record.stream == "stderr" { LogStream::Stderr } else { LogStream::Stdout },
        at_ns: u64::try_from(record.time.as_nanosecond()).unwrap_or(0),
        text: record.log.into_owned().into_bytes(),
        attributes: record.attrs,
    })
}

fn wanted(line: &LogLine, which: &Logs) -> bool {
    let stream = match line.stream {
        LogStream::Stdout => which.stdout,
        LogStream::Stderr => which.stderr,
    };
    stream
        && which.since_ns.is_none_or(|since| line.at_ns >= since)
        && which.until_ns.is_none_or(|until| line.at_ns <= until)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn damaged_lines_are_passed_over(noise in proptest::collection::vec(any::<u8>(), 0..300), at in 0..90_usize, byte: u8) {
            let _ = parse(&noise);
            let good = br#"{"log":"a\u00e9\n","stream":"stderr","time":"2026-01-02T03:04:05.000000006Z"}"#;
            let line = parse(good).map(|line| (line.stream, line.text));
            prop_assert_eq!(line, Some((LogStream::Stderr, "a\u{e9}\n".as_bytes().to_vec())));
            let mut damaged = good.to_vec();
            let at = at % good.len();
            damaged[at] = byte;
            let _ = (parse(&damaged), parse(&good[..at]));
        }

        #[test]
        fn a_damaged_file_is_read_to_its_end(noise in proptest::collection::vec(any::<u8>(), 0..2000)) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("container.log");
            let mut bytes = noise;
            bytes.extend(b"\n{\"log\":\"last\",\"stream\":\"stdout\",\"time\":\"2026-01-02T03:04:05Z\"}\n");
            std::fs::write(&path, bytes).unwrap();
            let (lines, mut receiver) = mpsc::channel(BUFFER);
            let which = Logs { stdout: true, tail: Some(1), ..Logs::default() };
            send_all(&path, Reading::open(&path).unwrap(), &which, &lines, || false).unwrap();
            prop_assert_eq!(receiver.try_recv().unwrap().unwrap().text, b"last".to_vec());
        }
    }
}
